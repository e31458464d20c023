-- What is measured: for each benchmark its cases, for each case the programs to
-- be run in turn, what their lines of output mean, and the aims.
--
-- A case      title
--             columns   { key, heading } of what the programs print; the first
--                       is the one that ratios are taken of
--             base      label of the program that ratios are taken to, if any
--             programs  { label, runtime, args, ... }: the runtime names the file
--                       (floor.c, perilune.lua, asyncio.py, node.js, luv.lua,
--                       lanes.lua, main.go) in the benchmark's directory; with
--                       `parallel` it may use every CPU; with `starts`
--                       the runtime itself is started that often and timed from
--                       outside; with `client` the program is a server, started
--                       by the client.c of its directory with those arguments;
--                       `dir` is that directory where it is not the benchmark's
--                       own
--             aims      { of = label, key = column, ratio = to the base } or
--                       { of = label, key = column, limit = in its own unit }
local suite = {}

local function switch(n, many)
  return {
    title = ("switch: sleep(0), %s tasks"):format(many),
    columns = { { "ns", "ns per switch" } },
    -- Lua as hosts and lua-luv have it, the shared library; the program has it
    -- inside, which makes the floor a little lower.
    base = "floor: C lua_resume of Lua loops",
    programs = {
      { "floor: C lua_resume of Lua loops", "shared-floor", n .. " 5000000" },
      { "floor: same, Lua linked statically", "floor", n .. " 5000000" },
      { "floor: same, libuv polled each 64 rounds", "floor", n .. " 5000000 64" },
      { "perilune: sleep(0)", "perilune", n .. " 5000000" },
      { "asyncio: sleep(0)", "asyncio", n .. " 200000" },
      { "node: await null", "node", n .. " 1000000 microtask" },
      { "node: setImmediate", "node", n .. " 500000 immediate" },
      { "luv: idle handle and Lua queue", "luv", n .. " 500000" },
    },
    aims = { { of = "perilune: sleep(0)", key = "ns", ratio = 1.2 } },
  }
end

suite[#suite + 1] = {
  name = "switch",
  about = "sleep(0) among 2 and among 1,000 tasks",
  cases = { switch("2", "2"), switch("1000", "1,000") },
}

suite[#suite + 1] = {
  name = "spawn",
  about = "start and await 1,000,000 no-ops, 10,000 at a time",
  cases = {
    {
      title = "spawn: start and await no-ops, batches of 10,000",
      columns = { { "ns", "ns per task" } },
      base = "floor: recycled threads, no reset",
      programs = {
        { "floor: recycled threads, no reset", "floor", "recycled 1000000 10000" },
        { "floor: same, a userdata each", "floor", "handle 1000000 10000" },
        { "floor: recycled by lua_resetthread", "floor", "reset 1000000 10000" },
        { "floor: fresh threads", "floor", "fresh 1000000 10000" },
        { "perilune: create_task, await", "perilune", "task 1000000 10000" },
        { "perilune: gather of functions", "perilune", "gather 1000000 10000" },
        { "perilune: spawn, no handle", "perilune", "spawn 1000000 10000" },
        { "asyncio: create_task, await", "asyncio", "task 200000 10000" },
        { "asyncio: gather", "asyncio", "gather 200000 10000" },
        { "node: Promise.all, eager", "node", "eager 1000000 10000" },
        { "node: Promise.all, await null", "node", "suspend 1000000 10000" },
        { "luv: coroutines, Lua queue", "luv", "500000 10000" },
      },
      aims = {
        { of = "perilune: create_task, await", key = "ns", limit = 200 },
        { of = "perilune: gather of functions", key = "ns", limit = 130 },
      },
    },
  },
}

suite[#suite + 1] = {
  name = "files",
  about = "read 10,000 files of 4 KiB, 64 at once",
  cases = {
    {
      title = "files: read 10,000 of 4 KiB, 64 at once",
      columns = { { "us", "us per file" } },
      base = "floor: uv_fs, four trips a file",
      programs = {
        { "floor: uv_fs, four trips a file", "floor", "uvfs 10000 64" },
        { "floor: one uv_queue_work a file", "floor", "job 10000 64" },
        { "perilune: fs.read_file", "perilune", "10000 64" },
        { "asyncio: to_thread", "asyncio", "10000 64" },
        { "uvloop: to_thread", "uvloop", "10000 64 uvloop" },
        { "node: readFile", "node", "10000 64" },
        { "luv: coroutines, uv_fs", "luv", "10000 64" },
        { "Go: os.ReadFile", "go", "10000 64" },
      },
      -- 1.7 times as many files.
      aims = { { of = "perilune: fs.read_file", key = "us", ratio = 0.59 } },
    },
  },
}

