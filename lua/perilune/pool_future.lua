--- Waiting for jobs: `result(timeout)`, `wait` and `as_completed` of the futures
-- that pools give. Timeouts are the real clock's.
local core = require "perilune._core"
require "perilune._pool" -- gives core.JobFuture
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local outside = require "perilune.outside"

local error, ipairs, setmetatable, tostring = error, ipairs, setmetatable, tostring
local TimeoutError = errors.TimeoutError
local create_future, get_running_loop = core.create_future, core.get_running_loop
local is_job_future = core.is_job_future
local several, several_limit_real, several_wait =
  core.several, core.several_limit_real, core.several_wait
local Future = core.JobFuture
local is_done, is_cancelled, get_exception, add_done_callback =
  Future.done, Future.cancelled, Future.exception, Future.add_done_callback
local await = core.Future.await

local FIRST_COMPLETED <const> = "FIRST_COMPLETED"
local FIRST_EXCEPTION <const> = "FIRST_EXCEPTION"
local ALL_COMPLETED <const> = "ALL_COMPLETED"

local pool_future = {
  FIRST_COMPLETED = FIRST_COMPLETED,
  FIRST_EXCEPTION = FIRST_EXCEPTION,
  ALL_COMPLETED = ALL_COMPLETED,
}

-- Cancels a timer, however the wait ends.
local Limit = {}

function Limit:__close(err) -- luacheck: no unused args
  self.timer:cancel()
end

-- Waits for some of n futures, at most timeout seconds.
local function wait_for(list, n, timeout, return_when)
  local wait = several(list, n, return_when)
  if timeout == nil then return several_wait(wait) end
  local limit <close> = setmetatable({ timer = false }, Limit)
  limit.timer = several_limit_real(get_running_loop(), timeout, wait)
  return several_wait(wait)
end

-- For C, which has seen that the future is not done and cannot simply be waited
-- for.
function Future:_wait(timeout, name)
  arguments.seconds(name, 1, timeout, true)
  if timeout == nil or timeout > 0 then
    outside.wait(wait_for, { self }, 1, timeout, ALL_COMPLETED)
  end
  if not is_done(self) then error(TimeoutError()) end
end

-- The futures of a list, each once, and their number.
local function collect(name, list)
  if not arguments.plain(list) then
    arguments.wrong_type(name, 1, "list of pool futures", list)
  end
  local futures, seen, n = {}, {}, 0
  for i = 1, list.n or #list do
    local future = list[i]
    if not is_job_future(future) then
      arguments.wrong_type(name, 1, ("a pool's future as element %d"):format(i), future)
    end
    if not seen[future] then
      seen[future] = true
      n = n + 1
      futures[n] = future
    end
  end
  return futures, n
end

local function split(futures)
  local done, not_done = {}, {}
  for _, future in ipairs(futures) do
    local list = is_done(future) and done or not_done
    list[#list + 1] = future
  end
  return done, not_done
end

local function failed(future)
  return not is_cancelled(future) and get_exception(future) ~= nil
end

-- Whether the futures that are done will do.
local function suffices(done, not_done, return_when)
  if #not_done == 0 then return true end
  if return_when == FIRST_COMPLETED then return #done > 0 end
  if return_when == ALL_COMPLETED then return false end
  for _, future in ipairs(done) do
    if failed(future) then return true end
  end
  return false
end

local wait_options <const> = { timeout = true, return_when = true }

---Waits for the futures of pools and says which are done: those that were
---cancelled count. Neither their errors nor the timeout raise anything.
---
---Raises ValueError for an unknown `return_when`, TypeError for what is no
---pool's future.
---
---Cancellation: the jobs are not touched.
---
---Python: `concurrent.futures.wait`, differs in that lists, in the order given
---and each future once, take the place of sets.
---@param list perilune.JobFuture[]
---@param options? { timeout: number?, return_when: string? } timeout: seconds;
---return_when: FIRST_COMPLETED, FIRST_EXCEPTION or ALL_COMPLETED
---@return perilune.JobFuture[] done
---@return perilune.JobFuture[] not_done
---@async
function pool_future.wait(list, options)
  local futures, n = collect("wait", list)
  arguments.options("wait", 2, options, wait_options)
  local timeout = options and options.timeout
  arguments.seconds("wait", 2, timeout, true)
  local return_when = options and options.return_when or ALL_COMPLETED
  if return_when ~= ALL_COMPLETED and return_when ~= FIRST_COMPLETED
    and return_when ~= FIRST_EXCEPTION then
    arguments.wrong_value("wait", 2, ("invalid return_when: %q"):format(tostring(return_when)))
  end
  local done, not_done = split(futures)
  if suffices(done, not_done, return_when) or timeout and timeout <= 0 then
    return done, not_done
  end
  outside.wait(wait_for, not_done, #not_done, timeout, return_when)
  if #not_done == n then return split(not_done) end
  return split(futures)
end

-- What as_completed keeps: those that have ended and were not given yet, and the
-- future for which it waits.
local Completion = {}

function Completion:__close(err) -- luacheck: no unused args
  self.closed = true
end

local function await_pulse(completion)
  completion.pulse = create_future()
  local deadline = completion.deadline
  if not deadline then
    await(completion.pulse)
  elseif deadline > core.now() then
    wait_for({ completion.pulse }, 1, deadline - core.now(), ALL_COMPLETED)
  end
  completion.pulse = nil
end

local function next_completed(completion)
  if completion.given == completion.n then return nil end
  if completion.given == completion.ended then
    outside.wait(await_pulse, completion)
    if completion.given == completion.ended then
      error(TimeoutError(("%d (of %d) futures unfinished")
        :format(completion.n - completion.given, completion.n)))
    end
  end
  completion.given = completion.given + 1
  local future = completion[completion.given]
  completion[completion.given] = nil
  return future
end

local as_completed_options <const> = { timeout = true }

---Iterates over the futures of pools in the order in which they end, first those
---that have ended already: `for future in futures.as_completed(list) do`. Each
---comes once. Errors do not stop it.
---
---Raises TimeoutError, in the loop, if not all are done `timeout` seconds after
---the call.
---
---Cancellation: the jobs are not touched.
---
---Python: `concurrent.futures.as_completed`.
---@param list perilune.JobFuture[]
---@param options? { timeout: number? } seconds
---@return fun(): perilune.JobFuture?
---@return table state
---@return nil
---@return perilune.Closable closable
---@async
function pool_future.as_completed(list, options)
  local futures, n = collect("as_completed", list)
  arguments.options("as_completed", 2, options, as_completed_options)
  local timeout = options and options.timeout
  arguments.seconds("as_completed", 2, timeout, true)
  local completion = setmetatable({
    n = n, ended = 0, given = 0, closed = false,
    deadline = timeout and core.now() + timeout,
  }, Completion)
  local function ended(future)
    if completion.closed then return end
    completion.ended = completion.ended + 1
    completion[completion.ended] = future
    local pulse = completion.pulse
    if pulse and not pulse:done() then pulse:set_result() end
  end
  local done, not_done = split(futures)
  for _, future in ipairs(done) do ended(future) end
  for _, future in ipairs(not_done) do add_done_callback(future, ended) end
  return next_completed, completion, nil, completion
end

return pool_future
