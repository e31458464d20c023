--- Jobs on other threads: `concurrent.futures` as far as loops need it.
--
-- A job runs as the main task of its worker's own loop, in a Lua state of its
-- own: its function, arguments and results are copies. The runtime's C side
-- (perilune._pool) has the threads; here a job is told by a future of the loop
-- that submitted it.
--
-- That future is what a loop makes, and awaits, gathers and cancels: not yet
-- Python's concurrent future, whose `result` takes a timeout and waits outside
-- of loops too. `wait` and `as_completed` are peri's until then.
local core = require "perilune._core"
local native = require "perilune._pool"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local unclosed = require "perilune.unclosed"

local error, getmetatable, math, pcall, select, setmetatable, type, unpack =
  error, getmetatable, math, pcall, select, setmetatable, type, table.unpack
local RuntimeError, TypeError, ValueError =
  errors.RuntimeError, errors.TypeError, errors.ValueError
local create_future, iscancel = core.create_future, core.iscancel
local await, is_cancelled = core.Future.await, core.Future.cancelled
local add_done_callback = core.Future.add_done_callback

---@class perilune.futures
local futures = {}

-- Waiting for threads -----------------------------------------------------------

local function ended(pool)
  local future = create_future()
  pool:when_ended(future)
  return future
end

-- Waits until the threads of a closed pool have ended. A cancellation is raised
-- only then: what stands behind an executor's scope may rely on its end. Where
-- no wait is possible, the thread blocks.
local function join(pool)
  if not core.can_wait() then return pool:join() end
  local cancellation
  repeat
    local ok, err = pcall(await, ended(pool))
    if not ok then
      if not iscancel(err) then error(err, 0) end
      cancellation = err
    end
  until ok
  if cancellation then error(cancellation, 0) end
end

-- Submitting ----------------------------------------------------------------------

-- A future that is cancelled takes its job out of the queue; one that runs
-- already goes on, and its result is dropped.
local function submit(pool, future, ...)
  local job = pool:submit(future, ...)
  add_done_callback(future, function(done)
    if is_cancelled(done) then pool:withdraw(job, done) end
  end)
  return future
end

---Runs jobs on threads, each of which has a Lua state of its own.
---@class perilune.ThreadPoolExecutor
local Executor = { __name = "ThreadPoolExecutor" }
Executor.__index = Executor

---Has a worker call the function, and returns a future of the running loop with
---what it returns or raises.
---
---The function, its upvalues and arguments are copied. Raises TypeError, naming
---the place, if something among them cannot be; RuntimeError once the executor
---is shut down, BrokenThreadPool if its initializer has failed.
---
---Cancellation: a job that has not begun is withdrawn; one that runs goes on.
---
---Python: `Executor.submit`; needs a running loop, and the future is the loop's.
---@param fn function|table the function, or a call table
---@param ... any its arguments
---@return perilune.Future
function Executor:submit(fn, ...)
  return submit(self._pool, create_future(), arguments.call("submit", 1, fn, ...))
end

-- Mapping ---------------------------------------------------------------------------

-- The jobs of one `map`; closing it cancels those that nobody has taken.
local Results = {}

function Results:__close(err) -- luacheck: no unused args
  for i = self.taken + 1, self.n do self[i]:cancel() end
  self.taken = self.n
end

-- The scope of one step: an error ends the iteration.
local Step = {}

function Step:__close(err)
  if err ~= nil then Results.__close(self.results) end
end

local function next_result(results)
  local i = results.taken + 1
  if i > results.n then return nil end
  results.taken = i
  local _ <close> = setmetatable({ results = results }, Step)
  return i, await(results[i])
end

