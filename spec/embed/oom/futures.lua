-- Futures.
local kit, case = ...
local peri = require "perilune"
local same, settle, value_or_memory = kit.same, kit.settle, kit.value_or_memory

case("Future", {
  call = function() return peri.Future() end,
  check = function(_, ok, future)
    if ok then
      future:set_result(5)
      same(5, future:await())
    end
  end,
})

case("loop:create_future", {
  setup = function(t) t.loop = peri.get_running_loop() end,
  call = function(t) return t.loop:create_future() end,
})

-- A future with a waiter and callbacks, which the call resolves. It is as it
-- was, or everybody is woken.
local function resolving(name, call, options)
  options = options or {}
  case(name, {
    covers = options.covers,
    manual = options.manual,
    allow = options.allow,
    setup = function(t)
      t.future = peri.Future()
      t.called = 0
      for _ = 1, 3 do
        t.future:add_done_callback(function() t.called = t.called + 1 end)
      end
      t.waiter = peri.create_task(t.future.await, t.future)
      settle()
    end,
    call = call,
    check = function(t, ok)
      if not ok and not options.manual then
        same(false, t.future:done(), "done after an error")
        t.future:set_result(5)
      end
      settle()
      same(true, t.future:done(), "the future is done")
      if not options.manual then same(3, t.called, "callbacks called") end
      same(true, t.waiter:done(), "the waiter has ended")
      if t.future:cancelled() then
        if not t.waiter:cancelled() then kit.memory(t.waiter:exception(), "the waiter") end
        return
      end
      local fine, value = pcall(t.waiter.result, t.waiter)
      if not fine and value ~= "boom" then
        kit.memory(value, "the waiter")
      elseif fine then
        same(5, value, "what the waiter got")
      end
      t.future:exception()
    end,
  })
end

resolving("Future:set_result", function(t) t.future:set_result(5) end)
resolving("Future:set_result, of many", function(t) t.future:set_result(5, 6, 7) end)
resolving("Future:set_exception", function(t) t.future:set_exception("boom") end)
resolving("Future:set_exception, an object", function(t)
  t.future:set_exception(t.err or "boom")
end)
resolving("Future:cancel", function(t) return t.future:cancel("why") end)

resolving("a wake-up by a result", function(t)
  t.arm()
  t.future:set_result(5)
  peri.sleep(0)
  peri.sleep(0)
  if not t.future:done() then t.future:set_result(5) end
end, { manual = true, allow = function()
  return true
end })

local function wake(t)
  t.future:set_result(5)
  t.arm()
  peri.sleep(0)
  peri.sleep(0)
end

resolving("a wake-up", wake, { manual = true })
resolving("a wake-up by many values", function(t)
  t.future:set_result(5, 6, 7)
  t.arm()
  peri.sleep(0)
  peri.sleep(0)
end, { manual = true })
resolving("a wake-up by an error", function(t)
  t.future:set_exception("boom")
  t.arm()
  peri.sleep(0)
  peri.sleep(0)
end, { manual = true })
resolving("a wake-up by a cancellation", function(t)
  t.future:cancel("why")
  t.arm()
  peri.sleep(0)
  peri.sleep(0)
end, { manual = true })

case("Future:await", {
  setup = function(t)
    t.future = peri.Future()
    kit.later(function() t.future:set_result(5) end)
  end,
  call = function(t) return t.future:await() end,
  check = function(t, ok, value)
    if ok then same(5, value) end
    if not t.future:done() then peri.sleep(0.02) end
    value_or_memory(t.future, 5)
  end,
})

case("Future:await, in a coroutine", {
  setup = function(t)
    t.future = peri.Future()
    kit.later(function() t.future:set_result(5) end)
  end,
  call = function(t)
    return coroutine.wrap(function() return t.future:await() end)()
  end,
  check = function(t, ok, value)
    if ok then same(5, value) end
    peri.sleep(0.02)
    value_or_memory(t.future, 5)
  end,
})

