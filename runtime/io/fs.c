/*
 * fs.c: files and directories by their paths, on the threads for files. What is
 * one system call is libuv's, called without a callback, which any thread may.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/fs.h"

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
      return code == UV_EEXIST ? UV_ENOTDIR : code;
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
 * p path, t target, m mode, u two times */
#define CALLS(X)                                                               \
  X(stat, peri__fs_push_stat, NULL, "p")                                       \
  X(lstat, peri__fs_push_stat, NULL, "p")                                      \
  X(access, push_access, NULL, "pm")                                           \
  X(mkdir, NULL, NULL, "pm")                                                   \
  X(mkdirp, NULL, NULL, "pm")                                                  \
  X(rmdir, NULL, NULL, "p")                                                    \
  X(remove, NULL, NULL, "p")                                                   \
  X(rename, NULL, NULL, "pt")                                                  \
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
  int mode = 0;
  lua_Number times[2] = {0, 0};
  bool target = arguments[1] == 't';
  for (int arg = target ? 3 : 2; arguments[arg - 1] != '\0'; arg++) {
    if (arguments[arg - 1] == 'm')
      mode = (int)luaL_checkinteger(L, arg);
    else
      for (int i = 0; i < 2; i++)
        times[i] = peri__check_number(L, rt, arg + i);
  }
  fs_job *job = peri__fs_job(L, operation, 1, target ? 2 : 0);
  job->mode = mode;
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

static const luaL_Reg functions[] = {
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
  peri__fs_whole_open(L, rt);
  peri__file_open(L, rt);
  peri__fs_event_open(L, rt);
  return 1;
}
