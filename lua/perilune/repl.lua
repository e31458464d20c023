--- The interactive session of the program.
--
-- It reads a line, runs it and prints what it gives, as `lua` does. All of it is
-- the main task: while a line is typed the task waits for keys, so the loop and
-- the other tasks run on, and the lines run in the task itself, so that they may
-- wait and are what the script's top level is. The program gives the terminal,
-- a userdata (runtime/host/repl.c).
local core = require "perilune._core"
local errors = require "perilune.errors"
local exceptions = require "perilune.exceptions"
local completion = require "perilune.completion"

local attempt, load, pcall, select, tostring, type = core.attempt, load, pcall, select, tostring, type

local HISTORY_SIZE <const> = 1000

-- Where global names live, whatever became of _G.
local globals <const> = load "return _ENV" ()

---@class perilune.Session
---@field terminal userdata
---@field loop perilune.Loop
---@field key perilune.Future? what waits for input
---@field last string? the last line of the history
---@field covered table[] what output() has replaced
local Session = { __name = "Session" }
Session.__index = Session

-- The history -------------------------------------------------------------------

-- An entry may have several lines; in the file each has one.
local escapes <const> = { ["\\"] = "\\\\", ["\n"] = "\\n" }
local unescapes <const> = { ["\\\\"] = "\\", ["\\n"] = "\n" }

local function write_history(session, how, text)
  local terminal = session.terminal
  local problem = terminal[how](terminal, text)
  if not problem or session.history_failed then return end
  session.history_failed = true
  terminal:say(("cannot write the history to %s: %s"):format(terminal:history_file(), problem))
end

