-- queue: one producer and one consumer over a bounded queue.
--   perilune.lua CAPACITY ITEMS
local peri = require "perilune"

local capacity, items = tonumber(arg[1]), tonumber(arg[2])
local loop = peri.get_running_loop()
local q = peri.Queue(capacity)

local function produce()
  for i = 1, items do
    q:put(i)
  end
end

local function consume()
  local sum = 0
  for _ = 1, items do
    sum = sum + q:get()
  end
  return sum
end

local start = loop:time()
local producer = peri.create_task(produce)
local consumer = peri.create_task(consume)
producer:await()
assert(consumer:await() == items * (items + 1) // 2)
print(("ns %.2f"):format((loop:time() - start) * 1e9 / items))
