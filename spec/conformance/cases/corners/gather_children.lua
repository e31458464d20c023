-- gather of the same child twice, of children that are done, failed or cancelled before, of
-- a shield, inside wait_for; and the trip in which its awaiter goes on.
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

local function job(tag, n)
  local ok, e = pcall(spin, n)
  if ok then
    say(tag, "done")
    return tag
  end
  say(tag, "caught", e)
  error(e, 0)
end

local function future(method, value)
  local f = peri.Future()
  f[method](f, value)
  return f
end

local tick = peri.create_task(ticker, 9)
local twice = peri.create_task(job, "twice", 1)
attempt("twice", peri.await, peri.gather(twice, peri.call(job, "other", 2), twice))
local done = future("set_result", "done")
attempt("all done", peri.await, peri.gather(done, done))
attempt("cancelled before", peri.await,
  peri.gather(done, future("cancel", "gone"), peri.call(job, "runs on", 1)))
attempt("returned", peri.await, peri.gather({
  done, future("cancel"), future("set_exception", peri.ValueError "no"), peri.call(job, "last", 1),
}, { return_exceptions = true }))
tick:await()

local inner = peri.create_task(job, "inner", 12)
tick = peri.create_task(ticker, 8)
attempt("wait_for", peri.wait_for, peri.gather(peri.shield(inner), peri.call(job, "bare", 9)), 0)
say("inner done:", inner:done())
tick:await()
inner:await()
