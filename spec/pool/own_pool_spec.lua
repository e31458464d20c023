local futures = require "perilune.futures"
local peri = require "perilune"
local support = require "support"
local raises = support.raises

-- The error of a job's future, which must be of the class.
local function failure(class, future)
  local err = future:exception()
  assert.is_true(class:is(err), tostring(err))
  return tostring(err)
end

-- What runs in workers.

local function ten_times(x)
  local own = require "perilune.futures".current_executor()
  return own:submit(function(n) return n * 10 end, x):result()
end

local gate, gated = support.gate, support.gated()

-- Adds a line to a file.
local function tell(path, text)
  local file <close> = io.open(path, "a")
  file:write(text, "\n")
end

-- Says which process it is in.
local function tell_pid(path)
  local stat <close> = io.open "/proc/self/stat"
  tell(path, stat:read "n")
end

local function stay(path)
  tell_pid(path)
  while true do end
end

-- What a file has, once there is a line.
local function read(path)
  local text = ""
  while not text:find "\n$" do
    peri.sleep(0)
    local file <close> = io.open(path)
    text = file and file:read "a" or ""
  end
  return text
end

local function kill(path)
  local number = math.tointeger(read(path))
  assert(os.execute("kill -9 " .. number))
  return number
end

local function place(fn)
  local info = debug.getinfo(fn, "S")
  return ("%s:%d"):format(info.short_src, info.linedefined)
end

-- The future of a job that has called os.exit.
local function exited(kind, code, future)
  if kind == "threads" then
    local message = ("os.exit(%d) was called in a worker thread"):format(code)
    raises(peri.RuntimeError, message, future.result, future)
  else
    local text = failure(peri.BrokenProcessPool, future)
    assert.truthy(text:find(("^BrokenProcessPool: worker process %%d+ ended with status %d while it ran ")
      :format(code)), text)
  end
end

local kinds = {
  threads = futures.ThreadPoolExecutor,
  processes = function(options)
    options.on_worker_death = "replace"
    return futures.ProcessPoolExecutor(options)
  end,
}

describe("futures.current_executor", function()
  it("raises outside of jobs", function()
    raises(peri.RuntimeError, "current_executor() was not called in a job", futures.current_executor)
  end)
end)

