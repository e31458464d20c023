--- Functions of Lua's library, so that what they call may wait. They are
--- described in meta/yieldable.lua, since C defines them (yieldable.c, sort.c and
--- require.c in runtime/core); here is what C leaves to Lua.
local native = require "perilune._yieldable"

local pcall, type = pcall, type
local byte, find, sub = string.byte, string.find, string.sub
local concat, stock_gsub = table.concat, string.gsub
local apply, index, newindex = native.apply, native.index, native.newindex

-- sort: lists with a metatable ------------------------------------------------

local function read(list, copy, n)
  for i = 1, n do copy[i] = index(list, i) end
end

local function write(list, copy, n)
  for i = 1, n do newindex(list, i, copy[i]) end
end

-- gsub: replacements that may wait -----------------------------------------------

local ANCHOR <const> = byte "^"

-- What string.find does not take for plain text has one of these. A lone ")" is
-- none, but for gsub a mistake, told when it is reached.
local SPECIAL <const> = "[%^%$%*%+%?%.%(%[%%%-]"

local function is_plain_mistake(pattern)
  return find(pattern, ")", 1, true) and not find(pattern, SPECIAL)
end

-- Returns the result and the count, or false and what is wrong. What is kept
-- stays in place in `s`: it is copied with what comes next.
local function gsub(s, pattern, repl, max)
  if is_plain_mistake(pattern) then
    local ok, result = pcall(stock_gsub, s, pattern, "", max)
    return ok and result, ok and 0 or result
  end
  local ask = type(repl) == "function" and apply or index
  local anchored = byte(pattern) == ANCHOR
  local parts, k, count = {}, 0, 0
  local from, copied, last = 1, 1, nil
  local first, final, failure

  -- An empty match where the last match ended does not count.
  local function replacement(ok, a, b, capture, ...)
    if not ok then failure = a end
    first, final = a, b
    if not ok or not a or b < a and b == last then return nil end
    if capture == nil then capture = sub(s, a, b) end
    return ask(repl, capture, ...)
  end

  while count < max do
    local value = replacement(pcall(find, s, pattern, from))
    if failure then return false, failure end
    if not first then break end
    if final < first and final == last then
      from = from + 1
    else
      count, from, last = count + 1, final + 1, final
      if value then
        local kind = type(value)
        if kind ~= "string" and kind ~= "number" then
          return false, ("invalid replacement value (a %s)"):format(kind)
        end
        parts[k + 1], parts[k + 2] = sub(s, copied, first - 1), value
        k, copied = k + 2, final + 1
      end
    end
    if anchored then break end
  end
  if k == 0 then return s, count end
  parts[k + 1] = sub(s, copied)
  return concat(parts), count
end

---@class perilune.yieldable
local yieldable = {
  gsub = native.make_gsub(gsub, stock_gsub),
  require = native.require,
  sort = native.make_sort(read, write, table.sort),
  tostring = native.tostring,
  xpcall = native.xpcall,
}

return yieldable
