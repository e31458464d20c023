-- A finaliser that ran while a task ended pushed its generator's frame onto
-- those of the task, which had been freed.
local support = require "support"

-- A program of its own: in its small heap a cycle of the collector follows the
-- other, so that finalisers run at every point of a task's end.
local function passes(body)
  local out, err, code = support.run_code([[
    local peri = require "perilune"
    collectgarbage("setpause", 0)
    local ran = 0
    local function generate()
      for _ in coroutine.wrap(function() coroutine.yield(1) end) do end
    end
    local function leave_trash()
      setmetatable({}, { __gc = function() generate() ran = ran + 1 end })
    end
    for _ = 1, 100 do
      ]] .. body .. [[
    end
    print(ran > 0)
  ]])
  assert.equal("true\n", out)
  assert.equal("", err)
  assert.equal(0, code)
end

describe("a finaliser that uses a generator", function()
  it("may run at the end of a task", function()
    passes [[
      for _ = 1, 20 do
        peri.create_task(function()
          generate()
          leave_trash()
          return 1, 2, 3
        end)
      end
      peri.sleep(0)
    ]]
  end)

  it("may run at the end of a task that is gathered", function()
    passes [[
      local tasks = {}
      for i = 1, 20 do
        tasks[i] = peri.create_task(function()
          leave_trash()
          return i
        end)
      end
      peri.gather(tasks):await()
    ]]
  end)
end)
