--- Streams and servers: TCP and Unix sockets.
--
-- Streams and servers are C (runtime/io/), described in meta/stream.lua and
-- meta/server.lua; here is what leads to them: names, several addresses, options.
local core = require "perilune._core"
local native = require "perilune._net"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local names = require "perilune.names"
local timeouts = require "perilune.timeouts"

local error, ipairs, pcall, setmetatable, type = error, ipairs, pcall, setmetatable, type
local max, min = math.max, math.min
local sleep = core.sleep
local OSError, RuntimeError, ValueError =
  errors.OSError, errors.RuntimeError, errors.ValueError

local net = {}

local DEFAULT_LIMIT <const> = 65536
local DEFAULT_BACKLOG <const> = 100
local MOST_BACKLOG <const> = 0x7FFFFFFF
local HAPPY_EYEBALLS_DELAY <const> = 0.25

-- Arguments ---------------------------------------------------------------------

local function check_limit(name, position, limit)
  if limit == nil then return DEFAULT_LIMIT end
  limit = arguments.integer(name, position, limit)
  if limit <= 0 then arguments.wrong_value(name, position, "limit cannot be <= 0") end
  return limit
end

local function check_port(name, position, port)
  if type(port) == "string" then return port end
  port = arguments.integer(name, position, port)
  if port < 0 or port > 65535 then
    arguments.wrong_value(name, position, ("%d is no port (0 to 65535)"):format(port))
  end
  return port
end

local function check_handler(name, handler)
  if not arguments.callable(handler) then
    arguments.wrong_type(name, 1, "function", handler)
  end
end

local function check_path(name, position, path)
  if type(path) ~= "string" then arguments.wrong_type(name, position, "string", path) end
end

-- Names and datagrams -----------------------------------------------------------

net.getaddrinfo = names.getaddrinfo
net.getnameinfo = names.getnameinfo
net.set_name_cache = names.set_name_cache
net.create_datagram_endpoint = require "perilune.datagrams".create_datagram_endpoint

