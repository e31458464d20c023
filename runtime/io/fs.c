/*
 * fs.c: files and directories by their paths, on the threads for files.
 *
 * Every operation is one job on one thread, a whole file read or written as
 * well: three trips to a thread, as libuv makes them, cost three times as much.
 * What is one system call is libuv's, called without a callback, which any
 * thread may.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/fs.h"

/* -- Whole files ------------------------------------------------------------------ */

enum { FIRST_ROOM = 4096 };

/* Reads to the end, whatever size the file was said to have: that may be wrong,
 * and is 0 for the files of /proc. */
static int read_to_end(fs_job *job, int fd, size_t expected)
{
  size_t room = expected > 0 ? expected : FIRST_ROOM;
  for (;;) {
    char *data = realloc(job->data, room);
    if (data == NULL)
      return UV_ENOMEM;
    job->data = data;
    ssize_t n = peri__fs_read(fd, data + job->length, room - job->length, -1);
    if (n < 0)
      return (int)n;
    job->length += (size_t)n;
    /* All that there was when it was opened is a whole file, too. */
    if (job->length < room || job->length == expected)
      return 0;
    if (atomic_load(&job->stop)) /* /dev/zero has no end */
      return UV_ECANCELED;
    room *= 2;
  }
}

static int run_read_file(fs_job *job)
{
  struct stat stat;
  int fd = peri__fs_open(job, job->path, O_RDONLY, 0, &stat), code = UV_EISDIR;
  if (fd < 0)
    return fd;
  if (!S_ISDIR(stat.st_mode))
    code =
        read_to_end(job, fd, S_ISREG(stat.st_mode) ? (size_t)stat.st_size : 0);
  close(fd);
  return code;
}

