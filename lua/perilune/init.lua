--- Perilune: asyncio's tasks, futures and scopes, told in Lua.
--
-- This file only says where each name lives. A module is loaded when one of its
-- names is first used, so that a script pays for what it uses.
local core = require "perilune._core"

local pairs, rawset, require = pairs, rawset, require

-- What C defines is at hand.
---@class perilune
local peri = {
  Clock = core.Clock_new,
  Future = core.create_future,
  Task = core.Task_new,
  all_tasks = core.all_tasks,
  await = core.await,
  call = core.call,
  create_task = core.create_task,
  current_task = core.current_task,
  ensure_future = core.ensure_future,
  get_event_loop = core.get_event_loop,
  get_running_loop = core.get_running_loop,
  iscancel = core.iscancel,
  iscoroutine = core.iscoroutine,
  isfuture = core.isfuture,
  new_event_loop = core.new_event_loop,
  pcall = core.pcall,
  set_event_loop = core.set_event_loop,
  sleep = core.sleep,
  spawn = core.spawn,
  use_clock = core.use_clock,
  xpcall = core.xpcall,
}

-- The others, by the module that has them.
local homes <const> = {
  ALL_COMPLETED = "tasks",
  Barrier = "locks",
  BaseError = "errors",
  BoundedSemaphore = "locks",
  BrokenBarrierError = "errors",
  BrokenExecutor = "errors",
  BrokenProcessPool = "errors",
  BrokenThreadPool = "errors",
  CancelledError = "errors",
  Condition = "locks",
  ContextVar = "context",
  DeadlockError = "errors",
  EOFError = "errors",
  Error = "errors",
  Event = "locks",
  ExceptionGroup = "errors",
  FIRST_COMPLETED = "tasks",
  FIRST_EXCEPTION = "tasks",
  IncompleteReadError = "errors",
  IndexError = "errors",
  InvalidStateError = "errors",
  LifoQueue = "queues",
  LimitOverrunError = "errors",
  Lock = "locks",
  LookupError = "errors",
  NotImplementedError = "errors",
  OSError = "errors",
  PriorityQueue = "queues",
  Queue = "queues",
  QueueEmpty = "errors",
  QueueFull = "errors",
  QueueShutDown = "errors",
  Runner = "runner",
  RuntimeError = "errors",
  Semaphore = "locks",
  TaskGroup = "task_group",
  TimeoutError = "errors",
  TypeError = "errors",
  ValueError = "errors",
  all = "tasks",
  as_completed = "combinators",
  async = "coroutines",
  copy_context = "context",
  defer = "defer",
  eager_task_factory = "tasks",
  gather = "tasks",
  iscoroutinefunction = "coroutines",
  map = "combinators",
  move_on_after = "timeouts",
  print_tasks = "inspect",
  race = "combinators",
  ref = "handles",
  run = "runner",
  run_coroutine_threadsafe = "tasks",
  shield = "tasks",
  tasks = "inspect",
  timeout = "timeouts",
  timeout_at = "timeouts",
  to_thread = "tasks",
  wait = "tasks",
  wait_for = "tasks",
}

-- Pools are loaded when a loop is first asked for one; they then put their own
-- methods in place of these.
for _, name in ipairs { "run_in_executor", "set_default_executor" } do
  core.Loop[name] = function(loop, ...)
    return require "perilune.futures"[name](loop, ...)
  end
end

-- C knows the context of a task as a value, the module what it means.
function core.Task.get_context(task)
  return require "perilune.context".of(task)
end

local function fetch(_, name)
  local home = homes[name]
  if not home then return nil end
  local value = require("perilune." .. home)[name]
  rawset(peri, name, value)
  return value
end

local function list_all()
  for name in pairs(homes) do fetch(peri, name) end
  return next, peri, nil
end

return setmetatable(peri, { __index = fetch, __pairs = list_all })
