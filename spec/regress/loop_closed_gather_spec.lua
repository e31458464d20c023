-- A gather of a closed loop stayed among the callbacks of its futures after it
-- had been collected.
local peri = require "perilune"
local support = require "support"

describe("a loop closed with a pending gather", function()
  it("leaves a future that can be resolved", function()
    local loop = peri.new_event_loop()
    local future = loop:create_future()
    peri.gather(future)
    loop:close()
    support.collect()
    future:set_result(1)
    assert.equal(1, future:result())
  end)
end)
