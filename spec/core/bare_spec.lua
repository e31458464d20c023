-- The children of a gather of functions have no object until somebody asks.
local peri = require "perilune"
local support = require "support"
local trace, settle = support.trace, support.settle

-- Ways to make ordinary tasks of all that run.
local looks = {
  ["nobody"] = function() end,
  ["all_tasks"] = function() peri.all_tasks() end,
  ["a collection that asks"] = function()
    setmetatable({}, { __gc = function() peri.all_tasks() end })
    support.collect()
  end,
}

-- Things a child may wait in, each with what ends the wait.
local waits = {
  ["sleep(0)"] = function() return function() peri.sleep(0) end end,
  ["a sleep"] = function() return function() peri.sleep(1) end end,
  ["a sleep in a generator"] = function()
    return function()
      for _ in coroutine.wrap(function() peri.sleep(1) coroutine.yield(1) end) do end
    end
  end,
  ["a future"] = function()
    local future = peri.Future()
    return function() future:await() end, function() future:set_result() end
  end,
  ["a lock"] = function()
    local lock = peri.Lock()
    lock:acquire()
    return function() local _ <close> = lock:guard() end, function() lock:release() end
  end,
  ["a queue"] = function()
    local queue = peri.Queue()
    return function() queue:get() queue:put(1) end, function() queue:put(1) end
  end,
  ["a time limit"] = function()
    return function() peri.move_on_after(1, peri.sleep, 2) end
  end,
  ["a task"] = function()
    return function() peri.create_task(peri.sleep, 1):await() end
  end,
}

