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
require "perilune.owned"
local unclosed = require "perilune.unclosed"

local error, pcall, rawequal, select, setmetatable =
  error, pcall, rawequal, select, setmetatable
local current_task, get_running_loop = core.current_task, core.get_running_loop
local iscancel, iscoroutine, issentinel = core.iscancel, core.iscoroutine, core.issentinel
local new_crew, room, add, live = core.crew, core.crew_room, core.crew_add, core.crew_live
local cancel_all = core.crew_cancel
local RuntimeError = errors.RuntimeError

---A group of tasks that end before its block does.
---@class perilune.TaskGroup
local TaskGroup = { __name = "TaskGroup", __module = "perilune" }
TaskGroup.__index = TaskGroup

-- Error group to the tasks that failed, in the order of its errors: where an
-- error that is just a string came from, its task can still tell.
local failed_tasks = setmetatable({}, { __mode = "k" })

local function abort(group)
  group._aborting = true
  cancel_all(group._crew)
end

local function cancel_parent(group)
  group._parent_cancelled = true
  group._parent:cancel()
end

-- What happens when a task fails (crew.c) and when the group ends (scope.c) is C,
-- which knows these fields.
local function new_group()
  local loop, parent = get_running_loop(), current_task()
  if not parent then
    error(RuntimeError "TaskGroup: a task group needs a task around it")
  end
  local group = setmetatable({
    _loop = loop,
    _parent = parent,
    _crew = false,
    _closing = false,
    _ended = false,
    _aborting = false,
    _parent_cancelled = false,
    _cancelled = false,
    _swallow = false,
    _watch = unclosed.watch "task group",
  }, TaskGroup)
  group._crew = new_crew("end of TaskGroup", group)
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
  local crew = self._crew
  if self._ended or self._closing and live(crew) == 0 then
    refuse(fn, "the task group has ended")
  elseif self._aborting then
    refuse(fn, "the task group is shutting down")
  end
  room(crew)
  local task = self._loop:create_task(fn, ...)
  add(crew, task)
  return task
end

---Cancels the group's tasks and, if it still runs, its block. The group then
---ends without an error: the function form returns; a block with a `<close>`
---variable that is interrupted in a wait is left by the CancelledError, which Lua
---lets no `<close>` swallow.
---
---Python: `TaskGroup.cancel` of 3.15.
function TaskGroup:cancel()
  if self._ended or self._aborting then return end
  self._cancelled = true
  abort(self)
  if not self._closing then cancel_parent(self) end
end

local function raise_errors(group, failures, tasks)
  -- Cancelled from outside as well: have it raised at the next wait, with the
  -- count as it was.
  local parent = group._parent
  if parent:cancelling() > 0 then
    parent:uncancel()
    parent:cancel()
  end
  local err = errors.ExceptionGroup("unhandled errors in a TaskGroup", {
    exceptions = failures,
  })
  failed_tasks[err] = tasks
  error(err)
end

TaskGroup.__close = core.close_scope

-- All tasks have ended, whatever has come. `cancellation` is the one that told the
-- group to end, if one did; `left` how many there are of the parent since the
-- group has taken its own back, or -1 if it had none.
function core.finish_group(group, err, cancellation, left)
  if group._watch then unclosed.closed(group._watch) end
  -- A kill on its way out is not to be replaced by anything.
  if issentinel(err) then return end
  if cancellation == nil and iscancel(err) then cancellation = err end
  if left == 0 then
    group._swallow = cancellation
    cancellation = nil
  end
  local failures, tasks = core.crew_failures(group._crew)
  if cancellation ~= nil and #failures == 0 then
    if rawequal(cancellation, err) then return end
    error(cancellation, 0)
  end
  if err ~= nil and not iscancel(err) then failures[#failures + 1] = err end
  if #failures > 0 then raise_errors(group, failures, tasks) end
end

local function run(group, fn, ...)
  local _ <close> = group
  return fn(group, ...)
end

local function settle(group, ok, ...)
  if ok then return ... end
  local err = ...
  -- Only what `cancel` of this very group has caused is swallowed.
  if group._cancelled and group._swallow and rawequal(err, group._swallow) then return end
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
