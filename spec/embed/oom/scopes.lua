-- Time limits and task groups.
local kit, case = ...
local peri = require "perilune"
local same, settle = kit.same, kit.settle

local function late(err) return peri.TimeoutError:is(err) end

-- After a scope the task is as it was: not cancelled, not about to be.
local function undisturbed()
  same(0, peri.current_task():cancelling(), "cancelling()")
  peri.sleep(0)
  peri.sleep(1)
end

local function limiting(name, call, check, options)
  options = options or {}
  case(name, {
    covers = options.covers,
    manual = options.manual,
    setup = function(t) t.fn = function() return peri.sleep(0.01, 5) end end,
    call = call,
    allow = options.late and late,
    check = function(t, ok, ...)
      if ok and options.late then error "it is not late" end
      if ok and check then check(t, ...) end
      undisturbed()
    end,
  })
end

limiting("timeout", function(t) return peri.timeout(1, t.fn) end,
  function(_, value) same(5, value) end)
limiting("timeout, too late", function(t) return peri.timeout(0.001, t.fn) end, nil,
  { late = true })
limiting("timeout, of a block", function(t)
  local scope <close> = peri.timeout(1)
  scope:reschedule(scope:when() + 1)
  assert(not scope:expired())
  return t.fn()
end, function(_, value) same(5, value) end,
  { covers = { "Timeout:reschedule", "Timeout:when", "Timeout:expired" } })
limiting("timeout, of a block too late", function(t)
  local _ <close> = peri.timeout(0.001)
  return t.fn()
end, nil, { late = true })
limiting("timeout, of a block without time", function(t)
  local _ <close> = peri.timeout(0)
  return t.fn()
end, nil, { late = true })
limiting("a deadline that comes", function(t)
  local _ <close> = peri.timeout(0.001)
  t.arm()
  return t.fn()
end, nil, { late = true, manual = true })
limiting("timeout_at", function(t)
  return peri.timeout_at(peri.get_running_loop():time() + 1, t.fn)
end, function(_, value) same(5, value) end)
limiting("timeout_at, too late", function(t)
  return peri.timeout_at(peri.get_running_loop():time() + 0.001, t.fn)
end, nil, { late = true })
limiting("move_on_after", function(t) return peri.move_on_after(1, t.fn) end,
  function(_, in_time, value)
    same(true, in_time)
    same(5, value)
  end)
limiting("move_on_after, too late", function(t) return peri.move_on_after(0.001, t.fn) end,
  function(_, in_time) same(false, in_time) end)

limiting("Timeout:reschedule, alone", function(t)
  local scope <close> = peri.timeout(1)
  t.arm()
  scope:reschedule(peri.get_running_loop():time() + 2)
  scope:reschedule(nil)
  return t.fn()
end, function(_, value) same(5, value) end, { manual = true })

-- Groups ------------------------------------------------------------------------

local function grouping(name, call, check, options)
  options = options or {}
  case(name, {
    covers = options.covers,
    manual = options.manual,
    setup = function(t)
      t.began, t.ended = 0, 0
      local leave = setmetatable({}, { __close = function() t.ended = t.ended + 1 end })
      t.fn = function(seconds)
        local _ <close> = leave
        t.began = t.began + 1
        return peri.sleep(seconds, 5)
      end
      t.boom = function()
        peri.sleep(0.01)
        error("boom", 0)
      end
    end,
    call = call,
    allow = options.allow,
    reported = options.reported,
    check = function(t, ok, ...)
      if ok and check then check(t, ...) end
      -- The group has outlived its tasks, whatever came.
      same(t.began, t.ended, "how many of those that began have ended")
      undisturbed()
      settle()
      same(t.began, t.ended, "how many of those that began have ended")
    end,
  })
end

-- The errors of the tasks, or of the want of memory.
local function boom(err)
  if err == "boom" or kit.is_memory(err) then return true end
  if not peri.ExceptionGroup:is(err) then return false end
  for _, inner in ipairs(err.exceptions) do
    if not boom(inner) then return false end
  end
  return true
end

grouping("TaskGroup", function(t)
  return peri.TaskGroup(function(group)
    local a, b = group:create_task(t.fn, 0.01), group:create_task(t.fn, 0.02)
    return a:await() + b:await()
  end)
end, function(t, sum)
  same(10, sum)
  same(2, t.ended)
end, { covers = { "TaskGroup:create_task" } })
grouping("TaskGroup, of a block", function(t)
  local group <close> = peri.TaskGroup()
  group:create_task(t.fn, 0.01)
  group:create_task { t.fn, 0.02, name = "named" }
end, function(t) same(2, t.ended) end)
grouping("TaskGroup, that fails", function(t)
  local group <close> = peri.TaskGroup()
  group:create_task(t.fn, 60)
  group:create_task(t.boom)
  peri.sleep(60)
end, function() error "it did not fail" end, { allow = boom })
grouping("a group that fails", function(t)
  local group <close> = peri.TaskGroup()
  group:create_task(t.fn, 60)
  group:create_task(t.boom)
  peri.sleep(0)
  t.arm()
  peri.sleep(60)
end, function() error "it did not fail" end, { allow = boom, manual = true })
grouping("TaskGroup:cancel", function(t)
  return peri.TaskGroup(function(group)
    group:create_task(t.fn, 60)
    group:create_task(t.fn, 60)
    peri.sleep(0)
    t.arm()
    group:cancel()
    peri.sleep(60)
  end)
end, nil, { manual = true })
grouping("a group that ends", function(t)
  return peri.TaskGroup(function(group)
    group:create_task(t.fn, 0.01)
    group:create_task(t.fn, 0.02)
    peri.sleep(0)
    t.arm()
    return 5
  end)
end, function(t, value)
  same(2, t.ended)
  same(5, value)
end, { manual = true })
