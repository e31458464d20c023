--- Task groups: a scope that waits for the tasks started in it.
--
-- The first task to fail cancels the others and, if it has not come to the end
-- of its block, the parent; that one cancellation is the group's own and taken
-- back (`uncancel`) at the end. What leaves the block, in this order: a kill or
-- an exit on its way; the errors, as one ExceptionGroup, in the order of
-- failing, the block's own last; a cancellation from outside. If errors leave
-- while the parent is cancelled from outside too, that is raised again at the
-- parent's next wait.
local core = require "perilune._core"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local owned = require "perilune.owned"
local unclosed = require "perilune.unclosed"

local error, pcall, rawequal, select, setmetatable =
  error, pcall, rawequal, select, setmetatable
local create_future, current_task, get_running_loop =
  core.create_future, core.current_task, core.get_running_loop
local can_wait, iscancel, iscoroutine, issentinel =
  core.can_wait, core.iscancel, core.iscoroutine, core.issentinel
local Future = core.Future
local await, is_done, is_cancelled = Future.await, Future.done, Future.cancelled
local get_exception, set_result = Future.exception, Future.set_result
local add_done_callback = Future.add_done_callback
local RuntimeError = errors.RuntimeError

---A group of tasks that end before its block does.
---@class perilune.TaskGroup
local TaskGroup = { __name = "TaskGroup" }
TaskGroup.__index = TaskGroup

-- Error group to the tasks that failed, in the order of its errors: where an
-- error that is just a string came from, its task can still tell.
local failed_tasks = setmetatable({}, { __mode = "k" })

-- The tasks are kept in the order of creation, those that have ended too, which
-- are dropped now and then: an ended task costs nothing then.
local SWEEP <const> = 64

