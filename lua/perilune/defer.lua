--- `finally`, told in Lua: `local _ <close> = peri.defer(fn)`.
local core = require "perilune._core"
local arguments = require "perilune.arguments"

local select, setmetatable, unpack = select, setmetatable, table.unpack

local Deferred = { __name = "Deferred" }

function Deferred:__close(err) -- luacheck: no unused args
  if self.sentry then core.release(self.sentry) end
  self.fn(unpack(self, 1, self.n))
end

local defer = {}

---Makes a value that calls the function with the arguments when the `<close>`
---variable that holds it goes out of scope: at the end of its block, and when
---an error, a cancellation or a kill passes by. The function may wait.
---
---Python: a `finally` clause.
---@param fn function|table the function, or a call table
---@param ... any its arguments
---@return perilune.Closable closable
function defer.defer(fn, ...)
  local deferred
  if type(fn) == "function" and select("#", ...) == 0 then
    deferred = { fn = fn, n = 0 }
  else
    deferred = table.pack(select(2, arguments.call("defer", 1, fn, ...)))
    deferred.fn = arguments.call("defer", 1, fn)
  end
  if core.debugging then deferred.sentry = core.watch "deferred call" end
  return setmetatable(deferred, Deferred)
end

return defer
