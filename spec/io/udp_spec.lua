local peri = require "perilune"
local net = require "perilune.net"
local network = require "support.net"
local support = require "support"
local raises, spin = support.raises, support.spin

local function fails(code, syscall, fn, ...)
  local results = table.pack(pcall(fn, ...))
  assert.is_false(results[1], "no error")
  local err = results[2]
  assert.is_true(peri.OSError:is(err), tostring(err))
  assert.same({ code, syscall }, { err.code, err.syscall })
  return err
end

local function bound(options)
  options = options or {}
  options.local_addr = options.local_addr or { "127.0.0.1", 0 }
  return net.create_datagram_endpoint(options)
end

-- Two sockets, the second connected to the first, and what closes them.
local function pair(options)
  local server = bound(options)
  local client = net.create_datagram_endpoint { remote_addr = { server:getsockname() } }
  return server, client, support.finally(function()
    server:close()
    client:close()
  end)
end

describe("net.create_datagram_endpoint", function()
  it("binds to an address", function()
    local socket <close> = bound()
    local host, port = socket:getsockname()
    assert.equal("127.0.0.1", host)
    assert.is_true(port > 0)
    assert.equal(("<DatagramSocket 127.0.0.1:%d>"):format(port), tostring(socket))
    local err = fails("EADDRINUSE", "bind", bound, { local_addr = { "127.0.0.1", port } })
    assert.equal("127.0.0.1:" .. port, err.address)
  end)

  it("binds to any port where nothing is said", function()
    local socket <close> = net.create_datagram_endpoint()
    assert.equal("0.0.0.0", (socket:getsockname()))
    if not network.has_ipv6() then return end
    local other <close> = net.create_datagram_endpoint { family = "inet6" }
    assert.equal("::", (other:getsockname()))
  end)

  it("connects, to a name as well", function()
    local server <close> = bound()
    local _, port = server:getsockname()
    local client <close> = net.create_datagram_endpoint { remote_addr = { "localhost", port }, family = "inet" }
    assert.same({ "127.0.0.1", port }, { client:getpeername() })
    fails("ENOTCONN", "getpeername", server.getpeername, server)
  end)

  it("shares a port where it is asked to", function()
    local one <close> = bound { reuse_port = true }
    local _, port = one:getsockname()
    local two <close> = bound { local_addr = { "127.0.0.1", port }, reuse_port = true }
    assert.equal(port, select(2, two:getsockname()))
  end)

  it("checks its options", function()
    for _, bad in ipairs {
      { locl_addr = {} }, { family = "unix" }, { limit = 0 }, { local_addr = { "127.0.0.1", 65536 } },
    } do
      assert.is_true(peri.ValueError:is(select(2, pcall(net.create_datagram_endpoint, bad))))
    end
    for _, bad in ipairs { 5, { local_addr = 5 }, { remote_addr = "x" }, { limit = "x" } } do
      assert.is_true(peri.TypeError:is(select(2, pcall(net.create_datagram_endpoint, bad))))
    end
    fails("EADDRNOTAVAIL", "bind", net.create_datagram_endpoint,
      { local_addr = { "::1", 0 }, remote_addr = { "127.0.0.1", 1 } })
    fails("EADDRNOTAVAIL", "bind", bound, { local_addr = { "192.0.2.1", 0 } })
  end)
end)

