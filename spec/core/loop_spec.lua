local peri = require "perilune"
local support = require "support"
local raises, trace, spin = support.raises, support.trace, support.spin
local top_level = support.top_level

describe("call_soon", function()
  it("runs callbacks in the order of the calls, with their arguments", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    loop:call_soon(say, "first")
    loop:call_soon(say, "second", 2, nil, true)
    loop:call_soon(say, "third")
    assert.same({}, lines)
    peri.sleep(0)
    assert.same({ "first", "second 2 nil true", "third" }, lines)
  end)

  it("runs in the next round what a callback adds", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    loop:call_soon(function()
      say "first"
      loop:call_soon(say, "added")
    end)
    loop:call_soon(say, "second")
    peri.sleep(0)
    assert.same({ "first", "second" }, lines)
    peri.sleep(0)
    assert.same({ "first", "second", "added" }, lines)
  end)

  it("gives a handle, which cancels the call", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    local handle = loop:call_soon(say, "never")
    loop:call_soon(say, "yes")
    assert.is_false(handle:cancelled())
    handle:cancel()
    handle:cancel()
    assert.is_true(handle:cancelled())
    peri.sleep(0)
    assert.same({ "yes" }, lines)
  end)

  it("lets one callback cancel another of the same round", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    local second
    loop:call_soon(function() second:cancel() end)
    second = loop:call_soon(say, "never")
    loop:call_soon(say, "third")
    peri.sleep(0)
    assert.same({ "third" }, lines)
  end)

  it("refuses what cannot be called", function()
    local loop = peri.get_running_loop()
    raises(peri.TypeError, "bad argument #1 to 'call_soon' (function expected, got number)",
      function() loop:call_soon(42) end)
    raises(peri.TypeError, "bad argument #1 to 'call_soon' (function expected, got no value)",
      function() loop:call_soon() end)
  end)

  it("takes a callable table", function()
    local got
    peri.get_running_loop():call_soon(setmetatable({}, {
      __call = function(_, x) got = x end,
    }), "x")
    peri.sleep(0)
    assert.equal("x", got)
  end)

  it("keeps order with call_soon_threadsafe on its own thread", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    loop:call_soon_threadsafe(say, 1, nil)
    loop:call_soon_threadsafe(say, 2)
    spin(2)
    assert.same({ "1 nil", "2" }, lines)
  end)
end)

