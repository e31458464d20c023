local peri = require "perilune"
local stdio = require "perilune.stdio"
local support = require "support"
local pty = require "support.pty"

-- Runs code as a script, with shell text around the command. In that the word
-- WAIT stands for waiting until the script calls go().
local function script(code, before, after, input)
  local path, wait = support.go()
  before, after = (before or ""):gsub("WAIT", wait), (after or ""):gsub("WAIT", wait)
  local command = ("%s %s %s %s"):format(before, support.quote(support.program),
    support.quote(support.file(([[
      local peri = require "perilune"
      local stdio = require "perilune.stdio"
      local function go() io.open("%s", "w"):close() end
    ]]):format(path) .. code)), after)
  return support.shell("PATH=$PATH; " .. command, input)
end

describe("perilune.stdio", function()
  it("reads a file to its end", function()
    local out, err, status = script([[
      for line in stdio.stdin:lines() do print("[" .. line .. "]") end
      print(stdio.stdin:at_eof(), stdio.stdin:readline(), stdio.stdin:read())
    ]], nil, nil, "one\ntwo\nthree")
    assert.equal("", err)
    assert.equal("[one]\n[two]\n[three]\ntrue\tnil\t\n", out)
    assert.equal(0, status)
  end)

  it("reads a large file whole, also in pieces", function()
    local text = {}
    for i = 1, 40000 do text[i] = ("line %d\n"):format(i) end
    text = table.concat(text)
    local out, err = script([[
      local first = stdio.stdin:readline()
      local some = stdio.stdin:readexactly(100000)
      peri.sleep(0.01)
      local part = stdio.stdin:read(10)
      local rest = stdio.stdin:read()
      io.write(first, some, part, rest)
    ]], nil, nil, text)
    assert.equal("", err)
    assert.is_true(out == text)
  end)

  it("reads a pipe, others running meanwhile", function()
    local out, err = script([[
      print(stdio.stdin:readline() == "a\n")
      peri.create_task(function()
        for _ = 1, 3 do peri.sleep(0.005) end
        go()
      end)
      print(stdio.stdin:readline() == "b\n", stdio.stdin:readline())
    ]], "{ echo a; WAIT; [ $n -le 3000 ] && echo b; } |")
    assert.equal("", err)
    assert.equal("true\ntrue\tnil\n", out)
  end)

  it("reads /dev/null, which stands for a closed descriptor, too", function()
    assert.equal("nil\n", (script("print(stdio.stdin:readline())", nil, "</dev/null")))
    assert.equal("nil\n", (script("print(stdio.stdin:readline())", nil, "<&-")))
    local out, err, status = script("stdio.stdout:write 'x'", nil, ">&-")
    assert.equal("", out .. err)
    assert.equal(0, status)
  end)

  it("keeps its order with print and io.write, in files and in pipes", function()
    local code = [[
      io.write "1 "
      stdio.stdout:write "2 "
      print "3"
      stdio.stdout:write("4 ", 5, " ")
      io.write "6 "
      stdio.stdout:write "7\n"
      stdio.stderr:write "E\n"
    ]]
    local path = support.file ""
    local out, err = script(code)
    assert.equal("1 2 3\n4 5 6 7\n", out)
    assert.equal("E\n", err)
    script(code, nil, (">'%s'"):format(path))
    local file <close> = io.open(path)
    assert.equal("1 2 3\n4 5 6 7\n", file:read "a")
  end)

  it("waits for a slow reader and loses nothing; print waits for what is queued", function()
    local out, err = script([[
      local block = ("x"):rep(1 << 20)
      stdio.stdout:write(block)
      assert(stdio.stdout:get_write_buffer_size() > 0)
      go()
      print "after"
      assert(stdio.stdout:get_write_buffer_size() == 0)
      stdio.stdout:write(block)
      stdio.stdout:drain()
      stdio.stdout:write "end\n"
    ]], nil, "| { WAIT; cat; } | tr -s x")
    assert.equal("", err)
    assert.equal("xafter\nxend\n", out)
  end)

  it("lets others run while a reader is slow", function()
    local out, err = script([[
      local other = peri.create_task(function()
        for _ = 1, 3 do peri.sleep(0.005) end
        io.stderr:write "others ran"
        go()
      end)
      stdio.stdout:write(("x"):rep(1 << 20))
      stdio.stdout:drain()
      io.stderr:write(other:done() and ", then it drained" or ", not yet")
    ]], nil, "| { WAIT; wc -c; }")
    assert.equal("others ran, then it drained", err)
    assert.equal("1048576\n", out)
  end)

  it("leaves the descriptors blocking for whoever shares them", function()
    local out = script([[
      stdio.stdin:read(1)
      stdio.stdout:write "x"
      print(require "perilune.subprocess".run("grep flags /proc/self/fdinfo/0 /proc/self/fdinfo/1",
        { shell = true, capture = false }).returncode)
    ]], "{ echo abc; sleep 0.1; } |", "| cat")
    local flags = {}
    for octal in out:gmatch "flags:%s*(%d+)" do flags[#flags + 1] = tonumber(octal, 8) & 2048 end
    assert.same({ 0, 0 }, flags)
  end)

  it("says that the reader has gone, or the disk is full", function()
    local _, err = script([[
      local ok, err
      for _ = 1, 3000 do
        ok, err = pcall(stdio.stdout.write, stdio.stdout, "x")
        if not ok then break end
        peri.sleep(0.01)
      end
      io.stderr:write(err.code, " ", err.path)
    ]], nil, "| true")
    assert.equal("EPIPE stdout", err)
    _, err = script([[
      local ok, err = pcall(stdio.stdout.write, stdio.stdout, "x")
      io.stderr:write(err.code)
    ]], nil, ">/dev/full")
    assert.equal("ENOSPC", err)
  end)

  it("ends a program that nobody can wake", function()
    local _, err, status = script([[
      stdio.stdout:write "x"
      peri.Future():await()
    ]])
    assert.is_truthy(err:find "DeadlockError")
    assert.equal(1, status)
  end)

  it("gives up a drain that is cancelled, or late, and loses nothing", function()
    local out, err = script([[
      stdio.stdout:write(("x"):rep(4000000))
      local task = peri.create_task(stdio.stdout.drain, stdio.stdout)
      for _ = 1, 3 do peri.sleep(0) end
      task:cancel()
      io.stderr:write(tostring(peri.iscancel(select(2, pcall(task.await, task)))))
      local ok, err = pcall(stdio.stdout.drain, stdio.stdout, { timeout = 0.01 })
      io.stderr:write(" ", tostring(peri.TimeoutError:is(err)))
      go()
      stdio.stdout:write "end"
      stdio.stdout:drain()
    ]], nil, "| { WAIT; wc -c; }")
    assert.equal("true true", err)
    assert.equal(4000003, tonumber(out))
  end)

  it("gives up a read that is cancelled, and loses nothing", function()
    local out, err = script([[
      local ok, err = pcall(stdio.stdin.readline, stdio.stdin, { timeout = 0.02 })
      print(ok, peri.TimeoutError:is(err))
      go()
      print(stdio.stdin:readline())
    ]], "{ printf hal; WAIT; echo f; } |")
    assert.equal("", err)
    assert.equal("false\ttrue\nhalf\n\n", out)
  end)

  it("knows terminals", function()
    assert.is_false(stdio.isatty(support.program and 1000))
    support.raises(peri.ValueError, "bad argument #1 to 'isatty' (\"x\" is none of stdin, stdout, stderr)",
      stdio.isatty, "x")
    local out = script([[
      print(stdio.isatty "stdin", stdio.isatty(stdio.stdout), stdio.isatty(2))
      print(pcall(stdio.get_terminal_size, "stdin"))
      print(select(2, pcall(stdio.get_terminal_size)).code)
      local ok, err = pcall(stdio.raw)
      print(err.code, err.path)
    ]])
    assert.equal("false\tfalse\tfalse\nfalse\tOSError: ioctl: inappropriate ioctl for device\n"
      .. "ENOTTY\nENOTTY\tstdin\n", out)
  end)
end)

describe("a program on a terminal", function()
  local function run(code, steps)
    return pty.run({ support.file([[
      local peri = require "perilune"
      local stdio = require "perilune.stdio"
    ]] .. code) }, steps)
  end

  it("reads lines and writes, in order with print", function()
    run([[
      print(stdio.isatty "stdin", stdio.isatty(stdio.stdout))
      stdio.stdout:write "name? "
      local line = stdio.stdin:readline()
      print "hello"
      stdio.stdout:write(line)
      print "bye"
    ]], {
      pty.expect "true\ttrue\r\nname? ", pty.send "joe\n",
      pty.expect "joe\r\nhello\r\njoe\r\nbye\r\n", pty.exit(0),
    })
  end)

  it("knows the size, and of its changes", function()
    run([[
      local signal = require "perilune.signal"
      local signals <close> = signal.stream "SIGWINCH"
      print(stdio.get_terminal_size())
      signals:get()
      print(stdio.get_terminal_size "stdin")
    ]], { pty.expect "80\t24\r\n", pty.size(50, 132), pty.expect "132\t50\r\n", pty.exit(0) })
  end)

  it("reads keys in raw mode, and is as before after it", function()
    run([[
      do
        local _ <close> = stdio.raw()
        print "ready"
        print(("%q"):format(stdio.stdin:read(1)), ("%q"):format(stdio.stdin:read(1)))
      end
      print "over"
      print(stdio.stdin:readline())
    ]], {
      pty.expect "ready\r\n", pty.raw, pty.send "a", pty.send "\3",
      pty.expect "\"a\"\t\"\\3\"\r\nover\r\n", pty.original, pty.send "line\n",
      pty.expect "line\r\nline\r\n", pty.exit(0),
    })
  end)

  it("may leave Ctrl-C a signal", function()
    run([[
      local _ <close> = stdio.raw { signals = true }
      print "ready"
      peri.sleep(30)
    ]], { pty.expect "ready\r\n", pty.raw, pty.send "\3", pty.exit(130) })
  end)

  it("restores the modes after nested scopes, in any order", function()
    run([[
      local one = stdio.raw()
      local two = stdio.raw()
      one:restore()
      one:restore()
      print "one"
      stdio.stdin:read(1)
      two:restore()
      print "two"
      stdio.stdin:readline()
    ]], {
      pty.expect "one\r\n", pty.raw, pty.send "x", pty.expect "two\r\n", pty.original,
      pty.send "\n", pty.exit(0),
    })
  end)

  for how, ending in pairs {
    ["an error"] = { "error 'out'", nil, 1 },
    ["os.exit"] = { "os.exit(3)", nil, 3 },
    ["its end"] = { "_G.kept = scope", nil, 0 },
    ["SIGINT"] = { "peri.sleep(30)", 2, 130 },
    ["SIGTERM"] = { "peri.sleep(30)", 15, 128 + 15 },
    ["SIGTERM in a loop"] = { "while true do end", 15, 128 + 15 },
  } do
    local test = (how ~= "SIGTERM in a loop" or support.signals_interrupt) and it or pending
    test("restores the modes when it ends by " .. how, function()
      local code = [[
        local scope = stdio.raw()
        print "ready"
        stdio.stdin:read(1)
        print "go"
      ]] .. ending[1]
      local steps = { pty.expect "ready\r\n", pty.raw, pty.send "x", pty.expect "go\r\n" }
      if ending[2] then steps[#steps + 1] = pty.signal(ending[2]) end
      steps[#steps + 1] = pty.exit(ending[3])
      run(code, steps)
    end)
  end
end)
