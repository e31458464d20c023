local peri = require "perilune"
local signal = require "perilune.signal"
local support = require "support"

local stream = signal.stream
local raise = signal.raise

describe("perilune.signal", function()
  it("iterates over signals, in the order of coming", function()
    local seen = {}
    peri.create_task(function()
      raise "SIGUSR2"
      raise "SIGHUP"
    end)
    for sig in stream { "SIGHUP", "SIGUSR2" } do
      seen[#seen + 1] = sig
      if #seen == 2 then break end
    end
    assert.same({ "SIGUSR2", "SIGHUP" }, seen)
  end)

  it("loses nothing between two waits, and notes each signal once", function()
    local signals <close> = stream { "SIGHUP", "SIGUSR2" }
    raise "SIGHUP"
    raise "SIGHUP"
    raise(signal.SIGUSR2)
    assert.equal("SIGHUP", signals:get())
    assert.equal("SIGUSR2", signals:get())
    support.raises(peri.TimeoutError, "", signals.get, signals, { timeout = 0.01 })
    raise "SIGHUP"
    assert.equal("SIGHUP", signals:get { timeout = 20 })
  end)

  it("loses none to a task that is cancelled", function()
    local signals <close> = stream "SIGHUP"
    local task = peri.create_task(signals.get, signals)
    peri.sleep(0)
    raise "SIGHUP"
    task:cancel()
    assert.is_false(pcall(task.await, task))
    assert.equal("SIGHUP", signals:get { timeout = 20 })
  end)

  it("passes a signal on from a task that was woken and then cancelled", function()
    local signals <close> = stream "SIGHUP"
    local first, second = peri.create_task(signals.get, signals), peri.create_task(signals.get, signals)
    peri.sleep(0)
    raise "SIGHUP"
    local watch <close> = stream "SIGHUP"
    -- woken by the same look at the kernel, before this task runs
    raise "SIGHUP"
    watch:get { timeout = 20 }
    if not first:done() then first:cancel() end
    pcall(first.await, first)
    raise "SIGHUP"
    assert.equal("SIGHUP", second:await())
  end)

  it("serves each of several streams and a handler", function()
    local one <close>, called = stream "SIGHUP", peri.Event()
    local two <close> = stream { "SIGHUP", "SIGUSR2" }
    local loop = peri.get_running_loop()
    loop:add_signal_handler("SIGHUP", called.set, called)
    raise "SIGHUP"
    assert.equal("SIGHUP", one:get())
    assert.equal("SIGHUP", two:get())
    called:wait()
    loop:remove_signal_handler "SIGHUP"
    raise "SIGHUP"
    assert.equal("SIGHUP", one:get())
    assert.equal("SIGHUP", two:get())
  end)

  it("ends the iterations of a stream that is closed", function()
    local signals = stream "SIGHUP"
    local ended = 0
    local function iterate()
      for _ in signals do end
      ended = ended + 1
    end
    local tasks = { peri.create_task(iterate), peri.create_task(iterate) }
    peri.sleep(0)
    signals:close()
    for _, task in ipairs(tasks) do task:await() end
    assert.equal(2, ended)
    signals:close()
    assert.is_nil(signals:get())
  end)

  it("is closed by the loop that ends early, and by the collector", function()
    peri.create_task(raise, "SIGHUP")
    local times = 0
    for _ in stream "SIGHUP" do
      times = times + 1
      if times == 1 then break end
    end
    do
      local sentinel <close> = stream "SIGUSR2"
      raise "SIGUSR2"
      assert.equal("SIGUSR2", sentinel:get())
    end
    stream "SIGHUP" -- nobody holds it
    support.collect()
  end)

  it("warns in debug mode of a stream that was not closed", function()
    local records = support.log()
    local loop = peri.get_running_loop()
    loop:set_debug(true)
    stream "SIGHUP"
    support.collect()
    loop:set_debug(false)
    assert.equal(1, #records)
    assert.matches("^WARNING ResourceWarning: unclosed stream of signals\n"
      .. "created at:\n\t[^\n]*signal_spec.lua:%d+: in ", records[1])
  end)

  it("says which arguments are wrong", function()
    support.raises(peri.ValueError, "bad argument #1 to 'stream' (SIGKILL cannot be handled)", stream, { "SIGKILL" })
    support.raises(peri.ValueError, "bad argument #1 to 'stream' (\"HUP\" is no signal)", stream, { "HUP" })
    support.raises(peri.ValueError, "bad argument #1 to 'stream' (no signal)", stream, {})
    support.raises(peri.ValueError, "bad argument #1 to 'stream' (65 is no signal)", stream, 65)
    support.raises(peri.TypeError, "bad argument #1 to 'stream' (integer expected, got boolean)", stream, { true })
    support.raises(peri.OSError, "sigaction: invalid argument", stream, 32)
    support.raises(peri.OSError, "sigaction: invalid argument", stream, { "SIGHUP", 33 })
    support.raises(peri.ValueError, "bad argument #1 to 'raise' (\"x\" is no signal)", raise, "x")
  end)

  it("takes real-time signals, by number", function()
    local signals <close> = stream { 40 }
    raise(40)
    assert.equal(40, signals:get())
  end)

  it("sends signals to other processes", function()
    local process = require "perilune.subprocess".create_subprocess_exec("sleep", "30")
    signal.kill(process.pid, 0)
    signal.kill(process.pid, "SIGUSR1")
    assert.equal(-signal.SIGUSR1, process:wait())
    local ok, err = pcall(signal.kill, process.pid, "SIGUSR1")
    assert.is_false(ok)
    assert.equal("ESRCH", err.code)
    -- Cut down to 32 bits these would be 0 and -1: groups of processes, or all.
    for _, pid in ipairs { math.mininteger, math.maxinteger, 1 << 32 } do
      support.raises(peri.ValueError, ("bad argument #1 to 'kill' (%d is no process)"):format(pid),
        signal.kill, pid, 0)
    end
    assert.equal("Hangup", signal.strsignal "SIGHUP")
  end)
end)

describe("a signal in the program", function()
  it("does what it did before when the last of its streams has closed", function()
    local out, err, status = support.run_code [[
      local peri = require "perilune"
      local signal = require "perilune.signal"
      local one = signal.stream "SIGTERM"
      local two = signal.stream "SIGTERM"
      one:close()
      signal.raise "SIGTERM"
      print(two:get())
      two:close()
      peri.get_running_loop():add_signal_handler("SIGTERM", print)
      local three = signal.stream "SIGTERM"
      peri.get_running_loop():remove_signal_handler "SIGTERM"
      signal.raise "SIGTERM"
      print(three:get())
      three:close()
      io.stdout:flush()
      signal.raise "SIGTERM"
    ]]
    assert.equal("SIGTERM\nSIGTERM\n", out)
    assert.equal("", err)
    assert.equal(128 + 15, status)
  end)

  it("interrupts again once a stream of SIGINT has closed", function()
    local out, _, status = support.run_code [[
      local peri = require "perilune"
      local signal = require "perilune.signal"
      local signals = signal.stream "SIGINT"
      signal.raise "SIGINT"
      print(signals:get())
      signals:close()
      local ok, err = pcall(function()
        signal.raise "SIGINT"
        peri.sleep(30)
      end)
      print(ok, err)
    ]]
    assert.equal("SIGINT\nfalse\tCancelledError\n", out)
    assert.equal(0, status)
  end)

  it("keeps a program that waits for it", function()
    local out, err, status = support.run_code [[
      local peri = require "perilune"
      local signal = require "perilune.signal"
      local subprocess = require "perilune.subprocess"
      local pid = io.open("/proc/self/stat"):read "n"
      local signals <close> = signal.stream { "SIGHUP" }
      subprocess.create_subprocess_shell(("sleep 0.05; kill -HUP %d"):format(pid))
      print(signals:get())
    ]]
    assert.equal("", err)
    assert.equal("SIGHUP\n", out)
    assert.equal(0, status)
  end)
end)
