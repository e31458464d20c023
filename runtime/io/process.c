/*
 * process.c: child processes, as perilune.subprocess has them.
 *
 * The struct lives on until the child has been reaped, whatever becomes of the
 * object: the loop watches it (child_watch.c). A loop that closes first leaves
 * the child to the runtime, which looks whether it has ended whenever another
 * program is started, when a script asks, and when it closes itself.
 *
 * waitpid is asked for our pid only. A child that somebody else has reaped (a
 * host that waits for any, or ignores SIGCHLD) has the exit code 255, as in
 * asyncio.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <sys/syscall.h>
#include <sys/wait.h>

#include "core/debug.h"
#include "io/process.h"

enum { UNKNOWN_CODE = 255 };

extern char **environ;

typedef struct process_box {
  peri_process *process;
} process_box;

/* -- The struct ----------------------------------------------------------------- */

void peri__process_unref(peri_process *process)
{
  if (--process->references == 0)
    peri__realloc(process->rt, process, sizeof *process, 0);
}

static void wake_all(peri_process *process)
{
  while (peri__waiters_wake(&process->waiters))
    continue;
}

bool peri__process_reap(peri_process *process)
{
  if (process->exited)
    return true;
  int status;
  pid_t got;
  do
    got = waitpid(process->pid, &status, WNOHANG);
  while (got < 0 && errno == EINTR);
  if (got == 0)
    return false;
  process->exited = true;
  if (got < 0)
    process->returncode = UNKNOWN_CODE;
  else
    process->returncode =
        WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  return true;
}

void peri__process_ended(peri_process *process)
{
  if (!peri__process_reap(process))
    return;
  if (peri__node_listed(&process->io.listed))
    peri__node_unlink(&process->io.listed);
  wake_all(process);
  peri__child_unwatch(process);
}

/* Reaps what has ended of the children whose loops have closed. */
static void reap_orphans(peri_runtime *rt)
{
  peri_process **at = &rt->orphans;
  while (*at != NULL) {
    peri_process *process = *at;
    if (!peri__process_reap(process)) {
      at = &process->orphan;
      continue;
    }
    *at = process->orphan;
    peri__process_unref(process);
  }
}

void peri__process_close(peri_runtime *rt)
{
  reap_orphans(rt);
  while (rt->orphans != NULL) {
    peri_process *process = rt->orphans;
    rt->orphans = process->orphan;
    peri__process_unref(process);
  }
}

static void close_with_loop(peri_io *io)
{
  peri_process *process = (peri_process *)io;
  peri_runtime *rt = process->rt;
  if (!peri__process_reap(process)) {
    process->references++;
    process->orphan = rt->orphans;
    rt->orphans = process;
  }
  process->io.loop = NULL;
  wake_all(process);
  peri__child_unwatch(process);
}

static void stop_waiting(peri_process *process)
{
  if (--process->waiting == 0 && process->watched)
    uv_unref(&process->uv.handle);
  peri__process_unref(process);
}

static void give_up(lua_State *L, peri_runtime *rt, peri_waiters *line, int idx,
                    bool woken)
{
  (void)L, (void)rt, (void)idx, (void)woken;
  stop_waiting(
      (peri_process *)((char *)line - offsetof(peri_process, waiters)));
}

/* Leaves the object; NULL does not happen: it raises for want of memory. */
static peri_process *push_process(lua_State *L, peri_runtime *rt,
                                  peri_loop *loop)
{
  process_box *box = lua_newuserdatauv(L, sizeof *box, 0);
  box->process = NULL;
  peri__push_ref(L, rt, PERI_REF_PROCESS);
  lua_setmetatable(L, -2);
  peri_process *process = peri__realloc(rt, NULL, 0, sizeof *process);
  if (process == NULL) {
    luaL_error(L, "not enough memory");
    return NULL;
  }
  memset(process, 0, sizeof *process);
  process->io.loop = loop;
  process->io.close = close_with_loop;
  process->rt = rt;
  process->kernel = loop->kernel;
  process->references = 1;
  process->pidfd = -1;
  peri__waiters_init(&process->waiters, "Process.wait", give_up);
  box->process = process;
  if (loop->debug)
    peri__debug_note(L, rt, -1);
  return process;
}

