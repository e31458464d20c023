-- For the specs of streams: two ends of a connection, addresses where nobody
-- answers, and waiting for what the kernel does in its own time.
local peri = require "perilune"
local net = require "perilune.net"
local support = require "support"

local network = {}

---Waits until fn() is true, looking each time round the loop; fails after ten
---seconds. Real time passes: the virtual clock stands still meanwhile.
---@async
function network.eventually(fn)
  local deadline = os.time() + 10
  while not fn() do
    if os.time() > deadline then error("it has not come", 2) end
    peri.sleep(0)
  end
end

local function keep_open(stream)
  pcall(stream.wait_closed, stream)
end

local function close_all(pair)
  pair.client:abort()
  pair.peer:abort()
  pair.server:close()
  pair.server:abort_clients()
  pair.server:wait_closed()
  support.spin(2) -- the handler ends
end

---Two streams that are connected, and a closable that closes all:
---`local client, peer, _ <close> = network.pair()`. kind: "tcp" or "unix"; options
---are both ends'.
---@async
function network.pair(kind, options)
  local accepted = peri.Future()
  local function handler(stream)
    if not accepted:done() then accepted:set_result(stream) end
    keep_open(stream)
  end
  local server, client
  if kind == "unix" then
    local path = support.directory() .. "/socket"
    server = net.start_unix_server(handler, path, options)
    client = net.open_unix_connection(path, options)
  else
    server = net.start_server(handler, "127.0.0.1", 0, options)
    local _, port = server.sockets[1]:getsockname()
    client = net.open_connection("127.0.0.1", port, options)
  end
  local peer = accepted:await()
  local pair = { client = client, peer = peer, server = server }
  return client, peer, setmetatable(pair, { __close = close_all })
end

---Calls both, and returns what the second one returns.
---@async
function network.both(first, second)
  local task = peri.create_task(first)
  local results = table.pack(second())
  task:await()
  return table.unpack(results, 1, results.n)
end

---A port on 127.0.0.1 where connections are neither taken nor refused: the server
---has one, its queue is full. And a closable.
---@async
function network.silent_port()
  local server = net.start_server(keep_open, "127.0.0.1", 0,
    { backlog = 0, max_connections = 1 })
  local _, port = server.sockets[1]:getsockname()
  local waiting = {}
  for i = 1, 6 do
    waiting[i] = peri.create_task(net.open_connection, "127.0.0.1", port)
    support.spin(100)
  end
  local function empty()
    server:close()
    for _, task in ipairs(waiting) do
      task:cancel()
      local ok, stream = pcall(task.await, task)
      if ok then stream:abort() end
    end
    server:abort_clients()
    server:wait_closed()
    support.spin(2)
  end
  return port, setmetatable({}, { __close = empty })
end

---Whether this machine has an address of IPv6: itself.
function network.has_ipv6()
  local ok, socket = pcall(net.create_datagram_endpoint, { local_addr = { "::1", 0 } })
  if ok then socket:close() end
  return ok
end

---A port on 127.0.0.1 where nobody listens.
---@async
function network.dead_port()
  local server = net.start_server(function() end, "127.0.0.1", 0)
  local _, port = server.sockets[1]:getsockname()
  server:close()
  return port
end

---Calls fn, which must raise an OSError with this code, and returns it.
---@async
function network.fails(code, fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then error("no error was raised; " .. code .. " was expected", 2) end
  if not peri.OSError:is(err) then error("expected an OSError, got: " .. tostring(err), 2) end
  if err.code ~= code then
    error(("expected %s, got %s: %s"):format(code, tostring(err.code), tostring(err)), 2)
  end
  return err
end

return network
