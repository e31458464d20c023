local futures = require "perilune.futures"
local peri = require "perilune"
local raises = require "support".raises

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

describe("futures.current_executor", function()
  it("raises outside of jobs", function()
    raises(peri.RuntimeError, "current_executor() was not called in a job", futures.current_executor)
  end)

  it("takes jobs from a job, and gives it their results", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 2 }
    assert.equal(70, (executor:submit(ten_times, 7):result()))
    assert.same({ 1, 4, 9 }, executor:submit(function()
      local list = {}
      local own = require "perilune.futures".current_executor()
      for i, x in own:map(function(n) return n * n end, { 1, 2, 3 }) do list[i] = x end
      return list
    end):result())
  end)

  it("is the same executor in each job of a worker", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    local function same()
      local own = require "perilune.futures".current_executor()
      known = known or own -- luacheck: ignore
      return known == own -- luacheck: ignore
    end
    assert.is_true(executor:submit(same):result())
    assert.is_true(executor:submit(same):result())
  end)

  it("starts the workers that there may be", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 3 }
    -- Each waits for the next: with fewer than three workers that is a deadlock.
    local function nest(depth)
      if depth == 0 then return "deep" end
      return require "perilune.futures".current_executor():submit(nest, depth - 1):result()
    end
    assert.equal("deep", (executor:submit(nest, 2):result()))
  end)

  it("passes errors on, and cancels what has not begun", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    local cancelled, ok = executor:submit(function()
      local own = require "perilune.futures".current_executor()
      local future = own:submit(print)
      return future:cancel(), future:done()
    end):result()
    assert.same({ true, true }, { cancelled, ok })
    local both <close> = futures.ThreadPoolExecutor { max_workers = 2 }
    local future = both:submit(function()
      local own = require "perilune.futures".current_executor()
      own:submit(function() error(require "perilune".ValueError "inner") end):result()
    end)
    raises(peri.ValueError, "inner", future.result, future)
  end)

  it("calls done callbacks while jobs run there", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
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
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
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
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    local future = executor:submit(function() require "perilune.futures".current_executor():shutdown() end)
    raises(peri.RuntimeError, "an executor cannot be shut down by one of its jobs", future.result, future)
  end)

  it("takes no jobs once the owner has shut it down", function()
    local executor = futures.ThreadPoolExecutor { max_workers = 1 }
    local future = executor:submit(function()
      local own = require "perilune.futures".current_executor()
      while pcall(own.submit, own, math.abs, 1) do require "perilune".sleep(0) end
      return select(2, pcall(own.submit, own, math.abs, 1))
    end)
    while not future:running() do peri.sleep(0) end
    executor:shutdown { cancel_futures = true }
    local err = future:result()
    assert.equal("RuntimeError: cannot submit a job: the executor was shut down", tostring(err))
  end)

  it("drops what a job has left in the queue when the worker's state goes", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    local future = executor:submit(function()
      local own = require "perilune.futures".current_executor()
      for _ = 1, 10 do own:submit(error, "never") end
      os.exit(3)
    end)
    raises(peri.RuntimeError, "os.exit(3) was called in a worker thread", future.result, future)
    assert.equal(1, (executor:submit(math.abs, -1):result()))
  end)
end)

describe("a job that waits for a job of its own full pool", function()
  it("gets DeadlockError", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    local future = executor:submit(ten_times, 1)
    local text = failure(peri.DeadlockError, future)
    assert.truthy(text:find("waits in result", 1, true), text)
    assert.equal(1, (executor:submit(math.abs, -1):result()))
  end)

  it("gets it only if no worker is left, and the others go on", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 3 }
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
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    local future = executor:submit(function()
      local job = require "perilune.futures".current_executor():submit(math.abs, -1)
      return pcall(job.result, job, 0.01)
    end)
    local ok, err = future:result()
    assert.is_false(ok)
    assert.is_true(peri.TimeoutError:is(err), tostring(err))
  end)

  it("gets it in an initializer", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1, initializer = ten_times, initargs = { 1 } }
    local future = executor:submit(print)
    local text = failure(peri.BrokenThreadPool, future)
    assert.truthy(text:find("DeadlockError", 1, true), text)
  end)

  it("gets it when the state of another worker closes meanwhile", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 2 }
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
    raises(peri.RuntimeError, "os.exit(5) was called in a worker thread", first.result, first)
    assert.equal(1, (executor:submit(math.abs, -1):result()))
  end)
end)