static peri_process *check_process(lua_State *L, int idx)
{
  peri_runtime *rt = peri__rt(L);
  process_box *box = lua_touserdata(L, idx);
  bool ours = false;
  if (box != NULL && lua_getmetatable(L, idx)) {
    peri__push_ref(L, rt, PERI_REF_PROCESS);
    ours = lua_rawequal(L, -1, -2) && box->process != NULL;
    lua_pop(L, 2);
  }
  if (!ours)
    peri__arg_type_error(L, rt, idx, "Process");
  return box->process;
}

static int l_tostring(lua_State *L)
{
  process_box *box = lua_touserdata(L, 1);
  lua_pushfstring(L, "subprocess %d",
                  box->process != NULL ? box->process->pid : 0);
  return 1;
}

/* The child runs on, and will be reaped. */
static int l_gc(lua_State *L)
{
  process_box *box = lua_touserdata(L, 1);
  peri_process *process = box->process;
  if (process == NULL)
    return 0;
  if (process->watched && !process->exited && process->io.loop->debug)
    peri__debug_unclosed(L, process->rt, 1, "%s is still running");
  peri__process_unref(process);
  box->process = NULL;
  return 0;
}

/* -- Starting ------------------------------------------------------------------------ */

/* Pushes an array of C strings: those of the list at idx, then NULL. */
static char **push_strings(lua_State *L, int idx)
{
  lua_Integer n = (lua_Integer)lua_rawlen(L, idx);
  char **array = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *array, 0);
  for (lua_Integer i = 1; i <= n; i++) {
    size_t length;
    /* The list keeps the string. */
    if (lua_rawgeti(L, idx, i) != LUA_TSTRING)
      peri__arg_type_error(L, peri__rt(L), idx, "list of strings");
    array[i - 1] = (char *)lua_tolstring(L, -1, &length);
    if (strlen(array[i - 1]) != length)
      peri__throw(L, peri__rt(L), PERI_ERR_VALUE, "%s with a zero byte inside",
                  idx == 2 ? "an argument" : "a variable of env");
    lua_pop(L, 1);
  }
  array[n] = NULL;
  return array;
}

/* A string of the options, which keep it; NULL: there is none. */
static const char *text_option(lua_State *L, const char *name)
{
  size_t length;
  lua_getfield(L, 3, name);
  const char *text = lua_tolstring(L, -1, &length);
  lua_pop(L, 1);
  if (text != NULL && strlen(text) != length)
    peri__throw(L, peri__rt(L), PERI_ERR_VALUE, "%s has a zero byte inside",
                name);
  return text;
}

static bool id_option(lua_State *L, const char *name, unsigned *id)
{
  bool there = lua_getfield(L, 3, name) != LUA_TNIL;
  *id = (unsigned)lua_tointeger(L, -1);
  lua_pop(L, 1);
  return there;
}

/* A list of the options, which are integers; NULL: there is none. Pushes what
 * keeps it, or nil. */
static unsigned *ids_option(lua_State *L, const char *name, size_t *count)
{
  *count = 0;
  if (lua_getfield(L, 3, name) != LUA_TTABLE)
    return NULL;
  *count = lua_rawlen(L, -1);
  unsigned *ids = lua_newuserdatauv(L, (*count + 1) * sizeof *ids, 0);
  for (size_t i = 0; i < *count; i++) {
    lua_rawgeti(L, -2, (lua_Integer)i + 1);
    ids[i] = (unsigned)lua_tointeger(L, -1);
    lua_pop(L, 1);
  }
  lua_remove(L, -2);
  return ids;
}

static const char *const stdio_names[] = {"stdin", "stdout", "stderr"};

