-- A waiter of a condition that is cancelled while it takes the lock back: it gets the lock
-- first, the last cancellation is what it raises, its notification goes to another.
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

local cond = peri.Condition()

local function waiter(tag)
  local _ <close> = cond:guard()
  local ok, e = pcall(cond.wait, cond)
  say(tag, ok and "notified" or "raised", ok or e, "locked", cond:locked())
  spin(1)
end

local function holder(n)
  local _ <close> = cond:guard()
  cond:notify(1)
  say "notified one, keeps the lock"
  spin(n)
  say "lets go"
end

local a = peri.create_task(waiter, "a")
local b = peri.create_task(waiter, "b")
local c = peri.create_task(waiter, "c")
spin(1)
local h = peri.create_task(holder, 4)
spin(3)
a:cancel "one"
spin(1)
a:cancel "two"
h:await()
a:await()
b:await()
say("c done:", c:done())
-- Cancelled while it waits to be notified: nothing is lost.
c:cancel "three"
spin(1)
c:await()
say("locked", cond:locked())

-- A notification that comes with the cancellation goes on, too.
local d = peri.create_task(waiter, "d")
local e = peri.create_task(waiter, "e")
spin(1)
cond:acquire()
cond:notify(1)
d:cancel "with it"
cond:release()
d:await()
e:await()
attempt("not acquired", cond.wait, cond)
