---@meta

---A clock, to which timers belong: the real one, a manual one that goes on when
---it is told to, or a virtual one that jumps to its next deadline when every task
---is blocked.
---@class perilune.Clock
---@field kind "real"|"manual"|"virtual"
---@field scale number how fast it goes
---@field paused boolean
local Clock = {}

---The time on the clock.
---@return number seconds
function Clock:now() end

---Moves a manual or virtual clock on, scaled; a paused one stays.
---
---Raises ValueError for a real clock and for a negative time.
---@param seconds number of seconds
function Clock:advance(seconds) end

---Stops the clock until `resume`.
function Clock:pause() end

---Lets a paused clock go on.
function Clock:resume() end

---Sets how fast the clock goes.
---
---Raises ValueError unless it is a finite number that is not negative.
---@param scale number
function Clock:set_scale(scale) end