/* What the options say about the child's descriptors: a descriptor, "null",
 * "stdout", "pipe", or nil. Returns which of them are pipes, as bits. */
static unsigned stdio_options(lua_State *L, int fds[3])
{
  unsigned pipes = 0;
  for (unsigned i = 0; i < 3; i++) {
    int type = lua_getfield(L, 3, stdio_names[i]);
    fds[i] = PERI_CHILD_INHERITS;
    if (type == LUA_TNUMBER)
      fds[i] = (int)lua_tointeger(L, -1);
    else if (type == LUA_TSTRING && *lua_tostring(L, -1) == 'n')
      fds[i] = PERI_CHILD_NULL;
    else if (type == LUA_TSTRING && *lua_tostring(L, -1) == 's')
      fds[i] = PERI_CHILD_STDOUT;
    else if (type == LUA_TSTRING)
      pipes |= 1U << i;
    lua_pop(L, 1);
  }
  return pipes;
}

/* Who the child is, to the system. Pushes two values. */
static void identity_options(lua_State *L, peri_launch *launch)
{
  unsigned id;
  lua_getfield(L, 3, "session");
  launch->session = lua_toboolean(L, -1);
  lua_pop(L, 1);
  launch->has_uid = id_option(L, "uid", &id);
  launch->uid = (uid_t)id;
  launch->has_gid = id_option(L, "gid", &id);
  launch->gid = (gid_t)id;
  launch->has_group = id_option(L, "group", &id);
  launch->group = (pid_t)id;
  launch->has_umask = id_option(L, "umask", &id);
  launch->umask = (mode_t)id;
  launch->groups = ids_option(L, "groups", &launch->groups_count);
  launch->has_groups = launch->groups != NULL;
  launch->kept = (int *)ids_option(L, "kept", &launch->kept_count);
}

/* [name, list of arguments, options]; pushes four values. */
static unsigned read_options(lua_State *L, peri_launch *launch)
{
  launch->name = peri__check_string(L, peri__rt(L), 1, NULL);
  launch->argv = push_strings(L, 2);
  if (lua_getfield(L, 3, "env") == LUA_TTABLE) {
    launch->envp = push_strings(L, lua_gettop(L));
    lua_replace(L, -2);
  } else {
    launch->envp = environ;
  }
  launch->cwd = text_option(L, "cwd");
  launch->path = text_option(L, "path");
  if (launch->path == NULL)
    launch->path = "/bin:/usr/bin";
  identity_options(L, launch);
  return stdio_options(L, launch->fds);
}

/* Our end becomes a stream, theirs the child's descriptor. */
static int open_pipe(peri_loop *loop, peri_stream_box *box, int which,
                     size_t limit, int *theirs)
{
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0)
    return -errno;
  int ours = ends[which == 0 ? 1 : 0];
  *theirs = ends[which == 0 ? 0 : 1];
  int code = UV_ENOMEM;
  peri_stream *stream = peri__stream_new(loop, PERI_STREAM_PIPE);
  if (stream != NULL) {
    peri__stream_box(box, stream);
    stream->limit = limit;
    code = peri__stream_take(stream, ours);
  }
  if (code == 0)
    return 0;
  if (stream != NULL)
    peri__stream_abort(stream);
  close(ours);
  return code;
}

typedef struct peri_pipes {
  peri_stream_box *box[3]; /* NULL: no pipe */
  int theirs[3];           /* -1: none, or closed again */
  size_t limit;
} peri_pipes;

static int open_pipes(peri_loop *loop, peri_pipes *pipes, peri_launch *launch)
{
  int code = 0;
  for (int i = 0; i < 3 && code == 0; i++) {
    if (pipes->box[i] == NULL)
      continue;
    code = open_pipe(loop, pipes->box[i], i, pipes->limit, &pipes->theirs[i]);
    launch->fds[i] = pipes->theirs[i];
  }
  return code;
}

