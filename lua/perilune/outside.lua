--- Waiting where no loop runs: in a host's own code, in the main chunk of a
-- stock interpreter. A loop of ours runs then for as long as the wait takes, so
-- that results come, done callbacks are called, and timeouts and deadlocks are
-- told as they are anywhere.
local core = require "perilune._core"

local get_running_loop, new_event_loop = core.get_running_loop, core.new_event_loop
local call, pcall = core.call, pcall

local outside = {}

-- Kept for the next time; in use while it runs.
local spare

local function release(loop)
  if spare == nil then spare = loop else loop:close() end
end

local function finish(loop, ok, ...)
  release(loop)
  if ok then return ... end
  error((...), 0)
end

local function run(fn, ...)
  local loop = spare or new_event_loop()
  spare = nil
  return finish(loop, pcall(loop.run_until_complete, loop, call(fn, ...)))
end

---Calls a function that waits: in the running task, or with a loop of its own
---where no loop runs. In a callback the wait raises, as any does.
---@param fn function
---@param ... any
---@return any ...
---@async
function outside.wait(fn, ...)
  if pcall(get_running_loop) then return fn(...) end
  return run(fn, ...)
end

return outside