describe("a gather of functions", function()
  it("gives the first values in the order of the list, nil among them", function()
    local results = peri.gather {
      function() return 1, 2 end,
      function() end,
      function() peri.sleep(1) return nil end,
      function() peri.sleep(0) return false end,
      function() return "last" end,
    }:await()
    assert.same({ n = 5, 1, nil, nil, false, "last" }, results)
  end)

  for wait_name, wait in pairs(waits) do
    for look_name, look in pairs(looks) do
      it(("goes on when its children wait in %s and %s looks"):format(wait_name, look_name), function()
        local body, wake = wait()
        local function child(i)
          return function()
            body()
            look()
            return i
          end
        end
        local gather = peri.gather { child(1), child(2), child(3) }
        look()
        peri.sleep(0)
        look()
        if wake then wake() end
        assert.same({ n = 3, 1, 2, 3 }, gather:await())
        assert.equal(1, #peri.all_tasks())
      end)

      it(("cancels children that wait in %s when %s looks"):format(wait_name, look_name), function()
        local body = wait()
        local cancelled = 0
        local function child()
          local ok, err = pcall(body)
          if not ok and peri.iscancel(err) then
            cancelled = cancelled + 1
            look()
          end
          if not ok then error(err, 0) end
        end
        local gather = peri.gather { child, child, child }
        local started = wait_name ~= "sleep(0)"
        if started then peri.sleep(0) end
        look()
        assert.is_true(gather:cancel "enough")
        local ok, err = pcall(gather.await, gather)
        assert.is_false(ok)
        assert.is_true(peri.iscancel(err))
        settle()
        -- Those that have not started never do.
        assert.equal(started and 3 or 0, cancelled)
        assert.equal(1, #peri.all_tasks())
      end)
    end
  end

  it("takes coroutine objects with their arguments, however many", function()
    local function count(...)
      peri.sleep(0)
      return select("#", ...)
    end
    local results = peri.gather({
      peri.call(count, 1, nil),
      count,
      peri.call(count, table.unpack({}, 1, 250)),
      peri.call(count),
    }):await()
    assert.same({ n = 4, 2, 0, 250, 0 }, results)
  end)

  it("awaits a coroutine object that is there twice once", function()
    local calls = 0
    local coro = peri.call(function()
      calls = calls + 1
      peri.sleep(0)
      return calls
    end)
    assert.same({ n = 2, 1, 1 }, peri.gather(coro, coro):await())
    assert.has_error(function() peri.gather(coro):await() end)
  end)

  it("has children that are the same task whenever they ask", function()
    local seen = {}
    peri.gather {
      function()
        local me = peri.current_task()
        seen[me] = "first"
        peri.sleep(1)
        support.collect()
        assert.equal("first", seen[peri.current_task()])
        assert.equal(me, peri.current_task())
      end,
      function()
        peri.sleep(0)
        local tasks = peri.all_tasks()
        assert.equal(3, #tasks)
        assert.equal(peri.current_task(), tasks[3])
        assert.is_not_nil(seen[tasks[2]])
      end,
    }:await()
  end)

  it("lets others await and cancel a child that was asked for", function()
    local child
    local gather = peri.gather({
      function()
        child = peri.current_task()
        peri.sleep(5)
      end,
      function() peri.sleep(1) return "done" end,
    }, { return_exceptions = true })
    peri.sleep(0)
    local awaiter = peri.create_task(child.await, child)
    peri.sleep(0)
    child:cancel "you"
    local results = gather:await()
    assert.is_true(peri.iscancel(results[1]))
    assert.equal("you", results[1].message)
    assert.equal("done", results[2])
    assert.is_true(awaiter:cancelled())
  end)

  it("raises the first error, where it came from, and lets the others run on", function()
    local ended = false
    local gather = peri.gather {
      function() peri.sleep(1) error { code = 7 } end,
      function() peri.sleep(2) ended = true end,
    }
    local ok, err = pcall(gather.await, gather)
    assert.is_false(ok)
    assert.equal(7, err.code)
    assert.matches("bare_spec.lua", gather:traceback(), 1, true)
    assert.is_false(ended)
    peri.sleep(1)
    assert.is_true(ended)
  end)

  it("is done when the callback of the child that ended last is", function()
    for _, fails in ipairs { false, true } do
      local lines, say = trace()
      local gather = peri.gather({
        function() peri.sleep(0) say "slow" end,
        function() say "quick" if fails then error("no", 0) end end,
      }, { return_exceptions = true })
      gather:add_done_callback(function() say "gathered" end)
      for i = 1, 5 do
        say(i, gather:done())
        peri.sleep(0)
      end
      assert.same({ "1 false", "quick", "2 false", "slow", "3 false", "4 true", "gathered", "5 true" },
        lines)
    end
  end)

  it("keeps its children's contexts apart", function()
    local var = peri.ContextVar("var", "none")
    peri.gather {
      function() var:set "one" peri.sleep(1) assert.equal("one", var:get()) end,
      function() peri.sleep(0) assert.equal("none", var:get()) end,
    }:await()
    local token = var:set "outside"
    peri.gather { function() assert.equal("outside", var:get()) end }:await()
    var:reset(token)
  end)

  it("may have its children killed", function()
    local task
    local gather = peri.gather({
      function()
        task = peri.current_task()
        peri.sleep(9)
      end,
      function() return 1 end,
    }, { return_exceptions = true })
    peri.sleep(0)
    task:kill()
    local results = gather:await()
    assert.is_true(peri.iscancel(results[1]))
    assert.equal(1, results[2])
  end)

  it("uses coroutines again after deep and failing children", function()
    local function deep(n)
      if n == 0 then return 0 end
      return 1 + deep(n - 1)
    end
    for _ = 1, 3 do
      local results = peri.gather({
        function() return deep(10000) end,
        function() return deep(1e7) end,
        function() return coroutine.running() end,
      }, { return_exceptions = true }):await()
      assert.equal(10000, results[1])
      assert.matches("stack overflow", results[2], 1, true)
      assert.equal("thread", type(results[3]))
    end
  end)

  it("leaves tasks to the end of the loop", function()
    local lines, say = trace()
    local runner = peri.Runner { clock = peri.Clock { kind = "virtual" } }
    support.top_level(function()
      runner:run(function()
        peri.gather { function()
          local _ <close> = support.finally(function(err) say(peri.iscancel(err)) end)
          peri.sleep(60)
        end, function() end }
        peri.sleep(0)
      end)
      runner:close()
      assert.same({ "true" }, lines)
    end)
  end)
end)

describe("children of a gather and the clock", function()
  it("inherit their creator's, and may change it", function()
    local manual = peri.Clock { kind = "manual" }
    local woken = 0
    local gather
    do
      local _ <close> = peri.use_clock(manual)
      local function child() peri.sleep(1) woken = woken + 1 end
      gather = peri.gather { child, child, function()
        local _ <close> = peri.use_clock(peri.Clock { kind = "virtual" })
        peri.sleep(1e6)
      end }
    end
    settle()
    assert.equal(0, woken)
    manual:advance(1)
    gather:await()
    assert.equal(2, woken)
  end)
end)
