-- Debug mode in workers, and what they log: all of it has come when their
-- executor was shut down.
local futures = require "perilune.futures"
local peri = require "perilune"
local support = require "support"

describe("what a worker logs", function()
  it("comes to its owner's log, with its name", function()
    local records = support.log()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1, thread_name_prefix = "w" }
    executor:submit(function() require "perilune.log".error("%d things", 3) end):result()
    executor:shutdown()
    assert.same({ "ERROR worker w-0: 3 things" }, records)
  end)

  it("is held to the level of both", function()
    local records = support.log()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1, thread_name_prefix = "w" }
    executor:submit(function()
      local log = require "perilune.log"
      log.info "not told"
      log.set_level "INFO"
      log.info "not heard"
      log.warning "heard"
    end):result()
    executor:shutdown()
    assert.same({ "WARNING worker w-0: heard" }, records)
  end)

  it("are the reports of its loop, too", function()
    local records = support.log()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1, thread_name_prefix = "w" }
    executor:submit(function()
      require "perilune".get_running_loop():call_soon(error, "in a callback")
      require "perilune".sleep(0)
    end):result()
    executor:shutdown()
    assert.truthy(records[1]:find("^ERROR worker w%-0: .*in a callback"), records[1])
  end)
end)

describe("a job in debug mode", function()
  local place = debug.getinfo(1, "S").short_src .. ":%d"

  local function debug_mode()
    peri.get_running_loop():set_debug(true)
    peri.get_running_loop().slow_callback_duration = 1e9
  end

  it("warns of changes to upvalues, which are lost", function()
    debug_mode()
    local records = support.log()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1, thread_name_prefix = "w" }
    local count, nan = 0, 0 / 0
    local function inc() count = count + 1 end
    local line = debug.getinfo(inc, "S").linedefined
    local future = executor:submit(function()
      inc()
      assert(nan ~= nan)
      return count, select("#", nil, nil)
    end)
    assert.same({ 1, 2 }, { future:result() })
    executor:shutdown()
    assert.same({ ("WARNING worker w-0: change to upvalue 'count' is lost: the function at "
      .. place .. " is a copy, and so are its upvalues"):format(line) }, records)
    assert.equal(0, count)
  end)

  it("warns of them when it fails, and in what map calls", function()
    debug_mode()
    local records = support.log()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    local sum = 0
    local future = executor:submit(function() sum = 1 error "failed" end)
    assert.truthy(tostring(future:exception()):find("failed", 1, true))
    for _ in executor:map(function(x) sum = sum + x end, { 1, 2 }, { chunksize = 2 }) do end
    executor:shutdown()
    assert.equal(2, #records)
    for i = 1, 2 do assert.truthy(records[i]:find("upvalue 'sum'", 1, true)) end
    assert.equal(0, sum)
  end)

  it("is in it if its owner is when the worker starts", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    debug_mode()
    local function mode() return require "perilune".get_running_loop():get_debug() end
    assert.is_true(executor:submit(mode):result())
    peri.get_running_loop():set_debug(false)
    assert.is_true(executor:submit(mode):result())
    local other <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    assert.is_false(other:submit(mode):result())
  end)

  it("is in it in a process, if its owner was when it made the executor", function()
    debug_mode()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    assert.is_true(executor:submit(function() return require "perilune".get_running_loop():get_debug() end):result())
  end)

  it("costs nobody a warning outside of it", function()
    local records = support.log()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    local count = 0
    executor:submit(function() count = count + 1 end):result()
    executor:shutdown()
    assert.same({}, records)
  end)
end)

describe("an executor that is collected without a shutdown", function()
  it("is warned of in debug mode, with where it was made", function()
    peri.get_running_loop():set_debug(true)
    local records = support.log()
    local line = debug.getinfo(1, "l").currentline + 1
    local function make() futures.ThreadPoolExecutor { max_workers = 1 } end
    make()
    collectgarbage()
    collectgarbage()
    assert.equal(1, #records)
    assert.truthy(records[1]:find("^WARNING ResourceWarning: unclosed ThreadPoolExecutor\n"), records[1])
    assert.truthy(records[1]:find(("debug_spec.lua:%d"):format(line), 1, true), records[1])
  end)
end)
