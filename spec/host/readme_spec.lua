-- README.md: its examples run as they are written, and what its table of paths
-- names is there.
local lfs = require "lfs"
local support = require "support"

local root = debug.getinfo(1, "S").source:match "^@(.*)spec/host/readme_spec%.lua$"
if root == "" then root = "./" end

local function contents(path)
  local file <close> = assert(io.open(path))
  return file:read "a"
end

local readme = contents(root .. "README.md")

-- The blocks of code in a language, in their order.
local function blocks(language)
  local list = {}
  for code in ("\n" .. readme):gmatch("\n```" .. language .. "\n(.-\n)```") do list[#list + 1] = code end
  return list
end

-- The one block that has this text in it.
local function block_with(language, text)
  local found
  for _, code in ipairs(blocks(language)) do
    if code:find(text, 1, true) then
      assert.is_nil(found, "two blocks have " .. text)
      found = code
    end
  end
  assert.is_not_nil(found, "no block has " .. text)
  return found
end

-- Where the program under test was built, and how.
local build = support.program:match "^(.*)/[^/]*$"

local function cached(name)
  return contents(build .. "/CMakeCache.txt"):match("\n" .. name .. ":%a+=([^\n]*)")
end

-- Runs code as a script on the virtual clock; returns what it prints.
local function printed(code)
  local lines = {}
  local env = setmetatable({
    print = function(...)
      local parts = table.pack(...)
      for i = 1, parts.n do parts[i] = tostring(parts[i]) end
      lines[#lines + 1] = table.concat(parts, "\t")
    end,
  }, { __index = _G })
  assert(load(code, "=README.md", "t", env))()
  return lines
end

local function shell(...)
  local out, err, code = support.shell(table.concat({ ... }, " "))
  assert.equal("", err)
  assert.equal(0, code)
  return out
end

describe("README.md", function()
  it("has Lua examples that run", function()
    local examples = blocks "lua"
    assert.is_true(#examples >= 1)
    assert.same({ "b\tis done", "a\tis done", "c\tis done", "A\tB\tC", "d\tis done", "false\ttrue" },
      printed(examples[1]))
    for i = 2, #examples do printed(examples[i]) end
  end)

  it("has a command for stock Lua that works", function()
    local code = block_with("sh", "lua5.4 -e"):match "^lua5%.4 %-e '(.*)'\n$"
    assert.same({ "42\n", "", 0 }, { support.run_stock(code) })
  end)

  it("has a host in C that is built by its command and runs", function()
    local sanitizers = cached "PERILUNE_SANITIZE"
    -- TSan cannot follow the jumps of a liblua that was built without it.
    if sanitizers:find "thread" then return end
    local directory = support.directory()
    local file = assert(io.open(directory .. "/host.c", "w"))
    file:write(block_with("c", "peri_step"), "\n")
    file:close()
    shell("cmake --install", support.quote(build), "--prefix", support.quote(directory))
    local pc = shell("find", directory, "-name perilune.pc"):gsub("/perilune.pc\n$", "")
    local library = pc:gsub("/pkgconfig$", "")
    local command = block_with("sh", "cc host.c"):gsub("\n$", "")
    assert.equal("", shell("cd", directory, "&& PKG_CONFIG_PATH=" .. pc, "&& export PKG_CONFIG_PATH &&",
      command, "-Wall -Wextra -Werror", sanitizers ~= "" and "-fsanitize=" .. sanitizers or ""))
    assert.equal("tick\t1\ntick\t2\ntick\t3\n",
      shell("LD_LIBRARY_PATH=" .. library, "timeout 60", directory .. "/a.out"))
  end)

  it("names paths that are there", function()
    local rows = 0
    for cell in readme:match "## Where is what\n(.-)\n## ":gmatch "\n| (`[^|]*) |" do
      rows = rows + 1
      local directory
      for path in cell:gmatch "`([^`]+)`" do
        if path ~= "build/PRESET/" then
          -- The second one of a cell lies beside the first.
          if not path:find "/" then path = directory .. path end
          directory = path:match "^.*/"
          assert.is_truthy(lfs.attributes(root .. path, "mode"), path)
        end
      end
    end
    assert.is_true(rows > 10)
  end)

  it("names scripts and programs that are there", function()
    local count = 0
    for _, code in ipairs(blocks "sh") do
      for path in code:gmatch "scripts/[%w_-]+" do
        count = count + 1
        assert.equal("rwxr-xr-x", lfs.attributes(root .. path, "permissions"), path)
      end
    end
    assert.is_true(count >= 2)
    for mention in readme:gmatch "`(scripts/[%w_/-]+)" do
      assert.is_truthy(lfs.attributes(root .. mention, "mode"), mention)
    end
  end)

  it("names the options that the program has", function()
    local usage = support.run_program { "--help" }
    local paragraph = readme:match "is the program itself; (.-)\n\n"
    local count = 0
    for option in paragraph:gmatch "`(%-+%w+)" do
      count = count + 1
      assert.matches("\n  " .. option .. " ", usage, 1, true)
    end
    assert.is_true(count >= 4)
  end)
end)
