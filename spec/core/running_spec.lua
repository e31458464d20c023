local peri = require "perilune"
local support = require "support"
local raises, trace, spin = support.raises, support.trace, support.spin
local top_level = support.top_level

describe("run", function()
  it("returns what its function returned", top_level(function()
    assert.same({ n = 3, 1, nil, 3 }, table.pack(peri.run(function(...) return ... end, 1, nil, 3)))
  end))

  it("makes a fresh loop, and closes it", top_level(function()
    local mine = peri.get_running_loop()
    local loop = peri.run(peri.get_running_loop)
    assert.not_equal(mine, loop)
    assert.is_true(loop:is_closed())
    assert.equal(mine, peri.get_running_loop())
  end))

  it("raises the error of its function unchanged", top_level(function()
    local fault = {}
    local ok, err = pcall(peri.run, error, fault)
    assert.is_false(ok)
    assert.equal(fault, err)
  end))

  it("takes a coroutine object", top_level(function()
    assert.equal("x", peri.run(peri.call(function(x) return x end, "x")))
  end))

  it("cancels what is left over and waits for it", top_level(function()
    local lines, say = trace()
    local result = peri.run(function()
      for i = 1, 3 do
        peri.create_task(function()
          local _ <close> = support.finally(function(err)
            say("ends", i, peri.iscancel(err))
            peri.sleep(0)
            say("ended", i)
          end)
          peri.sleep(60)
        end)
      end
      peri.sleep(0)
      return "main is done"
    end)
    assert.equal("main is done", result)
    assert.same({
      "ends 1 true", "ends 2 true", "ends 3 true", "ended 1", "ended 2", "ended 3",
    }, lines)
  end))

  it("reports what goes wrong in a left-over task", top_level(function()
    local reports
    peri.run(function()
      reports = support.reports()
      peri.create_task(function()
        local _ <close> = support.finally(function() error("at the end", 0) end)
        peri.sleep(60)
      end)
      peri.sleep(0)
    end)
    assert.equal(1, #reports)
    assert.equal("at the end", reports[1].exception)
    assert.equal("unhandled error during the shutdown of run()", reports[1].message)
  end))

  it("counts its main function as a task", top_level(function()
    local count, task = peri.run(function() return #peri.all_tasks(), peri.current_task() end)
    assert.equal(1, count)
    assert.is_true(task:done())
  end))

  it("is refused inside a run", function()
    raises(peri.RuntimeError, "Cannot run the event loop while another loop is running", peri.run, function() end)
  end)

  it("is refused in a task of the script that is not the script itself", top_level(function()
    local task = peri.create_task(function()
      raises(peri.RuntimeError, "Cannot run the event loop while another loop is running", peri.run, function() end)
      return "checked"
    end)
    assert.equal("checked", task:await())
  end))

  it("is refused in a callback", top_level(function()
    local ok, err
    peri.get_running_loop():call_soon(function() ok, err = pcall(peri.run, function() end) end)
    spin(2)
    assert.is_false(ok)
    assert.is_true(peri.RuntimeError:is(err))
    assert.equal("Cannot run the event loop while another loop is running", err.message)
  end))

  it("refuses what is no function", top_level(function()
    raises(peri.TypeError, "bad argument #1 to 'run' (function expected, got number)", peri.run, 42)
  end))

  it("can be cancelled as a wait of the script", top_level(function()
    local lines, say = trace()
    local me = peri.current_task()
    local ok, err = pcall(peri.run, function()
      local _ <close> = support.finally(function(e) say("inner", peri.iscancel(e)) end)
      me:cancel "stop it"
      peri.sleep(60)
    end)
    assert.is_false(ok)
    assert.is_true(peri.iscancel(err))
    assert.same({ "inner true" }, lines)
    me:uncancel()
  end))

  it("may be nested from the script's top level only once each", top_level(function()
    local inner
    peri.run(function() inner = select(2, pcall(peri.run, function() end)) end)
    assert.is_true(peri.RuntimeError:is(inner))
    assert.equal("second", peri.run(function() return "second" end))
  end))
end)

describe("Runner", function()
  it("keeps its loop from run to run, and closes it with its block", top_level(function()
    local loop
    do
      local runner <close> = peri.Runner()
      loop = runner:get_loop()
      local seen = runner:run(peri.get_running_loop)
      assert.equal(loop, seen)
      assert.equal(loop, runner:run(peri.get_running_loop))
      assert.is_false(loop:is_closed())
    end
    assert.is_true(loop:is_closed())
  end))

  it("keeps its tasks from run to run, until it is closed", top_level(function()
    local lines, say = trace()
    local runner = peri.Runner()
    runner:run(function()
      peri.create_task(function()
        local _ <close> = support.finally(function(err) say("end", peri.iscancel(err)) end)
        peri.sleep(60)
      end)
      peri.sleep(0)
    end)
    assert.same({}, lines)
    runner:run(peri.sleep, 0)
    assert.same({}, lines)
    runner:close()
    assert.same({ "end true" }, lines)
    runner:close()
  end))

  it("refuses to run when it is closed", top_level(function()
    local runner = peri.Runner()
    runner:run(function() end)
    runner:close()
    raises(peri.RuntimeError, "the Runner is closed", runner.run, runner, function() end)
    raises(peri.RuntimeError, "the Runner is closed", runner.get_loop, runner)
  end))

  it("can be closed without having run", top_level(function()
    peri.Runner():close()
    local runner <close> = peri.Runner()
    assert.is_table(runner)
  end))

  it("sets debug mode", top_level(function()
    local runner <close> = peri.Runner { debug = true }
    assert.is_true(runner:run(function() return peri.get_running_loop():get_debug() end))
  end))

  it("runs on the clock it is given", top_level(function()
    local clock = peri.Clock { kind = "virtual" }
    local runner <close> = peri.Runner { clock = clock }
    local before = clock:now()
    runner:run(peri.sleep, 1000)
    assert.is_true(clock:now() - before >= 1000)
  end))

  it("refuses options that it does not know", top_level(function()
    raises(peri.ValueError, "bad argument #1 to 'Runner' (unknown option \"clocks\")",
      peri.Runner, { clocks = 1 })
  end))

  it("kills after shutdown_grace what does not end, and names it", top_level(function()
    local runner = peri.Runner { shutdown_grace = 0.01 }
    local records = support.log()
    runner:run(function()
      peri.create_task {
        function()
          while true do pcall(peri.sleep, 1) end
        end,
        name = "stubborn",
      }
      peri.sleep(0)
    end)
    runner:close()
    assert.same({ "WARNING killed after 0.01 s of grace: stubborn" }, records)
  end))
end)

describe("deadlines of a nested run", function()
  it("do not keep the script's own timers from being late", top_level(function()
    local lines, say = trace()
    peri.get_running_loop():call_later(0.001, say, "script's")
    peri.run(function()
      peri.sleep(0.005)
      say "inner"
    end)
    peri.sleep(0.002)
    assert.same({ "inner", "script's" }, lines)
  end))
end)
