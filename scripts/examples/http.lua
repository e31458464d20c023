-- http.lua [DIRECTORY [HOST [PORT]]]: serves the files of a directory over HTTP/1.1.
-- Ctrl-C ends it, once the requests under way have been answered.
--
-- It keeps connections, takes bodies of either kind (and drops them: there is
-- nothing here to send to), and gives up on clients that are slow, endless or wrong.
local peri = require "perilune"
local fs = require "perilune.fs"
local net = require "perilune.net"
local signal = require "perilune.signal"

local LINE <const> = 8192 -- bytes of the longest line
local HEAD <const> = 32768 -- bytes of a request's header fields
local BODY <const> = 1048576 -- bytes of a request's
local IDLE <const> = 30 -- seconds that a connection may be silent
local PATIENCE <const> = 10 -- seconds for a request, once it has begun
local GRACE <const> = 5 -- seconds from Ctrl-C to the end of what is under way
local CHUNK <const> = 65536

local reasons <const> = {
  [200] = "OK", [301] = "Moved Permanently", [400] = "Bad Request", [403] = "Forbidden",
  [404] = "Not Found", [405] = "Method Not Allowed", [408] = "Request Timeout",
  [413] = "Content Too Large", [414] = "URI Too Long", [417] = "Expectation Failed",
  [431] = "Request Header Fields Too Large", [500] = "Internal Server Error",
  [501] = "Not Implemented", [505] = "HTTP Version Not Supported",
}

local types <const> = {
  css = "text/css", gif = "image/gif", html = "text/html; charset=utf-8",
  jpeg = "image/jpeg", jpg = "image/jpeg", js = "text/javascript",
  json = "application/json", lua = "text/plain; charset=utf-8",
  md = "text/plain; charset=utf-8", pdf = "application/pdf", png = "image/png",
  svg = "image/svg+xml", txt = "text/plain; charset=utf-8", wasm = "application/wasm",
}

-- What a client is told that has asked for something wrong.
local Refusal = peri.Error:extend "Refusal"

local function refuse(status, text)
  error(Refusal(text or reasons[status], { status = status }))
end

-- Requests --------------------------------------------------------------------------

-- A line without its end; `status` is for one that is too long.
local function read_line(stream, status)
  local ok, line = peri.pcall(stream.readuntil, stream, "\n")
  if ok then return (line:gsub("\r?\n$", "")) end
  if peri.LimitOverrunError:is(line) then refuse(status) end
  error(line, 0)
end

local function read_fields(stream)
  local fields, size = {}, 0
  while true do
    local line = read_line(stream, 431)
    if line == "" then return fields end
    size = size + #line + 2
    if size > HEAD then refuse(431) end
    local name, value = line:match "^([%w!#$%%&'*+.^_`|~-]+):[ \t]*(.-)[ \t]*$"
    if not name or value:find "[\0\r]" then refuse(400, "a header field is broken") end
    name = name:lower()
    fields[name] = fields[name] and fields[name] .. ", " .. value or value
  end
end

-- How long the body is: a number, or "chunked". What can be read in two ways is how
-- requests are smuggled past others.
local function body_length(fields)
  local coding, length = fields["transfer-encoding"], fields["content-length"]
  if coding then
    if length then refuse(400, "the body has two lengths") end
    if coding:lower() ~= "chunked" then refuse(501) end
    return "chunked"
  end
  if not length then return 0 end
  if not length:find "^%d+$" then refuse(400, "Content-Length is no number") end
  if #length > 15 or tonumber(length) > BODY then refuse(413) end
  return tonumber(length)
end

local function read_head(stream, line)
  local method, target, version = line:match "^([%w!#$%%&'*+.^_`|~-]+) (%S+) HTTP/(%d%.%d)$"
  if not method then refuse(400, "this is no request") end
  if version:sub(1, 1) ~= "1" then refuse(505) end
  local fields = read_fields(stream)
  if version ~= "1.0" and not fields.host or (fields.host or ""):find(",", 1, true) then
    refuse(400, "one Host is needed")
  end
  if version == "1.0" and fields["transfer-encoding"] then
    refuse(400, "HTTP/1.0 has no Transfer-Encoding")
  end
  local connection = (fields.connection or ""):lower()
  local keep = version ~= "1.0" and not connection:find("close", 1, true)
    or version == "1.0" and connection:find("keep-alive", 1, true) ~= nil
  return {
    method = method, target = target, fields = fields, keep = keep,
    length = body_length(fields),
  }
