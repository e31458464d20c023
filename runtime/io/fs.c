/*
 * fs.c: files and directories, on the threads for files (work.c).
 *
 * Every operation is one job on one thread, a whole file read or written as
 * well: three trips to a thread, as libuv makes them, cost three times as much.
 * What is one system call is libuv's, called without a callback, which any
 * thread may.
 *
 * A job is C memory of its own, which has copies of what it was given: a task
 * that is cancelled leaves at once, and the job, which nothing can interrupt,
 * ends in its own time. What it has opened by then it closes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/fs.h"
#include "io/work.h"

void peri__fs_free(fs_job *job)
{
  if (job->file != NULL)
    peri__file_release(job->file);
  uv_fs_req_cleanup(&job->request);
  free(job->data);
  peri__realloc(job->rt, job, job->size, 0);
}

static void job_undo(fs_job *job)
{
  if (job->ended && job->code >= 0 && job->operation->undo != NULL)
    job->operation->undo(job);
  peri__fs_free(job);
}

static void run(peri_work *work)
{
  fs_job *job = (fs_job *)work;
  job->code = job->operation->run(job);
}

static void done(peri_runtime *rt, peri_work *work)
{
  fs_job *job = (fs_job *)work;
  (void)rt;
  job->ended = true;
  if (job->abandoned)
    job_undo(job);
  else
    peri__waiters_wake(&job->line);
}

static void give_up(lua_State *L, peri_runtime *rt, peri_waiters *line, int idx,
                    bool woken)
{
  fs_job *job = (fs_job *)((char *)line - offsetof(fs_job, line));
  (void)L, (void)idx, (void)woken;
  if (job->ended || peri__work_withdraw(rt, &job->work)) {
    job_undo(job);
  } else {
    job->abandoned = true;
    atomic_store(&job->stop, true);
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

/* A job with copies of the paths at the arguments (0: none). Checks them, and
 * that the task may wait, before anything is made. */
fs_job *peri__fs_job(lua_State *L, const fs_operation *operation, int path,
                     int target)
{
  peri_runtime *rt = peri__rt(L);
  size_t path_length = 0, target_length = 0;
  const char *from = path ? check_path(L, rt, path, &path_length) : "";
  const char *to = target ? check_path(L, rt, target, &target_length) : NULL;
  peri__wait_check(L, rt, operation->name);
  size_t size = sizeof(fs_job) + path_length + target_length + 2;
  fs_job *job = peri__realloc(rt, NULL, 0, size);
  if (job == NULL)
    luaL_error(L, "not enough memory");
  memset(job, 0, sizeof *job);
  job->work.group = PERI_WORK_FILES;
  job->work.run = run;
  job->work.done = done;
  job->rt = rt;
  job->operation = operation;
  atomic_init(&job->stop, false);
  job->size = size;
  job->path = memcpy(job->text, from, path_length + 1);
  if (to != NULL)
    job->target = memcpy(job->text + path_length + 1, to, target_length + 1);
  peri__waiters_init(&job->line, operation->name, give_up);
  return job;
}

/* The OSError of a failed job, which it frees. */
static int throw_failure(lua_State *L, peri_runtime *rt, fs_job *job)
{
  int code = job->code;
  const char *name = job->operation->name;
  bool named = *job->path != '\0';
  luaL_checkstack(L, 8, NULL);
  lua_pushfstring(L, "%s%s%s", job->path, job->target ? "' -> '" : "",
                  job->target ? job->target : "");
  peri__fs_free(job);
  if (code == UV_ENOMEM)
    return luaL_error(L, "not enough memory");
  if (named)
    peri__push_error(L, rt, PERI_ERR_OS, "%s '%s': %s", name,
                     lua_tostring(L, -1), uv_strerror(code));
  else
    peri__push_error(L, rt, PERI_ERR_OS, "%s: %s", name, uv_strerror(code));
  lua_pushstring(L, uv_err_name(code));
  lua_setfield(L, -2, "code");
  lua_pushinteger(L, -code);
  lua_setfield(L, -2, "errno");
  lua_pushstring(L, name);
  lua_setfield(L, -2, "syscall");
  if (named) {
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "path");
  }
  return lua_error(L);
}

