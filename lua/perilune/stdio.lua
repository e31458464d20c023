--- The standard streams and the terminal.
--
-- `stdio.stdin`, `stdio.stdout` and `stdio.stderr` are streams as sockets have
-- them, of the running loop, whatever they are: files, pipes, terminals. They are
-- made when they are first used. `print`, `io.write` and so on stay what they
-- are, and in order with them: what C's buffers hold goes before what is written
-- here, and the program's print waits for what is queued here (elsewhere: `flush`).
local core = require "perilune._core"
local native = require "perilune._stdio"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"

local error, ipairs, pcall, setmetatable, type =
  error, ipairs, pcall, setmetatable, type
local get_running_loop = core.get_running_loop

local descriptors <const> = { stdin = 0, stdout = 1, stderr = 2 }

---@class perilune.stdio
---@field stdin perilune.Stream
---@field stdout perilune.Stream
---@field stderr perilune.Stream
local stdio = {}

-- Loop to its streams, by name.
local streams = setmetatable({}, { __mode = "k" })

local function open(name)
  local loop = get_running_loop()
  local of_loop = streams[loop]
  if not of_loop then
    of_loop = {}
    streams[loop] = of_loop
  end
  local stream = of_loop[name]
  if not stream then
    stream = native.open(descriptors[name])
    of_loop[name] = stream
  end
  return stream
end

setmetatable(stdio, {
  __index = function(_, key)
    if descriptors[key] then return open(key) end
  end,
})

---Writes out, and blocks until it has gone, what is queued on stdout and stderr:
---before C or another process is to write there.
function stdio.flush() native.flush() end

local function descriptor(name, value)
  if value == nil then return nil end
  if type(value) == "string" then
    return descriptors[value]
      or arguments.wrong_value(name, 1, ("%q is none of stdin, stdout, stderr"):format(value))
  end
  if type(value) == "number" then return arguments.integer(name, 1, value) end
  local ok, fd = pcall(function() return value:fileno() end)
  if not ok or not fd then
    arguments.wrong_type(name, 1, "stdin, stdout, stderr, descriptor or stream", value)
  end
  return fd
end

---Tells whether something is a terminal.
---
---Python: `os.isatty`.
---@param what string|integer|perilune.Stream "stdin", "stdout", "stderr", a descriptor or a stream
---@return boolean
function stdio.isatty(what)
  return native.isatty(descriptor("isatty", what) or 0)
end

---The size of the terminal; nil stands for the first of stdout, stderr, stdin that
---is one. SIGWINCH tells of changes: see `signal.stream`.
---
---Raises OSError (`code` "ENOTTY") if there is none.
---
---Python: `os.get_terminal_size`.
---@param what? string|integer|perilune.Stream as for `isatty`
---@return integer columns, integer lines
function stdio.get_terminal_size(what)
  local fd = descriptor("get_terminal_size", what)
  if fd then return native.size(fd) end
  for _, candidate in ipairs { 1, 2, 0 } do
    if native.isatty(candidate) then return native.size(candidate) end
  end
  error(errors.OSError("get_terminal_size: there is no terminal",
    { code = "ENOTTY", syscall = "ioctl" }))
end

local raw_options <const> = { signals = true }

---Puts the terminal of stdin into raw mode until the end of the block, so that each
---key is read at once and is not shown: `local _ <close> = stdio.raw()`. The program
---also restores it when it ends in any other way, by SIGINT and SIGTERM included.
---
---Raises OSError (`code` "ENOTTY") if stdin is no terminal.
---
---Python: `tty.setraw`, `tty.setcbreak`, differ in that output stays as it is.
---@param options? { signals: boolean? } signals: Ctrl-C and Ctrl-Z stay signals
---@return perilune.RawMode
function stdio.raw(options)
  arguments.options("raw", 1, options, raw_options)
  return native.raw(options and options.signals or false)
end

return stdio
