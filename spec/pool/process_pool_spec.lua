local futures = require "perilune.futures"
local lfs = require "lfs"
local multiprocessing = require "perilune.multiprocessing"
local peri = require "perilune"
local support = require "support"
local raises = support.raises

local gate, gated = support.gate, support.gated()

local function pid()
  local file <close> = io.open "/proc/self/stat"
  return file:read "n"
end

-- A job that tells the file at path which process it is in, and stays there.
local function stay(path)
  local file <close> = io.open(path, "w")
  local stat <close> = io.open "/proc/self/stat"
  file:write(stat:read "n", "\n")
  file:close()
  while true do end
end

-- The ticks of the clock that a process has been working for.
local function worked(process)
  local file <close> = assert(io.open(("/proc/%d/stat"):format(process)))
  local user, system = file:read "a":match "%) %S%s+%-?%d+ %-?%d+ %-?%d+ %-?%d+ %-?%d+ %d+ %d+ %d+ %d+ %d+ (%d+) (%d+)"
  return tonumber(user) + tonumber(system)
end

local function read_number(path)
  local number
  repeat
    peri.sleep(0)
    local file <close> = io.open(path)
    number = file and file:read "l" and (file:seek "set" and file:read "n")
  until number
  return number
end

local function kill(number)
  assert(os.execute("kill -9 " .. number))
end

local function raised(class, message, future)
  return raises(class, message, peri.await, future)
end

local function place(fn)
  local info = debug.getinfo(fn, "S")
  return ("%s:%d"):format(info.short_src, info.linedefined)
end

-- What workers are started by, for the length of a test.
local function command(list)
  multiprocessing.set_executable(list)
  finally(function() multiprocessing.set_executable(nil) end)
end

local function nothing() end

