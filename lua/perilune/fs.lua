--- Files and directories: every call waits in the task and leaves the loop
--- running.
--
-- Each operation is one job on a thread for files (C: runtime/io/fs.c). Files that
-- are open are in perilune.file, walks through trees in perilune.glob.
--
-- What fails raises OSError with `code`, `path` and `syscall`. A cancelled task
-- leaves at once; what the thread was doing goes on to its end: a write is
-- done, what was opened is closed.

local native = require "perilune._fs"
local arguments = require "perilune.arguments"

local os, type = os, type

---Files and directories.
---@class perilune.fs
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
---then: whoever reads, and whatever fails, sees the one or the other whole. A
---symbolic link stays, and so do permissions.
---
---Cancellation: what was begun is done.
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
  native.write_file(path, data, options and options.atomic, mode)
end

---Adds to the end of a file, which is made if it is not there.
---
---Raises OSError.
---@param path string
---@param data string
---@async
function fs.append_file(path, data)
  native.append_file(check_path("append_file", 1, path), data)
end

-- Files that are open -------------------------------------------------------------

fs.open = require "perilune.file".open
fs.tmpfile = require "perilune.file".tmpfile

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
---or several of these; without, whether it is there. Raises OSError where that
---cannot be told.
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
  return native.access(path, bits)
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

---Copies a file and its permissions, in the place of what was there. Raises
---OSError; what it has made of a new file until then is removed.
---
---Cancellation: ends the copy, and removes it if it was a new file.
---@param path string
---@param target string
---@param options? { exclusive: boolean? } exclusive: not in the place of another
---@async
function fs.copyfile(path, target, options)
  arguments.options("copyfile", 3, options, { exclusive = true })
  native.copyfile(check_path("copyfile", 1, path), check_path("copyfile", 2, target),
    options and options.exclusive)
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

fs.walk = require "perilune.glob".walk
fs.glob = require "perilune.glob".glob

-- Events ---------------------------------------------------------------------------

local watch_options <const> = { recursive = true, limit = true }

---Watches a file, or what is in a directory: `for kind, name in watch do`. With
---`recursive` the directories below, too, those that come later included: it waits
---until all have been found, names have their directories before them ("sub/file"),
---and in a new directory what was there before it could be watched is told as a
---"rename". Links are not followed.
---
---Raises OSError (`code` "ENOENT", "ENOSPC" where the system has no more watches, ...).
---@param path string
---@param options? { recursive: boolean?, limit: integer? } limit: how many events
---are kept for who asks for them (1,024); see `Watch:next` for what is more
---@return perilune.Watch
---@async
function fs.watch(path, options)
  check_path("watch", 1, path)
  arguments.options("watch", 2, options, watch_options)
  local limit = options and options.limit or 1024
  limit = arguments.integer("watch", 2, limit)
  if limit < 1 or limit > 1048576 then
    arguments.wrong_value("watch", 2, "limit is 1 to 1,048,576")
  end
  if options and options.recursive then return require "perilune.watch".tree(path, limit) end
  return native.watch(path, limit)
end

return fs
