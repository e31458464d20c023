-- scripts/examples/grep.lua against the system's grep.
local support = require "support"
local quote, shell = support.quote, support.shell

local root = debug.getinfo(1, "S").source:match "^@(.*)spec/host/grep_spec%.lua$"
local example = (root == "" and "./" or root) .. "scripts/examples/grep.lua"

local function grep(...)
  return support.run_program { example, ... }
end

local function sorted(text)
  local lines = {}
  for line in text:gmatch "[^\n]+" do lines[#lines + 1] = line end
  table.sort(lines)
  return table.concat(lines, "\n")
end

describe("the example grep.lua", function()
  local dir
  before_each(function()
    dir = support.directory()
    assert(os.execute(("mkdir -p %s/a/b %s/empty"):format(quote(dir), quote(dir))))
    for i = 1, 100 do
      local file <close> = assert(io.open(("%s/a/%d"):format(dir, i), "w"))
      file:write("one\n", i % 7 == 0 and "needle a.b\n" or "hay a-b\n", "last")
    end
    local binary <close> = assert(io.open(dir .. "/a/b/binary", "wb"))
    binary:write "\0needle"
  end)

  it("finds what grep finds", function()
    local out, err, status = grep("-F", "a.b", dir)
    assert.same({ sorted((shell(("grep -rnF a.b %s"):format(quote(dir))))), "", 0 },
      { sorted(out), err, status })
    assert.equal(sorted((shell(("grep -rlI needle %s"):format(quote(dir))))),
      sorted((grep("-l", "ne+dle", dir))))
  end)

  it("exits as grep does", function()
    assert.same({ "", "", 1 }, { grep("absent", dir) })
    local _, err, status = grep("needle", dir .. "/none")
    assert.equal(2, status)
    assert.is_truthy(err:find "no such file or directory")
    assert.equal(2, (select(3, grep("n[", dir))))
    assert.equal(2, (select(3, grep())))
  end)
end)
