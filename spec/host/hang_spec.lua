-- What the program does about a script that hangs: it ends one that can never go
-- on, and tells what any other is doing when it gets SIGUSR1.
local support = require "support"
local code = support.run_code

local function matches(pattern, text)
  assert.is_true(text:find(pattern) ~= nil, ("%q is not in %q"):format(pattern, text))
end

describe("a script that can never go on", function()
  it("ends with 1 and tells why", function()
    local out, err, status = code [[
      local peri = require "perilune"
      local lock = peri.Lock()
      local _ <close> = peri.defer(function() print "closed" end)
      lock:acquire()
      peri.create_task { function() lock:acquire() end, name = "needy" }
      peri.Future():await()
      print "not reached"
    ]]
    assert.equal("closed\n", out)
    err = err:gsub("/[^%s:]*:", "SCRIPT:"):gsub("0x%x+", "0x")
    assert.equal("perilune: DeadlockError: nothing can happen any more: 2 tasks wait for ever\n"
      .. "  Task-1 at SCRIPT:6: awaits Future\n"
      .. "  needy at SCRIPT:5: waits in Lock.acquire (Lock: 0x), held by Task-1\n", err)
    assert.equal(1, status)
  end)

  it("is one whose leftovers never end, too", function()
    local out, err, status = code [[
      local peri = require "perilune"
      peri.create_task { function()
        local _ <close> = peri.defer(function() peri.Future():await() end)
        peri.Future():await()
      end, name = "stubborn" }
      peri.sleep(0)
      print "main ends"
    ]]
    assert.equal("main ends\n", out)
    matches("^perilune: DeadlockError: nothing can happen any more: 2 tasks wait for ever\n"
      .. "  stubborn at %S+: awaits Future\n", err)
    assert.equal(1, status)
  end)

  it("tells the script's own error rather than what its leftovers do", function()
    local _, err, status = code [[
      local peri = require "perilune"
      peri.create_task(function()
        local _ <close> = peri.defer(function() peri.Future():await() end)
        peri.Future():await()
      end)
      peri.sleep(0)
      error "mine"
    ]]
    matches("^perilune: %S+ mine\n", err)
    assert.is_nil(err:find "DeadlockError")
    assert.equal(1, status)
  end)

  it("can catch the error of a run of its own", function()
    local out, err, status = code [[
      local peri = require "perilune"
      local ok, err = pcall(peri.run, function() peri.Event():wait() end)
      print(ok, peri.DeadlockError:is(err), peri.RuntimeError:is(err))
    ]]
    assert.same({ "false\ttrue\ttrue\n", "", 0 }, { out, err, status })
  end)
end)

describe("SIGUSR1", function()
  local it_interrupts = support.signals_interrupt and it or function() end

  local head = [[
    local peri = require "perilune"
    local pid = io.open "/proc/self/stat":read "n"
    local function say(...) io.stderr:write(..., "\n") end
    -- Returns a function that tells whether it was sent, and so has come; and the
    -- path where a file appears then.
    local function signal_soon()
      local path = os.tmpname()
      os.remove(path)
      os.execute(("{ sleep 0.05; kill -USR1 %d; : >%s; } >/dev/null 2>&1 &"):format(pid, path))
      return function()
        local file = io.open(path)
        if file then file:close() os.remove(path) end
        return file ~= nil
      end, path
    end
    local function burn()
      local sent = signal_soon()
      repeat until sent()
    end
    local function wait_for(sent)
      repeat peri.sleep(0.01) until sent()
    end
  ]]

  it("prints the tasks of a script that waits", function()
    local _, err, status = code(head .. [[
      local loop, both = peri.get_running_loop(), peri.Future()
      peri.create_task { peri.sleep, 60, name = "sleeper" }
      loop:add_signal_handler("SIGUSR2", both.set_result, both)
      loop:call_soon(os.execute, ("{ kill -USR1 %d; kill -USR2 %d; } &"):format(pid, pid))
      both:await()
      say "after"
    ]])
    matches("^2 tasks:\n  Task%-1 at %S+: awaits Future\n"
      .. "    sleeper: waits in sleep, %S+ s to go\nafter\n$", err)
    assert.equal(0, status)
  end)

  it_interrupts("prints them at once while code runs that does not wait", function()
    local _, err, status = code(head .. [[
      burn()
      say "after"
    ]])
    matches("^1 task:\n  Task%-1 at %S+:%d+: runs\nafter\n$", err)
    assert.equal(0, status)
  end)

  it_interrupts("prints them while a callback and a coroutine run", function()
    local _, err, status = code(head .. [[
      peri.get_running_loop():call_soon(burn)
      peri.sleep(0)
      say "between"
      coroutine.wrap(burn)()
      say "after"
    ]])
    matches("^1 task:\n  Task%-1 at %S+:%d+: is ready to go on\nbetween\n"
      .. "1 task:\n  Task%-1 at %S+:%d+: runs\nafter\n$", err)
    assert.equal(0, status)
  end)

  it_interrupts("leaves the script's own hook alone", function()
    local _, err, status = code(head .. [[
      local count = 0
      debug.sethook(function() count = count + 1 end, "", 1000)
      local before = { debug.gethook() }
      burn()
      local now, hook = count, { debug.gethook() }
      while count == now do end
      debug.sethook()
      for i = 1, 3 do assert(hook[i] == before[i]) end
      say "after"
    ]])
    matches("^1 task:\n.*: runs\nafter\n$", err)
    assert.equal(0, status)
  end)

  it("is the script's own where it has a handler", function()
    local _, err, status = code(head .. [[
      local future, loop = peri.Future(), peri.get_running_loop()
      loop:add_signal_handler("SIGUSR1", function() future:set_result "mine" end)
      local sent = signal_soon()
      say(future:await())
      wait_for(sent)
      loop:remove_signal_handler "SIGUSR1"
      wait_for(signal_soon())
      peri.sleep(0)
    ]])
    matches("^mine\n1 task:\n", err)
    assert.equal(0, status)
  end)

  it("stays ignored where the program was started so", function()
    local path = support.file(head .. [[
      wait_for(signal_soon())
      peri.sleep(0)
      say "after"
    ]])
    local _, err, status = support.shell(("trap '' USR1; %s %s"):format(
      support.quote(support.program), support.quote(path)))
    assert.same({ "after\n", 0 }, { err, status })
  end)

  it("does not interrupt a read", function()
    local out, _, status = code(head .. [[
      local _, path = signal_soon()
      print((io.popen(("until [ -e %s ]; do sleep 0.01; done; rm %s; echo line"):format(path, path)):read "l"))
    ]])
    assert.same({ "line\n", 0 }, { out, status })
  end)
end)
