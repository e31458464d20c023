local peri = require "perilune"
local support = require "support"
local raises, trace, spin = support.raises, support.trace, support.spin

local function cancelling()
  return peri.current_task():cancelling()
end

describe("timeout as a scope", function()
  it("raises TimeoutError at its end when it was late", function()
    local inside
    local ok, err = pcall(function()
      local scope <close> = peri.timeout(1)
      local fine, why = pcall(peri.sleep, 60)
      inside = { fine, peri.iscancel(why), scope:expired(), cancelling() }
      error(why, 0)
    end)
    assert.same({ false, true, true, 1 }, inside)
    assert.is_false(ok)
    assert.is_true(peri.TimeoutError:is(err))
    assert.is_true(peri.iscancel(err.cause))
    assert.equal(0, cancelling())
  end)

  it("leaves no trace when its block ends in time", function()
    local scope
    do
      local s <close> = peri.timeout(1)
      scope = s
      peri.sleep(0.5)
    end
    assert.is_false(scope:expired())
    assert.equal("undisturbed", peri.sleep(10, "undisturbed"))
  end)

  it("of nothing is no limit", function()
    local scope <close> = peri.timeout(nil)
    assert.is_nil(scope:when())
    peri.sleep(1e6)
  end)

  it("of nought interrupts even a sleep of nought (CPython)", function()
    raises(peri.TimeoutError, "", function()
      local _ <close> = peri.timeout(0)
      peri.sleep(0)
    end)
  end)

  it("of nought is not late when the block does not wait (CPython)", function()
    do local _ <close> = peri.timeout(0) end
    assert.equal("fine", peri.sleep(0, "fine"))
    assert.equal(0, cancelling())
  end)

  it("raises nothing when the block swallowed the interruption", function()
    local scope
    do
      local s <close> = peri.timeout(1)
      scope = s
      pcall(peri.sleep, 60)
    end
    assert.is_true(scope:expired())
    assert.equal(0, cancelling())
  end)

  it("leaves another error of the block alone", function()
    local fault = {}
    local ok, err = pcall(function()
      local _ <close> = peri.timeout(1)
      pcall(peri.sleep, 60)
      error(fault)
    end)
    assert.is_false(ok)
    assert.equal(fault, err)
  end)

  it("passes a cancellation from outside through", function()
    local task = peri.create_task(function()
      local _ <close> = peri.timeout(100)
      peri.sleep(60)
    end)
    spin(1)
    task:cancel "outside"
    pcall(task.await, task)
    assert.is_true(task:cancelled())
    assert.equal(1, task:cancelling())
  end)

  it("lets the cancellation from outside win over its own", function()
    local task = peri.create_task(function()
      local _ <close> = peri.timeout(2)
      local _ <close> = support.finally(function() peri.sleep(60) end)
      peri.sleep(60)
    end)
    peri.sleep(1)
    task:cancel()
    pcall(task.await, task)
    assert.is_true(task:cancelled())
  end)

  it("nested: only the one that is late raises TimeoutError", function()
    local lines, say = trace()
    local ok, err = pcall(function()
      local outer <close> = peri.timeout(1)
      local fine, why = pcall(function()
        local inner <close> = peri.timeout(10)
        local _ <close> = support.finally(function() say(inner:expired(), outer:expired()) end)
        peri.sleep(60)
      end)
      say(fine, peri.iscancel(why))
      error(why, 0)
    end)
    assert.same({ "false true", "false true" }, lines)
    assert.is_false(ok)
    assert.is_true(peri.TimeoutError:is(err))
    assert.equal(0, cancelling())
  end)

  it("nested: an inner TimeoutError is an error like any other to the outer", function()
    local ok, err = pcall(function()
      local outer <close> = peri.timeout(10)
      local fine, why = pcall(function()
        local _ <close> = peri.timeout(1)
        peri.sleep(60)
      end)
      assert.is_false(fine)
      assert.is_true(peri.TimeoutError:is(why))
      peri.sleep(1)
      assert.is_false(outer:expired())
      return "went on"
    end)
    assert.is_true(ok)
    assert.equal("went on", err)
  end)

  it("works inside a generator", function()
    local generator = coroutine.wrap(function()
      local ok, err = pcall(function()
        local _ <close> = peri.timeout(1)
        peri.sleep(60)
      end)
      coroutine.yield(ok, peri.TimeoutError:is(err))
    end)
    assert.same({ false, true }, { generator() })
  end)

  it("can be moved", function()
    local loop = peri.get_running_loop()
    local start = loop:time()
    local late = pcall(function()
      local scope <close> = peri.timeout(1)
      scope:reschedule(start + 5)
      assert.equal(start + 5, scope:when())
      peri.sleep(4)
      scope:reschedule(start + 6)
      peri.sleep(60)
    end)
    assert.is_false(late)
    assert.is_true(math.abs(loop:time() - start - 6) < 1e-6)
  end)

  it("can be lifted", function()
    local scope <close> = peri.timeout(1)
    scope:reschedule(nil)
    assert.is_nil(scope:when())
    peri.sleep(100)
  end)

  it("cannot be moved once it is late or over", function()
    local scope
    pcall(function()
      local s <close> = peri.timeout(1)
      scope = s
      pcall(peri.sleep, 60)
      raises(peri.RuntimeError, "cannot reschedule a time limit that is expiring", s.reschedule, s, 1)
    end)
    raises(peri.RuntimeError, "cannot reschedule a time limit that is expired", scope.reschedule, scope, 1)
    do
      local s <close> = peri.timeout(1)
      scope = s
    end
    raises(peri.RuntimeError, "cannot reschedule a time limit that is finished", scope.reschedule, scope, 1)
  end)

  it("refuses NaN and what is no number", function()
    raises(peri.ValueError, "bad argument #1 to 'timeout' (NaN (not a number) is no time)", peri.timeout, 0 / 0)
    raises(peri.TypeError, "bad argument #1 to 'timeout' (number or nil expected, got string)",
      peri.timeout, "soon")
  end)

  it("needs a task around it", function()
    local ok, err
    peri.get_running_loop():call_soon(function() ok, err = pcall(peri.timeout, 1) end)
    peri.sleep(0)
    assert.is_false(ok)
    assert.equal("RuntimeError: timeout: a time limit needs a task around it", tostring(err))
  end)
end)

