-- Scopes in scopes with a cancellation from outside, before and after their deadlines; moved
-- deadlines; a body that swallows, and one that asks for no more.
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

local function count(tag)
  say(tag, "count", peri.current_task():cancelling())
end

-- Both deadlines in one trip: the scopes cancel twice, each takes back one.
attempt("both", function()
  local outer <close> = peri.timeout(0)
  attempt("inner", function()
    local inner <close> = peri.timeout(0)
    peri.sleep(10)
  end)
  count "between"
  attempt("next wait", peri.sleep, 0)
  say("outer expired:", outer:expired())
end)
count "after both"

-- From outside in the same trip: it stays a cancellation.
local task = peri.create_task(function()
  attempt("limited", function()
    local _ <close> = peri.timeout(0)
    peri.sleep(10)
  end)
  count "limited"
  peri.current_task():uncancel()
  attempt("goes on", peri.sleep, 0)
end)
spin(1)
task:cancel "outside"
attempt("task", task.await, task)

-- The body swallows: no TimeoutError, the count is as before.
attempt("swallows", function()
  local scope <close> = peri.timeout(0)
  pcall(peri.sleep, 10)
  count "swallowed"
  say("expired:", scope:expired())
  attempt("reschedule", scope.reschedule, scope, nil)
  return "no error"
end)
count "after"

-- Another error of the body goes through.
attempt("raises", function()
  local _ <close> = peri.timeout(0)
  pcall(peri.sleep, 10)
  error(peri.ValueError "mine")
end)

-- Moved away, and taken away.
attempt("moved", function()
  local loop = peri.get_running_loop()
  local scope <close> = peri.timeout(0)
  scope:reschedule(loop:time() + 10)
  spin(2)
  scope:reschedule(nil)
  say("when:", scope:when(), scope:expired())
  scope:reschedule(loop:time() - 1)
  peri.sleep(10)
end)
count "end"
