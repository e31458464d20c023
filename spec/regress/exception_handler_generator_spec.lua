-- A generator inside an exception handler took its frame from the task that
-- had called the handler, which no longer was the current one.
local peri = require "perilune"
local support = require "support"

describe("an exception handler", function()
  it("may use a generator", function()
    local lines, say = support.trace()
    local loop = peri.get_running_loop()
    loop:set_exception_handler(function(_, context)
      for x in coroutine.wrap(function() coroutine.yield(1) end) do say(context.message, x) end
    end)
    loop:call_exception_handler { message = "first" }
    for x in coroutine.wrap(function() coroutine.yield(2) end) do say("task", x) end
    loop:call_exception_handler { message = "second" }
    assert.same({ "first 1", "task 2", "second 1" }, lines)
  end)
end)
