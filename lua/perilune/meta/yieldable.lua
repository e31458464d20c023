---@meta

-- What `require "perilune.yieldable"` gives: functions of Lua's library, with the
-- same arguments, results, errors and limits, but what they call may wait. The
-- running task waits then, and others go on. A cancellation or a kill of the
-- task in the middle ends the call as an error does.

---@class perilune.yieldable
local yieldable = {}

---`table.sort`, whose comparator may wait; so may the elements' `__lt`, and the
---list's `__len`, `__index` and `__newindex`.
---
---A copy of the list is sorted and written back in the end. What others do to the
---list meanwhile is not seen: its first n places, n being its length at the
---call, are written over. If the sort ends by an error the list is as it was.
---
---Unlike Lua's the sort is stable, and calls the comparator n log n times at most.
---
---Raises what `table.sort` raises, "invalid order function for sorting" if the
---comparator is found to contradict itself; and what the comparator raises.
---@param list table
---@param comp? fun(a: any, b: any): boolean whether a comes before b; `<` if not given
---@async
function yieldable.sort(list, comp) end

---`string.gsub`, whose replacement function may wait; so may the `__index` of a
---replacement table.
---
---Raises what `string.gsub` raises, and what the replacement raises.
---@param s string|number
---@param pattern string|number
---@param repl string|number|table|fun(...: string|integer): string|number|false|nil
---@param n? integer at most so many replacements
---@return string result
---@return integer count of matches
---@async
function yieldable.gsub(s, pattern, repl, n) end

---Lua's `require`, where a module may wait while it is loaded, and so may the
---searchers. In the program `perilune`, and in its workers, the global `require`
---is this one.
---
---A module that another task is loading is waited for, and not loaded twice. If
---that load fails, or its task is cancelled or killed, the next one in turn loads
---it. Who waits is given the module when it is complete, even if it stands in
---package.loaded before; to the task that loads it that is given as it is.
---
---Raises what Lua's raises; RuntimeError if the module requires itself, be it by
---way of other tasks that wait for each other's modules, and if a module that is
---being loaded is required where no wait is possible.
---
---Cancellation: of who waits leaves the load alone.
---@param name string
---@return any module
---@return any data of the loader, when it was loaded just now
---@async
function yieldable.require(name) end

---Lua's `tostring`, where `__tostring` may wait.
---
---Raises what `__tostring` raises, and "'__tostring' must return a string".
---@param value any
---@return string
---@async
function yieldable.tostring(value) end

---Lua's `xpcall`, whose message handler may wait. For that it is called when the
---stack is unwound, `<close>` variables included, to the xpcall; so it is given
---two values, the error and the traceback of the place where it was raised (""
---for a cancellation, which has none). A handler that is a C function, such as
---debug.traceback, is called at that place, with the error alone, as by Lua's
---xpcall; it cannot wait.
---
---As by Lua's, a CancelledError is caught too; an error in the handler is handed
---to the handler; and the result after 200 of these is "error in error handling".
---A kill is never caught, neither in the function nor in the handler.
---
---Raises Lua's error for a handler that is no function.
---@param fn function
---@param handler fun(err: any, traceback: string): any
---@param ... any arguments of the function
---@return boolean ok
---@return any ... the function's results, or the handler's first one
---@async
function yieldable.xpcall(fn, handler, ...) end

return yieldable
