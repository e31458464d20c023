-- The example http.lua, as its clients see it.
local peri = require "perilune"
local fs = require "perilune.fs"
local net = require "perilune.net"
local subprocess = require "perilune.subprocess"
local example = require "support.example"
local network = require "support.net"
local support = require "support"

local directory, server, port

before_each(function()
  directory = support.directory()
  fs.mkdir(directory .. "/www")
  fs.mkdir(directory .. "/www/sub")
  fs.write_file(directory .. "/secret", "secret")
  fs.write_file(directory .. "/www/index.html", "<p>hello</p>\n")
  fs.write_file(directory .. "/www/sub/a b%.txt", ("0123456789\n"):rep(30000))
  server, port = example.start("http.lua", directory .. "/www")
end)

after_each(function()
  local err, code = example.stop(server)
  assert.same({ "", 0 }, { err, code })
end)

local function connect()
  return net.open_connection("127.0.0.1", port)
end

-- Reads an answer: its status, fields and body (of a HEAD there is none).
local function read_answer(stream, method)
  local status = tonumber(stream:readline():match "^HTTP/1%.1 (%d%d%d) .+\r\n$")
  local fields = {}
  for line in stream:lines() do
    local name, value = line:match "^([%w-]+): (.*)\r$"
    if not name then break end
    fields[name] = value
  end
  if status == 100 then return status, fields end
  local length = tonumber(fields["Content-Length"])
  return status, fields, method == "HEAD" and "" or stream:readexactly(length)
end

