--- Time limits for a stretch of code.
--
-- A scope begins when it is made and ends with its block. When its deadline
-- comes it cancels its task, once, and remembers that it did; at its end it
-- takes that cancellation back (`uncancel`), and only if nobody else's is left
-- does the CancelledError become a TimeoutError. So of nested scopes only the
-- one that is late raises TimeoutError, and a cancellation from outside
-- remains one even when a deadline comes on top of it.
local core = require "perilune._core"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local unclosed = require "perilune.unclosed"

local error, pcall, rawequal, setmetatable =
  error, pcall, rawequal, setmetatable
local current_task, get_running_loop = core.current_task, core.get_running_loop
local iscancel, issentinel = core.iscancel, core.issentinel
local RuntimeError, TimeoutError = errors.RuntimeError, errors.TimeoutError

---A time limit, from where it was made to the end of its block.
---@class perilune.Timeout
local Timeout = { __name = "Timeout", __module = "perilune" }
Timeout.__index = Timeout

-- When the deadline comes C cancels `_task` and sets `_state` to "expiring".
local expire_soon, expire_later, expire_at =
  core.expire_soon, core.expire_later, core.expire_at

local function new_scope(name)
  local task = current_task()
  if not task then
    get_running_loop() -- that there is none comes first
    error(RuntimeError(name .. ": a time limit needs a task around it"))
  end
  return setmetatable({
    _task = task,
    _cancelling = task:cancelling(),
    _state = "active",
    _name = name,
    _watch = unclosed.watch "timeout scope",
    -- Set later; named so that the table has room for them.
    _timer = nil, -- its handle knows the deadline, unless `_when` does
    _when = nil,
  }, Timeout)
end

-- The scope ends after a delay. One that is late already is interrupted in the
-- next round, even in a sleep(0).
local function set_delay(scope, delay)
  if delay == nil then return end
  local loop = get_running_loop()
  if delay > 0 then
    scope._timer = expire_later(loop, delay, scope)
  else
    scope._timer, scope._when = expire_soon(loop, scope), loop:time() + delay
  end
end

local function set_deadline(scope, when)
  scope._when = when
  if when == nil then
    scope._timer = nil
    return
  end
  local loop = get_running_loop()
  if when <= loop:time() then
    scope._timer = expire_soon(loop, scope)
  else
    scope._timer = expire_at(loop, when, scope)
  end
end

---The deadline on the task's clock (`loop:time()`), or nil if there is none.
---@return number? seconds
function Timeout:when()
  return self._when or self._timer and self._timer:when()
end

---Moves the deadline; nil takes it away.
---
---Raises RuntimeError if the scope is over or its deadline has come.
---@param when number? seconds on the task's clock
function Timeout:reschedule(when)
  arguments.seconds("Timeout.reschedule", 1, when, true)
  if self._state ~= "active" then
    error(RuntimeError("cannot reschedule a time limit that is " .. self._state))
  end
  if self._timer then self._timer:cancel() end
  set_deadline(self, when)
end

---Tells whether the deadline has come before the scope's end.
---@return boolean
function Timeout:expired()
  local state = self._state
  return state == "expiring" or state == "expired"
end

function Timeout:__close(err)
  if self._watch then unclosed.closed(self._watch) end
  if self._state == "active" then
    self._state = "finished"
    if self._timer then self._timer:cancel() end
  elseif self._state == "expiring" then
    self._state = "expired"
    -- A kill is a cancellation, too, but not to be replaced by anything.
    if self._task:uncancel() <= self._cancelling and iscancel(err) and not issentinel(err) then
      local late = TimeoutError(nil, { cause = err })
      self._raised = late
      error(late)
    end
  end
end

-- Calls the function in the scope, whose time begins now that it will be closed.
local function run(scope, set, time, fn, ...)
  local _ <close> = scope
  set(scope, time)
  return arguments.invoke(scope._name, 2, fn, ...)
end

local timeouts = {}

---Limits the time until the end of the block:
---`local scope <close> = peri.timeout(1.5)`. Or, given a function, calls it
---within the limit and returns what it returns.
---
---Raises TimeoutError at the end of the block (from the call) if the limit was
---exceeded; its `cause` is the CancelledError that interrupted the wait.
---
---Cancellation: from outside goes through as CancelledError.
---
---Python: `asyncio.timeout`, differs in that the scope begins when it is made.
---@param delay number? seconds; nil: no limit
---@param fn? function|table what to call, or a call table
---@param ... any its arguments
---@return perilune.Timeout|any ...
---@async
function timeouts.timeout(delay, fn, ...)
  arguments.seconds("timeout", 1, delay, true)
  local scope = new_scope "timeout"
  if fn ~= nil then return run(scope, set_delay, delay, fn, ...) end
  set_delay(scope, delay)
  return scope
end

---Limits the time until the end of the block, or of the call, to a point in
---time. See `timeout`.
---
---Python: `asyncio.timeout_at`.
---@param when number? seconds on the task's clock, as `loop:time()` tells them
---@param fn? function|table what to call, or a call table
---@param ... any its arguments
---@return perilune.Timeout|any ...
---@async
function timeouts.timeout_at(when, fn, ...)
  arguments.seconds("timeout_at", 1, when, true)
  local scope = new_scope "timeout_at"
  if fn ~= nil then return run(scope, set_deadline, when, fn, ...) end
  set_deadline(scope, when)
  return scope
end

local function set_real_delay(scope, delay)
  local loop = get_running_loop()
  scope._timer = delay > 0 and core.expire_later_real(loop, delay, scope)
    or expire_soon(loop, scope)
end

---`method(...)` within the time that the options allow, by the real clock, since
---what is outside of the process goes by that: C calls it for methods that wait
---for such things.
---@async
function timeouts.limited(name, position, options, method, ...)
  local seconds = arguments.timeout(name, position, options)
  if seconds == nil then return method(...) end
  return run(new_scope(name), set_real_delay, seconds, method, ...)
end

local function settle(scope, ok, ...)
  if ok then return true, ... end
  local err = ...
  -- Only the scope's own lateness is swallowed, not a TimeoutError from within.
  if scope._raised ~= nil and rawequal(err, scope._raised) then return false end
  error(err, 0)
end

---Calls a function and gives up on it after a time.
---
---Cancellation: from outside goes through as CancelledError.
---
---Python: `trio.move_on_after` comes closest.
---@param delay number? seconds; nil: no limit
---@param fn function|table what to call, or a call table
---@param ... any its arguments
---@return boolean in_time
---@return any ... what the function returned
---@async
function timeouts.move_on_after(delay, fn, ...)
  if not arguments.callable(fn) and not arguments.plain(fn) then
    arguments.wrong_type("move_on_after", 2, "function", fn)
  end
  arguments.seconds("move_on_after", 1, delay, true)
  local scope = new_scope "move_on_after"
  return settle(scope, pcall(run, scope, set_delay, delay, fn, ...))
end

return timeouts
