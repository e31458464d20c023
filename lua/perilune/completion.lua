--- What could stand at the cursor of an interactive line: names of globals, and
--- of the fields and methods of what a chain of names leads to.
--
-- Nothing of the script's is called: values are looked up raw, through the
-- tables that metatables have as their __index. The one exception is the module
-- perilune, which loads its parts when they are first asked for.
local ipairs, pairs, rawequal, rawget, type = ipairs, pairs, rawequal, rawget, type

local keywords <const> = {
  "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in",
  "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while",
}

-- A chain of __index that is longer than this is taken for a circle.
local LONGEST_CHAIN <const> = 100

local completion = {}

---@class perilune.completion.World what is looked at
---@field globals table
---@field peri table the module perilune
---@field metatable fun(value: any): table? the raw one

-- Goes from a value to the tables in which its fields stand, nearest first.
local function each_table(world, value)
  local left = LONGEST_CHAIN
  return function()
    while value ~= nil and left > 0 do
      left = left - 1
      local here = value
      local meta = world.metatable(here)
      value = meta and rawget(meta, "__index")
      -- Loops have a function there; their methods stand beside it.
      if type(value) == "function" then value = rawget(meta, "methods") end
      if type(here) == "table" then return here end
    end
  end
end

local function field(world, value, key)
  if rawequal(value, world.peri) then return world.peri[key] end
  for tbl in each_table(world, value) do
    local found = rawget(tbl, key)
    if found ~= nil then return found end
  end
  return nil
end

local function is_callable(world, value)
  if type(value) == "function" then return true end
  local meta = world.metatable(value)
  return meta ~= nil and rawget(meta, "__call") ~= nil
end

local function fits(key, prefix)
  return type(key) == "string" and key:sub(1, #prefix) == prefix and key:find "^[%a_][%w_]*$"
    -- What is private shows only when it is asked for.
    and (prefix ~= "" or key:sub(1, 1) ~= "_")
end

-- Collects the names of a value's fields into the set `names`.
local function collect(world, value, prefix, only_callable, names)
  local function add(key, item)
    if fits(key, prefix) and not (only_callable and not is_callable(world, item)) then
      names[key] = true
    end
  end
  if rawequal(value, world.peri) then
    for key, item in pairs(value) do add(key, item) end
    return
  end
  for tbl in each_table(world, value) do
    for key, item in next, tbl do add(key, item) end
  end
end

-- The chain of names that ends the text: what comes before its last name, the
-- separator and the beginning of the last name. Nil where there is none, as
-- behind a call.
local function split(text)
  local chain = text:match "[%w_%.:]*$"
  chain = chain:match "%.%.+([^%.].*)$" or chain -- behind a concatenation
  local path, separator, prefix = chain:match "^(.-)([%.:]?)([%w_]*)$"
  if path:find "[%.:][%.:]" or path:find "^[%.:%d]" or (separator ~= "" and path == "") or prefix:find "^%d" then
    return nil
  end
  return path, separator, prefix
end

local function sorted(names)
  local list = {}
  for name in pairs(names) do list[#list + 1] = name end
  table.sort(list)
  return list
end

---The names that could stand at the end of a text, sorted, and the beginning of
---one that stands there already.
---@param world perilune.completion.World
---@param text string the line up to the cursor
---@return string[] names
---@return string prefix
function completion.find(world, text)
  local names = {}
  local path, separator, prefix = split(text)
  if not path then return names, "" end
  local value = world.globals
  for key in path:gmatch "[^%.:]+" do
    value = field(world, value, key)
    if value == nil then return {}, prefix end
  end
  collect(world, value, prefix, separator == ":", names)
  if path == "" then
    for _, keyword in ipairs(keywords) do
      if fits(keyword, prefix) then names[keyword] = true end
    end
  end
  return sorted(names), prefix
end

---The longest beginning that all names share.
---@param names string[] sorted, at least one
---@return string
function completion.common(names)
  local first, last = names[1], names[#names]
  local n = 0
  while n < #first and first:byte(n + 1) == last:byte(n + 1) do n = n + 1 end
  return first:sub(1, n)
end

local MOST_LISTED <const> = 200

---The names in columns, down and then right, as lines.
---@param names string[]
---@param width integer columns of the screen
---@return string
function completion.columns(names, width)
  local shown = math.min(#names, MOST_LISTED)
  local cell = 0
  for i = 1, shown do cell = math.max(cell, #names[i] + 2) end
  local per_line = math.max(1, width // cell)
  local lines = (shown + per_line - 1) // per_line
  local text = {}
  for line = 1, lines do
    local cells = {}
    for i = line, shown, lines do
      cells[#cells + 1] = names[i] .. (" "):rep(i + lines <= shown and cell - #names[i] or 0)
    end
    text[line] = table.concat(cells) .. "\n"
  end
  if shown < #names then text[#text + 1] = ("... and %d more\n"):format(#names - shown) end
  return table.concat(text)
end

return completion
