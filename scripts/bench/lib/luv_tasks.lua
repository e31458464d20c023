-- The scheduler that luv users write by hand: coroutines in a FIFO that an idle
-- handle drains, one round of the libuv loop each. All luv twins share it.
local uv = require "luv"

local tasks = {}

local ready, head, tail = {}, 1, 0
local idle = uv.new_idle()
local active = false

local function drain()
  for i = head, tail do
    local co = ready[i]
    ready[i] = nil
    head = i + 1
    local ok, err = coroutine.resume(co)
    if not ok then
      error(debug.traceback(co, err), 0)
    end
  end
  if head > tail then
    head, tail = 1, 0
    active = false
    uv.idle_stop(idle)
  end
end

--- Puts a suspended coroutine at the end of the queue.
function tasks.post(co)
  tail = tail + 1
  ready[tail] = co
  if not active then
    active = true
    uv.idle_start(idle, drain)
  end
end

--- Starts `fn` in a coroutine of its own in the next round.
function tasks.go(fn)
  tasks.post(coroutine.create(fn))
end

--- One trip round the loop.
function tasks.pause()
  tasks.post(coroutine.running())
  coroutine.yield()
end

--- Runs `main` and everything it started.
function tasks.run(main)
  tasks.go(main)
  uv.run()
end

return tasks