describe("timeout as a function", function()
  it("returns the values of the call", function()
    assert.same({ n = 3, 1, nil, 3 }, table.pack(peri.timeout(5, peri.sleep, 1, 1, nil, 3)))
  end)

  it("raises TimeoutError from the call", function()
    raises(peri.TimeoutError, "", peri.timeout, 1, peri.sleep, 60)
    assert.equal(0, cancelling())
  end)
end)

describe("timeout_at", function()
  it("takes a point on the task's clock", function()
    local loop = peri.get_running_loop()
    local when = loop:time() + 3
    raises(peri.TimeoutError, "", function()
      local scope <close> = peri.timeout_at(when)
      assert.equal(when, scope:when())
      peri.sleep(60)
    end)
    assert.is_true(math.abs(loop:time() - when) < 1e-6)
  end)

  it("takes a point on a manual clock", function()
    local clock = peri.Clock { kind = "manual" }
    local task
    do
      local _ <close> = peri.use_clock(clock)
      task = peri.create_task(peri.timeout, 5, peri.sleep, 60)
    end
    support.settle()
    clock:advance(4)
    support.settle()
    assert.is_false(task:done())
    clock:advance(1)
    support.settle()
    assert.is_true(peri.TimeoutError:is(task:exception()))
  end)
end)

describe("move_on_after", function()
  it("tells whether the call ended in time", function()
    assert.same({ n = 4, true, 1, nil, 3 }, table.pack(peri.move_on_after(5, peri.sleep, 1, 1, nil, 3)))
    assert.same({ n = 1, false }, table.pack(peri.move_on_after(1, peri.sleep, 60)))
    assert.equal(0, cancelling())
  end)

  it("raises other errors, another's TimeoutError too", function()
    raises(peri.TimeoutError, "mine", peri.move_on_after, 5, error, peri.TimeoutError "mine")
    local fault = {}
    local ok, err = pcall(peri.move_on_after, 5, error, fault)
    assert.is_false(ok)
    assert.equal(fault, err)
  end)
end)
