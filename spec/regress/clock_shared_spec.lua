-- Each task that used a clock anchored and released it as if it were alone, so
-- that the clock was collected while others still used it.
local peri = require "perilune"
local support = require "support"

describe("a clock used by several tasks", function()
  local function start(body)
    local clock, tasks = peri.Clock { kind = "manual" }, {}
    for i = 1, 5 do tasks[i] = peri.create_task(body, clock) end
    return tasks
  end

  it("is given back by each of them", function()
    local tasks = start(function(clock)
      do
        local _ <close> = peri.use_clock(clock)
        peri.sleep(0)
      end
      peri.sleep(0.01)
      return "back"
    end)
    for _, task in ipairs(tasks) do assert.equal("back", task:await()) end
  end)

  it("survives tasks that end without giving it back", function()
    local tasks = start(function(clock) peri.use_clock(clock) end)
    for _, task in ipairs(tasks) do task:await() end
    support.collect()
    peri.sleep(0.01)
  end)

  it("survives tasks that are killed at a wait on it", function()
    local tasks = start(function(clock)
      local _ <close> = peri.use_clock(clock)
      peri.sleep(100)
    end)
    peri.sleep(0)
    for _, task in ipairs(tasks) do task:kill(0) end
    peri.sleep(0.01)
    support.collect()
    peri.sleep(0.01)
    for _, task in ipairs(tasks) do assert.is_true(task:cancelled()) end
  end)
end)
