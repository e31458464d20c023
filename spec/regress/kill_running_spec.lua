-- The kill of a task that runs raised its error without the marks that let
-- <close> wait.
local peri = require "perilune"
local support = require "support"

describe("a kill of code that runs", function()
  local lines, say
  before_each(function() lines, say = support.trace() end)

  -- The task starts an eager one, which kills it.
  local function killed(body)
    local task
    task = peri.create_task(function()
      local _ <close> = peri.defer(function()
        peri.sleep(0.01)
        say "closed"
      end)
      body(function()
        peri.create_task { function() task:kill() end, eager = true }
        for _ = 1, 10 do end
        say "never"
      end)
      say "never"
    end)
    pcall(task.await, task)
    assert.is_true(task:cancelled())
    assert.same({ "closed" }, lines)
  end

  it("lets <close> wait", function()
    killed(function(kill) kill() end)
  end)

  it("lets <close> wait outside of the generator that ran", function()
    killed(function(kill)
      pcall(function() for _ in coroutine.wrap(kill) do end end)
    end)
  end)
end)
