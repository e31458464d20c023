-- gather, wait and their like.
local kit, case = ...
local peri = require "perilune"
local same, settle = kit.same, kit.settle

-- Two sleepers as functions, coroutine objects, tasks and futures. Whatever
-- becomes of the call, each that began ends, and none lives on unknown.
local function prepare(t)
  t.began, t.ended = 0, 0
  local leave = setmetatable({}, { __close = function() t.ended = t.ended + 1 end })
  t.fn = function()
    local _ <close> = leave
    t.began = t.began + 1
    return peri.sleep(0.01, 5)
  end
  t.coro = peri.call(t.fn)
  t.task = peri.create_task(t.fn)
  t.future = peri.Future()
  kit.certainly(0.02, function()
    if not t.future:done() then t.future:set_result(6) end
  end)
end

local function all_ended(t)
  peri.sleep(0.1)
  settle()
  same(t.began, t.ended, "how many of those that began have ended")
end

local function combining(name, call, check, options)
  options = options or {}
  case(name, {
    covers = options.covers,
    manual = options.manual,
    setup = function(t)
      prepare(t)
      if options.setup then options.setup(t) end
    end,
    call = call,
    allow = options.allow,
    reported = options.reported,
    check = function(t, ok, ...)
      if ok and check then check(t, ...) end
      all_ended(t)
      if not t.task:done() then error "the task has not ended" end
    end,
  })
end

-- Without memory the call fails; with it, it gives a future of all.
combining("gather", function(t) return peri.gather(t.fn, t.coro, t.task, t.future) end,
  function(_, future)
    local list = future:await()
    same(4, list.n)
    same(5, list[1])
    same(6, list[4])
  end)
combining("gather, of a list", function(t)
  return peri.gather({ t.fn, t.task, t.task, t.future }, { return_exceptions = true })
end, function(_, future) same(6, future:await()[4]) end)
combining("gather, of nothing", function() return peri.gather() end,
  function(_, future) same(0, future:await().n) end)

-- The gather stands; memory fails while it ends. It ends all the same.
local function finishing(name, make, call)
  combining(name, function(t)
    t.gather = make(t)
    peri.sleep(0)
    t.arm()
    return call(t)
  end, nil, { manual = true })
end

finishing("a gather that ends", function(t)
  return peri.gather(t.fn, t.task)
end, function(t)
  return t.gather:await()
end)
finishing("a gather of done ones", function(t)
  t.done = peri.Future()
  t.done:set_result(5)
  return peri.gather(t.done, t.fn)
end, function(t)
  return t.gather:await()
end)
finishing("gather: cancel", function(t)
  return peri.gather(t.fn, t.task)
end, function(t)
  t.gather:cancel("why")
  local ok, err = pcall(t.gather.await, t.gather)
  if not ok and not peri.iscancel(err) then error(err, 0) end
end)

combining("a gather that fails", function(t)
  t.gather = peri.gather(t.fn, function() error("boom", 0) end)
  t.arm()
  return t.gather:await()
end, nil, { manual = true, allow = function(err) return err == "boom" end })

combining("gather, limited", function(t)
  return peri.gather({ t.fn, t.coro, t.task }, { limit = 1 }):await()
end, function(_, list) same(5, list[3]) end)
combining("gather, cancelling", function(t)
  return peri.gather({ t.fn, t.coro, t.task }, { on_error = "cancel" }):await()
end, function(_, list) same(5, list[3]) end)

combining("Gather", function(t)
  local gather = peri.gather(t.fn, t.task)
  gather:add_done_callback(print)
  gather:remove_done_callback(print)
  local text = tostring(gather)
  return gather:await(), gather:done(), gather:cancelled(), gather:result(),
    gather:exception(), gather:get_loop(), gather:traceback(), gather:cancel(), text
end, nil, { covers = {
  "Gather:add_done_callback", "Gather:remove_done_callback", "Gather:await", "Gather:done",
  "Gather:cancelled", "Gather:result", "Gather:exception", "Gather:get_loop",
  "Gather:traceback", "Gather:cancel",
} })

for _, method in ipairs { "set_result", "set_exception" } do
  combining("Gather:" .. method, function(t)
    t.gather = peri.gather(t.task)
    t.arm()
    return t.gather[method](t.gather, 5)
  end, nil, { manual = true, allow = function(err) return peri.RuntimeError:is(err) end })
end

combining("all", function(t) return peri.all(t.fn, t.task, t.future) end,
  function(_, a, b, c)
    same(5, a)
    same(5, b)
    same(6, c)
  end)

combining("wait", function(t) return peri.wait({ t.task, t.future }) end,
  function(_, done, pending)
    same(2, #done)
    same(0, #pending)
  end)
combining("wait, for one, in time", function(t)
  return peri.wait({ t.task, t.future }, { timeout = 1, return_when = peri.FIRST_COMPLETED })
end, function(_, done, pending)
  same(1, #done)
  same(1, #pending)
end, { covers = { "FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED" } })
combining("wait, too long", function(t)
  return peri.wait({ t.task, t.future }, { timeout = 0.001 })
end, function(_, done, pending)
  same(2, #done + #pending)
  same(6, pending[#pending]:await())
end)

combining("wait_for", function(t) return peri.wait_for(t.coro, 1) end,
  function(_, value) same(5, value) end)
combining("wait_for, of a task", function(t) return peri.wait_for(t.task, 1) end,
  function(_, value) same(5, value) end)
combining("wait_for, too long", function(t) return peri.wait_for(t.coro, 0.001) end,
  function() error "it is not late" end,
  { allow = function(err) return peri.TimeoutError:is(err) end })
combining("wait_for, without time", function(t) return peri.wait_for(t.task, 0) end,
  function() error "it is not late" end,
  { allow = function(err) return peri.TimeoutError:is(err) or peri.iscancel(err) end })

combining("shield", function(t) return peri.shield(t.task) end,
  function(_, future) same(5, future:await()) end)
combining("shield, of a coroutine object", function(t) return peri.shield(t.coro) end,
  function(_, future) same(5, future:await()) end)
combining("shield, cancelled", function(t)
  local outer = peri.shield(t.task)
  outer:cancel()
  peri.sleep(0.02)
  return outer:cancelled()
end, function(t)
  kit.value_or_memory(t.task, 5)
end)

combining("as_completed", function(t)
  local seen = 0
  for future in peri.as_completed({ t.fn, t.task, t.future }, { timeout = 1 }) do
    if future:done() then seen = seen + 1 end
  end
  return seen
end, function(_, seen) same(3, seen) end)
combining("as_completed, too long", function(t)
  for _ in peri.as_completed({ t.fn, t.task }, { timeout = 0.001 }) do peri.sleep(0) end
end, nil, { allow = function(err) return peri.TimeoutError:is(err) end })

combining("map", function(t)
  return peri.map(function(x)
    t.fn()
    return x
  end, { 1, 2, 3 }, { limit = 2 })
end, function(_, list)
  same(3, list.n)
  same(3, list[3])
end)
combining("race", function(t) return peri.race { t.fn, t.task, t.future } end,
  function(_, value) same(5, value) end)
combining("race, of losers", function(t)
  return peri.race { function() error("boom", 0) end, function() return t.fn(error "boom") end }
end, nil, {
  allow = function(err) return peri.ExceptionGroup:is(err) end,
  reported = function(context) return tostring(context.exception):find "boom" ~= nil end,
})
