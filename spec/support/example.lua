-- The examples of scripts/examples that are servers, as programs of their own.
local subprocess = require "perilune.subprocess"
local support = require "support"

local example = {}

example.directory =
  debug.getinfo(1, "S").source:match "^@(.*)spec/support/[^/]*$" .. "scripts/examples/"

---Starts an example, by its name or from another file; returns its process, and the
---port it says it listens on. Ended by Ctrl-C it must have nothing to complain about:
---`example.stop`.
---@async
function example.start(name, ...)
  local path = name:find("/", 1, true) and name or example.directory .. name
  local args = { support.program, path, ... }
  args[#args + 1] =
    { stdin = subprocess.DEVNULL, stdout = subprocess.PIPE, stderr = subprocess.PIPE }
  local process = subprocess.create_subprocess_exec(table.unpack(args))
  local line = process.stdout:readline()
  local port = line and tonumber(line:match "^listening on\t.*\t(%d+)\n$")
  if not port then error(("%s: %s"):format(name, select(2, process:communicate())), 2) end
  return process, port
end

---Ends it as Ctrl-C does; returns what it wrote to stderr, and its exit code.
---@async
function example.stop(process)
  process:send_signal "SIGINT"
  local _, err = process:communicate()
  return err, process.returncode
end

return example
