--- Lock, Event, Condition, Semaphore, BoundedSemaphore and Barrier, for the
--- tasks of one loop.
--
-- Waiters are served in the order in which they came. Nobody barges: what was
-- handed to a waiter that has not run yet is spoken for, and if that waiter is
-- cancelled or killed it goes to the next one.
--
-- What waits, wakes and lets go is C (locks.c), which knows the fields of these
-- objects: so it cannot fail half way for want of memory.
local core = require "perilune._core"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local timeouts = require "perilune.timeouts"
local unclosed = require "perilune.unclosed"

local error, getmetatable, pcall, setmetatable, type =
  error, getmetatable, pcall, setmetatable, type
local can_wait, iscancel = core.can_wait, core.iscancel
local line, park, wake, wake_all = core.line, core.line_wait, core.line_wake, core.line_wake_all
local is_claimed, take, barrier_wait = core.line_claimed, core.line_take, core.barrier_wait
local RuntimeError = errors.RuntimeError

local locks = {}

-- An object with its line of waiters.
local function new(class, what, fields)
  local object = setmetatable(fields, class)
  object._line = line(what, object)
  return object
end

-- What has `acquire` and `release` has guards: closables that release. Closing
-- keeps no state, so one guard serves all of an object's scopes.
local Guard = { __name = "Guard", __close = core.guard_close }

-- In debug mode each scope is told by itself.
local WatchedGuard = { __name = "Guard" }

function WatchedGuard:__close(err)
  unclosed.closed(self.sentry)
  core.guard_close(self, err)
end

local function guard(self, options)
  if core.debugging then
    local closable = setmetatable({ owner = self, sentry = false }, WatchedGuard)
    self:acquire(options)
    closable.sentry = unclosed.watch(getmetatable(self).__name .. " guard")
    return closable
  end
  local closable = self._guard
  if not closable then
    closable = setmetatable({ owner = self }, Guard)
    self._guard = closable
  end
  self:acquire(options)
  return closable
end

-- `method(self, ...)` within the time that the options allow.
local function limited(name, options, method, ...)
  local seconds = arguments.timeout(name, 1, options)
  if seconds == nil then return method(...) end
  return timeouts.timeout(seconds, method, ...)
end

-- Lock ------------------------------------------------------------------------

---A lock that one task at a time can hold. It has no owner: any task may
---release it.
---
---Python: `asyncio.Lock`.
---@class perilune.Lock
local Lock = { __name = "Lock", __module = "perilune" }
Lock.__index = Lock

-- The first waiter, once woken, stays at the head of the line until it runs: so
-- long the lock is free, but spoken for.

---Makes a lock that nobody holds.
---@return perilune.Lock
function locks.Lock()
  return new(Lock, "Lock.acquire", { _locked = false, _debts = 0 })
end

---Tells whether somebody holds the lock.
---@return boolean
function Lock:locked()
  return self._locked
end

---Takes the lock, after all that asked before.
---
---Raises TimeoutError if `timeout` seconds do not suffice.
---
---Cancellation: the lock is not taken; if it was on its way here, the next
---waiter gets it.
---@param options? { timeout: number? } seconds
---@return true
---@async
function Lock:acquire(options)
  if not self._locked and take(self._line) then
    self._locked = true
    return true
  end
  if options == nil then
    park(self._line)
  else
    limited("Lock.acquire", options, park, self._line, true)
  end
  self._locked = true
  return true
end

---Lets go of the lock; the first waiter will have it.
---
---Raises RuntimeError if nobody holds it.
---@type fun(self: perilune.Lock)
Lock.release = core.lock_release

---Takes the lock and gives a closable that releases it:
---`local _ <close> = lock:guard()`. Raises and is cancelled as `acquire`.
---
---Python: `async with lock`.
---@param options? { timeout: number? } seconds
---@return perilune.Closable closable
---@async
Lock.guard = guard

-- Event -----------------------------------------------------------------------

---A flag that tasks can wait for.
---
---Python: `asyncio.Event`.
---@class perilune.Event
local Event = { __name = "Event", __module = "perilune" }
Event.__index = Event

---Makes an event that is not set.
---@return perilune.Event
function locks.Event()
  return new(Event, "Event.wait", { _set = false })
end

---Tells whether the event is set.
---@return boolean
function Event:is_set()
  return self._set
end

---Sets the event and wakes all that wait for it, in their order.
function Event:set()
  if self._set then return end
  wake_all(self._line)
  self._set = true
end

---Makes the event one that is not set. Those that were woken stay so.
function Event:clear()
  self._set = false
end

---Waits until the event is set; returns at once if it is.
---
---Raises TimeoutError if that takes more than `timeout` seconds.
---@param options? { timeout: number? } seconds
---@return true
---@async
function Event:wait(options)
  if self._set then return true end
  if options == nil then
    park(self._line)
  else
    limited("Event.wait", options, park, self._line)
  end
  return true
end

-- Condition -------------------------------------------------------------------

---A lock together with tasks that wait to be told that something has changed.
---
---Python: `asyncio.Condition`.
---@class perilune.Condition
local Condition = { __name = "Condition", __module = "perilune" }
Condition.__index = Condition

