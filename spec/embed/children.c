/* Children in a host: its own are none of the script's business, nor is its
 * SIGCHLD handler; those of the script's leave no zombie behind. */
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include <sys/wait.h>

#include "check.h"

static volatile sig_atomic_t children_ended;

static void on_child(int number)
{
  (void)number;
  children_ended++;
}

static void install_handler(void)
{
  struct sigaction action = {.sa_handler = on_child, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  CHECK_INT(0, sigaction(SIGCHLD, &action, NULL));
}

static void check_handler(void)
{
  struct sigaction action;
  CHECK_INT(0, sigaction(SIGCHLD, NULL, &action));
  CHECK(action.sa_handler == on_child);
}

static pid_t fork_child(int code)
{
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0)
    _exit(code);
  return pid;
}

static int l_check_handler(lua_State *L)
{
  (void)L;
  check_handler();
  return 0;
}

static const char *const code =
    "local subprocess = require 'perilune.subprocess'\n"
    "local peri = require 'perilune'\n"
    "code = 0\n"
    "for i = 1, 5 do\n"
    "  code = code + subprocess.create_subprocess_shell('exit ' .. i):wait()\n"
    "  check_handler()\n"
    "end\n"
    "waiting = subprocess.create_subprocess_exec('sleep', '0.05')\n"
    "waiting:wait()\n";

/* Nothing but the children given is left of this process's. */
static void check_no_other(void)
{
  errno = 0;
  CHECK_INT(-1, waitpid(-1, NULL, WNOHANG));
  CHECK_INT(ECHILD, errno);
}

static void leaves_the_hosts_children_alone(void)
{
  peri_runtime *runtime;
  install_handler();
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  lua_register(peri_state(runtime), "check_handler", l_check_handler);
  pid_t first = fork_child(41);
  CHECK_INT(PERI_OK, run_code(runtime, code));
  CHECK_INT(15, global_integer(peri_state(runtime), "code"));
  pid_t second = fork_child(42);
  CHECK_INT(PERI_OK, run_code(runtime, code));
  check_handler();
  CHECK(children_ended > 0);

  int status;
  CHECK_INT(first, waitpid(first, &status, 0));
  CHECK_INT(41, WEXITSTATUS(status));
  CHECK_INT(second, waitpid(second, &status, 0));
  CHECK_INT(42, WEXITSTATUS(status));
  check_no_other();
  peri_close(runtime);
  check_handler();
}

/* The host has reaped the script's child: 255. */
static void survives_a_host_that_reaps_all(void)
{
  peri_runtime *runtime;
  signal(SIGCHLD, SIG_IGN); /* the kernel does */
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  CHECK_INT(
      PERI_OK,
      run_code(runtime,
               "local subprocess = require 'perilune.subprocess'\n"
               "local process = subprocess.create_subprocess_exec('true')\n"
               "code = process:wait()\n"
               "process:kill()\n"));
  CHECK_INT(255, global_integer(peri_state(runtime), "code"));
  peri_close(runtime);
  signal(SIGCHLD, SIG_DFL);
}

/* What runs on when its runtime closes is left alone. */
static void closes_while_children_run(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  CHECK_INT(PERI_OK,
            run_code(runtime,
                     "local subprocess = require 'perilune.subprocess'\n"
                     "process = subprocess.create_subprocess_exec('cat', "
                     "{stdin = subprocess.PIPE, stdout = subprocess.PIPE})\n"
                     "pid = process.pid\n"));
  pid_t pid = (pid_t)global_integer(peri_state(runtime), "pid");
  CHECK_INT(0, waitpid(pid, NULL, WNOHANG));
  peri_close(runtime); /* closes the pipe, and so ends it; too late, mostly */
  int status = 0;
  if (waitpid(pid, &status, 0) < 0)
    CHECK_INT(ECHILD, errno);
  CHECK_INT(0, status);
  check_no_other();
}

typedef struct allocator {
  long long left;  /* allocations until one fails; < 0: none does */
  long long bytes; /* in use */
} allocator;

static void *allocate(void *ud, void *block, size_t old_size, size_t new_size)
{
  allocator *a = ud;
  if (block == NULL)
    old_size = 0;
  if (new_size == 0) {
    a->bytes -= (long long)old_size;
    free(block);
    return NULL;
  }
  if (new_size > old_size && a->left >= 0 && a->left-- == 0)
    return NULL;
  void *moved = realloc(block, new_size);
  if (moved != NULL)
    a->bytes += (long long)new_size - (long long)old_size;
  return moved;
}

static const char *const all_parts =
    "local subprocess = require 'perilune.subprocess'\n"
    "local signal = require 'perilune.signal'\n"
    "subprocess.run({'cat'}, {input = 'x', capture = true, env = {A = 'b'}})\n"
    "do\n"
    "  local process <close> = subprocess.create_subprocess_exec('cat',\n"
    "    {stdin = subprocess.PIPE})\n"
    "  pcall(process.wait, process, {timeout = 0})\n"
    "end\n"
    "local signals <close> = signal.stream {'SIGHUP', 'SIGUSR2'}\n"
    "signal.raise 'SIGHUP'\n"
    "signals:get()\n";

/* The n-th allocation fails: false, if there are not so many. */
static int run_short_of_memory(long long n)
{
  allocator a = {.left = -1};
  peri_options options;
  peri_runtime *runtime;
  peri_options_init(&options);
  options.alloc = allocate;
  options.alloc_ud = &a;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  CHECK_INT(PERI_OK, run_code(runtime, all_parts));
  a.left = n;
  run_code(runtime, all_parts);
  int reached = a.left < 0;
  a.left = -1;
  /* Children that were left to themselves end: their pipes have closed. */
  lua_gc(peri_state(runtime), LUA_GCCOLLECT);
  CHECK_INT(PERI_OK, run_code(runtime, all_parts));
  peri_close(runtime);
  CHECK_INT(0, a.bytes);
  while (waitpid(-1, NULL, 0) > 0)
    continue;
  return reached;
}

static void survives_want_of_memory(void)
{
  long long n = 0;
  while (run_short_of_memory(n))
    n += n < 400 ? 1 : 7;
  CHECK(n > 50);
}

int main(void)
{
  leaves_the_hosts_children_alone();
  survives_a_host_that_reaps_all();
  closes_while_children_run();
  survives_want_of_memory();
  return 0;
}
