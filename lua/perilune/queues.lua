--- Queue, PriorityQueue and LifoQueue, for the tasks of one loop.
--
-- An item that is there and room that is there are taken without a trip to the
-- loop and without making a thing: the usual `put` and `get` touch a few fields.
-- A getter that was woken looks again, for another task may have been quicker,
-- and then queues at the end; one that is cancelled after it was woken passes
-- its turn on. So do putters.
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local timeouts = require "perilune.timeouts"
local waiters = require "perilune.waiters"

local error, getmetatable, math, pcall, setmetatable, table, type =
  error, getmetatable, math, pcall, setmetatable, table, type
local park, wake = waiters.park, waiters.wake
local QueueEmpty, QueueFull, QueueShutDown =
  errors.QueueEmpty, errors.QueueFull, errors.QueueShutDown

-- Stands for "without limit", and for what is never reached.
local NEVER <const> = math.maxinteger

-- The fields, with underscores for what is nobody else's business:
--   maxsize       as given
--   _limit        how many items fit: -1 once the queue is shut down
--   _head, _tail  how many items have been taken, and put, in all
--   _done         how many have been marked by task_done
--   _getters, _putters, _joiners   who waits
-- and for the two fast paths, of which each is one comparison:
--   _room         so many items may be in the queue for `put` to just add one:
--                 -1 where there is more to it, such as a getter to be woken
--   _spare        so many must be left in it for `get` to just take one
--   _mask         the size of the ring less 1
-- The items of a Queue lie in the object itself, a ring from 1 to 2^n; those of
-- the other kinds in `_items`, and they always go the long way.

---A queue between tasks, first in first out. nil is an item like any other.
---
---Python: `asyncio.Queue`.
---@class perilune.Queue
---@field maxsize integer how many items fit; 0 or less: any number
local Queue = { __name = "Queue" }
Queue.__index = Queue

-- Waiting ---------------------------------------------------------------------

local GetWaiter = waiters.kind(function(getters, woken)
  if woken and not getters.owner:empty() then wake(getters) end
end)

local PutWaiter = waiters.kind(function(putters, woken)
  local queue = putters.owner
  if woken and queue._tail - queue._head < queue._limit then wake(putters) end
end)

local JoinWaiter = waiters.kind()

local function wait_for_item(queue)
  while queue._tail == queue._head do
    if queue._limit < 0 then error(QueueShutDown()) end
    queue._room = -1
    park(GetWaiter, queue._getters)
  end
end

local function wait_for_room(queue)
  while queue._tail - queue._head >= queue._limit do
    if queue._limit < 0 then error(QueueShutDown()) end
    queue._spare = NEVER
    park(PutWaiter, queue._putters)
  end
end

-- `method(queue)` within the time that the options allow.
local function wait(name, position, options, method, queue)
  if options == nil then return method(queue) end
  local seconds = arguments.timeout(name, position, options)
  if seconds == nil then return method(queue) end
  timeouts.timeout(seconds, method, queue)
end

-- Putting and getting, the long way ------------------------------------------

local function add(queue, item)
  local tail = queue._tail
  queue:_store(item, tail - queue._head)
  queue._tail = tail + 1
  local getters = queue._getters
  wake(getters)
  if getters.next == getters then queue._room = math.min(queue._limit, queue._mask + 1) end
end

local function take(queue)
  local item = queue:_remove(queue._tail - queue._head)
  queue._head = queue._head + 1
  local putters = queue._putters
  wake(putters)
  if putters.next == putters and queue._mask > 0 then queue._spare = 0 end
  return item
end

-- First in, first out: the ring ----------------------------------------------

local SMALLEST <const> = 16

-- Filled in order, so that all slots lie in the table's array, for good.
local function clear_ring(queue, from, to)
  for i = from, to do queue[i] = false end
end

-- count items are inside; one more is to go behind them.
function Queue:_store(item, count)
  if count > self._mask then
    local old = table.move(self, 1, count, 1, {})
    clear_ring(self, count + 1, 2 * count)
    for place = self._head, self._tail - 1 do
      local value = old[(place & count - 1) + 1]
      self[(place & count - 1) + 1] = false
      self[(place & 2 * count - 1) + 1] = value
    end
    self._mask = 2 * count - 1
  end
  self[(self._tail & self._mask) + 1] = item
end

function Queue:_remove()
  local slot = (self._head & self._mask) + 1
  local item = self[slot]
  self[slot] = false
  return item
end

function Queue:_clear()
  clear_ring(self, 1, self._mask + 1)
end