local function load_history(session)
  local terminal = session.terminal
  local lines = {}
  for line in (terminal:read_history() or ""):gmatch "[^\n]+" do lines[#lines + 1] = line end
  local first = math.max(1, #lines - HISTORY_SIZE + 1)
  for i = first, #lines do
    local entry = lines[i]:gsub("\\[\\n]", unescapes)
    terminal:remember(entry)
    session.last = entry
  end
  -- Not at every start: it grows to twice the size first.
  if #lines > 2 * HISTORY_SIZE then
    write_history(session, "replace_history", table.concat(lines, "\n", first) .. "\n")
  end
end

local function remember(session, line)
  if not line:find "%S" or line == session.last or not session.terminal:edits() then return end
  session.last = line
  session.terminal:remember(line)
  write_history(session, "append_history", line:gsub("[\\\n]", escapes) .. "\n")
end

-- Output while a line is being typed ------------------------------------------------

-- Puts fn in the place of a function of the script's world, until the session
-- ends.
local function cover(session, tbl, name, wrap)
  local original = type(tbl) == "table" and rawget(tbl, name)
  if type(original) ~= "function" then return end
  local replacement = wrap(original)
  rawset(tbl, name, replacement)
  table.insert(session.covered, { tbl, name, original, replacement })
end

local function ends_line(...)
  local last = select("#", ...) > 0 and select(-1, ...)
  return type(last) == "string" and last:sub(-1) == "\n"
end

-- What writes to the terminal has the prompt make room first.
local function cover_output(session)
  local terminal = session.terminal
  local function whole_lines(original)
    return function(...)
      terminal:make_room(true)
      return original(...)
    end
  end
  cover(session, globals, "print", whole_lines)
  cover(session, globals, "warn", whole_lines)
  local io = rawget(globals, "io")
  if type(io) ~= "table" then return end
  local stdout, stderr, output = io.stdout, io.stderr, io.output
  local function is_terminal(file) return file == stdout or file == stderr end
  cover(session, io, "write", function(original)
    return function(...)
      if is_terminal(output()) then terminal:make_room(ends_line(...)) end
      return original(...)
    end
  end)
  local meta = terminal:metatable(stdout)
  cover(session, meta and rawget(meta, "__index"), "write", function(original)
    return function(file, ...)
      if is_terminal(file) then terminal:make_room(ends_line(...)) end
      return original(file, ...)
    end
  end)
end

local function uncover_output(session)
  for _, entry in ipairs(session.covered) do
    local tbl, name, original, replacement = table.unpack(entry)
    if rawget(tbl, name) == replacement then rawset(tbl, name, original) end
  end
end

-- Beginning and end -------------------------------------------------------------------

local function open(terminal)
  local session = setmetatable({
    terminal = terminal,
    loop = core.get_running_loop(),
    covered = {},
  }, Session)
  core.session(true)
  cover_output(session)
  load_history(session)
  return session
end

function Session:__close()
  core.session(false)
  uncover_output(self)
  self.terminal:close()
end

-- Reading -----------------------------------------------------------------------------

local function prompt_of(name, default)
  local prompt = globals[name]
  if prompt == nil then return default end
  local ok, text = pcall(tostring, prompt)
  return ok and text or default
end

-- What the Tab key inserts; or else the names to choose from.
local function complete(session, text)
  if not text:find "%S" then return "  " end
  local terminal = session.terminal
  local names, prefix = completion.find({
    globals = globals,
    peri = require "perilune",
    metatable = function(value) return terminal:metatable(value) end,
  }, text)
  if #names == 0 then return "" end
  local insert = completion.common(names):sub(#prefix + 1)
  if insert ~= "" or #names == 1 then return insert end
  return "", completion.columns(names, terminal:width())
end

local function on_input(session)
  session.terminal:watch(false)
  local key = session.key
  if key and not key:done() then key:set_result() end
end

local not_watching <const> = {
  __close = function(watching)
    local loop, terminal = watching.session.loop, watching.session.terminal
    terminal:watch(false)
    loop:remove_reader(terminal:descriptor())
  end,
}

-- Until the value is closed; while a line runs, the loop is the script's alone.
local function watch(session)
  session.loop:add_reader(session.terminal:descriptor(), on_input, session)
  return setmetatable({ session = session }, not_watching)
end

local function wait_for_input(session)
  local key = session.loop:create_future()
  session.key = key
  if session.terminal:watch(true) then
    key:await()
  else
    core.sleep(0) -- a file is always ready; the other tasks get their turn
  end
end

-- One line from the terminal, or nil at the end.
local function read_line(session, prompt)
  local terminal = session.terminal
  local _ <close> = watch(session)
  local event, text = terminal:begin(prompt)
  while event == "input" or event == "complete" do
    if event == "input" then
      wait_for_input(session)
      event, text = terminal:feed()
    else
      event, text = terminal:complete(complete(session, text))
    end
  end
  return event == "line" and text or nil
end

local function is_incomplete(message)
  return message:sub(-5) == "<eof>"
end

-- Reads until it is a statement, or cannot become one. Returns what load does,
-- or nothing at the end.
local function read_statement(session)
  local line = read_line(session, prompt_of("_PROMPT", "> "))
  if not line then return end
  local code = line:gsub("^=", "return ", 1)
  local chunk = load("return " .. code, "=stdin")
  local message
  while not chunk do
    chunk, message = load(code, "=stdin")
    if chunk or not is_incomplete(message) then break end
    local more = read_line(session, prompt_of("_PROMPT2", ">> "))
    if not more then break end
    line, code = line .. "\n" .. more, code .. "\n" .. more
  end
  remember(session, line)
  return chunk, message
end

-- Running -------------------------------------------------------------------------------

-- Without what the session itself has on the stack.
local function trim(trace)
  local session_begins = trace:find(
    "\n\tperilune/repl%.lua:%d+: in function [^\n]*\n\t%[C%]: in function 'attempt'")
  return session_begins and trace:sub(1, session_begins - 1) or trace
end

local function describe(session, err, trace)
  trace = trace and trim(trace)
  if errors.BaseError:is(err) then return exceptions.tell(err, trace) end
  local meta = session.terminal:metatable(err)
  local text
  if type(err) == "string" or type(err) == "number" or meta and rawget(meta, "__tostring") then
    local ok, told = pcall(tostring, err)
    text = ok and told or ("(a %s whose __tostring fails)"):format(type(err))
  else
    text = ("(error object is a %s value)"):format(type(err))
  end
  return trace and text .. "\n" .. trace or text
end

local function tell(session, what, err, trace)
  if what == "interrupt" then
    session.terminal:abort()
    session.terminal:say "interrupted"
  else
    session.terminal:say(describe(session, err, trace))
  end
end

local function show(session, ...)
  if select("#", ...) == 0 then return end
  local ok, err = core.pcall(globals.print, ...)
  if not ok then session.terminal:say(("error calling 'print' (%s)"):format(describe(session, err))) end
end

local function evaluate(session, chunk)
  show(session, chunk())
end

-- Reads a statement and runs it. False at the end.
local function turn(session)
  local chunk, message = read_statement(session)
  if not chunk then
    if message then session.terminal:say(message) end
    return message ~= nil
  end
  local ok, what, err, trace = attempt(evaluate, session, chunk)
  if not ok then tell(session, what, err, trace) end
  return true
end

local repl = {}

---Runs a session until its end: Ctrl-D, or the end of standard input.
---@param terminal userdata
---@async
function repl.run(terminal)
  local session <close> = open(terminal)
  local ok, going, err
  repeat
    ok, going, err = attempt(turn, session)
    if not ok then
      -- Ctrl-C, or somebody has cancelled the main task: a new line begins.
      if going == "error" and not core.iscancel(err) then error(err, 0) end
      terminal:abort()
    end
  until not going
  terminal:newline()
end

return repl
