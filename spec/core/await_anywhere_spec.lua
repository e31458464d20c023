local peri = require "perilune"
local support = require "support"
local raises, trace, spin, finally = support.raises, support.trace, support.spin, support.finally

-- Waits, while another task shows that the loop goes on meanwhile.
local function slept(x)
  return peri.sleep(1, x)
end

describe("a wait works", function()
  local turned

  before_each(function()
    turned = 0
    peri.create_task(function()
      for _ = 1, 3 do
        peri.sleep(0.1)
        turned = turned + 1
      end
    end)
  end)

  after_each(function() assert.equal(3, turned) end)

  it("inside pcall and xpcall, errors included", function()
    assert.same({ true, "x" }, { pcall(slept, "x") })
    assert.same({ true, "x" }, { xpcall(slept, print, "x") })
    local fault = {}
    local ok, err = pcall(function()
      slept()
      error(fault)
    end)
    assert.same({ false, fault }, { ok, err })
    assert.same({ false, "handled oops" }, { xpcall(function()
      slept()
      error("oops", 0)
    end, function(e) return "handled " .. e end) })
  end)

  it("in nested pcalls", function()
    local function nest(n)
      if n == 0 then return slept "deep" end
      return select(2, pcall(nest, n - 1))
    end
    assert.equal("deep", nest(50))
  end)

  it("inside metamethods", function()
    local t = setmetatable({}, {
      __index = function(_, k) return slept("index " .. k) end,
      __newindex = function(t, k, v) rawset(t, k, slept(v)) end,
      __add = function(_, b) return slept("add " .. b) end,
      __concat = function(_, b) return slept("concat " .. b) end,
      __unm = function() return slept "unm" end,
      __len = function() return slept(7) end,
      __eq = function() return slept(true) end,
      __lt = function() return slept(true) end,
      __call = function(_, x) return slept("call " .. x) end,
    })
    t.set = "new"
    assert.equal("new", rawget(t, "set"))
    assert.equal("index k", t.k)
    assert.equal("add 1", t + 1)
    assert.equal("concat x", t .. "x")
    assert.equal("unm", -t)
    assert.equal(7, #t)
    assert.is_true(t == setmetatable({}, getmetatable(t)))
    assert.is_true(t < t)
    assert.equal("call x", t "x")
  end)

  it("inside iterators and __pairs", function()
    local seen = {}
    local function three(_, i)
      peri.sleep(0.1)
      if i < 3 then return i + 1 end
    end
    for i in three, nil, 0 do seen[#seen + 1] = i end
    local paired = setmetatable({}, { __pairs = function(t)
      peri.sleep(0.1)
      return three, t, 0
    end })
    for i in pairs(paired) do seen[#seen + 1] = i end
    peri.sleep(1)
    assert.same({ 1, 2, 3, 1, 2, 3 }, seen)
  end)

  it("inside __close, at a normal end, at break and at return", function()
    local lines, say = trace()
    local function scope(name)
      return finally(function(err) say(name, slept "waited", err) end)
    end
    do local _ <close> = scope "block" end
    for i = 1, 3 do
      local _ <close> = scope "break"
      if i == 1 then break end
    end
    local function returns()
      local _ <close> = scope "return"
      return 1, nil, 3
    end
    assert.same({ n = 3, 1, nil, 3 }, table.pack(returns()))
    assert.same({ "block waited nil", "break waited nil", "return waited nil" }, lines)
  end)

  it("inside __close while an error unwinds, which stays what it was", function()
    local lines, say = trace()
    local fault = setmetatable({}, { __tostring = function() return "fault" end })
    local task = peri.create_task(function()
      local _ <close> = finally(function(err) say("outer", slept "waited", err) end)
      local _ <close> = finally(function(err) say("inner", slept "waited", err) end)
      error(fault)
    end)
    pcall(task.await, task)
    assert.same({ "inner waited fault", "outer waited fault" }, lines)
    assert.equal(fault, task:exception())
  end)

  it("inside __close, which may raise another error", function()
    local task = peri.create_task(function()
      local _ <close> = finally(function()
        slept()
        error("second", 0)
      end)
      error("first", 0)
    end)
    pcall(task.await, task)
    assert.equal("second", task:exception())
  end)

  it("inside a generator made by coroutine.wrap, which sees nothing of it", function()
    local generator = coroutine.wrap(function(a)
      local b = coroutine.yield(slept(a + 1))
      local c = coroutine.yield(slept(b + 1))
      return slept(c + 1)
    end)
    assert.equal(2, generator(1))
    assert.equal(11, generator(10))
    assert.equal(101, generator(100))
  end)

  it("inside a coroutine driven by coroutine.resume", function()
    local co = coroutine.create(function(...)
      slept()
      local got = table.pack(coroutine.yield(...))
      slept()
      return table.unpack(got, 1, got.n)
    end)
    assert.same({ n = 4, true, 1, nil, 3 }, table.pack(coroutine.resume(co, 1, nil, 3)))
    assert.same({ n = 3, true, nil, 2 }, table.pack(coroutine.resume(co, nil, 2)))
    assert.equal("dead", coroutine.status(co))
  end)

  it("inside generators within generators", function()
    local function nest(n)
      if n == 0 then return slept "deep" end
      return coroutine.wrap(function() return nest(n - 1) end)()
    end
    assert.equal("deep", nest(40))
  end)

  it("inside a pcall of a generator, which may go on after the error", function()
    local generator = coroutine.wrap(function()
      local ok, err = pcall(function()
        slept()
        error("inside", 0)
      end)
      coroutine.yield(ok, err)
      slept()
      return "end"
    end)
    assert.same({ false, "inside" }, { generator() })
    assert.equal("end", generator())
  end)

  it("inside __close of a generator when the scope ends normally", function()
    local generator = coroutine.wrap(function()
      local result
      do
        local _ <close> = finally(function() result = slept "waited" end)
      end
      return result
    end)
    assert.equal("waited", generator())
  end)

  it("inside dofile", function()
    local path = support.file [[return (require "perilune".sleep(1, "from the file"))]]
    assert.equal("from the file", dofile(path))
  end)
end)

describe("nesting", function()
  it("of some 150 levels of pcall works", function()
    local function nest(n)
      if n == 0 then return peri.sleep(1, "deep") end
      return select(2, pcall(nest, n - 1))
    end
    assert.equal("deep", nest(150))
  end)

  it("beyond Lua's limit is an error, not a crash", function()
    local function nest()
      return coroutine.wrap(function() return nest() end)()
    end
    local ok, err = pcall(nest)
    assert.is_false(ok)
    assert.matches("C stack overflow", tostring(err))
    assert.equal("alive", peri.sleep(0, "alive"))
  end)
end)

-- The rows of the table "a wait in ... gives ..." ---------------------------

describe("a wait is refused", function()
  local function across(name)
    return ("cannot wait in 'sleep': the C function '%s' in between cannot be suspended"):format(name)
  end

  it("in a table.sort comparator", function()
    raises(peri.RuntimeError, across "table.sort", table.sort, { 3, 2, 1 }, function(a, b)
      peri.sleep(0)
      return a < b
    end)
  end)

  it("in a string.gsub callback", function()
    raises(peri.RuntimeError, across "string.gsub", string.gsub, "abc", "%w", function()
      peri.sleep(0)
    end)
  end)

  it("in a module that a stock require loads", function()
    -- The program's own require is one that lets modules wait.
    local out, err, code = support.run_stock [[
      local peri = require "perilune"
      package.preload["waits.while.loading"] = function() peri.sleep(0) end
      peri.run(function() print(select(2, pcall(require, "waits.while.loading"))) end)
    ]]
    assert.same({ "RuntimeError: " .. across "require" .. "\n", "", 0 }, { out, err, code })
  end)

  it("in __tostring", function()
    raises(peri.RuntimeError, across "tostring", tostring, setmetatable({}, {
      __tostring = function()
        peri.sleep(0)
        return "never"
      end,
    }))
  end)

  it("in __gc", function()
    local ok, err
    setmetatable({}, { __gc = function() ok, err = pcall(peri.sleep, 0) end })
    support.collect()
    assert.is_false(ok)
    assert.equal("RuntimeError: cannot wait in 'sleep' inside __gc", tostring(err))
  end)

  it("in callbacks of call_soon and of timers", function()
    local refused = {}
    local function wait()
      local ok, err = pcall(peri.sleep, 0)
      refused[#refused + 1] = not ok and tostring(err)
    end
    local loop = peri.get_running_loop()
    loop:call_soon(wait)
    loop:call_later(0.1, wait)
    peri.sleep(1)
    local message = "RuntimeError: cannot wait in 'sleep': callbacks are not tasks (this is a %s callback)"
    assert.same({ message:format "call_soon", message:format "call_later" }, refused)
  end)

  it("in done callbacks", function()
    local refused
    local future, other = peri.Future(), peri.Future()
    future:add_done_callback(function()
      refused = select(2, pcall(other.await, other))
    end)
    future:set_result()
    spin(2)
    assert.equal("RuntimeError: cannot wait in 'await': callbacks are not tasks (this is a done callback)",
      tostring(refused))
  end)

  it("in a coroutine resumed through a coroutine.resume captured before", function()
    local out, err, code = support.run_stock [[
      local resume = coroutine.resume
      local peri = require "perilune"
      peri.run(function()
        local co = coroutine.create(function() peri.sleep(0) end)
        local ok, err = resume(co)
        print(ok, peri.RuntimeError:is(err), err)
        print(peri.sleep(0, "goes on"))
      end)
    ]]
    assert.equal("", err)
    assert.equal(0, code)
    assert.equal("false\ttrue\tRuntimeError: cannot wait in 'sleep': "
      .. "its coroutine was resumed by a C library or by a coroutine.resume from before "
      .. "perilune was loaded\ngoes on\n", out)
  end)

  it("in stock lua5.4's main chunk, outside run", function()
    local out, err, code = support.run_stock [[
      local peri = require "perilune"
      print(pcall(peri.sleep, 0))
      local ok, err = pcall(peri.create_task, print)
      print(ok, peri.RuntimeError:is(err), err)
    ]]
    assert.equal("", err)
    assert.equal(0, code)
    assert.equal("false\tRuntimeError: no running event loop\n"
      .. "false\ttrue\tRuntimeError: no running event loop\n", out)
  end)

  it("in __close of a coroutine that dies by an error", function()
    local seen
    local co = coroutine.create(function()
      local _ <close> = finally(function()
        seen = select(2, pcall(peri.sleep, 1))
      end)
      error "dies"
    end)
    assert.is_false(coroutine.resume(co))
    -- As in stock Lua, resume leaves the scopes of a dead coroutine to close.
    assert.is_false(coroutine.close(co))
    assert.equal("RuntimeError: cannot wait in 'sleep': the coroutine is being closed", tostring(seen))
  end)

  it("in __close of a generator that dies by an error", function()
    local seen
    local generator = coroutine.wrap(function()
      local _ <close> = finally(function()
        seen = select(2, pcall(peri.sleep, 1))
      end)
      error("dies", 0)
    end)
    assert.has_error(generator, "dies")
    assert.equal("RuntimeError: cannot wait in 'sleep': the coroutine is being closed", tostring(seen))
  end)

  it("in __close of a coroutine that coroutine.close ends", function()
    local seen
    local co = coroutine.create(function()
      local _ <close> = finally(function()
        seen = select(2, pcall(peri.sleep, 1))
      end)
      coroutine.yield()
    end)
    coroutine.resume(co)
    assert.is_true(coroutine.close(co))
    assert.equal("RuntimeError: cannot wait in 'sleep': the coroutine is being closed", tostring(seen))
  end)

  it("in an xpcall message handler and a load reader", function()
    local seen
    xpcall(error, function() seen = select(2, pcall(peri.sleep, 0)) end)
    assert.is_true(peri.RuntimeError:is(seen))
    -- In a pcall of its own: load calls the handler of an xpcall around it.
    local _, chunk, err = pcall(load, function() peri.sleep(0) end)
    assert.is_nil(chunk)
    assert.equal("RuntimeError: " .. across "load", tostring(err))
  end)
end)
