--- Queue, PriorityQueue and LifoQueue, for the tasks of one loop.
--
-- An item that is there and room that is there are taken without a trip to the
-- loop and without making a thing: the usual `put` and `get` touch a few fields.
-- A getter that was woken looks again, for another task may have been quicker,
-- and then queues at the end; one that is cancelled after it was woken passes
-- its turn on. So do putters.
local core = require "perilune._core"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local timeouts = require "perilune.timeouts"
local waiters = require "perilune.waiters"

local error, getmetatable, setmetatable, type = error, getmetatable, setmetatable, type
local is_done, is_cancelled = core.Future.done, core.Future.cancelled
local park, wake = waiters.park, waiters.wake
local QueueEmpty, QueueFull, QueueShutDown =
  errors.QueueEmpty, errors.QueueFull, errors.QueueShutDown

-- The limit of a queue that has none.
local UNLIMITED <const> = math.maxinteger

-- The fields, underscores for what is nobody else's business:
--   maxsize      as given
--   _limit       how many items fit: -1 once the queue is shut down, so that
--                one comparison finds both that it is full and that it is closed
--   _count       how many items are in it
--   _unfinished  items put and not marked by task_done
--   _getters, _putters, _joiners   who waits
--   _items       the items; each class has its own way of keeping them

---A queue between tasks, first in first out. nil is an item like any other.
---
---Python: `asyncio.Queue`.
---@class perilune.Queue
---@field maxsize integer how many items fit; 0 or less: any number
local Queue = { __name = "Queue" }
Queue.__index = Queue

-- Waiting ---------------------------------------------------------------------

local function was_woken(waiter)
  local future = waiter.future
  return is_done(future) and not is_cancelled(future)
end

local GetWaiter = waiters.kind(function(getters, waiter, failed)
  if failed and getters.owner._count > 0 and was_woken(waiter) then wake(getters) end
end)

local PutWaiter = waiters.kind(function(putters, waiter, failed)
  local queue = putters.owner
  if failed and queue._count < queue._limit and was_woken(waiter) then wake(putters) end
end)

local JoinWaiter = waiters.kind()

local function new_line(queue)
  return waiters.init { owner = queue }
end

local function wait_for_item(queue)
  while queue._count == 0 do
    if queue._limit < 0 then error(QueueShutDown()) end
    park(GetWaiter, queue._getters)
  end
end

local function wait_for_room(queue)
  while queue._count >= queue._limit do
    if queue._limit < 0 then error(QueueShutDown()) end
    park(PutWaiter, queue._putters)
  end
end

-- `method(queue)` within the time that the options allow.
local function wait(name, position, options, method, queue)
  local seconds = arguments.timeout(name, position, options)
  if seconds == nil then return method(queue) end
  timeouts.timeout(seconds, method, queue)
end

local function refuse_item(queue)
  error(queue._limit < 0 and QueueShutDown() or QueueFull())
end

local function refuse_get(queue)
  error(queue._limit < 0 and QueueShutDown() or QueueEmpty())
end

-- First in, first out: a ring of 2^n slots -----------------------------------

local SMALLEST <const> = 16

local function new_ring(size)
  local ring = {}
  -- Filled in order, so that all slots lie in the table's array, for good.
  for i = 1, size do ring[i] = false end
  return ring
end

local function grow(queue)
  local old, head, count = queue._items, queue._head, queue._count
  local ring = new_ring(2 * count)
  for i = 0, count - 1 do ring[i + 1] = old[(head + i & count - 1) + 1] end
  queue._items, queue._head, queue._mask = ring, 0, 2 * count - 1
end

local function new(class, name, maxsize)
  maxsize = maxsize == nil and 0 or arguments.integer(name, 1, maxsize)
  local queue = setmetatable({
    maxsize = maxsize,
    _limit = maxsize > 0 and maxsize or UNLIMITED,
    _count = 0,
    _unfinished = 0,
  }, class)
  queue._getters, queue._putters = new_line(queue), new_line(queue)
  queue._joiners = new_line(queue)
  return queue
end

local queues = {}

---Makes a queue.
---@param maxsize? integer how many items fit; 0, less or nil: any number
---@return perilune.Queue
function queues.Queue(maxsize)
  local queue = new(Queue, "Queue", maxsize)
  queue._items, queue._head, queue._mask = new_ring(SMALLEST), 0, SMALLEST - 1
  return queue
