-- Locks, events, conditions, semaphores and barriers.
local kit, case = ...
local peri = require "perilune"
local same, settle, value_or_memory = kit.same, kit.settle, kit.value_or_memory

-- After anything that was done to a lock it can be had, by two tasks in turn.
local function lock_works(lock)
  settle()
  if lock:locked() then error("the lock is held by nobody", 2) end
  local order = {}
  local function take(i)
    return function()
      local _ <close> = lock:guard()
      peri.sleep(0.01)
      order[#order + 1] = i
    end
  end
  peri.all(take(1), take(2), take(3))
  same("123", table.concat(order), "the order in which a lock was had")
end

-- Lets memory fail only until the other side acts.
local function later(t, fn)
  kit.later(function() fn(t) end)
end

-- Lock -----------------------------------------------------------------------------

case("Lock", {
  call = function() return peri.Lock() end,
  check = function(_, ok, lock) if ok then lock_works(lock) end end,
})

local function locking(name, call, check, options)
  options = options or {}
  case(name, {
    covers = options.covers,
    manual = options.manual,
    allow = options.allow,
    setup = function(t)
      t.lock = peri.Lock()
      if options.setup then options.setup(t) end
    end,
    call = call,
    check = function(t, ok, ...)
      if check then check(t, ok, ...) end
      lock_works(t.lock)
    end,
  })
end

local function hold(t)
  peri.create_task(t.lock.acquire, t.lock):await()
  later(t, function() t.lock:release() end)
end

-- Held if and only if acquire came back.
local function had(t, ok)
  peri.sleep(0.1)
  same(ok, t.lock:locked(), "held")
  if ok then t.lock:release() end
end

locking("Lock:acquire", function(t) return t.lock:acquire() end, had)
locking("Lock:acquire, after another", function(t) return t.lock:acquire() end, had,
  { setup = hold })
locking("Lock:acquire, in time", function(t) return t.lock:acquire { timeout = 1 } end, had,
  { setup = hold })
locking("Lock:acquire, too late", function(t) return t.lock:acquire { timeout = 0.001 } end, had,
  { setup = hold, allow = function(err) return peri.TimeoutError:is(err) end })
locking("Lock:acquire, in a coroutine", function(t)
  return coroutine.wrap(function() return t.lock:acquire() end)()
end, had, { setup = hold })
locking("Lock:guard", function(t)
  local _ <close> = t.lock:guard()
  peri.sleep(0)
end)
locking("Lock:guard, after another", function(t)
  local _ <close> = t.lock:guard()
  peri.sleep(0)
end, function() peri.sleep(0.1) end, { setup = hold })
locking("Lock:locked", function(t) return t.lock:locked() end,
  function(_, ok, locked) if ok then same(false, locked) end end)

-- A waiter that is woken without memory has the lock, or another one has.
local function waiting(t)
  t.lock:acquire()
  t.had = 0
  local function take()
    local _ <close> = t.lock:guard()
    t.had = t.had + 1
    peri.sleep(0)
  end
  t.first, t.second = peri.create_task(take), peri.create_task(take)
  peri.sleep(0)
end

local function both_ended(t)
  settle()
  peri.sleep(0.1)
  value_or_memory(t.first, nil, "the first waiter")
  value_or_memory(t.second, nil, "the second waiter")
end

locking("Lock:release", function(t) t.lock:release() end, function(t, ok)
  if not ok then t.lock:release() end
  both_ended(t)
  same(2, t.had)
end, { setup = waiting })
locking("a lock that is handed on", function(t)
  t.lock:release()
  t.arm()
  peri.sleep(0)
  peri.sleep(0)
  peri.sleep(0)
  peri.sleep(0)
end, both_ended, { setup = waiting, manual = true })
locking("a waiter for a lock that is cancelled", function(t)
  t.first:cancel()
  t.lock:release()
  t.arm()
  peri.sleep(0)
  peri.sleep(0)
  peri.sleep(0)
end, both_ended, { setup = waiting, manual = true })
locking("a waiter for a lock that is killed", function(t)
  t.first:kill()
  t.lock:release()
  t.arm()
  peri.sleep(0)
  peri.sleep(0)
  peri.sleep(0)
end, function(t)
  peri.sleep(2)
  both_ended(t)
end, { setup = waiting, manual = true })

-- Event ----------------------------------------------------------------------------

case("Event", {
  covers = { "Event:is_set", "Event:clear" },
  call = function()
    local event = peri.Event()
    event:set()
    assert(event:is_set())
    event:wait()
    event:clear()
    return event
  end,
})

local function event_with_waiters(t)
  t.event = peri.Event()
  t.first = peri.create_task(t.event.wait, t.event)
  t.second = peri.create_task(t.event.wait, t.event, { timeout = 10 })
  settle()
end

case("Event:set", {
  setup = event_with_waiters,
  call = function(t) t.event:set() end,
  check = function(t, ok)
    if not ok then t.event:set() end
    settle()
    value_or_memory(t.first, true, "the first waiter")
    value_or_memory(t.second, true, "the second waiter")
    same(true, t.event:is_set())
  end,
})
case("an event that is set", {
  setup = event_with_waiters,
  manual = true,
  call = function(t)
    t.event:set()
    t.arm()
    peri.sleep(0)
    peri.sleep(0)
  end,
  check = function(t)
    settle()
    value_or_memory(t.first, true, "the first waiter")
    value_or_memory(t.second, true, "the second waiter")
  end,
})

local function event_wait(name, call, allow)
  case(name, {
    setup = function(t)
      t.event = peri.Event()
      later(t, function() t.event:set() end)
    end,
    call = call,
    allow = allow,
    check = function(t)
      peri.sleep(0.1)
      same(true, t.event:is_set())
      same(true, t.event:wait())
    end,
  })
end

event_wait("Event:wait", function(t) return t.event:wait() end)
event_wait("Event:wait, in time", function(t) return t.event:wait { timeout = 1 } end)
event_wait("Event:wait, too late", function(t) return t.event:wait { timeout = 0.001 } end,
  function(err) return peri.TimeoutError:is(err) end)

-- Condition -------------------------------------------------------------------------

case("Condition", {
  call = function() return peri.Condition() end,
  check = function(_, ok, condition) if ok then lock_works(condition) end end,
})

local function on_condition(name, call, check, options)
  options = options or {}
  case(name, {
    covers = options.covers,
    manual = options.manual,
    allow = options.allow,
    setup = function(t)
      t.condition = peri.Condition()
      t.there, t.got = 0, 0
      -- A consumer that takes what is there.
      t.take = function()
        local _ <close> = t.condition:guard()
        t.condition:wait_for(function() return t.there > 0 end)
        t.there = t.there - 1
        t.got = t.got + 1
      end
      if options.setup then options.setup(t) end
    end,
    call = call,
    check = function(t, ok, ...)
      if check then check(t, ok, ...) end
      settle()
      peri.sleep(0.1)
      -- Whatever has happened, what is there wakes those who wait for it.
      local task = peri.create_task(t.take)
      settle()
      do
        local _ <close> = t.condition:guard()
        t.there = t.there + 1
        t.condition:notify_all()
      end
      settle()
      task:await()
      lock_works(t.condition)
    end,
  })
end

on_condition("Condition:acquire", function(t) return t.condition:acquire() end,
  function(t, ok) if ok then t.condition:release() end end, { covers = { "Condition:locked" } })
on_condition("Condition:release", function(t)
  t.condition:release()
end, function(t, ok) if not ok then t.condition:release() end end,
  { setup = function(t) t.condition:acquire() end })
on_condition("Condition:guard", function(t)
  local _ <close> = t.condition:guard()
  peri.sleep(0)
end)

-- The lock is held again when wait has ended, however it has.
local function wait_and_look(t, ...)
  t.condition:acquire()
  t.arm()
  local ok, err = pcall(t.condition.wait, t.condition, ...)
  kit.host.arm(0)
  if not t.condition:locked() then error "wait came back without its lock" end
  t.condition:release()
  if not ok then error(err, 0) end
end

local function notify_later(t)
  later(t, function()
    t.notifier = peri.create_task(function()
      local _ <close> = t.condition:guard()
      t.condition:notify()
    end)
  end)
end

on_condition("Condition:wait", wait_and_look, nil, { setup = notify_later, manual = true })
on_condition("Condition:wait, in time", function(t)
  return wait_and_look(t, { timeout = 1 })
end, nil, { setup = notify_later, manual = true })
on_condition("Condition:wait, too late", function(t)
  return wait_and_look(t, { timeout = 0.001 })
end, nil, {
  setup = notify_later, manual = true,
  allow = function(err) return peri.TimeoutError:is(err) end,
})
on_condition("Condition:wait_for", function(t)
  local _ <close> = t.condition:guard()
  return t.condition:wait_for(function() return t.there > 0 end, { timeout = 1 })
end, nil, { setup = function(t)
  later(t, function()
    t.there = 1
    t.notifier = peri.create_task(function()
      local _ <close> = t.condition:guard()
      t.condition:notify()
    end)
  end)
end })

local function consumers(t)
  t.first, t.second = peri.create_task(t.take), peri.create_task(t.take)
  settle()
  t.condition:acquire()
  t.there = 2
end

local function consumed(t, ok)
  if t.condition:locked() then
    if not ok then t.condition:notify_all() end
    t.condition:release()
  end
  settle()
  -- One that failed was woken in vain, its turn is another's.
  if not (t.first:done() and t.second:done()) then
    local _ <close> = t.condition:guard()
    t.condition:notify_all()
  end
  settle()
  value_or_memory(t.first, nil, "the first consumer")
  value_or_memory(t.second, nil, "the second consumer")
end

on_condition("Condition:notify", function(t) t.condition:notify(2) end, consumed,
  { setup = consumers })
on_condition("Condition:notify_all", function(t) t.condition:notify_all() end, consumed,
  { setup = consumers })
on_condition("a notification on its way", function(t)
  t.condition:notify_all()
  t.condition:release()
  t.arm()
  for _ = 1, 6 do peri.sleep(0) end
end, consumed, { setup = consumers, manual = true })
on_condition("a consumer that is cancelled", function(t)
  t.condition:notify(1)
  t.condition:release()
  t.first:cancel()
  t.arm()
  for _ = 1, 6 do peri.sleep(0) end
end, consumed, { setup = consumers, manual = true })

-- Semaphores --------------------------------------------------------------------------

local function permits(semaphore, n)
  settle()
  for i = 1, n do
    if semaphore:locked() then error(("there are %d permits, not %d"):format(i - 1, n), 2) end
    semaphore:acquire()
  end
  same(true, semaphore:locked(), "without a permit")
  for _ = 1, n do semaphore:release() end
  -- and it serves who waits
  local function take()
    local _ <close> = semaphore:guard()
    peri.sleep(0.01)
  end
  peri.all(take, take, take, take)
end

for _, class in ipairs { "Semaphore", "BoundedSemaphore" } do
  local function on_semaphore(name, call, check, options)
    options = options or {}
    case(class .. name, {
      covers = options.covers,
      manual = options.manual,
      allow = options.allow,
      setup = function(t)
        t.semaphore = peri[class](2)
        if options.setup then options.setup(t) end
      end,
      call = call,
      check = function(t, ok, ...)
        if check then check(t, ok, ...) end
        peri.sleep(0.1)
        permits(t.semaphore, 2)
      end,
    })
  end

  local function exhaust(t)
    t.semaphore:acquire()
    t.semaphore:acquire()
    later(t, function() t.semaphore:release() end)
  end

  local function one_out(t, ok)
    peri.sleep(0.1)
    t.semaphore:release()
    if ok then t.semaphore:release() end
  end

  on_semaphore("", function() return peri[class](3) end,
    function(_, ok, semaphore) if ok then permits(semaphore, 3) end end)
  on_semaphore(":acquire", function(t) return t.semaphore:acquire() end,
    function(t, ok) if ok then t.semaphore:release() end end)
  on_semaphore(":acquire, after others", function(t) return t.semaphore:acquire() end, one_out,
    { setup = exhaust })
  on_semaphore(":acquire, in time", function(t)
    return t.semaphore:acquire { timeout = 1 }
  end, one_out, { setup = exhaust })
  on_semaphore(":acquire, too late", function(t)
    return t.semaphore:acquire { timeout = 0.001 }
  end, one_out, { setup = exhaust, allow = function(err) return peri.TimeoutError:is(err) end })
  on_semaphore(":guard", function(t)
    local _ <close> = t.semaphore:guard()
    peri.sleep(0)
  end)
  on_semaphore(":locked", function(t) return t.semaphore:locked() end)

  local function with_waiters(t)
    t.semaphore:acquire()
    t.semaphore:acquire()
    local function take()
      local _ <close> = t.semaphore:guard()
      peri.sleep(0)
    end
    t.first, t.second = peri.create_task(take), peri.create_task(take)
    settle()
  end

  on_semaphore(":release", function(t)
    t.semaphore:release()
    t.once = true
    t.semaphore:release()
  end, function(t, ok)
    if not t.once then t.semaphore:release() end
    if not ok then t.semaphore:release() end
    both_ended(t)
  end, { setup = with_waiters })
  on_semaphore(", a permit that is handed on", function(t)
    t.semaphore:release()
    t.semaphore:release()
    t.arm()
    for _ = 1, 5 do peri.sleep(0) end
  end, both_ended, { setup = with_waiters, manual = true })
  on_semaphore(", a waiter that is cancelled", function(t)
    t.semaphore:release()
    t.semaphore:release()
    t.first:cancel()
    t.arm()
    for _ = 1, 5 do peri.sleep(0) end
  end, both_ended, { setup = with_waiters, manual = true })
end

-- Barrier --------------------------------------------------------------------------------

local function barrier_works(barrier)
  settle()
  barrier:reset()
  settle()
  same(0, barrier.n_waiting, "who waits after a reset")
  local list = peri.gather(
    function() return barrier:wait() end, function() return barrier:wait() end):await()
  same(1, list[1] + list[2], "the places of two at a barrier")
end

case("Barrier", {
  call = function() return peri.Barrier(2) end,
  check = function(_, ok, barrier) if ok then barrier_works(barrier) end end,
})

local function at_barrier(name, call, check, options)
  options = options or {}
  case(name, {
    covers = options.covers,
    manual = options.manual,
    allow = function(err)
      return peri.TimeoutError:is(err) and options.late or peri.BrokenBarrierError:is(err)
    end,
    setup = function(t)
      t.barrier = peri.Barrier(2)
      if options.other then
        t.other = peri.create_task(t.barrier.wait, t.barrier)
        settle()
      end
      if options.setup then options.setup(t) end
    end,
    call = call,
    check = function(t, ok, ...)
      if ok and check then check(t, ...) end
      peri.sleep(0.1)
      barrier_works(t.barrier)
      settle()
      if t.other then
        local fine, err = kit.ended(t.other, "the other one")
        if not fine and not peri.BrokenBarrierError:is(err) then kit.memory(err) end
      end
    end,
  })
end

at_barrier("Barrier:wait", function(t) return t.barrier:wait() end,
  function(_, index) same(1, index) end, { other = true })
at_barrier("Barrier:wait, for another", function(t) return t.barrier:wait() end, nil,
  { setup = function(t)
    later(t, function() t.other = peri.create_task(t.barrier.wait, t.barrier) end)
  end })
at_barrier("Barrier:wait, in time", function(t) return t.barrier:wait { timeout = 1 } end, nil,
  { setup = function(t)
    later(t, function() t.other = peri.create_task(t.barrier.wait, t.barrier) end)
  end })
at_barrier("Barrier:wait, too late", function(t)
  return t.barrier:wait { timeout = 0.001 }
end, nil, { late = true })
at_barrier("Barrier:guard", function(t)
  local _ <close>, index = t.barrier:guard()
  return index
end, function(_, index) same(1, index) end, { other = true })
at_barrier("Barrier:reset", function(t) t.barrier:reset() end, nil, { other = true })
at_barrier("Barrier:abort", function(t) t.barrier:abort() end,
  function(t) same(true, t.barrier.broken) end, { other = true })
at_barrier("a barrier that opens", function(t)
  t.third = peri.create_task(t.barrier.wait, t.barrier)
  t.arm()
  for _ = 1, 6 do peri.sleep(0) end
end, function(t)
  settle()
  t.barrier:reset()
  settle()
  local fine, err = kit.ended(t.third, "the third one")
  if not fine and not peri.BrokenBarrierError:is(err) then kit.memory(err) end
end, { other = true, manual = true })
