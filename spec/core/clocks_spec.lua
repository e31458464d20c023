local peri = require "perilune"
local support = require "support"
local raises, trace, spin = support.raises, support.trace, support.spin

local function close_to(expected, actual)
  assert.is_true(math.abs(expected - actual) < 1e-6, ("%.9f is not %.9f"):format(actual, expected))
end

describe("a clock", function()
  it("is of one of three kinds, real unless told otherwise", function()
    for _, kind in ipairs { "real", "manual", "virtual" } do
      assert.equal(kind, peri.Clock { kind = kind }.kind)
    end
    assert.equal("real", peri.Clock().kind)
    assert.equal("real", peri.Clock {}.kind)
    raises(peri.ValueError, 'Clock: kind is "real", "manual" or "virtual", not lunar',
      peri.Clock, { kind = "lunar" })
  end)
end)

describe("the virtual clock", function()
  it("jumps to the next deadline when every task is blocked", function()
    local loop = peri.get_running_loop()
    local wall, start = os.time(), loop:time()
    peri.sleep(100000)
    close_to(start + 100000, loop:time())
    assert.is_true(os.time() - wall < 1000)
  end)

  it("stands while anything is ready", function()
    local loop = peri.get_running_loop()
    local start = loop:time()
    local task = peri.create_task(peri.sleep, 1)
    spin(100)
    assert.equal(start, loop:time())
    assert.is_false(task:done())
    task:await()
    close_to(start + 1, loop:time())
  end)

  it("stops at each deadline, in order", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    local start = loop:time()
    local tasks = {}
    for i, delay in ipairs { 3, 1, 2 } do
      tasks[i] = peri.create_task(function()
        peri.sleep(delay)
        say(delay, math.floor(loop:time() - start + 0.5))
      end)
    end
    for _, task in ipairs(tasks) do task:await() end
    assert.same({ "1 1", "2 2", "3 3" }, lines)
  end)

  it("is waited for with settle, which takes no time worth the name", function()
    local loop = peri.get_running_loop()
    local start = loop:time()
    local steps = 0
    local task = peri.create_task(function()
      for _ = 1, 10 do
        steps = steps + 1
        peri.sleep(0)
      end
      peri.sleep(1)
    end)
    support.settle()
    assert.equal(10, steps)
    assert.is_true(loop:time() - start < 1e-3)
    task:await()
  end)
end)

describe("a manual clock", function()
  local function sleeper(say, delay)
    return peri.create_task(function()
      peri.sleep(delay)
      say(delay)
    end)
  end

  it("starts at nought and moves when it is told to", function()
    local clock = peri.Clock { kind = "manual" }
    assert.equal(0, clock:now())
    clock:advance(1.5)
    assert.equal(1.5, clock:now())
  end)

  it("wakes the tasks whose time has come, and those only", function()
    local lines, say = trace()
    local clock = peri.Clock { kind = "manual" }
    local a, b
    do
      local _ <close> = peri.use_clock(clock)
      a, b = sleeper(say, 1), sleeper(say, 2)
    end
    support.settle()
    assert.same({}, lines)
    clock:advance(1)
    support.settle()
    assert.same({ "1" }, lines)
    assert.is_true(a:done())
    clock:advance(0.999)
    support.settle()
    assert.is_false(b:done())
    clock:advance(0.001)
    support.settle()
    assert.same({ "1", "2" }, lines)
    assert.is_true(b:done())
  end)

  it("fires what is due in the order of the deadlines when it leaps", function()
    local lines, say = trace()
    local clock = peri.Clock { kind = "manual" }
    do
      local _ <close> = peri.use_clock(clock)
      for _, delay in ipairs { 5, 1, 3 } do sleeper(say, delay) end
    end
    peri.sleep(0)
    clock:advance(10)
    support.settle()
    assert.same({ "1", "3", "5" }, lines)
  end)

  it("does not run backwards", function()
    local clock = peri.Clock { kind = "manual" }
    for _, backwards in ipairs { -1, 0 / 0 } do
      raises(peri.ValueError, "bad argument #1 to 'advance' (a clock cannot go back)",
        function() clock:advance(backwards) end)
    end
    assert.equal(0, clock:now())
  end)

  it("can be paused: an advance is then lost", function()
    local clock = peri.Clock { kind = "manual" }
    clock:pause()
    clock:advance(5)
    assert.equal(0, clock:now())
    clock:resume()
    clock:advance(5)
    assert.equal(5, clock:now())
  end)

  it("can be scaled", function()
    local clock = peri.Clock { kind = "manual", scale = 2 }
    clock:advance(1)
    assert.equal(2, clock:now())
    clock:set_scale(0.5)
    clock:advance(1)
    assert.equal(2.5, clock:now())
  end)

  it("is the loop's time for its tasks", function()
    local clock = peri.Clock { kind = "manual" }
    clock:advance(42)
    local _ <close> = peri.use_clock(clock)
    assert.equal(42, peri.get_running_loop():time())
  end)

  it("times the call_later of the task that calls it", function()
    local lines, say = trace()
    local clock = peri.Clock { kind = "manual" }
    local handle
    do
      local _ <close> = peri.use_clock(clock)
      handle = peri.get_running_loop():call_later(3, say, "called")
    end
    assert.equal(3, handle:when())
    peri.sleep(100)
    assert.same({}, lines)
    clock:advance(3)
    support.settle()
    assert.same({ "called" }, lines)
  end)
end)

