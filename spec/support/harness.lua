-- How one test is run. busted's own executor for `it` calls hooks and body in
-- the task that runs busted; ours does so in the main task of a Runner made
-- for this test alone, on the virtual clock, and then looks for what was left
-- behind: tasks still pending, errors that nobody retrieved, descriptors.
--
-- The order is busted's (2.1): lazy setup, before_each, the body, `finally`,
-- after_each. A leak is told as a failure of the test, unless the test has
-- failed already: what it left behind is then a consequence.
local lfs = require "lfs"
local peri = require "perilune"

local harness = { at_top_level = setmetatable({}, { __mode = "k" }) }

local function count_descriptors()
  local count = 0
  for _ in lfs.dir "/proc/self/fd" do count = count + 1 end
  return count
end

local function describe_report(context)
  local lines = { tostring(context.message) }
  if context.exception ~= nil then
    lines[2] = "  " .. select(2, pcall(tostring, context.exception))
  end
  local trace = type(context.exception) == "table" and context.exception.traceback
  if type(trace) == "string" then lines[#lines + 1] = trace end
  return table.concat(lines, "\n")
end

-- Names what is pending in the loop beyond the set `known`, or nil.
local function pending_tasks(loop, known)
  local names = {}
  for _, task in ipairs(peri.all_tasks(loop)) do
    if not known[task] then names[#names + 1] = tostring(task) end
  end
  if #names == 0 then return nil end
  table.sort(names)
  return "tasks still pending at the end of the test:\n  " .. table.concat(names, "\n  ")
end

local function task_set(loop)
  local set = {}
  for _, task in ipairs(peri.all_tasks(loop)) do set[task] = true end
  return set
end

-- What the collector and a loop's end bring to light arrives at the loop's
-- exception handler; a test that expects reports puts its own in place.
local function watch(loop)
  local reports = {}
  loop:set_exception_handler(function(_, context)
    reports[#reports + 1] = describe_report(context)
  end)
  return reports
end

-- The test proper, inside its task. `fail(text)` records a failure of it.
local function run_body(core, block, element, loop, fail)
  local parent = core.context.parent(element)
  local finally
  element.env.finally = function(fn) finally = fn end
  element.env.pending = core.pending
  local passed, ancestor = block.execAll("before_each", parent, true)
  local status = core.status(passed and "success" or "error")
  if passed then
    local known = task_set(loop)
    status:update(core.safe("it", element.run, element))
    if finally then
      block.reject("pending", element)
      status:update(core.safe("finally", finally, element))
    end
    require "support".close_gates()
    local pending = pending_tasks(loop, known)
    if pending and status:success() then fail(status, pending) end
  end
  block.dexecAll("after_each", ancestor, true)
  return status
end

local function on_fresh_loop(core, block, element, fail)
  local runner = peri.Runner { clock = peri.Clock { kind = "virtual" } }
  local loop = runner:get_loop()
  local reports = watch(loop)
  local status = runner:run(run_body, core, block, element, loop, fail)
  collectgarbage()
  collectgarbage()
  runner:close()
  return status, reports
end

local function at_top_level(core, block, element, fail)
  local loop = peri.get_running_loop()
  local reports = watch(loop)
  local status = run_body(core, block, element, loop, fail)
  collectgarbage()
  collectgarbage()
  loop:set_exception_handler(nil)
  return status, reports
end

local function check_leaks(status, reports, descriptors, fail)
  if not status:success() then return end
  if #reports > 0 then
    return fail(status, "reported and not expected:\n" .. table.concat(reports, "\n"))
  end
  collectgarbage()
  collectgarbage()
  local now = count_descriptors()
  if now ~= descriptors then
    fail(status, ("%d descriptors were open before the test, %d after it"):format(descriptors, now))
  end
end

local function execute(core, block, element)
  local parent = core.context.parent(element)
  if not block.lazySetup(parent) then return end
  if not element.env then element.env = {} end
  block.rejectAll(element)

  local function fail(status, text)
    status:update(core.safe("it", function() core.fail(text, 0) end, element))
  end

  local status = core.status "error"
  collectgarbage()
  if core.safe_publish("test", { "test", "start" }, element, parent) then
    local descriptors = count_descriptors()
    local run = harness.at_top_level[element.run] and at_top_level or on_fresh_loop
    -- An error here is the runtime's, or a kill meant for the test's own task.
    core.safe("it", function()
      local reports
      status, reports = run(core, block, element, fail)
      check_leaks(status, reports, descriptors, fail)
    end, element)
    require "support".clean_up()
  end
  core.safe_publish("test", { "test", "end" }, element, parent, tostring(status))
end

---Puts the executor in place; a later registration hides the earlier one.
function harness.install()
  -- libuv opens descriptors for the whole process with its first loop, and a
  -- loop of ours opens its own when it first looks at the kernel.
  peri.sleep(0.001)
  peri.run(peri.sleep, 0.001)
  local core = harness.core
  local block = require "busted.block" (core)
  core.register("it", function(element) execute(core, block, element) end)
end

return harness
