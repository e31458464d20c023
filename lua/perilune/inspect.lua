--- What the tasks are doing: snapshots, the tree of them, and what is said of
--- tasks that will never go on.
local core = require "perilune._core"
local arguments = require "perilune.arguments"

local error, pcall, setmetatable, tostring, type =
  error, pcall, setmetatable, tostring, type
local isfuture, record_of = core.isfuture, core.inspect

local inspect = {}

-- Words -----------------------------------------------------------------------

-- What the end of a block waits for, by the module whose __close does.
local scopes <const> = { task_group = "TaskGroup", futures = "executor", runner = "Runner" }

local function kind_of(future)
  return tostring(future):match "^<(%S+)" or "future"
end

-- A bare future says little: the library's function that waits on it says more.
local function awaited(record)
  local future = record.resource
  if future.get_name then return "await " .. future:get_name() end
  if record.metamethod == "close" and scopes[record.module] then
    return "end of " .. scopes[record.module]
  end
  return record.via or "await " .. kind_of(future)
end

local function waiting_on(record)
  if record.state ~= "waiting" then return nil end
  if record.what == "await" and isfuture(record.resource) then return awaited(record) end
  return record.what
end

local function describe(value)
  local ok, text = pcall(tostring, value)
  return ok and text or type(value)
end

local function holder_of(record)
  local holder = record.holder
  if holder == nil then return "" end
  if holder == record.task then return ", held by itself" end
  return ", held by " .. holder:get_name()
end

local function wait_of(record)
  local what = waiting_on(record)
  local awaited_thing = what:match "^await (.+)"
  local text = awaited_thing and "awaits " .. awaited_thing or "waits in " .. what
  local resource = record.resource
  if record.left then
    local clock = record.clock == "real" and "" or (" on a %s clock"):format(record.clock)
    return ("%s, %.3g s to go%s"):format(text, record.left, clock)
  end
  if resource == nil or isfuture(resource) then return text end
  return ("%s (%s)%s"):format(text, describe(resource), holder_of(record))
end

local function activity(record)
  if record.state == "waiting" then return wait_of(record) end
  if record.state == "running" then return "runs" end
  return record.what == "start" and "has not started" or "is ready to go on"
end

local function accounts(record)
  if not record.steps then return "" end
  local age = record.age and ("%.3g s old, "):format(record.age) or ""
  return (" [%s%d steps, %.3g s of CPU]"):format(age, record.steps, record.cpu)
end

-- One line about a task: its name, its place, what it waits for and who has that.
local function sentence(record)
  local place = record.place and " at " .. record.place or ""
  return ("%s%s: %s%s"):format(record.name, place, activity(record), accounts(record))
end

-- Snapshots ---------------------------------------------------------------------

