--- Argument mistakes, told the same way everywhere:
-- "bad argument #1 to 'sleep' (number expected, got string)".
local errors = require "perilune.errors"

local error, getmetatable, tointeger, tostring, type, unpack =
  error, getmetatable, math.tointeger, tostring, type, table.unpack
local TypeError, ValueError = errors.TypeError, errors.ValueError

local arguments = {}

local function type_name(value)
  local meta = getmetatable(value)
  local name = type(meta) == "table" and meta.__name
  return type(name) == "string" and name or type(value)
end

---Raises the TypeError for an argument of the wrong type.
---@param name string the function's name
---@param position integer
---@param expected string "number", ...
function arguments.wrong_type(name, position, expected, value)
  error(TypeError(("bad argument #%d to '%s' (%s expected, got %s)")
    :format(position, name, expected, type_name(value))))
end

---Raises the ValueError for an argument that has the right type only.
function arguments.wrong_value(name, position, text)
  error(ValueError(("bad argument #%d to '%s' (%s)"):format(position, name, text)))
end

---Tells whether a value can be called.
function arguments.callable(value)
  if type(value) == "function" then return true end
  local meta = getmetatable(value)
  return type(meta) == "table" and meta.__call ~= nil
end

---Raises unless the value is a number and not NaN; `allow_nil` lets nil pass.
function arguments.seconds(name, position, value, allow_nil)
  if value == nil and allow_nil then return end
  if type(value) ~= "number" then
    arguments.wrong_type(name, position, allow_nil and "number or nil" or "number", value)
  end
  if value ~= value then
    arguments.wrong_value(name, position, "NaN (not a number) is no time")
  end
end

---The value as an integer; raises unless it is one.
---@return integer
function arguments.integer(name, position, value)
  local integer = type(value) == "number" and tointeger(value)
  if not integer then arguments.wrong_type(name, position, "integer", value) end
  return integer
end

---Tells whether a value is a plain table: one without a metatable, as lists,
---options and call tables are.
function arguments.plain(value)
  return type(value) == "table" and getmetatable(value) == nil
end

---Raises unless the options are nil or a table with known keys only, so that
---a misspelt option is not passed over in silence.
---@param known table<string, boolean>
function arguments.options(name, position, options, known)
  if options == nil then return end
  if type(options) ~= "table" then
    arguments.wrong_type(name, position, "table of options", options)
  end
  for key in next, options do
    if not known[key] then
      arguments.wrong_value(name, position, ("unknown option %q"):format(tostring(key)))
    end
  end
end

local timeout_only <const> = { timeout = true }

---The timeout among the options of a function that waits on one thing.
---@return number? seconds
function arguments.timeout(name, position, options)
  if options == nil then return nil end
  arguments.options(name, position, options, timeout_only)
  arguments.seconds(name, position, options.timeout, true)
  return options.timeout
end

---The function and arguments of `fn, ...`, where a call table
---`{fn, a, b, n=}` may stand for both. n counts the elements, fn included.
function arguments.call(name, position, fn, ...)
  if type(fn) == "function" then return fn, ... end
  if arguments.plain(fn) and arguments.callable(fn[1]) then
    return unpack(fn, 1, fn.n or #fn)
  end
  if not arguments.callable(fn) then
    arguments.wrong_type(name, position, "function", fn)
  end
  return fn, ...
end

local function apply(fn, ...)
  return fn(...)
end

---Calls what `arguments.call` finds.
---@async
function arguments.invoke(name, position, fn, ...)
  if type(fn) == "function" then return fn(...) end
  return apply(arguments.call(name, position, fn, ...))
end

return arguments
