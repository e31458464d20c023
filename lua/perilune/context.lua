--- Context variables.
--
-- The current context is one immutable table, variable to value; C keeps it
-- with the task (or the callback) that runs and hands it on by reference where
-- Python copies. So a task's start costs nothing, a `set` copies the table, and
-- what one side sets later the other never sees.
local core = require "perilune._core"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"

local error, getmetatable, next, select, setmetatable, tostring, type =
  error, getmetatable, next, select, setmetatable, tostring, type
local context_get, context_set = core.context_get, core.context_set
local current_task = core.current_task

---A context as a value: what every variable was when it was copied, and what
---`run` has made of it since.
---@class perilune.Context
local Context = { __name = "Context" }
Context.__index = Context

-- Stands for nil, which a table cannot hold as a value.
local NIL <const> = {}

-- The key under which a context's table names the Context object that `run`
-- entered: tokens tell by it, and by the task, whether they are back where
-- they were made.
local ENTERED <const> = {}

-- The table of the current context. A task that was created with `context=` has
-- the Context itself there, until it sets something.
local function current_map()
  local map = context_get()
  if getmetatable(map) == Context then map = map._map end
  return map
end

local function with(map, key, value)
  local copy = {}
  if map then
    for k, v in next, map do copy[k] = v end
  end
  copy[key] = value
  return copy
end

-- Context variables -------------------------------------------------------

---A variable with one value per task.
---@class perilune.ContextVar
---@field name string
local ContextVar = {}
ContextVar.__index = ContextVar
ContextVar.__name = "ContextVar"

function ContextVar:__tostring()
  return ("ContextVar: %s"):format(self.name)
end

---Undoes one `ContextVar:set`.
---@class perilune.Token
---@field var perilune.ContextVar
local Token = { __name = "Token" }

---The variable's value in the current context; without one, the default given
---here, or else the variable's own.
---
---Raises LookupError if there is neither value nor default.
---
---Python: `ContextVar.get`.
---@param ... any at most one default
---@return any
function ContextVar:get(...)
  local map = current_map()
  local value = map and map[self]
  if value ~= nil then
    if value == NIL then return nil end
    return value
  end
  if select("#", ...) > 0 then return (...) end
  if self._has_default then return self._default end
  error(errors.LookupError(("context variable '%s' has no value"):format(self.name)))
end

---Gives the variable a value in the current context.
---
---Python: `ContextVar.set`.
---@param value any
---@return perilune.Token token for `reset`
function ContextVar:set(value)
  local map = current_map()
  local token = setmetatable({
    var = self,
    _old = map and map[self],
    _entered = map and map[ENTERED],
    _task = current_task(),
  }, Token)
  if value == nil then value = NIL end
  context_set(with(map, self, value))
  return token
end

---Gives the variable back the value it had before the `set` that made the
---token.
---
---Raises RuntimeError if the token was used before, and ValueError if it was
---made by another variable or in another context.
---
---Python: `ContextVar.reset`.
---@param token perilune.Token
function ContextVar:reset(token)
  if getmetatable(token) ~= Token then
    arguments.wrong_type("ContextVar.reset", 1, "token", token)
  end
  if token._used then
    error(errors.RuntimeError "the token has been used before")
  end
  if token.var ~= self then
    arguments.wrong_value("ContextVar.reset", 1,
      ("the token is of context variable '%s'"):format(token.var.name))
  end
  local map = current_map()
  if token._task ~= current_task() or token._entered ~= (map and map[ENTERED]) then
    arguments.wrong_value("ContextVar.reset", 1, "the token was made in another context")
  end
  token._used = true
  context_set(with(map, self, token._old))
end

local context = {}

---Makes a context variable. Make them at module level: a context keeps alive
---what is in it.
---
---Python: `contextvars.ContextVar`, differs in that the default is the second
---argument; a nil given as such is a default, too.
---@param name string
---@param ... any at most one default
---@return perilune.ContextVar
function context.ContextVar(name, ...)
  if type(name) ~= "string" then
    arguments.wrong_type("ContextVar", 1, "string", name)
  end
  local has_default = select("#", ...) > 0
  return setmetatable({
    name = name,
    _has_default = has_default,
    _default = (...),
  }, ContextVar)
end

-- Contexts ----------------------------------------------------------------

-- Leaves the context: an error, a cancellation or a kill may pass by.
local Visit = {}

function Visit:__close()
  local ctx = self.context
  ctx._map = current_map()
  ctx._entered = false
  context_set(self.outer)
end

---Calls a function in the context. What it sets stays in the context, and is
---not seen outside. The function may wait.
---
---Raises RuntimeError if the context is entered already.
---
---Python: `Context.run`.
---@param fn function|table the function, or a call table
---@param ... any its arguments
---@return any ...
---@async
function Context:run(fn, ...)
  if self._entered then
    error(errors.RuntimeError("cannot enter context: " .. tostring(self) .. " is already entered"))
  end
  local _ <close> = setmetatable({ context = self, outer = context_get() }, Visit)
  self._entered = true
  context_set(with(self._map, ENTERED, self))
  return arguments.invoke("Context.run", 1, fn, ...)
end

---The value of a variable in the context, or else the default given here.
---
---Python: `Context.get`.
---@param var perilune.ContextVar
---@param default any
---@return any
function Context:get(var, default)
  local map = current_map()
  if not map or map[ENTERED] ~= self then map = self._map end
  local value = map and map[var]
  if value == nil then return default end
  if value == NIL then return nil end
  return value
end

---Another context with the same values.
---@return perilune.Context
function Context:copy()
  return setmetatable({ _map = self._map, _entered = false }, Context)
end

---A copy of the current context.
---
---Python: `contextvars.copy_context`.
---@return perilune.Context
function context.copy_context()
  return setmetatable({ _map = current_map(), _entered = false }, Context)
end

---A Context of what C keeps for a task: what `task:get_context()` gives.
---@param map table?
---@return perilune.Context
function context.wrap(map)
  if getmetatable(map) == Context then return map end
  return setmetatable({ _map = map, _entered = false }, Context)
end

return context
