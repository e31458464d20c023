-- pool_start: making a pool of two, until it has done two jobs.
--   perilune.lua threads|processes TIMES
local peri = require "perilune"
local futures = require "perilune.futures"

local name = arg[1] == "threads" and "ThreadPoolExecutor" or "ProcessPoolExecutor"
local Executor = futures[name] or error("perilune.futures has no " .. name, 0)
local times = tonumber(arg[2])
local loop = peri.get_running_loop()

local function nothing() end

local spent = 0
for _ = 1, times do
  local start = loop:time()
  local executor <close> = Executor { max_workers = 2 }
  local first, second = executor:submit(nothing), executor:submit(nothing)
  first:await()
  second:await()
  spent = spent + loop:time() - start
end
print(("ms %.4f"):format(spent * 1e3 / times))
