local lfs = require "lfs"
local peri = require "perilune"
local fs = require "perilune.fs"
local support = require "support"
local quote, spin = support.quote, support.spin

local dir
before_each(function() dir = support.directory() end)

local function at(name) return dir .. "/" .. name end

local function put(name, text)
  local file <close> = assert(io.open(at(name), "wb"))
  file:write(text)
  return at(name)
end

local function get(name)
  local file <close> = assert(io.open(at(name), "rb"))
  return file:read "a"
end

local function fails(code, syscall, fn, ...)
  local results = table.pack(pcall(fn, ...))
  assert.is_false(results[1], "no error")
  local err = results[2]
  assert.is_true(peri.OSError:is(err), tostring(err))
  assert.same({ code, syscall }, { err.code, err.syscall })
  return err
end

local function cancel(task)
  task:cancel()
  local ok, err = pcall(task.await, task)
  assert.is_false(ok)
  assert.is_true(peri.iscancel(err))
end

-- A FIFO, and its other end for a file that reads: a stock file.
local function fifo()
  assert(os.execute("mkfifo " .. quote(at "pipe")))
  local other = assert(io.open(at "pipe", "r+"))
  other:setvbuf "no"
  return at "pipe", other
end

-- A thread that has the FIFO open lets go of it, as has to be by then.
local function wait_until_closed()
  local stop = os.time() + 10
  local function is_open()
    for fd in pairs(support.descriptors()) do
      if lfs.symlinkattributes("/proc/self/fd/" .. fd, "target") == at "pipe" then return true end
    end
  end
  repeat fs.stat(dir) until not is_open() or os.time() > stop
  assert.is_nil(is_open())
end

describe("fs.open", function()
  it("takes the modes of io.open", function()
    put("a", "before")
    do
      local file <close> = fs.open(at "a", "r+b")
      file:write "BE"
    end
    assert.equal("BEfore", get "a")
    do
      local file <close> = fs.open(at "a", "a")
      file:write "!"
    end
    assert.equal("BEfore!", get "a")
    do
      local file <close> = fs.open(at "a", "w")
      file:write("n", 1, "w")
    end
    assert.equal("n1w", get "a")
    fails("EBADF", "read", function()
      local file <close> = fs.open(at "a", "w")
      file:read(1)
    end)
    fails("EBADF", "write", function()
      local file <close> = fs.open(at "a")
      file:write "x"
    end)
  end)

  it("makes a new file only with x", function()
    do
      local file <close> = fs.open(at "a", "x", { mode = 384 })
      file:write "x"
    end
    assert.equal("rw-------", lfs.attributes(at "a").permissions)
    local err = fails("EEXIST", "open", fs.open, at "a", "x")
    assert.equal(at "a", err.path)
  end)

  it("says why it cannot", function()
    fails("ENOENT", "open", fs.open, at "none")
    fails("EISDIR", "open", fs.open, dir)
    fails("EISDIR", "open", fs.open, dir, "w")
    for _, mode in ipairs { "", "q", "rw", "r+x", "+" } do
      assert.is_true(peri.ValueError:is(select(2, pcall(fs.open, at "a", mode))), mode)
    end
    assert.is_true(peri.TypeError:is(select(2, pcall(fs.open))))
    assert.is_true(peri.ValueError:is(select(2, pcall(fs.open, at "a", "w", { mod = 1 }))))
  end)

  it("closes what a cancelled task would have had", function()
    assert(os.execute("mkfifo " .. quote(at "pipe")))
    local task = peri.create_task(fs.open, at "pipe")
    spin(2)
    cancel(task)
    io.open(at "pipe", "r+"):close() -- lets the thread go on, if it had begun
    wait_until_closed()
  end)

  it("closes at the end of a block, and when an error leaves it", function()
    local kept
    do
      local file <close> = fs.open(put("a", ""))
      kept = file
    end
    fails("EBADF", "read", kept.read, kept, 1)
    local ok, err = pcall(function()
      local file <close> = fs.open(at "a")
      kept = file
      error "mine"
    end)
    assert.is_false(ok)
    assert.is_truthy(err:find "mine")
    fails("EBADF", "stat", kept.stat, kept)
  end)

  it("keeps the files of child processes out", function()
    local file <close> = fs.open(put("a", ""))
    local out = support.shell(("ls -l /proc/self/fd/%d 2>&1 | grep -c %s"):format(file:fileno(), quote(at "a")))
    assert.equal("0\n", out)
  end)
end)

