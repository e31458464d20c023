-- switch: tasks that do nothing but sleep(0).
--   perilune.lua TASKS SWITCHES
local peri = require "perilune"

local tasks, switches = tonumber(arg[1]), tonumber(arg[2])
local rounds = switches // tasks
local sleep = peri.sleep

local function spin()
  for _ = 1, rounds do
    sleep(0)
  end
end

local loop = peri.get_running_loop()
local start = loop:time()
local list = {}
for i = 1, tasks do
  list[i] = peri.create_task(spin)
end
for i = 1, tasks do
  list[i]:await()
end
print(("ns %.2f"):format((loop:time() - start) * 1e9 / (rounds * tasks)))
