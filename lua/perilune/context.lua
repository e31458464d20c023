--- Context variables.
--
-- The current context is one immutable table, variable to value; C keeps it
-- with the task (or the callback) that runs and hands it on by reference where
-- Python copies. So a task's start costs nothing, a `set` copies the table, and
-- what one side sets later the other never sees. Only where a script can tell,
-- because it has the context as a value (`ctx:run`, `context=`,
-- `task:get_context()`), does a Context object stand in its place: then `set`
-- gives that another table.
local core = require "perilune._core"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"

local error, getmetatable, next, select, setmetatable, tostring, type =
  error, getmetatable, next, select, setmetatable, tostring, type
local context_get, context_set = core.context_get, core.context_set
local current_task, task_context = core.current_task, core.task_context

---A context as a value: what every variable was when it was copied, and what
---has been set in it since. C looks at its `__name` and its `_map`.
---@class perilune.Context
local Context = { __name = "Context", __module = "perilune" }
Context.__index = Context

-- Stands for nil, which a table cannot hold as a value.
local NIL <const> = {}

local function new_context(map, task)
  return setmetatable({
    _map = map,
    _entered = false, -- by `run`
    _task = task,     -- of which it is the own context
  }, Context)
end

-- The table of the current context, and the Context that has it, if one has.
local function current()
  local map = context_get()
  if getmetatable(map) == Context then return map._map, map end
  return map, nil
end

-- By what tokens tell whether they are back where they were made. A task's own
-- context becomes a Context only when somebody asks for it.
local function home(entered)
  return entered and (entered._task or entered) or current_task()
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
ContextVar.__name, ContextVar.__module = "ContextVar", "perilune"

function ContextVar:__tostring()
  return ("ContextVar: %s"):format(self.name)
end

---Undoes one `ContextVar:set`.
---@class perilune.Token
---@field var perilune.ContextVar
local Token = { __name = "Token", __module = "perilune" }

---The variable's value in the current context; without one, the default given
---here, or else the variable's own.
---
---Raises LookupError if there is neither value nor default.
---
---Python: `ContextVar.get`.
---@param ... any at most one default
---@return any
function ContextVar:get(...)
  local map = current()
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
  local map, entered = current()
  if value == nil then value = NIL end
  local changed = with(map, self, value)
  local token = setmetatable({
    var = self,
    _old = map and map[self],
    _home = home(entered) or false,
    _used = false,
  }, Token)
  -- Nothing is changed before all that needs memory is there.
  if entered then
    entered._map = changed
  elseif token._home then
    context_set(changed)
  else -- a callback: nothing else tells one from the other
    token._home = new_context(changed)
    context_set(token._home)
  end
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
  local map, entered = current()
  if token._home ~= home(entered) then
    arguments.wrong_value("ContextVar.reset", 1, "the token was made in another context")
  end
  local restored = with(map, self, token._old)
  token._used = true
  if entered then entered._map = restored else context_set(restored) end
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

-- Leaves the context: an error, a cancellation or a kill may pass by, and want
-- of memory, for which it is C.
local Visit = { __close = core.context_leave }

---Calls a function in the context. What it sets stays in the context, and is
---not seen outside. The function may wait.
---
---Raises RuntimeError if the context is entered already, or that of the task.
---
---Python: `Context.run`.
---@param fn function|table the function, or a call table
---@param ... any its arguments
---@return any ...
---@async
function Context:run(fn, ...)
  local outer = context_get()
  if self._entered or outer == self then
    error(errors.RuntimeError("cannot enter context: " .. tostring(self) .. " is already entered"))
  end
  local _ <close> = setmetatable({ context = self, outer = outer }, Visit)
  self._entered = true
  context_set(self)
  return arguments.invoke("Context.run", 1, fn, ...)
end

---The value of a variable in the context, or else the default given here.
---
---Python: `Context.get`.
---@param var perilune.ContextVar
---@param default any
---@return any
function Context:get(var, default)
  local value = self._map and self._map[var]
  if value == nil then return default end
  if value == NIL then return nil end
  return value
end

---Another context with the same values.
---@return perilune.Context
function Context:copy()
  return new_context(self._map)
end

---A copy of the current context.
---
---Python: `contextvars.copy_context`.
---@return perilune.Context
function context.copy_context()
  return new_context((current()))
end

---The context of a task itself: what `task:get_context()` gives.
---@param task perilune.Task
---@return perilune.Context
function context.of(task)
  local map = task_context(task)
  if getmetatable(map) == Context then return map end
  return task_context(task, new_context(map, task))
end

return context
