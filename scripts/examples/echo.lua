-- echo.lua [HOST [PORT]]: sends back what it is sent. With port 0 (the default)
-- the system chooses one; the address is printed. Ctrl-C ends it.
local net = require "perilune.net"

local function echo(stream)
  stream:forward(stream)
end

local server <close> = net.start_server(echo, arg[1] or "127.0.0.1", tonumber(arg[2] or 0))
for _, socket in ipairs(server.sockets) do
  print("listening on", socket:getsockname())
end
io.stdout:flush()
server:serve_forever()
