-- payload: a large string to a lane and back, one after the other.
--   lanes.lua BYTES TIMES
local lanes = require "lanes".configure()

local text, times = ("x"):rep(tonumber(arg[1])), tonumber(arg[2])
local linda = lanes.linda()

local worker = lanes.gen("*", function()
  while true do
    local _, data = linda:receive(nil, "there")
    if data == false then return end
    linda:send("back", data)
  end
end)()
local start = lanes.now_secs()
for _ = 1, times do
  linda:send("there", text)
  text = select(2, linda:receive(nil, "back"))
end
print(("us %.3f"):format((lanes.now_secs() - start) * 1e6 / times))
linda:send("there", false)
worker:join()
