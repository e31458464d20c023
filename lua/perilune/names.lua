--- Names of hosts and services, and their addresses. Private to perilune.net,
-- which has these functions.
--
-- The resolver is C's (runtime/io/dns.c), on threads of its own; what needs no
-- resolver (a numeric address, "localhost") does not go there.
local core = require "perilune._core"
local native = require "perilune._net"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local timeouts = require "perilune.timeouts"

local error, ipairs, pairs, tostring, type =
  error, ipairs, pairs, tostring, type
local OSError = errors.OSError

local names = {}

local loopback <const> = {
  { family = "inet6", host = "::1" },
  { family = "inet", host = "127.0.0.1" },
}
local every_interface <const> = {
  { family = "inet6", host = "::" },
  { family = "inet", host = "0.0.0.0" },
}
local families <const> = { inet = true, inet6 = true }
local types <const> = { stream = true, dgram = true }

-- Addresses that no resolver need be asked for, or nil.
local function known(host, passive)
  if host == nil then return passive and every_interface or loopback end
  if host == "localhost" then return loopback end
  local family = native.family(host)
  return family and { { family = family, host = host } }
end

-- The cache -----------------------------------------------------------------------

-- Entries by key, and the keys in the order of their coming; nil: no cache.
local cache

local function copy(list)
  local result = {}
  for i, entry in ipairs(list) do
    local fresh = {}
    for key, value in pairs(entry) do fresh[key] = value end
    result[i] = fresh
  end
  return result
end

local function forget_oldest()
  local key = cache.order[cache.first]
  cache.order[cache.first] = nil
  cache.first = cache.first + 1
  cache.entries[key] = nil
end

local function remembered(key)
  local entry = cache and cache.entries[key]
  if entry and cache.clock:now() < entry.expires then return copy(entry.list) end
end

local function remember(key, list)
  if not cache then return end
  local entry = { list = copy(list), expires = cache.clock:now() + cache.ttl }
  if not cache.entries[key] then
    if cache.last - cache.first + 1 >= cache.size then forget_oldest() end
    cache.last = cache.last + 1
    cache.order[cache.last] = key
  end
  cache.entries[key] = entry
end

---Has addresses of names that were found be kept for a time, in this Lua state;
---nil turns that off, as it is at first, and forgets them. What was not found is
---asked for again.
---@param options? { ttl: number?, size: integer? } ttl: seconds (60); size: how
---many names at most (256)
function names.set_name_cache(options)
  if options == nil then
    cache = nil
    return
  end
  arguments.options("set_name_cache", 1, options, { ttl = true, size = true })
  local ttl = options.ttl == nil and 60 or options.ttl
  arguments.seconds("set_name_cache", 1, ttl)
  local size = options.size == nil and 256
    or arguments.integer("set_name_cache", 1, options.size)
  if size < 1 then arguments.wrong_value("set_name_cache", 1, "size is at least 1") end
  cache = {
    entries = {}, order = {}, first = 1, last = 0, ttl = ttl, size = size,
    clock = core.Clock_new { kind = "real" },
  }
end

-- Names to addresses ------------------------------------------------------------------

local function check_choice(name, position, value, choices, what)
  if value ~= nil and not choices[value] then
    arguments.wrong_value(name, position, ("%s %q is not known"):format(what, tostring(value)))
  end
end

local function none_of(family, host)
  return OSError(("getaddrinfo: no %s address (%s)"):format(family, host or "this machine"),
    { code = "EAI_ADDRFAMILY", syscall = "getaddrinfo", address = host })
end

