-- A finaliser that ran while a task ended pushed its generator's frame onto
-- those of the task, which had been freed.
local peri = require "perilune"

describe("a finaliser that uses a generator", function()
  local ran
  local function generate()
    for _ in coroutine.wrap(function() coroutine.yield(1) end) do ran = ran + 1 end
  end
  local function leave_trash() setmetatable({}, { __gc = generate }) end

  -- The collector never pauses, so that finalisers run all along.
  local pause
  before_each(function()
    ran, pause = 0, collectgarbage("setpause", 0)
  end)
  after_each(function() collectgarbage("setpause", pause) end)

  it("may run at the end of a task", function()
    for _ = 1, 10 do
      for _ = 1, 20 do
        peri.create_task(function()
          generate()
          leave_trash()
          return 1, 2, 3
        end)
      end
      peri.sleep(0)
    end
    assert.is_true(ran > 200, ran)
  end)

  it("may run at the end of a task that is gathered", function()
    for _ = 1, 10 do
      local tasks = {}
      for i = 1, 20 do
        tasks[i] = peri.create_task(function()
          leave_trash()
          return i
        end)
      end
      peri.gather(tasks):await()
    end
    assert.is_true(ran > 0)
  end)
end)
