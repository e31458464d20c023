---@meta

---An event loop: runs callbacks and the steps of tasks, first in first out, and
---waits for timers and the kernel when there are none.
---
---Python: `asyncio.AbstractEventLoop`.
---@class perilune.Loop
---@field slow_callback_duration number seconds; what takes longer is reported in debug mode
local Loop = {}

---Runs the loop until something awaitable has ended, and returns its values.
---At a script's top level this is a wait of the script; the script's own loop is
---parked meanwhile.
---
---Raises what is awaited raises; RuntimeError inside another run, if the loop is
---closed or running, and if `stop` ended the run; DeadlockError if nothing can
---happen any more.
---
---Python: `loop.run_until_complete`.
---@param aw any an awaitable, or a function that stands for a call of it
---@return any ...
---@async
function Loop:run_until_complete(aw) end

---Runs the loop until `stop`. At a script's top level this is a wait of the
---script.
---
---Raises RuntimeError inside another run, and if the loop is closed or running.
---
---Python: `loop.run_forever`.
---@async
function Loop:run_forever() end

---Ends the run after the present round, or the next run after one.
---
---Python: `loop.stop`.
function Loop:stop() end

---Closes the loop: what is queued is dropped, and errors that nobody has
---retrieved are reported. Closing it again does nothing. Jobs of executors are
---done all the same; the loop's own futures of them stay pending.
---
---Raises RuntimeError while it runs.
---
---Python: `loop.close`.
function Loop:close() end

---Tells whether the loop runs now.
---@return boolean
function Loop:is_running() end

---Tells whether the loop is closed.
---@return boolean
function Loop:is_closed() end

---The time on the clock of the calling task, or outside of tasks on the loop's.
---@return number seconds since some point in the past
function Loop:time() end

---Has a function called in the next round, in a copy of the current context, or
---in the one that a call table names: `loop:call_soon { fn, a, context = ctx }`.
---
---Raises RuntimeError if the loop is closed, or in debug mode if another thread
---calls; TypeError for what is no function.
---
---Python: `loop.call_soon`.
---@param fn function|table the function, or a call table
---@param ... any its arguments
---@return perilune.Handle
function Loop:call_soon(fn, ...) end

---Has a function called after a time on the current clock: that of the calling
---task, or outside of tasks the loop's. The context is that of this call.
---
---Raises RuntimeError if the loop is closed, TypeError and ValueError (NaN) for
---what is no time.
---
---Python: `loop.call_later`.
---@param delay number seconds
---@param fn function|table the function, or a call table
---@param ... any its arguments
---@return perilune.Handle
function Loop:call_later(delay, fn, ...) end

---Has a function called at a time of the current clock. See `call_later`.
---
---Python: `loop.call_at`.
---@param when number seconds, as `time` tells them
---@param fn function|table the function, or a call table
---@param ... any its arguments
---@return perilune.Handle
function Loop:call_at(when, fn, ...) end

---`call_soon` that wakes the loop if it waits for the kernel.
---
---Python: `loop.call_soon_threadsafe`.
---@param fn function|table the function, or a call table
---@param ... any its arguments
---@return perilune.Handle
function Loop:call_soon_threadsafe(fn, ...) end

---A future of this loop.
---
---Python: `loop.create_future`.
---@return perilune.Future
function Loop:create_future() end

---Makes a task of this loop. See `perilune.create_task`.
---
---Raises RuntimeError if the loop is closed, TypeError for what is no function.
---
---Python: `loop.create_task`.
---@param fn function|table|perilune.Coroutine
---@param ... any its arguments
---@return perilune.Task
function Loop:create_task(fn, ...) end

---Sets what makes the loop's tasks: `factory(loop, coro, opts)` returns a task
---of the coroutine object; opts has `name`, `context` and `eager`. nil: the loop
---itself makes them.
---
---Raises TypeError for what is neither a function nor nil.
---
---Python: `loop.set_task_factory`.
---@param factory? fun(loop: perilune.Loop, coro: perilune.Coroutine, opts: table): perilune.Task
function Loop:set_task_factory(factory) end

---What makes the loop's tasks.
---
---Python: `loop.get_task_factory`.
---@return (fun(loop: perilune.Loop, coro: perilune.Coroutine, opts: table): perilune.Task)?
function Loop:get_task_factory() end

---Sets what is called with errors that have nobody to go to. nil: they are
---logged. What the handler itself raises is logged as well.
---
---Raises TypeError for what is neither a function nor nil.
---
---Python: `loop.set_exception_handler`.
---@param handler? fun(loop: perilune.Loop, context: table)
function Loop:set_exception_handler(handler) end

---What `set_exception_handler` has set.
---
---Python: `loop.get_exception_handler`.
---@return (fun(loop: perilune.Loop, context: table))?
function Loop:get_exception_handler() end

---Reports an error: `message`, and if need be `exception`, `future`, `task` and
---whatever else helps. The runtime's own reports have in debug mode, as
---`source_traceback`, the stack that made what they are about.
---
---Raises TypeError for what is no table.
---
---Python: `loop.call_exception_handler`.
---@param context table
function Loop:call_exception_handler(context) end

