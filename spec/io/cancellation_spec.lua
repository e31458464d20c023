-- Every call of the I/O modules that may wait, cancelled: wherever it stands it ends
-- at once with CancelledError, unless it has ended before; what it was about is
-- usable afterwards, and nothing is left open. The last test finds the calls which
-- have no line here.
local peri = require "perilune"
local fs = require "perilune.fs"
local net = require "perilune.net"
local signal = require "perilune.signal"
local subprocess = require "perilune.subprocess"
local declarations = require "support.declarations"
local network = require "support.net"
local support = require "support"
local spin, pair = support.spin, network.pair

local function none() end

-- Each line sets its call up: it returns the call, and what is to be done when it was
-- cancelled (it may check that nothing is lost).

local function with_pair(kind, setup)
  return function()
    local client, peer, closer = pair(kind)
    local call, after = setup(client, peer)
    return call, function()
      if after then after() end
      getmetatable(closer).__close(closer)
    end
  end
end

-- A read of a stream which has got a part of what it waits for: it is still there.
local function reading(method, ...)
  local args = table.pack(...)
  return with_pair("unix", function(client, peer)
    if method ~= "read" then peer:write "part" end
    return function() return client[method](client, table.unpack(args, 1, args.n)) end, function()
      peer:write_eof()
      assert.equal(method == "read" and "" or "part", client:read())
    end
  end)
end

local function with_server(setup)
  return function()
    local server = net.start_server(none, "127.0.0.1", 0)
    local call = setup(server)
    return call, function()
      server:close()
      server:wait_closed()
    end
  end
end

local function with_socket(setup)
  return function()
    local socket = net.create_datagram_endpoint { local_addr = { "127.0.0.1", 0 } }
    return setup(socket), function()
      local host, port = socket:getsockname()
      socket:send("still there", host, port)
      local data
      repeat data = socket:recv() until data == "still there"
      socket:close()
    end
  end
end

local function with_process(setup)
  return function()
    local process = subprocess.create_subprocess_exec("cat",
      { stdin = subprocess.PIPE, stdout = subprocess.PIPE })
    return setup(process), function()
      assert.is_nil(process.returncode)
      if not process.stdin:is_closing() then process.stdin:close() end
      assert.equal("", (process:communicate()))
      assert.equal(0, process.returncode)
    end
  end
end

