-- The interactive session, on a terminal of its own (support.pty), with libedit
-- where it is installed; and without.
local pty = require "support.pty"
local support = require "support"

local expect, send, line, exit = pty.expect, pty.send, pty.line, pty.exit
local CTRL_C <const>, CTRL_D <const>, TAB <const>, UP <const> = "\3", "\4", "\t", "\27[A"
local SIGTERM <const>, SIGHUP <const>, SIGSTOP <const>, SIGUSR2 <const> = 15, 1, 19, 12
local prompt <const> = expect "\r\n> "

local perilune <const> = line 'peri = require "perilune"'

-- Steps may be lists themselves.
local function flatten(steps, into)
  for _, step in ipairs(steps) do
    if type(step) == "table" then flatten(step, into) else into[#into + 1] = step end
  end
  return into
end

---A session that takes the steps and is ended by Ctrl-D.
local function session(steps, env, arguments)
  local all = flatten({ steps, prompt, pty.raw, send(CTRL_D), exit(0) }, {})
  return pty.run(arguments or {}, all, env)
end

---One that ends otherwise, as the steps say.
local function run(steps, env, arguments)
  return pty.run(arguments or {}, flatten(steps, {}), env)
end

describe("a session", function()
  it("begins with the version, on a terminal and without a script", function()
    local out = session {}
    assert.matches("^Perilune %d+%.%d+%.%d+ %(Lua 5%.4%.%d+, libuv %d+%.%d+%.%d+%)\r\n> ", out)
  end)

  it("prints what expressions give, nils included", function()
    session {
      line "1 + 1, nil, 'x'", expect "\r\n2\tnil\tx",
      line "nil", expect "\r\nnil",
      line "= 'with', '='", expect "\r\nwith\t=",
      line "x = 3", line "x", expect "\r\n3",
      line "", line "local x = 4", line "x", expect "\r\n3",
      line "print = function(...) io.write('mine: ', ..., '\\n') end", line "x", expect "\r\nmine: 3",
    }
  end)

  it("continues a line that is not complete, with another prompt", function()
    session {
      line "for i = 1, 2 do", expect "\r\n>> ", send "print(i * 10)\n", expect "\r\n>> ", send "end\n",
      expect "\r\n10\r\n20",
      line "= (1 +", expect "\r\n>> ", send "2)\n", expect "\r\n3",
    }
  end)

  it("tells the syntax error of a line that Ctrl-D leaves incomplete", function()
    session { line "for i = 1,", expect "\r\n>> ", send(CTRL_D), expect "near <eof>" }
  end)

  it("takes the prompts from _PROMPT and _PROMPT2", function()
    run {
      line "_PROMPT, _PROMPT2 = setmetatable({}, { __tostring = function() return 'now: ' end }), 'more: '",
      expect "now: ", pty.raw, send "= 1 +\n", expect "more: ", send "1\n", expect "\r\n2\r\nnow: ", pty.raw,
      send(CTRL_D), exit(0),
    }
  end)

  it("tells errors with their traceback, without its own frames, and goes on", function()
    local out = session {
      line "function culprit() error 'oops' end", line "local x = culprit()",
      expect "stdin:1: oops\r\nstack traceback:\r\n",
      expect "in function 'culprit'", expect "stdin:1: in main chunk",
      line "x = = 1", expect "stdin:1: unexpected symbol near '='",
      line "error {}", expect "(error object is a table value)",
      line "error(print)", expect "(error object is a function value)",
      line "function f() return 1 + f() end f()", expect "stack overflow", expect "stack traceback:",
      line "error(nil)", expect "RuntimeError: error(nil) was raised",
      line "error(setmetatable({}, { __tostring = function() return 'told' end }))", expect "told",
      line "setmetatable({}, { __name = 'X', __tostring = error })", expect "error calling 'print' (",
      line "1 + 1", expect "\r\n2",
    }
    assert.is_nil(out:find("repl.lua", 1, true))
    assert.is_nil(out:find("'attempt'", 1, true))
  end)

  it("tells the stacks that an error of a task has passed", function()
    session {
      perilune, line "function inside() error 'deep' end",
      line "peri.create_task(function() inside() return 1 end):await()",
      expect "deep", expect "in function 'inside'", expect "in task ", expect "stdin:1: in main chunk",
      line "error(peri.ValueError('v', { cause = 'c' }))", expect "ValueError: v", expect "caused by: c",
    }
  end)

  it("lets os.exit end it", function()
    run { line "os.exit(7)", exit(7) }
    run {
      perilune, line "t = peri.create_task(function() go:await() os.exit(8) end) go = peri.Future()",
      line "peri.get_running_loop():add_signal_handler('SIGUSR2', go.set_result, go)", prompt, pty.raw,
      send "half a line", expect "half a line", pty.signal(SIGUSR2), exit(8),
    }
    run {
      perilune, line "t = peri.spawn(function() peri.sleep(0.05) os.exit(9) end) pcall(peri.sleep, 60)", exit(9),
    }
  end)

  it("cancels what is left over at its end and waits for it", function()
    local out = session {
      perilune,
      line "function bye() peri.sleep(0.01) print 'left over' end",
      line "t = peri.create_task(function() local _ <close> = peri.defer(bye) peri.sleep(60) end)",
    }
    assert.matches("left over\r\n$", out)
  end)
end)

describe("a line", function()
  it("may wait, while other tasks print", function()
    session {
      perilune,
      line "t = peri.create_task(function() for i = 1, 3 do peri.sleep(0.01) print('tick', i) end end)",
      line "t:await() return peri.sleep(0.01, 'slept')", expect "tick\t3\r\n", expect "slept",
    }
  end)

  it("runs at the script's top level: always in the same task, and may run loops", function()
    session {
      perilune, line "me = peri.current_task()", line "me == peri.current_task(), #peri.all_tasks()",
      expect "\r\ntrue\t1",
      line "peri.run(function() peri.sleep(0.001) return 'run' end)", expect "\r\nrun",
      line "v = peri.ContextVar 'v' v:set(5)", line "v:get()", expect "\r\n5",
    }
  end)

  it("may use a virtual clock, and may wait for ever", function()
    session {
      perilune,
      line "do local _ <close> = peri.use_clock(peri.Clock { kind = 'virtual' }) return peri.sleep(1e6, 'jumped') end",
      expect "\r\njumped", line "print 'waits' peri.Future():await()", expect "\r\nwaits", send(CTRL_C),
      expect "interrupted", line "peri.run(function() peri.Future():await() end)", expect "DeadlockError: ",
      line "'goes on'", expect "\r\ngoes on",
    }
  end)

  it("that is being typed comes again after what a background task prints", function()
    local out = session {
      perilune,
      line "go = peri.Future() t = peri.create_task(function() go:await() print 'tick' io.write 'part' end)",
      line "peri.get_running_loop():call_later(0.05, go.set_result, go)", expect "\r\n", prompt, pty.raw,
      send "1 + 41", expect "tick\r\n", expect "part\r\n> 1 + 41", send "\n", expect "\r\n42",
    }
    assert.matches("> 1 %+ 41\r\27%[Jtick", out)
  end)

  it("that is being typed comes again after the log, warnings and stderr", function()
    session {
      perilune,
      line "function say() warn '@on' warn 'careful' io.stderr:write 'err\\n' peri.spawn(error, 'lost', 0) end",
      line "t = peri.get_running_loop():call_later(0.02, say)", prompt, pty.raw,
      send "'typed'", expect "careful", expect "err", expect "lost", expect "> 'typed'",
      send "\n", expect "\r\ntyped",
    }
  end)

  it("longer than the screen is wide comes again as a whole", function()
    local long = "#'" .. ("x"):rep(100) .. "'"
    local out = session {
      perilune, line "t = peri.get_running_loop():call_later(0.05, print, 'tick')", prompt, pty.raw,
      send(long), expect "tick\r\n> #'", send "\n", expect "\r\n100",
    }
    assert.matches("\27%[1A\27%[Jtick", out)
  end)

  it("reads what stdin has when it asks for it", function()
    session { line "io.read()", expect "()\r\n", pty.original, send "an answer\n", expect "an answer\r\nan answer" }
  end)

  it("knows the characters of UTF-8, whatever the locale", function()
    session { line "'h\u{e9}\u{20ac}\u{e4}'\2\2\127", expect "\r\nh\u{e9}\u{e4}" }
    session { prompt, pty.raw, send "'\u{4e16}\255\u{754c}'\n", expect "\r\n\u{4e16}\u{754c}" }
  end)

  it("is not disturbed by a key sequence that is not complete", function()
    session {
      perilune, line "t = peri.get_running_loop():call_later(0.05, print, 'tick')", prompt, pty.raw,
      send "'ab'\27", expect "tick\r\n> 'ab'", send "[D", send "c\n", expect "\r\nabc",
    }
  end)
end)

describe("Ctrl-C", function()
  local it_interrupts = support.signals_interrupt and it or function() end

  it("discards the line that is being typed", function()
    session {
      prompt, pty.raw, send "os.exit(1)", expect "os.exit(1)", send(CTRL_C), expect "^C", line "'new'",
      expect "\r\nnew",
      line "for i = 1, 2 do", expect "\r\n>> ", pty.raw, send "os.exit(1)", send(CTRL_C), expect "^C",
      line "'again'", expect "\r\nagain",
    }
  end)

  it("cancels a line that waits, and nothing else", function()
    session {
      perilune,
      line "t = peri.create_task(function() while true do peri.sleep(0.01) n = (n or 0) + 1 end end)",
      line "do local _ <close> = peri.defer(function() print 'closed' end) print 'waits' peri.sleep(60) end",
      expect "\r\nwaits", send(CTRL_C), expect "closed", expect "interrupted",
      line "t:done(), peri.current_task():cancelling()", expect "\r\nfalse\t0",
      line "m = n or 0 repeat peri.sleep(0.01) until (n or 0) > m return 'runs'", expect "\r\nruns",
    }
  end)

  it("cancels what a run of the line's own runs", function()
    session {
      perilune,
      line "peri.run(function() print 'waits' peri.sleep(60) end)", expect "\r\nwaits", send(CTRL_C),
      expect "interrupted", line "peri.run(peri.sleep, 0.001, 'runs')", expect "\r\nruns",
    }
  end)

  it("can be answered by the line", function()
    session {
      perilune, line "print 'waits' return pcall(peri.sleep, 60)", expect "\r\nwaits", send(CTRL_C),
      expect "false\tCancelledError", line "peri.sleep(0.001, 'goes on')", expect "\r\ngoes on",
    }
  end)

  it("the second time ends a line that swallows the first", function()
    session {
      perilune,
      line "print 'waits' while true do pcall(peri.sleep, 60) print 'caught' end", expect "\r\nwaits",
      send(CTRL_C), expect "caught", send(CTRL_C), expect "interrupted",
      line "peri.sleep(0.001, 'goes on')", expect "\r\ngoes on",
    }
  end)

  it_interrupts("ends a line that runs and runs", function()
    session {
      perilune,
      line "print 'runs' while true do pcall(string.rep, 'x', 3) end", expect "\r\nruns", send(CTRL_C),
      expect "interrupted", line "peri.sleep(0.001, 'goes on')", expect "\r\ngoes on",
      -- and again: the first time has left nothing behind
      line "print 'runs' while true do end", expect "\r\nruns", send(CTRL_C), expect "interrupted",
      line "print 'waits' peri.sleep(60)", expect "\r\nwaits", send(CTRL_C), expect "interrupted",
      line "'goes on'", expect "\r\ngoes on",
    }
  end)

  it_interrupts("ends a background task, or a callback, that runs and runs", function()
    session {
      perilune,
      line "t = peri.create_task(function() peri.sleep(0) print('b' .. 'usy') while true do end end)",
      expect "busy", send(CTRL_C), expect "a task was ended by an interrupt",
      line "t:cancelled()", expect "\r\ntrue",
      line "h = peri.get_running_loop():call_soon(function() print('b' .. 'usy') while true do end end)",
      expect "busy", send(CTRL_C), expect "a call_soon callback was ended by an interrupt",
      line "peri.sleep(0.001, 'goes on')", expect "\r\ngoes on",
    }
  end)

  it_interrupts("ends a program that nothing else ends", function()
    -- No hook reaches a pattern match; this one would take minutes.
    run {
      line "k = io.popen 'while kill -INT $PPID 2>/dev/null; do sleep 0.1; done'; ('a'):rep(3e3):find '.-.-.-.-b'",
      exit(130),
    }
  end)
end)

describe("Tab", function()
  it("completes globals, keywords, fields and methods", function()
    session {
      perilune, line "s = 'text'", line("ret" .. TAB .. " s:up" .. TAB .. "()"), expect "\r\nTEXT",
      line("stri" .. TAB .. ".form" .. TAB .. "('%03d', 7)"), expect "\r\n007",
      line("'a'..io.ty" .. TAB .. "(io.stdin)"), expect "\r\nafile",
      line("peri.TaskG" .. TAB .. " ~= nil, peri.get_running_loop().time ~= nil"), expect "\r\ntrue\ttrue",
      line "loop = peri.get_running_loop()", line("loop:is_ru" .. TAB .. "()"), expect "\r\ntrue",
    }
  end)

  it("shows the names to choose from, and the line again", function()
    session {
      line("peri = require 'perilune' math.m" .. TAB),
      expect "max         maxinteger  min         mininteger  modf\r\n",
      expect "> peri = require 'perilune' math.m", send "ax(1, 5)\n", expect "syntax error",
    }
  end)

  it("calls nothing of the script's, and follows __index tables", function()
    session {
      line "trap = setmetatable({}, { __index = function() os.exit(1) end, __pairs = os.exit })",
      line("trap.x.y" .. TAB .. "\21trap:" .. TAB .. "\21'alive'"), expect "\r\nalive",
      line "base = { greet_all = function() return 'greeted' end, greet_no = 1 }",
      line "obj = setmetatable({}, { __index = setmetatable({}, { __index = base }) })",
      line("obj:greet" .. TAB .. "()"), expect "\r\ngreeted",
      line "loop = setmetatable({}, {}) getmetatable(loop).__index = loop",
      line("loop.a" .. TAB .. "\21'ends'"), expect "\r\nends",
    }
  end)

  it("indents where there is nothing to complete", function()
    session { line(TAB .. "'x'"), expect "\r\nx" }
  end)
end)

describe("the history", function()
  local function history() return support.directory() .. "/state/history" end
  local function contents(path)
    local file <close> = assert(io.open(path))
    return file:read "a"
  end

  it("brings lines back, in the next session too, those of several lines as one", function()
    local path = history()
    local env = "PERILUNE_HISTORY=" .. support.quote(path)
    session({
      line "'first'", line "for i = 1, 2 do", expect ">> ", send "print('n', i)\n", expect ">> ", send "end\n",
      expect "n\t2", line(UP .. UP), expect "\r\nfirst",
    }, env)
    assert.equal("'first'\nfor i = 1, 2 do\\nprint('n', i)\\nend\n'first'\n", contents(path))
    session({ line(UP .. UP), expect "\r\nn\t1\r\nn\t2" }, env)
  end)

  it("is for its owner alone, and lies where XDG says", function()
    local home = support.directory()
    session({ line "'x\\\\y'" }, "XDG_STATE_HOME= HOME=" .. support.quote(home))
    local path = home .. "/.local/state/perilune/history"
    assert.equal("'x\\\\\\\\y'\n", contents(path))
    assert.equal("600\n", (support.shell("stat -c %a " .. support.quote(path))))
    session({ line "'x'" }, ("XDG_STATE_HOME=%s"):format(support.quote(home .. "/s")))
    assert.equal("'x'\n", contents(home .. "/s/perilune/history"))
  end)

  it("keeps neither blank lines nor repetitions, and is cut when it has grown long", function()
    local path = history()
    local env = "PERILUNE_HISTORY=" .. support.quote(path)
    session({ line "", line "  ", line "1", line "1", line "2" }, env)
    assert.equal("1\n2\n", contents(path))
    local file = assert(io.open(path, "w"))
    for i = 1, 2001 do file:write("n = ", i, "\n") end
    file:close()
    session({ line "3" }, env)
    local text = contents(path)
    assert.equal("n = 1002\n", text:match "^[^\n]*\n")
    assert.equal(1001, select(2, text:gsub("\n", "")))
  end)

  it("that cannot be written is told once", function()
    local out = session({ line "1", line "2" }, "PERILUNE_HISTORY=/dev/null/history")
    assert.equal(1, select(2, out:gsub("cannot write the history to /dev/null/history", "")))
  end)
end)

describe("the terminal", function()
  it("gets its modes back when a signal ends the program", function()
    for _, number in ipairs { SIGTERM, SIGHUP } do
      run { prompt, pty.raw, send "half", expect "half", pty.signal(number), exit(128 + number) }
    end
  end)

  it("gets its modes back on Ctrl-Z, and the line comes again", function()
    session {
      prompt, pty.raw, send "'typed'", expect "'typed'", send "\26", pty.stopped "original", pty.resume,
      expect "> 'typed'", pty.raw, send "\n", expect "\r\ntyped",
    }
  end)

  it("can be stopped while a line waits, which goes on", function()
    session {
      perilune, line "f = peri.Future() peri.get_running_loop():add_signal_handler('SIGCONT', f.set_result, f, 'done')",
      line "print 'waits' return f:await()", expect "\r\nwaits", send "\26", pty.stopped "original",
      pty.resume, expect "done",
    }
  end)

  it("shows the line again after SIGSTOP and SIGCONT", function()
    session {
      prompt, pty.raw, send "'typed'", expect "'typed'", pty.signal(SIGSTOP), pty.stopped "raw", pty.resume,
      expect "> 'typed'", send "\n", expect "\r\ntyped",
    }
  end)

  it("leaves the script's signal handlers alone", function()
    session {
      perilune, line "peri.get_running_loop():add_signal_handler('SIGCONT', print, 'continued')",
      line "'next'", expect "\r\nnext", prompt, pty.raw, send "\26", pty.stopped "original", pty.resume,
      expect "continued\r\n", send "'typed'\n", expect "\r\ntyped",
    }
  end)

  it("may change its size while a line is typed", function()
    session {
      prompt, pty.raw, send(("x"):rep(30)), expect(("x"):rep(30)), pty.size(24, 20), expect "xx",
      send "\21'small'\n", expect "\r\nsmall",
    }
  end)

  it("has its modes while a line runs", function()
    session { line "print 'runs' io.read()", expect "\r\nruns", pty.original, send "\n" }
  end)
end)

describe("without libedit", function()
  local plain <const> = "PERILUNE_LIBEDIT="
  local function plain_line(text)
    return { prompt, send(text .. "\n") }
  end
  local function plain_session(steps, env)
    return run({ steps, prompt, send(CTRL_D), exit(0) }, env or plain)
  end

  it("lines are read plainly, while other tasks run", function()
    plain_session {
      plain_line "1 + 1", expect "\r\n2", plain_line "for i = 1, 2 do", expect "\r\n>> ", send "print(i)\n",
      expect "\r\n>> ", send "end\n", expect "\r\n1\r\n2",
      plain_line 'peri = require "perilune"',
      plain_line "t = peri.get_running_loop():call_later(0.05, print, 'tick')", prompt, expect "tick\r\n> ",
      send "'typed'\n", expect "\r\ntyped",
    }
  end)

  it("Ctrl-C and Ctrl-D mean the same", function()
    plain_session {
      prompt, send "os.exit(1)", expect "os.exit(1)", send(CTRL_C), plain_line "for i = 1,", expect ">> ",
      send(CTRL_D), expect "near <eof>",
      plain_line "print 'waits' require'perilune'.sleep(60)", expect "\r\nwaits", send(CTRL_C), expect "interrupted",
    }
  end)

  it("it is so too where the library is not there, or the terminal is dumb", function()
    plain_session({ plain_line "1 + 1", expect "\r\n2" }, "PERILUNE_LIBEDIT=no-such-library.so")
    plain_session({ plain_line "1 + 1", expect "\r\n2" }, "TERM=dumb")
  end)
end)

describe("-i", function()
  it("enters a session after the script, -e and -l", function()
    local path = support.file "x = ... require('perilune').sleep(0) print 'script'"
    session({ expect "script", line "x, y", expect "\r\narg\t2" }, nil, { "-e", "y = 2", "-i", path, "arg" })
    session({ line "type(p)", expect "\r\ntable" }, nil, { "-i", "-l", "p=perilune" })
  end)

  it("enters none after a script that fails", function()
    run({ expect "oops", exit(1) }, nil, { "-i", support.file "error 'oops'" })
    run({ expect "unexpected symbol", exit(1) }, nil, { "-i", support.file "= 1" })
  end)

  it("reads lines from what is no terminal, as lua does", function()
    local program = "x = 1 +\n2\n= x\n\nerror 'oops'\n" ..
      "local peri = require 'perilune' return peri.sleep(0.001, 'slept')\nio.read()\nthe answer\n'last'"
    local out, err, status = support.run_program({ "-i" }, program)
    assert.matches("^Perilune [^\n]*\n> >> > 3\n> > > slept\n> the answer\n> last\n> \n$", out)
    assert.equal("stdin:1: oops\nstack traceback:\n\t[C]: in function 'error'\n\tstdin:1: in main chunk\n", err)
    assert.equal(0, status)
  end)

  it("reads a pipe without keeping the other tasks from running", function()
    local path, wait = support.go()
    local out, _, status = support.shell(
      ("{ echo 'peri = require \"perilune\"'; "
        .. "echo 't = peri.spawn(function() print \"background\" io.open(\"%s\", \"w\"):close() end)'; "
        .. "%s; [ $n -le 3000 ] && echo 'os.exit(5)'; } | %s -i"):format(path, wait, support.quote(support.program)))
    assert.matches("background\n$", out)
    assert.equal(5, status)
  end)
end)