---What is done with a report if no handler was set: it is logged.
---
---Python: `loop.default_exception_handler`.
---@param context table
function Loop:default_exception_handler(context) end

---Has a function called when the process gets a signal. It takes the place of one
---that was set before for the signal, and is no task: it cannot wait.
---
---Raises RuntimeError if the loop is closed, ValueError for what is no signal that
---can be handled, OSError if the system refuses.
---
---Python: `loop.add_signal_handler`.
---@param name string|integer "SIGTERM", ..., or a number
---@param fn function|table the function, or a call table
---@param ... any its arguments
function Loop:add_signal_handler(name, fn, ...) end

---Gives a signal back to what the process did with it before.
---
---Raises ValueError for what is no signal that can be handled.
---
---Python: `loop.remove_signal_handler`.
---@param name string|integer
---@return boolean removed false if there was none
function Loop:remove_signal_handler(name) end

---Has a function called whenever a descriptor can be read. It takes the place of
---one that was set before, and is no task: it cannot wait. It runs in a copy of the
---current context, or in the one that a call table names.
---
---Raises RuntimeError if the loop is closed, TypeError and ValueError for what is
---no descriptor, OSError if the system refuses.
---
---Python: `loop.add_reader`.
---@param fd integer|file* a descriptor or an open file
---@param fn function|table the function, or a call table
---@param ... any its arguments
function Loop:add_reader(fd, fn, ...) end

---Has nothing called any more when a descriptor can be read.
---
---Python: `loop.remove_reader`.
---@param fd integer|file*
---@return boolean removed false if there was none
function Loop:remove_reader(fd) end

---Has a function called whenever a descriptor can be written. See `add_reader`.
---
---Python: `loop.add_writer`.
---@param fd integer|file* a descriptor or an open file
---@param fn function|table the function, or a call table
---@param ... any its arguments
function Loop:add_writer(fd, fn, ...) end

---Has nothing called any more when a descriptor can be written.
---
---Python: `loop.remove_writer`.
---@param fd integer|file*
---@return boolean removed false if there was none
function Loop:remove_writer(fd) end

---Makes a task of a function on this loop, from anywhere: the loop starts it when
---it next runs.
---
---What it returns may be awaited in any loop; `result` and `exception` wait, too.
---Cancelling it cancels the task.
---
---Python: `asyncio.run_coroutine_threadsafe`.
---@param fn function|table|perilune.Coroutine
---@param ... any its arguments
---@return perilune.JobFuture
function Loop:run_coroutine_threadsafe(fn, ...) end

-- What the pools add; see perilune.futures.

---Has a worker thread of an executor call a function, and returns a future of the
---loop with what it returns or raises.
---
---Raises RuntimeError if the loop is closed or its default executor was shut
---down, and what `submit` raises.
---
---Cancellation of the future: a job that has not begun is withdrawn; one that runs
---goes on, its result is dropped. If the loop closes before the job has ended, the
---future stays pending for good.
---
---Python: `loop.run_in_executor`.
---@param executor perilune.ThreadPoolExecutor? nil: the loop's default one
---@param fn function|table the function, or a call table
---@param ... any its arguments
---@return perilune.Future
function Loop:run_in_executor(executor, fn, ...) end

---Sets the executor for jobs without one. Shutting it down is then the loop's
---business.
---
---Raises TypeError for what is no executor.
---
---Python: `loop.set_default_executor`.
---@param executor perilune.ThreadPoolExecutor
function Loop:set_default_executor(executor) end

---Shuts the default executor down and waits for its threads; after the timeout,
---which is logged, without waiting any longer. The loop has no default executor
---any more. There is such a method once a loop was asked for an executor.
---
---Python: `loop.shutdown_default_executor`.
---@param timeout? number seconds
---@async
function Loop:shutdown_default_executor(timeout) end

---Turns debug mode on or off.
---
---Python: `loop.set_debug`.
---@param on boolean
function Loop:set_debug(on) end

---Tells whether debug mode is on.
---
---Python: `loop.get_debug`.
---@return boolean
function Loop:get_debug() end

---Has `peri.tasks` tell the age, the steps and the CPU time of the loop's tasks.
---A step costs about a microsecond more then; debug mode has it on. Tasks that
---are there already count from now on, and have no age.
---@param on boolean
function Loop:set_accounting(on) end

---Tells whether the accounts are kept, be it in debug mode.
---@return boolean
function Loop:get_accounting() end

---A call that is to come.
---
---Python: `asyncio.Handle`, `asyncio.TimerHandle`.
---@class perilune.Handle
local Handle = {}

---Takes the call back. Nothing happens if it has been made.
function Handle:cancel() end

---Tells whether `cancel` was called.
---@return boolean
function Handle:cancelled() end

---The time of a call_later or call_at.
---@return number? seconds on the clock of its timer; nil for call_soon
function Handle:when() end
