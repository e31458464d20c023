-- gather: children that wait once and return a value, a batch at a time.
--   perilune.lua functions|coroutines|tasks CHILDREN BATCH
local peri = require "perilune"

local mode, children, batch = arg[1], tonumber(arg[2]), tonumber(arg[3])
local sleep, call, create_task = peri.sleep, peri.call, peri.create_task

local function child(i)
  sleep(0)
  return i
end

local modes = {}

-- A plain function has no argument: what it returns comes from a closure.
function modes.functions(i)
  return function()
    sleep(0)
    return i
  end
end

function modes.coroutines(i)
  return call(child, i)
end

function modes.tasks(i)
  return create_task(child, i)
end

local make = modes[mode]

local function run()
  local list = {}
  for i = 1, batch do
    list[i] = make(i)
  end
  local results = peri.gather(list):await()
  assert(results.n == batch and results[batch] == batch)
end

local loop = peri.get_running_loop()
local start = loop:time()
for _ = 1, children // batch do
  run()
end
print(("ns %.2f"):format((loop:time() - start) * 1e9 / children))
