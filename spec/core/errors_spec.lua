local peri = require "perilune"
local support = require "support"
local raises = support.raises

describe("error classes", function()
  it("stand in the order of api.md", function()
    local parents = {
      CancelledError = "BaseError", Error = "BaseError", TimeoutError = "Error",
      InvalidStateError = "Error", ValueError = "Error", TypeError = "Error",
      LookupError = "Error", IndexError = "LookupError", NotImplementedError = "Error",
      QueueEmpty = "Error", QueueFull = "Error", QueueShutDown = "Error",
      ExceptionGroup = "Error", RuntimeError = "Error", BrokenBarrierError = "RuntimeError",
      DeadlockError = "RuntimeError", BrokenExecutor = "RuntimeError",
      BrokenThreadPool = "BrokenExecutor", BrokenProcessPool = "BrokenExecutor",
      EOFError = "Error", IncompleteReadError = "EOFError", LimitOverrunError = "Error",
      OSError = "Error",
    }
    for name, parent in pairs(parents) do
      local err = peri[name] "x"
      assert.is_true(peri[parent]:is(err), name)
      assert.is_true(peri.BaseError:is(err), name)
      assert.is_false(peri[name]:is(peri[parent] "x"), name)
    end
    assert.is_true(peri.OSError:is(peri.TimeoutError()))
    assert.is_false(peri.Error:is(peri.CancelledError()))
  end)

  it("make errors with a message, empty if none", function()
    assert.equal("no such port", peri.ValueError "no such port".message)
    assert.equal("", peri.ValueError().message)
    assert.equal("ValueError: no such port", tostring(peri.ValueError "no such port"))
    assert.equal("ValueError", tostring(peri.ValueError()))
  end)

  it("make errors that can be concatenated", function()
    assert.equal("got ValueError: x", "got " .. peri.ValueError "x")
    assert.equal("ValueError: x!", peri.ValueError "x" .. "!")
    assert.equal("ValueError: xValueError: y", peri.ValueError "x" .. peri.ValueError "y")
  end)

  it("take any value in is()", function()
    for _, value in ipairs { 1, "x", {}, true, print, io.stdout, setmetatable({}, {}) } do
      assert.is_false(peri.Error:is(value))
    end
    assert.is_false(peri.Error:is(nil))
    assert.is_false(peri.Error:is(peri.Error))
  end)

  it("are extended by name", function()
    local MyError = peri.Error:extend "SpecMyError"
    local Deeper = MyError:extend "SpecDeeperError"
    local err = Deeper "down here"
    assert.is_true(MyError:is(err) and Deeper:is(err) and peri.Error:is(err))
    assert.is_false(Deeper:is(MyError "x"))
    assert.equal("SpecDeeperError: down here", tostring(err))
  end)

  it("have one name each in a state", function()
    peri.Error:extend "SpecOnce"
    raises(peri.ValueError, "there is an error class named SpecOnce already",
      peri.Error.extend, peri.Error, "SpecOnce")
    raises(peri.ValueError, "there is an error class named TimeoutError already",
      peri.Error.extend, peri.Error, "TimeoutError")
  end)

  it("keep a cause", function()
    local cause = {}
    assert.equal(cause, peri.RuntimeError("x", { cause = cause }).cause)
    assert.is_nil(peri.RuntimeError "x".cause)
  end)

  it("are the same in every part", function()
    local errors = require "perilune.errors"
    for _, name in ipairs { "Error", "CancelledError", "TimeoutError", "OSError" } do
      assert.equal(errors[name], peri[name])
    end
  end)
end)

