-- The examples that serve and connect, as programs.
local peri = require "perilune"
local net = require "perilune.net"
local subprocess = require "perilune.subprocess"
local example = require "support.example"
local support = require "support"

local function connect(port) return net.open_connection("127.0.0.1", port, { timeout = 20 }) end

describe("the example echo.lua", function()
  it("sends back what it is sent, to many at once", function()
    local process <close>, port = example.start "echo.lua"
    local function talk(i)
      local stream <close> = connect(port)
      for k = 1, 20 do
        local text = ("%d-%d"):format(i, k):rep(100) .. "\n"
        stream:write(text)
        assert.equal(text, stream:readline { timeout = 20 })
      end
      stream:write_eof()
      assert.equal("", stream:read())
      return i
    end
    local tasks = {}
    for i = 1, 20 do tasks[i] = peri.call(talk, i) end
    assert.equal(20, peri.gather(tasks):await().n)
    process:terminate()
    assert.equal(-15, process:wait { timeout = 20 })
  end)
end)

describe("the example chat.lua", function()
  it("passes lines on to all others", function()
    local process <close>, port = example.start "chat.lua"
    local a <close> = connect(port)
    local b <close> = connect(port)
    local function hears(stream, text)
      assert.equal(text, stream:readuntil(text, { timeout = 20 }):sub(-#text))
    end
    hears(a, "Your name? ")
    a:write "ann\n"
    hears(b, "Your name? ")
    b:write "ann\n"
    hears(b, "That one is taken. Your name? ")
    b:write "bob\n"
    hears(a, "bob has come\n")
    a:write "hello\n"
    hears(b, "ann: hello\n")
    b:write "hello yourself\n"
    hears(a, "bob: hello yourself\n")
    b:close()
    hears(a, "bob has left\n")
    assert.is_nil(process.returncode)
  end)
end)

describe("the example ports.lua", function()
  it("finds the ports that somebody listens on", function()
    local server <close> = net.start_server(function() end, "127.0.0.1", 0)
    local _, port = server.sockets[1]:getsockname()
    local out = subprocess.run({ support.program, example.directory .. "ports.lua",
      tostring(math.max(1, port - 300)), tostring(math.min(65535, port + 300)) },
      { capture = true, check = true, timeout = 60 }).stdout
    assert.truthy(("\n" .. out):find("\n" .. port .. "\n", 1, true))
  end)
end)
