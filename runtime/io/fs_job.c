/*
 * fs_job.c: jobs on the threads for files (work.c), and the tasks that wait for
 * them.
 *
 * A job is C memory of its own, which has copies of what it was given: a task
 * that is cancelled leaves at once, and the job, which nothing can interrupt,
 * ends in its own time. What it has opened by then it closes.
 *
 * Jobs on one file that say so begin one after the other, in the order of their
 * calls: so what was written by a task that was cancelled meanwhile lies before
 * what is written next.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/fs.h"

void peri__fs_free(fs_job *job)
{
  if (job->file != NULL)
    peri__file_release(job->file);
  uv_fs_req_cleanup(&job->request);
  free(job->data);
  free(job);
}

static void undo(fs_job *job)
{
  if (job->code >= 0 && job->operation->undo != NULL)
    job->operation->undo(job);
  peri__fs_free(job);
}

static fs_job *of_file(peri_list *link)
{
  return (fs_job *)((char *)link - offsetof(fs_job, of_file));
}

static fs_job *of_line(peri_waiters *line)
{
  return (fs_job *)((char *)line - offsetof(fs_job, line));
}

/* -- Beginning and ending ----------------------------------------------------- */

/* What stands behind another job is outstanding, as that is, which may be nobody's
 * any more. */
static void set_queued(fs_job *job, bool queued)
{
  if (job->queued != queued)
    peri__external(job->rt, queued ? 1 : -1);
  job->queued = queued;
}

static int begin(fs_job *job)
{
  set_queued(job, false);
  int code = peri__work_submit(job->rt, &job->work);
  job->begun = code == 0;
  return code;
}

/* Whoever waits is told; if nobody does, nobody ever will. (Of a file that was
 * closed all have been told, and have yet to run.) */
static void end(fs_job *job)
{
  job->ended = true;
  if (job->abandoned || (peri__waiters_empty(&job->line) && !job->closed))
    undo(job);
  else
    peri__waiters_wake(&job->line);
}

static bool may_begin(fs_job *job)
{
  if (!job->ordered)
    return true;
  peri_list *link = job->file->jobs.next;
  while (link != &job->file->jobs && !of_file(link)->ordered)
    link = link->next;
  return link == &job->file->jobs || of_file(link) == job;
}

/* The next one in order begins, if it has not. */
static void begin_next(peri_file *file)
{
  for (;;) {
    peri_list *link = file->jobs.next;
    while (link != &file->jobs && !of_file(link)->ordered)
      link = link->next;
    if (link == &file->jobs || of_file(link)->begun)
      return;
    fs_job *job = of_file(link);
    int code = begin(job);
    if (code == 0)
      return;
    job->code = code;
    peri__node_unlink(&job->of_file);
    end(job);
  }
}

/* The job is out of the way of the others on its file. */
static void leave_file(fs_job *job)
{
  if (!peri__node_listed(&job->of_file))
    return;
  peri__node_unlink(&job->of_file);
  if (job->ordered)
    begin_next(job->file);
}

static void run(peri_work *work)
{
  fs_job *job = (fs_job *)work;
  job->code = job->operation->run(job);
}

static void done(peri_runtime *rt, peri_work *work)
{
  (void)rt;
  leave_file((fs_job *)work);
  end((fs_job *)work);
}

static void orphaned(peri_work *work)
{
  undo((fs_job *)work);
}

/* Nobody waits for the job any more. */
static void abandon(fs_job *job)
{
  if (job->ended) {
    undo(job);
  } else if (!job->begun || peri__work_withdraw(job->rt, &job->work)) {
    set_queued(job, false);
    leave_file(job);
    peri__fs_free(job);
  } else {
    job->abandoned = true;
    atomic_store(&job->stop, true);
    peri__work_forget(job->rt, &job->work);
  }
}

