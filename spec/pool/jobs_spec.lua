-- When workers start, and what jobs may do in them: all that a task may.
local futures = require "perilune.futures"
local lfs = require "lfs"
local peri = require "perilune"
local support = require "support"

-- How many threads of this process have names with the prefix.
local function threads(prefix)
  local n = 0
  for id in lfs.dir "/proc/self/task" do
    local file <close> = io.open(("/proc/self/task/%s/comm"):format(id))
    if file and file:read "a":sub(1, #prefix) == prefix then n = n + 1 end
  end
  return n
end

local function children()
  local n = 0
  for id in lfs.dir "/proc/self/task" do
    local file <close> = io.open(("/proc/self/task/%s/children"):format(id))
    n = n + select(2, (file and file:read "a" or ""):gsub("%d+", ""))
  end
  return n
end

local function begins_with_its_jobs(executor, count)
  local before = count()
  local path = support.directory() .. "/gate"
  assert(os.execute(("mkfifo '%s'"):format(path)))
  local function gated(name) io.open(name, "r"):close() end
  local seen, jobs = {}, {}
  for i = 1, 4 do
    jobs[i] = executor:submit(gated, path)
    if i < 4 then
      while not jobs[i]:running() do peri.sleep(0) end
    end
    seen[i] = count() - before
  end
  local file <close> = io.open(path, "r+") -- luacheck: ignore
  for i = 1, 4 do jobs[i]:result() end
  return seen
end

describe("a pool starts its workers when there are jobs for them", function()
  it("threads", function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 3, thread_name_prefix = "when" }
    local function count() return threads "when-" end
    assert.equal(0, count())
    assert.same({ 1, 2, 3, 3 }, begins_with_its_jobs(executor, count))
    executor:shutdown()
    while count() > 0 do end -- the system lists what was joined for a moment more
  end)

  it("processes", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 3 }
    local before = children()
    assert.same({ 1, 2, 3, 3 }, begins_with_its_jobs(executor, children))
    executor:shutdown()
    assert.equal(before, children())
  end)
end)

for kind, name in pairs { thread = "ThreadPoolExecutor", process = "ProcessPoolExecutor" } do
  describe("a job in a " .. kind, function()
    it("may serve and use sockets, in tasks beside each other", function()
      local executor <close> = futures[name] { max_workers = 1 }
      local job = executor:submit(function()
        local net = require "perilune.net"
        local server <close> = net.start_server(function(stream)
          stream:write((stream:readline():upper()))
          stream:drain()
        end, "127.0.0.1", 0)
        local function ask(text)
          local stream <close> = net.open_connection(server.sockets[1]:getsockname())
          stream:write(text .. "\n")
          return (stream:readline())
        end
        return peri.all(peri.call(ask, "one"), peri.call(ask, "two"), peri.call(peri.sleep, 0.001, "slept"))
      end)
      assert.same({ "ONE\n", "TWO\n", "slept" }, { job:result() })
    end)

    it("may talk to another job", function()
      local executor <close> = futures[name] { max_workers = 2 }
      local path = support.directory() .. "/socket"
      local server = executor:submit(function(at)
        local net = require "perilune.net"
        local asked = peri.Future()
        local _ <close> = net.start_unix_server(function(stream) asked:set_result((stream:readline())) end, at)
        return (asked:await())
      end, path)
      local client = executor:submit(function(at)
        local net = require "perilune.net"
        local ok, stream
        repeat
          ok, stream = peri.pcall(net.open_unix_connection, at)
          if not ok then peri.sleep(0.001) end
        until ok
        local _ <close> = stream
        stream:write "hello\n"
        stream:drain()
        return "asked"
      end, path)
      assert.same({ "hello\n", "asked" }, { (server:result()), (client:result()) })
    end)

    it("is done while its submitter goes on submitting, however many there are", function()
      local executor <close> = futures[name] { max_workers = 1 }
      local path, count = support.directory() .. "/done", 0
      while count < 1000000 and not (count % 100 == 0 and lfs.attributes(path)) do
        count = count + 1
        if count == 3000 then
          executor:submit(function(at) io.open(at, "w"):close() end, path)
        else
          executor:submit(math.abs, count)
        end
      end
      assert.is_not_nil(lfs.attributes(path))
    end)

    it("may start programs", function()
      local executor <close> = futures[name] { max_workers = 1 }
      local job = executor:submit(function()
        local subprocess = require "perilune.subprocess"
        local child = subprocess.create_subprocess_exec("cat", { stdin = subprocess.PIPE, stdout = subprocess.PIPE })
        local out = child:communicate "through"
        return out, child.returncode, subprocess.create_subprocess_shell("exit 7"):wait()
      end)
      assert.same({ "through", 0, 7 }, { job:result() })
    end)

    it("prints whole lines, beside others that print", function()
      local code = ([[
        local futures = require "perilune.futures"
        local executor <close> = futures.%s { max_workers = 2 }
        local function job(i)
          for k = 1, 500 do print(("line"):rep(20), i, k) end
        end
        local one, two = executor:submit(job, 1), executor:submit(job, 2)
        one:result()
        two:result()
      ]]):format(name)
      for _, run in ipairs { support.run_code, support.run_stock } do
        local out, err, status = run(code)
        assert.same({ "", 0 }, { err, status })
        local lines = 0
        for line in out:gmatch "[^\n]+" do
          lines = lines + 1
          assert.truthy(line:find("^" .. ("line"):rep(20) .. "\t[12]\t%d+$"), line)
        end
        assert.equal(1000, lines)
      end
    end)
  end)
end
