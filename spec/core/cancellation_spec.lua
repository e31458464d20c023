local peri = require "perilune"
local support = require "support"
local raises, trace, spin, finally = support.raises, support.trace, support.spin, support.finally

local function ended(task)
  pcall(task.await, task)
  return task
end

describe("cancel", function()
  it("asks; the task sees it at its wait, one round later", function()
    local lines, say = trace()
    local task = peri.create_task(function()
      local ok, err = pcall(peri.sleep, 60)
      say(ok, peri.iscancel(err), err.message)
      error(err, 0)
    end)
    peri.sleep(0)
    assert.is_true(task:cancel "because")
    assert.same({}, lines)
    assert.is_false(task:done())
    assert.equal(1, task:cancelling())
    peri.sleep(0)
    assert.same({ "false true because" }, lines)
    assert.is_true(task:cancelled())
  end)

  it("of a done task does nothing", function()
    local task = peri.create_task(function() end)
    task:await()
    assert.is_false(task:cancel())
    assert.equal(0, task:cancelling())
  end)

  it("before the first step keeps the body from running", function()
    local ran = false
    local task = peri.create_task(function() ran = true end)
    task:cancel "early"
    assert.is_false(task:done())
    peri.sleep(0)
    assert.is_true(task:cancelled())
    assert.is_false(ran)
    raises(peri.CancelledError, "early", task.result, task)
    raises(peri.CancelledError, "early", task.exception, task)
  end)

  it("leaves the virtual time where it was: the sleeper's timer is gone", function()
    local before = peri.get_running_loop():time()
    local task = peri.create_task(peri.sleep, 1000)
    peri.sleep(0)
    task:cancel()
    ended(task)
    support.settle()
    assert.is_true(peri.get_running_loop():time() < before + 1)
  end)

  it("reaches a task whose awaited future is already done, whose result is lost to it", function()
    local future = peri.Future()
    local seen
    local task = peri.create_task(function()
      local ok, err = pcall(future.await, future)
      seen = { ok, peri.iscancel(err) }
    end)
    peri.sleep(0)
    future:set_result "lost"
    task:cancel()
    task:await()
    assert.same({ false, true }, seen)
    assert.equal(1, task:cancelling())
  end)

  it("of oneself that never waits again ends cancelled, the result dropped", function()
    local task = peri.create_task(function()
      peri.current_task():cancel "myself"
      return "dropped"
    end)
    peri.sleep(0)
    assert.is_true(task:cancelled())
    raises(peri.CancelledError, "myself", task.result, task)
  end)

  it("of oneself is not delivered by the await of something done", function()
    local future = peri.Future()
    future:set_result "x"
    local seen = {}
    local task = peri.create_task(function()
      peri.current_task():cancel()
      seen[1] = future:await()
      seen[2] = pcall(peri.sleep, 0)
    end)
    task:await()
    assert.same({ "x", false }, seen)
  end)

  it("goes to the innermost task and is counted on every level", function()
    local inner, middle, outer
    inner = peri.create_task(function()
      pcall(peri.sleep, 60)
      return "swallowed"
    end)
    middle = peri.create_task(function() return inner:await() end)
    outer = peri.create_task(function() return middle:await() end)
    peri.sleep(0)
    outer:cancel()
    assert.same({ 1, 1, 1 }, { inner:cancelling(), middle:cancelling(), outer:cancelling() })
    assert.equal("swallowed", outer:await())
    assert.same({ 1, 1, 1 }, { inner:cancelling(), middle:cancelling(), outer:cancelling() })
    assert.is_false(outer:cancelled())
  end)

  it("unwinds a chain one task a round, innermost first", function()
    local lines, say = trace()
    local function level(name, fn)
      return peri.create_task(function()
        local _ <close> = finally(function() say(name) end)
        fn()
      end)
    end
    local a = level("leaf", function() peri.sleep(60) end)
    local b = level("middle", function() a:await() end)
    local c = level("top", function() b:await() end)
    peri.sleep(0)
    c:cancel()
    for i = 1, 3 do
      peri.sleep(0)
      assert.equal(i, #lines)
    end
    assert.same({ "leaf", "middle", "top" }, lines)
    assert.is_true(c:cancelled())
  end)

  it("twice interrupts the clean-up too", function()
    local lines, say = trace()
    local task = peri.create_task(function()
      local _ <close> = finally(function()
        local ok, err = pcall(peri.sleep, 60)
        say("clean-up", ok, err.message)
        error(err, 0)
      end)
      peri.sleep(60)
    end)
    peri.sleep(0)
    task:cancel "one"
    peri.sleep(0)
    task:cancel "two"
    ended(task)
    assert.same({ "clean-up false two" }, lines)
    assert.equal(2, task:cancelling())
    raises(peri.CancelledError, "two", task.result, task)
  end)

  it("lets __close variables wait while it unwinds", function()
    local lines, say = trace()
    local task = peri.create_task(function()
      local _ <close> = finally(function(err)
        say("outer", peri.iscancel(err))
        peri.sleep(1)
        say "outer done"
      end)
      local _ <close> = finally(function()
        say "inner"
        peri.sleep(1)
        say "inner done"
      end)
      peri.sleep(60)
    end)
    peri.sleep(0)
    task:cancel()
    ended(task)
    assert.same({ "inner", "inner done", "outer true", "outer done" }, lines)
    assert.is_true(task:cancelled())
  end)

  it("may be turned into another error or a result", function()
    local failed = peri.create_task(function()
      local ok = pcall(peri.sleep, 60)
      if not ok then error("instead", 0) end
    end)
    local result = peri.create_task(function()
      pcall(peri.sleep, 60)
      return "anyway"
    end)
    peri.sleep(0)
    failed:cancel()
    result:cancel()
    assert.equal("anyway", result:await())
    ended(failed)
    assert.equal("instead", failed:exception())
    assert.is_false(failed:cancelled())
  end)

  it("of a task that awaits a bare future cancels the future", function()
    local future = peri.Future()
    local task = peri.create_task(future.await, future)
    peri.sleep(0)
    task:cancel "why"
    assert.is_true(future:cancelled())
    ended(task)
    raises(peri.CancelledError, "why", task.result, task)
  end)

  it("raised by hand ends a task cancelled", function()
    local task = peri.create_task(function() error(peri.CancelledError "by hand") end)
    ended(task)
    assert.is_true(task:cancelled())
    assert.equal(0, task:cancelling())
  end)

  it("tells a message of any kind as text", function()
    local task = peri.create_task(peri.sleep, 60)
    task:cancel(42)
    ended(task)
    raises(peri.CancelledError, "42", task.result, task)
  end)
end)

describe("two tasks that await each other", function()
  it("can be cancelled", function()
    support.log() -- of the circle
    local a, b
    a = peri.create_task(function() b:await() end)
    b = peri.create_task(function() a:await() end)
    spin(2)
    a:cancel()
    spin(4)
    assert.is_true(a:cancelled())
    assert.is_true(b:cancelled())
  end)
end)

describe("uncancel", function()
  it("takes back one request and tells how many are left", function()
    local counts
    local task = peri.create_task(function()
      local me = peri.current_task()
      pcall(peri.sleep, 60)
      counts = { me:cancelling(), me:uncancel(), me:uncancel(), me:uncancel() }
    end)
    peri.sleep(0)
    task:cancel()
    task:cancel()
    task:await()
    assert.same({ 2, 1, 0, 0 }, counts)
  end)

  it("to nothing withdraws a cancellation not yet delivered (CPython 3.13)", function()
    local ran = false
    local task = peri.create_task(function()
      ran = true
      peri.sleep(0)
      return "went on"
    end)
    task:cancel()
    assert.equal(0, task:uncancel())
    assert.equal("went on", task:await())
    assert.is_true(ran)
  end)
end)

describe("iscancel and peri.pcall", function()
  it("tell a cancellation from other errors", function()
    assert.is_true(peri.iscancel(peri.CancelledError()))
    assert.is_false(peri.iscancel(peri.TimeoutError()))
    for _, other in ipairs { "x", 1, {}, false } do assert.is_false(peri.iscancel(other)) end
    assert.is_false(peri.iscancel(nil))
  end)

  it("let a cancellation through", function()
    local reached = false
    local task = peri.create_task(function()
      peri.pcall(peri.sleep, 60)
      reached = true
    end)
    peri.sleep(0)
    task:cancel()
    ended(task)
    assert.is_true(task:cancelled())
    assert.is_false(reached)
  end)
end)

describe("a wait that is cancelled and won at once", function()
  it("leaves the awaited task as it was when the awaiter is shielded from it", function()
    local lines, say = trace()
    local inner = peri.create_task(function()
      peri.sleep(1)
      say "inner ended"
    end)
    local outer = peri.create_task(function() peri.shield(inner):await() end)
    spin(2)
    outer:cancel()
    ended(outer)
    assert.is_true(outer:cancelled())
    inner:await()
    assert.same({ "inner ended" }, lines)
  end)
end)
