-- As in CPython 3.12 and later: the awaitable runs inline, in the caller's
-- task, under a timeout scope.
local peri = require "perilune"
local support = require "support"
local raises, trace, spin = support.raises, support.trace, support.spin

describe("wait_for", function()
  it("returns every value of what ends in time", function()
    assert.same({ n = 3, 1, nil, 3 }, table.pack(peri.wait_for(peri.call(peri.sleep, 1, 1, nil, 3), 5)))
  end)

  it("runs a function or a coroutine object in the caller's own task", function()
    local me = peri.current_task()
    assert.equal(me, peri.wait_for(peri.call(peri.current_task), 5))
    assert.equal(me, peri.wait_for(peri.current_task, 5))
  end)

  it("without a timeout waits without limit", function()
    assert.equal("x", peri.wait_for(peri.call(peri.sleep, 1e6, "x"), nil))
  end)

  it("raises TimeoutError when the time is up, the cancellation as its cause", function()
    local loop = peri.get_running_loop()
    local start = loop:time()
    local ok, err = pcall(peri.wait_for, peri.call(peri.sleep, 60), 2)
    assert.is_false(ok)
    assert.is_true(peri.TimeoutError:is(err))
    assert.is_true(peri.iscancel(err.cause))
    assert.is_true(math.abs(loop:time() - start - 2) < 1e-6)
    assert.equal(0, peri.current_task():cancelling())
  end)

  it("cancels the task it waited for and waits for its clean-up", function()
    local lines, say = trace()
    local task = peri.create_task(function()
      local _ <close> = support.finally(function()
        peri.sleep(5)
        say "cleaned up"
      end)
      peri.sleep(60)
    end)
    raises(peri.TimeoutError, "", peri.wait_for, task, 1)
    assert.same({ "cleaned up" }, lines)
    assert.is_true(task:cancelled())
  end)

  it("hands on the error of what it waited for", function()
    local fault = {}
    local ok, err = pcall(peri.wait_for, function() error(fault) end, 5)
    assert.is_false(ok)
    assert.equal(fault, err)
  end)

  it("of nought times out at once, unless all is done already", function()
    local future = peri.Future()
    raises(peri.TimeoutError, "", peri.wait_for, future, 0)
    assert.is_true(future:cancelled())
    local done = peri.Future()
    done:set_result "x"
    assert.equal("x", peri.wait_for(done, 0))
    assert.equal("x", peri.wait_for(done, -1))
  end)

  it("passes a cancellation from outside through", function()
    local task = peri.create_task(peri.wait_for, peri.call(peri.sleep, 60), 100)
    spin(2)
    task:cancel "outside"
    pcall(task.await, task)
    assert.is_true(task:cancelled())
    raises(peri.CancelledError, "outside", task.result, task)
  end)

  it("keeps a result that came in the round of the deadline (no lost value)", function()
    local future = peri.Future()
    local loop = peri.get_running_loop()
    local seen
    local waiter = peri.create_task(function()
      seen = table.pack(pcall(peri.wait_for, future, 5))
    end)
    peri.sleep(0)
    loop:call_later(4.9, future.set_result, future, "just in time")
    waiter:await()
    assert.same({ n = 2, true, "just in time" }, seen)
  end)
end)
