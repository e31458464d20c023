local lfs = require "lfs"
local peri = require "perilune"
local fs = require "perilune.fs"
local network = require "support.net"
local support = require "support"
local raises, shell, quote, spin = support.raises, support.shell, support.quote, support.spin

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

local function names_in(path)
  local list = {}
  for name in lfs.dir(path) do
    if name ~= "." and name ~= ".." then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

-- Calls fn, which must raise an OSError with this code and syscall; gives it.
local function fails(code, syscall, fn, ...)
  local results = table.pack(pcall(fn, ...))
  assert.is_false(results[1], "no error")
  local err = results[2]
  assert.is_true(peri.OSError:is(err), tostring(err))
  assert.same({ code, syscall }, { err.code, err.syscall })
  assert.is_true(err.errno > 0)
  return err
end

-- Starts fn in a task, cancels it once it waits, and returns how it ended.
local function cancelled(fn, ...)
  local task = peri.create_task(fn, ...)
  spin(2)
  task:cancel()
  local ok, err = pcall(task.await, task)
  assert.is_false(ok)
  return peri.iscancel(err)
end

local function fifo(name)
  assert(os.execute("mkfifo " .. quote(at(name))))
  return at(name)
end

-- Lets go of whoever opens or reads the FIFO.
local function unblock(path)
  local _ <close> = assert(io.open(path, "r+"))
  peri.sleep(0)
end

describe("fs.read_file", function()
  it("gives all of a file", function()
    assert.equal("hello\0world", fs.read_file(put("a", "hello\0world")))
    assert.equal("", fs.read_file(put("b", "")))
    local long = ("0123456789abcdef"):rep(50000)
    assert.equal(long, fs.read_file(put("c", long)))
  end)

  it("reads what has no size", function()
    assert.is_truthy(fs.read_file("/proc/self/status"):find "Name:")
  end)

  it("takes names with newlines, and such that are no text", function()
    local path = put("a\nb\xff", "x")
    assert.equal("x", fs.read_file(path))
  end)

  it("leaves the loop running", function()
    local path, turns = fifo "pipe", 0
    local task = peri.create_task(fs.read_file, path)
    for _ = 1, 10 do
      turns = turns + 1
      peri.sleep(0)
    end
    assert.is_false(task:done())
    local writer = io.open(path, "w")
    writer:write "through"
    writer:close()
    assert.equal("through", task:await())
    assert.equal(10, turns)
  end)

  it("says what is missing", function()
    local err = fails("ENOENT", "read_file", fs.read_file, at "none")
    assert.equal(at "none", err.path)
    assert.equal(("read_file '%s': no such file or directory"):format(at "none"), err.message)
  end)

  it("refuses a directory", function()
    fails("EISDIR", "read_file", fs.read_file, dir)
  end)

  it("refuses what is no path", function()
    raises(peri.TypeError, "bad argument #1 to 'read_file' (string expected, got nil)", fs.read_file)
    assert.is_true(peri.ValueError:is(select(2, pcall(fs.read_file, "a\0b"))))
  end)

  it("is left at once by a task that is cancelled", function()
    local path = fifo "pipe"
    assert.is_true(cancelled(fs.read_file, path))
    unblock(path)
  end)

  it("does not begin in a task that is cancelled already", function()
    local task
    task = peri.create_task(function()
      task:cancel()
      fs.write_file(at "never", "x")
    end)
    assert.is_true(peri.iscancel(select(2, pcall(task.await, task))))
    assert.is_nil(lfs.attributes(at "never"))
  end)

  it("needs a task", function()
    local err
    peri.get_running_loop():call_soon(function() err = select(2, pcall(fs.read_file, at "a")) end)
    spin(2)
    assert.is_true(peri.RuntimeError:is(err))
    assert.is_truthy(err.message:find "callbacks are not tasks")
  end)

  it("has 64 files read at once, each by its own task", function()
    for i = 1, 200 do put(tostring(i), ("%d "):format(i):rep(1000)) end
    local texts = peri.map(function(i) return fs.read_file(at(tostring(i))) end,
      (function()
        local list = {}
        for i = 1, 200 do list[i] = i end
        return list
      end)(), { limit = 64 })
    for i = 1, 200 do assert.equal(("%d "):format(i):rep(1000), texts[i]) end
  end)
end)