describe("File:read", function()
  it("gives up to n bytes, and nil at the end", function()
    local file <close> = fs.open(put("a", "hello"))
    assert.equal("", file:read(0))
    assert.equal("hel", file:read(3))
    assert.equal("lo", file:read(3))
    assert.is_nil(file:read(3))
    assert.equal("", file:read())
  end)

  it("gives all that is left without a number", function()
    local long = ("0123456789abcdef"):rep(20000)
    local file <close> = fs.open(put("a", long))
    assert.equal(long:sub(1, 10), file:read(10))
    assert.equal(long:sub(11), file:read())
  end)

  it("gives as many bytes as were asked for, if there are", function()
    local long = ("0123456789abcdef"):rep(20000)
    local file <close> = fs.open(put("a", long))
    assert.equal(long:sub(1, 100), file:read(100))
    assert.equal(long:sub(101, 300100), file:read(300000))
    assert.equal(long:sub(300101), file:read(1 << 40))
  end)

  it("gives what a pipe has", function()
    local path, other = fifo()
    local file <close> = fs.open(path)
    other:write "abc"
    assert.equal("abc", file:read(100))
    other:write "one\ntwo\nthr"
    assert.equal("one\n", file:readline())
    assert.equal("tw", file:read(2))
    assert.equal("o\nthr", file:read(100))
    other:write "last"
    other:close()
    assert.equal("last", file:read())
    assert.is_nil(file:read(1))
  end)

  -- Behind a read that was cancelled, and which a thread has still.
  it("is waited for while another one is under way for nobody", function()
    local path = support.directory() .. "/fifo"
    os.execute(("mkfifo '%s'"):format(path))
    local out, err, status = support.run_code([[
      local peri = require "perilune"
      local fs = require "perilune.fs"
      local other = io.open(arg[1], "r+")
      local file = fs.open(arg[1])
      local task = peri.create_task(file.read, file, 1)
      peri.sleep(0.01)
      task:cancel()
      pcall(task.await, task)
      local writer = io.popen(("sleep 0.2; printf lost > '%s'; sleep 0.2; printf found > '%s'"):format(arg[1], arg[1]))
      print(file:read(100))
      writer:close()
      other:close()
    ]], path)
    assert.same({ "found\n", "", 0 }, { out, err, status })
  end)

  it("loses nothing of a file when it is cancelled", function()
    local file <close> = fs.open(put("a", "hello\nworld\n"))
    for _ = 1, 20 do
      local task = peri.create_task(file.readline, file)
      spin(1)
      cancel(task)
    end
    assert.equal("hello\n", file:readline())
    assert.equal("world\n", file:readline())
  end)

  it("checks its argument", function()
    local file <close> = fs.open(put("a", ""))
    assert.is_true(peri.TypeError:is(select(2, pcall(file.read, file, "a"))))
    assert.is_true(peri.ValueError:is(select(2, pcall(file.read, file, -1))))
  end)
end)

