local peri = require "perilune"
local support = require "support"
local raises, trace, spin = support.raises, support.trace, support.spin

-- The messages of a group's errors, in their order.
local function told(group)
  local list = {}
  for i, err in ipairs(group.exceptions) do list[i] = tostring(err) end
  return list
end

local function fails_after(delay, fault)
  return function()
    peri.sleep(delay)
    error(fault, 0)
  end
end

describe("a TaskGroup", function()
  it("waits for its tasks at the end of its block", function()
    local lines, say = trace()
    do
      local group <close> = peri.TaskGroup()
      for i = 1, 3 do
        group:create_task(function()
          peri.sleep(i)
          say(i)
        end)
      end
      say "body"
    end
    assert.same({ "body", "1", "2", "3" }, lines)
  end)

  it("without tasks takes no trip (CPython)", function()
    local ran = false
    peri.get_running_loop():call_soon(function() ran = true end)
    do local _ <close> = peri.TaskGroup() end
    assert.is_false(ran)
    peri.sleep(0)
  end)

  it("takes new tasks while it ends", function()
    local lines, say = trace()
    do
      local group <close> = peri.TaskGroup()
      group:create_task(function()
        peri.sleep(1)
        group:create_task(function()
          peri.sleep(1)
          say "grandchild"
        end)
      end)
    end
    assert.same({ "grandchild" }, lines)
  end)

  it("refuses tasks when it has ended", function()
    local group
    do
      local g <close> = peri.TaskGroup()
      group = g
    end
    raises(peri.RuntimeError, "the task group has ended", group.create_task, group, print)
  end)

  it("cancels the others when one fails, and raises a group of errors", function()
    local sibling
    local ok, err = pcall(function()
      local group <close> = peri.TaskGroup()
      group:create_task(fails_after(1, "bad"))
      sibling = group:create_task(peri.sleep, 60)
    end)
    assert.is_false(ok)
    assert.is_true(peri.ExceptionGroup:is(err))
    assert.same({ "bad" }, told(err))
    assert.is_true(sibling:cancelled())
    assert.equal(0, peri.current_task():cancelling())
  end)

  it("interrupts its block when a task fails", function()
    local interrupted
    local ok, err = pcall(function()
      local group <close> = peri.TaskGroup()
      group:create_task(fails_after(1, "bad"))
      local _, why = pcall(peri.sleep, 60)
      interrupted = peri.iscancel(why)
      error(why, 0)
    end)
    assert.is_true(interrupted)
    assert.is_false(ok)
    assert.same({ "bad" }, told(err))
    assert.equal(0, peri.current_task():cancelling())
  end)

  it("tells errors in the order of failing, the block's last", function()
    local ok, err = pcall(function()
      local group <close> = peri.TaskGroup()
      for i = 2, 1, -1 do
        group:create_task(function()
          local _ <close> = support.finally(function()
            peri.sleep(i)
            error("task " .. i, 0)
          end)
          peri.sleep(60)
        end)
      end
      peri.sleep(0)
      error("block", 0)
    end)
    assert.is_false(ok)
    assert.same({ "task 1", "task 2", "block" }, told(err))
  end)

  it("passes a cancellation from outside through, its tasks cancelled", function()
    local child
    local task = peri.create_task(function()
      local group <close> = peri.TaskGroup()
      child = group:create_task(peri.sleep, 60)
    end)
    spin(2)
    task:cancel()
    pcall(task.await, task)
    assert.is_true(task:cancelled())
    assert.is_true(child:cancelled())
  end)

  it("lets errors outrank a cancellation from outside", function()
    local task = peri.create_task(function()
      local group <close> = peri.TaskGroup()
      group:create_task(function()
        local _ <close> = support.finally(function() error("in clean-up", 0) end)
        peri.sleep(60)
      end)
    end)
    spin(2)
    task:cancel()
    pcall(task.await, task)
    assert.is_false(task:cancelled())
    assert.same({ "in clean-up" }, told(task:exception()))
  end)

  it("does not mind a task of its own that is cancelled", function()
    local group <close> = peri.TaskGroup()
    local task = group:create_task(peri.sleep, 60)
    peri.sleep(0)
    task:cancel()
  end)

  it("can be cancelled, and raises nothing then as a function", function()
    local child
    local result = table.pack(peri.TaskGroup(function(group)
      child = group:create_task(peri.sleep, 60)
      peri.sleep(1)
      group:cancel()
      peri.sleep(60)
    end))
    assert.same({ n = 0 }, result)
    assert.is_true(child:cancelled())
    assert.equal(0, peri.current_task():cancelling())
  end)

  it("as a function returns what the function returned", function()
    assert.same({ 1, 2 }, { peri.TaskGroup(function(group)
      group:create_task(peri.sleep, 1)
      return 1, 2
    end) })
  end)

  it("needs a task around it", function()
    local ok, err
    peri.get_running_loop():call_soon(function() ok, err = pcall(peri.TaskGroup) end)
    peri.sleep(0)
    assert.is_false(ok)
    assert.equal("RuntimeError: TaskGroup: a task group needs a task around it", tostring(err))
  end)

  it("in a coroutine that dies hands its tasks to the task, which waits for them", function()
    local child
    local ended = false
    local task = peri.create_task(function()
      local generator = coroutine.wrap(function()
        local group <close> = peri.TaskGroup()
        child = group:create_task(function()
          local _ <close> = support.finally(function()
            peri.sleep(1)
            ended = true
          end)
          peri.sleep(60)
        end)
        peri.sleep(0)
        error("dies", 0)
      end)
      return pcall(generator)
    end)
    local ok, err = task:await()
    assert.is_false(ok)
    assert.is_true(peri.ExceptionGroup:is(err))
    assert.same({ "dies" }, told(err))
    assert.is_true(ended)
    assert.is_true(child:cancelled())
  end)
end)
