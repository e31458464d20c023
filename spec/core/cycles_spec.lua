-- Circles of tasks that wait for each other: reported when they close, while the
-- rest of the program runs on.
local peri = require "perilune"
local support = require "support"

local place = debug.getinfo(1, "S").short_src

-- What was logged since, without the places and addresses.
local function told(records)
  local lines = {}
  for i, record in ipairs(records) do
    lines[i] = record:gsub(place:gsub("%p", "%%%0") .. ":%d+", "HERE"):gsub("0x%x+", "0x")
  end
  return lines
end

local function task(name, fn, ...)
  return peri.create_task { fn, ..., name = name }
end

-- Takes two locks, one after the other, as guards.
local function take(first, second)
  local _ <close> = first:guard()
  peri.sleep(0)
  local _ <close> = second:guard()
end

local function cancel(...)
  for _, each in ipairs { ... } do each:cancel() end
  support.spin(4)
end

describe("a circle of tasks", function()
  local records

  before_each(function() records = support.log() end)

  it("is reported when two take two locks in different orders", function()
    local a, b = peri.Lock(), peri.Lock()
    local one = task("one", function() take(a, b) end)
    local two = task("two", function() take(b, a) end)
    support.spin(2)
    assert.same({}, records)
    support.spin(2)
    assert.same({ [[
WARNING 2 tasks wait for each other in a circle:
  two at HERE: waits in Lock.acquire (Lock: 0x), held by one
  one at HERE: waits in Lock.acquire (Lock: 0x), held by two]] }, told(records))
    cancel(one, two)
  end)

  it("is told with the lines where they wait", function()
    local a, b = peri.Lock(), peri.Lock()
    local one = task("one", function() take(a, b) end)
    local two = task("two", function() take(b, a) end)
    support.settle()
    local line = debug.getinfo(take, "S").linedefined + 3
    assert.matches(("two at %s:%d: waits"):format(place, line), records[1], 1, true)
    assert.matches(("one at %s:%d: waits"):format(place, line), records[1], 1, true)
    cancel(one, two)
  end)

  it("is reported when there are three", function()
    local a, b, c = peri.Lock(), peri.Lock(), peri.Lock()
    local one = task("one", function() take(a, b) end)
    local two = task("two", function() take(b, c) end)
    local three = task("three", function() take(c, a) end)
    support.settle()
    assert.equal(1, #records)
    assert.matches("WARNING 3 tasks wait for each other in a circle:\n  three", records[1])
    cancel(one, two, three)
  end)

  it("is reported when a task wants a lock that it holds", function()
    local lock = peri.Lock()
    local one = task("one", function() take(lock, lock) end)
    support.settle()
    assert.same({ [[
WARNING a task waits for a lock that it holds itself:
  one at HERE: waits in Lock.acquire (Lock: 0x), held by itself]] }, told(records))
    cancel(one)
  end)

  it("is reported when one awaits the task that wants its lock", function()
    local lock = peri.Lock()
    local two
    local one = task("one", function()
      local _ <close> = lock:guard()
      two:await()
    end)
    two = task("two", function() lock:acquire() end)
    support.settle()
    assert.same({ [[
WARNING 2 tasks wait for each other in a circle:
  two at HERE: waits in Lock.acquire (Lock: 0x), held by one
  one at HERE: awaits two]] }, told(records))
    cancel(one)
  end)

  it("is reported when the await comes last", function()
    local lock = peri.Lock()
    local two
    local one = task("one", function()
      local _ <close> = lock:guard()
      support.spin(3)
      two:await()
    end)
    two = task("two", function() lock:acquire() end)
    support.settle()
    assert.same({ [[
WARNING 2 tasks wait for each other in a circle:
  one at HERE: awaits two
  two at HERE: waits in Lock.acquire (Lock: 0x), held by one]] }, told(records))
    cancel(one)
  end)

  it("is reported when one gathers what wants its lock", function()
    local lock = peri.Lock()
    local function want() lock:acquire() end
    local one = task("one", function()
      local _ <close> = lock:guard()
      peri.all(peri.sleep, want)
    end)
    local two = task("two", function()
      local other = peri.Lock()
      local _ <close> = other:guard()
      peri.gather { peri.create_task { function() other:acquire() end, name = "child" } }:await()
    end)
    support.settle()
    assert.equal(2, #records)
    assert.matches("held by one\n  one at HERE: waits in all$", told(records)[1])
    assert.matches("child at HERE: .*, held by two\n  two at HERE: awaits gather$",
      told(records)[2])
    cancel(one, two)
  end)

  it("is reported when two await each other", function()
    local one, two
    one = task("one", function() two:await() end)
    two = task("two", function() one:await() end)
    support.settle()
    assert.same({ [[
WARNING 2 tasks wait for each other in a circle:
  two at HERE: awaits one
  one at HERE: awaits two]] }, told(records))
    cancel(one)
  end)

  it("is reported through a condition's lock", function()
    local condition, lock = peri.Condition(), peri.Lock()
    local one = task("one", function() take(condition, lock) end)
    local two = task("two", function() take(lock, condition) end)
    support.settle()
    assert.equal(1, #records)
    cancel(one, two)
  end)

  it("is found among the children of a gather, which have no handle", function()
    local a, b = peri.Lock(), peri.Lock()
    local both = peri.gather(function() take(a, b) end, function() take(b, a) end)
    support.settle()
    assert.equal(1, #records)
    both:cancel()
    pcall(both.await, both)
  end)
end)

describe("no circle", function()
  local records

  before_each(function() records = support.log() end)

  it("is seen where a wait for the lock is limited", function()
    local lock = peri.Lock()
    lock:acquire()
    pcall(lock.acquire, lock, { timeout = 1 })
    assert.same({}, records)
  end)

  it("is seen where the holder has let go, and the next has not run yet", function()
    local lock = peri.Lock()
    local three
    local one = task("one", function()
      lock:acquire()
      peri.sleep(0)
      lock:release()
      three:await()
    end)
    task("two", function() take(lock, peri.Lock()) end)
    three = task("three", function()
      peri.sleep(0)
      lock:acquire()
      lock:release()
    end)
    one:await()
    support.settle()
    assert.same({}, records)
  end)

  it("is seen where the holder has ended and another task has its coroutine", function()
    local lock = peri.Lock()
    task("gone", function() lock:acquire() end):await()
    local one = task("one", function()
      peri.sleep(0)
      lock:acquire()
    end)
    support.settle()
    assert.same({}, records)
    assert.is_nil(peri.tasks()[2].holder)
    lock:release()
    one:await()
  end)

  it("is seen in a chain of tasks, each of which awaits the one before", function()
    local last = task("first", peri.sleep, 1)
    for _ = 1, 1000 do
      last = peri.create_task(last.await, last)
      peri.sleep(0)
    end
    last:await()
    assert.same({}, records)
  end)
end)
