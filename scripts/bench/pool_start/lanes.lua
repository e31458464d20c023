-- pool_start: starting two lanes, until each has ended.
--   lanes.lua TIMES
local lanes = require "lanes".configure()

local times = tonumber(arg[1])
local worker = lanes.gen("*", function() end)

local start = lanes.now_secs()
for _ = 1, times do
  local first, second = worker(), worker()
  first:join()
  second:join()
end
print(("ms %.4f"):format((lanes.now_secs() - start) * 1e3 / times))
