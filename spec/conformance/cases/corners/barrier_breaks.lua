-- A barrier that is reset while tasks wait and others arrive, loses one to a cancellation,
-- and is broken and mended.
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

local barrier = peri.Barrier(3)

local function party(tag)
  local ok, e = pcall(barrier.wait, barrier)
  say(tag, ok and "passes as" or "raised", e, "waiting", barrier.n_waiting, "broken", barrier.broken)
end

local function parties(...)
  local list = { ... }
  for i, tag in ipairs(list) do list[i] = peri.create_task(party, tag) end
  return list
end

local first = parties("a", "b")
spin(2)
say("waiting", barrier.n_waiting)
local reset = peri.create_task(function()
  barrier:reset()
  say "reset"
end)
local second = parties("c", "d", "e")
peri.wait(first)
peri.wait(second)
reset:await()

-- One that is cancelled does not count any more.
local third = parties("f", "g")
spin(2)
third[1]:cancel "gone"
spin(3)
say("waiting", barrier.n_waiting)
local fourth = parties("h", "i")
peri.wait(third)
peri.wait(fourth)

local fifth = parties("j", "k")
spin(2)
barrier:abort()
peri.wait(fifth)
attempt("while broken", barrier.wait, barrier)
barrier:reset()
say("waiting", barrier.n_waiting, "broken", barrier.broken)
local sixth = parties("l", "m", "n")
peri.wait(sixth)
