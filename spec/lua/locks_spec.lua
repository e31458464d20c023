local peri = require "perilune"
local support = require "support"
local raises, trace, spin = support.raises, support.trace, support.spin

describe("a Lock", function()
  it("goes to its waiters in the order they came", function()
    local lines, say = trace()
    local lock = peri.Lock()
    lock:acquire()
    for i = 1, 3 do
      peri.create_task(function()
        local _ <close> = lock:guard()
        say(i)
        peri.sleep(1)
      end)
    end
    support.settle()
    assert.same({}, lines)
    lock:release()
    peri.sleep(10)
    assert.same({ "1", "2", "3" }, lines)
    assert.is_false(lock:locked())
  end)

  it("cannot be barged into between release and the waiter's step (CPython)", function()
    local lines, say = trace()
    local lock = peri.Lock()
    lock:acquire()
    local waiter = peri.create_task(function()
      local _ <close> = lock:guard()
      say "waiter"
    end)
    peri.sleep(0)
    lock:release()
    assert.is_false(lock:locked())
    do
      local _ <close> = lock:guard()
      say "barger"
    end
    waiter:await()
    assert.same({ "waiter", "barger" }, lines)
  end)

  it("is handed on by a waiter that is cancelled when it was woken", function()
    local lock = peri.Lock()
    lock:acquire()
    local a = peri.create_task(lock.acquire, lock)
    local b = peri.create_task(lock.acquire, lock)
    peri.sleep(0)
    lock:release()
    a:cancel()
    assert.is_true(b:await())
    assert.is_true(a:cancelled())
    assert.is_true(lock:locked())
  end)

  it("is released by its guard when the block fails", function()
    local lock = peri.Lock()
    pcall(function()
      local _ <close> = lock:guard()
      error "x"
    end)
    assert.is_false(lock:locked())
  end)

  it("gives up after its timeout", function()
    local lock = peri.Lock()
    lock:acquire()
    raises(peri.TimeoutError, "", lock.acquire, lock, { timeout = 1 })
    lock:release()
    assert.is_true(lock:acquire { timeout = 1 })
  end)

  it("refuses a release that nobody earned", function()
    local lock = peri.Lock()
    raises(peri.RuntimeError, "the lock is not acquired", lock.release, lock)
  end)

  it("is not lost to a waiter that is killed", function()
    local lock = peri.Lock()
    lock:acquire()
    local a = peri.create_task(function() pcall(lock.acquire, lock) end)
    local b = peri.create_task(lock.acquire, lock)
    peri.sleep(0)
    lock:release()
    a:kill()
    assert.is_true(b:await())
  end)
end)

describe("a Semaphore", function()
  it("lets so many in at a time", function()
    local semaphore = peri.Semaphore(2)
    local inside, most = 0, 0
    local tasks = {}
    for i = 1, 6 do
      tasks[i] = peri.create_task(function()
        local _ <close> = semaphore:guard()
        inside = inside + 1
        most = math.max(most, inside)
        peri.sleep(1)
        inside = inside - 1
      end)
    end
    for _, task in ipairs(tasks) do task:await() end
    assert.equal(2, most)
    assert.is_false(semaphore:locked())
  end)

  it("keeps a permit from being lost when a woken waiter is cancelled", function()
    local semaphore = peri.Semaphore(0)
    local a = peri.create_task(semaphore.acquire, semaphore)
    local b = peri.create_task(semaphore.acquire, semaphore)
    peri.sleep(0)
    semaphore:release()
    a:cancel()
    b:await()
    assert.is_true(a:cancelled())
    assert.is_true(semaphore:locked())
  end)

  it("refuses a negative value", function()
    raises(peri.ValueError, "bad argument #1 to 'Semaphore' (the initial value must be >= 0)", peri.Semaphore, -1)
  end)

  it("that is bounded refuses to be released too often", function()
    local semaphore = peri.BoundedSemaphore(1)
    semaphore:acquire()
    semaphore:release()
    local ok, err = pcall(semaphore.release, semaphore)
    assert.is_false(ok)
    assert.is_true(peri.ValueError:is(err))
  end)
end)

describe("a Condition", function()
  it("wakes as many as it is told, in order", function()
    local lines, say = trace()
    local condition = peri.Condition()
    for i = 1, 3 do
      peri.create_task(function()
        local _ <close> = condition:guard()
        condition:wait()
        say(i)
      end)
    end
    support.settle()
    do
      local _ <close> = condition:guard()
      condition:notify(2)
    end
    support.settle()
    assert.same({ "1", "2" }, lines)
    do
      local _ <close> = condition:guard()
      condition:notify_all()
    end
    support.settle()
    assert.same({ "1", "2", "3" }, lines)
  end)

  it("has its lock again before a cancellation leaves the wait", function()
    local condition = peri.Condition()
    local held
    local task = peri.create_task(function()
      local _ <close> = condition:guard()
      local _ <close> = support.finally(function() held = condition:locked() end)
      condition:wait()
    end)
    spin(2)
    task:cancel()
    pcall(task.await, task)
    assert.is_true(task:cancelled())
    assert.is_true(held)
    assert.is_false(condition:locked())
  end)

  it("passes the notification of a cancelled waiter on (CPython 3.13)", function()
    local condition = peri.Condition()
    local woken = {}
    local function waiter(i)
      return peri.create_task(function()
        local _ <close> = condition:guard()
        condition:wait()
        woken[#woken + 1] = i
      end)
    end
    local a, b = waiter(1), waiter(2)
    support.settle()
    do
      local _ <close> = condition:guard()
      condition:notify(1)
    end
    a:cancel()
    b:await()
    assert.same({ 2 }, woken)
    assert.is_true(a:cancelled())
  end)

  it("waits for a predicate", function()
    local condition = peri.Condition()
    local n = 0
    local task = peri.create_task(function()
      local _ <close> = condition:guard()
      return condition:wait_for(function() return n >= 2 and n end)
    end)
    for _ = 1, 2 do
      support.settle()
      local _ <close> = condition:guard()
      n = n + 1
      condition:notify_all()
    end
    assert.equal(2, task:await())
  end)

  it("needs its lock", function()
    local condition = peri.Condition()
    raises(peri.RuntimeError, "cannot wait: the condition's lock is not acquired", condition.wait, condition)
    raises(peri.RuntimeError, "cannot notify: the condition's lock is not acquired", condition.notify, condition)
  end)
end)

describe("a Barrier", function()
  it("lets its parties go together, each with its place", function()
    local barrier = peri.Barrier(3)
    local places = {}
    for _ = 1, 3 do
      peri.create_task(function()
        local place = barrier:wait()
        places[#places + 1] = place
      end)
      support.settle()
    end
    table.sort(places)
    assert.same({ 0, 1, 2 }, places)
    assert.equal(0, barrier.n_waiting)
  end)

  it("breaks when it is aborted", function()
    local barrier = peri.Barrier(2)
    local task = peri.create_task(barrier.wait, barrier)
    support.settle()
    assert.equal(1, barrier.n_waiting)
    barrier:abort()
    local ok, err = pcall(task.await, task)
    assert.is_false(ok)
    assert.is_true(peri.BrokenBarrierError:is(err))
    assert.is_true(barrier.broken)
    barrier:reset()
    assert.is_false(barrier.broken)
  end)
end)
