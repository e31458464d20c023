-- Looking at tasks, deadlocks and circles, debug mode.
local kit, case = ...
local peri = require "perilune"
local core = require "perilune._core"
local log = require "perilune.log"
local same, settle = kit.same, kit.settle

-- Looking ---------------------------------------------------------------------------

-- Tasks of several kinds, each in a wait of its own.
local function looking(name, call, options)
  options = options or {}
  case(name, {
    covers = options.covers,
    setup = function(t)
      t.loop = peri.get_running_loop()
      t.lock = peri.Lock()
      t.lines = {}
      t.file = { write = function(_, ...) t.lines[#t.lines + 1] = table.concat { ... } end }
      t.tasks = {
        peri.create_task(function()
          local _ <close> = t.lock:guard()
          peri.sleep(60)
        end),
        peri.create_task(function() t.lock:acquire() end),
        peri.create_task(function() t.tasks[1]:await() end),
        peri.create_task(peri.sleep, 60),
      }
      if options.setup then options.setup(t) end
      settle()
    end,
    call = call,
    check = function(t, ok, ...)
      if options.check then options.check(t, ok, ...) end
      for _, task in ipairs(t.tasks) do task:cancel() end
      settle()
      for _, task in ipairs(t.tasks) do same(true, task:cancelled(), "cancelled") end
    end,
  })
end

looking("tasks", function(t)
  local text = {}
  for i, snapshot in ipairs(peri.tasks(t.loop)) do
    text[i] = tostring(snapshot) .. snapshot.traceback
  end
  return table.concat(text, "\n")
end, {
  check = function(_, ok, text)
    if ok and not text:find "held by Task" then error(text) end
  end,
})
looking("print_tasks", function(t) peri.print_tasks(t.file) end, {
  check = function(t, ok) same(ok and 1 or 0, #t.lines, "texts") end,
})
looking("loop:set_accounting", function(t)
  t.loop:set_accounting(true)
  peri.sleep(0.01)
  local snapshots = peri.tasks(t.loop)
  t.loop:set_accounting(false)
  return #snapshots, t.loop:get_accounting()
end, {
  covers = { "loop:get_accounting" },
  check = function(_, ok, n, on)
    if ok then
      same(5, n, "tasks")
      same(false, on)
    end
  end,
})

-- Deadlocks ----------------------------------------------------------------------------

-- A run that would block for ever ends, and its tasks have ended before.
local function stuck(name, body)
  case(name, {
    outside = true,
    setup = function(t)
      t.begun, t.ended = 0, 0
      t.loop = peri.new_event_loop()
      core.set_deadlock(t.loop, true)
      t.loop:set_exception_handler(function() end)
      t.main = function()
        local _ <close> = peri.defer(function() t.ended = t.ended + 1 end)
        t.begun = t.begun + 1
        body(t)
      end
    end,
    call = function(t) t.loop:run_until_complete(peri.call(t.main)) end,
    allow = function(err) return peri.DeadlockError:is(err) end,
    logged = function(text) return text:find "waits for a lock that it holds" ~= nil end,
    check = function(t)
      t.over = true
      t.loop:run_until_complete(peri.call(function() -- if it could not be told
        for _, task in ipairs(peri.all_tasks()) do
          if task ~= peri.current_task() then task:cancel() end
        end
        settle()
      end))
      same(t.begun, t.ended, "tasks that have ended")
      same(false, t.loop:is_running(), "running")
      t.loop:close()
    end,
  })
end

stuck("a deadlock", function() peri.Future():await() end)
stuck("a deadlock of several tasks", function(t)
  local lock = peri.Lock()
  for _ = 1, 3 do
    peri.create_task(function()
      local _ <close> = peri.defer(function() t.ended = t.ended + 1 end)
      t.begun = t.begun + 1
      lock:acquire()
      lock:acquire()
    end)
  end
  peri.Event():wait()
end)
stuck("a deadlock that goes on when it is cancelled", function(t)
  repeat pcall(peri.await, peri.Future()) until t.over
end)

-- Circles ---------------------------------------------------------------------------------

local function circle(name, call)
  case(name, {
    manual = true,
    setup = function(t)
      t.locks = { peri.Lock(), peri.Lock() }
      t.future = peri.Future()
      log.set_handler(function() end)
    end,
    call = call,
    logged = function(text) return text:find "in a circle" ~= nil end,
    check = function(t)
      log.set_handler(nil)
      for _, lock in ipairs(t.locks) do same(false, lock:locked(), "locked") end
    end,
  })
end

circle("a circle of locks", function(t)
  local function take(a, b)
    local _ <close> = t.locks[a]:guard()
    peri.sleep(0.01)
    t.arm()
    local _ <close> = t.locks[b]:guard()
  end
  pcall(peri.timeout, 1, peri.all, function() take(1, 2) end, function() take(2, 1) end)
end)
circle("a circle of tasks", function(t)
  local a, b
  a = peri.create_task(function() b:await() end)
  b = peri.create_task(function()
    peri.sleep(0.01)
    t.arm()
    a:await()
  end)
  peri.sleep(0.1)
  peri.get_running_loop() -- whatever has become of them
  a:cancel()
  b:cancel()
  settle()
end)

-- Debug mode ------------------------------------------------------------------------------------

-- What is slow is told by the real clock; and what a call that failed has left.
local function is_debug(text)
  return text:find("took ", 1, true) ~= nil or text:find "was never awaited" ~= nil
end

local function debugging(name, call, check, setup)
  case(name, {
    setup = function(t)
      t.loop = peri.get_running_loop()
      t.loop:set_debug(true)
      t.loop.slow_callback_duration = 1e6
      if setup then setup(t) end
    end,
    call = call,
    logged = is_debug,
    reported = function(context) return context.message == "Task exception was never retrieved" end,
    check = function(t, ok, ...)
      if check then check(t, ok, ...) end
      settle()
      t.loop:set_debug(false)
    end,
  })
end

debugging("debug mode, tasks", function(t)
  t.ran = 0
  local function work(...)
    t.ran = t.ran + 1
    peri.sleep(0.01)
    return ...
  end
  t.task = peri.create_task(work, 5)
  return t.task:await()
end, function(t, ok, value)
  if ok then same(5, value) end
  if t.task then
    peri.sleep(1)
    local done = kit.value_or_memory(t.task, 5, "the task")
    if done then same(1, t.ran, "runs") end
  end
end)
debugging("debug mode, callbacks", function(t)
  t.made, t.called = 0, 0
  local function count() t.called = t.called + 1 end
  t.loop:call_soon(count)
  t.made = 1
  t.loop:call_later(0.01, count)
  t.made = 2
  t.future:add_done_callback(count)
  t.made = 3
end, function(t)
  peri.sleep(1)
  t.future:set_result()
  settle()
  same(t.made, t.called, "callbacks called")
end, function(t) t.future = peri.Future() end)
debugging("debug mode, an error nobody takes", function()
  local task = peri.create_task(function() error "boom" end)
  pcall(task.await, task)
  return peri.Future(), peri.call(print)
end, function() collectgarbage() end)
debugging("debug mode, gather", function(t)
  return peri.gather(peri.call(peri.sleep, 0.01, 1), peri.call(peri.sleep, 0, 2)):await(), t
end, function() peri.sleep(1) end)
-- They were made before the loop was in debug mode.
debugging("debug mode, bare tasks", function(t)
  return t.gather:await()
end, function(t)
  peri.sleep(1)
  local ok, results = kit.ended(t.gather, "the gather")
  if not ok then return kit.memory(results, "the gather") end
  same(5, results[1])
  same(6, results[2])
end, function(t)
  t.loop:set_debug(false)
  t.gather = peri.gather(peri.call(peri.sleep, 0.01, 5), function() return 6 end)
  t.loop:set_debug(true)
end)
-- It has all the memory that Lua needs to raise it: no trace is worth the error.
debugging("debug mode, an error", function(t)
  t.future:set_result()
  settle()
end, function(t)
  settle()
  local ok, err = kit.ended(t.task, "the task")
  same(false, ok)
  same(t.err, err)
end, function(t)
  t.err, t.future = peri.ValueError "boom", peri.Future()
  local function deep(n)
    if n > 0 then return (deep(n - 1)) end
    return n
  end
  t.task = peri.create_task(function()
    deep(20)
    t.future:await()
    error(t.err)
  end)
  settle()
end)

-- Sessions ----------------------------------------------------------------------------------------


-- What Lua needs to call it is made sure of; then only the chunk can fail.
local function attempting(name, chunk, check)
  case(name, {
    setup = function(t)
      t.call = function() return core.attempt(chunk, t) end
      for _ = 1, 3 do t.call() end
    end,
    call = function(t) return t.call() end,
    check = function(t, ok, ...)
      same(true, ok, "whether it returned")
      check(t, ...)
    end,
  })
end

local function no_memory(ok, what, err)
  return not ok and what == "error" and kit.is_memory(err)
end

attempting("attempt of a chunk that works", function()
  local list = {}
  for i = 1, 20 do list[i] = { i } end
  return peri.sleep(0.01, 5), #list
end, function(_, ...)
  if no_memory(...) then return end
  local ok, five, n = ...
  same(true, ok)
  same(5, five)
  same(20, n)
end)
attempting("attempt of a chunk that fails", function()
  local function fail() error { "boom" } end
  peri.sleep(0.01)
  fail()
end, function(_, ...)
  if no_memory(...) then return end
  local ok, what, err, trace = ...
  same(false, ok)
  same("error", what)
  same("boom", err[1])
  if trace then same("stack traceback:", trace:sub(1, 16)) end
end)
attempting("attempt of a chunk that returns much", function()
  return table.unpack({}, 1, 5000)
end, function(_, ...)
  local ok, what, err = ...
  if no_memory(...) then return end
  if ok then return same(5001, select("#", ...)) end
  same("error", what)
  same(true, err == "too many results" or tostring(err):find "too many results to unpack" ~= nil)
end)
