-- Task groups in task groups: how their errors nest, who is cancelled when, and what is left
-- of a cancellation from outside that comes with an error.
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

local function child(tag, n, ends)
  local ok, e = pcall(spin, n)
  if not ok then
    say(tag, "caught", e)
    error(e, 0)
  end
  say(tag, ends and "fails" or "done")
  if ends then error(peri.ValueError(tag)) end
end

local function count(tag)
  say(tag, "count", peri.current_task():cancelling())
end

-- A failing grandchild ends the inner group, whose error ends the outer one.
attempt("nested", function()
  local outer <close> = peri.TaskGroup()
  outer:create_task(child, "sibling", 20)
  local ok, e = pcall(function()
    local inner <close> = peri.TaskGroup()
    inner:create_task(child, "grandchild", 2, true)
    inner:create_task(child, "its sibling", 20)
    spin(20)
  end)
  say("inner", ok, e)
  count "between"
  if not ok then error(e, 0) end
end)
count "after"

-- Cancelled from outside while a child fails: the errors come first, the cancellation at
-- the next wait.
local task = peri.create_task(function()
  attempt("group", function()
    local group <close> = peri.TaskGroup()
    group:create_task(function()
      local ok = pcall(spin, 20)
      say("fails while it is cancelled", ok)
      error(peri.ValueError "late")
    end)
    spin(20)
  end)
  count "then"
  attempt("next wait", peri.sleep, 0)
  count "and then"
end)
spin(3)
task:cancel "from outside"
attempt("task", task.await, task)

-- An error of the block, one of a child that swallows nothing, and one that comes late.
attempt("block", function()
  local group <close> = peri.TaskGroup()
  group:create_task(child, "a", 1, true)
  group:create_task(function()
    pcall(spin, 20)
    spin(1)
    attempt("no more tasks", group.create_task, group, child, "never", 0)
    error(peri.ValueError "b")
  end)
  spin(1)
  error(peri.ValueError "block")
end)
count "end"
