---@meta

---A server. While it serves its loop holds it, whether the script does or not. A
---`<close>` variable closes it: a block that ends well waits for the connections to
---end; where an error leaves the block their streams are closed instead.
---
---Python: `asyncio.Server`.
---@class perilune.Server
---@field sockets perilune.ServerSocket[] where it listens; empty once it is closed
local Server = {}

---Takes no more connections; those there are go on. A Unix socket is removed.
---
---Python: `Server.close`.
function Server:close() end

---Waits until the server is closed and its connections have ended.
---
---Cancellation: touches nothing.
---
---Python: `Server.wait_closed` of 3.12 and later.
---@param options? { timeout: number? } seconds
---@async
function Server:wait_closed(options) end

---Whether connections are taken.
---
---Python: `Server.is_serving`.
---@return boolean
function Server:is_serving() end

---Begins to take connections, unless it does already.
---
---Raises RuntimeError if the server is closed, OSError if the kernel refuses.
---
---Python: `Server.start_serving`.
---@async
function Server:start_serving() end

---Takes connections until it is cancelled, or the server closed: either way it ends
---with CancelledError, and the server and its clients are closed.
---
---Raises RuntimeError if the server is closed, or was called so already.
---
---Cancellation: closes server and clients, waits for them, and is raised.
---
---Python: `Server.serve_forever`.
---@async
function Server:serve_forever() end

---Closes the streams of all connections, as their `close` does. Their handlers find
---them closed; what they raise about that is not reported.
---
---Python: `Server.close_clients` of 3.13.
function Server:close_clients() end

---Closes the connections now; what is queued is lost.
---
---Python: `Server.abort_clients` of 3.13.
function Server:abort_clients() end
