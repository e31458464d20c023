-- The example scripts/examples/make.lua.
local support = require "support"
local pty = require "support.pty"

local example = debug.getinfo(1, "S").source:match "^@(.*)spec/io/[^/]*$" .. "scripts/examples/make.lua"

local rules = [[
all: b c
	echo all
a:
	echo a
b: a
	echo b
c: a
	sleep 0.02; echo c
]]

local function make(text, ...)
  return support.run_program({ example, ... }, text)
end

describe("the example make.lua", function()
  it("makes what is needed, in order, and shows no bar", function()
    local out, err, status = make(rules)
    assert.equal("", err)
    assert.equal("echo a\na\necho b\nb\nsleep 0.02; echo c\nc\necho all\nall\n", out)
    assert.equal(0, status)
  end)

  it("makes only the targets given, one at a time if told so", function()
    local out, err, status = make(nil, "-j1", support.file(rules), "c")
    assert.equal("", err)
    assert.equal("echo a\na\nsleep 0.02; echo c\nc\n", out)
    assert.equal(0, status)
  end)

  it("stops the others when a command fails", function()
    local out, err, status = make "slow:\n\tsleep 60\nbad:\n\techo no; exit 3\nlater: bad\n\techo later\n"
    assert.equal("echo no; exit 3\nno\n", out)
    assert.equal("make: 'echo no; exit 3' returned 3\n", err)
    assert.equal(1, status)
  end)

  it("goes on with what it can when told to", function()
    local out, _, status = make("bad:\n\tkill -9 $$\nlater: bad\n\techo later\n"
      .. "good:\n\techo good\n", "-k", "/dev/stdin")
    assert.is_truthy(out:find("echo good\ngood\n", 1, true))
    assert.is_falsy(out:find "later")
    assert.equal(1, status)
  end)

  it("says what is wrong with the rules", function()
    local _, err, status = make "a: b\nb: a\n"
    assert.equal("make: 'a' needs itself\n", err)
    assert.equal(2, status)
    _, err = make "a: x\n"
    assert.equal("make: there is no rule for 'x', which 'a' needs\n", err)
  end)

  it("shows a bar on a terminal, and takes it away", function()
    pty.run({ example, "-j", "2", support.file(rules) }, {
      pty.expect "1/4 a", pty.expect "4/4 all", pty.expect "\r\27[K", pty.exit(0),
    })
  end)
end)