describe("datagrams", function()
  it("go to and fro", function()
    local server, client, _ <close> = pair()
    client:send "ping"
    local data, host, port = server:recv()
    assert.equal("ping", data)
    assert.same({ client:getsockname() }, { host, port })
    server:send("pong", host, port)
    assert.equal("pong", (client:recv { timeout = 5 }))
  end)

  it("may be empty, binary, and as large as they get", function()
    local server, client, _ <close> = pair()
    for _, text in ipairs { "", "a\0b\xff", ("x"):rep(65507) } do
      client:send(text)
      assert.equal(text, (server:recv()))
    end
    fails("EMSGSIZE", "send", client.send, client, ("x"):rep(65508))
    fails("EMSGSIZE", "send", client.send, client, ("x"):rep(100000))
  end)

  it("go over IPv6", function()
    if not network.has_ipv6() then return pending "no IPv6" end
    local server, client, _ <close> = pair { local_addr = { "::1", 0 } }
    client:send "six"
    local data, host = server:recv()
    assert.same({ "six", "::1" }, { data, host })
  end)

  it("are gone through by a loop until the socket is closed", function()
    local server, client = pair()
    local list = {}
    local loop = peri.create_task(function()
      for data, host in server do list[#list + 1] = data .. " from " .. host end
      return "over"
    end)
    for i = 1, 3 do client:send(tostring(i)) end
    while #list < 3 do peri.sleep(0) end
    server:close()
    assert.equal("over", loop:await())
    assert.same({ "1 from 127.0.0.1", "2 from 127.0.0.1", "3 from 127.0.0.1" }, list)
    client:close()
  end)

  it("are taken by tasks in the order of their asking", function()
    local server, client, _ <close> = pair()
    local tasks = {}
    for i = 1, 3 do
      tasks[i] = peri.create_task(server.recv, server)
      spin(1)
    end
    for i = 1, 3 do client:send(tostring(i)) end
    for i = 1, 3 do assert.equal(tostring(i), (tasks[i]:await())) end
  end)

  it("are not lost to a task that is cancelled", function()
    local server, client, _ <close> = pair()
    local first = peri.create_task(server.recv, server)
    spin(1)
    local second = peri.create_task(server.recv, server)
    spin(1)
    client:send "it"
    first:cancel()
    assert.is_true(peri.iscancel(select(2, pcall(first.await, first))))
    assert.equal("it", (second:await()))
  end)

  it("that find no room are counted", function()
    local server, client, _ <close> = pair { limit = 1000 }
    for _ = 1, 10 do client:send(("x"):rep(300)) end
    -- The kernel has them all when the first look finds them.
    for _ = 1, 2 do assert.equal(("x"):rep(300), (server:recv())) end
    assert.equal(8, server.dropped)
    client:send "room again"
    assert.equal("room again", (server:recv()))
    assert.equal(8, server.dropped)
  end)

  it("are waited for as long as the limit says", function()
    local server <close> = bound()
    raises(peri.TimeoutError, "", server.recv, server, { timeout = 0.01 })
    assert.is_true(peri.ValueError:is(select(2, pcall(server.recv, server, { time = 1 }))))
  end)

  it("that nobody takes are told to the sender once", function()
    local server, client, _ <close> = pair()
    server:close()
    client:send "into the void"
    local err = fails("ECONNREFUSED", "recv", client.recv, client)
    assert.is_truthy(err.address:find "^127.0.0.1:")
  end)

  it("need an address, and one that is an address", function()
    local server <close> = bound()
    local ok, err = pcall(server.send, server, "x")
    assert.is_false(ok)
    assert.same({ true, "send" }, { peri.OSError:is(err), err.syscall })
    assert.is_true(peri.ValueError:is(select(2, pcall(server.send, server, "x", "localhost", 1))))
    assert.is_true(peri.ValueError:is(select(2, pcall(server.send, server, "x", "127.0.0.1", 65536))))
    assert.is_true(peri.TypeError:is(select(2, pcall(server.send, server, "x", "127.0.0.1"))))
    assert.is_true(peri.TypeError:is(select(2, pcall(server.send, server, {}, "127.0.0.1", 1))))
    fails("EAFNOSUPPORT", "send", server.send, server, "x", "::1", 1)
  end)
end)

describe("DatagramSocket:connect", function()
  it("connects, elsewhere, and not any more", function()
    local one <close> = bound()
    local two <close> = bound()
    local client <close> = bound()
    client:connect(one:getsockname())
    client:send "one"
    client:connect(two:getsockname())
    client:send "two"
    assert.equal("one", (one:recv()))
    assert.equal("two", (two:recv()))
    client:connect(nil)
    fails("ENOTCONN", "getpeername", client.getpeername, client)
    client:send("again", one:getsockname())
    assert.equal("again", (one:recv()))
  end)
end)

describe("DatagramSocket:close", function()
  it("gives an error to who waits, at once, and may be called again", function()
    local socket = bound()
    local waiting = peri.create_task(socket.recv, socket)
    spin(2)
    socket:close()
    socket:close()
    fails("EBADF", "recv", waiting.await, waiting)
    assert.is_true(socket:is_closing())
    assert.equal("<DatagramSocket, closed>", tostring(socket))
    fails("EBADF", "recv", socket.recv, socket)
    fails("EBADF", "send", socket.send, socket, "x", "127.0.0.1", 1)
    for _, name in ipairs { "getsockname", "getpeername", "fileno", "set_broadcast", "set_multicast_ttl" } do
      fails("EBADF", name, socket[name], socket, 1)
    end
  end)

  it("comes with the end of a block, the object and the loop", function()
    local kept
    do
      local socket <close> = bound()
      kept = socket
    end
    assert.is_true(kept:is_closing())
    bound()
    support.collect()
    local out, err, status = support.run_code([[
      local net = require "perilune.net"
      SOCKET = net.create_datagram_endpoint()
      print "made"
    ]])
    assert.same({ "made\n", "", 0 }, { out, err, status })
  end)

  it("is missed in debug mode", function()
    local records = support.log()
    peri.get_running_loop():set_debug(true)
    spin(1)
    bound()
    bound():close()
    support.collect()
    peri.get_running_loop():set_debug(false)
    assert.equal(1, #records, table.concat(records, "\n"))
    assert.is_truthy(records[1]:find "^WARNING ResourceWarning: unclosed datagram socket")
  end)

  it("is not waited for by a loop that has nothing else", function()
    local out = support.run_code([[
      local peri = require "perilune"
      local net = require "perilune.net"
      print(pcall(peri.run, function()
        local socket <close> = net.create_datagram_endpoint()
        peri.Future():await()
      end))
    ]])
    assert.is_truthy(out:find "^false\tDeadlockError")
  end)
end)

describe("multicast", function()
  local GROUP <const> = "239.255.77.77"

  -- A member on the loopback interface, and its port; nil where there is none.
  local function member()
    local socket = net.create_datagram_endpoint { local_addr = { "0.0.0.0", 0 }, reuse_address = true }
    local ok, err = pcall(socket.join_multicast, socket, GROUP, "127.0.0.1")
    if ok then return socket, select(2, socket:getsockname()) end
    socket:close()
    assert.is_true(err.code == "ENODEV" or err.code == "EADDRNOTAVAIL", tostring(err))
  end

  local function sender()
    local socket = bound()
    socket:set_multicast_interface "127.0.0.1"
    socket:set_multicast_ttl(1)
    socket:set_multicast_loopback(true)
    return socket
  end

  it("reaches who has joined the group, and not who has left it", function()
    local one, port = member()
    if not one then return pending "no multicast on loopback" end
    local _ <close> = one
    local from <close> = sender()
    from:send("all", GROUP, port)
    assert.equal("all", (one:recv { timeout = 5 }))
    one:leave_multicast(GROUP, "127.0.0.1")
    from:send("nobody", GROUP, port)
    raises(peri.TimeoutError, "", one.recv, one, { timeout = 0.05 })
  end)

  it("says what is wrong", function()
    local socket <close> = bound()
    local err = fails("EINVAL", "join_multicast", socket.join_multicast, socket, "127.0.0.1")
    assert.equal("127.0.0.1", err.address)
    fails("EINVAL", "join_multicast", socket.join_multicast, socket, "nonsense")
    fails("EADDRNOTAVAIL", "leave_multicast", socket.leave_multicast, socket, GROUP, "127.0.0.1")
    fails("EINVAL", "set_multicast_interface", socket.set_multicast_interface, socket, "nonsense")
    assert.is_true(peri.ValueError:is(select(2, pcall(socket.set_multicast_ttl, socket, 0))))
    assert.is_true(peri.ValueError:is(select(2, pcall(socket.set_ttl, socket, 256))))
    assert.is_true(peri.TypeError:is(select(2, pcall(socket.set_ttl, socket, "x"))))
  end)
end)

describe("broadcast", function()
  it("has to be allowed", function()
    local socket <close> = net.create_datagram_endpoint()
    local ok, err = pcall(socket.send, socket, "x", "255.255.255.255", 9)
    assert.is_false(ok)
    if err.code == "ENETUNREACH" then return pending "no network" end
    assert.equal("EACCES", err.code)
    local allowed <close> = net.create_datagram_endpoint { allow_broadcast = true }
    allowed:send("x", "127.255.255.255", 9)
    socket:set_broadcast()
    socket:send("x", "127.255.255.255", 9)
  end)

  it("has options beside it", function()
    local socket <close> = bound()
    socket:set_ttl(5)
    socket:set_receive_buffer_size(8192)
    assert.is_true(socket:fileno() > 2)
    assert.is_true(peri.ValueError:is(select(2, pcall(socket.set_receive_buffer_size, socket, 0))))
  end)
end)
