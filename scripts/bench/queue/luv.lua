-- queue: one producer and one consumer over a bounded queue in plain Lua.
--   luv.lua CAPACITY ITEMS
package.path = arg[0]:match "^(.*)/[^/]+/" .. "/lib/?.lua;" .. package.path
local uv = require "luv"
local tasks = require "luv_tasks"

local capacity, items = tonumber(arg[1]), tonumber(arg[2])

local ring, head, count = {}, 0, 0
local getter, putter

local function put(value)
  while count == capacity do
    putter = coroutine.running()
    coroutine.yield()
  end
  ring[(head + count) % capacity + 1] = value
  count = count + 1
  if getter then
    tasks.post(getter)
    getter = nil
  end
end

local function get()
  while count == 0 do
    getter = coroutine.running()
    coroutine.yield()
  end
  local value = ring[head + 1]
  head = (head + 1) % capacity
  count = count - 1
  if putter then
    tasks.post(putter)
    putter = nil
  end
  return value
end

local sum = 0
local start = uv.hrtime()
tasks.run(function()
  tasks.go(function()
    for _ = 1, items do
      sum = sum + get()
    end
  end)
  for i = 1, items do
    put(i)
  end
end)
assert(sum == items * (items + 1) // 2)
print(("ns %.2f"):format((uv.hrtime() - start) / items))
