-- What is due in one trip: callbacks run in it, a sleeping task goes on in the next, and so
-- a timeout still finds it asleep. What is overdue longest comes first.
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

-- Says what fn returns or raises.
local function attempt(tag, fn, ...)
  local ok, x = pcall(fn, ...)
  say(tag, ok and "returned" or "raised", x)
end

local loop = peri.get_running_loop()

local function sleeper(tag)
  peri.sleep(0.01)
  say(tag, "slept")
  return tag
end

-- Keeps the loop from looking at the time.
local function block(seconds)
  local begin = loop:time()
  while loop:time() - begin < seconds do end
end

local a = peri.create_task(sleeper, "a")
local b = peri.create_task(sleeper, "b")
peri.sleep(0)
loop:call_later(0.01, say, "callback")
local waiter = peri.create_task(attempt, "wait_for", peri.wait_for, b, 0.01)
peri.sleep(0)
loop:call_later(0, say, "due now")
loop:call_later(-1, say, "overdue")
loop:call_soon(say, "soon")
block(0.03)
a:await()
waiter:await()
say("b cancelled:", b:cancelled())