describe("fs.write_file", function()
  it("writes in the place of what was there", function()
    put("a", "long before")
    fs.write_file(at "a", "now")
    assert.equal("now", get "a")
    fs.write_file(at "b", "")
    assert.equal("", get "b")
  end)

  it("gives a new file the permissions asked for", function()
    fs.write_file(at "a", "x", { mode = 384 })
    fs.write_file(at "b", "x", { mode = 384, atomic = true })
    assert.equal("rw-------", lfs.attributes(at "a").permissions)
    assert.equal("rw-------", lfs.attributes(at "b").permissions)
  end)

  it("tells of a full disk", function()
    local err = fails("ENOSPC", "write_file", fs.write_file, "/dev/full", "x")
    assert.equal("/dev/full", err.path)
  end)

  it("tells of a directory that is not there, and of one in its place", function()
    fails("ENOENT", "write_file", fs.write_file, at "none/a", "x")
    fails("ENOENT", "write_file", fs.write_file, at "none/a", "x", { atomic = true })
    fails("EISDIR", "write_file", fs.write_file, dir, "x")
    fails("EISDIR", "write_file", fs.write_file, dir, "x", { atomic = true })
  end)

  it("checks its arguments", function()
    assert.is_true(peri.TypeError:is(select(2, pcall(fs.write_file, at "a", {}))))
    assert.is_true(peri.ValueError:is(select(2, pcall(fs.write_file, at "a", "x", { atomc = true }))))
    assert.is_true(peri.ValueError:is(select(2, pcall(fs.write_file, at "a", "x", { mode = -1 }))))
    assert.is_nil(lfs.attributes(at "a"))
  end)

  it("goes on when its task is cancelled: all is written or nothing", function()
    local long = ("x"):rep(1 << 20)
    assert.is_true(cancelled(fs.write_file, at "a", long))
    -- The only sign of its end are the file and its descriptor.
    local size
    network.eventually(function()
      for _ = 1, 20 do fs.stat(dir) end -- a thread that was to begin has begun
      size = lfs.attributes(at "a", "size")
      for fd in pairs(support.descriptors()) do
        if lfs.symlinkattributes("/proc/self/fd/" .. fd, "target") == at "a" then return false end
      end
      return true
    end)
    assert.is_true(size == nil or size == #long)
  end)
end)

describe("fs.write_file with atomic", function()
  it("leaves nothing but the file", function()
    put("a", "before")
    fs.write_file(at "a", "after", { atomic = true })
    fs.write_file(at "b", "new", { atomic = true })
    assert.equal("after", get "a")
    assert.equal("new", get "b")
    assert.same({ "a", "b" }, names_in(dir))
  end)

  it("puts a new file there: who has the old one open reads that", function()
    put("a", "before")
    local old <close> = io.open(at "a")
    fs.write_file(at "a", "after", { atomic = true })
    assert.equal("before", old:read "a")
  end)

  it("keeps the permissions of the old one", function()
    put("a", "x")
    assert(os.execute("chmod 640 " .. quote(at "a")))
    fs.write_file(at "a", "y", { atomic = true })
    assert.equal("rw-r-----", lfs.attributes(at "a").permissions)
  end)

  it("replaces what a link leads to, and neither the link nor its permissions", function()
    put("a", "x")
    assert(os.execute("chmod 600 " .. quote(at "a")))
    lfs.link("a", at "link", true)
    fs.write_file(at "link", "y", { atomic = true })
    assert.equal("y", get "a")
    assert.equal("link", lfs.symlinkattributes(at "link").mode)
    assert.equal("rw-------", lfs.attributes(at "a").permissions)
  end)

  it("does not replace a device", function()
    fails("ENOSPC", "write_file", fs.write_file, "/dev/full", "x", { atomic = true })
    assert.equal("char device", lfs.attributes("/dev/full").mode)
  end)

  it("takes the longest of names", function()
    local name = ("n"):rep(255)
    fs.write_file(at(name), "x", { atomic = true })
    assert.same({ name }, names_in(dir))
  end)

  it("keeps the old one where the new one cannot be", function()
    put("a", "before")
    local child = [[
      local fs = require "perilune.fs"
      local ok, err = pcall(fs.write_file, arg[1], ("x"):rep(100000), { atomic = true })
      print(ok, err.code, err.syscall)
    ]]
    -- A file may not be longer than this many blocks of 512 or 1,024 bytes.
    local out = shell(("trap '' XFSZ; ulimit -f 8; exec %s %s %s"):format(quote(support.program),
      quote(support.file(child)), quote(at "a")))
    assert.equal("false\tEFBIG\twrite_file\n", out)
    assert.equal("before", get "a")
    assert.same({ "a" }, names_in(dir))
  end)
end)

describe("fs.append_file", function()
  it("adds to the end, and makes the file", function()
    fs.append_file(at "a", "one")
    fs.append_file(at "a", "two")
    assert.equal("onetwo", get "a")
  end)

  it("tells of a full disk", function()
    fails("ENOSPC", "append_file", fs.append_file, "/dev/full", "x")
  end)
end)

describe("fs.stat", function()
  it("tells what is known of a file", function()
    local path = put("a", "hello")
    assert(os.execute("chmod 4640 " .. quote(path)))
    local stat, known = fs.stat(path), lfs.attributes(path)
    assert.same({ "file", 5, 2464, 1 }, { stat.type, stat.size, stat.mode, stat.nlink })
    assert.same({ known.ino, known.dev, known.uid, known.gid },
      { stat.ino, stat.dev, stat.uid, stat.gid })
    assert.equal(known.modification, stat.mtime // 1 | 0)
    for _, name in ipairs { "atime", "ctime", "birthtime", "rdev", "blksize", "blocks" } do
      assert.equal("number", type(stat[name]), name)
    end
  end)

  it("tells the types apart", function()
    lfs.link("a", at "link", true)
    put("a", "")
    assert.equal("directory", fs.stat(dir).type)
    assert.equal("char", fs.stat("/dev/null").type)
    assert.equal("fifo", fs.stat(fifo "pipe").type)
    assert.equal("file", fs.stat(at "link").type)
    assert.equal("link", fs.lstat(at "link").type)
  end)

  it("says what is missing", function()
    fails("ENOENT", "stat", fs.stat, at "none")
    fails("ENOENT", "lstat", fs.lstat, at "none")
    fails("ENOTDIR", "stat", fs.stat, put("a", "") .. "/b")
    fails("ENAMETOOLONG", "stat", fs.stat, at(("n"):rep(256)))
  end)
end)

describe("fs.access", function()
  it("tells what may be done", function()
    local path = put("a", "")
    assert.is_true(fs.access(path))
    assert.is_true(fs.access(path, "rw"))
    assert.is_false(fs.access(path, "x"))
    assert.is_false(fs.access(at "none"))
    assert.is_false(fs.access(at(("n"):rep(256))))
    assert.is_true(peri.ValueError:is(select(2, pcall(fs.access, path, "q"))))
  end)
end)

describe("directories", function()
  it("are made and removed", function()
    fs.mkdir(at "a", 448)
    assert.equal("rwx------", lfs.attributes(at "a").permissions)
    fails("EEXIST", "mkdir", fs.mkdir, at "a")
    fails("ENOENT", "mkdir", fs.mkdir, at "b/c")
    fs.rmdir(at "a")
    assert.is_nil(lfs.attributes(at "a"))
    fails("ENOENT", "rmdir", fs.rmdir, at "a")
    put("b", "")
    fails("ENOTDIR", "rmdir", fs.rmdir, at "b")
  end)

  it("are made with those above them", function()
    fs.mkdirp(at "a/b//c/", 448)
    assert.equal("rwx------", lfs.attributes(at "a/b/c").permissions)
    assert.are_not.equal("rwx------", lfs.attributes(at "a").permissions)
    fs.mkdirp(at "a/b/c")
    fs.mkdirp "/"
    put("file", "")
    fails("EEXIST", "mkdirp", fs.mkdirp, at "file")
    fails("ENOTDIR", "mkdirp", fs.mkdirp, at "file/below")
    fails("ENOENT", "mkdirp", fs.mkdirp, "")
  end)

  it("are not removed while they have something", function()
    put("a", "")
    fails("ENOTEMPTY", "rmdir", fs.rmdir, dir)
    fs.remove(at "a")
    fails("ENOENT", "remove", fs.remove, at "a")
    fails("EISDIR", "remove", fs.remove, dir)
  end)

  it("get names that nothing has", function()
    local a, b = fs.mkdtemp(at "x-XXXXXX"), fs.mkdtemp(at "x-XXXXXX")
    assert.are_not.equal(a, b)
    assert.equal("directory", lfs.attributes(a).mode)
    assert.equal("rwx------", lfs.attributes(a).permissions)
    fails("EINVAL", "mkdtemp", fs.mkdtemp, at "x")
    fails("ENOENT", "mkdtemp", fs.mkdtemp, at "none/x-XXXXXX")
  end)

  it("that a cancelled task would have had are removed", function()
    assert.is_true(cancelled(fs.mkdtemp, at "x-XXXXXX"))
    network.eventually(function()
      for _ = 1, 20 do fs.stat(dir) end -- a thread that was to begin has begun
      return #names_in(dir) == 0
    end)
  end)
end)

describe("names", function()
  it("are changed, in the place of others", function()
    put("a", "one")
    put("b", "two")
    fs.rename(at "a", at "b")
    assert.equal("one", get "b")
    assert.same({ "b" }, names_in(dir))
    local err = fails("ENOENT", "rename", fs.rename, at "a", at "c")
    assert.same({ at "a", at "c" }, { err.path, err.target })
  end)

  it("are added", function()
    put("a", "one")
    fs.link(at "a", at "b")
    assert.equal(2, fs.stat(at "a").nlink)
    fails("EEXIST", "link", fs.link, at "a", at "b")
    fs.symlink("a", at "c")
    assert.equal("a", fs.readlink(at "c"))
    assert.equal("one", fs.read_file(at "c"))
    fails("EEXIST", "symlink", fs.symlink, "a", at "c")
    fails("EINVAL", "readlink", fs.readlink, at "a")
  end)

  it("are told without links and dots", function()
    put("a", "")
    lfs.link("a", at "link", true)
    local real = fs.realpath(dir)
    assert.equal(real .. "/a", fs.realpath(dir .. "/../" .. dir:match "[^/]*$" .. "/./link"))
    fails("ENOENT", "realpath", fs.realpath, at "none")
  end)

  it("that go round in circles are an error", function()
    lfs.link("b", at "a", true)
    lfs.link("a", at "b", true)
    fails("ELOOP", "read_file", fs.read_file, at "a")
  end)
end)

describe("fs.copyfile", function()
  it("copies a file", function()
    put("a", "text")
    fs.copyfile(at "a", at "b")
    assert.equal("text", get "b")
    put("a", "other")
    fails("EEXIST", "copyfile", fs.copyfile, at "a", at "b", { exclusive = true })
    assert.equal("text", get "b")
    fs.copyfile(at "a", at "b")
    assert.equal("other", get "b")
    fails("ENOENT", "copyfile", fs.copyfile, at "none", at "c")
    assert.same({ "a", "b" }, names_in(dir))
  end)

  it("tells of a full disk", function()
    fails("ENOSPC", "copyfile", fs.copyfile, put("a", "x"), "/dev/full")
    assert.equal("char device", lfs.attributes("/dev/full").mode)
  end)

  it("keeps permissions, and does not copy a file over itself", function()
    put("a", "text")
    assert(os.execute("chmod 640 " .. quote(at "a")))
    fs.copyfile(at "a", at "b")
    assert.equal("rw-r-----", lfs.attributes(at "b").permissions)
    lfs.link("a", at "link", true)
    fails("EINVAL", "copyfile", fs.copyfile, at "a", at "link")
    assert.equal("text", get "a")
    fails("EISDIR", "copyfile", fs.copyfile, dir, at "c")
    fails("EISDIR", "copyfile", fs.copyfile, at "a", dir)
  end)

  it("copies what has no size, and what is large", function()
    fs.copyfile("/proc/self/status", at "a")
    assert.is_truthy(get("a"):find "Name:")
    local long = ("0123456789abcdef"):rep(1 << 17)
    fs.copyfile(put("b", long), at "c")
    assert.equal(long, get "c")
  end)
end)

describe("permissions and times", function()
  it("are changed", function()
    local path = put("a", "")
    fs.chmod(path, 292)
    assert.equal(292, fs.stat(path).mode)
    fs.utime(path, 1000.5, 2000.25)
    local stat = fs.stat(path)
    assert.same({ 1000.5, 2000.25 }, { stat.atime, stat.mtime })
    fails("ENOENT", "chmod", fs.chmod, at "none", 0)
    fails("ENOENT", "utime", fs.utime, at "none", 1, 1)
    assert.is_true(peri.ValueError:is(select(2, pcall(fs.chmod, path, 4096))))
    assert.is_true(peri.TypeError:is(select(2, pcall(fs.utime, path, "x", 1))))
  end)

  it("refuse what the process may not do", function()
    put("secret", "x")
    assert(os.execute(("chmod 700 %s; chmod 600 %s"):format(quote(dir), quote(at "secret"))))
    local child = [[
      local fs = require "perilune.fs"
      local function try(name, ...)
        local ok, err = pcall(fs[name], ...)
        print(name, ok, ok and tostring(err) or err.code)
      end
      try("read_file", arg[1] .. "/secret")
      try("write_file", arg[1] .. "/new", "x", { atomic = true })
      try("scandir", arg[1])
      try("access", arg[1] .. "/secret", "r")
      try("mkdir", "/usr/perilune-spec")
      try("chmod", "/etc/passwd", 511)
      try("watch", arg[1])
    ]]
    local script = support.file(child)
    assert(os.execute("chmod 644 " .. quote(script)))
    local command = ("%s %s %s"):format(quote(support.program), quote(script), quote(dir))
    if shell "id -u" == "0\n" then
      command = "setpriv --reuid=65534 --regid=65534 --clear-groups " .. command
      assert(os.execute(("chown 0:0 %s"):format(quote(dir))))
    end
    local out, err = shell(command)
    if err:find "setpriv" or err:find "cannot execute" then return pending("no other user: " .. err) end
    if shell "id -u" ~= "0\n" then return end
    assert.equal("read_file\tfalse\tEACCES\nwrite_file\tfalse\tEACCES\nscandir\tfalse\tEACCES\n"
      .. "access\ttrue\tfalse\nmkdir\tfalse\tEACCES\nchmod\tfalse\tEPERM\nwatch\tfalse\tEACCES\n",
      out, err)
  end)
end)

describe("fs.scandir", function()
  it("goes through the names in their order, with their types", function()
    put("b", "")
    put("a\nb", "")
    lfs.mkdir(at "c")
    lfs.link("b", at "d", true)
    local list = {}
    for name, kind in fs.scandir(dir) do list[#list + 1] = name .. "=" .. kind end
    assert.same({ "a\nb=file", "b=file", "c=directory", "d=link" }, list)
  end)

  it("gives nothing for an empty directory", function()
    for _ in fs.scandir(dir) do error "something" end
  end)

  it("says why it cannot", function()
    fails("ENOENT", "scandir", fs.scandir, at "none")
    fails("ENOTDIR", "scandir", fs.scandir, put("a", ""))
  end)
end)

local function tree()
  fs.mkdirp(at "a/b")
  fs.mkdirp(at "c")
  fs.mkdirp(at ".hidden/d")
  for _, name in ipairs { "x.lua", "a/y.lua", "a/b/z.lua", "a/b/z.txt", ".hidden/d/h.lua", ".dot" } do
    put(name, "")
  end
end

local function relative(list)
  for i, path in ipairs(list) do list[i] = path:sub(#dir + 2) end
  return list
end

describe("fs.walk", function()
  local function walk(options)
    local list = {}
    for path, kind in fs.walk(dir, options) do list[#list + 1] = path .. (kind == "directory" and "/" or "") end
    return relative(list)
  end

  it("goes through all that is below", function()
    tree()
    assert.same({ ".dot", ".hidden/", "a/", "c/", "x.lua", ".hidden/d/", ".hidden/d/h.lua", "a/b/",
      "a/y.lua", "a/b/z.lua", "a/b/z.txt" }, walk())
  end)

  it("does not follow links", function()
    fs.symlink(dir, at "loop")
    assert.same({ "loop" }, walk())
  end)

  it("leaves out what vanishes meanwhile", function()
    tree()
    local list = {}
    for path in fs.walk(dir) do
      list[#list + 1] = path
      if #list == 1 then assert(os.execute("rm -r " .. quote(at "a"))) end
    end
    assert.same({ ".dot", ".hidden", "a", "c", "x.lua", ".hidden/d", ".hidden/d/h.lua" }, relative(list))
  end)

  it("raises for a root that is not there, or tells on_error", function()
    fails("ENOENT", "scandir", function()
      for _ in fs.walk(at "none") do error "something" end
    end)
    local told
    for _ in fs.walk(at "none", { on_error = function(err) told = err end }) do error "something" end
    assert.equal("ENOENT", told.code)
  end)

  it("can be left by a cancellation", function()
    tree()
    assert.is_true(cancelled(function()
      for _ in fs.walk(dir) do peri.sleep(0) end
    end))
  end)
end)

describe("fs.glob", function()
  local function glob(pattern) return relative(fs.glob(at(pattern))) end

  it("finds names by patterns", function()
    tree()
    assert.same({ "x.lua" }, glob "*.lua")
    assert.same({ "a/b/z.lua", "a/b/z.txt" }, glob "a/?/z.*")
    assert.same({ "a", "c" }, glob "[a-c]")
    assert.same({ "x.lua" }, glob "[!ac]*")
    assert.same({ "a/y.lua" }, glob "*/*.lua")
    assert.same({ "a/b/z.lua", "a/y.lua", "x.lua" }, glob "**/*.lua")
    assert.same({ "a/b/z.lua" }, glob "**/b/**/*.lua")
    assert.same({ ".dot", ".hidden" }, glob ".*")
    assert.same({ "x.lua" }, glob "x.lua")
    assert.same({}, glob "none")
    assert.same({}, glob "none/*")
    assert.same({}, fs.glob "")
  end)

  it("finds by relative patterns from where the process is", function()
    local before = lfs.currentdir()
    local _ <close> = support.finally(function() lfs.chdir(before) end)
    tree()
    lfs.chdir(dir)
    assert.same({ "a/b/z.lua", "a/y.lua", "x.lua" }, fs.glob "**/*.lua")
    assert.same({ "a", "c", "x.lua" }, fs.glob "*")
  end)

  it("takes patterns for what they say, broken ones as well", function()
    for _, name in ipairs { "[", "a]b", "a-b", "%d", "a.b", "^x", "new\nline" } do put(name, "") end
    assert.same({ "[" }, glob "[")
    assert.same({ "[" }, glob "[[]")
    assert.same({ "a]b" }, glob "a[]]b")
    assert.same({ "a-b" }, glob "a[-]b")
    assert.same({ "a.b" }, glob "a.?")
    assert.same({ "%d" }, glob "%?")
    assert.same({ "^x" }, glob "^*")
    assert.same({ "new\nline" }, glob "new?line")
    assert.same({ "a-b", "a.b", "a]b" }, glob "a[!x]b")
  end)

  it("takes no longer for many stars", function()
    put(("a"):rep(250), "")
    assert.same({}, glob(("*a"):rep(100) .. "*b"))
  end)
end)

describe("jobs on threads", function()
  it("are not waited for when the program ends, if they may never end", function()
    local path = fifo "pipe"
    local out, err, status = support.run_code([[
      local peri = require "perilune"
      local fs = require "perilune.fs"
      for _ = 1, 6 do peri.create_task(fs.read_file, arg[1]) end
      peri.sleep(0.05)
      print "done"
    ]], path)
    assert.same({ "done\n", "", 0 }, { out, err, status })
  end)

  it("let a time limit pass, and the rest go on", function()
    local path = fifo "pipe"
    local out, err, status = support.run_code([[
      local peri = require "perilune"
      local fs = require "perilune.fs"
      print(pcall(peri.timeout, 0.02, fs.read_file, arg[1]))
      print(pcall(peri.timeout, 0.02, fs.open, arg[1]))
      print(#fs.read_file(arg[0]) > 100)
    ]], path)
    assert.same({ "false\tTimeoutError\nfalse\tTimeoutError\ntrue\n", "", 0 }, { out, err, status })
  end)

  it("that are stuck do not stop the others, be they many", function()
    local path = fifo "pipe"
    local out, err, status = support.run_code([[
      local peri = require "perilune"
      local fs = require "perilune.fs"
      local stuck = {}
      for i = 1, 20 do stuck[i] = peri.create_task(fs.read_file, arg[1]) end
      for _ = 1, 20 do assert(#fs.read_file(arg[0]) > 100) end
      fs.write_file(arg[1], "x") -- to one of them at least
      local done = peri.wait(stuck, { return_when = peri.FIRST_COMPLETED })
      print(#done > 0)
    ]], path)
    assert.same({ "true\n", "", 0 }, { out, err, status })
  end)

  it("that write are waited for when the program ends", function()
    local _, err, status = support.run_code([[
      local peri = require "perilune"
      local fs = require "perilune.fs"
      peri.create_task(fs.write_file, arg[1], ("x"):rep(1 << 24))
      peri.sleep(0)
      peri.sleep(0)
    ]], at "big")
    assert.same({ "", 0 }, { err, status })
    local size = lfs.attributes(at "big", "size")
    assert.is_true(size == 1 << 24 or size == nil, tostring(size))
  end)

  it("that nobody waits for do not keep a deadlock from being found", function()
    local path = fifo "pipe"
    local out = support.run_code([[
      local peri = require "perilune"
      local fs = require "perilune.fs"
      pcall(peri.timeout, 0.02, fs.read_file, arg[1])
      local ok, err = pcall(peri.run, function() peri.Future():await() end)
      print(ok, peri.DeadlockError:is(err))
    ]], path)
    assert.equal("false\ttrue\n", out)
  end)

  it("end with the state in stock lua5.4 as well", function()
    local path = fifo "pipe"
    local out, err, status = support.run_stock([[
      local peri = require "perilune"
      local fs = require "perilune.fs"
      peri.run(function()
        pcall(peri.timeout, 0.02, fs.read_file, arg[1])
        print(#fs.read_file(arg[0]) > 100)
      end)
    ]], { argument = path })
    assert.same({ "true\n", "", 0 }, { out, err, status })
  end)
end)