static void give_up(lua_State *L, peri_runtime *rt, peri_waiters *line, int idx,
                    bool woken)
{
  (void)L, (void)rt, (void)idx, (void)woken;
  abandon(of_line(line));
}

void peri__fs_close_jobs(peri_file *file)
{
  peri_list *link = file->jobs.next;
  for (; link != &file->jobs; link = link->next) {
    fs_job *job = of_file(link);
    if (job->abandoned)
      continue;
    job->closed = true;
    peri__waiters_wake(&job->line);
  }
}

/* -- Making and waiting ------------------------------------------------------- */

static const char *check_path(lua_State *L, peri_runtime *rt, int arg,
                              size_t *length)
{
  const char *path = peri__check_string(L, rt, arg, length);
  if (strlen(path) != *length)
    peri__arg_error(L, rt, PERI_ERR_VALUE, arg, "a path has no zero byte");
  return path;
}

fs_job *peri__fs_job(lua_State *L, const fs_operation *operation, int path,
                     int target)
{
  peri_runtime *rt = peri__rt(L);
  size_t path_length = 0, target_length = 0;
  const char *from = path ? check_path(L, rt, path, &path_length) : "";
  const char *to = target ? check_path(L, rt, target, &target_length) : NULL;
  peri__wait_check(L, rt, operation->name);
  fs_job *job = malloc(sizeof *job + path_length + target_length + 2);
  if (job == NULL)
    luaL_error(L, "not enough memory");
  memset(job, 0, sizeof *job);
  job->work.group = PERI_WORK_FILES;
  job->work.run = run;
  job->work.done = done;
  job->work.orphaned = orphaned;
  job->rt = rt;
  job->operation = operation;
  job->code = UV_ECANCELED; /* until it has run */
  job->path = memcpy(job->text, from, path_length + 1);
  if (to != NULL)
    job->target = memcpy(job->text + path_length + 1, to, target_length + 1);
  peri__waiters_init(&job->line, operation->name, give_up);
  return job;
}

void peri__fs_copy_data(lua_State *L, fs_job *job, int arg)
{
  size_t length;
  const char *data = lua_tolstring(L, arg, &length);
  job->data = malloc(length > 0 ? length : 1);
  if (job->data == NULL) {
    peri__fs_free(job);
    luaL_error(L, "not enough memory");
  }
  memcpy(job->data, data, length);
  job->length = length;
}

static void set_path(lua_State *L, const char *field, const char *path)
{
  if (path == NULL || *path == '\0')
    return;
  lua_pushstring(L, path);
  lua_setfield(L, -2, field);
}

/* [job, code]: the OSError of what has failed */
static int push_failure(lua_State *L)
{
  fs_job *job = lua_touserdata(L, 1);
  int code = (int)lua_tointeger(L, 2);
  const char *name = job->operation->name, *text = uv_strerror(code);
  const char *path = job->path;
  if (*path == '\0' && job->file != NULL)
    path = job->file->path;
  if (job->target != NULL)
    peri__push_error(L, job->rt, PERI_ERR_OS, "%s '%s' -> '%s': %s", name, path,
                     job->target, text);
  else if (*path != '\0')
    peri__push_error(L, job->rt, PERI_ERR_OS, "%s '%s': %s", name, path, text);
  else
    peri__push_error(L, job->rt, PERI_ERR_OS, "%s: %s", name, text);
  lua_pushstring(L, uv_err_name(code));
  lua_setfield(L, -2, "code");
  lua_pushinteger(L, -code);
  lua_setfield(L, -2, "errno");
  lua_pushstring(L, name);
  lua_setfield(L, -2, "syscall");
  set_path(L, "path", path);
  set_path(L, "target", job->target);
  return 1;
}

/* [job]: its results */
static int push_results(lua_State *L)
{
  fs_job *job = lua_touserdata(L, 1);
  lua_settop(L, 0);
  return job->operation->push(L, job);
}

