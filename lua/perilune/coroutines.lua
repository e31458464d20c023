--- Coroutine objects: calls that have not begun.
local core = require "perilune._core"
local arguments = require "perilune.arguments"

local setmetatable = setmetatable
local call = core.call

-- The functions that `async` made. Weak, so that they can go.
local async_functions = setmetatable({}, { __mode = "k" })

local coroutines = {
  call = call,
  iscoroutine = core.iscoroutine,
  isfuture = core.isfuture,
}

---Makes of a function one that, when called, does not run but gives a
---coroutine object of the call, to be awaited or made a task.
---
---Python: `async def`. Perilune needs it for such objects only: any function
---may wait.
---@param fn function
---@return fun(...): perilune.Coroutine
function coroutines.async(fn)
  if not arguments.callable(fn) then
    arguments.wrong_type("async", 1, "function", fn)
  end
  local function async_function(...)
    return call(fn, ...)
  end
  async_functions[async_function] = true
  return async_function
end

---Tells whether a value is a function that `async` made.
---
---Python: `inspect.iscoroutinefunction`.
---@param value any
---@return boolean
function coroutines.iscoroutinefunction(value)
  return value ~= nil and async_functions[value] == true
end

return coroutines
