--- Running a program: a loop of its own, the main task, and an end in order.
local core = require "perilune._core"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local context = require "perilune.context"

local error, pcall, setmetatable = error, pcall, setmetatable
local RuntimeError = errors.RuntimeError

---Owns a loop and runs main tasks on it.
---@class perilune.Runner
local Runner = { __name = "Runner", __module = "perilune" }
Runner.__index = Runner

local runner_options <const> = {
  debug = true, clock = true, shutdown_grace = true, deadlock = true,
}

local function new_runner(options)
  arguments.options("Runner", 1, options, runner_options)
  options = options or {}
  arguments.seconds("Runner's shutdown_grace", 1, options.shutdown_grace, true)
  return setmetatable({
    _state = "new",
    _debug = options.debug,
    _clock = options.clock,
    _deadlock = options.deadlock,
    _grace = options.shutdown_grace,
  }, Runner)
end

local function open(runner)
  if runner._state == "open" then return end
  if runner._state == "closed" then error(RuntimeError "the Runner is closed") end
  local loop = core.new_event_loop()
  if runner._clock then core.set_clock(loop, runner._clock) end
  if runner._debug ~= nil then loop:set_debug(runner._debug) end
  if runner._deadlock ~= nil then core.set_deadlock(loop, runner._deadlock) end
  -- The runs share one context: what one sets the next one sees.
  runner._context = context.copy_context()
  runner._loop = loop
  core.set_event_loop(loop)
  runner._state = "open"
end

---The runner's loop.
---
---Raises RuntimeError if the runner is closed.
---@return perilune.Loop
function Runner:get_loop()
  open(self)
  return self._loop
end

---Runs a function, or a coroutine object, as the main task of the runner's
---loop until it has ended, and returns what it returns.
---
---Raises what it raises; RuntimeError inside a running loop, but for the
---script's top level; and DeadlockError, with all tasks cancelled, if nothing
---can happen any more.
---
---Python: `Runner.run`.
---@param main function|table|perilune.Coroutine the function, a call table or a coroutine object
---@param ... any its arguments
---@return any ...
---@async
function Runner:run(main, ...)
  if not core.iscoroutine(main) then return self:_run(arguments.call("run", 1, main, ...)) end
  return self:_run(core.await, main)
end

-- A call that the loop refuses to run was not forgotten by the script.
local function run_call(loop, coro)
  local _ <close> = coro
  return loop:run_until_complete(coro)
end

function Runner:_run(fn, ...)
  open(self)
  return run_call(self._loop, core.call(self._context.run, self._context, fn, ...))
end

-- Ending ----------------------------------------------------------------------

-- What has ended well or by a cancellation is as it should be.
local function report(loop, task)
  if task:cancelled() then return end
  local err = task:exception()
  if err == nil then return end
  loop:call_exception_handler {
    message = "unhandled error during the shutdown of run()",
    exception = err,
    task = task,
    source_traceback = core.source_traceback(task),
  }
end

-- Kills what a cancellation has not ended in time. The grace is real time: the
-- runner's clock may be one that nobody advances any more.
local function kill_late(tasks, grace)
  local _ <close> = core.use_clock(core.Clock_new { kind = "real" })
  local _, pending = require "perilune.tasks".wait(tasks, { timeout = grace })
  if #pending == 0 then return end
  local names = {}
  for i, task in ipairs(pending) do
    names[i] = task:get_name()
    task:kill()
  end
  require "perilune.log".warning("killed after %g s of grace: %s", grace,
    table.concat(names, ", "))
end

-- Cancels the other tasks of a loop. Returns them, and the gather of them, which
-- is made before any of them runs on: their callbacks stand before its own then,
-- and what they do is done before their errors are told.
local function cancel_leftovers(loop)
  local tasks, current = {}, core.current_task()
  for _, task in ipairs(core.all_tasks(loop)) do
    if task ~= current then
      tasks[#tasks + 1] = task
      -- Gathers that are nested without reason cannot be cancelled.
      if not pcall(task.cancel, task) then task:kill() end
    end
  end
  return tasks, #tasks > 0 and core.gather(tasks, #tasks, true) or nil
end

-- Runs in a task of the loop, as what follows does.
local function await_end(loop, grace, tasks, gather)
  if not gather then return end
  if grace then kill_late(tasks, grace) end
  gather:await()
  for _, task in ipairs(tasks) do report(loop, task) end
end

local function conclude(loop, grace, tasks, gather)
  await_end(loop, grace, tasks, gather)
  if loop.shutdown_default_executor then loop:shutdown_default_executor() end
end

-- Whatever comes, the loop is closed.
local Ending = {}

function Ending:__close(err) -- luacheck: no unused args
  core.set_event_loop(nil)
  self.loop:close()
end

---Cancels the tasks that still run and waits for them, then closes the default
---executor and the loop. With `shutdown_grace` a task that has not ended so
---many seconds later is killed, and named in the log.
---
---Python: `Runner.close`.
---@async
function Runner:close()
  if self._state ~= "open" then
    self._state = "closed"
    return
  end
  local loop = self._loop
  local _ <close> = setmetatable({ loop = loop }, Ending)
  self._state = "closed"
  local tasks, gather = cancel_leftovers(loop)
  if gather or loop.shutdown_default_executor then
    run_call(loop, core.call(conclude, loop, self._grace, tasks, gather))
  end
end

function Runner:__close(err) -- luacheck: no unused args
  self:close()
end

local runner = {}

---Ends what the main task of a host left behind; C starts it as a task.
---@param loop perilune.Loop
function runner.finish(loop)
  conclude(loop, nil, cancel_leftovers(loop))
end

---Cancels all other tasks of a loop and waits for them, in a task of the loop.
---@param loop perilune.Loop
---@async
function runner.end_tasks(loop)
  await_end(loop, nil, cancel_leftovers(loop))
end

---@class perilune.RunnerOptions
---@field debug? boolean debug mode
---@field clock? perilune.Clock the clock of the loop and its tasks
---@field shutdown_grace? number seconds; tasks that take longer at the end are killed
---@field deadlock? boolean whether a run that would block for ever raises
---DeadlockError: in the program and the module of stock Lua unless it is false,
---in a host if that asked for it

---Makes a runner; its loop is made when it is first needed.
---
---Python: `asyncio.Runner`; `clock`, `shutdown_grace` and `deadlock` are ours.
---@param options? perilune.RunnerOptions
---@return perilune.Runner
runner.Runner = new_runner

---Runs a function, or a coroutine object, as the main task of a fresh loop, and
---returns what it returns. What still runs then is cancelled and waited for.
---
---Raises what it raises; RuntimeError inside a running loop, but for the
---script's top level; and DeadlockError if nothing can happen any more.
---
---Python: `asyncio.run`.
---@param main function|table|perilune.Coroutine the function, a call table or a coroutine object
---@param ... any its arguments
---@return any ...
---@async
function runner.run(main, ...)
  local owner <close> = new_runner()
  return owner:run(main, ...)
end

return runner