describe("ProcessPoolExecutor", function()
  it("runs jobs in other processes", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local there = executor:submit(pid):await()
    assert.not_equal(pid(), there)
    assert.equal(there, executor:submit(pid):await())
  end)

  it("gives every result, nils too", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local results = table.pack(executor:submit(function(...) return ... end, nil, 2, nil):await())
    assert.same({ n = 3, nil, 2, nil }, results)
  end)

  it("starts no more processes than max_workers, and lets all of them work", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 2 }
    local path = gate()
    -- Each end of the FIFO waits for the other.
    local reader = executor:submit(gated, path, "read")
    local writer = executor:submit(function(name) io.open(name, "w"):close() return "written" end, path)
    assert.same({ n = 2, "read", "written" }, peri.gather(reader, writer):await())
    local pids, jobs = {}, {}
    for i = 1, 50 do jobs[i] = executor:submit(pid) end
    for i = 1, 50 do pids[jobs[i]:await()] = true end
    pids[next(pids)] = nil
    if next(pids) then pids[next(pids)] = nil end
    assert.is_nil(next(pids))
  end)

  it("takes jobs back from a worker that is busy for one that is idle", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 2 }
    local path, open = gate()
    local blocked = executor:submit(gated, path, "blocked")
    local jobs = {}
    for i = 1, 300 do jobs[i] = executor:submit(math.abs, -i) end
    for i = 1, 300 do assert.equal(i, jobs[i]:await()) end
    assert.is_false(blocked:done())
    open()
    assert.equal("blocked", blocked:await())
  end)

  it("carries messages of any size", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 2 }
    local function double(s) return s .. s end
    local jobs = {}
    for i = 0, 22 do jobs[i] = executor:submit(double, ("x"):rep(1 << i)) end
    for i = 0, 22 do assert.equal(2 << i, #jobs[i]:await()) end
  end)

  it("carries many large messages at once", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 2 }
    local jobs, texts = {}, {}
    for i = 1, 60 do
      texts[i] = string.char(i):rep(200000 + i)
      jobs[i] = executor:submit(string.reverse, texts[i])
    end
    for i = 1, 60 do assert.is_true(texts[i] == jobs[i]:await()) end
  end)

  it("goes on with large messages after a worker's death", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local path, text = support.file "", ("x"):rep(1 << 20)
    local function length(s) return #s, s end
    assert.same({ #text, text }, { executor:submit(length, text):await() })
    local job, ahead = executor:submit(stay, path), {}
    for i = 1, 20 do ahead[i] = executor:submit(length, text .. i) end
    kill(read_number(path))
    assert.is_false(pcall(peri.await, job))
    for i = 1, 20 do assert.same({ #text + #tostring(i), text .. i }, { ahead[i]:await() }) end
  end)

  it("begins one worker's jobs in the order of their submission", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local jobs = {}
    local function count()
      counted = (counted or 0) + 1 -- luacheck: globals counted
      return counted -- luacheck: globals counted
    end
    for i = 1, 2000 do jobs[i] = executor:submit(count) end
    for i = 1, 2000 do assert.equal(i, jobs[i]:await()) end
  end)

  it("replaces a worker that has done max_tasks_per_child jobs", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1, max_tasks_per_child = 2 }
    local jobs, runs = {}, {}
    for i = 1, 6 do jobs[i] = executor:submit(pid) end
    for i = 1, 6 do
      local there = jobs[i]:await()
      runs[there] = (runs[there] or 0) + 1
    end
    local workers = 0
    for _, n in pairs(runs) do
      workers = workers + 1
      assert.equal(2, n)
    end
    assert.equal(3, workers)
  end)

  it("withdraws jobs that were sent ahead, but not the one that runs", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local path, open = gate()
    local marker = support.directory() .. "/marker"
    local function mark(name) io.open(name, "w"):close() end
    executor:submit(nothing):await()
    local first = executor:submit(gated, path, "through")
    local jobs = {}
    for i = 1, 100 do jobs[i] = executor:submit(mark, marker) end
    for i = 1, 100 do jobs[i]:cancel() end
    open()
    assert.equal("through", first:await())
    assert.equal("next", executor:submit(function() return "next" end):await())
    for i = 1, 100 do assert.is_true(jobs[i]:cancelled()) end
    assert.is_nil(io.open(marker))
  end)

  it("does what it has after shutdown, and takes nothing more", function()
    local executor = futures.ProcessPoolExecutor { max_workers = 2 }
    local jobs = {}
    for i = 1, 3000 do jobs[i] = executor:submit(math.abs, -i) end
    executor:shutdown { wait = false }
    raises(peri.RuntimeError, "cannot schedule new futures after shutdown", executor.submit, executor, print)
    executor:shutdown()
    executor:shutdown()
    for i = 1, 3000 do
      assert.is_true(jobs[i]:done())
      assert.equal(i, jobs[i]:result())
    end
  end)

  it("cancels what has not begun, if asked to", function()
    local executor = futures.ProcessPoolExecutor { max_workers = 1 }
    local path, open = gate()
    local started = support.directory() .. "/started"
    local first = executor:submit(function(name, gate_)
      io.open(name, "w"):close()
      io.open(gate_, "r"):close()
      return "through"
    end, started, path)
    local jobs = {}
    for i = 1, 3000 do jobs[i] = executor:submit(nothing) end
    while not lfs.attributes(started) do peri.sleep(0) end
    executor:shutdown { wait = false, cancel_futures = true }
    for i = 1, 3000 do assert.is_true(jobs[i]:cancelled()) end
    open()
    assert.equal("through", first:await())
    executor:shutdown()
  end)

  it("may be shut down from a callback", function()
    local executor = futures.ProcessPoolExecutor { max_workers = 1 }
    local job = executor:submit(math.abs, -1)
    local task
    job:add_done_callback(function() task = peri.create_task(executor.shutdown, executor) end)
    job:await()
    support.spin(2)
    task:await()
  end)

  it("has its workers end when nobody holds it any more", function()
    local job = futures.ProcessPoolExecutor({ max_workers = 1 }):submit(pid)
    support.collect()
    local there = job:await()
    while lfs.attributes("/proc/" .. there) do peri.sleep(0) end
  end)

  it("blocks in a shutdown where no wait is possible", support.top_level(function()
    local loop, _ <close> = support.loop()
    local executor = futures.ProcessPoolExecutor { max_workers = 1 }
    local job = loop:run_until_complete(peri.call(function() return executor:submit(math.abs, -4) end))
    executor:shutdown()
    assert.is_true(job:done())
    assert.equal(4, job:result())
  end))

  it("goes on in another loop", support.top_level(function()
    local executor = futures.ProcessPoolExecutor { max_workers = 1 }
    for i = 1, 3 do
      local loop, _ <close> = support.loop()
      assert.equal(i, loop:run_until_complete(peri.call(function()
        return executor:submit(math.abs, -i):await()
      end)))
    end
    executor:shutdown()
  end))

  it("refuses wrong options", function()
    raises(peri.ValueError, "max_workers must be greater than 0", futures.ProcessPoolExecutor, { max_workers = 0 })
    raises(peri.ValueError, "start_timeout must be greater than 0",
      futures.ProcessPoolExecutor, { start_timeout = 0 })
    raises(peri.ValueError, "on_worker_death must be 'replace' or 'break'",
      futures.ProcessPoolExecutor, { on_worker_death = "ignore" })
    raises(peri.ValueError, [[bad argument #1 to 'ProcessPoolExecutor' (unknown option "workers")]],
      futures.ProcessPoolExecutor, { workers = 1 })
  end)
end)

describe("a job in a process", function()
  it("is a task of its worker's loop: it may wait and make tasks", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local list = executor:submit(function()
      local first = peri.call(peri.sleep, 0, "a")
      local second = peri.create_task(peri.sleep, 0, "b")
      peri.create_task(peri.sleep, 1e9)
      return peri.gather(first, second):await()
    end):await()
    assert.same({ n = 2, "a", "b" }, list)
  end)

  it("fails with what it raised, whatever that is", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    raised(peri.ValueError, "bad", executor:submit(function() error(peri.ValueError "bad") end))
    raised(peri.RuntimeError, "error(nil) was raised", executor:submit(function() error(nil) end))
    local ok, err = pcall(peri.await, executor:submit(error, { 1, 2 }))
    assert.is_false(ok)
    assert.same({ 1, 2 }, err)
  end)

  it("fails if its result cannot be sent", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    raised(peri.TypeError, "cannot send result 2: coroutine",
      executor:submit(function() return 1, coroutine.create(print) end))
    assert.equal(1, executor:submit(math.abs, -1):await())
  end)

  it("that overflows the stack fails, and its worker goes on", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local before = executor:submit(pid):await()
    local ok, err = pcall(peri.await, executor:submit(function()
      local function down() return 1 + down() end
      return down()
    end))
    assert.is_false(ok)
    assert.truthy(tostring(err):find "stack overflow")
    assert.equal(before, executor:submit(pid):await())
  end)

  it("may have a pool of its own", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    assert.equal("inner", executor:submit(function()
      local inner <close> = require "perilune.futures".ProcessPoolExecutor { max_workers = 1 }
      return inner:submit(function() return "inner" end):await()
    end):await())
  end)

  it("finds nothing on its standard input", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    assert.equal("", executor:submit(function() return io.read "a" end):await())
  end)

  it("has no descriptors but its worker's own", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local fds = executor:submit(function()
      local pipe <close> = io.popen "ls /proc/$PPID/fd | wc -l"
      return pipe:read "n"
    end):await()
    -- 0, 1, 2, channel, control, a loop's, the pipe.
    assert.is_true(fds <= 16)
  end)

  it("prints whole lines", function()
    local code = [[
      local futures = require "perilune.futures"
      local executor <close> = futures.ProcessPoolExecutor { max_workers = 2 }
      local jobs = {}
      for i = 1, 2 do
        jobs[i] = executor:submit(function(i)
          for k = 1, 500 do print(("line"):rep(20), i, k) end
        end, i)
      end
      for i = 1, 2 do jobs[i]:await() end
    ]]
    local out, err, status = support.run_code(code)
    assert.same({ "", 0 }, { err, status })
    local lines = 0
    for line in out:gmatch "[^\n]+" do
      lines = lines + 1
      assert.truthy(line:find("^" .. ("line"):rep(20) .. "\t[12]\t%d+$"))
    end
    assert.equal(1000, lines)
  end)
end)

describe("what a worker process logs", function()
  local function wait_for(list, n)
    while #list < n do peri.sleep(0) end
  end

  it("comes to its owner's log, with its name", function()
    local records = support.log()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local number = executor:submit(function(get)
      local log = require "perilune.log"
      log.info "not told"
      log.error("%d things", 3)
      return get()
    end, pid):result()
    wait_for(records, 1)
    assert.same({ ("ERROR worker %d: 3 things"):format(number) }, records)
  end)

  it("in its initializer, too, and when its job is the last", function()
    local records = support.log()
    local executor = futures.ProcessPoolExecutor {
      max_workers = 1,
      initializer = function(get)
        number = get() -- luacheck: ignore
        require "perilune.log".warning "begins"
      end,
      initargs = { pid },
    }
    local job = executor:submit(function()
      require "perilune.log".warning "ends"
      return number -- luacheck: ignore
    end)
    executor:shutdown()
    local number = job:result()
    assert.same({ ("WARNING worker %d: begins"):format(number), ("WARNING worker %d: ends"):format(number) }, records)
  end)

  it("is what its loop reports and debug mode, too", function()
    peri.get_running_loop():set_debug(true)
    peri.get_running_loop().slow_callback_duration = 1e9
    local records = support.log()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local count = 0
    local function inc()
      count = count + 1
      peri.get_running_loop():call_soon(error, "in a callback")
      peri.sleep(0)
    end
    executor:submit(inc):result()
    wait_for(records, 2)
    assert.truthy(records[1]:find("^ERROR worker %d+: .*in a callback"), records[1])
    assert.truthy(records[2]:find("^WARNING worker %d+: change to upvalue 'count' is lost"), records[2])
    assert.truthy(records[2]:find(("the function at %s is a copy"):format(place(inc)), 1, true), records[2])
    assert.equal(0, count)
  end)

  it("is not lost when the owner ends", function()
    for _, kind in ipairs { "Thread", "Process" } do
      local out, err, status = support.run_code(([[
        local executor = require "perilune.futures".%sPoolExecutor { max_workers = 1 }
        executor:submit(function() require "perilune.log".warning "the last words" end)
      ]]):format(kind))
      assert.same({ "", 0 }, { out, status })
      assert.truthy(err:find "^WARNING perilune: worker [^ ]+: the last words\n$", err)
    end
  end)

  it("comes before the end of the worker does", function()
    local records = support.log()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1, on_worker_death = "replace" }
    local job = executor:submit(function()
      require "perilune.log".error "the last words"
      os.exit(3)
    end)
    assert.is_false(pcall(peri.await, job))
    wait_for(records, 1)
    assert.truthy(records[1]:find "^ERROR worker %d+: the last words$", records[1])
  end)
end)

describe("a loop that was sent to a job in a process", function()
  it("takes calls and coroutines from there", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local lines = {}
    local said = peri.ref(lines)
    local job = executor:submit(function(loop, ref)
      local doubled = loop:run_coroutine_threadsafe(function(x) return x * 2 end, 21)
      local bad = loop:run_coroutine_threadsafe(function() error(require "perilune".ValueError "bad") end)
      local ok, err = pcall(peri.await, bad)
      local endless = loop:run_coroutine_threadsafe(peri.sleep, 1e9)
      endless:cancel()
      loop:call_soon_threadsafe(table.insert, ref, "called")
      return doubled:await(), ok, err, ref, endless:cancelled()
    end, peri.get_running_loop(), said)
    local doubled, ok, err, ref, cancelled = job:await()
    assert.same({ 42, false, true, true, true },
      { doubled, ok, peri.ValueError:is(err), ref == lines, cancelled })
    while not lines[1] do peri.sleep(0) end
    assert.same({ "called" }, lines)
  end)

  it("takes large notes", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    assert.equal(1 << 20, executor:submit(function(loop)
      return #loop:run_coroutine_threadsafe(string.rep, "x", 1 << 20):await()
    end, peri.get_running_loop()):await())
  end)

  it("answers that to a job which is the last", function()
    local executor = futures.ProcessPoolExecutor { max_workers = 1 }
    local job = executor:submit(function(loop) return loop:run_coroutine_threadsafe(math.abs, -5):await() end,
      peri.get_running_loop())
    executor:shutdown { wait = false }
    assert.equal(5, job:await())
    executor:shutdown()
  end)
end)

describe("the loop of a worker process", function()
  local function own_loop() return peri.get_running_loop() end

  it("takes calls while its job waits", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local loop = executor:submit(own_loop):await()
    local job = executor:submit(function()
      while not told do peri.sleep(0) end -- luacheck: globals told
      return told -- luacheck: globals told
    end)
    local ahead = executor:submit(math.abs, -1)
    loop:call_soon_threadsafe(function(value) told = value end, "a note") -- luacheck: globals told
    assert.equal("a note", job:await())
    assert.equal(1, ahead:await())
  end)

  it("runs coroutines for its owner, many at once", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local loop = executor:submit(own_loop):await()
    local job = executor:submit(function() return peri.sleep(1e9) end)
    local answers = {}
    for i = 1, 200 do
      answers[i] = loop:run_coroutine_threadsafe(function(s, n) return #s + n end, ("x"):rep(10000), i)
    end
    for i = 1, 200 do assert.equal(10000 + i, answers[i]:await()) end
    job:cancel { running = true }
    assert.is_false(pcall(peri.await, job))
  end)

  it("is gone with its worker, and so are its answers", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local path = support.file ""
    local loop = executor:submit(own_loop):await()
    local job = executor:submit(stay, path)
    local answer = loop:run_coroutine_threadsafe(math.abs, -1)
    kill(read_number(path))
    raised(peri.RuntimeError, "the state of the loop has gone", answer)
    assert.is_false(pcall(peri.await, job))
    raises(peri.RuntimeError, "the state of the loop cannot be reached",
      loop.call_soon_threadsafe, loop, math.abs, -1)
  end)

  it("is gone with its state", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local loop = executor:submit(own_loop):await()
    local job = executor:submit(peri.sleep, 1e9)
    while not job:running() do peri.sleep(0) end
    local answer = loop:run_coroutine_threadsafe(peri.sleep, 1e9)
    job:cancel { running = true }
    assert.is_false(pcall(peri.await, job))
    local ok, err = pcall(peri.await, answer)
    assert.is_false(ok) -- it was cancelled with the state, if it had begun
    err = tostring(err)
    assert.is_true(err:find "^CancelledError" ~= nil or err:find "the state of the loop has gone" ~= nil)
    assert.equal(2, executor:submit(math.abs, -2):await())
  end)
end)

describe("cancelling a job that runs in a process", function()
  -- A job that says where it is and does what it does for ever.
  local function begin(executor, fn)
    local path = support.file ""
    local job = executor:submit(function(name, body)
      local file <close> = io.open(name, "w")
      local stat <close> = io.open "/proc/self/stat"
      file:write(stat:read "n", "\n")
      file:close()
      body()
    end, path, fn)
    return job, read_number(path)
  end

  -- Once the job runs, and its worker has worked for so many ticks of the clock.
  local function cancels(fn, grace, ticks)
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local job, before = begin(executor, fn)
    local start = worked(before)
    while not job:running() or worked(before) < start + (ticks or 0) do peri.sleep(0) end
    assert.is_false(job:cancel())
    job:cancel { running = true, grace = grace }
    raises(peri.CancelledError, "", peri.await, job)
    return before, executor:submit(pid):await()
  end

  it("ends its loop, which pcall does not keep", function()
    if not support.signals_interrupt then return end
    local before, after = cancels(function() while true do pcall(error) end end)
    assert.equal(before, after)
  end)

  it("ends its wait", function()
    local before, after = cancels(function() while true do pcall(require "perilune".sleep, 1e6) end end)
    assert.equal(before, after)
  end)

  it("ends the worker if the job does not stop in time", function()
    local before, after = cancels(function() return ("x"):rep(3000):find ".-.-.-.-b" end, nil, 5)
    assert.not_equal(before, after)
  end)

  it("reaches it though answers before it are unread", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    executor:submit(nothing):await()
    local before = {}
    for i = 1, 100 do before[i] = executor:submit(math.abs, -i) end
    local job = executor:submit(peri.sleep, 1e9)
    for _ = 1, 1e6 do -- the loop does not turn
      if job:running() then break end
    end
    while not job:running() do peri.sleep(0) end
    job:cancel { running = true }
    raises(peri.CancelledError, "", peri.await, job)
    for i = 1, 100 do assert.equal(i, before[i]:await()) end
  end)

  it("gives the job the time it is said to", function()
    if not support.signals_interrupt then return end
    local before, after = cancels(function() os.execute "sleep 1.5" end, 1e6)
    assert.equal(before, after)
  end)
end)

describe("a worker process that dies", function()
  it("fails its job, and is replaced", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local path = support.file ""
    local job = executor:submit(stay, path)
    local ahead = {}
    for i = 1, 100 do ahead[i] = executor:submit(math.abs, -i) end
    local number = read_number(path)
    kill(number)
    raised(peri.BrokenProcessPool,
      ("worker process %d was killed by signal 9 (Killed) while it ran %s"):format(number, place(stay)), job)
    for i = 1, 100 do assert.equal(i, ahead[i]:await()) end
  end)

  it("breaks the pool if it is to", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 2, on_worker_death = "break" }
    local path, other = support.file "", support.file ""
    local job, second, third = executor:submit(stay, path), executor:submit(stay, other), executor:submit(nothing)
    local number = read_number(path)
    read_number(other)
    kill(number)
    local why = ("worker process %d was killed by signal 9 (Killed)"):format(number)
    raised(peri.BrokenProcessPool, ("%s while it ran %s"):format(why, place(stay)), job)
    raised(peri.BrokenProcessPool, "the pool is broken, " .. why, second)
    raised(peri.BrokenProcessPool, "the pool is broken, " .. why, third)
    raises(peri.BrokenProcessPool, "the pool is broken, " .. why, executor.submit, executor, nothing)
  end)

  it("by os.exit breaks the pool, as Python's does", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local job, second = executor:submit(os.exit, 3), executor:submit(nothing)
    assert.truthy(tostring(select(2, pcall(peri.await, job))):find(
      "^BrokenProcessPool: worker process %d+ ended with status 3 while it ran os.exit$"))
    assert.truthy(tostring(select(2, pcall(peri.await, second))):find(
      "^BrokenProcessPool: the pool is broken, worker process %d+ ended with status 3$"))
  end)

  it("by os.exit is replaced if it is to", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1, on_worker_death = "replace" }
    local job, second = executor:submit(os.exit, 3), executor:submit(math.abs, -2)
    assert.is_false(pcall(peri.await, job))
    assert.equal(2, second:await())
  end)

  it("is noticed while nothing is to be done", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local first = executor:submit(pid):await()
    kill(first)
    assert.not_equal(first, executor:submit(pid):await())
  end)

  it("at random loses no job and does none twice", function()
    local script = debug.getinfo(1, "S").source:match "^@(.*)spec/pool/" .. "scripts/fault_pools.lua"
    local out, err, status = support.run_program { script, "5000", "7" }
    assert.same({ "", 0 }, { err, status }, out)
  end)
end)

describe("the owner of worker processes", function()
  it("that ends with jobs outstanding has them done, and starts no worker for it", function()
    local out, err, status = support.run_code [[
      local executor = require "perilune.futures".ProcessPoolExecutor { max_workers = 2 }
      executor:submit(print, "done")
    ]]
    assert.same({ "done\n", "", 0 }, { out, err, status })
  end)

  -- A script whose workers are busy for ever, and the pids of those.
  local function start_owner()
    local directory = support.directory()
    local file = support.file(([[
      local peri = require "perilune"
      local futures = require "perilune.futures"
      local executor <close> = futures.ProcessPoolExecutor { max_workers = 2 }
      local function tell(path)
        local stat <close> = io.open "/proc/self/stat"
        local file <close> = io.open(path .. ".part", "w")
        file:write(stat:read "n", "\n")
        file:close()
        os.rename(path .. ".part", path)
      end
      local busy = executor:submit(function(path, text)
        tell(path)
        while #text > 0 do pcall(error) end
      end, "%s/busy", ("x"):rep(1 << 18))
      local asleep = executor:submit(function(path)
        tell(path)
        require "perilune".sleep(1e6)
      end, "%s/asleep")
      tell "%s/owner"
      peri.gather(busy, asleep):await()
    ]]):gsub("%%s", directory))
    local owner = io.popen(("exec %s %s 2>&1"):format(support.quote(support.program), file))
    finally(function() owner:close() end)
    local pids = {}
    for _, name in ipairs { "owner", "busy", "asleep" } do
      while not lfs.attributes(directory .. "/" .. name) do peri.sleep(0) end
      pids[name] = read_number(directory .. "/" .. name)
    end
    return pids
  end

  -- A process that ended and whom nobody has waited for yet is gone as well.
  local function is_gone(number)
    local file <close> = io.open(("/proc/%d/stat"):format(number))
    local stat = file and file:read "a"
    return not stat or stat:find "%) Z" ~= nil
  end

  -- By inode, what process pools share of what the process has mapped.
  local function shared_memory(number)
    local inodes = {}
    local file <close> = io.open(("/proc/%s/maps"):format(number))
    for inode in (file and file:read "a" or ""):gmatch "(%d+) +/memfd:perilune" do inodes[inode] = true end
    return inodes
  end

  it("takes them with it when it is killed", function()
    local pids = start_owner()
    assert.is_false(is_gone(pids.busy))
    assert.is_false(is_gone(pids.asleep))
    local memory = shared_memory(pids.busy)
    kill(pids.owner)
    while not (is_gone(pids.busy) and is_gone(pids.asleep)) do peri.sleep(0) end
    for entry in lfs.dir "/proc" do
      if entry:find "^%d+$" then
        for inode in pairs(shared_memory(entry)) do assert.is_nil(memory[inode]) end
      end
    end
  end)
end)

describe("a worker program", function()
  local garbage = support.program:match "^(.*/)[^/]*$" .. "spec/garbage"

  local function breaks_with(options, ...)
    command { ... }
    local executor <close> = futures.ProcessPoolExecutor(options)
    local ok, err = pcall(peri.await, executor:submit(nothing))
    assert.is_false(ok)
    return tostring(err)
  end

  local function breaks(...)
    return breaks_with({ max_workers = 2 }, ...)
  end

  it("that does not exist is an error of submit", function()
    command { "/no/such/program" }
    local executor <close> = futures.ProcessPoolExecutor {}
    raises(peri.RuntimeError, "cannot start the worker program '/no/such/program': no such file or directory",
      executor.submit, executor, nothing)
  end)

  it("that is none breaks the pool", function()
    assert.truthy(breaks("/bin/cat"):find(
      "worker process %d+ ended with status 0 before it said hello: is '/bin/cat' a worker program%?$"))
    assert.truthy(breaks("/bin/sh", "-c", "exit 7"):find "ended with status 7 before it said hello")
    assert.truthy(breaks(garbage, "quiet"):find "ended with status 0 before it said hello")
  end)

  it("that says nothing breaks the pool after a while", function()
    assert.truthy(breaks_with({ start_timeout = 0.05 }, "/bin/sleep", "infinity"):find(
      "the pool is broken, worker process %d+ was not ready after 0.05 seconds: is '/bin/sleep' a worker program%?$"))
    assert.truthy(breaks_with({ start_timeout = 0.05 }, garbage, "wait"):find "was not ready after 0.05 seconds: is ")
    assert.truthy(breaks_with({ start_timeout = 0.05 }, garbage, "hello"):find "was not ready after 0.05 seconds$")
  end)

  it("that says nothing does not keep a shutdown outside of loops", support.top_level(function()
    multiprocessing.set_executable { "/bin/sleep", "infinity" }
    local executor = futures.ProcessPoolExecutor { max_workers = 2, start_timeout = 0.05 }
    local job = executor:submit(nothing)
    multiprocessing.set_executable(nil)
    executor:shutdown()
    assert.truthy(tostring(job:exception()):find "was not ready after 0.05 seconds")
  end))

  it("that leaves its channel to another process is seen to end", function()
    assert.truthy(breaks(garbage, "fork"):find "ended with status 3 before it did anything$")
  end)

  it("that sends garbage breaks the pool", function()
    for seed = 1, 5 do
      assert.truthy(breaks(garbage, "bytes", tostring(seed)):find "BrokenProcessPool")
    end
  end)

  it("that damages what it shares is killed", function()
    assert.truthy(breaks(garbage, "head"):find "BrokenProcessPool")
    for seed = 1, 20 do breaks(garbage, "packets", tostring(seed)) end
  end)

  it("that submits what is no job is killed", function()
    assert.truthy(breaks(garbage, "chunks"):find "sent what is no answer")
  end)

  it("that does with jobs what no job does breaks the pool", function()
    for seed = 1, 20 do breaks(garbage, "jobs", tostring(seed)) end
  end)
end)
