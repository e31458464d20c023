local peri = require "perilune"
local support = require "support"
local raises, trace = support.raises, support.trace

describe("defer", function()
  it("calls the last deferred function first, with its arguments, nil among them", function()
    local lines, say = trace()
    do
      local _ <close> = peri.defer(say, "first", nil)
      local _ <close> = peri.defer { say, "second", nil, 3, n = 4 }
      local _ <close> = peri.defer(function(...) say("third", select("#", ...)) end)
      say "block"
    end
    assert.same({ "block", "third 0", "second nil 3", "first nil" }, lines)
  end)

  it("calls it when a cancellation passes by, and it may wait then", function()
    local lines, say = trace()
    local task = peri.create_task(function()
      local _ <close> = peri.defer(function()
        peri.sleep(1)
        say "waited"
      end)
      peri.sleep(10)
    end)
    peri.sleep(0)
    task:cancel()
    pcall(task.await, task)
    assert.same({ "waited" }, lines)
    assert.is_true(task:cancelled())
  end)

  it("calls it when a kill passes by", function()
    local lines, say = trace()
    local task = peri.create_task(function()
      local _ <close> = peri.defer(say, "unwound")
      pcall(peri.sleep, 10)
      say "never"
    end)
    peri.sleep(0)
    task:kill()
    pcall(task.await, task)
    assert.same({ "unwound" }, lines)
  end)

  it("replaces the error that passes by the one it raises", function()
    local ok, err = pcall(function()
      local _ <close> = peri.defer(error, "second", 0)
      error("first", 0)
    end)
    assert.same({ false, "second" }, { ok, err })
  end)

  it("takes what can be called, and nothing else", function()
    local got
    do
      local _ <close> = peri.defer(setmetatable({}, { __call = function(_, x) got = x end }), "x")
    end
    assert.equal("x", got)
    raises(peri.TypeError, "bad argument #1 to 'defer' (function expected, got nil)", peri.defer)
    raises(peri.TypeError, "bad argument #1 to 'defer' (function expected, got table)",
      peri.defer, {})
  end)
end)