/* [job]: its results */
static int push_protected(lua_State *L)
{
  fs_job *job = lua_touserdata(L, 1);
  lua_settop(L, 0);
  return job->operation->push(L, job->rt, job);
}

static int job_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  peri_runtime *rt = (peri_runtime *)ctx;
  peri__waiters_unpark(L, rt);
  fs_job *job = lua_touserdata(L, 1);
  if (job->code < 0)
    return throw_failure(L, rt, job);
  if (job->operation->push == NULL) {
    peri__fs_free(job);
    return 0;
  }
  luaL_checkstack(L, 4, NULL);
  lua_pushcfunction(L, push_protected);
  lua_pushlightuserdata(L, job);
  int result = lua_pcall(L, 1, LUA_MULTRET, 0);
  if (result != LUA_OK && job->operation->undo != NULL)
    job->operation->undo(job);
  peri__fs_free(job);
  return result == LUA_OK ? lua_gettop(L) - 1 : lua_error(L);
}

/* Hands the job to a thread, and waits for it. */
int peri__fs_submit(lua_State *L, fs_job *job)
{
  peri_runtime *rt = job->rt;
  int code = peri__work_submit(rt, &job->work);
  if (code < 0) {
    job->code = code;
    return throw_failure(L, rt, job);
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

int peri__fs_open(const char *path, int flags, int mode)
{
  int fd;
  do
    fd = open(path, flags | O_CLOEXEC, mode);
  while (fd < 0 && errno == EINTR);
  return fd < 0 ? peri__fs_failure() : fd;
}

/* Reads up to length bytes, from the file's own place if offset < 0. Returns
 * how many came before the end, or a negative code. */
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
    if (n < 0)
      return peri__fs_failure();
    gone += (size_t)n;
  }
  return 0;
}

/* -- Whole files ------------------------------------------------------------------ */

/* Reads to the end, whatever size the file was said to have. */
static int read_to_end(fs_job *job, int fd, size_t expected)
{
  size_t room = expected + 1; /* one more, to see the end at once */
  for (;;) {
    char *data = realloc(job->data, room);
    if (data == NULL)
      return UV_ENOMEM;
    job->data = data;
    ssize_t n = peri__fs_read(fd, data + job->length, room - job->length, -1);
    if (n < 0)
      return (int)n;
    job->length += (size_t)n;
    if (job->length < room)
      return 0;
    if (atomic_load(&job->stop)) /* /dev/zero has no end */
      return UV_ECANCELED;
    room *= 2;
    if (room < 4096)
      room = 4096;
  }
}

static int run_read_file(fs_job *job)
{
  struct stat stat;
  int fd = peri__fs_open(job->path, O_RDONLY, 0);
  if (fd < 0)
    return fd;
  int code = fstat(fd, &stat) < 0 ? peri__fs_failure() : 0;
  if (code == 0 && S_ISDIR(stat.st_mode))
    code = UV_EISDIR;
  if (code == 0)
    code =
        read_to_end(job, fd, S_ISREG(stat.st_mode) ? (size_t)stat.st_size : 0);
  close(fd);
  return code;
}

int peri__fs_push_data(lua_State *L, peri_runtime *rt, fs_job *job)
{
  (void)rt;
  lua_pushlstring(L, job->data != NULL ? job->data : "", job->length);
  return 1;
}

static const fs_operation read_file = {"read_file", run_read_file,
                                       peri__fs_push_data, NULL};

/* read_file(path) -> text */
static int l_read_file(lua_State *L)
{
  return peri__fs_submit(L, peri__fs_job(L, &read_file, 1, 0));
}

static int write_and_close(fs_job *job, int fd, bool sync)
{
  int code = peri__fs_write(fd, job->data, job->length, -1);
  if (code == 0 && sync && fsync(fd) < 0)
    code = peri__fs_failure();
  if (close(fd) < 0 && code == 0)
    code = peri__fs_failure();
  return code;
}

