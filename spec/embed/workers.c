/* Process pools in a host: it names itself as their worker program, and what it
 * allows a state to use holds for the states of workers. */
#include <string.h>

#include "check.h"

static peri_runtime *make(const char *const *command)
{
  peri_options options;
  peri_options_init(&options);
  options.memory_limit = 16 << 20;
  options.worker_command = command;
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  return runtime;
}

static void without_a_program(void)
{
  peri_runtime *runtime = make(NULL);
  CHECK_INT(PERI_EFAILED,
            run_code(runtime, "require 'perilune.futures'"
                              ".ProcessPoolExecutor { max_workers = 1 }"));
  CHECK_TEXT("RuntimeError: this program has named no worker program for "
             "process pools (multiprocessing.set_executable)",
             peri_error(runtime));
  peri_close(runtime);
}

/* The job's own string, then its result; then results that arrive in blocks. */
static void out_of_memory(const char *const *command)
{
  peri_runtime *runtime = make(command);
  CHECK_INT(
      PERI_OK,
      run_code(runtime,
               "local peri = require 'perilune'\n"
               "local executor <close> = require 'perilune.futures'"
               ".ProcessPoolExecutor { max_workers = 1 }\n"
               "local function fill(n) return #('x'):rep(n) end\n"
               "for _ = 1, 3 do\n"
               "  local ok, err = pcall(peri.await,"
               " executor:submit(fill, 1 << 26))\n"
               "  assert(not ok)\n"
               "  assert(tostring(err):find 'not enough memory', err)\n"
               "  assert(executor:submit(fill, 1 << 16):await() == 1 << 16)\n"
               "  local text = executor:submit(string.rep, 'x', 1 << 20)"
               ":await()\n"
               "  assert(#text == 1 << 20)\n"
               "end\n"));
  peri_close(runtime);
}

int main(int argc, char **argv)
{
  if (argc > 1 && strcmp(argv[1], "--worker") == 0)
    return peri_worker_main(NULL);
  const char *const command[] = {argv[0], "--worker", NULL};
  without_a_program();
  out_of_memory(command);
  return 0;
}