static void close_pipes(peri_pipes *pipes, bool failed)
{
  for (int i = 0; i < 3; i++) {
    if (pipes->theirs[i] >= 0)
      close(pipes->theirs[i]);
    if (failed && pipes->box[i] != NULL && pipes->box[i]->stream != NULL)
      peri__stream_abort(pipes->box[i]->stream);
  }
}

/* The child runs; without a watch it would never be reaped. */
static int begin_watch(peri_process *process, peri_loop *loop, bool by_thread)
{
  int code = peri__child_watch(process, loop->kernel->uv, by_thread);
  if (code == 0) {
    peri__list_push(&loop->open, &process->io.listed);
    return 0;
  }
  kill(process->pid, SIGKILL);
  while (waitpid(process->pid, NULL, 0) < 0 && errno == EINTR)
    continue;
  process->exited = true;
  return code;
}

static int throw_launch(lua_State *L, const peri_launch *launch, int code,
                        const char *failed)
{
  bool directory = strcmp(failed, "chdir") == 0;
  return peri__throw_os(L, peri__rt(L), failed, code, "path",
                        directory ? launch->cwd : launch->name);
}

static bool wants_thread(lua_State *L)
{
  lua_getfield(L, 3, "watch");
  bool thread = lua_isstring(L, -1);
  lua_pop(L, 1);
  return thread;
}

static size_t limit_option(lua_State *L)
{
  lua_getfield(L, 3, "limit");
  lua_Integer limit = luaL_optinteger(L, -1, PERI_DEFAULT_LIMIT);
  lua_pop(L, 1);
  return (size_t)limit;
}

/*
 * spawn(name, arguments, options) -> process, pid, stdin, stdout, stderr. The
 * arguments begin with the program's own name. Options: cwd; env, a list of
 * "NAME=VALUE"; path, where programs are; stdin, stdout, stderr (see above);
 * session; uid, gid; group, of processes; groups, umask; kept, a list of
 * descriptors; limit of the streams; watch="thread".
 */
static int l_spawn(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = peri__io_loop(L, rt);
  peri_launch launch = {0};
  peri_pipes pipes = {.theirs = {-1, -1, -1}};
  lua_settop(L, 3);
  peri__check_stack(L, 16);
  unsigned wanted = read_options(L, &launch);
  pipes.limit = limit_option(L);
  bool by_thread = wants_thread(L);
  peri_process *process = push_process(L, rt, loop);
  lua_pushinteger(L, 0); /* the pid */
  for (unsigned i = 0; i < 3; i++) {
    if (wanted & 1U << i)
      pipes.box[i] = peri__stream_push_box(L, rt);
    else
      lua_pushnil(L);
  }
  reap_orphans(rt);

  const char *failed = "pipe";
  int code = open_pipes(loop, &pipes, &launch);
  if (code == 0)
    code = peri__launch(&launch, &process->pid, &failed);
  if (code == 0)
    code = begin_watch(process, loop, by_thread);
  close_pipes(&pipes, code < 0);
  if (code < 0)
    return throw_launch(L, &launch, code, failed);
  lua_pushinteger(L, process->pid);
  lua_replace(L, -5);
  return 5;
}

/* -- What becomes of it ---------------------------------------------------------------- */

static int wait_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  peri_process *process = ((process_box *)lua_touserdata(L, 1))->process;
  peri__waiters_unpark(L, process->rt);
  stop_waiting(process);
  if (!process->exited)
    return peri__throw(L, process->rt, PERI_ERR_RUNTIME,
                       "Process.wait: the process's loop has been closed");
  lua_pushinteger(L, process->returncode);
  return 1;
}

