--- What scopes own and cannot wait for. Private to the library.
--
-- A scope in a coroutine of the script's that dies cannot wait for its tasks:
-- it cancels them and gives them to the task, which waits for them before it
-- ends. C calls `core.hand_over` for the scope, keeps the list, and calls
-- `core.settle` with it, in the task.
local core = require "perilune._core"

local pcall = pcall
local Future = core.Future
local await, is_done, is_cancelled = Future.await, Future.done, Future.cancelled
local get_exception, add_done_callback = Future.exception, Future.add_done_callback

-- Their errors are the business of their scopes. A cancellation that comes
-- meanwhile reaches them through the wait.
function core.settle(list)
  for _, future in ipairs(list) do
    while not is_done(future) do pcall(await, future) end
  end
end

local owned = {}

---Has the current task wait for the futures that have not ended.
function owned.hand_over(list)
  for _, future in ipairs(list) do
    if not is_done(future) then core.own(future) end
  end
end

---Tells of what failed although it was only asked to end: there is nobody to
---tell it to.
function owned.report(what, future)
  if is_cancelled(future) then return end
  local err = get_exception(future)
  if err == nil then return end
  future:get_loop():call_exception_handler {
    message = ("a task failed while %s was cancelling it"):format(what),
    exception = err,
    future = future,
    source_traceback = core.source_traceback(future),
  }
end

-- Of a task group the failures are told by C.
function core.hand_over(scope, is_group)
  local running = core.crew_running(scope._crew)
  owned.hand_over(running)
  if is_group then return end
  for _, future in ipairs(running) do
    add_done_callback(future, function() owned.report(scope._what, future) end)
  end
end

return owned
