local native = require "perilune._codec"
local net = require "perilune.net"
local futures = require "perilune.futures"
local peri = require "perilune"
local support = require "support"
local raises = support.raises
local multiprocessing = require "perilune.multiprocessing"

local function copy(...)
  return native.decode(native.encode(...), true)
end

local function cannot_send(what, ...)
  return raises(peri.TypeError, "cannot send " .. what, native.encode, ...)
end

-- This file as messages about its functions name it.
local here = debug.getinfo(1, "S").short_src
local function line_of(fn)
  return ("%s:%d"):format(here, debug.getinfo(fn, "S").linedefined)
end

describe("plain values", function()
  local function same(value)
    local back = copy(value)
    assert.equal(math.type(value), math.type(back))
    assert.equal(value, back)
  end

  it("keep integers and floats apart and exact", function()
    for _, value in ipairs {
      0, 1, 63, 64, -1, 127, 128, -64, 1 << 31, 1 << 53, math.maxinteger, math.mininteger,
      0.0, 1.0, 0.1, -1.5, 5e-324, 1.7976931348623157e308, math.huge, -math.huge,
    } do same(value) end
  end)

  it("keep NaN and the sign of zero", function()
    local nan = copy(0 / 0)
    assert.is_true(nan ~= nan)
    assert.equal(-math.huge, 1 / copy(-0.0))
  end)

  it("keep strings of any bytes and length", function()
    local bytes = {}
    for i = 0, 255 do bytes[i + 1] = string.char(i) end
    same(table.concat(bytes))
    for _, n in ipairs { 0, 1, 40, 41, 127, 128, 255, 256, 257, 70000 } do same(("s"):rep(n)) end
  end)

  it("keep nils in their places", function()
    assert.equal(0, select("#", copy()))
    assert.same({ n = 4, nil, true, false, nil }, table.pack(copy(nil, true, false, nil)))
  end)
end)