/* wait(process, [options]) -> its return code */
static int l_wait(lua_State *L)
{
  peri_process *process = check_process(L, 1);
  peri_runtime *rt = process->rt;
  if (!lua_isnoneornil(L, 2))
    return peri__limited(L, 2, "Process.wait", l_wait);
  lua_settop(L, 1);
  bool ended = process->watched ? process->exited : peri__process_reap(process);
  if (ended) {
    lua_pushinteger(L, process->returncode);
    return 1;
  }
  peri__wait_check(L, rt, "Process.wait");
  if (process->io.loop != peri__running_loop(rt))
    return peri__throw(L, rt, PERI_ERR_RUNTIME,
                       "Process.wait: the process belongs to another loop than "
                       "the running one");
  peri__waiters_park(L, rt, &process->waiters);
  process->references++;
  if (process->waiting++ == 0)
    uv_ref(&process->uv.handle);
  return peri__park(L, rt, 0, wait_k);
}

/* returncode(process) -> integer, nil while it runs */
static int l_returncode(lua_State *L)
{
  peri_process *process = check_process(L, 1);
  if (process->watched ? process->exited : peri__process_reap(process))
    lua_pushinteger(L, process->returncode);
  else
    lua_pushnil(L);
  return 1;
}

static int signal_child(const peri_process *process, int number)
{
#if defined(SYS_pidfd_send_signal)
  if (process->pidfd >= 0) /* cannot meet another process with its pid */
    return (int)syscall(SYS_pidfd_send_signal, process->pidfd, number, NULL,
                        0U);
#endif
  return kill(process->pid, number);
}

/* send_signal(process, number): nothing if it has ended */
static int l_send_signal(lua_State *L)
{
  peri_process *process = check_process(L, 1);
  int number = (int)luaL_checkinteger(L, 2);
  if (process->exited || (!process->watched && peri__process_reap(process)))
    return 0;
  if (signal_child(process, number) < 0 && errno != ESRCH)
    return peri__throw_os(L, process->rt, "kill", -errno, NULL, NULL);
  return 0;
}

/* A stream's descriptor is for the child from now on, and blocks: few programs
 * expect otherwise. */
static int lend_stream(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  if (stream->flags & PERI_S_CLOSING)
    return peri__stream_throw(L, stream, "spawn", UV_EBADF);
  if (peri__stream_has(stream) > 0 || stream->queued > 0) {
    peri__stream_push_name(L, stream);
    return peri__throw(L, stream->rt, PERI_ERR_VALUE,
                       "the stream (%s) has bytes which the child would miss",
                       lua_tostring(L, -1));
  }
  int flags = fcntl(stream->fd, F_GETFL);
  if (flags < 0 || fcntl(stream->fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
    return peri__stream_throw(L, stream, "fcntl", -errno);
  lua_pushinteger(L, stream->fd);
  return 1;
}

/* lend(file or stream) -> the descriptor for a child; nil: it is neither */
static int l_lend(lua_State *L)
{
  peri_stream_box *box = lua_touserdata(L, 1);
  if (box != NULL && lua_rawlen(L, 1) >= sizeof *box &&
      box->mark == &peri__stream_mark)
    return lend_stream(L);
  luaL_Stream *file = luaL_testudata(L, 1, LUA_FILEHANDLE);
  if (file == NULL || file->closef == NULL) {
    lua_pushnil(L);
    return 1;
  }
  fflush(file->f);
  lua_pushinteger(L, fileno(file->f));
  return 1;
}

/* -- The module ---------------------------------------------------------------------------- */

static const luaL_Reg meta[] = {
    {"__gc", l_gc}, {"__tostring", l_tostring}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"spawn", l_spawn},
                                     {"wait", l_wait},
                                     {"returncode", l_returncode},
                                     {"send_signal", l_send_signal},
                                     {"lend", l_lend},
                                     {NULL, NULL}};

int peri__process_open(lua_State *L)
{
  peri_runtime *rt = peri_of(L);
  if (rt == NULL)
    return luaL_error(L, "there is no runtime on this state");
  peri__require(L, "perilune._net"); /* streams */
  peri__metatable(L, rt, PERI_REF_PROCESS, "Process", meta, NULL);
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, functions, 1);
  peri__push_signals(L);
  lua_setfield(L, -2, "signals");
  return 1;
}
