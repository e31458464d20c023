-- sleepers: tasks that each sleep for a second, in two waves. Prints the
-- milliseconds of the first wave beyond the second, the memory of each sleeper
-- (peak of the first wave), and the milliseconds of the second wave.
--   perilune.lua task|gather SLEEPERS
local peri = require "perilune"

local mode, count = arg[1], tonumber(arg[2])
local sleep, create_task = peri.sleep, peri.create_task
local loop = peri.get_running_loop()

local function memory_kb(field)
  for line in io.lines "/proc/self/status" do
    local kb = line:match("^" .. field .. ":%s*(%d+)")
    if kb then
      return tonumber(kb)
    end
  end
end

local modes = {}

function modes.task()
  local list = {}
  for i = 1, count do
    list[i] = create_task(sleep, 1)
  end
  for i = 1, count do
    list[i]:await()
  end
end

function modes.gather()
  local function sleeper()
    sleep(1)
  end
  local list = {}
  for i = 1, count do
    list[i] = sleeper
  end
  peri.gather(list):await()
end

local function wave()
  local start = loop:time()
  modes[mode]()
  return (loop:time() - start - 1) * 1e3
end

local before = memory_kb "VmRSS"
local first = wave()
local kb = (memory_kb "VmHWM" - before) / count
print(("ms %.2f kb %.3f second %.2f"):format(first, kb, wave()))