describe("tables", function()
  it("are copied with keys of any kind and holes", function()
    local value = { 1, 2, nil, 4, x = { y = "z" }, [1.5] = true, [true] = 0, [-1] = "m" }
    assert.same(value, (copy(value)))
    assert.is_true(copy(value) ~= value)
  end)

  it("keep what is shared shared, within one message", function()
    local shared = {}
    local a, b = copy({ shared, x = shared }, shared)
    assert.is_true(a[1] == a.x and a[1] == b)
  end)

  it("keep cycles, through keys as well", function()
    local value = {}
    value.self, value[value] = value, "key"
    local back = copy(value)
    assert.is_true(back.self == back and back[back] == "key")
  end)

  it("may be nested 50,000 deep", function()
    local value = {}
    for _ = 1, 50000 do value = { value } end
    local back, depth = copy(value), 0
    while back[1] do back, depth = back[1], depth + 1 end
    assert.equal(50000, depth)
  end)

  it("nested without end are an error, not a crash", function()
    local value = {}
    for _ = 1, 200000 do value = { value } end
    local path = "value 1" .. ("[1]"):rep(6) .. " ... " .. ("[1]"):rep(10)
    cannot_send(path .. ": nested too deeply", value)
  end)

  it("hold a long string once, however often it is in them", function()
    local long = ("long"):rep(1000)
    local message = native.encode { long, long, { long }, [long] = 1 }
    assert.is_true(#message < 2 * #long)
    local back = native.decode(message)
    assert.is_true(back[1] == long and back[2] == long and back[3][1] == long and back[long] == 1)
  end)
end)

describe("functions", function()
  it("take copies of their upvalues along", function()
    local count = 5
    local function increment() count = count + 1 return count end
    assert.equal(6, copy(increment)())
    assert.equal(5, count)
  end)

  it("share the upvalues that they shared", function()
    local count = 0
    local function increment() count = count + 1 end
    local function get() return count end
    local pair = copy { increment = increment, get = get }
    pair.increment()
    pair.increment()
    assert.equal(2, pair.get())
  end)

  it("may call themselves and one another", function()
    local even, odd
    function even(n) if n == 0 then return true end return odd(n - 1) end
    function odd(n) if n == 0 then return false end return even(n - 1) end
    assert.is_true(copy(even)(10))
    assert.is_false(copy(odd)(10))
  end)

  it("keep their debug information", function()
    local captured = 1
    local function fn() return captured end
    local back = copy(fn)
    assert.equal(debug.getinfo(fn, "S").linedefined, debug.getinfo(back, "S").linedefined)
    assert.equal(here, debug.getinfo(back, "S").short_src)
    assert.equal("captured", (debug.getupvalue(back, 1)))
  end)

  it("get the receiver's globals", function()
    local fn = load("return answer", "=chunk", "t", { answer = 42 })
    assert.equal(42, fn())
    assert.is_nil(copy(fn)())
  end)

  it("are taken from trusted messages only", function()
    local message = native.encode(function() end)
    raises(peri.ValueError, "message from an untrusted source: it holds a function",
      native.decode, message)
  end)
end)

describe("names", function()
  local function load_module(name, module)
    package.preload[name] = function() return module end
    finally(function() package.preload[name], package.loaded[name] = nil, nil end)
    return require(name)
  end

  it("stand for the standard library and its functions", function()
    for _, value in ipairs { string, string.len, print, math, io.stdout, table.concat, coroutine } do
      assert.is_true(copy(value) == value)
    end
  end)

  it("stand for modules, their functions and classes", function()
    for _, value in ipairs { peri, futures, peri.sleep, peri.ValueError, support.raises } do
      assert.is_true(copy(value) == value)
    end
  end)

  it("do not stand for a module's data", function()
    local module = load_module("spec.data", { list = { 1, 2 } })
    assert.is_true(copy(module) == module)
    assert.is_true(copy(module.list) ~= module.list)
    assert.same({ 1, 2 }, (copy(module.list)))
  end)

  it("reach C functions in the depth of a module", function()
    load_module("spec.deep", { a = { b = { fn = io.stdout.write } } })
    assert.is_true(copy(io.stdout.write) == io.stdout.write)
  end)

  it("of what was put into package.loaded by hand are known after the next require", function()
    local module = { fn = function() end }
    package.loaded["spec.by_hand"] = module
    finally(function() package.loaded["spec.by_hand"] = nil end)
    assert.is_true(copy(module) ~= module)
    load_module("spec.another", {})
    assert.is_true(copy(module) == module and copy(module.fn) == module.fn)
  end)

  it("of modules that are not loaded need a trusted message", function()
    local message = native.encode(load_module("spec.gone", { fn = function() end }).fn)
    package.loaded["spec.gone"] = nil
    raises(peri.ValueError,
      "message from an untrusted source: it names a module that is not loaded",
      native.decode, message)
  end)

  it("that lead nowhere are an error that says so", function()
    local module = load_module("spec.changed", { fn = function() end })
    local message = native.encode(module.fn)
    module.fn = nil
    raises(peri.RuntimeError, "module 'spec.changed' has no 'fn' in the state that reads it",
      native.decode, message)
  end)
end)

describe("what cannot be sent", function()
  local stray = coroutine.create(function() end)
  local executor

  setup(function() executor = futures.ThreadPoolExecutor { max_workers = 1 } end)
  teardown(function() executor:shutdown() end)

  it("is named by the path to it", function()
    cannot_send("value 1: coroutine", stray)
    cannot_send("value 2[3].x: coroutine", 1, { 1, 2, { x = stray } })
    cannot_send("value 1['two words'][1.5][true]: coroutine", { ["two words"] = { [1.5] = { [true] = stray } } })
    cannot_send("value 1, a key of it: coroutine", { [stray] = 1 })
  end)

  it("is named by upvalue and function", function()
    local function job() return stray end
    cannot_send(("upvalue 'stray' of function %s (value 1): coroutine"):format(line_of(job)), job)
  end)

  it("is named with the way to the function", function()
    local conn = { peer = stray }
    local function handler() return conn end
    local function job() return handler end
    cannot_send(("upvalue 'conn'.peer of function %s (upvalue 'handler' of function %s (value 1)): coroutine")
      :format(line_of(handler), line_of(job)), job)
  end)

  it("may be userdata, told by its kind", function()
    local file <close> = io.tmpfile()
    cannot_send("value 1.file: FILE*", { file = file })
  end)

  it("may be an object of the library's that belongs to its loop or state", function()
    local function stays(name, object)
      cannot_send(("value 1.x: %s, which stays in its Lua state (peri.ref sends a token)"):format(name),
        { x = object })
    end
    stays("perilune.Future", peri.Future())
    stays("perilune.Task", peri.current_task())
    stays("perilune.Queue", peri.Queue())
    stays("perilune.Lock", peri.Lock())
    stays("perilune.Event", peri.Event())
    stays("perilune.BoundedSemaphore", peri.BoundedSemaphore(1))
    stays("perilune.ContextVar", peri.ContextVar "user")
    stays("perilune.futures.Executor", executor)
  end)

  it("may be a stream, told by its kind", function()
    local server <close> = net.start_server(function() end, "127.0.0.1", 0)
    local conn <close> = net.open_connection(server.sockets[1]:getsockname())
    local function job() return conn end
    raises(peri.TypeError, ("cannot send upvalue 'conn' of function %s: tcp stream"):format(line_of(job)),
      executor.submit, executor, job)
  end)

  it("may be an object of a class that nobody registered", function()
    cannot_send("value 1: Point (its class is not registered)", setmetatable({}, { __name = "Point" }))
    cannot_send("value 1: table with a metatable (its class is not registered)", setmetatable({}, {}))
  end)

  it("may be a C function that no module has", function()
    cannot_send("value 1: C function", (coroutine.wrap(print)))
  end)
end)

describe("registered classes", function()
  local Point = { __name = "spec.Point" }
  Point.__index = Point
  function Point.new(x, y) return setmetatable({ x = x, y = y }, Point) end
  function Point:sum() return self.x + self.y end
  Point.ORIGIN = Point.new(0, 0)

  local Set = { __name = "spec.Set" }
  local function make_set(...)
    local keys = {}
    for _, key in ipairs { ... } do keys[key] = true end
    return setmetatable({ keys = keys }, Set)
  end
  local function pack_set(set)
    local list = {}
    for key in pairs(set.keys) do list[#list + 1] = key end
    return table.unpack(list)
  end

  lazy_setup(function()
    multiprocessing.register("spec.Point", Point)
    multiprocessing.register("spec.Set", Set, { pack = pack_set, unpack = make_set })
  end)

  it("send their objects' fields", function()
    local point = copy(Point.new(1, 2))
    assert.equal(3, point:sum())
    assert.is_true(getmetatable(point) == Point)
  end)

  it("send what pack returns and make objects of it with unpack", function()
    local set = make_set("a", Point.new(1, 2))
    local back = copy { set, set }
    assert.is_true(back[1] == back[2] and getmetatable(back[1]) == Set)
    assert.is_true(back[1].keys.a)
  end)

  it("may unpack to nil, again and again", function()
    local Gone = {}
    multiprocessing.register("spec.Gone", Gone, { pack = function() end, unpack = function() end })
    local gone = setmetatable({}, Gone)
    assert.same({ n = 3, nil, nil, 5 }, table.pack(copy(gone, gone, 5)))
  end)

  it("pass errors of pack and unpack on", function()
    local Bad = {}
    multiprocessing.register("spec.Bad", Bad, {
      pack = function(bad) if bad.packs then return 1 end error("no pack", 0) end,
      unpack = function() error("no unpack", 0) end,
    })
    assert.has_error(function() copy(setmetatable({}, Bad)) end, "no pack")
    assert.has_error(function() copy(setmetatable({ packs = true }, Bad)) end, "no unpack")
  end)

  it("do not stand for values, in a message from nowhere", function()
    local message = native.encode(Point.new(1, 2))
    -- version, one value, TAG_CLASS and what follows it
    local class = message:sub(4, 5 + #"spec.Point")
    raises(peri.ValueError, "damaged message: a class stands for a value",
      native.decode, "\1\1" .. class, true)
  end)

  it("refuse an object that is part of what it packs", function()
    local set = make_set("a")
    set.keys = { [set] = true }
    cannot_send("value 1, packed value 1: it is part of what its own pack returned", set)
  end)

  it("have one name and one metatable each", function()
    raises(peri.ValueError, "register: the name 'spec.Point' is taken",
      multiprocessing.register, "spec.Point", {})
    raises(peri.ValueError, "register: the metatable of 'spec.Other' is registered already",
      multiprocessing.register, "spec.Other", Point)
    raises(peri.ValueError, "register: pack and unpack belong together",
      multiprocessing.register, "spec.Half", {}, { pack = function() end })
  end)

  it("come along to a worker that does not know them", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    local sum, none, moved = executor:submit(function(point)
      return point:sum(), point.ORIGIN:sum(), point.new(3, 4)
    end, Point.new(1, 2)):await()
    assert.same({ 3, 0, 7 }, { sum, none, moved:sum() })
    assert.is_true(getmetatable(moved) == Point)
  end)
end)

describe("handles", function()
  it("come home as what they stand for", function()
    local loop, stray = peri.get_running_loop(), coroutine.create(print)
    local ref = peri.ref(stray)
    local back = copy { loop, { ref, ref }, peri.ref(nil) }
    assert.is_true(back[1] == loop and back[2][1] == stray and back[2][2] == stray)
    assert.is_nil(back[3])
  end)

  it("are lost if nobody keeps them", function()
    local message = native.encode(peri.ref {})
    collectgarbage()
    collectgarbage()
    raises(peri.RuntimeError, "the value that a ref stands for has gone", native.decode, message)
  end)

  it("of loops have the methods that other states need", function()
    raises(peri.TypeError, "bad argument #1 to 'call_soon_threadsafe' (a LoopHandle expected, got table)",
      native.LoopHandle.call_soon_threadsafe, {}, print)
  end)
end)

describe("errors", function()
  local executor

  before_each(function() executor = futures.ThreadPoolExecutor { max_workers = 1 } end)
  after_each(function() executor:shutdown() end)

  it("keep class, message, fields and cause", function()
    local err = copy(peri.OSError("gone", { code = "EPIPE", cause = peri.Error "why" }))
    assert.is_true(peri.OSError:is(err))
    assert.same({ "gone", "EPIPE", "why" }, { err.message, err.code, err.cause.message })
  end)

  it("of a script's class are of that class again when they come home", function()
    local MyError = peri.ValueError:extend "spec.MyError"
    function MyError:twice() return 2 * self.code end
    local err = executor:submit(function()
      local inside = MyError("m", { code = 4 })
      assert(inside:twice() == 8)
      return inside
    end):await()
    assert.is_true(MyError:is(err) and peri.ValueError:is(err))
    assert.equal(8, err:twice())
  end)

  it("of a worker's own class get a class with its name and base", function()
    local err = executor:submit(function()
      return peri.LookupError:extend "spec.FarError" "far"
    end):await()
    assert.equal("spec.FarError: far", tostring(err))
    assert.is_true(peri.LookupError:is(err))
  end)

  it("have the worker's traceback", function()
    local function fail() error(peri.ValueError "bad") end
    local ok, err = pcall(peri.await, executor:submit(fail))
    assert.is_false(ok)
    assert.truthy(err.traceback:find(line_of(fail), 1, true))
    assert.truthy(err.traceback:find("in worker peri%-0"))
  end)
end)

describe("damaged messages", function()
  local function messages()
    local list = { 1, 2.5, "three", { nested = { true, false } } }
    list.self = list
    local function fn() return list, fn end -- luacheck: ignore
    return { native.encode(1, -5, 1.5, "abc", nil, true), native.encode(list),
      native.encode(peri.OSError("x", { code = "E" }), peri.ValueError), native.encode(string.len, fn) }
  end

  it("are an error wherever they are cut off", function()
    for _, message in ipairs(messages()) do
      for n = 0, #message - 1 do
        local ok, err = pcall(native.decode, message:sub(1, n), true)
        assert.is_false(ok)
        assert.is_true(peri.ValueError:is(err))
      end
    end
  end)

  it("with changed bytes are values or an error", function()
    math.randomseed(20261123)
    for _, message in ipairs(messages()) do
      for _ = 1, 1000 do
        local at = math.random(#message)
        local byte = string.char(math.random(0, 255))
        local ok, err = pcall(native.decode, message:sub(1, at - 1) .. byte .. message:sub(at + 1))
        assert.is_true(ok or peri.Error:is(err))
      end
    end
  end)

  it("with something behind them are an error", function()
    raises(peri.ValueError, "damaged message: bytes are left over", native.decode, native.encode(1) .. "x")
    raises(peri.ValueError, "damaged message: it is truncated", native.decode, "")
    raises(peri.ValueError, "damaged message: it is of another version", native.decode, "\xff")
  end)

  it("cannot ask for more memory than they have bytes", function()
    -- version, one value, a table of 2^28 items
    local message = "\1\1\8" .. "\0\0\0\x10" .. "\0\0\0\0"
    raises(peri.ValueError, "damaged message: it is truncated", native.decode, message)
  end)
end)
