-- What the world does to a program, one after the other: each is an OSError that
-- says what failed (`code`), in which call (`syscall`), and where (`address` or
-- `path`). Nothing here ends by a signal, hangs, or grows for ever.
local peri = require "perilune"
local fs = require "perilune.fs"
local net = require "perilune.net"
local subprocess = require "perilune.subprocess"
local network = require "support.net"
local support = require "support"
local spin, pair, eventually = support.spin, network.pair, network.eventually

-- Calls fn, which must raise an OSError of this code and call, and says where:
-- `place` is the address or path.
local function fails(code, syscall, place, fn, ...)
  local err = network.fails(code, fn, ...)
  assert.equal(code .. " " .. syscall, code .. " " .. tostring(err.syscall))
  assert.equal(place, err.address or err.path)
  assert.is_number(err.errno)
  assert.truthy(tostring(err):find(place, 1, true))
  return err
end

-- Sends until that fails, and gives the error.
local function write_until_it_fails(stream)
  local err
  eventually(function()
    local ok, problem = pcall(stream.write, stream, "x")
    err = problem
    return not ok
  end)
  return err
end

local function address_of(stream)
  return ("%s:%d"):format(stream:getpeername())
end

local function quiet() end

describe("a write to a peer that is gone", function()
  it("raises EPIPE on a Unix socket, with its path", function()
    local client, peer, _ <close> = pair "unix"
    local path = client:getpeername()
    peer:abort()
    local err = write_until_it_fails(client)
    assert.same({ "EPIPE", "write", path }, { err.code, err.syscall, err.path })
    fails("EPIPE", "write", path, client.write, client, "x")
    fails("EPIPE", "write", path, client.drain, client)
  end)

  it("raises the same on the server's side", function()
    local client, peer, _ <close> = pair "unix"
    local path = client:getpeername()
    client:abort()
    local err = write_until_it_fails(peer)
    assert.same({ "EPIPE", "write", path }, { err.code, err.syscall, err.path })
  end)

  it("raises ECONNRESET or EPIPE over TCP, with its address", function()
    local client, peer, _ <close> = pair "tcp"
    local address = address_of(client)
    peer:abort()
    local err = write_until_it_fails(client)
    assert.is_true(err.code == "ECONNRESET" or err.code == "EPIPE", err.code)
    assert.same({ "write", address }, { err.syscall, err.address })
  end)

  it("raises EPIPE in a pipe to a process", function()
    local process <close> = subprocess.create_subprocess_exec("true", { stdin = subprocess.PIPE })
    process:wait()
    local err = write_until_it_fails(process.stdin)
    assert.same({ "EPIPE", "write" }, { err.code, err.syscall })
  end)

  it("raises in a block that is written out in the background as well", function()
    local client, peer, _ <close> = pair "unix"
    local path = client:getpeername()
    client:write(("x"):rep(1000000)) -- more than the kernel takes
    peer:abort()
    fails("EPIPE", "write", path, client.drain, client)
  end)

  -- Nothing ignores the signal there.
  it("is no signal in stock lua5.4 either", function()
    local out, err, status = support.run_stock [[
      local peri = require "perilune"
      local subprocess = require "perilune.subprocess"
      peri.run(function()
        local process = subprocess.create_subprocess_exec("true", { stdin = subprocess.PIPE })
        process:wait()
        local ok, err
        repeat
          ok, err = pcall(process.stdin.write, process.stdin, "x")
          peri.sleep(0)
        until not ok
        print(err.code)
        process.stdin:abort()
      end)
    ]]
    assert.same({ "EPIPE\n", "", 0 }, { out, err, status })
  end)
end)

