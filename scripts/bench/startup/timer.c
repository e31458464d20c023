/*
 * timer: how long a program takes from its start to its end, for machines
 * without hyperfine. Prints the median of RUNS starts.
 *
 *   timer RUNS PROGRAM [ARGS]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double now_ms(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int compare(const void *a, const void *b)
{
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Returns the milliseconds of one run, or -1 if it failed. */
static double run_once(char **argv, posix_spawn_file_actions_t *actions)
{
  double start = now_ms();
  pid_t pid;
  int status = 0;
  if (posix_spawnp(&pid, argv[0], actions, NULL, argv, environ) != 0)
    return -1;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR)
      return -1;
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? now_ms() - start : -1;
}

int main(int argc, char **argv)
{
  posix_spawn_file_actions_t actions;
  long runs = argc > 2 ? strtol(argv[1], NULL, 10) : 0;
  double *ms = runs > 0 ? calloc((size_t)runs, sizeof *ms) : NULL;
  if (ms == NULL || posix_spawn_file_actions_init(&actions) != 0) {
    fprintf(stderr, "usage: timer RUNS PROGRAM [ARGS]\n");
    return 2;
  }
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null",
                                   O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null",
                                   O_WRONLY, 0);
  run_once(argv + 2, &actions); /* brings the files into the page cache */
  for (long i = 0; i < runs; i++) {
    ms[i] = run_once(argv + 2, &actions);
    if (ms[i] < 0) {
      fprintf(stderr, "timer: %s failed\n", argv[2]);
      return 1;
    }
  }
  qsort(ms, (size_t)runs, sizeof *ms, compare);
  printf("ms %.4f\n", (ms[(runs - 1) / 2] + ms[runs / 2]) / 2);
  return 0;
}