for kind, make in pairs(kinds) do
  describe("futures.current_executor in a job of " .. kind, function()
    it("takes jobs from a job, and gives it their results", function()
      local executor <close> = make { max_workers = 2 }
      assert.equal(70, (executor:submit(ten_times, 7):result()))
      assert.same({ 1, 4, 9 }, executor:submit(function()
        local list = {}
        local own = require "perilune.futures".current_executor()
        for i, x in own:map(function(n) return n * n end, { 1, 2, 3 }) do list[i] = x end
        return list
      end):result())
    end)

    it("is the same executor in each job of a worker", function()
      local executor <close> = make { max_workers = 1 }
      local function same()
        local own = require "perilune.futures".current_executor()
        known = known or own -- luacheck: ignore
        return known == own -- luacheck: ignore
      end
      assert.is_true(executor:submit(same):result())
      assert.is_true(executor:submit(same):result())
    end)

    it("starts the workers that there may be", function()
      local executor <close> = make { max_workers = 3 }
      -- Each waits for the next: with fewer than three workers that is a deadlock.
      local function nest(depth)
        if depth == 0 then return "deep" end
        return require "perilune.futures".current_executor():submit(nest, depth - 1):result()
      end
      assert.equal("deep", (executor:submit(nest, 2):result()))
    end)

    it("passes errors on, and cancels what has not begun", function()
      local executor <close> = make { max_workers = 1 }
      local cancelled, ok = executor:submit(function()
        local own = require "perilune.futures".current_executor()
        local future = own:submit(print)
        return future:cancel(), future:done()
      end):result()
      assert.same({ true, true }, { cancelled, ok })
      local both <close> = make { max_workers = 2 }
      local future = both:submit(function()
        local own = require "perilune.futures".current_executor()
        own:submit(function() error(require "perilune".ValueError "inner") end):result()
      end)
      raises(peri.ValueError, "inner", future.result, future)
    end)

    it("calls done callbacks while jobs run there", function()
      local executor <close> = make { max_workers = 1 }
      executor:submit(function()
        require "perilune.futures".current_executor():submit(math.abs, -3)
          :add_done_callback(function(future) seen = future:result() end) -- luacheck: ignore
      end):result()
      local function look() return seen end -- luacheck: ignore
      local found
      repeat found = executor:submit(look):result() until found
      assert.equal(3, found)
    end)

    it("lets jobs follow each other, and forgets those that have ended", function()
      local executor <close> = make { max_workers = 1 }
      local function step(n)
        if n == 0 then
          collectgarbage()
          kilobytes = collectgarbage "count" -- luacheck: ignore
        else
          require "perilune.futures".current_executor():submit(step, n - 1)
        end
      end
      executor:submit(step, 20000)
      local function look() return kilobytes end -- luacheck: ignore
      local found
      repeat found = executor:submit(look):result() until found
      assert.is_true(found < 6000, found)
    end)

    it("cannot be shut down by a job", function()
      local executor <close> = make { max_workers = 1 }
      local future = executor:submit(function() require "perilune.futures".current_executor():shutdown() end)
      raises(peri.RuntimeError, "an executor cannot be shut down by one of its jobs", future.result, future)
    end)

    it("tells whether its jobs run, and interrupts them", function()
      local executor <close> = make { max_workers = 2 }
      local seen = executor:submit(function()
        local perilune = require "perilune"
        local future = require "perilune.futures".current_executor():submit(perilune.sleep, 1e9)
        while not future:running() do perilune.sleep(0) end
        local refused = future:cancel()
        local asked = future:cancel { running = true, grace = 1e6 }
        local ok, err = pcall(future.result, future)
        return { refused, asked, ok, perilune.CancelledError:is(err), future:cancelled(), future:running() }
      end):result()
      assert.same({ false, true, false, true, true, false }, seen)
    end)

    it("does not begin what was cancelled", function()
      local executor <close> = make { max_workers = 1 }
      local path = support.directory() .. "/told"
      executor:submit(function(name, say)
        local own = require "perilune.futures".current_executor()
        local jobs = {}
        for i = 1, 20 do jobs[i] = own:submit(say, name, i) end
        for i, job in ipairs(jobs) do assert(i == 13 or job:cancel()) end
        jobs[13]:add_done_callback(print)
      end, path, tell):result()
      assert.equal("13\n", read(path))
      executor:shutdown()
      assert.equal("13\n", read(path))
    end)

    it("does not begin what was cancelled among many, in any order", function()
      local executor <close> = make { max_workers = 1 }
      local path = support.directory() .. "/told"
      executor:submit(function(name, say)
        local own, jobs = require "perilune.futures".current_executor(), {}
        for i = 1, 500 do jobs[i] = own:submit(say, name, i) end
        for i = 1, 499 do assert(jobs[i * 100 % 499 + 1]:cancel()) end
      end, path, tell):result()
      assert.equal("500\n", read(path))
    end)

    it("interrupts what has begun meanwhile", function()
      local executor <close> = make { max_workers = 2 }
      local path = support.directory() .. "/told"
      executor:submit(function(name, say)
        local own = require "perilune.futures".current_executor()
        for _ = 1, 5 do
          local job = own:submit(function()
            local finish = os.time() + 20
            while os.time() < finish do end
            say(name, "done")
          end)
          assert(job:cancel { running = true })
          own:submit(math.abs, -1):result()
        end
      end, path, tell):result()
      executor:shutdown()
      assert.is_nil(io.open(path))
    end)

    it("gives its futures to loops, too", function()
      local executor <close> = make { max_workers = 2 }
      assert.equal(6, (executor:submit(function()
        local loop = require "perilune".get_running_loop()
        local own = require "perilune.futures".current_executor()
        local one, two = loop:run_in_executor(own, math.abs, -1), loop:run_in_executor(own, math.abs, -2)
        return one:await() + two:await() + own:submit(math.abs, -3):await()
      end):result()))
    end)

    it("takes and gives functions, and what is large", function()
      local executor <close> = make { max_workers = 2 }
      local two, text = 2, ("x"):rep(1 << 20)
      local function double(s) return s:rep(two) end
      local ok, length = executor:submit(function(s)
        local own = require "perilune.futures".current_executor()
        local results = own:submit(function(t) return { double, function(u) return double(double(u)) end, t } end, s)
          :result()
        return results[3] == s, #results[1](s) + #results[2](s)
      end, text):result()
      assert.same({ true, 6 << 20 }, { ok, length })
    end)

    it("brings back what peri.ref has wrapped, and loops that nobody there can reach", function()
      local executor <close> = make { max_workers = 2 }
      local results = executor:submit(function()
        local perilune = require "perilune"
        local own, thing, loop = require "perilune.futures".current_executor(), {}, perilune.get_running_loop()
        local token, handle, ok, err = own:submit(function(ref, there)
          return ref, there, pcall(there.call_soon_threadsafe, there, print)
        end, perilune.ref(thing), loop):result()
        return { token == thing, handle == loop, ok, tostring(err) }
      end):result()
      assert.same({ true, true, false, "RuntimeError: the state of the loop cannot be reached" }, results)
    end)

    it("has those cancelled that nobody has begun, if the owner asks for it", function()
      local executor = make { max_workers = 1 }
      local told, name, open = {}, gate()
      local future = executor:submit(function(loop, list, door, wait)
        local own, jobs, cancelled = require "perilune.futures".current_executor(), {}, 0
        for i = 1, 5 do jobs[i] = own:submit(math.abs, -i) end
        loop:call_soon_threadsafe(table.insert, list, "submitted")
        wait(door)
        for _, job in ipairs(jobs) do
          if not pcall(job.result, job) and job:cancelled() then cancelled = cancelled + 1 end
        end
        return cancelled
      end, peri.get_running_loop(), peri.ref(told), name, gated)
      while not told[1] do peri.sleep(0) end
      executor:shutdown { wait = false, cancel_futures = true }
      open()
      assert.equal(5, (future:result()))
      executor:shutdown()
    end)

    it("is left with what a job has submitted when the owner shuts it down", function()
      local executor = make { max_workers = 1 }
      local path, ready = support.directory() .. "/told", support.directory() .. "/ready"
      local name, open = gate()
      executor:submit(function(where, said, door, say, wait)
        local own = require "perilune.futures".current_executor()
        for i = 1, 3 do own:submit(say, where, i) end
        say(said, "ready")
        wait(door)
      end, path, ready, name, tell, gated)
      read(ready)
      executor:shutdown { wait = false }
      open()
      executor:shutdown()
      assert.equal("1\n2\n3\n", read(path))
    end)

    it("drops what a job has submitted with the state of a job that is interrupted", function()
      local executor <close> = make { max_workers = 1 }
      local path, ready = support.directory() .. "/told", support.directory() .. "/ready"
      local future = executor:submit(function(where, said, say)
        local own = require "perilune.futures".current_executor()
        for i = 1, 3 do own:submit(say, where, i) end
        say(said, "ready")
        require "perilune".sleep(1e9)
      end, path, ready, tell)
      read(ready)
      while not future:running() do peri.sleep(0) end
      future:cancel { running = true, grace = 1e6 }
      raises(peri.CancelledError, "", future.result, future)
      executor:shutdown()
      assert.is_nil(io.open(path))
    end)

    it("takes no jobs once the owner has shut it down", function()
      local executor = make { max_workers = 1 }
      local future = executor:submit(function()
        local own = require "perilune.futures".current_executor()
        while pcall(own.submit, own, math.abs, 1) do require "perilune".sleep(0) end
        return select(2, pcall(own.submit, own, math.abs, 1))
      end)
      while not future:running() do peri.sleep(0) end
      executor:shutdown { cancel_futures = true }
      local err = future:result()
      assert.equal("RuntimeError: cannot schedule new futures after shutdown", tostring(err))
    end)

    it("drops what a job has left in the queue when the worker's state goes", function()
      local executor <close> = make { max_workers = 1 }
      local future = executor:submit(function()
        local own = require "perilune.futures".current_executor()
        for _ = 1, 10 do own:submit(error, "never") end
        os.exit(3)
      end)
      exited(kind, 3, future)
      assert.equal(1, (executor:submit(math.abs, -1):result()))
    end)
  end)

  describe("a job that waits for a job of its own full pool of " .. kind, function()
    it("gets DeadlockError", function()
      local executor <close> = make { max_workers = 1 }
      local future = executor:submit(ten_times, 1)
      local text = failure(peri.DeadlockError, future)
      assert.truthy(text:find("waits in result", 1, true), text)
      assert.equal(1, (executor:submit(math.abs, -1):result()))
    end)

    it("gets it only if no worker is left, and the others go on", function()
      local executor <close> = make { max_workers = 3 }
      local jobs, failed = {}, 0
      for i = 1, 60 do jobs[i] = executor:submit(ten_times, i) end
      for i, job in ipairs(jobs) do
        local ok, value = pcall(job.result, job)
        if ok then
          assert.equal(i * 10, value)
        else
          assert.is_true(peri.DeadlockError:is(value), tostring(value))
          failed = failed + 1
        end
      end
      assert.is_true(failed < 60)
    end)

    it("does not get it while something else may end its wait", function()
      local executor <close> = make { max_workers = 1 }
      local future = executor:submit(function()
        local job = require "perilune.futures".current_executor():submit(math.abs, -1)
        return pcall(job.result, job, 0.01)
      end)
      local ok, err = future:result()
      assert.is_false(ok)
      assert.is_true(peri.TimeoutError:is(err), tostring(err))
    end)

    it("does not get it for a job that was sent ahead to its own worker", function()
      local executor <close> = make { max_workers = 2 }
      local name, open = gate()
      local other = executor:submit(gated, name, "other")
      while not other:running() do peri.sleep(0) end
      local future = executor:submit(function()
        local own, jobs, sum = require "perilune.futures".current_executor(), {}, 0
        for i = 1, 20 do jobs[i] = own:submit(math.abs, -i) end
        for _, job in ipairs(jobs) do sum = sum + job:result() end
        return sum
      end)
      while not future:running() do peri.sleep(0) end
      for _ = 1, 100 do peri.sleep(0) end
      open()
      assert.equal(210, (future:result()))
      assert.equal("other", (other:result()))
    end)

    -- What a job waits for while another one comes to rest: the owner's loop.
    local function go_round(loop)
      for _ = 1, 100 do loop:run_coroutine_threadsafe(function() end):await() end
    end

    it("does not get it while another job has a virtual clock to go on", function()
      local executor <close> = make { max_workers = 2 }
      local name, open = gate()
      local waiter = executor:submit(function(door, pass, loop, wait)
        pass(door)
        local job = require "perilune.futures".current_executor():submit(math.abs, -2)
        wait(loop)
        return job:result()
      end, name, gated, peri.get_running_loop(), go_round)
      while not waiter:running() do peri.sleep(0) end
      local sleeper = executor:submit(function()
        local perilune = require "perilune"
        local _ <close> = perilune.use_clock(perilune.Clock { kind = "virtual" })
        require "perilune.futures".current_executor():submit(math.abs, -1)
        perilune.sleep(10)
        return "slept"
      end)
      while not sleeper:running() do peri.sleep(0) end
      open()
      assert.equal("slept", (sleeper:result()))
      assert.equal(2, (waiter:result()))
    end)

    it("gets it in place of another one whose run does not end so", function()
      local executor <close> = make { max_workers = 2 }
      local name, open = gate()
      local runner = executor:submit(function(door, pass, outer, wait)
        local own = require "perilune.futures".current_executor()
        pass(door)
        wait(outer)
        local loop = require "perilune".new_event_loop()
        loop:run_in_executor(own, math.abs, -1):add_done_callback(function() loop:stop() end)
        loop:run_forever()
        return "stopped"
      end, name, gated, peri.get_running_loop(), go_round)
      while not runner:running() do peri.sleep(0) end
      local waiter = executor:submit(ten_times, 1)
      while not waiter:running() do peri.sleep(0) end
      open()
      failure(peri.DeadlockError, waiter)
      assert.equal("stopped", (runner:result()))
    end)

    it("gets it in an initializer", function()
      local executor <close> = make { max_workers = 1, initializer = ten_times, initargs = { 1 } }
      local future = executor:submit(print)
      local text = failure(kind == "threads" and peri.BrokenThreadPool or peri.BrokenProcessPool, future)
      assert.truthy(text:find("DeadlockError", 1, true), text)
    end)

    it("gets it when the state of another worker closes meanwhile", function()
      local executor <close> = make { max_workers = 2 }
      -- The first has submitted the second, which waits for a third when the first exits.
      local first = executor:submit(function()
        local own = require "perilune.futures".current_executor()
        local second = own:submit(function()
          local mine = require "perilune.futures".current_executor()
          return mine:submit(math.abs, -1):result()
        end)
        while not second:running() do require "perilune".sleep(0) end
        os.exit(5)
      end)
      exited(kind, 5, first)
      assert.equal(1, (executor:submit(math.abs, -1):result()))
    end)
  end)
