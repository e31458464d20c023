-- Runs shell commands, several at a time, each when what it needs is done: a small
-- `make -j`.
--
--   perilune make.lua [-j N] [-k] [FILE] [TARGETS]
--
-- FILE (default: standard input) has lines "target: what it needs", and below each,
-- indented, its commands. Without targets all are made. A command that fails stops
-- the others, unless -k is given: then what does not need it goes on. What a command
-- says is shown when it has ended, so that lines do not get mixed. On a terminal a
-- bar on stderr shows how far it is.
local peri = require "perilune"
local stdio = require "perilune.stdio"
local subprocess = require "perilune.subprocess"

local function fail(text)
  io.stderr:write("make: ", text, "\n")
  os.exit(2)
end

local function read_arguments()
  local options = { jobs = 4, targets = {} }
  local i = 1
  while arg[i] do
    local word = arg[i]
    if word:find "^%-j" then
      local number = word:sub(3)
      if number == "" then
        i = i + 1
        number = arg[i]
      end
      options.jobs = math.tointeger(tonumber(number or "")) or fail "-j needs a number"
      if options.jobs < 1 then fail "-j needs a number from 1 on" end
    elseif word == "-k" then
      options.keep_going = true
    elseif not options.file then
      options.file = word
    else
      table.insert(options.targets, word)
    end
    i = i + 1
  end
  return options
end

-- Target to { name=, needs=, commands= }, and their names in order.
local function read_rules(file)
  local input = file and assert(io.open(file)) or stdio.stdin
  local rules, order, rule = {}, {}, nil
  for line in input:lines() do
    local name, needs = line:match "^([^%s:#]+)%s*:(.*)$"
    if name then
      rule = rules[name] or { name = name, needs = {}, commands = {} }
      if not rules[name] then table.insert(order, name) end
      rules[name] = rule
      for need in needs:gmatch "%S+" do table.insert(rule.needs, need) end
    elseif line:find "^%s+%S" then
      if not rule then fail("a command before the first target: " .. line) end
      table.insert(rule.commands, (line:gsub("^%s+", "")))
    end
  end
  return rules, order
end

-- The rules that the targets need, each after those that it needs itself.
local function plan(rules, targets)
  local sorted, state = {}, {}
  local function visit(name, path)
    local rule = rules[name] or fail(("there is no rule for '%s'%s"):format(name,
      path and (", which '%s' needs"):format(path) or ""))
    if state[name] == "visiting" then fail(("'%s' needs itself"):format(name)) end
    if state[name] then return end
    state[name] = "visiting"
    for _, need in ipairs(rule.needs) do visit(need, name) end
    state[name] = "planned"
    table.insert(sorted, rule)
  end
  for _, name in ipairs(targets) do visit(name) end
  return sorted
end

-- The bar, or nothing where stderr is no terminal.
local bar = { done = 0, total = 0, shown = stdio.isatty "stderr" }

function bar.draw(name)
  if not bar.shown then return end
  local columns = stdio.get_terminal_size "stderr"
  local width = math.max(10, math.min(40, columns - 40))
  local full = bar.total > 0 and bar.done * width // bar.total or width
  local text = ("[%s%s] %d/%d %s"):format(("#"):rep(full), ("."):rep(width - full),
    bar.done, bar.total, name or "")
  stdio.stderr:write("\r\27[K", text:sub(1, columns - 1))
end

function bar.clear()
  if bar.shown then stdio.stderr:write "\r\27[K" end
end

local function show(command, process, output)
  bar.clear()
  stdio.stdout:write(command, "\n", output)
  if process.returncode ~= 0 then
    stdio.stderr:write(("make: '%s' %s %d\n"):format(command,
      process.returncode < 0 and "was ended by signal" or "returned", math.abs(process.returncode)))
  end
  stdio.stdout:drain()
end

-- True: the command has succeeded. If it is not waited for to its end, it is ended.
local function run(command)
  local process <close> = subprocess.create_subprocess_shell(command, {
    stdin = subprocess.DEVNULL, stdout = subprocess.PIPE, stderr = subprocess.STDOUT,
  })
  local output = process:communicate()
  show(command, process, output)
  return process.returncode == 0
end

local Failed = peri.Error:extend "Failed"

local options = read_arguments()
local rules, order = read_rules(options.file)
local sorted = plan(rules, #options.targets > 0 and options.targets or order)
local slots = peri.Semaphore(options.jobs)
local tasks, failures = {}, 0

local function make(rule)
  for _, need in ipairs(rule.needs) do
    if not tasks[need]:await() then return false end
  end
  local _ <close> = slots:guard()
  bar.draw(rule.name)
  for _, command in ipairs(rule.commands) do
    if not run(command) then
      failures = failures + 1
      if not options.keep_going then error(Failed(rule.name)) end
      return false
    end
  end
  bar.done = bar.done + 1
  bar.draw(rule.name)
  return true
end

bar.total = #sorted
local ok, err = peri.pcall(peri.TaskGroup, function(group)
  for _, rule in ipairs(sorted) do tasks[rule.name] = group:create_task(make, rule) end
end)
bar.clear()
if not ok and not (peri.ExceptionGroup:is(err) and err:subgroup(Failed)) then error(err, 0) end
os.exit(failures == 0 and 0 or 1)
