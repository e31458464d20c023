local peri = require "perilune"
local support = require "support"
local raises, trace, spin = support.raises, support.trace, support.spin

describe("create_task", function()
  it("starts its function in the next round, with its arguments", function()
    local lines, say = trace()
    local task = peri.create_task(say, "a", nil, "c")
    say "first"
    peri.sleep(0)
    assert.same({ "first", "a nil c" }, lines)
    assert.is_true(task:done())
  end)

  it("takes a coroutine object", function()
    local task = peri.create_task(peri.call(function(x) return x end, "x"))
    assert.equal("x", task:await())
  end)

  it("takes a call table", function()
    local task = peri.create_task { function(...) return select("#", ...), ... end, 1, nil, 3, n = 4, name = "named" }
    assert.equal("named", task:get_name())
    assert.same({ n = 4, 3, 1, nil, 3 }, table.pack(task:await()))
  end)

  it("says what to do when it is given the result of a wait", function()
    raises(peri.TypeError,
      "a task needs a function or a coroutine object, got nothing: "
      .. "pass the function: create_task(peri.sleep, 1)",
      function() peri.create_task(peri.sleep(0)) end)
    raises(peri.TypeError,
      "a task needs a function or a coroutine object, got nil: "
      .. "pass the function: create_task(peri.sleep, 1)",
      function() peri.create_task(nil) end)
  end)

  it("refuses other values", function()
    for _, create in ipairs {
      peri.create_task,
      function(x) return peri.get_running_loop():create_task(x) end,
      function(x) return peri.create_task { x } end,
    } do
      raises(peri.TypeError, "a task needs a function or a coroutine object, got a number", create, 42)
    end
    raises(peri.TypeError,
      "a task needs a function or a coroutine object, got a future (ensure_future takes any awaitable)",
      peri.create_task, peri.Future())
    local coro = peri.call(print)
    raises(peri.TypeError, "a coroutine object has its arguments already", peri.create_task, coro, 1)
  end)

  it("is a method of loops", function()
    local task = peri.get_running_loop():create_task(function(x) return x end, 7)
    assert.equal(7, task:await())
  end)
end)

describe("Task", function()
  it("is made of a target and its arguments", function()
    local task = peri.Task { target = function(a, b) return b, a end, args = { 1, 2 }, name = "T" }
    assert.equal("T", task:get_name())
    assert.same({ 2, 1 }, { task:await() })
  end)
end)

