---@meta

---The signals that have come, see `signal.stream`. Called, as a for loop does, it is
---`get()`.
---@class perilune.SignalStream
local SignalStream = {}

---Waits for a signal; returns those that came meanwhile first, in the order of
---their coming, each once. Several tasks may wait: each signal is for one of them.
---
---Raises TimeoutError after `timeout`.
---
---Cancellation: loses no signal.
---@param options? { timeout: number? } timeout: seconds
---@return string|integer? name "SIGHUP"; the number of a real-time signal; nil: the
---stream has been closed
---@async
function SignalStream:get(options) end

---Stops listening. Who waits gets nil.
function SignalStream:close() end
