local peri = require "perilune"
local support = require "support"
local trace, spin = support.trace, support.spin

describe("an Event", function()
  it("lets its waiters go when it is set, in the order they came", function()
    local lines, say = trace()
    local event = peri.Event()
    assert.is_false(event:is_set())
    for i = 1, 3 do
      peri.create_task(function() say(i, event:wait()) end)
    end
    support.settle()
    assert.same({}, lines)
    event:set()
    assert.is_true(event:is_set())
    support.settle()
    assert.same({ "1 true", "2 true", "3 true" }, lines)
  end)

  it("that is set does not make anybody wait", function()
    local event = peri.Event()
    event:set()
    event:set()
    local ran = false
    peri.get_running_loop():call_soon(function() ran = true end)
    assert.is_true(event:wait())
    assert.is_false(ran)
    peri.sleep(0)
  end)

  it("can be cleared and set again", function()
    local event = peri.Event()
    event:set()
    event:clear()
    assert.is_false(event:is_set())
    local task = peri.create_task(event.wait, event)
    support.settle()
    assert.is_false(task:done())
    event:set()
    assert.is_true(task:await())
  end)

  it("that is cleared at once has let go who waited (CPython)", function()
    local event = peri.Event()
    local task = peri.create_task(event.wait, event)
    spin(1)
    event:set()
    event:clear()
    assert.is_true(task:await())
    assert.is_false(event:is_set())
  end)

  it("forgets a waiter that is cancelled", function()
    local event = peri.Event()
    local a, b = peri.create_task(event.wait, event), peri.create_task(event.wait, event)
    spin(1)
    a:cancel()
    pcall(a.await, a)
    assert.is_true(a:cancelled())
    event:set()
    assert.is_true(b:await())
  end)

  it("gives up after its timeout", function()
    local event = peri.Event()
    local ok, err = pcall(event.wait, event, { timeout = 2 })
    assert.is_false(ok)
    assert.is_true(peri.TimeoutError:is(err))
    event:set()
    assert.is_true(event:wait { timeout = 2 })
  end)

  it("wakes many", function()
    local event = peri.Event()
    local woken = 0
    for _ = 1, 1000 do
      peri.create_task(function()
        event:wait()
        woken = woken + 1
      end)
    end
    support.settle()
    event:set()
    support.settle()
    assert.equal(1000, woken)
  end)
end)
