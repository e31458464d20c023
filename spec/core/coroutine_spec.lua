-- coroutine.* is replaced by versions that behave the same but for waits. What
-- stock Lua does is asserted here too, so that a difference shows.
local peri = require "perilune"
local support = require "support"
local raises, trace, finally = support.raises, support.trace, support.finally

describe("coroutine.create, resume and status", function()
  it("pass values both ways", function()
    local co = coroutine.create(function(...)
      local a = table.pack(coroutine.yield(select("#", ...), ...))
      return a.n, table.unpack(a, 1, a.n)
    end)
    assert.equal("suspended", coroutine.status(co))
    assert.same({ n = 5, true, 3, 1, nil, 3 }, table.pack(coroutine.resume(co, 1, nil, 3)))
    assert.same({ n = 4, true, 2, nil, 2 }, table.pack(coroutine.resume(co, nil, 2)))
    assert.equal("dead", coroutine.status(co))
    assert.same({ false, "cannot resume dead coroutine" }, { coroutine.resume(co) })
  end)

  it("tell errors, which kill the coroutine", function()
    local fault = {}
    local co = coroutine.create(error)
    local ok, err = coroutine.resume(co, fault)
    assert.is_false(ok)
    assert.equal(fault, err)
    assert.equal("dead", coroutine.status(co))
  end)

  it("tell a coroutine that resumed another as normal", function()
    local outer, status
    outer = coroutine.create(function()
      local inner = coroutine.create(function() status = coroutine.status(outer) end)
      coroutine.resume(inner)
    end)
    coroutine.resume(outer)
    assert.equal("normal", status)
  end)

  it("tell the running one", function()
    local status, resumed
    local co
    co = coroutine.create(function()
      status = coroutine.status(co)
      resumed = table.pack(coroutine.resume(co))
    end)
    coroutine.resume(co)
    assert.equal("running", status)
    assert.same({ n = 2, false, "cannot resume non-suspended coroutine" }, resumed)
  end)

  it("refuse other values as stock Lua does", function()
    assert.has_error(function() coroutine.create(1) end,
      "bad argument #1 to 'create' (function expected, got number)")
    assert.has_error(function() coroutine.resume(1) end,
      "bad argument #1 to 'resume' (coroutine expected, got number)")
    assert.has_error(function() coroutine.status(1) end,
      "bad argument #1 to 'status' (coroutine expected, got number)")
    assert.has_error(function() coroutine.wrap(1) end,
      "bad argument #1 to 'wrap' (function expected, got number)")
  end)

  it("keep the traceback of a dead coroutine", function()
    local co = coroutine.create(function()
      local function deep() error "deep" end
      deep()
    end)
    coroutine.resume(co)
    assert.matches("in .*deep", debug.traceback(co))
  end)

  it("carry many values", function()
    local co = coroutine.create(function(...)
      return select("#", coroutine.yield(...))
    end)
    local many = {}
    for i = 1, 200 do many[i] = i end
    assert.equal(201, select("#", coroutine.resume(co, table.unpack(many))))
    assert.same({ true, 200 }, { coroutine.resume(co, table.unpack(many)) })
  end)
end)

