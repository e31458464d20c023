local peri = require "perilune"
local support = require "support"
local raises, trace, spin = support.raises, support.trace, support.spin

local InvalidStateError = peri.InvalidStateError

describe("a future", function()
  it("is pending at first", function()
    local future = peri.Future()
    assert.is_false(future:done())
    assert.is_false(future:cancelled())
    raises(InvalidStateError, "Result is not set.", future.result, future)
    raises(InvalidStateError, "Exception is not set.", future.exception, future)
  end)

  it("belongs to the loop that made it", function()
    local loop = peri.get_running_loop()
    assert.equal(loop, peri.Future():get_loop())
    assert.equal(loop, loop:create_future():get_loop())
  end)

  it("carries every value of its result", function()
    local future = peri.Future()
    future:set_result(nil, 2, nil)
    assert.is_true(future:done())
    assert.same({ n = 3, nil, 2, nil }, table.pack(future:result()))
    assert.same({ n = 3, nil, 2, nil }, table.pack(future:await()))
    assert.is_nil(future:exception())
  end)

  it("may carry no value at all", function()
    local future = peri.Future()
    future:set_result()
    assert.equal(0, select("#", future:result()))
    assert.equal(0, select("#", future:await()))
  end)

  it("raises the very error it was given", function()
    for _, fault in ipairs { peri.ValueError "bad", {}, "text", 42, true } do
      local future = peri.Future()
      future:set_exception(fault)
      assert.equal(fault, future:exception())
      for _, ask in ipairs { future.result, future.await } do
        local ok, err = pcall(ask, future)
        assert.is_false(ok)
        assert.equal(fault, err)
      end
    end
  end)

  it("takes no nil for an error", function()
    local future = peri.Future()
    raises(peri.TypeError, "bad argument #1 to 'set_exception' (error value expected)",
      function() future:set_exception(nil) end)
    assert.is_false(future:done())
  end)

  it("refuses a second result and keeps the first", function()
    local future = peri.Future()
    future:set_result(1)
    raises(InvalidStateError, "set_result: the future is already finished: " .. tostring(future),
      future.set_result, future, 2)
    raises(InvalidStateError, "set_exception: the future is already finished: " .. tostring(future),
      future.set_exception, future, "x")
    assert.equal(1, future:result())
  end)

  it("refuses a result after an error and after a cancellation", function()
    local failed, cancelled = peri.Future(), peri.Future()
    failed:set_exception "first"
    cancelled:cancel()
    raises(InvalidStateError, "set_result: the future is already failed: " .. tostring(failed),
      failed.set_result, failed, 1)
    raises(InvalidStateError, "set_result: the future is already cancelled: " .. tostring(cancelled),
      cancelled.set_result, cancelled, 1)
    raises(InvalidStateError, "set_exception: the future is already cancelled: " .. tostring(cancelled),
      cancelled.set_exception, cancelled, "x")
    assert.equal("first", failed:exception())
  end)

  it("is told from other values by isfuture", function()
    assert.is_true(peri.isfuture(peri.Future()))
    for _, other in ipairs { 1, "x", {}, print, io.stdout } do
      assert.is_false(peri.isfuture(other))
    end
    assert.is_false(peri.isfuture(nil))
  end)

  it("says its state as text", function()
    local pending, finished, cancelled = peri.Future(), peri.Future(), peri.Future()
    finished:set_result(1)
    cancelled:cancel()
    assert.matches("^<Future pending>$", tostring(pending))
    assert.matches("^<Future finished>$", tostring(finished))
    assert.matches("^<Future cancelled>$", tostring(cancelled))
  end)

  it("refuses methods called without it", function()
    local future = peri.Future()
    assert.has_error(function() future.set_result(1) end)
    assert.has_error(function() future.await() end)
    assert.is_false(future:done())
  end)
end)

describe("cancelling a future", function()
  it("works once and carries its message", function()
    local future = peri.Future()
    assert.is_true(future:cancel "no longer needed")
    assert.is_false(future:cancel "twice")
    assert.is_true(future:done())
    assert.is_true(future:cancelled())
    for _, ask in ipairs { future.result, future.exception, future.await } do
      raises(peri.CancelledError, "no longer needed", ask, future)
    end
    assert.equal(0, peri.current_task():cancelling())
  end)

  it("does nothing to a finished one", function()
    local future = peri.Future()
    future:set_result "kept"
    assert.is_false(future:cancel())
    assert.is_false(future:cancelled())
    assert.equal("kept", future:result())
  end)

  it("without a message gives an empty one", function()
    local future = peri.Future()
    future:cancel()
    raises(peri.CancelledError, "", future.result, future)
  end)
end)

