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

describe("read", function()
  it("gives what is there, and at most n bytes", function()
    local client, peer, _ <close> = pair()
    client:write "abcdef"
    assert.equal("abc", peer:read(3))
    assert.equal("def", peer:read(100))
  end)

  it("waits for the first bytes", function()
    local client, peer, _ <close> = pair()
    local reader = peri.create_task(peer.read, peer, 100)
    spin(100)
    assert.is_false(reader:done())
    client:write "x"
    assert.equal("x", reader:await())
  end)

  it("takes a time limit, by the real clock, and loses nothing to it", function()
    local client, peer, _ <close> = pair()
    for _, read in ipairs {
      function() return peer:read(5, { timeout = 0.01 }) end,
      function() return peer:read { timeout = 0.01 } end,
      function() return peer:read(nil, { timeout = 0.01 }) end,
      function() return peer:readexactly(6, { timeout = 0.01 }) end,
      function() return peer:readline { timeout = 0.01 } end,
      function() return peer:readuntil(";", { timeout = 0.01 }) end,
      function() return peer:lines { timeout = 0.01 } (peer) end,
    } do
      raises(peri.TimeoutError, "", read)
    end
    client:write "half "
    raises(peri.TimeoutError, "", peer.readline, peer, { timeout = 0.05 })
    client:write "a line\n"
    assert.equal("half a line\n", peer:readline { timeout = 60 })
  end)

  it("that is cancelled loses no byte", function()
    local client, peer, _ <close> = pair()
    for i = 1, 200 do
      local reader = peri.create_task(peer.readexactly, peer, 1000)
      spin(i % 3)
      client:write(("%03d"):format(i))
      spin(i % 5)
      reader:cancel()
      pcall(reader.await, reader)
    end
    client:write_eof()
    local expected = {}
    for i = 1, 200 do expected[i] = ("%03d"):format(i) end
    assert.equal(table.concat(expected), peer:read())
  end)

  it("that was woken and then cancelled loses no byte", function()
    local client, peer, _ <close> = pair()
    local reader = peri.create_task(peer.read, peer, 100)
    spin(2)
    client:write "abc"
    -- The reader's turn comes when the loop has looked at the kernel.
    for _ = 1, 500 do
      peri.sleep(0)
      if reader:done() then break end
      reader:cancel()
      reader:uncancel()
    end
    if reader:done() and not reader:cancelled() then
      assert.equal("abc", reader:await())
    else
      pcall(reader.await, reader)
      assert.equal("abc", peer:read(100))
    end
  end)

  it("by two tasks is an error", function()
    local client, peer, _ <close> = pair()
    local first = peri.create_task(peer.readline, peer)
    spin(2)
    for _, method in ipairs { "read", "readline", "readexactly", "readuntil" } do
      local ok, err = pcall(peer[method], peer, method:find "exactly" and 5 or nil)
      assert.is_false(ok)
      assert.is_true(peri.RuntimeError:is(err))
      assert.truthy(err.message:find "^Stream%.%l+: another task is reading this stream already %(TCP, ")
    end
    client:write "line\n"
    assert.equal("line\n", first:await())
    client:write "x"
    assert.equal("x", peer:read(1))
  end)

  it("refuses what is no number of bytes", function()
    local _, peer, _ <close> = pair()
    raises(peri.TypeError, "bad argument #1 to 'read' (integer expected, got boolean)",
      function() peer:read(true) end)
    raises(peri.TypeError, "bad argument #1 to 'read' (integer expected, got number)",
      function() peer:read(1.5) end)
    raises(peri.ValueError, "readexactly size can not be less than zero",
      function() peer:readexactly(-1) end)
    raises(peri.ValueError, [[bad argument #2 to 'Stream.read' (unknown option "timout")]],
      function() peer:read(1, { timout = 1 }) end)
    raises(peri.TypeError, "bad argument #1 to 'read' (Stream expected, got table)",
      function() peer.read({}, 1) end)
  end)
end)

describe("readexactly", function()
  it("waits for all of the bytes and takes no more", function()
    local client, peer, _ <close> = pair()
    local reader = peri.create_task(peer.readexactly, peer, 6)
    for _, part in ipairs { "ab", "cd", "efgh" } do
      client:write(part)
      spin(200)
    end
    assert.equal("abcdef", reader:await())
    assert.equal("gh", peer:readexactly(2))
    assert.equal("", peer:readexactly(0))
  end)

  it("takes more than the limit and the buffers", function()
    local client, peer, _ <close> = pair("tcp", { limit = 100 })
    local data = ("abcdefg"):rep(400000)
    local got = network.both(function()
      client:write(data)
      client:drain()
    end, function() return peer:readexactly(#data) end)
    assert.is_true(data == got)
  end)

  it("tells what was there when the end comes too early", function()
    local client, peer, _ <close> = pair()
    client:write "abc"
    client:close()
    local err = raises(peri.IncompleteReadError, "3 bytes read on a total of 10 expected bytes",
      peer.readexactly, peer, 10)
    assert.equal("abc", err.partial)
    assert.equal(10, err.expected)
    assert.is_true(peri.EOFError:is(err))
    assert.is_true(peer:at_eof())
  end)
end)

describe("readuntil", function()
  it("finds separators across packets, several of them too", function()
    local client, peer, _ <close> = pair()
    local parts = { "one;two<", "!>thr", "ee\r", "\nfour\nfive" }
    local writer = peri.create_task(function()
      for _, part in ipairs(parts) do
        client:write(part)
        spin(200)
      end
      client:write_eof()
    end)
    assert.equal("one;", peer:readuntil ";")
    assert.equal("two<!>", peer:readuntil "<!>")
    assert.equal("three\r\n", peer:readuntil { "\r\n", "\n" })
    assert.equal("four\n", peer:readuntil { "\r\n", "\n" })
    local err = raises(peri.IncompleteReadError, "4 bytes read, and no separator",
      peer.readuntil, peer, { "x", "yy" })
    assert.equal("five", err.partial)
    assert.is_nil(err.expected)
    writer:await()
  end)

  it("takes the separator that ends first, as CPython does", function()
    local client, peer, _ <close> = pair()
    client:write "aXYZb"
    assert.equal("aXY", peer:readuntil { "XYZ", "Y" } .. "")
  end)

  it("leaves a piece that is longer than the limit where it is", function()
    local client, peer, _ <close> = pair("tcp", { limit = 10 })
    client:write "0123456789abcdef;x"
    local err = raises(peri.LimitOverrunError, "Separator is found, but chunk is longer than limit",
      peer.readuntil, peer, ";")
    assert.equal(16, err.consumed)
    assert.equal("0123456789abcdef", peer:readexactly(err.consumed))
    assert.equal(";", peer:readuntil ";")
    client:write "0123456789abcdef"
    err = raises(peri.LimitOverrunError, "Separator is not found, and chunk exceed the limit",
      peer.readuntil, peer, "<>")
    assert.equal(16, err.consumed)
    assert.equal("x0123456789abcde", peer:readexactly(err.consumed))
  end)

  it("refuses what is no separator", function()
    local _, peer, _ <close> = pair()
    for _, case in ipairs {
      { "", peri.ValueError, "Separator should be at least one-byte string" },
      { { "a", "" }, peri.ValueError, "Separator should be at least one-byte string" },
      { {}, peri.ValueError, "Separator should contain at least one element" },
      { { 1 }, peri.ValueError, "a separator is a string" },
      { 5, peri.TypeError, "string or list of strings expected, got number" },
    } do
      raises(case[2], ("bad argument #1 to 'readuntil' (%s)"):format(case[3]),
        function() peer:readuntil(case[1]) end)
    end
  end)
end)

describe("readline", function()
  it("gives lines with their newline, and a last one without", function()
    local client, peer, _ <close> = pair()
    client:write "one\n\ntwo\nthree"
    client:write_eof()
    assert.same({ "one\n", "\n", "two\n", "three" },
      { peer:readline(), peer:readline(), peer:readline(), peer:readline() })
    assert.is_nil(peer:readline())
  end)

  it("drops a line that is too long, as asyncio does", function()
    local client, peer, _ <close> = pair("tcp", { limit = 10 })
    client:write "0123456789abcdef\nnext\n"
    raises(peri.ValueError, "Separator is found, but chunk is longer than limit",
      peer.readline, peer)
    assert.equal("next\n", peer:readline())
    client:write "0123456789abcdef"
    raises(peri.ValueError, "Separator is not found, and chunk exceed the limit",
      peer.readline, peer)
    client:write "rest\n"
    assert.equal("rest\n", peer:readline())
  end)

  it("does not let a line without an end grow for ever", function()
    local client, peer, _ <close> = pair()
    local writer = peri.create_task(function()
      for _ = 1, 100 do
        client:write(("x"):rep(10000))
        client:drain()
      end
    end)
    raises(peri.ValueError, "Separator is not found, and chunk exceed the limit",
      peer.readline, peer)
    writer:cancel()
    pcall(writer.await, writer)
  end)
end)

describe("lines", function()
  it("iterates over the lines without their newlines", function()
    local client, peer, _ <close> = pair()
    client:write "one\n\nthree\nlast"
    client:write_eof()
    local seen = {}
    for line in peer:lines() do seen[#seen + 1] = line end
    assert.same({ "one", "", "three", "last" }, seen)
  end)

  it("does not close the stream when the loop is left", function()
    local client, peer, _ <close> = pair()
    client:write "one\ntwo\n"
    for line in peer:lines() do
      if line == "one" then break end
    end
    assert.equal("two\n", peer:readline())
  end)
end)

describe("reading ahead", function()
  -- A Unix socket's buffer in the kernel is small and does not grow.
  it("stops at twice the limit, and goes on below it", function()
    local client, peer, _ <close> = pair("unix", { limit = 1000 })
    client:write "begin\n"
    assert.equal("begin\n", peer:readline()) -- from here on it is read ahead
    local reader = peri.create_task(peer.readline, peer)
    spin(3)
    reader:cancel()
    pcall(reader.await, reader)
    local sent, chunk = 0, ("x"):rep(1000)
    client:set_write_buffer_limits { high = 0 }
    local writer = peri.create_task(function()
      while true do
        client:write(chunk)
        client:drain()
        sent = sent + #chunk
      end
    end)
    local last = -1
    eventually(function()
      spin(300)
      local same = sent == last
      last = sent
      return same
    end)
    assert.is_true(sent < 600000)
    assert.equal(200000, #peer:readexactly(200000))
    eventually(function() return sent > last end)
    writer:cancel()
    pcall(writer.await, writer)
  end)
end)

describe("drain", function()
  it("waits above the high-water mark until the low one", function()
    local client, peer, _ <close> = pair("unix")
    client:set_write_buffer_limits { high = 1000, low = 100 }
    assert.same({ 100, 1000 }, { client:get_write_buffer_limits() })
    client:drain()
    client:write(("x"):rep(1000000))
    local queued = client:get_write_buffer_size()
    assert.is_true(queued > 1000)
    local drained, drainers = 0, {}
    for i = 1, 3 do
      drainers[i] = peri.create_task(function()
        client:drain()
        drained = drained + 1
        assert.is_true(client:get_write_buffer_size() <= 100)
      end)
    end
    spin(300)
    assert.equal(0, drained)
    assert.equal(1000000, #peer:readexactly(1000000))
    for _, task in ipairs(drainers) do task:await() end
    assert.equal(3, drained)
  end)

  it("has a time limit, and may be cancelled", function()
    local client, _, _ <close> = pair("unix")
    client:write(("x"):rep(1000000))
    raises(peri.TimeoutError, "", client.drain, client, { timeout = 0.01 })
    local task = peri.create_task(client.drain, client)
    spin(2)
    task:cancel()
    raises(peri.CancelledError, "", task.await, task)
  end)

  it("raises what has become of the connection", function()
    local client, peer, _ <close> = pair()
    client:write(("x"):rep(10000000))
    local task = peri.create_task(client.drain, client)
    spin(2)
    peer:set_linger(0)
    peer:abort()
    local ok, err = pcall(task.await, task)
    assert.is_false(ok)
    assert.is_true(peri.OSError:is(err))
    assert.truthy(err.code == "ECONNRESET" or err.code == "EPIPE")
    assert.equal("write", err.syscall)
    assert.equal(("127.0.0.1:%d"):format(select(2, client:getpeername())), err.address)
    fails(err.code, client.write, client, "x")
    fails(err.code, client.drain, client)
    assert.is_true(client:is_closing())
    client:close()
    fails(err.code, client.wait_closed, client)
  end)

  it("refuses limits that are none", function()
    local client, _, _ <close> = pair()
    raises(peri.ValueError, "bad argument #1 to 'set_write_buffer_limits' (low is not above high)",
      function() client:set_write_buffer_limits { low = 2, high = 1 } end)
    raises(peri.ValueError, "bad argument #1 to 'set_write_buffer_limits' (high is a number of bytes)",
      function() client:set_write_buffer_limits { high = -1 } end)
  end)
end)

describe("write", function()
  it("takes many writers, each of whose writes stays whole", function()
    local client, peer, _ <close> = pair("unix")
    local writers = {}
    for i = 1, 20 do
      writers[i] = function()
        for _ = 1, 50 do
          client:write(("%02d"):format(i):rep(500), "\n")
          client:drain()
        end
      end
    end
    local lines = network.both(function()
      peri.gather(writers):await()
      client:write_eof()
    end, function()
      local n = 0
      for line in peer:lines() do
        assert.equal(line:sub(1, 2):rep(500), line)
        n = n + 1
      end
      return n
    end)
    assert.equal(1000, lines)
  end)

  it("is the same in many pieces: writelines", function()
    local client, peer, _ <close> = pair()
    local list = {}
    for i = 1, 1000 do list[i] = i .. "," end
    client:writelines(list)
    client:writelines {}
    client:write()
    client:write ""
    client:write_eof()
    assert.equal(table.concat(list), peer:read())
  end)

  it("refuses what is no string, and writes nothing of it", function()
    local client, peer, _ <close> = pair()
    raises(peri.TypeError, "bad argument #2 to 'write' (string expected, got table)",
      function() client:write("a", {}) end)
    raises(peri.TypeError, "bad argument #1 to 'writelines' (element 2 is a boolean)",
      function() client:writelines { "a", true } end)
    raises(peri.TypeError, "bad argument #1 to 'writelines' (list of strings expected, got string)",
      function() client:writelines "a" end)
    client:write "b"
    assert.equal("b", peer:read(10))
  end)

  it("to a peer that is gone is an error, not a signal", function()
    for _, kind in ipairs { "tcp", "unix" } do
      local client, peer, _ <close> = pair(kind)
      peer:abort()
      local err
      eventually(function()
        local ok
        ok, err = pcall(client.write, client, "x")
        return not ok
      end)
      assert.is_true(peri.OSError:is(err))
      assert.truthy(err.code == "EPIPE" or err.code == "ECONNRESET")
    end
  end)

  it("leaves the input readable when the output is lost", function()
    local client, peer, _ <close> = pair("unix")
    peer:write "last words"
    peer:abort()
    eventually(function() return not pcall(client.write, client, "x") end)
    assert.equal("last words", client:read())
  end)
end)

describe("a reset", function()
  it("ends a read with ECONNRESET, and the address", function()
    local client, peer, _ <close> = pair()
    local reader = peri.create_task(client.read, client, 10)
    spin(2)
    peer:set_linger(0)
    peer:abort()
    local err = fails("ECONNRESET", reader.await, reader)
    assert.equal("read", err.syscall)
    assert.equal(104, err.errno)
    local _, port = client:getpeername()
    assert.equal("127.0.0.1:" .. port, err.address)
    assert.equal(("OSError: read: connection reset by peer (127.0.0.1:%d)"):format(port), tostring(err))
    fails("ECONNRESET", client.readline, client)
    fails("ECONNRESET", client.read, client)
    fails("ECONNRESET", client.write, client, "x")
  end)
end)

describe("close", function()
  it("ends the waits of others at once", function()
    local client, _, _ <close> = pair("unix")
    client:write(("x"):rep(1000000))
    local tasks = {}
    for i, method in ipairs { "readline", "drain", "drain" } do
      tasks[i] = peri.create_task(client[method], client)
    end
    spin(2)
    client:close()
    for _, task in ipairs(tasks) do
      local err = fails("ECANCELED", task.await, task)
      assert.truthy(err.message:find("the stream was closed meanwhile", 1, true))
    end
    client:abort()
  end)

  it("makes all further use an error that says so", function()
    local client, _, _ <close> = pair()
    client:close()
    for _, call in ipairs {
      function() client:read(1) end, function() client:read() end,
      function() client:readexactly(1) end, function() client:readline() end,
      function() client:readuntil "x" end, function() client:write "x" end,
      function() client:writelines { "x" } end, function() client:drain() end,
      function() client:write_eof() end, function() client:getsockname() end,
      function() client:set_nodelay() end, function() client:set_keepalive() end,
      function() client:set_send_buffer_size(1000) end,
    } do
      local err = fails("EBADF", call)
      assert.truthy(err.message:find("the stream is closed", 1, true))
      assert.is_string(err.syscall)
    end
    client:close()
    client:abort()
    client:wait_closed()
    assert.is_nil(client:fileno())
    assert.truthy(tostring(client):find "^<Stream TCP, 127%.0%.0%.1:%d+, closed>$")
  end)

  it("is waited for by wait_closed, by several tasks", function()
    local client, peer, _ <close> = pair("unix")
    client:write(("x"):rep(1000000))
    local done = 0
    local tasks = {}
    for i = 1, 2 do
      tasks[i] = peri.create_task(function()
        client:wait_closed()
        done = done + 1
      end)
    end
    spin(2)
    raises(peri.TimeoutError, "", client.wait_closed, client, { timeout = 0.01 })
    client:close()
    spin(300)
    assert.equal(0, done)
    assert.equal(1000000, #peer:read())
    for _, task in ipairs(tasks) do task:await() end
  end)
end)

describe("a closed stream with output left", function()
  -- Both ends write before they read; the client has closed.
  it("drops what comes, so that the other end may come to read", function()
    for _, kind in ipairs { "tcp", "unix" } do
      local client, peer, _ <close> = pair(kind)
      local data = ("x"):rep(8000000)
      peer:write(data)
      client:write(data)
      client:close()
      peer:drain()
      -- All of the client's goes; then it closes, and what still comes is answered
      -- by a reset.
      local reader = peri.create_task(pcall, peer.readexactly, peer, #data)
      client:wait_closed()
      reader:await()
    end
  end)

  local function wait_really(seconds)
    local wake = peri.Future()
    require "perilune._core".call_later_real(peri.get_running_loop(), seconds, wake.set_result, wake)
    wake:await()
  end

  -- False: it was aborted while its output went, more often than the limit.
  local function lives_while_it_goes(limit)
    local client, peer, _ <close> = pair("unix")
    client:set_close_timeout(limit)
    client:write(("x"):rep(8000000))
    client:close()
    for _ = 1, 20 do
      if not pcall(peer.readexactly, peer, 100000) then return false end
      wait_really(limit / 8)
    end
    fails("ETIMEDOUT", client.wait_closed, client)
    assert.is_true(#peer:read() < 6000000)
    return true
  end

  it("is aborted when nothing goes for a time", function()
    local limit = 0.2
    -- The machine may have stood still for longer; hardly for a minute.
    while not lives_while_it_goes(limit) do
      limit = limit * 4
      assert.is_true(limit < 60)
    end
  end)

  it("has a limit of its own in a server", function()
    local _, peer, _ <close> = pair()
    peer:set_close_timeout()
    peer:set_close_timeout(1e-9)
    raises(peri.ValueError, "bad argument #1 to 'set_close_timeout' (not a number of seconds)",
      function() peer:set_close_timeout(-1) end)
  end)
end)

describe("a block's end", function()
  it("closes a stream, and waits until its output has gone", function()
    local client, peer, _ <close> = pair("unix")
    local got = network.both(function()
      local stream <close> = client
      stream:write(("x"):rep(1000000))
    end, function() return peer:read() end)
    assert.equal(1000000, #got)
    fails("EBADF", client.write, client, "x")
  end)

  it("says that the output was lost", function()
    local client, peer, _ <close> = pair()
    local task = peri.create_task(function()
      local stream <close> = client
      stream:write(("x"):rep(10000000))
    end)
    spin(2)
    peer:set_linger(0)
    peer:abort()
    local ok, err = pcall(task.await, task)
    assert.is_false(ok)
    assert.truthy(err.code == "ECONNRESET" or err.code == "EPIPE")
  end)

  it("does not wait, and keeps the error, where one passes by", function()
    local client, _, _ <close> = pair("unix")
    local ok, err = pcall(function()
      local stream <close> = client
      stream:write(("x"):rep(1000000))
      error("mine", 0)
    end)
    assert.is_false(ok)
    assert.equal("mine", err)
    assert.is_true(client:is_closing())
  end)
end)

describe("a stream that is collected", function()
  it("is closed, and what it had to say still goes", function()
    local _, peer, _ <close> = pair("unix")
    do
      local accepted
      local path = support.directory() .. "/socket"
      local _ <close> = require "perilune.net".start_unix_server(function(stream)
        accepted = stream:read()
      end, path)
      local stream = require "perilune.net".open_unix_connection(path)
      stream:write(("x"):rep(1000000))
      stream = nil -- luacheck: no unused
      support.collect()
      eventually(function() return accepted end)
      assert.equal(1000000, #accepted)
    end
    assert.is_false(peer:is_closing())
  end)

  it("is told of in debug mode, with the place where it was made", function()
    local client, peer, _ <close> = pair()
    local _, port = client:getpeername()
    peri.get_running_loop():set_debug(true)
    local lines = support.log()
    local line = debug.getinfo(1, "l").currentline + 1
    require "perilune.net".open_connection("127.0.0.1", port)
    support.collect()
    peri.get_running_loop():set_debug(false)
    assert.equal(1, #lines)
    assert.matches(("^WARNING ResourceWarning: unclosed <Stream TCP, 127.0.0.1:%d>\n"
      .. "created at:\n\t[^\n]*stream_spec.lua:%d: in "):format(port, line), lines[1])
    assert.is_false(peer:is_closing())
  end)
end)

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

describe("large input", function()
  it("is collected as it is dropped", function()
    local client, peer, _ <close> = pair()
    local size <const>, times <const>, most = 1 << 20, 64, 0
    collectgarbage()
    local before = collectgarbage "count"
    local writer = peri.create_task(function()
      local data = ("x"):rep(size)
      for _ = 1, times do
        client:write(data)
        client:drain()
      end
    end)
    local got = 0
    while got < times * size do
      got = got + #peer:read(32768)
      most = math.max(most, collectgarbage "count")
    end
    writer:await()
    assert.is_true(most < 3 * before + 16384, most .. " KiB")
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
