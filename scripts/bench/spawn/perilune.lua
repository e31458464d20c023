-- spawn: start no-op tasks and await them, a batch at a time.
--   perilune.lua task|gather|spawn TASKS BATCH
-- "task" has a handle for each; "gather" and "spawn" need none.
local peri = require "perilune"

local mode, tasks, batch = arg[1], tonumber(arg[2]), tonumber(arg[3])
local create_task, spawn = peri.create_task, peri.spawn

local function noop() end

local modes = {}

function modes.task()
  local list = {}
  for i = 1, batch do
    list[i] = create_task(noop)
  end
  for i = 1, batch do
    list[i]:await()
  end
end

local functions = {}
for i = 1, batch do
  functions[i] = noop
end

function modes.gather()
  peri.gather(functions):await()
end

-- The queue is FIFO: after one trip round the loop all of them have run.
function modes.spawn()
  for _ = 1, batch do
    spawn(noop)
  end
  peri.sleep(0)
end

local run = modes[mode]
local loop = peri.get_running_loop()
local start = loop:time()
for _ = 1, tasks // batch do
  run()
end
print(("ns %.2f"):format((loop:time() - start) * 1e9 / tasks))