end

describe("a job that a job in a process has submitted", function()
  it("fails with BrokenProcessPool when its worker dies", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 2 }
    local path = support.directory() .. "/pid"
    local future = executor:submit(function(where, body)
      local job = require "perilune.futures".current_executor():submit(body, where)
      local err = job:exception()
      return require "perilune".BrokenProcessPool:is(err), err.message
    end, path, stay)
    local number = kill(path)
    assert.same({ true, ("worker process %d was killed by signal 9 (Killed) while it ran %s")
      :format(number, place(stay)) }, { future:result() })
  end)

  it("is tried again if it may be", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 2 }
    local path = support.directory() .. "/pid"
    local future = executor:submit(function(where, say)
      return require "perilune.futures".current_executor():submit({ function(at)
        if io.open(at) then return "again" end
        say(at)
        while true do end
      end, where, retries = 1 }):result()
    end, path, tell_pid)
    kill(path)
    assert.equal("again", (future:result()))
  end)

  it("is withdrawn when the worker that submitted it dies, and its answer dropped", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 2 }
    local directory = support.directory()
    local name, open = gate()
    local future = executor:submit(function(where, door, wait, say, body)
      local own = require "perilune.futures".current_executor()
      local begun = own:submit(wait, door)
      for i = 1, 50 do own:submit(say, where .. "/told", i) end
      while not begun:running() do require "perilune".sleep(0) end
      body(where .. "/pid")
    end, directory, name, gated, tell, stay)
    local number = kill(directory .. "/pid")
    local text = failure(peri.BrokenProcessPool, future)
    assert.truthy(text:find(("worker process %d was killed"):format(number), 1, true), text)
    assert.equal(1, (executor:submit(math.abs, -1):result()))
    open()
    executor:shutdown()
    assert.is_nil(io.open(directory .. "/told"))
  end)

  it("is done though the worker that submitted it has done all it may", function()
    local executor = futures.ProcessPoolExecutor { max_workers = 1, max_tasks_per_child = 1 }
    local path = support.directory() .. "/pids"
    executor:submit(function(where, say)
      local own = require "perilune.futures".current_executor()
      for _ = 1, 3 do own:submit(say, where) end
      say(where)
    end, path, tell_pid):result()
    executor:shutdown()
    local pids, n = {}, 0
    for line in read(path):gmatch "%d+" do
      assert.is_nil(pids[line])
      pids[line], n = true, n + 1
    end
    assert.equal(4, n)
  end)

  it("comes back to a worker that has begun its last job", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 2, max_tasks_per_child = 1 }
    local jobs = {}
    for i = 1, 5 do
      jobs[i] = executor:submit(ten_times, i)
      assert.equal(i * 10, (jobs[i]:result()))
    end
  end)

  it("is done by a worker that is yet to be started", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 2, max_tasks_per_child = 2 }
    local future = executor:submit(function(get)
      local own = require "perilune.futures".current_executor()
      local first = own:submit(get):result()
      own:submit(get):result()
      -- Its worker goes, and the third is sent ahead to this one.
      local third = own:submit(math.abs, -3)
      while io.open(("/proc/%d/stat"):format(first)) do require "perilune".sleep(0) end
      return third:result()
    end, function()
      local stat <close> = io.open "/proc/self/stat"
      return stat:read "n"
    end)
    assert.equal(3, (future:result()))
  end)

  it("breaks the pool if it is to", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 2, on_worker_death = "break" }
    local future = executor:submit(function()
      require "perilune.futures".current_executor():submit(os.exit, 3):result()
    end)
    local text = failure(peri.BrokenProcessPool, future)
    assert.truthy(text:find "the pool is broken, worker process %d+ ended with status 3$", text)
  end)

  it("is done while its owner's loops are over", function()
    local out, err, status = support.run_code(([[
      local peri = require "perilune"
      local path = "%s/told"
      local executor = require "perilune.futures".ProcessPoolExecutor { max_workers = 2 }
      executor:submit(function(name, text)
        local own = require "perilune.futures".current_executor()
        own:submit(print, "left behind")
        local double = own:submit(function(s)
          while not io.open(name .. ".over") do require "perilune".sleep(0) end
          return s .. s
        end, text)
        io.open(name, "w"):close()
        print(#double:result())
      end, path, ("x"):rep(1 << 20))
      peri.run(function()
        while not io.open(path) do peri.sleep(0) end
      end)
      io.open(path .. ".over", "w"):close()
    ]]):format(support.directory()))
    local lines = {}
    for line in out:gmatch "[^\n]+" do lines[#lines + 1] = line end
    table.sort(lines)
    assert.same({ { "2097152", "left behind" }, "", 0 }, { lines, err, status })
  end)
end)
