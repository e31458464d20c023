-- scripts/examples/word_count.lua against the system's tr, sort and uniq.
local pty = require "support.pty"
local support = require "support"
local quote, shell = support.quote, support.shell

local root = debug.getinfo(1, "S").source:match "^@(.*)spec/host/word_count_spec%.lua$"
local example = (root == "" and "./" or root) .. "scripts/examples/word_count.lua"

local function word_count(...)
  return support.run_program { example, ... }
end

-- A tree of texts, the same in every run, with a file that is no text.
local function make_tree()
  local dir = support.directory()
  assert(os.execute(("mkdir -p %s/a/b %s/empty"):format(quote(dir), quote(dir))))
  local words = { "the", "The", "moon", "near", "side", "of", "Earth", "x1y", "of-of" }
  local state = 1
  for i = 1, 100 do
    local file <close> = assert(io.open(("%s/a/%s%d"):format(dir, i % 3 == 0 and "b/" or "", i), "w"))
    for _ = 1, 200 do
      state = (state * 48271) % 2147483647
      file:write(words[state % #words + 1], state % 5 == 0 and ".\n" or " ")
    end
  end
  local binary <close> = assert(io.open(dir .. "/a/binary", "wb"))
  binary:write "moon \0 moon"
  return dir
end

local expected <const> = [[find %s -type f ! -name binary -exec cat {} + | tr -cs A-Za-z '\n' |
  tr A-Z a-z | grep . | LC_ALL=C sort | uniq -c | LC_ALL=C sort -k1,1nr -k2 | head -n %d]]

describe("the example word_count.lua", function()
  for how, flags in pairs { processes = {}, threads = { "--threads" } } do
    it("counts what tr, sort and uniq count, in " .. how, function()
      local dir = make_tree()
      local wanted = shell(expected:format(quote(dir), 6))
      table.move({ "-n", "6", dir }, 1, 3, #flags + 1, flags)
      local out, err, status = word_count(table.unpack(flags))
      assert.same({ wanted, "", 0 }, { out, err, status })
    end)
  end

  it("says what it could not count", function()
    local out, err, status = word_count("--threads", support.directory() .. "/none")
    assert.same({ "", 1 }, { out, status })
    assert.is_truthy(err:find "no such file or directory")
    assert.equal(2, (select(3, word_count())))
    assert.equal(2, (select(3, word_count("--timeout", "soon", "."))))
  end)

  -- A batch of texts, and a FIFO that nobody writes to: what is read of it never comes.
  local function stuck_tree()
    local dir = support.directory()
    assert(os.execute("mkdir " .. quote(dir .. "/texts")))
    for i = 1, 32 do
      local file <close> = assert(io.open(("%s/texts/%d"):format(dir, i), "w"))
      file:write "moon"
    end
    assert(os.execute("mkfifo " .. quote(dir .. "/fifo")))
    return dir .. "/texts", dir .. "/fifo"
  end

  it("gives what it has after --timeout, and says so", function()
    local out, err, status = word_count("--threads", "--timeout", "0.2", stuck_tree())
    assert.equal(1, status)
    assert.is_truthy(err:find "stopped after 0.2 s: these are the words of %d+ of 33 files")
    -- All or nothing: the texts are one batch.
    assert.equal(err:find " 32 of 33 " and "     32 moon\n" or "", out)
  end)

  it("shows how far it is, and gives what it has after Ctrl-C", function()
    local texts, fifo = stuck_tree()
    local output = pty.run({ example, "--threads", texts, fifo }, {
      pty.expect "] 32/33", pty.signal(2), pty.expect "     32 moon",
      pty.expect "interrupted: these are the words of 32 of 33 files", pty.exit(1),
    })
    assert.is_truthy(output)
  end)
end)