local function from_known(list, host, port, family, kind)
  local found = {}
  for _, entry in ipairs(list) do
    if family == nil or family == entry.family then
      found[#found + 1] =
        { family = entry.family, type = kind, host = entry.host, port = port }
    end
  end
  if #found == 0 then error(none_of(family, host)) end
  return found
end

local function flags_of(options)
  return (options.passive and "p" or "") .. (options.canonname and "c" or "")
    .. (options.numeric and "n" or "")
end

local function look_up(host, service, options)
  local family, kind = options.family, options.type or "stream"
  local flags = flags_of(options)
  local key = ("%s\0%s\0%s\0%s\0%s"):format(host or "*", service or "*", family or "*", kind, flags)
  local list = remembered(key)
  if list then return list end
  list = native.lookup(host, service, family, kind, flags)
  remember(key, list)
  return list
end

local options_known <const> = {
  family = true, type = true, passive = true, canonname = true, numeric = true,
  timeout = true,
}
local no_options <const> = {}

---Resolves a host's name.
---
---Raises OSError (`code` EAI_NONAME, ...) if it has no address, and TimeoutError
---if there is no answer within `timeout` seconds.
---
---Cancellation: nobody waits for the answer any more.
---
---Python: `loop.getaddrinfo`.
---@param host string? a name or an address; nil: this machine
---@param service? integer|string the number of a port, or a name
---@param options? { family: "inet"|"inet6"|nil, type: "stream"|"dgram"|nil,
---passive: boolean?, canonname: boolean?, numeric: boolean?, timeout: number? }
---passive: to listen there, so that nil stands for all interfaces; numeric: no
---name; timeout: seconds
---@return { family: "inet"|"inet6", type: "stream"|"dgram", host: string,
---port: integer, canonname: string? }[]
---@async
function names.getaddrinfo(host, service, options)
  local name <const> = "getaddrinfo"
  if host ~= nil and type(host) ~= "string" then arguments.wrong_type(name, 1, "string", host) end
  if type(service) == "number" then
    service = arguments.integer(name, 2, service)
    if service < 0 or service > 65535 then
      arguments.wrong_value(name, 2, ("%d is no port (0 to 65535)"):format(service))
    end
  elseif service ~= nil and type(service) ~= "string" then
    arguments.wrong_type(name, 2, "number or string", service)
  end
  arguments.options(name, 3, options, options_known)
  options = options or no_options
  check_choice(name, 3, options.family, families, "family")
  check_choice(name, 3, options.type, types, "type")
  arguments.seconds(name, 3, options.timeout, true)
  if type(service) ~= "string" and not options.canonname then
    local list = known(host, options.passive)
    if list then
      return from_known(list, host, service or 0, options.family, options.type or "stream")
    end
  end
  if host == nil and service == nil then service = "0" end
  service = service and tostring(service)
  if options.timeout == nil then return look_up(host, service, options) end
  return timeouts.limited(name, 3, { timeout = options.timeout }, look_up, host, service, options)
end

-- Addresses to names ---------------------------------------------------------------------

local reverse_known <const> = {
  numeric_host = true, numeric_service = true, name_required = true, dgram = true,
  timeout = true,
}

---The name of a host and that of a service; where there are none, the address and
---the number.
---
---Raises OSError (`code` EAI_NONAME, ... with `name_required`), ValueError for
---what is no address, and TimeoutError if there is no answer within `timeout`
---seconds.
---
---Cancellation: nobody waits for the answer any more.
---
---Python: `loop.getnameinfo`.
---@param address string IPv4 or IPv6
---@param port? integer 0 if not given
---@param options? { numeric_host: boolean?, numeric_service: boolean?,
---name_required: boolean?, dgram: boolean?, timeout: number? } dgram: the service
---is one of datagrams; timeout: seconds
---@return string host
---@return string service
---@async
function names.getnameinfo(address, port, options)
  local name <const> = "getnameinfo"
  if type(address) ~= "string" then arguments.wrong_type(name, 1, "string", address) end
  port = port == nil and 0 or arguments.integer(name, 2, port)
  if port < 0 or port > 65535 then
    arguments.wrong_value(name, 2, ("%d is no port (0 to 65535)"):format(port))
  end
  arguments.options(name, 3, options, reverse_known)
  options = options or no_options
  local flags = (options.numeric_host and "h" or "") .. (options.numeric_service and "s" or "")
    .. (options.name_required and "r" or "") .. (options.dgram and "d" or "")
  if options.timeout == nil then return native.reverse(address, port, flags) end
  return timeouts.limited(name, 3, { timeout = options.timeout },
    native.reverse, address, port, flags)
end

return names