-- The records of the tasks of one loop, or of all, in the order of creation.
local function records_of(loop, with_frames)
  local records = {}
  for _, each in ipairs(loop and { loop } or core.all_loops()) do
    for _, task in ipairs(core.all_tasks(each)) do
      records[#records + 1] = record_of(task, with_frames)
    end
  end
  table.sort(records, function(a, b) return a.id < b.id end)
  return records
end

-- The stack of a record is kept raw, and told when somebody asks.
local stacks = setmetatable({}, { __mode = "k" })

local Snapshot = { __name = "task snapshot" }

function Snapshot.__index(record, key)
  if key ~= "traceback" then return nil end
  local text = core.trace_text(stacks[record])
  rawset(record, key, text)
  return text
end

Snapshot.__tostring = sentence

---@class perilune.TaskSnapshot
---@field task perilune.Task
---@field id integer counts all tasks of the runtime
---@field name string
---@field state "running"|"ready"|"waiting"
---@field parent integer? the id of the task that created it
---@field place string? file:line of the script's innermost frame
---@field waiting_on string? such as "sleep", "Lock.acquire", "await Task-3"
---@field resource any? the object it waits for: a future, a lock, a queue
---@field holder perilune.Task? the task that holds the lock it waits for
---@field deadline number? when it wakes by itself: seconds on its clock
---@field age number? seconds since its creation, with accounting
---@field steps integer? how often it has run, with accounting
---@field cpu number? seconds of CPU time it has used, with accounting
---@field traceback string where it stands

local function finish(record)
  stacks[record] = record.frames
  record.waiting_on = waiting_on(record)
  record.frames = nil
  return setmetatable(record, Snapshot)
end

local function check_loop(loop)
  local ok, err = pcall(core.all_tasks, loop)
  if ok then return end
  if type(err) == "string" then error(err, 0) end -- not enough memory
  arguments.wrong_type("tasks", 1, "loop or nil", loop)
end

---A snapshot of the tasks that have not ended, in the order of their creation.
---What a task is and waits for costs it nothing; age, steps and CPU time are
---there in debug mode and after `loop:set_accounting(true)` only.
---
---Python: comes closest to `asyncio.capture_call_graph` of 3.14.
---@param loop? perilune.Loop those of all loops if not given
---@return perilune.TaskSnapshot[]
function inspect.tasks(loop)
  if loop ~= nil then check_loop(loop) end
  local records = records_of(loop, true)
  for i = 1, #records do finish(records[i]) end
  return records
end

-- The tree ------------------------------------------------------------------------

-- Tasks below their creators; those whose creators have ended come first.
local function arrange(records)
  local present, below, roots = {}, {}, {}
  for _, record in ipairs(records) do present[record.id] = true end
  for _, record in ipairs(records) do
    local siblings = roots
    if present[record.parent] then
      siblings = below[record.parent] or {}
      below[record.parent] = siblings
    end
    siblings[#siblings + 1] = record
  end
  return roots, below
end

-- Without recursion: a chain of tasks may be long.
local function lines_of(records)
  local roots, below = arrange(records)
  local lines, stack = {}, {}
  local function push(list, depth)
    for i = #list, 1, -1 do stack[#stack + 1] = { record = list[i], depth = depth } end
  end
  push(roots, 1)
  while #stack > 0 do
    local item = table.remove(stack)
    lines[#lines + 1] = ("  "):rep(item.depth) .. sentence(item.record)
    push(below[item.record.id] or {}, item.depth + 1)
  end
  return lines
end

local function count(n)
  return n == 1 and "1 task" or n .. " tasks"
end

---The tree of tasks as text; C calls it for SIGUSR1.
---@return string
function inspect.tree()
  local records = records_of(nil, false)
  local lines = lines_of(records)
  table.insert(lines, 1, count(#records) .. (#records > 0 and ":" or ""))
  return table.concat(lines, "\n")
end

---Prints all tasks as a tree, each below the one that created it: name, place,
---what it waits for and who holds that.
---
---Python: comes closest to `python -m asyncio pstree` of 3.14.
---@param file? file* where to, stderr if not given
function inspect.print_tasks(file)
  if file ~= nil and io.type(file) ~= "file"
    and not (type(file) == "table" and arguments.callable(file.write)) then
    arguments.wrong_type("print_tasks", 1, "open file or nil", file)
  end
  file = file or io.stderr
  file:write(inspect.tree(), "\n")
end

-- Deadlocks ---------------------------------------------------------------------

local MOST_TOLD <const> = 20

---The error of a loop that would block for ever.
---@param loop perilune.Loop
---@return perilune.BaseError
function inspect.deadlock(loop)
  local DeadlockError = require "perilune.errors".DeadlockError
  local all = core.all_tasks(loop)
  if #all == 0 then
    return DeadlockError "nothing can happen any more: no task is left that could end the run"
  end
  local lines = {}
  for i = 1, math.min(#all, MOST_TOLD) do
    local record = record_of(all[i])
    lines[#lines + 1] = record and sentence(record)
  end
  if #all > MOST_TOLD then lines[#lines + 1] = ("and %d more"):format(#all - MOST_TOLD) end
  return DeadlockError(("nothing can happen any more: %s for ever\n  %s"):format(
    #all == 1 and "1 task waits" or #all .. " tasks wait", table.concat(lines, "\n  ")))
end

---Ends the tasks of a loop that is stuck, as the end of `run` does, and returns
---the error; C runs it as a task of the loop.
---@param loop perilune.Loop
---@param err any
---@return any err
---@async
function inspect.end_stuck(loop, err)
  require "perilune.runner".end_tasks(loop)
  return err
end

---Logs that tasks wait for each other in a circle, which the first of them is
---about to close. The log may call the script, which must not run inside of a
---wait that begins: so that happens in the next round.
---@param tasks perilune.Task[]
---@param what string the wait of the first
---@param resource any and what it is for
function inspect.report_cycle(tasks, what, resource)
  local lines = {}
  for i, task in ipairs(tasks) do
    local record = record_of(task)
    if i == 1 then
      record.state, record.what, record.resource = "waiting", what, resource
      if not isfuture(resource) then record.holder = tasks[2] or task end
    end
    lines[i] = "\n  " .. sentence(record)
  end
  local text = #tasks == 1 and "a task waits for a lock that it holds itself:"
    or ("%d tasks wait for each other in a circle:"):format(#tasks)
  local loop = tasks[1]:get_loop()
  loop:call_soon(require "perilune.log".warning, "%s", text .. table.concat(lines))
end

return inspect
