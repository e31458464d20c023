--- Subprocesses, as asyncio has them.
--
-- A process is started by C (runtime/io/launch.c), which is over when its program
-- runs or could not be run. Its pipes are streams like any other.
local core = require "perilune._core"
local native = require "perilune._process"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local timeouts = require "perilune.timeouts"

local error, ipairs, pairs, pcall, rawget, setmetatable, tostring, type =
  error, ipairs, pairs, pcall, rawget, setmetatable, tostring, type
local concat, select, sort, unpack = table.concat, select, table.sort, table.unpack
local can_wait = core.can_wait
local OSError, TimeoutError, ValueError = errors.OSError, errors.TimeoutError, errors.ValueError
local signals <const> = native.signals

---@class perilune.subprocess
---@field CalledProcessError perilune.CalledProcessError
local subprocess = {}

---@type integer for stdin, stdout, stderr: a pipe, whose end is a stream
subprocess.PIPE = -1
---@type integer for stderr: where stdout goes
subprocess.STDOUT = -2
---@type integer for stdin, stdout, stderr: /dev/null
subprocess.DEVNULL = -3

local PIPE <const>, STDOUT <const>, DEVNULL <const> =
  subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL
local CHUNK <const> = 65536
local DEFAULT_GRACE <const> = 1
local MOST_SIGNAL <const> = 64

-- Options -----------------------------------------------------------------------

local known <const> = {
  cwd = true, env = true, stdin = true, stdout = true, stderr = true, detached = true,
  start_new_session = true, process_group = true, pass_fds = true, umask = true,
  uid = true, gid = true, extra_groups = true, limit = true, grace = true,
}

local function text(name, position, key, value)
  if type(value) == "number" then return tostring(value) end
  if type(value) ~= "string" then
    arguments.wrong_type(name, position, key .. ": string", value)
  end
  return value
end