-- Wait until something comes from outside, which does not.
local waiting = {
  ["Stream.read"] = reading("read", 10),
  ["Stream.readexactly"] = reading("readexactly", 10),
  ["Stream.readuntil"] = reading("readuntil", "\n"),
  ["Stream.readline"] = reading "readline",
  ["Stream.lines"] = reading "readline", -- makes an iterator, which calls that
  ["Stream.drain"] = with_pair("unix", function(client, peer)
    client:write(("x"):rep(1000000))
    return function() client:drain() end, function()
      client:write "end"
      client:write_eof()
      assert.equal(1000003, #peer:read())
    end
  end),
  ["Stream.forward"] = with_pair("unix", function(client, peer)
    local other, far, closer = pair "unix"
    peer:write "some"
    return function() client:forward(other) end, function()
      -- What was on its way is on either side of it.
      peer:write " more"
      peer:write_eof()
      client:forward(other)
      other:write_eof()
      assert.equal("some more", far:read())
      getmetatable(closer).__close(closer)
    end
  end),
  ["Stream.wait_closed"] = with_pair("unix", function(client, peer)
    return function() client:wait_closed() end, function()
      client:write "still open"
      client:write_eof()
      assert.equal("still open", peer:read())
    end
  end),
  ["Server.wait_closed"] = with_server(function(server)
    return function() server:wait_closed() end
  end),
  ["Server.serve_forever"] = with_server(function(server)
    return function() server:serve_forever() end
  end),
  ["DatagramSocket.recv"] = with_socket(function(socket)
    return function() return socket:recv() end
  end),
  ["Process.wait"] = with_process(function(process)
    return function() process:wait() end
  end),
  ["Process.communicate"] = function()
    local process = subprocess.create_subprocess_exec("sleep", "1000", { stdout = subprocess.PIPE })
    return function() process:communicate() end, function()
      assert.is_nil(process.returncode)
      process:kill()
      assert.equal("", (process:communicate()))
    end
  end,
  ["subprocess.run"] = function()
    return function() subprocess.run { "sleep", "1000" } end, none
  end,
  ["SignalStream.get"] = function()
    local signals = signal.stream "SIGUSR2"
    return function() return signals:get() end, function()
      signal.raise "SIGUSR2"
      assert.equal("SIGUSR2", signals:get())
      signals:close()
    end
  end,
  ["Watch.next"] = function()
    local directory = support.directory()
    local watch = fs.watch(directory)
    return function() return watch:next() end, function()
      fs.mkdir(directory .. "/new")
      assert.equal("rename", (watch:next()))
      watch:close()
    end
  end,
  ["net.open_connection"] = function()
    local port, closer = network.silent_port()
    return function() return net.open_connection("127.0.0.1", port) end,
      function() getmetatable(closer).__close(closer) end
  end,
}

local directory
before_each(function()
  directory = support.directory()
  fs.write_file(directory .. "/file", "content")
  fs.symlink("file", directory .. "/link")
end)

-- Files: a path; what is made is closed or removed, whether the call has ended or not.
local function with_path(fn, ...)
  local args = table.pack(...)
  return function()
    return function() return fn(directory .. "/file", table.unpack(args, 1, args.n)) end, function()
      -- A write that was begun may be under way.
      network.eventually(function() return fs.read_file(directory .. "/file") == "content" end)
    end
  end
end

local function with_new(fn)
  return function()
    return function() return fn(directory .. "/new") end, function()
      os.execute(("rm -rf '%s/new'"):format(directory))
    end
  end
end

local function with_file(method, ...)
  local args = table.pack(...)
  return function()
    local file = fs.open(directory .. "/file", "r+")
    return function() return file[method](file, table.unpack(args, 1, args.n)) end, function()
      file:seek "set"
      assert.truthy(file:read():find "^content" or file:stat().size < 7)
      file:close()
    end
  end
end

-- Have something to do, and may be through with it.
local working = {
  ["net.getaddrinfo"] = function() return function() net.getaddrinfo("127.0.0.1", "80") end, none end,
  ["net.getnameinfo"] = function() return function() net.getnameinfo("127.0.0.1", 80) end, none end,
  ["net.open_unix_connection"] = function()
    local path = directory .. "/socket"
    local server = net.start_unix_server(function(stream) stream:read() end, path)
    return function()
      local _ <close> = net.open_unix_connection(path)
    end, function()
      server:close()
      server:wait_closed()
      spin(2)
    end
  end,
  ["net.start_server"] = function()
    return function() net.start_server(none, "localhost", 0):close() end, none
  end,
  ["net.start_unix_server"] = function()
    return function() net.start_unix_server(none, directory .. "/socket"):close() end, none
  end,
  ["net.create_datagram_endpoint"] = function()
    return function() net.create_datagram_endpoint { local_addr = { "localhost", 0 } }:close() end, none
  end,
  ["Server.start_serving"] = function()
    local server = net.start_server(none, "127.0.0.1", 0, { start_serving = false })
    return function() server:start_serving() end, function() server:close() end
  end,
  ["DatagramSocket.send"] = with_socket(function(socket)
    local host, port = socket:getsockname()
    return function() socket:send("x", host, port) end
  end),
  ["fs.read_file"] = with_path(fs.read_file),
  ["fs.write_file"] = with_path(fs.write_file, "content"),
  ["fs.append_file"] = with_path(fs.append_file, ""),
  ["fs.stat"] = with_path(fs.stat), ["fs.lstat"] = with_path(fs.lstat),
  ["fs.access"] = with_path(fs.access, "r"), ["fs.chmod"] = with_path(fs.chmod, 384),
  ["fs.utime"] = with_path(fs.utime, 1, 1), ["fs.realpath"] = with_path(fs.realpath),
  ["fs.mkdir"] = with_new(fs.mkdir), ["fs.mkdirp"] = with_new(fs.mkdirp),
  ["fs.rmdir"] = with_new(function(path) pcall(fs.rmdir, path) end),
  ["fs.remove"] = with_new(function(path) pcall(fs.remove, path) end),
  ["fs.rename"] = with_new(function(path) pcall(fs.rename, path, path .. "2") end),
  ["fs.link"] = with_new(function(path) fs.link(directory .. "/file", path) end),
  ["fs.symlink"] = with_new(function(path) fs.symlink("file", path) end),
  ["fs.copyfile"] = with_new(function(path) fs.copyfile(directory .. "/file", path) end),
  ["fs.readlink"] = function() return function() return fs.readlink(directory .. "/link") end, none end,
  ["fs.mkdtemp"] = function()
    return function() fs.rmdir(fs.mkdtemp(directory .. "/XXXXXX")) end, none
  end,
  ["fs.open"] = with_path(function(path)
    local _ <close> = fs.open(path)
  end),
  ["fs.tmpfile"] = function() return function() fs.tmpfile():close() end, none end,
  ["fs.scandir"] = function() return function() for _ in fs.scandir(directory) do none() end end, none end,
  ["fs.walk"] = function() return function() for _ in fs.walk(directory) do none() end end, none end,
  ["fs.glob"] = function() return function() fs.glob(directory .. "/*") end, none end,
  ["fs.watch"] = function()
    return function()
      local _ <close> = fs.watch(directory, { recursive = true })
    end, none
  end,
  ["File.read"] = with_file("read", 3), ["File.readline"] = with_file "readline",
  ["File.lines"] = with_file "readline", ["File.write"] = with_file("write", "content"),
  ["File.seek"] = with_file("seek", "end"), ["File.pread"] = with_file("pread", 3, 0),
  ["File.pwrite"] = with_file("pwrite", "content", 0), ["File.sync"] = with_file "sync",
  ["File.truncate"] = with_file("truncate", 7), ["File.stat"] = with_file "stat",
  ["File.close"] = function()
    local file = fs.open(directory .. "/file")
    return function() file:close() end, function() file:close() end
  end,
}

local function count_descriptors()
  local n = 0
  for _ in pairs(support.descriptors()) do n = n + 1 end
  return n
end

-- The call is cancelled when it has made n steps; returns what became of it.
local function cancelled_after(n, setup)
  local call, after = setup()
  local task = peri.create_task(call)
  spin(n)
  task:cancel()
  local ok, err = pcall(task.await, task)
  if not ok then assert.is_true(peri.CancelledError:is(err), tostring(err)) end
  after()
  return not ok
end

describe("a call that is cancelled", function()
  for name, setup in pairs(waiting) do
    it("ends at once, and nothing is lost: " .. name, function()
      for n = 0, 4 do assert.is_true(cancelled_after(n, setup)) end
    end)
  end

  for name, setup in pairs(working) do
    it("has ended or ends at once, and leaves nothing: " .. name, function()
      local call, after = setup()
      call()
      after()
      subprocess.run { "true" } -- the loop has opened what it needs for itself
      local before = count_descriptors()
      assert.is_true(cancelled_after(0, setup)) -- it has not begun
      for n = 1, 6 do cancelled_after(n, setup) end
      -- What a thread was doing for it comes to its end.
      network.eventually(function() return count_descriptors() <= before end)
    end)
  end

  it("has a line here", function()
    local root = debug.getinfo(1, "S").source:match "^@(.*)spec/io/[^/]*$"
    local all = declarations.read((root == "" and "./" or root) .. "lua/perilune")
    for _, class in ipairs { "net", "fs", "subprocess", "signal", "Stream", "Server",
      "DatagramSocket", "File", "Watch", "Process", "SignalStream" } do
      local declared = all["perilune." .. class] or all["module perilune." .. class]
      for name, member in pairs(declared.members) do
        local doc = member.doc
        if member.kind == "link" then
          doc = declarations.find(all, all["module " .. member.module], member.key).doc
        end
        local line = class .. "." .. name
        if doc and doc.async then assert.is_true((waiting[line] or working[line]) ~= nil, line) end
      end
    end
  end)
end)
