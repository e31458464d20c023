local peri = require "perilune"
local support = require "support"
local network = require "support.net"
local raises, spin = support.raises, support.spin
local pair, eventually, fails = network.pair, network.eventually, network.fails

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
      .. "created at:\n\t[^\n]*stream_write_spec.lua:%d: in "):format(port, line), lines[1])
    assert.is_false(peer:is_closing())
  end)
end)
