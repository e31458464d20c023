--- Files and directories: every call waits in the task and leaves the loop
--- running.
--
-- Each operation is one job on a thread for files (C: fs.c, file.c). A file
-- object adds where it is in its file and what it has read ahead; one task at a
-- time moves it, the others wait their turn.
--
-- What fails raises OSError with `code`, `path` and `syscall`. A cancelled task
-- leaves at once; what the thread was doing goes on to its end: a write is
-- done, what was opened is closed.

local native = require "perilune._fs"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local locks = require "perilune.locks"

local error, math, pcall, setmetatable, table, type =
  error, math, pcall, setmetatable, table, type
local OSError, ValueError = errors.OSError, errors.ValueError

local fs = {}

local function check_path(name, position, path)
  if type(path) ~= "string" then arguments.wrong_type(name, position, "string", path) end
  return path
end

-- The number of an option "mode", 0 to 7777 octal.
local function permissions(name, position, mode, default)
  if mode == nil then return default end
  local value = arguments.integer(name, position, mode)
  if value < 0 or value > 4095 then
    arguments.wrong_value(name, position, "not the permissions of a file")
  end
  return value
end

-- Whole files ---------------------------------------------------------------------

---Reads a whole file.
---
---Raises OSError.
---@param path string
---@return string
---@async
function fs.read_file(path)
  return native.read_file(check_path("read_file", 1, path))
end

local write_options <const> = { atomic = true, mode = true }

---Writes a whole file, in the place of what was there. With `atomic` the new
---content is written beside the old one, put on the disk, and takes its name
---then: whoever reads, and whatever fails, sees the one or the other whole.
---
---Raises OSError.
---@param path string
---@param data string
---@param options? { atomic: boolean?, mode: integer? } mode: permissions of a
---new file, less the process's umask; 438 (0666 octal) if not given
---@async
function fs.write_file(path, data, options)
  check_path("write_file", 1, path)
  arguments.options("write_file", 3, options, write_options)
  local mode = permissions("write_file", 3, options and options.mode, 438)
  native.write_file(path, data, options and options.atomic and "atomic" or "plain", mode)
end

---Adds to the end of a file, which is made if it is not there.
---
---Raises OSError.
---@param path string
---@param data string
---@async
function fs.append_file(path, data)
  native.write_file(check_path("append_file", 1, path), data, "append")
end

-- File objects ----------------------------------------------------------------------

local CHUNK <const> = 65536

---An open file.
---@class perilune.File
local File = { __name = "File" }
File.__index = File

local function new_file(handle, placed, path, appends)
  return setmetatable({
    path = path,
    _handle = handle,
    _place = placed and 0 or -1, -- of what is read or written next; -1: none
    _appends = appends,
    _ahead = "", -- read, and not yet asked for, from _from on
    _from = 1,
    _lock = locks.Lock(),
  }, File)
end

---Opens a file. The mode is `io.open`'s, or "x" to make a new file only.
---
---Raises OSError, and ValueError for an unknown mode.
---@param path string
---@param mode? string "r" if not given
---@param options? { mode: integer? } permissions of a new file
---@return perilune.File
---@async
function fs.open(path, mode, options)
  check_path("open", 1, path)
  mode = mode or "r"
  if type(mode) ~= "string" then arguments.wrong_type("open", 2, "string", mode) end
  arguments.options("open", 3, options, { mode = true })
  local handle, placed = native.open(path, mode,
    permissions("open", 3, options and options.mode, 438))
  return new_file(handle, placed, path, mode:sub(1, 1) == "a")
end

---Opens a temporary file that has no name, for reading and writing; it is gone
---when it is closed.
---
---Raises OSError.
---@param directory? string where; `$TMPDIR` or /tmp if not given
---@return perilune.File
---@async
function fs.tmpfile(directory)
  directory = directory or os.getenv "TMPDIR" or "/tmp"
  return new_file(native.tmpfile(check_path("tmpfile", 1, directory)), true, nil, false)
end

