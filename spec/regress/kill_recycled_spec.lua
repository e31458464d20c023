-- The coroutine of a killed task was recycled with the kill's mark on it: a
-- kill of the next task in it closed that one where it stood.
local support = require "support"

-- A program of its own, in which the first tasks are the only ones: the second
-- has the first one's coroutine.
local function output(first, second)
  local out, err, code = support.run_code(([[
    local peri = require "perilune"
    local function body(which)
      if which == "sleeps" then return peri.sleep(10) end
      pcall(function()
        local _ <close> = peri.defer(function()
          peri.sleep(0.01)
          print "closed"
        end)
        peri.sleep(10)
      end)
      print "never"
    end
    for _, which in ipairs { "%s", "%s" } do
      local task = peri.create_task(body, which)
      peri.sleep(0)
      task:kill()
      pcall(task.await, task)
      assert(task:cancelled())
    end
  ]]):format(first, second))
  assert.equal("", err)
  assert.equal(0, code)
  return out
end

describe("a killed task in the coroutine of one killed before", function()
  it("may wait in <close>", function()
    assert.equal("closed\n", output("sleeps", "closes"))
  end)

  it("may wait in <close>, as that one did", function()
    assert.equal("closed\nclosed\n", output("closes", "closes"))
  end)
end)
