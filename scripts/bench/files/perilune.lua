-- files: reads COUNT files of 4 KiB, AT_ONCE at a time. The floor makes them.
--   perilune.lua COUNT AT_ONCE
local peri = require "perilune"
local fs = require "perilune.fs"

local count, at_once = tonumber(arg[1]), tonumber(arg[2])
local directory = ("/tmp/perilune-bench-files-%d/"):format(count)
local loop = peri.get_running_loop()

local next_file, bytes

local function reader()
  while next_file <= count do
    local path = directory .. next_file
    next_file = next_file + 1
    local text = fs.read_file(path) -- others count meanwhile
    bytes = bytes + #text
  end
end

local function round()
  next_file, bytes = 1, 0
  local readers = {}
  for i = 1, at_once do readers[i] = reader end
  peri.gather(readers):await()
  assert(bytes == count * 4096)
end

local ROUNDS <const> = 5
round()
local start = loop:time()
for _ = 1, ROUNDS do round() end
print(("us %.3f"):format((loop:time() - start) * 1e6 / (ROUNDS * count)))
