---@meta

---A function that runs beside others, by turns. A task is a future of what its
---function returns.
---
---Python: `asyncio.Task`.
---@class perilune.Task: perilune.Future
local Task = {}

---Asks the task to end: CancelledError is raised at its wait, in a later trip
---round the loop. It may clean up, and wait for that; if it swallows the error
---it goes on.
---
---Python: `Task.cancel`; `grace` is ours.
---@param message? any the message of the CancelledError
---@param options? { grace: number? } grace: seconds after which a task that has not ended is killed
---@return boolean asked false if it was done already
function Task:cancel(message, options) end

---How many cancellations were asked for and not taken back.
---
---Python: `Task.cancelling`.
---@return integer
function Task:cancelling() end

---Takes one cancellation back. Down to none, one that was not raised yet is not
---raised at all.
---
---Python: `Task.uncancel`.
---@return integer left
function Task:uncancel() end

---Ends the task by an error that no `pcall` catches. Its `<close>` variables are
---closed, innermost first, and may wait, but for those in coroutines of its own;
---after the grace it is closed where it stands.
---@param grace? number seconds, 1 if not given
---@return boolean asked false if it was done already
function Task:kill(grace) end

---The task's name: "Task-7" and the like, unless it was given one.
---@return string
function Task:get_name() end

---Names the task.
---@param name any told as a string
function Task:set_name(name) end

---The context that the task runs in, itself.
---
---Python: `Task.get_context`.
---@return perilune.Context
function Task:get_context() end

---Where the task stands, its innermost coroutine first; or the stacks that its
---error has passed, if it failed.
---@return string?
function Task:traceback() end

---Writes the task and its `traceback` to stderr.
---
---Python: `Task.print_stack`.
function Task:print_stack() end
