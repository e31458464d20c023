local peri = require "perilune"
local net = require "perilune.net"
local support = require "support"
local network = require "support.net"
local raises, spin = support.raises, support.spin
local fails, eventually = network.fails, network.eventually

local function port_of(server)
  return select(2, server.sockets[1]:getsockname())
end

local function connect(server)
  return net.open_connection("127.0.0.1", port_of(server))
end

local function echo(stream)
  for line in stream:lines() do stream:write(line, "\n") end
end

describe("start_server", function()
  it("gives a server whose loss is told in debug mode, unless it serves", function()
    local records = support.log()
    local loop = peri.get_running_loop()
    loop:set_debug(true)
    net.start_server(echo, "127.0.0.1", 0, { start_serving = false })
    support.collect()
    loop:set_debug(false)
    assert.equal(1, #records)
    assert.matches("^WARNING ResourceWarning: unclosed <Server 127.0.0.1:%d+>\n"
      .. "created at:\n\t[^\n]*server_spec.lua:%d+: in ", records[1])
  end)

  it("runs the handler in a task for each connection", function()
    local handlers = {}
    local server <close> = net.start_server(function(stream)
      handlers[#handlers + 1] = peri.current_task()
      echo(stream)
    end, "127.0.0.1", 0)
    local streams = {}
    for i = 1, 50 do streams[i] = connect(server) end
    for i, stream in ipairs(streams) do stream:write(i, "\n") end
    for i, stream in ipairs(streams) do assert.equal(i .. "\n", stream:readline()) end
    assert.equal(50, #handlers)
    assert.not_equal(handlers[1], handlers[2])
    for _, stream in ipairs(streams) do stream:close() end
  end)

  it("closes the stream when the handler returns, once its output has gone", function()
    local kept
    local server <close> = net.start_server(function(stream)
      kept = stream
      stream:write(("x"):rep(3000000))
    end, "127.0.0.1", 0)
    local stream <close> = connect(server)
    assert.equal(3000000, #stream:read())
    assert.is_true(kept:is_closing())
  end)

  it("reports what a handler raises, and closes its connection", function()
    local reports = support.reports()
    local server <close> = net.start_server(function(stream)
      if stream:readline() == "nil\n" then error(nil) end
      error(peri.ValueError "in the handler")
    end, "127.0.0.1", 0)
    for i, line in ipairs { "error\n", "nil\n" } do
      local stream <close> = connect(server)
      stream:write(line)
      assert.equal("", stream:read())
      eventually(function() return #reports == i end)
      local report = reports[i]
      assert.equal("an error in the handler of a connection", report.message)
      assert.same({ stream:getsockname() }, { report.stream:getpeername() })
      assert.is_true(report.stream:is_closing())
    end
    assert.equal("ValueError: in the handler", tostring(reports[1].exception))
    assert.truthy(reports[1].exception.traceback:find "server_spec.lua:%d+: in ")
  end)

  it("keeps quiet about handlers that are cancelled or killed", function()
    local tasks, streams = {}, {}
    local server <close> = net.start_server(function(stream)
      tasks[#tasks + 1] = peri.current_task()
      stream:read(1)
    end, "127.0.0.1", 0)
    for i = 1, 2 do streams[i] = connect(server) end
    eventually(function() return #tasks == 2 end)
    tasks[1]:cancel()
    tasks[2]:kill()
    for i = 1, 2 do
      assert.equal("", streams[i]:read())
      assert.is_true(tasks[i]:cancelled())
      streams[i]:close()
    end
  end)

  it("runs handlers in the context of its start", function()
    local var = peri.ContextVar("var", "none")
    local seen = {}
    local function handler() seen[#seen + 1] = var:get() end
    local token = var:set "here"
    local server <close> = net.start_server(handler, "127.0.0.1", 0)
    var:reset(token)
    local stream <close> = connect(server)
    assert.equal("", stream:read())
    assert.same({ "here" }, seen)
    assert.equal("none", var:get())
  end)

  it("listens on one port of all interfaces, and on several hosts", function()
    local six = network.has_ipv6()
    local least = six and 0 or 1
    for _, host in ipairs { "", { "127.0.0.1", "::1", "localhost", "127.0.0.2" } } do
      local server <close> = net.start_server(function(stream) stream:write "x" end, host, 0)
      local sockets = server.sockets
      local most = type(host) == "table" and 3 or 2
      assert.is_true(#sockets <= most and #sockets >= most - least)
      for _, socket in ipairs(sockets) do
        assert.equal(port_of(server), select(2, socket:getsockname()))
        assert.is_true(socket:fileno() > 2)
      end
      for _, to in ipairs { "127.0.0.1", "127.0.0.2", six and "::1" or nil } do
        local stream <close> = net.open_connection(to, port_of(server))
        assert.equal("x", stream:read())
      end
    end
  end)

  it("says that a port is in use", function()
    local server <close> = net.start_server(echo, "127.0.0.1", 0)
    local port = port_of(server)
    local err = fails("EADDRINUSE", net.start_server, echo, "127.0.0.1", port)
    assert.equal("bind", err.syscall)
    assert.equal("127.0.0.1:" .. port, err.address)
    fails("EADDRNOTAVAIL", net.start_server, echo, "192.0.2.1", 0)
  end)

  it("shares a port when it is told to", function()
    local server <close> = net.start_server(echo, "127.0.0.1", 0, { reuse_port = true })
    local other <close> = net.start_server(echo, "127.0.0.1", port_of(server), { reuse_port = true })
    assert.equal(port_of(server), port_of(other))
  end)

  it("can listen later", function()
    local server <close> = net.start_server(echo, "127.0.0.1", 0, { start_serving = false })
    assert.is_false(server:is_serving())
    fails("ECONNREFUSED", connect, server)
    server:start_serving()
    server:start_serving()
    assert.is_true(server:is_serving())
    connect(server):close()
  end)

  it("gives its limit to the streams", function()
    local ok, err
    local server <close> = net.start_server(function(stream)
      ok, err = pcall(stream.readline, stream)
    end, "127.0.0.1", 0, { limit = 10 })
    local stream <close> = connect(server)
    stream:write(("x"):rep(20), "\n")
    assert.equal("", stream:read())
    assert.is_false(ok)
    assert.is_true(peri.ValueError:is(err))
  end)

  it("refuses arguments that are none", function()
    for _, case in ipairs {
      { { 5, "a", 1 }, peri.TypeError,
        "bad argument #1 to 'start_server' (function expected, got number)" },
      { { print, 5, 1 }, peri.TypeError,
        "bad argument #2 to 'start_server' (string or list of strings expected, got number)" },
      { { print, {}, 1 }, peri.ValueError, "start_server: the list of hosts is empty" },
      { { print, "a", -1 }, peri.ValueError, "bad argument #3 to 'start_server' (-1 is no port (0 to 65535))" },
      { { print, "a", 1, { backlog = "x" } }, peri.TypeError,
        "bad argument #4 to 'start_server' (integer expected, got string)" },
      { { print, "::1", 1, { max_connections = 0 } }, peri.ValueError,
        "bad argument #4 to 'start_server' (max_connections is at least 1)" },
      { { print, "a", 1, { ssl = true } }, peri.ValueError,
        "bad argument #4 to 'start_server' (unknown option \"ssl\")" },
    } do
      raises(case[2], case[3], net.start_server, table.unpack(case[1]))
    end
  end)
end)

describe("a server", function()
  it("that is closed takes no connection, and those it has go on", function()
    local server = net.start_server(echo, "127.0.0.1", 0)
    local port = port_of(server)
    local stream = connect(server)
    server:close()
    server:close()
    assert.is_false(server:is_serving())
    assert.same({}, server.sockets)
    fails("ECONNREFUSED", net.open_connection, "127.0.0.1", port)
    stream:write "still\n"
    assert.equal("still\n", stream:readline())
    raises(peri.TimeoutError, "", server.wait_closed, server, { timeout = 0.01 })
    local waiter = peri.create_task(server.wait_closed, server)
    spin(2)
    stream:close()
    waiter:await()
    spin(2)
    raises(peri.RuntimeError, "the server is closed", server.start_serving, server)
    assert.equal("<Server, closed>", tostring(server))
  end)

  it("serves for ever, until it is cancelled", function()
    local server = net.start_server(echo, "127.0.0.1", 0, { start_serving = false })
    local task = peri.create_task(server.serve_forever, server)
    spin(2)
    assert.is_true(server:is_serving())
    raises(peri.RuntimeError, ("%s: serve_forever was called already"):format(server),
      server.serve_forever, server)
    local stream <close> = connect(server)
    stream:write "x\n"
    assert.equal("x\n", stream:readline())
    task:cancel()
    raises(peri.CancelledError, "", task.await, task)
    assert.is_false(server:is_serving())
    -- As CPython since 3.13.1: clients that stay do not hold it up.
    assert.is_nil(stream:read(1))
    raises(peri.RuntimeError, "<Server, closed> is closed", server.serve_forever, server)
  end)

  it("that is closed ends serve_forever", function()
    local server = net.start_server(echo, "127.0.0.1", 0)
    local task = peri.create_task(server.serve_forever, server)
    spin(2)
    server:close()
    raises(peri.CancelledError, "", task.await, task)
  end)

  it("closes or aborts its clients when it is told to", function()
    for _, method in ipairs { "close_clients", "abort_clients" } do
      local raised, begun = {}, 0
      local server = net.start_server(function(stream)
        begun = begun + 1
        local _, err = pcall(stream.read, stream, 1)
        raised[#raised + 1] = err
      end, "127.0.0.1", 0)
      local streams = {}
      for i = 1, 3 do streams[i] = connect(server) end
      eventually(function() return begun == 3 end)
      server:close()
      server[method](server)
      server:wait_closed()
      for _, stream in ipairs(streams) do
        assert.equal("", stream:read())
        stream:close()
      end
      spin(2)
      assert.equal(3, #raised)
      for _, err in ipairs(raised) do assert.equal("ECANCELED", err.code) end
    end
  end)

  it("has no more connections than it may", function()
    local most, now, served = 0, 0, 0
    local server = net.start_server(function(stream)
      now = now + 1
      most = math.max(most, now)
      stream:read(1)
      now = now - 1
      served = served + 1
    end, "127.0.0.1", 0, { max_connections = 3 })
    local streams = {}
    for i = 1, 12 do streams[i] = connect(server) end
    spin(500)
    assert.equal(3, now)
    for _, stream in ipairs(streams) do
      stream:write "x"
      assert.equal("", stream:read())
      stream:close()
    end
    server:close()
    server:wait_closed()
    spin(2)
    assert.equal(12, served)
    assert.equal(3, most)
  end)

  it("goes on when the script has no variable for it", function()
    local port
    do
      local server = net.start_server(function(stream) stream:write "alive" end, "127.0.0.1", 0)
      port = port_of(server)
    end
    support.collect()
    local stream <close> = net.open_connection("127.0.0.1", port)
    assert.equal("alive", stream:read())
  end)

  it("that never served is closed when it is collected", function()
    net.start_server(echo, "127.0.0.1", 0, { start_serving = false })
    support.collect()
  end)

  it("closes with its block, and lets go of the clients where an error passes", function()
    local stream
    local ok, err = pcall(function()
      local server <close> = net.start_server(echo, "127.0.0.1", 0)
      stream = connect(server)
      error("mine", 0)
    end)
    assert.is_false(ok)
    assert.equal("mine", err)
    assert.is_nil(stream:read(1))
    stream:close()
    spin(2)
  end)

  it("waits with its block for the connections there are", function()
    local order = {}
    local stream
    local client
    do
      local server <close> = net.start_server(function(s)
        s:read(1)
        order[#order + 1] = "handler"
      end, "127.0.0.1", 0)
      stream = connect(server)
      client = peri.create_task(function()
        spin(50)
        stream:close()
      end)
    end
    order[#order + 1] = "block"
    client:await()
    spin(2)
    assert.same({ "handler", "block" }, order)
  end)

  it("aborts what has come but has no task when it is closed", function()
    local handled = 0
    local server = net.start_server(function() handled = handled + 1 end, "127.0.0.1", 0)
    local tasks = {}
    for i = 1, 20 do
      tasks[i] = peri.create_task(connect, server)
    end
    spin(1)
    server:close()
    for _, task in ipairs(tasks) do
      local ok, stream = pcall(task.await, task)
      if ok then stream:abort() end
    end
    server:wait_closed()
    spin(2)
  end)

end)

describe("a loop", function()
  it("that ends closes streams and servers, whatever they do", support.top_level(function()
    local before = support.descriptors()
    local kept = {}
    peri.run(function()
      local server = net.start_server(function(stream)
        stream:write(("x"):rep(1000000))
        stream:read(1)
      end, "127.0.0.1", 0)
      for i = 1, 10 do kept[i] = connect(server) end
      peri.sleep(0.01)
      kept[11] = server
      peri.create_task(net.open_connection, "127.0.0.1", port_of(server))
      peri.create_task(kept[1].readexactly, kept[1], 100000000)
      peri.sleep(0)
    end)
    for i = 1, 10 do
      assert.is_true(kept[i]:is_closing())
      fails("EBADF", kept[i].write, kept[i], "x")
    end
    assert.is_false(kept[11]:is_serving())
    kept = nil -- luacheck: no unused
    support.collect()
    assert.same(before, support.descriptors())
  end))

  it("refuses streams and servers of another one", support.top_level(function()
    local runner <close> = peri.Runner()
    local stream, server = runner:run(function()
      local server = net.start_server(function(s) s:read(1) end, "127.0.0.1", 0)
      return connect(server), server
    end)
    peri.run(function()
      for method, named in pairs {
        wait_closed = "wait_closed", start_serving = "start_serving", serve_forever = "start_serving",
      } do
        raises(peri.RuntimeError, ("Server.%s: the server belongs to another loop than the running one")
          :format(named), server[method], server)
      end
      raises(peri.RuntimeError, "Stream.read: the stream belongs to another loop than the running one",
        stream.read, stream, 1)
    end)
  end))
end)

describe("start_unix_server", function()
  it("removes a socket that lies there, and its own at the end", function()
    local path = support.directory() .. "/socket"
    local first = net.start_unix_server(echo, path)
    assert.equal(path, (first.sockets[1]:getsockname()))
    assert.equal(("<Server %s, serving>"):format(path), tostring(first))
    local second = net.start_unix_server(function(stream) stream:write "second" end, path)
    first:close() -- its socket is not there any more: another's stays
    local stream <close> = net.open_unix_connection(path)
    assert.equal("second", stream:read())
    second:close()
    fails("ENOENT", net.open_unix_connection, path)
  end)

  it("says what is wrong with the path", function()
    local err = fails("EADDRINUSE", net.start_unix_server, echo, support.file "no socket")
    assert.equal("bind", err.syscall)
    assert.is_string(err.path)
    fails("ENOENT", net.start_unix_server, echo, "/nonexistent/socket")
    fails("ENAMETOOLONG", net.start_unix_server, echo, ("x"):rep(200))
  end)
end)

describe("a server without descriptors", function()
  it("says so, lives on, and takes connections when there are some again", function()
    local path = support.file [[
      local peri = require "perilune"
      local net = require "perilune.net"
      local log = require "perilune.log"
      local lines, polls = {}, 0
      log.set_handler(function(_, text)
        if text:find "^poll" then polls = polls + 1 else lines[#lines + 1] = text end
      end)
      local loop = require "perilune".get_running_loop()
      loop.slow_callback_duration = math.huge
      local server = net.start_server(function(stream)
        stream:write("hello")
        stream:read(1)
      end, "127.0.0.1", 0)
      local _, port = server.sockets[1]:getsockname()
      local hogs = {}
      local function hog(n)
        for _ = 1, n do
          local file = io.open("/dev/null")
          if not file then break end
          hogs[#hogs + 1] = file
        end
      end
      hog(1000)
      for _ = 1, 4 do table.remove(hogs):close() end -- libuv keeps one in reserve
      local first = net.open_connection("127.0.0.1", port)
      print(first:read(5))
      -- One descriptor is left for the client: none for the server.
      local second = net.open_connection("127.0.0.1", port)
      -- Debug mode tells each look at the kernel.
      log.set_level "DEBUG"
      loop:set_debug(true)
      print(pcall(second.read, second, 5, { timeout = 0.3 }))
      loop:set_debug(false)
      log.set_level "WARNING"
      print("idle", polls > 0 and polls < 50 or polls)
      print(#lines, lines[1]:match "[^\n]+")
      print(lines[1]:match "OSError[^\n]+")
      -- A connection ends: its descriptor serves the next.
      first:close()
      print(second:read(5))
      local third = net.open_connection("127.0.0.1", port)
      print(pcall(third.read, third, 5, { timeout = 0.1 }))
      -- Or others do: a second later.
      for _, file in ipairs(hogs) do file:close() end
      print(third:read(5))
    ]]
    local out, err, code = support.shell(("ulimit -n 64; exec timeout 60 %s %s")
      :format(support.quote(support.program), support.quote(path)))
    assert.equal("", err)
    assert.equal(table.concat({
      "hello",
      "false\tTimeoutError",
      "idle\ttrue",
      "1\ta server cannot accept connections; it tries again when one has ended, or in a second",
      "OSError: accept: too many open files",
      "hello",
      "false\tTimeoutError",
      "hello",
      "",
    }, "\n"), out)
    assert.equal(0, code)
  end)
end)

describe("many connections", function()
  it("are served, and leave nothing behind", function()
    local server = net.start_server(echo, "127.0.0.1", 0, { backlog = 500 })
    local streams = {}
    for i = 1, 300 do streams[i] = connect(server) end
    for round = 1, 2 do
      for i, stream in ipairs(streams) do stream:write(i * round, "\n") end
      for i, stream in ipairs(streams) do assert.equal(i * round .. "\n", stream:readline()) end
    end
    for i, stream in ipairs(streams) do
      if i % 3 == 0 then
        stream:set_linger(0)
        stream:abort()
      else
        stream:close()
      end
    end
    -- Resets are errors that handlers raise.
    support.reports()
    server:close()
    server:wait_closed()
    spin(2)
  end)
end)

describe("the soak", function()
  -- scripts/soak runs it for longer.
  it("ends as it began: nothing leaks to clients that come and go at random", function()
    local script = debug.getinfo(1, "S").source:match "^@(.*)spec/io/[^/]*$" .. "scripts/soak.lua"
    local out, err, code = support.run_program {
      env = "GLIBC_TUNABLES=glibc.malloc.tcache_count=0", script, "1.5", "30",
    }
    assert.equal("", err)
    assert.equal(0, code, out)
  end)
end)
