-- Python 3.12's eager tasks: the first step runs inside the creation.
local peri = require "perilune"
local support = require "support"
local trace, spin = support.trace, support.spin

local function eager(fn, ...)
  return peri.create_task { fn, ..., eager = true }
end

describe("an eager task", function()
  it("runs up to its first real wait at once", function()
    local lines, say = trace()
    local task = eager(function()
      say "started"
      peri.sleep(0)
      say "went on"
    end)
    assert.same({ "started" }, lines)
    assert.is_false(task:done())
    task:await()
    assert.same({ "started", "went on" }, lines)
  end)

  it("that never waits is done when its creation returns", function()
    local task = eager(function() return 1, nil, 3 end)
    assert.is_true(task:done())
    assert.same({ n = 3, 1, nil, 3 }, table.pack(task:result()))
  end)

  it("is the current task while it runs, and its creator after", function()
    local me = peri.current_task()
    local seen
    local task = eager(function() seen = peri.current_task() end)
    assert.equal(task, seen)
    assert.equal(me, peri.current_task())
  end)

  it("that awaits something done does not stop there", function()
    local future = peri.Future()
    future:set_result "x"
    assert.equal("x", eager(future.await, future):result())
  end)

  it("that fails at once is done, and its error is kept", function()
    local fault = {}
    local task = eager(error, fault)
    assert.is_true(task:done())
    assert.equal(fault, task:exception())
  end)

  it("may be made by another, to some depth", function()
    local lines, say = trace()
    local task
    task = eager(function()
      local inner = eager(function()
        say("inner", peri.current_task() ~= task)
        peri.sleep(0)
        return "inner result"
      end)
      say "outer"
      return inner:await()
    end)
    assert.same({ "inner true", "outer" }, lines)
    assert.equal("inner result", task:await())
  end)

  it("in a generator of its creator leaves that one as it was", function()
    local generator = coroutine.wrap(function()
      local task = eager(function() return peri.sleep(1, "slept") end)
      coroutine.yield "between"
      return task:await()
    end)
    assert.equal("between", generator())
    assert.equal("slept", generator())
  end)

  it("can be cancelled while it waits", function()
    local task = eager(peri.sleep, 60)
    task:cancel()
    spin(2)
    assert.is_true(task:cancelled())
  end)

  it("made without end is an error of the innermost, not a crash", function()
    local function nest() return eager(nest) end
    local ok, result, depth = true, nest(), 0
    while ok do
      ok, result = pcall(result.result, result)
      depth = depth + 1
    end
    assert.matches("C stack overflow", tostring(result))
    assert.is_true(depth > 10, "only " .. depth)
    assert.equal("alive", peri.sleep(0, "alive"))
  end)
end)

describe("eager_task_factory", function()
  it("makes every task of a loop eager", function()
    local loop = peri.get_running_loop()
    local lines, say = trace()
    loop:set_task_factory(peri.eager_task_factory)
    local task = peri.create_task(function()
      say "at once"
      peri.sleep(0)
    end)
    assert.same({ "at once" }, lines)
    task:await()
    loop:set_task_factory(nil)
  end)
end)
