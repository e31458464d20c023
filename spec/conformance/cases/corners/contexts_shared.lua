-- A context that several tasks and callbacks run in: what one sets the next one sees; a
-- task's own as a value; where a token may be used.
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

local var = peri.ContextVar("var", 0)
local loop = peri.get_running_loop()

local function add(n)
  var:set(var:get() + n)
  return var:get()
end

local shared = peri.copy_context()
local tasks = {}
for i = 1, 3 do tasks[i] = peri.create_task { add, i, context = shared } end
for _, task in ipairs(tasks) do say("task", task:await()) end
loop:call_soon { function(n) say("callback", add(n)) end, 10, context = shared }
local future = peri.Future()
future:add_done_callback(function() say("done callback", add(100)) end, { context = shared })
future:set_result()
loop:call_soon(function() say("its own", add(1000)) end)
spin(1)
say("shared", shared:get(var), "here", var:get())

local worker = peri.create_task(function()
  add(1)
  peri.sleep(0)
  peri.create_task(function() say("child", add(5)) end)
  add(1)
  peri.sleep(0)
end)
local own = worker:get_context()
say("before", own:get(var, "nothing"))
spin(1)
say("first step", own:get(var))
worker:await()
say("after", own:get(var), own:run(var.get, var))

local token = var:set "here"
attempt("elsewhere", peri.await, peri.create_task(var.reset, var, token))
attempt("in a copy", peri.await, peri.call(function()
  peri.copy_context():run(var.reset, var, token)
end))
var:reset(token)
say("reset", var:get())
attempt("twice", peri.await, peri.call(var.reset, var, token))
token = peri.create_task { var.set, var, "shared", context = shared }:await()
say("shared", shared:get(var))
peri.create_task { var.reset, var, token, context = shared }:await()
say("shared", shared:get(var))
attempt("entered twice", peri.await, peri.call(function()
  shared:run(shared.run, shared, say, "never")
end))
attempt("one's own", peri.await, peri.call(function()
  peri.current_task():get_context():run(say, "never")
end))
