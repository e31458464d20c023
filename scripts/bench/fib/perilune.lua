-- fib: fib(30) on two workers at once, each TIMES, against one.
--   perilune.lua threads|processes TIMES
local peri = require "perilune"
local futures = require "perilune.futures"

local name = arg[1] == "threads" and "ThreadPoolExecutor" or "ProcessPoolExecutor"
local Executor = futures[name] or error("perilune.futures has no " .. name, 0)
local times = tonumber(arg[2])
local loop = peri.get_running_loop()

local function fib(n)
  if n < 2 then return n end
  return fib(n - 1) + fib(n - 2)
end

local function job()
  for _ = 1, times do assert(fib(30) == 832040) end
end

local executor <close> = Executor { max_workers = 2 }

local function run(workers)
  local list = {}
  local start = loop:time()
  for i = 1, workers do list[i] = executor:submit(job) end
  peri.gather(list):await()
  return loop:time() - start
end

peri.gather { executor:submit(fib, 20), executor:submit(fib, 20) }:await()
local one, two = run(1), run(2)
print(("scale %.4f ms %.3f"):format(two / one, one * 1e3 / times))
