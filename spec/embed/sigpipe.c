/* SIGPIPE in a host: what a script writes to a closed pipe during a step is an
 * EPIPE and no signal; the host's own handling is as it was before and after. */
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "check.h"

static int write_error;

/* Writes to a pipe that nobody reads. */
static int l_write(lua_State *L)
{
  int fds[2];
  (void)L;
  CHECK_INT(0, pipe(fds));
  close(fds[0]);
  write_error = write(fds[1], "x", 1) < 0 ? errno : 0;
  close(fds[1]);
  return 0;
}

static volatile sig_atomic_t caught;

static void on_pipe(int number)
{
  (void)number;
  caught++;
}

static int is_blocked(void)
{
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, NULL, &mask);
  return sigismember(&mask, SIGPIPE);
}

static int is_pending(void)
{
  sigset_t pending;
  sigpending(&pending);
  return sigismember(&pending, SIGPIPE);
}

static peri_runtime *new_runtime(int ignored)
{
  peri_options options;
  peri_runtime *runtime;
  peri_options_init(&options);
  options.sigpipe_ignored = ignored;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  lua_register(peri_state(runtime), "write", l_write);
  return runtime;
}

static void keeps_it_from_the_host(void)
{
  peri_runtime *runtime = new_runtime(0);
  CHECK_INT(PERI_OK, run_code(runtime, "write()\n"
                                       "require('perilune').sleep(0.001)\n"
                                       "write()\n"));
  CHECK_INT(EPIPE, write_error);
  CHECK_INT(0, caught);
  CHECK(!is_blocked());
  CHECK(!is_pending());

  write_error = 0;
  CHECK_INT(PERI_OK, start_code(runtime, "for _ = 1, 3 do\n"
                                         "  write()\n"
                                         "  require('perilune').sleep(0)\n"
                                         "end\n"));
  while (peri_step(runtime, 0) > 0) {
    CHECK(!is_blocked());
    CHECK(!is_pending());
  }
  CHECK_INT(EPIPE, write_error);
  CHECK_INT(0, caught);
  peri_close(runtime);
}

/* The host has it blocked, and one pending: both stay. */
static void leaves_the_hosts_own(void)
{
  sigset_t pipe_only;
  sigemptyset(&pipe_only);
  sigaddset(&pipe_only, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe_only, NULL);
  raise(SIGPIPE);
  CHECK(is_pending());
  peri_runtime *runtime = new_runtime(0);
  CHECK_INT(PERI_OK, run_code(runtime, "require('perilune').sleep(0.001)"));
  CHECK(is_blocked());
  CHECK(is_pending());
  CHECK_INT(0, caught);
  pthread_sigmask(SIG_UNBLOCK, &pipe_only, NULL);
  CHECK_INT(1, caught);
  peri_close(runtime);
}

/* The host has it blocked, and none pending: ours is taken away all the same. */
static void takes_its_own_away(void)
{
  sigset_t pipe_only;
  sigemptyset(&pipe_only);
  sigaddset(&pipe_only, SIGPIPE);
  caught = 0;
  pthread_sigmask(SIG_BLOCK, &pipe_only, NULL);
  peri_runtime *runtime = new_runtime(0);
  write_error = 0;
  CHECK_INT(PERI_OK, run_code(runtime, "write()"));
  CHECK_INT(EPIPE, write_error);
  CHECK(is_blocked());
  CHECK(!is_pending());
  pthread_sigmask(SIG_UNBLOCK, &pipe_only, NULL);
  CHECK_INT(0, caught);
  peri_close(runtime);
}

/* A host that says it ignores the signal is left alone, mask and all. */
static void does_nothing_if_told_so(void)
{
  caught = 0;
  write_error = 0;
  peri_runtime *runtime = new_runtime(1);
  CHECK_INT(PERI_OK, run_code(runtime, "write()"));
  CHECK_INT(EPIPE, write_error);
  CHECK_INT(1, caught);
  peri_close(runtime);
}

int main(void)
{
  struct sigaction action = {.sa_handler = on_pipe};
  sigemptyset(&action.sa_mask);
  sigaction(SIGPIPE, &action, NULL);
  keeps_it_from_the_host();
  leaves_the_hosts_own();
  takes_its_own_away();
  does_nothing_if_told_so();
  return 0;
}
