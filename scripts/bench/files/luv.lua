-- files: reads COUNT files of 4 KiB, AT_ONCE at a time. The floor makes them.
--   luv.lua COUNT AT_ONCE
local uv = require "luv"

local count, at_once = tonumber(arg[1]), tonumber(arg[2])
local directory = ("/tmp/perilune-bench-files-%d/"):format(count)

local next_file, bytes

local function reader()
  local co = coroutine.running()
  local function wake(err, result) assert(coroutine.resume(co, err, result)) end
  local function call(fn, ...)
    local n = select("#", ...)
    local arguments = { ... }
    arguments[n + 1] = wake
    fn(table.unpack(arguments, 1, n + 1))
    local err, result = coroutine.yield()
    assert(not err, err)
    return result
  end
  while next_file <= count do
    local path = directory .. next_file
    next_file = next_file + 1
    local fd = call(uv.fs_open, path, "r", 0)
    local stat = call(uv.fs_fstat, fd)
    local text = call(uv.fs_read, fd, stat.size, 0)
    bytes = bytes + #text
    call(uv.fs_close, fd)
  end
end

local function round()
  next_file, bytes = 1, 0
  for _ = 1, at_once do assert(coroutine.resume(coroutine.create(reader))) end
  uv.run()
  assert(bytes == count * 4096)
end

local ROUNDS <const> = 5
round()
local start = uv.hrtime()
for _ = 1, ROUNDS do round() end
print(("us %.3f"):format((uv.hrtime() - start) / 1e3 / (ROUNDS * count)))