-- RFC 8305, section 4: families in turn, that of the first address first.
local function interleave(list)
  local families, order = {}, {}
  for _, entry in ipairs(list) do
    local family = families[entry.family]
    if not family then
      family = {}
      families[entry.family] = family
      order[#order + 1] = family
    end
    family[#family + 1] = entry
  end
  local mixed = {}
  for i = 1, #list do
    for _, family in ipairs(order) do mixed[#mixed + 1] = family[i] end
  end
  return mixed
end

-- Connecting ----------------------------------------------------------------------

local function connect(entry, opts)
  local from = opts.from
  if not from then return native.connect_tcp(entry.host, entry.port, opts.limit) end
  local problem
  for _, source in ipairs(from) do
    if source.family == entry.family then
      local ok, result = pcall(native.connect_tcp, entry.host, entry.port, opts.limit,
        source.host, source.port)
      if ok then return result end
      if not OSError:is(result) or result.syscall ~= "bind" then error(result, 0) end
      problem = result
    end
  end
  error(problem or OSError(("connect: no local address of its family (%s)"):format(entry.host),
    { code = "EADDRNOTAVAIL", syscall = "bind", address = entry.host }), 0)
end

-- What to raise when no address would do: the error itself if there is but one.
local function all_failed(host, port, problems)
  local first = problems[1]
  local texts, same = {}, true
  for i, err in ipairs(problems) do
    texts[i] = err.message
    same = same and err.code == first.code
  end
  if #problems == 1 then return first end
  local address = ("%s:%s"):format(host or "localhost", port)
  local text = same and first.message:gsub(" %(.*", "") or table.concat(texts, "; ")
  if same then text = ("%s (%s)"):format(text, address) end
  return OSError(text, {
    code = first.code, errno = first.errno, syscall = first.syscall, address = address,
    exceptions = problems,
  })
end

---Connects to a host over TCP.
---
---All addresses that the name has are tried, IPv6 and IPv4 in turn (RFC 8305): the
---next one when the one before has failed, or has not answered within
---`happy_eyeballs_delay`. The first connection wins, the others are given up.
---
---Raises OSError (`code`, `syscall`, `address`; `exceptions` if several addresses
---failed), and TimeoutError after `timeout`.
---
---Cancellation: gives the connection up.
---
---Python: `asyncio.open_connection`, differs in that the stream is both reader and
---writer, and that Happy Eyeballs are on.
---@param host string? a name or an address; nil: this machine
---@param port integer|string
---@param options? { timeout: number?, local_addr: table?, limit: integer?,
---happy_eyeballs_delay: number?, family: "inet"|"inet6"|nil } timeout: seconds for
---all of it; local_addr: {host, port} to connect from; limit: bytes, see
---`start_server`; happy_eyeballs_delay: seconds (0.25), math.huge: one address
---after the other
---@return perilune.Stream
---@async
function net.open_connection(host, port, options)
  local name <const> = "open_connection"
  arguments.options(name, 3, options, {
    timeout = true, local_addr = true, limit = true, happy_eyeballs_delay = true,
    family = true,
  })
  options = options or {}
  if host == "" then host = nil end
  if host ~= nil and type(host) ~= "string" then
    arguments.wrong_type(name, 1, "string", host)
  end
  port = check_port(name, 2, port)
  local opts = { limit = check_limit(name, 3, options.limit) }
  local delay = options.happy_eyeballs_delay
  arguments.seconds(name, 3, delay, true)
  local source = options.local_addr
  if source ~= nil and type(source) ~= "table" then
    arguments.wrong_type(name, 3, "local_addr: {host, port}", source)
  end
  return timeouts.limited(name, 3, { timeout = options.timeout }, function()
    if source then opts.from = net.getaddrinfo(source[1], source[2] or 0) end
    local list = net.getaddrinfo(host, port, { family = options.family })
    if #list == 1 then return connect(list[1], opts) end
    local stream, problems = require "perilune.eyeballs".race(
      interleave(list), delay or HAPPY_EYEBALLS_DELAY, connect, opts)
    return stream or error(all_failed(host, port, problems), 0)
  end)
end

-- A server whose queue of connections is full lets nobody wait in it: the kernel
-- says so at once.
local function connect_unix(path, limit)
  local delay = 0.001
  local stream = native.connect_unix(path, limit)
  while not stream do
    require "perilune.eyeballs".wait({ core.create_future() }, delay)
    if delay < 0.1 then delay = delay * 2 end
    stream = native.connect_unix(path, limit)
  end
  return stream
end

---Connects to a Unix socket.
---
---Raises OSError (`code`, `syscall`, `path`), and TimeoutError after `timeout`.
---
---Python: `asyncio.open_unix_connection`.
---@param path string a first byte of 0 stands for an abstract name (Linux)
---@param options? { timeout: number?, limit: integer? } timeout: seconds
---@return perilune.Stream
---@async
function net.open_unix_connection(path, options)
  local name <const> = "open_unix_connection"
  arguments.options(name, 2, options, { timeout = true, limit = true })
  check_path(name, 1, path)
  options = options or {}
  local limit = check_limit(name, 2, options.limit)
  return timeouts.limited(name, 2, { timeout = options.timeout }, connect_unix, path, limit)
end

-- Servers ---------------------------------------------------------------------------

-- Where a server listens, as `server.sockets` lists it.
---@class perilune.ServerSocket
local Socket = { __name = "ServerSocket", __module = "perilune.net" }
Socket.__index = Socket

---The address that the socket is bound to.
---@return string host a Unix socket's path
---@return integer? port
function Socket:getsockname() return self[1], self[2] end

---The descriptor, which stays the server's.
---@return integer
function Socket:fileno() return self.fd end

local Server = native.Server.methods

-- Server to the future that its serve_forever waits for.
local forever = setmetatable({}, { __mode = "k" })

local close = Server.close

function Server:close()
  close(self)
  local waits = forever[self]
  if waits then waits:cancel() end
end

function Server:start_serving()
  native.listen(self)
  sleep(0)
end

function Server:serve_forever()
  if forever[self] then
    error(RuntimeError(("%s: serve_forever was called already"):format(self)))
  end
  if native.is_closed(self) then error(RuntimeError(("%s is closed"):format(self))) end
  native.listen(self)
  forever[self] = core.create_future()
  local ok, err = pcall(core.await, forever[self])
  forever[self] = nil
  if not ok and core.iscancel(err) then
    self:close()
    self:close_clients()
    if not core.issentinel(err) then self:wait_closed() end
  end
  error(err, 0)
end

local function sockets(server)
  local list = native.addresses(server)
  for _, socket in ipairs(list) do setmetatable(socket, Socket) end
  return list
end

function native.Server.__index(server, key)
  if key == "sockets" then return sockets(server) end
  return Server[key]
end

-- As `async with`; but where an error leaves the block nothing is waited for that
-- the clients decide.
function native.Server.__close(server, err)
  server:close()
  if err ~= nil then return server:close_clients() end
  server:wait_closed()
end

local function start(server, options)
  if options.start_serving == false then return server end
  local ok, err = pcall(server.start_serving, server)
  if ok then return server end
  server:close() -- nobody gets it
  error(err, 0)
end

local server_options <const> = {
  backlog = true, limit = true, max_connections = true, start_serving = true,
}
local tcp_options <const> = { reuse_port = true, family = true }
for key in next, server_options do tcp_options[key] = true end

-- The options as native.server takes them.
local function check_options(name, position, options)
  local backlog = options.backlog == nil and DEFAULT_BACKLOG
    or arguments.integer(name, position, options.backlog)
  backlog = max(0, min(backlog, MOST_BACKLOG)) -- the system has a limit of its own
  local most = options.max_connections
  if most ~= nil and arguments.integer(name, position, most) < 1 then
    arguments.wrong_value(name, position, "max_connections is at least 1")
  end
  return check_limit(name, position, options.limit), most, backlog
end

-- All addresses of all hosts, each once.
local function resolve_hosts(hosts, port, family)
  local all, seen = {}, {}
  for i = 1, #hosts do
    local host = hosts[i]
    if host == "" then host = nil end
    for _, entry in ipairs(net.getaddrinfo(host, port, { passive = true, family = family })) do
      local key = ("%s %d"):format(entry.host, entry.port)
      if not seen[key] then
        seen[key] = true
        all[#all + 1] = entry
      end
    end
  end
  return all
end

-- Errors that say that the machine has no such addresses (no IPv6, say).
local absent <const> = { EADDRNOTAVAIL = true, EAFNOSUPPORT = true }

-- Binds the addresses. Port 0 stands for one that is the same for all of them:
-- false if the one that the first was given is taken on another.
local function bind_all(server, list, reuse_port)
  local port, problem
  for _, entry in ipairs(list) do
    local given = entry.port == 0 and port
    local ok, result = pcall(native.bind_tcp, server, entry.host, given or entry.port, reuse_port)
    if ok then
      port = port or result
    elseif given and result.code == "EADDRINUSE" then
      return false
    elseif not OSError:is(result) or not absent[result.code] then
      error(result, 0)
    else
      problem = result
    end
  end
  if not port then error(problem, 0) end
  return true
end

local TRIES <const> = 20

local function bind_somewhere(list, reuse_port, handler, ...)
  for _ = 1, TRIES do
    local server = native.server(handler, ...)
    local ok, result = pcall(bind_all, server, list, reuse_port)
    if ok and result then return server end
    server:close()
    if not ok then error(result, 0) end
  end
  error(OSError("bind: no port is free on all addresses",
    { code = "EADDRINUSE", syscall = "bind" }))
end

---Starts a server on TCP. For each connection the handler is called with the
---stream, in a task of its own. When it returns, the stream is closed once its
---output has gone; so it is when the handler fails, and the error is reported to
---the loop's exception handler. The tasks have the caller's context.
---
---Raises OSError (`code` such as "EADDRINUSE", `address`).
---
---Python: `asyncio.start_server`, differs in that the handler gets one stream,
---which is closed when it returns, and that port 0 is the same for all addresses.
---@param handler fun(stream: perilune.Stream)
---@param host string|string[]|nil names or addresses; nil, "": all interfaces
---@param port integer|string 0: any that is free, see `server.sockets`
---@param options? { backlog: integer?, reuse_port: boolean?, limit: integer?,
---max_connections: integer?, start_serving: boolean?, family: "inet"|"inet6"|nil }
---backlog: connections that wait to be accepted (100); reuse_port: several
---processes share the port; limit: of a line, and half of what is read ahead, in
---bytes (65,536); max_connections: others wait; start_serving: false: not before
---`server:start_serving`
---@return perilune.Server
---@async
function net.start_server(handler, host, port, options)
  local name <const> = "start_server"
  arguments.options(name, 4, options, tcp_options)
  check_handler(name, handler)
  if host ~= nil and type(host) ~= "string" and not arguments.plain(host) then
    arguments.wrong_type(name, 2, "string or list of strings", host)
  end
  port = check_port(name, 3, port)
  options = options or {}
  local limit, most, backlog = check_options(name, 4, options)
  local hosts = type(host) == "table" and host or { host or "" }
  if #hosts == 0 then error(ValueError(name .. ": the list of hosts is empty")) end
  local list = resolve_hosts(hosts, port, options.family)
  return start(bind_somewhere(list, options.reuse_port, handler, limit, most, backlog), options)
end

---Starts a server on a Unix socket. A socket that lies there already is removed;
---the server's own is when it closes.
---
---Raises OSError (`code`, `path`).
---
---Python: `asyncio.start_unix_server`.
---@param handler fun(stream: perilune.Stream) as for `start_server`
---@param path string a first byte of 0 stands for an abstract name (Linux)
---@param options? { backlog: integer?, limit: integer?, max_connections: integer?,
---start_serving: boolean? } as for `start_server`
---@return perilune.Server
---@async
function net.start_unix_server(handler, path, options)
  local name <const> = "start_unix_server"
  arguments.options(name, 3, options, server_options)
  check_handler(name, handler)
  check_path(name, 2, path)
  options = options or {}
  local server = native.server(handler, check_options(name, 3, options))
  local ok, err = pcall(native.bind_unix, server, path)
  if not ok then
    server:close()
    error(err, 0)
  end
  return start(server, options)
end

return net
