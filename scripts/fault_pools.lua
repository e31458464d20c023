-- A process pool whose workers are killed at random while they work.
--
--   scripts/fault_pools [JOBS] [SEED]
--
-- Each job writes down that it was begun, and ends with its result or with an error
-- that names the worker that died; some submit another one to their own pool, and
-- may get a DeadlockError. None may be lost, none be begun twice but those
-- with `retries`; afterwards no process, descriptor, thread or shared memory may be
-- left. Exits 1 if something is wrong. JOBS: 100000.
local peri = require "perilune"
local fs = require "perilune.fs"
local futures = require "perilune.futures"
local subprocess = require "perilune.subprocess"

local jobs = tonumber(arg[1] or 100000)
local seed = tonumber(arg[2] or os.time())
local WORKERS <const>, IN_FLIGHT <const>, RETRIES <const>, NESTED <const> = 4, 2000, 3, 11

local random = math.random
math.randomseed(seed)

local directory = os.getenv "TMPDIR" or "/tmp"
local log -- its path

-- What there is -----------------------------------------------------------------------

local function pid_of_this()
  local file <close> = io.open "/proc/self/stat"
  return file:read "n"
end

local me <const> = pid_of_this()
log = ("%s/fault_pools.%d.%d"):format(directory, seed, me)

local function matches(path, pattern)
  local file <close> = io.open(path)
  local _, n = file:read "a":gsub(pattern, "")
  return n
end

local function entries(path)
  local n = 0
  for _ in fs.scandir(path) do n = n + 1 end
  return n
end

local function snapshot()
  return {
    processes = matches(("/proc/%d/task/%d/children"):format(me, me), "%d+"),
    descriptors = entries "/proc/self/fd",
    threads = entries "/proc/self/task",
    shared = matches("/proc/self/maps", "memfd:perilune"),
  }
end

-- Jobs -----------------------------------------------------------------------------------

-- Begun is what was written; the file is the worker's, open since its first job.
local function job(i, path, kind)
  if not _G.begun then
    _G.begun = io.open(path, "a")
    _G.begun:setvbuf "no"
  end
  _G.begun:write(i .. "\n") -- at once, so that no line is cut
  if kind == 1 then require "perilune".sleep(0.002) end
  if kind == 2 then return i, ("x"):rep(200000) end
  if kind == 3 then error("error of " .. i, 0) end
  if kind == NESTED then
    return require "perilune.futures".current_executor():submit(math.abs, -i):result()
  end
  local n = 0
  for k = 1, kind * 20 do n = n + k end
  return i, n
end

local outcomes = { result = 0, error = 0, died = 0 }
local wrong = {}

local function complain(...)
  wrong[#wrong + 1] = string.format(...)
end

local function check(i, kind, ok, value)
  if ok then
    outcomes.result = outcomes.result + 1
    if value ~= i then complain("job %d returned %s", i, value) end
  elseif peri.BrokenProcessPool:is(value) then
    outcomes.died = outcomes.died + 1
    if not tostring(value):find "worker process %d+ was killed by signal 9" then
      complain("job %d: %s", i, value)
    end
  elseif kind == NESTED and peri.DeadlockError:is(value) then
    outcomes.error = outcomes.error + 1
  else
    outcomes.error = outcomes.error + 1
    if kind ~= 3 or not tostring(value):find("error of " .. i, 1, true) then
      complain("job %d: %s", i, value)
    end
  end
end

local function kind_of(i)
  return i % 97 == 0 and 1 or i % 101 == 0 and 2 or i % 89 == 0 and 3
    or i % 83 == 0 and NESTED or 4 + i % 7
end

local function begin(executor, i)
  return executor:submit { job, i, log, kind_of(i), retries = i % 10 == 0 and RETRIES or nil }
end

local function work(executor, n)
  local pending = {}
  for i = 1, n + IN_FLIGHT do
    local earlier = i - IN_FLIGHT
    if earlier > 0 and earlier <= n then
      check(earlier, kind_of(earlier), pcall(peri.await, pending[earlier]))
      pending[earlier] = nil
    end
    if i <= n then pending[i] = begin(executor, i) end
  end
end

-- Kills ----------------------------------------------------------------------------------

local kills, working = 0, false

local function kill_some()
  while working do
    peri.sleep(random() * 0.03)
    local children = {}
    local file <close> = io.open(("/proc/%d/task/%d/children"):format(me, me))
    for pid in file:read "a":gmatch "%d+" do children[#children + 1] = pid end
    local pid = children[random(math.max(#children, 1))]
    if pid then
      subprocess.create_subprocess_exec("kill", "-9", pid, { stderr = subprocess.DEVNULL }):wait()
      kills = kills + 1
    end
  end
end

-- All of it --------------------------------------------------------------------------------

local function count_runs()
  local runs = {}
  for line in io.lines(log) do
    local i = tonumber(line)
    runs[i] = (runs[i] or 0) + 1
  end
  local twice = 0
  for i, n in pairs(runs) do
    if n > 1 then twice = twice + 1 end
    if n > 1 and i % 10 ~= 0 then complain("job %d was begun %d times", i, n) end
    if n > 1 + RETRIES then complain("job %d was begun %d times", i, n) end
  end
  return twice
end

local function run(n)
  local executor <close> = futures.ProcessPoolExecutor { max_workers = WORKERS, on_worker_death = "replace" }
  working = true
  local killer = peri.create_task(kill_some)
  work(executor, n)
  working = false
  killer:await()
end

-- What is closed has its descriptors until the loop has gone round.
local function settle()
  collectgarbage()
  collectgarbage()
  for _ = 1, 20 do peri.sleep(0.001) end
  snapshot() -- starts the threads that read directories
end

-- Once to warm up: what is made for the first time stays.
run(1000)
settle()
os.remove(log)
kills, outcomes = 0, { result = 0, error = 0, died = 0 }
local before = snapshot()
run(jobs)
settle()
local after = snapshot()
local twice = count_runs()
os.remove(log)

local ended = outcomes.result + outcomes.error + outcomes.died
if ended ~= jobs then complain("%d jobs ended of %d", ended, jobs) end
for what, n in pairs(before) do
  if after[what] ~= n then complain("%s: %d before, %d after", what, n, after[what]) end
end
print(("seed %d: %d jobs, %d kills: %d results, %d errors, %d died with their worker, %d tried again"):format(
  seed, jobs, kills, outcomes.result, outcomes.error, outcomes.died, twice))
print(("left: %d processes, %d descriptors, %d threads, %d shared"):format(
  after.processes, after.descriptors, after.threads, after.shared))
for i = 1, math.min(#wrong, 20) do print("WRONG: " .. wrong[i]) end
os.exit(#wrong == 0)
