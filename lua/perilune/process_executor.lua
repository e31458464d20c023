--- Executors whose workers are processes.
local native = require "perilune._pool"
local errors = require "perilune.errors"
local arguments = require "perilune.arguments"
local executor = require "perilune.executor"

local error, unpack = error, table.unpack
local ValueError = errors.ValueError

local options_known <const> = {
  max_workers = true, initializer = true, initargs = true, max_tasks_per_child = true,
  on_worker_death = true, spin = true, start_timeout = true, max_queued = true,
}

-- Seconds between an interrupt and SIGKILL, and for a worker to start in.
local GRACE <const>, START_TIMEOUT <const> = 1, 30

local function check_options(options)
  executor.check_options("ProcessPoolExecutor", options, options_known)
  local tasks, death = options.max_tasks_per_child, options.on_worker_death
  if tasks ~= nil and arguments.integer("ProcessPoolExecutor", 1, tasks) < 1 then
    error(ValueError "max_tasks_per_child must be greater than 0")
  end
  if death ~= nil and death ~= "replace" and death ~= "break" then
    error(ValueError "on_worker_death must be 'replace' or 'break'")
  end
  arguments.seconds("ProcessPoolExecutor", 1, options.spin, true)
  arguments.seconds("ProcessPoolExecutor", 1, options.start_timeout, true)
  if (options.start_timeout or 1) <= 0 then error(ValueError "start_timeout must be greater than 0") end
end

local process_executor = {}

---Makes an executor whose workers are processes. They start when jobs come, up to
---`max_workers` (default: the CPUs there are), and stay until it is shut down, or
---each until it has done `max_tasks_per_child` jobs. `initializer` is called with
---the list `initargs` in each worker before its first job; if it fails, the pool
---is broken; the time that it takes is not limited, and `shutdown` waits for it.
---With `max_queued`, `submit` waits while so many jobs are queued that nobody has
---begun. `spin` is how many
---seconds a worker looks for the next job before it sleeps (default 0: up to 0.2
---ms while jobs come one soon after the other).
---
---When a worker dies its job fails with BrokenProcessPool, or is tried again if
---the call table that was submitted has `retries = n`. With `on_worker_death =
---"replace"` another worker takes its place; with "break" the pool is broken, and
---all of its jobs fail, as in Python. Without the option, a job that calls
---`os.exit` breaks the pool, and a worker that is killed is replaced.
---
---`<close>` shuts it down and waits. Raises RuntimeError if the host has named no
---worker program (`multiprocessing.set_executable`).
---
---The pool is broken by a worker program that is not ready within `start_timeout`
---seconds (default 30), besides what the initializer takes.
---
---Python: `concurrent.futures.ProcessPoolExecutor`; `max_queued`, `spin`,
---`start_timeout` and `on_worker_death` are ours.
---@param options? table `max_workers`, `initializer`, `initargs`, `max_tasks_per_child`, `on_worker_death`,
---`spin` (seconds), `start_timeout` (seconds), `max_queued`
---@return perilune.ProcessPoolExecutor
function process_executor.ProcessPoolExecutor(options)
  options = options or {}
  check_options(options)
  local initargs = options.initargs or {}
  local max_workers = options.max_workers or native.cpu_count()
  local self = native.process_pool(
    max_workers, options.max_tasks_per_child or 0, options.on_worker_death or "default",
    options.spin or 0, GRACE, options.start_timeout or START_TIMEOUT,
    options.initializer, unpack(initargs, 1, initargs.n or #initargs))
  return executor.made(self, "ProcessPoolExecutor", max_workers, options)
end

return process_executor
