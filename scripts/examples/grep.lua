-- grep.lua [-F] [-l] PATTERN [PATH...]: prints the lines that match a Lua pattern
-- (-F: that contain a text) in files and in all that is below directories, many
-- files at a time; -l: only the files' names. Exits as grep does: 0 where there
-- is a match, 1 where there is none, 2 after an error.
local peri = require "perilune"
local fs = require "perilune.fs"

local AT_ONCE <const> = 32

local plain, names_only = false, false
local failed, found = false, false

local function complain(err)
  io.stderr:write("grep: ", tostring(err), "\n")
  failed = true
end

-- The matches of a file as a list of lines to be printed. A file with a zero byte
-- at its beginning is no text.
local function search(path, pattern)
  local ok, text = peri.pcall(fs.read_file, path)
  if not ok then return complain(text) end
  if text:find("\0", 1, true) and text:sub(1, 1024):find("\0", 1, true) then return end
  -- Where the whole has no match, no line has: most files are done with here.
  if plain and not text:find(pattern, 1, true) then return end
  local lines, number = {}, 0
  for line in text:gmatch "([^\n]*)\n?" do
    number = number + 1
    if line:find(pattern, 1, plain) then
      if names_only then return { path } end
      lines[#lines + 1] = ("%s:%d:%s"):format(path, number, line)
    end
  end
  return lines
end

-- Puts the paths of all files into a queue.
local function collect(queue, roots)
  for _, root in ipairs(roots) do
    local ok, stat = peri.pcall(fs.stat, root)
    if not ok then
      complain(stat)
    elseif stat.type ~= "directory" then
      queue:put(root)
    else
      for path, kind in fs.walk(root, { on_error = complain }) do
        if kind == "file" then queue:put(path) end
      end
    end
  end
  queue:shutdown()
end

local function main(pattern, roots)
  local queue = peri.Queue(4 * AT_ONCE) -- no more paths than are soon read
  local group <close> = peri.TaskGroup()
  group:create_task(collect, queue, roots)
  for _ = 1, AT_ONCE do
    group:create_task(function()
      for path in queue:items() do
        local ok, lines = peri.pcall(search, path, pattern)
        if not ok then
          complain(lines) -- the pattern is malformed where a line got so far
        elseif lines and #lines > 0 then
          found = true
          io.write(table.concat(lines, "\n"), "\n")
        end
      end
    end)
  end
end

local first = 1
while arg[first] == "-F" or arg[first] == "-l" do
  if arg[first] == "-F" then plain = true else names_only = true end
  first = first + 1
end
local pattern = arg[first]
if not pattern or pattern == "--help" then
  io.stderr:write "usage: grep.lua [-F] [-l] PATTERN [PATH...]\n"
  os.exit(2)
end
local valid, problem = pcall(string.find, "", pattern, 1, plain)
if not valid then
  complain(problem)
  os.exit(2)
end
local roots = table.move(arg, first + 1, #arg, 1, {})
main(pattern, #roots > 0 and roots or { "." })
os.exit(failed and 2 or found and 0 or 1)
