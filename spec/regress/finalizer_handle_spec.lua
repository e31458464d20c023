-- A finaliser that reached a handle or a future of a loop collected together
-- with it indexed the loop, which was nil by then.
local peri = require "perilune"
local support = require "support"

describe("a finaliser that outlives its loop", function()
  it("may cancel a handle", function()
    local ran, failures = 0, {}
    for _ = 1, 100 do
      setmetatable({ handle = peri.new_event_loop():call_later(100, print) }, {
        __gc = function(self)
          local ok, err = pcall(self.handle.cancel, self.handle)
          ran = ran + 1
          if not ok then failures[#failures + 1] = tostring(err) end
        end,
      })
    end
    support.collect()
    assert.equal(100, ran)
    assert.same({}, failures)
  end)

  it("may cancel a future", function()
    local ran = 0
    for _ = 1, 100 do
      setmetatable({ future = peri.new_event_loop():create_future() }, {
        __gc = function(self)
          pcall(self.future.add_done_callback, self.future, print)
          pcall(self.future.cancel, self.future)
          ran = ran + 1
        end,
      })
    end
    support.collect()
    assert.equal(100, ran)
  end)
end)
