-- The machine: which runtimes are on it, how their programs are called (pinned to
-- one CPU unless they need several, ahead of others where that is allowed, with an
-- end to patience), and the C floors, built when first asked for.
local machine = {}

-- No program of the suite takes a tenth of this; one that hangs must not hold
-- up the rest.
local PATIENCE = 120

local function quote(s)
  return "'" .. s:gsub("'", "'\\''") .. "'"
end

--- Runs a shell command. Returns its standard output without the last newline,
--- or nil where it failed.
local function capture(command)
  local pipe = assert(io.popen(command))
  local out = pipe:read "a"
  local ok = pipe:close()
  return ok and (out:gsub("\n$", "")) or nil
end

local function has(command)
  return capture("command -v " .. command .. " 2>/dev/null") ~= nil
end

local function newer(file, than)
  return capture(("test %s -nt %s"):format(quote(file), quote(than))) ~= nil
end

--- Puts the paths of the machine in place. `options.program` is the perilune
--- program to measure; without it the release build, brought up to date. Returns
--- true, or nil and why that failed.
function machine.setup(here, options)
  machine.here = here
  machine.root = assert(capture("cd " .. quote(here .. "/../..") .. " && pwd"))
  machine.build = machine.root .. "/build/bench"
  assert(capture("mkdir -p " .. quote(machine.build)))
  machine.errors = machine.build .. "/stderr"
  local launcher = machine.root .. "/scripts/perilune"
  machine.program = options.program or machine.root .. "/build/release/perilune"
  if not options.program and capture("test -x " .. quote(launcher)) then
    local ok = os.execute(quote(launcher) .. " -e '' >&2")
    if not ok then
      return nil, "scripts/perilune could not build the program"
    end
  end
  machine.hyperfine = has "hyperfine"
  machine.prefix = {}
  machine.pin = ""
  if has "timeout" then
    table.insert(machine.prefix, "timeout --foreground -k 5 " .. PATIENCE)
  end
  -- nice warns, and runs the command anyway, where it may not go below zero.
  if capture "nice -n -15 true 2>&1" == "" then
    table.insert(machine.prefix, "nice -n -15")
    machine.nice = true
  end
  for _, cpu in ipairs { 1, 0 } do
    local pin = "taskset -c " .. cpu
    if not machine.cpu and capture(pin .. " true 2>/dev/null") then
      machine.pin = pin .. " "
      machine.cpu = cpu
    end
  end
  machine.prefix = table.concat(machine.prefix, " ") .. " "
  return true
end

-- The floors use the same Lua as the program: liblua's archive, if it is there.
local function libraries(static)
  if static then
    local lua = capture "cc -print-file-name=liblua5.4.a"
    local uv = capture "cc -print-file-name=libuv_a.a"
    if lua and lua:find "/" and uv and uv:find "/" then
      return lua .. " " .. uv .. " -lm -ldl -lpthread"
    end
  end
  return "-llua5.4 -luv -lm"
end

--- Compiles a C file of the suite unless that has been done. Returns the path of
--- the program, or nil and what the compiler said.
local function compile(source, name, static)
  local from = machine.here .. "/" .. source
  local to = machine.build .. "/" .. name
  local header = machine.here .. "/lib/bench.h"
  if newer(to, from) and newer(to, header) then
    return to
  end
  local flags = capture "pkg-config --cflags lua5.4 libuv 2>/dev/null"
  local command = ("cc -std=gnu11 -O2 -Wall -Wextra %s -I%s %s -o %s %s 2>%s"):format(
    flags or "-I/usr/include/lua5.4",
    quote(machine.here .. "/lib"),
    quote(from),
    quote(to),
    libraries(static),
    quote(machine.errors)
  )
  if capture(command) then
    return to
  end
  return nil, machine.last_error() or "cc failed"
end

--- The first line that the last program wrote to standard error.
function machine.last_error()
  local file = io.open(machine.errors)
  local line = file and file:read "l"
  if file then
    file:close()
  end
  return line
end

-- How each runtime is started, or nil and why it cannot be. The benchmark is
-- named because each has floors of its own.
local runtimes = {}

function runtimes.floor(bench)
  local path, err = compile(bench .. "/floor.c", bench .. "-floor", true)
  return path and quote(path), err
end

runtimes["shared-floor"] = function(bench)
  local path, err = compile(bench .. "/floor.c", bench .. "-shared-floor", false)
  return path and quote(path), err
end

function runtimes.perilune()
  if capture("test -x " .. quote(machine.program)) then
    return quote(machine.program)
  end
  return nil, machine.program .. " is not there"
end

function runtimes.lua()
  if has "lua5.4" then
    return "lua5.4"
  end
  return nil, "lua5.4 is not installed"
end

function runtimes.luv()
  if capture "lua5.4 -e 'require [[luv]]' 2>/dev/null" then
    return "lua5.4"
  end
  return nil, "lua5.4 has no luv"
end

-- Which Debian has not.
function runtimes.lanes()
  if capture "lua5.4 -e 'require [[lanes]]' 2>/dev/null" then
    return "lua5.4"
  end
  return nil, "lua5.4 has no lanes"
end

-- Python's -I keeps the script's directory out of the path: asyncio.py would
-- hide the module of that name. The executable itself, because python3 may be a
-- launcher that costs more than what is measured.
function runtimes.asyncio()
  local code = "import asyncio, sys; print(sys.executable)"
  local path = capture(("python3 -I -c '%s' 2>/dev/null"):format(code))
  if path then
    return quote(path) .. " -I"
  end
  return nil, "python3 with asyncio is not installed"
