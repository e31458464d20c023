-- Queues with waiters who are woken and then cancelled, robbed or shut out: nothing is lost,
-- the turn goes to the next, a robbed getter queues again at the end.
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

local function user(tag, fn, ...)
  return peri.create_task(function(...)
    local ok, x = pcall(fn, ...)
    say(tag, ok and "got" or "raised", x)
  end, ...)
end

local function drain(tasks)
  for _, task in ipairs(tasks) do task:await() end
end

-- Woken, then cancelled: the item is for the next getter.
local q = peri.Queue()
local a, b = user("a", q.get, q), user("b", q.get, q)
spin(1)
q:put_nowait "item"
a:cancel "woken"
drain { a, b }

-- Robbed: it waits again, behind the other.
local c, d = user("c", q.get, q), user("d", q.get, q)
spin(1)
q:put_nowait "stolen"
say("thief got", q:get_nowait())
spin(1)
q:put_nowait "first"
q:put_nowait "second"
drain { c, d }

-- A putter that was woken and is cancelled passes the room on.
local small = peri.Queue(1)
small:put_nowait(1)
local e, f = user("e", small.put, small, 2), user("f", small.put, small, 3)
spin(1)
say("took", small:get_nowait())
e:cancel "woken"
drain { e, f }
say("size", small:qsize(), small:get_nowait())

-- Shut down at once: items are dropped, and all waiters told.
small:task_done()
small:task_done()
small:put_nowait(4)
local g, h = user("g", small.put, small, 5), user("h", small.join, small)
spin(1)
small:shutdown { immediate = true }
say("size", small:qsize())
drain { g, h }
attempt("get after", small.get, small)
attempt("put after", small.put, small, 6)

-- Shut down in order: what is inside may still be taken.
local last = peri.PriorityQueue()
local i = user("i", last.get, last)
spin(1)
for _, n in ipairs { 3, 1, 2 } do last:put_nowait(n) end
last:shutdown()
drain { i }
say("got", last:get(), last:get_nowait())
attempt("get of nothing", last.get, last)
attempt("one mark too many", function()
  for _ = 1, 4 do last:task_done() end
end)
