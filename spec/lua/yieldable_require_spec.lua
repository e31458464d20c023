-- perilune.yieldable's require, which the program has installed: modules may wait.
local peri = require "perilune"
local support = require "support"
local yieldable = require "perilune.yieldable"
local raises, trace, spin, finally = support.raises, support.trace, support.spin, support.finally
local ends = support.ends

describe("yieldable.require", function()
  local require_ = yieldable.require
  local preload, loaded, names

  before_each(function()
    preload, loaded, names = package.preload, package.loaded, {}
  end)

  after_each(function()
    for _, name in ipairs(names) do preload[name], loaded[name] = nil, nil end
  end)

  local function module(name, body)
    names[#names + 1] = name
    preload[name] = body
  end

  it("is the program's require", function()
    assert.equal(require, require_)
  end)

  it("waits in a module, whose searchers may wait as well", function()
    module("m.waits", function(...) return { peri.sleep(0, ...) } end)
    assert.same({ "m.waits", ":preload:" }, require_ "m.waits")
    names[#names + 1] = "m.found"
    table.insert(package.searchers, 1, function(name)
      if name ~= "m.found" then return peri.sleep(0, "no luck") end
      return function(...) return peri.sleep(0, table.concat({ ... }, " from ")) end, "afar"
    end)
    local _ <close> = finally(function() table.remove(package.searchers, 1) end)
    assert.same({ "m.found from afar", "afar" }, { require_ "m.found" })
    assert.same({ "m.found from afar", n = 1 }, table.pack(require_ "m.found"))
    local ok, err = pcall(require_, "m.nowhere")
    assert.is_false(ok)
    assert.matches("^module 'm.nowhere' not found:\n\tno luck\n\tno field package.preload", err)
  end)

  it("waits in a file that it loads", function()
    local directory = support.directory()
    local file = assert(io.open(directory .. "/slow.lua", "w"))
    file:write 'local peri = require "perilune"\nreturn { peri.sleep(0, ...) }\n'
    file:close()
    local out, err, code = support.run_code(([[
      package.path = %q
      local slow, where = require "slow"
      print(slow[1], slow[2] == where, where:match "[^/]*$", require "slow" == slow)
    ]]):format(directory .. "/?.lua"))
    assert.same({ "slow\ttrue\tslow.lua\ttrue\n", "", 0 }, { out, err, code })
    out, err, code = support.run_program {
      env = "LUA_PATH=" .. support.quote(directory .. "/?.lua"), "-l", "slow", "-e", "print(slow[1])",
    }
    assert.same({ "slow\n", "", 0 }, { out, err, code })
  end)

  it("gives and tells what Lua's require does", function()
    -- The same script by stock Lua and by the program.
    local directory = support.directory()
    local function write(name, text)
      local file = assert(io.open(directory .. "/" .. name, "w"))
      file:write(text)
      file:close()
    end
    write("wrong.lua", "return = 1")
    write("fails.lua", "error 'on purpose'")
    write("nothing.lua", "x = ...")
    write("sets.lua", "package.loaded[...] = 'set'")
    write("no.lua", "return false")
    local script = support.file(([[
      package.path = %q
      package.cpath = ""
      local function try(...)
        local results = table.pack(pcall(function(...)
          local a, b, c = require(...)
          return a, b, c
        end, ...))
        for i = 1, results.n do results[i] = tostring(results[i]) end
        print(table.concat(results, "|"))
      end
      try() try(nil) try({}) try("wrong") try("fails") try("fails") try("nothing") try("nothing")
      try("sets") try("sets") try("no") try("no") try("missing") try(12)
      package.preload[12] = function(...) return select("#", ...) .. type(...) end
      package.preload["12"] = function(...) return select("#", ...) .. type(...) end
      try(12) try("12")
      package.preload.c = string.rep
      try "c"
      package.preload.bad = {}
      try "bad"
      local searchers = package.searchers
      package.searchers = { function() return 1 end, function() return {} end, function() end }
      try "one"
      package.searchers = { function() return "x" end, nil, function() return "y" end }
      try "two"
      package.searchers = setmetatable({}, { __index = searchers })
      try "three"
      package.searchers = { function() error "in a searcher" end }
      try "four"
      package.searchers = { function() return function() error("in a loader", 2) end end }
      try "five"
      package.searchers = nil
      try "six" try "sets"
      package.searchers, package.loaded = searchers, {}
      try "sets"
      package = nil
      try "nothing"
    ]]):format(directory .. "/?.lua"))
    local expected, stock_err, stock_code = support.shell("lua5.4 " .. script)
    assert.same({ "", 0 }, { stock_err, stock_code })
    local out, err, code = support.run_program { script }
    assert.same({ "", 0 }, { err, code })
    assert.equal(expected, out)
  end)

  it("lets a second task wait for the first, which loads once", function()
    local lines, say = trace()
    module("m.once", function()
      say "loading"
      peri.sleep(1)
      return { "the module" }
    end)
    local results = peri.gather(
      function() return require_ "m.once" end,
      function() return require_ "m.once" end,
      function() return (table.pack(require_ "m.once").n) end):await()
    assert.equal(results[1], results[2])
    assert.equal(1, results[3])
    assert.same({ "loading" }, lines)
  end)

  it("gives a second task the module when it is complete, the first one at once", function()
    module("m.early", function(name)
      loaded[name] = { "half" }
      module("m.inner", function() return require_(name)[1] end)
      local seen = require_ "m.inner"
      peri.sleep(1)
      loaded[name][1] = "whole"
      return seen == "half" and loaded[name]
    end)
    local results = peri.gather(
      function() return require_("m.early")[1] end,
      function() return require_("m.early")[1] end):await()
    assert.same({ n = 2, "whole", "whole" }, results)
  end)

  it("lets the next one load when the first has failed, was cancelled or killed", function()
    for _, how in ipairs { "fail", "cancel", "kill" } do
      local tries = 0
      module("m.again", function()
        tries = tries + 1
        local mine = tries
        peri.sleep(1)
        if how == "fail" and mine == 1 then error("try " .. mine, 0) end
        return "loaded at try " .. mine
      end)
      local first = peri.create_task(require_, "m.again")
      local others = peri.gather(peri.call(require_, "m.again"), peri.call(require_, "m.again"))
      spin(2)
      if how ~= "fail" then ends(first, how) end
      local ok, err = pcall(first.await, first)
      assert.is_false(ok)
      if how == "fail" then assert.equal("try 1", err) end
      assert.same({ n = 2, "loaded at try 2", "loaded at try 2" }, others:await())
      assert.equal(2, tries)
      loaded["m.again"] = nil
    end
  end)

  it("lets one who waits be cancelled or killed, and the others wait on", function()
    for _, how in ipairs { "cancel", "kill" } do
      module("m.long", function()
        peri.sleep(1)
        return "here"
      end)
      local first = peri.create_task(require_, "m.long")
      local second = peri.create_task(require_, "m.long")
      local third = peri.create_task(require_, "m.long")
      ends(second, how)
      assert.equal("here", first:await())
      assert.equal("here", third:await())
      loaded["m.long"] = nil
    end
  end)

  it("tells a cycle", function()
    module("m.a", function() return require_ "m.b" end)
    module("m.b", function() return peri.sleep(0, require_ "m.c") end)
    module("m.c", function() return require_ "m.a" end)
    raises(peri.RuntimeError, "module 'm.a' requires itself: 'm.a' -> 'm.b' -> 'm.c' -> 'm.a'",
      require_, "m.a")
    raises(peri.RuntimeError, "module 'm.b' requires itself: 'm.b' -> 'm.c' -> 'm.a' -> 'm.b'",
      require_, "m.b")
    module("m.self", function(name) return require_(name) end)
    raises(peri.RuntimeError, "module 'm.self' requires itself: 'm.self' -> 'm.self'", require_, "m.self")
  end)

  it("tells a cycle that several tasks make", function()
    local function chain(name, next)
      module(name, function()
        peri.sleep(1)
        return name .. "," .. require_(next)
      end)
    end
    chain("m.x", "m.y")
    chain("m.y", "m.z")
    chain("m.z", "m.x")
    local tasks = {}
    for i, name in ipairs { "m.x", "m.y", "m.z" } do tasks[i] = peri.create_task(require_, name) end
    peri.sleep(10)
    -- The last one to wait closes the circle; then the next one in turn loads
    -- anew what has failed, and so on.
    for _, task in ipairs(tasks) do
      assert.matches("^RuntimeError: module 'm%.[xyz]' requires itself: ", tostring(task:exception()))
    end
    assert.equal("module 'm.x' requires itself: 'm.x' -> 'm.y' -> 'm.z' -> 'm.x'",
      tasks[3]:exception().message)
  end)

  it("is refused a wait where none is possible", function()
    module("m.slow", function() return peri.sleep(1, "slow") end)
    local task = peri.create_task { require_, "m.slow", name = "loader" }
    spin(1)
    local message = "cannot wait in 'require': task loader is loading module 'm.slow'"
    raises(peri.RuntimeError, message, table.sort, { 2, 1 }, function() require_ "m.slow" end)
    local refused
    peri.get_running_loop():call_soon(function() refused = tostring(select(2, pcall(require_, "m.slow"))) end)
    spin(2)
    assert.equal("RuntimeError: " .. message, refused)
    assert.equal("slow", task:await())
    assert.equal("slow", require_ "m.slow")
  end)

  it("passes over a load that a dead coroutine has left behind", function()
    local fail = true
    module("m.died", function()
      peri.sleep(0)
      if fail then error("died", 0) end
      return "alive"
    end)
    local co = coroutine.create(require_)
    assert.same({ false, "died" }, { coroutine.resume(co, "m.died") })
    fail = false
    assert.equal("alive", require_ "m.died")
    assert.is_true(coroutine.close(co) == false or true)
    assert.equal("alive", require_ "m.died")
  end)

  it("tells a load that hangs in a suspended coroutine, until its task has ended", function()
    local tries = 0
    module("m.yields", function()
      tries = tries + 1
      if tries == 1 then coroutine.yield "half way" end
      return "whole"
    end)
    local other
    local task = peri.create_task(function()
      local generator = coroutine.wrap(require_)
      assert.equal("half way", generator "m.yields")
      raises(peri.RuntimeError, "module 'm.yields' is being loaded by a coroutine that is suspended",
        require_, "m.yields")
      other = peri.create_task(require_, "m.yields")
      peri.sleep(1)
      assert.is_false(other:done())
      return generator
    end)
    local generator = task:await()
    assert.equal("whole", other:await())
    assert.equal("whole", generator())
    assert.equal("whole", require_ "m.yields")
  end)

  it("can be cancelled and killed while it loads", function()
    for _, how in ipairs { "cancel", "kill" } do
      local lines, say = trace()
      module("m.endless", function()
        local _ <close> = finally(function() say "closed" end)
        peri.sleep(1e6)
      end)
      ends(peri.create_task(require_, "m.endless"), how)
      assert.same({ "closed" }, lines)
      module("m.endless", function() return how end)
      assert.equal(how, require_ "m.endless")
      loaded["m.endless"] = nil
    end
  end)

  it("shows in a traceback the module that failed", function()
    local out, err, code = support.run_code [[
      local peri = require "perilune"
      package.preload.bad = function()
        peri.sleep(0)
        error "in the module"
      end
      require "bad"
    ]]
    assert.equal("", out)
    assert.equal(1, code)
    assert.matches(":4: in the module\nstack traceback:.*:4: in .*\n.*in function 'require'\n.*:6: in main chunk", err)
  end)

  it("lets modules wait in workers", function()
    local directory = support.directory()
    local file = assert(io.open(directory .. "/in_worker.lua", "w"))
    file:write 'return require "perilune".sleep(0.001, "waited")'
    file:close()
    local path = package.path
    local _ <close> = finally(function() package.path = path end)
    package.path = directory .. "/?.lua;" .. path
    local executor <close> = require "perilune.futures".ThreadPoolExecutor { max_workers = 1 }
    assert.equal("waited", executor:submit(function() return require "in_worker" end):await())
    -- The function itself stands for the worker's own.
    assert.equal("waited", executor:submit(require_, "in_worker"):await())
  end)
end)