/* The directory's entry is on the disk as well, where it can be told. */
static void sync_directory(const char *path)
{
  const char *slash = strrchr(path, '/');
  char *directory =
      slash != NULL ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
  int fd = directory != NULL ? peri__fs_open(directory, O_RDONLY, 0) : -1;
  if (fd >= 0) {
    fsync(fd);
    close(fd);
  }
  free(directory);
}

/* Opens a file beside the path under a name that nothing has. The name is
 * malloc's. */
static int open_beside(const char *path, int mode, char **name)
{
  size_t room = strlen(path) + 32;
  uint64_t salt = uv_hrtime() ^ (uint64_t)(uintptr_t)path;
  *name = malloc(room);
  if (*name == NULL)
    return UV_ENOMEM;
  for (int attempt = 0; attempt < 100; attempt++) {
    snprintf(*name, room, "%s.%08x.tmp", path,
             (unsigned)(salt + (uint64_t)attempt * 7919));
    int fd = peri__fs_open(*name, O_WRONLY | O_CREAT | O_EXCL, mode);
    if (fd != UV_EEXIST)
      return fd;
  }
  return UV_EEXIST;
}

/* A new file takes the place of the old one when all of it is on the disk. */
static int write_atomically(fs_job *job)
{
  struct stat stat;
  char *name;
  int fd = open_beside(job->path, job->mode, &name), code = fd < 0 ? fd : 0;
  if (fd >= 0) {
    if (lstat(job->path, &stat) == 0 && fchmod(fd, stat.st_mode & 07777) < 0)
      code = peri__fs_failure();
    int written = write_and_close(job, fd, true);
    if (code == 0)
      code = written;
    if (code == 0 && rename(name, job->path) < 0)
      code = peri__fs_failure();
    if (code != 0)
      unlink(name);
    else
      sync_directory(job->path);
  }
  free(name);
  return code;
}

enum { WRITE_PLAIN, WRITE_APPEND, WRITE_ATOMIC };

static int run_write_file(fs_job *job)
{
  if (job->flags == WRITE_ATOMIC)
    return write_atomically(job);
  int flags = job->flags == WRITE_APPEND ? O_APPEND : O_TRUNC;
  int fd = peri__fs_open(job->path, O_WRONLY | O_CREAT | flags, job->mode);
  return fd < 0 ? fd : write_and_close(job, fd, false);
}

static const fs_operation write_file = {"write_file", run_write_file, NULL,
                                        NULL};

/* The job gets a copy of the string at an argument. */
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

/* write_file(path, data, how, mode) */
static int l_write_file(lua_State *L)
{
  static const char *const names[] = {"plain", "append", "atomic", NULL};
  peri_runtime *rt = peri__rt(L);
  peri__check_string(L, rt, 2, NULL);
  int how = luaL_checkoption(L, 3, "plain", names);
  int mode = (int)luaL_optinteger(L, 4, 0666);
  fs_job *job = peri__fs_job(L, &write_file, 1, 0);
  peri__fs_copy_data(L, job, 2);
  job->flags = how;
  job->mode = mode;
  return peri__fs_submit(L, job);
}

/* -- What is one call of libuv's ---------------------------------------------------- */

#define REQUEST(job) NULL, &(job)->request

static int run_stat(fs_job *job)
{
  return uv_fs_stat(REQUEST(job), job->path, NULL);
}

static int run_lstat(fs_job *job)
{
  return uv_fs_lstat(REQUEST(job), job->path, NULL);
}

static int run_access(fs_job *job)
{
  return uv_fs_access(REQUEST(job), job->path, job->mode, NULL);
}

static int run_mkdir(fs_job *job)
{
  return uv_fs_mkdir(REQUEST(job), job->path, job->mode, NULL);
}

static int run_rmdir(fs_job *job)
{
  return uv_fs_rmdir(REQUEST(job), job->path, NULL);
}

static int run_remove(fs_job *job)
{
  return uv_fs_unlink(REQUEST(job), job->path, NULL);
}

