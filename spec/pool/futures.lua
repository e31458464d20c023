-- What holds for the futures and executors of either kind; futures_spec.lua has it
-- run for the kind that is passed.
local futures = require "perilune.futures"
local peri = require "perilune"
local support = require "support"
local raises, trace = support.raises, support.trace

local class = ...
local Executor = futures[class]

-- Stands before code that others run.
local set_name = ("local name = %q\n"):format(class)

-- What has no counterpart in processes, or another one.
local function describe_threads(...)
  if class == "ThreadPoolExecutor" then describe(...) end
end

local function wait_until_runs(future)
  while not future:running() do peri.sleep(0) end
end

-- An executor with one worker, which stands at a gate until the second value is
-- called: what is submitted is queued.
local function held()
  local executor = Executor { max_workers = 1 }
  local path = support.directory() .. "/gate"
  assert(os.execute(("mkfifo '%s'"):format(path)))
  local file
  -- Whoever comes to the gate late finds it open, too.
  finally(function()
    file = file or io.open(path, "r+")
    executor:shutdown()
    file:close()
  end)
  local first = executor:submit(function(name, ...)
    io.open(name, "r"):close()
    return ...
  end, path, "through", 2)
  wait_until_runs(first)
  return executor, function() file = file or io.open(path, "r+") end, first
end

local function fail(message) error(require "perilune".ValueError(message)) end

