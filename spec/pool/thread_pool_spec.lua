local futures = require "perilune.futures"
local peri = require "perilune"
local support = require "support"
local raises, trace = support.raises, support.trace

local gate, gated = support.gate, support.gated()

local function thread_name()
  local file <close> = io.open "/proc/thread-self/comm"
  return file:read()
end

local function raised(class, message, future)
  return raises(class, message, peri.await, future)
end

describe("run_in_executor", function()
  it("returns a future of the loop at once", function()
    local loop = peri.get_running_loop()
    local future = loop:run_in_executor(nil, string.rep, "ab", 2)
    assert.is_true(peri.isfuture(future))
    assert.is_false(future:done())
    assert.equal("abab", future:await())
  end)

  it("gives every result, nils too", function()
    local loop = peri.get_running_loop()
    local results = table.pack(loop:run_in_executor(nil, function(...) return ... end, nil, 2, nil):await())
    assert.same({ n = 3, nil, 2, nil }, results)
  end)

  it("lets the loop turn meanwhile", function()
    local path, open = gate()
    local future = peri.get_running_loop():run_in_executor(nil, gated, path, "through")
    support.spin(5)
    assert.is_false(future:done())
    open()
    assert.equal("through", future:await())
  end)

  it("takes a call table", function()
    local future = peri.get_running_loop():run_in_executor(nil, { math.max, 1, 7, 3 })
    assert.equal(7, future:await())
  end)

  it("refuses what is no executor, and no function", function()
    local loop = peri.get_running_loop()
    raises(peri.TypeError, "bad argument #1 to 'run_in_executor' (an executor expected, got table)",
      loop.run_in_executor, loop, {}, print)
    raises(peri.TypeError, "bad argument #2 to 'run_in_executor' (function expected, got nil)",
      loop.run_in_executor, loop, nil)
  end)

  it("raises at once for what cannot be sent", function()
    local loop = peri.get_running_loop()
    raises(peri.TypeError,
      "cannot send argument 2[1]: perilune.Future, which stays in its Lua state (peri.ref sends a token)",
      loop.run_in_executor, loop, nil, print, 1, { peri.Future() })
  end)

  it("refuses a closed loop", function()
    local loop = peri.new_event_loop()
    loop:close()
    raises(peri.RuntimeError, "Event loop is closed", loop.run_in_executor, loop, nil, print)
  end)

  it("withdraws a job that has not begun when its future is cancelled", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    local path, open = gate()
    local marker = support.directory() .. "/marker"
    local first = executor:submit(gated, path)
    local second = executor:submit(function(name) io.open(name, "w"):close() end, marker)
    second:cancel()
    support.spin(2)
    open()
    first:await()
    executor:shutdown()
    assert.is_true(second:cancelled())
    assert.is_nil(io.open(marker))
  end)

  it("drops the result of a job whose future was cancelled while it ran", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    local path, open = gate()
    local future = peri.get_running_loop():run_in_executor(executor, gated, path, "dropped")
    assert.is_true(future:cancel())
    open()
    assert.equal("next", executor:submit(function() return "next" end):await())
    assert.is_true(future:cancelled())
  end)
end)

describe("the default executor", function()
  it("may be set", function()
    local loop = peri.get_running_loop()
    loop:set_default_executor(futures.ThreadPoolExecutor { max_workers = 1, thread_name_prefix = "mine" })
    local name = loop:run_in_executor(nil, thread_name):await()
    assert.equal("mine-0", name)
  end)

  it("is one of threads, as in Python", function()
    local loop = peri.get_running_loop()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    raises(peri.TypeError, "executor must be a ThreadPoolExecutor",
      loop.set_default_executor, loop, executor)
  end)

  it("is gone for good once it was shut down", function()
    local loop = peri.get_running_loop()
    assert.equal(1, loop:run_in_executor(nil, math.abs, -1):await())
    loop:shutdown_default_executor()
    raises(peri.RuntimeError, "Executor shutdown has been called", loop.run_in_executor, loop, nil, math.abs, 1)
  end)

  it("is waited for by shutdown_default_executor", function()
    local loop = peri.get_running_loop()
    local path, open = gate()
    local future = loop:run_in_executor(nil, gated, path)
    local ending = peri.create_task(loop.shutdown_default_executor, loop)
    support.spin(3)
    assert.is_false(ending:done())
    open()
    ending:await()
    assert.is_true(future:done())
  end)

  it("serves to_thread", function()
    assert.equal(6, (peri.to_thread(function(a, b) return a * b end, 2, 3)))
    local task = peri.create_task(peri.to_thread, error, "text")
    local ok, err = pcall(peri.await, task)
    assert.is_false(ok)
    assert.equal("text", err)
  end)

  it("does not get the context of to_thread, nor can a variable of it be sent", function()
    local var = peri.ContextVar("user", "nobody")
    var:set "me"
    local function job() return var:get() end
    local info = debug.getinfo(job, "S")
    raises(peri.TypeError, ("cannot send upvalue 'var' of function %s:%d: perilune.ContextVar, "
      .. "which stays in its Lua state (peri.ref sends a token)"):format(info.short_src, info.linedefined),
      peri.to_thread, job)
    assert.equal("me", (peri.to_thread(function(name) return name end, var:get())))
  end)
end)

