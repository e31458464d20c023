-- Tasks that went over to another clock gave back the runtime's real clock
-- without having taken it, so that it was collected while it was in use.
local support = require "support"

-- A program of its own: tests run on a virtual clock, and nothing here may
-- spoil the real one of the others.
local function passes(code)
  local out, err, status = support.run_code([[
    local peri = require "perilune"
    local clock, tasks = peri.Clock { kind = "manual" }, {}
    local function start(body)
      for i = 1, 5 do tasks[i] = peri.create_task(body) end
    end
  ]] .. code .. [[
    collectgarbage()
    collectgarbage()
    peri.sleep(0.01)
    print "end"
  ]])
  assert.equal("", err)
  assert.equal("end\n", out)
  assert.equal(0, status)
end

describe("the real clock survives tasks", function()
  it("that use another one for a while", function()
    passes [[
      start(function()
        do
          local _ <close> = peri.use_clock(clock)
          peri.sleep(0)
        end
        peri.sleep(0.01)
        return "back"
      end)
      for _, task in ipairs(tasks) do assert(task:await() == "back") end
    ]]
  end)

  it("that end without giving the other one back", function()
    passes [[
      start(function() peri.use_clock(clock) end)
      for _, task in ipairs(tasks) do task:await() end
    ]]
  end)

  it("that are killed at a wait on the other one", function()
    passes [[
      start(function()
        local _ <close> = peri.use_clock(clock)
        peri.sleep(100)
      end)
      peri.sleep(0)
      for _, task in ipairs(tasks) do task:kill(0) end
      peri.sleep(0.01)
      for _, task in ipairs(tasks) do assert(task:cancelled()) end
    ]]
  end)
end)
