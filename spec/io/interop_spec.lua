-- Stock programs talk to ours, and ours to theirs: nc (OpenBSD's) and socat, over
-- TCP and Unix sockets. curl is in http_spec.
local net = require "perilune.net"
local subprocess = require "perilune.subprocess"
local network = require "support.net"
local support = require "support"

local PIPE <const> = subprocess.PIPE
local TEXT <const> = ("some text \0 with all kinds of bytes \255\r\n"):rep(20000)

local function has_nc()
  return support.has_program "nc" and (support.shell "nc -h 2>&1"):find("-U", 1, true) ~= nil
end

local function has_socat() return support.has_program "socat" end

-- A program is given the text as its input, and gives it back.
local function echoes(...)
  local done = subprocess.run({ "timeout", "60", ... }, { input = TEXT, capture = true })
  assert.same({ "", 0 }, { done.stderr, done.returncode })
  assert.is_true(done.stdout == TEXT)
end

-- Connects to a program that begins to listen.
local function reach(connect)
  local stream
  network.eventually(function()
    local ok, result = pcall(connect)
    stream = ok and result
    return ok
  end)
  return stream
end

-- Starts a program that listens, and says to it what it is told: what comes back.
local function converse(connect, options, ...)
  local args = { "timeout", "60", ... }
  args[#args + 1] = options
  local process <close> = subprocess.create_subprocess_exec(table.unpack(args))
  local stream <close> = reach(connect)
  local function send()
    stream:write(TEXT)
    stream:write_eof()
  end
  local function receive() return stream:read(), process:communicate() end
  local answer, out = network.both(send, receive)
  assert.equal(0, process.returncode)
  return answer, out
end

local function echo(stream) stream:forward(stream) end

local kinds <const> = {
  { name = "TCP", unix = false }, { name = "Unix sockets", unix = true },
}

for _, kind in ipairs(kinds) do
  describe("over " .. kind.name, function()
    local server, port, path

    -- An echo server of ours.
    local function start()
      path = support.directory() .. "/socket"
      if kind.unix then
        server = net.start_unix_server(echo, path)
      else
        server = net.start_server(echo, "127.0.0.1", 0)
        port = select(2, server.sockets[1]:getsockname())
      end
    end

    local function stop()
      server:close()
      server:wait_closed()
      support.spin(2)
    end

    -- Where a program is to listen, and how we get there.
    local function place()
      path = support.directory() .. "/socket"
      if kind.unix then return function() return net.open_unix_connection(path) end end
      port = network.dead_port()
      return function() return net.open_connection("127.0.0.1", port) end
    end

    it("nc talks to our server", function()
      if not has_nc() then return pending "nc is not installed, or another one" end
      start()
      if kind.unix then echoes("nc", "-N", "-U", path) else echoes("nc", "-N", "127.0.0.1", tostring(port)) end
      stop()
    end)

    it("socat talks to our server", function()
      if not has_socat() then return pending "socat is not installed" end
      start()
      echoes("socat", "-t", "60", "-", kind.unix and "UNIX-CONNECT:" .. path or "TCP:127.0.0.1:" .. port)
      stop()
    end)

    it("our client talks to nc", function()
      if not has_nc() then return pending "nc is not installed, or another one" end
      local connect = place()
      local where = kind.unix and { "-U", path } or { "127.0.0.1", tostring(port) }
      -- It says what its input says, and puts out what comes.
      local said = support.file "from nc"
      local input <close> = io.open(said)
      local answer, out = converse(connect, { stdin = input, stdout = PIPE }, "nc", "-N", "-l", table.unpack(where))
      assert.equal("from nc", answer)
      assert.is_true(out == TEXT)
    end)

    it("our client talks to socat", function()
      if not has_socat() then return pending "socat is not installed" end
      local connect = place()
      local where = kind.unix and "UNIX-LISTEN:" .. path
        or ("TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr"):format(port)
      assert.is_true(converse(connect, {}, "socat", "-t", "60", where, "EXEC:cat") == TEXT)
    end)
  end)
end
