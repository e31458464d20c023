-- Programs on a terminal: what a user types, and what comes back. The helper
-- program (pty.c) reads until the expected text is there, so nothing here
-- depends on how long anything takes.
local support = require "support"

local pty = {}

local function escape(text)
  return (text:gsub("[%c\\\127-\255]", function(c)
    return c == "\\" and "\\\\" or ("\\x%02x"):format(c:byte())
  end))
end

---Steps, for `pty.run`.
function pty.expect(text) return "expect " .. escape(text) end
function pty.send(text) return "send " .. escape(text) end
function pty.signal(number) return "signal " .. number end
function pty.size(rows, columns) return ("size %d %d"):format(rows, columns) end
function pty.exit(status) return "exit " .. status end
function pty.stopped(modes) return "stopped " .. modes end
pty.raw, pty.original, pty.resume = "modes raw", "modes original", "resume"

---Types a line, once the prompt is there.
function pty.line(text)
  return pty.expect "\r\n> " .. "\n" .. pty.raw .. "\n" .. pty.send(text .. "\n")
end

local helper = support.program:match "^(.*/)" .. "spec/pty"

---Runs the program on a terminal and takes the steps; the last one is an exit.
---Fails with the step that did not come true; returns all that was written.
---`env` are assignments put before it; without any there is no history.
function pty.run(arguments, steps, env)
  local words = { "exec env -u PERILUNE_LIBEDIT -u PERILUNE_HISTORY LC_ALL=C TERM=xterm HOME=/nonexistent",
    env or "PERILUNE_HISTORY=", support.quote(helper),
    support.quote(support.file(table.concat(steps, "\n") .. "\n")), support.quote(support.program) }
  for _, argument in ipairs(arguments) do words[#words + 1] = support.quote(argument) end
  local out, err, status = support.shell(table.concat(words, " "))
  if status ~= 0 then error(err .. "what was written:\n" .. out, 2) end
  return out
end

return pty
