local peri = require "perilune"
local support = require "support"
local raises, trace, spin = support.raises, support.trace, support.spin

describe("call_later and call_at", function()
  it("run in the order of their times", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    local now = loop:time()
    loop:call_later(3, say, "third", 3)
    loop:call_later(1, say, "first")
    loop:call_at(now + 2, say, "second", nil)
    peri.sleep(4)
    assert.same({ "first", "second nil", "third 3" }, lines)
  end)

  it("run equal deadlines in the order they were made", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    local when = loop:time() + 1
    for i = 1, 20 do loop:call_at(when, say, i) end
    peri.sleep(2)
    local expected = {}
    for i = 1, 20 do expected[i] = tostring(i) end
    assert.same(expected, lines)
  end)

  it("queue what is due behind what is ready", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    loop:call_later(0, say, "timer")
    loop:call_soon(say, "soon")
    spin(2)
    assert.same({ "soon", "timer" }, lines)
  end)

  it("of the past run at the next occasion", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    peri.sleep(10)
    loop:call_at(1, say, "long past")
    loop:call_later(-5, say, "negative")
    spin(2)
    assert.same({ "long past", "negative" }, lines)
  end)

  it("tell their time, and can be cancelled", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    local now = loop:time()
    local a, b = loop:call_at(now + 5, say, "a"), loop:call_later(6, say, "b")
    assert.equal(now + 5, a:when())
    assert.is_true(math.abs(now + 6 - b:when()) < 1e-6)
    a:cancel()
    assert.is_true(a:cancelled())
    assert.is_false(b:cancelled())
    peri.sleep(10)
    assert.same({ "b" }, lines)
    assert.is_false(b:cancelled())
    b:cancel()
  end)

  it("can be cancelled by what runs at the same time", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    local when = loop:time() + 1
    local second
    loop:call_at(when, function() second:cancel() end)
    second = loop:call_at(when, say, "never")
    peri.sleep(2)
    assert.same({}, lines)
  end)

  it("refuse NaN and what is no number", function()
    local loop = peri.get_running_loop()
    raises(peri.ValueError, "Invalid delay: NaN (not a number)", loop.call_later, loop, 0 / 0, print)
    raises(peri.ValueError, "Invalid time: NaN (not a number)", loop.call_at, loop, 0 / 0, print)
    raises(peri.TypeError, "bad argument #1 to 'call_later' (number expected, got string)",
      function() loop:call_later("1", print) end)
    raises(peri.TypeError, "bad argument #1 to 'call_at' (number expected, got nil)",
      function() loop:call_at(nil, print) end)
    raises(peri.TypeError, "bad argument #2 to 'call_later' (function expected, got no value)",
      function() loop:call_later(1) end)
  end)

  it("of infinity never run", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    local handle = loop:call_later(math.huge, say, "never")
    assert.equal(math.huge, handle:when())
    peri.sleep(1e7)
    assert.same({}, lines)
    handle:cancel()
  end)

  it("are forgotten when they are cancelled, however many #heavy", function()
    local loop = peri.get_running_loop()
    support.collect()
    local before = collectgarbage "count"
    for _ = 1, 20 do
      local handles = {}
      for i = 1, 5000 do handles[i] = loop:call_later(1000 + i % 7, print, "never") end
      for i = 1, #handles do handles[i]:cancel() end
    end
    support.collect()
    assert.is_true(collectgarbage "count" - before < 2000)
  end)

  it("keep nanoseconds apart", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    loop:call_later(3e-9, say, 3)
    loop:call_later(1e-9, say, 1)
    loop:call_later(2e-9, say, 2)
    peri.sleep(1e-6)
    assert.same({ "1", "2", "3" }, lines)
  end)

  it("hold a thousand different deadlines in order", function()
    math.randomseed(20)
    local loop = peri.get_running_loop()
    local seen = {}
    for _ = 1, 1000 do
      local delay = math.random(1, 400) / 7
      loop:call_later(delay, function() seen[#seen + 1] = delay end)
    end
    local cancelled = {}
    for i = 1, 300 do cancelled[i] = loop:call_later(math.random(1, 400) / 7, error, "cancelled") end
    for i = 1, 300 do cancelled[i]:cancel() end
    peri.sleep(100)
    assert.equal(1000, #seen)
    for i = 2, #seen do assert.is_true(seen[i - 1] <= seen[i]) end
  end)
end)

describe("sleepers", function()
  it("of one time wake in the order they fell asleep", function()
    local lines, say = trace()
    local tasks = {}
    for i = 1, 10 do
      tasks[i] = peri.create_task(function()
        peri.sleep(1)
        say(i)
      end)
    end
    for _, task in ipairs(tasks) do task:await() end
    assert.same({ "1", "2", "3", "4", "5", "6", "7", "8", "9", "10" }, lines)
  end)

  -- Durations that recur stand in FIFOs, the others in a heap by themselves.
  it("fire in the order of deadline and start, whatever else was cancelled", function()
    local seed = 20261127
    math.randomseed(seed)
    local clock = peri.Clock { kind = "manual" }
    local loop = peri.get_running_loop()
    local _ <close> = peri.use_clock(clock)
    local now, started, expected, fired = 0, 0, {}, {}
    local live = {}
    local function start()
      started = started + 1
      local id = started
      local ms = math.random(3) == 1 and math.random(100000) or 100 * math.random(5)
      local timer = { id = id, at = now + ms }
      timer.handle = loop:call_later(ms / 1000, function() fired[#fired + 1] = id end)
      live[#live + 1] = timer
    end
    local function cancel()
      local timer = table.remove(live, math.random(#live))
      timer.handle:cancel()
    end
    local function advance()
      local ms = math.random(200)
      now = now + ms
      clock:advance(ms / 1000)
      local due, rest = {}, {}
      for _, timer in ipairs(live) do
        local list = timer.at <= now and due or rest
        list[#list + 1] = timer
      end
      table.sort(due, function(a, b)
        if a.at ~= b.at then return a.at < b.at end
        return a.id < b.id
      end)
      for _, timer in ipairs(due) do expected[#expected + 1] = timer.id end
      live = rest
      support.spin(3)
    end
    for _ = 1, 5000 do
      local dice = math.random(20)
      if dice == 1 then
        advance()
      elseif dice <= 7 and #live > 0 then
        cancel()
      else
        start()
      end
    end
    for _ = 1, 1000 do advance() end
    assert.equal(0, #live, "seed " .. seed)
    assert.same(expected, fired, "seed " .. seed)
  end)
end)
