--- The runtime's error classes.
--
-- An error is a table whose metatable is its class:
--
--     error(peri.ValueError("no such port"))
--     if peri.TimeoutError:is(err) then ... end
--     local MyError = peri.Error:extend "MyError"
--
-- Making one costs a table and no more: `err.traceback` is told from raw
-- frames when somebody asks. A class is also known by its name, so that an
-- error stays itself when it is sent to another state; hence two classes of
-- one name in one state are an error.
local core = require "perilune._core"

local getmetatable, setmetatable, rawget = getmetatable, setmetatable, rawget
local error, tostring, type = error, tostring, type
local error_traceback, register_error = core.error_traceback, core.register_error

local errors = {}

-- Class to the set of classes that its errors belong to: makes `is` one look,
-- whatever the value and its metatable are.
local families = {}
local parents = {}
local by_name = {}

local function is(class, value)
  local family = families[getmetatable(value)]
  return family ~= nil and family[class] == true
end

local function inherited(class, key)
  repeat
    local value = rawget(class, key)
    if value ~= nil then return value end
    class = parents[class]
  until not class
end

local function index(err, key)
  if key == "traceback" then return error_traceback(err) end
  return inherited(getmetatable(err), key)
end

local function describe(err)
  local name, message = getmetatable(err).__name, rawget(err, "message")
  if message == nil or message == "" then return name end
  return name .. ": " .. tostring(message)
end

local function concat(a, b)
  return tostring(a) .. tostring(b)
end

local function make(class, message, fields)
  if message == nil then message = "" end
  if fields == nil then return setmetatable({ message = message }, class) end
  if type(fields) ~= "table" then
    error(errors.TypeError(
      ("bad argument #2 to '%s' (table or nil expected, got %s)")
        :format(class.__name, type(fields))))
  end
  local err = {}
  for key, value in next, fields do err[key] = value end
  err.message = message
  return setmetatable(err, class)
end

-- What all classes have in common.
local Class = {
  __call = make,
  __index = inherited,
  __tostring = function(class) return "class " .. class.__name end,
}

local extend

local function define(name, parent, second_parent)
  local class = {
    __name = name,
    __index = index,
    __tostring = parent and parent.__tostring or describe,
    __concat = parent and parent.__concat or concat,
    is = is,
    extend = extend,
  }
  local family = { [class] = true }
  for ancestor in next, families[parent] or family do family[ancestor] = true end
  if second_parent then
    for ancestor in next, families[second_parent] do family[ancestor] = true end
  end
  families[class], parents[class] = family, parent
  setmetatable(class, Class)
  register_error(name, class, parent)
  by_name[name] = class -- last: should memory fail, the name is still to be had
  return class
end

extend = function(class, name)
  if type(name) ~= "string" then
    error(errors.TypeError(
      ("bad argument #1 to 'extend' (string expected, got %s)"):format(type(name))))
  end
  if not name:find "^[%a_][%w_%.]*$" then
    error(errors.ValueError(("bad argument #1 to 'extend' (%q is not a name)"):format(name)))
  end
  if by_name[name] then
    error(errors.ValueError(("there is an error class named %s already"):format(name)))
  end
  return define(name, class)
end

---The class with a name, or nil.
---@param name string
function errors.find(name) return by_name[name] end

---The class that a class extends, or nil.
---@param class table
function errors.parent(class) return parents[class] end

-- The classes, each after its parents.

---What every error of the runtime is. A class is called to make an error of it:
---`peri.ValueError("no such port", { port = 0 })`. `Class:is(value)` tells whether a
---value, whatever it is, is an error of the class or of one that extends it.
---`Class:extend "MyError"` makes such a class, known by that name in other states
---too; it raises ValueError if there is one, or if it is no name. `tostring` tells an
---error as "ClassName: message", and `..` joins it to strings.
---@class perilune.BaseError
---@field message any what went wrong, "" if nothing was said
---@field cause any the error that led to this one
---@field traceback string? the stacks it passed, innermost first
---@field is fun(self: perilune.BaseError, value: any): boolean whether a value is such an error
---@field extend fun(self: perilune.BaseError, name: string): perilune.BaseError makes a class
---@operator concat(any): string
---@overload fun(message?: any, fields?: table): perilune.BaseError
errors.BaseError = define("BaseError")

---Raised at the wait of a task that is cancelled.
---
---Python: `asyncio.CancelledError`.
---@class perilune.CancelledError: perilune.BaseError
---@overload fun(message?: any, fields?: table): perilune.CancelledError
errors.CancelledError = define("CancelledError", errors.BaseError)