describe("an error in a callback", function()
  it("goes to the exception handler, and the loop goes on", function()
    local lines, say = trace()
    local reports = support.reports()
    local loop = peri.get_running_loop()
    loop:call_soon(error, { code = 7 })
    loop:call_soon(say, "still here")
    peri.sleep(0)
    assert.same({ "still here" }, lines)
    assert.equal(1, #reports)
    assert.same({ code = 7 }, reports[1].exception)
    assert.equal("an error in a call_soon callback", reports[1].message)
  end)

  it("is told with the loop as the handler's first argument", function()
    local loop = peri.get_running_loop()
    local seen
    loop:set_exception_handler(function(l) seen = l end)
    loop:call_soon(error, "bad")
    peri.sleep(0)
    assert.equal(loop, seen)
  end)

  it("keeps a nil error apart from no error", function()
    local reports = support.reports()
    peri.get_running_loop():call_soon(error)
    peri.sleep(0)
    assert.equal(1, #reports)
    assert.is_true(peri.RuntimeError:is(reports[1].exception))
    assert.equal("error(nil) was raised", reports[1].exception.message)
  end)
end)

describe("the exception handler", function()
  it("is nil at first, and what was set", function()
    local loop = peri.new_event_loop()
    assert.is_nil(loop:get_exception_handler())
    local function handler() end
    loop:set_exception_handler(handler)
    assert.equal(handler, loop:get_exception_handler())
    loop:set_exception_handler(nil)
    assert.is_nil(loop:get_exception_handler())
    loop:close()
  end)

  it("must be a function or nil", function()
    local loop = peri.get_running_loop()
    raises(peri.TypeError, "bad argument #1 to 'set_exception_handler' (function expected, got string)",
      function() loop:set_exception_handler "no" end)
  end)

  it("gets the very context of call_exception_handler", function()
    local loop = peri.get_running_loop()
    local seen
    loop:set_exception_handler(function(_, context) seen = context end)
    local context = { message = "by hand", note = "mine" }
    loop:call_exception_handler(context)
    assert.equal(context, seen)
  end)

  it("is replaced by a log line when none is set", function()
    local _, err, code = support.run_code [[
      local peri = require "perilune"
      peri.get_running_loop():call_soon(error, "told at last")
      peri.sleep(0)
    ]]
    assert.equal(0, code)
    assert.equal("ERROR perilune: an error in a call_soon callback\ntold at last\n",
      err:match "^[^\n]*\n[^\n]*\n")
  end)

  it("that fails itself is reported with what it failed on", function()
    local _, err, code = support.run_code [[
      local peri = require "perilune"
      local loop = peri.get_running_loop()
      loop:set_exception_handler(function() error "handler broke" end)
      loop:call_soon(error, "first fault")
      peri.sleep(0)
      print "goes on"
    ]]
    assert.equal(0, code)
    assert.matches("the exception handler failed", err, 1, true)
    assert.matches("handler broke", err, 1, true)
    assert.matches("first fault", err, 1, true)
  end)
end)

describe("run_until_complete", function()
  it("returns every value of what it ran", top_level(function()
    local loop, _ <close> = support.loop()
    assert.same({ n = 3, 1, nil, 3 }, table.pack(loop:run_until_complete(function()
      return 1, nil, 3
    end)))
    assert.equal("x", loop:run_until_complete(peri.call(function(x) return x end, "x")))
    assert.is_false(loop:is_running())
  end))

  it("takes a future", top_level(function()
    local loop, _ <close> = support.loop()
    local future = loop:create_future()
    loop:call_later(0.001, function() future:set_result "late" end)
    assert.equal("late", loop:run_until_complete(future))
  end))

  it("raises the error unchanged", top_level(function()
    local loop, _ <close> = support.loop()
    local fault = {}
    local ok, err = pcall(loop.run_until_complete, loop, function() error(fault) end)
    assert.is_false(ok)
    assert.equal(fault, err)
  end))

  it("keeps other tasks for the next run", top_level(function()
    local loop, _ <close> = support.loop()
    local lines, say = trace()
    local task = loop:create_task(function()
      for i = 1, 5 do
        say(i)
        peri.sleep(0)
      end
      return "end"
    end)
    loop:run_until_complete(function() peri.sleep(0) end)
    assert.is_false(task:done())
    local before = #lines
    assert.equal("end", loop:run_until_complete(task))
    assert.is_true(before < #lines)
    assert.same({ "1", "2", "3", "4", "5" }, lines)
  end))

  it("parks the script's loop, whose tasks do not run", top_level(function()
    local ran = false
    local task = peri.create_task(function() ran = true end)
    local loop, _ <close> = support.loop()
    local inside, ran_meanwhile
    loop:run_until_complete(function()
      inside = peri.get_running_loop()
      for _ = 1, 5 do peri.sleep(0) end
      ran_meanwhile = ran
    end)
    assert.equal(loop, inside)
    assert.is_false(ran_meanwhile)
    assert.not_equal(loop, peri.get_running_loop())
    task:await()
    assert.is_true(ran)
  end))

  it("refuses a future of another loop", top_level(function()
    local loop, _ <close> = support.loop()
    local other, _ <close> = support.loop()
    local future = other:create_future()
    raises(peri.ValueError,
      "The future belongs to a different loop than the one that is to run",
      loop.run_until_complete, loop, future)
  end))

  it("refuses what is not awaitable", top_level(function()
    local loop, _ <close> = support.loop()
    raises(peri.TypeError, "bad argument #1 to 'run_until_complete' (awaitable expected, got number)",
      function() loop:run_until_complete(42) end)
  end))

  it("ended by stop is a RuntimeError", top_level(function()
    local loop, _ <close> = support.loop()
    local task = loop:create_task(peri.sleep, 60)
    loop:call_soon(loop.stop, loop)
    raises(peri.RuntimeError, "Event loop stopped before Future completed.",
      loop.run_until_complete, loop, task)
    task:cancel()
    pcall(loop.run_until_complete, loop, task)
    assert.is_true(task:cancelled())
  end))

  it("is refused inside another run", function()
    local loop = peri.new_event_loop()
    raises(peri.RuntimeError, "Cannot run the event loop while another loop is running",
      loop.run_until_complete, loop, function() end)
    loop:close()
  end)

  it("is refused on the loop that runs", function()
    local loop = peri.get_running_loop()
    raises(peri.RuntimeError, "This event loop is already running",
      loop.run_until_complete, loop, function() end)
    raises(peri.RuntimeError, "This event loop is already running",
      loop.run_forever, loop)
  end)
end)

describe("run_forever", function()
  it("runs until stop, and ends the round it is in", top_level(function()
    local loop, _ <close> = support.loop()
    local lines, say = trace()
    loop:call_soon(say, "a")
    loop:call_soon(loop.stop, loop)
    loop:call_soon(function()
      say "b"
      loop:call_soon(say, "next round")
    end)
    loop:run_forever()
    assert.same({ "a", "b" }, lines)
    assert.is_false(loop:is_running())
  end))

  it("runs one round when stop came before it", top_level(function()
    local loop, _ <close> = support.loop()
    local lines, say = trace()
    loop:stop()
    loop:call_soon(function()
      say "once"
      loop:call_soon(say, "twice")
    end)
    loop:run_forever()
    assert.same({ "once" }, lines)
  end))

  it("can be run again", top_level(function()
    local loop, _ <close> = support.loop()
    local lines, say = trace()
    for i = 1, 3 do
      loop:call_soon(say, i)
      loop:call_soon(loop.stop, loop)
      loop:run_forever()
    end
    assert.same({ "1", "2", "3" }, lines)
  end))
end)

describe("a closed loop", function()
  local function closed()
    local loop = peri.new_event_loop()
    loop:close()
    return loop
  end

  it("says so, and may be closed again", function()
    local loop = peri.new_event_loop()
    assert.is_false(loop:is_closed())
    loop:close()
    assert.is_true(loop:is_closed())
    loop:close()
    assert.is_true(loop:is_closed())
  end)

  it("refuses calls", function()
    local loop = closed()
    for _, name in ipairs { "call_soon", "call_soon_threadsafe" } do
      raises(peri.RuntimeError, "Event loop is closed", loop[name], loop, print)
    end
    for _, name in ipairs { "call_later", "call_at" } do
      raises(peri.RuntimeError, "Event loop is closed", loop[name], loop, 1, print)
    end
  end)

  it("refuses tasks", function()
    local loop = closed()
    raises(peri.RuntimeError, "Event loop is closed", loop.create_task, loop, print)
  end)

  it("refuses to run", top_level(function()
    local loop = closed()
    raises(peri.RuntimeError, "Event loop is closed",
      loop.run_until_complete, loop, print)
    raises(peri.RuntimeError, "Event loop is closed", loop.run_forever, loop)
  end))

  it("drops what was queued", function()
    local loop = peri.new_event_loop()
    local lines, say = trace()
    loop:call_soon(say, "never")
    loop:call_later(0, say, "never")
    loop:close()
    spin(3)
    assert.same({}, lines)
  end)

  it("cannot be made of a running one", function()
    local loop = peri.get_running_loop()
    raises(peri.RuntimeError, "Cannot close a running event loop", loop.close, loop)
  end)
end)

describe("a foreign loop", function()
  it("has futures that a task of this one cannot await", function()
    local other = peri.new_event_loop()
    local future = other:create_future()
    local task = peri.create_task { future.await, future, name = "lost" }
    local ok, err = pcall(task.await, task)
    assert.is_false(ok)
    assert.is_true(peri.RuntimeError:is(err))
    assert.matches("^Task lost got <Future .*>, which belongs to a different loop$", err.message)
    other:close()
  end)
end)

describe("get_running_loop", function()
  it("is the loop that runs, in callbacks too", function()
    local loop = peri.get_running_loop()
    local seen
    loop:call_soon(function() seen = peri.get_running_loop() end)
    peri.sleep(0)
    assert.equal(loop, seen)
    assert.is_true(loop:is_running())
  end)

  it("is what get_event_loop gives inside a run", function()
    assert.equal(peri.get_running_loop(), peri.get_event_loop())
  end)
end)

describe("a task factory", function()
  it("makes the tasks of its loop", function()
    local loop = peri.get_running_loop()
    local got
    loop:set_task_factory(function(l, coro)
      got = { l, peri.iscoroutine(coro) }
      return peri.Task { target = coro, name = "from the factory" }
    end)
    local task = peri.create_task { function(x) return x end, "x", name = "wanted" }
    local unnamed = peri.create_task(function() end)
    loop:set_task_factory(nil)
    assert.same({ loop, true }, { got[1], got[2] })
    assert.equal("wanted", task:get_name())
    assert.equal("from the factory", unnamed:get_name())
    assert.equal("x", task:await())
    unnamed:await()
  end)

  it("must return a task", function()
    local loop = peri.get_running_loop()
    loop:set_task_factory(function() return 42 end)
    raises(peri.TypeError, "the task factory must return a Task, not a number", peri.create_task, print)
    loop:set_task_factory(nil)
  end)

  it("is nil at first, and what was set", function()
    local loop = peri.get_running_loop()
    assert.is_nil(loop:get_task_factory())
    loop:set_task_factory(peri.eager_task_factory)
    assert.equal(peri.eager_task_factory, loop:get_task_factory())
  end)

  it("must be a function or nil", function()
    local loop = peri.get_running_loop()
    raises(peri.TypeError, "bad argument #1 to 'set_task_factory' (function expected, got boolean)",
      function() loop:set_task_factory(true) end)
  end)
end)

describe("debug mode", function()
  it("is off, and can be set", function()
    local loop = peri.new_event_loop()
    assert.is_false(loop:get_debug())
    loop:set_debug(true)
    assert.is_true(loop:get_debug())
    assert.equal(0.1, loop.slow_callback_duration)
    loop:close()
  end)
end)
