-- Worker processes that are killed: what counts of what they did, and what is
-- tried again. And what a process pool passes on to those it starts.
local futures = require "perilune.futures"
local lfs = require "lfs"
local peri = require "perilune"
local support = require "support"
local raises = support.raises

local function pid()
  local file <close> = io.open "/proc/self/stat"
  return file:read "n"
end

-- Jobs.

local function die()
  os.execute "kill -9 $PPID"
end

-- Dies the first times, of which there is a file each in the directory.
local function die_at_first(directory, times)
  for i = 1, times do
    local path = directory .. "/" .. i
    if not io.open(path) then
      io.open(path, "w"):close()
      os.execute "kill -9 $PPID"
    end
  end
  return "done at last"
end

-- How much memory this process shares with workers.
local function shared()
  local file <close> = io.open "/proc/self/maps"
  return select(2, file:read "a":gsub("memfd:perilune", ""))
end

local function is_dead(number)
  local file <close> = io.open(("/proc/%d/stat"):format(number))
  return not file or file:read "a":find "%) Z" ~= nil
end

describe("a worker process that is killed", function()
  it("has done what it had written before, though nobody has looked", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local worker = executor:submit(pid):result()
    if shared() == 0 then return end -- one job at a time is sent
    local done = {}
    for i = 1, 20 do done[i] = executor:submit(function(n) return n, ("x"):rep(n * 20) end, i) end
    local last, behind = executor:submit(die), executor:submit(pid)
    while not is_dead(worker) do end -- the loop does not turn
    for i = 1, 20 do assert.same({ i, ("x"):rep(i * 20) }, { done[i]:result() }) end
    local err = last:exception()
    assert.is_true(peri.BrokenProcessPool:is(err))
    local text = ("worker process %d was killed by signal 9 (Killed) while it ran "):format(worker)
    assert.equal(text, err.message:sub(1, #text))
    assert.not_equal(worker, (behind:result()))
  end)

  it("has its job tried again as often as that allows", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local directory = support.directory()
    local job = executor:submit { die_at_first, directory, 2, retries = 2 }
    assert.equal("done at last", (job:result()))
  end)

  it("fails its job when that was tried often enough", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local directory = support.directory()
    local err = executor:submit({ die_at_first, directory, 3, retries = 2 }):exception()
    assert.is_true(peri.BrokenProcessPool:is(err), tostring(err))
    assert.equal("done at last", (executor:submit(die_at_first, directory, 3):result()))
  end)

  it("has no job tried again that does not say so", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local directory = support.directory()
    assert.is_true(peri.BrokenProcessPool:is(executor:submit(die_at_first, directory, 1):exception()))
    assert.equal("done at last", (executor:submit(die_at_first, directory, 1):result()))
    for _, retries in ipairs { -1, 1.5, "1" } do
      raises(peri.ValueError, "retries must be an integer that is not negative",
        executor.submit, executor, { print, retries = retries })
    end
  end)

  it("loses nobody's job but its own", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 2 }
    local path = support.directory() .. "/gate"
    assert(os.execute(("mkfifo '%s'"):format(path)))
    local other = executor:submit(function(name)
      io.open(name, "r"):close()
      return "through"
    end, path)
    while not other:running() do peri.sleep(0) end
    local job = executor:submit(die)
    assert.is_true(peri.BrokenProcessPool:is(job:exception()))
    assert.is_false(other:done())
    local file <close> = io.open(path, "r+") -- luacheck: ignore
    assert.equal("through", (other:result()))
  end)
end)

describe("a worker process", function()
  local function links()
    local dir <close> = assert(io.popen "ls -l /proc/$PPID/fd")
    return dir:read "a"
  end

  it("inherits no descriptor but its streams", function()
    -- Not closed at exec: whoever starts a program has to see to that.
    local path = support.file ""
    local file <close> = io.open(path)
    assert.truthy(links():find(path, 1, true))
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local there = executor:submit(links):result()
    assert.is_nil(there:find(path, 1, true), there)
    assert.equal("file", io.type(file))
  end)

  it("has signals as they are by default, but for those that are its own", function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    local status = executor:submit(function()
      local file <close> = io.open "/proc/self/status"
      return file:read "a"
    end):result()
    assert.equal(0, tonumber(status:match "SigBlk:%s*(%x+)", 16))
    assert.equal(0, tonumber(status:match "SigIgn:%s*(%x+)", 16) & 0x7fffffff)
  end)

  it("leaves nothing of itself to its owner", function()
    local function descriptors()
      local n = 0
      for _ in lfs.dir "/proc/self/fd" do n = n + 1 end
      return n
    end
    do
      local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
      executor:submit(pid):result()
    end
    support.collect()
    support.spin(2) -- what is closed goes with a trip of the loop
    local before, mapped = descriptors(), shared()
    for _ = 1, 3 do
      local executor <close> = futures.ProcessPoolExecutor { max_workers = 2 }
      local text = ("x"):rep(1 << 18)
      local jobs = {}
      for i = 1, 4 do jobs[i] = executor:submit(string.reverse, text) end
      for i = 1, 4 do jobs[i]:result() end
      executor:submit(die):exception()
    end
    support.collect()
    support.spin(2)
    assert.same({ before, mapped }, { descriptors(), shared() })
  end)
end)
