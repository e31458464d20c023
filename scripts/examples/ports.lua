-- ports.lua [FIRST [LAST]]: the TCP ports of this machine that somebody listens
-- on, among those from FIRST to LAST (1 to 1024). Tries many at a time, each for
-- half a second, and tells what was found as soon as a batch is through.
local peri = require "perilune"
local net = require "perilune.net"

local AT_ONCE <const> = 200
local PATIENCE <const> = 0.5 -- seconds

local function is_open(port)
  local ok, stream = peri.pcall(peri.wait_for,
    peri.call(net.open_connection, "127.0.0.1", port), PATIENCE)
  if ok then
    stream:abort()
  elseif not peri.OSError:is(stream) then
    error(stream, 0)
  end
  return ok
end

local function scan(first, last)
  local found, running, port = 0, {}, first
  while port <= last or #running > 0 do
    while port <= last and #running < AT_ONCE do
      running[#running + 1] = peri.create_task { is_open, port, name = tostring(port) }
      port = port + 1
    end
    local done, pending = peri.wait(running, { return_when = peri.FIRST_COMPLETED })
    for _, task in ipairs(done) do
      if task:result() then
        found = found + 1
        print(task:get_name())
      end
    end
    running = pending
  end
  return found
end

local first, last = math.tointeger(tonumber(arg[1] or 1)), math.tointeger(tonumber(arg[2] or 1024))
if not first or not last or first < 1 or last > 65535 then
  io.stderr:write "usage: ports.lua [FIRST [LAST]]\n"
  os.exit(2)
end
io.stderr:write(("%d of %d ports\n"):format(scan(first, last), last - first + 1))
