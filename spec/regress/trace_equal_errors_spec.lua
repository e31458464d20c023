-- An error that was a string equal to an earlier one took over the stacks of
-- that one, and one error object raised again and again kept all it ever passed.
local peri = require "perilune"

local function fail() error "always the same" end

local function failed(fn)
  local task = peri.create_task(fn)
  pcall(task.await, task)
  return task
end

describe("a traceback", function()
  it("of an error equal to an earlier one is its own", function()
    local first, second = failed(fail), failed(fail)
    assert.equal(first:exception(), second:exception())
    assert.equal(first:traceback(), second:traceback())
    assert.is_nil(second:traceback():find("in task", 1, true))
  end)

  it("of tasks that fail with the same error at once is each task's own", function()
    local first, second = peri.create_task(fail), peri.create_task(fail)
    peri.sleep(0)
    assert.equal(first:exception(), second:exception())
    assert.is_nil(second:traceback():find("in task", 1, true))
  end)

  it("of a future is that of the error it was given, not of an equal one", function()
    local task = failed(fail)
    local text = task:exception()
    local given, unrelated = peri.Future(), peri.Future()
    peri.create_task(function() given:set_exception(task:exception()) end):await()
    peri.create_task(function() unrelated:set_exception(text) end):await()
    assert.equal(text, given:exception())
    assert.equal(text, unrelated:exception())
    assert.equal(task:traceback(), given:traceback())
    assert.equal("", unrelated:traceback())
  end)

  it("of an error object that is raised again and again does not grow", function()
    local err = peri.ValueError "the one"
    local function lines()
      return select(2, failed(function() error(err) end):traceback():gsub("\n", ""))
    end
    local count = lines()
    for _ = 1, 100 do assert.equal(count, lines()) end
  end)

  it("of what generators raise again and again does not grow", function()
    local task = failed(function()
      for _ = 1, 100 do pcall(coroutine.wrap(fail)) end
      coroutine.wrap(fail)()
    end)
    local _, count = task:traceback():gsub("\n", "")
    assert.is_true(count < 10, task:traceback())
  end)

  it("goes along when a task catches the error and raises it elsewhere", function()
    local inner = peri.create_task(fail)
    local task = failed(function()
      local ok, err = pcall(inner.await, inner)
      assert(not ok)
      error(err, 0)
    end)
    assert.matches("in function 'error'\n.*in task Task%-%d+:\n.*in function 'error'\n",
      task:traceback())
  end)

  it("goes along through a shield", function()
    local inner = peri.create_task(fail)
    local task = failed(function() peri.shield(inner):await() end)
    assert.matches("in function 'error'\n.*in task Task%-%d+:\n.*in function 'await'\n",
      task:traceback())
  end)

  it("has an end, however many tasks the error passes", function()
    local function link(n)
      if n == 0 then fail() end
      return (peri.create_task(link, n - 1):await())
    end
    local _, count = failed(function() link(2000) end):traceback():gsub("\n", "")
    assert.is_true(count < 600)
  end)
end)
