local peri = require "perilune"
local support = require "support"
local network = require "support.net"
local raises, spin = support.raises, support.spin
local pair, eventually, fails = network.pair, network.eventually, network.fails

for _, kind in ipairs { "tcp", "unix" } do
  describe("a stream over " .. kind, function()
    it("carries bytes both ways", function()
      local client, peer, _ <close> = pair(kind)
      client:write("ping ", 1, "\0", "\n")
      assert.equal("ping 1\0\n", peer:readline())
      peer:write "pong"
      peer:write_eof()
      assert.equal("pong", client:read())
      assert.is_true(client:at_eof())
    end)

    it("gives nil and an empty string at its end, again and again", function()
      local client, peer, _ <close> = pair(kind)
      peer:close()
      for _ = 1, 2 do
        assert.is_nil(client:read(10))
        assert.is_nil(client:readline())
        assert.equal("", client:read())
        assert.equal("", client:read(0))
      end
      local err = raises(peri.IncompleteReadError, "0 bytes read on a total of 5 expected bytes",
        client.readexactly, client, 5)
      assert.equal("", err.partial)
      assert.equal(5, err.expected)
    end)

    it("can be half closed, and goes on the other way", function()
      local client, peer, _ <close> = pair(kind)
      assert.is_true(client:can_write_eof())
      client:write "question"
      client:write_eof()
      client:write_eof()
      assert.equal("question", peer:read())
      peer:write "answer"
      assert.equal("answer", client:read(100))
      local err = fails("EPIPE", client.write, client, "more")
      assert.truthy(err.message:find("write: the output was ended by write_eof", 1, true))
    end)

    it("sends the end only when the output before it has gone", function()
      local client, peer, _ <close> = pair(kind)
      local data = ("x"):rep(4000000)
      client:write(data)
      assert.is_true(client:get_write_buffer_size() > 0)
      client:write_eof()
      assert.equal(#data, #peer:read())
    end)

    it("is closed only when its output has gone", function()
      local client, peer, _ <close> = pair(kind)
      local data = ("0123456789"):rep(300000)
      client:write(data)
      client:close()
      client:close()
      assert.is_true(client:is_closing())
      local got = network.both(function() client:wait_closed() end, function() return peer:read() end)
      assert.equal(data, got)
    end)

    it("drops its output when it is aborted", function()
      local client, peer, _ <close> = pair(kind)
      client:write(("x"):rep(4000000))
      client:abort()
      client:wait_closed()
      assert.is_true(#select(2, pcall(peer.read, peer)) < 4000000)
    end)

    it("moves more than the buffers hold, whole", function()
      local client, peer, _ <close> = pair(kind)
      local pieces = {}
      for i = 1, 2000 do pieces[i] = ("%d:"):format(i):rep(i % 300) end
      local sent = table.concat(pieces)
      local got = network.both(function()
        for i, piece in ipairs(pieces) do
          client:write(piece)
          if i % 10 == 0 then client:drain() end
        end
        client:close()
      end, function() return peer:read() end)
      assert.equal(#sent, #got)
      assert.is_true(sent == got)
    end)
  end)
end

describe("forward", function()
  it("copies until the end, and counts", function()
    local a, b, _ <close> = pair()
    local c, d, _ <close> = pair("unix")
    local data = ("0123456789"):rep(200000)
    local copied = peri.create_task(function()
      local n = b:forward(c)
      c:write_eof()
      return n
    end)
    local got = network.both(function()
      a:write(data)
      a:write_eof()
    end, function() return d:read() end)
    assert.is_true(data == got)
    assert.equal(#data, copied:await())
  end)

  it("begins with what was read ahead", function()
    local a, b, _ <close> = pair()
    local c, d, _ <close> = pair()
    a:write "line\nrest"
    a:write_eof()
    assert.equal("line\n", b:readline())
    assert.equal(4, b:forward(c))
    assert.equal("rest", d:read(10))
  end)

  it("holds the source back while the target is full", function()
    local a, b, _ <close> = pair("unix")
    local c, d, _ <close> = pair("unix")
    local copier = peri.create_task(b.forward, b, c)
    local sent = 0
    local writer = peri.create_task(function()
      while true do
        a:write(("x"):rep(10000))
        a:drain()
        sent = sent + 10000
      end
    end)
    local last = -1
    eventually(function()
      spin(300)
      local same = sent == last
      last = sent
      return same
    end)
    assert.is_true(sent < 2000000)
    assert.is_true(c:get_write_buffer_size() <= 200000)
    d:readexactly(600000)
    eventually(function() return sent > last end)
    for _, task in ipairs { writer, copier } do
      task:cancel()
      pcall(task.await, task)
    end
  end)

  it("raises what happens to either end", function()
    local a, b, _ <close> = pair()
    local c, d, _ <close> = pair()
    local copier = peri.create_task(b.forward, b, c)
    spin(2)
    c:close()
    a:write "x"
    local err = fails("EBADF", copier.await, copier)
    assert.equal("write", err.syscall)
    fails("EBADF", b.forward, b, c)
    copier = peri.create_task(b.forward, b, a)
    spin(2)
    raises(peri.RuntimeError, ("Stream.forward: another task is reading this stream already (TCP, 127.0.0.1:%d)")
      :format(select(2, b:getpeername())), b.forward, b, a)
    b:close()
    fails("ECANCELED", copier.await, copier)
    assert.is_nil(d:read(1))
  end)

  it("has a time limit", function()
    local a, b, _ <close> = pair()
    raises(peri.TimeoutError, "", a.forward, a, b, { timeout = 0.01 })
  end)
end)

describe("the addresses of a stream", function()
  it("are host and port", function()
    local client, peer, _ <close> = pair()
    local host, port = client:getsockname()
    assert.equal("127.0.0.1", host)
    assert.same({ host, port }, { peer:getpeername() })
    assert.same({ peer:getsockname() }, { client:getpeername() })
    assert.is_true(client:fileno() > 2)
    client:close()
    assert.equal(host, (client:getpeername()))
  end)

  it("are paths of Unix sockets", function()
    local client, peer, _ <close> = pair("unix")
    assert.equal("", client:getsockname())
    assert.truthy(client:getpeername():find "/socket$")
    assert.equal(client:getpeername(), peer:getsockname())
    assert.equal("", peer:getpeername())
  end)
end)

describe("socket options", function()
  it("are set, or refused with a reason", function()
    local client, _, _ <close> = pair()
    client:set_nodelay()
    client:set_nodelay(false)
    client:set_keepalive()
    client:set_keepalive(30)
    client:set_keepalive(false)
    client:set_linger(3)
    client:set_linger()
    client:set_send_buffer_size(10000)
    client:set_receive_buffer_size(10000)
    raises(peri.ValueError, "bad argument #1 to 'set_keepalive' (0 to 32767 seconds are possible)",
      function() client:set_keepalive(1e9) end)
    raises(peri.ValueError, "bad argument #1 to 'set_send_buffer_size' (not a number of bytes)",
      function() client:set_send_buffer_size(-1) end)
    client:close()
    for _, name in ipairs { "set_nodelay", "set_keepalive", "set_linger" } do
      fails("EBADF", client[name], client)
    end
    for _, name in ipairs { "set_send_buffer_size", "set_receive_buffer_size" } do
      fails("EBADF", client[name], client, 10000)
    end
    local unix, _, _ <close> = pair("unix")
    for _, name in ipairs { "set_nodelay", "set_keepalive" } do
      assert.equal(name, fails("ENOTSUP", unix[name], unix).syscall)
    end
  end)
end)

describe("the descriptors of a program", function()
  it("are streams, too, where they are pipes", function()
    local path = support.file [[
      local net = require "perilune._net"
      local input, output = net.stream(0), net.stream(1)
      for line in input:lines() do output:write(line:upper(), "\n") end
      output:write_eof()
      print(pcall(output.write, output, "x"))
      io.stderr:write(tostring(input), " ", tostring(pcall(input.write, input, "x")), "\n")
    ]]
    local out, err, code = support.shell(("printf 'one\ntwo\n' | %s %s | cat")
      :format(support.quote(support.program), support.quote(path)))
    assert.equal("ONE\nTWO\n", out:sub(1, 8))
    assert.truthy(out:find("OSError: write: the stream is closed", 1, true))
    assert.truthy(err:find("<Stream pipe, descriptor 0> false", 1, true))
    assert.equal(0, code)
  end)

  it("are refused where they are files", function()
    local native = require "perilune._net"
    fails("ENOTSUP", native.stream, 987)
    raises(peri.ValueError, "bad argument #1 to '?' (not a descriptor)", native.stream, -1)
  end)
end)

describe("a stream's waits", function()
  it("keep the virtual clock from jumping, and do not when nobody waits", function()
    local client, peer, ends <close> = pair()
    ends.server:close() -- it waits for connections
    local slept = false
    local sleeper = peri.create_task(function()
      peri.sleep(1000)
      slept = true
    end)
    local reader = peri.create_task(peer.read, peer, 1)
    spin(500)
    assert.is_false(slept)
    client:write "x"
    reader:await()
    sleeper:await()
    assert.is_true(slept)
  end)

  it("are impossible in a callback", function()
    local client, _, _ <close> = pair()
    local came = peri.Future()
    peri.get_running_loop():call_soon(function() came:set_result(pcall(client.read, client, 1)) end)
    local ok, err = came:await()
    assert.is_false(ok)
    assert.equal("RuntimeError: cannot wait in 'Stream.read': callbacks are not tasks "
      .. "(this is a call_soon callback)", tostring(err))
  end)

  it("end with a kill as with a cancellation", function()
    local client, peer, _ <close> = pair()
    local task = peri.create_task(function()
      while true do pcall(peer.read, peer, 1) end
    end)
    spin(2)
    task:kill()
    raises(peri.CancelledError, "killed", task.await, task)
    client:write "x"
    assert.equal("x", peer:read(1))
  end)
end)
