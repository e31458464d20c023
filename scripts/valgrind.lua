-- What scripts/valgrind runs under memcheck: each thing of the core once, in
-- the ways it can end. It checks only what would make it pointless (that the
-- parts really ran); the specs check the rest.
local peri = require "perilune"

local sections = {}

local function section(name, fn)
  sections[#sections + 1] = { name = name, run = fn }
end

local function must_fail(fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "an error was expected")
  return err
end

section("tasks and their results", function()
  local task = peri.create_task { function(a, b)
    peri.sleep(0)
    return a, b, nil
  end, 1, 2, name = "adder" }
  assert(select("#", task:await()) == 3)
  assert(task:get_name() == "adder" and task:done())
  local failing = peri.create_task(function() error { code = 7 } end)
  assert(must_fail(failing.await, failing).code == 7)
  local eager = peri.create_task { function() return "at once" end, eager = true }
  assert(eager:done())
  peri.spawn(peri.sleep, 0)
  peri.sleep(0)
end)

section("futures and callbacks", function()
  local loop = peri.get_running_loop()
  local future = loop:create_future()
  local seen = 0
  local function count() seen = seen + 1 end
  future:add_done_callback(count)
  future:add_done_callback(function() seen = seen + 10 end)
  assert(future:remove_done_callback(count) == 1)
  loop:call_later(0.001, future.set_result, future, "later")
  assert(future:await() == "later" and seen == 10)
  local failed = peri.Future()
  failed:set_exception(peri.ValueError("no"))
  assert(peri.ValueError:is(failed:exception()))
  must_fail(failed.set_result, failed, 1)
  peri.Future():cancel() -- and nobody looks
end)

section("coroutine objects", function()
  local double = peri.async(function(x)
    peri.sleep(0)
    return 2 * x
  end)
  assert(double(21):await() == 42)
  assert(peri.await(peri.call(double, 4)):await() == 8)
  local function deep(n)
    return n > 0 and peri.call(deep, n - 1):await() or "bottom"
  end
  assert(deep(150) == "bottom")
  local function tail(n)
    if n == 0 then return "bottom" end
    return peri.call(tail, n - 1):await()
  end
  assert(tail(2000) == "bottom")
end)

section("callbacks, handles and timers", function()
  local loop = peri.get_running_loop()
  local order = {}
  local function note(x) order[#order + 1] = x end
  loop:call_soon(note, "soon")
  loop:call_soon(note, "never"):cancel()
  loop:call_later(0.002, note, "later")
  loop:call_later(60, note, "never"):cancel()
  loop:call_at(loop:time() + 0.001, note, "at")
  loop:call_soon_threadsafe(note, "posted")
  peri.sleep(0.01)
  assert(#order == 4, table.concat(order, " "))
end)

section("cancellation", function()
  local closed = 0
  local function worker()
    local _ <close> = peri.defer(function()
      peri.sleep(0.001)
      closed = closed + 1
    end)
    peri.sleep(60)
  end
  local task = peri.create_task(worker)
  peri.sleep(0)
  task:cancel("enough")
  local err = must_fail(task.await, task)
  assert(peri.CancelledError:is(err) and closed == 1)
  local stubborn = peri.create_task(function()
    pcall(peri.sleep, 60)
    return peri.current_task():cancelling()
  end)
  peri.sleep(0)
  stubborn:cancel()
  assert(stubborn:await() == 1)
end)

section("kill", function()
  local closed = 0
  local function closing() return peri.defer(function() closed = closed + 1 end) end
  local task = peri.create_task(function()
    local _ <close> = closing()
    local outer = coroutine.wrap(function()
      local _ <close> = closing()
      local inner = coroutine.wrap(function()
        local _ <close> = closing()
        while true do pcall(peri.sleep, 60) end
      end)
      inner()
    end)
    outer()
  end)
  peri.sleep(0)
  task:kill()
  must_fail(task.await, task)
  assert(closed == 3)
end)

section("gather, wait, wait_for, shield", function()
  local results = peri.gather(
    peri.call(peri.sleep, 0.001, "a"),
    function() return "b" end,
    peri.create_task(peri.sleep, 0, "c"))
    :await()
  assert(results.n == 3 and results[3] == "c")
  local mixed = peri.gather({
    function() error "lost" end,
    function() return 1 end,
  }, { return_exceptions = true }):await()
  assert(mixed.n == 2 and mixed[2] == 1)

  local slow = peri.create_task(peri.sleep, 60)
  local done, pending = peri.wait({ slow, peri.create_task(peri.sleep, 0) },
    { return_when = peri.FIRST_COMPLETED })
  assert(#done == 1 and #pending == 1)
  assert(peri.TimeoutError:is(must_fail(peri.wait_for, slow, 0.001)))
  assert(slow:cancelled())

  local kept = peri.create_task(peri.sleep, 0.005, "kept")
  must_fail(peri.wait_for, peri.shield(kept), 0.001)
  assert(kept:await() == "kept")
end)

section("timeouts", function()
  local err = must_fail(function()
    local _ <close> = peri.timeout(0.001)
    peri.sleep(60)
  end)
  assert(peri.TimeoutError:is(err))
  assert(peri.timeout(60, function() return "in time" end) == "in time")
  local scope <close> = peri.timeout(nil)
  scope:reschedule(peri.get_running_loop():time() + 60)
end)

section("events", function()
  local event = peri.Event()
  local woken = 0
  local tasks = {}
  for i = 1, 5 do
    tasks[i] = peri.create_task(function()
      event:wait()
      woken = woken + 1
    end)
  end
  peri.sleep(0)
  tasks[3]:cancel()
  event:set()
  peri.wait(tasks)
  assert(woken == 4)
end)

section("waits in the script's own coroutines and in metamethods", function()
  local function numbers()
    return coroutine.wrap(function()
      for i = 1, 3 do
        peri.sleep(0)
        coroutine.yield(i)
      end
    end)
  end
  local sum = 0
  for i in numbers() do sum = sum + i end
  assert(sum == 6)
  local lazy = setmetatable({}, { __index = function(_, key)
    peri.sleep(0)
    return key
  end })
  assert(lazy.field == "field")
  must_fail(table.sort, { 2, 1 }, function(a, b)
    peri.sleep(0)
    return a < b
  end)
  must_fail(string.gsub, "x", "x", function() peri.sleep(0) end)
  local co = coroutine.create(function()
    local _ <close> = peri.defer(function() end)
    coroutine.yield()
  end)
  coroutine.resume(co)
  assert(coroutine.close(co))
  local parked = coroutine.create(function() peri.sleep(60) end)
  local task = peri.create_task(coroutine.resume, parked)
  peri.sleep(0)
  task:cancel()
  peri.wait { task }
end)

section("clocks", function()
  local manual = peri.Clock { kind = "manual" }
  local task
  do
    local _ <close> = peri.use_clock(manual)
    task = peri.create_task(peri.sleep, 3600, "an hour")
  end
  peri.sleep(0)
  manual:advance(3600)
  assert(task:await() == "an hour")
  local runner <close> = peri.Runner { clock = peri.Clock { kind = "virtual" } }
  assert(runner:run(peri.sleep, 86400, "a day") == "a day")
end)

section("loops", function()
  assert(peri.run(function(...)
    peri.create_task(peri.sleep, 60) -- left behind
    peri.sleep(0)
    return ...
  end, 5) == 5)
  must_fail(peri.run, function() error "out" end)
  local loop = peri.new_event_loop()
  loop:call_later(0.001, loop.stop, loop)
  loop:run_forever()
  assert(loop:run_until_complete(loop:create_task(peri.sleep, 0, 1)) == 1)
  loop:close()
  must_fail(loop.call_soon, loop, print)
end)

section("reports", function()
  local loop = peri.get_running_loop()
  local reports = 0
  loop:set_exception_handler(function() reports = reports + 1 end)
  peri.create_task(function() error "nobody sees this" end)
  loop:call_soon(function() error "in a callback" end)
  peri.sleep(0.001)
  collectgarbage()
  collectgarbage()
  peri.sleep(0)
  loop:set_exception_handler(nil)
  assert(reports == 2)
end)

section("errors of every kind", function()
  local kinds = { "text", {}, 42, false, peri.ValueError("v", { cause = "c" }),
    setmetatable({}, { __tostring = function() error "again" end }) }
  for _, value in ipairs(kinds) do
    local task = peri.create_task(error, value)
    assert(must_fail(task.await, task) == value)
    task:traceback()
  end
  assert(peri.RuntimeError:is(must_fail(peri.wait_for, peri.create_task(error), 1)))
  local Mine = peri.Error:extend "ValgrindError"
  assert(Mine:is(must_fail(error, Mine "x")))
end)

-- No stock function tells a file's descriptor: it is the one that is new.
local function open_descriptors()
  local open = {}
  for fd = 0, 63 do
    local info <close> = io.open("/proc/self/fdinfo/" .. fd)
    open[fd] = info ~= nil
  end
  return open
end

local function open_pipe(command)
  local before = open_descriptors()
  local pipe = assert(io.popen(command))
  for fd, open in pairs(open_descriptors()) do
    if open and not before[fd] then return pipe, fd end
  end
end

section("descriptors and signals", function()
  local loop = peri.get_running_loop()
  local pipe, descriptor = open_pipe "sleep 0.05; echo ready"
  local readable = peri.Event()
  loop:add_reader(descriptor, function()
    readable:set()
    loop:remove_reader(descriptor)
  end)
  peri.wait_for(peri.call(readable.wait, readable), 5)
  assert(pipe:read() == "ready")
  pipe:close()
  local signalled = peri.Event()
  loop:add_signal_handler("SIGUSR2", function() signalled:set() end)
  os.execute "kill -USR2 $PPID"
  peri.wait_for(peri.call(signalled.wait, signalled), 5)
  loop:remove_signal_handler "SIGUSR2"
end)

section("many of everything", function()
  local function node(depth)
    if depth == 0 then return 1 end
    local results = peri.gather(
      peri.call(node, depth - 1), peri.call(node, depth - 1)):await()
    return results[1] + results[2]
  end
  assert(node(7) == 128)
  local tasks = {}
  for i = 1, 300 do tasks[i] = peri.create_task(peri.sleep, i / 1e5) end
  for i = 1, 300, 3 do tasks[i]:cancel() end
  peri.wait(tasks)
end)

for _, each in ipairs(sections) do
  local ok, err = xpcall(each.run, debug.traceback)
  if not ok then
    io.stderr:write("failed: ", each.name, "\n", tostring(err), "\n")
    os.exit(1)
  end
  print("ok: " .. each.name)
end

-- The end of a script cancels what it leaves behind, and waits for it.
peri.create_task(function()
  local _ <close> = peri.defer(function() peri.sleep(0.001) end)
  peri.sleep(60)
end)
peri.sleep(0)
