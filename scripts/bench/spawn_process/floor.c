/*
 * spawn_process, the floors: starting /bin/true and waiting for its end, some at
 * a time, from a process that has written to so many MiB of memory.
 *
 *   floor uv|posix SPAWNS AT_ONCE MIB
 *
 * uv: uv_spawn, as programs on libuv do; posix: posix_spawn and waitpid.
 */
#include <errno.h>
#include <spawn.h>
#include <sys/wait.h>

#include <uv.h>

#include "bench.h"

extern char **environ;

static char *const arguments[] = {"/bin/true", NULL};
static long left, ended;

static char *take_memory(long mib)
{
  size_t size = (size_t)mib << 20;
  char *memory = malloc(size + 1);
  BENCH_CHECK(memory != NULL);
  memset(memory, 1, size + 1);
  return memory;
}

/* -- uv_spawn ----------------------------------------------------------------- */

static void spawn_uv(uv_process_t *process);

static void on_close(uv_handle_t *handle)
{
  ended++;
  if (left > 0)
    spawn_uv((uv_process_t *)handle);
}

static void on_exit_uv(uv_process_t *process, int64_t status, int signal)
{
  BENCH_CHECK(status == 0 && signal == 0);
  uv_close((uv_handle_t *)process, on_close);
}

static void spawn_uv(uv_process_t *process)
{
  uv_process_options_t options = {.file = arguments[0],
                                  .args = (char **)arguments,
                                  .exit_cb = on_exit_uv};
  left--;
  BENCH_CHECK(uv_spawn(uv_default_loop(), process, &options) == 0);
}

static void run_uv(long at_once)
{
  uv_process_t *processes = calloc((size_t)at_once, sizeof *processes);
  BENCH_CHECK(processes != NULL);
  for (long i = 0; i < at_once; i++)
    spawn_uv(&processes[i]);
  uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}

/* -- posix_spawn ---------------------------------------------------------------- */

static void spawn_posix(void)
{
  pid_t pid;
  left--;
  BENCH_CHECK(posix_spawn(&pid, arguments[0], NULL, NULL, arguments,
                          environ) == 0);
}

static void run_posix(long at_once)
{
  for (long i = 0; i < at_once; i++)
    spawn_posix();
  int status;
  while (waitpid(-1, &status, 0) > 0) {
    BENCH_CHECK(status == 0);
    ended++;
    if (left > 0)
      spawn_posix();
  }
}

int main(int argc, char **argv)
{
  BENCH_CHECK(argc == 5);
  long spawns = bench_arg(argc, argv, 2), at_once = bench_arg(argc, argv, 3);
  char *memory = take_memory(bench_arg(argc, argv, 4));
  left = spawns;
  double start = bench_now();
  if (strcmp(argv[1], "uv") == 0)
    run_uv(at_once);
  else
    run_posix(at_once);
  BENCH_CHECK(ended == spawns);
  printf("us %.2f\n", (bench_now() - start) / 1e3 / (double)spawns);
  free(memory);
  return 0;
}
