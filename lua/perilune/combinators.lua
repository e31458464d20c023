--- Combinators that asyncio lacks, and `as_completed`.
--
-- `map`, `race` and the gather that cancels own what they run: it has ended when
-- they end, however they end. A crew is such a set of running futures.
local core = require "perilune._core"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local locks = require "perilune.locks"
local owned = require "perilune.owned"

local error, pcall, setmetatable, type = error, pcall, setmetatable, type
local create_task, ensure_future = core.create_task, core.ensure_future
local iscancel = core.iscancel
local Future = core.Future
local is_cancelled, get_result, get_exception = Future.cancelled, Future.result, Future.exception
local new_crew, room, add, live = core.crew, core.crew_room, core.crew_add, core.crew_live
local next_of = core.crew_next

local combinators = {}

local function check_limit(name, options)
  local limit = options and options.limit
  if limit == nil then return math.maxinteger end
  if arguments.integer(name .. "'s limit", 1, limit) < 1 then
    arguments.wrong_value(name, 2, "limit must be > 0")
  end
  return limit
end

local function check_list(name, position, list)
  if not arguments.plain(list) then
    arguments.wrong_type(name, position, "list", list)
  end
  return list.n or #list
end

-- Crews -------------------------------------------------------------------------

-- C has the sets of futures (crew.c), and closes them (scope.c): it lets none of
-- them alone.
local Crew = { __close = core.close_scope }

-- All have ended; `interruption` is the last cancellation that came meanwhile.
function core.finish_crew(scope, err, interruption)
  for future in next_of, scope._crew do owned.report(scope._what, future) end
  if not interruption or iscancel(err) then return end
  if err == nil then error(interruption, 0) end
  -- The error that ends the crew comes first; the cancellation is raised again
  -- at the next wait.
  local task = core.current_task()
  task:uncancel()
  task:cancel()
end

local function new_scope(what)
  return setmetatable({
    _crew = new_crew(what),
    _what = what,
    _closing = false,
    _aborting = false,
  }, Crew)
end

-- Runs `start(i)` for the places 1 to n, at most `limit` at a time, and calls
-- `collect(future, i)` for each that has ended; what that raises ends it all.
local function run_crew(what, n, limit, start, collect)
  local scope <close> = new_scope(what)
  local crew = scope._crew
  local started = 0
  for _ = 1, n do
    while started < n and live(crew) < limit do
      room(crew)
      started = started + 1
      add(crew, start(started), started)
    end
    collect(next_of(crew))
  end
end

-- map -----------------------------------------------------------------------------

local map_options <const> = { limit = true }

---Calls a function for each element of a list, concurrently, and returns the
---list, with `n`, of the first values, in the order of the elements.
---
---Raises the first error, after the calls that were still running have been
---cancelled and have ended.
---
---Cancellation: likewise.
---@param fn function
---@param list any[] may hold nil if it has `n`
---@param options? { limit: integer? } limit: how many calls may run at a time
---@return any[]
---@async
function combinators.map(fn, list, options)
  if not arguments.callable(fn) then arguments.wrong_type("map", 1, "function", fn) end
  local n = check_list("map", 2, list)
  arguments.options("map", 3, options, map_options)
  local results = { n = n }
  run_crew("map", n, check_limit("map", options),
    function(i) return create_task(fn, list[i]) end,
    function(future, i) results[i] = get_result(future) end)
  return results
end

-- race ----------------------------------------------------------------------------

-- Starts all of a list; what stands in it twice runs once, functions aside.
local function enter(crew, list, n)
  local seen, count = {}, 0
  for i = 1, n do
    local aw = list[i]
    if type(aw) == "function" or not seen[aw] then
      count = count + 1
      seen[aw] = true
      room(crew)
      add(crew, ensure_future(aw), i)
    end
  end
  return count
end

---Runs awaitables concurrently and returns what the first to succeed returns.
---The others are cancelled and waited for.
---
---Raises an ExceptionGroup of all errors, in the order of failing, if none
---succeeds, and ValueError for an empty list.
---
---Cancellation: all are cancelled and waited for.
---@param list any[] awaitables, or functions that stand for a call of them
---@return any ...
---@async
function combinators.race(list)
  local n = check_list("race", 1, list)
  if n == 0 then arguments.wrong_value("race", 1, "the list is empty") end
  local scope <close> = new_scope "race"
  local failures = {}
  for i = 1, enter(scope._crew, list, n) do
    local future = next_of(scope._crew)
    if not is_cancelled(future) and get_exception(future) == nil then
      return get_result(future)
    end
    local _, err = pcall(get_result, future)
    failures[i] = err
  end
  error(errors.ExceptionGroup("no awaitable of a race succeeded", { exceptions = failures }))
