---@meta

-- What `require "perilune"` gives. What is written in Lua is described where it
-- is defined; this is what C defines.

---@class perilune
local perilune = {}

---What is held by a `<close>` variable, and does its work when that goes out of
---scope.
---@class perilune.Closable

---Makes a task of a function, which starts in the next round of the running
---loop; or of a coroutine object, or of a call table `{fn, a, b, n=, name=,
---context=, eager=}`.
---
---Raises RuntimeError where no loop runs, TypeError for anything else:
---`create_task(peri.sleep(1))` has slept already.
---
---Python: `asyncio.create_task`, differs in that tasks are held until they end.
---@param fn function|table|perilune.Coroutine
---@param ... any its arguments
---@return perilune.Task
function perilune.create_task(fn, ...) end

---Makes a task that nobody holds: its error is reported at once.
---@param fn function|table|perilune.Coroutine
---@param ... any its arguments
function perilune.spawn(fn, ...) end

---@class perilune.TaskOptions
---@field target function|perilune.Coroutine
---@field args? any[]
---@field name? string
---@field context? perilune.Context the one to run in, itself; else a copy of the current one
---@field eager? boolean
---@field loop? perilune.Loop the running one if not given

---Makes a task: `Task { target = fn, args = { a, b }, name = "worker" }`. An eager
---one runs up to its first wait inside this call.
---
---Python: `asyncio.Task`.
---@param options perilune.TaskOptions
---@return perilune.Task
function perilune.Task(options) end

---The call of a function as a coroutine object, to be awaited or made a task.
---
---Python: `f(x)` of an `async def f`.
---@param fn function|table the function, or a call table
---@param ... any its arguments
---@return perilune.Coroutine
function perilune.call(fn, ...) end

---Awaits a future, a task, a coroutine object or an object with `__await`.
---
---Raises what it raises, and TypeError for what cannot be awaited.
---@param aw any
---@return any ...
---@async
function perilune.await(aw) end

---A future as it is; any other awaitable, or a function, as a task.
---
---Python: `asyncio.ensure_future`.
---@param aw any
---@param loop? perilune.Loop the running one if not given
---@return perilune.Future
function perilune.ensure_future(aw, loop) end

---Waits, then returns the other arguments. 0 or less is one trip round the loop.
---
---Raises TypeError and ValueError (NaN) for what is no time.
---
---Cancellation: ends the wait at once.
---
---Python: `asyncio.sleep`.
---@param delay number seconds on the task's clock
---@param ... any
---@return any ...
---@async
function perilune.sleep(delay, ...) end

---A future of the running loop, whose result is to be set.
---
---Python: `loop.create_future`.
---@return perilune.Future
function perilune.Future() end

---The task that runs, or nil in a callback and outside of loops.
---@return perilune.Task?
function perilune.current_task() end

---The tasks of a loop that have not ended, in the order of their creation.
---@param loop? perilune.Loop the running one if not given
---@return perilune.Task[]
function perilune.all_tasks(loop) end

---Tells whether a value is a coroutine object.
---@param value any
---@return boolean
function perilune.iscoroutine(value) end

---Tells whether a value is a future, a task or a gather.
---@param value any
---@return boolean
function perilune.isfuture(value) end

---Tells whether an error is a cancellation.
---@param err any
---@return boolean
function perilune.iscancel(err) end

---Lua's `pcall`, but for CancelledError, which it lets through.
---@param fn function
---@param ... any
---@return boolean ok
---@return any ...
---@async
function perilune.pcall(fn, ...) end

---Lua's `xpcall`, but for CancelledError, which it lets through.
---@param fn function
---@param handler fun(err: any): any
---@param ... any
---@return boolean ok
---@return any ...
---@async
function perilune.xpcall(fn, handler, ...) end

---The loop that runs.
---
---Raises RuntimeError if none does.
---@return perilune.Loop
function perilune.get_running_loop() end

---The loop that runs; or the one that was set; or a new one, which is then set.
---@return perilune.Loop
function perilune.get_event_loop() end

---A loop of one's own, to be closed in the end.
---@return perilune.Loop
function perilune.new_event_loop() end

---Sets what `get_event_loop` gives where no loop runs.
---@param loop perilune.Loop?
function perilune.set_event_loop(loop) end

---Makes a clock. A manual and a virtual one begin at 0.
---@param options? { kind: "real"|"manual"|"virtual"|nil, scale: number? }
---@return perilune.Clock
function perilune.Clock(options) end

