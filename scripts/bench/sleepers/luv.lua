-- sleepers: coroutines with a timer of a second each, in two waves.
--   luv.lua SLEEPERS
package.path = arg[0]:match "^(.*)/[^/]+/" .. "/lib/?.lua;" .. package.path
local uv = require "luv"
local tasks = require "luv_tasks"

local count = tonumber(arg[1])

local function memory_kb(field)
  for line in io.lines "/proc/self/status" do
    local kb = line:match("^" .. field .. ":%s*(%d+)")
    if kb then
      return tonumber(kb)
    end
  end
end

local function sleep(ms)
  local co = coroutine.running()
  local timer = uv.new_timer()
  timer:start(ms, 0, function()
    timer:close()
    coroutine.resume(co)
  end)
  coroutine.yield()
end

local function wave()
  local start = uv.hrtime()
  local main = coroutine.running()
  local left = count
  local function sleeper()
    sleep(1000)
    left = left - 1
    if left == 0 then
      tasks.post(main)
    end
  end
  for i = 1, count do
    -- libuv's time is cached: sleepers must not end early for that.
    if i % 256 == 0 then
      uv.update_time()
    end
    coroutine.resume(coroutine.create(sleeper))
  end
  coroutine.yield()
  return (uv.hrtime() - start) / 1e6 - 1000
end

tasks.run(function()
  local before = memory_kb "VmRSS"
  local first = wave()
  local kb = (memory_kb "VmHWM" - before) / count
  print(("ms %.2f kb %.3f second %.2f"):format(first, kb, wave()))
end)
