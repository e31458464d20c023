-- switch: coroutines that do nothing but go round the loop.
--   luv.lua TASKS SWITCHES
package.path = arg[0]:match "^(.*)/[^/]+/" .. "/lib/?.lua;" .. package.path
local uv = require "luv"
local tasks = require "luv_tasks"

local count, switches = tonumber(arg[1]), tonumber(arg[2])
local rounds = switches // count
local pause = tasks.pause

local start = uv.hrtime()
tasks.run(function()
  for _ = 1, count do
    tasks.go(function()
      for _ = 1, rounds do
        pause()
      end
    end)
  end
end)
print(("ns %.2f"):format((uv.hrtime() - start) / (rounds * count)))
