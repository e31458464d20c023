-- spawn: start no-op coroutines and wait for them, a batch at a time.
--   luv.lua TASKS BATCH
package.path = arg[0]:match "^(.*)/[^/]+/" .. "/lib/?.lua;" .. package.path
local uv = require "luv"
local tasks = require "luv_tasks"

local count, batch = tonumber(arg[1]), tonumber(arg[2])

local function noop() end

local function run_batch()
  local main = coroutine.running()
  local left = batch
  local function task()
    noop()
    left = left - 1
    if left == 0 then
      tasks.post(main)
    end
  end
  for _ = 1, batch do
    tasks.go(task)
  end
  coroutine.yield()
end

local start = uv.hrtime()
tasks.run(function()
  for _ = 1, count // batch do
    run_batch()
  end
end)
print(("ns %.2f"):format((uv.hrtime() - start) / count))