-- Wakes up to count waiters.
local function notify(condition, count)
  for _ = 1, count do
    if not wake(condition._line) then return end
  end
end

-- With a lock of the script's own: that is taken back whatever has ended the
-- wait, and through further cancellations; the last of them is what is raised.
local function reacquire(lock)
  if not can_wait() then return nil end -- in a coroutine that dies
  local last
  while true do
    local ok, err = pcall(lock.acquire, lock)
    if ok then return last end
    if not iscancel(err) then return err end
    last = err
  end
end

-- Closing it is coming back, with that lock. A notification that came together
-- with an error is for another waiter.
local Return = {}

function Return:__close(err)
  local condition = self.condition
  local raised = reacquire(condition._lock)
  if err == nil and raised == nil then return end
  notify(condition, 1)
  if raised ~= nil then error(raised, 0) end
end

local function leave_and_return(condition)
  local _ <close> = setmetatable({ condition = condition }, Return)
  park(condition._line)
end

local function wait_without_foreign_lock(condition)
  condition._lock:release()
  -- Under a pcall, so that the return is not left to whoever closes a coroutine
  -- of the script's that dies of the error: that may be nobody.
  local ok, err = pcall(leave_and_return, condition)
  if not ok then error(err, 0) end
end

---Makes a condition on a lock, or on one of its own.
---@param lock? perilune.Lock
---@return perilune.Condition
function locks.Condition(lock)
  if lock == nil then
    lock = locks.Lock()
  elseif getmetatable(lock) ~= Lock and not (type(lock) == "table" and lock.acquire) then
    arguments.wrong_type("Condition", 1, "Lock or nil", lock)
  end
  return new(Condition, "Condition.wait", {
    _lock = lock,
    _wait = getmetatable(lock) == Lock and core.condition_wait or wait_without_foreign_lock,
  })
end

---Tells whether somebody holds the lock.
---@return boolean
function Condition:locked()
  return self._lock:locked()
end

---Takes the lock. See `Lock:acquire`.
---@param options? { timeout: number? } seconds
---@return true
---@async
function Condition:acquire(options)
  return self._lock:acquire(options)
end

---Lets go of the lock. See `Lock:release`.
function Condition:release()
  self._lock:release()
end

---Takes the lock and gives a closable that releases it. See `Lock:guard`.
---@param options? { timeout: number? } seconds
---@return perilune.Closable closable
---@async
Condition.guard = guard

local function require_lock(condition, action)
  if not condition._lock:locked() then
    error(RuntimeError(("cannot %s: the condition's lock is not acquired"):format(action)))
  end
end

---Lets go of the lock, waits to be notified and takes the lock again. It may
---return without a cause, so ask again whether what you waited for is there.
---
---Raises RuntimeError if the lock is not acquired, and TimeoutError if no
---notification comes within `timeout` seconds. Whatever is raised, the lock is
---held again by then.
---
---Cancellation: a notification that was on its way goes to another waiter.
---@param options? { timeout: number? } seconds
---@return true
---@async
function Condition:wait(options)
  require_lock(self, "wait")
  if options == nil then
    self:_wait()
  else
    limited("Condition.wait", options, self._wait, self)
  end
  return true
end

local function condition_wait_for(condition, predicate)
  local result = predicate()
  while not result do
    condition:wait()
    result = predicate()
  end
  return result
end

---Waits until a function gives a true value, asked anew after each
---notification, and returns that value. Raises and is cancelled as `wait`.
---@param predicate fun(): any
---@param options? { timeout: number? } seconds
---@return any
---@async
function Condition:wait_for(predicate, options)
  if not arguments.callable(predicate) then
    arguments.wrong_type("Condition.wait_for", 1, "function", predicate)
  end
  local seconds = arguments.timeout("Condition.wait_for", 2, options)
  if seconds == nil then return condition_wait_for(self, predicate) end
  return timeouts.timeout(seconds, condition_wait_for, self, predicate)
end

---Wakes the tasks that have waited longest; they go on when they can have the
---lock.
---
---Raises RuntimeError if the lock is not acquired.
---@param n? integer how many, 1 if not given
function Condition:notify(n)
  if n == nil then
    n = 1
  elseif type(n) ~= "number" then
    arguments.wrong_type("Condition.notify", 1, "number or nil", n)
  end
  require_lock(self, "notify")
  notify(self, n)
end

---Wakes all that wait. See `notify`.
function Condition:notify_all()
  require_lock(self, "notify")
  wake_all(self._line)
end

-- Semaphore -------------------------------------------------------------------

---A number of permits, of which each holder has one.
---
---Python: `asyncio.Semaphore`.
---@class perilune.Semaphore
local Semaphore = { __name = "Semaphore", __module = "perilune" }
Semaphore.__index = Semaphore

-- A permit is taken for a waiter when it is woken, not when it runs; `_woken`
-- counts those in between, behind whom newcomers queue.

