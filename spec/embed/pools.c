/* Runtimes that close while their pools have jobs: the jobs are done first, those
 * that others have submitted too, and nothing is left. */
#include <string.h>

#include "check.h"

static void close_with_jobs(const char *const *command, const char *kind,
                            const char *code)
{
  peri_runtime *runtime;
  peri_options options;
  peri_options_init(&options);
  options.worker_command = command;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  lua_pushstring(peri_state(runtime), kind);
  lua_setglobal(peri_state(runtime), "kind");
  CHECK_INT(PERI_OK, run_code(runtime, code));
  peri_close(runtime);
}

/* For both kinds of pools. */
static const char *const scripts[] = {
    /* Queued and running, with futures that nobody has, and some that stay. */
    "local futures = require 'perilune.futures'\n"
    "executor = futures[kind] { max_workers = 2 }\n"
    "kept = {}\n"
    "for i = 1, 500 do\n"
    "  local job = executor:submit(require 'perilune'.sleep, 0)\n"
    "  if i % 2 == 0 then kept[i] = job end\n"
    "end",
    /* Of run_in_executor, whose loop closes before. */
    "local peri = require 'perilune'\n"
    "local loop = peri.get_running_loop()\n"
    "for i = 1, 100 do loop:run_in_executor(nil, math.abs, i) end",
    "local peri = require 'perilune'\n"
    "local loop = peri.get_running_loop()\n"
    "executor = require 'perilune.futures'[kind] { max_workers = 1 }\n"
    "for i = 1, 100 do\n"
    "  loop:run_in_executor(executor, math.abs, i)\n"
    "    :add_done_callback(function() error 'late' end)\n"
    "end\n"
    "local other = peri.new_event_loop()\n"
    "other:run_in_executor(executor, math.abs, 1)\n"
    "other:close()",
    /* Done callbacks and tasks that wait at an executor which has no room. */
    "local peri = require 'perilune'\n"
    "local futures = require 'perilune.futures'\n"
    "executor = futures[kind] { max_workers = 1, max_queued = 1 }\n"
    "for i = 1, 20 do\n"
    "  peri.create_task(function()\n"
    "    executor:submit(math.abs, i):add_done_callback(function() error "
    "'late' end)\n"
    "  end)\n"
    "end\n"
    "peri.sleep(0)\n"
    "require 'perilune.log'.set_handler(function() end)",
};

/* Jobs that submit jobs, which wait for jobs. */
static const char nested[] =
    "local futures = require 'perilune.futures'\n"
    "executor = futures.ThreadPoolExecutor { max_workers = 2 }\n"
    "local function nest(n)\n"
    "  local own = require 'perilune.futures'.current_executor()\n"
    "  own:submit(math.abs, n)\n"
    "  if n > 0 then return own:submit(nest, n - 1):result(0.01) end\n"
    "end\n"
    "for i = 1, 50 do executor:submit(nest, i % 4) end";

/* Workers have the limit of the runtime: a job that exhausts it fails. */
static void exhaust_memory(void)
{
  peri_runtime *runtime;
  peri_options options;
  peri_options_init(&options);
  options.memory_limit = 16 << 20;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  CHECK_INT(
      PERI_OK,
      run_code(runtime,
               "local futures = require 'perilune.futures'\n"
               "local executor <close> = futures.ThreadPoolExecutor {\n"
               "  max_workers = 1 }\n"
               "local job = executor:submit(function()\n"
               "  local t = {}\n"
               "  while true do t[#t + 1] = ('x'):rep(1000) .. #t end\n"
               "end)\n"
               "local ok, err = pcall(job.result, job)\n"
               "assert(not ok and tostring(err):find 'memory', tostring(err))\n"
               "assert(executor:submit(math.abs, -1):result() == 1)"));
  peri_close(runtime);
}

int main(int argc, char **argv)
{
  if (argc > 1 && strcmp(argv[1], "--worker") == 0)
    return peri_worker_main(NULL);
  const char *const command[] = {argv[0], "--worker", NULL};
  exhaust_memory();
  for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++) {
    close_with_jobs(command, "ThreadPoolExecutor", scripts[i]);
    close_with_jobs(command, "ProcessPoolExecutor", scripts[i]);
  }
  close_with_jobs(command, "ThreadPoolExecutor", nested);
  return 0;
}
