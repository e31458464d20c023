-- payload: a large string to a thread of libuv's and back, by luv's new_work.
--   luv.lua BYTES TIMES
local uv = require "luv"

local text, left = ("x"):rep(tonumber(arg[1])), tonumber(arg[2])
local times = left

local work
work = uv.new_work(function(data) return data end, function(data)
  left = left - 1
  if left > 0 then work:queue(data) end
end)

local start = uv.hrtime()
work:queue(text)
uv.run()
print(("us %.3f"):format((uv.hrtime() - start) / 1e3 / times))
