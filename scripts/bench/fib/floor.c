/*
 * fib, the floor: two programs of Lua at once, as a shell starts them, against
 * one.
 *
 *   floor TIMES   each computes fib(30) that often
 *
 * Prints "scale S ms M": how many times longer two took than one, and the
 * milliseconds of one fib(30).
 */
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static const char code[] = "local function fib(n) if n < 2 then return n end "
                           "return fib(n - 1) + fib(n - 2) end "
                           "for _ = 1, %ld do assert(fib(30) == 832040) end";

static void start(long times)
{
  char text[256];
  snprintf(text, sizeof text, code, times);
  pid_t pid = fork();
  BENCH_CHECK(pid >= 0);
  if (pid != 0)
    return;
  execlp("lua5.4", "lua5.4", "-e", text, (char *)NULL);
  _exit(127);
}

static double run(int programs, long times)
{
  double begin = bench_now();
  for (int i = 0; i < programs; i++)
    start(times);
  int status;
  while (wait(&status) > 0)
    BENCH_CHECK(status == 0);
  return bench_now() - begin;
}

int main(int argc, char **argv)
{
  long times = bench_arg(argc, argv, 1);
  double one = run(1, times), two = run(2, times);
  printf("scale %.4f ms %.3f\n", two / one, one / 1e6 / (double)times);
  return 0;
}
