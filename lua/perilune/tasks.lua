--- Tasks, and what waits for several of them.
--
-- The order of events is asyncio's, trip by trip; see the notes at each
-- function for where the surface differs.
local core = require "perilune._core"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local timeouts = require "perilune.timeouts"

local error, pcall, select, setmetatable, type, unpack =
  error, pcall, select, setmetatable, type, table.unpack
local create_future, ensure_future, follow =
  core.create_future, core.ensure_future, core.follow
local get_running_loop, iscancel = core.get_running_loop, core.iscancel
local Future = core.Future
local is_done, is_cancelled, get_loop = Future.done, Future.cancelled, Future.get_loop
local get_result, get_exception = Future.result, Future.exception
local add_done_callback, remove_done_callback =
  Future.add_done_callback, Future.remove_done_callback

local FIRST_COMPLETED <const> = "FIRST_COMPLETED"
local FIRST_EXCEPTION <const> = "FIRST_EXCEPTION"
local ALL_COMPLETED <const> = "ALL_COMPLETED"

local tasks = {
  Task = core.Task_new,
  create_task = core.create_task,
  spawn = core.spawn,
  ensure_future = core.ensure_future,
  current_task = core.current_task,
  all_tasks = core.all_tasks,
  sleep = core.sleep,
  FIRST_COMPLETED = FIRST_COMPLETED,
  FIRST_EXCEPTION = FIRST_EXCEPTION,
  ALL_COMPLETED = ALL_COMPLETED,
}

---A task factory whose tasks start inside their creation and run there up to
---their first real wait: `loop:set_task_factory(peri.eager_task_factory)`.
---
---Python: `asyncio.eager_task_factory`.
---@param loop perilune.Loop
---@param coro perilune.Coroutine
---@param opts? { name: string?, context: perilune.Context? }
---@return perilune.Task
function tasks.eager_task_factory(loop, coro, opts)
  return core.Task_new {
    target = coro,
    loop = loop,
    name = opts and opts.name,
    context = opts and opts.context,
    eager = true,
  }
end

-- A function as an awaitable: a call of it.
local function awaitable(value)
  if type(value) == "function" then return core.call(value) end
  return value
end

-- wait --------------------------------------------------------------------

-- Cancels a timer, however the wait ends.
local Limit = {}

function Limit:__close(err) -- luacheck: no unused args
  if self.timer then self.timer:cancel() end
end

local wait_options <const> = { timeout = true, return_when = true }

---Waits for tasks and futures and says which are done. Neither their errors
---nor the timeout raise anything or cancel anything.
---
---Raises ValueError for an empty list and an unknown `return_when`, TypeError
---for an element that is no task or future.
---
---Cancellation: what is waited for is not touched.
---
---Python: `asyncio.wait`, differs in that lists, in the order given, take the
---place of sets.
---@param list perilune.Future[]
---@param options? { timeout: number?, return_when: string? } timeout: seconds;
---return_when: FIRST_COMPLETED, FIRST_EXCEPTION or ALL_COMPLETED
---@return perilune.Future[] done
---@return perilune.Future[] pending
---@async
function tasks.wait(list, options)
  if not arguments.plain(list) then
    arguments.wrong_type("wait", 1, "list of tasks and futures", list)
  end
  arguments.options("wait", 2, options, wait_options)
  local timeout = options and options.timeout
  arguments.seconds("wait", 2, timeout, true)
  local return_when = options and options.return_when or ALL_COMPLETED
  local n = list.n or #list
  if n == 0 then arguments.wrong_value("wait", 1, "the list is empty") end
  if return_when ~= ALL_COMPLETED and return_when ~= FIRST_COMPLETED
    and return_when ~= FIRST_EXCEPTION then
    arguments.wrong_value("wait", 2, ("invalid return_when: %q"):format(tostring(return_when)))
  end
  local several = core.several(list, n, return_when)
  if timeout == nil then return core.several_wait(several) end
  local limit <close> = setmetatable({ timer = false }, Limit)
  limit.timer = core.several_limit(get_running_loop(), timeout, several)
  return core.several_wait(several)
end

-- wait_for ------------------------------------------------------------------

-- Cancels a future and waits until it has ended. Not by awaiting it: then a
-- cancellation of ours could not be told from its own.
local function cancel_and_wait(future)
  future:cancel()
  core.several_wait(core.several({ future }, 1, ALL_COMPLETED))
end

local function fail_late(ok, ...)
  if ok then return ... end
  local err = ...
  if iscancel(err) then err = errors.TimeoutError(nil, { cause = err }) end
  error(err, 0)
end

---Awaits something for a limited time, in the calling task; then cancels it,
---waits until it has ended, and raises TimeoutError.
---
---Raises TimeoutError, and what the awaitable raises. If that swallows the
---cancellation its values are returned.
---
---Cancellation: is passed on to the awaitable.
---
---Python: `asyncio.wait_for` of 3.12 and later.
---@param aw any an awaitable, or a function that stands for a call of it
---@param timeout number? seconds; nil: no limit; 0 or less: only what is done
---@return any ... its values
---@async
function tasks.wait_for(aw, timeout)
  arguments.seconds("wait_for", 2, timeout, true)
  if timeout == nil then return core.await(awaitable(aw)) end
  if timeout > 0 then return timeouts.timeout(timeout, core.await, awaitable(aw)) end
  local future = ensure_future(awaitable(aw))
  if is_done(future) then return get_result(future) end
  cancel_and_wait(future)
  return fail_late(pcall(get_result, future))
