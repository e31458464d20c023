-- spawn_process: starting /bin/true and waiting for its end, some at a time.
--   luv.lua SPAWNS AT_ONCE MIB
local uv = require "luv"

local spawns, at_once = tonumber(arg[1]), tonumber(arg[2])
local memory = ("x"):rep(tonumber(arg[3]) << 20)
local left = spawns

local function spawn()
  left = left - 1
  local handle
  handle = assert(uv.spawn("/bin/true", { stdio = { 0, 1, 2 } }, function(code)
    assert(code == 0)
    handle:close()
    if left > 0 then spawn() end
  end))
end

local start = uv.hrtime()
for _ = 1, at_once do spawn() end
uv.run()
print(("us %.2f"):format((uv.hrtime() - start) / 1e3 / spawns))
assert(#memory >= 0)
