-- The ramp over a failing allocator: each call of the public surface is made
-- again and again, and the n-th request for memory during it fails, for every
-- n. See oom.c, which gives the host's functions and an action:
--
--   "names"      -> the names of the cases, with those of the check
--   "ramp", name -> makes every point of the case, and prints a line
--   "point", name, n, how -> makes one
--   "surface"    -> fails if a public name is in no case
--
-- A case is a table:
--   setup(t)        with memory; leaves what the call needs in t
--   call(t)         the call under test: from its beginning to its end memory
--                   fails at point n; with `manual` only from t.arm() on
--   check(t, ok, ...)  with memory again: what became of it
--   outside         runs in the host's main task, not in a loop of its own
--   covers          what else the case is about, besides its name
--   allow(err, t)   errors that are right, besides running out of memory
--   reported(context, t)  likewise for reports to the exception handler
--   logged(text)    likewise for lines of the log
--   grows           what it makes stays for good, by its nature
--   stays           how many tasks the case leaves; they are cancelled
--
-- A call ends with its result or with "not enough memory". Then the loop must
-- work, no task may be left, and no place in the loop's tables; and when the
-- loop is closed and collected every byte is back.
local host, action, name, only_n, only_how = ...
local peri = require "perilune"
local Clock, Future = peri.Clock, peri.Future

local MODES <const> = { "once", "twice", "for good" }
local FILES <const> = {
  "tasks", "futures", "gathers", "scopes", "locks", "queues", "loops", "others",
  "looks", "yieldables",
}
local MOST_POINTS <const> = 2000

local kit = { host = host }

-- Telling ---------------------------------------------------------------------

function kit.is_memory(err)
  if peri.ExceptionGroup:is(err) then
    for _, inner in ipairs(err.exceptions) do
      if not kit.is_memory(inner) then return false end
    end
    return #err.exceptions > 0
  end
  return err == "not enough memory"
end

function kit.same(expected, actual, what)
  if expected ~= actual then
    error(("%s is %s, not %s"):format(what or "it", tostring(actual), tostring(expected)), 2)
  end
end

-- Fails unless the error is the one of a call that found no memory.
function kit.memory(err, what)
  if not kit.is_memory(err) then
    error(("%s ended with: %s"):format(what or "the call", tostring(err)), 2)
  end
end

-- Lets everything that is ready run, and what that makes ready.
function kit.settle()
  for _ = 1, 12 do peri.sleep(0) end
end

local function deep(n)
  if n > 0 then deep(n - 1) end
  return n
end

local function warm(loop)
  loop:call_soon(deep, 20)
  peri.sleep(0)
end

-- Calls fn after a while, with memory again. The callback itself must not fail
-- for want of memory: what Lua needs to call it is made sure of.
function kit.later(fn)
  local loop = peri.get_running_loop()
  warm(loop)
  loop:call_later(0.01, function()
    host.arm(0)
    fn()
  end)
end

-- Calls fn, which may be called twice, after a while, memory or not: should one
-- callback fail for want of it another comes.
function kit.certainly(seconds, fn)
  local loop = peri.get_running_loop()
  warm(loop)
  for i = 0, 2 do loop:call_later(seconds + i / 1000, fn) end
end

-- The outcome of a future or task, which must have one: a value, or an error.
function kit.ended(future, what)
  if not future:done() then error((what or "the future") .. " is still pending", 2) end
  return pcall(future.result, future)
end

-- A future or task that ends with the value, or without memory.
function kit.value_or_memory(future, value, what)
  local ok, result = kit.ended(future, what)
  if ok then
    kit.same(value, result, what)
  elseif not peri.iscancel(result) then
    kit.memory(result, what)
  end
  return ok
end

-- The loop ---------------------------------------------------------------------

local function loop_works()
  local soon, later, done = false, false, false
  local loop = peri.get_running_loop()
  local future = Future()
  future:add_done_callback(function() done = true end)
  loop:call_soon(function() soon = true end)
  loop:call_later(0.02, function() later = true end)
  local task = peri.create_task(function(...)
    peri.sleep(0.01)
    future:set_result(1)
    return ...
  end, 7, 8)
  local a, b = task:await()
  kit.same(7, a, "what a fresh task returns")
  kit.same(8, b, "what a fresh task returns second")
  kit.same(1, future:await(), "what a fresh future gives")
  peri.sleep(0.02)
  if not (soon and later and done) then
    error(("callbacks were lost: soon %s, later %s, done %s"):format(soon, later, done))
  end
end

-- The places that are taken in the loop's table of anchors: of coroutines, and
-- of everything else.
local function places(loop)
  local threads, others = 0, 0
  for _, value in pairs((debug.getuservalue(loop, 1))) do
    if type(value) == "thread" then
      threads = threads + 1
    elseif math.type(value) ~= "integer" then
      others = others + 1
    end
  end
  return threads, others
end

-- Coroutines that stand there and are neither a task's nor to be used again:
-- as many tasks as there are coroutines need not one more.
local function check_coroutines(loop)
  local before = places(loop)
  local tasks = {}
  for i = 1, before - 1 do tasks[i] = peri.create_task(peri.sleep, 0) end
  local after = places(loop)
  for _, task in ipairs(tasks) do task:await() end
  if after > before then
    error(("%d coroutines are lost"):format(after - before))
  end
end

