-- The harness itself: what a test leaves behind must fail it. Each case is a
-- spec file of its own, run by a second busted.
local support = require "support"

local run_lua = debug.getinfo(1, "S").source:match "^@(.*)support/harness_spec.lua$" .. "run.lua"

-- Runs the body of one test; returns busted's output and exit status.
local function run(body)
  local directory = support.directory()
  local path = directory .. "/case_spec.lua"
  local file = assert(io.open(path, "w"))
  file:write(([[
    local peri = require "perilune"
    local support = require "support"
    describe("case", function()
      it("runs", %s)
    end)
  ]]):format(body))
  file:close()
  local out, err, code = support.run_program { run_lua, path, "--output=plainTerminal" }
  assert.equal("", err)
  return out, code
end

local function fails(text, body)
  local out, code = run(body)
  assert.matches(text, out, 1, true)
  assert.equal(1, code)
end

describe("the harness", function()
  it("passes a test that leaves nothing behind", function()
    local out, code = run [[function()
      local future = peri.Future()
      peri.create_task(future.set_result, future, 1)
      assert.equal(1, future:await())
      peri.sleep(1e6)
    end]]
    assert.matches("1 success / 0 failures / 0 errors", out, 1, true)
    assert.equal(0, code)
  end)

  it("fails a test that fails, after a wait too", function()
    fails("0 successes / 1 failure / 0 errors", "function() peri.sleep(1) assert.equal(1, 2) end")
    fails("0 successes / 0 failures / 1 error", "function() peri.sleep(1) error 'x' end")
  end)

  it("fails a test that leaves a task pending", function()
    fails("tasks still pending at the end of the test:\n  <Task forgotten pending>", [[function()
      peri.create_task { peri.sleep, 60, name = "forgotten" }
      peri.sleep(0)
    end]])
  end)

  it("fails a test whose task failed and nobody asked", function()
    fails("Task exception was never retrieved", [[function()
      peri.create_task(error, "unseen", 0)
      peri.sleep(0)
    end]])
  end)

  it("fails a test whose future failed and was held to the end", function()
    fails("Future exception was never retrieved", [[function()
      kept = peri.Future()
      kept:set_exception "unseen"
    end]])
  end)

  it("fails a test whose callback raised", function()
    fails("an error in a call_soon callback", [[function()
      peri.get_running_loop():call_soon(error, "bad")
      peri.sleep(0)
    end]])
  end)

  it("fails a test that leaves a descriptor open", function()
    fails("descriptors were open before the test", [[function()
      kept = io.open "/dev/null"
    end]])
  end)

  it("fails a test that leaves a loop open", function()
    fails("descriptors were open before the test", [[support.top_level(function()
      loop = peri.new_event_loop()
      loop:run_until_complete(peri.call(peri.sleep, 0.001))
    end)]])
  end)

  it("fails a test that kills its own task, and goes on", function()
    local out, code = run [[function()
      peri.current_task():kill()
      peri.sleep(0)
    end)
    it("runs the next one", function() end]]
    assert.matches("1 success / 0 failures / 1 error", out, 1, true)
    assert.equal(1, code)
  end)
end)