-- Fetches more behind what was read ahead. False: that was the end.
local function fetch(file, wanted)
  local place = file._place
  local data = file._handle:pread(math.max(wanted, CHUNK), place)
  if data == "" then return false end
  if place >= 0 then file._place = place + #data end
  if file._from > #file._ahead then
    file._ahead = data
  else
    file._ahead = file._ahead:sub(file._from) .. data
  end
  file._from = 1
  return true
end

local function ahead(file)
  return #file._ahead - file._from + 1
end

local function take(file, n)
  local from = file._from
  file._from = from + n
  return file._ahead:sub(from, from + n - 1)
end

local function read_all(file)
  local parts = { take(file, ahead(file)) }
  local place = file._place
  if place >= 0 then
    local data = file._handle:pread(nil, place)
    file._place = place + #data
    return parts[1] .. data
  end
  while fetch(file, CHUNK) do parts[#parts + 1] = take(file, ahead(file)) end
  return table.concat(parts)
end

---Reads up to n bytes, fewer only before the end, where it gives nil; without a
---number all that is left, which may be "".
---
---Raises OSError.
---@param n? integer
---@return string?
---@async
function File:read(n)
  local _ <close> = self._lock:guard()
  if n == nil then return read_all(self) end
  n = arguments.integer("File.read", 1, n)
  if n < 0 then arguments.wrong_value("File.read", 1, "a number of bytes is >= 0") end
  if n == 0 then return "" end
  while ahead(self) < n and fetch(self, n - ahead(self)) do
    if self._place < 0 then break end -- a pipe gives what it has
  end
  if ahead(self) == 0 then return nil end
  return take(self, math.min(n, ahead(self)))
end

local function read_line(file)
  local seen = file._from
  while true do
    local stop = file._ahead:find("\n", seen, true)
    if stop then return take(file, stop - file._from + 1) end
    local had = ahead(file)
    if not fetch(file, CHUNK) then break end
    seen = file._from + had
  end
  if ahead(file) == 0 then return nil end
  return take(file, ahead(file))
end

---Reads a line, with its newline if it has one; nil at the end.
---
---Raises OSError.
---@return string?
---@async
function File:readline()
  local _ <close> = self._lock:guard()
  return read_line(self)
end

local function next_line(file)
  local line = file:readline()
  return line and (line:gsub("\n$", ""))
end

---Iterates over the lines that are left, without their newlines.
---@return fun(): string?
---@return perilune.File
---@async
function File:lines()
  return next_line, self
end

-- What was read ahead is read again.
local function forget_ahead(file)
  if file._place >= 0 then file._place = file._place - ahead(file) end
  file._ahead, file._from = "", 1
end

---Writes strings and numbers, one behind the other.
---
---Raises OSError.
---
---Cancellation: what was given to the thread is written.
---@param ... string|number
---@return perilune.File
---@async
function File:write(...)
  local data = table.concat({ ... })
  local _ <close> = self._lock:guard()
  forget_ahead(self)
  local place = self._place
  if self._appends or place < 0 then
    self._handle:pwrite(data, -1)
  else
    self._place = place + #data
    self._handle:pwrite(data, place)
  end
  return self
end

---Moves to a place: `offset` bytes from the beginning ("set"), from where the
---file is ("cur"), or from its end ("end"). Returns where that is, in bytes from
---the beginning.
---
---Raises OSError for what has no places, and ValueError for one before the
---beginning.
---@param whence? "set"|"cur"|"end" "cur" if not given
---@param offset? integer 0 if not given
---@return integer
---@async
function File:seek(whence, offset)
  local _ <close> = self._lock:guard()
  whence = whence or "cur"
  offset = offset == nil and 0 or arguments.integer("File.seek", 2, offset)
  if self._place < 0 then
    error(OSError("seek: invalid seek", { code = "ESPIPE", syscall = "seek", path = self.path }))
  end
  forget_ahead(self)
  local base
  if whence == "set" then
    base = 0
  elseif whence == "cur" then
    base = self._place
  elseif whence == "end" then
    base = self._handle:stat().size
  else
    arguments.wrong_value("File.seek", 1, 'not "set", "cur" or "end"')
  end
  if base + offset < 0 then error(ValueError "seek: a place before the beginning") end
  self._place = base + offset
  return self._place
end

---Reads up to n bytes at a place, which is not where the file is afterwards;
---fewer only before the end. Raises OSError.
---@param n integer
---@param offset integer from 0
---@return string
---@async
function File:pread(n, offset)
  n, offset = arguments.integer("File.pread", 1, n), arguments.integer("File.pread", 2, offset)
  if n < 0 or offset < 0 then arguments.wrong_value("File.pread", n < 0 and 1 or 2, "less than 0") end
  return self._handle:pread(n, offset)
end

---Writes at a place, which is not where the file is afterwards. Raises OSError.
---@param data string
---@param offset integer from 0
---@async
function File:pwrite(data, offset)
  offset = arguments.integer("File.pwrite", 2, offset)
  if offset < 0 then arguments.wrong_value("File.pwrite", 2, "less than 0") end
  self._handle:pwrite(data, offset)
end

---Puts what was written on the disk; with `data_only` without the file's times.
---Raises OSError.
---@param options? { data_only: boolean? }
---@async
function File:sync(options)
  arguments.options("File.sync", 1, options, { data_only = true })
  self._handle:sync(options and options.data_only)
end

---Cuts the file, or extends it by zeros. Raises OSError.
---@param size integer bytes
---@async
function File:truncate(size)
  self._handle:truncate(arguments.integer("File.truncate", 1, size))
end

---What `fs.stat` tells, of this file.
---@return perilune.Stat
---@async
function File:stat()
  return self._handle:stat()
end

---The file's descriptor.
---@return integer
function File:fileno()
  return self._handle:fileno()
end

---Closes the file; harmless if it is closed. Raises OSError if what was written
---could not be.
---@async
function File:close()
  self._handle:close()
end

function File:__close(err) -- luacheck: no unused args
  self._handle:close()
end

function File:__tostring()
  return ("<File %s>"):format(self.path or "without a name")
end

-- Paths -----------------------------------------------------------------------------

---What is known of a file. Times are seconds since 1970.
---@class perilune.Stat
---@field type "file"|"directory"|"link"|"fifo"|"socket"|"char"|"block"|"unknown"
---@field size integer bytes
---@field mode integer permissions
---@field mtime number when its content changed
---@field atime number when it was read
---@field ctime number when it, or what is known of it, changed
---@field birthtime number when it was made, where the system knows
---@field uid integer
---@field gid integer
---@field ino integer
---@field dev integer
---@field nlink integer
---@field rdev integer
---@field blksize integer
---@field blocks integer of 512 bytes

---What is known of a file; of what a link points to. Raises OSError.
---@param path string
---@return perilune.Stat
---@async
function fs.stat(path)
  return native.stat(check_path("stat", 1, path))
end

---The same, of a link itself.
---@param path string
---@return perilune.Stat
---@async
function fs.lstat(path)
  return native.lstat(check_path("lstat", 1, path))
end

local access_bits <const> = { r = 4, w = 2, x = 1, f = 0 }

---Tells whether the process may use a file: "r" read, "w" write, "x" execute it,
---or several of these; without, whether it is there.
---@param path string
---@param how? string
---@return boolean
---@async
function fs.access(path, how)
  check_path("access", 1, path)
  local bits = 0
  for letter in (how or "f"):gmatch "." do
    local bit = access_bits[letter]
    if not bit then arguments.wrong_value("access", 2, ("unknown letter %q"):format(letter)) end
    bits = bits | bit
  end
  local ok, err = pcall(native.access, path, bits)
  if ok then return true end
  if OSError:is(err) then return false end
  error(err, 0)
end

---Makes a directory. Raises OSError.
---@param path string
---@param mode? integer permissions, less the umask; 511 (0777 octal) if not given
---@async
function fs.mkdir(path, mode)
  native.mkdir(check_path("mkdir", 1, path), permissions("mkdir", 2, mode, 511))
end

---Makes a directory and those above it, as far as they are not there. Raises
---OSError.
---@param path string
---@param mode? integer permissions, less the umask; 511 (0777 octal) if not given
---@async
function fs.mkdirp(path, mode)
  native.mkdirp(check_path("mkdirp", 1, path), permissions("mkdirp", 2, mode, 511))
end

---Removes an empty directory. Raises OSError.
---@param path string
---@async
function fs.rmdir(path) native.rmdir(check_path("rmdir", 1, path)) end

---Removes a file. Raises OSError.
---@param path string
---@async
function fs.remove(path) native.remove(check_path("remove", 1, path)) end

---Gives a file another name, in the place of what had it. Raises OSError.
---@param path string
---@param target string
---@async
function fs.rename(path, target)
  native.rename(check_path("rename", 1, path), check_path("rename", 2, target))
end

---Copies a file. Raises OSError.
---@param path string
---@param target string
---@param options? { exclusive: boolean? } exclusive: not in the place of another
---@async
function fs.copyfile(path, target, options)
  arguments.options("copyfile", 3, options, { exclusive = true })
  native.copyfile(check_path("copyfile", 1, path), check_path("copyfile", 2, target),
    options and options.exclusive and 1 or 0)
end

---Makes a second name of a file. Raises OSError.
---@param path string
---@param target string the new name
---@async
function fs.link(path, target)
  native.link(check_path("link", 1, path), check_path("link", 2, target))
end

---Makes a symbolic link. Raises OSError.
---@param path string what it says
---@param target string its name
---@async
function fs.symlink(path, target)
  native.symlink(check_path("symlink", 1, path), check_path("symlink", 2, target))
end

---What a symbolic link says. Raises OSError.
---@param path string
---@return string
---@async
function fs.readlink(path) return native.readlink(check_path("readlink", 1, path)) end

---The absolute path without links and dots. Raises OSError.
---@param path string
---@return string
---@async
function fs.realpath(path) return native.realpath(check_path("realpath", 1, path)) end

---Changes permissions. Raises OSError.
---@param path string
---@param mode integer
---@async
function fs.chmod(path, mode)
  native.chmod(check_path("chmod", 1, path), permissions("chmod", 2, mode))
end

---Changes times. Raises OSError.
---@param path string
---@param atime number seconds since 1970
---@param mtime number seconds since 1970
---@async
function fs.utime(path, atime, mtime)
  arguments.seconds("utime", 2, atime)
  arguments.seconds("utime", 3, mtime)
  native.utime(check_path("utime", 1, path), atime, mtime)
end

---Makes a directory with a name that nothing has: the template, with its last
---six letters, XXXXXX, replaced. Raises OSError.
---@param template? string `$TMPDIR/peri-XXXXXX` if not given
---@return string path
---@async
function fs.mkdtemp(template)
  template = template or (os.getenv "TMPDIR" or "/tmp") .. "/peri-XXXXXX"
  return native.mkdtemp(check_path("mkdtemp", 1, template))
end

-- Directories ---------------------------------------------------------------------

local function next_entry(entries)
  local at = entries.at
  entries.at = at + 2
  return entries[at], entries[at + 1]
end

---Iterates over the entries of a directory in the order of their names:
---`for name, type in fs.scandir(path) do`. The types are those of `Stat`. Raises
---OSError at the call.
---@param path string
---@return fun(): string?, string?
---@return table
---@async
function fs.scandir(path)
  local entries = native.scandir(check_path("scandir", 1, path))
  entries.at = 1
  return next_entry, entries
end

local function join(directory, name)
  if directory:sub(-1) == "/" then return directory .. name end
  return directory .. "/" .. name
end

-- The directories still to be read stand on a stack, the next one on top.
local function next_below(walk)
  while true do
    local entries = walk.entries
    if not entries then
      local directory = table.remove(walk)
      if not directory then return nil end
      local ok, found = pcall(native.scandir, directory)
      if ok then
        found.at, found.directory, found.base = 1, directory, #walk
        walk.entries = found
      elseif not OSError:is(found) or not walk.on_error then
        error(found, 0)
      else
        walk.on_error(found)
      end
    else
      local name, kind = next_entry(entries)
      if name then
        local path = join(entries.directory, name)
        -- Behind those of this directory that were found before it.
        if kind == "directory" then table.insert(walk, entries.base + 1, path) end
        return path, kind
      end
      walk.entries = nil
    end
  end
end

---Iterates over all that is below a directory, each directory's entries together
---and in the order of their names: `for path, type in fs.walk(root) do`. Links are
---not followed.
---
---Raises OSError where a directory cannot be read, unless `on_error` takes it.
---@param path string
---@param options? { on_error: fun(err: any) }
---@return fun(): string?, string?
---@return table
---@async
function fs.walk(path, options)
  check_path("walk", 1, path)
  arguments.options("walk", 2, options, { on_error = true })
  return next_below, { path, on_error = options and options.on_error }
end

-- One part of a glob pattern as a Lua pattern: * ? [a-z] [!a-z].
local function translate(part)
  local pattern = part:gsub("[%^%$%(%)%%%.%+%-]", "%%%0")
  pattern = pattern:gsub("%[!", "[^"):gsub("%*+", ".*"):gsub("%?", ".")
  -- Inside brackets the minus is a range again.
  pattern = pattern:gsub("%b[]", function(set) return (set:gsub("%%%-", "-")) end)
  return "^" .. pattern .. "$"
end

local function is_magic(part) return part:find "[%*%?%[]" ~= nil end

local glob_from

local function glob_magic(directory, part, rest, results)
  local ok, entries = pcall(native.scandir, directory == "" and "." or directory)
  if not ok then
    if OSError:is(entries) then return end
    error(entries, 0)
  end
  local pattern, hidden = translate(part), part:sub(1, 1) == "."
  for i = 1, #entries, 2 do
    local name, kind = entries[i], entries[i + 1]
    if name:find(pattern) and (hidden or name:sub(1, 1) ~= ".")
      and (rest == nil or kind == "directory" or kind == "link" or kind == "unknown") then
      glob_from(directory == "" and name or join(directory, name), rest, results)
    end
  end
end

-- "**": this directory and all below it.
local function glob_deep(directory, rest, results)
  glob_from(directory, rest, results)
  for path, kind in fs.walk(directory == "" and "." or directory, { on_error = function() end }) do
    if directory == "" then path = path:sub(3) end
    if kind == "directory" and not path:find "%f[^/]%." and path:sub(1, 1) ~= "." then
      glob_from(path, rest, results)
    end
  end
end

glob_from = function(directory, pattern, results)
  if pattern == nil then
    results[#results + 1] = directory
    return
  end
  local part, rest = pattern:match "^([^/]*)/+(.*)$"
  if not part then part, rest = pattern, nil end
  if rest == "" then rest = nil end
  if part == "**" then
    glob_deep(directory, rest or "*", results)
  elseif is_magic(part) then
    glob_magic(directory, part, rest, results)
  else
    local path = directory == "" and part or join(directory, part)
    local ok, err = pcall(native.lstat, path)
    if ok then return glob_from(path, rest, results) end
    if not OSError:is(err) then error(err, 0) end
  end
end

---The paths that match a pattern, sorted: `*` and `?` stand for any characters
---but /, `[a-z]` for one, `**` for any number of directories. Names that begin
---with a dot have to be asked for by one.
---
---Python: `glob.glob(recursive=True)`.
---@param pattern string
---@return string[]
---@async
function fs.glob(pattern)
  check_path("glob", 1, pattern)
  local results = {}
  if pattern:sub(1, 1) == "/" then
    glob_from("/", pattern:match "^/+(.*)$", results)
  else
    glob_from("", pattern, results)
  end
  table.sort(results)
  return results
end


return fs
