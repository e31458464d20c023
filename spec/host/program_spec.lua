-- The program, run as a child. What the command line means is lua's, so most
-- of what is asserted here holds for lua5.4 as well.
local support = require "support"
local run, code, file = support.run_program, support.run_code, support.file

local usage_head = "usage: perilune [options] [script [args]]\n"

local function expect(out, err, status, ...)
  assert.same({ out, err, status }, { ... })
end

describe("perilune FILE", function()
  it("runs the script as the main task", function()
    expect("slept\ttrue\n", "", 0, code [[
      local peri = require "perilune"
      print(peri.sleep(0.001, "slept"), peri.current_task() ~= nil)
    ]])
  end)

  it("counts the script as a task", function()
    expect("1\n", "", 0, code 'print(#require("perilune").all_tasks())')
  end)

  it("gives arg and ... as lua does", function()
    local path = file [[
      print(...)
      print(arg[0], arg[1], arg[2], #arg, arg[-1] ~= nil, arg[-2])
    ]]
    expect("a\tb c\n" .. path .. "\ta\tb c\t2\ttrue\tnil\n", "", 0, run { path, "a", "b c" })
  end)

  it("takes what follows the script as its arguments, options too", function()
    local path = file "print(...)"
    expect("-e\t--version\t--\n", "", 0, run { path, "-e", "--version", "--" })
  end)

  it("reads standard input for -, and without any script", function()
    expect("from stdin\tx\n", "", 0, run({ "-", "x" }, 'print("from stdin", ...)'))
    expect("from stdin\n", "", 0, run({}, 'print("from stdin")'))
  end)

  it("skips a first line that starts with #", function()
    expect("fine\n", "", 0, code "#!/usr/bin/env perilune\nprint 'fine'")
  end)

  it("says so when the file is not there", function()
    local out, err, status = run { "/nonexistent/script.lua" }
    assert.equal("", out)
    assert.equal("perilune: cannot open /nonexistent/script.lua: No such file or directory\n", err)
    assert.equal(1, status)
  end)

  it("tells a syntax error with its place and no traceback", function()
    local path = file "local x = = 1"
    local out, err, status = run { path }
    assert.equal("", out)
    assert.equal(("perilune: %s:1: unexpected symbol near '='\n"):format(path), err)
    assert.equal(1, status)
  end)

  it("cancels what is left over at the end and waits for it", function()
    expect("main ends\ncancelled\tCancelledError\n", "", 0, code [[
      local peri = require "perilune"
      peri.create_task(function()
        local _ <close> = setmetatable({}, { __close = function(_, err)
          peri.sleep(0)
          print("cancelled", err)
        end })
        peri.sleep(60)
      end)
      peri.sleep(0)
      print "main ends"
    ]])
  end)

  it("loads the whole library under the names that modules have", function()
    expect("true\n", "", 0, code [[
      print(require("perilune").Error == require("perilune.errors").Error)
    ]])
  end)

  it("has print_stack tell where a task stands, on stderr", function()
    local out, err, status = code [[
      local peri = require "perilune"
      local function stand() peri.sleep(60) end
      local task = peri.create_task { function() stand() end, name = "sleeper" }
      peri.sleep(0)
      task:print_stack()
    ]]
    assert.equal("", out)
    assert.equal(0, status)
    assert.equal("<Task sleeper pending>\nstack traceback:\n", err:match "^[^\n]*\n[^\n]*\n")
    assert.matches("in .*stand", err)
  end)

  it("exports Lua's symbols, so that C modules load", function()
    expect("table\n", "", 0, code 'print(type(require "lfs"))')
  end)
end)

describe("options", function()
  it("-e runs code, several of them in turn, in one main task", function()
    expect("1\n2\ttrue\n", "", 0, run {
      "-e", "peri = require 'perilune' x = 1 print(x)", "-e", "peri.sleep(0) print(x + 1, peri.current_task() ~= nil)",
    })
    expect("glued\n", "", 0, run { "-eprint 'glued'" })
  end)

  it("-e before a script runs first, and both run", function()
    local path = file "print(x, ...)"
    expect("1\targ\n", "", 0, run { "-e", "x = 1", path, "arg" })
  end)

  it("-l requires a module into a global, of its name or another", function()
    expect("function\tfunction\n", "", 0, run {
      "-l", "perilune", "-l", "p=perilune", "-e", "print(type(perilune.sleep), type(p.sleep))",
    })
    local _, err, status = run { "-l", "no.such.module" }
    assert.equal(1, status)
    assert.matches("^perilune: module 'no.such.module' not found:", err)
  end)

  it("-e and -l run in the order given", function()
    expect("nil\ttable\n", "", 0, run {
      "-e", "a = type(p)", "-l", "p=perilune", "-e", "print(a, type(p))",
    })
  end)

  it("-m runs a module as the script, which may wait", function()
    local directory = support.directory()
    local module = io.open(directory .. "/mymodule.lua", "w")
    module:write [[
      require("perilune").sleep(0)
      print(arg[0], ...)
    ]]
    module:close()
    expect(directory .. "/mymodule.lua\ta\tb\n", "", 0, run {
      env = "LUA_PATH=" .. support.quote(directory .. "/?.lua"), "-m", "mymodule", "a", "b",
    })
    local _, err, status = run { "-m", "no.such.module" }
    assert.equal(1, status)
    assert.matches("^perilune: module 'no.such.module' not found:", err)
  end)

  it("--version tells ours, Lua's and libuv's", function()
    local out, err, status = run { "--version" }
    assert.matches("^Perilune %d+%.%d+%.%d+ %(Lua 5%.4%.%d+, libuv %d+%.%d+%.%d+%)\n$", out)
    assert.equal("", err)
    assert.equal(0, status)
    expect(out, "", 0, run { "-v" })
  end)

  it("--help shows the options on stdout", function()
    local out, err, status = run { "--help" }
    assert.equal(usage_head, out:sub(1, #usage_head))
    for _, option in ipairs { "-e", "-l", "-m", "--debug", "--version", "--help" } do
      assert.matches(option .. " ", out, 1, true)
    end
    assert.equal("", err)
    assert.equal(0, status)
    expect(out, "", 0, run { "-h" })
  end)

  it("--debug turns debug mode on, as PERILUNE_DEBUG=1 does", function()
    local ask = 'print(require("perilune").get_running_loop():get_debug())'
    expect("true\n", "", 0, run { "--debug", "-e", ask })
    expect("true\n", "", 0, run { env = "PERILUNE_DEBUG=1", "-e", ask })
    expect("false\n", "", 0, run { env = "PERILUNE_DEBUG=0", "-e", ask })
    expect("false\n", "", 0, run { "-e", ask })
  end)

  it("that are unknown or lack their argument are told, with the usage", function()
    for _, option in ipairs { "--unknown", "-x", "-version" } do
      local out, err, status = run { option }
      assert.equal("", out)
      assert.equal(("perilune: unrecognized option '%s'\n"):format(option) .. usage_head,
        err:sub(1, #err:match "^[^\n]*\n" + #usage_head))
      assert.equal(1, status)
    end
    for _, option in ipairs { "-e", "-l", "-m" } do
      local _, err, status = run { option }
      assert.equal(("perilune: '%s' needs argument"):format(option), err:match "^[^\n]*")
      assert.equal(1, status)
    end
  end)

  it("-- ends them", function()
    local path = file "print 'ran'"
    expect("ran\n", "", 0, run { "--", path })
  end)

  it("-E ignores LUA_INIT, which is run otherwise", function()
    local init = "LUA_INIT=" .. support.quote "print 'init'"
    expect("init\ncode\n", "", 0, run { env = init, "-e", "print 'code'" })
    expect("code\n", "", 0, run { env = init, "-E", "-e", "print 'code'" })
  end)

  it("-W turns warnings on", function()
    expect("", "Lua warning: careful\n", 0, run { "-W", "-e", "warn 'careful'" })
  end)
end)

describe("an uncaught error", function()
  it("prints its traceback with the script's lines and exits 1", function()
    local path = file [[
local function culprit()
  error "oops"
end
local function caller()
  culprit()
  return 1
end
caller()
]]
    local out, err, status = run { path }
    assert.equal("", out)
    assert.equal(1, status)
    local lines = {}
    for line in err:gmatch "[^\n]+" do lines[#lines + 1] = line end
    assert.equal(("perilune: %s:2: oops"):format(path), lines[1])
    assert.equal("stack traceback:", lines[2])
    assert.matches(("%s:2: in .*culprit"):format(path:gsub("%p", "%%%0")), err)
    assert.matches(("%s:5: in .*caller"):format(path:gsub("%p", "%%%0")), err)
    assert.matches(("%s:8: in main chunk"):format(path:gsub("%p", "%%%0")), err)
  end)

  it("that is an error object is told by its text", function()
    local _, err, status = code [[
      local peri = require "perilune"
      error(peri.ValueError "no such port")
    ]]
    assert.equal(1, status)
    assert.equal("perilune: ValueError: no such port", err:match "^[^\n]*")
    assert.matches("in main chunk", err, 1, true)
  end)

  it("that is a table, nil or has a failing __tostring is told somehow", function()
    local _, err, status = code "error {}"
    assert.equal(1, status)
    assert.equal("perilune: (error object is a table value)", err:match "^[^\n]*")
    _, err, status = code "error(nil)"
    assert.equal(1, status)
    assert.equal("perilune: RuntimeError: error(nil) was raised", err:match "^[^\n]*")
    _, err, status = code "error(setmetatable({}, { __tostring = function() error 'no' end }))"
    assert.equal(1, status)
    assert.equal("perilune: (a table whose __tostring fails)", err:match "^[^\n]*")
  end)

  it("out of a task that was awaited shows both stacks, innermost first", function()
    local _, err, status = code [[
      local peri = require "perilune"
      local function innermost() error "inside" end
      local function outermost() peri.create_task(function() innermost() end):await() end
      outermost()
    ]]
    assert.equal(1, status)
    local a, b = err:find("innermost", 1, true), err:find("outermost", 1, true)
    assert.is_truthy(a, err)
    assert.is_truthy(b, err)
    assert.is_true(a < b)
  end)

  it("runs the scopes it passes, which may wait", function()
    local out, err, status = code [[
      local peri = require "perilune"
      local _ <close> = peri.defer(function()
        peri.sleep(0.001)
        print "closed"
      end)
      error("oops", 0)
    ]]
    assert.equal("closed\n", out)
    assert.equal("perilune: oops", err:match "^[^\n]*")
    assert.equal(1, status)
  end)

  it("of a background task is reported at the end at the latest, and the code is 0", function()
    local out, err, status = code [[
      local peri = require "perilune"
      kept = peri.create_task(function() error "unseen" end)
      peri.sleep(0)
      print "main is fine"
    ]]
    assert.equal("main is fine\n", out)
    assert.equal(0, status)
    assert.matches("Task exception was never retrieved", err, 1, true)
    assert.matches("unseen", err, 1, true)
  end)

  it("that is a cancellation of the script by itself is told as one", function()
    local _, err, status = code [[
      local peri = require "perilune"
      peri.current_task():cancel "enough"
      peri.sleep(0)
    ]]
    assert.equal(1, status)
    assert.equal("perilune: CancelledError: enough", err:match "^[^\n]*")
  end)

  it("of memory is told, not a crash", function()
    local _, err, status = code [[
      local s = ("x"):rep(1 << 20)
      local ok, err = pcall(string.rep, s, 1 << 40)
      print(ok)
      error(err, 0)
    ]]
    assert.equal(1, status)
    assert.matches("^perilune: ", err)
  end)
end)

describe("os.exit", function()
  it("ends the program with its code", function()
    expect("", "", 0, code "os.exit()")
    expect("", "", 7, code "os.exit(7)")
    expect("", "", 0, code "os.exit(true)")
    expect("", "", 1, code "os.exit(false)")
    expect("", "", 3, code "os.exit(3, true)")
  end)

  it("unwinds the task: <close> runs, no pcall of ours stops it", function()
    expect("closed\n", "", 4, code [[
      local peri = require "perilune"
      local _ <close> = peri.defer(function() print "closed" end)
      pcall(function() os.exit(4) end)
      print "never"
    ]])
  end)

  it("in another task unwinds that one, and what the script waits in too", function()
    expect("task closed\nscript closed\n", "", 5, code [[
      local peri = require "perilune"
      local _ <close> = peri.defer(function() print "script closed" end)
      peri.create_task(function()
        local _ <close> = peri.defer(function() print "task closed" end)
        xpcall(os.exit, print, 5)
        print "never"
      end)
      peri.sleep(60)
      print "never"
    ]])
  end)

  it("in a generator, in a callback and in __close", function()
    expect("", "", 6, code "coroutine.wrap(function() os.exit(6) end)() print 'never'")
    expect("", "", 7, code [[
      local peri = require "perilune"
      peri.get_running_loop():call_soon(os.exit, 7)
      peri.sleep(60)
      print "never"
    ]])
    expect("", "", 8, code [[
      do local _ <close> = setmetatable({}, { __close = function() os.exit(8) end }) end
      print "never"
    ]])
  end)

  it("in a nested run ends the program", function()
    expect("inner closed\n", "", 9, code [[
      local peri = require "perilune"
      peri.run(function()
        local _ <close> = peri.defer(function() print "inner closed" end)
        os.exit(9)
      end)
      print "never"
    ]])
  end)

  it("flushes what was written", function()
    expect("no newline", "", 0, code "io.write 'no newline' os.exit(0)")
  end)

  it("closes the state when asked: finalisers run", function()
    expect("collected\n", "", 0, code [[
      kept = setmetatable({}, { __gc = function() print "collected" end })
      os.exit(true, true)
    ]])
  end)

  it("refuses what is no code, as lua does", function()
    local _, err, status = code "os.exit {}"
    assert.equal(1, status)
    assert.matches("bad argument #1 to 'exit'", err, 1, true)
  end)
end)

describe("Ctrl-C", function()
  local it_interrupts = support.signals_interrupt and it or function() end

  -- popen, unlike os.execute, does not ignore SIGINT meanwhile; the signal has
  -- been sent when close returns.
  local interrupt = [[
    local peri = require "perilune"
    local function interrupt() io.popen("kill -INT $PPID"):close() end
  ]]

  it("cancels the script, first of all", function()
    local out, err, status = code(interrupt .. [[
      local _ <close> = peri.defer(function() print "closed" end)
      interrupt()
      local ok, err = pcall(peri.sleep, 60)
      print(ok, peri.iscancel(err))
      error(err, 0)
    ]])
    assert.equal("false\ttrue\nclosed\n", out)
    assert.equal("perilune: interrupted\n", err)
    assert.equal(130, status)
  end)

  it("can be answered by the script, which goes on", function()
    expect("false\ttrue\ngoes on\n", "", 0, code(interrupt .. [[
      interrupt()
      local ok, err = pcall(peri.sleep, 60)
      print(ok, peri.iscancel(err))
      peri.current_task():uncancel()
      peri.sleep(0.01)
      print "goes on"
    ]]))
  end)

  it("cancels a script that waits in the kernel", function()
    local out, _, status = code [[
      local peri = require "perilune"
      local _ <close> = peri.defer(function() print "closed" end)
      -- Not closed: it is to send while the script sleeps.
      sender = io.popen("sleep 0.2; kill -INT $PPID")
      peri.sleep(60)
    ]]
    assert.equal("closed\n", out)
    assert.equal(130, status)
  end)

  it("cancels what a nested run runs", function()
    local out, _, status = code [[
      local peri = require "perilune"
      local _ <close> = peri.defer(function() print "script closed" end)
      sender = io.popen("sleep 0.2; kill -INT $PPID")
      peri.run(function()
        local _ <close> = peri.defer(function() print "inner closed" end)
        peri.sleep(60)
      end)
      print "never"
    ]]
    assert.equal("inner closed\nscript closed\n", out)
    assert.equal(130, status)
  end)

  it("is raised in running code the second time, past pcall", function()
    local out, err, status = code(interrupt .. [[
      local _ <close> = peri.defer(function() print "closed" end)
      interrupt()
      interrupt()
      pcall(function() while true do end end)
      print "never"
    ]])
    assert.equal("closed\n", out)
    assert.equal("perilune: interrupted", err:match "^[^\n]*")
    assert.equal(130, status)
  end)

  it_interrupts("is raised in running code when it is not seen within a second", function()
    local out, _, status = code(interrupt .. [[
      interrupt()
      while true do end
    ]])
    assert.equal("", out)
    assert.equal(130, status)
  end)

  it("is raised in the code of another task and of a generator", function()
    for _, busy in ipairs {
      "peri.create_task(function() while true do pcall(string.rep, 'x', 3) end end) peri.sleep(60)",
      "coroutine.wrap(function() while true do end end)()",
      "peri.get_running_loop():call_soon(function() while true do end end) peri.sleep(60)",
    } do
      local out, _, status = code(interrupt .. "interrupt() interrupt()\n" .. busy .. "\nprint 'never'")
      assert.equal("", out)
      assert.equal(130, status, busy)
    end
  end)

  it_interrupts("ends the process the third time, whatever it does", function()
    -- No hook reaches a pattern match; this one would take minutes.
    local out, _, status = code [[
      sender = io.popen("while kill -INT $PPID 2>/dev/null; do sleep 0.1; done")
      string.find(("a"):rep(3000), ".-.-.-.-b")
      print "never"
    ]]
    assert.equal("", out)
    assert.equal(130, status)
  end)

  it("is left to a script that has a handler of its own", function()
    expect("handled\n", "", 0, code(interrupt .. [[
      local came = peri.Future()
      peri.get_running_loop():add_signal_handler("SIGINT", function()
        print "handled"
        came:set_result()
      end)
      interrupt()
      came:await()
    ]]))
  end)

  it_interrupts("comes to an end in a clean-up that never ends", function()
    local out, _, status = code [[
      local peri = require "perilune"
      sender = io.popen("while kill -INT $PPID 2>/dev/null; do sleep 0.1; done")
      local _ <close> = peri.defer(function()
        while true do pcall(peri.sleep, 60) end
      end)
      peri.sleep(60)
    ]]
    assert.equal("", out)
    assert.equal(130, status)
  end)
end)

describe("SIGPIPE", function()
  it("does not end the program: the write fails instead", function()
    local script = file [[
      local n = 0
      repeat
        n = n + 1
        local ok, err, code = io.stdout:write(("x"):rep(1 << 16))
        io.stdout:flush()
      until not ok or n > 1000
      io.stderr:write(n <= 1000 and "write failed" or "write never failed")
    ]]
    local _, err = support.shell(("{ %s %s; echo \"status $?\" >&2; } | true"):format(
      support.quote(support.program), support.quote(script)))
    assert.equal("write failedstatus 0\n", err)
  end)

  it("ends the programs that it starts as it always did", function()
    expect("true\tsignal\t13\n", "", 0, code [[
      local ok, how, n = os.execute("kill -PIPE $$")
      print(ok == nil, how, n)
    ]])
  end)
end)

describe("stdin, stdout and the exit code", function()
  it("leave stdin to the script", function()
    local path = file "print(io.read 'a')"
    expect("what came in\n\n", "", 0, run({ path }, "what came in\n"))
  end)

  it("are all that the programs it starts inherit", function()
    expect("0\n", "", 0, code [[
      local peri = require "perilune"
      peri.sleep(0.001)
      local pipe = io.popen "ls -l /proc/self/fd | grep -cE 'eventpoll|eventfd'"
      io.write(pipe:read "a")
    ]])
  end)
end)