describe("a job", function()
  it("is a task of its worker's loop: it may wait and make tasks", function()
    local list = peri.to_thread(function()
      local first = peri.call(peri.sleep, 0, "a")
      local second = peri.create_task(peri.sleep, 0, "b")
      peri.create_task(peri.sleep, 1e9)
      return peri.gather(first, second):await()
    end)
    assert.same({ n = 2, "a", "b" }, list)
  end)

  it("keeps nothing but the worker's globals", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    local count = 0
    local function job()
      count, total = count + 1, (total or 0) + 1 -- luacheck: ignore
      return count, total -- luacheck: ignore
    end
    assert.same({ 1, 1 }, { executor:submit(job):await() })
    assert.same({ 1, 2 }, { executor:submit(job):await() })
    assert.equal(0, count)
  end)

  it("fails with what it raised, whatever that is", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    raised(peri.ValueError, "bad", executor:submit(function() error(peri.ValueError "bad") end))
    raised(peri.RuntimeError, "error(nil) was raised", executor:submit(function() error(nil) end))
    local ok, err = pcall(peri.await, executor:submit(error, { 1, 2 }))
    assert.is_false(ok)
    assert.same({ 1, 2 }, err)
  end)

  it("fails if its result or error cannot be sent", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    local function stray() return coroutine.create(print) end
    raised(peri.TypeError, "cannot send result 2: coroutine",
      executor:submit(function() return 1, stray() end))
    local err = raised(peri.TypeError, "cannot send error.conn: coroutine",
      executor:submit(function() error(peri.Error("lost", { conn = stray() })) end))
    assert.equal("Error: lost", err.cause)
  end)

  it("that calls os.exit fails, and its worker is replaced", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    raised(peri.RuntimeError, "os.exit(3) was called in a worker thread", executor:submit(os.exit, 3))
    assert.equal(1, executor:submit(math.abs, -1):await())
  end)

  it("that overflows the stack fails, and its worker goes on", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    local ok, err = pcall(peri.await, executor:submit(function()
      local function down() return 1 + down() end
      return down()
    end))
    assert.is_false(ok)
    assert.truthy(tostring(err):find "stack overflow")
    assert.equal(1, executor:submit(math.abs, -1):await())
  end)

  it("may run jobs of its own", function()
    assert.equal("inner", (peri.to_thread(function()
      return peri.to_thread(function() return "inner" end)
    end)))
  end)

  it("finds the modules that its script finds", function()
    assert.equal("table", (peri.to_thread(function() return type(require "support") end)))
  end)
end)