describe("File:lines", function()
  it("drops newlines, readline keeps them", function()
    local file <close> = fs.open(put("a", "one\n\nthree\r\nlast"))
    assert.equal("one\n", file:readline())
    local list = {}
    for line in file:lines() do list[#list + 1] = line end
    assert.same({ "", "three\r", "last" }, list)
    assert.is_nil(file:readline())
  end)

  it("gives lines longer than what is read at once", function()
    local long = ("x"):rep(200000)
    local file <close> = fs.open(put("a", long .. "\n" .. long))
    local list = {}
    for line in file:lines() do list[#list + 1] = #line end
    assert.same({ 200000, 200000 }, list)
  end)

  it("has tasks take turns", function()
    local lines = {}
    for i = 1, 1000 do lines[i] = ("line %d"):format(i) end
    local file <close> = fs.open(put("a", table.concat(lines, "\n")))
    local got = {}
    do
      local group <close> = peri.TaskGroup()
      for _ = 1, 10 do
        group:create_task(function()
          for line in file:lines() do got[#got + 1] = line end
        end)
      end
    end
    assert.same(lines, got)
  end)
end)

describe("File:write", function()
  it("goes on where the file is", function()
    local file <close> = fs.open(put("a", "0123456789"), "r+")
    assert.equal("012", file:read(3))
    assert.equal(file, file:write "ab")
    assert.equal("567", file:read(3))
    assert.equal("012ab56789", get "a")
  end)

  it("appends, and is at the end then", function()
    local file <close> = fs.open(put("a", "0123"), "a+")
    assert.equal("01", file:read(2))
    file:write "ab"
    assert.equal(6, file:seek())
    file:seek("set", 0)
    assert.equal("0123ab", file:read())
  end)

  it("tells of a full disk", function()
    local file <close> = fs.open("/dev/full", "w")
    fails("ENOSPC", "write", file.write, file, "x")
  end)

  it("keeps the order of what was written by tasks that were cancelled", function()
    local file <close> = fs.open(at "a", "a")
    for i = 1, 200 do
      local task = peri.create_task(file.write, file, ("%d "):format(i))
      spin(i % 2 + 1)
      cancel(task)
    end
    file:write "end"
    local before = 0
    for number in get("a"):gmatch "%d+" do
      assert.is_true(tonumber(number) > before)
      before = tonumber(number)
    end
    assert.is_truthy(get("a"):find "end$")
  end)

  it("raises EPIPE where nobody reads", function()
    local path, other = fifo()
    local file <close> = fs.open(path, "w")
    other:close()
    fails("EPIPE", "write", file.write, file, "x")
  end)
end)

describe("File:seek", function()
  it("moves", function()
    local file <close> = fs.open(put("a", "0123456789"), "r+")
    assert.equal(0, file:seek())
    assert.equal(4, file:seek("set", 4))
    assert.equal("4", file:read(1))
    assert.equal(6, file:seek("cur", 1))
    assert.equal("6", file:read(1))
    assert.equal(8, file:seek("end", -2))
    assert.equal("89", file:read())
    assert.equal(20, file:seek("set", 20))
    file:write "x"
    assert.equal(21, file:stat().size)
  end)

  it("refuses what is impossible", function()
    local file <close> = fs.open(put("a", ""))
    assert.is_true(peri.ValueError:is(select(2, pcall(file.seek, file, "set", -1))))
    assert.is_true(peri.ValueError:is(select(2, pcall(file.seek, file, "top"))))
    local path, other = fifo()
    local pipe <close> = fs.open(path)
    fails("ESPIPE", "seek", pipe.seek, pipe, "set", 0)
    other:close()
  end)
end)

describe("File:pread and pwrite", function()
  it("leave the place alone", function()
    local file <close> = fs.open(put("a", "0123456789"), "r+")
    file:read(2)
    assert.equal("789", file:pread(10, 7))
    assert.equal("", file:pread(10, 100))
    assert.equal("", file:pread(0, 0))
    file:pwrite("XY", 4)
    assert.equal(2, file:seek())
    assert.equal("0123XY6789", get "a")
  end)

  it("may be many at once", function()
    local parts = {}
    for i = 1, 100 do parts[i] = ("%4d"):format(i) end
    local file <close> = fs.open(put("a", table.concat(parts)))
    local list = peri.map(function(i) return file:pread(4, 4 * (i - 1)) end,
      (function()
        local numbers = {}
        for i = 1, 100 do numbers[i] = i end
        return numbers
      end)(), { limit = 16 })
    for i = 1, 100 do assert.equal(parts[i], list[i]) end
  end)

  it("check their arguments", function()
    local file <close> = fs.open(put("a", ""), "r+")
    assert.is_true(peri.TypeError:is(select(2, pcall(file.pread, file, 1))))
    assert.is_true(peri.ValueError:is(select(2, pcall(file.pread, file, 1, -1))))
    assert.is_true(peri.ValueError:is(select(2, pcall(file.pwrite, file, "", -1))))
    assert.is_true(peri.TypeError:is(select(2, pcall(file.pwrite, file, 1, 0))))
  end)
end)

describe("File:truncate, sync and stat", function()
  it("do so", function()
    local file <close> = fs.open(put("a", "0123456789"), "r+")
    file:read(3)
    file:truncate(5)
    assert.equal("34", file:read())
    file:truncate(8)
    assert.equal("01234\0\0\0", get "a")
    file:sync()
    file:sync { data_only = true }
    assert.same({ "file", 8 }, { file:stat().type, file:stat().size })
    fails("EINVAL", "truncate", file.truncate, file, -1)
    local device <close> = fs.open("/dev/full", "w")
    fails("EINVAL", "sync", device.sync, device)
  end)
end)

describe("File:close", function()
  it("leaves nothing to be had, of what was read ahead either", function()
    local path = put("a", "one\ntwo\nthree\n")
    local file = fs.open(path)
    assert.equal("one\n", file:readline())
    local waits = peri.create_task(pcall, file.readline, file)
    file:close()
    assert.is_false((waits:await()))
    local calls = {
      read = { { file.read, file, 1 }, { file.read, file, 0 }, { file.read, file },
        { file.readline, file }, { function() return file:lines() (file) end },
        { file.pread, file, 1, 0 } },
      write = { { file.write, file, "x" }, { file.write, file, "" }, { file.pwrite, file, "x", 0 } },
      seek = { { file.seek, file }, { file.seek, file, "set", 0 } },
      truncate = { { file.truncate, file, 0 } }, sync = { { file.sync, file } },
      stat = { { file.stat, file } }, fileno = { { file.fileno, file } },
    }
    for syscall, list in pairs(calls) do
      for _, call in ipairs(list) do
        local err = fails("EBADF", syscall, table.unpack(call))
        assert.equal(path, err.path)
        assert.equal(9, err.errno)
        assert.equal(("OSError: %s '%s': the file is closed"):format(syscall, path), tostring(err))
      end
    end
  end)

  it("may be called again", function()
    local file = fs.open(put("a", ""))
    file:close()
    file:close()
    fails("EBADF", "fileno", file.fileno, file)
    fails("EBADF", "write", file.write, file, "x")
  end)

  it("gives an error to who waits, at once", function()
    local path, other = fifo()
    local file = fs.open(path)
    local reading = peri.create_task(file.read, file, 1)
    local behind = peri.create_task(file.read, file, 1)
    spin(5)
    file:close()
    fails("EBADF", "read", reading.await, reading)
    fails("EBADF", "read", behind.await, behind)
    other:write "x" -- the thread ends, and its descriptor is closed
    other:close()
    wait_until_closed()
  end)

  it("waits for nothing outside of a task", function()
    local file = fs.open(put("a", ""))
    local closed
    peri.get_running_loop():call_soon(function()
      file:close()
      closed = true
    end)
    spin(2)
    assert.is_true(closed)
  end)

  it("is done though it is cancelled", function()
    local file = fs.open(put("a", ""))
    local task = peri.create_task(file.close, file)
    spin(1)
    cancel(task)
    fails("EBADF", "fileno", file.fileno, file)
  end)
end)

describe("a file that nobody closes", function()
  it("is closed with its object", function()
    fs.open(put("a", ""))
    support.collect()
    -- The harness counts descriptors.
  end)

  it("is reported in debug mode", function()
    local records = support.log()
    peri.get_running_loop():set_debug(true)
    spin(1)
    fs.open(put("a", ""))
    do
      local file <close> = fs.open(at "a")
      file:read()
    end
    support.collect()
    peri.get_running_loop():set_debug(false)
    assert.equal(1, #records, table.concat(records, "\n"))
    assert.is_truthy(records[1]:find(("^WARNING ResourceWarning: unclosed file '%s'"):format(
      support.literal(at "a"))), records[1])
  end)

  it("is closed with its loop", function()
    local out, err, status = support.run_code([[
      local fs = require "perilune.fs"
      FILE = fs.open(arg[0])
      print(FILE)
    ]])
    assert.is_truthy(out:find "^<File ")
    assert.same({ "", 0 }, { err, status })
  end)
end)

describe("fs.tmpfile", function()
  it("has no name, and is read and written", function()
    local file <close> = fs.tmpfile(dir)
    file:write "text"
    file:seek "set"
    assert.equal("text", file:read())
    assert.is_nil(file.path)
    assert.equal("<File without a name>", tostring(file))
    for name in lfs.dir(dir) do assert.is_truthy(name:find "^%.") end
    fails("ENOENT", "tmpfile", fs.tmpfile, at "none")
  end)
end)
