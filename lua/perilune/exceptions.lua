--- What is done with errors that have nobody to go to: the loop's default
--- exception handler, which logs them. And how an error is told in full.
local core = require "perilune._core"
local errors = require "perilune.errors"
local log = require "perilune.log"

local error, pcall, rawget, tostring, type = error, pcall, rawget, tostring, type

-- A report must not be lost to a value that cannot be told. (Where there is no
-- memory C logs a line that needs none.)
local function describe(value)
  local ok, text = pcall(tostring, value)
  if ok then return text end
  if text == "not enough memory" then error(text, 0) end
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

local told_apart <const> = {
  message = true, exception = true, traceback = true, source_traceback = true,
}

local function other_lines(context)
  local keys = {}
  for key in pairs(context) do
    if not told_apart[key] then keys[#keys + 1] = describe(key) end
  end
  table.sort(keys)
  for i, key in ipairs(keys) do keys[i] = key .. ": " .. describe(context[key]) end
  return keys
end

-- Where the object of the report was made, in debug mode; but for a task that
-- has failed the error's own stacks tell that already.
local function created(context, told)
  local frames = context.source_traceback
  frames = type(frames) == "string" and frames:match "^[^\n]*(\n.*)$"
  if not frames or told:find(frames, 1, true) then return nil end
  return "created at:" .. frames
end

local exceptions = {}

local tell

-- The errors of a group, each with its own stacks. Those that are no objects of
-- ours have none; the task group knows the tasks that failed with them.
local function tell_group(group, seen)
  local task_group = package.loaded["perilune.task_group"]
  local failed = task_group and task_group.failed_tasks(group) or {}
  local lines = {}
  for i, err in ipairs(group.exceptions or {}) do
    local trace = core.error_traceback(err) or failed[i] and failed[i]:traceback()
    local text = ("%d. %s"):format(i, tell(err, trace, seen))
    lines[i] = "  " .. text:gsub("\n", "\n  ")
  end
  return lines
end

tell = function(err, trace, seen)
  local lines = { describe(err) }
  trace = trace or core.error_traceback(err)
  if trace and trace ~= "" then lines[2] = trace end
  if type(err) ~= "table" or seen[err] then return table.concat(lines, "\n") end
  seen[err] = true
  local cause = rawget(err, "cause")
  -- That a wait was interrupted tells nothing more.
  if cause ~= nil and not core.iscancel(cause) then
    lines[#lines + 1] = "caused by: " .. tell(cause, nil, seen)
  end
  if errors.ExceptionGroup:is(err) then
    table.move(tell_group(err, seen), 1, #err.exceptions, #lines + 1, lines)
  end
  return table.concat(lines, "\n")
end

---An error in full: its text, the stacks it passed, its cause, and the errors of
---a group.
---@param err any
---@param trace? string the stacks, if the error is not known to have any
---@return string
function exceptions.tell(err, trace)
  return tell(err, trace, {})
end

---The text of a report.
---@param context table what `loop:call_exception_handler` was given
---@return string
function exceptions.format(context)
  local message = context.message
  if message == nil or message == "" then message = "unhandled error in the event loop" end
  local lines = other_lines(context)
  table.insert(lines, 1, describe(message))
  local told = ""
  if context.exception ~= nil then
    told = exceptions.tell(context.exception, traceback(context))
    lines[#lines + 1] = told
  end
  lines[#lines + 1] = created(context, told)
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
