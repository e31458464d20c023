-- The scaled time was converted to an integer it did not fit, which is
-- undefined and came out negative.
local peri = require "perilune"

describe("a clock of an enormous scale", function()
  it("stands at its end instead of going back", function()
    local clock = peri.Clock { scale = 1e300 }
    local before = clock:now()
    for _ = 1, 100000 do end
    local now = clock:now()
    assert.is_true(now > 0 and now >= before, ("%g after %g"):format(now, before))
  end)
end)
