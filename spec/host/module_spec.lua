-- `require "perilune"` from stock lua5.4: the same runtime as a C module.
local support = require "support"

local function expect(out, err, status, ...)
  assert.same({ out, err, status }, { ... })
end

describe("stock lua5.4", function()
  it("runs a function to its end", function()
    expect("42\n", "", 0, support.run_stock [[
      local peri = require "perilune"
      print(peri.run(function() return 42 end))
    ]])
  end)

  it("waits, and has every kind of run", function()
    expect("slept\nagain\nloop\n", "", 0, support.run_stock [[
      local peri = require "perilune"
      print(peri.run(peri.sleep, 0.001, "slept"))
      local runner <close> = peri.Runner()
      print(runner:run(peri.sleep, 0, "again"))
      local loop = peri.new_event_loop()
      print(loop:run_until_complete(peri.call(peri.sleep, 0, "loop")))
      loop:close()
    ]])
  end)

  it("has an event loop outside a run: the one that was set, or a new one", function()
    expect("false\ttrue\ttrue\ttrue\n", "", 0, support.run_stock [[
      local peri = require "perilune"
      local ok = pcall(peri.get_running_loop)
      local first = peri.get_event_loop()
      local mine = peri.new_event_loop()
      local same = peri.get_event_loop() == first
      peri.set_event_loop(mine)
      local set = peri.get_event_loop() == mine
      peri.set_event_loop(nil)
      local other = peri.get_event_loop()
      print(ok, same, set, other ~= mine)
      for _, loop in ipairs { first, mine, other } do loop:close() end
    ]])
  end)

  it("keeps its own os.exit", function()
    expect("", "", 5, support.run_stock [[
      local peri = require "perilune"
      peri.run(function()
        local _ <close> = peri.defer(function() print "not run: this is stock Lua's os.exit" end)
        os.exit(5)
      end)
    ]])
  end)

  it("has an uncaught error of the main function raised by run", function()
    expect("false\ttrue\n", "", 0, support.run_stock [[
      local peri = require "perilune"
      local fault = {}
      local ok, err = pcall(peri.run, error, fault)
      print(ok, err == fault)
    ]])
  end)

  it("has its coroutines and pcall as ever outside a run", function()
    expect("1\t2\t3\nfalse\toops\nfalse\ttrue\n", "", 0, support.run_stock [[
      require "perilune"
      local g = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end)
      print(g(), g(), g())
      print(pcall(error, "oops", 0))
      print(coroutine.isyieldable(), select(2, coroutine.running()))
    ]])
  end)

  it("can be closed at exit with things left open", function()
    expect("left\n", "ERROR perilune: Task was destroyed but it is pending!\ntask: Task-1\n", 0,
      support.run_stock [[
      local peri = require "perilune"
      loop = peri.new_event_loop()
      task = loop:create_task(peri.sleep, 60)
      future = loop:create_future()
      loop:call_later(60, print)
      print "left"
    ]])
  end)
end)
