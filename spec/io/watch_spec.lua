local lfs = require "lfs"
local peri = require "perilune"
local fs = require "perilune.fs"
local subprocess = require "perilune.subprocess"
local support = require "support"
local raises, spin = support.raises, support.spin

local dir
before_each(function() dir = support.directory() end)

local function at(name) return dir .. "/" .. name end

-- Events up to one of this kind and name.
local function wait_for(watch, kind, name)
  for k, n in watch do
    if k == kind and n == name then return true end
  end
end

describe("fs.watch", function()
  it("tells what comes, changes and goes in a directory", function()
    local watch <close> = fs.watch(dir)
    fs.write_file(at "a", "x")
    assert.is_true(wait_for(watch, "rename", "a"))
    assert.is_true(wait_for(watch, "change", "a"))
    fs.rename(at "a", at "b")
    assert.is_true(wait_for(watch, "rename", "b"))
    fs.remove(at "b")
    assert.is_true(wait_for(watch, "rename", "b"))
    fs.write_file(at "new\nline", "")
    assert.is_true(wait_for(watch, "rename", "new\nline"))
    assert.equal(0, watch.dropped)
  end)

  it("watches a file", function()
    fs.write_file(at "a", "x")
    local watch <close> = fs.watch(at "a")
    fs.append_file(at "a", "y")
    assert.is_true(wait_for(watch, "change", "a"))
  end)

  it("tells events that came while nobody asked", function()
    local watch <close> = fs.watch(dir)
    fs.mkdir(at "a")
    fs.mkdir(at "b")
    assert.same({ "rename", "a" }, { watch:next() })
    assert.same({ "rename", "b" }, { watch:next { timeout = 5 } })
  end)

  it("says how many are missing where there was no room", function()
    local watch <close> = fs.watch(dir, { limit = 2 })
    for i = 1, 5 do lfs.mkdir(at(i)) end
    assert.same({ "rename", "1" }, { watch:next() })
    -- All of them have been read from the kernel in that look.
    assert.same({ "rename", "2" }, { watch:next() })
    assert.same({ "overflow", 3 }, { watch:next() })
    assert.equal(3, watch.dropped)
    fs.mkdir(at "6")
    assert.same({ "rename", "6" }, { watch:next() })
  end)

  it("raises TimeoutError if none comes in time", function()
    local watch <close> = fs.watch(dir)
    raises(peri.TimeoutError, "", watch.next, watch, { timeout = 0.01 })
  end)

  it("loses no event to a task that is cancelled", function()
    local watch <close> = fs.watch(dir)
    local task = peri.create_task(watch.next, watch)
    spin(2)
    local other = peri.create_task(watch.next, watch)
    spin(2)
    lfs.mkdir(at "a")
    task:cancel()
    assert.is_true(peri.iscancel(select(2, pcall(task.await, task))))
    assert.same({ "rename", "a" }, { other:await() })
  end)

  it("ends when it is closed", function()
    local watch = fs.watch(dir)
    local ended = peri.create_task(function()
      for _ in watch do error "an event" end
      return "ended"
    end)
    spin(2)
    assert.is_false(watch.closed)
    watch:close()
    watch:close()
    assert.equal("ended", ended:await())
    assert.is_nil(watch:next())
    assert.is_true(watch.closed)
  end)

  it("says what cannot be watched", function()
    local ok, err = pcall(fs.watch, at "none")
    assert.is_false(ok)
    assert.same({ "ENOENT", "watch", at "none" }, { err.code, err.syscall, err.path })
    ok, err = pcall(fs.watch, at "none", { recursive = true })
    assert.is_false(ok)
    assert.same({ "ENOENT", "watch", at "none" }, { err.code, err.syscall, err.path })
    assert.is_true(peri.ValueError:is(select(2, pcall(fs.watch, dir, { limit = 0 }))))
    assert.is_true(peri.ValueError:is(select(2, pcall(fs.watch, "a\0b"))))
    assert.is_true(peri.TypeError:is(select(2, pcall(fs.watch))))
  end)

  it("tells when the directory itself goes", function()
    fs.mkdir(at "d")
    local watch <close> = fs.watch(at "d")
    fs.rmdir(at "d")
    assert.equal("rename", (watch:next { timeout = 5 }))
  end)

  it("does not keep a loop from being idle, unless a task waits", function()
    local out = support.run_code([[
      local peri = require "perilune"
      local fs = require "perilune.fs"
      local ok, err = pcall(peri.run, function()
        WATCH = fs.watch(arg[1])
        peri.Future():await()
      end)
      print(ok, peri.DeadlockError:is(err))
    ]], dir)
    assert.equal("false\ttrue\n", out)
  end)

  it("is closed with its loop, and with its object", function()
    local loop, _ <close> = support.loop()
    fs.watch(dir)
    support.collect()
    local child = support.run_code([[
      local fs = require "perilune.fs"
      WATCH = fs.watch(arg[1])
      print "made"
    ]], dir)
    assert.equal("made\n", child)
    assert.is_false(loop:is_closed())
  end)

  it("is closed for finalizers that run after its own", function()
    local problems = {}
    -- Finalizers run in the reverse order of making.
    local function drop(options)
      local holder = setmetatable({}, { __gc = function(self)
        for _, use in ipairs {
          function(w) w:next() end, function(w) w:close() end, function(w) return w.dropped end,
        } do
          problems[#problems + 1] = tostring(select(2, pcall(use, self.watch)))
        end
      end })
      holder.watch = fs.watch(dir, options)
    end
    drop {}
    drop { recursive = true }
    support.collect()
    assert.equal(6, #problems)
    for _, problem in ipairs(problems) do assert.truthy(problem:find "Watch expected") end
  end)

  it("is reported in debug mode if it was never closed", function()
    local records = support.log()
    peri.get_running_loop():set_debug(true)
    spin(1)
    fs.watch(dir)
    do
      local watch <close> = fs.watch(dir)
      assert.is_false(watch.closed)
    end
    support.collect()
    peri.get_running_loop():set_debug(false)
    assert.equal(1, #records, table.concat(records, "\n"))
    assert.is_truthy(records[1]:find "^WARNING ResourceWarning: unclosed watch of '")
  end)
end)

describe("fs.watch of a tree", function()
  local function open() return fs.watch(dir, { recursive = true }) end

  it("tells what happens in directories below", function()
    fs.mkdirp(at "a/b/c")
    fs.mkdir(at "other")
    local watch <close> = open()
    fs.write_file(at "a/b/c/file", "x")
    assert.is_true(wait_for(watch, "rename", "a/b/c/file"))
    assert.is_true(wait_for(watch, "change", "a/b/c/file"))
    fs.write_file(at "other/x", "x")
    assert.is_true(wait_for(watch, "rename", "other/x"))
    fs.write_file(at "top", "x")
    assert.is_true(wait_for(watch, "rename", "top"))
    assert.equal(0, watch.dropped)
  end)

  it("watches directories that come, and tells what is in them already", function()
    local watch <close> = open()
    fs.mkdirp(at "new/deep")
    fs.write_file(at "new/deep/before", "x")
    assert.is_true(wait_for(watch, "rename", "new"))
    assert.is_true(wait_for(watch, "rename", "new/deep"))
    assert.is_true(wait_for(watch, "rename", "new/deep/before"))
    fs.write_file(at "new/deep/after", "x")
    assert.is_true(wait_for(watch, "rename", "new/deep/after"))
  end)

  it("knows a directory that was moved by its new name, and one in its place", function()
    fs.mkdirp(at "a/sub")
    local watch <close> = open()
    fs.rename(at "a", at "b")
    assert.is_true(wait_for(watch, "rename", "b"))
    fs.write_file(at "b/sub/x", "x")
    assert.is_true(wait_for(watch, "rename", "b/sub/x"))
    for _ = 1, 3 do
      fs.remove(at "b/sub/x")
      fs.rmdir(at "b/sub")
      fs.mkdir(at "b/sub")
      fs.write_file(at "b/sub/x", "x")
    end
    fs.write_file(at "mark", "")
    assert.is_true(wait_for(watch, "rename", "mark"))
    fs.write_file(at "b/sub/y", "x")
    assert.is_true(wait_for(watch, "rename", "b/sub/y"))
  end)

  it("lets go of directories that have gone, and tells nothing of itself", function()
    fs.mkdirp(at "a/a/a")
    local watch <close> = open()
    fs.rmdir(at "a/a/a")
    fs.rmdir(at "a/a")
    fs.rmdir(at "a")
    fs.mkdir(at "mark")
    local seen = {}
    for kind, name in watch do
      if name == "mark" then break end
      seen[#seen + 1] = kind .. " " .. name
    end
    assert.same({ "rename a/a/a", "rename a/a", "rename a" }, seen)
  end)

  it("loses no event to a task that is cancelled, wherever it stands", function()
    local watch <close> = open()
    for i = 1, 8 do fs.mkdirp(at(("d%d/in/below"):format(i))) end
    local seen, rounds = {}, 0
    local function reader()
      for kind, name in watch do
        if kind == "rename" then seen[name] = true end
      end
    end
    while not (seen.d8 and seen["d8/in"] and seen["d8/in/below"]) do
      rounds = rounds + 1
      assert.is_true(rounds < 100000)
      local task = peri.create_task(reader)
      spin(rounds)
      task:cancel()
      pcall(task.await, task)
    end
    for i = 1, 8 do
      for _, below in ipairs { "", "/in", "/in/below" } do
        assert.is_true(seen[("d%d%s"):format(i, below)], i .. below)
      end
    end
    fs.write_file(at "d3/in/below/x", "x")
    assert.is_true(wait_for(watch, "rename", "d3/in/below/x"))
  end)

  -- Directories that come while the events have no room.
  it("watches all there is after a gap", function()
    fs.mkdirp(at "old/gone")
    local watch <close> = fs.watch(dir, { recursive = true, limit = 2 })
    -- All of them are read from the kernel in one look.
    lfs.rmdir(at "old/gone")
    for i = 1, 5 do
      lfs.mkdir(at(i))
      lfs.mkdir(at(i .. "/below"))
    end
    os.rename(at "old", at "moved")
    local kind, missing
    repeat kind, missing = watch:next() until kind == "overflow"
    assert.is_true(missing > 0)
    for _, name in ipairs { "5/below/x", "5/x", "moved/x" } do
      fs.write_file(at(name), "")
      assert.is_true(wait_for(watch, "rename", name))
    end
    fs.mkdir(at "moved/gone")
    assert.is_true(wait_for(watch, "rename", "moved/gone"))
  end)

  it("watches all there is after a gap, though tasks are cancelled wherever they stand", function()
    local watch <close> = fs.watch(dir, { recursive = true, limit = 1 })
    for i = 1, 4 do
      lfs.mkdir(at(i))
      lfs.mkdir(at(i .. "/below"))
    end
    local gap, rounds = false, 0
    while not gap do
      rounds = rounds + 1
      assert.is_true(rounds < 100000)
      local task = peri.create_task(function()
        repeat until watch:next() == "overflow"
        gap = true
      end)
      spin(rounds)
      task:cancel()
      pcall(task.await, task)
    end
    fs.write_file(at "4/below/x", "")
    assert.is_true(wait_for(watch, "rename", "4/below/x"))
  end)

  -- A user namespace has limits of its own.
  it("says when the system has no more watches, and goes on with those it has", function()
    if not support.has_program "unshare" then return pending "no unshare" end
    fs.mkdirp(at "tree/a")
    fs.mkdir(at "tree/b")
    local script = support.file(([[
      local fs = require "perilune.fs"
      local tree = %q
      local ok, err = pcall(fs.watch, tree, { recursive = true })
      print(ok, err.code, err.syscall, err.path == tree .. "/a" or err.path == tree .. "/b")
      fs.rmdir(tree .. "/b")
      local watch <close> = fs.watch(tree, { recursive = true })
      fs.mkdir(tree .. "/c")
      print(watch:next())
      print(watch:next())
      fs.write_file(tree .. "/a/x", "")
      print(watch:next())
    ]]):format(at "tree"))
    local done = subprocess.run({ "unshare", "-Ur", "sh", "-c",
      'echo 2 2>/dev/null >/proc/sys/user/max_inotify_watches || exit 9; exec "$0" "$1"',
      support.program, script }, { capture = true, stdin = subprocess.DEVNULL })
    if done.returncode == 9 or done.stderr:find "^unshare:" then return pending "no user namespace" end
    assert.same({ "false\tENOSPC\twatch\ttrue\nrename\tc\nerror\tENOSPC\tc\nrename\ta/x\n", "" },
      { done.stdout, done.stderr })
  end)

  it("says where it may not look, and goes on", function()
    fs.mkdir(at "closed", 0)
    fs.mkdir(at "open")
    fs.chmod(at "open", 511)
    local is_root = subprocess.run("id -u", { shell = true, capture = true }).stdout == "0\n"
    -- Root may look everywhere.
    local ok, result = pcall(subprocess.run, { support.program, "-e", ([[
      local fs = require "perilune.fs"
      local watch = fs.watch(%q, { recursive = true })
      print(watch:next())
      fs.mkdir(%q .. "/open/d")
      print(watch:next())
    ]]):format(dir, dir) }, { capture = true, uid = is_root and 65534 or nil, cwd = "/" })
    if not ok then return pending "the other user cannot run the program" end
    assert.same({ "error\tEACCES\tclosed\nrename\topen/d\n", "" }, { result.stdout, result.stderr })
  end)

  it("has tasks take turns, time limits, and ends when it is closed", function()
    local watch = open()
    raises(peri.TimeoutError, "", watch.next, watch, { timeout = 0.01 })
    local first, second = peri.create_task(watch.next, watch), peri.create_task(watch.next, watch)
    spin(2)
    fs.mkdir(at "a")
    assert.same({ "rename", "a" }, { first:await() })
    watch:close()
    assert.is_nil(second:await())
    assert.is_nil(watch:next())
    assert.is_true(watch.closed)
  end)
end)
