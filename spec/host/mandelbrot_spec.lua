-- scripts/examples/mandelbrot.lua: the picture, and that both kinds of worker make it.
local support = require "support"

local root = debug.getinfo(1, "S").source:match "^@(.*)spec/host/mandelbrot_spec%.lua$"
local example = (root == "" and "./" or root) .. "scripts/examples/mandelbrot.lua"

describe("the example mandelbrot.lua", function()
  it("draws the same picture by threads and by processes", function()
    local picture, err, status = support.run_program { example, "--threads", "61", "41" }
    assert.same({ "", 0 }, { err, status })
    local header = "P5\n61 41\n255\n"
    assert.equal(header, picture:sub(1, #header))
    assert.equal(#header + 61 * 41, #picture)
    local function pixel(x, y) return picture:byte(#header + 61 * y + x + 1) end
    for y = 1, 20 do assert.equal(pixel(30, 20 + y), pixel(30, 20 - y)) end -- symmetric
    assert.equal(0, pixel(35, 20)) -- inside
    assert.is_true(pixel(0, 0) > 200) -- far outside
    assert.equal(picture, (support.run_program { example, "61", "41" }))
  end)

  it("refuses what is no size", function()
    local out, err, status = support.run_program { example, "0" }
    assert.same({ "", 2 }, { out, status })
    assert.is_truthy(err:find "^usage: ")
  end)
end)