end

---Puts an item in if there is room.
---
---Raises QueueFull if there is none and QueueShutDown after `shutdown`.
---@param item any
function Queue:put_nowait(item)
  local count = self._count
  if count >= self._limit then refuse_item(self) end
  if count > self._mask then grow(self) end
  self._items[(self._head + count & self._mask) + 1] = item
  self._count = count + 1
  self._unfinished = self._unfinished + 1
  local getters = self._getters
  if getters.next ~= getters then wake(getters) end
end

---Takes the next item if there is one.
---
---Raises QueueEmpty if there is none, and QueueShutDown if none will come any
---more.
---@return any item
function Queue:get_nowait()
  local count = self._count
  if count == 0 then refuse_get(self) end
  local items, head = self._items, self._head
  local item = items[head + 1]
  items[head + 1] = false
  self._head = head + 1 & self._mask
  self._count = count - 1
  local putters = self._putters
  if putters.next ~= putters then wake(putters) end
  return item
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
  if self._count >= self._limit then
    wait("Queue.put", 2, options, wait_for_room, self)
  end
  return self:put_nowait(item)
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
  if self._count == 0 then
    wait("Queue.get", 1, options, wait_for_item, self)
  end
  return self:get_nowait()
end

local function next_item(queue)
  while queue._count == 0 do
    if queue._limit < 0 then return nil end
    park(GetWaiter, queue._getters)
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
  return self._count
end

---Tells whether no item is in the queue.
---@return boolean
function Queue:empty()
  return self._count == 0
end

---Tells whether there is no room for an item; never if `maxsize` is 0.
---@return boolean
function Queue:full()
  return self.maxsize > 0 and self._count >= self.maxsize
end

local function wake_all(line)
  while wake(line) do end
end

---Marks an item that was taken as done with.
---
---Raises ValueError if there are more marks than there were items.
function Queue:task_done()
  local left = self._unfinished - 1
  if left < 0 then
    error(errors.ValueError "task_done was called more often than items were put")
  end
  self._unfinished = left
  if left == 0 then wake_all(self._joiners) end
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
  if self._unfinished > 0 then wait("Queue.join", 1, options, join, self) end
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
  self._limit = -1
  if options and options.immediate then
    local unfinished = self._unfinished - self._count
    self:_clear()
    self._count, self._unfinished = 0, unfinished > 0 and unfinished or 0
    if self._unfinished == 0 then wake_all(self._joiners) end
  end
  wake_all(self._getters)
  wake_all(self._putters)
end

function Queue:_clear()
  self._items, self._head, self._mask = new_ring(SMALLEST), 0, SMALLEST - 1
end

-- What the other kinds put in `_items`, they put through these two.
local function put_nowait(self, item)
  if self._count >= self._limit then refuse_item(self) end
  self:_push(item, self._count + 1)
  self._count = self._count + 1
  self._unfinished = self._unfinished + 1
  local getters = self._getters
  if getters.next ~= getters then wake(getters) end
end

local function get_nowait(self)
  local count = self._count
  if count == 0 then refuse_get(self) end
  local item = self:_pop(count)
  self._count = count - 1
  local putters = self._putters
  if putters.next ~= putters then wake(putters) end
  return item
end

local function derive(name)
  local class = setmetatable({
    __name = name,
    put_nowait = put_nowait,
    get_nowait = get_nowait,
  }, { __index = Queue })
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
  local queue = new(LifoQueue, "LifoQueue", maxsize)
  queue._items = {}
  return queue
end

function LifoQueue:_push(item, place)
  self._items[place] = item
end

function LifoQueue:_pop(place)
  local item = self._items[place]
  self._items[place] = nil
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
  local queue = new(PriorityQueue, "PriorityQueue", maxsize)
  queue._lt = options and options.lt or less
  queue._next = 0
  queue:_clear()
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
function PriorityQueue:_push(item, place)
  local age = self._next
  local items, ages = self._items, self._ages
  local top = place
  while top > 1 and before(self, item, age, top // 2) do top = top // 2 end
  while place > top do
    local parent = place // 2
    items[place], ages[place] = items[parent], ages[parent]
    place = parent
  end
  items[place], ages[place] = item, age
  self._next = age + 1
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

function PriorityQueue:_pop(size)
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
