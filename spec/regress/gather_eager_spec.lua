-- gather hung itself on its children when all of them stood: an eager child that
-- ended the future of an earlier one made that count as done from the start.
local peri = require "perilune"
local support = require "support"

describe("gather with an eager task factory", function()
  local function eagerly(body)
    return function()
      local loop = peri.get_running_loop()
      loop:set_task_factory(peri.eager_task_factory)
      local _ <close> = peri.defer(loop.set_task_factory, loop, nil)
      body()
    end
  end

  it("looks at what a child has ended in a trip of its own (CPython)", eagerly(function()
    for _, kind in ipairs { "set_result", "set_exception", "cancel" } do
      local future = peri.Future()
      local gather = peri.gather({ future, function()
        future[kind](future, "end")
        return "child"
      end }, { return_exceptions = true })
      assert.is_false(gather:done())
      peri.sleep(0)
      assert.is_true(gather:done())
      local results = gather:result()
      assert.equal("child", results[2])
      assert.equal("end", results[1].message or results[1])
    end
  end))

  it("is done at once where all children are (CPython)", eagerly(function()
    local gather = peri.gather(function() return 1 end, function() return 2 end)
    assert.same({ n = 2, 1, 2 }, gather:result())
  end))

  it("lets go of its children when one of its arguments is none", eagerly(function()
    local future = peri.Future()
    support.raises(peri.TypeError,
      "bad argument #1 to 'gather' (item 3 of the list: awaitable expected, got boolean)",
      peri.gather, { future, function() return 1 end, true })
    support.collect()
    future:set_result "x"
    peri.sleep(0)
  end))
end)
