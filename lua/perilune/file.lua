--- Files that are open. Private to perilune.fs, which has these functions.
--
-- C (runtime/io/file.c) reads and writes at places; an object here adds where it
-- is in its file and what it has read ahead. One task at a time moves it, the
-- others wait their turn.
local native = require "perilune._fs"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local locks = require "perilune.locks"
local unclosed = require "perilune.unclosed"

local concat, error, max, min, os, setmetatable, type =
  table.concat, error, math.max, math.min, os, setmetatable, type
local OSError, ValueError = errors.OSError, errors.ValueError

local CHUNK <const> = 65536

---An open file.
---@class perilune.File
---@field path? string as it was opened
local File = { __name = "File", __module = "perilune.fs" }
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
    _watch = unclosed.watch(path and ("file '%s'"):format(path) or "temporary file"),
  }, File)
end

local file = {}

---Opens a file. The mode is `io.open`'s, or "x" to make a new file only.
---
---Raises OSError, and ValueError for an unknown mode.
---
---Cancellation: a file that is opened meanwhile is closed.
---@param path string
---@param mode? string "r" if not given
---@param options? { mode: integer? } permissions of a new file
---@return perilune.File
---@async
function file.open(path, mode, options)
  if type(path) ~= "string" then arguments.wrong_type("open", 1, "string", path) end
  mode = mode or "r"
  if type(mode) ~= "string" then arguments.wrong_type("open", 2, "string", mode) end
  arguments.options("open", 3, options, { mode = true })
  local bits = options and options.mode or 438 -- 0666
  bits = arguments.integer("open", 3, bits)
  if bits < 0 or bits > 4095 then
    arguments.wrong_value("open", 3, "not the permissions of a file")
  end
  local handle, placed = native.open(path, mode, bits)
  return new_file(handle, placed, path, mode:sub(1, 1) == "a")
end

---Opens a temporary file that has no name, for reading and writing; it is gone
---when it is closed.
---
---Raises OSError.
---@param directory? string where; `$TMPDIR` or /tmp if not given
---@return perilune.File
---@async
function file.tmpfile(directory)
  if directory == nil then directory = os.getenv "TMPDIR" or "/tmp" end
  if type(directory) ~= "string" then arguments.wrong_type("tmpfile", 1, "string", directory) end
  return new_file(native.tmpfile(directory), true, nil, false)
end

-- Raises the error of a call that C has no part in.
local function fail(self, syscall, code, errno, text)
  local where = self.path and ("%s '%s'"):format(syscall, self.path) or syscall
  error(OSError(("%s: %s"):format(where, text),
    { code = code, errno = errno, syscall = syscall, path = self.path }))
end

-- What was read ahead of a file that is closed is not to be had any more.
local function check_open(self, syscall)
  if self._closed then fail(self, syscall, "EBADF", 9, "the file is closed") end
end

-- Reading ----------------------------------------------------------------------------

-- Fetches more behind what was read ahead. False: that was the end.
local function fetch(self, wanted)
  local place = self._place
  local data = self._handle:read(max(wanted, CHUNK), place)
  if data == "" then return false end
  if place >= 0 then self._place = place + #data end
  if self._from > #self._ahead then
    self._ahead = data
  else
    self._ahead = self._ahead:sub(self._from) .. data
  end
  self._from = 1
  return true
end

local function ahead(self)
  return #self._ahead - self._from + 1
end

local function take(self, n)
  local from = self._from
  self._from = from + n
  return self._ahead:sub(from, from + n - 1)
end

