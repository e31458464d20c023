---@meta

---What happens to a file, or in a directory; `fs.watch` makes it.
---`for kind, name in watch do` goes through the events until it is closed.
---@class perilune.Watch
---@field dropped integer events that came and found no room
---@field closed boolean
local Watch = {}

---Waits for the next event: "change" (of what is in a file, or known of it) or
---"rename" (it has come, gone or been moved), with the name of the file in the
---directory; "overflow" and a number where that many events are missing, so that
---one has to look for oneself (a recursive watch has found all directories by then);
---"error" and a code, and the directory's name in a recursive watch. nil once it is
---closed.
---
---Raises TimeoutError if none comes within `timeout` seconds.
---
---Cancellation: no event is lost.
---@param options? { timeout: number? } seconds
---@return "change"|"rename"|"overflow"|"error"|nil kind
---@return string|integer|nil name
---@return string? directory
---@async
function Watch:next(options) end

---Ends the watch; harmless if it is closed. Tasks that wait get nil.
function Watch:close() end
