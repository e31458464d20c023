--- Loops of other states, and values that stay at home.
---
--- A loop that was sent to another state is a LoopHandle there. What its methods
--- are asked for goes to the loop's own state as a note, and so does the answer.
--- The transports between states (runtime/pool) carry notes; they are known here
--- by the serial numbers of their peers. C calls `arrived`, `failed` and `closed`.
local native = require "perilune._codec"
local core = require "perilune._core"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
require "perilune.tasks" -- loops have run_coroutine_threadsafe then
require "perilune.pool_future" -- core.JobFuture as a whole

local pairs, pcall, error = pairs, pcall, error
local CALL <const>, RUN <const>, CANCEL <const> = native.CALL, native.RUN, native.CANCEL
local LOG <const> = native.LOG
local RETURNED <const>, RAISED <const>, CANCELLED <const> =
  native.RETURNED, native.RAISED, native.CANCELLED
local send, external = native.send, native.external
local add_done_callback, cancel = core.JobFuture.add_done_callback, core.JobFuture.cancel
local new_future, resolve, reject =
  core.new_job_future, core.resolve_job_future, core.reject_job_future

local handles = {}

-- Futures by peer and number: `waiting` for the answer of what another state was
-- asked to run, and `running` for it.
local waiting, running = {}, {}
local last_request = 0

local function note(futures, peer, request, future)
  local of_peer = futures[peer]
  if not of_peer then
    of_peer = {}
    futures[peer] = of_peer
  end
  of_peer[request] = future
end

local function take(futures, peer, request)
  local of_peer = futures[peer]
  local future = of_peer and of_peer[request]
  if future then of_peer[request] = nil end
  return future
end

-- Peer, home and number of a LoopHandle.
local function where(name, handle)
  local peer, home, loop = native.where(handle)
  if not peer then arguments.wrong_type(name, 1, "a LoopHandle", handle) end
  return peer, home, loop
end

---A loop of another Lua state, as it arrives there. That of a worker turns while the
---worker has a job: what it is asked for between two waits for the next one.
---@class perilune.LoopHandle
local LoopHandle = native.LoopHandle

---Has the loop call the function, in its own state, where the function and its
---arguments are copies. Raises TypeError, naming the place, if something among
---them cannot be sent; RuntimeError if the loop's state has gone. If the loop has,
---nobody is told but the log of its state.
---
---Python: `loop.call_soon_threadsafe`; gives no handle that could be cancelled.
---@param fn function|table the function, or a call table
---@param ... any its arguments
function LoopHandle:call_soon_threadsafe(fn, ...)
  local peer, home, loop = where("call_soon_threadsafe", self)
  send(peer, CALL, 0, home, loop, arguments.call("call_soon_threadsafe", 1, fn, ...))
end

-- The answer comes from outside: until then the wait is no deadlock.
local function wait_for_answer(peer, request, future)
  note(waiting, peer, request, future)
  external(1)
  add_done_callback(future, function()
    if not take(waiting, peer, request) then return end
    external(-1)
    pcall(send, peer, CANCEL, request, 0, 0)
  end)
end

---Makes a task of the function on the loop, in its own state, and returns a future,
---as those of perilune.futures, with what the task returns or raises. Cancelling
---the future cancels the task. Raises what `call_soon_threadsafe` raises; the future fails
---with RuntimeError if the loop has gone or is closed, or if its state goes.
---
---Python: `asyncio.run_coroutine_threadsafe`.
---@param fn function|table the function, or a call table
---@param ... any its arguments
---@return perilune.JobFuture
function LoopHandle:run_coroutine_threadsafe(fn, ...)
  local peer, home, loop = where("run_coroutine_threadsafe", self)
  local future = new_future()
  last_request = last_request + 1
  local request = last_request
  wait_for_answer(peer, request, future)
  local ok, err = pcall(send, peer, RUN, request, home, loop,
    arguments.call("run_coroutine_threadsafe", 1, fn, ...))
  if ok then return future end
  take(waiting, peer, request)
  external(-1)
  error(err, 0)
end

---In a worker: has the owner log something. False: it cannot be reached.
---@param level integer
---@param text string
---@return boolean
function handles.log(level, text)
  return (pcall(send, core.owner, LOG, level, 0, 0, core.worker_name, text))
end

-- What has come ------------------------------------------------------------------

local function settle(future, kind, ...)
  if kind == RETURNED then
    resolve(future, ...)
  elseif kind == RAISED then
    reject(future, (...))
  else
    cancel(future)
  end
end

local function reply(peer, request, kind, ...)
  local ok, err = pcall(send, peer, kind, request, 0, 0, ...)
  if not ok and kind ~= RAISED then pcall(send, peer, RAISED, request, 0, 0, err) end
end

local function answer(peer, request, future)
  if future:cancelled() then return reply(peer, request, CANCELLED) end
  local err = future:exception()
  if err ~= nil then return reply(peer, request, RAISED, err) end
  reply(peer, request, RETURNED, future:result())
end

local function check_loop(loop)
  if not loop or loop:is_closed() then error(errors.RuntimeError "Event loop is closed") end
end

local function run(peer, request, loop, fn, ...)
  check_loop(loop)
  local future = loop:run_coroutine_threadsafe(fn, ...)
  note(running, peer, request, future)
  add_done_callback(future, function(done)
    take(running, peer, request)
    answer(peer, request, done)
  end)
end

-- A note for this state; an error goes to `failed`.
function handles.arrived(peer, kind, request, loop, ...)
  if kind == CALL then
    check_loop(loop)
    loop:call_soon_threadsafe(...)
  elseif kind == RUN then
    run(peer, request, loop, ...)
  elseif kind == LOG then
    require "perilune.log"._from_worker(request, ...)
  elseif kind == CANCEL then
    local future = take(running, peer, request)
    if future then future:cancel() end
  else
    local future = take(waiting, peer, request)
    if not future then return end
    external(-1)
    settle(future, kind, ...)
  end
end

-- Its values could not be read, or not be used.
function handles.failed(peer, kind, request, err)
  if kind == RUN then
    reply(peer, request, RAISED, err)
  elseif kind == CALL or kind == LOG then
    require "perilune.log".error("a call for a loop from another state failed: %s", err)
  else
    handles.arrived(peer, RAISED, request, nil, err)
  end
end

function handles.closed(peer)
  local futures = waiting[peer]
  waiting[peer], running[peer] = nil, nil
  for _, future in pairs(futures or {}) do
    external(-1)
    settle(future, RAISED, errors.RuntimeError "the state of the loop has gone")
  end
end

---Wraps a value that cannot be sent, so that it can be passed through another
---state: there it is a token that is good for nothing but to be sent home, where it
---arrives as the value itself.
---
---Home keeps the value for as long as somebody there holds what `ref` returned, and
---until the job that it was sent with has ended. A token that comes home later
---raises RuntimeError.
---@param value any
---@return perilune.Ref
function handles.ref(value)
  return native.ref(value)
end

---A value that stays in its state; see `ref`. Two tokens of it are equal.
---@class perilune.Ref

return handles