local function sleepers_aims(label)
  return { of = label, key = "ms", limit = 150 },
    { of = label, key = "kb", limit = 1.40 },
    { of = label, key = "second", limit = 30 }
end

local tasks_asleep = { sleepers_aims "perilune: create_task" }
local gather_asleep = { sleepers_aims "perilune: gather of functions" }

suite[#suite + 1] = {
  name = "sleepers",
  about = "100,000 sleepers of 1 s: time beyond it, memory, a second wave",
  cases = {
    {
      title = "sleepers: 100,000 of 1 s",
      columns = {
        { "ms", "ms beyond 1 s" },
        { "kb", "KB each" },
        { "second", "second wave, ms" },
      },
      base = "floor: Lua threads, a uv_timer_t each",
      programs = {
        { "floor: Lua threads, a uv_timer_t each", "floor", "heap 100000" },
        { "floor: Lua threads, FIFO, one uv_timer_t", "floor", "fifo 100000" },
        { "perilune: create_task", "perilune", "task 100000" },
        { "perilune: gather of functions", "perilune", "gather 100000" },
        { "asyncio: gather", "asyncio", "100000" },
        { "node: setTimeout promises", "node", "100000" },
        { "luv: coroutines, a timer each", "luv", "100000" },
      },
      aims = table.move(gather_asleep, 1, 3, 4, tasks_asleep),
    },
  },
}

suite[#suite + 1] = {
  name = "queue",
  about = "a queue of 100 between one producer and one consumer",
  cases = {
    {
      title = "queue: capacity 100, one producer, one consumer",
      columns = { { "ns", "ns per item" } },
      base = "floor: C ring in a Lua table",
      programs = {
        { "floor: C ring in a Lua table", "floor", "function 100 2000000" },
        { "floor: same, called as q:put, q:get", "floor", "method 100 2000000" },
        { "perilune: Queue", "perilune", "100 2000000" },
        { "asyncio: Queue", "asyncio", "100 300000" },
        { "node: queue by hand", "node", "100 2000000" },
        { "luv: queue in plain Lua", "luv", "100 2000000" },
      },
      aims = { { of = "perilune: Queue", key = "ns", ratio = 1.3 } },
    },
  },
}

suite[#suite + 1] = {
  name = "gather",
  about = "gather children that wait once and return a value, 10,000 at a time",
  cases = {
    {
      title = "gather: children that wait once, batches of 10,000",
      columns = { { "ns", "ns per child" } },
      base = "floor: recycled threads, results to a table",
      programs = {
        { "floor: recycled threads, results to a table", "floor", "1000000 10000" },
        { "perilune: functions", "perilune", "functions 1000000 10000" },
        { "perilune: coroutine objects", "perilune", "coroutines 1000000 10000" },
        { "perilune: tasks", "perilune", "tasks 1000000 10000" },
        { "asyncio: gather", "asyncio", "200000 10000" },
        { "node: Promise.all", "node", "1000000 10000" },
        { "luv: coroutines, Lua queue", "luv", "500000 10000" },
      },
      aims = {},
    },
  },
}

suite[#suite + 1] = {
  name = "startup",
  about = "start, run an empty script, end",
  cases = {
    {
      title = "startup: an empty script",
      columns = { { "ms", "ms" } },
      base = "lua5.4 -e ''",
      programs = {
        { "lua5.4 -e ''", "lua", "-e ''", starts = 50 },
        { "perilune -e ''", "perilune", "-e ''", starts = 50 },
        { "floor: C host, static Lua and libuv", "floor", "", starts = 50 },
        { "floor: C host, shared Lua and libuv", "shared-floor", "", starts = 50 },
        { "lua5.4, require luv", "luv", "-e 'require [[luv]]'", starts = 50 },
        { "python3, import asyncio", "asyncio", "-c 'import asyncio'", starts = 5 },
        { "node -e ''", "node", "-e ''", starts = 5 },
      },
      aims = { { of = "perilune -e ''", key = "ms", ratio = 1.3 } },
    },
  },
}

