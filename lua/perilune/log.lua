--- The runtime's logger, named `perilune`.
--
-- What is logged goes to one place: a handler function, a logger object of the
-- LuaLogging kind, or else the host's log.
local core = require "perilune._core"
local arguments = require "perilune.arguments"

local select, tostring, type = select, tostring, type

---@class perilune.log
---@field DEBUG integer 10; the levels, as numbers
---@field INFO integer 20
---@field WARNING integer 30
---@field ERROR integer 40
---@field CRITICAL integer 50
local log = {
  DEBUG = 10,
  INFO = 20,
  WARNING = 30,
  ERROR = 40,
  CRITICAL = 50,
}

local names <const> = {
  [10] = "DEBUG", [20] = "INFO", [30] = "WARNING", [40] = "ERROR", [50] = "CRITICAL",
}

-- LuaLogging's names, where they differ.
local lualogging_names <const> = { WARNING = "WARN", CRITICAL = "FATAL" }

local threshold = log.WARNING

-- Where nothing was said about the log: in a worker to its owner's, elsewhere to
-- the host's, the program's being stderr; a host that wants none has Lua's
-- warnings.
local function default_handler(level, text)
  if core.owner and require "perilune.handles".log(log[level], text) then return end
  core.emit(log[level], level .. " perilune: " .. text)
end

local handler = default_handler

local function level_of(name, level)
  local number = level
  if type(level) == "string" then number = log[level:upper()] end
  if not names[number] then
    if type(level) ~= "string" and type(level) ~= "number" then
      arguments.wrong_type(name, 1, "level", level)
    end
    arguments.wrong_value(name, 1, ("%q is no level"):format(tostring(level)))
  end
  return number
end

---Logs nothing below a level.
---
---Raises TypeError and ValueError for what is no level.
---@param level "DEBUG"|"INFO"|"WARNING"|"ERROR"|"CRITICAL"|integer
function log.set_level(level)
  threshold = level_of("log.set_level", level)
end

---The level below which nothing is logged: "WARNING" unless it was set.
---@return string
function log.get_level()
  return names[threshold]
end

---Sends what is logged to a function; nil brings the default back: lines
---"LEVEL perilune: text" in the host's log, which is stderr in the program. What
---the function raises is raised where something was logged; what the runtime
---itself was reporting goes to the loop's exception handler.
---
---Raises TypeError for what is neither a function nor nil.
---@param fn? fun(level: string, text: string)
function log.set_handler(fn)
  if fn ~= nil and not arguments.callable(fn) then
    arguments.wrong_type("log.set_handler", 1, "function or nil", fn)
  end
  handler = fn or default_handler
end

local methods <const> = { "debug", "info", "warn", "error", "fatal" }

local function is_logger(value)
  if type(value) ~= "table" and type(value) ~= "userdata" then return false end
  if arguments.callable(value.log) then return true end
  for _, name in ipairs(methods) do
    if not arguments.callable(value[name]) then return false end
  end
  return true
end

---Sends what is logged to an object with LuaLogging's methods: `log(level,
---text)`, or one named after each level (debug, info, warn, error, fatal). Its
---own level counts as well as ours. nil brings the default back.
---
---Raises TypeError for an object without them.
---@param logger table?
function log.set_logger(logger)
  if logger == nil then return log.set_handler(nil) end
  if not is_logger(logger) then
    arguments.wrong_type("log.set_logger", 1, "logger or nil", logger)
  end
  handler = function(level, text)
    level = lualogging_names[level] or level
    if logger.log then
      logger:log(level, text)
    else
      logger[level:lower()](logger, text)
    end
  end
end

---Logs what was logged in a worker.
---@param level integer
---@param name string the worker's
---@param text string
function log._from_worker(level, name, text)
  if level >= threshold then handler(names[level], ("%s: %s"):format(name, text)) end
end

-- A message is formatted only if it has arguments, and only if it is logged.
local function logger(level)
  return function(message, ...)
    if level < threshold then return end
    message = tostring(message)
    if select("#", ...) > 0 then message = message:format(...) end
    handler(names[level], message)
  end
end

---Logs what helps to find a fault: a message, formatted if there are arguments.
---@type fun(message: any, ...: any)
log.debug = logger(log.DEBUG)

---Logs what goes as it should: a message, formatted if there are arguments.
---@type fun(message: any, ...: any)
log.info = logger(log.INFO)

---Logs what may be a mistake: a message, formatted if there are arguments.
---@type fun(message: any, ...: any)
log.warning = logger(log.WARNING)

---Logs what has gone wrong: a message, formatted if there are arguments.
---@type fun(message: any, ...: any)
log.error = logger(log.ERROR)

---Logs what ends the program: a message, formatted if there are arguments.
---@type fun(message: any, ...: any)
log.critical = logger(log.CRITICAL)

return log