end

local function drop(stream, count)
  while count > 0 do
    local data = stream:read(math.min(count, CHUNK))
    if not data then refuse(400, "the body is not whole") end
    count = count - #data
  end
end

local function drop_chunks(stream)
  local total = 0
  while true do
    local line = read_line(stream, 400)
    local digits = line:match "^(%x+)[ \t]*$" or line:match "^(%x+)[ \t]*;"
    if not digits then refuse(400, "a chunk has no length") end
    local size = #digits <= 8 and tonumber(digits, 16) or math.huge
    total = total + size
    if total > BODY then refuse(413) end
    if size == 0 then return read_fields(stream) end -- trailers
    drop(stream, size)
    if read_line(stream, 400) ~= "" then refuse(400, "a chunk is too long") end
  end
end

local function drop_body(stream, request)
  local expect = request.fields.expect
  if expect then
    if expect:lower() ~= "100-continue" then refuse(417) end
    if request.length ~= 0 then stream:write "HTTP/1.1 100 Continue\r\n\r\n" end
  end
  if request.length == "chunked" then drop_chunks(stream) else drop(stream, request.length) end
end

local function read_request(stream, line)
  local request = read_head(stream, line)
  drop_body(stream, request)
  return request
end

-- Files -------------------------------------------------------------------------------

local root -- the directory, without links

-- The path that a request is for, below the root: decoded, and with no way up.
local function path_of(target)
  local path = target:gsub("^%a+://[^/?]*", ""):gsub("[?#].*$", "")
  if path == "" then path = "/" end
  path = path:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  if path:sub(1, 1) ~= "/" or path:find("\0", 1, true) then refuse(400, "the path is broken") end
  for part in path:gmatch "[^/]+" do
    if part == ".." then refuse(404) end
  end
  return path
end

local refusals <const> = {
  EACCES = 403, ENOENT = 404, ENOTDIR = 404, ENAMETOOLONG = 414, ELOOP = 404,
}

-- Calls a function of fs; what it cannot do is told to the client.
local function try(fn, ...)
  local ok, result = peri.pcall(fn, ...)
  if ok then return result end
  if not peri.OSError:is(result) then error(result, 0) end
  refuse(refusals[result.code] or 500)
end