local function new(class, name, maxsize, mask)
  maxsize = maxsize == nil and 0 or arguments.integer(name, 1, maxsize)
  local queue = setmetatable({
    maxsize = maxsize,
    _limit = maxsize > 0 and maxsize or NEVER,
    _head = 0,
    _tail = 0,
    _done = 0,
    _room = mask > 0 and math.min(maxsize > 0 and maxsize or NEVER, mask + 1) or 0,
    _spare = mask > 0 and 0 or NEVER,
    _mask = mask,
  }, class)
  queue._getters = waiters.init { owner = queue }
  queue._putters = waiters.init { owner = queue }
  queue._joiners = waiters.init { owner = queue }
  queue:_clear()
  return queue
end

local queues = {}

---Makes a queue.
---@param maxsize? integer how many items fit; 0, less or nil: any number
---@return perilune.Queue
function queues.Queue(maxsize)
  return new(Queue, "Queue", maxsize, SMALLEST - 1)
end

---Puts an item in if there is room.
---
---Raises QueueFull if there is none and QueueShutDown after `shutdown`.
---@param item any
function Queue:put_nowait(item)
  local tail = self._tail
  if tail - self._head < self._room then
    self[(tail & self._mask) + 1] = item
    self._tail = tail + 1
    return
  end
  if tail - self._head >= self._limit then
    error(self._limit < 0 and QueueShutDown() or QueueFull())
  end
  add(self, item)
end

---Takes the next item if there is one.
---
---Raises QueueEmpty if there is none, and QueueShutDown if none will come any
---more.
---@return any item
function Queue:get_nowait()
  local head = self._head
  if self._tail - head > self._spare then
    local slot = (head & self._mask) + 1
    local item = self[slot]
    self[slot] = false
    self._head = head + 1
    return item
  end
  if self._tail == head then
    error(self._limit < 0 and QueueShutDown() or QueueEmpty())
  end
  return take(self)
end

---Puts an item in, waiting for room.
---
---Raises QueueShutDown if the queue is shut down, and TimeoutError if there is
---no room within `timeout` seconds.
---
---Cancellation: the item is not put.
---@param item any
---@param options? { timeout: number? } seconds
---@async
function Queue:put(item, options)
  local tail = self._tail
  if tail - self._head < self._room then
    self[(tail & self._mask) + 1] = item
    self._tail = tail + 1
    return
  end
  if tail - self._head >= self._limit then
    wait("Queue.put", 2, options, wait_for_room, self)
  end
  add(self, item)
end

---Takes the next item, waiting for one.
---
---Raises QueueShutDown if none will come any more, and TimeoutError if none
---comes within `timeout` seconds.
---
---Cancellation: no item is taken.
---@param options? { timeout: number? } seconds
---@return any item
---@async
function Queue:get(options)
  local head = self._head
  if self._tail - head > self._spare then
    local slot = (head & self._mask) + 1
    local item = self[slot]
    self[slot] = false
    self._head = head + 1
    return item
  end
  if self._tail == head then wait("Queue.get", 1, options, wait_for_item, self) end
  return take(self)
end

local function next_item(queue)
  if queue._tail == queue._head then
    if queue._limit < 0 then return nil end
    local ok, err = pcall(wait_for_item, queue)
    if not ok then
      if QueueShutDown:is(err) then return nil end
      error(err, 0)
    end
  end
  return queue:get_nowait()
end

---Iterates over the items as they come, until the queue is shut down and
---empty: `for item in queue:items() do`. An item that is nil ends the loop, as
---it does with any iterator of Lua's.
---@return fun(): any
---@return perilune.Queue
---@async
function Queue:items()
  return next_item, self
end

---How many items are in the queue.
---@return integer
function Queue:qsize()
  return self._tail - self._head
end

---Tells whether no item is in the queue.
---@return boolean
function Queue:empty()
  return self._tail == self._head
end

---Tells whether there is no room for an item; never if `maxsize` is 0.
---@return boolean
function Queue:full()
  return self.maxsize > 0 and self._tail - self._head >= self.maxsize
end

local function wake_all(line)
  while wake(line) do end
end

---Marks an item that was taken as done with.
---
---Raises ValueError if there are more marks than there were items.
function Queue:task_done()
  local done = self._done + 1
  if done > self._tail then
    error(errors.ValueError "task_done was called more often than items were put")
  end
  self._done = done
  if done == self._tail then wake_all(self._joiners) end
end

local function join(queue)
  park(JoinWaiter, queue._joiners)
end

---Waits until each item that was put is marked by `task_done`.
---
---Raises TimeoutError if that takes more than `timeout` seconds.
---@param options? { timeout: number? } seconds
---@async
function Queue:join(options)
  if self._done < self._tail then wait("Queue.join", 1, options, join, self) end
end

-- Drops the items; each counts as done with.
local function drop_items(queue)
  local dropped = queue._tail - queue._head
  queue._head = queue._tail
  queue._done = math.min(queue._done + dropped, queue._tail)
  queue:_clear()
  if queue._done == queue._tail then wake_all(queue._joiners) end
