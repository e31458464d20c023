--- Debug mode's report of scopes that were collected without being closed: made,
--- but not held by a `<close>` variable. Private to the library.
local Watch = {}

function Watch:__gc()
  if self.closed then return end
  require "perilune.log".warning("ResourceWarning: a %s was never closed; it was made at %s",
    self.what, self.place)
end

-- Where the script is: the first frame that is not the library's.
local function place()
  local level = 3
  while true do
    local info = debug.getinfo(level, "Sl")
    if not info then return "an unknown place" end
    if info.what ~= "C" and not info.source:find "perilune/[%w_]+%.lua$" then
      return ("%s:%d"):format(info.short_src, info.currentline)
    end
    level = level + 1
  end
end

local unclosed = {}

---In debug mode a table for the scope to hold, and to set `closed` in when it
---is closed; otherwise nil.
---@param loop perilune.Loop
---@param what string
---@return table?
function unclosed.watch(loop, what)
  if not loop:get_debug() then return nil end
  return setmetatable({ what = what, place = place() }, Watch)
end

return unclosed
