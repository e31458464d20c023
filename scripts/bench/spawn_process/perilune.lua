-- spawn_process: starting /bin/true and waiting for its end, some at a time.
--   perilune.lua SPAWNS AT_ONCE MIB
local peri = require "perilune"
local exec = require "perilune.subprocess".create_subprocess_exec

local spawns, at_once = tonumber(arg[1]), tonumber(arg[2])
local memory = ("x"):rep(tonumber(arg[3]) << 20)
local left = spawns

local function worker()
  while left > 0 do
    left = left - 1
    assert(exec("/bin/true"):wait() == 0)
  end
end

local workers = {}
for i = 1, at_once do workers[i] = worker end
local loop = peri.get_running_loop()
local start = loop:time()
peri.gather(workers):await()
print(("us %.2f"):format((loop:time() - start) * 1e6 / spawns))
assert(#memory >= 0)
