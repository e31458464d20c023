-- A plain table {fn, a, b, n=, context=} in the place of a function and its
-- arguments.
local peri = require "perilune"
local support = require "support"
local raises = support.raises

local function record()
  local got = {}
  return got, function(...) got[#got + 1] = table.pack(...) end
end

describe("a call table", function()
  local loop
  before_each(function() loop = peri.get_running_loop() end)

  it("is what call_soon, call_soon_threadsafe, call_later and call_at take", function()
    local got, fn = record()
    local call = { fn, 1, nil, 3, nil, n = 5 }
    loop:call_soon(call)
    loop:call_soon_threadsafe(call)
    loop:call_later(1, call)
    loop:call_at(loop:time() + 1, call)
    peri.sleep(2)
    local values = { n = 4, 1, nil, 3, nil }
    assert.same({ values, values, values, values }, got)
  end)

  it("is what readers and writers take", function()
    local reader, _, writer = support.pipe()
    local done = peri.Future()
    loop:add_writer(writer, { function(text)
      loop:remove_writer(writer)
      writer:write(text)
    end, "x" })
    loop:add_reader(reader, { function(...)
      loop:remove_reader(reader)
      done:set_result(reader:read(1), ...)
    end, "read" })
    assert.same({ "x", "read" }, { done:await() })
    reader:close()
    writer:close()
  end)

  it("is what call, create_task and a task group take", function()
    local function echo(...) return ... end
    local call = { echo, "a", nil, n = 3 }
    assert.same({ n = 2, "a" }, table.pack(peri.call(call):await()))
    assert.same({ n = 2, "a" }, table.pack(peri.create_task(call):await()))
    assert.equal("a", peri.TaskGroup { function(group, x) return group and x end, "a" })
  end)

  it("has a function first", function()
    for _, call in ipairs {
      function() loop:call_soon { 1 } end,
      function() loop:call_later(1, {}) end,
      function() loop:add_signal_handler("SIGUSR2", {}) end,
      function() peri.call {} end,
      function() peri.TaskGroup {} end,
    } do
      local ok, err = pcall(call)
      assert.is_false(ok)
      assert.is_true(peri.TypeError:is(err))
      assert.matches("function expected, got %a+%)$", err.message)
    end
  end)

  it("that can itself be called is a function", function()
    local got, fn = record()
    loop:call_soon(setmetatable({ print }, { __call = function(_, x) fn(x) end }), "x")
    peri.sleep(0)
    assert.same({ { n = 1, "x" } }, got)
  end)
end)

describe("a coroutine object", function()
  it("has no context of its own", function()
    raises(peri.ValueError, "call: a coroutine object has no context of its own",
      function() peri.call { print, context = peri.copy_context() } end)
  end)
end)

describe("the callback of a reader or writer", function()
  local var = peri.ContextVar("spec", "none")

  -- What the callback of a reader sees, when fn adds it.
  local function seen_by(fn)
    local reader, _, writer = support.pipe()
    local seen = peri.Future()
    fn(reader, function()
      peri.get_running_loop():remove_reader(reader)
      seen:set_result(var:get())
      var:set "in the callback"
    end)
    var:set "later"
    writer:write "x"
    local value = seen:await()
    reader:close()
    writer:close()
    return value
  end

  it("runs in a copy of the context that added it", function()
    local loop = peri.get_running_loop()
    local token = var:set "then"
    assert.equal("then", seen_by(function(reader, fn) loop:add_reader(reader, fn) end))
    assert.equal("later", var:get())
    var:reset(token)
  end)

  it("runs in the context that a call table names", function()
    local loop, context = peri.get_running_loop(), peri.copy_context()
    context:run(var.set, var, "given")
    assert.equal("given", seen_by(function(reader, fn)
      loop:add_reader(reader, { fn, context = context })
    end))
    assert.equal("in the callback", context:get(var))
  end)
end)
