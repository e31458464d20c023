-- Callbacks of a closed loop's futures released their anchors in a table that
-- had gone, and so freed those of others.
local peri = require "perilune"
local support = require "support"

describe("a future of a closed loop", function()
  it("calls nobody, and takes no more callbacks", function()
    local called = 0
    local function callback() called = called + 1 end
    local loop = peri.new_event_loop()
    local early = loop:create_future()
    early:add_done_callback(callback)
    loop:close()
    local late = loop:create_future()
    support.raises(peri.RuntimeError, "Event loop is closed", late.add_done_callback, late, callback)
    early:set_result(1)
    early = nil -- luacheck: ignore 311
    assert.equal(0, late:remove_done_callback(callback))
    support.collect()
    late:set_result(2)
    peri.sleep(0)
    assert.equal(0, called)
  end)
end)
