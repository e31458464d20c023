-- Loops, handles, clocks, runs.
local kit, case = ...
local peri = require "perilune"
local same, settle = kit.same, kit.settle

-- Callbacks ---------------------------------------------------------------------------

-- A callback is called if its call_* came back, and only then; and not if it
-- was cancelled.
local function calling(name, call, covers)
  case(name, {
    covers = covers,
    setup = function(t)
      t.loop = peri.get_running_loop()
      t.called = 0
      t.fn = function(n) t.called = t.called + n end
    end,
    call = call,
    check = function(t, ok)
      peri.sleep(1)
      same(ok and 3 or 0, t.called, "what the callback counts")
    end,
  })
end

calling("loop:call_soon", function(t) return t.loop:call_soon(t.fn, 3) end)
calling("loop:call_later", function(t) return t.loop:call_later(0.01, t.fn, 3) end)
calling("loop:call_at", function(t)
  return t.loop:call_at(t.loop:time() + 0.01, t.fn, 3)
end, { "loop:time" })
calling("loop:call_soon_threadsafe", function(t) return t.loop:call_soon_threadsafe(t.fn, 3) end)

case("loop:call_later, of many durations", {
  setup = function(t)
    t.loop = peri.get_running_loop()
    t.called, t.made = 0, 0
    t.fn = function() t.called = t.called + 1 end
    for i = 1, 40 do t.loop:call_later(i / 100, print):cancel() end
  end,
  call = function(t)
    for i = 1, 40 do
      t.loop:call_later(i / 50, t.fn)
      t.made = i
    end
  end,
  check = function(t)
    peri.sleep(2)
    same(t.made, t.called, "callbacks called")
  end,
})

case("a callback with many arguments", {
  manual = true,
  setup = function(t)
    t.loop = peri.get_running_loop()
    t.called = 0
    t.fn = function(...) t.called = t.called + select("#", ...) end
    t.arguments = {}
    for i = 1, 300 do t.arguments[i] = i end
  end,
  call = function(t)
    t.loop:call_soon(t.fn, table.unpack(t.arguments))
    t.loop:call_soon(t.fn, 1)
    t.arm()
    peri.sleep(0)
  end,
  check = function(t)
    settle()
    if t.called == 301 then return end
    if t.reports.n == 0 and kit.host.log_lines() == 0 then
      error("a callback was lost, nobody was told: " .. t.called)
    end
  end,
})

case("Handle:cancel", {
  covers = { "Handle:cancelled", "Handle:when", "Handle:__tostring" },
  setup = function(t)
    t.loop = peri.get_running_loop()
    t.soon, t.later = t.loop:call_soon(error, "boom"), t.loop:call_later(0.01, error, "boom")
  end,
  call = function(t)
    t.soon:cancel()
    t.later:cancel()
    return tostring(t.soon), t.later:when(), t.later:cancelled()
  end,
  check = function(t)
    t.soon:cancel()
    t.later:cancel()
    peri.sleep(1)
  end,
})

-- A callback that raises is reported, or logged; the others are called.
case("a callback that fails", {
  manual = true,
  setup = function(t)
    t.loop = peri.get_running_loop()
    t.called = 0
  end,
  call = function(t)
    t.loop:call_soon(error, "boom")
    t.loop:call_later(0.001, error, peri.ValueError "boom")
    t.loop:call_soon(function() t.called = t.called + 1 end)
    t.arm()
    peri.sleep(0.01)
  end,
  reported = function(context)
    local err = context.exception
    return err == "boom" or peri.ValueError:is(err)
  end,
  check = function(t)
    peri.sleep(1)
    same(1, t.called, "the others called")
    if t.reports.n + kit.host.log_lines() < 2 then error "nobody was told" end
  end,
})

