--- `multiprocessing`, as far as it exists: how objects are sent to other states.
local native = require "perilune._codec"

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

return multiprocessing