end

local immediate_only <const> = { immediate = true }

---Lets no item in any more. Those inside may still be taken; then, and at once
---where somebody waits for an item or for room, QueueShutDown is raised. With
---`immediate` the items are dropped, each counted as done with.
---
---Python: `asyncio.Queue.shutdown`.
---@param options? { immediate: boolean? }
function Queue:shutdown(options)
  arguments.options("Queue.shutdown", 1, options, immediate_only)
  self._limit, self._room = -1, -1
  if options and options.immediate then drop_items(self) end
  wake_all(self._getters)
  wake_all(self._putters)
end

local function derive(name)
  local class = setmetatable({ __name = name }, { __index = Queue })
  class.__index = class
  return class
end

-- Last in, first out ------------------------------------------------------------

---A queue that gives the newest item first.
---
---Python: `asyncio.LifoQueue`.
---@class perilune.LifoQueue: perilune.Queue
local LifoQueue = derive "LifoQueue"

---Makes a queue that gives the newest item first.
---@param maxsize? integer how many items fit; 0, less or nil: any number
---@return perilune.LifoQueue
function queues.LifoQueue(maxsize)
  return new(LifoQueue, "LifoQueue", maxsize, -1)
end

function LifoQueue:_store(item, count)
  self._items[count + 1] = item
end

function LifoQueue:_remove(count)
  local item = self._items[count]
  self._items[count] = nil
  return item
end

function LifoQueue:_clear()
  self._items = {}
end

-- Smallest first: a binary heap ------------------------------------------------

---A queue that gives the smallest item first, and of equal ones the oldest.
---
---Items are compared by `<`; of two lists without an `__lt` the elements are,
---from the first on, as Python compares tuples: `queue:put { priority, job }`.
---
---Python: `asyncio.PriorityQueue`, differs in that equal items keep their order.
---@class perilune.PriorityQueue: perilune.Queue
local PriorityQueue = derive "PriorityQueue"

local function orders_itself(list)
  local meta = getmetatable(list)
  return type(meta) == "table" and meta.__lt ~= nil
end

local function less(a, b)
  if type(a) ~= "table" or type(b) ~= "table" or orders_itself(a) or orders_itself(b) then
    return a < b
  end
  for i = 1, #a do
    if b[i] == nil then return false end
    if a[i] ~= b[i] then
      if less(a[i], b[i]) then return true end
      if less(b[i], a[i]) then return false end
    end
  end
  return #a < #b
end

local lt_only <const> = { lt = true }

---Makes a queue that gives the smallest item first.
---@param maxsize? integer how many items fit; 0, less or nil: any number
---@param options? { lt: fun(a, b): boolean } lt: the order, if not `<`
---@return perilune.PriorityQueue
function queues.PriorityQueue(maxsize, options)
  arguments.options("PriorityQueue", 2, options, lt_only)
  local queue = new(PriorityQueue, "PriorityQueue", maxsize, -1)
  queue._lt = options and options.lt or less
  return queue
end

-- `_items` is the heap, `_ages` has the number each item came with.
function PriorityQueue:_clear()
  self._items, self._ages = {}, {}
end

-- Whether the item a, that came as number age, goes before the one at a place.
local function before(queue, a, age, place)
  local lt, b = queue._lt, queue._items[place]
  if lt(a, b) then return true end
  if lt(b, a) then return false end
  return age < queue._ages[place]
end

-- Compares first and moves after, so that an error of a comparison leaves the
-- queue as it was.
function PriorityQueue:_store(item, count)
  local items, ages, age = self._items, self._ages, self._tail
  local place = count + 1
  local top = place
  while top > 1 and before(self, item, age, top // 2) do top = top // 2 end
  while place > top do
    local parent = place // 2
    items[place], ages[place] = items[parent], ages[parent]
    place = parent
  end
  items[place], ages[place] = item, age
end

-- The child of a place that goes first, in a heap of some size; or nil.
local function first_child(queue, place, size)
  local left = 2 * place
  if left > size then return nil end
  local items, ages = queue._items, queue._ages
  if left < size and before(queue, items[left + 1], ages[left + 1], left) then
    return left + 1
  end
  return left
end

function PriorityQueue:_remove(size)
  local items, ages = self._items, self._ages
  local item, age = items[size], ages[size]
  local rest = size - 1
  local place, child = 1, first_child(self, 1, rest)
  while child and not before(self, item, age, child) do
    place, child = child, first_child(self, child, rest)
  end
  items[size], ages[size] = nil, nil
  if rest == 0 then return item end
  -- The last item goes to its place, each on the way from there one up.
  while place > 0 do
    item, items[place] = items[place], item
    age, ages[place] = ages[place], age
    place = place // 2
  end
  return item
end

return queues
