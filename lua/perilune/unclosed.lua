--- Debug mode's report of what was collected without being closed: a scope that
--- is not held by a `<close>` variable, an executor nobody shut down. Private to
--- the library.
--
-- In debug mode (`core.debugging`) whatever is to be closed holds a sentry, which
-- knows where it was made and reports when it is collected, or at the latest
-- when the runtime closes. C has its own of the same kind (debug.c).
local core = require "perilune._core"

local watch, release = core.watch, core.release

local unclosed = {}

---A sentry, in debug mode; otherwise nil.
---@param what string what it stands in: "task group"
---@return userdata?
function unclosed.watch(what)
  if not core.debugging then return nil end
  return watch(what)
end

---Releases the sentry of what is closed.
---@param sentry userdata?
function unclosed.closed(sentry)
  if sentry then release(sentry) end
end

return unclosed
