-- Which message a CancelledError has: of two cancels before the task runs, through tasks,
-- gathers and shields, and where a task cancels itself.
local peri = require "perilune"

local function show(x)
  if peri.CancelledError:is(x) then return "CancelledError(" .. x.message .. ")" end
  if peri.ExceptionGroup:is(x) then
    local t = {}
    for i, e in ipairs(x.exceptions) do t[i] = show(e) end
    return "ExceptionGroup(" .. table.concat(t, ", ") .. ")"
  end
  if peri.ValueError:is(x) and x.message:find "^%a+$" then return "ValueError(" .. x.message .. ")" end
  if peri.Error:is(x) then return (tostring(x):match "^%w+") end
  if type(x) ~= "table" or getmetatable(x) then return tostring(x) end
  local t = {}
  for i = 1, x.n or #x do t[i] = show(x[i]) end
  return "[" .. table.concat(t, ", ") .. "]"
end

local function say(...)
  local t = table.pack(...)
  for i = 1, t.n do t[i] = show(t[i]) end
  print(table.concat(t, " "))
end

local function spin(n)
  for _ = 1, n do peri.sleep(0) end
end

-- Says what fn returns or raises.
local function attempt(tag, fn, ...)
  local ok, x = pcall(fn, ...)
  say(tag, ok and "returned" or "raised", x)
end

local function waiting(tag, fn, ...)
  return peri.create_task(function(...)
    local ok, e = pcall(fn, ...)
    say(tag, ok and "returned" or "caught", e)
    if not ok then error(e, 0) end
  end, ...)
end

local function twice(tag, fn, ...)
  local task = waiting(tag, fn, ...)
  spin(3)
  task:cancel "first"
  task:cancel "second"
  attempt(tag .. " awaited", task.await, task)
  say(tag, "count", task:cancelling())
end

twice("sleep", peri.sleep, 10)
twice("future", peri.await, peri.Future())
twice("gather", peri.await, peri.gather(peri.Future(), peri.Future()))
twice("shield", peri.await, peri.shield(peri.Future()))
local lock = peri.Lock()
lock:acquire()
twice("lock", lock.acquire, lock)

local ready = waiting("ready", spin, 10)
spin(1)
ready:cancel "first"
ready:cancel "second"
attempt("ready awaited", ready.await, ready)

local inner = waiting("inner", peri.sleep, 10)
local outer = waiting("outer", inner.await, inner)
spin(2)
outer:cancel "through"
attempt("outer awaited", outer.await, outer)

local itself = waiting("itself", function()
  peri.current_task():cancel "by itself"
  say "goes on"
  peri.sleep(10)
end)
attempt("itself awaited", itself.await, itself)

local late = peri.create_task(function()
  peri.current_task():cancel "too late"
  return "dropped"
end)
attempt("late", late.await, late)
