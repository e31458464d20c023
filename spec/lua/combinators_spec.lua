local peri = require "perilune"
local support = require "support"
local raises, spin, trace = support.raises, support.spin, support.trace

local function after(delay, value)
  return function()
    peri.sleep(delay)
    return value
  end
end

describe("map", function()
  it("gives results in order, so many at a time", function()
    local running, most = 0, 0
    local results = peri.map(function(x)
      running = running + 1
      most = math.max(most, running)
      peri.sleep(10 - x)
      running = running - 1
      return x * x
    end, { 1, 2, 3, 4, 5 }, { limit = 2 })
    assert.same({ n = 5, 1, 4, 9, 16, 25 }, results)
    assert.equal(2, most)
  end)

  it("raises the first error, the rest cancelled and waited for", function()
    local lines, say = trace()
    local ok, err = pcall(peri.map, function(x)
      local _ <close> = support.finally(function(e) say(x, peri.iscancel(e)) end)
      if x == 2 then
        peri.sleep(1)
        error("bad", 0)
      end
      peri.sleep(60)
    end, { 1, 2, 3 })
    assert.is_false(ok)
    assert.equal("bad", err)
    assert.same({ "2 false", "1 true", "3 true" }, lines)
  end)
end)

describe("race", function()
  it("gives what the first to succeed returns, and ends the others", function()
    local lines, say = trace()
    local value = peri.race {
      function() error("fails first", 0) end,
      after(2, "winner"),
      function()
        local _ <close> = support.finally(function() say "loser ends" end)
        peri.sleep(60)
      end,
    }
    assert.equal("winner", value)
    assert.same({ "loser ends" }, lines)
  end)

  it("raises all errors when none succeeds", function()
    local ok, err = pcall(peri.race, {
      function() peri.sleep(2) error("slow", 0) end,
      function() peri.sleep(1) error("fast", 0) end,
    })
    assert.is_false(ok)
    assert.is_true(peri.ExceptionGroup:is(err))
    assert.same({ "fast", "slow" }, err.exceptions)
    raises(peri.ValueError, "bad argument #1 to 'race' (the list is empty)", peri.race, {})
  end)
end)

describe("gather with options", function()
  it("limits how many run at a time", function()
    local running, most = 0, 0
    local list = {}
    for i = 1, 6 do
      list[i] = function()
        running = running + 1
        most = math.max(most, running)
        peri.sleep(1)
        running = running - 1
        return i
      end
    end
    assert.same({ n = 6, 1, 2, 3, 4, 5, 6 }, peri.gather(list, { limit = 3 }):await())
    assert.equal(3, most)
  end)

  it("that cancels on an error starts its children at once, and ends them if it is cancelled", function()
    local child = peri.create_task(peri.sleep, 10)
    local running = 0
    local gather = peri.gather({ child, function()
      running = running + 1
      local _ <close> = peri.defer(function() running = running - 1 end)
      peri.sleep(10)
    end }, { on_error = "cancel" })
    gather:cancel()
    peri.wait { gather, child }
    assert.is_true(gather:cancelled())
    assert.is_true(child:cancelled())
    assert.equal(0, running)
  end)

  it("cancels the others on an error if it is told to", function()
    local task = peri.create_task(peri.sleep, 60)
    local gather = peri.gather({ task, function() error("bad", 0) end }, { on_error = "cancel" })
    local ok, err = pcall(gather.await, gather)
    assert.is_false(ok)
    assert.equal("bad", err)
    assert.is_true(task:cancelled())
  end)
end)

describe("as_completed", function()
  it("gives tasks in the order they end", function()
    local seen = {}
    for task in peri.as_completed { after(3, "c"), after(1, "a"), after(2, "b") } do
      seen[#seen + 1] = task:result()
    end
    assert.same({ "a", "b", "c" }, seen)
  end)

  it("raises TimeoutError for what is not done in time", function()
    local slow = peri.create_task(peri.sleep, 60)
    local seen = {}
    local ok, err = pcall(function()
      for task in peri.as_completed({ slow, after(1, "a") }, { timeout = 2 }) do
        seen[#seen + 1] = task:result()
      end
    end)
    assert.is_false(ok)
    assert.is_true(peri.TimeoutError:is(err))
    assert.same({ "a" }, seen)
    slow:cancel()
    pcall(slow.await, slow)
  end)

  it("may be left early", function()
    local slow = peri.create_task(peri.sleep, 60)
    for task in peri.as_completed { slow, after(1, "a") } do -- luacheck: ignore 512
      assert.equal("a", task:result())
      break
    end
    assert.equal(0, slow:cancelling())
    slow:cancel()
    pcall(slow.await, slow)
  end)
end)

describe("run_coroutine_threadsafe", function()
  local futures = require "perilune.futures"

  it("gives a future whose result may be waited for", function()
    local loop = peri.get_running_loop()
    local future = peri.run_coroutine_threadsafe(after(1, "x"), loop)
    local again = loop:run_coroutine_threadsafe(function(...) return peri.sleep(0, ...) end, 1, nil, 3)
    assert.equal("x", future:await())
    assert.equal("x", future:result())
    assert.same({ 1, nil, 3, n = 3 }, table.pack(again:result()))
    assert.same({ future, again }, (futures.wait { future, again }))
    assert.is_nil(again:exception())
  end)

  it("waits for so long as it is told", function()
    local future = peri.run_coroutine_threadsafe(peri.sleep, peri.get_running_loop(), 1e9)
    assert.is_true(peri.TimeoutError:is(select(2, pcall(future.result, future, 0))))
    assert.is_true(future:cancel())
  end)

  it("has the future fail as the task does, or because there is none", function()
    local loop = peri.get_running_loop()
    local failure = peri.ValueError "bad"
    local future = peri.run_coroutine_threadsafe(function() error(failure) end, loop)
    assert.equal(failure, future:exception())
    raises(peri.ValueError, "bad", future.await, future)
    assert.is_true(peri.TypeError:is(loop:run_coroutine_threadsafe(3):exception()))
    local cancelled = loop:run_coroutine_threadsafe(function() error(peri.CancelledError()) end)
    peri.wait { cancelled }
    assert.is_true(cancelled:cancelled())
  end)

  it("cancels the task with the future, and begins none for one that was cancelled", function()
    local loop = peri.get_running_loop()
    local lines, say = trace()
    local future = loop:run_coroutine_threadsafe(function()
      local _ <close> = peri.defer(function() say "closed" end)
      say "begun"
      peri.sleep(1e9)
    end)
    local early = loop:run_coroutine_threadsafe(say, "never")
    assert.is_true(early:cancel())
    spin(2)
    assert.is_true(future:cancel())
    assert.is_true(future:cancel())
    spin(2)
    assert.same({ "begun", "closed" }, lines)
  end)

  it("calls what waits for its end at once, in any loop", support.top_level(function()
    local one, other = peri.new_event_loop(), peri.new_event_loop()
    local future = one:run_coroutine_threadsafe(after(0, "there"))
    local seen
    future:add_done_callback(function(done) seen = done:result() end)
    one:run_until_complete(function() future:await() end)
    assert.equal("there", seen)
    assert.equal("there", (other:run_until_complete(function() return future:await() end)))
    one:close()
    other:close()
  end))
end)
