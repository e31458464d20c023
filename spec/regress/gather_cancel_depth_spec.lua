-- Cancelling a gather went into its children without a limit: very deep nests,
-- and a task that awaits the gather it is in, overran the C stack.
local peri = require "perilune"
local support = require "support"

local too_deep = "cancel: gathers are nested too deep"

local function nest(future, depth)
  for _ = 1, depth do future = peri.gather(future) end
  return future
end

describe("cancel", function()
  it("of a task that awaits a gather of itself cancels both", function()
    local gather
    local task = peri.create_task(function() gather:await() end)
    gather = peri.gather(task)
    peri.sleep(0)
    assert.is_true(task:cancel())
    peri.wait { task }
    assert.is_true(task:cancelled())
    assert.is_true(peri.iscancel(select(2, pcall(gather.await, gather))))
  end)

  it("of a gather whose task awaits it cancels both", function()
    local gather
    local task = peri.create_task(function() gather:await() end)
    gather = peri.gather(task)
    peri.sleep(0)
    assert.is_true(gather:cancel())
    assert.is_true(peri.iscancel(select(2, pcall(gather.await, gather))))
    assert.is_true(task:cancelled())
  end)

  it("does not keep the end of a run from the other leftovers", function()
    local out, err, code = support.run_code [[
      local peri = require "perilune"
      print(peri.run(function()
        local gather
        local task = peri.create_task(function() gather:await() end)
        gather = peri.gather { task }
        peri.create_task(function()
          local _ <close> = peri.defer(function() peri.sleep(0.001) print "closed" end)
          peri.sleep(10)
        end)
        peri.sleep(0)
        return "result"
      end))
    ]]
    assert.equal("closed\nresult\n", out)
    assert.equal("", err)
    assert.equal(0, code)
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