describe("an exception group", function()
  it("is split and filtered by class, inner groups too", function()
    local a, b, c = peri.ValueError "a", peri.TypeError "b", peri.ValueError "c"
    local inner = peri.ExceptionGroup("inner", { exceptions = { b, c } })
    local group = peri.ExceptionGroup("outer", { exceptions = { a, inner } })
    local values, rest = group:split(peri.ValueError)
    assert.equal("outer", values.message)
    assert.equal(a, values.exceptions[1])
    assert.equal("inner", values.exceptions[2].message)
    assert.equal(c, values.exceptions[2].exceptions[1])
    assert.equal(1, #rest.exceptions)
    assert.equal(b, rest.exceptions[1].exceptions[1])
    assert.is_nil(group:subgroup(peri.OSError))
    assert.equal(group, group:subgroup(peri.Error))
  end)
end)

describe("an exception group without exceptions", function()
  it("can be told and split all the same", function()
    local group = peri.ExceptionGroup "nothing"
    assert.equal("ExceptionGroup: nothing", tostring(group))
    assert.same({ n = 2 }, table.pack(group:split(peri.ValueError)))
    assert.is_nil(group:subgroup(peri.ValueError))
    assert.equal(group, group:subgroup(peri.ExceptionGroup))
  end)
end)

describe("what is raised", function()
  local function through_a_task(fault)
    local task = peri.create_task(error, fault, 0)
    local ok, err = pcall(task.await, task)
    assert.is_false(ok)
    return err, task
  end

  it("arrives unchanged, whatever it is", function()
    local odd = setmetatable({}, { __tostring = function() error "no text for you" end })
    for _, fault in ipairs { {}, "text", 1.5, true, false, print, io.stdout, odd } do
      assert.is_true(rawequal(fault, (through_a_task(fault))))
    end
  end)

  it("arrives as a RuntimeError that says so when it is nil", function()
    local err = through_a_task(nil)
    assert.is_true(peri.RuntimeError:is(err))
    assert.equal("error(nil) was raised", err.message)
  end)

  it("is reported even when its __tostring fails", function()
    local _, err, code = support.run_code [[
      error(setmetatable({}, { __tostring = function() error "no text for you" end }))
    ]]
    assert.equal(1, code)
    assert.equal("perilune: (a table whose __tostring fails)", err:match "^[^\n]*")
  end)

  it("knows where it came from once it has left a task", function()
    local fault = peri.ValueError "bad"
    local task = peri.create_task(function()
      local function culprit() error(fault) end
      culprit()
    end)
    pcall(task.await, task)
    assert.matches("culprit", fault.traceback)
    assert.matches("errors_spec.lua", fault.traceback, 1, true)
    assert.matches("culprit", task:traceback())
  end)

  it("shows every task it passed, innermost first", function()
    local fault = peri.ValueError "bad"
    local function innermost()
      error(fault)
    end
    local function outermost()
      peri.create_task(function() innermost() end):await()
    end
    local task = peri.create_task(function() outermost() end)
    pcall(task.await, task)
    local text = fault.traceback
    local first, second = text:find("innermost", 1, true), text:find("outermost", 1, true)
    assert.is_truthy(first, text)
    assert.is_truthy(second, text)
    assert.is_true(first < second)
  end)

  it("shows the generator it came out of", function()
    local fault = peri.ValueError "bad"
    local task = peri.create_task(function()
      local function yields() error(fault) end
      local generator = coroutine.wrap(function() yields() end)
      local function drives() generator() end
      drives()
    end)
    pcall(task.await, task)
    local text = fault.traceback
    local first, second = text:find("yields", 1, true), text:find("drives", 1, true)
    assert.is_truthy(first, text)
    assert.is_truthy(second, text)
    assert.is_true(first < second)
  end)
end)

describe("an error in __close", function()
  it("replaces the one that unwinds, and is seen by the next scope", function()
    local seen = {}
    local task = peri.create_task(function()
      local _ <close> = support.finally(function(err) seen[#seen + 1] = err end)
      local _ <close> = support.finally(function(err)
        seen[#seen + 1] = err
        error("second", 0)
      end)
      error("first", 0)
    end)
    pcall(task.await, task)
    assert.same({ "first", "second" }, seen)
    assert.equal("second", task:exception())
  end)

  it("of a task that is cancelled makes it a failed one", function()
    local task = peri.create_task(function()
      local _ <close> = support.finally(function() error("instead", 0) end)
      peri.sleep(60)
    end)
    peri.sleep(0)
    task:cancel()
    pcall(task.await, task)
    assert.is_false(task:cancelled())
    assert.equal("instead", task:exception())
  end)
end)

describe("defer", function()
  it("calls its function at the end of the block, which may wait", function()
    local lines, say = support.trace()
    do
      local _ <close> = peri.defer(function()
        peri.sleep(1)
        say "deferred"
      end)
      say "body"
    end
    assert.same({ "body", "deferred" }, lines)
  end)

  it("calls it while an error unwinds, too", function()
    local ran = false
    assert.has_error(function()
      local _ <close> = peri.defer(function() ran = true end)
      error "x"
    end)
    assert.is_true(ran)
  end)
end)
