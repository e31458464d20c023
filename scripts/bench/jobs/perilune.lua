-- jobs: functions that do nothing, on two workers.
--   perilune.lua threads|processes flight JOBS BATCH   BATCH at a time
--   perilune.lua threads|processes one JOBS [SPIN]     one after the other
local peri = require "perilune"
local futures = require "perilune.futures"

local name = arg[1] == "threads" and "ThreadPoolExecutor" or "ProcessPoolExecutor"
local Executor = futures[name] or error("perilune.futures has no " .. name, 0)
local mode, jobs, last = arg[2], tonumber(arg[3]), tonumber(arg[4])
local now = peri.get_running_loop()

local function nothing() end

local function flight(executor, batch)
  local list = {}
  for _ = 1, jobs, batch do
    for i = 1, batch do list[i] = executor:submit(nothing) end
    for i = 1, batch do list[i]:await() end
  end
end

local function one(executor)
  for _ = 1, jobs do executor:submit(nothing):await() end
end

local options = { max_workers = 2 }
if mode == "one" then options.spin = last end
local executor <close> = Executor(options)
local run = mode == "one" and one or flight
peri.gather { executor:submit(nothing), executor:submit(nothing) }:await()
local start = now:time()
run(executor, last)
local spent = now:time() - start
print(mode == "one" and ("us %.3f"):format(spent * 1e6 / jobs) or ("ns %.3f"):format(spent * 1e9 / jobs))
