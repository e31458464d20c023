-- A sleep that was over went on in the very trip in which its timer fired, one
-- earlier than asyncio's: a timeout that was due at the same time came too late,
-- and so did the callbacks.
local peri = require "perilune"
local support = require "support"

describe("a sleep that is over", function()
  it("goes on one trip after the callbacks that are due with it (CPython)", function()
    local lines, say = support.trace()
    local sleeper = peri.create_task(function()
      peri.sleep(1)
      say "sleeper"
    end)
    peri.sleep(0)
    peri.get_running_loop():call_at(peri.get_running_loop():time() + 1, say, "callback")
    sleeper:await()
    assert.same({ "callback", "sleeper" }, lines)
  end)

  it("is still interrupted by a timeout that is due with it (CPython)", function()
    local task = peri.create_task(peri.sleep, 1, "slept")
    peri.sleep(0)
    support.raises(peri.TimeoutError, "", peri.wait_for, task, 1)
    assert.is_true(task:cancelled())
  end)

  it("may be cancelled by a callback that is due with it", function()
    local caught
    local task
    task = peri.create_task(function()
      local ok, err = pcall(peri.sleep, 1)
      caught = not ok and err.message
      peri.sleep(1)
      return "went on"
    end)
    peri.sleep(0)
    local loop = peri.get_running_loop()
    loop:call_at(loop:time() + 1, function() task:cancel "now" end)
    assert.equal("went on", task:await())
    assert.equal("now", caught)
  end)

  it("may be killed by a callback that is due with it", function()
    local task = peri.create_task(pcall, peri.sleep, 1)
    peri.sleep(0)
    local loop = peri.get_running_loop()
    loop:call_at(loop:time() + 1, function() task:kill() end)
    peri.wait { task }
    assert.is_true(task:cancelled())
  end)
end)

describe("call_later", function()
  it("calls what is overdue the longest first (CPython)", function()
    local lines, say = support.trace()
    local loop = peri.get_running_loop()
    loop:call_later(0, say, "now")
    loop:call_later(-1, say, "overdue")
    loop:call_later(-2, say, "long overdue")
    loop:call_soon(say, "soon")
    peri.sleep(0)
    peri.sleep(0)
    assert.same({ "soon", "long overdue", "overdue", "now" }, lines)
  end)
end)
