--- Walks through directories, and patterns of paths. Private to perilune.fs, which
-- has these functions.
local native = require "perilune._fs"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"

local error, insert, ipairs, pcall, remove, sort, type =
  error, table.insert, ipairs, pcall, table.remove, table.sort, type
local OSError = errors.OSError

local glob = {}

local function join(directory, name)
  if directory:byte(-1) == 47 then return directory .. name end
  return directory .. "/" .. name
end

-- Walks ---------------------------------------------------------------------------------

local vanished <const> = { ENOENT = true, ENOTDIR = true }

-- The entries of a directory, or nil: it is left out. One that was found, and has
-- gone since, is as one that was not there.
local function read_directory(walk, directory)
  local ok, found = pcall(native.scandir, directory)
  if ok then return found end
  if not OSError:is(found) then error(found, 0) end
  if directory ~= walk.root and vanished[found.code] then return nil end
  if not walk.on_error then error(found, 0) end
  walk.on_error(found)
end

-- Some file systems do not say in a directory what its entries are.
local function type_of(path, kind)
  if kind ~= "unknown" then return kind end
  local ok, stat = pcall(native.lstat, path)
  if ok then return stat.type end
  if not OSError:is(stat) then error(stat, 0) end
  return kind
end

-- The directories still to be read stand on a stack, the next one on top.
local function next_below(walk)
  while true do
    local entries, at = walk.entries, walk.at
    if not entries then
      local directory = remove(walk)
      if not directory then return nil end
      walk.entries, walk.at = read_directory(walk, directory), 1
      walk.directory, walk.base = directory, #walk
    elseif entries[at] then
      walk.at = at + 2
      local path = join(walk.directory, entries[at])
      local kind = type_of(path, entries[at + 1])
      -- Behind those of this directory that were found before it.
      if kind == "directory" then insert(walk, walk.base + 1, path) end
      return path, kind
    else
      walk.entries = nil
    end
  end
end

---Iterates over all that is below a directory, each directory's entries together
---and in the order of their names: `for path, type in fs.walk(root) do`. Links are
---not followed. A directory that vanishes meanwhile is left out.
---
---Raises OSError where a directory cannot be read, unless `on_error` takes it.
---@param path string
---@param options? { on_error: fun(err: any) }
---@return fun(): string?, string?
---@return table
---@async
function glob.walk(path, options)
  if type(path) ~= "string" then arguments.wrong_type("walk", 1, "string", path) end
  arguments.options("walk", 2, options, { on_error = true })
  return next_below, { path, root = path, on_error = options and options.on_error }
end

-- Patterns of names --------------------------------------------------------------------

-- The set that begins at a place of the pattern: negated, its pairs of bounds, and
-- where it ends; nil: it has no end, and stands for its bracket.
local function read_set(pattern, at)
  local start = at + 1
  local negated = pattern:find("^[!^]", start) ~= nil
  if negated then start = start + 1 end
  -- A bracket that stands first is one of the set.
  local stop = pattern:find("]", start + 1, true)
  if not stop then return nil end
  local set, i = { negated = negated }, start
  while i < stop do
    local low = pattern:byte(i)
    if pattern:sub(i + 1, i + 1) == "-" and i + 2 < stop then
      set[#set + 1], set[#set + 2] = low, pattern:byte(i + 2)
      i = i + 3
    else
      set[#set + 1], set[#set + 2] = low, low
      i = i + 1
    end
  end
  return set, stop
end

-- A pattern as a list of parts: a byte, "?", "*", or a set.
local function compile(pattern)
  local parts, at = {}, 1
  while at <= #pattern do
    local letter = pattern:sub(at, at)
    local part = pattern:byte(at)
    if letter == "?" then
      part = "?"
    elseif letter == "*" then
      part = parts[#parts] ~= "*" and "*" or nil
    elseif letter == "[" then
      local set, stop = read_set(pattern, at)
      if set then part, at = set, stop end
    end
    parts[#parts + 1] = part
    at = at + 1
  end
  return parts
end

local function fits(part, byte)
  if part == "?" then return true end
  if type(part) == "number" then return part == byte end
  for i = 1, #part, 2 do
    if byte >= part[i] and byte <= part[i + 1] then return not part.negated end
  end
  return part.negated
end

-- Only the last star met need be tried again, so that no pattern takes more than
-- its length times the name's.
local function matches(parts, name)
  local p, n = 1, 1
  local star, from
  while n <= #name do
    local part = parts[p]
    if part == "*" then
      star, from = p, n
      p = p + 1
    elseif part and fits(part, name:byte(n)) then
      p, n = p + 1, n + 1
    elseif star then
      from = from + 1
      p, n = star + 1, from
    else
      return false
    end
  end
  if parts[p] == "*" then p = p + 1 end
  return p > #parts
end

-- Paths that match ---------------------------------------------------------------------

local function is_magic(part) return part:find "[%*%?%[]" ~= nil end

local descend

local function try(fn, path)
  local ok, result = pcall(fn, path)
  if ok then return result end
  if not OSError:is(result) then error(result, 0) end
end

local function descend_magic(directory, part, rest, results)
  local entries = try(native.scandir, directory == "" and "." or directory)
  if not entries then return end
  local parts, hidden = compile(part), part:byte(1) == 46
  for i = 1, #entries, 2 do
    local name, kind = entries[i], entries[i + 1]
    if (hidden or name:byte(1) ~= 46) and matches(parts, name)
      and (rest == nil or kind == "directory" or kind == "link" or kind == "unknown") then
      descend(directory == "" and name or join(directory, name), rest, results)
    end
  end
end

-- "**": this directory and all below it but the hidden ones.
local function descend_deep(directory, rest, results)
  descend(directory, rest, results)
  local entries = try(native.scandir, directory == "" and "." or directory)
  for i = 1, entries and #entries or 0, 2 do
    local name = entries[i]
    local path = directory == "" and name or join(directory, name)
    if name:byte(1) ~= 46 and type_of(path, entries[i + 1]) == "directory" then
      descend_deep(path, rest, results)
    end
  end
end

descend = function(directory, pattern, results)
  if pattern == nil then
    results[#results + 1] = directory
    return
  end
  local part, rest = pattern:match "^([^/]*)/+(.*)$"
  if not part then part, rest = pattern, nil end
  if rest == "" then rest = nil end
  if part == "**" then
    descend_deep(directory, rest or "*", results)
  elseif is_magic(part) then
    descend_magic(directory, part, rest, results)
  else
    local path = directory == "" and part or join(directory, part)
    if try(native.lstat, path) then descend(path, rest, results) end
  end
end

---The paths that match a pattern, sorted: `*` and `?` stand for any characters
---but /, `[a-z]` for one, `[!a-z]` for another one, `**` for any number of
---directories. Names that begin with a dot have to be asked for by one. What
---cannot be read does not match.
---
---Python: `glob.glob(recursive=True)`.
---@param pattern string
---@return string[]
---@async
function glob.glob(pattern)
  if type(pattern) ~= "string" then arguments.wrong_type("glob", 1, "string", pattern) end
  local found, results = {}, {}
  if pattern:byte(1) == 47 then
    descend("/", pattern:match "^/+(.*)$", found)
  elseif pattern ~= "" then
    descend("", pattern, found)
  end
  sort(found)
  -- "**/**" finds the same by several ways.
  for _, path in ipairs(found) do
    if path ~= results[#results] then results[#results + 1] = path end
  end
  return results
end

return glob
