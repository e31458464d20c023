local peri = require "perilune"
local support = require "support"
local network = require "support.net"
local raises, spin = support.raises, support.spin
local pair, eventually = network.pair, network.eventually

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