case("a callback in a context", {
  manual = true,
  setup = function(t)
    t.var = peri.ContextVar("v", 0)
    t.var:set(1)
    t.seen = 0
    t.loop = peri.get_running_loop()
    t.loop:call_soon(function()
      t.seen = t.var:get()
      t.var:set(2)
    end)
  end,
  call = function(t)
    t.arm()
    peri.sleep(0)
    return t.var:get()
  end,
  check = function(t, ok, value)
    settle()
    if t.seen == 0 then
      if t.reports.n + kit.host.log_lines() == 0 then error "the callback was lost" end
    else
      same(1, t.seen)
    end
    if ok then same(1, value) end
  end,
})

-- Reports -----------------------------------------------------------------------------

case("loop:call_exception_handler", {
  setup = function(t) t.loop = peri.get_running_loop() end,
  call = function(t) t.loop:call_exception_handler { message = "m", exception = "boom" } end,
  reported = function(context) return context.exception == "boom" end,
  check = function(t, ok)
    if ok and t.reports.n == 0 and kit.host.log_lines() == 0 then error "nobody was told" end
  end,
})
case("loop:default_exception_handler", {
  setup = function(t) t.loop = peri.get_running_loop() end,
  call = function(t)
    t.loop:default_exception_handler { message = "m", exception = peri.ValueError "boom" }
  end,
  check = function() kit.host.log_lines() end,
})
case("loop:call_exception_handler, a handler that fails", {
  setup = function(t)
    t.loop = peri.get_running_loop()
    t.handler = t.loop:get_exception_handler()
    t.loop:set_exception_handler(function() error { "boom" } end)
  end,
  call = function(t) t.loop:call_exception_handler { message = "m", exception = "boom" } end,
  check = function(t, ok)
    t.loop:set_exception_handler(t.handler)
    if ok and kit.host.log_lines() == 0 then error "nobody was told" end
  end,
})

-- Settings ------------------------------------------------------------------------------

local function setting(name, call, covers)
  case(name, {
    covers = covers,
    setup = function(t)
      t.loop = peri.new_event_loop()
      t.fn = function() end
    end,
    call = call,
    check = function(t) t.loop:close() end,
  })
end

setting("loop:set_exception_handler", function(t)
  t.loop:set_exception_handler(t.fn)
  return t.loop:get_exception_handler()
end, { "loop:get_exception_handler" })
setting("loop:set_task_factory", function(t)
  t.loop:set_task_factory(t.fn)
  return t.loop:get_task_factory()
end, { "loop:get_task_factory" })
setting("loop:set_debug", function(t)
  t.loop:set_debug(true)
  t.loop.slow_callback_duration = 5
  return t.loop:get_debug(), t.loop.slow_callback_duration
end, { "loop:get_debug" })
setting("loop:is_running", function(t)
  return t.loop:is_running(), t.loop:is_closed(), t.loop:time(), tostring(t.loop)
end, { "loop:is_closed", "loop:__tostring" })
setting("loop:stop", function(t) t.loop:stop() end)

case("new_event_loop", {
  call = function() return peri.new_event_loop() end,
  check = function(_, ok, loop) if ok then loop:close() end end,
})
case("get_event_loop", {
  covers = { "set_event_loop", "get_running_loop" },
  call = function()
    peri.set_event_loop(peri.new_event_loop())
    peri.set_event_loop(nil)
    return peri.get_event_loop(), peri.get_running_loop()
  end,
  check = function() peri.set_event_loop(nil) end,
})

-- Descriptors and signals -----------------------------------------------------------------

-- A descriptor that is always ready to be read.
local function open_file(t)
  t.loop = peri.get_running_loop()
  t.loop:add_signal_handler("SIGUSR2", print) -- makes the kernel's part
  t.loop:remove_signal_handler("SIGUSR2")
  t.file = assert(io.popen("echo x"))
  t.called = 0
  t.fn = function()
    t.called = t.called + 1
    t.loop:remove_reader(t.file)
    kit.host.arm(0)
    if t.seen then t.seen:set_result() end
  end
end

