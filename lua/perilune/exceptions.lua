--- What is done with errors that have nobody to go to: the loop's default
--- exception handler, which logs them.
local core = require "perilune._core"
local log = require "perilune.log"

local pcall, tostring, type = pcall, tostring, type

-- A report must not be lost to a value that cannot be told.
local function describe(value)
  local ok, text = pcall(tostring, value)
  if ok then return text end
  return ("(a %s whose __tostring fails)"):format(type(value))
end

-- The stacks an error has passed: C tells those of errors that are no objects
-- of ours in the context, or with the future that failed.
local function traceback(context)
  if context.traceback ~= nil then return context.traceback end
  local text = core.error_traceback(context.exception)
  if text then return text end
  local future = context.future or context.task
  if core.isfuture(future) then return future:traceback() end
  return nil
end

local told_apart <const> = { message = true, exception = true, traceback = true }

local function other_lines(context)
  local keys = {}
  for key in pairs(context) do
    if not told_apart[key] then keys[#keys + 1] = describe(key) end
  end
  table.sort(keys)
  for i, key in ipairs(keys) do keys[i] = key .. ": " .. describe(context[key]) end
  return keys
end

local exceptions = {}

---The text of a report.
---@param context table what `loop:call_exception_handler` was given
---@return string
function exceptions.format(context)
  local message = context.message
  if message == nil or message == "" then message = "unhandled error in the event loop" end
  local lines = other_lines(context)
  table.insert(lines, 1, describe(message))
  if context.exception ~= nil then
    lines[#lines + 1] = describe(context.exception)
    local trace = traceback(context)
    if type(trace) == "string" and trace ~= "" then lines[#lines + 1] = trace end
  end
  return table.concat(lines, "\n")
end

---Logs a report, at level ERROR: its message, what it is about, and the error
---with the stacks it passed.
---
---Python: `loop.default_exception_handler`.
---@param _ perilune.Loop?
---@param context table
function exceptions.default_exception_handler(_, context)
  log.error(exceptions.format(context))
end

core.set_default_exception_handler(exceptions.default_exception_handler)

return exceptions
