-- The coroutine of a killed task was recycled with a mark of the kill on it: a
-- kill of the next task in it closed it where it stood.
local peri = require "perilune"
local support = require "support"

local function kill(body)
  local task = peri.create_task(body)
  peri.sleep(0)
  task:kill()
  pcall(task.await, task)
  assert.is_true(task:cancelled())
end

describe("a killed task in the coroutine of one killed before", function()
  local lines, say
  before_each(function() lines, say = support.trace() end)

  local function closes()
    pcall(function()
      local _ <close> = peri.defer(function()
        peri.sleep(0.01)
        say "closed"
      end)
      peri.sleep(10)
    end)
    say "never"
  end

  it("may wait in <close>", function()
    kill(function() peri.sleep(10) end)
    kill(closes)
    assert.same({ "closed" }, lines)
  end)

  it("may wait in <close>, as that one did", function()
    kill(closes)
    kill(closes)
    assert.same({ "closed", "closed" }, lines)
  end)
end)
