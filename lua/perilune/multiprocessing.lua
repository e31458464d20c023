--- `multiprocessing`, as far as it exists: how objects are sent to other states,
-- and what worker processes are.
local native = require "perilune._codec"
local pool = require "perilune._pool"
local arguments = require "perilune.arguments"

local ipairs, type = ipairs, type

---@class perilune.multiprocessing
local multiprocessing = {}

---Says how objects with this metatable are sent to workers. Without options their
---fields are copied, as a plain table's; else `pack(object)` returns the values to
---send (200 at most) and `unpack(...)` makes an object of their copies, in the
---other state. Neither can wait. An object that is reached again through what its
---own `pack` returned cannot be sent.
---
---The name stands for the class in every state, so it is best the module's and the
---class's. A state that does not know it gets metatable, pack and unpack with the
---first object; if the metatable belongs to a module, that module is loaded there.
---
---Raises ValueError if the name or the metatable is registered already.
---
---Python: `copyreg.pickle`.
---@param name string
---@param metatable table
---@param options? { pack: (fun(object: any): ...), unpack: (fun(...): any) }
function multiprocessing.register(name, metatable, options)
  native.register(name, metatable, options)
end

---Says what process pools that are made from now on start as their workers: the
---path of a program, which is called as the `perilune` program is for that
---(`PATH --worker`); or a command line as a list, whose program is to call
---`peri_worker_main`, or to be such a program. nil: what the host has named, or
---the program that runs.
---
---Raises TypeError for anything else.
---
---Python: `multiprocessing.set_executable`.
---@param command string|string[]|nil
function multiprocessing.set_executable(command)
  if type(command) == "string" then command = { command, "--worker" } end
  if command ~= nil then
    local list = arguments.plain(command) and #command > 0
    for _, word in ipairs(list and command or {}) do list = list and type(word) == "string" end
    if not list then arguments.wrong_type("set_executable", 1, "a path or a list of strings", command) end
  end
  pool.set_worker_command(command)
end

return multiprocessing
