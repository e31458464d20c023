-- A task factory that starts its tasks eagerly did so for loops that did not run,
-- too: their tasks then ran inside another loop, and could not wait there. So a
-- Runner whose main task had set such a factory could not be closed.
local peri = require "perilune"
local support = require "support"

describe("an eager task", function()
  it("of a loop that does not run starts when that runs (CPython)", support.top_level(function()
    local loop, _ <close> = support.loop()
    local seen = {}
    local function job()
      seen[1] = peri.get_running_loop() == loop
      peri.sleep(0)
      return "result"
    end
    local task = peri.Task { target = job, loop = loop, eager = true }
    assert.same({}, seen)
    assert.equal("result", loop:run_until_complete(task))
    assert.same({ true }, seen)
  end))

  it("of a Runner that closes finds its own loop", support.top_level(function()
    local lock = peri.Lock()
    local runner = peri.Runner { shutdown_grace = 0.001 }
    runner:run(function()
      lock:acquire()
      runner:get_loop():set_task_factory(peri.eager_task_factory)
      peri.create_task(function() while true do pcall(lock.acquire, lock) end end)
    end)
    local log = require "perilune.log"
    log.set_level "ERROR"
    local _ <close> = support.finally(function() log.set_level "WARNING" end)
    runner:close()
    assert.is_false((pcall(runner.get_loop, runner)))
  end))
end)
