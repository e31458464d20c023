-- Tasks: making them, waiting for them, ending them.
local kit, case = ...
local peri = require "perilune"
local same, settle, value_or_memory = kit.same, kit.settle, kit.value_or_memory

-- Making ------------------------------------------------------------------------

-- A function that counts its runs in t.ran and returns what it is given.
local function counter(t)
  t.ran = 0
  return function(...)
    t.ran = t.ran + 1
    return ...
  end
end

-- Whatever makes a task: it runs if its making went well, and only then. (An
-- eager one may have run when memory ran out.)
local function ran_or_not(t, ok, task)
  settle()
  if ok then
    if value_or_memory(task, 5, "the task") then same(1, t.ran, "runs") end
  elseif not t.eager then
    same(0, t.ran, "runs of a task that could not be made")
  end
end

local function making(name, call, covers)
  case(name, {
    covers = covers,
    setup = function(t)
      t.fn = counter(t)
      t.coro = peri.call(t.fn, 5)
      t.loop = peri.get_running_loop()
      t.eager = false
    end,
    call = call,
    check = ran_or_not,
  })
end

making("create_task", function(t) return peri.create_task(t.fn, 5, 6, 7) end)
making("create_task, of a coroutine object", function(t) return peri.create_task(t.coro) end)
making("create_task, of a call table", function(t)
  return peri.create_task { t.fn, 5, 6, name = "named", context = peri.copy_context() }
end)
making("create_task, eager", function(t)
  t.eager = true
  return peri.create_task { t.fn, 5, eager = true }
end)
making("Task", function(t)
  return peri.Task { target = t.fn, args = { 5, 6 }, name = "named", loop = t.loop }
end)
making("ensure_future", function(t) return peri.ensure_future(t.fn ~= nil and t.coro) end)
making("loop:create_task", function(t) return t.loop:create_task(t.fn, 5) end)
making("eager_task_factory", function(t)
  t.eager = true
  return peri.eager_task_factory(t.loop, t.coro, { name = "named" })
end)

case("ensure_future, of an awaitable", {
  setup = function(t)
    t.aw = setmetatable({}, { __await = function()
      peri.sleep(0)
      return 5
    end })
  end,
  call = function(t) return peri.ensure_future(t.aw) end,
  check = function(_, ok, task) if ok then same(5, task:await()) end end,
})

case("create_task, by a factory", {
  setup = function(t)
    t.fn = counter(t)
    peri.get_running_loop():set_task_factory(peri.eager_task_factory)
  end,
  call = function(t) return peri.create_task(t.fn, 5) end,
  check = function(t, ok, task)
    peri.get_running_loop():set_task_factory(nil)
    settle()
    if ok then value_or_memory(task, 5) end
    if t.ran > 1 then error "it ran twice" end
  end,
})

case("spawn", {
  setup = function(t) t.fn = counter(t) end,
  call = function(t) return peri.spawn(t.fn, 5) end,
  check = function(t, ok)
    settle()
    same(ok and 1 or 0, t.ran, "runs")
  end,
})

-- What comes to nobody is reported, or logged where there is no memory.
case("spawn, of what fails", {
  setup = function(t)
    t.fn = function() error("boom", 0) end
    t.told = 0
  end,
  manual = true,
  call = function(t)
    peri.spawn(t.fn)
    t.arm()
    peri.sleep(0)
    peri.sleep(0)
  end,
  reported = function(context) return context.exception == "boom" end,
  check = function(t)
    settle()
    if t.reports.n == 0 and kit.host.log_lines() == 0 then error "nobody was told" end
  end,
})

-- Running ------------------------------------------------------------------------