case("loop:add_reader", {
  covers = { "loop:remove_reader" },
  setup = open_file,
  call = function(t) t.loop:add_reader(t.file, t.fn, 5) end,
  check = function(t, ok)
    if ok then
      t.seen = peri.Future()
      t.seen:await()
      same(1, t.called)
    end
    same(false, t.loop:remove_reader(t.file))
    settle()
    t.file:close()
  end,
})
case("loop:add_writer", {
  covers = { "loop:remove_writer" },
  setup = function(t)
    t.loop = peri.get_running_loop()
    t.loop:add_signal_handler("SIGUSR2", print)
    t.loop:remove_signal_handler("SIGUSR2")
    t.file = assert(io.popen("cat >/dev/null", "w"))
    t.added = false
  end,
  call = function(t)
    t.loop:add_writer(t.file, print)
    t.added = true
    return t.loop:remove_writer(t.file)
  end,
  check = function(t, ok)
    if not ok then same(t.added, t.loop:remove_writer(t.file)) end
    settle()
    t.file:close()
  end,
})
case("loop:add_signal_handler", {
  covers = { "loop:remove_signal_handler" },
  setup = function(t)
    t.loop = peri.get_running_loop()
    t.loop:add_signal_handler("SIGUSR2", print)
    t.loop:remove_signal_handler("SIGUSR2")
    t.added = false
  end,
  call = function(t)
    t.loop:add_signal_handler("SIGUSR2", print, 5)
    t.added = true
    return t.loop:remove_signal_handler("SIGUSR2")
  end,
  check = function(t, ok)
    if not ok then same(t.added, t.loop:remove_signal_handler("SIGUSR2")) end
    settle()
  end,
})
case("a reader callback", {
  manual = true,
  setup = function(t)
    open_file(t)
    t.done = false
    t.loop:add_reader(t.file, function()
      t.loop:remove_reader(t.file)
      t.called = t.called + 1
      t.list = { 1, 2, 3 }
      t.done = true
    end)
  end,
  call = function(t)
    t.arm()
    while t.called == 0 do peri.sleep(0) end
  end,
  check = function(t)
    settle()
    same(1, t.called)
    if not t.done and t.reports.n == 0 and kit.host.log_lines() == 0 then
      error "nobody was told"
    end
    t.loop:remove_reader(t.file)
    settle()
    t.file:close()
  end,
})

-- Clocks -------------------------------------------------------------------------------------

case("Clock", {
  call = function() return peri.Clock { kind = "manual", scale = 2 } end,
})
local function clocking(name, call, expected)
  case(name, {
    setup = function(t) t.clock = peri.Clock { kind = "manual" } end,
    call = call,
    check = function(_, ok, value) if ok and expected then same(expected, value) end end,
  })
end
clocking("Clock:now", function(t) return t.clock:now() end, 0.0)
clocking("Clock:advance", function(t)
  t.clock:advance(2)
  return t.clock:now()
end, 2.0)
clocking("Clock:pause", function(t) t.clock:pause() return t.clock.paused end, true)
clocking("Clock:resume", function(t) t.clock:resume() return t.clock.paused end, false)
clocking("Clock:set_scale", function(t) t.clock:set_scale(2) return t.clock.scale end, 2.0)
clocking("Clock:__tostring", function(t) return tostring(t.clock):match "manual" end, "manual")

case("use_clock", {
  setup = function(t)
    t.clock = peri.Clock { kind = "virtual" }
    t.loop = peri.get_running_loop()
    t.before = t.loop:time()
    peri.sleep(1)
    t.after = t.loop:time()
  end,
  call = function(t)
    local _ <close> = peri.use_clock(t.clock)
    peri.sleep(0.5)
    return t.clock:now()
  end,
  check = function(t, ok, now)
    if ok then same(0.5, now) end
    same(t.after, t.loop:time(), "the time on the clock before")
    peri.sleep(1)
    same(t.after + 1, t.loop:time(), "the time a second later")
  end,
})

-- Runs --------------------------------------------------------------------------------------------

