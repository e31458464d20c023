-- jobs: messages to two lanes, which answer, and nothing else.
--   lanes.lua flight JOBS BATCH
--   lanes.lua one JOBS
local lanes = require "lanes".configure()

local mode, jobs, batch = arg[1], tonumber(arg[2]), tonumber(arg[3] or 1)
local linda = lanes.linda()

local function work()
  while true do
    local _, job = linda:receive(nil, "jobs")
    if job == false then return end
    linda:send("results", job)
  end
end

local workers = {}
for i = 1, 2 do workers[i] = lanes.gen("*", work)() end
local start = lanes.now_secs()
for _ = 1, jobs, batch do
  for i = 1, batch do linda:send("jobs", i) end
  for _ = 1, batch do linda:receive(nil, "results") end
end
local spent = lanes.now_secs() - start
for _ = 1, 2 do linda:send("jobs", false) end
for i = 1, 2 do workers[i]:join() end
print(mode == "one" and ("us %.3f"):format(spent * 1e6 / jobs) or ("ns %.3f"):format(spent * 1e9 / jobs))
