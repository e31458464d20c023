local peri = require "perilune"
local support = require "support"
local raises = support.raises

local place = debug.getinfo(1, "S").short_src

local function here(offset)
  return ("%s:%d"):format(place, debug.getinfo(2, "l").currentline + (offset or 0))
end

local function task(name, fn, ...)
  return peri.create_task { fn, ..., name = name }
end

-- The snapshot of one task.
local function look_at(wanted)
  for _, record in ipairs(peri.tasks()) do
    if record.task == wanted then return record end
  end
end

local function end_all(...)
  for _, each in ipairs { ... } do each:cancel() end
  support.spin(3)
end

describe("tasks", function()
  it("lists the tasks of all loops, in the order of creation", function()
    local loop, _ <close> = support.loop()
    local mine = task("mine", peri.sleep, 1)
    local other = loop:create_task(peri.sleep, 1)
    other:set_name "other"
    local names = {}
    for i, record in ipairs(peri.tasks()) do names[i] = record.name end
    assert.same({ "mine", "other" }, { table.unpack(names, #names - 1) })
    assert.equal(1, #peri.tasks(loop))
    assert.equal(other, peri.tasks(loop)[1].task)
    local runner = support.reports()
    loop:set_exception_handler(function() end)
    assert.same({}, runner)
    end_all(mine)
  end)

  it("tells who they are and who made them", function()
    local child
    local parent = task("parent", function()
      child = task("child", peri.sleep, 60)
      peri.sleep(60)
    end)
    peri.sleep(0)
    local record, own = look_at(child), look_at(peri.current_task())
    assert.equal("child", record.name)
    assert.equal(look_at(parent).id, record.parent)
    assert.equal(own.id, look_at(parent).parent)
    assert.is_true(record.id > record.parent)
    end_all(parent, child)
  end)

  it("tells the three states", function()
    local sleeper = task("sleeper", peri.sleep, 60)
    peri.sleep(0)
    local fresh = task("fresh", peri.sleep, 60)
    local record = look_at(peri.current_task())
    assert.equal("running", record.state)
    assert.equal("waiting", look_at(sleeper).state)
    assert.equal("ready", look_at(fresh).state)
    assert.is_nil(record.waiting_on)
    assert.is_nil(look_at(fresh).waiting_on)
    end_all(sleeper, fresh)
  end)

  it("tells where each one stands: the script's innermost frame", function()
    local where
    local waiting = task("waiting", function()
      local generator = coroutine.wrap(function()
        where = here(1)
        peri.wait { peri.Future() }
      end)
      pcall(generator)
    end)
    peri.sleep(0)
    local fresh = task("fresh", function() end)
    assert.equal(here(-1), look_at(fresh).place)
    assert.equal(where, look_at(waiting).place)
    assert.equal(here(), peri.tasks()[#peri.tasks() - 2].place)
    end_all(waiting)
    fresh:await()
  end)

  it("tells what each one waits for, and the object", function()
    local lock, event, queue, future = peri.Lock(), peri.Event(), peri.Queue(1), peri.Future()
    local condition, semaphore = peri.Condition(lock), peri.Semaphore(0)
    local first = task("first", peri.sleep, 60)
    queue:put "x"
    local cases = {
      { "sleep", nil, peri.sleep, 60 },
      { "await first", first, first.await, first },
      { "await Future", future, future.await, future },
      { "Event.wait", event, event.wait, event },
      { "Queue.put", queue, queue.put, queue, "y" },
      { "Queue.join", queue, queue.join, queue },
      { "Semaphore.acquire", semaphore, semaphore.acquire, semaphore },
      { "Condition.wait", condition, function()
        local _ <close> = condition:guard()
        condition:wait()
      end },
      { "wait", nil, function() peri.wait { future } end },
      { "all", nil, function() peri.all(peri.call(peri.sleep, 60)) end, inner = true },
      { "end of TaskGroup", nil, function()
        local group <close> = peri.TaskGroup()
        group:create_task(peri.sleep, 60)
      end, inner = true },
    }
    local waiting = {}
    for i, case in ipairs(cases) do waiting[i] = peri.create_task(table.unpack(case, 3)) end
    support.spin(3)
    for i, case in ipairs(cases) do
      local record = look_at(waiting[i])
      if case.inner then record.resource = nil end -- a future of the library's
      assert.same({ case[1], case[2] }, { record.waiting_on, record.resource })
    end
    end_all(first, table.unpack(waiting))
    support.spin(2)
  end)

  it("tells who holds the lock that is waited for", function()
    local lock = peri.Lock()
    local owner = task("owner", function()
      local _ <close> = lock:guard()
      peri.sleep(60)
    end)
    local needy = task("needy", function() lock:acquire() end)
    peri.sleep(0)
    local record = look_at(needy)
    assert.equal("Lock.acquire", record.waiting_on)
    assert.equal(lock, record.resource)
    assert.equal(owner, record.holder)
    end_all(owner)
    assert.is_true(needy:done())
    assert.is_nil(look_at(owner))
  end)

  it("tells the new holder once a lock was handed on", function()
    local lock = peri.Lock()
    lock:acquire()
    local function hold()
      local _ <close> = lock:guard()
      peri.sleep(60)
    end
    local second, third = task("second", hold), task("third", hold)
    peri.sleep(0)
    assert.equal(peri.current_task(), look_at(third).holder)
    lock:release()
    assert.is_nil(look_at(third).holder)
    peri.sleep(0)
    assert.equal(second, look_at(third).holder)
    end_all(third, second)
  end)

  it("tells when a sleep ends", function()
    local sleeper = task("sleeper", peri.sleep, 60)
    local now = peri.get_running_loop():time()
    peri.sleep(0)
    assert.is_true(math.abs(look_at(sleeper).deadline - now - 60) < 1e-6)
    end_all(sleeper)
  end)

  it("tells the stack, as it was when the snapshot was taken", function()
    local function stand() peri.sleep(1) end
    local sleeper = task("sleeper", function() stand() end)
    peri.sleep(0)
    local record = look_at(sleeper)
    sleeper:await()
    assert.matches("^stack traceback:\n\t%[C%]: in function 'sleep'\n", record.traceback)
    assert.matches(("%s:%d: in function 'stand'"):format(place,
      debug.getinfo(stand, "S").linedefined), record.traceback, 1, true)
  end)

  it("wants a loop or nothing", function()
    raises(peri.TypeError, "bad argument #1 to 'tasks' (loop or nil expected, got number)",
      peri.tasks, 1)
  end)

  it("counts nothing but with accounts", function()
    local sleeper = task("sleeper", peri.sleep, 60)
    support.spin(3)
    local record = look_at(sleeper)
    assert.same({}, { record.age, record.steps, record.cpu })
    end_all(sleeper)
  end)
end)

describe("accounts", function()
  local loop

  before_each(function()
    loop = peri.get_running_loop()
  end)

  it("are off until they are asked for, or debug mode is", function()
    assert.equal(loop:get_debug(), loop:get_accounting())
    loop:set_accounting(true)
    assert.is_true(loop:get_accounting())
    loop:set_debug(true)
    loop:set_debug(false)
    assert.is_true(loop:get_accounting())
    loop:set_accounting(false)
    assert.is_false(loop:get_accounting())
    loop:set_debug(true)
    assert.is_true(loop:get_accounting())
  end)

  it("count the steps of each task, its CPU time and its age", function()
    loop:set_accounting(true)
    local busy = task("busy", function()
      for _ = 1, 5 do
        for _ = 1, 100000 do end
        peri.sleep(0)
      end
      peri.sleep(60)
    end)
    local lazy = task("lazy", peri.sleep, 60)
    support.spin(10)
    local one, two = look_at(busy), look_at(lazy)
    assert.same({ 6, 1 }, { one.steps, two.steps })
    assert.is_true(one.cpu > 10 * two.cpu)
    assert.is_true(one.cpu > 0 and one.cpu < 60)
    assert.is_true(one.age >= one.cpu)
    end_all(busy, lazy)
  end)

  it("do not count a step inside another one twice", function()
    loop:set_accounting(true)
    local inner
    local outer = task("outer", function()
      inner = peri.Task { target = function()
        local start = os.clock()
        while os.clock() - start < 0.05 do end
        peri.sleep(60)
      end, eager = true }
      peri.sleep(60)
    end)
    peri.sleep(0)
    assert.is_true(look_at(outer).cpu < look_at(inner).cpu)
    end_all(outer, inner)
  end)

  it("begin for tasks that are there when they are switched on", function()
    local sleeper = task("sleeper", function()
      while true do peri.sleep(1) end
    end)
    peri.sleep(0)
    loop:set_accounting(true)
    peri.sleep(2.5)
    local record = look_at(sleeper)
    assert.equal(2, record.steps)
    assert.is_nil(record.age)
    end_all(sleeper)
  end)

  it("are kept of tasks that run in coroutines, and of children of a gather", function()
    loop:set_accounting(true)
    local generator = task("generator", function()
      coroutine.wrap(function()
        peri.sleep(0)
        peri.sleep(60)
      end)()
    end)
    local both = peri.gather(peri.call(peri.sleep, 60), function() peri.sleep(60) end)
    local bare = peri.gather(function() peri.sleep(0) end, function() peri.sleep(60) end)
    support.spin(5)
    assert.equal(2, look_at(generator).steps)
    local records = peri.tasks()
    assert.equal(1, records[#records].steps)
    end_all(generator, both, bare)
    pcall(both.await, both)
    pcall(bare.await, bare)
  end)
end)

describe("print_tasks", function()
  it("prints the tasks as a tree", function()
    local child
    local parent = task("parent", function()
      child = task("child", function() peri.sleep(60) end)
      peri.Future():await()
    end)
    peri.sleep(0)
    peri.sleep(0)
    local text = ""
    peri.print_tasks { write = function(_, ...) text = text .. table.concat { ... } end }
    local before, tree = text:match "^(%d+) tasks:\n(.*)\n$"
    assert.equal(tostring(#peri.tasks()), before)
    tree = tree:gsub(place:gsub("%p", "%%%0") .. ":%d+", "HERE")
    assert.matches("\n( +)parent at HERE: awaits Future\n%1  child at HERE: waits in sleep, "
      .. "60 s to go on a virtual clock$", tree)
    end_all(parent, child)
  end)

  it("writes to an open file", function()
    local path = support.file ""
    local file <close> = io.open(path, "w")
    peri.print_tasks(file)
    file:flush()
    assert.matches("^%d+ tasks:\n", io.open(path):read "a")
  end)

  it("wants something to write to", function()
    raises(peri.TypeError, "bad argument #1 to 'print_tasks' (open file or nil expected, got number)",
      peri.print_tasks, 1)
  end)

  it("bears a chain of tasks that is long", function()
    local function make(n)
      if n > 0 then peri.create_task(make, n - 1) end
      peri.sleep(60)
    end
    local first = peri.create_task(make, 2000)
    support.settle()
    local depth = 0
    peri.print_tasks { write = function(_, text)
      for spaces in text:gmatch "\n( +)" do depth = math.max(depth, #spaces) end
    end }
    assert.is_true(depth > 4000)
    for _, each in ipairs(peri.all_tasks()) do
      if each ~= peri.current_task() and each ~= first then each:cancel() end
    end
    end_all(first)
  end)
end)
