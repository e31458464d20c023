-- With the eager task factory: gather, TaskGroup, wait, as_completed, shield and wait_for, whose
-- children may be done before anybody waits, or end each other.
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

local function ticker(n)
  for i = 1, n do
    say("trip", i)
    peri.sleep(0)
  end
end

local loop = peri.get_running_loop()

local function job(tag, n, err)
  say(tag, "starts")
  spin(n)
  say(tag, "ends")
  if err then error(peri.ValueError(tag)) end
  return tag
end

loop:set_task_factory(peri.eager_task_factory)
local tick = peri.create_task(ticker, 30)

local gather = peri.gather(peri.call(job, "a", 0), peri.call(job, "b", 0))
say("gather done:", gather:done(), gather:await())
local future = peri.Future()
gather = peri.gather(future, function()
  future:set_result "by the child"
  return "child"
end)
say("gather done:", gather:done(), gather:await())
attempt("failing", peri.await, peri.gather(peri.call(job, "c", 0, true), peri.call(job, "d", 1)))

attempt("group", function()
  local group <close> = peri.TaskGroup()
  local e = group:create_task(job, "e", 0)
  say("e done:", e:done())
  group:create_task(job, "f", 1)
  group:create_task(job, "g", 0, true)
  say "not interrupted before it waits"
  spin(3)
end)

local h, i = peri.create_task(job, "h", 0), peri.create_task(job, "i", 6)
local done, pending = peri.wait({ i, h }, { return_when = peri.FIRST_COMPLETED })
say("wait", #done, #pending)
for task in peri.as_completed { i, h } do say("completed", task:result()) end
say("shield", peri.shield(peri.call(job, "j", 0)):done())
attempt("wait_for", peri.wait_for, peri.call(job, "k", 0), 0)
attempt("wait_for", peri.wait_for, peri.call(job, "l", 3), 0)
tick:await()
