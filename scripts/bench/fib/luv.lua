-- fib: fib(30) on two of libuv's threads at once, each TIMES, against one.
--   luv.lua TIMES
local uv = require "luv"

local times = tonumber(arg[1])

local job = uv.new_work(function(count)
  local function fib(n)
    if n < 2 then return n end
    return fib(n - 1) + fib(n - 2)
  end
  for _ = 1, count do assert(fib(30) == 832040) end
end, function() end)

local function run(workers)
  local start = uv.hrtime()
  for _ = 1, workers do job:queue(times) end
  uv.run()
  return uv.hrtime() - start
end

local one, two = run(1), run(2)
print(("scale %.4f ms %.3f"):format(two / one, one / 1e6 / times))