static int run_rename(fs_job *job)
{
  return uv_fs_rename(REQUEST(job), job->path, job->target, NULL);
}

static int run_copyfile(fs_job *job)
{
  return uv_fs_copyfile(REQUEST(job), job->path, job->target, job->flags, NULL);
}

static int run_link(fs_job *job)
{
  return uv_fs_link(REQUEST(job), job->path, job->target, NULL);
}

static int run_symlink(fs_job *job)
{
  return uv_fs_symlink(REQUEST(job), job->path, job->target, 0, NULL);
}

static int run_readlink(fs_job *job)
{
  return uv_fs_readlink(REQUEST(job), job->path, NULL);
}

static int run_realpath(fs_job *job)
{
  return uv_fs_realpath(REQUEST(job), job->path, NULL);
}

static int run_chmod(fs_job *job)
{
  return uv_fs_chmod(REQUEST(job), job->path, job->mode, NULL);
}

static int run_utime(fs_job *job)
{
  return uv_fs_utime(REQUEST(job), job->path, job->times[0], job->times[1],
                     NULL);
}

static int run_scandir(fs_job *job)
{
  return uv_fs_scandir(REQUEST(job), job->path, 0, NULL);
}

static int run_mkdtemp(fs_job *job)
{
  return uv_fs_mkdtemp(REQUEST(job), job->path, NULL);
}

/* Makes each directory of the path that is not there. */
static int run_mkdirp(fs_job *job)
{
  for (char *at = job->path + 1; *job->path != '\0'; at++) {
    if (*at != '/' && *at != '\0')
      continue;
    char end = *at;
    *at = '\0';
    int code = mkdir(job->path, (mode_t)job->mode) < 0 ? peri__fs_failure() : 0;
    struct stat stat_of;
    if (code == UV_EEXIST && stat(job->path, &stat_of) == 0 &&
        S_ISDIR(stat_of.st_mode))
      code = 0;
    *at = end;
    if (code < 0)
      return code;
    if (end == '\0')
      return 0;
  }
  return UV_ENOENT;
}

static const char *type_name(uint64_t mode)
{
  switch (mode & S_IFMT) {
  case S_IFREG:
    return "file";
  case S_IFDIR:
    return "directory";
  case S_IFLNK:
    return "link";
  case S_IFIFO:
    return "fifo";
  case S_IFSOCK:
    return "socket";
  case S_IFCHR:
    return "char";
  case S_IFBLK:
    return "block";
  default:
    return "unknown";
  }
}

static void set_time(lua_State *L, const char *name, const uv_timespec_t *time)
{
  lua_pushnumber(L, (lua_Number)time->tv_sec + (lua_Number)time->tv_nsec / 1e9);
  lua_setfield(L, -2, name);
}

int peri__fs_push_stat(lua_State *L, peri_runtime *rt, fs_job *job)
{
  const uv_stat_t *stat = &job->request.statbuf;
  (void)rt;
  const struct {
    const char *name;
    uint64_t value;
  } numbers[] = {{"dev", stat->st_dev},           {"ino", stat->st_ino},
                 {"mode", stat->st_mode & 07777}, {"nlink", stat->st_nlink},
                 {"uid", stat->st_uid},           {"gid", stat->st_gid},
                 {"rdev", stat->st_rdev},         {"size", stat->st_size},
                 {"blksize", stat->st_blksize},   {"blocks", stat->st_blocks}};
  lua_createtable(L, 0, 16);
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    lua_pushinteger(L, (lua_Integer)numbers[i].value);
    lua_setfield(L, -2, numbers[i].name);
  }
  lua_pushstring(L, type_name(stat->st_mode));
  lua_setfield(L, -2, "type");
  set_time(L, "atime", &stat->st_atim);
  set_time(L, "mtime", &stat->st_mtim);
  set_time(L, "ctime", &stat->st_ctim);
  set_time(L, "birthtime", &stat->st_birthtim);
  return 1;
}

/* readlink, realpath */
static int push_pointed(lua_State *L, peri_runtime *rt, fs_job *job)
{
  (void)rt;
  lua_pushstring(L, job->request.ptr);
  return 1;
}