describe("done callbacks", function()
  it("are queued, never called at once, in the order they were added", function()
    local lines, say = trace()
    local future = peri.Future()
    future:add_done_callback(function(f) say("first", f == future, f:result()) end)
    future:add_done_callback(function() say "second" end)
    peri.get_running_loop():call_soon(say, "soon")
    future:set_result "x"
    assert.same({}, lines)
    peri.sleep(0)
    assert.same({ "soon", "first true x", "second" }, lines)
  end)

  it("added to a done future are queued too", function()
    local lines, say = trace()
    local future = peri.Future()
    future:set_result()
    future:add_done_callback(function() say "called" end)
    assert.same({}, lines)
    peri.sleep(0)
    assert.same({ "called" }, lines)
  end)

  it("can be removed, all copies of one at a time", function()
    local lines, say = trace()
    local future = peri.Future()
    local function twice() say "twice" end
    local function once() say "once" end
    future:add_done_callback(twice)
    future:add_done_callback(once)
    future:add_done_callback(twice)
    assert.equal(2, future:remove_done_callback(twice))
    assert.equal(0, future:remove_done_callback(twice))
    future:set_result()
    peri.sleep(0)
    assert.same({ "once" }, lines)
  end)

  it("that raise are reported, and the others run", function()
    local lines, say = trace()
    local reports = support.reports()
    local future = peri.Future()
    future:add_done_callback(function() error("bad callback", 0) end)
    future:add_done_callback(function() say "still called" end)
    future:set_result()
    peri.sleep(0)
    assert.same({ "still called" }, lines)
    assert.equal(1, #reports)
    assert.equal("bad callback", reports[1].exception)
  end)

  it("must be callable", function()
    local future = peri.Future()
    raises(peri.TypeError, "bad argument #1 to 'add_done_callback' (function expected, got string)",
      function() future:add_done_callback "no" end)
  end)
end)

describe("awaiting a future", function()
  it("wakes its waiters in the order they came", function()
    local lines, say = trace()
    local future = peri.Future()
    for i = 1, 3 do
      peri.create_task(function() say(i, future:await()) end)
    end
    peri.sleep(0)
    future:set_result "x"
    assert.same({}, lines)
    peri.sleep(0)
    assert.same({ "1 x", "2 x", "3 x" }, lines)
    peri.sleep(0)
  end)

  it("does not go back to the loop when it is done", function()
    local ran = false
    local future = peri.Future()
    future:set_result(1)
    peri.get_running_loop():call_soon(function() ran = true end)
    assert.equal(1, future:await())
    assert.is_false(ran)
    peri.sleep(0)
    assert.is_true(ran)
  end)

  it("works through peri.await as well", function()
    local future = peri.Future()
    future:set_result(1, 2)
    assert.same({ 1, 2 }, { peri.await(future) })
  end)

  it("is cancelled for both tasks when one of them is cancelled (CPython)", function()
    local future = peri.Future()
    local a = peri.create_task(future.await, future)
    local b = peri.create_task(future.await, future)
    peri.sleep(0)
    a:cancel()
    spin(2)
    assert.is_true(future:cancelled())
    assert.is_true(a:cancelled())
    assert.is_true(b:cancelled())
  end)
end)

describe("a failed future", function()
  it("that nobody asked is reported when it is collected", function()
    local reports = support.reports()
    do
      local future = peri.Future()
      future:set_exception "lost"
    end
    support.collect()
    spin(2)
    assert.equal(1, #reports)
    assert.equal("Future exception was never retrieved", reports[1].message)
    assert.equal("lost", reports[1].exception)
  end)

  it("that was asked is not", function()
    local reports = support.reports()
    do
      local a, b, c = peri.Future(), peri.Future(), peri.Future()
      a:set_exception "x"
      b:set_exception "x"
      c:set_exception "x"
      a:exception()
      pcall(b.result, b)
      pcall(c.await, c)
    end
    support.collect()
    spin(2)
    assert.same({}, reports)
  end)

  it("is reported at the latest when its loop closes", support.top_level(function()
    local loop = peri.new_event_loop()
    local told
    loop:set_exception_handler(function(_, context) told = context end)
    local future = loop:create_future()
    future:set_exception "kept to the end"
    loop:close()
    assert.equal("Future exception was never retrieved", told.message)
    assert.equal("kept to the end", told.exception)
    assert.equal("kept to the end", future:exception())
  end))
end)
