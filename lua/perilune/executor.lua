--- Executors: what scripts do with pools of threads and of processes. C has the
-- pools and submits (runtime/pool/executor.c); here are `map`, `shutdown` and
-- what makes executors.
local core = require "perilune._core"
local native = require "perilune._pool"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local outside = require "perilune.outside"
local unclosed = require "perilune.unclosed"

require "perilune.pool_future" -- adds to futures what C leaves to it

local error, math, pcall, select, setmetatable, type, pack, unpack =
  error, math, pcall, select, setmetatable, type, table.pack, table.unpack
local TypeError, ValueError = errors.TypeError, errors.ValueError
local create_future, iscancel, now = core.create_future, core.iscancel, core.now
local await = core.Future.await
local JobFuture = core.JobFuture

local executor = {}

-- Of executors that nobody has shut down, in debug mode.
local sentries = setmetatable({}, { __mode = "k" })

-- Waiting for workers -------------------------------------------------------------

---A future of the running loop that is done when the workers of the closed
---executor have ended.
function executor.ended(self)
  local future = create_future()
  self:_when_ended(future)
  return future
end

---Waits until the workers of a closed executor have ended. A cancellation is
---raised only then: what stands behind an executor's scope may rely on its end.
---Where no wait is possible, the thread blocks.
---@async
function executor.join(self)
  if not core.can_wait() then return self:_join() end
  local cancellation
  repeat
    local ok, err = pcall(await, executor.ended(self))
    if not ok then
      if not iscancel(err) then error(err, 0) end
      cancellation = err
    end
  until ok
  if cancellation then error(cancellation, 0) end
end

-- Submitting --------------------------------------------------------------------------

---@class perilune.Executor
local Executor = core.Executor

-- The turn of one that waits until there is room for its job.
local Turn = {}

function Turn:__close(err) -- luacheck: no unused args
  self.executor:_leave(self.future)
end

local function submit_in_turn(self, ...)
  local future = create_future()
  local _ <close> = setmetatable({ executor = self, future = future }, Turn)
  self:_queue(future)
  await(future)
  return self:_submit_now(...)
end

-- For C, which has seen that as many jobs as may be are queued.
function Executor:_submit_later(...)
  return outside.wait(submit_in_turn, self, ...)
end

-- Mapping ---------------------------------------------------------------------------

-- The jobs of one `map`; closing it cancels those that nobody has begun.
local Results = {}

function Results:__close(err) -- luacheck: no unused args
  for i = self.taken + 1, self.submitted do self[i]:cancel() end
  self.taken, self.n = self.submitted, self.submitted
end

-- The scope of one step: an error ends the iteration.
local Step = {}

function Step:__close(err)
  if err ~= nil then Results.__close(self.results) end
end

---What the job of a chunk does: calls the function for each place of the lists.
---Returns what the calls returned, and the error that ended them, in a table.
---@param fn function
---@param n integer
---@param ... table
function executor.run_chunk(fn, n, ...)
  local lists, results, args = { n = select("#", ...), ... }, { n = 0 }, {}
  for i = 1, n do
    for k = 1, lists.n do args[k] = lists[k][i] end
    local values = pack(core.pcall(fn, unpack(args, 1, lists.n)))
    if not values[1] then return results, { values[2] } end
    results[i], results.n = values, i
  end
  return results
end

-- Submits the next job of a map, if there is one.
local function submit_next(results)
  local i = results.submitted + 1
  if i > results.n then return end
  local lists, chunksize = results.lists, results.chunksize
  local args = { n = lists.n }
  if chunksize == 1 then
    for k = 1, lists.n do args[k] = lists[k][i] end
    results[i] = results.executor:submit(results.fn, unpack(args, 1, args.n))
  else
    local first = (i - 1) * chunksize
    local n = math.min(chunksize, results.length - first)
    for k = 1, lists.n do args[k] = { unpack(lists[k], first + 1, first + n) } end
    results[i] = results.executor:submit(executor.run_chunk, results.fn, n, unpack(args, 1, args.n))
  end
  results.submitted = i
end