-- What has been read by the time of a cancellation is read again.
local function read_all(self)
  local place = self._place
  if place >= 0 then
    local data = self._handle:read(nil, place)
    self._place = place + #data
    return take(self, ahead(self)) .. data
  end
  local parts = { self._ahead:sub(self._from) }
  local _ <close> = setmetatable({}, { __close = function(_, err)
    if err ~= nil then self._ahead, self._from = concat(parts), 1 end
  end })
  self._ahead, self._from = "", 1
  while fetch(self, CHUNK) do parts[#parts + 1] = take(self, ahead(self)) end
  return concat(parts)
end

---Reads up to n bytes, fewer only before the end, where it gives nil (of a pipe or
---a terminal what there is); without a number all that is left, which may be "".
---
---Raises OSError.
---
---Cancellation: nothing is lost of a file; of a pipe what a read has under way.
---@param n? integer
---@return string?
---@async
function File:read(n)
  local _ <close> = self._lock:guard()
  check_open(self, "read")
  if n == nil then return read_all(self) end
  n = arguments.integer("File.read", 1, n)
  if n < 0 then arguments.wrong_value("File.read", 1, "a number of bytes is >= 0") end
  if n == 0 then return "" end
  while ahead(self) < n do
    if self._place < 0 and ahead(self) > 0 then break end
    if not fetch(self, n - ahead(self)) then break end
  end
  if ahead(self) == 0 then return nil end
  return take(self, min(n, ahead(self)))
end

-- A long line is put together from its pieces once, at its end.
local function read_line(self)
  local stop = self._ahead:find("\n", self._from, true)
  if stop then return take(self, stop - self._from + 1) end
  local parts = { take(self, ahead(self)) }
  local _ <close> = setmetatable({}, { __close = function(_, err)
    if err == nil then return end
    parts[#parts + 1] = self._ahead:sub(self._from)
    self._ahead, self._from = concat(parts), 1
  end })
  repeat
    if not fetch(self, CHUNK) then break end
    stop = self._ahead:find("\n", self._from, true)
    parts[#parts + 1] = take(self, stop and stop - self._from + 1 or ahead(self))
  until stop
  local line = concat(parts)
  if line == "" then return nil end
  return line
end

---Reads a line, with its newline if it has one; nil at the end.
---
---Raises OSError.
---@return string?
---@async
function File:readline()
  local _ <close> = self._lock:guard()
  check_open(self, "read")
  return read_line(self)
end

local function next_line(self)
  local line = self:readline()
  if line and line:byte(-1) == 10 then return line:sub(1, -2) end
  return line
end

---Iterates over the lines that are left, without their newlines.
---@return fun(): string?
---@return perilune.File
---@async
function File:lines()
  return next_line, self
end

-- Writing and moving ----------------------------------------------------------------------

-- What was read ahead is read again.
local function forget_ahead(self)
  if self._place >= 0 then
    self._place = self._place - ahead(self)
    self._ahead, self._from = "", 1
  end
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
  local data = concat({ ... })
  local _ <close> = self._lock:guard()
  forget_ahead(self)
  local place = self._place
  if self._appends or place < 0 then
    local now = self._handle:write(data, -1)
    if place >= 0 and now >= 0 then self._place = now end
  else
    self._place = place + #data
    self._handle:write(data, place)
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
  check_open(self, "seek")
  if self._place < 0 then fail(self, "seek", "ESPIPE", 29, "invalid seek") end
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
  if n < 0 or offset < 0 then
    arguments.wrong_value("File.pread", n < 0 and 1 or 2, "less than 0")
  end
  return self._handle:pread(n, offset)
end

---Writes at a place, which is not where the file is afterwards. Raises OSError.
---@param data string
---@param offset integer from 0
---@async
function File:pwrite(data, offset)
  if type(data) ~= "string" then arguments.wrong_type("File.pwrite", 1, "string", data) end
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
  size = arguments.integer("File.truncate", 1, size)
  local _ <close> = self._lock:guard()
  forget_ahead(self)
  self._handle:truncate(size)
end

---What `fs.stat` tells, of this file. Raises OSError.
---@return perilune.Stat
---@async
function File:stat()
  return self._handle:stat()
end

---The file's descriptor, which stays the file's. Raises OSError.
---@return integer
function File:fileno()
  return self._handle:fileno()
end

-- Closing -----------------------------------------------------------------------------------

local function note_closed(self)
  if self._watch then unclosed.closed(self._watch) end
  self._closed = true
end

---Closes the file; harmless if it is closed. Tasks that wait for it get an error.
---Raises OSError if what was written could not be.
---
---Cancellation: it is closed all the same.
---@async
function File:close()
  note_closed(self)
  self._handle:close()
end

-- An error that leaves the block is not to be replaced by another.
function File:__close(err)
  if err == nil then return self:close() end
  note_closed(self)
  self._handle:release()
end

function File:__tostring()
  return ("<File %s>"):format(self.path or "without a name")
end

return file
