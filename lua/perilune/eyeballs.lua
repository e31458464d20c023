--- Connections to several addresses at once, the first to stand wins (RFC 8305);
--- and the wait by the real clock that this takes. Private to the library.
local core = require "perilune._core"
local errors = require "perilune.errors"
local owned = require "perilune.owned"

local error, ipairs, pcall, setmetatable = error, ipairs, pcall, setmetatable
local can_wait, create_task = core.can_wait, core.create_task
local several, several_wait, several_limit_real =
  core.several, core.several_wait, core.several_limit_real
local get_running_loop = core.get_running_loop
local OSError = errors.OSError

local eyeballs = {}

-- The attempts under way, and what has become of the others.
local Race = {}

local Timer = {}

function Timer:__close(err) -- luacheck: no unused args
  if self.handle then self.handle:cancel() end
end

---Waits until one of the futures has ended, or for the delay. By the real clock:
---what the kernel does takes no virtual time.
---@param futures perilune.Future[]
---@param delay number? seconds; nil, false: as long as it takes
---@async
function eyeballs.wait(futures, delay)
  local first = several(futures, #futures, "FIRST_COMPLETED")
  if not delay then return several_wait(first) end
  local timer <close> = setmetatable({ handle = false }, Timer)
  timer.handle = several_limit_real(get_running_loop(), delay, first)
  several_wait(first)
end

local function note(race, task)
  if task:cancelled() then
    race.failure = race.failure or errors.CancelledError()
    return
  end
  local err = task:exception()
  if err ~= nil then
    if OSError:is(err) then
      race.problems[#race.problems + 1] = err
    else
      race.failure = race.failure or err
    end
  elseif race.stream then
    task:result():abort() -- two at the same moment
  else
    race.stream = task:result()
  end
end

-- Takes the attempts that have ended out of the race.
local function sort_out(race)
  local pending = {}
  for _, task in ipairs(race.pending) do
    if task:done() then
      note(race, task)
    else
      pending[#pending + 1] = task
    end
  end
  race.pending = pending
end

-- Whatever ends the race: the attempts are given up and have ended then. A
-- cancellation that comes meanwhile is raised at the end.
function Race:__close(err)
  local problem = err
  for _, task in ipairs(self.pending) do task:cancel() end
  while #self.pending > 0 and can_wait() do
    local ok, late = pcall(several_wait, several(self.pending, #self.pending, "ALL_COMPLETED"))
    if not ok and problem == nil then problem = late end
    sort_out(self)
  end
  owned.hand_over(self.pending)
  if problem == nil then return end
  if self.stream then self.stream:abort() end -- nobody gets it
  if err == nil then error(problem, 0) end
end

---Calls `connect(entry, opts)` in tasks for the entries, in order: the next when
---one has failed or `delay` seconds have gone by, until one returns a stream. The
---others are cancelled and have ended then.
---
---Raises what an attempt raises that is no OSError.
---@return perilune.Stream? stream
---@return perilune.OSError[] problems of those that failed
---@async
function eyeballs.race(list, delay, connect, opts)
  local started = 0
  local race <close> = setmetatable({ pending = {}, problems = {} }, Race)
  repeat
    if started < #list then
      started = started + 1
      race.pending[#race.pending + 1] = create_task(connect, list[started], opts)
    end
    eyeballs.wait(race.pending, started < #list and delay)
    sort_out(race)
    if race.failure ~= nil then error(race.failure, 0) end
  until race.stream or started == #list and #race.pending == 0
  return race.stream, race.problems
end

return eyeballs
