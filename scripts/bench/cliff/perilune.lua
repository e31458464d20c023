-- cliff: what one operation costs when 100 and when 100,000 things are alive, and
-- the ratio. The first wave of each is not timed: the first touch of memory is
-- the business of `sleepers`.
--   perilune.lua gather|wait|cancel|timers|timers-spread|close OPERATIONS
local peri = require "perilune"

local mode, operations = arg[1], tonumber(arg[2])
local create_task, sleep = peri.create_task, peri.sleep
local loop = peri.get_running_loop()

local function noop() end

-- Each wave does one operation `count` times and returns the seconds of its timed
-- part.
local waves = {}

function waves.gather(count)
  local functions = {}
  for i = 1, count do
    functions[i] = noop
  end
  local start = loop:time()
  peri.gather(functions):await()
  return loop:time() - start
end

function waves.wait(count)
  local start = loop:time()
  local list = {}
  for i = 1, count do
    list[i] = create_task(noop)
  end
  peri.wait(list)
  return loop:time() - start
end

local function park(count)
  local list = {}
  for i = 1, count do
    list[i] = create_task(sleep, 3600)
  end
  sleep(0)
  return list
end

function waves.cancel(count)
  local list = park(count)
  local start = loop:time()
  for i = 1, count do
    list[i]:cancel()
  end
  peri.wait(list)
  return loop:time() - start
end

local function timers(count, spread)
  local start = loop:time()
  local list, seed = {}, 1
  for i = 1, count do
    seed = seed * 16807 % 2147483647
    list[i] = loop:call_later(1000 + spread * seed / 2147483647, noop)
  end
  for i = 1, count do
    list[i]:cancel()
  end
  return loop:time() - start
end

function waves.timers(count)
  return timers(count, 0)
end

waves["timers-spread"] = function(count)
  return timers(count, 1000)
end

-- The runner's main task ends and leaves sleeping tasks behind: closing cancels
-- them, waits for them and closes the loop.
function waves.close(count)
  local runner = peri.Runner()
  runner:run(park, count)
  local start = loop:time()
  runner:close()
  return loop:time() - start
end

--- Nanoseconds for one operation among `count` of them.
local function measure(count)
  local wave = waves[mode]
  local total, times = 0, operations // count
  wave(count)
  for _ = 1, times do
    total = total + wave(count)
  end
  return total * 1e9 / (times * count)
end

local few, many = measure(100), measure(100000)
print(("cliff %.3f few %.2f many %.2f"):format(many / few, few, many))