end

-- gather with limit= and on_error= ----------------------------------------------------

local function permitted(semaphore, aw)
  local _ <close> = semaphore:guard()
  if type(aw) == "function" then return aw() end
  return core.await(aw)
end

-- What has not begun waits for a permit to; tasks and futures have begun.
local function gather_limited(list, n, limit, return_exceptions)
  local semaphore = locks.Semaphore(limit)
  local limited, seen = {}, {}
  for i = 1, n do
    local aw = list[i]
    if core.isfuture(aw) then
      limited[i] = aw
    elseif type(aw) == "function" then
      limited[i] = core.call(permitted, semaphore, aw)
    elseif aw ~= nil then
      seen[aw] = seen[aw] or core.call(permitted, semaphore, aw)
      limited[i] = seen[aw]
    end
  end
  return core.gather(limited, n, return_exceptions)
end

local function gather_cancelling(list, n, limit)
  local results, first_of = { n = n }, {}
  local places, count = {}, 0
  for i = 1, n do
    local aw = list[i]
    if type(aw) == "function" or first_of[aw] == nil then
      count = count + 1
      places[count] = i
      first_of[aw] = i
    end
  end
  run_crew("gather", count, limit,
    function(k) return ensure_future(list[places[k]]) end,
    function(future, k) results[places[k]] = get_result(future) end)
  for i = 1, n do
    local aw = list[i]
    if type(aw) ~= "function" then results[i] = results[first_of[aw]] end
  end
  return results
end

---gather for those of its options that C does not know.
---@return perilune.Future
function combinators.gather(list, n, options)
  local on_error, limit = options.on_error or "continue", check_limit("gather", options)
  if on_error == "continue" then
    return gather_limited(list, n, limit, options.return_exceptions)
  end
  if on_error ~= "cancel" then
    arguments.wrong_value("gather", 2, ("invalid on_error: %q"):format(tostring(on_error)))
  end
  if options.return_exceptions then
    arguments.wrong_value("gather", 2,
      "return_exceptions and on_error = \"cancel\" exclude each other")
  end
  for i = 1, n do
    if list[i] == nil then
      arguments.wrong_type("gather", i, "awaitable or function", nil)
    end
  end
  -- Its children start here and now, as those of any gather do, so that to
  -- cancel it reaches them from the beginning.
  return core.Task_new {
    target = gather_cancelling,
    args = { list, n, limit, n = 3 },
    name = "gather",
    eager = true,
  }
end

-- as_completed ----------------------------------------------------------------------

local Completion = {}

function Completion:__close(err) -- luacheck: no unused args
  if self.timer then self.timer:cancel() end
  core.crew_leave(self.crew)
end

local function next_completed(completion)
  local future = next_of(completion.crew)
  if future == false then error(errors.TimeoutError()) end
  return future
end

local as_completed_options <const> = { timeout = true }

---Iterates over awaitables in the order in which they end:
---`for task in peri.as_completed(list) do`. Gives the very tasks and futures of
---the list, done, and for other awaitables the tasks made of them; a function
---stands for a call of it. Errors do not stop it.
---
---Raises TimeoutError, in the loop, if not all are done `timeout` seconds after
---the call.
---
---Cancellation: what is waited for is not touched.
---
---Python: `asyncio.as_completed`, iterated asynchronously.
---@param list any[]
---@param options? { timeout: number? } seconds
---@return fun(): perilune.Future?
---@return table state
---@return nil
---@return perilune.Closable closable
---@async
function combinators.as_completed(list, options)
  local n = check_list("as_completed", 1, list)
  arguments.options("as_completed", 2, options, as_completed_options)
  local timeout = options and options.timeout
  arguments.seconds("as_completed", 2, timeout, true)
  local crew = new_crew "as_completed"
  local completion = setmetatable({ crew = crew, timer = false }, Completion)
  if enter(crew, list, n) > 0 and timeout then
    completion.timer = core.crew_limit(core.get_running_loop(), timeout, crew)
  end
  return next_completed, completion, nil, completion
end

return combinators
