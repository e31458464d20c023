-- Errors, contexts, coroutines, protected calls, the log.
local kit, case = ...
local peri = require "perilune"
local log = require "perilune.log"
local same, settle = kit.same, kit.settle

-- Errors ------------------------------------------------------------------------------

case("the error classes", {
  covers = {
    "BaseError", "BrokenBarrierError", "BrokenExecutor", "BrokenProcessPool", "BrokenThreadPool",
    "CancelledError", "DeadlockError", "EOFError", "Error", "ExceptionGroup",
    "IncompleteReadError", "IndexError", "InvalidStateError", "LimitOverrunError", "LookupError",
    "NotImplementedError", "OSError", "QueueEmpty", "QueueFull", "QueueShutDown", "RuntimeError",
    "TimeoutError", "TypeError", "ValueError",
  },
  call = function()
    local err = peri.ValueError("boom", { code = 5 })
    assert(peri.ValueError:is(err) and not peri.TypeError:is(err))
    return tostring(err) .. tostring(peri.ValueError), err.traceback
  end,
})

-- A class whose making failed can be made again, under the same name.
local made = 0
case("Error:extend", {
  grows = true,
  setup = function(t)
    made = made + 1
    t.name = "OomError" .. made
  end,
  call = function(t) return peri.Error:extend(t.name) end,
  check = function(t, ok, class)
    if not ok then class = peri.Error:extend(t.name) end
    same(t.name, tostring(class()))
    same(true, peri.Error:is(class "x"))
    same("x", select(2, pcall(error, class "x")).message)
  end,
})

