--- What scopes own and cannot wait for. Private to the library.
--
-- A scope in a coroutine of the script's that dies cannot wait for its tasks:
-- it cancels them and gives them to the task, which waits for them before it
-- ends. C keeps the list and calls `core.settle` with it, in the task.
local core = require "perilune._core"

local pcall = pcall
local Future = core.Future
local await, is_done = Future.await, Future.done

-- Their errors are the business of their scopes' callbacks. A cancellation that
-- comes meanwhile reaches them through the wait.
function core.settle(list)
  for _, future in ipairs(list) do
    while not is_done(future) do pcall(await, future) end
  end
end

local owned = {}

---Has the current task wait for the futures that have not ended.
function owned.hand_over(list)
  for _, future in ipairs(list) do
    if not is_done(future) then core.own(future) end
  end
end

return owned