describe("a connection", function()
  it("that is refused says where", function()
    local port = network.dead_port()
    fails("ECONNREFUSED", "connect", "127.0.0.1:" .. port, net.open_connection, "127.0.0.1", port)
    fails(network.has_ipv6() and "ECONNREFUSED" or "EADDRNOTAVAIL", "connect", ("[::1]:%d"):format(port),
      net.open_connection, "::1", port)
    local path = support.directory() .. "/none"
    fails("ENOENT", "connect", path, net.open_unix_connection, path)
    path = support.file "no socket"
    fails("ECONNREFUSED", "connect", path, net.open_unix_connection, path)
  end)

  it("that is reset tells who waits, reads on and writes", function()
    local client, peer, _ <close> = pair "tcp"
    local other, _, _ <close> = pair "unix"
    local address = address_of(client)
    local reading = peri.create_task(client.readexactly, client, 100)
    spin(2)
    peer:set_linger(0)
    peer:abort()
    fails("ECONNRESET", "read", address, reading.await, reading)
    fails("ECONNRESET", "read", address, client.readuntil, client, "x")
    network.fails("ECONNRESET", client.write, client, "x")
    network.fails("ECONNRESET", client.forward, client, other)
  end)

  -- Its kernel knows nothing of us any more, and answers what we send with a reset.
  it("whose peer was killed with our bytes unread is reset", function()
    local path = support.file [[
      local net = require "perilune.net"
      local stream = net.open_connection("127.0.0.1", tonumber(arg[1]))
      stream:write "here\n"
      require "perilune".sleep(1000)
    ]]
    local accepted = peri.Future()
    local server = net.start_server(function(stream)
      accepted:set_result(stream)
      pcall(stream.wait_closed, stream)
    end, "127.0.0.1", 0)
    local _, port = server.sockets[1]:getsockname()
    local process <close> = subprocess.create_subprocess_exec(support.program, "-e",
      ("arg = { [1] = %d } dofile %q"):format(port, path))
    local stream = accepted:await()
    assert.equal("here\n", stream:readline())
    local address = address_of(stream)
    process:send_signal "SIGSTOP"
    stream:write(("x"):rep(100000))
    process:kill()
    fails("ECONNRESET", "read", address, stream.read, stream)
    stream:abort()
    server:close()
    server:wait_closed()
    spin(2) -- the handler ends
  end)

  it("that is half open is found by a time limit", function()
    local client, _, _ <close> = pair "tcp"
    client:set_keepalive(true)
    support.raises(peri.TimeoutError, "", client.read, client, 1, { timeout = 0.01 })
    support.raises(peri.TimeoutError, "", client.readline, client, { timeout = 0.01 })
    client:write(("x"):rep(10000000)) -- nobody reads it
    support.raises(peri.TimeoutError, "", client.drain, client, { timeout = 0.01 })
    client:abort()
  end)

  -- What there is against a peer that vanished: the kernel asks whether it is there.
  it("has the kernel look for its peer as set_keepalive says", function()
    local client, _, _ <close> = pair "tcp"
    local _, port = client:getsockname()
    local _, to = client:getpeername()
    local line = ("^ *%%d+: %%x+:%04X %%x+:%04X %%x+ %%S+ (%%x+):(%%x+)"):format(port, to)
    -- Which timer runs, and for how many seconds more.
    local function timer()
      local file <close> = io.open "/proc/net/tcp"
      for text in (file and file:lines() or function() end) do
        local kind, ticks = text:match(line)
        if kind then return kind, tonumber(ticks, 16) / 100 end
      end
    end
    if not timer() then return pending "the system does not tell timers" end
    local KEEPALIVE <const> = "02"
    local function keeps(least, most)
      local kind, seconds = timer()
      assert.equal(KEEPALIVE, kind)
      assert.is_true(seconds > least and seconds <= most, tostring(seconds))
    end
    assert.not_equal(KEEPALIVE, (timer()))
    client:set_keepalive(1000)
    keeps(100, 1000)
    client:set_keepalive(10000)
    keeps(1000, 10000)
    client:set_keepalive(false)
    assert.not_equal(KEEPALIVE, (timer()))
    client:set_keepalive()
    keeps(1000, 10000) -- as it was set before
  end)

  it("from an address that is not ours says so", function()
    fails("EADDRNOTAVAIL", "bind", "192.0.2.1:0", net.open_connection, "127.0.0.1", 1,
      { local_addr = { "192.0.2.1", 0 } })
  end)
end)

describe("a peer that never reads", function()
  it("does not have the memory grow: who writes waits in drain", function()
    local client, _, _ <close> = pair "tcp"
    local written = 0
    local writer = peri.create_task(function()
      while true do
        client:write(("x"):rep(10000))
        client:drain()
        written = written + 10000
      end
    end)
    -- Until a hundred rounds have brought nothing more.
    local last, still = -1, 0
    eventually(function()
      still = written == last and still + 1 or 0
      last = written
      return still > 100
    end)
    local _, high = client:get_write_buffer_limits()
    assert.is_true(client:get_write_buffer_size() <= high + 10000)
    writer:cancel()
    pcall(writer.await, writer)
    client:abort()
  end)
end)