describe("coroutine.wrap", function()
  it("gives a generator", function()
    local count = coroutine.wrap(function()
      for i = 1, 3 do coroutine.yield(i) end
    end)
    local seen = {}
    for i in count do seen[#seen + 1] = i end
    assert.same({ 1, 2, 3 }, seen)
    assert.has_error(count, "cannot resume dead coroutine")
  end)

  it("raises the generator's error, with the position of the caller for strings", function()
    local fault = {}
    local ok, err = pcall(coroutine.wrap(function() error(fault) end))
    assert.is_false(ok)
    assert.equal(fault, err)
    local function call(generator) generator() end
    ok, err = pcall(call, coroutine.wrap(function() error("text", 0) end))
    assert.is_false(ok)
    assert.matches("text$", err)
  end)

  it("closes the scopes of a generator that fails", function()
    local lines, say = trace()
    local generator = coroutine.wrap(function()
      local _ <close> = finally(function(err) say("closed", err) end)
      error("oops", 0)
    end)
    assert.has_error(generator)
    assert.same({ "closed oops" }, lines)
  end)
end)

describe("coroutine.close", function()
  it("closes what is suspended, its <close> variables included", function()
    local lines, say = trace()
    local co = coroutine.create(function()
      local _ <close> = finally(function(err) say("outer", err) end)
      local _ <close> = finally(function(err) say("inner", err) end)
      coroutine.yield()
    end)
    coroutine.resume(co)
    assert.same({ true }, { coroutine.close(co) })
    assert.same({ "inner nil", "outer nil" }, lines)
    assert.equal("dead", coroutine.status(co))
    assert.same({ true }, { coroutine.close(co) })
  end)

  it("tells the error of a dead coroutine, and of a __close", function()
    local co = coroutine.create(function() error("died", 0) end)
    coroutine.resume(co)
    assert.same({ false, "died" }, { coroutine.close(co) })
    co = coroutine.create(function()
      local _ <close> = finally(function() error("in close", 0) end)
      coroutine.yield()
    end)
    coroutine.resume(co)
    assert.same({ false, "in close" }, { coroutine.close(co) })
  end)

  it("refuses what runs", function()
    local ok, err = pcall(coroutine.wrap(function()
      coroutine.close((coroutine.running()))
    end))
    assert.is_false(ok)
    assert.matches("cannot close a running coroutine", err, 1, true)
  end)

  it("of 20,000 coroutines that close each other is an error, not a crash #heavy", function()
    local depth = 0
    -- Built from the innermost out, since starting them nested would meet the
    -- limit on resumes first.
    local co
    for _ = 1, 20000 do
      local inner = co
      co = coroutine.create(function()
        local _ <close> = finally(function()
          depth = depth + 1
          if inner then
            local ok, err = coroutine.close(inner)
            if not ok then error(err, 0) end
          end
        end)
        coroutine.yield()
      end)
      coroutine.resume(co)
    end
    local ok, err = coroutine.close(co)
    assert.is_false(ok)
    assert.matches("C stack overflow (coroutines that close each other)", tostring(err), 1, true)
    assert.is_true(depth > 20, "only " .. depth)
    assert.equal("alive", peri.sleep(0, "alive"))
  end)
end)

describe("at the level of a task", function()
  it("coroutine.yield is an error", function()
    raises(peri.RuntimeError,
      "coroutine.yield at the level of a task (to let others run, use sleep(0))",
      coroutine.yield, 1)
  end)

  it("coroutine.running is the task's coroutine and false", function()
    local co, main = coroutine.running()
    assert.equal("thread", type(co))
    assert.is_false(main)
    assert.equal(co, (coroutine.running()))
    peri.sleep(0)
    assert.equal(co, (coroutine.running()))
  end)

  it("isyieldable is false, and true in a coroutine", function()
    assert.is_false(coroutine.isyieldable())
    assert.is_true(coroutine.wrap(function() return coroutine.isyieldable() end)())
  end)

  it("a task's coroutine is not handed to a later task once a script has it", function()
    local kept
    local task = peri.create_task(function() kept = coroutine.running() end)
    task:await()
    assert.equal("dead", coroutine.status(kept))
    for _ = 1, 20 do
      peri.create_task(function()
        assert.not_equal(kept, (coroutine.running()))
      end):await()
    end
    assert.equal("dead", coroutine.status(kept))
  end)

  it("a hook left behind by a task does not reach the next", function()
    local calls = 0
    peri.create_task(function()
      debug.sethook(function() calls = calls + 1 end, "", 1)
    end):await()
    calls = 0
    for _ = 1, 10 do
      peri.create_task(function()
        local x = 0
        for i = 1, 100 do x = x + i end
        return x
      end):await()
    end
    assert.equal(0, calls)
  end)
end)

describe("a generator parked in a wait", function()
  local function parked()
    local generator, co
    local task = peri.create_task {
      function()
        co = coroutine.create(function()
          peri.sleep(1)
          return "slept"
        end)
        generator = coroutine.wrap(function() return peri.sleep(1, "slept") end)
        local other = peri.create_task(function() return generator() end)
        local result = table.pack(coroutine.resume(co))
        return result[2], other:await()
      end,
      name = "owner",
    }
    support.spin(2)
    return task, co, generator
  end

  it("reads normal", function()
    local task, co = parked()
    assert.equal("normal", coroutine.status(co))
    task:await()
    assert.equal("dead", coroutine.status(co))
  end)

  it("cannot be resumed, closed or called by another task", function()
    local task, co, generator = parked()
    local message = "coroutine is waiting in task owner"
    local ok, err = coroutine.resume(co)
    assert.is_false(ok)
    assert.equal(message, tostring(err))
    ok, err = pcall(coroutine.close, co)
    assert.is_false(ok)
    assert.matches(message, tostring(err), 1, true)
    ok, err = pcall(generator)
    assert.is_false(ok)
    assert.matches("coroutine is waiting in task Task-", tostring(err), 1, true)
    assert.same({ "slept", "slept" }, { task:await() })
  end)

  it("is cancelled with its task, and may catch that itself", function()
    local lines, say = trace()
    local task = peri.create_task(function()
      local generator = coroutine.wrap(function()
        local ok, err = pcall(peri.sleep, 60)
        say(ok, peri.iscancel(err))
        coroutine.yield "caught"
      end)
      return generator()
    end)
    peri.sleep(0)
    task:cancel()
    assert.equal("caught", task:await())
    assert.same({ "false true" }, lines)
  end)
end)
