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
  families[class], parents[class], by_name[name] = family, parent, class
  setmetatable(class, Class)
  register_error(name, class, parent)
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

---What every error of the runtime is.
---@class perilune.BaseError
---@field message string what went wrong, "" if nothing was said
---@field cause any the error that led to this one
---@field traceback string? the stacks it passed, innermost first
---@operator concat(any): string
---@overload fun(message?: any, fields?: table): perilune.BaseError

---The class with a name, or nil.
---@param name string
function errors.find(name) return by_name[name] end

---The class that a class extends, or nil.
---@param class table
function errors.parent(class) return parents[class] end

local BaseError = define("BaseError")
local Error = define("Error", BaseError)
local RuntimeError = define("RuntimeError", Error)
local LookupError = define("LookupError", Error)
local OSError = define("OSError", Error)
local EOFError = define("EOFError", Error)
local BrokenExecutor = define("BrokenExecutor", RuntimeError)
local ExceptionGroup = define("ExceptionGroup", Error)

errors.BaseError, errors.Error = BaseError, Error
errors.CancelledError = define("CancelledError", BaseError)
errors.TimeoutError = define("TimeoutError", Error, OSError)
errors.InvalidStateError = define("InvalidStateError", Error)
errors.ValueError = define("ValueError", Error)
errors.TypeError = define("TypeError", Error)
errors.LookupError = LookupError
errors.IndexError = define("IndexError", LookupError)
errors.NotImplementedError = define("NotImplementedError", Error)
errors.QueueEmpty = define("QueueEmpty", Error)
errors.QueueFull = define("QueueFull", Error)
errors.QueueShutDown = define("QueueShutDown", Error)
errors.ExceptionGroup = ExceptionGroup
errors.RuntimeError = RuntimeError
errors.BrokenBarrierError = define("BrokenBarrierError", RuntimeError)
errors.DeadlockError = define("DeadlockError", RuntimeError)
errors.BrokenExecutor = BrokenExecutor
errors.BrokenThreadPool = define("BrokenThreadPool", BrokenExecutor)
errors.BrokenProcessPool = define("BrokenProcessPool", BrokenExecutor)
errors.EOFError = EOFError
errors.IncompleteReadError = define("IncompleteReadError", EOFError)
errors.LimitOverrunError = define("LimitOverrunError", Error)
errors.OSError = OSError

-- Exception groups --------------------------------------------------------

function ExceptionGroup.__tostring(group)
  local text, list = describe(group), group.exceptions
  if not list or #list == 0 then return text end
  return ("%s (%d sub-exception%s)"):format(text, #list, #list == 1 and "" or "s")
end

-- A group like this one around other errors; nil around none.
local function derive(group, exceptions)
  if #exceptions == 0 then return nil end
  if #exceptions == #group.exceptions then
    local same = true
    for i = 1, #exceptions do same = same and exceptions[i] == group.exceptions[i] end
    if same then return group end
  end
  return getmetatable(group)(group.message, { exceptions = exceptions, cause = group.cause })
end

local function divide(group, matches)
  if matches(group) then return group, nil end
  local chosen, rest = {}, {}
  for _, err in ipairs(group.exceptions) do
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