describe("a line without an end", function()
  it("is an error at the limit, in every call that looks for one", function()
    for method, class in pairs {
      readline = peri.ValueError, lines = peri.ValueError, readuntil = peri.LimitOverrunError,
    } do
      local client, peer, _ <close> = pair("unix", { limit = 1000 })
      local writer = peri.create_task(function()
        pcall(function()
          while true do
            client:write(("x"):rep(100))
            client:drain()
          end
        end)
      end)
      local ok, err = pcall(function()
        if method == "lines" then
          for _ in peer:lines() do error "a line" end
        else
          peer[method](peer, method == "readuntil" and "\n" or nil)
        end
      end)
      assert.is_false(ok)
      assert.is_true(class:is(err), method .. ": " .. tostring(err))
      peer:abort()
      writer:await()
    end
  end)
end)

describe("a port in use", function()
  it("says which, for servers and datagrams", function()
    local server <close> = net.start_server(quiet, "127.0.0.1", 0)
    local _, port = server.sockets[1]:getsockname()
    fails("EADDRINUSE", "bind", "127.0.0.1:" .. port, net.start_server, quiet, "127.0.0.1", port)
    local socket <close> = net.create_datagram_endpoint { local_addr = { "127.0.0.1", 0 } }
    _, port = socket:getsockname()
    fails("EADDRINUSE", "bind", "127.0.0.1:" .. port, net.create_datagram_endpoint,
      { local_addr = { "127.0.0.1", port } })
    local path = support.file "no socket"
    fails("EADDRINUSE", "bind", path, net.start_unix_server, quiet, path)
  end)
end)

describe("a name that does not resolve", function()
  local codes <const> = { EAI_NONAME = true, EAI_NODATA = true, EAI_AGAIN = true }

  it("is told by whatever looked it up", function()
    for _, call in ipairs {
      function() net.getaddrinfo("x.invalid", 80) end,
      function() net.open_connection("x.invalid", 80) end,
      function() net.start_server(quiet, "x.invalid", 80) end,
      function() net.create_datagram_endpoint { remote_addr = { "x.invalid", 80 } } end,
      function() net.open_connection("127.0.0.1", 80, { local_addr = { "x.invalid", 80 } }) end,
    } do
      local ok, err = pcall(call)
      assert.is_false(ok)
      assert.is_true(peri.OSError:is(err), tostring(err))
      assert.is_true(codes[err.code], tostring(err))
      assert.same({ "getaddrinfo", "x.invalid:80" }, { err.syscall, err.address })
    end
  end)
end)