-- Servers, all of which echo; client.c says what its arguments are.
local function servers(client, ours)
  local list = {
    { "floor: libuv C, uv_try_write first", "floor", "try" },
    { "floor: libuv C, uv_write of a copy", "floor", "queued" },
  }
  table.move(ours, 1, #ours, #list + 1, list)
  for _, peer in ipairs {
    { "luv: callbacks", "luv", "callbacks" },
    { "luv: coroutines", "luv", "coroutines" },
    { "node: net", "node", "" },
    { "asyncio: streams", "asyncio", "streams" },
    { "asyncio: Protocol", "asyncio", "protocol" },
    { "uvloop: streams", "uvloop", "streams uvloop" },
    { "uvloop: Protocol", "uvloop", "protocol uvloop" },
    { "Go: net", "go", "" },
  } do
    table.insert(list, peer)
  end
  for _, program in ipairs(list) do
    program.client, program.dir = client, "echo"
  end
  return list
end

local read_write = { "perilune: read, write", "perilune", "" }
-- Of 16 KiB for each message the collector makes the most, and of it how often it
-- marks what lives.
local generational = { "perilune: same, generational", "perilune", "generational" }
local forward = { "perilune: forward", "perilune", "forward" }

local function copy(program)
  return table.move(program, 1, #program, 1, {})
end

local function echo(client, title, ...)
  local ours = table.pack(...)
  for i = 1, ours.n do ours[i] = copy(ours[i]) end
  return {
    title = title,
    columns = { { "us", "us per request" }, { "cpu", "us of server CPU" } },
    base = "floor: libuv C, uv_try_write first",
    programs = servers(client, ours),
  }
end

local small = echo("echo 64 64 1500", "echo: 64 connections, 64 bytes", read_write)
small.aims = {
  { of = read_write[1], key = "us", ratio = 1.075 },
  { of = read_write[1], key = "cpu", ratio = 1.15 },
}
local large = echo("echo 64 16384 1500", "echo: 64 connections, 16 KiB", read_write,
  generational, forward)
large.aims = { { of = read_write[1], key = "us", ratio = 1.075 } }

suite[#suite + 1] = {
  name = "echo",
  about = "a server that echoes to 64 connections, 64 bytes and 16 KiB",
  cases = { small, large },
}

local connect = echo("connect 32 64 6000", "connect, send 64 bytes, receive, close; 32 at once",
  read_write)
connect.aims = { { of = read_write[1], key = "us", ratio = 1.053 } }

suite[#suite + 1] = {
  name = "connect",
  about = "short connections to a server that echoes",
  cases = { connect },
}

suite[#suite + 1] = {
  name = "idle",
  about = "memory of 10,000 connections to a server that echoes",
  cases = {
    {
      title = "idle: 10,000 connections that lie there",
      columns = { { "kb", "KB each" } },
      programs = servers("idle 10000 64 1", { copy(read_write) }),
      aims = { { of = read_write[1], key = "kb", limit = 6 } },
    },
  },
}

-- Operations and the runtimes that have them.
local cliffs = {
  { "gather", "floor", "perilune", "asyncio", "node" },
  { "wait", "perilune", "asyncio" },
  { "cancel", "floor", "perilune", "asyncio" },
  { "timers", "floor", "perilune", "asyncio", "node" },
  { "timers-spread", "floor", "perilune", "asyncio", "node" },
  { "close", "perilune", "asyncio" },
}
local operations =
  { floor = 1000000, perilune = 1000000, asyncio = 100000, node = 500000 }

local cliff = {
  title = "cliff: cost of one operation among 100 and among 100,000",
  columns = {
    { "cliff", "many / few" },
    { "few", "ns of 100" },
    { "many", "ns of 100,000" },
  },
  programs = {},
  aims = {},
}
for _, row in ipairs(cliffs) do
  for i = 2, #row do
    local label = ("%s: %s"):format(row[i], row[1])
    local args = ("%s %d"):format(row[1], operations[row[i]])
    table.insert(cliff.programs, { label, row[i], args })
    if row[i] == "perilune" then
      table.insert(cliff.aims, { of = label, key = "cliff", limit = 2 })
    end
  end
end

suite[#suite + 1] = {
  name = "cliff",
  about = "gather, wait, cancel, timers, loop close: 100 against 100,000",
  cases = { cliff },
}

-- From a large process fork has its page tables to copy.
local function spawning(mib, spawns, few, base, aim)
  local args = ("%d 8 %d"):format(spawns, mib)
  local few_args = ("%d 8 %d"):format(few, mib)
  return {
    title = ("spawn_process: /bin/true, 8 at once, from a process of %d MiB"):format(mib),
    columns = { { "us", "us each" } },
    base = base,
    programs = {
      { "floor: uv_spawn", "floor", "uv " .. few_args },
      { "floor: posix_spawn, waitpid", "floor", "posix " .. args },
      { "perilune: create_subprocess_exec", "perilune", args },
      { "asyncio: create_subprocess_exec", "asyncio", few_args },
      { "uvloop: create_subprocess_exec", "uvloop", few_args .. " uvloop" },
      { "node: child_process.spawn", "node", few_args },
      { "luv: spawn", "luv", few_args },
      { "Go: os/exec", "go", args },
    },
    aims = { { of = "perilune: create_subprocess_exec", key = "us", ratio = aim } },
  }
end

suite[#suite + 1] = {
  name = "spawn_process",
  about = "start /bin/true and wait for its end, from a small and a large process",
  cases = {
    spawning(1, 2000, 2000, "floor: uv_spawn", 1 / 1.1),
    spawning(500, 1000, 50, "floor: posix_spawn, waitpid", 1 / 0.9),
  },
}

-- Work on two threads or in two processes, which need a CPU each; the first program
-- is the base.
local function parallel(title, columns, programs, aims)
  for _, program in ipairs(programs) do program.parallel = true end
  return {
    title = title,
    columns = columns,
    base = programs[1][1],
    programs = programs,
    aims = aims,
  }
end

local at_once = { { "ns", "ns per job" } }
local one_by_one = { { "us", "us per job" } }

suite[#suite + 1] = {
  name = "jobs",
  about = "functions that do nothing, on two threads and in two processes",
  cases = {
    parallel("jobs: no-ops on two threads, 10,000 at a time", at_once, {
      { "floor: uv_queue_work", "floor", "work flight 2000000 10000" },
      { "perilune: ThreadPoolExecutor", "perilune", "threads flight 1000000 10000" },
      { "luv: new_work", "luv", "flight 500000 10000" },
      { "Lanes: linda", "lanes", "flight 100000 10000" },
      { "node: worker_threads", "node", "threads flight 300000 10000" },
      { "Python: ThreadPoolExecutor", "asyncio", "threads flight 30000 10000" },
      { "asyncio: run_in_executor", "asyncio", "loop flight 20000 10000" },
      { "uvloop: run_in_executor", "uvloop", "loop flight 20000 10000 uvloop" },
      { "Go: channels", "go", "flight 2000000 10000" },
    }, {
      { of = "perilune: ThreadPoolExecutor", key = "ns", ratio = 1 / 0.6 },
    }),
    parallel("jobs: no-ops on a thread, one after the other", one_by_one, {
      { "floor: uv_queue_work", "floor", "work one 20000" },
      { "perilune: ThreadPoolExecutor", "perilune", "threads one 20000" },
      { "perilune: same, spin = 0.001", "perilune", "threads one 200000 0.001" },
      { "luv: new_work", "luv", "one 20000" },
      { "Lanes: linda", "lanes", "one 10000" },
      { "node: worker_threads", "node", "threads one 10000" },
      { "Python: ThreadPoolExecutor", "asyncio", "threads one 5000" },
      { "asyncio: run_in_executor", "asyncio", "loop one 5000" },
      { "uvloop: run_in_executor", "uvloop", "loop one 5000 uvloop" },
      { "Go: channels", "go", "one 200000" },
    }, {
      { of = "perilune: ThreadPoolExecutor", key = "us", ratio = 1.15 },
      { of = "perilune: same, spin = 0.001", key = "us", ratio = 0.1 },
    }),
    parallel("jobs: no-ops in other processes, 10,000 at a time", at_once, {
      { "floor: libuv pipe, a write each", "floor", "each 200000 10000" },
      { "floor: libuv pipe, writes coalesced", "floor", "coalesced 5000000 10000" },
      { "perilune: ProcessPoolExecutor", "perilune", "processes flight 1000000 10000" },
      { "node: child_process", "node", "processes flight 100000 10000" },
      { "Python: ProcessPoolExecutor", "asyncio", "processes flight 10000 10000" },
    }, {
      { of = "perilune: ProcessPoolExecutor", key = "ns", ratio = 1 / 8 },
    }),
    parallel("jobs: no-ops in another process, one after the other", one_by_one, {
      { "floor: socket pair, 64 bytes each way", "floor", "pair 20000" },
      { "perilune: ProcessPoolExecutor", "perilune", "processes one 20000" },
      { "perilune: same, spin = 0.001", "perilune", "processes one 200000 0.001" },
      { "node: child_process", "node", "processes one 5000" },
      { "Python: ProcessPoolExecutor", "asyncio", "processes one 2000" },
    }, {
      { of = "perilune: ProcessPoolExecutor", key = "us", ratio = 1.15 },
      { of = "perilune: same, spin = 0.001", key = "us", ratio = 0.1 },
    }),
  },
}

local there_and_back = { { "us", "us both ways" } }

suite[#suite + 1] = {
  name = "payload",
  about = "a string of 1 MiB to a worker and back",
  cases = {
    parallel("payload: 1 MiB to a thread and back", there_and_back, {
      { "floor: copy, lua_pushlstring at both ends", "floor", "thread 1048576 3000" },
      { "perilune: ThreadPoolExecutor", "perilune", "threads 1048576 2000" },
      { "luv: new_work", "luv", "1048576 1000" },
      { "Lanes: linda", "lanes", "1048576 1000" },
      { "node: worker_threads", "node", "threads 1048576 300" },
    }, {
      { of = "perilune: ThreadPoolExecutor", key = "us", ratio = 1 / 0.9 },
    }),
    parallel("payload: 1 MiB to another process and back", there_and_back, {
      { "floor: into and out of shared memory", "floor", "shared 1048576 3000" },
      { "perilune: ProcessPoolExecutor", "perilune", "processes 1048576 2000" },
      { "node: child_process", "node", "processes 1048576 50" },
      { "Python: ProcessPoolExecutor", "asyncio", "1048576 200" },
    }, {
      { of = "perilune: ProcessPoolExecutor", key = "us", ratio = 1 / 0.9 },
    }),
  },
}

local threads, processes = "perilune: ThreadPoolExecutor", "perilune: ProcessPoolExecutor"

suite[#suite + 1] = {
  name = "fib",
  about = "fib(30) on two workers at once, against one",
  cases = {
    parallel("fib: twice the work on two workers, against one", {
      { "scale", "times as long" },
      { "ms", "ms per fib(30)" },
    }, {
      { "floor: two processes of lua5.4", "floor", "15" },
      { threads, "perilune", "threads 15" },
      { processes, "perilune", "processes 15" },
      { "luv: new_work", "luv", "15" },
      { "Lanes: two lanes", "lanes", "15" },
      { "Python: ProcessPoolExecutor", "asyncio", "5" },
      { "node: worker_threads", "node", "100" },
      { "Go: goroutines", "go", "200" },
    }, {
      { of = threads, key = "scale", ratio = 1 / 0.97 },
      { of = processes, key = "scale", ratio = 1 / 0.97 },
    }),
  },
}

suite[#suite + 1] = {
  name = "pool_start",
  about = "a pool of two workers: make it, do two jobs",
  cases = {
    parallel("pool_start: a pool of two, ready for work", { { "ms", "ms" } }, {
      { "lua5.4 -e ''", "lua", "-e ''", starts = 50 },
      { threads, "perilune", "threads 50" },
      { processes, "perilune", "processes 20" },
      { "Lanes: two lanes", "lanes", "50" },
      { "Python: ThreadPoolExecutor", "asyncio", "threads 20" },
      { "Python: ProcessPoolExecutor", "asyncio", "processes 10" },
      { "node: worker_threads", "node", "threads 5" },
      { "node: child_process", "node", "processes 5" },
    }, {
      { of = threads, key = "ms", ratio = 1 },
      { of = processes, key = "ms", ratio = 6 },
    }),
  },
}

return suite
