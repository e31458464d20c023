--- Watches of whole trees. Private to perilune.fs.
--
-- The system watches one directory at a time. A tree is a watch with a part for
-- each directory below (C: runtime/io/fs_event.c), all of whose events come in one
-- line. Where a name comes or goes, a look at it tells whether a directory has:
-- before the event is given to the task that asks for it, so what happens in a new
-- directory is either watched by then or found there.
local native = require "perilune._fs"
local errors = require "perilune.errors"
local locks = require "perilune.locks"
local timeouts = require "perilune.timeouts"

local error, insert, ipairs, pairs, pcall, rawget, remove, setmetatable, unpack =
  error, table.insert, ipairs, pairs, pcall, rawget, table.remove, setmetatable, table.unpack
local OSError = errors.OSError

local Tree = { __name = "Watch", __module = "perilune.fs" }

local vanished <const> = { ENOENT = true, ENOTDIR = true }
local may_be_directory <const> = { directory = true, unknown = true }

function Tree.__index(tree, key)
  if key == "closed" then return rawget(tree, "_watch").closed end
  if key == "dropped" then return rawget(tree, "_watch").dropped + rawget(tree, "_dropped") end
  return Tree[key]
end

-- What tells a directory from another one that has its name later.
local function identity(stat)
  return ("%d %d %s"):format(stat.dev, stat.ino, stat.birthtime)
end

-- The directory of a name in it; nil: the root.
local function parent_of(name)
  return name:match "^(.*)/[^/]*$"
end

-- Takes a directory and those below it out of the watch.
local function forget(tree, name)
  local stack = { name }
  while #stack > 0 do
    local at = remove(stack)
    local known = tree._known[at]
    native.unwatch_part(tree._watch, known.part)
    tree._known[at] = nil
    for below in pairs(known.below) do stack[#stack + 1] = below end
  end
  local above = tree._known[parent_of(name)]
  if above then above.below[name] = nil end
end

-- Watches a directory, and gives its entries as native.scandir does; nil: it has
-- gone, or they are known.
local function take(tree, name)
  local path = tree._root .. name
  local stat = native.lstat(path)
  if stat.type ~= "directory" then return nil end
  local id = identity(stat)
  local known = tree._known[name]
  if known and known.id ~= id then
    forget(tree, name)
    known = nil
  end
  if not known then
    local part = native.watch_part(tree._watch, path, name .. "/")
    if not part then return nil end
    known = { id = id, part = part, below = {}, complete = false }
    tree._known[name] = known
    local above = tree._known[parent_of(name)]
    if above then above.below[name] = true end
  elseif known.complete then
    return nil
  end
  local entries = native.scandir(path)
  known.complete = true
  return entries
end

-- What cannot be watched is an error of the watch's making, and an event later;
-- what nobody may read is always an event.
local function note_error(tree, name, err)
  if not OSError:is(err) then error(err, 0) end
  if vanished[err.code] then return end
  if not tree._found and err.code ~= "EACCES" then error(err, 0) end
  tree._ready[#tree._ready + 1] = { "error", err.code, name }
end

-- Watches the directories that stand in `_todo`, and those below them; what there
-- is in them becomes events, once the watch is made. A directory is taken from the
-- stack when it is done: a cancellation leaves the rest to the next call.
local function adopt(tree)
  local todo, found = tree._todo, tree._found
  while #todo > 0 do
    local name = todo[#todo]
    local ok, entries = pcall(take, tree, name)
    if not ok then note_error(tree, name, entries) end
    remove(todo)
    for i = 1, ok and entries and #entries or 0, 2 do
      local below = name .. "/" .. entries[i]
      if found then found[#found + 1] = { "rename", below } end
      if may_be_directory[entries[i + 1]] then todo[#todo + 1] = below end
    end
  end
end

-- Looks at what has come or gone.
local function look(tree, name)
  local ok, stat = pcall(native.lstat, tree._root .. name)
  if not ok and not OSError:is(stat) then error(stat, 0) end
  if ok and stat.type == "directory" then
    tree._todo[#tree._todo + 1] = name
    adopt(tree)
  elseif tree._known[name] then
    forget(tree, name)
  end
end

-- Puts the directories of the root on the stack.
local function begin(tree)
  local entries = native.scandir(tree._root)
  for i = 1, #entries, 2 do
    if may_be_directory[entries[i + 1]] then tree._todo[#tree._todo + 1] = entries[i] end
  end
end

-- Events are missing, so directories may have come and gone unseen: all are watched
-- anew. What is in them is not told: who is told of the gap looks for himself.
local function start_over(tree, event)
  if not event.begun then
    for _, known in pairs(tree._known) do native.unwatch_part(tree._watch, known.part) end
    tree._known = {}
    local ok, err = pcall(begin, tree)
    if not ok then note_error(tree, ".", err) end
    event.begun = true
  end
  adopt(tree)
  tree._found = {}
end

local function tell(tree, event)
  local ready, found = tree._ready, tree._found
  insert(ready, 1, event)
  for i, one in ipairs(found) do
    if i > tree._limit then
      ready[#ready + 1] = { "overflow", #found - tree._limit }
      tree._dropped = tree._dropped + #found - tree._limit
      break
    end
    ready[#ready + 1] = one
  end
end

local function shift(tree)
  return unpack(remove(tree._ready, 1))
end

-- One task at a time; the others wait their turn.
local function next_event(tree)
  local _ <close> = tree._lock:guard()
  while #tree._ready == 0 do
    if not tree._unseen then
      local kind, name = tree._watch:next()
      if kind ~= "overflow" and (kind ~= "rename" or not name) then return kind, name end
      tree._unseen, tree._found = { kind, name }, {}
    end
    local event = tree._unseen
    if event[1] == "overflow" then start_over(tree, event) else look(tree, event[2]) end
    tell(tree, event)
    tree._unseen = nil
  end
  return shift(tree)
end

function Tree:next(options)
  return timeouts.limited("Watch.next", 1, options, next_event, self)
end

function Tree:close() self._watch:close() end

Tree.__close = Tree.close
Tree.__call = next_event

local watch = {}

---Watches a directory and all that are below it.
---@param path string
---@param limit integer events that are kept
---@return perilune.Watch
---@async
function watch.tree(path, limit)
  local tree = setmetatable({
    _watch = native.watch(path, limit),
    _root = path:byte(-1) == 47 and path or path .. "/",
    _limit = limit,
    _dropped = 0, -- of what was found
    _known = {}, -- by name: { id, part, below: set of names, complete }
    _ready = {}, -- events to be told
    _unseen = nil, -- one that has not been looked at
    _todo = {}, -- names of directories that are to be watched
    _found = nil, -- events of what was found in them
    _lock = locks.Lock(),
  }, Tree)
  local _ <close> = setmetatable({}, { __close = function(_, err)
    if err ~= nil then tree:close() end
  end })
  local stat = native.stat(path)
  if stat.type ~= "directory" then return tree end
  begin(tree)
  adopt(tree)
  return tree
end

return watch
