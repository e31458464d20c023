-- payload: a large string to a worker and back, one after the other.
--   perilune.lua threads|processes BYTES TIMES
local peri = require "perilune"
local futures = require "perilune.futures"

local name = arg[1] == "threads" and "ThreadPoolExecutor" or "ProcessPoolExecutor"
local Executor = futures[name] or error("perilune.futures has no " .. name, 0)
local text, times = ("x"):rep(tonumber(arg[2])), tonumber(arg[3])
local loop = peri.get_running_loop()

local function echo(data) return data end

local executor <close> = Executor { max_workers = 1 }
assert(executor:submit(echo, text):await() == text)
local start = loop:time()
for _ = 1, times do text = executor:submit(echo, text):await() end
print(("us %.3f"):format((loop:time() - start) * 1e6 / times))
