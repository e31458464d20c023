-- A finalizer that closed the stream, run by the very string that a read was
-- making, had the read take bytes away from a buffer that was gone: the next one
-- crashed, or waited on a closed stream for ever.
local support = require "support"
local network = require "support.net"
local pair, fails = network.pair, network.fails

-- The collector runs from beginning to end with the next allocation.
local function collect_soon(finalizer)
  collectgarbage()
  collectgarbage("incremental", 100, 1000, 30)
  collectgarbage "stop"
  setmetatable({}, { __gc = finalizer })
  collectgarbage "restart"
end

describe("a finalizer that runs during a read", function()
  local function check(read_before)
    local client, peer, _ <close> = pair "unix"
    peer:write(("y"):rep(20000))
    local ended = false
    if read_before then client:readexactly(1) end
    collect_soon(function()
      client:abort()
      ended = true
    end)
    local data = client:readexactly(10000)
    collectgarbage("incremental", 200, 100, 13)
    assert.equal(10000, #data)
    assert.is_true(ended)
    fails("EBADF", client.read, client, 10)
    support.spin(2)
  end

  it("may close the stream whose buffer is read", function() check(true) end)
  it("may close the stream that has none", function() check(false) end)
end)