local function check_leftovers(case, loop)
  local left = {}
  for _, task in ipairs(peri.all_tasks()) do
    if task ~= peri.current_task() then left[#left + 1] = task end
  end
  if #left > (case.stays or 0) then
    error(("%d tasks are left: %s"):format(#left, tostring(left[1])))
  end
  for _, task in ipairs(left) do task:cancel() end
  kit.settle()
  left = nil -- luacheck: no unused
  collectgarbage()
  local _, others = places(loop)
  if others > 0 then error(others .. " places in the loop's table are lost") end
  check_coroutines(loop)
end

-- A point ----------------------------------------------------------------------

local function make_call(case, t, n, how)
  function t.arm() host.arm(n, how) end
  local result = table.pack(host.under(case.manual and 0 or n, how, case.call, t))
  local ok, err = result[1], result[2]
  if not ok and not (case.allow and case.allow(err, t)) then kit.memory(err, "the call") end
  if case.check then case.check(t, table.unpack(result, 1, result.n)) end
end

local function inside(case, t, n, how, loop)
  local main = peri.current_task()
  local guard = loop:call_later(1e6, function()
    host.arm(0)
    t.hung = true
    main:cancel()
  end)
  local ok, err = xpcall(function()
    if case.setup then case.setup(t) end
    make_call(case, t, n, how)
    loop_works()
  end, debug.traceback)
  host.arm(0)
  if t.hung then error("the call hangs; " .. tostring(err), 0) end
  if not ok then error(err, 0) end
  guard:cancel()
  t.result = nil
  for key in pairs(t) do t[key] = nil end
  check_leftovers(case, loop)
end

-- What an exception handler is given, in a table that needs no memory for it.
local function new_reports()
  local reports = { n = 0 }
  for i = 1, 16 do reports[i] = false end
  return reports, function(_, context)
    reports.n = reports.n + 1
    reports[reports.n] = context
  end
end

local function check_reports(case, reports, t)
  for i = 1, reports.n do
    local context = reports[i]
    local told = case.reported and case.reported(context, t)
    if not told and not kit.is_memory(context.exception) then
      error(("reported: %s: %s"):format(tostring(context.message),
        tostring(context.exception)), 0)
    end
  end
  local lines, text = host.log_lines()
  if lines > 0 and not text:find("not enough memory", 1, true)
    and not (case.logged and case.logged(text)) then
    error("logged: " .. text, 0)
  end
end

local function point(case, n, how)
  local reports, handler = new_reports()
  local t = { reports = reports }
  host.log_lines()
  if case.outside then
    if case.setup then case.setup(t) end
    make_call(case, t, n, how)
    host.arm(0)
    check_reports(case, reports, t)
    peri.sleep(0)
    return
  end
  local loop
  do
    local _ <close> = peri.use_clock(Clock { kind = "virtual" })
    loop = peri.new_event_loop()
  end
  loop:set_exception_handler(handler)
  loop:run_until_complete(peri.call(inside, case, t, n, how, loop))
  loop:close()
  check_reports(case, reports, t)
end

-- The bytes in use that no collection brings back.
local function bytes()
  collectgarbage()
  collectgarbage()
  return host.bytes()
end

-- Tables that grow once do so; what grows each time is a leak.
local function check_growth(case, n, how)
  local before = bytes()
  local grown = {}
  for i = 1, 40 do
    point(case, n, how)
    local now = bytes()
    if now <= before then return end
    grown[i] = now - before
    before = now
  end
  error(("bytes are lost: %s"):format(table.concat(grown, ", ")), 0)
end

local function ramp(case, how)
  local before = bytes()
  local n, ended_well = 0, 0
  repeat
    n = n + 1
    if n > MOST_POINTS then error("there is no end of points", 0) end
    local ok, err = pcall(point, case, n, how)
    host.arm(0)
    if not ok then
      error(("point %d, failing %s: %s"):format(n, MODES[how], tostring(err)), 0)
    end
    local reached = host.reached()
    local now = bytes()
    if now > before and not case.grows then
      ok, err = pcall(check_growth, case, n, how)
      if not ok then
        error(("point %d, failing %s: %s"):format(n, MODES[how], tostring(err)), 0)
      end
      now = bytes()
    end
    before = now
    if reached and host.fine() then ended_well = ended_well + 1 end
  until not reached
  return n - 1, ended_well
end

-- Cases -------------------------------------------------------------------------

local cases, order = {}, {}

local function load_cases(file)
  local add = function(title, case)
    if cases[title] then error("two cases of the name " .. title) end
    case.file = file
    cases[title] = case
    order[#order + 1] = title
  end
  assert(loadfile(host.directory .. "/oom/" .. file .. ".lua"))(kit, add)
end

local actions = {}

function actions.names()
  for _, file in ipairs(FILES) do load_cases(file) end
  for i, title in ipairs(order) do order[i] = cases[title].file .. " " .. title end
  return table.unpack(order)
end

local function pick()
  local file, title = name:match "^(%S+) (.*)$"
  load_cases(file)
  local case = assert(cases[title], "no such case")
  cases, order = nil, nil
  collectgarbage "stop"
  return case, title
end

function actions.ramp()
  local case, title = pick()
  point(case, 0, 1)
  point(case, 0, 1)
  local points, fine = {}, 0
  for how = 1, #MODES do
    local well
    points[how], well = ramp(case, how)
    fine = fine + well
  end
  local all = points[1] + points[2] + points[3]
  print(("%-44s %4d points (%s): %d went well, %d found no memory"):format(
    title, all, table.concat(points, " + "), fine, all - fine))
  return all
end

function actions.point()
  local case = pick()
  point(case, 0, 1)
  point(case, 0, 1)
  point(case, only_n, only_how)
  print(host.reached() and "reached" or "not reached")
end

function actions.surface()
  for _, file in ipairs(FILES) do load_cases(file) end
  return assert(loadfile(host.directory .. "/oom/surface.lua"))(kit, cases)
end

return actions[action]()
