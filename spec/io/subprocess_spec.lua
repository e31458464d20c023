local lfs = require "lfs"
local peri = require "perilune"
local subprocess = require "perilune.subprocess"
local native = require "perilune._process"
local support = require "support"

local exec, shell, run =
  subprocess.create_subprocess_exec, subprocess.create_subprocess_shell, subprocess.run
local PIPE, DEVNULL, STDOUT = subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT

-- The OSError that fn raises.
local function fails(code, path, fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_true(peri.OSError:is(err), tostring(err))
  assert.equal(code, err.code)
  assert.equal(path, err.path)
  return err
end

local function is_running(pid)
  return lfs.attributes(("/proc/%d"):format(pid)) ~= nil
end

local function state_of(pid)
  local file = io.open(("/proc/%d/stat"):format(pid))
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return text:match "%) (%a)"
end

-- Waits, by the real clock, until the condition holds.
local function eventually(condition)
  for _ = 1, 2000 do
    if condition() then return end
    exec("sleep", "0.01"):wait()
  end
  error("it has not come true within 20 seconds", 2)
end

-- A process that says that it stands, and then what happens to it.
local function stubborn(options)
  options.stdout = PIPE
  local process = shell("trap 'echo TERM' TERM; echo up; while :; do sleep 0.02; done", options)
  assert.equal("up\n", process.stdout:readline())
  return process
end

for _, watch in ipairs { "pidfd", "thread" } do
  describe("perilune.subprocess, its children watched by " .. watch, function()
    setup(function() native.watch = watch == "thread" and "thread" or nil end)
    teardown(function() native.watch = nil end)

    it("returns the exit code, or minus the signal's number", function()
      assert.equal(0, exec("true"):wait())
      assert.equal(7, exec("sh", "-c", "exit 7"):wait())
      assert.equal(-9, exec("sh", "-c", "kill -9 $$"):wait())
      assert.equal(3, shell("exit 3"):wait())
    end)

    it("knows no return code before the end", function()
      local process <close> = exec("sleep", "30")
      assert.is_nil(process.returncode)
      assert.equal(("<Process %d>"):format(process.pid), tostring(process))
      process:kill()
      assert.equal(-9, process:wait())
      assert.equal(-9, process.returncode)
      assert.equal(("<Process %d, returncode -9>"):format(process.pid), tostring(process))
    end)

    it("lets any number of tasks wait for one process", function()
      local process = shell("read x; exit 5", { stdin = PIPE })
      local waits = {}
      for i = 1, 3 do waits[i] = peri.create_task(process.wait, process) end
      peri.sleep(0)
      process.stdin:close()
      for i = 1, 3 do assert.equal(5, waits[i]:await()) end
      assert.equal(5, process:wait())
    end)

    it("gives up a wait in time; the process runs on", function()
      local process <close> = exec("sleep", "30")
      support.raises(peri.TimeoutError, "", process.wait, process, { timeout = 0.01 })
      assert.is_nil(process.returncode)
    end)

    it("leaves no zombie when the wait is cancelled", function()
      local process = exec("cat", { stdin = PIPE })
      local task = peri.create_task(process.wait, process)
      peri.sleep(0)
      task:cancel()
      assert.is_false(pcall(task.await, task))
      process.stdin:close()
      eventually(function() return not is_running(process.pid) end)
      assert.equal(0, process.returncode)
    end)

    it("reaps a process whose object was collected", function()
      local pid
      do
        local process = shell("exit 0")
        pid = process.pid
      end
      support.collect()
      eventually(function() return not is_running(pid) end)
    end)

    it("runs hundreds of short children, each once", function()
      local sum = 0
      peri.map(function(i)
        local code = shell("exit " .. i % 100):wait()
        sum = sum + code
      end, (function() local list = {} for i = 1, 300 do list[i] = i end return list end)(), { limit = 20 })
      assert.equal(3 * 4950, sum)
    end)

    it("takes signals by name and by number, and none after the end", function()
      local process = exec("sleep", "30")
      process:send_signal "SIGINT"
      assert.equal(-2, process:wait())
      process:send_signal(15)
      process:terminate()
      process:kill()
      process = exec("sleep", "30")
      process:send_signal(1)
      process:terminate()
      process:kill()
      assert.equal(-1, process:wait())
      support.raises(peri.ValueError, "bad argument #1 to 'Process.send_signal' (\"SIGFOO\" is no signal)",
        process.send_signal, process, "SIGFOO")
      -- Not cut down to a number that is one.
      for _, number in ipairs { -1, 65, 1 << 32 | 9, math.mininteger } do
        support.raises(peri.ValueError, ("bad argument #1 to 'Process.send_signal' (%d is no signal)")
          :format(number), process.send_signal, process, number)
      end
    end)

    it("kills a child that ignores SIGTERM after its grace", function()
      local pid, out
      do
        local process <close> = stubborn { grace = 0.05 }
        pid, out = process.pid, process
      end
      assert.equal(-9, out.returncode)
      assert.is_false(is_running(pid))
      assert.is_true(out.stdout:is_closing())
    end)

    it("ends a process with its block, in an error and in a cancellation", function()
      local pid
      local ok = pcall(function()
        local process <close> = exec("sleep", "30")
        pid = process.pid
        error "out"
      end)
      assert.is_false(ok)
      assert.is_false(is_running(pid))
      local task = peri.create_task(function()
        local process <close> = exec("sleep", "30")
        pid = process.pid
        process:wait()
      end)
      peri.sleep(0)
      task:cancel()
      assert.is_false(pcall(task.await, task))
      assert.is_true(task:cancelled())
      assert.is_false(is_running(pid))
    end)

    it("kills at once where the end of the block is cancelled, too", function()
      local process
      local task = peri.create_task(function()
        process = stubborn { grace = 60 }
        local _ <close> = process
      end)
      eventually(function() return process ~= nil end)
      assert.is_false(task:done())
      task:cancel()
      assert.is_false(pcall(task.await, task))
      assert.is_true(task:cancelled())
      assert.equal(-9, process.returncode)
    end)

    it("kills a process whose task is killed", function()
      local process
      local task = peri.create_task(function()
        process = exec("sleep", "30")
        local _ <close> = process
        process:wait()
      end)
      peri.sleep(0)
      task:kill()
      pcall(task.await, task)
      eventually(function() return not is_running(process.pid) end)
    end)

    it("counts as something that can still happen", function()
      local out, err, status = support.run_code [[
        local subprocess = require "perilune.subprocess"
        print(subprocess.create_subprocess_shell("sleep 0.05; exit 4"):wait())
      ]]
      assert.equal("4\n", out)
      assert.equal("", err)
      assert.equal(0, status)
    end)
  end)
end

describe("perilune.subprocess", function()
  it("communicates: input, output, errors", function()
    local process = shell("cat; echo err >&2; exit 2", { stdin = PIPE, stdout = PIPE, stderr = PIPE })
    local out, err = process:communicate "in"
    assert.equal("in", out)
    assert.equal("err\n", err)
    assert.equal(2, process.returncode)
    assert.same({ "", "" }, { process:communicate() }) -- as in CPython: it has been told
  end)

  it("returns nil for what is no pipe", function()
    assert.same({ n = 2, nil, nil }, table.pack(exec("true"):communicate()))
    assert.same({ n = 2, "x\n", nil }, table.pack(exec("echo", "x", { stdout = PIPE }):communicate()))
    assert.same({ n = 2, nil, "x\n" }, table.pack(shell("echo x >&2", { stderr = PIPE }):communicate()))
  end)

  it("carries megabytes both ways without getting stuck", function()
    local data = ("0123456789abcdef"):rep(1 << 17)
    local process = shell("tee /dev/stderr", { stdin = PIPE, stdout = PIPE, stderr = PIPE })
    local out, err = process:communicate(data)
    assert.equal(#data, #out)
    assert.is_true(out == data and err == data)
  end)

  it("does not mind a process that does not want its input", function()
    local process = exec("true", { stdin = PIPE })
    process:communicate(("x"):rep(1 << 20))
    assert.equal(0, process.returncode)
  end)

  it("goes on with a communication that was late", function()
    local process = shell("echo one; head -c 1 >/dev/null; echo two", { stdin = PIPE, stdout = PIPE })
    local stdin = process.stdin
    process._fed = true -- not closed by communicate yet
    support.raises(peri.TimeoutError, "", process.communicate, process, { timeout = 0.05 })
    stdin:write "x"
    assert.equal("one\ntwo\n", process:communicate())
  end)

  it("refuses input without a pipe for it", function()
    local process = exec "true"
    support.raises(peri.ValueError, "Process.communicate: there is input, but stdin is no pipe",
      process.communicate, process, "x")
    process:wait()
  end)

  it("writes and reads in turn", function()
    local process = exec("cat", { stdin = PIPE, stdout = PIPE })
    process.stdin:write "ping\n"
    assert.equal("ping\n", process.stdout:readline())
    process.stdin:close()
    assert.equal("", process.stdout:read())
    assert.equal(0, process:wait())
    process.stdout:close()
  end)

  it("limits the lines of its streams", function()
    local process <close> = shell("printf 0123456789", { stdout = PIPE, limit = 4 })
    local ok, err = pcall(process.stdout.readline, process.stdout)
    assert.is_false(ok)
    assert.is_true(peri.LimitOverrunError:is(err) or peri.ValueError:is(err), tostring(err))
  end)

  it("sends stderr where stdout goes, and either to /dev/null", function()
    local process = shell("echo out; echo err >&2", { stdout = PIPE, stderr = STDOUT })
    assert.equal("out\nerr\n", process:communicate())
    process = shell("echo out; echo err >&2", { stdout = DEVNULL, stderr = PIPE })
    assert.same({ n = 2, nil, "err\n" }, table.pack(process:communicate()))
    assert.equal("", run("cat", { stdin = DEVNULL, stdout = PIPE }).stdout)
  end)

  it("takes files, descriptors and streams", function()
    local path = support.file "some text"
    local file <close> = io.open(path)
    assert.equal("some text", run("cat", { stdin = file, stdout = PIPE }).stdout)
    local out <close> = io.open(path, "w")
    out:write "before "
    run({ "echo", "x" }, { stdout = out })
    local reader, reader_fd, writer, writer_fd = support.pipe()
    run({ "echo", "through" }, { stdout = writer_fd })
    assert.is_true(reader_fd > 2)
    assert.equal("through", reader:read "l")
    reader:close()
    writer:close()
    local check <close> = io.open(path)
    assert.equal("before x\n", check:read "a")
    local first = shell("echo piped", { stdout = PIPE })
    local second = exec("cat", { stdin = first.stdout, stdout = PIPE })
    first.stdout:close()
    assert.equal("piped\n", second:communicate())
    assert.equal(0, first:wait())
  end)

  it("refuses a stream which has read ahead, or is closed", function()
    local process = shell("printf 'one\\ntwo\\n'", { stdout = PIPE })
    process.stdout:readline()
    assert.is_false((pcall(exec, "cat", { stdin = process.stdout })))
    process.stdout:close()
    fails("EBADF", nil, exec, "cat", { stdin = process.stdout })
    process:wait()
  end)

  it("crosses the standard descriptors", function()
    local out, err, status = support.run_code [[
      local subprocess = require "perilune.subprocess"
      -- 1 and 2 change places
      local code = subprocess.create_subprocess_shell("echo to-out; echo to-err >&2",
        { stdout = 2, stderr = 1 }):wait()
      os.exit(code)
    ]]
    assert.equal("to-err\n", out)
    assert.equal("to-out\n", err)
    assert.equal(0, status)
  end)

  it("inherits, or replaces, the environment", function()
    local result = run("env", { capture = true, env = { A = "1", B = 2, PATH = os.getenv "PATH" } })
    local lines = {}
    for line in result.stdout:gmatch "[^\n]+" do lines[#lines + 1] = line end
    table.sort(lines)
    assert.same({ "A=1", "B=2", "PATH=" .. os.getenv "PATH" }, lines)
    assert.equal(os.getenv "PATH" .. "\n", run("echo $PATH", { shell = true, capture = true }).stdout)
    support.raises(peri.ValueError,
      "bad argument #2 to 'create_subprocess_exec' (env: \"A=B\" is no name of a variable)",
      exec, "true", { env = { ["A=B"] = "x" } })
  end)

  it("looks for programs in the PATH that the child gets", function()
    local directory = support.directory()
    local path = directory .. "/prog"
    local file <close> = io.open(path, "w")
    file:write "#!/bin/sh\necho found\n"
    file:close()
    fails("EACCES", "prog", exec, "prog", { env = { PATH = directory } })
    os.execute(("chmod +x '%s'"):format(path))
    local got = run("prog", { capture = true, env = { PATH = "/nowhere:" .. directory } })
    assert.equal("found\n", got.stdout)
    -- a directory of that name does not count
    lfs.mkdir(directory .. "/true")
    assert.equal(0, exec("true", { env = { PATH = directory .. ":/bin:/usr/bin" } }):wait())
    -- relative ones are the child's
    assert.equal("found\n", run("./prog", { capture = true, cwd = directory }).stdout)
    assert.equal("found\n", run("prog", { capture = true, cwd = directory, env = { PATH = "." } }).stdout)
  end)

  it("tells what cannot be run, at the call, and leaves nothing", function()
    fails("ENOENT", "/nonexistent/program", exec, "/nonexistent/program")
    fails("ENOENT", "no-such-program", exec, "no-such-program", { env = { PATH = "/usr/bin:/bin" } })
    fails("ENOENT", "", exec, "")
    fails("EACCES", "/tmp", exec, "/tmp", { stdin = PIPE, stdout = PIPE, stderr = PIPE })
    fails("ENOENT", "/nonexistent", exec, "true", { cwd = "/nonexistent" })
    fails("ENOTDIR", "/etc/passwd", exec, "true", { cwd = "/etc/passwd" })
    local path = support.file "garbage"
    os.execute(("chmod +x '%s'"):format(path))
    fails("ENOEXEC", path, exec, path)
  end)

  it("says which arguments are wrong", function()
    support.raises(peri.TypeError, "bad argument #1 to 'create_subprocess_exec' (string expected, got nil)", exec)
    support.raises(peri.TypeError, "bad argument #3 to 'create_subprocess_exec' (string expected, got boolean)",
      exec, "echo", 1, true, {})
    support.raises(peri.ValueError, "bad argument #2 to 'create_subprocess_exec' (unknown option \"stdn\")",
      exec, "echo", { stdn = PIPE })
    support.raises(peri.ValueError, "an argument with a zero byte inside", exec, "echo", "a\0b")
    support.raises(peri.ValueError, "cwd has a zero byte inside", exec, "echo", { cwd = "a\0b" })
    support.raises(peri.ValueError, "bad argument #2 to 'create_subprocess_exec' (stdin: -2 is no descriptor)",
      exec, "echo", { stdin = STDOUT })
    for _, which in ipairs { "stdin", "stdout", "pass_fds" } do -- not cut down to one that is
      for _, fd in ipairs { 1 << 32, math.maxinteger } do
        support.raises(peri.ValueError, ("bad argument #2 to 'create_subprocess_exec' "
          .. "(%s: %d is no descriptor)"):format(which, fd),
          exec, "true", { [which] = which == "pass_fds" and { fd } or fd })
      end
    end
    support.raises(peri.TypeError, "bad argument #2 to 'create_subprocess_exec' "
      .. "(stdout: PIPE, DEVNULL, descriptor, open file or stream expected, got string)",
      exec, "echo", { stdout = "file" })
    support.raises(peri.ValueError, "bad argument #2 to 'create_subprocess_exec' "
      .. "(a new session has its own process group)",
      exec, "echo", { process_group = 0, start_new_session = true })
    support.raises(peri.ValueError, "bad argument #2 to 'create_subprocess_exec' (umask: 512 is none)",
      exec, "echo", { umask = 512 })
    support.raises(peri.TypeError, "bad argument #2 to 'create_subprocess_exec' (pass_fds: list expected, got number)",
      exec, "echo", { pass_fds = 5 })
    support.raises(peri.TypeError, "bad argument #2 to 'create_subprocess_exec' "
      .. "(pass_fds: descriptors, open files or streams expected, got string)",
      exec, "echo", { pass_fds = { "5" } })
    support.raises(peri.TypeError, "bad argument #2 to 'create_subprocess_exec' (integer expected, got string)",
      exec, "echo", { extra_groups = { "audio" } })
    fails("EBADF", "true", exec, "true", { stdout = 1000 })
  end)

  it("passes no descriptor on but the three", function()
    local file <close> = io.open(support.file "x") -- without O_CLOEXEC
    local listed = run("ls /proc/self/fd", { shell = true, capture = true }).stdout
    assert.equal("0\n1\n2\n3\n", listed) -- 3: what ls reads
    assert.is_truthy(file)
  end)

  -- Both ways to start a program: posix_spawn, and fork (for a umask).
  for way, umask in pairs { spawned = false, forked = 18 } do
    it("passes on the descriptors it is told to, and no others: " .. way, function()
      local reader, _, writer, fd = support.pipe()
      local file <close> = io.open(support.file "x")
      local process = shell(("ls /proc/self/fd; echo told >/proc/self/fd/%d"):format(fd),
        { pass_fds = { writer, fd, 1 }, stdout = PIPE, umask = umask or nil })
      local listed = {}
      for number in process:communicate():gmatch "%d+" do listed[number] = true end
      assert.equal(0, process:wait())
      assert.equal("told", reader:read())
      assert.is_true(listed[tostring(fd)] and listed["2"])
      assert.is_true(subprocess.run({ "test", "!", "-e", ("/proc/self/fd/%d"):format(fd) }).returncode == 0)
      local count = 0
      for _ in pairs(listed) do count = count + 1 end
      assert.equal(5, count) -- those three, the pipe, and what ls reads
      assert.is_truthy(file)
      reader:close()
      writer:close()
      local err = fails("EBADF", "true", exec, "true", { pass_fds = { 1000 }, umask = umask or nil })
      assert.equal("fcntl", err.syscall)
    end)

    it("starts a process group, and joins one: " .. way, function()
      local function start(group)
        local process = shell("cut -d' ' -f5 /proc/self/stat; read line",
          { process_group = group, stdin = PIPE, stdout = PIPE, umask = umask or nil })
        return process, tonumber(process.stdout:readline())
      end
      local leader <close>, group = start(0)
      assert.equal(leader.pid, group)
      local member <close>, same = start(leader.pid)
      assert.is_true(member.pid ~= group and same == group)
      fails("EPERM", "true", exec, "true", { process_group = 1, umask = umask or nil })
    end)
  end

  it("has a umask of the child's own", function()
    local got = run("umask", { shell = true, capture = true, umask = 7 })
    assert.equal(7, tonumber(got.stdout, 8))
    assert.is_true(run("umask", { shell = true, capture = true }).stdout ~= got.stdout)
  end)

  it("gives the child groups where it may, else says why not", function()
    if run("id -u", { shell = true, capture = true }).stdout ~= "0\n" then
      local err = fails("EPERM", "true", exec, "true", { extra_groups = { 1 } })
      assert.equal("setgroups", err.syscall)
      return
    end
    local got = run("id -u; id -G", { shell = true, capture = true, gid = 5, extra_groups = { 6, 7 } })
    assert.equal("0\n5 6 7\n", got.stdout)
  end)

  it("starts a session of its own when asked", function()
    local function session(options)
      options.stdout = PIPE
      local process = shell("cut -d' ' -f6 /proc/self/stat; echo $$", options)
      local sid, pid = process:communicate():match "(%d+)\n(%d+)"
      return sid == pid
    end
    assert.is_false(session {})
    assert.is_true(session { start_new_session = true })
    assert.is_true(session { detached = true })
  end)

  it("lets a detached process live on", function()
    local process
    do
      local detached <close> = exec("sleep", "30", { detached = true })
      process = detached
    end
    assert.is_nil(process.returncode)
    process:kill()
    assert.equal(-9, process:wait())
  end)

  it("gives children signals with their default effect, none blocked", function()
    local status = run({ "cat", "/proc/self/status" }, { capture = true }).stdout
    assert.equal("0000000000000000", status:match "SigBlk:%s*(%x+)")
    local ignored = tonumber(status:match "SigIgn:%s*(%x+)", 16)
    assert.equal(0, ignored & 1 << 12) -- SIGPIPE
  end)

  it("runs as another user where it may, else says why not", function()
    local ours = run("id -u", { shell = true, capture = true }).stdout
    if ours ~= "0\n" then
      local err = fails("EPERM", "true", exec, "true", { uid = 0 })
      assert.equal("setuid", err.syscall)
      return
    end
    local got = run("id -u; id -g; id -G; pwd; exit 6",
      { shell = true, capture = true, uid = 65534, gid = 65534, cwd = "/" })
    assert.equal("65534\n65534\n65534\n/\n", got.stdout)
    assert.equal(6, got.returncode)
    fails("ENOENT", "/nonexistent", exec, "true", { uid = 65534, cwd = "/nonexistent" })
    fails("ENOENT", "/nonexistent/program", exec, "/nonexistent/program", { gid = 65534 })
  end)

  it("keeps to three descriptors and the signals where it forks, too", function()
    local id = tonumber(run("id -g", { shell = true, capture = true }).stdout)
    local file <close> = io.open(support.file "x")
    assert.is_truthy(file)
    local process = shell("ls /proc/self/fd; grep -E 'SigBlk|SigIgn' /proc/self/status; echo err >&2; cat",
      { gid = id, stdin = PIPE, stdout = PIPE, stderr = STDOUT, start_new_session = true })
    local out = process:communicate "input"
    assert.equal("0\n1\n2\n3\n", out:sub(1, 8))
    assert.equal("0000000000000000", out:match "SigBlk:%s*(%x+)")
    assert.equal(0, tonumber(out:match "SigIgn:%s*(%x+)", 16) & 1 << 12)
    assert.is_truthy(out:find("err\ninput", 1, true))
  end)

  it("runs a program in one call", function()
    local got = run({ "sh", "-c", "cat; echo e >&2; exit 3" }, { capture = true, input = "in" })
    assert.equal(3, got.returncode)
    assert.equal("in", got.stdout)
    assert.equal("e\n", got.stderr)
    local err = support.raises(subprocess.CalledProcessError,
      "command 'sh -c cat; echo e >&2; exit 3' returned 3", got.check_returncode, got)
    assert.equal("in", err.stdout)
    err = support.raises(subprocess.CalledProcessError, "command 'kill -9 $$' was ended by SIGKILL",
      run, "kill -9 $$", { shell = true, check = true })
    assert.equal(-9, err.returncode)
    assert.equal(0, run("true", { check = true }).returncode)
  end)

  it("kills what runs too long, and keeps what it said", function()
    local ok, err
    local timeout = 0.1 -- long enough for a machine that is idle
    repeat
      timeout = 2 * timeout
      ok, err = pcall(run, "echo said; exec sleep 60", { shell = true, capture = true, timeout = timeout })
    until ok or timeout > 30 or err.stdout ~= ""
    assert.is_false(ok)
    assert.is_true(peri.TimeoutError:is(err))
    assert.equal("said\n", err.stdout)
  end)

  it("kills the program of a run that is cancelled", function()
    local path = support.file ""
    local task = peri.create_task(run, ("echo $$ >'%s'; exec sleep 30"):format(path), { shell = true })
    local pid
    eventually(function()
      local file <close> = io.open(path)
      pid = file:read "n"
      return pid
    end)
    task:cancel()
    assert.is_false(pcall(task.await, task))
    assert.is_true(task:cancelled())
    assert.is_false(is_running(pid))
  end)

  it("refuses options that exclude each other", function()
    support.raises(peri.ValueError, "bad argument #2 to 'run' (capture stands for stdout and stderr)",
      run, "true", { capture = true, stdout = PIPE })
    support.raises(peri.ValueError, "bad argument #2 to 'run' (input and stdin exclude each other)",
      run, "true", { input = "x", stdin = PIPE })
    support.raises(peri.TypeError, "bad argument #1 to 'run' (string or list of strings expected, got number)",
      run, 5)
  end)

  it("fails cleanly when no descriptor is left", function()
    local out, err, status = support.shell(("ulimit -n 40; exec %s %s"):format(
      support.quote(support.program), support.quote(support.file [[
        local peri = require "perilune"
        local subprocess = require "perilune.subprocess"
        peri.sleep(0.001)
        subprocess.create_subprocess_exec("true"):wait()
        local list, problem = {}, nil
        for _ = 1, 100 do
          local ok, result = pcall(subprocess.create_subprocess_exec, "cat",
            { stdin = subprocess.PIPE, stdout = subprocess.PIPE })
          if not ok then problem = result break end
          list[#list + 1] = result
        end
        print(problem.code, #list > 5)
        for _, process in ipairs(list) do process.stdin:close() end
        for _, process in ipairs(list) do
          if process:wait() ~= 0 then print "wrong" end
          process.stdout:close()
        end
        print(subprocess.run({ "echo", "again" }, { capture = true }).stdout)
      ]])))
    assert.equal("", err)
    assert.equal("EMFILE\ttrue\nagain\n\n", out)
    assert.equal(0, status)
  end)

  it("warns in debug mode of a process that nobody waits for", function()
    local records = support.log()
    peri.get_running_loop():set_debug(true)
    local pid, kill
    do
      local process = exec("sleep", "30")
      pid, kill = process.pid, function() os.execute("kill -9 " .. pid) end
    end
    support.collect()
    peri.get_running_loop():set_debug(false)
    kill()
    eventually(function() return state_of(pid) == nil end)
    assert.equal(1, #records)
    assert.matches(("^WARNING ResourceWarning: subprocess %d is still running\n"
      .. "created at:\n\t[^\n]*subprocess_spec.lua:%%d+: in "):format(pid), records[1])
  end)

  it("leaves a process to itself when the program ends", function()
    local path = support.directory() .. "/done"
    local _, _, status = support.run_code(([[
      require "perilune.subprocess".create_subprocess_shell("sleep 0.1; echo x >'%s'")
    ]]):format(path))
    assert.equal(0, status)
    eventually(function() return lfs.attributes(path) ~= nil end)
  end)
end)

describe("a process whose loop has closed", function()
  it("is reaped later, and cannot be waited for until it has ended", support.top_level(function()
    local process
    peri.run(function() process = exec("cat", { stdin = PIPE }) end)
    -- the loop has closed the pipe, so it ends now
    for _ = 1, 1000 do
      if process.returncode then break end
      peri.sleep(0.01)
    end
    assert.equal(0, process.returncode)
    assert.is_false(is_running(process.pid))
    assert.equal(0, process:wait())
  end))

  it("is reaped when another one is started", support.top_level(function()
    local process
    peri.run(function() process = exec("sleep", "0.02") end)
    eventually(function() return state_of(process.pid) == nil end)
    assert.equal(0, process.returncode)
  end))

  it("is no business of another loop's", support.top_level(function()
    local process
    peri.run(function() process = exec("sleep", "30") end)
    local ok, err = pcall(process.wait, process)
    assert.is_false(ok)
    assert.is_true(peri.RuntimeError:is(err))
    process:kill()
    eventually(function() return process.returncode == -9 end)
  end))
end)