case("ExceptionGroup:split", {
  covers = { "ExceptionGroup:subgroup" },
  setup = function(t)
    t.group = peri.ExceptionGroup("several", { exceptions = {
      peri.ValueError "a", "b", peri.ExceptionGroup("inner", { exceptions = {
        peri.ValueError "c", peri.TypeError "d",
      } }),
    } })
  end,
  call = function(t)
    local values, rest = t.group:split(peri.ValueError)
    same(2, #values.exceptions)
    same(2, #rest.exceptions)
    return tostring(t.group:subgroup { peri.TypeError })
  end,
})

case("err.traceback", {
  setup = function(t)
    local _
    _, t.err = pcall(peri.create_task(function() error(peri.ValueError "x") end).await,
      peri.create_task(function() error(peri.ValueError "x") end))
    settle()
    for i = 1, t.reports.n do t.reports[i] = false end
  end,
  call = function(t) return t.err.traceback end,
  reported = function() return true end,
  check = function(_, ok, text) if ok then same("string", type(text)) end end,
})

case("an argument error", {
  call = function() peri.sleep({}) end,
  allow = function(err) return peri.TypeError:is(err) end,
  check = function(_, ok) same(false, ok) end,
})
case("an argument error of the library", {
  call = function() peri.Queue({}) end,
  allow = function(err) return peri.TypeError:is(err) end,
  check = function(_, ok) same(false, ok) end,
})

case("iscancel", {
  setup = function(t) t.err = peri.CancelledError() end,
  call = function(t) return peri.iscancel(t.err) end,
  check = function(_, ok, is) if ok then same(true, is) end end,
})

-- Protected calls ----------------------------------------------------------------------

local function value_of(ok, value)
  if not ok then error(value, 0) end
  return value
end

local function protecting(name, call, covers)
  case(name, {
    covers = covers,
    setup = function(t)
      t.fn = function(...)
        peri.sleep(0.01)
        return ...
      end
      t.boom = function()
        peri.sleep(0)
        error { "boom" }
      end
    end,
    call = call,
    allow = function(err) return type(err) == "table" and err[1] == "boom" end,
  })
end

protecting("peri.pcall", function(t)
  same(5, value_of(peri.pcall(t.fn, 5)))
  local ok, err = peri.pcall(t.boom)
  if not ok then error(err, 0) end
end, { "pcall" })
protecting("peri.xpcall", function(t)
  same(5, value_of(peri.xpcall(t.fn, debug.traceback, 5)))
  local ok, err = peri.xpcall(t.boom, function(e) return e end)
  if not ok then error(err, 0) end
end, { "xpcall" })
protecting("_G.pcall", function(t)
  same(5, value_of(pcall(t.fn, 5)))
  local ok, err = pcall(t.boom)
  if not ok then error(err, 0) end
end)
protecting("_G.xpcall", function(t)
  same(5, value_of(xpcall(t.fn, debug.traceback, 5)))
  local ok, err = xpcall(t.boom, function(e) return e end)
  if not ok then error(err, 0) end
end)

-- Coroutines ------------------------------------------------------------------------------

local function with_coroutine(name, call, check, covers, allow)
  case(name, {
    covers = covers,
    allow = allow,
    setup = function(t)
      t.closed = 0
      t.fn = function(a)
        local _ <close> = setmetatable({}, { __close = function() t.closed = t.closed + 1 end })
        peri.sleep(0.01)
        local b = coroutine.yield(a + 1)
        peri.sleep(0.01)
        return b + 1
      end
    end,
    call = call,
    check = check,
  })
end

with_coroutine("coroutine.create", function(t) return coroutine.create(t.fn) end,
  function(_, ok, co) if ok then same("suspended", coroutine.status(co)) end end)
with_coroutine("coroutine.resume", function(t)
  t.co = coroutine.create(t.fn)
  local ok, a = coroutine.resume(t.co, 1)
  if not ok then error(a, 0) end
  local b
  ok, b = coroutine.resume(t.co, 5)
  if not ok then error(b, 0) end
  return a, b
end, function(t, ok, a, b)
  if ok then
    same(2, a)
    same(6, b)
  elseif t.co then
    coroutine.close(t.co)
  end
end, { "coroutine.yield" })
with_coroutine("coroutine.wrap", function(t)
  local f = coroutine.wrap(t.fn)
  return f(1), f(5)
end, function(_, ok, a, b)
  if ok then
    same(2, a)
    same(6, b)
  end
end)
with_coroutine("coroutine.close", function(t)
  t.co = coroutine.create(t.fn)
  coroutine.resume(t.co, 1)
  return coroutine.close(t.co)
end, function(t)
  if t.co then
    coroutine.close(t.co)
    same("dead", coroutine.status(t.co))
  end
end)
with_coroutine("coroutine.status", function(t)
  local co = coroutine.running()
  return coroutine.status(co), coroutine.isyieldable(), t
end, nil, { "coroutine.running", "coroutine.isyieldable" })
with_coroutine("coroutine.resume, of many values", function()
  local co = coroutine.create(function(...)
    peri.sleep(0)
    return ...
  end)
  return select("#", coroutine.resume(co, table.unpack({}, 1, 200)))
end, nil, nil, function(err)
  return tostring(err):find "too many results to unpack" ~= nil
end)

-- defer ----------------------------------------------------------------------------------------

case("defer", {
  setup = function(t)
    t.ran = 0
    t.fn = function(n)
      peri.sleep(0)
      t.ran = t.ran + n
    end
  end,
  call = function(t)
    local _ <close> = peri.defer(t.fn, 3)
    t.made = true
  end,
  check = function(t, ok) if ok then same(3, t.ran) end end,
})

-- Contexts ----------------------------------------------------------------------------------------

case("ContextVar", {
  call = function() return tostring(peri.ContextVar("v", 1)) end,
})

local function with_context(name, call, check, covers)
  case(name, {
    covers = covers,
    setup = function(t)
      t.var, t.other = peri.ContextVar("v", 0), peri.ContextVar "w"
      t.var:set(1)
      t.ctx = peri.copy_context()
    end,
    call = call,
    check = function(t, ok, ...)
      if check then check(t, ok, ...) end
      t.ctx:run(function()
        same(1, t.var:get())
        t.var:set(9)
      end)
    end,
  })
end

with_context("ContextVar:get", function(t) return t.var:get() + t.other:get(5) end,
  function(_, ok, value) if ok then same(6, value) end end)
with_context("ContextVar:set", function(t) t.var:set(2) end,
  function(t, ok) same(ok and 2 or 1, t.var:get()) end)
with_context("ContextVar:reset", function(t)
  t.token = t.token or t.var:set(2)
  t.var:reset(t.token)
end, function(t, ok)
  if not ok and t.token then
    same(2, t.var:get())
    t.var:reset(t.token)
  end
  same(1, t.var:get())
end)
with_context("copy_context", function() return peri.copy_context() end,
  function(t, ok, ctx) if ok then same(1, ctx:get(t.var)) end end)
with_context("Context:run", function(t)
  return t.ctx:run(function(x)
    t.other:set(x)
    peri.sleep(0)
    return t.other:get()
  end, 5)
end, function(t, ok, value)
  if ok then same(5, value) end
  same(7, t.other:get(7), "what is not seen outside")
  same(1, t.var:get())
end)
with_context("Context:get", function(t) return t.ctx:get(t.var) end,
  function(_, ok, value) if ok then same(1, value) end end)
with_context("Context:copy", function(t) return t.ctx:copy():get(t.var) end,
  function(_, ok, value) if ok then same(1, value) end end)
with_context("a task in a context", function(t)
  return peri.create_task({ function()
    peri.sleep(0)
    return t.var:get()
  end, context = t.ctx }):await()
end, function(_, ok, value) if ok then same(1, value) end end)

-- Log -----------------------------------------------------------------------------------------------

local function logging(name, call, covers)
  case(name, {
    covers = covers,
    setup = function(t)
      t.lines = 0
      log.set_handler(function() t.lines = t.lines + 1 end)
      t.logger = { log = function() t.lines = t.lines + 1 end }
    end,
    call = call,
    check = function()
      log.set_handler(nil)
      log.set_level "WARNING"
    end,
  })
end

for _, level in ipairs { "debug", "info", "warning", "error", "critical" } do
  logging("log." .. level, function() log[level]("%d of %s", 5, "these") end)
end
logging("log.set_level", function()
  log.set_level "DEBUG"
  log.debug "this"
  return log.get_level()
end, { "log.get_level" })
logging("log.set_handler", function() log.set_handler(function() end) end)
logging("log.set_logger", function(t)
  log.set_logger(t.logger)
  log.error "this"
end)
case("the log's own handler", {
  call = function() log.error("not enough memory: %d", 5) end,
})

case("ref", {
  setup = function() peri.ref(1) end,
  call = function() return peri.ref {} end,
})
