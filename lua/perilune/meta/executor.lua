---@meta

---What runs jobs in workers, each of which has a Lua state of its own.
---
---Python: `concurrent.futures.Executor`.
---@class perilune.Executor
local Executor = {}

---An executor whose workers are threads.
---@class perilune.ThreadPoolExecutor: perilune.Executor

---An executor whose workers are processes.
---@class perilune.ProcessPoolExecutor: perilune.Executor

---Has a worker call a function, and returns the future of what that returns or
---raises. In a worker of its own Lua state the function, its upvalues and its
---arguments are copies.
---
---Waits only if the executor has `max_queued` and so many jobs are queued.
---
---Raises TypeError, naming the place, if something cannot be sent; RuntimeError
---once the executor is shut down; BrokenThreadPool if its initializer has failed.
---
---A call table may have `retries`: how often a job is tried again whose worker
---process has died. Threads do not die; for them it says nothing.
---
---Cancellation: of the wait submits nothing.
---
---Python: `Executor.submit`.
---@param fn function|table the function, or a call table
---@param ... any its arguments
---@return perilune.JobFuture
---@async
function Executor:submit(fn, ...) end
