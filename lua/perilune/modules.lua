--- Modules that somebody requires while they are being loaded. Private to the
--- library: runtime/core/require.c calls what is here, and keeps the records.
--
-- A record is a table with the `name` of the module; the `task` that loads it,
-- false outside of tasks; the `thread` it loads it on; and a `number`, which
-- grows. Its list part holds the futures of those who wait for its end.
local core = require "perilune._core"
local errors = require "perilune.errors"

local error, ipairs, pairs, pcall, setmetatable, status, type =
  error, ipairs, pairs, pcall, setmetatable, coroutine.status, type
local create_future, current_task = core.create_future, core.current_task
local several, several_wait = core.several, core.several_wait
local loading = require "perilune._yieldable".loading
local is_done = core.Future.done

-- Task to the record that it waits for; it counts until that has ended.
local waiting = setmetatable({}, { __mode = "k" })

local modules = {}

-- Whether the load has come to an end that its record has not noticed: a
-- coroutine that dies of an error closes nothing before somebody closes it.
local function abandoned(record)
  return status(record.thread) == "dead" or record.task and is_done(record.task)
end

-- The names of what a task loads, from a record on, one inside the other.
local function nested(record)
  local records = {}
  for _, other in pairs(loading) do
    if type(other) == "table" and other.task == record.task
      and other.number >= record.number then
      records[#records + 1] = other
    end
  end
  table.sort(records, function(a, b) return a.number < b.number end)
  return records
end

-- The way from a record to what this task loads, if the record waits for that:
-- "'a' -> 'b' -> 'a'".
local function cycle(record, task)
  local names, first = {}, record.name
  while record do
    for _, inner in ipairs(nested(record)) do names[#names + 1] = ("'%s'"):format(inner.name) end
    if record.task == task then
      names[#names + 1] = ("'%s'"):format(first)
      return table.concat(names, " -> ")
    end
    local other = record.task and waiting[record.task]
    record = other and loading[other.name] == other and other
  end
end

local function who(record)
  return record.task and "task " .. record.task:get_name() or "the main program"
end

-- Waits for the end of the record, or of its task: a coroutine that is never
-- resumed again does not end its record.
local function wait_for(record, task)
  local future = create_future()
  local first = several({ future, record.task }, record.task and 2 or 1, "FIRST_COMPLETED")
  record[#record + 1] = future
  waiting[task] = record
  local ok, err = pcall(several_wait, first)
  waiting[task] = nil
  if not ok then error(err, 0) end
end

---Called when a module is required that is being loaded. Returns true if what
---stands in package.loaded is to be taken as it is, though the module is not
---complete, as Lua does; false if it is worth another look.
---
---Raises RuntimeError if the load waits for the one who requires it, or if the
---latter cannot wait.
---@param record table
---@param there boolean whether something stands in package.loaded
---@return boolean
---@async
function modules.attend(record, there)
  if abandoned(record) then
    loading[record.name] = nil
    return false
  end
  local task = current_task() or false
  local path = cycle(record, task)
  if path or not core.can_wait() then
    if there then return true end
    if not path then
      error(errors.RuntimeError(("cannot wait in 'require': %s is loading module '%s'")
        :format(who(record), record.name)))
    end
    if record.task == task and status(record.thread) == "suspended" then
      error(errors.RuntimeError(("module '%s' is being loaded by a coroutine that is suspended")
        :format(record.name)))
    end
    error(errors.RuntimeError(("module '%s' requires itself: %s"):format(record.name, path)))
  end
  wait_for(record, task)
  return false
end

return modules
