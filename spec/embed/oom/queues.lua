-- Queues of the three kinds.
local kit, case = ...
local peri = require "perilune"
local same, settle, value_or_memory = kit.same, kit.settle, kit.value_or_memory

local later = kit.later

-- Takes out all that is in the queue, and lets two tasks pass items through it.
local function queue_works(queue, expected)
  settle()
  same(expected, queue:qsize(), "items in the queue")
  for _ = 1, expected do queue:get_nowait() end
  same(true, queue:empty(), "empty")
  local sum = 0
  local producer = peri.create_task(function()
    for i = 1, 40 do queue:put(i) end
  end)
  for _ = 1, 40 do sum = sum + queue:get() end
  producer:await()
  same(820, sum, "the sum of what came through the queue")
end

for _, class in ipairs { "Queue", "PriorityQueue", "LifoQueue" } do
  local function queueing(name, call, options)
    options = options or {}
    case(class .. name, {
      covers = options.covers,
      manual = options.manual,
      allow = options.allow,
      setup = function(t)
        t.queue = peri[class](options.size)
        for i = 1, options.items or 0 do t.queue:put_nowait(i) end
        if options.setup then options.setup(t) end
      end,
      call = call,
      check = function(t, ok, ...)
        local expected = options.check and options.check(t, ok, ...)
        if expected then queue_works(t.queue, expected) end
      end,
    })
  end

  local function one_more(items)
    return function(_, ok) return ok and items + 1 or items end
  end

  local function one_less(items)
    return function(_, ok, item)
      if ok then same("number", type(item), "the item") end
      return ok and items - 1 or items
    end
  end

  queueing("", function() return peri[class](3) end, {
    check = function(_, ok, queue)
      if ok then queue_works(queue, 0) end
      return 0
    end,
  })

  -- An item is in if and only if put has come back.
  for _, items in ipairs { 0, 1, 3, 16, 32 } do
    queueing((":put_nowait, to %d"):format(items), function(t) t.queue:put_nowait(5) end,
      { items = items, check = one_more(items), covers = { class .. ":put_nowait" } })
  end
  queueing(":put", function(t) t.queue:put(5) end, { items = 1, check = one_more(1) })
  queueing(":get_nowait", function(t) return t.queue:get_nowait() end,
    { items = 5, check = one_less(5) })
  queueing(":get", function(t) return t.queue:get() end, { items = 5, check = one_less(5) })
  queueing(":get_nowait, of none", function(t) return t.queue:get_nowait() end, {
    allow = function(err) return peri.QueueEmpty:is(err) end,
    check = function() return 0 end,
  })
  queueing(":put_nowait, too many", function(t) return t.queue:put_nowait(1) end, {
    size = 2, items = 2,
    allow = function(err) return peri.QueueFull:is(err) end,
    check = function() return 2 end,
  })

  local late = function(err) return peri.TimeoutError:is(err) end

  local function fill(t) later(function() t.queue:put_nowait(7) end) end

  -- An item that came for a getter which failed is still there.
  local function got(t, ok, item)
    peri.sleep(0.1)
    if ok then same(7, item) end
    return t.queue:qsize() == (ok and 0 or 1) and t.queue:qsize() or error "an item is lost"
  end

  queueing(":get, waiting", function(t) return t.queue:get() end, { setup = fill, check = got })
  queueing(":get, in time", function(t) return t.queue:get { timeout = 1 } end,
    { setup = fill, check = got })
  queueing(":get, too late", function(t) return t.queue:get { timeout = 0.001 } end,
    { setup = fill, check = got, allow = late })

  local function drain(t) later(function() t.queue:get_nowait() end) end

  local function put(t, ok)
    peri.sleep(0.1)
    same(ok and 2 or 1, t.queue:qsize(), "items")
    return t.queue:qsize()
  end

  queueing(":put, waiting", function(t) t.queue:put(5) end,
    { setup = drain, size = 2, items = 2, check = put })
  queueing(":put, in time", function(t) t.queue:put(5, { timeout = 1 }) end,
    { setup = drain, size = 2, items = 2, check = put })
  queueing(":put, too late", function(t) t.queue:put(5, { timeout = 0.001 }) end,
    { setup = drain, size = 2, items = 2, check = put, allow = late })

  -- Getters that are woken without memory: each has an item, or leaves it.
  queueing(", getters that are woken", function(t)
    t.queue:put_nowait(1)
    t.queue:put_nowait(2)
    t.arm()
    for _ = 1, 5 do peri.sleep(0) end
  end, {
    manual = true,
    setup = function(t)
      t.first = peri.create_task(t.queue.get, t.queue)
      t.second = peri.create_task(t.queue.get, t.queue)
      settle()
    end,
    check = function(t)
      settle()
      local left = 2
      for _, task in ipairs { t.first, t.second } do
        if kit.ended(task, "a getter") then left = left - 1 end
      end
      return left
    end,
  })
  queueing(", putters that are woken", function(t)
    t.queue:get_nowait()
    t.queue:get_nowait()
    t.arm()
    for _ = 1, 5 do peri.sleep(0) end
  end, {
    manual = true, size = 2, items = 2,
    setup = function(t)
      t.first = peri.create_task(t.queue.put, t.queue, 3)
      t.second = peri.create_task(t.queue.put, t.queue, 4)
      settle()
    end,
    check = function(t)
      settle()
      local inside = 0
      for _, task in ipairs { t.first, t.second } do
        if kit.ended(task, "a putter") then inside = inside + 1 end
      end
      return inside
    end,
  })
  queueing(", a getter that is cancelled", function(t)
    t.queue:put_nowait(1)
    t.first:cancel()
    t.arm()
    for _ = 1, 5 do peri.sleep(0) end
  end, {
    manual = true,
    setup = function(t)
      t.first = peri.create_task(t.queue.get, t.queue)
      t.second = peri.create_task(t.queue.get, t.queue)
      settle()
    end,
    check = function(t)
      settle()
      local left = 1
      if kit.ended(t.second, "the second getter") then left = 0 end
      return left
    end,
  })
  queueing(":put_nowait, to a getter", function(t) t.queue:put_nowait(7) end, {
    setup = function(t)
      t.first = peri.create_task(t.queue.get, t.queue)
      settle()
    end,
    check = function(t, ok)
      if not ok then
        settle()
        if not t.first:done() then t.queue:put_nowait(7) end
      end
      settle()
      value_or_memory(t.first, 7, "the getter")
      return 0
    end,
  })
  queueing(":get_nowait, from a putter", function(t) return t.queue:get_nowait() end, {
    size = 1, items = 1,
    setup = function(t)
      t.first = peri.create_task(t.queue.put, t.queue, 3)
      settle()
    end,
    check = function(t, ok)
      if not ok then
        settle()
        same(1, t.queue:qsize(), "items after a failed get")
        t.queue:get_nowait()
      end
      settle()
      value_or_memory(t.first, nil, "the putter")
      return 1
    end,
  })

  queueing(":items", function(t)
    local n = 0
    for _ in t.queue:items() do n = n + 1 end
    return n
  end, {
    items = 3,
    setup = function(t) later(function() t.queue:shutdown() end) end,
    check = function(t, ok, n)
      peri.sleep(0.1)
      if ok then same(3, n) end
      for _ in t.queue:items() do peri.sleep(0) end
    end,
  })
  queueing(":join", function(t) t.queue:join() end, {
    items = 2,
    setup = function(t)
      later(function()
        t.queue:task_done()
        t.queue:task_done()
      end)
    end,
    check = function(t)
      peri.sleep(0.1)
      t.queue:join()
      return 2
    end,
  })
  queueing(":join, in time", function(t) t.queue:join { timeout = 1 } end, {
    items = 1,
    setup = function(t) later(function() t.queue:task_done() end) end,
    check = function(t)
      peri.sleep(0.1)
      t.queue:join()
      return 1
    end,
  })
  queueing(":task_done", function(t) t.queue:task_done() end, {
    items = 1,
    setup = function(t)
      t.first = peri.create_task(t.queue.join, t.queue)
      settle()
    end,
    check = function(t, ok)
      if not ok then t.queue:task_done() end
      settle()
      value_or_memory(t.first, nil, "who joined")
      return 1
    end,
  })

  local function shutting(options)
    return function(t) t.queue:shutdown(options) end
  end

  local function shut_down(t, ok)
    if not ok then t.queue:shutdown { immediate = true } end
    settle()
    for _, task in ipairs { t.first, t.second } do
      local fine, err = kit.ended(task, "who waited")
      if not fine and not peri.QueueShutDown:is(err) then kit.memory(err, "who waited") end
    end
    same(false, (pcall(t.queue.put_nowait, t.queue, 1)), "putting after shutdown")
  end

  local function waiters(t)
    t.first = peri.create_task(t.queue.put, t.queue, 3)
    t.second = peri.create_task(t.queue.put, t.queue, 4)
    settle()
  end

  queueing(":shutdown", shutting(), { size = 1, items = 1, setup = waiters, check = shut_down })
  queueing(":shutdown, at once", shutting { immediate = true },
    { size = 1, items = 1, setup = waiters, check = shut_down })

  queueing(":qsize, :empty, :full", function(t)
    return t.queue:qsize() + (t.queue:empty() and 1 or 0) + (t.queue:full() and 1 or 0)
  end, {
    covers = { class .. ":qsize", class .. ":empty", class .. ":full" },
    items = 1,
    check = function(_, ok, n)
      if ok then same(1, n) end
      return 1
    end,
  })
end

case("PriorityQueue, with an order", {
  setup = function(t)
    -- An order that needs memory, and whose failing must leave the queue as it was.
    t.queue = peri.PriorityQueue(0, { lt = function(a, b)
      local pair = { a, b }
      return pair[1] > pair[2]
    end })
    for i = 1, 5 do t.queue:put_nowait(i) end
  end,
  call = function(t)
    t.queue:put_nowait(6)
    t.item = t.queue:get_nowait()
  end,
  check = function(t)
    local n = t.queue:qsize()
    if n ~= 5 and n ~= 6 then error(n .. " items are in the queue") end
    local last = math.huge
    for _ = 1, n do
      local item = t.queue:get_nowait()
      if item >= last then error "the order is lost" end
      last = item
    end
  end,
})
