-- Worker programs that cannot be started, or cannot work: whose fault it is.
local futures = require "perilune.futures"
local multiprocessing = require "perilune.multiprocessing"
local peri = require "perilune"
local support = require "support"

local function command(...)
  multiprocessing.set_executable { ... }
  finally(function() multiprocessing.set_executable(nil) end)
end

-- What becomes of a job, as text.
local function outcome(executor)
  local _, value = pcall(function() return (executor:submit(math.abs, -1):result()) end)
  return tostring(value)
end

describe("a worker program", function()
  it("that has gone while its pool is used is named", function()
    local path = support.file(("#!/bin/sh\nexec %s --worker\n"):format(support.quote(support.program)))
    assert(os.execute(("chmod +x '%s'"):format(path)))
    command(path)
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1, max_tasks_per_child = 1 }
    assert.equal("1", outcome(executor))
    os.remove(path)
    local text = ("RuntimeError: cannot start the worker program '%s': no such file or directory"):format(path)
    assert.equal(text, outcome(executor))
    assert.equal(text, outcome(executor))
  end)

  it("that has gone is named where a job waits for another one", function()
    local path = support.file(("#!/bin/sh\nexec %s --worker\n"):format(support.quote(support.program)))
    assert(os.execute(("chmod +x '%s'"):format(path)))
    command(path)
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 2 }
    assert.equal("1", outcome(executor))
    os.remove(path)
    local errors = executor:submit(function()
      local own, texts = require "perilune.futures".current_executor(), {}
      local first, second = own:submit(math.abs, -1), own:submit(math.abs, -2)
      for i, job in ipairs { first, second } do texts[i] = tostring(job:exception()) end
      return texts
    end):result()
    local text = ("RuntimeError: cannot start the worker program '%s': no such file or directory"):format(path)
    assert.same({ text, text }, errors)
    assert.equal("1", outcome(executor))
  end)

  it("that must not be run is named", function()
    local path = support.file "#!/bin/sh\n"
    command(path)
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    assert.equal(("RuntimeError: cannot start the worker program '%s': permission denied"):format(path),
      outcome(executor))
  end)

  it("that finds no room for a thread says so", function()
    if not support.signals_interrupt then return end -- TSan's own thread finds none
    command("/bin/sh", "-c", ("ulimit -s 200000000000; exec %s --worker"):format(support.quote(support.program)))
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local text = outcome(executor)
    assert.truthy(text:find(
      "^BrokenProcessPool: the pool is broken, a worker process cannot start a thread: %u"), text)
    local ok, err = pcall(executor.submit, executor, print)
    assert.is_false(ok)
    assert.is_true(peri.BrokenProcessPool:is(err))
  end)
end)
