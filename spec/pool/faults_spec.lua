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

    if kind == "threads" then it("exhausts the memory of its state", function()
      local out, err, code = support.run_code [[
        -- The program gives its workers the limit that it has itself, which is none:
        -- so the job asks for more than there can be.
        local peri = require "perilune"
        local executor <close> = require "perilune.futures".ThreadPoolExecutor { max_workers = 1 }
        local future = executor:submit(function() return #(("x"):rep(1 << 46)) end)
        local ok, err = pcall(future.result, future)
        print(ok, (tostring(err):gsub("^.*:%d+: ", "")))
        print(executor:submit(math.abs, -1):result())
      ]]
      assert.same({ "", 0 }, { err, code })
      assert.truthy(out:find("^false\t.*memory.*\n1\n$") or out:find("^false\tresulting string too large\n1\n$"), out)
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

describe("a pool of threads", function()
  it("takes a million jobs into its queue", function()
    if not support.signals_interrupt then return end -- under TSan it takes minutes
    local executor = futures.ThreadPoolExecutor { max_workers = 1 }
    local first = executor:submit(peri.sleep, 1e9)
    local last
    for _ = 1, 1 << 20 do last = executor:submit(math.abs, -1) end
    assert.is_false(last:done())
    executor:shutdown { wait = false, cancel_futures = true }
    assert.is_true(last:cancelled())
    first:cancel { running = true }
    executor:shutdown()
    assert.is_true(first:done())
  end)

  it("may be shut down with a full queue, twice at a time", function()
    local executor = futures.ThreadPoolExecutor { max_workers = 2 }
    local jobs = {}
    for i = 1, 2000 do jobs[i] = executor:submit(function(n) return n end, i) end
    local one, two = peri.create_task(executor.shutdown, executor), peri.create_task(executor.shutdown, executor)
    one:await()
    two:await()
    for i = 1, 2000 do assert.equal(i, (jobs[i]:result(0))) end
    raises(peri.RuntimeError, "cannot submit a job: the executor was shut down", executor.submit, executor, print)
    raises(peri.RuntimeError, "cannot submit a job: the executor was shut down", executor.map, executor, print, { 1 })
  end)

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
