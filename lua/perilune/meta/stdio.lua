---@meta

---The terminal's raw mode, which ends with the block: see `stdio.raw`.
---@class perilune.RawMode
local RawMode = {}

---Ends the mode; once is enough.
function RawMode:restore() end