local function running(name, call, options)
  options = options or {}
  case(name, {
    covers = options.covers,
    outside = true,
    logged = function(text) return text:find "destroyed but it is pending" ~= nil end,
    manual = options.manual,
    allow = options.allow,
    setup = function(t)
      t.ended = 0
      t.fn = function(n)
        peri.create_task(function()
          local _ <close> = peri.defer(function() t.ended = t.ended + 1 end)
          peri.sleep(60)
        end)
        return peri.sleep(0, n)
      end
      if options.setup then options.setup(t) end
    end,
    call = call,
    check = function(t, ok, value)
      if ok and options.value then same(options.value, value) end
      if options.check then options.check(t, ok) end
      peri.sleep(0)
      if peri.get_running_loop() == t.loop then error "the run has not ended" end
      same(6, peri.run(function() return peri.sleep(0, 6) end), "what a run gives afterwards")
    end,
  })
end

local function in_loop(t)
  t.loop = peri.new_event_loop()
  t.loop:set_exception_handler(function() end)
end

-- The loop is one that can run, and then be closed.
local function loop_is_fine(t)
  same(false, t.loop:is_running(), "running")
  same(7, t.loop:run_until_complete(peri.call(function()
    for _, task in ipairs(peri.all_tasks()) do
      if task ~= peri.current_task() then task:cancel() end
    end
    return peri.sleep(0, 7)
  end)))
  t.loop:close()
end

running("run", function(t) return peri.run(t.fn, 5) end, { value = 5 })
running("loop:run_until_complete", function(t)
  return t.loop:run_until_complete(peri.call(t.fn, 5))
end, { setup = in_loop, check = loop_is_fine, value = 5 })
running("loop:run_forever", function(t)
  return t.loop:run_forever()
end, {
  setup = function(t)
    in_loop(t)
    t.loop:call_soon(t.loop.stop, t.loop)
  end,
  check = function(t, ok)
    if not ok then t.loop:run_forever() end
    loop_is_fine(t)
  end,
})
running("loop:close", function(t) t.loop:close() end, {
  setup = function(t)
    in_loop(t)
    t.loop:run_until_complete(peri.call(t.fn, 5))
    t.loop:call_soon(print)
    t.loop:call_later(60, print)
    t.future = t.loop:create_future()
    t.future:add_done_callback(print)
  end,
  check = function(t)
    if not t.loop:is_closed() then t.loop:close() end
    same(true, t.loop:is_closed())
    same(1, t.ended, "tasks that were destroyed")
  end,
})

running("Runner", function(t)
  local runner <close> = peri.Runner { shutdown_grace = 5, debug = false }
  runner:run(t.fn, 1)
  runner:get_loop()
  return runner:run(t.fn, 5)
end, { value = 5, covers = { "Runner:run", "Runner:get_loop" } })
running("Runner:close", function(t) t.runner:close() end, {
  setup = function(t)
    t.runner = peri.Runner { clock = peri.Clock { kind = "virtual" } }
    t.loop = t.runner:get_loop()
    t.loop:set_exception_handler(function() end)
    t.runner:run(t.fn, 5)
  end,
  check = function(t)
    t.runner:close()
    same(true, t.loop:is_closed(), "closed")
    same(1, t.ended, "leftovers that have ended")
  end,
})

case("run_coroutine_threadsafe", {
  covers = { "loop:run_coroutine_threadsafe" },
  setup = function(t)
    t.loop = peri.get_running_loop()
    t.ran = 0
    t.fn = function(...)
      t.ran = t.ran + 1
      return ...
    end
  end,
  call = function(t) return peri.run_coroutine_threadsafe(t.fn, t.loop, 5) end,
  check = function(t, ok, future)
    if ok then same(5, future:await()) end
    settle()
    same(ok and 1 or 0, t.ran, "runs")
  end,
})
case("a coroutine from another thread", {
  manual = true,
  setup = function(t) t.loop = peri.get_running_loop() end,
  call = function(t)
    t.future = peri.run_coroutine_threadsafe(peri.sleep, t.loop, 0.01, 5)
    t.arm()
    peri.sleep(0.02)
  end,
  check = function(t)
    peri.sleep(0.1)
    kit.value_or_memory(t.future, 5, "the future")
  end,
})
