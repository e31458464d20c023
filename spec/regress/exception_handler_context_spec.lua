-- The exception handler ran in the context outside all tasks, and what it set
-- there was seen by everybody.
local peri = require "perilune"
local support = require "support"

describe("an exception handler", function()
  it("runs in the context of its caller", function()
    local lines, say = support.trace()
    local loop = peri.get_running_loop()
    local var = peri.ContextVar("var", 0)
    loop:set_exception_handler(function()
      say("handler", var:get())
      var:set(9)
    end)
    peri.create_task(function()
      var:set(1)
      loop:call_exception_handler { message = "x" }
    end):await()
    loop:call_soon(function() say("callback", var:get()) end)
    peri.sleep(0)
    say("task", var:get())
    assert.same({ "handler 1", "callback 0", "task 0" }, lines)
  end)
end)
