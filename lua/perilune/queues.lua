--- Queue, PriorityQueue and LifoQueue, for the tasks of one loop.
--
-- The queues themselves are C (queue.c): here are what only calls it, and the
-- heap of a PriorityQueue.
local core = require "perilune._core"
local arguments = require "perilune.arguments"
local timeouts = require "perilune.timeouts"

local getmetatable, setmetatable, type = getmetatable, setmetatable, type
local new_queue, shut_down = core.queue, core.queue_shutdown

local queues = {}

-- The methods of every queue; C has the others, described in meta/queue.lua.
---@class perilune.Queue
local Queue = core.Queue

---`method(queue, ...)` within the time that the options allow: C calls it when
---a method with options has to wait.
---@async
function queues.limited(name, position, options, method, ...)
  local seconds = arguments.timeout(name, position, options)
  if seconds == nil then return method(...) end
  return timeouts.timeout(seconds, method, ...)
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
  shut_down(self, options and options.immediate)
end

local function check_size(name, maxsize)
  return maxsize == nil and 0 or arguments.integer(name, 1, maxsize)
end

---Makes a queue.
---
---Python: `asyncio.Queue`.
---@param maxsize? integer how many items fit; 0, less or nil: any number
---@return perilune.Queue
function queues.Queue(maxsize)
  return new_queue("Queue", check_size("Queue", maxsize))
end

---Makes a queue that gives the newest item first.
---
---Python: `asyncio.LifoQueue`.
---@param maxsize? integer how many items fit; 0, less or nil: any number
---@return perilune.LifoQueue
function queues.LifoQueue(maxsize)
  return new_queue("LifoQueue", check_size("LifoQueue", maxsize))
end

-- Smallest first: a binary heap ------------------------------------------------

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

-- The items lie in the array part; `ages` has the number each came with.
local Heap = {}
Heap.__index = Heap

function Heap:clear()
  local ages = {}
  for i = #self.ages, 1, -1 do self[i] = nil end
  self.ages = ages
end

-- Whether the item a, that came as number age, goes before the one at a place.
local function before(heap, a, age, place)
  local lt, b = heap.lt, heap[place]
  if lt(a, b) then return true end
  if lt(b, a) then return false end
  return age < heap.ages[place]
end

-- Compares first and moves after, so that an error of a comparison leaves the
-- heap as it was.
function Heap:push(item)
  local ages, age = self.ages, self.age
  local place = #ages + 1
  local top = place
  while top > 1 and before(self, item, age, top // 2) do top = top // 2 end
  -- Room for one more; whoever finds no memory has changed nothing, for it is
  -- `ages` that tells how many there are.
  self[place] = item
  ages[place] = age
  while place > top do
    local parent = place // 2
    self[place], ages[place] = self[parent], ages[parent]
    place = parent
  end
  self[place], ages[place] = item, age
  self.age = age + 1
end

-- The child of a place that goes first, in a heap of some size; or nil.
local function first_child(heap, place, size)
  local left = 2 * place
  if left > size then return nil end
  if left < size and before(heap, heap[left + 1], heap.ages[left + 1], left) then
    return left + 1
  end
  return left
end

function Heap:pop()
  local ages = self.ages
  local size = #ages
  local item, age = self[size], ages[size]
  local rest = size - 1
  local place, child = 1, first_child(self, 1, rest)
  while child and not before(self, item, age, child) do
    place, child = child, first_child(self, child, rest)
  end
  self[size], ages[size] = nil, nil
  if rest == 0 then return item end
  -- The last item goes to its place, each on the way from there one up.
  while place > 0 do
    item, self[place] = self[place], item
    age, ages[place] = ages[place], age
    place = place // 2
  end
  return item
end

local lt_only <const> = { lt = true }

---Makes a queue that gives the smallest item first, and of equal ones the
---oldest.
---
---Items are compared by `<`; of two lists without an `__lt` the elements are,
---from the first on, as Python compares tuples: `queue:put { priority, job }`.
---What a comparison raises, `put` and `get` raise, and the queue stays as it was.
---
---Python: `asyncio.PriorityQueue`, differs in that equal items keep their order.
---@param maxsize? integer how many items fit; 0, less or nil: any number
---@param options? { lt: fun(a, b): boolean } lt: the order, if not `<`; it may
---not wait
---@return perilune.PriorityQueue
function queues.PriorityQueue(maxsize, options)
  arguments.options("PriorityQueue", 2, options, lt_only)
  return new_queue("PriorityQueue", check_size("PriorityQueue", maxsize),
    setmetatable({ lt = options and options.lt or less, ages = {}, age = 0 }, Heap))
end

return queues