describe("ThreadPoolExecutor", function()
  it("starts no more threads than max_workers", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 2, thread_name_prefix = "few" }
    local names, jobs = {}, {}
    for i = 1, 20 do
      jobs[i] = executor:submit(thread_name)
    end
    for i = 1, 20 do names[jobs[i]:await()] = true end
    names["few-0"], names["few-1"] = nil, nil
    assert.is_nil(next(names))
  end)

  it("runs jobs beside each other", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 2 }
    local path = gate()
    -- Each end of the FIFO waits for the other.
    local reader = executor:submit(gated, path, "read")
    local writer = executor:submit(function(name) io.open(name, "w"):close() return "written" end, path)
    assert.same({ n = 2, "read", "written" }, peri.gather(reader, writer):await())
  end)

  it("begins one worker's jobs in the order of their submission", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    local lines, say = trace()
    local jobs = {}
    for i = 1, 5 do
      jobs[i] = executor:submit(function() return i end)
      jobs[i]:add_done_callback(function(f) say(f:result()) end)
    end
    peri.gather(jobs):await()
    support.spin(1)
    assert.same({ "1", "2", "3", "4", "5" }, lines)
  end)

  it("waits for its jobs at the end of its scope", function()
    local future
    do
      local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
      future = executor:submit(peri.sleep, 0, "done")
    end
    assert.is_true(future:done())
    assert.equal("done", future:result())
  end)

  it("takes no jobs after shutdown, and does those it has", function()
    local executor = futures.ThreadPoolExecutor { max_workers = 1 }
    local path, open = gate()
    local first = executor:submit(gated, path, 1)
    local second = executor:submit(math.abs, -2)
    executor:shutdown { wait = false }
    raises(peri.RuntimeError, "cannot schedule new futures after shutdown",
      executor.submit, executor, print)
    open()
    assert.same({ 1, 2 }, { first:await(), (second:await()) })
    executor:shutdown()
    executor:shutdown()
  end)

  it("cancels what has not begun, if asked to", function()
    local executor = futures.ThreadPoolExecutor { max_workers = 1 }
    local path, open = gate()
    local first = executor:submit(gated, path)
    local begun = executor:submit(print)
    executor:shutdown { wait = false, cancel_futures = true }
    assert.is_true(begun:cancelled())
    open()
    executor:shutdown()
    -- The first one was withdrawn as well if no thread had come for it yet.
    assert.is_true(first:done())
  end)

  it("ends its shutdown before a cancellation of it is raised", function()
    local executor = futures.ThreadPoolExecutor { max_workers = 1 }
    local path, open = gate()
    local job = executor:submit(gated, path, "through")
    local task = peri.create_task(executor.shutdown, executor)
    support.spin(2)
    task:cancel()
    support.spin(3)
    assert.is_false(task:done())
    open()
    raises(peri.CancelledError, "", task.await, task)
    assert.equal("through", job:result())
  end)

  it("has its threads end when nobody holds it any more", function()
    local job = futures.ThreadPoolExecutor({ max_workers = 1 }):submit(math.abs, -3)
    support.collect()
    assert.equal(3, job:await())
  end)

  it("refuses wrong options", function()
    raises(peri.ValueError, "max_workers must be greater than 0",
      futures.ThreadPoolExecutor, { max_workers = 0 })
    raises(peri.TypeError, "max_workers must be an integer, got string",
      futures.ThreadPoolExecutor, { max_workers = "2" })
    raises(peri.TypeError, "initializer must be a function, got number",
      futures.ThreadPoolExecutor, { initializer = 1 })
    raises(peri.ValueError, [[bad argument #1 to 'ThreadPoolExecutor' (unknown option "workers")]],
      futures.ThreadPoolExecutor, { workers = 1 })
  end)

  it("does thousands of jobs and loses none", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 4 }
    local jobs, sum = {}, 0
    for i = 1, 5000 do jobs[i] = executor:submit(function(n) return n end, i) end
    for i = 1, 5000 do sum = sum + jobs[i]:await() end
    assert.equal(5000 * 5001 // 2, sum)
  end)
end)

describe("Executor:map", function()
  local executor

  before_each(function() executor = futures.ThreadPoolExecutor { max_workers = 2 } end)
  after_each(function() executor:shutdown() end)

  it("gives index and values in order", function()
    local lines, say = trace()
    for i, x, y in executor:map(function(x) return x, x * x end, { 3, 4, 5 }) do say(i, x, y) end
    assert.same({ "1 3 9", "2 4 16", "3 5 25" }, lines)
  end)

  it("walks several lists up to the end of the shortest", function()
    local sums = {}
    for i, sum in executor:map(function(a, b) return a + b end, { 1, 2, 3 }, { 10, 20 }) do sums[i] = sum end
    assert.same({ 11, 22 }, sums)
  end)

  it("raises an error at its place and ends", function()
    local step = executor:map(function(x) return 6 // x end, { 2, 0, 3 })
    assert.same({ 1, 3 }, { step() })
    assert.is_false((pcall(step)))
    assert.is_nil((step()))
  end)

  it("cancels what is left when the loop is left", function()
    local one <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    local path, open = gate()
    local marker = support.directory() .. "/marker"
    -- The second job holds the only worker until the third was cancelled.
    do
      local step, _, _, _ <close> = one:map(function(name, wait)
        if wait then io.open(wait, "r"):close() end
        return io.open(name, "w"):close()
      end, { marker .. 1, marker .. 2, marker .. 3 }, { n = 3, false, path })
      assert.same({ 1, true }, { step() })
    end
    support.spin(2)
    open()
    one:shutdown()
    assert.is_nil(io.open(marker .. 3))
  end)

  it("refuses what is no list", function()
    raises(peri.TypeError, "bad argument #2 to 'map' (a list expected, got number)",
      executor.map, executor, print, 1)
  end)
end)

describe("a runtime that closes", function()
  it("waits for what its pools were given", function()
    local out, err, code = support.run_code [[
      local peri = require "perilune"
      local futures = require "perilune.futures"
      local executor = futures.ThreadPoolExecutor { max_workers = 1 }
      for i = 1, 3 do
        executor:submit(function() io.write("job ", i, "\n") io.flush() end)
      end
    ]]
    assert.same({ "job 1\njob 2\njob 3\n", "", 0 }, { out, err, code })
  end)

  it("does not take a running job for a deadlock", function()
    local out, err, code = support.run_code [[
      local peri = require "perilune"
      print(peri.to_thread(function() peri.sleep(0.05) return "late" end))
    ]]
    assert.same({ "late\n", "", 0 }, { out, err, code })
  end)

  it("tells an error of a job with both its stacks", function()
    local out, err, code = support.run_code [[
local peri = require "perilune"
local function fail() error(peri.ValueError "bad") end
local function ask() return peri.to_thread(fail) .. "" end
ask()
]]
    assert.same({ "", 1 }, { out, code })
    local inner, outer = err:find ":2: in", err:find ":3: in"
    assert.truthy(inner and outer and inner < outer)
  end)
end)
