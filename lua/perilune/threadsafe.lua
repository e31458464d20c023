--- Tasks that are made from elsewhere, and the futures with what they come to:
--- those of perilune.futures, which other threads may wait for.
local core = require "perilune._core"
require "perilune.pool_future" -- core.JobFuture as a whole

local new_future, follow, call_answering =
  core.new_job_future, core.follow, core.call_answering
local Future = core.JobFuture
local is_done, is_cancelled, add_done_callback =
  Future.done, Future.cancelled, Future.add_done_callback

local threadsafe = {}

-- What this raises is the future's error.
local function start(future, loop, fn, ...)
  if is_done(future) then return end
  local task = loop:create_task(fn, ...)
  follow(task, future)
  add_done_callback(future, function()
    if is_cancelled(future) and not task:done() and not loop:is_closed() then
      loop:call_soon(task.cancel, task)
    end
  end)
end

---Described in meta/loop.lua.
function threadsafe.run_coroutine(loop, fn, ...)
  local future = new_future()
  call_answering(loop, start, future, loop, fn, ...)
  return future
end

return threadsafe
