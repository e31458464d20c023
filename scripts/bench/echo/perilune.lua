-- An echo server: a task for each connection, which reads and writes, or forwards.
--   perilune.lua [generational|forward]
local net = require "perilune.net"

local function echo(stream)
  while true do
    local data = stream:read(65536)
    if not data then return end
    stream:write(data)
    stream:drain()
  end
end

local function forward(stream)
  stream:forward(stream)
end

if arg[1] == "generational" then collectgarbage "generational" end
local handler = arg[1] == "forward" and forward or echo
local server <close> = net.start_server(handler, "127.0.0.1", 0, { backlog = 1024 })
print("port " .. select(2, server.sockets[1]:getsockname()))
io.stdout:flush()
server:serve_forever()
