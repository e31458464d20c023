---@meta

---The result of a job to come, or of `run_coroutine_threadsafe`. It belongs to no loop: tasks of any loop await it,
---as do `gather`, `wait` and their like; `result` and `exception` wait in a task,
---and outside of loops block the thread.
---
---Python: `concurrent.futures.Future`.
---@class perilune.JobFuture: perilune.Awaitable
local JobFuture = {}

---Waits until the job has ended and returns its values.
---
---Raises the job's error, and CancelledError if it was cancelled.
---
---Cancellation: a job that has not begun is cancelled; one that runs goes on.
---
---Python: `await asyncio.wrap_future(future)`.
---@return any ...
---@async
function JobFuture:await() end

---Waits until the job has ended and returns its values.
---
---Raises the job's error, CancelledError if it was cancelled, TimeoutError if it
---has not ended in time.
---
---Cancellation: the job is not touched.
---
---Python: `Future.result`.
---@param timeout? number seconds; 0 or less: only if it is done
---@return any ...
---@async
function JobFuture:result(timeout) end

---Waits until the job has ended and returns its error, the same object each
---time, or nil.
---
---Raises CancelledError if it was cancelled, TimeoutError if it has not ended in
---time.
---
---Cancellation: the job is not touched.
---
---Python: `Future.exception`.
---@param timeout? number seconds; 0 or less: only if it is done
---@return any
---@async
function JobFuture:exception(timeout) end

---Cancels the job unless a worker has begun it or it has ended. Its callbacks are
---called here and now.
---
---With `running`, a job that runs is interrupted: an error that `pcall` does not
---catch ends it where it waits or, if a signal may be used for that, wherever its
---Lua code runs; its `<close>` variables are closed. The future ends as cancelled
---when the worker tells, or as the job did if it ended before. A process whose job
---has not stopped within `grace` seconds (default 1) is killed; a thread cannot be.
---
---Raises ValueError for a `grace` that is no number of seconds.
---
---Python: `Future.cancel`; `running` and `grace` are ours.
---@param options? { running: boolean?, grace: number? } grace: seconds
---@return boolean cancelled whether it is cancelled now, or was asked to end
function JobFuture:cancel(options) end

---Tells whether the job was cancelled.
---@return boolean
function JobFuture:cancelled() end

---Tells whether a worker has begun the job and its end has not come yet.
---
---Python: `Future.running`.
---@return boolean
function JobFuture:running() end

---Tells whether the job has ended or was cancelled.
---@return boolean
function JobFuture:done() end

---Has `fn(future)` called when the job has ended, where its end is seen, or here
---and now if it has. Callbacks are called in the order in which they were added,
---on this thread; what they raise is logged. They cannot wait.
---
---Python: `Future.add_done_callback`; the context is copied, as in asyncio.
---@param fn fun(future: perilune.JobFuture)
---@param options? { context: perilune.Context? }
function JobFuture:add_done_callback(fn, options) end

---Where the error of a failed job came from, as text; nil for others.
---@return string?
function JobFuture:traceback() end