-- What the next job returned, or raises what it raised; the time of the map may
-- be over.
local function take(results)
  if results.buffersize then submit_next(results) end
  local i = results.taken + 1
  if i > results.submitted then return nil end
  results.taken = i
  local future = results[i]
  results[i] = nil
  local timeout
  if results.deadline then timeout = results.deadline - now() end
  local _ <close> = setmetatable({ results = results, future = future }, Step)
  local values = pack(pcall(JobFuture.result, future, timeout))
  future:cancel()
  if not values[1] then error(values[2], 0) end
  return values
end

local function next_result(results)
  local values = take(results)
  if values == nil then return nil end
  return results.taken, unpack(values, 2, values.n)
end

local function next_of_chunk(results)
  local chunk = results.chunk
  while chunk and results.place >= chunk.n do
    if results.failure then
      Results.__close(results)
      local failure = results.failure
      results.chunk, results.failure = nil, nil
      error(failure[1], 0)
    end
    chunk = nil
  end
  if not chunk then
    local values = take(results)
    if values == nil then return nil end
    chunk, results.failure, results.place = values[2], values[3], 0
    results.chunk = chunk
    if chunk.n == 0 then return next_of_chunk(results) end
  end
  results.place = results.place + 1
  results.index = results.index + 1
  local values = chunk[results.place]
  return results.index, unpack(values, 2, values.n)
end

local map_options <const> = { timeout = true, chunksize = true, buffersize = true }

-- Whether the last argument of map is its options: a plain table with one of
-- their names and no list.
local function are_options(value)
  if not arguments.plain(value) or value[1] ~= nil then return false end
  for name in next, map_options do
    if value[name] ~= nil then return true end
  end
  return false
end

local function check_map_options(position, options)
  arguments.options("map", position, options, map_options)
  arguments.seconds("map", position, options.timeout, true)
  for _, name in ipairs { "chunksize", "buffersize" } do
    local value = options[name]
    if value ~= nil and arguments.integer("map's " .. name, position, value) < 1 then
      arguments.wrong_value("map", position, name .. " must be > 0")
    end
  end
  return options
end

