--- Connections to several addresses at once, the first to stand wins (RFC 8305).
--- Private to the library.
local core = require "perilune._core"
local errors = require "perilune.errors"
local task_group = require "perilune.task_group"

local error, pcall, setmetatable = error, pcall, setmetatable
local call_later_real, create_future, get_running_loop =
  core.call_later_real, core.create_future, core.get_running_loop
local await = core.Future.await

local function ring(bell)
  if not bell:done() then bell:set_result() end
end

local Timer = {}

function Timer:__close(err) -- luacheck: no unused args
  self.handle:cancel()
end

-- Waits until an attempt has ended, or for the delay by the real clock.
local function wait_for_news(race, delay)
  if not delay then return await(race.bell) end
  local handle = call_later_real(get_running_loop(), delay, ring, race.bell)
  local _ <close> = setmetatable({ handle = handle }, Timer)
  await(race.bell)
end

local function attempt(race, entry, connect, opts)
  local ok, result = pcall(connect, entry, opts)
  if not ok and not errors.OSError:is(result) then error(result, 0) end
  if ok and race.stream then
    result:abort() -- two at the same moment
  elseif ok then
    race.stream = result
  else
    race.problems[#race.problems + 1] = result
  end
  race.pending = race.pending - 1
  ring(race.bell)
end

local function run(group, race, list, delay, connect, opts)
  local started = 0
  repeat
    race.bell = create_future()
    if started < #list then
      started = started + 1
      race.pending = race.pending + 1
      group:create_task(attempt, race, list[started], connect, opts)
    end
    wait_for_news(race, started < #list and delay)
  until race.stream or started == #list and race.pending == 0
  group:cancel()
end

local eyeballs = {}

---Calls `connect(entry, opts)` for the entries, in order: the next when one has
---failed or `delay` seconds have gone by, until one returns a stream. The others
---are cancelled and have ended then.
---@return perilune.Stream? stream
---@return perilune.OSError[] problems of those that failed
---@async
function eyeballs.race(list, delay, connect, opts)
  local race = { pending = 0, problems = {} }
  local ok, err = pcall(task_group.TaskGroup, run, race, list, delay, connect, opts)
  if ok then return race.stream, race.problems end
  if race.stream then race.stream:abort() end -- nobody gets it
  if errors.ExceptionGroup:is(err) and #err.exceptions == 1 then err = err.exceptions[1] end
  error(err, 0)
end

return eyeballs
