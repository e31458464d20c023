-- The name became a string after the task had been made, so that a __tostring
-- that failed left half a task in the loop.
local peri = require "perilune"
local support = require "support"

describe("create_task", function()
  it("leaves no task when the __tostring of the name fails", function()
    local ran = false
    local before = #peri.all_tasks()
    local name = setmetatable({}, { __tostring = function() error("no name", 0) end })
    local ok, err = pcall(peri.create_task, { function() ran = true end, name = name })
    assert.is_false(ok)
    assert.equal("no name", err)
    assert.equal(before, #peri.all_tasks())
    support.collect()
    peri.sleep(0)
    assert.is_false(ran)
  end)
end)
