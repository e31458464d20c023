/*
 * process_start.c: how a worker process comes to be, and goes.
 *
 * Whatever program it is, it finds a socket as its standard input, from which a
 * worker takes the descriptors that it works with (process_pool.h). A program
 * that is none of ours reads a line end there, and then the end; the descriptors
 * go with it, and the pool sees the channel's end.
 */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/socket.h>
#include <sys/wait.h>

#include "io/process.h"
#include "pool/process_pool.h"
#include "pool/shared.h"

enum {
  REAP_ATTEMPTS = 1000,   /* some 100 ms until a process is killed whose */
  REAP_PAUSE = 100 * 1000 /* channel has ended; nanoseconds */
};

/* Its address is the place in the registry of what set_executable has set. */
static const char command_key = 0;

/* -- The command ---------------------------------------------------------------- */

static void push_strings(lua_State *L, const char *const *strings)
{
  lua_newtable(L);
  for (int i = 0; strings[i] != NULL; i++) {
    lua_pushstring(L, strings[i]);
    lua_rawseti(L, -2, i + 1);
  }
}

/* "lua", "lua5.4", "lua-5.4", "lua54" */
static bool is_stock_lua(const char *path)
{
  const char *slash = strrchr(path, '/');
  const char *name = slash != NULL ? slash + 1 : path;
  return strncmp(name, "lua", 3) == 0 &&
         name[3 + strspn(name + 3, "-.0123456789")] == '\0';
}

/* The program that runs is stock lua, with us as its module: another one loads
 * the same file. */
static bool push_stock_command(lua_State *L)
{
  char path[PATH_MAX];
  size_t size = sizeof path;
  Dl_info info;
  if (uv_exepath(path, &size) < 0 || !is_stock_lua(path) ||
      dladdr(&command_key, &info) == 0 || info.dli_fname == NULL)
    return false;
  char file[PATH_MAX];
  if (realpath(info.dli_fname, file) == NULL || strcmp(file, path) == 0)
    return false;
  const char *const command[] = {path, "-e",
                                 lua_pushfstring(L,
                                                 "package.loadlib([==[%s]==], "
                                                 "'luaopen_perilune_worker')()",
                                                 file),
                                 NULL};
  push_strings(L, command);
  lua_remove(L, -2);
  return true;
}

void peri__worker_command(lua_State *L, peri_runtime *rt)
{
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &command_key) == LUA_TTABLE)
    return;
  lua_pop(L, 1);
  if (rt->options.worker_command != NULL)
    push_strings(L, rt->options.worker_command);
  else if (!push_stock_command(L))
    peri__throw(L, rt, PERI_ERR_RUNTIME,
                "this program has named no worker program for process pools "
                "(multiprocessing.set_executable)");
}

void peri__worker_set_command(lua_State *L)
{
  lua_rawsetp(L, LUA_REGISTRYINDEX, &command_key);
}

/* -- The process ------------------------------------------------------------------ */

static void close_all(const int *fds, int n)
{
  for (int i = 0; i < n; i++)
    if (fds[i] >= 0)
      close(fds[i]);
}

static int open_pair(int ends[2])
{
  return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0 ? -errno
                                                                      : 0;
}

static int open_page(peri__page **page, int *fd)
{
  char *data;
  int code = peri__shared_new(sizeof(peri__page), &data, fd);
  if (code == 0) {
    *page = (peri__page *)(void *)data;
    atomic_init(&(*page)->to_owner.reader_sleeps, 1); /* we read when woken */
  }
  return code == UV_ENOSYS ? 0 : code;
}

static int launch(char *const *argv, int input, pid_t *pid)
{
  extern char **environ;
  const char *path = getenv("PATH");
  const char *failed;
  peri_launch it = {.name = argv[0],
                    .path = path != NULL ? path : "/bin:/usr/bin",
                    .argv = argv,
                    .envp = environ,
                    .fds = {input, PERI_CHILD_INHERITS, PERI_CHILD_INHERITS}};
  return peri__launch(&it, pid, &failed);
}

int peri__worker_start(char *const *argv, peri__started *started)
{
  enum { OURS, THEIRS };
  int start[2] = {-1, -1}, channel[2] = {-1, -1}, control[2] = {-1, -1};
  int memory = -1;
  *started = (peri__started){.page = NULL};
  int code = open_pair(start);
  if (code == 0)
    code = open_pair(channel);
  if (code == 0)
    code = open_pair(control);
  if (code == 0)
    code = open_page(&started->page, &memory);
  int theirs[PERI__START_FDS] = {channel[THEIRS], control[THEIRS], memory};
  if (code == 0)
    code = peri__channel_send_fds(start[OURS], theirs,
                                  memory >= 0 ? PERI__START_FDS
                                              : PERI__START_FDS - 1);
  if (code == 0)
    code = launch(argv, start[THEIRS], &started->pid);
  close_all(start, 2);
  close_all(theirs, PERI__START_FDS);
  started->channel = channel[OURS];
  started->control = control[OURS];
  if (code == 0)
    return 0;
  close_all(&channel[OURS], 1);
  close_all(&control[OURS], 1);
  peri__shared_unmap((char *)started->page, sizeof(peri__page));
  return code;
}

int peri__worker_reap(pid_t pid)
{
  static const struct timespec pause = {.tv_nsec = REAP_PAUSE};
  int status = -1;
  for (int i = 0; i < REAP_ATTEMPTS; i++) {
    pid_t ended = waitpid(pid, &status, WNOHANG);
    if (ended == pid)
      return status;
    if (ended < 0 && errno != EINTR)
      return -1; /* somebody else has */
    if (i < 10)
      sched_yield();
    else
      nanosleep(&pause, NULL);
  }
  kill(pid, SIGKILL);
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR)
      return -1;
  return status;
}
