--- Signals of the process.
--
-- Streams of signals are C (runtime/io/signal.c), described in meta/signal.lua. A
-- callback is what `loop:add_signal_handler` is for.
local native = require "perilune._signal"
local arguments = require "perilune.arguments"

local ipairs, pairs, type = ipairs, pairs, type
local signals <const> = native.signals

---@class perilune.signal
---@field SIGABRT integer
---@field SIGALRM integer
---@field SIGBUS integer
---@field SIGCHLD integer
---@field SIGCONT integer
---@field SIGFPE integer
---@field SIGHUP integer
---@field SIGILL integer
---@field SIGINT integer
---@field SIGIO integer
---@field SIGKILL integer
---@field SIGPIPE integer
---@field SIGPROF integer
---@field SIGQUIT integer
---@field SIGSEGV integer
---@field SIGSTOP integer
---@field SIGSYS integer
---@field SIGTERM integer
---@field SIGTRAP integer
---@field SIGTSTP integer
---@field SIGTTIN integer
---@field SIGTTOU integer
---@field SIGURG integer
---@field SIGUSR1 integer
---@field SIGUSR2 integer
---@field SIGVTALRM integer
---@field SIGWINCH integer
---@field SIGXCPU integer
---@field SIGXFSZ integer
local signal = {}

-- signal.SIGHUP and the others
for name, number in pairs(signals) do signal[name] = number end

local MOST <const> = 64
local MOST_PID <const> = 0x7FFFFFFF

local function number_of(name, position, value)
  if type(value) == "string" then
    local number = signals[value]
    if number then return number end
    arguments.wrong_value(name, position, ("%q is no signal"):format(value))
  end
  local number = arguments.integer(name, position, value)
  if number < 1 or number > MOST then
    arguments.wrong_value(name, position, ("%d is no signal"):format(number))
  end
  return number
end

---The signals that come from now on, for a loop:
---`for sig in signal.stream{"SIGHUP", "SIGUSR1"} do`; or, as
---`local signals <close> = signal.stream{...}`, for `signals:get()`.
---
---While nobody waits each signal is noted once, as signals are. What it did before
---(the end of the process, a handler of the host's) it does again when the stream
---has been closed, as it is with the loop or the block. All streams and handlers of
---a signal learn of it.
---
---Raises OSError for a signal that the system keeps for itself.
---@param names string|integer|(string|integer)[] "SIGHUP", ...; not SIGKILL and SIGSTOP
---@return perilune.SignalStream
function signal.stream(names)
  local name <const> = "stream"
  if type(names) ~= "table" then names = { names } end
  local list, seen = {}, {}
  for _, value in ipairs(names) do
    local number = number_of(name, 1, value)
    if number == signals.SIGKILL or number == signals.SIGSTOP then
      arguments.wrong_value(name, 1, ("%s cannot be handled"):format(value))
    end
    if not seen[number] then
      seen[number] = true
      list[#list + 1] = number
    end
  end
  if #list == 0 then arguments.wrong_value(name, 1, "no signal") end
  local stream = native.stream(list)
  return stream, nil, nil, stream
end

---Sends this process a signal.
---
---Python: `signal.raise_signal`.
---@param sig string|integer
function signal.raise(sig)
  native.raise(number_of("raise", 1, sig))
end

---Sends a process a signal, or a group of them (-group).
---
---Raises OSError (`code` "ESRCH": there is none; "EPERM").
---
---Python: `os.kill`.
---@param pid integer
---@param sig string|integer 0: none; only whether it could be sent
function signal.kill(pid, sig)
  pid = arguments.integer("kill", 1, pid)
  if pid < -MOST_PID or pid > MOST_PID then
    arguments.wrong_value("kill", 1, ("%d is no process"):format(pid))
  end
  native.kill(pid, sig == 0 and 0 or number_of("kill", 2, sig))
end

---What a signal is about: "Hangup".
---
---Python: `signal.strsignal`.
---@param sig string|integer
---@return string
function signal.strsignal(sig)
  return native.describe(number_of("strsignal", 1, sig))
end

return signal
