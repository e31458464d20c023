local lfs = require "lfs"
local peri = require "perilune"
local fs = require "perilune.fs"
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
    ok, err = pcall(fs.watch, dir, { recursive = true })
    assert.same({ false, "ENOTSUP" }, { ok, err.code })
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
