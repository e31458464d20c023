-- An error of a task at the end of a run was reported before the task's callbacks
-- were called.
local peri = require "perilune"
local support = require "support"

describe("the end of a run", function()
  it("reports errors after the callbacks of those that failed (CPython)", support.top_level(function()
    local lines, say = support.trace()
    peri.run(function()
      local loop = peri.get_running_loop()
      loop:set_exception_handler(function(_, context) say("report", context.exception) end)
      local task = peri.create_task(function()
        local _ <close> = peri.defer(error, peri.ValueError "in cleanup")
        peri.sleep(60)
      end)
      task:add_done_callback(function() say "callback" end)
      peri.sleep(0)
    end)
    assert.same({ "callback", "report ValueError: in cleanup" }, lines)
  end))
end)