---What all errors are but for cancellations.
---
---Python: `Exception`.
---@class perilune.Error: perilune.BaseError
---@overload fun(message?: any, fields?: table): perilune.Error
errors.Error = define("Error", errors.BaseError)

---A future is not, or already, done.
---
---Python: `asyncio.InvalidStateError`.
---@class perilune.InvalidStateError: perilune.Error
---@overload fun(message?: any, fields?: table): perilune.InvalidStateError
errors.InvalidStateError = define("InvalidStateError", errors.Error)

---An argument has the right type, but a wrong value.
---
---Python: `ValueError`.
---@class perilune.ValueError: perilune.Error
---@overload fun(message?: any, fields?: table): perilune.ValueError
errors.ValueError = define("ValueError", errors.Error)

---An argument has a wrong type.
---
---Python: `TypeError`.
---@class perilune.TypeError: perilune.Error
---@overload fun(message?: any, fields?: table): perilune.TypeError
errors.TypeError = define("TypeError", errors.Error)

---Nothing is found under a name or at a place.
---
---Python: `LookupError`.
---@class perilune.LookupError: perilune.Error
---@overload fun(message?: any, fields?: table): perilune.LookupError
errors.LookupError = define("LookupError", errors.Error)

---A place is not one of a sequence.
---
---Python: `IndexError`.
---@class perilune.IndexError: perilune.LookupError
---@overload fun(message?: any, fields?: table): perilune.IndexError
errors.IndexError = define("IndexError", errors.LookupError)

---What was asked for is not there.
---
---Python: `NotImplementedError`.
---@class perilune.NotImplementedError: perilune.Error
---@overload fun(message?: any, fields?: table): perilune.NotImplementedError
errors.NotImplementedError = define("NotImplementedError", errors.Error)

---Raised by `get_nowait` of an empty queue.
---
---Python: `asyncio.QueueEmpty`.
---@class perilune.QueueEmpty: perilune.Error
---@overload fun(message?: any, fields?: table): perilune.QueueEmpty
errors.QueueEmpty = define("QueueEmpty", errors.Error)

---Raised by `put_nowait` to a full queue.
---
---Python: `asyncio.QueueFull`.
---@class perilune.QueueFull: perilune.Error
---@overload fun(message?: any, fields?: table): perilune.QueueFull
errors.QueueFull = define("QueueFull", errors.Error)

---The queue was shut down.
---
---Python: `asyncio.QueueShutDown`.
---@class perilune.QueueShutDown: perilune.Error
---@overload fun(message?: any, fields?: table): perilune.QueueShutDown
errors.QueueShutDown = define("QueueShutDown", errors.Error)

---What cannot be done here or now.
---
---Python: `RuntimeError`.
---@class perilune.RuntimeError: perilune.Error
---@overload fun(message?: any, fields?: table): perilune.RuntimeError
errors.RuntimeError = define("RuntimeError", errors.Error)

---The barrier was aborted or reset.
---
---Python: `asyncio.BrokenBarrierError`.
---@class perilune.BrokenBarrierError: perilune.RuntimeError
---@overload fun(message?: any, fields?: table): perilune.BrokenBarrierError
errors.BrokenBarrierError = define("BrokenBarrierError", errors.RuntimeError)

---Nothing can happen any more: every task waits for another.
---@class perilune.DeadlockError: perilune.RuntimeError
---@overload fun(message?: any, fields?: table): perilune.DeadlockError
errors.DeadlockError = define("DeadlockError", errors.RuntimeError)

---An executor can do no more jobs.
---
---Python: `concurrent.futures.BrokenExecutor`.
---@class perilune.BrokenExecutor: perilune.RuntimeError
---@overload fun(message?: any, fields?: table): perilune.BrokenExecutor
errors.BrokenExecutor = define("BrokenExecutor", errors.RuntimeError)

---The initializer of a pool of threads has failed.
---
---Python: `concurrent.futures.thread.BrokenThreadPool`.
---@class perilune.BrokenThreadPool: perilune.BrokenExecutor
---@overload fun(message?: any, fields?: table): perilune.BrokenThreadPool
errors.BrokenThreadPool = define("BrokenThreadPool", errors.BrokenExecutor)

---A process of a pool has ended before its time.
---
---Python: `concurrent.futures.process.BrokenProcessPool`.
---@class perilune.BrokenProcessPool: perilune.BrokenExecutor
---@overload fun(message?: any, fields?: table): perilune.BrokenProcessPool
errors.BrokenProcessPool = define("BrokenProcessPool", errors.BrokenExecutor)

