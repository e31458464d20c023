---@meta

---A result to come. Of a plain future whoever made it sets the result; tasks and
---gathers set their own.
---
---Python: `asyncio.Future`.
---@class perilune.Future: perilune.Awaitable
local Future = {}

---Waits until the future is done and returns its values. Of a future that is
---done it does not go back to the loop.
---
---Raises the future's error; CancelledError if it was cancelled; RuntimeError
---where nothing can wait.
---
---Cancellation: is passed on to the future; if that is a task, the wait goes on
---until the task has ended.
---
---Python: `await future`.
---@return any ...
---@async
function Future:await() end

---The values of a future that is done.
---
---Raises its error, CancelledError if it was cancelled, and InvalidStateError if
---it is not done.
---
---Python: `Future.result`.
---@return any ...
function Future:result() end

---The error of a future that has failed; nil if it has not.
---
---Raises CancelledError if it was cancelled, and InvalidStateError if it is not
---done.
---
---Python: `Future.exception`.
---@return any
function Future:exception() end

---Tells whether the future has a result or an error, or was cancelled.
---@return boolean
function Future:done() end

---Tells whether the future was cancelled.
---@return boolean
function Future:cancelled() end

---Cancels the future, and schedules its callbacks.
---
---Python: `Future.cancel`.
---@param message? any the message of the CancelledError
---@return boolean asked false if it was done already
function Future:cancel(message) end

---Has a function called, in a later trip round the loop, once the future is
---done. It runs in a copy of the current context or in the one given, and is no
---task: it cannot wait.
---
---Python: `Future.add_done_callback`.
---@param fn fun(future: perilune.Future)
---@param options? { context: perilune.Context? }
function Future:add_done_callback(fn, options) end

---Takes a callback back.
---
---Python: `Future.remove_done_callback`.
---@param fn fun(future: perilune.Future)
---@return integer count how many there were
function Future:remove_done_callback(fn) end

---Makes the future done, with any number of values.
---
---Raises InvalidStateError if it is done, RuntimeError for tasks and gathers.
---
---Python: `Future.set_result`.
---@param ... any
function Future:set_result(...) end

---Makes the future fail.
---
---Raises InvalidStateError if it is done, RuntimeError for tasks and gathers,
---and TypeError for nil.
---
---Python: `Future.set_exception`.
---@param err any
function Future:set_exception(err) end

---The loop that the future belongs to.
---@return perilune.Loop
function Future:get_loop() end

---The stacks that the error of a failed future has passed, innermost first.
---@return string? text nil if it has not failed
function Future:traceback() end

---The future of a gather: it is done when all that was gathered is, or with the
---first error. To cancel it cancels them.
---
---Python: the future that `asyncio.gather` returns.
---@class perilune.Gather: perilune.Future
local Gather = {}

---What may be awaited: futures, tasks, gathers, coroutine objects, and objects
---whose metatable has a function `__await(self)`, which waits and returns values.
---@class perilune.Awaitable