local function asking(name, call, expected)
  case(name, {
    setup = function(t)
      t.future = peri.Future()
      t.done, t.failed, t.gone = peri.Future(), peri.Future(), peri.Future()
      t.done:set_result(5, 6)
      t.failed:set_exception(peri.ValueError "boom")
      t.gone:cancel("why")
      t.failed:exception()
    end,
    call = call,
    allow = function(err) return peri.CancelledError:is(err) and err.message == "why" end,
    check = function(t, ok, value)
      if ok and expected ~= nil then same(expected, value) end
      same(false, t.future:done())
    end,
  })
end

asking("Future:done", function(t) return t.future:done() or t.done:done() end, true)
asking("Future:cancelled", function(t) return t.gone:cancelled() end, true)
asking("Future:result", function(t) return (select(2, t.done:result())) end, 6)
asking("Future:result, of a cancelled one", function(t) return t.gone:result() end)
asking("Future:exception", function(t) return t.failed:exception().message end, "boom")
asking("Future:exception, of a cancelled one", function(t) return t.gone:exception() end)
asking("Future:get_loop", function(t) return t.done:get_loop() == peri.get_running_loop() end, true)
asking("Future:traceback", function(t) return type(t.failed:traceback()) end, "string")
asking("Future:__tostring", function(t) return tostring(t.done) end, "<Future finished>")

case("Future:set_result, too late", {
  setup = function(t)
    t.future = peri.Future()
    t.future:set_result(5)
  end,
  call = function(t) t.future:set_result(6) end,
  allow = function(err) return peri.InvalidStateError:is(err) end,
  check = function(t) same(5, t.future:result()) end,
})

case("Future:add_done_callback", {
  setup = function(t)
    t.future = peri.Future()
    t.called = 0
    t.fn = function() t.called = t.called + 1 end
  end,
  call = function(t) t.future:add_done_callback(t.fn) end,
  check = function(t, ok)
    t.future:set_result(5)
    settle()
    same(ok and 1 or 0, t.called, "callbacks called")
  end,
})

case("Future:add_done_callback, of a done one", {
  setup = function(t)
    t.future = peri.Future()
    t.future:set_result(5)
    t.called = 0
    t.fn = function() t.called = t.called + 1 end
  end,
  call = function(t) t.future:add_done_callback(t.fn) end,
  check = function(t, ok)
    settle()
    same(ok and 1 or 0, t.called, "callbacks called")
  end,
})

case("Future:remove_done_callback", {
  setup = function(t)
    t.future = peri.Future()
    t.called = 0
    t.fn = function() t.called = t.called + 1 end
    t.future:add_done_callback(t.fn)
    t.future:add_done_callback(print)
    t.future:add_done_callback(t.fn)
  end,
  call = function(t) return t.future:remove_done_callback(print) end,
  check = function(t, ok, n)
    if ok then same(1, n) else t.future:remove_done_callback(print) end
    t.future:set_result(5)
    settle()
    same(2, t.called, "callbacks called")
  end,
})

-- A callback that fails for want of memory is reported, or logged, and the
-- others are called.
case("a done callback", {
  manual = true,
  setup = function(t)
    t.future = peri.Future()
    t.tried, t.called, t.last = 0, 0, false
    t.future:add_done_callback(function(future)
      t.tried = t.tried + 1
      local list = { future:result() }
      t.called = t.called + #list
    end)
    t.future:add_done_callback(function() t.last = true end)
  end,
  call = function(t)
    t.future:set_result(5, 6)
    t.arm()
    peri.sleep(0)
  end,
  check = function(t)
    settle()
    same(true, t.last, "the second one was called")
    if t.called == 0 and t.reports.n == 0 and kit.host.log_lines() == 0 then
      error "a callback failed and nobody was told"
    end
  end,
})

case("an error nobody retrieves", {
  manual = true,
  setup = function(t)
    t.future = peri.Future()
    t.future:set_exception("boom")
  end,
  call = function(t)
    t.future = nil
    t.arm()
    collectgarbage()
    collectgarbage()
  end,
  reported = function(context) return context.exception == "boom" end,
  check = function(t)
    collectgarbage()
    if t.reports.n == 0 and kit.host.log_lines() == 0 then error "nobody was told" end
  end,
})
