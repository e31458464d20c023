-- The contract of task:kill(): an error that no pcall of ours catches is
-- raised at the wait; <close> variables run innermost first; in the task
-- itself they may wait, up to the grace; in its coroutines they may not; after
-- the grace the coroutines are closed where they stand.
local peri = require "perilune"
local support = require "support"
local raises, trace, finally = support.raises, support.trace, support.finally

local function ended(task)
  pcall(task.await, task)
  return task
end

describe("kill", function()
  it("ends a task that swallows cancellations", function()
    local swallowed = 0
    local task = peri.create_task(function()
      while true do
        if not pcall(peri.sleep, 1) then swallowed = swallowed + 1 end
      end
    end)
    peri.sleep(0)
    task:cancel()
    peri.sleep(0)
    assert.equal(1, swallowed)
    assert.is_false(task:done())
    task:kill()
    ended(task)
    assert.equal(1, swallowed)
    assert.is_true(task:cancelled())
  end)

  it("lets peri.defer wait, too", function()
    local lines, say = trace()
    local task = peri.create_task(function()
      local _ <close> = peri.defer(function()
        peri.sleep(0.2)
        say "deferred"
      end)
      pcall(peri.sleep, 60)
      say "never"
    end)
    peri.sleep(0)
    task:kill()
    ended(task)
    assert.same({ "deferred" }, lines)
  end)

  it("passes pcall, xpcall, their twins, coroutine.resume and wrap", function()
    local reached = {}
    local guards = {
      pcall = function(fn) return pcall(fn) end,
      xpcall = function(fn) return xpcall(fn, function(err) return err end) end,
      ["peri.pcall"] = function(fn) return peri.pcall(fn) end,
      ["peri.xpcall"] = function(fn) return peri.xpcall(fn, function(err) return err end) end,
      resume = function(fn) return coroutine.resume(coroutine.create(fn)) end,
      wrap = function(fn) return pcall(coroutine.wrap(fn)) end,
    }
    for name, guard in pairs(guards) do
      local task = peri.create_task(function()
        guard(function() peri.sleep(60) end)
        reached[#reached + 1] = name
      end)
      peri.sleep(0)
      task:kill()
      ended(task)
      assert.is_true(task:done(), name)
    end
    assert.same({}, reached)
  end)

  it("runs <close> innermost first, and they may wait in the task", function()
    local lines, say = trace()
    local task = peri.create_task(function()
      local _ <close> = finally(function()
        say("outer", (pcall(peri.sleep, 0.2)))
      end)
      pcall(function()
        local _ <close> = finally(function()
          say("inner", (pcall(peri.sleep, 0.2)))
        end)
        peri.sleep(60)
      end)
      say "after the pcall"
    end)
    peri.sleep(0)
    task:kill()
    ended(task)
    assert.same({ "inner true", "outer true" }, lines)
  end)

  -- Three levels, each with a __close that waits: an inner generator, an outer
  -- one around it, and the task around both; the wait itself sits in a pcall.
  it("of a task parked in pcall inside two nested generators closes all three levels", function()
    local lines, say = trace()
    local function closes(name)
      return finally(function(err)
        local ok, why = pcall(peri.sleep, 0.1)
        say(name, err ~= nil, ok, ok or why)
      end)
    end
    local task = peri.create_task(function()
      local _ <close> = closes "task"
      local outer = coroutine.wrap(function()
        local _ <close> = closes "outer"
        local inner = coroutine.wrap(function()
          local _ <close> = closes "inner"
          pcall(function() peri.sleep(60) end)
          say "after the pcall"
          coroutine.yield()
        end)
        inner()
        say "after inner"
        coroutine.yield()
      end)
      outer()
      say "after outer"
    end)
    peri.sleep(0)
    task:kill()
    ended(task)
    local refusal = "RuntimeError: cannot wait in 'sleep': the coroutine is being closed"
    assert.same({
      "inner true false " .. refusal,
      "outer true false " .. refusal,
      "task true true true",
    }, lines)
    assert.is_true(task:cancelled())
  end)

  it("closes for good after the grace what still waits then", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    local start = loop:time()
    local task = peri.create_task(function()
      local _ <close> = finally(function() say "outer" end)
      local _ <close> = finally(function()
        say "stuck"
        peri.sleep(1000)
        say "never"
      end)
      peri.sleep(60)
    end)
    peri.sleep(0)
    task:kill(2)
    ended(task)
    assert.same({ "stuck", "outer" }, lines)
    assert.is_true(task:done())
    local took = loop:time() - start
    assert.is_true(took >= 2 and took < 2.1, "took " .. took)
  end)

  it("has a grace of one second unless told otherwise", function()
    local loop = peri.get_running_loop()
    local start = loop:time()
    local task = peri.create_task(function()
      local _ <close> = finally(function() peri.sleep(1000) end)
      peri.sleep(60)
    end)
    peri.sleep(0)
    task:kill()
    ended(task)
    local took = loop:time() - start
    assert.is_true(took >= 1 and took < 1.1, "took " .. took)
  end)

  it("refuses waits in what it closes after the grace", function()
    local seen
    local task = peri.create_task(function()
      local _ <close> = finally(function()
        local ok, err = pcall(peri.sleep, 1)
        seen = { ok, tostring(err) }
      end)
      local _ <close> = finally(function() peri.sleep(1000) end)
      peri.sleep(60)
    end)
    peri.sleep(0)
    task:kill(0.5)
    ended(task)
    assert.same({ false, "RuntimeError: cannot wait in 'sleep': the coroutine is being closed" }, seen)
  end)

  it("without grace is the second stage at once", function()
    local loop = peri.get_running_loop()
    local start = loop:time()
    local lines, say = trace()
    local task = peri.create_task(function()
      local _ <close> = finally(function()
        say "closed"
        peri.sleep(1000)
        say "never"
      end)
      peri.sleep(60)
    end)
    peri.sleep(0)
    task:kill(0)
    ended(task)
    assert.same({ "closed" }, lines)
    assert.is_true(loop:time() - start < 0.1)
  end)

  it("of a task that has not started ends it", function()
    local ran = false
    local task = peri.create_task(function() ran = true end)
    task:kill()
    ended(task)
    assert.is_false(ran)
    assert.is_true(task:cancelled())
  end)

  it("of a done task does nothing", function()
    local task = peri.create_task(function() return "x" end)
    task:await()
    task:kill()
    assert.equal("x", task:result())
  end)

  it("of oneself ends the code where it stands", function()
    local lines, say = trace()
    local task = peri.create_task(function()
      local _ <close> = finally(function() say "closed" end)
      pcall(function()
        peri.current_task():kill()
        peri.sleep(0)
      end)
      say "never"
    end)
    ended(task)
    assert.same({ "closed" }, lines)
    assert.is_true(task:cancelled())
  end)

  it("is seen by an awaiter as a cancellation", function()
    local task = peri.create_task(function()
      while true do pcall(peri.sleep, 1) end
    end)
    local seen
    local waiter = peri.create_task(function()
      local ok, err = pcall(task.await, task)
      seen = { ok, peri.iscancel(err) }
    end)
    peri.sleep(0)
    task:kill()
    waiter:await()
    assert.same({ false, true }, seen)
    assert.equal(0, waiter:cancelling())
  end)

  it("leaves what the task awaited alone", function()
    local inner = peri.create_task(peri.sleep, 5, "untouched")
    local task = peri.create_task(function() pcall(inner.await, inner) end)
    peri.sleep(0)
    task:kill()
    ended(task)
    assert.equal("untouched", inner:await())
  end)

  it("is raised again at the next wait when a foreign pcall caught it", function()
    -- load catches what its reader raises, as a C library's lua_pcall would.
    local lines, say = trace()
    local task = peri.create_task(function()
      local _ <close> = finally(function() say "closed" end)
      local me = peri.current_task()
      local chunk = load(function()
        me:kill()
        return nil
      end)
      say("loaded", chunk)
      pcall(peri.sleep, 0)
      say "never"
    end)
    ended(task)
    assert.same({ "loaded nil", "closed" }, lines)
  end)

  it("wants a number of seconds as its grace", function()
    local task = peri.create_task(peri.sleep, 0)
    raises(peri.TypeError, "bad argument #1 to 'kill' (number expected, got string)",
      function() task:kill "x" end)
    task:await()
  end)
end)

describe("cancel with a grace", function()
  it("kills when the cancellation has not worked in time", function()
    local swallowed = 0
    local loop = peri.get_running_loop()
    local start = loop:time()
    local task = peri.create_task(function()
      while true do
        if not pcall(peri.sleep, 1000) then swallowed = swallowed + 1 end
      end
    end)
    peri.sleep(0)
    task:cancel("please", { grace = 3 })
    peri.sleep(2)
    assert.is_false(task:done())
    assert.equal(1, swallowed)
    ended(task)
    assert.is_true(task:cancelled())
    assert.equal(1, swallowed)
    local took = loop:time() - start
    assert.is_true(took >= 3 and took < 3.1, "took " .. took)
  end)

  it("is a plain cancellation when the task obeys", function()
    local loop = peri.get_running_loop()
    local start = loop:time()
    local task = peri.create_task(peri.sleep, 60)
    peri.sleep(0)
    task:cancel("please", { grace = 3 })
    ended(task)
    raises(peri.CancelledError, "please", task.result, task)
    support.settle()
    assert.is_true(loop:time() - start < 1)
  end)
end)