static int push_made(lua_State *L, peri_runtime *rt, fs_job *job)
{
  (void)rt;
  lua_pushstring(L, job->request.path);
  return 1;
}

/* A list: name, type, name, type, ... */
static int push_entries(lua_State *L, peri_runtime *rt, fs_job *job)
{
  static const char *const types[] = {"unknown", "file", "directory",
                                      "link",    "fifo", "socket",
                                      "char",    "block"};
  uv_dirent_t entry;
  lua_Integer n = 0;
  (void)rt;
  lua_createtable(L, (int)(2 * job->request.result), 0);
  while (uv_fs_scandir_next(&job->request, &entry) == 0) {
    lua_pushstring(L, entry.name);
    lua_rawseti(L, -2, ++n);
    lua_pushstring(L, types[entry.type <= UV_DIRENT_BLOCK ? entry.type : 0]);
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}

static void undo_mkdtemp(fs_job *job)
{
  rmdir(job->request.path);
}

/* name, run, push, undo; then what its arguments are, in their order:
 * p path, t target, m mode, f flags, u two times */
#define CALLS(X)                                                               \
  X(stat, peri__fs_push_stat, NULL, "p")                                       \
  X(lstat, peri__fs_push_stat, NULL, "p")                                      \
  X(access, NULL, NULL, "pm")                                                  \
  X(mkdir, NULL, NULL, "pm")                                                   \
  X(mkdirp, NULL, NULL, "pm")                                                  \
  X(rmdir, NULL, NULL, "p")                                                    \
  X(remove, NULL, NULL, "p")                                                   \
  X(rename, NULL, NULL, "pt")                                                  \
  X(copyfile, NULL, NULL, "ptf")                                               \
  X(link, NULL, NULL, "pt")                                                    \
  X(symlink, NULL, NULL, "pt")                                                 \
  X(readlink, push_pointed, NULL, "p")                                         \
  X(realpath, push_pointed, NULL, "p")                                         \
  X(chmod, NULL, NULL, "pm")                                                   \
  X(utime, NULL, NULL, "pu")                                                   \
  X(scandir, push_entries, NULL, "p")                                          \
  X(mkdtemp, push_made, undo_mkdtemp, "p")

static int call(lua_State *L, const fs_operation *operation,
                const char *arguments)
{
  peri_runtime *rt = peri__rt(L);
  int mode = 0, flags = 0;
  lua_Number times[2] = {0, 0};
  bool target = arguments[1] == 't';
  for (int arg = target ? 3 : 2; arguments[arg - 1] != '\0'; arg++) {
    if (arguments[arg - 1] == 'm')
      mode = (int)luaL_checkinteger(L, arg);
    else if (arguments[arg - 1] == 'f')
      flags = (int)luaL_checkinteger(L, arg);
    else
      for (int i = 0; i < 2; i++)
        times[i] = peri__check_number(L, rt, arg + i);
  }
  fs_job *job = peri__fs_job(L, operation, 1, target ? 2 : 0);
  job->mode = mode;
  job->flags = flags;
  job->times[0] = (double)times[0];
  job->times[1] = (double)times[1];
  return peri__fs_submit(L, job);
}

#define X(name, push, undo, arguments)                                         \
  static int l_##name(lua_State *L)                                            \
  {                                                                            \
    static const fs_operation operation = {#name, run_##name, push, undo};     \
    return call(L, &operation, arguments);                                     \
  }
CALLS(X)
#undef X

static const luaL_Reg functions[] = {{"read_file", l_read_file},
                                     {"write_file", l_write_file},
                                     {"open", peri__file_open},
#define X(name, push, undo, arguments) {#name, l_##name},
                                     CALLS(X)
#undef X
                                         {NULL, NULL}};

int peri__fs_open_module(lua_State *L)
{
  peri_runtime *rt = peri_of(L);
  if (rt == NULL)
    return luaL_error(L, "there is no runtime on this state");
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, functions, 1);
  peri__file_metatable(L, rt);
  return 1;
}
