-- Stock lua closes its state without telling us first: clocks were finalised
-- before the loops that had timers on them.
local support = require "support"

describe("stock lua5.4", function()
  it("may end with a loop open whose tasks wait on other clocks", function()
    local out, err, code = support.run_stock [[
      local peri = require "perilune"
      local loop = peri.new_event_loop()
      loop:call_soon(loop.stop, loop)
      for _ = 1, 3 do
        local clock = peri.Clock { kind = "manual" }
        loop:create_task(function()
          local _ <close> = peri.use_clock(clock)
          peri.sleep(10)
        end)
      end
      loop:run_forever()
      print "end"
    ]]
    assert.equal("end\n", out)
    assert.equal(0, code, err)
  end)

  it("may end after a loop whose handler wants to run it as it closes", function()
    local out, err, code = support.run_stock [[
      local peri = require "perilune"
      local loop = peri.new_event_loop()
      local done
      loop:set_exception_handler(function()
        if done then return end
        done = true
        loop:run_until_complete(function() peri.sleep(0) end)
      end)
      for _ = 1, 3 do loop:create_task(function() end) end
      loop:close()
      print(done)
    ]]
    assert.equal("true\n", out)
    assert.equal(0, code, err)
  end)
end)