int peri__fs_push_data(lua_State *L, fs_job *job)
{
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

static int write_plainly(fs_job *job, int flags)
{
  struct stat stat;
  int fd = peri__fs_open(job, job->path, O_WRONLY | O_CREAT | flags, job->mode,
                         &stat);
  return fd < 0 ? fd : write_and_close(job, fd, false);
}

/* The bytes of a path before its last name. */
static int directory_length(const char *path)
{
  const char *slash = strrchr(path, '/');
  return slash != NULL ? (int)(slash - path) + 1 : 0;
}

/* The directory's entry is on the disk as well, where it can be told. */
static void sync_directory(const char *path)
{
  int length = directory_length(path);
  char *directory = length > 0 ? strndup(path, (size_t)length) : strdup(".");
  int fd = directory != NULL ? open(directory, O_RDONLY | O_CLOEXEC) : -1;
  if (fd >= 0) {
    fsync(fd);
    close(fd);
  }
  free(directory);
}

/* Opens a file beside the path under a name that nothing has. The name is
 * malloc's; its length does not depend on that of the file's own, which may be
 * the longest there is. */
static int open_beside(const char *path, int mode, char **name)
{
  int length = directory_length(path);
  size_t room = (size_t)length + 32;
  uint64_t salt = uv_hrtime() ^ (uint64_t)(uintptr_t)path;
  *name = malloc(room);
  if (*name == NULL)
    return UV_ENOMEM;
  for (int attempt = 0; attempt < 100; attempt++) {
    snprintf(*name, room, "%.*s.peri-%016llx.tmp", length, path,
             (unsigned long long)(salt + (uint64_t)attempt * 7919));
    int fd = open(*name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd >= 0)
      return fd;
    if (errno != EEXIST && errno != EINTR)
      return peri__fs_failure();
  }
  return UV_EEXIST;
}

/* A new file takes the place of the old one when all of it is on the disk. old
 * is what lies there, or NULL. */
static int replace(fs_job *job, const char *path, const struct stat *old)
{
  char *name;
  int fd = open_beside(path, job->mode, &name), code = fd < 0 ? fd : 0;
  if (fd >= 0) {
    if (old != NULL) { /* who may not give it away keeps it */
      int given = fchown(fd, old->st_uid, old->st_gid);
      (void)given;
      if (fchmod(fd, old->st_mode & 07777) < 0)
        code = peri__fs_failure();
    }
    int written = write_and_close(job, fd, true);
    if (code == 0)
      code = written;
    if (code == 0 && rename(name, path) < 0)
      code = peri__fs_failure();
    if (code != 0)
      unlink(name);
    else
      sync_directory(path);
  }
  free(name);
  return code;
}

/* A link stays: it is the file that it leads to that is replaced. What is no
 * file (a device, a FIFO) cannot be. */
static int write_atomically(fs_job *job)
{
  struct stat old;
  bool there = stat(job->path, &old) == 0;
  if (there && S_ISDIR(old.st_mode))
    return UV_EISDIR;
  if (there && !S_ISREG(old.st_mode))
    return write_plainly(job, 0);
  char *real = there ? realpath(job->path, NULL) : NULL;
  int code = replace(job, real != NULL ? real : job->path, there ? &old : NULL);
  free(real);
  return code;
}

enum { WRITE_PLAIN, WRITE_APPEND, WRITE_ATOMIC };

static int run_write_file(fs_job *job)
{
  if (job->flags == WRITE_ATOMIC)
    return write_atomically(job);
  return write_plainly(job, job->flags == WRITE_APPEND ? O_APPEND : O_TRUNC);
}

static const fs_operation write_file = {"write_file", run_write_file, NULL,
                                        NULL};

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

/* What says no; anything else is an error. */
static int run_access(fs_job *job)
{
  int code = uv_fs_access(REQUEST(job), job->path, job->mode, NULL);
  bool no = code == UV_ENOENT || code == UV_EACCES || code == UV_ENOTDIR ||
            code == UV_EROFS || code == UV_ELOOP || code == UV_EPERM ||
            code == UV_ETXTBSY || code == UV_ENAMETOOLONG;
  job->flags = code == 0;
  return no ? 0 : code;
}

static int push_access(lua_State *L, fs_job *job)
{
  lua_pushboolean(L, job->flags);
  return 1;
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

static int make_directory(const char *path, mode_t mode)
{
  struct stat stat_of;
  if (mkdir(path, mode) == 0)
    return 0;
  int code = peri__fs_failure();
  /* A file system may have other reasons to refuse one that is there. */
  return stat(path, &stat_of) == 0 && S_ISDIR(stat_of.st_mode) ? 0 : code;
}

/* Makes each directory of the path that is not there; the mode is the last
 * one's. */
static int run_mkdirp(fs_job *job)
{
  if (*job->path == '\0')
    return UV_ENOENT;
  for (char *at = strchr(job->path + 1, '/'); at != NULL;
       at = strchr(at + 1, '/')) {
    if (at[1] == '\0')
      break;
    *at = '\0';
    int code = make_directory(job->path, 0777);
    *at = '/';
    if (code < 0)
      return code;
  }
  return make_directory(job->path, (mode_t)job->mode);
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

int peri__fs_push_stat(lua_State *L, fs_job *job)
{
  const uv_stat_t *stat = &job->request.statbuf;
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
static int push_pointed(lua_State *L, fs_job *job)
{
  lua_pushstring(L, job->request.ptr);
  return 1;
}

static int push_made(lua_State *L, fs_job *job)
{
  lua_pushstring(L, job->request.path);
  return 1;
}

/* A list: name, type, name, type, ... */
static int push_entries(lua_State *L, fs_job *job)
{
  static const char *const types[] = {"unknown", "file", "directory",
                                      "link",    "fifo", "socket",
                                      "char",    "block"};
  uv_dirent_t entry;
  lua_Integer n = 0;
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
  X(access, push_access, NULL, "pm")                                                  \
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
  peri__file_open(L, rt);
  peri__fs_event_open(L, rt);
  return 1;
}
