-- run_until_complete made its task before it found that it cannot wait inside
-- table.sort, and left it pending.
local peri = require "perilune"
local support = require "support"

describe("run_until_complete in a sort comparator", function()
  it("fails and leaves no task", support.top_level(function()
    local loop, _ <close> = support.loop()
    local ran = false
    support.raises(peri.RuntimeError,
      "cannot wait in 'run_until_complete': the C function 'table.sort' in between cannot be suspended",
      table.sort, { 3, 2, 1 }, function()
        loop:run_until_complete(function() ran = true end)
      end)
    assert.same({}, peri.all_tasks(loop))
    loop:run_until_complete(function() peri.sleep(0) end)
    assert.is_false(ran)
  end))
end)