end

function runtimes.node()
  if has "node" then
    return "node"
  end
  return nil, "node is not installed"
end

-- Debian's python3 has a uvloop, if any has one.
function runtimes.uvloop()
  for _, python in ipairs { "python3", "/usr/bin/python3" } do
    if capture(python .. " -I -c 'import uvloop' 2>/dev/null") then
      return python .. " -I"
    end
  end
  return nil, "no python3 has uvloop"
end

-- Go's programs are built when first asked for, as the floors are.
function runtimes.go(bench)
  if not has "go" then
    return nil, "go is not installed"
  end
  local from, to = machine.here .. "/" .. bench .. "/main.go", machine.build .. "/" .. bench .. "-go"
  if not newer(to, from) then
    local command = ("GO111MODULE=off GOCACHE=%s go build -o %s %s 2>%s"):format(
      quote(machine.build .. "/go"), quote(to), quote(from), quote(machine.errors))
    if not capture(command) then
      return nil, machine.last_error() or "go build failed"
    end
  end
  return quote(to)
end

local files = {
  perilune = "perilune.lua",
  asyncio = "asyncio.py",
  uvloop = "asyncio.py",
  node = "node.js",
  luv = "luv.lua",
  lanes = "lanes.lua",
}
local known = {}

--- How to start a runtime for a benchmark, or nil and the reason.
local function runtime(name, bench)
  local own = name:find "floor" or name == "go"
  local key = own and name .. bench or name
  known[key] = known[key] or table.pack(runtimes[name](bench))
  return known[key][1], known[key][2]
end

local function start_timer(command, starts)
  if machine.hyperfine then
    local json = machine.build .. "/hyperfine.json"
    local options = "-N --style none --warmup 3 --runs %d --export-json %s %s"
    return "hyperfine " .. options:format(starts, quote(json), quote(command))
  end
  local timer, err = compile("startup/timer.c", "startup-timer", true)
  return timer and ("%s %d %s"):format(quote(timer), starts, command), err
end

-- A client that starts the server whose command follows, and pins itself to
-- one CPU and the server to another.
local function with_client(dir, program, command)
  local client, err = compile(dir .. "/client.c", dir .. "-client", true)
  if not client then
    return nil, err
  end
  return ("%s%s %s -- %s"):format(machine.prefix, quote(client), program.client, command)
end

--- The shell command of a program of the suite; nil and the reason where it
--- cannot be run here.
function machine.command(bench, program)
  bench = program.dir or bench
  local start, err = runtime(program[2], bench)
  if not start then
    return nil, err
  end
  local command
  if program.starts then
    command, err = start_timer(start .. " " .. program[3], program.starts)
  elseif files[program[2]] then
    local file = ("%s/%s/%s"):format(machine.here, bench, files[program[2]])
    command = ("%s %s %s"):format(start, quote(file), program[3])
  else
    command = start .. " " .. program[3]
  end
  if not command then
    return nil, err
  end
  if program.client then
    return with_client(bench, program, command)
  end
  return machine.prefix .. (program.parallel and "" or machine.pin) .. command
end

local function hyperfine_median()
  local file = assert(io.open(machine.build .. "/hyperfine.json"))
  local seconds = file:read("a"):match '"median": *([%d.eE+-]+)'
  file:close()
  return { ms = tonumber(seconds) * 1e3 }
end

--- Runs a program once. Returns its figures by name, or nil and the reason.
function machine.run(program, command)
  local out = capture(command .. " 2>" .. quote(machine.errors))
  if not out then
    return nil, machine.last_error() or "failed without a word"
  end
  if program.starts and machine.hyperfine then
    return hyperfine_median()
  end
  local figures = {}
  for key, value in out:gmatch "(%a+) (%S+)" do
    figures[key] = tonumber(value)
  end
  if not next(figures) then
    return nil, "printed no figures"
  end
  return figures
end

local function cpu_model()
  for line in io.lines "/proc/cpuinfo" do
    local model = line:match "^model name%s*:%s*(.*)"
    if model then
      return model
    end
  end
  return capture "uname -m"
end

--- One line that says when and on what the figures were taken.
function machine.describe(rounds)
  local parts = {
    os.date "%Y-%m-%d",
    ("%s CPUs, %s"):format(capture "nproc" or "?", cpu_model()),
    capture "uname -sr",
    capture "lua5.4 -v 2>&1 | cut -d' ' -f1-2" or nil,
  }
  local uv = capture "pkg-config --modversion libuv 2>/dev/null"
  if uv then
    table.insert(parts, "libuv " .. uv)
  end
  table.insert(parts, capture "python3 --version 2>/dev/null")
  local node = capture "node --version 2>/dev/null"
  if node then
    table.insert(parts, "Node " .. node:gsub("^v", ""))
  end
  local go = has "go" and capture "go version 2>/dev/null"
  if go then
    table.insert(parts, "Go " .. go:match "go(%d[%w.]*)")
  end
  local how = { ("%d interleaved rounds"):format(rounds) }
  if machine.cpu then
    table.insert(how, "on CPU " .. machine.cpu .. " where one will do")
  end
  if machine.nice then
    table.insert(how, "at nice -15")
  end
  table.insert(parts, table.concat(how, " "))
  return table.concat(parts, "; ")
end

return machine
