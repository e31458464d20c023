--- Debug mode's report of what a job has written in vain. Private to the library.
--
-- A job works on copies: what its function, or one that it can reach through
-- upvalues or got as an argument, assigns to an upvalue stays in the worker, and
-- the next job's copies do not have it. C calls the functions of jobs through
-- `call` when their worker is in debug mode.
local debug, rawequal, select, setmetatable, type = debug, rawequal, select, setmetatable, type

local lost = {}

-- Adds the upvalues of a function, and of those among them, to the list.
local function note(list, fn)
  if list[fn] then return end
  list[fn] = true
  local i = 1
  repeat
    local name, value = debug.getupvalue(fn, i)
    local id = name and name ~= "_ENV" and debug.upvalueid(fn, i)
    if id and not list[id] then
      list[id] = true
      list[#list + 1] = { fn = fn, index = i, name = name, value = value }
      if type(value) == "function" then note(list, value) end
    end
    i = i + 1
  until not name
end

local function same(a, b)
  return rawequal(a, b) or a ~= a and b ~= b
end

local Scope = {}

function Scope:__close(err) -- luacheck: no unused args
  for _, upvalue in ipairs(self) do
    local _, value = debug.getupvalue(upvalue.fn, upvalue.index)
    if not same(value, upvalue.value) then
      local info = debug.getinfo(upvalue.fn, "S")
      require "perilune.log".warning(
        "change to upvalue '%s' is lost: the function at %s:%d is a copy, and so are its upvalues",
        upvalue.name, info.short_src, info.linedefined)
    end
  end
end

---Calls the function of a job and warns of what it has changed in vain.
---@param fn any
---@param ... any
---@return any ...
---@async
function lost.call(fn, ...)
  local scope <close> = setmetatable({}, Scope)
  if type(fn) == "function" then note(scope, fn) end
  for i = 1, select("#", ...) do
    local arg = select(i, ...)
    if type(arg) == "function" then note(scope, arg) end
  end
  return fn(...)
end

return lost
