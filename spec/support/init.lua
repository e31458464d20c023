-- What every spec may use. The harness (support.harness) runs each test on a
-- fresh loop and looks for what it left behind; the rest here is vocabulary.
local lfs = require "lfs"
local peri = require "perilune"
local log = require "perilune.log"

local support = {}

support.harness = require "support.harness"

---Marks a test's body as one that runs at the script's top level, on the
---script's own loop and the real clock, instead of inside a run of its own:
---that is where `run`, `Runner:run` and `loop:run_*` are allowed.
function support.top_level(body)
  support.harness.at_top_level[body] = true
  return body
end

---Waits until every other task is blocked. The virtual clock jumps only then,
---so a timer of one nanosecond is a bell that rings at that moment. No use
---where something outside is outstanding (a reader, a signal handler).
---@async
function support.settle()
  peri.sleep(1e-9)
end

---Waits for n trips round the loop.
---@async
function support.spin(n)
  for _ = 1, n do peri.sleep(0) end
end

---Ends a task that stands in a wait, by "cancel" or "kill", and sees it end so.
---@async
function support.ends(task, how)
  support.spin(2)
  local waits = not task:done()
  task[how](task)
  pcall(task.await, task)
  if not (waits and task:cancelled()) then error("the task did not end in a wait, by " .. how, 2) end
end

