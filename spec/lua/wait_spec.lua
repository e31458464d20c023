local peri = require "perilune"
local support = require "support"
local raises, spin = support.raises, support.spin

local function sleepers(...)
  local tasks = {}
  for i, delay in ipairs { ... } do tasks[i] = peri.create_task(peri.sleep, delay, i) end
  return tasks
end

local function finish(...)
  for _, tasks in ipairs { ... } do
    for _, task in ipairs(tasks) do
      task:cancel()
      pcall(task.await, task)
    end
  end
end

describe("wait", function()
  it("gives done and pending in the order of its list", function()
    local tasks = sleepers(3, 1, 2)
    local done, pending = peri.wait(tasks)
    assert.same(tasks, done)
    assert.same({}, pending)
  end)

  it("returns with the first that is done", function()
    local tasks = sleepers(3, 1, 2)
    local done, pending = peri.wait(tasks, { return_when = peri.FIRST_COMPLETED })
    assert.same({ tasks[2] }, done)
    assert.same({ tasks[1], tasks[3] }, pending)
    finish(pending)
  end)

  it("returns with the first that fails, a cancellation not counting", function()
    local failing = peri.create_task(function()
      peri.sleep(2)
      error("bad", 0)
    end)
    local cancelled = peri.create_task(peri.sleep, 60)
    local slow = peri.create_task(peri.sleep, 60)
    peri.get_running_loop():call_later(1, function() cancelled:cancel() end)
    local done, pending = peri.wait({ slow, failing, cancelled }, { return_when = peri.FIRST_EXCEPTION })
    assert.same({ failing, cancelled }, done)
    assert.same({ slow }, pending)
    assert.equal("bad", failing:exception())
    finish(pending)
  end)

  it("does not raise what its tasks raised", function()
    local task = peri.create_task(error, "kept", 0)
    local done = peri.wait { task }
    assert.equal("kept", done[1]:exception())
  end)

  it("gives up after its timeout, and cancels nothing", function()
    local tasks = sleepers(1, 5)
    local done, pending = peri.wait(tasks, { timeout = 2 })
    assert.same({ tasks[1] }, done)
    assert.same({ tasks[2] }, pending)
    assert.equal(0, pending[1]:cancelling())
    assert.equal(2, pending[1]:await())
  end)

  it("with a timeout of nought still lets what is ready run", function()
    local task = peri.create_task(function() return "ran" end)
    local sleeper = peri.create_task(peri.sleep, 60)
    local done, pending = peri.wait({ task, sleeper }, { timeout = 0 })
    assert.same({ task }, done)
    assert.same({ sleeper }, pending)
    finish(pending)
  end)

  it("takes what one list names twice once", function()
    local task = peri.create_task(peri.sleep, 1)
    local done = peri.wait { task, task }
    assert.same({ task }, done)
  end)

  it("leaves its tasks alone when it is cancelled", function()
    local tasks = sleepers(5, 6)
    local waiter = peri.create_task(peri.wait, tasks)
    spin(2)
    waiter:cancel()
    pcall(waiter.await, waiter)
    assert.is_true(waiter:cancelled())
    assert.equal(0, tasks[1]:cancelling())
    assert.equal(1, tasks[1]:await())
    assert.equal(2, tasks[2]:await())
  end)

  it("takes two trips with everything already done (CPython)", function()
    local future = peri.Future()
    future:set_result(1)
    local trips = 0
    local on = true
    local counter = peri.create_task(function()
      while on do
        peri.sleep(0)
        trips = trips + 1
      end
    end)
    spin(2)
    local before = trips
    peri.wait { future }
    assert.is_true(trips - before <= 2)
    on = false
    counter:await()
  end)

  it("refuses an empty list, functions and unknown conditions", function()
    raises(peri.ValueError, "bad argument #1 to 'wait' (the list is empty)", peri.wait, {})
    raises(peri.TypeError, "bad argument #1 to 'wait' (list of tasks and futures expected, got nil)", peri.wait)
    local task = peri.create_task(peri.sleep, 0)
    raises(peri.ValueError, "bad argument #2 to 'wait' (invalid return_when: \"SOMETIME\")",
      peri.wait, { task }, { return_when = "SOMETIME" })
    raises(peri.TypeError,
      "bad argument #1 to 'wait' (task or future as element 1 expected, got function)",
      peri.wait, { function() end })
    task:await()
  end)
end)
