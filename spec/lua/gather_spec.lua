local peri = require "perilune"
local support = require "support"
local raises, trace, spin = support.raises, support.trace, support.spin

local function after(delay, ...)
  return peri.call(peri.sleep, delay, ...)
end

describe("gather", function()
  it("gives the results in the order of its arguments", function()
    local results = peri.gather(after(3, "a"), after(1, "b"), after(2, "c")):await()
    assert.same({ n = 3, "a", "b", "c" }, results)
  end)

  it("takes functions, tasks, futures and coroutine objects, or one list of them", function()
    local future = peri.Future()
    future:set_result "future"
    local list = {
      function() return "function" end, peri.create_task(function() return "task" end),
      future, after(0, "coroutine"),
    }
    assert.same({ n = 4, "function", "task", "future", "coroutine" }, peri.gather(list):await())
  end)

  it("keeps first values only, nils in their places", function()
    local results = peri.gather(
      function() return nil, "dropped" end,
      function() end,
      function() return 3, "dropped" end
    ):await()
    assert.same({ n = 3, nil, nil, 3 }, results)
  end)

  it("of nothing is done at once", function()
    assert.same({ n = 0 }, peri.gather():await())
    assert.same({ n = 0 }, peri.gather({}):await())
  end)

  it("of done futures is done at once (CPython 3.12)", function()
    local future = peri.Future()
    future:set_result(1)
    local gather = peri.gather(future, future)
    assert.is_true(gather:done())
    assert.same({ n = 2, 1, 1 }, gather:result())
  end)

  it("runs one awaitable once however often it is named", function()
    local count = 0
    local coro = peri.call(function()
      count = count + 1
      return count
    end)
    assert.same({ n = 3, 1, 1, 1 }, peri.gather(coro, coro, coro):await())
  end)

  it("resumes its awaiter two trips after the last child (CPython)", function()
    local trips = 0
    local counting = true
    local counter = peri.create_task(function()
      while counting do
        peri.sleep(0)
        trips = trips + 1
      end
    end)
    local at
    local gather = peri.gather(function()
      spin(2)
      at = trips
    end)
    gather:await()
    assert.equal(2, trips - at)
    counting = false
    counter:await()
  end)

  it("raises the first error, the others go on", function()
    local lines, say = trace()
    local fault = {}
    local gather = peri.gather(
      function() peri.sleep(2) say "first goes on" end,
      function() peri.sleep(1) error(fault) end
    )
    local ok, err = pcall(gather.await, gather)
    assert.is_false(ok)
    assert.equal(fault, err)
    assert.same({}, lines)
    peri.sleep(2)
    assert.same({ "first goes on" }, lines)
  end)

  it("with return_exceptions gives errors as results", function()
    local fault = {}
    local results = peri.gather({
      function() error(fault) end,
      function() return "fine" end,
    }, { return_exceptions = true }):await()
    assert.same({ n = 2, fault, "fine" }, results)
  end)

  it("with return_exceptions gives a cancelled child's error, its message too", function()
    local a, b = peri.create_task(peri.sleep, 60), peri.create_task(peri.sleep, 60)
    local c = peri.create_task(peri.sleep, 60)
    local gather = peri.gather({ a, b, c, function() return "fine" end }, { return_exceptions = true })
    peri.sleep(0)
    a:cancel "the message"
    b:cancel()
    c:kill()
    local results = gather:await()
    assert.equal(4, results.n)
    assert.equal("CancelledError: the message", tostring(results[1]))
    assert.equal("CancelledError", tostring(results[2]))
    assert.is_true(peri.iscancel(results[3]))
    assert.equal("fine", results[4])
  end)

  it("refuses two lists, call tables and other values", function()
    raises(peri.TypeError, "bad argument #1 to 'gather' (item 1 of the list: awaitable expected, got number)",
      peri.gather, 42)
    raises(peri.TypeError, "bad argument #2 to 'gather' (one list, or awaitables and functions expected, got table)",
      peri.gather, {}, { print })
  end)
end)

describe("cancelling a gather", function()
  it("cancels every child, and is raised when the first has ended", function()
    local lines, say = trace()
    local tasks = {}
    for i = 1, 2 do
      tasks[i] = peri.create_task(function()
        local _ <close> = support.finally(function()
          peri.sleep(i)
          say("ended", i)
        end)
        peri.sleep(60)
      end)
    end
    local gather = peri.gather(tasks)
    local waiter = peri.create_task(gather.await, gather)
    spin(2)
    waiter:cancel()
    pcall(waiter.await, waiter)
    assert.same({ "ended 1" }, lines)
    assert.is_true(waiter:cancelled())
    pcall(tasks[2].await, tasks[2])
    assert.same({ "ended 1", "ended 2" }, lines)
  end)

  it("with return_exceptions is raised when all have ended", function()
    local lines, say = trace()
    local functions = {}
    for i = 1, 2 do
      functions[i] = function()
        local _ <close> = support.finally(function()
          peri.sleep(i)
          say("ended", i)
        end)
        peri.sleep(60)
      end
    end
    local gather = peri.gather(functions, { return_exceptions = true })
    spin(2)
    assert.is_true(gather:cancel())
    raises(peri.CancelledError, "", gather.await, gather)
    assert.same({ "ended 1", "ended 2" }, lines)
  end)

  it("is raised even if every child swallowed it", function()
    local gather = peri.gather(function()
      pcall(peri.sleep, 60)
      return "swallowed"
    end)
    spin(1)
    gather:cancel()
    local ok, err = pcall(gather.await, gather)
    assert.is_false(ok)
    assert.is_true(peri.iscancel(err))
  end)

  it("of a done one does nothing", function()
    local gather = peri.gather(function() return 1 end)
    gather:await()
    assert.is_false(gather:cancel())
    assert.same({ n = 1, 1 }, gather:result())
  end)

  it("is not what a child's own cancellation is (CPython)", function()
    local child = peri.create_task(peri.sleep, 60)
    local gather = peri.gather(child, function() return "fine" end)
    spin(1)
    child:cancel()
    local ok, err = pcall(gather.await, gather)
    assert.is_false(ok)
    assert.is_true(peri.iscancel(err))
    assert.is_false(gather:cancelled())
  end)
end)

describe("all", function()
  it("waits and returns the values", function()
    local a, b, c = peri.all(function() return peri.sleep(2, "a") end, function() end, after(1, "c"))
    assert.same({ "a", nil, "c" }, { a, b, c })
  end)
end)
