-- seeds.lua TARGET DIR: writes what a target of this directory begins with, a
-- file each.
local native = require "perilune._codec"
local multiprocessing = require "perilune.multiprocessing"
local peri = require "perilune"

local targets = {}

-- Messages of every kind.
function targets.codec()
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
    seeds[name] = native.encode(table.unpack(values, 1, values.n or #values))
  end
  return seeds
end

-- What a worker sends, as channel.c reads it: flags, and then packets.
function targets.channel()
  local HELLO, READY, PAGE, JOBS, CLAIM = 1, 2, 4, 8, 64
  local kinds = { hello = 1, ready = 3, broken = 4, code = 5, block = 6, done = 8, idle = 9, note = 10, gone = 11,
    begun = 12, submit = 13, withdraw = 14, interrupt = 15, leave = 16, sync = 17, rest = 18 }
  local RETURNED, RAISED, SKIPPED = 1, 2, 0xff

  local function packet(kind, payload, fields)
    fields = fields or {}
    return string.pack("BBBBBs1", kinds[kind], fields.outcome or 0, fields.chunks or 0, fields.block or 0,
      fields.slot or 0, payload or "")
  end
  local function input(flags, ...) return string.char(flags) .. table.concat { ... } end

  local met = HELLO | READY
  local value, failure = native.encode(1, "two", { 3 }), native.encode(peri.ValueError "m", nil)
  local done = packet("done", value, { outcome = RETURNED })
  return {
    start = input(JOBS, packet("hello", string.pack("c8I4I4c16", "perilune", 1, 1, "0.1.0")), packet "ready"),
    broken = input(HELLO, packet("broken", "why")),
    done = input(met | 3 * JOBS, done, packet("done", failure, { outcome = RAISED }),
      packet("done", "", { outcome = SKIPPED })),
    paged = input(met | PAGE | CLAIM | 2 * JOBS, done, packet "idle", done),
    begun = input(met | JOBS, packet "begun", packet("note", value), done, packet "gone"),
    code = input(met | JOBS, packet("code", string.dump(function() end), { slot = 2 }),
      packet("done", "\2" .. value, { outcome = RETURNED, chunks = 1 })),
    block = input(met | PAGE | JOBS, packet("block", "", { outcome = 12, slot = 1 }),
      packet("done", string.pack("=I8", 100), { outcome = RETURNED, block = 2 })),
    nested = input(met | 2 * JOBS, packet "begun",
      packet("submit", value, { slot = 1, outcome = 3 }), packet("submit", value, { slot = 2 }),
      packet("rest", string.pack("=I8I8", 1, 0)), packet("withdraw", "", { slot = 1 }),
      packet("interrupt", string.pack("=i8", 1), { slot = 2 }), packet "sync", packet "leave", done),
  }
end

local name, dir = arg[1], arg[2]
assert(targets[name] and dir, "usage: seeds.lua codec|channel DIR")
for file, bytes in pairs(targets[name]()) do
  local to <close> = assert(io.open(dir .. "/" .. file, "wb"))
  to:write(bytes)
end
