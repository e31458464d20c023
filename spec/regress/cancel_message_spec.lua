-- Messages of cancellations were lost on the way through a gather, and replaced
-- by that of a later cancel while the first was already on its way.
local peri = require "perilune"

local function message_of(task)
  local ok, err = pcall(task.await, task)
  assert.is_false(ok)
  assert.is_true(peri.iscancel(err))
  return err.message
end

describe("a cancellation's message", function()
  it("is the first one's when two come before the task runs (CPython)", function()
    local task = peri.create_task(peri.sleep, 10)
    peri.sleep(0)
    task:cancel "first"
    task:cancel "second"
    assert.equal("first", message_of(task))
  end)

  it("is the last one's where the task was ready anyway (CPython)", function()
    local task = peri.create_task(peri.sleep, 0)
    peri.sleep(0)
    task:cancel "first"
    task:cancel "second"
    assert.equal("second", message_of(task))
  end)

  it("gets through a gather, with return_exceptions too", function()
    for _, return_exceptions in ipairs { false, true } do
      local task = peri.create_task(function()
        peri.gather({ peri.Future(), peri.Future() },
          { return_exceptions = return_exceptions }):await()
      end)
      peri.sleep(0)
      task:cancel "stop"
      assert.equal("stop", message_of(task))
    end
  end)

  it("is the gather's when the task is cancelled again before that is done", function()
    local task = peri.create_task(function() peri.gather(peri.Future()):await() end)
    peri.sleep(0)
    task:cancel "first"
    peri.sleep(0)
    task:cancel "second"
    assert.equal("first", message_of(task))
  end)

  it("gets through a gather whose last child swallows it", function()
    local task = peri.create_task(function()
      peri.gather(peri.Future(), function() pcall(peri.sleep, 10) end):await()
    end)
    peri.sleep(0)
    peri.sleep(0)
    task:cancel "stop"
    assert.equal("stop", message_of(task))
  end)
end)
