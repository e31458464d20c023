local peri = require "perilune"
local support = require "support"
local raises, trace = support.raises, support.trace

-- Sends a signal to this process; it has been sent when this returns.
local function send(name)
  local pipe = assert(io.popen("kill -" .. name .. " $PPID"))
  pipe:close()
end

describe("add_signal_handler", function()
  it("calls the function in the loop, with its arguments", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    local came = peri.Future()
    loop:add_signal_handler("SIGUSR2", function(...)
      say(...)
      came:set_result()
    end, "a", nil, "c")
    send "USR2"
    assert.same({}, lines)
    came:await()
    assert.same({ "a nil c" }, lines)
    assert.is_true(loop:remove_signal_handler "SIGUSR2")
  end)

  it("replaces the handler before", function()
    local lines, say = trace()
    local loop = peri.get_running_loop()
    local came = peri.Future()
    loop:add_signal_handler("SIGUSR2", say, "first")
    loop:add_signal_handler("SIGUSR2", function()
      say "second"
      came:set_result()
    end)
    send "USR2"
    came:await()
    loop:remove_signal_handler "SIGUSR2"
    assert.same({ "second" }, lines)
  end)

  it("calls it once for each signal", function()
    local loop = peri.get_running_loop()
    local count = 0
    local came
    loop:add_signal_handler("SIGUSR2", function()
      count = count + 1
      came:set_result()
    end)
    for i = 1, 3 do
      came = peri.Future()
      send "USR2"
      came:await()
      assert.equal(i, count)
    end
    loop:remove_signal_handler "SIGUSR2"
  end)

  it("refuses to have waits in it", function()
    local loop = peri.get_running_loop()
    local came = peri.Future()
    loop:add_signal_handler("SIGUSR2", function()
      came:set_result(pcall(peri.sleep, 0))
    end)
    send "USR2"
    local ok, err = came:await()
    loop:remove_signal_handler "SIGUSR2"
    assert.is_false(ok)
    assert.equal("RuntimeError: cannot wait in 'sleep': callbacks are not tasks "
      .. "(this is a signal handler)", tostring(err))
  end)

  it("reports the errors of the function", function()
    local reports = support.reports()
    local loop = peri.get_running_loop()
    loop:add_signal_handler("SIGUSR2", error, "in the handler")
    send "USR2"
    for _ = 1, 1000 do
      if #reports > 0 then break end
      peri.sleep(0)
    end
    loop:remove_signal_handler "SIGUSR2"
    assert.equal(1, #reports)
    assert.equal("in the handler", reports[1].exception)
  end)

  it("refuses signals that cannot be caught or are unknown", function()
    local loop = peri.get_running_loop()
    for _, signal in ipairs { "SIGNOTHING", "SIGKILL", "SIGSTOP", 9, 0, -1, 4711 } do
      raises(peri.ValueError,
        ("bad argument #1 to 'add_signal_handler' (%s cannot be handled)"):format(signal),
        function() loop:add_signal_handler(signal, print) end)
    end
    raises(peri.TypeError, "bad argument #1 to 'add_signal_handler' (signal name expected, got boolean)",
      function() loop:add_signal_handler(true, print) end)
    raises(peri.TypeError, "bad argument #2 to 'add_signal_handler' (function expected, got no value)",
      function() loop:add_signal_handler "SIGUSR2" end)
  end)
end)

describe("remove_signal_handler", function()
  it("tells whether there was one", function()
    local loop = peri.get_running_loop()
    assert.is_false(loop:remove_signal_handler "SIGUSR2")
    loop:add_signal_handler("SIGUSR2", print)
    assert.is_true(loop:remove_signal_handler "SIGUSR2")
    assert.is_false(loop:remove_signal_handler "SIGUSR2")
  end)

  it("gives the signal back its old meaning", function()
    local _, _, code = support.run_code [[
      local peri = require "perilune"
      local loop = peri.get_running_loop()
      loop:add_signal_handler("SIGTERM", print)
      loop:remove_signal_handler "SIGTERM"
      io.popen("kill -TERM $PPID"):close()
      print "still alive"
    ]]
    assert.equal(128 + 15, code)
  end)
end)