---Makes a clock the one of the running task, and of the tasks that it creates,
---until the end of the block: `local _ <close> = peri.use_clock(clock)`.
---
---Raises RuntimeError outside of tasks.
---@param clock perilune.Clock
---@return perilune.Closable closable
function perilune.use_clock(clock) end

-- What Lua does.

perilune.ALL_COMPLETED = require "perilune.tasks".ALL_COMPLETED
perilune.Barrier = require "perilune.locks".Barrier
perilune.BaseError = require "perilune.errors".BaseError
perilune.BoundedSemaphore = require "perilune.locks".BoundedSemaphore
perilune.BrokenBarrierError = require "perilune.errors".BrokenBarrierError
perilune.BrokenExecutor = require "perilune.errors".BrokenExecutor
perilune.BrokenProcessPool = require "perilune.errors".BrokenProcessPool
perilune.BrokenThreadPool = require "perilune.errors".BrokenThreadPool
perilune.CancelledError = require "perilune.errors".CancelledError
perilune.Condition = require "perilune.locks".Condition
perilune.ContextVar = require "perilune.context".ContextVar
perilune.DeadlockError = require "perilune.errors".DeadlockError
perilune.EOFError = require "perilune.errors".EOFError
perilune.Error = require "perilune.errors".Error
perilune.Event = require "perilune.locks".Event
perilune.ExceptionGroup = require "perilune.errors".ExceptionGroup
perilune.FIRST_COMPLETED = require "perilune.tasks".FIRST_COMPLETED
perilune.FIRST_EXCEPTION = require "perilune.tasks".FIRST_EXCEPTION
perilune.IncompleteReadError = require "perilune.errors".IncompleteReadError
perilune.IndexError = require "perilune.errors".IndexError
perilune.InvalidStateError = require "perilune.errors".InvalidStateError
perilune.LifoQueue = require "perilune.queues".LifoQueue
perilune.LimitOverrunError = require "perilune.errors".LimitOverrunError
perilune.Lock = require "perilune.locks".Lock
perilune.LookupError = require "perilune.errors".LookupError
perilune.NotImplementedError = require "perilune.errors".NotImplementedError
perilune.OSError = require "perilune.errors".OSError
perilune.PriorityQueue = require "perilune.queues".PriorityQueue
perilune.Queue = require "perilune.queues".Queue
perilune.QueueEmpty = require "perilune.errors".QueueEmpty
perilune.QueueFull = require "perilune.errors".QueueFull
perilune.QueueShutDown = require "perilune.errors".QueueShutDown
perilune.Runner = require "perilune.runner".Runner
perilune.RuntimeError = require "perilune.errors".RuntimeError
perilune.Semaphore = require "perilune.locks".Semaphore
perilune.TaskGroup = require "perilune.task_group".TaskGroup
perilune.TimeoutError = require "perilune.errors".TimeoutError
perilune.TypeError = require "perilune.errors".TypeError
perilune.ValueError = require "perilune.errors".ValueError
perilune.all = require "perilune.tasks".all
perilune.as_completed = require "perilune.combinators".as_completed
perilune.async = require "perilune.coroutines".async
perilune.copy_context = require "perilune.context".copy_context
perilune.defer = require "perilune.defer".defer
perilune.eager_task_factory = require "perilune.tasks".eager_task_factory
perilune.gather = require "perilune.tasks".gather
perilune.iscoroutinefunction = require "perilune.coroutines".iscoroutinefunction
perilune.map = require "perilune.combinators".map
perilune.move_on_after = require "perilune.timeouts".move_on_after
perilune.print_tasks = require "perilune.inspect".print_tasks
perilune.race = require "perilune.combinators".race
perilune.run = require "perilune.runner".run
perilune.ref = require "perilune.handles".ref
perilune.run_coroutine_threadsafe = require "perilune.tasks".run_coroutine_threadsafe
perilune.shield = require "perilune.tasks".shield
perilune.tasks = require "perilune.inspect".tasks
perilune.timeout = require "perilune.timeouts".timeout
perilune.timeout_at = require "perilune.timeouts".timeout_at
perilune.to_thread = require "perilune.tasks".to_thread
perilune.wait = require "perilune.tasks".wait
perilune.wait_for = require "perilune.tasks".wait_for

return perilune
