local peri = require "perilune"
local net = require "perilune.net"
local native = require "perilune._net"
local support = require "support"
local network = require "support.net"
local raises, spin = support.raises, support.spin
local fails, eventually = network.fails, network.eventually

-- A server that says which one it is; its port, and a closable.
local function greeter(name, host)
  local server = net.start_server(function(stream) stream:write(name) end, host or "127.0.0.1", 0)
  local _, port = server.sockets[1]:getsockname()
  return port, server
end

-- Has names resolve to these {host, port} while the closable lives.
local function resolving(...)
  local list, original = {}, net.getaddrinfo
  for i, place in ipairs { ... } do
    list[i] = { host = place[1], port = place[2], family = place[1]:find ":" and "inet6" or "inet" }
  end
  net.getaddrinfo = function() return list end
  return setmetatable({}, { __close = function() net.getaddrinfo = original end })
end

-- Has connections be made by fn while the closable lives.
local function connecting(fn)
  local original = native.connect_tcp
  native.connect_tcp = fn
  return setmetatable({}, { __close = function() native.connect_tcp = original end })
end

describe("open_connection", function()
  it("finds this machine by its names and addresses", function()
    local port, _ <close> = greeter("all", "")
    for _, host in ipairs { "127.0.0.1", "localhost", "", network.has_ipv6() and "::1" or nil } do
      local stream <close> = net.open_connection(host, port)
      assert.equal("all", stream:read())
    end
    local stream <close> = net.open_connection(nil, port)
    assert.equal("all", stream:read())
  end)

  it("says what was refused, and where", function()
    local port = network.dead_port()
    local err = fails("ECONNREFUSED", net.open_connection, "127.0.0.1", port)
    assert.equal("connect", err.syscall)
    assert.equal(111, err.errno)
    assert.equal("127.0.0.1:" .. port, err.address)
    assert.equal(("OSError: connect: connection refused (127.0.0.1:%d)"):format(port), tostring(err))
  end)

  it("tells all errors where several addresses failed", function()
    local port = network.dead_port()
    local err
    if network.has_ipv6() then
      err = fails("ECONNREFUSED", net.open_connection, "localhost", port)
      assert.equal(2, #err.exceptions)
      assert.equal(("connect: connection refused (localhost:%d)"):format(port), err.message)
      assert.equal("localhost:" .. port, err.address)
    end
    local _ <close> = resolving({ "127.0.0.1", port }, { "255.255.255.255", port })
    err = fails("ECONNREFUSED", net.open_connection, "two.example", port)
    assert.equal(("connect: connection refused (127.0.0.1:%d); connect: network is unreachable (255.255.255.255:%d)")
      :format(port, port), err.message)
  end)

  it("says that a name has no address", function()
    local ok, err = pcall(net.open_connection, "x.invalid", 1, { timeout = 20 })
    assert.is_false(ok)
    assert.is_true(peri.OSError:is(err))
    -- EAI_AGAIN where there is no network.
    assert.truthy(err.code == "EAI_NONAME" or err.code == "EAI_AGAIN" or peri.TimeoutError:is(err))
    if err.code then assert.equal("x.invalid:1", err.address) end
  end)

  it("tries the next address as soon as one has failed", function()
    local dead = network.dead_port()
    local port, _ <close> = greeter("second")
    local _ <close> = resolving({ "127.0.0.1", dead }, { "127.0.0.1", port })
    local stream <close> = net.open_connection("two.example", 1, { happy_eyeballs_delay = math.huge })
    assert.equal("second", stream:read())
  end)

  it("tries the next address when one does not answer in time", function()
    local silent, _ <close> = network.silent_port()
    local port, _ <close> = greeter("second")
    local _ <close> = resolving({ "127.0.0.1", silent }, { "127.0.0.1", port })
    local stream <close> = net.open_connection("two.example", 1, { happy_eyeballs_delay = 0.01 })
    assert.equal("second", stream:read())
    raises(peri.TimeoutError, "", net.open_connection, "two.example", 1,
      { happy_eyeballs_delay = math.huge, timeout = 0.05 })
  end)

  it("takes the families in turn, that of the first address first", function()
    local tried = {}
    local _ <close> = connecting(function(host)
      tried[#tried + 1] = host
      error(peri.OSError("no", { code = "ECONNREFUSED" }))
    end)
    local _ <close> = resolving({ "::2", 1 }, { "::3", 1 }, { "::4", 1 }, { "1.1.1.1", 1 }, { "1.1.1.2", 1 })
    fails("ECONNREFUSED", net.open_connection, "five.example", 1)
    assert.same({ "::2", "1.1.1.1", "::3", "1.1.1.2", "::4" }, tried)
  end)

  it("keeps the first connection and gives up the others", function()
    local aborted, begun = 0, {}
    local gate = peri.Event()
    local function connection(host)
      begun[#begun + 1] = host
      gate:wait()
      return { host = host, abort = function() aborted = aborted + 1 end }
    end
    local _ <close> = connecting(connection)
    local _ <close> = resolving({ "1.1.1.1", 1 }, { "1.1.1.2", 1 }, { "1.1.1.3", 1 })
    local task = peri.create_task(net.open_connection, "three.example", 1, { happy_eyeballs_delay = 0.001 })
    eventually(function() return #begun == 3 end)
    gate:set()
    assert.equal("1.1.1.1", task:await().host)
    spin(3)
    -- The others stood at the same moment.
    assert.equal(2, aborted)
    assert.equal(1, #peri.all_tasks())
  end)

  it("passes on what is no error of connecting", function()
    local _ <close> = connecting(function() error("mine", 0) end)
    local _ <close> = resolving({ "1.1.1.1", 1 }, { "1.1.1.2", 1 })
    local ok, err = pcall(net.open_connection, "two.example", 1)
    assert.is_false(ok)
    assert.equal("mine", err)
  end)

  it("that is cancelled leaves nothing open", function()
    local silent, _ <close> = network.silent_port()
    local before = support.descriptors()
    local one = peri.create_task(net.open_connection, "127.0.0.1", silent)
    local _ <close> = resolving({ "127.0.0.1", silent }, { "127.0.0.1", silent })
    local two = peri.create_task(net.open_connection, "two.example", 1, { happy_eyeballs_delay = 0.001 })
    for _ = 1, 5 do peri.sleep(0) end
    for _, task in ipairs { one, two } do
      task:cancel()
      raises(peri.CancelledError, "", task.await, task)
    end
    spin(2)
    assert.same(before, support.descriptors())
  end)

  it("that is cancelled when it stands already leaves nothing open", function()
    local port, server <close> = greeter("x")
    net.open_connection("127.0.0.1", port):abort() -- libuv keeps one in reserve
    server:abort_clients()
    local before = support.descriptors()
    for n = 1, 60 do
      local task = peri.create_task(net.open_connection, "127.0.0.1", port)
      spin(n)
      task:cancel()
      local ok, stream = pcall(task.await, task)
      if ok then stream:abort() end
    end
    server:close_clients()
    eventually(function()
      local now = support.descriptors()
      for fd in pairs(now) do if not before[fd] then return false end end
      return true
    end)
  end)

  it("has a time limit for all of it", function()
    local silent, _ <close> = network.silent_port()
    raises(peri.TimeoutError, "", net.open_connection, "127.0.0.1", silent, { timeout = 0.02 })
  end)

  it("connects from a local address", function()
    local from
    local server <close> = net.start_server(function(stream)
      from = { stream:getpeername() }
    end, "127.0.0.1", 0)
    local _, port = server.sockets[1]:getsockname()
    local stream <close> = net.open_connection("127.0.0.1", port, { local_addr = { "127.0.0.2" } })
    assert.equal("", stream:read())
    assert.equal("127.0.0.2", from[1])
    assert.same({ stream:getsockname() }, from)
    local err = fails("EADDRNOTAVAIL", net.open_connection, "127.0.0.1", port,
      { local_addr = { "192.0.2.1", 0 } })
    assert.equal("bind", err.syscall)
    fails("EADDRNOTAVAIL", net.open_connection, "127.0.0.1", port, { local_addr = { "::1" } })
  end)

  it("refuses arguments that are none", function()
    for _, case in ipairs {
      { { 5, 1 }, peri.TypeError, "bad argument #1 to 'open_connection' (string expected, got number)" },
      { { "a" }, peri.TypeError, "bad argument #2 to 'open_connection' (integer expected, got nil)" },
      { { "a", 70000 }, peri.ValueError, "bad argument #2 to 'open_connection' (70000 is no port (0 to 65535))" },
      { { "a", 1, { limit = 0 } }, peri.ValueError, "bad argument #3 to 'open_connection' (limit cannot be <= 0)" },
      { { "a", 1, { tiemout = 1 } }, peri.ValueError,
        "bad argument #3 to 'open_connection' (unknown option \"tiemout\")" },
      { { "a", 1, { local_addr = "b" } }, peri.TypeError,
        "bad argument #3 to 'open_connection' (local_addr: {host, port} expected, got string)" },
    } do
      raises(case[2], case[3], net.open_connection, table.unpack(case[1]))
    end
  end)
end)

describe("getaddrinfo", function()
  it("answers at once where there is nothing to ask for", function()
    local step = 0
    peri.get_running_loop():call_soon(function() step = step + 1 end)
    assert.same({ { family = "inet", type = "stream", host = "10.1.2.3", port = 80 } },
      net.getaddrinfo("10.1.2.3", 80))
    assert.same({ { family = "inet6", type = "stream", host = "::1", port = 0 },
      { family = "inet", type = "stream", host = "127.0.0.1", port = 0 } }, net.getaddrinfo("localhost", 0))
    assert.same({ { family = "inet6", type = "stream", host = "::", port = 5 } },
      net.getaddrinfo(nil, 5, { passive = true, family = "inet6" }))
    assert.equal(0, step)
    fails("EAI_ADDRFAMILY", net.getaddrinfo, "::1", 80, { family = "inet" })
  end)

  it("knows services by name", function()
    local list = net.getaddrinfo("127.0.0.1", "80")
    assert.same({ { family = "inet", type = "stream", host = "127.0.0.1", port = 80 } }, list)
    fails("EAI_SERVICE", net.getaddrinfo, "127.0.0.1", "no-such-service")
  end)

  it("can be cancelled, and leaves the answer to itself", function()
    local before = support.descriptors()
    for n = 0, 3 do
      local task = peri.create_task(net.getaddrinfo, "x.invalid", "80")
      spin(n)
      task:cancel()
      local ok, err = pcall(task.await, task)
      assert.is_false(ok)
      assert.is_true(peri.iscancel(err) or peri.OSError:is(err))
    end
    -- The threads go on asking.
    eventually(function()
      for fd in pairs(support.descriptors()) do
        if not before[fd] then return false end
      end
      return true
    end)
  end)
end)

describe("open_unix_connection", function()
  it("says what is wrong with the path", function()
    local err = fails("ENOENT", net.open_unix_connection, "/nonexistent/socket")
    assert.equal("/nonexistent/socket", err.path)
    assert.equal("OSError: connect: no such file or directory (/nonexistent/socket)", tostring(err))
    fails("ENAMETOOLONG", net.open_unix_connection, ("x"):rep(200))
    fails("EINVAL", net.open_unix_connection, "")
    fails("EINVAL", net.open_unix_connection, "a\0b")
    fails("ECONNREFUSED", net.open_unix_connection, support.file "no socket")
    raises(peri.TypeError, "bad argument #1 to 'open_unix_connection' (string expected, got nil)",
      net.open_unix_connection)
  end)

  it("waits for room in the server's queue", function()
    local path = support.directory() .. "/socket"
    local gate, served = peri.Event(), 0
    local server = net.start_unix_server(function()
      gate:wait()
      served = served + 1
    end, path, { backlog = 1, max_connections = 1 })
    local tasks = {}
    for i = 1, 8 do tasks[i] = peri.create_task(net.open_unix_connection, path) end
    -- One is served, and two wait in the queue.
    eventually(function()
      local done = 0
      for _, task in ipairs(tasks) do done = done + (task:done() and 1 or 0) end
      return done == 3
    end)
    raises(peri.TimeoutError, "", net.open_unix_connection, path, { timeout = 0.01 })
    gate:set()
    for _, task in ipairs(tasks) do
      local stream <close> = task:await()
      assert.equal("", stream:read())
    end
    server:close()
    server:wait_closed()
    assert.equal(8, served)
  end)

  it("leaves no timer when it is given up while it waits for room", function()
    local path = support.directory() .. "/socket"
    local server = net.start_unix_server(function(stream) stream:read() end, path,
      { backlog = 1, max_connections = 1 })
    local loop = peri.get_running_loop()
    local function timers()
      local n = 0
      for _, value in pairs((debug.getuservalue(loop, 1))) do
        if tostring(value):find "^<TimerHandle" then n = n + 1 end
      end
      return n
    end
    local before, tasks = timers(), {}
    for i = 1, 8 do tasks[i] = peri.create_task(net.open_unix_connection, path) end
    eventually(function() return timers() > before end)
    for _, task in ipairs(tasks) do task:cancel() end
    for _, task in ipairs(tasks) do
      local ok, stream = pcall(task.await, task)
      if ok then stream:abort() end
    end
    assert.equal(before, timers())
    server:close()
    server:wait_closed()
  end)

  it("knows abstract names", function()
    local name = "\0perilune\0spec-" .. support.directory()
    local server <close> = net.start_unix_server(function(stream) stream:write "abstract" end, name)
    local stream <close> = net.open_unix_connection(name)
    assert.equal("abstract", stream:read())
    assert.equal(name, stream:getpeername())
    assert.equal((name:gsub("\0", "@")), (server.sockets[1]:getsockname()))
  end)
end)