-- Sends requests on one connection, which ends then; returns the statuses.
local function statuses(...)
  local stream <close> = connect()
  stream:write(...)
  stream:write_eof()
  local list = {}
  while true do
    local ok, status = pcall(read_answer, stream)
    if not ok then return table.concat(list, " ") end
    list[#list + 1] = status
  end
end

local function get(path, fields)
  return ("GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n"):format(path, fields or "")
end

describe("the example http.lua", function()
  it("gives files, of any size and name, with their types", function()
    local stream <close> = connect()
    stream:write(get "/")
    local status, fields, body = read_answer(stream)
    assert.same({ 200, "<p>hello</p>\n", "text/html; charset=utf-8", "keep-alive" },
      { status, body, fields["Content-Type"], fields.Connection })
    stream:write(get "/sub/a%20b%25.txt?query")
    status, fields, body = read_answer(stream)
    assert.same({ 200, "text/plain; charset=utf-8" }, { status, fields["Content-Type"] })
    assert.is_true(body == ("0123456789\n"):rep(30000))
    stream:write "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
    status, fields = read_answer(stream, "HEAD")
    assert.same({ 200, "13" }, { status, fields["Content-Length"] })
    stream:write(get("/sub", "Connection: close\r\n"))
    status, fields = read_answer(stream)
    assert.same({ 301, "/sub/", "close" }, { status, fields.Location, fields.Connection })
    assert.is_nil(stream:read(1))
  end)

  it("answers requests that come at once in their order, and keeps to the version", function()
    assert.equal("200 404 200", statuses(get "/", get "/none", get "/"))
    assert.equal("200", statuses("GET / HTTP/1.0\r\n\r\n", get "/"))
    assert.equal("200 200", statuses("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", get "/"))
    assert.equal("505", statuses "GET / HTTP/2.0\r\n\r\n")
  end)

  it("lets nobody out of its directory", function()
    fs.symlink("../../secret", directory .. "/www/sub/link")
    fs.symlink("../index.html", directory .. "/www/sub/inside")
    os.execute(("mkfifo '%s/www/pipe'"):format(directory))
    for path, status in pairs {
      ["/../secret"] = 404, ["/%2e%2e/secret"] = 404, ["/sub/..%2F../secret"] = 404,
      ["/sub/link"] = 404, ["/sub/inside"] = 200, ["/pipe"] = 403, ["/sub/"] = 404,
      ["/index.html/"] = 404, ["/%00"] = 400, ["index.html"] = 400,
      ["http://x/"] = 200, ["/" .. ("x"):rep(300)] = 414,
    } do
      assert.equal(path .. " " .. status, path .. " " .. statuses(get(path, "Connection: close\r\n")))
    end
  end)

  it("takes bodies of both kinds, and waits for none that it does not want", function()
    local post = "POST / HTTP/1.1\r\nHost: x\r\n"
    assert.equal("405 200", statuses(post, "Content-Length: 5\r\n\r\nhello", get "/"))
    assert.equal("405 200", statuses(post, "Transfer-Encoding: chunked\r\n\r\n",
      "5;ext\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\n", get "/"))
    assert.equal("100 405 200", statuses(post, "Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx", get "/"))
    assert.equal("413", statuses(post, "Content-Length: 99999999\r\n\r\n"))
    assert.equal("413", statuses(post, "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n"))
    assert.equal("400", statuses(post, "Content-Length: 9\r\n\r\nhello"))
  end)

  it("refuses what is no request, or could be read in two ways", function()
    for request, status in pairs {
      ["nonsense\r\n\r\n"] = 400,
      ["GET / HTTP/1.1\r\n\r\n"] = 400, -- no Host
      ["GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"] = 400,
      [get("/", "a : b\r\n")] = 400,
      [get("/", "a: b\r\n c\r\n")] = 400,
      [get("/", "a: \0\r\n")] = 400,
      [get("/", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n")] = 400,
      [get("/", "Content-Length: 1\r\nContent-Length: 2\r\n")] = 400,
      [get("/", "Content-Length: -1\r\n")] = 400,
      ["GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] = 400,
      [get("/", "Transfer-Encoding: gzip, chunked\r\n")] = 501,
      [get("/", "Transfer-Encoding: chunked\r\n") .. "5x\r\n"] = 400,
      [get("/", "Transfer-Encoding: chunked\r\n") .. "1\r\nxy\r\n"] = 400,
      [get("/", "Expect: more\r\n")] = 417,
      [get("/" .. ("x"):rep(9000))] = 414,
      [get("/", "a: " .. ("x"):rep(9000))] = 431,
      [get("/", ("a: b\r\n"):rep(10000))] = 431,
    } do
      assert.equal(request:sub(1, 60) .. status, request:sub(1, 60) .. statuses(request))
    end
    assert.equal("200", statuses(get "/")) -- it lives on
  end)

  it("ends the connection of a client that does not take its answer, in whose midst it says nothing else", function()
    local size <const> = 20000000
    local source = fs.read_file(example.directory .. "http.lua")
    local hasty, count = source:gsub("IDLE <const> = 30", "IDLE <const> = 0.2")
    assert.equal(1, count)
    fs.write_file(directory .. "/www/big", ("z"):rep(size))
    local process, at = example.start(support.file(hasty), directory .. "/www")
    local function count_sockets()
      local n, fds = 0, ("/proc/%d/fd"):format(process.pid)
      for fd in fs.scandir(fds) do
        local ok, target = pcall(fs.readlink, fds .. "/" .. fd)
        if ok and target:find "^socket:" then n = n + 1 end
      end
      return n
    end
    local before = count_sockets()
    local stream <close> = net.open_connection("127.0.0.1", at, { limit = 1000 })
    stream:write(get "/big")
    assert.equal("HTTP/1.1 200 OK\r\n", stream:readline())
    network.eventually(function() return count_sockets() == before end)
    local body = stream:read():match "\r\n\r\n(.*)$"
    assert.is_true(#body < size)
    assert.is_nil(body:find "[^z]")
    assert.same({ "", 0 }, { example.stop(process) })
  end)

  it("answers what is under way when it is stopped, and lets the idle go", function()
    local idle <close> = connect()
    local busy <close> = connect()
    idle:write(get "/")
    read_answer(idle)
    busy:write "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    assert.equal(100, (read_answer(busy)))
    local stopped = peri.create_task(example.stop, server)
    assert.is_nil(idle:read(1))
    busy:write "x"
    local status, fields = read_answer(busy)
    assert.same({ 405, "close" }, { status, fields.Connection })
    assert.is_nil(busy:read(1))
    assert.same({ "", 0 }, { stopped:await() })
  end)

  it("talks to curl", function()
    if not support.has_program "curl" then return pending "curl is not installed" end
    local url = ("http://127.0.0.1:%d"):format(port)
    local function curl(...)
      return subprocess.run({ "curl", "-sS", "--max-time", "60", ... }, { capture = true }).stdout
    end
    assert.equal("<p>hello</p>\n", curl(url))
    assert.equal("<p>hello</p>\n1<p>hello</p>\n0", curl("-w", "%{num_connects}", url, url))
    assert.is_true(curl(url .. "/sub/a%20b%25.txt") == ("0123456789\n"):rep(30000))
    assert.equal("200 13 0", curl("-I", "-o", "/dev/null", "-w",
      "%{http_code} %header{content-length} %{size_download}", url))
    assert.equal("404", curl("-o", "/dev/null", "-w", "%{http_code}", url .. "/none"))
    local path = support.file(("x"):rep(100000))
    assert.equal("405", curl("-o", "/dev/null", "-w", "%{http_code}", "--data-binary", "@" .. path, url))
    assert.equal("405", curl("-o", "/dev/null", "-w", "%{http_code}", "--data-binary", "@" .. path,
      "-H", "Transfer-Encoding: chunked", url))
  end)
end)