describe("the future of a job, " .. class, function()
  it("goes from queued to running to done", function()
    local executor, open, first = held()
    local second = executor:submit(math.abs, -1)
    assert.same({ true, false, false }, { first:running(), first:done(), first:cancelled() })
    assert.same({ false, false, false }, { second:running(), second:done(), second:cancelled() })
    open()
    assert.same({ "through", 2 }, { first:result() })
    assert.equal(1, (second:result()))
    assert.same({ false, true, false }, { second:running(), second:done(), second:cancelled() })
  end)

  it("gives its values and no error, as often as it is asked", function()
    local executor, open, first = held()
    open()
    assert.same({ "through", 2 }, { first:await() })
    assert.same({ "through", 2 }, { first:result(0) })
    assert.is_nil(first:exception())
    assert.is_nil(first:traceback())
    assert.equal("<Future finished>", tostring(first))
    executor:shutdown()
    assert.same({ "through", 2 }, { first:result() })
  end)

  it("gives the same error each time", function()
    local executor <close> = Executor { max_workers = 1 }
    local future = executor:submit(fail, "bad")
    local err = raises(peri.ValueError, "bad", future.result, future)
    assert.equal(err, future:exception())
    assert.equal(err, raises(peri.ValueError, "bad", future.await, future))
    assert.truthy(future:traceback():find(class == "ThreadPoolExecutor" and "in worker peri%-0" or "in worker %d"))
  end)

  it("waits no longer than the timeout, and leaves the job alone", function()
    local _, open, first = held()
    raises(peri.TimeoutError, "", first.result, first, 0.01)
    raises(peri.TimeoutError, "", first.exception, first, 0.01)
    raises(peri.TimeoutError, "", first.result, first, 0)
    raises(peri.TimeoutError, "", first.result, first, -1)
    raises(peri.TypeError, "bad argument #1 to 'result' (number or nil expected, got string)",
      first.result, first, "1")
    assert.is_true(first:running())
    open()
    assert.equal("through", (first:result(60)))
  end)

  it("is awaited by several tasks, and outlives their cancellation in result", function()
    local _, open, first = held()
    local waiter = peri.create_task(first.result, first)
    local other = peri.create_task(first.await, first)
    support.spin(2)
    waiter:cancel()
    raises(peri.CancelledError, "", waiter.await, waiter)
    assert.is_true(first:running())
    open()
    assert.equal("through", (other:await()))
  end)

  it("is cancelled with the task that awaits it, if it has not begun", function()
    local executor, open, first = held()
    local second = executor:submit(print)
    local waiter = peri.create_task(second.await, second)
    support.spin(2)
    waiter:cancel()
    raises(peri.CancelledError, "", waiter.await, waiter)
    assert.is_true(second:cancelled())
    -- One that runs goes on, and the task ends at once.
    waiter = peri.create_task(first.await, first)
    support.spin(2)
    waiter:cancel()
    raises(peri.CancelledError, "", waiter.await, waiter)
    assert.is_true(first:running())
    open()
    assert.equal("through", (first:result()))
  end)

  it("is done at once when it is cancelled in the queue", function()
    local executor, open, first = held()
    local second = executor:submit(print)
    assert.is_true(second:cancel())
    assert.is_true(second:cancel())
    assert.same({ true, true }, { second:done(), second:cancelled() })
    raises(peri.CancelledError, "", second.result, second)
    raises(peri.CancelledError, "", second.exception, second)
    assert.is_false(first:cancel())
    open()
    first:result()
    assert.is_false(first:cancel())
  end)

  it("may be gathered, waited for, shielded and raced", function()
    local executor <close> = Executor { max_workers = 2 }
    local function job(x) return x, x end
    local gather = peri.gather(executor:submit(job, 1), executor:submit(job, 2), peri.call(job, 1))
    assert.same({ n = 3, 1, 2, 1 }, gather:await())
    local list = { executor:submit(job, 3), executor:submit(job, 4) }
    local done, pending = peri.wait(list)
    assert.same({ 2, 0 }, { #done, #pending })
    assert.equal(5, (peri.wait_for(executor:submit(job, 5), 60)))
    assert.equal(6, (peri.shield(executor:submit(job, 6)):await()))
    assert.equal(7, (peri.race { executor:submit(job, 7) }))
    for future in peri.as_completed { executor:submit(job, 8) } do assert.equal(8, (future:result())) end
    local same = executor:submit(job, 9)
    assert.same({ n = 2, 9, 9 }, peri.gather(same, same):await())
  end)

  it("ends a gather that is cancelled, though it runs on itself", function()
    local executor, open, first = held()
    local second = executor:submit(print)
    local gather = peri.gather { first, second }
    support.spin(1)
    assert.is_true(gather:cancel())
    raises(peri.CancelledError, "", gather.await, gather)
    assert.is_true(second:cancelled())
    assert.is_true(first:running())
    open()
    assert.equal("through", (first:result()))
  end)

  it("lets wait_for give up on a job that runs", function()
    local _, open, first = held()
    local clock <close> = peri.use_clock(peri.Clock { kind = "real" }) -- luacheck: ignore
    raises(peri.TimeoutError, "", peri.wait_for, first, 0.01)
    assert.is_true(first:running())
    open()
    first:result()
  end)

  it("may be awaited in any loop", function()
    local out, err, code = support.run_code(set_name .. [[
      local peri = require "perilune"
      local executor <close> = require "perilune.futures"[name] { max_workers = 1 }
      local loop <close> = setmetatable({}, { __close = function(self) self.loop:close() end })
      loop.loop = peri.new_event_loop()
      local function job() return require "perilune".sleep(0, "here") end
      print((loop.loop:run_until_complete(executor:submit(job))))
      local future = executor:submit(job)
      print((loop.loop:run_until_complete(peri.call(future.await, future))))
      print((future:await()))
    ]])
    assert.same({ "here\nhere\nhere\n", "", 0 }, { out, err, code })
  end)
end)

describe("a done callback of a job's future, " .. class, function()
  it("is called where the job ends, in the order of adding", function()
    local executor, open, first = held()
    local lines, say = trace()
    for i = 1, 3 do first:add_done_callback(function(f) say(i, f == first, f:done()) end) end
    open()
    first:result()
    assert.same({ "1 true true", "2 true true", "3 true true" }, lines)
    first:add_done_callback(function() say "at once" end)
    assert.equal("at once", lines[4])
    executor:shutdown()
  end)

  it("is called by cancel", function()
    local executor, open = held()
    local lines, say = trace()
    local second = executor:submit(print)
    second:add_done_callback(function(f) say(f:cancelled()) end)
    assert.is_true(second:cancel())
    assert.same({ "true" }, lines)
    open()
  end)

  it("that raises is logged, and the next one is called", function()
    local _, open, first = held()
    local called
    first:add_done_callback(function() error "oops" end)
    first:add_done_callback(function() called = true end)
    local lines = support.log()
    open()
    first:result()
    local text = table.concat(lines, "\n")
    assert.truthy(text:find("an error in a done callback of a pool's future", 1, true), text)
    assert.truthy(text:find("oops", 1, true), text)
    assert.is_true(called)
  end)

  it("cannot wait, and sees the context in which it was added", function()
    local _, open, first = held()
    local var = peri.ContextVar("name", "none")
    local token = var:set "mine"
    local seen, err
    first:add_done_callback(function()
      seen = var:get()
      local _, caught = pcall(peri.sleep, 0)
      err = caught
    end)
    var:reset(token)
    open()
    first:result()
    assert.equal("mine", seen)
    assert.truthy(tostring(err):find("callbacks are not tasks", 1, true), tostring(err))
  end)

  it("may submit, and shut the executor down", function()
    local executor, open, first = held()
    local second
    first:add_done_callback(function()
      second = executor:submit(math.abs, -2)
      executor:shutdown { wait = false }
      executor:shutdown()
    end)
    open()
    first:result()
    assert.equal(2, (second:result()))
  end)
end)

describe("futures.wait, " .. class, function()
  it("returns at once if it need not wait", function()
    local executor, open, first = held()
    local done, not_done = futures.wait {}
    assert.same({ 0, 0 }, { #done, #not_done })
    local second = executor:submit(print)
    second:cancel()
    done, not_done = futures.wait({ first, second, second }, { return_when = futures.FIRST_COMPLETED })
    assert.same({ { second }, { first } }, { done, not_done })
    done, not_done = futures.wait({ first, second }, { timeout = 0 })
    assert.same({ { second }, { first } }, { done, not_done })
    open()
    done, not_done = futures.wait { first, second }
    assert.same({ { first, second }, {} }, { done, not_done })
  end)

  it("stops at the first error, if asked to", function()
    local executor, open, first = held()
    local last = executor:submit(peri.sleep, 1e9)
    local bad
    first:add_done_callback(function() end)
    local _ <close> = support.finally(function() last:cancel { running = true } end)
    open()
    first:result()
    local other <close> = Executor { max_workers = 1 }
    bad = other:submit(fail, "bad")
    local done, not_done = futures.wait({ last, bad }, { return_when = futures.FIRST_EXCEPTION })
    assert.same({ { bad }, { last } }, { done, not_done })
    last:cancel { running = true }
    futures.wait { last }
    assert.is_true(last:cancelled())
  end)

  it("refuses what is no future of a pool, and other options", function()
    raises(peri.TypeError, "bad argument #1 to 'wait' (a pool's future as element 1 expected, got number)",
      futures.wait, { 1 })
    raises(peri.TypeError, "bad argument #1 to 'wait' (list of pool futures expected, got number)", futures.wait, 1)
    raises(peri.ValueError, [[bad argument #2 to 'wait' (invalid return_when: "never")]],
      futures.wait, {}, { return_when = "never" })
  end)
end)

describe("futures.as_completed, " .. class, function()
  it("gives those that are done first, each once", function()
    local executor, open, first = held()
    local cancelled = executor:submit(print)
    cancelled:cancel()
    local second = executor:submit(math.abs, -2)
    local order = {}
    for future in futures.as_completed { first, second, cancelled, first } do
      order[#order + 1] = future
      open()
    end
    assert.same({ cancelled, first, second }, order)
  end)

  it("raises TimeoutError if not all end in time", function()
    local _, open, first = held()
    local step, state = futures.as_completed({ first }, { timeout = 0.01 })
    raises(peri.TimeoutError, "1 (of 1) futures unfinished", step, state)
    open()
    first:result()
  end)

  it("gives thousands", function()
    local executor <close> = Executor { max_workers = 2 }
    local jobs, sum = {}, 0
    for i = 1, 3000 do jobs[i] = executor:submit(function(n) return n end, i) end
    for future in futures.as_completed(jobs) do sum = sum + future:result() end
    assert.equal(3000 * 3001 // 2, sum)
  end)
end)

describe("Executor:map, " .. class, function()
  it("counts its timeout from the call", function()
    local executor, open, first = held()
    local step = executor:map(math.abs, { -1 }, { timeout = 0.01 })
    raises(peri.TimeoutError, "", step)
    assert.is_nil((step()))
    open()
    first:result()
  end)

  it("takes a table of arguments for a list if it has one", function()
    local executor <close> = Executor { max_workers = 1 }
    local seen = {}
    for i, x in executor:map(function(a, b) return a .. b end, { "a" }, { "b", timeout = 1 }) do seen[i] = x end
    assert.same({ "ab" }, seen)
    raises(peri.ValueError, "bad argument #3 to 'map' (chunksize must be > 0)",
      executor.map, executor, print, {}, { chunksize = 0 })
    raises(peri.ValueError, [[bad argument #3 to 'map' (unknown option "chunks")]],
      executor.map, executor, print, {}, { chunksize = 1, chunks = 1 })
  end)

  it("sends chunks, and gives the results before an error", function()
    local executor <close> = Executor { max_workers = 2 }
    local lines, say = trace()
    for i, x, y in executor:map(function(a) return a, nil end, { 1, 2, 3, 4, 5 }, { chunksize = 2 }) do say(i, x, y) end
    assert.same({ "1 1 nil", "2 2 nil", "3 3 nil", "4 4 nil", "5 5 nil" }, lines)
    local step = executor:map(function(a) return 6 // a end, { 1, 2, 0, 3 }, { chunksize = 4 })
    assert.same({ 1, 6 }, { step() })
    assert.same({ 2, 3 }, { step() })
    assert.is_false((pcall(step)))
    assert.is_nil((step()))
  end)

  it("submits no more than buffersize ahead", function()
    local executor, open = held()
    local submitted = 0
    local list = setmetatable({ n = 10 }, { __index = function(_, i)
      submitted = i
      return i
    end })
    local step = executor:map(function(x) return x end, list, { buffersize = 2 })
    assert.equal(2, submitted)
    open()
    assert.same({ 1, 1 }, { step() })
    assert.equal(3, submitted)
    local sum = 1
    for _, x in step do sum = sum + x end
    assert.same({ 55, 10 }, { sum, submitted })
  end)
end)

describe("max_queued, " .. class, function()
  it("makes submit wait for room, in order", function()
    local executor = Executor { max_workers = 1, max_queued = 1 }
    local path = support.directory() .. "/gate"
    assert(os.execute(("mkfifo '%s'"):format(path)))
    local lines, say = trace()
    executor:submit(function(name) io.open(name, "r"):close() end, path)
    local queued = executor:submit(math.abs, -1)
    local tasks = {}
    for i = 1, 3 do
      tasks[i] = peri.create_task(function()
        local future = executor:submit(math.abs, -i)
        say(i, queued:done())
        return future:result()
      end)
    end
    support.spin(3)
    assert.same({}, lines)
    tasks[2]:cancel()
    local file <close> = io.open(path, "r+") -- luacheck: ignore
    assert.same({ 1, 3 }, { (tasks[1]:await()), (tasks[3]:await()) })
    assert.equal("1", lines[1]:sub(1, 1))
    assert.equal("3", lines[2]:sub(1, 1))
    assert.is_true(tasks[2]:cancelled())
    executor:shutdown()
    raises(peri.ValueError, "max_queued must be at least 0", Executor, { max_queued = -1 })
  end)

  it("lets nobody wait at an executor that is shut down", function()
    local executor <close> = Executor { max_workers = 1, max_queued = 0 }
    local first = executor:submit(peri.sleep, 1e9)
    local tasks = {}
    for i = 1, 3 do tasks[i] = peri.create_task(executor.submit, executor, print) end
    peri.sleep(0)
    executor:shutdown { wait = false }
    for i = 1, 3 do
      raises(peri.RuntimeError, "cannot schedule new futures after shutdown", tasks[i].await, tasks[i])
    end
    assert.is_false(first:done())
    while not first:cancel { running = true } do peri.sleep(0) end
  end)

  it("raises in a callback, where nothing can wait", function()
    local executor = Executor { max_workers = 1, max_queued = 0 }
    local future = executor:submit(peri.sleep, 1e9)
    local err
    peri.get_running_loop():call_soon(function() err = select(2, pcall(executor.submit, executor, print)) end)
    support.spin(2)
    assert.truthy(tostring(err):find("callbacks are not tasks", 1, true), tostring(err))
    wait_until_runs(future)
    future:cancel { running = true }
    executor:shutdown()
  end)
end)

describe("a loop that was sent to a job, " .. class, function()
  it("takes calls and coroutines from there", function()
    local executor <close> = Executor { max_workers = 1 }
    local lines, say = trace()
    local said = peri.ref(say)
    local future = executor:submit(function(loop, ref)
      local peri = require "perilune" -- luacheck: ignore
      local doubled = loop:run_coroutine_threadsafe(function(x) return x * 2 end, 21)
      local bad = loop:run_coroutine_threadsafe(function() error(require "perilune".ValueError "bad") end)
      local ok, err = pcall(peri.await, bad)
      local endless = loop:run_coroutine_threadsafe(peri.sleep, 1e9)
      endless:cancel()
      return doubled:await(), ok, err, ref, endless:cancelled()
    end, peri.get_running_loop(), said)
    local doubled, ok, err, ref, cancelled = future:result()
    assert.same({ 42, false, true, true, true },
      { doubled, ok, peri.ValueError:is(err), ref == say, cancelled })
    assert.same({}, lines)
  end)

  it("is waited for by result, as Python's callers do", function()
    local executor <close> = Executor { max_workers = 1 }
    local future = executor:submit(function(loop)
      local peri = require "perilune" -- luacheck: ignore
      local endless = loop:run_coroutine_threadsafe(peri.sleep, 1e9)
      local _, late = peri.pcall(endless.result, endless, 0.001)
      endless:cancel()
      return loop:run_coroutine_threadsafe(math.max, 1, 3, 2):result(), peri.TimeoutError:is(late)
    end, peri.get_running_loop())
    assert.same({ 3, true }, { future:result() })
  end)

  it("may close while the job has it", function()
    local executor <close> = Executor { max_workers = 1 }
    local loop = peri.new_event_loop()
    local path = support.directory() .. "/gate"
    assert(os.execute(("mkfifo '%s'"):format(path)))
    local future = executor:submit(function(handle, name)
      local peri = require "perilune" -- luacheck: ignore
      io.open(name, "r"):close()
      local answer = handle:run_coroutine_threadsafe(function() end)
      return select(2, pcall(peri.await, answer))
    end, loop, path)
    loop:close()
    local file <close> = io.open(path, "r+") -- luacheck: ignore
    assert.equal("RuntimeError: Event loop is closed", tostring((future:result())))
  end)
end)

describe_threads("the loop of a job", function()
  -- The job sends its loop here, waits for the gate and ends the state.
  local function lend(executor, path)
    local arrived = peri.get_running_loop():create_future()
    local take = peri.ref(function(handle) arrived:set_result(handle) end)
    local job = executor:submit(function(loop, ref, name)
      local mine = require "perilune".get_running_loop()
      loop:call_soon_threadsafe(function(token, handle) token(handle) end, ref, mine)
      io.open(name, "r"):close()
      os.exit(3)
    end, peri.get_running_loop(), take, path)
    return job, arrived:await()
  end

  it("cannot be reached when its state has gone, and nobody waits for it any more", function()
    local executor <close> = Executor { max_workers = 1 }
    local path = support.directory() .. "/gate"
    assert(os.execute(("mkfifo '%s'"):format(path)))
    local job, handle = lend(executor, path)
    local waits = handle:run_coroutine_threadsafe(peri.sleep, 1e9)
    local file <close> = io.open(path, "r+") -- luacheck: ignore
    raises(peri.RuntimeError, "os.exit(3) was called in a worker thread", job.result, job)
    assert.equal(7, (executor:submit(math.abs, -7):result()))
    assert.is_false((pcall(waits.await, waits)))
    raises(peri.RuntimeError, "the state of the loop cannot be reached",
      handle.run_coroutine_threadsafe, handle, math.abs, 1)
    local gate <close> = io.open(path, "r+") -- luacheck: ignore
    local second, other = lend(executor, path)
    assert.equal("RuntimeError: os.exit(3) was called in a worker thread", tostring(second:exception()))
    assert.not_equal(handle, other)
  end)
end)

describe("spin, " .. class, function()
  it("changes nothing but the time", function()
    local executor <close> = Executor { max_workers = 2, spin = 0.001 }
    for i = 1, 200 do assert.equal(i, (executor:submit(function(n) return n end, i):await())) end
    assert.equal("slept", (executor:submit(peri.sleep, 0.005, "slept"):result()))
    raises(peri.TypeError, ("bad argument #1 to '%s' (number or nil expected, got string)"):format(class),
      Executor, { spin = "1" })
  end)
end)

describe("outside of loops, " .. class, function()
  it("result blocks, with a timeout, and callbacks run meanwhile", function()
    local out, err, code = support.run_stock(set_name .. [[
      local peri = require "perilune"
      local futures = require "perilune.futures"
      local executor = futures[name] { max_workers = 1 }
      local slow = executor:submit(peri.sleep, 0.05, "slept")
      slow:add_done_callback(function(f) print("callback", f:done()) end)
      print(pcall(slow.result, slow, 0.001))
      print(slow:result())
      print(slow:result(), slow:exception())
      local bad = executor:submit(error, "bad", 0)
      print(pcall(bad.result, bad))
      local done, pending = futures.wait({ slow, executor:submit(peri.sleep, 0) })
      print(#done, #pending)
      for f in futures.as_completed { slow } do print(f == slow) end
      for i, x in executor:map(math.abs, { -1, -2 }) do print(i, x) end
      print(pcall(peri.get_running_loop))
      executor:shutdown()
    ]])
    assert.same({ table.concat({
      "false\tTimeoutError", "callback\ttrue", "slept", "slept\tnil", "false\tbad", "2\t0", "true",
      "1\t1", "2\t2", "false\tRuntimeError: no running event loop\n" }, "\n"), "", 0 }, { out, err, code })
  end)
end)

describe("cancel { running = true }, " .. class, function()
  it("ends a job where it waits, and pcall does not catch that", function()
    local executor <close> = Executor { max_workers = 1 }
    local future = executor:submit(function()
      local sleep = require "perilune".sleep
      pcall(sleep, 1e9)
      return "caught"
    end)
    wait_until_runs(future)
    assert.is_false(future:cancel())
    assert.is_true(future:cancel { running = true })
    raises(peri.CancelledError, "", future.result, future)
    assert.is_true(future:cancelled())
    assert.equal(1, (executor:submit(math.abs, -1):result()))
  end)

  it("withdraws one that has not begun", function()
    local executor, open = held()
    local future = executor:submit(print)
    assert.is_true(future:cancel { running = true })
    assert.is_true(future:cancelled())
    open()
    raises(peri.TypeError, "bad argument #1 to 'cancel' (table of options expected, got number)",
      function() future:cancel(1) end)
    raises(peri.ValueError, "grace must be a number of seconds, at least 0",
      function() future:cancel { running = true, grace = -1 } end)
  end)

  if support.signals_interrupt then
    it("ends a job that loops for ever, in pcall too", function()
      local executor <close> = Executor { max_workers = 1 }
      local future = executor:submit(function()
        while true do
          pcall(function() while true do end end)
        end
      end)
      wait_until_runs(future)
      assert.is_true(future:cancel { running = true })
      raises(peri.CancelledError, "", future.result, future)
      assert.equal(1, (executor:submit(math.abs, -1):result()))
    end)

    it("never hits the job behind", function()
      local executor <close> = Executor { max_workers = 1 }
      for _ = 1, 100 do
        local first = executor:submit(function() for _ = 1, 3000 do end end)
        local second = executor:submit(math.abs, -1)
        while not (first:running() or first:done()) do peri.sleep(0) end
        first:cancel { running = true }
        assert.equal(1, (second:result()))
        assert.is_true(first:done())
      end
    end)
  end
end)
