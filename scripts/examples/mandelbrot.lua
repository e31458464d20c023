-- mandelbrot.lua [--threads] [WIDTH [HEIGHT]] > FILE.pgm: the Mandelbrot set in
-- shades of grey, 800 by 600 unless told otherwise. Worker processes (--threads:
-- threads of this one) compute the rows, all processors at once; they arrive in
-- order and are written as they come.
local futures = require "perilune.futures"
local stdio = require "perilune.stdio"

local LIMIT <const> = 255 -- iterations, and shades

-- The job: one row as a string of bytes, a pixel each.
local function row(y, width, height)
  local scale = 3 / width
  local ci = (y - (height - 1) / 2) * scale
  local pixels = {}
  for x = 1, width do
    local cr = (x - width) * scale + 1
    local zr, zi, n = 0.0, 0.0, 0
    while n < LIMIT and zr * zr + zi * zi < 4 do
      zr, zi = zr * zr - zi * zi + cr, 2 * zr * zi + ci
      n = n + 1
    end
    pixels[x] = string.char(LIMIT - n)
  end
  return table.concat(pixels)
end

local Executor = futures.ProcessPoolExecutor
if arg[1] == "--threads" then
  Executor = futures.ThreadPoolExecutor
  table.remove(arg, 1)
end
local width, height = math.tointeger(tonumber(arg[1] or 800)), math.tointeger(tonumber(arg[2] or 600))
if not width or not height or width < 1 or height < 1 or arg[3] then
  io.stderr:write "usage: mandelbrot.lua [--threads] [WIDTH [HEIGHT]] > FILE.pgm\n"
  os.exit(2)
end

local ys, widths, heights = {}, {}, {}
for y = 1, height do ys[y], widths[y], heights[y] = y - 1, width, height end

local executor <close> = Executor()
stdio.stdout:write(("P5\n%d %d\n%d\n"):format(width, height, LIMIT))
for _, pixels in executor:map(row, ys, widths, heights, { chunksize = 4 }) do
  stdio.stdout:write(pixels)
  stdio.stdout:drain()
end
