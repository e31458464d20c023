-- jobs: functions that do nothing, on libuv's threads, by luv's new_work.
--   luv.lua flight JOBS BATCH
--   luv.lua one JOBS
local uv = require "luv"
uv.os_setenv("UV_THREADPOOL_SIZE", "2")

local mode, jobs, batch = arg[1], tonumber(arg[2]), tonumber(arg[3] or 1)
local left = 0

local work
work = uv.new_work(function() end, function()
  if mode == "one" and left > 0 then
    left = left - 1
    work:queue()
  end
end)

local start = uv.hrtime()
if mode == "one" then
  left = jobs - 1
  work:queue()
  uv.run()
else
  for _ = 1, jobs, batch do
    for _ = 1, batch do work:queue() end
    uv.run()
  end
end
local spent = uv.hrtime() - start
print(mode == "one" and ("us %.3f"):format(spent / 1e3 / jobs) or ("ns %.3f"):format(spent / jobs))
