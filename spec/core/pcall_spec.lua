local peri = require "perilune"
local support = require "support"
local raises = support.raises

for _, case in ipairs {
  { "pcall", pcall, xpcall },
  { "peri.pcall", peri.pcall, peri.xpcall },
} do
  local name, pcall, xpcall = case[1], case[2], case[3]

  describe(name .. " and its xpcall", function()
    it("return true and every value", function()
      assert.same({ n = 4, true, 1, nil, 3 }, table.pack(pcall(function(...) return ... end, 1, nil, 3)))
      assert.same({ n = 1, true }, table.pack(pcall(function() end)))
      assert.same({ n = 3, true, "a", nil }, table.pack(xpcall(function(...) return ... end, print, "a", nil)))
    end)

    it("take debug.traceback as a handler as Lua's own do", function()
      local _, text = xpcall(error, debug.traceback, "x", 0)
      assert.matches("^x\nstack traceback:\n\t%[C%]: in function 'error'", text)
      assert.matches("^stack traceback:\n\t%[C%]: in function 'error'", select(2, xpcall(error, debug.traceback)))
      local fault = {}
      assert.equal(fault, select(2, xpcall(error, debug.traceback, fault)))
    end)

    it("return false and the error as it is", function()
      for _, fault in ipairs { {}, "text", 42, true, peri.ValueError "x" } do
        local ok, err = pcall(error, fault, 0)
        assert.is_false(ok)
        assert.equal(fault, err)
      end
      assert.same({ n = 2, false, nil }, table.pack(pcall(error)))
      assert.same({ n = 2, false, false }, table.pack(pcall(error, false)))
    end)

    it("catch errors of Lua itself", function()
      local ok, err = pcall(function() return nil + 1 end)
      assert.is_false(ok)
      assert.matches("attempt to perform arithmetic on a nil value", err)
      ok, err = pcall(42)
      assert.is_false(ok)
      assert.equal("attempt to call a number value", err)
    end)

    it("catch a stack overflow", function()
      local function deep() return 1 + deep() end
      local ok, err = pcall(deep)
      assert.is_false(ok)
      assert.matches("stack overflow", err)
    end)

    it("run the message handler where the error stands", function()
      local ok, text = xpcall(function()
        local function deep() error "oops" end
        deep()
      end, debug.traceback)
      assert.is_false(ok)
      assert.matches("oops", text)
      assert.matches("in .*deep", text)
    end)

    it("replace the error by what the handler returns", function()
      assert.same({ n = 2, false, "X" }, table.pack(xpcall(error, function() return "X", "dropped" end)))
    end)

    it("survive a handler that fails", function()
      local ok = xpcall(error, function() error "again" end)
      assert.is_false(ok)
    end)

    it("want a value, as stock Lua does", function()
      assert.has_error(function() pcall() end)
      assert.has_error(function() xpcall(print) end)
    end)
  end)
end

describe("pcall", function()
  it("catches a cancellation: Lua's rule", function()
    local task = peri.create_task(function()
      return pcall(peri.sleep, 60)
    end)
    peri.sleep(0)
    task:cancel()
    local ok, err = task:await()
    assert.is_false(ok)
    assert.is_true(peri.iscancel(err))
  end)
end)

describe("peri.pcall", function()
  it("lets CancelledError through", function()
    raises(peri.CancelledError, "x", peri.pcall, error, peri.CancelledError "x")
  end)
end)

describe("peri.xpcall", function()
  it("lets CancelledError through, the handler not called", function()
    local called = false
    raises(peri.CancelledError, "x", peri.xpcall, error, function() called = true end,
      peri.CancelledError "x")
    assert.is_false(called)
  end)
end)