case("a task from its start to its end", {
  manual = true,
  setup = function(t)
    t.fn = function(...)
      local list = { ... }
      peri.sleep(0)
      local get = coroutine.wrap(function() return peri.sleep(0.01, #list) end)
      return get(), list[1], list[2]
    end
  end,
  call = function(t)
    t.task = peri.create_task(t.fn, 5, 6)
    t.arm()
    return t.task:await()
  end,
  check = function(t, ok, n, a, b)
    value_or_memory(t.task, 2, "the task")
    if ok then
      same(2, n)
      same(5, a)
      same(6, b)
    end
  end,
})

case("a task that fails", {
  manual = true,
  setup = function(t)
    t.fn = function()
      local _ <close> = peri.defer(function() t.closed = true end)
      peri.sleep(0)
      error { "boom" }
    end
  end,
  call = function(t)
    t.task = peri.create_task(t.fn)
    t.arm()
    return t.task:await()
  end,
  allow = function(err) return type(err) == "table" and err[1] == "boom" end,
  check = function(t, ok)
    same(false, ok)
    same(true, t.task:done())
    t.task:exception()
  end,
})

case("a task of many coroutines", {
  manual = true,
  setup = function(t)
    local function deep(n)
      if n == 0 then return peri.sleep(0.01, 5) end
      return coroutine.wrap(deep)(n - 1)
    end
    t.fn = function() return deep(9) end
  end,
  call = function(t)
    t.task = peri.create_task(t.fn)
    t.arm()
    return t.task:await()
  end,
  check = function(t) value_or_memory(t.task, 5, "the task") end,
})

case("sleep", {
  call = function() return peri.sleep(0.01, 5) end,
  check = function(_, ok, value) if ok then same(5, value) end end,
})
case("sleep, for no time", {
  call = function() return peri.sleep(0, 5) end,
  check = function(_, ok, value) if ok then same(5, value) end end,
})
case("sleep, in a coroutine", {
  call = function()
    return coroutine.wrap(function() return peri.sleep(0.01, 5) end)()
  end,
  check = function(_, ok, value) if ok then same(5, value) end end,
})

case("await", {
  setup = function(t)
    t.fn = counter(t)
    t.coro = peri.call(t.fn, 5)
  end,
  call = function(t) return peri.await(t.coro) end,
  check = function(_, ok, value) if ok then same(5, value) end end,
})
case("await, of an awaitable", {
  setup = function(t)
    t.aw = setmetatable({}, { __await = function() return peri.sleep(0.01, 5) end })
  end,
  call = function(t) return peri.await(t.aw) end,
  check = function(_, ok, value) if ok then same(5, value) end end,
})

case("call", {
  covers = { "iscoroutine", "Coroutine:await" },
  setup = function(t) t.fn = counter(t) end,
  call = function(t)
    local coro = peri.call(t.fn, 5, 6)
    assert(peri.iscoroutine(coro))
    return coro:await()
  end,
  check = function(_, ok, value) if ok then same(5, value) end end,
})
case("Coroutine:close", {
  setup = function(t) t.coro = peri.call(print, 5) end,
  call = function(t) t.coro:close() end,
  check = function(t, ok) if not ok then t.coro:close() end end,
})
case("async", {
  covers = { "iscoroutinefunction" },
  setup = function(t) t.fn = counter(t) end,
  call = function(t)
    local made = peri.async(t.fn)
    assert(peri.iscoroutinefunction(made))
    return made(5):await()
  end,
  check = function(_, ok, value) if ok then same(5, value) end end,
})

-- Asking ---------------------------------------------------------------------------

local function asking(name, call, expected)
  case(name, {
    setup = function(t)
      t.task = peri.create_task { peri.sleep, 1, 5, name = "asked" }
      t.done = peri.create_task(function() return 5 end)
      t.failed = peri.create_task(function() error("boom", 0) end)
      settle()
      assert(t.failed:exception() == "boom")
    end,
    call = call,
    check = function(t, ok, value)
      if ok and expected ~= nil then same(expected, value) end
      same(5, t.task:await())
    end,
  })
end

asking("Task:done", function(t) return t.task:done() or t.done:done() end, true)
asking("Task:cancelled", function(t) return t.task:cancelled() end, false)
asking("Task:result", function(t) return t.done:result() end, 5)
asking("Task:exception", function(t) return t.failed:exception() end, "boom")
asking("Task:cancelling", function(t) return t.task:cancelling() end, 0)
asking("Task:uncancel", function(t) return t.task:uncancel() end, 0)
asking("Task:get_name", function(t) return t.task:get_name() end, "asked")
asking("Task:get_name, by number", function(t) return #t.done:get_name() > 0 end, true)
asking("Task:set_name", function(t)
  t.done:set_name(12.5)
  return t.done:get_name()
end, "12.5")
asking("Task:get_loop", function(t) return t.task:get_loop() == peri.get_running_loop() end, true)
asking("Task:get_context", function(t) return t.task:get_context() ~= nil end, true)
asking("Task:traceback", function(t) return type(t.task:traceback()) end, "string")
asking("Task:traceback, of a failure", function(t) return type(t.failed:traceback()) end, "string")
asking("Task:__tostring", function(t) return tostring(t.task):match "asked" end, "asked")
asking("current_task", function() return type(peri.current_task()) end, "userdata")
asking("all_tasks", function() return #peri.all_tasks() end, 2)
asking("isfuture", function(t) return peri.isfuture(t.task) end, true)

case("Task:print_stack", {
  setup = function(t)
    t.task = peri.create_task(peri.sleep, 0.01)
    peri.sleep(0)
    kit.host.mute(true)
  end,
  call = function(t) t.task:print_stack() end,
  check = function(t)
    kit.host.mute(false)
    t.task:await()
  end,
})

case("Task:await", {
  setup = function(t) t.task = peri.create_task(peri.sleep, 0.01, 5, 6) end,
  call = function(t) return t.task:await() end,
  check = function(t, ok, a, b)
    if ok then
      same(5, a)
      same(6, b)
    end
    peri.sleep(0.1)
    value_or_memory(t.task, 5)
  end,
})

case("Task:await, of a failure", {
  setup = function(t)
    t.task = peri.create_task(function() error(peri.ValueError "boom") end)
    settle()
  end,
  call = function(t) return t.task:await() end,
  allow = function(err) return peri.ValueError:is(err) end,
  check = function(t, ok)
    same(false, ok)
    same("boom", t.task:exception().message)
  end,
})

case("Task:add_done_callback", {
  covers = { "Task:remove_done_callback" },
  setup = function(t)
    t.task = peri.create_task(peri.sleep, 0.01)
    t.called = 0
    t.fn = function() t.called = t.called + 1 end
  end,
  call = function(t)
    t.task:add_done_callback(print)
    t.added = true
    t.task:add_done_callback(t.fn)
  end,
  check = function(t, ok)
    same(t.added and 1 or 0, t.task:remove_done_callback(print), "callbacks removed")
    t.task:await()
    settle()
    same(ok and 1 or 0, t.called, "callbacks called")
  end,
})

-- Ending ---------------------------------------------------------------------------

-- A task that waits in fn, which the call is to end. It ends, in the call or
-- when it is cancelled again with memory.
local function ending(name, fn, call, options)
  options = options or {}
  case(name, {
    covers = options.covers,
    setup = function(t)
      t.closed = 0
      t.task = peri.create_task(function()
        local _ <close> = peri.defer(function() t.closed = t.closed + 1 end)
        fn(t)
      end)
      settle()
    end,
    call = call,
    manual = options.manual,
    check = function(t)
      settle()
      peri.sleep(3)
      if not t.task:done() then t.task:cancel() end
      settle()
      peri.sleep(3)
      same(true, t.task:done(), "the task has ended")
      if t.other then t.other:cancel() end
      same(1, t.closed, "scopes closed")
      if not t.task:cancelled() then
        local err = t.task:exception()
        if err ~= nil or not options.swallows then kit.memory(err, "the task") end
      end
      settle()
    end,
  })
end

local function asleep() peri.sleep(60) end

local function at_a_future(t)
  t.other = peri.Future()
  t.other:await()
end

local function at_a_task(t)
  t.other = peri.create_task(peri.sleep, 60)
  t.other:await()
end

local function in_a_coroutine()
  coroutine.wrap(asleep)()
end

local function cancel(t) return t.task:cancel "why" end
local function cancel_and_end(t)
  t.task:cancel "why"
  t.arm()
  peri.sleep(0)
  peri.sleep(0)
  peri.sleep(0)
end

ending("Task:cancel, asleep", asleep, cancel, { covers = { "Task:cancel" } })
ending("Task:cancel, at a future", at_a_future, cancel)
ending("Task:cancel, at a task", at_a_task, cancel)
ending("Task:cancel, in a coroutine", in_a_coroutine, cancel)
ending("a cancellation, asleep", asleep, cancel_and_end, { manual = true })
ending("a cancellation, at a future", at_a_future, cancel_and_end, { manual = true })
ending("a cancellation, in a coroutine", in_a_coroutine, cancel_and_end, { manual = true })

ending("Task:cancel, with a grace", function()
  local ok = pcall(peri.sleep, 60)
  while not ok do ok = pcall(peri.sleep, 0.5) end
end, function(t) return t.task:cancel("why", { grace = 0.1 }) end, { swallows = true })

ending("Task:kill", asleep, function(t) return t.task:kill(1) end)
ending("Task:kill, in a coroutine", in_a_coroutine, function(t) return t.task:kill(1) end)

local function kill_and_end(t)
  t.task:kill(1)
  t.arm()
  peri.sleep(0)
  peri.sleep(0)
  peri.sleep(0)
end

ending("a kill, asleep", asleep, kill_and_end, { manual = true })
ending("a kill, at a future", at_a_future, kill_and_end, { manual = true })
ending("a kill, in a coroutine", in_a_coroutine, kill_and_end, { manual = true })

ending("a kill that is swallowed", function()
  local stock = coroutine.create(function() end) -- luacheck: no unused
  while true do
    local ok = pcall(peri.sleep, 60)
    if ok then return end
  end
end, kill_and_end, { manual = true })