local function new_semaphore(class, name, value, bounded)
  if value == nil then
    value = 1
  else
    value = arguments.integer(name, 1, value)
    if value < 0 then arguments.wrong_value(name, 1, "the initial value must be >= 0") end
  end
  return new(class, "Semaphore.acquire", {
    _value = value,
    _woken = 0,
    _bound = bounded and value,
  })
end

---Makes a semaphore.
---
---Raises ValueError if the number is negative.
---@param value? integer how many permits there are, 1 if not given
---@return perilune.Semaphore
function locks.Semaphore(value)
  return new_semaphore(Semaphore, "Semaphore", value, false)
end

---Tells whether a permit cannot be had at once.
---@return boolean
function Semaphore:locked()
  return self._value == 0 or self._woken > 0 or is_claimed(self._line)
end

---Takes a permit, after all that asked before.
---
---Raises TimeoutError if `timeout` seconds do not suffice.
---
---Cancellation: no permit is taken; one that was on its way here goes to the
---next waiter.
---@param options? { timeout: number? } seconds
---@return true
---@async
function Semaphore:acquire(options)
  if self._value > 0 and self._woken == 0 and not is_claimed(self._line) then
    self._value = self._value - 1
    return true
  end
  if options == nil then
    park(self._line)
  else
    limited("Semaphore.acquire", options, park, self._line)
  end
  return true
end

---Gives a permit back, or adds one.
---@type fun(self: perilune.Semaphore)
Semaphore.release = core.semaphore_release

---Takes a permit and gives a closable that gives it back. See `Lock:guard`.
---@param options? { timeout: number? } seconds
---@return perilune.Closable closable
---@async
Semaphore.guard = guard

---A semaphore whose permits do not grow beyond those it began with.
---
---Python: `asyncio.BoundedSemaphore`.
---@class perilune.BoundedSemaphore: perilune.Semaphore
local BoundedSemaphore = setmetatable(
  { __name = "BoundedSemaphore", __module = "perilune" }, { __index = Semaphore })
BoundedSemaphore.__index = BoundedSemaphore

---Makes a bounded semaphore.
---
---Raises ValueError if the number is negative.
---@param value? integer how many permits there are, 1 if not given
---@return perilune.BoundedSemaphore
function locks.BoundedSemaphore(value)
  return new_semaphore(BoundedSemaphore, "BoundedSemaphore", value, true)
end

---Gives a permit back.
---
---Raises ValueError if none is out.
---@type fun(self: perilune.BoundedSemaphore)
BoundedSemaphore.release = core.semaphore_release

-- Barrier ---------------------------------------------------------------------

---A point that a number of tasks pass together.
---
---Python: `asyncio.Barrier`.
---@class perilune.Barrier
---@field parties integer how many pass together
---@field n_waiting integer how many wait now
---@field broken boolean whether `abort` was called
local Barrier = { __name = "Barrier", __module = "perilune" }

-- The states: "filling" while tasks arrive; "draining" while they leave;
-- "resetting" while those that `reset` threw out leave; "broken". There are no
-- trips between what a task does when it arrives and what it does when it
-- leaves, so there is no lock.
local FILLING <const>, RESETTING <const>, BROKEN <const> = "filling", "resetting", "broken"
function Barrier.__index(barrier, key)
  if key == "parties" then return barrier._parties end
  if key == "broken" then return barrier._state == BROKEN end
  if key == "n_waiting" then
    return barrier._state == FILLING and barrier._count or 0
  end
  return Barrier[key]
end

---Makes a barrier for a number of tasks.
---
---Raises ValueError if the number is less than 1.
---@param parties integer
---@return perilune.Barrier
function locks.Barrier(parties)
  parties = arguments.integer("Barrier", 1, parties)
  if parties < 1 then
    arguments.wrong_value("Barrier", 1, "the number of parties must be > 0")
  end
  return new(Barrier, "Barrier.wait", { _parties = parties, _state = FILLING, _count = 0 })
end

---Waits until the last of the parties has come.
---
---Raises BrokenBarrierError if the barrier is aborted, or reset meanwhile, and
---TimeoutError if the others take more than `timeout` seconds; then this task
---does not count any more.
---@param options? { timeout: number? } seconds
---@return integer index from 0, in the order of arrival
---@async
function Barrier:wait(options)
  if options == nil then return barrier_wait(self) end
  return limited("Barrier.wait", options, barrier_wait, self)
end

local Passage <const> = setmetatable({}, { __close = function() end })

---Waits as `wait` does and gives a closable, which does nothing, with the
---index: `local _ <close>, index = barrier:guard()`.
---
---Python: `async with barrier as index`.
---@param options? { timeout: number? } seconds
---@return perilune.Closable closable
---@return integer index
---@async
function Barrier:guard(options)
  return Passage, self:wait(options)
end

---Throws out those who wait, with BrokenBarrierError, and starts anew.
---@async
function Barrier:reset()
  wake_all(self._line)
  self._state = self._count > 0 and RESETTING or FILLING
end

---Breaks the barrier: whoever waits, or comes, gets BrokenBarrierError, until
---`reset`.
---@async
function Barrier:abort()
  wake_all(self._line)
  self._state = BROKEN
end

return locks
