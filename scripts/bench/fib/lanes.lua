-- fib: fib(30) on two lanes at once, each TIMES, against one.
--   lanes.lua TIMES
local lanes = require "lanes".configure()

local times = tonumber(arg[1])

local job = lanes.gen("*", function()
  local function fib(n)
    if n < 2 then return n end
    return fib(n - 1) + fib(n - 2)
  end
  for _ = 1, times do assert(fib(30) == 832040) end
end)

local function run(workers)
  local list = {}
  local start = lanes.now_secs()
  for i = 1, workers do list[i] = job() end
  for i = 1, workers do list[i]:join() end
  return lanes.now_secs() - start
end

local one, two = run(1), run(2)
print(("scale %.4f ms %.3f"):format(two / one, one * 1e3 / times))