describe("spawn", function()
  it("gives no handle", function()
    local ran
    assert.equal(0, select("#", peri.spawn(function(x) ran = x end, "x")))
    peri.sleep(0)
    assert.equal("x", ran)
  end)

  it("has its error reported at once", function()
    local reports = support.reports()
    peri.spawn(function() error("lost at once", 0) end)
    spin(2)
    assert.equal(1, #reports)
    assert.equal("lost at once", reports[1].exception)
  end)
end)

describe("a task", function()
  it("has every value that its function returned", function()
    local task = peri.create_task(function() return nil, 2, nil end)
    assert.same({ n = 3, nil, 2, nil }, table.pack(task:await()))
    assert.same({ n = 3, nil, 2, nil }, table.pack(task:result()))
  end)

  it("passes its error on unchanged", function()
    for _, fault in ipairs { {}, "text", 42, false, peri.ValueError "bad" } do
      local task = peri.create_task(error, fault, 0)
      local ok, err = pcall(task.await, task)
      assert.is_false(ok)
      assert.equal(fault, err)
      assert.equal(fault, task:exception())
    end
  end)

  it("tells a nil error as a RuntimeError", function()
    local task = peri.create_task(error)
    raises(peri.RuntimeError, "error(nil) was raised", task.await, task)
  end)

  it("is the same Lua value wherever it comes from", function()
    local key
    local task = peri.create_task(function()
      key = { [peri.current_task()] = true }
      peri.sleep(0)
    end)
    peri.sleep(0)
    assert.is_true(key[task])
    local found = 0
    for _, other in ipairs(peri.all_tasks()) do
      if other == task then found = found + 1 end
    end
    assert.equal(1, found)
    task:await()
  end)

  it("is named by its number, or as it was told", function()
    local a, b = peri.create_task(print), peri.create_task(print)
    a:cancel()
    b:cancel()
    local x, y = a:get_name():match "^Task%-(%d+)$", b:get_name():match "^Task%-(%d+)$"
    assert.equal(tonumber(x) + 1, tonumber(y))
    a:set_name "mine"
    assert.equal("mine", a:get_name())
    spin(2)
  end)

  it("leaves nothing of its name behind #heavy", function()
    local function named(n)
      for i = 1, n do
        peri.create_task { function() end, name = ("a name of some length, number %d"):format(i) }
        peri.sleep(0)
      end
      support.collect()
      return collectgarbage "count"
    end
    -- The tables have their size after the first; 3,000 names are 200 KB.
    named(3000)
    local before = named(3000)
    assert.is_true(named(3000) - before < 100)
  end)

  it("says its name and state as text", function()
    local task = peri.create_task { peri.sleep, 0, name = "sleeper" }
    assert.matches("^<Task sleeper pending>$", tostring(task))
    task:await()
    assert.matches("^<Task sleeper finished>$", tostring(task))
  end)

  it("cannot be given a result", function()
    local task = peri.create_task(peri.sleep, 0)
    raises(peri.RuntimeError, "Task does not support set_result", task.set_result, task, 1)
    raises(peri.RuntimeError, "Task does not support set_exception", task.set_exception, task, "x")
    task:await()
  end)

  it("cannot await itself", function()
    local task
    task = peri.create_task { function() task:await() end, name = "narcissus" }
    local ok, err = pcall(task.await, task)
    assert.is_false(ok)
    assert.is_true(peri.RuntimeError:is(err))
    assert.matches("^Task cannot await on itself: <Task narcissus pending>$", err.message)
  end)

  it("is collected neither while it runs nor while it waits", function()
    local ended = 0
    for _ = 1, 50 do
      peri.create_task(function()
        peri.sleep(1)
        ended = ended + 1
      end)
    end
    peri.sleep(0)
    support.collect()
    peri.sleep(2)
    assert.equal(50, ended)
  end)

  it("runs its done callbacks one round after its end, and its awaiter with them", function()
    local lines, say = trace()
    local task = peri.create_task(function()
      peri.sleep(0)
      say "body"
    end)
    task:add_done_callback(function() say "callback" end)
    local waiter = peri.create_task(function()
      task:await()
      say "waiter"
    end)
    peri.sleep(0)
    peri.get_running_loop():call_soon(say, "same round")
    peri.sleep(0)
    assert.same({ "body", "same round" }, lines)
    waiter:await()
    assert.same({ "body", "same round", "callback", "waiter" }, lines)
  end)

  it("that failed unseen is reported when it is collected", function()
    local reports = support.reports()
    peri.create_task { error, "lost", 0, name = "loser" }
    spin(2)
    support.collect()
    spin(2)
    assert.equal(1, #reports)
    assert.equal("Task exception was never retrieved", reports[1].message)
    assert.equal("lost", reports[1].exception)
  end)

  it("that failed unseen is reported when its loop closes", support.top_level(function()
    local loop = peri.new_event_loop()
    local told
    loop:set_exception_handler(function(_, context) told = context end)
    local task = loop:create_task(error, "kept", 0)
    loop:run_until_complete(function() spin(2) end)
    assert.is_nil(told)
    loop:close()
    assert.equal("Task exception was never retrieved", told.message)
    assert.equal("kept", told.exception)
    assert.is_true(task:done())
  end))

  it("keeps where its error came from", function()
    local task = peri.create_task(function()
      local function deep() error "here" end
      deep()
    end)
    pcall(task.await, task)
    local text = task:traceback()
    assert.matches("^stack traceback:\n", text)
    assert.matches("tasks_spec.lua:%d+: in .*deep", text)
  end)

  it("shows where it stands while it waits", function()
    local task = peri.create_task(function()
      local function stand() peri.sleep(1) end
      stand()
    end)
    peri.sleep(0)
    assert.matches("tasks_spec.lua:%d+: in .*stand", task:traceback())
    task:await()
  end)
end)

describe("current_task and all_tasks", function()
  it("know who runs, and who has not ended", function()
    local me = peri.current_task()
    local seen
    local task = peri.create_task(function()
      seen = peri.current_task()
      peri.sleep(0)
    end)
    assert.equal(2, #peri.all_tasks())
    peri.sleep(0)
    assert.equal(task, seen)
    assert.equal(me, peri.current_task())
    task:await()
    assert.same({ me }, peri.all_tasks())
  end)

  it("list tasks in the order they were made", function()
    local tasks = { peri.current_task() }
    for i = 2, 6 do tasks[i] = peri.create_task(peri.sleep, 0) end
    assert.same(tasks, peri.all_tasks())
    tasks[3]:cancel()
    spin(3)
    assert.same({ tasks[1] }, peri.all_tasks())
  end)

  it("find no task in a callback", function()
    local seen = "unset"
    peri.get_running_loop():call_soon(function() seen = peri.current_task() end)
    peri.sleep(0)
    assert.is_nil(seen)
  end)
end)

describe("sleep", function()
  it("returns the values it was given", function()
    assert.same({ n = 3, 1, nil, 3 }, table.pack(peri.sleep(0, 1, nil, 3)))
    assert.same({ n = 2, "x", nil }, table.pack(peri.sleep(0.5, "x", nil)))
    assert.equal(0, select("#", peri.sleep(0)))
  end)

  it("of nothing is one trip round the loop", function()
    local lines, say = trace()
    local task = peri.create_task(function()
      for i = 1, 3 do
        say(i)
        peri.sleep(0)
      end
    end)
    for i = 1, 3 do
      peri.sleep(0)
      assert.equal(i, #lines)
    end
    task:await()
  end)

  it("of less than nothing is the same (CPython)", function()
    local before = peri.get_running_loop():time()
    local ran = false
    peri.get_running_loop():call_soon(function() ran = true end)
    peri.sleep(-5)
    assert.is_true(ran)
    assert.equal(before, peri.get_running_loop():time())
  end)

  it("refuses NaN (CPython)", function()
    raises(peri.ValueError, "Invalid delay: NaN (not a number)", peri.sleep, 0 / 0)
  end)

  it("refuses what is not a number", function()
    raises(peri.TypeError, "bad argument #1 to 'sleep' (number expected, got string)",
      function() peri.sleep "soon" end)
    raises(peri.TypeError, "bad argument #1 to 'sleep' (number expected, got no value)",
      function() peri.sleep() end)
  end)

  it("of infinity waits until it is cancelled", function()
    local task = peri.create_task(peri.sleep, math.huge)
    peri.sleep(1e6)
    assert.is_false(task:done())
    task:cancel()
    pcall(task.await, task)
    assert.is_true(task:cancelled())
  end)
end)

describe("a coroutine object", function()
  it("runs inline, in the task that awaits it", function()
    local ran = false
    local me = peri.current_task()
    peri.get_running_loop():call_soon(function() ran = true end)
    local coro = peri.call(function(...) return peri.current_task(), ... end, 1, nil, 3)
    assert.same({ n = 4, me, 1, nil, 3 }, table.pack(coro:await()))
    assert.is_false(ran)
    peri.sleep(0)
  end)

  it("does not start before it is awaited", function()
    local ran = false
    local coro = peri.call(function() ran = true end)
    spin(3)
    assert.is_false(ran)
    peri.await(coro)
    assert.is_true(ran)
  end)

  it("can be awaited once", function()
    local coro = peri.call(print)
    local silent = peri.call(function() end)
    silent:await()
    raises(peri.RuntimeError, "cannot reuse already awaited coroutine", silent.await, silent)
    raises(peri.RuntimeError, "cannot reuse already awaited coroutine", peri.create_task, silent)
    assert.is_true(peri.iscoroutine(coro))
  end)

  it("is made by async functions, which iscoroutinefunction knows", function()
    local add = peri.async(function(a, b) return a + b end)
    local coro = add(1, 2)
    assert.is_true(peri.iscoroutine(coro))
    assert.is_true(peri.iscoroutinefunction(add))
    assert.is_false(peri.iscoroutinefunction(print))
    assert.is_false(peri.iscoroutine(print))
    assert.is_false(peri.iscoroutine(coroutine.create(print)))
    assert.equal(3, coro:await())
  end)

  it("raises its error where it is awaited", function()
    local fault = {}
    local ok, err = pcall(peri.await, peri.call(error, fault))
    assert.is_false(ok)
    assert.equal(fault, err)
  end)
end)

describe("peri.await", function()
  it("takes what has an __await metamethod", function()
    local later = setmetatable({ delay = 3 }, {
      __await = function(self) return peri.sleep(self.delay, "a", nil, "c") end,
    })
    assert.same({ n = 3, "a", nil, "c" }, table.pack(peri.await(later)))
    local task = peri.ensure_future(later)
    assert.is_true(peri.isfuture(task))
    assert.equal("a", (task:await()))
  end)

  it("refuses a function and says what to write", function()
    raises(peri.TypeError, "a function cannot be awaited: call it, or await call(f, ...)",
      peri.await, print)
  end)

  it("refuses other values", function()
    raises(peri.TypeError, "bad argument #1 to 'await' (awaitable expected, got number)",
      function() peri.await(42) end)
    raises(peri.TypeError, "bad argument #1 to 'await' (awaitable expected, got nil)",
      function() peri.await() end)
    raises(peri.TypeError, "bad argument #1 to 'await' (awaitable expected, got table)",
      function() peri.await({}) end)
  end)
end)

describe("ensure_future", function()
  it("gives a future back and makes tasks of the rest", function()
    local future = peri.Future()
    assert.equal(future, peri.ensure_future(future))
    local task = peri.create_task(peri.sleep, 0)
    assert.equal(task, peri.ensure_future(task))
    assert.equal(5, peri.ensure_future(peri.call(function() return 5 end)):await())
    task:await()
  end)

  it("refuses what is not awaitable", function()
    raises(peri.TypeError, "bad argument #1 to 'ensure_future' (awaitable expected, got number)",
      function() peri.ensure_future(42) end)
  end)
end)

describe("depth #heavy", function()
  it("of 10,000 coroutine objects awaiting each other is fine", function()
    local function nest(n)
      if n == 0 then return "bottom" end
      return peri.await(peri.call(nest, n - 1))
    end
    assert.equal("bottom", nest(10000))
  end)

  it("of 10,000 coroutine objects, the innermost waiting, is fine", function()
    local function nest(n)
      if n == 0 then return peri.sleep(1, "slept") end
      local result = peri.await(peri.call(nest, n - 1))
      return result
    end
    assert.equal("slept", nest(10000))
  end)

  it("without end is a RuntimeError", function()
    local function nest()
      local result = peri.await(peri.call(nest))
      return result
    end
    local task = peri.create_task(nest)
    local ok, err = pcall(task.await, task)
    assert.is_false(ok)
    assert.is_true(peri.RuntimeError:is(err))
    assert.equal("await is nested too deep (coroutine objects that await each other without end?)", err.message)
    assert.equal("alive", peri.sleep(0, "alive"))
  end)

  it("of 100,000 tasks that each await the next is fine", function()
    local count = 100000
    local function link(n)
      if n == 0 then return peri.sleep(1, "end of the chain") end
      return (peri.create_task(link, n - 1):await())
    end
    assert.equal("end of the chain", peri.create_task(link, count):await())
  end)

  it("of 100,000 tasks can be cancelled from its head", function()
    local cancelled = 0
    local function link(n)
      local _ <close> = support.finally(function(err)
        if peri.iscancel(err) then cancelled = cancelled + 1 end
      end)
      if n == 0 then return peri.sleep(1000) end
      return (peri.create_task(link, n - 1):await())
    end
    local head = peri.create_task(link, 100000)
    peri.sleep(1)
    head:cancel()
    pcall(head.await, head)
    assert.is_true(head:cancelled())
    assert.equal(100001, cancelled)
  end)
end)
