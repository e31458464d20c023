-- The kill of a task that waits for a run was lost: the run went on, and so did
-- the task.
local support = require "support"

describe("a kill of the top-level task that waits for a run", function()
  it("ends the run and the task", function()
    local out, err, code = support.run_code [[
      local peri = require "perilune"
      local main = peri.current_task()
      local _ <close> = peri.defer(function()
        peri.sleep(0.01)
        print "closed"
      end)
      peri.run(function()
        print(main:kill(5))
        peri.sleep(30)
        print "the run went on"
      end)
      print "the script went on"
    ]]
    assert.equal("true\nclosed\n", out)
    assert.equal("perilune: CancelledError: killed\n", err)
    assert.equal(1, code)
  end)
end)