describe("use_clock", function()
  it("holds for its block, and for the tasks made in it", function()
    local clock = peri.Clock { kind = "manual" }
    local loop = peri.get_running_loop()
    local outside = loop:time()
    local inside, child
    do
      local _ <close> = peri.use_clock(clock)
      inside = loop:time()
      child = peri.create_task(function()
        peri.sleep(0)
        return loop:time(), peri.create_task(function() return loop:time() end):await()
      end)
    end
    assert.equal(0, inside)
    assert.equal(outside, loop:time())
    clock:advance(7)
    assert.same({ 7, 7 }, { child:await() })
  end)

  it("closes in the reverse order", function()
    local a, b = peri.Clock { kind = "manual" }, peri.Clock { kind = "manual" }
    a:advance(1)
    b:advance(2)
    local loop = peri.get_running_loop()
    local seen = {}
    do
      local _ <close> = peri.use_clock(a)
      do
        local _ <close> = peri.use_clock(b)
        seen[1] = loop:time()
      end
      seen[2] = loop:time()
    end
    assert.same({ 2, 1 }, seen)
  end)

  it("wants a clock", function()
    raises(peri.TypeError, "bad argument #1 to 'use_clock' (Clock expected, got number)",
      function() peri.use_clock(1) end)
  end)
end)

describe("a real clock", function()
  it("runs by itself, and cannot be advanced", function()
    local clock = peri.Clock { kind = "real" }
    local before = clock:now()
    local x = 0
    for i = 1, 1e5 do x = x + i end
    assert.is_true(clock:now() > before)
    raises(peri.ValueError, "Clock.advance: a real clock goes by itself", clock.advance, clock, 1)
    assert.is_number(x)
  end)

  it("stands while it is paused", function()
    local clock = peri.Clock { kind = "real" }
    clock:pause()
    local before = clock:now()
    local x = 0
    for i = 1, 1e5 do x = x + i end
    assert.equal(before, clock:now())
    clock:resume()
    for i = 1, 1e5 do x = x + i end
    assert.is_true(clock:now() > before)
  end)

  it("keeps the virtual one from jumping while a timer of it is pending", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    local start = loop:time()
    local real
    do
      local _ <close> = peri.use_clock(peri.Clock { kind = "real", scale = 100 })
      real = peri.create_task(function()
        peri.sleep(0.5)
        say("real", loop:time() >= start)
      end)
    end
    local virtual = peri.create_task(function()
      peri.sleep(1000)
      say "virtual"
    end)
    virtual:await()
    real:await()
    assert.same({ "real true", "virtual" }, lines)
  end)

  it("never ends a sleep early", support.top_level(function()
    local clock = peri.Clock { kind = "real" }
    for _ = 1, 20 do
      local before = clock:now()
      peri.sleep(0.001)
      assert.is_true(clock:now() - before >= 0.001)
    end
  end))
end)
