-- Cancelling a gather went into its children without a limit: very deep nests,
-- and a task that awaits the gather it is in, overran the C stack.
local peri = require "perilune"
local support = require "support"

local too_deep = "cancel: gathers are nested too deep (or await each other)"

local function nest(future, depth)
  for _ = 1, depth do future = peri.gather(future) end
  return future
end

describe("cancel", function()
  it("of a task that awaits a gather of itself is a RuntimeError", function()
    local gather
    local task = peri.create_task(function() gather:await() end)
    gather = peri.gather(task)
    peri.sleep(0)
    support.raises(peri.RuntimeError, too_deep, task.cancel, task)
    support.raises(peri.RuntimeError, too_deep, gather.cancel, gather)
    task:kill()
    pcall(task.await, task)
    pcall(gather.await, gather)
  end)

  it("of gathers nested too deep is a RuntimeError", function()
    local future = peri.Future()
    local outer = nest(future, 5000)
    support.raises(peri.RuntimeError, too_deep, outer.cancel, outer)
    assert.is_false(future:done())
    future:set_result "x"
    outer:await()
  end)

  it("goes through a few hundred gathers, also after such an error", function()
    local deep, future = peri.Future(), peri.Future()
    local outer = nest(deep, 5000)
    assert.is_false((pcall(outer.cancel, outer)))
    local gather = nest(future, 500)
    assert.is_true(gather:cancel())
    assert.is_true(future:cancelled())
    local ok, err = pcall(gather.await, gather)
    assert.is_false(ok)
    assert.is_true(peri.CancelledError:is(err))
    deep:set_result "x"
    outer:await()
  end)
end)
