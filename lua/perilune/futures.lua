--- Jobs on other threads: `concurrent.futures`.
--
-- A job runs as the main task of its worker's own loop, in a Lua state of its
-- own: its function, arguments and results are copies. Its future belongs to no
-- loop: tasks of any loop await it, and outside of loops `result` blocks the
-- thread. The futures of `run_in_executor` are the loop's.
local core = require "perilune._core"
local native = require "perilune._pool"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local executors = require "perilune.executor"

local error, debug, setmetatable = error, debug, setmetatable
local RuntimeError, TypeError = errors.RuntimeError, errors.TypeError
local await = core.Future.await

---@class perilune.futures
local futures = {}

futures.ThreadPoolExecutor = require "perilune.executor".ThreadPoolExecutor
futures.ProcessPoolExecutor = require "perilune.process_executor".ProcessPoolExecutor
futures.wait = require "perilune.pool_future".wait
futures.as_completed = require "perilune.pool_future".as_completed
futures.FIRST_COMPLETED = require "perilune.pool_future".FIRST_COMPLETED
futures.FIRST_EXCEPTION = require "perilune.pool_future".FIRST_EXCEPTION
futures.ALL_COMPLETED = require "perilune.pool_future".ALL_COMPLETED

---The executor in one of whose workers this code runs: there a job may submit
---jobs to its own pool, and `map`. Their futures belong to this worker: what is
---done with them is done while jobs run here. Nobody waits for room, whatever
---the executor's `max_queued`; only its owner may shut it down.
---
---A job that waits for such a job needs another worker for it. When all workers
---wait so, and no one is left to begin what they wait for, the last of them gets
---DeadlockError.
---
---What jobs have submitted and nobody has begun is dropped with the worker's state:
---when a job is interrupted, calls `os.exit` or takes its worker process along. A
---worker that ends because of a shutdown, or has done `max_tasks_per_child` jobs,
---leaves its jobs to the others.
---
---In a process they go by way of the owner, while it runs a loop or waits for the
---pool. A job is cancelled at once if the worker has not heard that it has begun;
---should it have, it is done and its result dropped; with `cancel { running = true }`
---it is interrupted. Loops that are sent with a job to another worker cannot be
---called there, in threads neither.
---
---Raises RuntimeError outside of jobs.
---
---Python has no such function: there a job finds its executor as a global.
---@return perilune.Executor
function futures.current_executor()
  return native.current_executor()
end

-- Loops -----------------------------------------------------------------------------------

-- Loop to its default executor, and to true once that was shut down for good.
local defaults = setmetatable({}, { __mode = "k" })
local ended_defaults = setmetatable({}, { __mode = "k" })

local function check_open(loop)
  if loop:is_closed() then error(RuntimeError "Event loop is closed") end
end

local function default_executor(loop)
  if ended_defaults[loop] then
    error(RuntimeError "Executor shutdown has been called")
  end
  local executor = defaults[loop]
  if not executor then
    executor = futures.ThreadPoolExecutor()
    futures.set_default_executor(loop, executor)
  end
  return executor
end

local function check_executor(name, executor)
  if debug.getmetatable(executor) ~= core.Executor_meta then
    arguments.wrong_type(name, 1, "an executor", executor)
  end
  return executor
end

---`loop:run_in_executor(executor, fn, ...)`: has a worker of the executor, or of
---the loop's default one, call the function, and returns a future of the loop at
---once. Raises what `submit` raises, and RuntimeError for a closed loop.
---
---Cancellation of the future: a job that has not begun is withdrawn; one that
---runs goes on, its result is dropped.
---
---If the loop closes before the job has ended, the job is done all the same, and
---the future stays pending for good; it may still be cancelled.
---
---Python: `loop.run_in_executor`.
---@param loop perilune.Loop
---@param executor perilune.Executor? nil: the default one
---@param fn function|table the function, or a call table
---@param ... any its arguments
---@return perilune.Future
function futures.run_in_executor(loop, executor, fn, ...)
  check_open(loop)
  if executor == nil then
    executor = default_executor(loop)
  else
    check_executor("run_in_executor", executor)
  end
  return executor:_submit_for(loop, arguments.call("run_in_executor", 2, fn, ...))
end

---`loop:set_default_executor(executor)`: the executor for jobs without one, from
---now on. Shutting it down is then the loop's business.
---
---Raises TypeError for what is no ThreadPoolExecutor.
---
---Python: `loop.set_default_executor`.
---@param loop perilune.Loop
---@param executor perilune.ThreadPoolExecutor
function futures.set_default_executor(loop, executor)
  check_executor("set_default_executor", executor)
  if not executor:_of_threads() then
    error(TypeError "executor must be a ThreadPoolExecutor")
  end
  defaults[loop] = executor
  executors.closed(executor)
end

local function warn_of_late_threads(timeout)
  require "perilune.log".warning(
    "the default executor's threads had not ended %g s after its shutdown", timeout)
end

---`loop:shutdown_default_executor(timeout)`: shuts the default executor down and
---waits for its threads; after the timeout, which is logged, without waiting any
---longer. The loop has no default executor any more.
---
---Python: `loop.shutdown_default_executor`.
---@async
---@param loop perilune.Loop
---@param timeout? number seconds
function futures.shutdown_default_executor(loop, timeout)
  arguments.seconds("shutdown_default_executor", 1, timeout, true)
  local executor = defaults[loop]
  defaults[loop], ended_defaults[loop] = nil, true
  if not executor then return end
  executor:_close()
  if not timeout then return executors.join(executor) end
  local ok = require "perilune.timeouts".move_on_after(timeout, await, executors.ended(executor))
  if not ok then warn_of_late_threads(timeout) end
end

local Loop = core.Loop
Loop.run_in_executor = futures.run_in_executor
Loop.set_default_executor = futures.set_default_executor
Loop.shutdown_default_executor = futures.shutdown_default_executor

return futures