-- The environment as a list, and the PATH in it.
local function read_env(name, position, env)
  if env == nil then return nil, os.getenv "PATH" end
  if type(env) ~= "table" then arguments.wrong_type(name, position, "env: table", env) end
  local list = {}
  for key, value in pairs(env) do
    if type(key) ~= "string" or key == "" or key:find("=", 1, true) then
      arguments.wrong_value(name, position, ("env: %q is no name of a variable")
        :format(tostring(key)))
    end
    list[#list + 1] = key .. "=" .. text(name, position, "env." .. key, value)
  end
  return list, env.PATH and tostring(env.PATH)
end

-- The descriptor that a script gives to the child.
local function read_descriptor(name, position, which, expected, value)
  if type(value) == "number" then
    local fd = arguments.integer(name, position, value)
    if fd >= 0 and fd <= 0x7FFFFFFF then return fd end
    arguments.wrong_value(name, position, ("%s: %d is no descriptor"):format(which, fd))
  end
  local fd = native.lend(value)
  if not fd and (type(value) == "table" or type(value) == "userdata") then
    local ok, method = pcall(function() return value.fileno end)
    if ok and arguments.callable(method) then fd = method(value) end
  end
  if not fd then
    arguments.wrong_type(name, position, ("%s: %s"):format(which, expected), value)
  end
  return fd
end

-- What C takes for a descriptor of the child's.
local function read_stdio(name, position, which, value)
  if value == nil then return nil end
  if value == PIPE then return "pipe" end
  if value == DEVNULL then return "null" end
  if value == STDOUT and which == "stderr" then return "stdout" end
  return read_descriptor(name, position, which,
    "PIPE, DEVNULL, descriptor, open file or stream", value)
end

local function check_list(name, position, key, list)
  if not arguments.plain(list) then
    arguments.wrong_type(name, position, key .. ": list", list)
  end
end

-- In ascending order, each once, without the standard ones.
local function read_passed(name, position, list)
  if list == nil then return nil end
  check_list(name, position, "pass_fds", list)
  local seen, sorted = {}, {}
  for _, value in ipairs(list) do
    local fd = read_descriptor(name, position, "pass_fds",
      "descriptors, open files or streams", value)
    if fd > 2 and not seen[fd] then
      seen[fd] = true
      sorted[#sorted + 1] = fd
    end
  end
  sort(sorted)
  return sorted
end

local function read_number(name, position, key, value, most)
  if value == nil then return nil end
  local number = arguments.integer(name, position, value)
  if number < 0 or number > most then
    arguments.wrong_value(name, position, ("%s: %d is none"):format(key, number))
  end
  return number
end

local function read_id(name, position, key, value)
  return read_number(name, position, key, value, 0xFFFFFFFE)
end

local function read_groups(name, position, list)
  if list == nil then return nil end
  check_list(name, position, "extra_groups", list)
  local groups = {}
  for i, value in ipairs(list) do
    groups[i] = read_id(name, position, "extra_groups", value)
  end
  return groups
end

local function read_options(name, position, options)
  arguments.options(name, position, options, known)
  options = options or {}
  local cwd, limit = options.cwd, options.limit
  if cwd ~= nil and type(cwd) ~= "string" then
    arguments.wrong_type(name, position, "cwd: string", cwd)
  end
  if limit ~= nil and arguments.integer(name, position, limit) < 1 then
    arguments.wrong_value(name, position, "limit cannot be <= 0")
  end
  arguments.seconds(name, position, options.grace, true)
  local env, path = read_env(name, position, options.env)
  local session = options.start_new_session or options.detached
  if session and options.process_group ~= nil then
    arguments.wrong_value(name, position, "a new session has its own process group")
  end
  return {
    cwd = cwd, env = env, path = path, limit = limit, session = session,
    group = read_number(name, position, "process_group", options.process_group, 0x7FFFFFFF),
    umask = read_number(name, position, "umask", options.umask, 511),
    groups = read_groups(name, position, options.extra_groups),
    kept = read_passed(name, position, options.pass_fds),
    uid = read_id(name, position, "uid", options.uid),
    gid = read_id(name, position, "gid", options.gid),
    stdin = read_stdio(name, position, "stdin", options.stdin),
    stdout = read_stdio(name, position, "stdout", options.stdout),
    stderr = read_stdio(name, position, "stderr", options.stderr),
    watch = native.watch, -- a spec's: "thread"
  }
end

-- Processes -----------------------------------------------------------------------

---A process that was started.
---
---As a `<close>` variable it is ended with its block: it is asked to by SIGTERM,
---after `grace` seconds it is killed; its streams are closed. A detached one runs
---on.
---
---A process whose object is dropped runs on, too, and leaves no zombie.
---
---Python: `asyncio.subprocess.Process`.
---@class perilune.Process
---@field pid integer
---@field returncode integer? its exit code, or minus the number of the signal
---that ended it; nil while it runs, or until the loop has noticed. 255: somebody
---else has waited for it
---@field stdin perilune.Stream? if it is a pipe
---@field stdout perilune.Stream? if it is a pipe
---@field stderr perilune.Stream? if it is a pipe
local Process = { __name = "Process", __module = "perilune.subprocess" }

function Process.__index(process, key)
  if key == "returncode" then return native.returncode(rawget(process, "_handle")) end
  return Process[key]
end

function Process.__tostring(process)
  local code = process.returncode
  return code and ("<Process %d, returncode %d>"):format(process.pid, code)
    or ("<Process %d>"):format(process.pid)
end

local function spawn(name, position, program, list, options)
  local native_options = read_options(name, position, options)
  local handle, pid, stdin, stdout, stderr = native.spawn(program, list, native_options)
  return setmetatable({
    _handle = handle, pid = pid, stdin = stdin, stdout = stdout, stderr = stderr,
    _detached = options and options.detached or false,
    _grace = options and options.grace or DEFAULT_GRACE,
  }, Process)
end

---Waits for the end of the process.
---
---Raises TimeoutError after `timeout`; the process runs on.
---
---Cancellation: the process runs on, and leaves no zombie.
---
---Python: `Process.wait`.
---@param options? { timeout: number? } timeout: seconds
---@return integer returncode
---@async
function Process:wait(options)
  return native.wait(self._handle, options)
end

---Sends the process a signal; one that has ended gets none.
---
---Raises OSError (`code` "EPERM") if it belongs to somebody else by now.
---
---Python: `Process.send_signal`, differs in that an ended process is no error.
---@param signal string|integer "SIGHUP", ...
function Process:send_signal(signal)
  local name <const> = "Process.send_signal"
  local number = signals[signal]
  if not number then
    if type(signal) == "string" then
      arguments.wrong_value(name, 1, ("%q is no signal"):format(signal))
    end
    number = arguments.integer(name, 1, signal)
    if number < 0 or number > MOST_SIGNAL then
      arguments.wrong_value(name, 1, ("%d is no signal"):format(number))
    end
  end
  native.send_signal(self._handle, number)
end

---Asks the process to end, by SIGTERM.
function Process:terminate() self:send_signal "SIGTERM" end

---Ends the process, by SIGKILL.
function Process:kill() self:send_signal "SIGKILL" end

local function collect(stream, chunks)
  while true do
    local data = stream:read(CHUNK)
    if not data then return stream:close() end
    chunks[#chunks + 1] = data
  end
end

local function finish(task)
  if not task:done() then
    task:cancel()
    pcall(task.await, task)
  end
end

local function with_end(fn, ...)
  local args = { ... }
  return setmetatable({}, { __close = function() fn(unpack(args)) end })
end

-- Reads both at once, lest the process get stuck writing to the other.
local function collect_both(out, out_chunks, err, err_chunks)
  local reader = core.create_task(collect, err, err_chunks)
  local _ <close> = with_end(finish, reader)
  collect(out, out_chunks)
  reader:await()
end

-- All of it is queued at once, and gone or lost when the process has ended. That
-- a process does not want its input is no error.
local function feed(process, input)
  local stdin = process.stdin
  if not stdin or process._fed then return end
  process._fed = true
  if input ~= nil then
    local ok, err = pcall(stdin.write, stdin, input)
    if not ok and not (OSError:is(err) and (err.code == "EPIPE" or err.code == "ECONNRESET")) then
      error(err, 0)
    end
  end
  stdin:close()
end

local function is_open(stream)
  return stream and not stream:is_closing()
end

local function converse(process, input)
  feed(process, input)
  local out, err = process.stdout, process.stderr
  local out_chunks, err_chunks = process._out or {}, process._err or {}
  -- Kept, so that a second call goes on where a timeout ended the first.
  process._out, process._err = out_chunks, err_chunks
  if is_open(out) and is_open(err) then
    collect_both(out, out_chunks, err, err_chunks)
  elseif is_open(out) then
    collect(out, out_chunks)
  elseif is_open(err) then
    collect(err, err_chunks)
  end
  process:wait()
  if process.stdin then process.stdin:abort() end
  process._out, process._err = nil, nil
  return out and concat(out_chunks), err and concat(err_chunks)
end

---Gives the process its input, reads its output to the end, and waits for it.
---
---Raises TimeoutError after `timeout`; the process runs on then, and another call
---goes on with what has come so far.
---
---Cancellation: the same.
---
---Python: `Process.communicate`, differs in that a timeout loses nothing.
---@param input? string if stdin is a pipe, which is closed then
---@param options? { timeout: number? } timeout: seconds
---@return string? stdout, string? stderr what it wrote, nil where there is no pipe
---@async
function Process:communicate(input, options)
  local name <const> = "Process.communicate"
  if arguments.plain(input) and options == nil then input, options = nil, input end
  if input ~= nil and type(input) ~= "string" then
    arguments.wrong_type(name, 1, "string or nil", input)
  end
  if input ~= nil and not self.stdin then
    error(ValueError(name .. ": there is input, but stdin is no pipe"))
  end
  return timeouts.limited(name, 2, options, converse, self, input)
end

local function drop_streams(process)
  for _, stream in ipairs { process.stdin or false, process.stdout or false,
    process.stderr or false } do
    if stream then stream:abort() end
  end
end

local function kill_running(process)
  if process.returncode == nil then process:kill() end
end

-- Without a wait it is killed at once; the loop reaps it.
function Process:__close()
  local _ <close> = with_end(drop_streams, self)
  if self._detached or self.returncode ~= nil then return end
  local _ <close> = with_end(kill_running, self)
  if not can_wait() then return end
  self:terminate()
  local ok, err = pcall(self.wait, self, { timeout = self._grace })
  if ok then return end
  self:kill()
  self:wait()
  if not TimeoutError:is(err) then error(err, 0) end
end

-- Starting ------------------------------------------------------------------------

---Starts a program.
---
---Raises OSError if it cannot be run, with `code` (ENOENT, EACCES, ...) and
---`path`, which is that of the program or of `cwd`; nothing is left running then.
---
---The child has no other descriptors than 0, 1, 2 and those of `pass_fds`, and no
---signal is blocked. The thread stands still until the program runs, which takes
---about half a millisecond; with `uid`, `gid`, `extra_groups` or `umask` the process
---is forked, which takes longer the more memory it has.
---
---Python: `asyncio.create_subprocess_exec`.
---@param program string a path, or a name that is looked for in PATH (of `env`, if
---there is one)
---@param ... string|number|table its arguments, and last of all a table of options:
---`cwd`; `env`, a table (nil: ours); `stdin`, `stdout`, `stderr`: PIPE, DEVNULL, for
---stderr STDOUT, an open file, a stream, a descriptor (nil: ours; a stream blocks
---from then on, and is for the child alone); `start_new_session`; `detached`: in a
---session of its own, and not ended by `<close>`; `process_group` to be in, 0: its
---own; `pass_fds`, a list of descriptors, open files or streams, which the child has
---by the same numbers; `umask`; `uid`, `gid`; `extra_groups`, a list; `limit` of its
---streams, in bytes; `grace`, seconds from SIGTERM to SIGKILL at the end of a block (1)
---@return perilune.Process
function subprocess.create_subprocess_exec(program, ...)
  local name <const> = "create_subprocess_exec"
  if type(program) ~= "string" then arguments.wrong_type(name, 1, "string", program) end
  local n, list = select("#", ...), { program }
  local last, options = n > 0 and select(n, ...) or nil, nil
  if n > 0 and (last == nil or arguments.plain(last)) then
    n, options = n - 1, last
  end
  local args = { ... }
  for i = 1, n do
    local value = args[i]
    if type(value) == "number" then value = tostring(value) end
    if type(value) ~= "string" then arguments.wrong_type(name, i + 1, "string", value) end
    list[i + 1] = value
  end
  return spawn(name, n + 2, program, list, options)
end

---Starts a command by the shell, /bin/sh. See `create_subprocess_exec`.
---
---Python: `asyncio.create_subprocess_shell`.
---@param command string
---@param options? table as of `create_subprocess_exec`
---@return perilune.Process
function subprocess.create_subprocess_shell(command, options)
  local name <const> = "create_subprocess_shell"
  if type(command) ~= "string" then arguments.wrong_type(name, 1, "string", command) end
  return spawn(name, 2, "/bin/sh", { "/bin/sh", "-c", command }, options)
end

-- run -------------------------------------------------------------------------------

---A process of `run` that has ended.
---
---Python: `subprocess.CompletedProcess`.
---@class perilune.CompletedProcess
---@field args string|string[]
---@field returncode integer
---@field stdout string? if it was captured
---@field stderr string? if it was captured
local CompletedProcess = { __name = "CompletedProcess" }
CompletedProcess.__index = CompletedProcess

---A process has not ended with 0. Fields: `cmd`, `returncode`, `stdout`, `stderr`.
---
---Python: `subprocess.CalledProcessError`.
local CalledProcessError = errors.Error:extend "CalledProcessError"
subprocess.CalledProcessError = CalledProcessError

local function told(args)
  return type(args) == "table" and concat(args, " ") or args
end

local function signal_name(number)
  for name, value in pairs(signals) do
    if value == number then return name end
  end
  return "signal " .. number
end

---Raises CalledProcessError unless the process ended with 0.
function CompletedProcess:check_returncode()
  local code = self.returncode
  if code == 0 then return end
  local how = code > 0 and ("returned %d"):format(code)
    or ("was ended by %s"):format(signal_name(-code))
  error(CalledProcessError(("command '%s' %s"):format(told(self.args), how), {
    cmd = self.args, returncode = code, stdout = self.stdout, stderr = self.stderr,
  }))
end

local run_only <const> = {
  capture = true, check = true, timeout = true, input = true, shell = true,
}

-- The options of run alone; the others are those of the process.
local function split_options(name, options)
  local own, rest = {}, {}
  if options ~= nil and type(options) ~= "table" then
    arguments.wrong_type(name, 2, "table of options", options)
  end
  for key, value in pairs(options or {}) do
    if run_only[key] then own[key] = value else rest[key] = value end
  end
  arguments.seconds(name, 2, own.timeout, true)
  if own.input ~= nil then
    if rest.stdin ~= nil then arguments.wrong_value(name, 2, "input and stdin exclude each other") end
    rest.stdin = PIPE
  end
  if own.capture then
    if rest.stdout ~= nil or rest.stderr ~= nil then
      arguments.wrong_value(name, 2, "capture stands for stdout and stderr")
    end
    rest.stdout, rest.stderr = PIPE, PIPE
  end
  return own, rest
end

local function start(args, own, options)
  if own.shell then
    if type(args) == "table" then args = args[1] end
    return subprocess.create_subprocess_shell(args, options)
  end
  if type(args) == "string" then return subprocess.create_subprocess_exec(args, options) end
  if not arguments.plain(args) or type(args[1]) ~= "string" then
    arguments.wrong_type("run", 1, "string or list of strings", args)
  end
  local list = { unpack(args) }
  list[#list + 1] = options
  return subprocess.create_subprocess_exec(unpack(list))
end

-- What `run` leaves by an error does not go on.
local function end_now(process)
  drop_streams(process)
  if process.returncode ~= nil then return end
  process:kill()
  if can_wait() then process:wait() end
end

---Runs a program to its end: `run({"git", "status"}, {capture=true, check=true})`.
---
---Raises OSError as `create_subprocess_exec`; with `check`, CalledProcessError
---unless it returned 0; TimeoutError after `timeout`, with what had come so far in
---`stdout` and `stderr`. The process has ended then: it was killed.
---
---Cancellation: kills the process.
---
---Python: `subprocess.run`, differs in that it waits in the task, and that output
---is always bytes.
---@param args string|string[] the program and its arguments; with `shell` a command
---@param options? { timeout: number?, capture: boolean?, check: boolean?, input: string?, shell: boolean? } seconds;
---capture: stdout and stderr; input: what stdin gives; shell: by /bin/sh; and those of
---`create_subprocess_exec`
---@return perilune.CompletedProcess
---@async
function subprocess.run(args, options)
  local own, rest = split_options("run", options)
  local process = start(args, own, rest)
  local _ <close> = with_end(end_now, process)
  local ok, out, err = pcall(process.communicate, process, own.input, { timeout = own.timeout })
  if not ok then
    local problem = out
    if TimeoutError:is(problem) then
      problem.cmd = args
      problem.stdout = process.stdout and concat(process._out)
      problem.stderr = process.stderr and concat(process._err)
    end
    error(problem, 0)
  end
  local completed = setmetatable({
    args = args, returncode = process.returncode, stdout = out, stderr = err,
  }, CompletedProcess)
  if own.check then completed:check_returncode() end
  return completed
end

return subprocess