end

-- shield --------------------------------------------------------------------

-- A job's future may belong to none.
local function loop_of(future)
  return get_loop(future) or get_running_loop()
end

local function report_shielded(inner)
  if is_cancelled(inner) then return end
  local err = get_exception(inner)
  if err == nil then return end
  loop_of(inner):call_exception_handler {
    message = "exception in shielded future",
    exception = err,
    future = inner,
    source_traceback = core.source_traceback(inner),
  }
end

---Protects something from the cancellation of what awaits it: to cancel the
---future that `shield` gives does not cancel the awaitable. Should that fail
---afterwards, its error goes to the loop's exception handler.
---
---Python: `asyncio.shield`.
---@param aw any an awaitable, or a function that stands for a call of it
---@return perilune.Future
function tasks.shield(aw)
  local inner = ensure_future(awaitable(aw))
  if is_done(inner) then return inner end
  local outer = create_future(loop_of(inner))
  follow(inner, outer)
  add_done_callback(outer, function()
    if is_done(inner) then return end
    remove_done_callback(inner, outer)
    -- One report is enough, however many shields were given up.
    remove_done_callback(inner, report_shielded)
    add_done_callback(inner, report_shielded)
  end)
  return outer
end

-- gather --------------------------------------------------------------------

local gather_options <const> = { return_exceptions = true, limit = true, on_error = true }

local function check_gather_options(position, options)
  if arguments.plain(options) and options[1] ~= nil then
    arguments.wrong_type("gather", position, "one list, or awaitables and functions", options)
  end
  arguments.options("gather", position, options, gather_options)
  return options
end

-- The two forms of gather's arguments as a list, its length, and options.
local function parse(...)
  local count, first = select("#", ...), ...
  if arguments.plain(first) then
    return first, first.n or #first, check_gather_options(2, (select(2, ...)))
  end
  local last = count > 1 and select(count, ...)
  if arguments.plain(last) then
    return { ... }, count - 1, check_gather_options(count, last)
  end
  return { ... }, count, nil
end

---Runs awaitables concurrently and collects their results:
---`gather(a, b, ...)` or `gather({a, b}, options)`. A function stands for a
---call of it.
---
---The future's value is one list with `n`, of the first value of each, in the
---order given. The first error becomes the future's, and the others run on; with
---`return_exceptions` errors stand in the list instead. `limit` bounds how many
---of the functions and coroutine objects run at a time. With `on_error =
---"cancel"` the first error cancels the others and is raised when they have
---ended.
---
---Cancellation: of the future cancels all that have not ended.
---
---Python: `asyncio.gather`; `limit` and `on_error` are ours.
---@param ... any awaitables or functions, or one list of them; then options
---@return perilune.Gather|perilune.Task future a task with `on_error = "cancel"`
function tasks.gather(...)
  local list, n, options = parse(...)
  if options == nil then return core.gather(list, n, false) end
  if options.limit == nil and options.on_error == nil then
    return core.gather(list, n, options.return_exceptions)
  end
  return require "perilune.combinators".gather(list, n, options)
end

---Runs functions and awaitables concurrently, waits for all and returns the
---first value of each: `local a, b = peri.all(f, g)`. Arguments, errors and
---cancellation are as with `gather`.
---@param ... any awaitables or functions, or one list of them; then options
---@return any ...
---@async
function tasks.all(...)
  local results = tasks.gather(...):await()
  return unpack(results, 1, results.n)
end

-- Threads ---------------------------------------------------------------------

---Runs a function in the loop's default pool of threads and waits for it there.
---
---It runs in another Lua state, so the caller's context does not go along, nor
---can a ContextVar: pass the values that it needs. Raises what `submit` raises.
---
---Cancellation: a job that runs already goes on, its result is dropped.
---
---Python: `asyncio.to_thread`, which copies the context.
---@param fn function|table the function, or a call table
---@param ... any its arguments
---@return any ... what it returned
---@async
function tasks.to_thread(fn, ...)
  return core.await(get_running_loop():run_in_executor(nil, fn, ...))
end

-- Described in meta/loop.lua, as the loop's other methods.
function core.Loop:run_coroutine_threadsafe(fn, ...)
  return require "perilune.threadsafe".run_coroutine(self, fn, ...)
end

---Makes a task of a function on a loop, from anywhere. What it returns may be awaited
---in any loop; `result` waits, too.
---
---Python: `asyncio.run_coroutine_threadsafe`.
---@param fn function|table|perilune.Coroutine
---@param loop perilune.Loop or a handle of another state's loop
---@param ... any the function's arguments
---@return perilune.JobFuture
function tasks.run_coroutine_threadsafe(fn, loop, ...)
  return loop:run_coroutine_threadsafe(fn, ...)
end

return tasks
