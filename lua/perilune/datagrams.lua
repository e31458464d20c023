--- Datagram sockets. Private to perilune.net, which has
-- `create_datagram_endpoint`; the socket is C (runtime/io/udp.c), described in
-- meta/datagram.lua.
local native = require "perilune._net"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local names = require "perilune.names"

local error, ipairs, pcall = error, ipairs, pcall
local OSError = errors.OSError

local datagrams = {}

local DEFAULT_LIMIT <const> = 1048576

local known <const> = {
  local_addr = true, remote_addr = true, family = true, reuse_port = true,
  reuse_address = true, allow_broadcast = true, limit = true,
}

local function check_pair(field, address)
  if address ~= nil and not arguments.plain(address) then
    arguments.wrong_type("create_datagram_endpoint", 1, field .. ": {host, port}", address)
  end
end

-- What {host, port} may mean, the addresses of one family after the other.
local function resolve(address, family, passive)
  local host = address[1]
  if host == "" then host = nil end
  return names.getaddrinfo(host, address[2] or 0,
    { family = family, type = "dgram", passive = passive })
end

-- The pairs of a local and a remote address to be tried, in their order.
local function candidates(options)
  local remotes = options.remote_addr and resolve(options.remote_addr, options.family)
  local locals = options.local_addr and resolve(options.local_addr, options.family, true)
  local pairs_of, any <const> = {}, { inet = "0.0.0.0", inet6 = "::" }
  if not remotes then
    for i, address in ipairs(locals or { { host = any[options.family or "inet"], port = 0 } }) do
      pairs_of[i] = { address }
    end
    return pairs_of
  end
  for _, remote in ipairs(remotes) do
    for _, address in ipairs(locals or { { family = remote.family, host = any[remote.family], port = 0 } }) do
      if address.family == remote.family then pairs_of[#pairs_of + 1] = { address, remote } end
    end
  end
  return pairs_of
end

-- IPv6 with an IPv4 address beside it stands first: where there is none, the next
-- one may do.
local function open(list, limit, letters)
  local problem
  for _, pair in ipairs(list) do
    local remote = pair[2]
    local ok, socket = pcall(native.datagram, pair[1].host, pair[1].port,
      remote and remote.host, remote and remote.port, limit, letters)
    if ok then return socket end
    if not OSError:is(socket) then error(socket, 0) end
    problem = problem or socket
  end
  error(problem or OSError("create_datagram_endpoint: no addresses of one family",
    { code = "EADDRNOTAVAIL", syscall = "bind" }), 0)
end

---Makes a socket for datagrams (UDP), bound to `local_addr` or to any free port,
---and connected to `remote_addr` if there is one: datagrams go there without an
---address then, and only those from there come.
---
---What comes is kept until a task asks for it, up to `limit` bytes; what is more
---is dropped and counted (`socket.dropped`).
---
---Raises OSError (`code` such as "EADDRINUSE", `syscall`, `address`).
---
---Python: `loop.create_datagram_endpoint`, differs in that it gives a socket to
---send and receive with, and not a protocol's callbacks.
---@param options? { local_addr: table?, remote_addr: table?,
---family: "inet"|"inet6"|nil, reuse_port: boolean?, reuse_address: boolean?,
---allow_broadcast: boolean?, limit: integer? } addresses: {host, port}; family:
---"inet" where nothing else says; reuse_port: several sockets share the load of a
---port; reuse_address: several take part in a multicast group; limit: bytes, with
---some 60 for each datagram (1 MiB)
---@return perilune.DatagramSocket
---@async
function datagrams.create_datagram_endpoint(options)
  local name <const> = "create_datagram_endpoint"
  arguments.options(name, 1, options, known)
  options = options or {}
  check_pair("local_addr", options.local_addr)
  check_pair("remote_addr", options.remote_addr)
  local family = options.family
  if family ~= nil and family ~= "inet" and family ~= "inet6" then
    arguments.wrong_value(name, 1, 'family is "inet" or "inet6"')
  end
  local limit = options.limit == nil and DEFAULT_LIMIT
    or arguments.integer(name, 1, options.limit)
  if limit <= 0 then arguments.wrong_value(name, 1, "limit cannot be <= 0") end
  local letters = (options.reuse_port and "p" or "") .. (options.reuse_address and "a" or "")
    .. (options.allow_broadcast and "b" or "")
  return open(candidates(options), limit, letters)
end

return datagrams
