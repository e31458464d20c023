local futures = require "perilune.futures"
local peri = require "perilune"
local support = require "support"
local raises = support.raises

local kinds = {
  threads = futures.ThreadPoolExecutor,
  processes = function(options)
    options.on_worker_death = "replace"
    return futures.ProcessPoolExecutor(options)
  end,
}

for kind, make in pairs(kinds) do
  -- What a job came to, after which its worker, or one in its place, still works.
  local function outcome(fn, ...)
    local executor <close> = make { max_workers = 1 }
    local future = executor:submit(fn, ...)
    local ok, err = pcall(future.result, future)
    assert.equal(1, (executor:submit(math.abs, -1):result()))
    return ok, err
  end

  describe("the initializer of a pool of " .. kind, function()
    it("is called in each worker", function()
      local executor <close> = make {
        max_workers = 1,
        initializer = function(a, b) greeting = a .. b end, -- luacheck: ignore
        initargs = { "hello, ", "worker" },
      }
      assert.equal("hello, worker", executor:submit(function() return greeting end):await()) -- luacheck: ignore
    end)

    it("breaks it when it fails", function()
      local executor <close> = make {
        max_workers = 1,
        initializer = function() error(peri.ValueError "no licence") end,
      }
      local class = kind == "threads" and peri.BrokenThreadPool or peri.BrokenProcessPool
      local message = "the pool is broken, its initializer failed: ValueError: no licence"
      raises(class, message, peri.await, executor:submit(math.abs, 1))
      raises(class, message, executor.submit, executor, math.abs, 1)
    end)
  end)

  describe("a pool of " .. kind .. " outlives a job that", function()
    it("raises nil, or a table", function()
      local _, err = outcome(function() error(nil) end)
      assert.equal("RuntimeError: error(nil) was raised", tostring(err))
      _, err = outcome(function() error { code = 7 } end)
      assert.same({ code = 7 }, err)
    end)

    it("returns what cannot be sent", function()
      local ok, err = outcome(function() return { list = { coroutine.create(print) } } end)
      assert.is_false(ok)
      assert.truthy(tostring(err):find("cannot send result 1.list[1]", 1, true), tostring(err))
    end)

    it("calls os.exit", function()
      local _, err = outcome(os.exit, 4)
      if kind == "threads" then
        assert.equal("RuntimeError: os.exit(4) was called in a worker thread", tostring(err))
      else
        assert.is_true(peri.BrokenProcessPool:is(err), tostring(err))
        assert.truthy(tostring(err):find("status 4 while it ran os.exit", 1, true), tostring(err))
      end
    end)

    it("overflows the stack", function()
      local ok, err = outcome(function()
        local function down() return 1 + down() end
        return down()
      end)
      assert.is_false(ok)
      assert.truthy(tostring(err):find "stack overflow", tostring(err))
    end)

    it("overflows the stack of C", function()
      local ok, err = outcome(function()
        local function down(text) return (text:gsub(".", down)) end
        return down "x"
      end)
      assert.is_false(ok)
      assert.truthy(tostring(err):find "stack overflow", tostring(err))
    end)

    it("ends in a deadlock", function()
      local _, err = outcome(function()
        local future = require "perilune".Future()
        future:await()
      end)
      assert.is_true(peri.DeadlockError:is(err), tostring(err))
    end)

    it("stops its loop", function()
      local ok, err = outcome(function()
        local peri = require "perilune" -- luacheck: ignore
        peri.get_running_loop():stop()
        peri.sleep(1e9)
      end)
      assert.is_false(ok)
      assert.truthy(tostring(err):find("stopped before", 1, true), tostring(err))
    end)

    it("leaves tasks behind", function()
      local records = support.log()
      local ok = outcome(function()
        local peri = require "perilune" -- luacheck: ignore
        peri.create_task(peri.sleep, 1e9)
        peri.create_task(function() error "late" end)
        peri.get_running_loop():call_soon(error, "called")
      end)
      assert.is_true(ok)
      if kind == "threads" then assert.equal(2, #records) end
    end)

    it("cancels itself", function()
      local executor <close> = make { max_workers = 1 }
      local future = executor:submit(function()
        require "perilune".current_task():cancel()
        return "dropped"
      end)
      raises(peri.CancelledError, "", future.result, future)
      assert.is_false(future:cancelled()) -- it failed, as in Python
    end)

    -- spec/embed has limits of memory; here it is more than there can be.
    it("asks for more memory than there is", function()
      local ok, err = outcome(function() return #(("x"):rep(1 << 46)) end)
      assert.is_false(ok)
      err = tostring(err)
      assert.truthy(err:find "memory" or err:find "string too large", err)
    end)

    if support.signals_interrupt then it("loops for ever, and is cancelled", function()
      local executor <close> = make { max_workers = 1 }
      local future = executor:submit(function() while true do pcall(error) end end)
      while not future:running() do peri.sleep(0) end
      assert.is_false(future:cancel())
      assert.is_true(future:cancel { running = true, grace = 1e6 })
      raises(peri.CancelledError, "", future.result, future)
      assert.equal(1, (executor:submit(math.abs, -1):result()))
    end) end

    it("is submitted by a done callback", function()
      local executor <close> = make { max_workers = 1 }
      local second
      local first = executor:submit(math.abs, -1)
      first:add_done_callback(function() second = executor:submit(math.abs, -2) end)
      first:result()
      assert.equal(2, (second:result()))
    end)
  end)
end

local shut_down <const> = "cannot schedule new futures after shutdown"

for kind, make in pairs(kinds) do
  describe("a pool of " .. kind, function()
    it("takes a million jobs into its queue", function()
      if not support.signals_interrupt then return end -- under TSan it takes minutes
      local executor = make { max_workers = 1 }
      local first = executor:submit(peri.sleep, 1e9)
      local last
      while not first:running() do peri.sleep(0) end
      for _ = 1, 1 << 20 do last = executor:submit(math.abs, -1) end
      assert.is_false(last:done())
      executor:shutdown { wait = false, cancel_futures = true }
      assert.is_true(last:cancelled())
      assert.is_true(first:cancel { running = true })
      executor:shutdown()
      assert.is_true(first:done())
    end)

    it("does a quarter of a million jobs", function()
      if not support.signals_interrupt then return end
      local executor <close> = make { max_workers = 2 }
      local jobs, sum = {}, 0
      for i = 1, 1 << 18 do jobs[i] = executor:submit(math.abs, -i) end
      for i = 1, 1 << 18 do sum = sum + jobs[i]:result() end
      assert.equal((1 << 17) * ((1 << 18) + 1), sum)
    end)

    it("may be shut down with a full queue, twice at a time", function()
      local executor = make { max_workers = 2 }
      local jobs = {}
      for i = 1, 2000 do jobs[i] = executor:submit(function(n) return n end, i) end
      local one, two = peri.create_task(executor.shutdown, executor), peri.create_task(executor.shutdown, executor)
      one:await()
      two:await()
      for i = 1, 2000 do assert.equal(i, (jobs[i]:result(0))) end
      raises(peri.RuntimeError, shut_down, executor.submit, executor, print)
      raises(peri.RuntimeError, shut_down, executor.map, executor, print, { 1 })
      raises(peri.RuntimeError, shut_down, peri.get_running_loop().run_in_executor,
        peri.get_running_loop(), executor, print)
    end)

    it("may be shut down by a done callback, which blocks until it has ended", function()
      local executor = make { max_workers = 2 }
      local jobs, done = {}, nil
      for i = 1, 100 do jobs[i] = executor:submit(math.abs, -i) end
      jobs[1]:add_done_callback(function()
        executor:shutdown()
        done = true
        for i = 1, 100 do done = done and jobs[i]:done() end
        executor:shutdown()
      end)
      jobs[1]:result()
      assert.is_true(done)
      for i = 1, 100 do assert.equal(i, (jobs[i]:result(0))) end
      raises(peri.RuntimeError, shut_down, executor.submit, executor, print)
    end)

    it("cancels a full queue in a done callback", function()
      local executor = make { max_workers = 1 }
      local jobs, cancelled = {}, 0
      for i = 1, 500 do jobs[i] = executor:submit(math.abs, -i) end
      for i = 2, 500 do
        jobs[i]:add_done_callback(function(f) cancelled = cancelled + (f:cancelled() and 1 or 0) end)
      end
      jobs[1]:add_done_callback(function() executor:shutdown { wait = false, cancel_futures = true } end)
      executor:shutdown()
      local withdrawn = 0
      for i = 2, 500 do
        assert.is_true(jobs[i]:done())
        if jobs[i]:cancelled() then withdrawn = withdrawn + 1 end
      end
      assert.equal(withdrawn, cancelled)
    end)

    it("says what went wrong in a job, to the last of a group's errors", function()
      local out, err, code = support.run_code(([[
        local executor <close> = require "perilune.futures".%s { max_workers = 1 }
        executor:submit(function()
          local peri = require "perilune"
          peri.TaskGroup(function(group)
            group:create_task(function() error(peri.ValueError "first") end)
            group:create_task(error, "second", 0)
          end)
        end):result()
      ]]):format(kind == "threads" and "ThreadPoolExecutor" or "ProcessPoolExecutor"))
      assert.same({ "", 1 }, { out, code })
      local group = err:find("ExceptionGroup: unhandled errors in a TaskGroup (2 sub-exceptions)", 1, true)
      local worker, first, second = err:find "in worker", err:find "1%. ValueError: first", err:find "2%. second"
      assert.truthy(group and worker and first and second, err)
      assert.is_true(group < worker and worker < first and first < second, err)
    end)

    -- Where a standard output leads that takes nothing; what the job says itself
    -- goes to its error output.
    for how, redirection in pairs { ["is full"] = ">/dev/full", ["is closed"] = ">&-" } do
      it("works on when its output " .. how, function()
        local file = support.file(([[
          local executor <close> = require "perilune.futures".%s { max_workers = 1 }
          local job = executor:submit(function()
            for i = 1, 100 do print(("line"):rep(1000), i) end
            io.stdout:flush()
            return "printed"
          end)
          io.stderr:write(job:result(), executor:submit(math.abs, -1):result(), "\n")
        ]]):format(kind == "threads" and "ThreadPoolExecutor" or "ProcessPoolExecutor"))
        local out, err, code = support.shell(("exec timeout 60 %s %s %s"):format(
          support.quote(support.program), file, redirection))
        assert.same({ "", "printed1\n", 0 }, { out, err, code })
        out, err, code = support.run_stock("dofile(arg[1])", { argument = file, redirection = redirection })
        assert.same({ "", "printed1\n", 0 }, { out, err, code })
      end)
    end
  end)
end

describe("a pool of threads", function()
  it("loses and doubles none of its jobs when some are cancelled meanwhile", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 3 }
    local jobs, cancelled, sum, expected = {}, 0, 0, 0
    for i = 1, 3000 do
      jobs[i] = executor:submit(function(n) return n end, i)
      if i % 7 == 0 and jobs[i - 3]:cancel() then cancelled = cancelled + 1 end
    end
    for i = 1, 3000 do
      if jobs[i]:cancelled() then
        cancelled = cancelled - 1
      else
        sum, expected = sum + jobs[i]:result(), expected + i
      end
    end
    assert.same({ 0, expected }, { cancelled, sum })
  end)

  it("gives the jobs behind a long one to another worker", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 2 }
    local jobs = {}
    for i = 1, 200 do
      jobs[i] = executor:submit(function(n) if n == 50 then require "perilune".sleep(1e9) end return n end, i)
    end
    for i = 1, 200 do
      if i ~= 50 then assert.equal(i, (jobs[i]:result())) end
    end
    assert.is_true(jobs[50]:cancel { running = true })
  end)
end)