---A list of lines and the function that appends to it: its arguments, told as
---print tells them, with one blank between.
function support.trace()
  local lines = {}
  local function say(...)
    local parts = table.pack(...)
    for i = 1, parts.n do parts[i] = tostring(parts[i]) end
    lines[#lines + 1] = table.concat(parts, " ")
  end
  return lines, say
end

---A pattern that matches exactly the text.
function support.literal(text)
  return (text:gsub("%p", "%%%0"))
end

---A closable that calls fn with the error, as `finally` would.
function support.finally(fn)
  return setmetatable({}, { __close = function(_, err) fn(err) end })
end

---A new loop, and a closable that closes it:
---`local loop, _ <close> = support.loop()`.
function support.loop()
  local loop = peri.new_event_loop()
  return loop, setmetatable({}, { __close = function() loop:close() end })
end

---Calls fn, which must raise an error object of the class with exactly this
---message, and returns the error.
function support.raises(class, message, fn, ...)
  local results = table.pack(pcall(fn, ...))
  if results[1] then
    error("no error was raised; " .. message .. " was expected", 2)
  end
  local err = results[2]
  if not class:is(err) then
    error(("expected %s, got: %s"):format(tostring(class(message)), tostring(err)), 2)
  end
  if err.message ~= message then
    error(("expected the message\n  %s\ngot\n  %s"):format(message, err.message), 2)
  end
  return err
end

---Collects what reaches the running loop's exception handler from now on, and
---so keeps it from failing the test.
function support.reports()
  local contexts = {}
  peri.get_running_loop():set_exception_handler(function(_, context)
    contexts[#contexts + 1] = context
  end)
  return contexts
end

---Collects what is logged from now on, to the end of the test, as lines
---"LEVEL text".
function support.log()
  local records = {}
  log.set_handler(function(level, text) records[#records + 1] = level .. " " .. text end)
  return records
end

---Two collections: the second frees what finalisers of the first brought back.
function support.collect()
  collectgarbage()
  collectgarbage()
end

-- Files and pipes ---------------------------------------------------------

local leftovers, gates = {}, {}

local function temporary()
  local path = os.tmpname()
  leftovers[#leftovers + 1] = path
  return path
end

---Writes a temporary file, removed when the test ends, and returns its path.
function support.file(text)
  local path = temporary()
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  return path
end

---Makes a temporary directory, removed when the test ends.
function support.directory()
  local path = temporary()
  os.remove(path)
  assert(lfs.mkdir(path))
  return path
end

---Makes a gate at which jobs stand until the returned function is called: its path,
---and that function. Opening a FIFO for reading waits for a writer, and blocks no
---more than its own thread. Opened for both, it lets everybody through; it stays
---open for the test.
function support.gate()
  local path = support.directory() .. "/gate"
  assert(os.execute(("mkfifo '%s'"):format(path)))
  local open
  return path, function()
    if open then return end
    open = assert(io.open(path, "r+"))
    gates[#gates + 1] = open
  end
end

---Closes the gates that a test has opened: before its descriptors are counted.
function support.close_gates()
  for i = #gates, 1, -1 do
    gates[i]:close()
    gates[i] = nil
  end
end

---Makes the job that stands at the gate with the path, and returns the arguments
---behind that. It is sent as code: workers have no specs.
function support.gated()
  return function(path, ...)
    io.open(path, "r"):close()
    return ...
  end
end

---A signal to a shell that is given by making a file: a path where none is yet,
---and shell text that waits for one there, for half a minute at most.
function support.go()
  local path = support.directory() .. "/go"
  return path, ("n=0; until [ -e '%s' ] || [ $n -gt 3000 ]; do sleep 0.01; n=$((n + 1)); done"):format(path)
end

---Undoes what a test changed outside of its loop.
function support.clean_up()
  log.set_handler(nil)
  for i = #leftovers, 1, -1 do
    os.execute(("rm -rf '%s'"):format(leftovers[i]))
    leftovers[i] = nil
  end
end

---The open descriptors of this process, as a set.
function support.descriptors()
  local set = {}
  for name in lfs.dir "/proc/self/fd" do
    if tonumber(name) then set[tonumber(name)] = true end
  end
  -- The one that read the directory is closed by now.
  for fd in pairs(set) do
    if not lfs.symlinkattributes("/proc/self/fd/" .. fd) then set[fd] = nil end
  end
  return set
end

local function opened(open)
  local before = support.descriptors()
  local file = open()
  for fd in pairs(support.descriptors()) do
    if not before[fd] then return file, fd end
  end
  error "no descriptor was opened"
end

---A pipe made of a FIFO: two unbuffered files and their descriptors,
---`reader, reader_fd, writer, writer_fd`. The caller closes both.
function support.pipe()
  local path = support.directory() .. "/fifo"
  assert(os.execute(("mkfifo '%s'"):format(path)))
  -- Opened for both, since opening for reading only would wait for a writer.
  local reader, reader_fd = opened(function() return assert(io.open(path, "r+")) end)
  local writer, writer_fd = opened(function() return assert(io.open(path, "w")) end)
  reader:setvbuf "no"
  writer:setvbuf "no"
  return reader, reader_fd, writer, writer_fd
end

-- Child processes ----------------------------------------------------------

local function output_of(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "a"
  pipe:close()
  return (text:gsub("\n$", ""))
end

---The perilune program under test: $PERILUNE, or the one that runs the specs.
support.program = os.getenv "PERILUNE" or output_of "readlink -f /proc/$PPID/exe"

---Whether there is a program of that name.
function support.has_program(name)
  return output_of("command -v " .. name) ~= ""
end

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end
support.quote = quote

local function contents(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

---Runs a shell command to its end; standard input is the text `input` or
---empty. Returns what it wrote to stdout and to stderr, and its exit status
---(128 + n when signal n ended it).
function support.shell(command, input)
  local errors, stdin = temporary(), support.file(input or "")
  local pipe = assert(io.popen(("{ %s\n} <%s 2>%s"):format(command, stdin, errors)))
  local out = pipe:read "a"
  local _, how, code = pipe:close()
  if how == "signal" then code = 128 + code end
  return out, contents(errors), code
end

---Runs the perilune program with a list of arguments (`env=`: assignments put
---before it). A minute is the limit, after which the status is 124.
function support.run_program(arguments, input)
  local words = { "exec env", arguments.env or "", "timeout -k 5 60", quote(support.program) }
  for _, argument in ipairs(arguments) do words[#words + 1] = quote(argument) end
  return support.shell(table.concat(words, " "), input)
end

---The path on which stock lua5.4 finds the module perilune.so: where the program
---under test lies.
function support.stock_cpath()
  local module = os.getenv "PERILUNE_MODULE" or support.program
  return module:match "^(.*/)[^/]*$" .. "?.so"
end

---Runs code by stock lua5.4. $PERILUNE_PRELOAD is preloaded: a sanitizer's
---runtime has to come first in a program that was built without it. Options:
---`env`, assignments put before it; `options` of lua5.4; an `argument`; a
---`redirection`.
function support.run_stock(code, options)
  options = options or {}
  local preload = os.getenv "PERILUNE_PRELOAD"
  return support.shell(table.concat({
    "exec env", "LUA_CPATH=" .. quote(support.stock_cpath() .. ";;"),
    preload and "LD_PRELOAD=" .. quote(preload) or "", options.env or "",
    "timeout -k 5 60 lua5.4", options.options or "", quote(support.file(code)),
    quote(options.argument or ""), options.redirection or "",
  }, " "))
end

-- ThreadSanitizer keeps a signal back until the program calls something that
-- blocks; code that runs on never gets it.
local tsan = (os.getenv "PERILUNE_PRELOAD" or ""):find("tsan", 1, true) ~= nil

---Whether a signal interrupts code that runs on.
support.signals_interrupt = not tsan

---Runs code as a script of the program.
function support.run_code(code, ...)
  return support.run_program { support.file(code), ... }
end

return support
