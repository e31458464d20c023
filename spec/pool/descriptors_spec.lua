-- Pools and loops where the process has no descriptor left.
local support = require "support"

-- Takes all there are, and gives back the function that lets go of them.
local preamble <const> = [[
local peri = require "perilune"
local futures = require "perilune.futures"
local function take_all()
  local files, file = {}, io.open "/dev/null"
  while file do
    files[#files + 1], file = file, io.open "/dev/null"
  end
  return function()
    for _, other in ipairs(files) do other:close() end
  end
end
]]

local limit <const> = "prlimit --nofile=64"

local function in_program(code)
  return support.run_program { support.file(preamble .. code), env = limit }
end

local function in_stock(code)
  return support.run_stock(preamble .. code, { env = limit })
end

local function prints(expected, run, code)
  local out, err, status = run(code)
  assert.same({ expected, "", 0 }, { out, err, status })
end

for name, run in pairs { ["the program"] = in_program, ["stock Lua"] = in_stock } do
  describe("without descriptors, in " .. name, function()
    it("threads do their jobs, though no loop can be opened", function()
      prints("1\n2\n3\n", run, [[
        local let_go = take_all()
        local executor = futures.ThreadPoolExecutor { max_workers = 2 }
        print((executor:submit(math.abs, -1):result()))
        print((executor:submit(function() require "perilune".sleep(0.001) return 2 end):result()))
        let_go()
        print((executor:submit(math.abs, -3):result()))
        executor:shutdown()
      ]])
    end)

    it("a pool of processes says what it cannot do, and goes on", function()
      prints("RuntimeError: cannot start a worker: too many open files\n1\n", run, [[
        local executor = futures.ProcessPoolExecutor { max_workers = 2 }
        local let_go = take_all()
        print(select(2, pcall(executor.submit, executor, math.abs, -1)))
        let_go()
        print((executor:submit(math.abs, -1):result()))
        executor:shutdown()
      ]])
    end)

    it("jobs in processes that wait for others hear that no worker can be started", function()
      prints("RuntimeError: cannot start a worker: too many open files\n2\n", run, [[
        local executor = futures.ProcessPoolExecutor { max_workers = 2 }
        executor:submit(math.abs, -1):result()
        local function ask()
          return require "perilune.futures".current_executor():submit(math.abs, -2):result()
        end
        local let_go = take_all()
        local job = executor:submit(ask)
        print(job:exception())
        let_go()
        print((executor:submit(ask):result()))
        executor:shutdown()
      ]])
    end)
  end)
end

describe("a loop that could not be opened", function()
  it("takes what worker processes have done as soon as it can be", function()
    local path = support.directory() .. "/gate"
    assert(os.execute(("mkfifo '%s'"):format(path)))
    prints("2\tslept\tdone\n", in_stock, ("local path = %q\n"):format(path) .. [[
      local executor = futures.ProcessPoolExecutor { max_workers = 1 }
      local job = executor:submit(function(name)
        io.open(name, "r"):close()
        return "done"
      end, path)
      local let_go = take_all()
      print(peri.run(function()
        local two, slept = peri.to_thread(math.abs, -2), peri.sleep(0.002, "slept")
        let_go()
        local file <close> = io.open(path, "r+")
        return two, slept, (job:await())
      end))
      executor:shutdown()
    ]])
  end)
end)

describe("a process pool without descriptors", function()
  it("fails what it cannot do, and goes on", function()
    local file = support.file [[
      local peri = require "perilune"
      local futures = require "perilune.futures"
      local text, failed = ("x"):rep(1 << 18), 0
      local function double(s) return s .. s end
      for left = 0, 20 do
        local executor <close> = futures.ProcessPoolExecutor { max_workers = 2 }
        local files, file = {}, io.open "/dev/null"
        while file do
          files[#files + 1], file = file, io.open "/dev/null"
        end
        for _ = 1, left do table.remove(files):close() end
        local ok, err = pcall(function() return executor:submit(double, text):await() end)
        for _, other in ipairs(files) do other:close() end
        if ok then
          assert(err == text .. text)
        else
          failed = failed + 1
          assert(tostring(err):find "too many open files", err)
        end
        assert(executor:submit(double, text):await() == text .. text)
      end
      print(failed > 0 and failed < 21)
    ]]
    local out, err, code = support.shell(("ulimit -n 64; exec timeout 60 %s %s"):format(
      support.quote(support.program), file))
    assert.same({ "true\n", "", 0 }, { out, err, code })
  end)
end)
