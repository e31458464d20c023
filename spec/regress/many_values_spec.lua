-- A handle and a call keep their values in a userdata, where Lua counts them in
-- 16 bits: beyond, the count wrapped round.
local peri = require "perilune"
local support = require "support"

local function numbers(n)
  local list = {}
  for i = 1, n do list[i] = i end
  return list
end

describe("a call with very many values", function()
  local too_many, many = numbers(65536), numbers(59999)
  local message = "a call with 65537 values is too large"

  it("is a ValueError of call_soon and call_later", function()
    local loop = peri.get_running_loop()
    support.raises(peri.ValueError, message, loop.call_soon, loop, print, table.unpack(too_many))
    support.raises(peri.ValueError, message, loop.call_later, loop, 1, print, table.unpack(too_many))
  end)

  it("is a ValueError of peri.call", function()
    support.raises(peri.ValueError, message, peri.call, print, table.unpack(too_many))
  end)

  it("gets all of them up to the limit", function()
    local function check(...) return select("#", ...), (select(59999, ...)) end
    local count, last
    local loop = peri.get_running_loop()
    loop:call_soon(function(...) count, last = check(...) end, table.unpack(many))
    peri.sleep(0)
    assert.same({ 59999, 59999 }, { count, last })
    assert.same({ 59999, 59999 }, { peri.await(peri.call(check, table.unpack(many))) })
  end)
end)
