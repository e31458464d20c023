-- seeds.lua DIR: writes messages of every kind into the directory, one a file,
-- for the fuzzer of the codec to begin with.
local native = require "perilune._codec"
local multiprocessing = require "perilune.multiprocessing"
local peri = require "perilune"

local dir = assert(arg[1], "seeds.lua DIR")
local Point, Set = {}, {}
local FuzzError = peri.ValueError:extend "fuzz.Error"
multiprocessing.register("fuzz.Point", Point)
multiprocessing.register("fuzz.Set", Set, {
  pack = function(set) return table.unpack(set) end,
  unpack = function(...) return setmetatable({ ... }, Set) end,
})

local cycle = { 1, 2, x = {} }
cycle.x.up, cycle[cycle] = cycle, cycle.x
local long = ("long"):rep(100)
local point, set = setmetatable({ x = 1 }, Point), setmetatable({ 1, "two" }, Set)
local deep = {}
for _ = 1, 20 do deep = { deep, deep } end

local seeds = {
  plain = { n = 12, nil, true, false, 0, 63, 64, -1, math.mininteger, 1.5, 0 / 0, "", ("s"):rep(130) },
  tables = { cycle, { 1, nil, 3, [1.5] = 1, [true] = 2 } },
  strings = { long, { long, [long] = long } },
  deep = { deep },
  objects = { { point, point }, point, set, { set, set } },
  errors = { FuzzError "m", peri.OSError("gone", { code = "EPIPE", cause = FuzzError "why" }), FuzzError },
  names = { print, string, peri, peri.sleep, io.stdout, table.concat, _G },
  handles = { peri.get_running_loop(), peri.ref(1), { peri.ref {} } },
  many = { n = 200 },
}
seeds.mixed = { seeds.plain, seeds.tables, seeds.objects, seeds.names, n = 4 }

for name, values in pairs(seeds) do
  local file <close> = assert(io.open(dir .. "/" .. name, "wb"))
  file:write(native.encode(table.unpack(values, 1, values.n or #values)))
end