/* Raises an error of a job, and lets go of it. */
static int throw_failure(lua_State *L, fs_job *job, int code)
{
  bool memory = code == UV_ENOMEM;
  lua_pushcfunction(L, push_failure);
  lua_pushlightuserdata(L, job);
  lua_pushinteger(L, code);
  int result = memory ? LUA_OK : lua_pcall(L, 2, 1, 0);
  abandon(job);
  (void)result; /* an error of its own is as good to raise */
  return memory ? luaL_error(L, "not enough memory") : lua_error(L);
}

static int job_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  peri__waiters_unpark(L, (peri_runtime *)ctx);
  fs_job *job = lua_touserdata(L, 1);
  if (!job->ended) /* the thread has it still, and sets its code */
    return throw_failure(L, job, UV_EBADF);
  if (job->code < 0)
    return throw_failure(L, job, job->code);
  if (job->operation->push == NULL) {
    peri__fs_free(job);
    return 0;
  }
  lua_pushcfunction(L, push_results);
  lua_pushlightuserdata(L, job);
  int result = lua_pcall(L, 1, LUA_MULTRET, 0);
  if (result == LUA_OK)
    peri__fs_free(job);
  else
    undo(job);
  return result == LUA_OK ? lua_gettop(L) - 1 : lua_error(L);
}

/* A task that is cancelled already does not begin anything. */
int peri__fs_submit(lua_State *L, fs_job *job)
{
  peri_runtime *rt = job->rt;
  bool cancelled = rt->task->flags & PERI_T_MUST_CANCEL;
  if (job->file != NULL)
    peri__list_push(&job->file->jobs, &job->of_file);
  if (!cancelled && may_begin(job)) {
    int code = begin(job);
    if (code < 0) {
      job->code = code;
      job->ended = true;
      leave_file(job);
      return throw_failure(L, job, code);
    }
  } else if (!cancelled) {
    set_queued(job, true);
  }
  lua_settop(L, 0);
  lua_pushlightuserdata(L, job);
  peri__waiters_park(L, rt, &job->line);
  return peri__park(L, rt, (lua_KContext)rt, job_k);
}

/* -- Descriptors ---------------------------------------------------------------- */

int peri__fs_failure(void)
{
  return uv_translate_sys_error(errno);
}

int peri__fs_open(fs_job *job, const char *path, int flags, int mode,
                  struct stat *stat)
{
  int fd, code = 0;
  atomic_store(&job->work.may_hang, true);
  do
    fd = open(path, flags | O_CLOEXEC, mode);
  while (fd < 0 && errno == EINTR);
  if (fd < 0)
    code = peri__fs_failure();
  else if (fstat(fd, stat) < 0)
    code = peri__fs_failure();
  if (code < 0 || S_ISREG(stat->st_mode) || S_ISDIR(stat->st_mode))
    atomic_store(&job->work.may_hang, false);
  if (code < 0 && fd >= 0)
    close(fd);
  return code < 0 ? code : fd;
}

ssize_t peri__fs_read(int fd, char *to, size_t length, int64_t offset)
{
  size_t got = 0;
  while (got < length) {
    ssize_t n = offset < 0 ? read(fd, to + got, length - got)
                           : pread(fd, to + got, length - got,
                                   (off_t)(offset + (int64_t)got));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return got > 0 ? (ssize_t)got : peri__fs_failure();
    if (n == 0)
      break;
    got += (size_t)n;
  }
  return (ssize_t)got;
}

int peri__fs_write(int fd, const char *data, size_t length, int64_t offset)
{
  size_t gone = 0;
  while (gone < length) {
    ssize_t n = offset < 0 ? write(fd, data + gone, length - gone)
                           : pwrite(fd, data + gone, length - gone,
                                    (off_t)(offset + (int64_t)gone));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return n < 0 ? peri__fs_failure() : UV_EIO;
    gone += (size_t)n;
  }
  return 0;
}
