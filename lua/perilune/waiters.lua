--- Queues of tasks that wait for something a Lua object hands out: a lock, an
--- item, a notification. Private to the library.
--
-- A queue is a ring of waiters, linked through the object that owns it, so that
-- whoever is cancelled in the middle leaves in constant time. Invariants:
--
--   * A waiter stands in its queue from the moment it parks until it is woken
--     by `wake` or leaves; `next` is nil outside of a queue.
--   * Where something is raised instead of the wake-up, a cancellation or a kill
--     (which no pcall stops), the waiter leaves in its `__close`.
--   * A waiter that was woken and is then cancelled still holds what it was
--     woken for. Its kind's `give_up` function passes that on.
--
-- The wait stands under a pcall, so that `__close` runs at once even inside a
-- coroutine of the script's that is about to die of the error: Lua would run it
-- when somebody closes that coroutine, which may be never.
local core = require "perilune._core"

local error, pcall, setmetatable = error, pcall, setmetatable
local create_future = core.create_future
local Future = core.Future
local await, is_done, is_cancelled, set_result =
  Future.await, Future.done, Future.cancelled, Future.set_result

-- Stands in `prev` of a waiter that has got what it waited for.
local SERVED <const> = true

local waiters = {}

local function unlink(waiter)
  local prev, next = waiter.prev, waiter.next
  prev.next, next.prev = next, prev
  waiter.prev, waiter.next = nil, nil
end

---Makes a table the owner of an empty queue.
function waiters.init(queue)
  queue.prev, queue.next = queue, queue
  return queue
end

---Makes a kind of waiter. `give_up(queue, woken)` is called when the wait has
---ended by an error, `woken` telling that the wake-up had come already.
---@param give_up? fun(queue: table, woken: boolean)
function waiters.kind(give_up)
  local kind = {}
  -- The error stays a parameter, in its place: a killed task may wait only
  -- where the kill is seen as the second argument of a __close.
  function kind.__close(waiter, err) -- luacheck: no unused args
    if waiter.prev == SERVED then return end
    if waiter.next then unlink(waiter) end
    if give_up then
      local future = waiter.future
      give_up(waiter.queue, is_done(future) and not is_cancelled(future))
    end
  end
  return kind
end

local function hold(waiter)
  local _ <close> = waiter
  await(waiter.future)
  if waiter.next then unlink(waiter) end
  waiter.prev = SERVED
end

---Waits at the end of a queue until the waiter's future is resolved.
---@async
function waiters.park(kind, queue)
  local last = queue.prev
  local waiter = setmetatable({
    queue = queue,
    future = create_future(),
    prev = last,
    next = queue,
  }, kind)
  last.next, queue.prev = waiter, waiter
  local ok, err = pcall(hold, waiter)
  if not ok then error(err, 0) end
end

---Wakes the first waiter that still waits, and takes it out of the queue.
---@return boolean woken false if there was none
function waiters.wake(queue)
  local waiter = queue.next
  while waiter ~= queue do
    unlink(waiter)
    local future = waiter.future
    -- A cancelled one has been told already and is on its way out.
    if not is_done(future) then
      set_result(future)
      return true
    end
    waiter = queue.next
  end
  return false
end

return waiters