local function shortest(lists)
  local n = math.huge
  for i = 1, lists.n do
    if type(lists[i]) ~= "table" then
      arguments.wrong_type("map", i + 1, "a list", lists[i])
    end
    n = math.min(n, lists[i].n or #lists[i])
  end
  return lists.n > 0 and n or 0
end

---Submits `fn(list[i], ...)` for each place of the lists, up to the end of the
---shortest, and returns an iterator that waits for the results in order and
---gives `i, ...`, the index and what that job returned:
---`for i, x in executor:map(fn, list) do`.
---
---A job's error is raised at its place and ends the iteration; what has not
---begun then, or when the loop is left early, is cancelled. Raises what `submit`
---raises.
---
---Python: `Executor.map`; takes no options yet.
---@param fn function
---@param ... table lists of arguments; a list with holes has `n`
---@return fun(): integer?, any
---@async
function Executor:map(fn, ...)
  local lists = { n = select("#", ...), ... }
  if not arguments.callable(fn) then arguments.wrong_type("map", 1, "a function", fn) end
  local results = setmetatable({ n = 0, taken = 0 }, Results)
  local _ <close> = setmetatable({ results = results }, Step)
  for i = 1, shortest(lists) do
    local args = {}
    for k = 1, lists.n do args[k] = lists[k][i] end
    results[i] = submit(self._pool, create_future(), fn, unpack(args, 1, lists.n))
    results.n = i
  end
  return function() return next_result(results) end, nil, nil, results
end

-- Ending --------------------------------------------------------------------------------

local shutdown_options <const> = { wait = true, cancel_futures = true }

---Takes no more jobs; those it has are still done, unless `cancel_futures`
---withdraws what has not begun and cancels its futures. Waits for the threads to
---end, unless `wait` is false: in a task the loop goes on meanwhile, where no
---wait is possible the thread blocks. A second call is harmless.
---
---Cancellation: raised when the threads have ended.
---
---Python: `Executor.shutdown`.
---@async
---@param options? { wait: boolean?, cancel_futures: boolean? }
function Executor:shutdown(options)
  arguments.options("shutdown", 1, options, shutdown_options)
  unclosed.closed(self._sentry)
  self._pool:close()
  if options and options.cancel_futures then self._pool:cancel_queued() end
  if not options or options.wait ~= false then join(self._pool) end
end

function Executor:__close(err) -- luacheck: no unused args
  self:shutdown()
end

-- Nobody can submit any more: the threads do what there is, and end.
function Executor:__gc()
  self._pool:close()
end

local executor_options <const> = {
  max_workers = true, thread_name_prefix = true, initializer = true, initargs = true,
}

local function check_options(options)
  arguments.options("ThreadPoolExecutor", 1, options, executor_options)
  local max_workers, initializer = options.max_workers, options.initializer
  if max_workers ~= nil and math.type(max_workers) ~= "integer" then
    error(TypeError("max_workers must be an integer, got " .. type(max_workers)))
  end
  if max_workers and max_workers < 1 then
    error(ValueError "max_workers must be greater than 0")
  end
  if initializer ~= nil and not arguments.callable(initializer) then
    error(TypeError("initializer must be a function, got " .. type(initializer)))
  end
  if options.initargs ~= nil and type(options.initargs) ~= "table" then
    error(TypeError("initargs must be a list, got " .. type(options.initargs)))
  end
end

---Makes an executor. Threads start when jobs come, up to `max_workers` (default:
---the CPUs there are and 4 more, 32 at most), and stay until it is shut down;
---`thread_name_prefix` (default "peri") names them for `top -H`. `initializer`
---is called with the list `initargs` in each worker before its first job; if it
---fails, the pool is broken.
---
---`<close>` shuts it down and waits.
---
---Python: `concurrent.futures.ThreadPoolExecutor`.
---@param options? { max_workers: integer?, thread_name_prefix: string?, initializer: function?, initargs: table? }
---@return perilune.ThreadPoolExecutor
function futures.ThreadPoolExecutor(options)
  options = options or {}
  check_options(options)
  local initargs = options.initargs or {}
  local pool = native.thread_pool(
    options.max_workers or math.min(32, native.cpu_count() + 4),
    options.thread_name_prefix or "peri",
    options.initializer, unpack(initargs, 1, initargs.n or #initargs))
  return setmetatable({
    _pool = pool,
    _sentry = unclosed.watch "ThreadPoolExecutor",
  }, Executor)
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
    error(RuntimeError "the default executor was shut down")
  end
  local executor = defaults[loop]
  if not executor then
    executor = futures.ThreadPoolExecutor()
    futures.set_default_executor(loop, executor)
  end
  return executor
end

local function check_executor(name, executor)
  if getmetatable(executor) ~= Executor then
    arguments.wrong_type(name, 1, "a ThreadPoolExecutor", executor)
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
---Python: `loop.run_in_executor`.
---@param loop perilune.Loop
---@param executor perilune.ThreadPoolExecutor? nil: the default one
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
  return submit(executor._pool, loop:create_future(),
    arguments.call("run_in_executor", 2, fn, ...))
end

---`loop:set_default_executor(executor)`: the executor for jobs without one, from
---now on. Shutting it down is then the loop's business.
---
---Python: `loop.set_default_executor`.
---@param loop perilune.Loop
---@param executor perilune.ThreadPoolExecutor
function futures.set_default_executor(loop, executor)
  defaults[loop] = check_executor("set_default_executor", executor)
  unclosed.closed(executor._sentry)
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
  executor._pool:close()
  if not timeout then return join(executor._pool) end
  local ok = require "perilune.timeouts".move_on_after(timeout, await, ended(executor._pool))
  if not ok then warn_of_late_threads(timeout) end
end

local Loop = core.Loop
Loop.run_in_executor = futures.run_in_executor
Loop.set_default_executor = futures.set_default_executor
Loop.shutdown_default_executor = futures.shutdown_default_executor

return futures