local function sweep(group)
  local tasks, kept = group._tasks, {}
  for i = 1, #tasks do
    if not is_done(tasks[i]) then kept[#kept + 1] = tasks[i] end
  end
  group._tasks, group._sweep_at = kept, 2 * #kept + SWEEP
end

local function abort(group)
  group._aborting = true
  local tasks = group._tasks
  for i = 1, #tasks do
    if not is_done(tasks[i]) then tasks[i]:cancel() end
  end
end

local function cancel_parent(group)
  group._parent_cancelled = true
  group._parent:cancel()
end

-- The group has ended and raised what it had to.
local function report_late(group, task, err)
  group._loop:call_exception_handler {
    message = "a task failed after the end of its task group",
    exception = err,
    task = task,
    source_traceback = core.source_traceback(task),
  }
end

local function on_task_done(group, task)
  local live = group._live - 1
  group._live = live
  local waiter = group._waiter
  if live == 0 and waiter and not is_done(waiter) then set_result(waiter) end
  if is_cancelled(task) then return end
  local err = get_exception(task)
  if err == nil then return end
  if group._state == "ended" or is_done(group._parent) then
    report_late(group, task, err)
    return
  end
  local place = #group._errors + 1
  group._errors[place], group._failed[place] = err, task
  if not group._aborting and not group._parent_cancelled then
    abort(group)
    cancel_parent(group)
  end
end

local function new_group()
  local loop, parent = get_running_loop(), current_task()
  if not parent then
    error(RuntimeError "TaskGroup: a task group needs a task around it")
  end
  local group = setmetatable({
    _loop = loop,
    _parent = parent,
    _state = "open",
    _live = 0,
    _tasks = {},
    _sweep_at = SWEEP,
    _errors = {},
    _failed = {},
    _aborting = false,
    _parent_cancelled = false,
    _watch = unclosed.watch "task group",
  }, TaskGroup)
  function group._on_done(task) on_task_done(group, task) end
  return group
end

-- The coroutine object that was to be a task will not be awaited any more.
local function refuse(fn, text)
  if iscoroutine(fn) then fn:close() end
  error(RuntimeError(text))
end

---Starts a task in the group. The arguments are those of `create_task`.
---
---Raises RuntimeError if the group is ending because of an error or a
---cancellation, or has ended.
---
---Python: `TaskGroup.create_task`.
---@param fn function|table|perilune.Coroutine
---@param ... any its arguments
---@return perilune.Task
function TaskGroup:create_task(fn, ...)
  if self._state == "ended" or self._state == "closing" and self._live == 0 then
    refuse(fn, "the task group has ended")
  elseif self._aborting then
    refuse(fn, "the task group is shutting down")
  end
  local task = self._loop:create_task(fn, ...)
  self._live = self._live + 1
  if is_done(task) then
    on_task_done(self, task)
    return task
  end
  local tasks = self._tasks
  tasks[#tasks + 1] = task
  add_done_callback(task, self._on_done)
  if #tasks >= self._sweep_at then sweep(self) end
  return task
end

---Cancels the group's tasks and, if it still runs, its block. The group then
---ends without an error: the function form returns; a block with a `<close>`
---variable that is interrupted in a wait is left by the CancelledError, which Lua
---lets no `<close>` swallow.
---
---Python: `TaskGroup.cancel` of 3.15.
function TaskGroup:cancel()
  if self._state == "ended" or self._aborting then return end
  self._cancelled = true
  abort(self)
  if self._state == "open" then cancel_parent(self) end
end

local function wait_once(group)
  local waiter = create_future()
  group._waiter = waiter
  return pcall(await, waiter)
end

-- In force while a group waits at its end: a kill comes through there, and no
-- pcall stops it, but the tasks are not to be left alone.
local Vigil = {}

function Vigil:__close(err) -- luacheck: no unused args
  local group = self.group
  if group._live == 0 then return end
  abort(group)
  while group._live > 0 and can_wait() do wait_once(group) end
  if group._live > 0 then owned.hand_over(group._tasks) end
end

-- Waits for all tasks, whatever comes. Returns the cancellation that told the
-- group to end, if one did.
local function wait_for_tasks(group, cancellation)
  if group._live == 0 then return cancellation end
  local _ <close> = setmetatable({ group = group }, Vigil)
  while group._live > 0 do
    local ok, err = wait_once(group)
    if not ok then
      if not iscancel(err) then error(err, 0) end
      if not group._aborting then
        cancellation = err
        abort(group)
      end
    end
    group._waiter = nil
  end
  return cancellation
end

local function raise_errors(group)
  -- Cancelled from outside as well: have it raised at the next wait, with the
  -- count as it was.
  local parent = group._parent
  if parent:cancelling() > 0 then
    parent:uncancel()
    parent:cancel()
  end
  local err = errors.ExceptionGroup("unhandled errors in a TaskGroup", {
    exceptions = group._errors,
  })
  failed_tasks[err] = group._failed
  error(err)
end

function TaskGroup:__close(err)
  if self._state ~= "open" then return end
  self._state = "closing"
  if self._watch then unclosed.closed(self._watch) end
  local cancellation
  if iscancel(err) then cancellation = err end
  if err ~= nil and not self._aborting then abort(self) end
  if can_wait() then
    cancellation = wait_for_tasks(self, cancellation)
  elseif self._live > 0 then
    if not self._aborting then abort(self) end
    owned.hand_over(self._tasks)
  end
  self._state = "ended"
  -- A kill on its way out is not to be replaced by anything.
  if issentinel(err) then return end
  if self._parent_cancelled and self._parent:uncancel() == 0 then
    self._swallow = cancellation
    cancellation = nil
  end
  local failures = self._errors
  if cancellation ~= nil and #failures == 0 then
    if rawequal(cancellation, err) then return end
    error(cancellation, 0)
  end
  if err ~= nil and not iscancel(err) then failures[#failures + 1] = err end
  if #failures > 0 then raise_errors(self) end
end

local function run(group, fn, ...)
  local _ <close> = group
  return fn(group, ...)
end

local function settle(group, ok, ...)
  if ok then return ... end
  local err = ...
  -- Only what `cancel` of this very group has caused is swallowed.
  if group._cancelled and group._swallow ~= nil and rawequal(err, group._swallow) then return end
  error(err, 0)
end

local function enter(fn, ...)
  local group = new_group()
  return settle(group, pcall(run, group, fn, ...))
end

local task_group = {}

---The tasks that failed with the errors of a group that a TaskGroup has raised,
---by the places of the errors; or nil.
---@param err perilune.ExceptionGroup
---@return table<integer, perilune.Task>?
function task_group.failed_tasks(err)
  return failed_tasks[err]
end

---Makes a task group, which waits for its tasks at the end of the block:
---`local group <close> = peri.TaskGroup()`. Or, given a function, calls it with a
---group and the arguments, waits for the tasks, and returns what it returned.
---
---Raises, at the end, an ExceptionGroup of the errors of its tasks and, last,
---of the block itself, after the other tasks have been cancelled and have ended.
---
---Cancellation: cancels the tasks, waits for them, and goes on as CancelledError
---unless there are errors.
---
---Python: `asyncio.TaskGroup`.
---@param fn? fun(group: perilune.TaskGroup, ...: any): any
---@param ... any
---@return perilune.TaskGroup|any ...
---@async
function task_group.TaskGroup(fn, ...)
  if fn == nil and select("#", ...) == 0 then return new_group() end
  if not arguments.callable(fn) and not arguments.plain(fn) then
    arguments.wrong_type("TaskGroup", 1, "function or nil", fn)
  end
  return enter(arguments.call("TaskGroup", 1, fn, ...))
end

return task_group