describe("a process without descriptors", function()
  it("is told so by each call, goes on, and works again when there are some", function()
    local path = support.file [[
      local peri = require "perilune"
      local fs = require "perilune.fs"
      local net = require "perilune.net"
      local subprocess = require "perilune.subprocess"
      local server = net.start_server(function(stream) stream:write "hello" end, "127.0.0.1", 0)
      local unix = os.tmpname()
      os.remove(unix)
      local other = net.start_unix_server(function(stream) stream:write "hello" end, unix)
      local _, port = server.sockets[1]:getsockname()
      -- What opens descriptors once, opens them now.
      fs.read_file(arg[0])
      assert(net.open_connection("127.0.0.1", port):read() == "hello")
      fs.watch("/tmp"):close()
      subprocess.run { "true" }
      peri.sleep(0.01)
      collectgarbage()
      collectgarbage()
      local hogs = {}
      while true do
        local file = io.open "/dev/null"
        if not file then break end
        hogs[#hogs + 1] = file
      end
      local function try(fn, ...)
        local ok, err = pcall(fn, ...)
        print(ok, not ok and err.code, not ok and err.syscall)
      end
      try(fs.open, arg[0])
      try(fs.read_file, arg[0])
      try(fs.scandir, "/tmp")
      try(fs.tmpfile)
      try(net.open_connection, "127.0.0.1", port)
      try(net.open_unix_connection, unix)
      try(net.start_server, print, "127.0.0.1", 0)
      try(net.start_unix_server, print, unix .. "2")
      try(net.create_datagram_endpoint)
      try(subprocess.run, { "true" }, { capture = true })
      for _, file in ipairs(hogs) do file:close() end
      print(#fs.read_file(arg[0]) > 100, net.open_connection("127.0.0.1", port):read(),
        net.open_unix_connection(unix):read(), subprocess.run({ "true" }).returncode)
      server:close()
      other:close()
    ]]
    local out, err, code = support.shell(("ulimit -n 64; exec timeout 60 %s %s")
      :format(support.quote(support.program), support.quote(path)))
    assert.equal("", err)
    assert.equal(table.concat({
      "false\tEMFILE\topen", "false\tEMFILE\tread_file", "false\tEMFILE\tscandir", "false\tEMFILE\ttmpfile",
      "false\tEMFILE\tconnect", "false\tEMFILE\tconnect", "false\tEMFILE\tsocket", "false\tEMFILE\tsocket",
      "false\tEMFILE\tsocket", "false\tEMFILE\tpipe",
      "true\thello\thello\t0", "",
    }, "\n"), out)
    assert.equal(0, code)
  end)
end)

describe("a full disk", function()
  it("is told by everything that writes", function()
    local file <close> = fs.open("/dev/full", "w")
    fails("ENOSPC", "write", "/dev/full", file.write, file, "x")
    fails("ENOSPC", "write", "/dev/full", file.pwrite, file, "x", 0)
    fails("ENOSPC", "write_file", "/dev/full", fs.write_file, "/dev/full", "x")
    fails("ENOSPC", "append_file", "/dev/full", fs.append_file, "/dev/full", "x")
    local source = support.file "x"
    local err = fails("ENOSPC", "copyfile", source, fs.copyfile, source, "/dev/full")
    assert.equal("/dev/full", err.target)
  end)
end)

describe("a directory where a file is due", function()
  it("and the other way round, is told with its path", function()
    local dir, file = support.directory(), support.file "x"
    fails("EISDIR", "read_file", dir, fs.read_file, dir)
    fails("EISDIR", "write_file", dir, fs.write_file, dir, "x")
    fails("EISDIR", "append_file", dir, fs.append_file, dir, "x")
    fails("EISDIR", "open", dir, fs.open, dir)
    fails("EISDIR", "remove", dir, fs.remove, dir)
    fails("ENOTDIR", "rmdir", file, fs.rmdir, file)
    fails("ENOTDIR", "scandir", file, fs.scandir, file)
    fails("ENOTDIR", "stat", file .. "/x", fs.stat, file .. "/x")
    fails("EEXIST", "mkdir", file, fs.mkdir, file)
    fails("ENOTDIR", "mkdirp", file .. "/x", fs.mkdirp, file .. "/x")
    fails("EINVAL", "readlink", file, fs.readlink, file)
    fails("EACCES", "spawn", dir, subprocess.run, { dir })
    fails("ENOTDIR", "chdir", file, subprocess.run, { "true" }, { cwd = file })
  end)
end)

describe("a child that ignores SIGTERM", function()
  it("is killed with its block", function()
    local process
    do
      local stubborn <close> = subprocess.create_subprocess_shell(
        "trap '' TERM; echo up; while :; do sleep 0.02; done", { stdout = subprocess.PIPE, grace = 0.05 })
      process = stubborn
      assert.equal("up\n", process.stdout:readline())
      process:terminate()
    end
    assert.equal(-9, process.returncode)
  end)
end)

describe("a program that does not exist", function()
  it("is named by the error", function()
    -- A directory that one may not look into would be another error.
    local env = { PATH = "/usr/bin:/bin" }
    for _, call in ipairs {
      function() subprocess.create_subprocess_exec("no-such-program", { env = env }) end,
      function() subprocess.create_subprocess_exec("no-such-program", { env = env, umask = 0 }) end,
      function() subprocess.run({ "no-such-program" }, { env = env }) end,
      function() subprocess.run("no-such-program", { env = env, capture = true }) end,
    } do
      local err = fails("ENOENT", "spawn", "no-such-program", call)
      assert.equal("OSError: spawn: no such file or directory (no-such-program)", tostring(err))
    end
    -- That is the shell's business.
    local done = subprocess.run("no-such-program", { env = env, shell = true, stderr = subprocess.DEVNULL })
    assert.equal(127, done.returncode)
  end)
end)

-- What can be closed: how it is made, the calls that wait for it, and those that do
-- not. Each waiting call is given an error when it is closed, or ends if it is an
-- iteration.
local function stream_calls(stream)
  return {
    { stream.read, stream, 1 }, { stream.readexactly, stream, 1 }, { stream.readline, stream },
    { stream.readuntil, stream, "x" }, { stream.forward, stream, stream },
  }, {
    { stream.write, stream, "x" }, { stream.writelines, stream, { "x" } }, { stream.drain, stream },
    { stream.write_eof, stream }, { stream.getsockname, stream },
  }
end

describe("closing while others wait", function()
  for _, kind in ipairs { "tcp", "unix" } do
    it("gives them an error at once, twice is harmless, and use afterwards an error: " .. kind, function()
      for which = 1, 5 do
        local stream, _, _ <close> = pair(kind)
        local waiting, others = stream_calls(stream)
        local task = peri.create_task(table.unpack(waiting[which]))
        spin(3)
        stream:close()
        stream:close()
        local err = network.fails("ECANCELED", task.await, task)
        assert.is_string(err.syscall)
        assert.is_string(err.address or err.path)
        for _, call in ipairs(waiting) do network.fails("EBADF", table.unpack(call)) end
        for _, call in ipairs(others) do
          err = network.fails("EBADF", table.unpack(call))
          assert.is_string(err.syscall)
          assert.is_string(err.address or err.path)
        end
        stream:abort()
        stream:wait_closed()
      end
    end)
  end

  it("gives a process's readers an error", function()
    local process <close> = subprocess.create_subprocess_exec("cat",
      { stdin = subprocess.PIPE, stdout = subprocess.PIPE })
    local task = peri.create_task(process.stdout.readline, process.stdout)
    local talk = peri.create_task(process.wait, process)
    spin(3)
    process.stdout:close()
    process.stdout:close()
    network.fails("ECANCELED", task.await, task)
    network.fails("EBADF", process.stdout.read, process.stdout, 1)
    process.stdin:close()
    assert.equal(0, talk:await())
  end)

  it("ends serve_forever and wait_closed of a server", function()
    local server = net.start_server(quiet, "127.0.0.1", 0)
    local forever = peri.create_task(server.serve_forever, server)
    local closed = peri.create_task(server.wait_closed, server)
    spin(3)
    server:close()
    server:close()
    assert.is_true(peri.CancelledError:is(select(2, pcall(forever.await, forever))))
    closed:await()
    assert.same({}, server.sockets)
    for _, method in ipairs { "serve_forever", "start_serving" } do
      local ok, err = pcall(server[method], server)
      assert.is_false(ok)
      assert.is_true(peri.RuntimeError:is(err), tostring(err))
    end
  end)

  it("gives who waits for a datagram an error", function()
    local socket = net.create_datagram_endpoint { local_addr = { "127.0.0.1", 0 } }
    local task = peri.create_task(socket.recv, socket)
    spin(3)
    socket:close()
    socket:close()
    local err = network.fails("EBADF", task.await, task)
    assert.equal("recv", err.syscall)
    network.fails("EBADF", socket.recv, socket)
    network.fails("EBADF", socket.send, socket, "x", "127.0.0.1", 1)
  end)

  it("gives who waits for a file an error", function()
    local path = support.directory() .. "/fifo"
    os.execute(("mkfifo '%s'"):format(path))
    local other = io.open(path, "r+")
    local file = fs.open(path)
    local fd = file:fileno()
    local task = peri.create_task(file.read, file, 1)
    spin(20)
    file:close()
    file:close()
    local err = network.fails("EBADF", task.await, task)
    assert.equal(path, err.path)
    fails("EBADF", "read", path, file.read, file, 1)
    fails("EBADF", "stat", path, file.stat, file)
    fails("EBADF", "fileno", path, file.fileno, file)
    other:write "x" -- lets the thread go, which closes it
    other:close()
    eventually(function() return not support.descriptors()[fd] end)
  end)
end)
