-- Reads the LuaLS declarations of the library: what stands as comments in its
-- sources and in the stubs of meta/. A line at a time: the sources keep to a
-- few forms, and what is written otherwise is not found, which a spec tells.
local lfs = require "lfs"

local declarations = {}

-- The tags of a block of comments, and its text without them.
local function read_doc(lines)
  local doc = { text = "", params = {}, fields = {}, raw = table.concat(lines, "\n") }
  for _, line in ipairs(lines) do
    local tag, rest = line:match "^%-%-%-@(%a+)%s*(.*)$"
    if not tag then
      doc.text = doc.text .. line:sub(4) .. "\n"
    elseif tag == "class" then
      doc.class, doc.parents = rest:match "^[%w_.]+", {}
      for parent in (rest:match "^[%w_.]+:%s*(.*)$" or ""):gmatch "[%w_.]+" do table.insert(doc.parents, parent) end
    elseif tag == "param" then
      local name, optional, text = rest:match "^([%w_.]+)(%??)%s+(.*)$"
      table.insert(doc.params, { name = name, optional = optional == "?", text = text })
    elseif tag == "field" then
      local name, optional, text = rest:match "^([%w_]+)(%??)%s+(.*)$"
      doc.fields[name] = { text = text, optional = optional == "?" or text:find "^[^ ]*%?" ~= nil }
    elseif tag == "return" then
      doc.returns = (doc.returns or 0) + 1
    elseif tag == "type" then
      doc.type = rest
    else
      doc[tag] = rest
    end
  end
  return doc
end

local function class_of(all, name)
  local class = all[name]
  if not class then
    class = { name = name, parents = {}, members = {} }
    all[name] = class
  end
  return class
end

local function declare_class(all, doc, place)
  local class = class_of(all, doc.class)
  class.place = class.place or place
  if #doc.parents > 0 then class.parents = doc.parents end
  if doc.text ~= "" then class.text = doc.text end
  for name, field in pairs(doc.fields) do
    class.members[name] = { kind = "field", text = field.text, optional = field.optional, place = place }
  end
  return class
end

local function parameters(text)
  local names = {}
  for name in text:gmatch "[%w_.]+" do names[#names + 1] = name end
  return names
end

-- What a line of code declares, with the doc above it.
local function declare(all, owners, line, doc, place)
  local owner, name = line:match "^([%w_]+)%.([%w_]+) = "
  local class = doc.class and declare_class(all, doc, place)
  if class then
    local variable = line:match "^local ([%w_]+) = "
    if variable then owners[variable] = class end
    if owner and owners[owner] then
      owners[owner].members[name] = { kind = "class", doc = doc, place = place }
    end
    return
  end
  local module, key = line:match '= require "([%w_.]+)"%.([%w_]+)$'
  if owner and owners[owner] and (module or doc.raw ~= "") then
    owners[owner].members[name] =
      { kind = module and "link" or "value", module = module, key = key, doc = doc, place = place }
    return
  end
  local separator, list
  owner, separator, name, list = line:match "^function ([%w_.]+)([.:])([%w_]+)(%b())"
  owner = owner and owner:match "[%w_]+$"
  if not owner or not owners[owner] then return end
  owners[owner].members[name] =
    { kind = "function", method = separator == ":", names = parameters(list), doc = doc, place = place }
end

-- The variable that a module returns stands for the module.
local function module_variable(text)
  return text:match "\nreturn ([%w_]+)%s*$"
end

local function read_file(all, path, module)
  local file <close> = assert(io.open(path))
  local text = file:read "a"
  local owners, lines, number = {}, {}, 0
  local variable = module_variable(text)
  if variable then owners[variable] = class_of(all, "module " .. module) end
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do
    number = number + 1
    if line:find "^%-%-%-[^-]" or line == "---" then
      lines[#lines + 1] = line
    else
      local place = ("%s:%d"):format(path:match "lua/perilune/.*$", number)
      declare(all, owners, line, read_doc(lines), place)
      lines = {}
    end
  end
  -- A module that is a class itself: its members are those of either name.
  local class = variable and owners[variable]
  if class and class.name ~= "module " .. module then all["module " .. module] = class end
end

---Reads all of the library below a directory, lua/perilune. Gives its classes by
---name: `name`, `place`, `parents` (names), `text`, and `members` by name, each
---with a `kind`:
---"function" (`names` of its parameters, `doc`), "field", "class", "value", or
---"link" (to `key` of `module`). Modules stand there as "module perilune.x".
function declarations.read(directory)
  local all, files = {}, {}
  for _, where in ipairs { "", "/meta" } do
    for name in lfs.dir(directory .. where) do
      if name:find "%.lua$" then files[#files + 1] = where .. "/" .. name end
    end
  end
  table.sort(files)
  for _, name in ipairs(files) do
    local module = "perilune." .. name:match "([%w_]+)%.lua$"
    if name == "/init.lua" or name == "/meta/perilune.lua" then module = "perilune" end
    read_file(all, directory .. name, module)
  end
  return all
end

---The member of a class or of what it extends, and where it is declared.
function declarations.find(all, class, name)
  local member = class.members[name]
  if member then return member, class end
  for _, parent in ipairs(class.parents) do
    local found, where = declarations.find(all, assert(all[parent], parent), name)
    if found then return found, where end
  end
end

return declarations