-- A link may lead out of the root.
local function resolve(path)
  local real = try(fs.realpath, root .. path)
  if real ~= root and real:sub(1, #root + 1) ~= (root == "/" and "/" or root .. "/") then
    refuse(404)
  end
  return real, try(fs.stat, real)
end

-- The file for a path and what is known of it, or where to look instead.
local function find(path)
  local real, stat = resolve(path)
  if stat.type == "directory" then
    if path:sub(-1) ~= "/" then return nil, nil, path .. "/" end
    path = path .. "index.html"
    real, stat = resolve(path)
  end
  -- A pipe, which nobody writes to, would keep us for ever.
  if stat.type ~= "file" then refuse(403) end
  return real, stat
end

-- Answers ---------------------------------------------------------------------------

local function write_head(stream, request, status, fields)
  request.answered = true
  local lines = {
    ("HTTP/1.1 %d %s"):format(status, reasons[status]),
    "Date: " .. os.date "!%a, %d %b %Y %H:%M:%S GMT",
    "Connection: " .. (request.keep and "keep-alive" or "close"),
  }
  for name, value in pairs(fields) do lines[#lines + 1] = name .. ": " .. value end
  stream:write(table.concat(lines, "\r\n"), "\r\n\r\n")
end

local function answer_text(stream, request, status, text, fields)
  fields = fields or {}
  text = text .. "\n"
  fields["Content-Type"], fields["Content-Length"] = "text/plain; charset=utf-8", #text
  write_head(stream, request, status, fields)
  if request.method ~= "HEAD" then stream:write(text) end
end

-- As many bytes as were promised, whatever becomes of the file meanwhile.
local function send_file(stream, file, size)
  while size > 0 do
    local data = file:read(math.min(size, CHUNK))
    if not data then error "the file has become shorter" end
    size = size - #data
    stream:write(data)
    stream:drain { timeout = IDLE }
  end
end

local function encode(path)
  return (path:gsub("[^%w/._~-]", function(c) return ("%%%02X"):format(c:byte()) end))
end

local function answer(stream, request)
  if request.method ~= "GET" and request.method ~= "HEAD" then
    return answer_text(stream, request, 405, reasons[405], { Allow = "GET, HEAD" })
  end
  local path, stat, elsewhere = find(path_of(request.target))
  if elsewhere then
    local location = encode(elsewhere:gsub("^/+", "/"))
    return answer_text(stream, request, 301, location, { Location = location })
  end
  local file <close> = try(fs.open, path)
  write_head(stream, request, 200, {
    ["Content-Type"] = types[path:match "%.(%w+)$"] or "application/octet-stream",
    ["Content-Length"] = stat.size,
  })
  if request.method == "GET" then send_file(stream, file, stat.size) end
end

-- Connections -------------------------------------------------------------------------

local idle = {} -- the tasks that wait for a request
local stopping = false

-- The first line of a request; nil: there is none.
local function next_line(stream)
  if stopping then return nil end
  local task = peri.current_task()
  idle[task] = true
  local _ <close> = peri.defer(function() idle[task] = nil end)
  local in_time, line = peri.move_on_after(IDLE, function()
    local line = read_line(stream, 414)
    return line ~= "" and line or read_line(stream, 414) -- one may be left of a body
  end)
  return in_time and line or nil
end

-- A client that has not sent all yet would lose the answer to a reset.
local function linger(stream)
  stream:write_eof()
  peri.pcall(peri.move_on_after, 1, function()
    while stream:read(CHUNK) do end
  end)
end

-- Returns whether there may be another request.
local function serve_one(stream)
  local request = { method = "?", keep = false } -- until there is one
  local ok, err = peri.pcall(function()
    local line = next_line(stream)
    if not line then return end
    local read = peri.timeout(PATIENCE, read_request, stream, line)
    request = read
    request.keep = request.keep and not stopping
    answer(stream, request)
  end)
  if ok then return request.keep end
  -- Half of an answer cannot become another one.
  if request.answered and peri.OSError:is(err) then return stream:abort() end
  -- The client has gone, or there was no more to come.
  if peri.OSError:is(err) and not peri.TimeoutError:is(err) or peri.EOFError:is(err) then
    return false
  end
  if peri.TimeoutError:is(err) then err = Refusal(reasons[408], { status = 408 }) end
  if not Refusal:is(err) then error(err, 0) end
  answer_text(stream, request, err.status, err.message)
  if not request.keep then linger(stream) end
  return request.keep
end

-- Whether the client has taken the answer, or most of it.
local function is_taken(stream)
  local ok, err = peri.pcall(stream.drain, stream, { timeout = IDLE })
  if ok then return true end
  if not peri.OSError:is(err) then error(err, 0) end
  stream:abort()
end

local function serve(stream)
  stream:set_nodelay(true)
  stream:set_close_timeout(IDLE)
  repeat until not (serve_one(stream) and is_taken(stream))
end

root = fs.realpath(arg[1] or ".")
local server <close> = net.start_server(serve, arg[2] or "127.0.0.1", tonumber(arg[3] or 0),
  { limit = LINE })
local signals <close> = signal.stream { "SIGINT", "SIGTERM" }
for _, socket in ipairs(server.sockets) do
  print("listening on", socket:getsockname())
end
io.stdout:flush()
signals:get()

stopping = true
server:close()
for task in pairs(idle) do task:cancel() end
if not peri.pcall(server.wait_closed, server, { timeout = GRACE }) then server:abort_clients() end
