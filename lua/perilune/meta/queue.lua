---@meta

---A queue between tasks, first in first out. nil is an item like any other.
---
---Python: `asyncio.Queue`.
---@class perilune.Queue
---@field maxsize integer how many items fit; 0 or less: any number
local Queue = {}

---A queue that gives the newest item first.
---
---Python: `asyncio.LifoQueue`.
---@class perilune.LifoQueue: perilune.Queue

---A queue that gives the smallest item first, and of equal ones the oldest.
---
---Python: `asyncio.PriorityQueue`.
---@class perilune.PriorityQueue: perilune.Queue

---Puts an item in, waiting for room.
---
---Raises QueueShutDown if the queue is shut down, and TimeoutError if there is
---no room within `timeout` seconds.
---
---Cancellation: the item is not put.
---@param item any
---@param options? { timeout: number? } seconds
---@async
function Queue:put(item, options) end

---Puts an item in if there is room.
---
---Raises QueueFull if there is none and QueueShutDown after `shutdown`.
---@param item any
function Queue:put_nowait(item) end

---Takes the next item, waiting for one.
---
---Raises QueueShutDown if none will come any more, and TimeoutError if none
---comes within `timeout` seconds.
---
---Cancellation: no item is taken.
---@param options? { timeout: number? } seconds
---@return any item
---@async
function Queue:get(options) end

---Takes the next item if there is one.
---
---Raises QueueEmpty if there is none, and QueueShutDown if none will come any
---more.
---@return any item
function Queue:get_nowait() end

---Iterates over the items as they come, until the queue is shut down and
---empty: `for item in queue:items() do`. An item that is nil ends the loop, as
---it does with any iterator of Lua's.
---@return fun(): any
---@return perilune.Queue
---@async
function Queue:items() end

---How many items are in the queue.
---@return integer
function Queue:qsize() end

---Tells whether no item is in the queue.
---@return boolean
function Queue:empty() end

---Tells whether there is no room for an item; never if `maxsize` is 0.
---@return boolean
function Queue:full() end

---Marks an item that was taken as done with.
---
---Raises ValueError if there are more marks than there were items.
function Queue:task_done() end

---Waits until each item that was put is marked by `task_done`.
---
---Raises TimeoutError if that takes more than `timeout` seconds.
---@param options? { timeout: number? } seconds
---@async
function Queue:join(options) end