local function parse_lists(...)
  local lists = { n = select("#", ...), ... }
  local options = {}
  if are_options(lists[lists.n]) then
    options = check_map_options(lists.n + 1, lists[lists.n])
    lists[lists.n], lists.n = nil, lists.n - 1
  end
  local length = lists.n > 0 and math.huge or 0
  for i = 1, lists.n do
    if type(lists[i]) ~= "table" then arguments.wrong_type("map", i + 1, "a list", lists[i]) end
    length = math.min(length, lists[i].n or #lists[i])
  end
  return lists, length, options
end

---Submits `fn(list[i], ...)` for each place of the lists, up to the end of the
---shortest, and returns an iterator that waits for the results in order and
---gives `i, ...`, the index and what that job returned:
---`for i, x in executor:map(fn, list) do`. A trailing table is options if it has
---one of their names and no list in it.
---
---`timeout` is counted from the call: an iteration that has to wait longer
---raises TimeoutError. `chunksize` sends so many calls in one job (default 1).
---`buffersize` submits so many jobs and then one for each that is taken; without
---it all are submitted at once.
---
---A job's error is raised at its place and ends the iteration; what has not
---begun then, or when the loop is left early, is cancelled. Raises what `submit`
---raises.
---
---Python: `Executor.map`; with chunks the results before an error are not lost.
---@param fn function
---@param ... table lists of arguments (one with holes has `n`); then options
---@return fun(): integer?, any
---@async
function Executor:map(fn, ...)
  if not arguments.callable(fn) then arguments.wrong_type("map", 1, "a function", fn) end
  local lists, length, options = parse_lists(...)
  local chunksize = options.chunksize or 1
  local results = setmetatable({
    executor = self, fn = fn, lists = lists, length = length, chunksize = chunksize,
    n = (length + chunksize - 1) // chunksize, submitted = 0, taken = 0, index = 0,
    buffersize = options.buffersize,
    deadline = options.timeout and now() + options.timeout,
  }, Results)
  local _ <close> = setmetatable({ results = results }, Step)
  for _ = 1, math.min(results.n, options.buffersize or results.n) do submit_next(results) end
  local step = chunksize == 1 and next_result or next_of_chunk
  return function() return step(results) end, nil, nil, results
end

-- Ending --------------------------------------------------------------------------------

local shutdown_options <const> = { wait = true, cancel_futures = true }

---Takes no more jobs; those it has are still done, unless `cancel_futures`
---withdraws what has not begun and cancels its futures. Waits for the workers to
---end, unless `wait` is false: in a task the loop goes on meanwhile, where no
---wait is possible the thread blocks. That takes as long as the jobs and
---initializers that run do; Ctrl-C ends a program that waits here, and its workers
---with it. A second call is harmless.
---
---Cancellation: raised when the workers have ended.
---
---Python: `Executor.shutdown`.
---@async
---@param options? { wait: boolean?, cancel_futures: boolean? }
function Executor:shutdown(options)
  arguments.options("shutdown", 1, options, shutdown_options)
  executor.closed(self)
  self:_close()
  if options and options.cancel_futures then self:_cancel_queued() end
  if not options or options.wait ~= false then executor.join(self) end
end

function core.Executor_meta:__close(err) -- luacheck: no unused args
  self:shutdown()
end

---Nobody need shut the executor down any more.
function executor.closed(self)
  unclosed.closed(sentries[self])
end

-- Making --------------------------------------------------------------------------------

---Raises unless the options that all kinds of executors have are right; `known`
---are the names of all options.
function executor.check_options(name, options, known)
  arguments.options(name, 1, options, known)
  local max_workers, initializer = options.max_workers, options.initializer
  if max_workers ~= nil and math.type(max_workers) ~= "integer" then
    error(TypeError("max_workers must be an integer, got " .. type(max_workers)))
  end
  if max_workers and max_workers < 1 then
    error(ValueError "max_workers must be greater than 0")
  end
  arguments.seconds(name, 1, options.spin, true)
  if options.max_queued ~= nil and arguments.integer(name, 1, options.max_queued) < 0 then
    error(ValueError "max_queued must be at least 0")
  end
  if initializer ~= nil and not arguments.callable(initializer) then
    error(TypeError("initializer must be a function, got " .. type(initializer)))
  end
  if options.initargs ~= nil and type(options.initargs) ~= "table" then
    error(TypeError("initargs must be a list, got " .. type(options.initargs)))
  end
end

---Does what is common to the making of all kinds of executors.
function executor.made(self, name, max_workers, options)
  if options.max_queued then self:_set_limit(max_workers + options.max_queued) end
  sentries[self] = unclosed.watch(name)
  return self
end

local thread_pool_options <const> = {
  max_workers = true, thread_name_prefix = true, initializer = true, initargs = true,
  max_queued = true, spin = true,
}

---@class perilune.ThreadPoolOptions
---@field max_workers? integer
---@field thread_name_prefix? string
---@field initializer? function
---@field initargs? table
---@field max_queued? integer jobs that nobody has begun
---@field spin? number seconds

---Makes an executor whose workers are threads. They start when jobs come, up to
---`max_workers` (default: the CPUs there are and 4 more, 32 at most), and stay
---until it is shut down; `thread_name_prefix` (default "peri") names them for
---`top -H`. `initializer` is called with the list `initargs` in each worker
---before its first job; if it fails, the pool is broken; the time that it takes
---is not limited, and `shutdown` waits for it. With `max_queued`, `submit` waits
---while so many jobs are queued that nobody has begun. For `spin` seconds (default
---0) workers without a job, and the loop while it waits for one, look for news
---before they sleep: that costs a processor and saves the time to be woken. Without
---it a worker does so, and lets others run, for up to 0.2 ms while its jobs come one
---soon after the other.
---
---`<close>` shuts it down and waits.
---
---Python: `concurrent.futures.ThreadPoolExecutor`; `max_queued` and `spin` are ours.
---@param options? perilune.ThreadPoolOptions
---@return perilune.ThreadPoolExecutor
function executor.ThreadPoolExecutor(options)
  options = options or {}
  executor.check_options("ThreadPoolExecutor", options, thread_pool_options)
  local initargs = options.initargs or {}
  local max_workers = options.max_workers or math.min(32, native.cpu_count() + 4)
  local self = native.thread_pool(
    max_workers, options.thread_name_prefix or "peri",
    options.initializer, unpack(initargs, 1, initargs.n or #initargs))
  if options.spin then self:_set_spin(options.spin) end
  return executor.made(self, "ThreadPoolExecutor", max_workers, options)
end

return executor
