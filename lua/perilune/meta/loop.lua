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

---Runs the loop until `stop`.
---
---Python: `loop.run_forever`.
---@async
function Loop:run_forever() end

---Ends the run after the present round, or the next run after one.
function Loop:stop() end

---Closes the loop: what is queued is dropped, and errors that nobody has
---retrieved are reported. Closing it again does nothing.
---
---Raises RuntimeError while it runs.
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

---Has a function called in the next round, in the context of this call.
---
---Raises RuntimeError if the loop is closed; in debug mode also if another thread
---calls than the one on which the loop runs.
---@param fn function
---@param ... any its arguments
---@return perilune.Handle
function Loop:call_soon(fn, ...) end

---Has a function called after a time on the current clock.
---@param delay number seconds
---@param fn function
---@param ... any its arguments
---@return perilune.Handle
function Loop:call_later(delay, fn, ...) end

---Has a function called at a time of the current clock.
---@param when number seconds, as `time` tells them
---@param fn function
---@param ... any its arguments
---@return perilune.Handle
function Loop:call_at(when, fn, ...) end

---`call_soon` that wakes the loop if it waits for the kernel.
---@param fn function
---@param ... any its arguments
---@return perilune.Handle
function Loop:call_soon_threadsafe(fn, ...) end

---A future of this loop.
---@return perilune.Future
function Loop:create_future() end

---Makes a task of this loop. See `perilune.create_task`.
---@param fn function|table|perilune.Coroutine
---@param ... any its arguments
---@return perilune.Task
function Loop:create_task(fn, ...) end

---Sets what makes the loop's tasks: `factory(loop, coro, opts)` returns a task
---of the coroutine object; opts has `name`, `context` and `eager`. nil: the loop
---itself makes them.
---@param factory? fun(loop: perilune.Loop, coro: perilune.Coroutine, opts: table): perilune.Task
function Loop:set_task_factory(factory) end

---@return (fun(loop: perilune.Loop, coro: perilune.Coroutine, opts: table): perilune.Task)?
function Loop:get_task_factory() end

---Sets what is called with errors that have nobody to go to. nil: they are
---logged.
---@param handler? fun(loop: perilune.Loop, context: table)
function Loop:set_exception_handler(handler) end

---@return fun(loop: perilune.Loop, context: table)?
function Loop:get_exception_handler() end

---Reports an error: `message`, and if need be `exception`, `future`, `task` and
---whatever else helps. The runtime's own reports have in debug mode, as
---`source_traceback`, the stack that made what they are about.
---@param context table
function Loop:call_exception_handler(context) end

---What is done with a report if no handler was set: it is logged.
---@param context table
function Loop:default_exception_handler(context) end

---Has a function called when the process gets a signal.
---@param name string "SIGTERM", ...
---@param fn function
---@param ... any its arguments
function Loop:add_signal_handler(name, fn, ...) end

---@param name string
---@return boolean removed false if there was none
function Loop:remove_signal_handler(name) end

---Has a function called whenever a descriptor can be read.
---@param fd integer
---@param fn function
---@param ... any its arguments
function Loop:add_reader(fd, fn, ...) end

---@param fd integer
---@return boolean removed false if there was none
function Loop:remove_reader(fd) end

---Has a function called whenever a descriptor can be written.
---@param fd integer
---@param fn function
---@param ... any its arguments
function Loop:add_writer(fd, fn, ...) end

---@param fd integer
---@return boolean removed false if there was none
function Loop:remove_writer(fd) end

---Turns debug mode on or off, for what is made from now on. It is on at first if
---the program or the host said so (`--debug`, PERILUNE_DEBUG=1).
---
---It logs what was never awaited or closed, slow callbacks and steps, swallowed
---cancellations and, at level DEBUG, how long each poll took; shows where tasks
---were made; and makes calls from other threads RuntimeErrors.
---
---Python: `loop.set_debug`.
---@param on boolean
function Loop:set_debug(on) end

---Tells whether debug mode is on.
---@return boolean
function Loop:get_debug() end

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
