-- gather: coroutines that go round the loop once and return a value, a batch at
-- a time.
--   luv.lua CHILDREN BATCH
package.path = arg[0]:match "^(.*)/[^/]+/" .. "/lib/?.lua;" .. package.path
local uv = require "luv"
local tasks = require "luv_tasks"

local children, batch = tonumber(arg[1]), tonumber(arg[2])

local function child(i)
  tasks.pause()
  return i
end

local function run_batch()
  local main = coroutine.running()
  local left, results = batch, {}
  for i = 1, batch do
    tasks.go(function()
      results[i] = child(i)
      left = left - 1
      if left == 0 then
        tasks.post(main)
      end
    end)
  end
  coroutine.yield()
  assert(results[batch] == batch)
end

local start = uv.hrtime()
tasks.run(function()
  for _ = 1, children // batch do
    run_batch()
  end
end)
print(("ns %.2f"):format((uv.hrtime() - start) / children))
