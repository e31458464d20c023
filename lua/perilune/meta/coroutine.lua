---@meta

---A call that has not begun; it is made when the object is awaited, or as a task.
---
---Python: a coroutine object.
---@class perilune.Coroutine: perilune.Awaitable
local Coroutine = {}

---Makes the call, in the same task, and returns what it returns.
---
---Raises RuntimeError if it was made before.
---@return any ...
---@async
function Coroutine:await() end

---Gives the call up. In debug mode an object that was neither awaited nor closed
---is reported. As a `<close>` variable an object is closed at the end of its block.
function Coroutine:close() end
