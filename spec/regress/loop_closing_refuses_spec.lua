-- Work that an exception handler added while its loop closed was left in the
-- loop's queues, and ran into freed memory.
local peri = require "perilune"
local support = require "support"

-- Closes a loop whose last report calls fn(loop), which must be refused.
local function refused(fn)
  local loop = peri.new_event_loop()
  local results
  loop:set_exception_handler(function() results = table.pack(pcall(fn, loop)) end)
  loop:create_future():set_exception "x"
  loop:close()
  support.collect()
  assert.is_table(results)
  assert.is_false(results[1])
  assert.is_true(peri.RuntimeError:is(results[2]))
  assert.equal("Event loop is closed", results[2].message)
  assert.same({}, peri.all_tasks(loop))
end

describe("a loop that closes", function()
  it("refuses timers", function()
    refused(function(loop) loop:call_later(0.01, print) end)
    peri.sleep(0.05)
  end)

  it("refuses callbacks", function()
    refused(function(loop) loop:call_soon(print) end)
  end)

  it("refuses tasks", function()
    refused(function(loop) loop:create_task(print) end)
  end)

  it("does not run in its exception handler", function()
    refused(function(loop) loop:run_until_complete(function() end) end)
  end)
end)