---There is nothing more to read.
---
---Python: `EOFError`.
---@class perilune.EOFError: perilune.Error
---@overload fun(message?: any, fields?: table): perilune.EOFError
errors.EOFError = define("EOFError", errors.Error)

---The end came in the middle of what was to be read.
---
---Python: `asyncio.IncompleteReadError`.
---@class perilune.IncompleteReadError: perilune.EOFError
---@field partial string what there was to read
---@field expected integer? how many bytes were to come; nil if up to a separator
---@overload fun(message?: any, fields?: table): perilune.IncompleteReadError
errors.IncompleteReadError = define("IncompleteReadError", errors.EOFError)

---What is looked for is not within the limit.
---
---Python: `asyncio.LimitOverrunError`.
---@class perilune.LimitOverrunError: perilune.Error
---@field consumed integer how many bytes have been looked through
---@overload fun(message?: any, fields?: table): perilune.LimitOverrunError
errors.LimitOverrunError = define("LimitOverrunError", errors.Error)

---The system has refused something.
---
---Python: `OSError`.
---@class perilune.OSError: perilune.Error
---@field code string? "ECONNREFUSED" and the like
---@field errno integer? its number on this system
---@field syscall string? what was called
---@field path string? of the file that it was about
---@field address string? that it was about
---@overload fun(message?: any, fields?: table): perilune.OSError
errors.OSError = define("OSError", errors.Error)

---Something takes longer than it may.
---
---Python: `TimeoutError`.
---@class perilune.TimeoutError: perilune.Error, perilune.OSError
---@overload fun(message?: any, fields?: table): perilune.TimeoutError
errors.TimeoutError = define("TimeoutError", errors.Error, errors.OSError)

-- Exception groups --------------------------------------------------------

---Several errors as one, such as those of the tasks of a group. `tostring` tells
---how many there are.
---
---Python: `BaseExceptionGroup`.
---@class perilune.ExceptionGroup: perilune.Error
---@field exceptions any[] the errors, groups among them
---@overload fun(message?: any, fields?: table): perilune.ExceptionGroup
local ExceptionGroup = define("ExceptionGroup", errors.Error)
errors.ExceptionGroup = ExceptionGroup

function ExceptionGroup.__tostring(group)
  local text, list = describe(group), group.exceptions
  if not list or #list == 0 then return text end
  return ("%s (%d sub-exception%s)"):format(text, #list, #list == 1 and "" or "s")
end

-- A group like this one around other errors; nil around none.
local function derive(group, exceptions)
  if #exceptions == 0 then return nil end
  if group.exceptions and #exceptions == #group.exceptions then
    local same = true
    for i = 1, #exceptions do same = same and exceptions[i] == group.exceptions[i] end
    if same then return group end
  end
  return getmetatable(group)(group.message, { exceptions = exceptions, cause = group.cause })
end

local function divide(group, matches)
  if matches(group) then return group, nil end
  local chosen, rest = {}, {}
  for _, err in ipairs(group.exceptions or {}) do
    local yes, no
    if is(ExceptionGroup, err) then
      yes, no = divide(err, matches)
    elseif matches(err) then
      yes = err
    else
      no = err
    end
    -- The errors may be any values, false among them.
    if yes ~= nil then chosen[#chosen + 1] = yes end
    if no ~= nil then rest[#rest + 1] = no end
  end
  return derive(group, chosen), derive(group, rest)
end

local function matcher(condition, name)
  if type(condition) == "function" then return condition end
  if families[condition] then
    return function(err) return is(condition, err) end
  end
  if type(condition) ~= "table" or #condition == 0 then
    error(errors.TypeError(("bad argument #1 to '%s' "
      .. "(error class, list of them or function expected, got %s)")
      :format(name, type(condition))))
  end
  return function(err)
    for _, class in ipairs(condition) do
      if is(class, err) then return true end
    end
    return false
  end
end

---Divides a group, and the groups inside it, in two of the same shape: the
---errors that match and the others. Either is nil if it would be empty.
---
---Python: `BaseExceptionGroup.split`.
---@param condition table|fun(err: any): boolean a class, a list of classes, or a test
---@return perilune.ExceptionGroup? matching, perilune.ExceptionGroup? rest
function ExceptionGroup:split(condition)
  return divide(self, matcher(condition, "ExceptionGroup.split"))
end

---The part of a group, in the same shape, whose errors match, or nil.
---
---Python: `BaseExceptionGroup.subgroup`.
---@param condition table|fun(err: any): boolean a class, a list of classes, or a test
---@return perilune.ExceptionGroup?
function ExceptionGroup:subgroup(condition)
  return (divide(self, matcher(condition, "ExceptionGroup.subgroup")))
end

return errors
