/*
 * fs_whole.c: whole files: read, written, copied, each by one job on one thread.
 * Three trips to a thread, as libuv makes them, cost three times as much.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/fs.h"

/* -- Reading ------------------------------------------------------------------ */

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

/* -- Writing ------------------------------------------------------------------ */

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

static int run_write_file(fs_job *job)
{
  return job->flags != 0 ? write_atomically(job) : write_plainly(job, O_TRUNC);
}

static int run_append_file(fs_job *job)
{
  return write_plainly(job, O_APPEND);
}

static const fs_operation write_file = {"write_file", run_write_file, NULL,
                                        NULL};
static const fs_operation append_file = {"append_file", run_append_file, NULL,
                                         NULL};

/* [path, data]: begins it. */
static int write_whole(lua_State *L, const fs_operation *operation, bool atomic,
                       int mode)
{
  peri__check_string(L, peri__rt(L), 2, NULL);
  fs_job *job = peri__fs_job(L, operation, 1, 0);
  peri__fs_copy_data(L, job, 2);
  job->flags = atomic;
  job->mode = mode;
  return peri__fs_submit(L, job);
}

/* write_file(path, data, atomic, mode) */
static int l_write_file(lua_State *L)
{
  return write_whole(L, &write_file, lua_toboolean(L, 3),
                     (int)luaL_checkinteger(L, 4));
}

/* append_file(path, data) */
static int l_append_file(lua_State *L)
{
  return write_whole(L, &append_file, false, 0666);
}

/* -- Copying ------------------------------------------------------------------ */

enum { COPY_CHUNK = 1 << 20 };

/* By way of this thread, from where both are. */
static int pump(fs_job *job, int from, int to)
{
  job->data = malloc(COPY_CHUNK);
  if (job->data == NULL)
    return UV_ENOMEM;
  for (;;) {
    ssize_t n;
    do
      n = read(from, job->data, COPY_CHUNK);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
      return n < 0 ? peri__fs_failure() : 0;
    int code = peri__fs_write(to, job->data, (size_t)n, -1);
    if (code < 0)
      return code;
    if (atomic_load(&job->stop))
      return UV_ECANCELED;
  }
}

/* The kernel copies between files as far as it can: it may share blocks. Then
 * comes the rest, all of it if it cannot, and what /proc says has no size. */
static int copy_contents(fs_job *job, int from, int to)
{
#if defined(__linux__)
  ssize_t n;
  do {
    n = copy_file_range(from, NULL, to, NULL, 64 * COPY_CHUNK, 0);
    if (n > 0 && atomic_load(&job->stop))
      return UV_ECANCELED;
  } while (n > 0 || (n < 0 && errno == EINTR));
#endif
  return pump(job, from, to);
}

/* Opens the target, and tells whether it was made. Not libuv's copyfile, which
 * removes a target that it has failed to write, be it a device or another's. */
static int open_target(fs_job *job, const struct stat *from, bool *made)
{
  struct stat stat;
  int mode = (int)(from->st_mode & 07777);
  int fd =
      peri__fs_open(job, job->target, O_WRONLY | O_CREAT | O_EXCL, mode, &stat);
  *made = fd >= 0;
  if (fd != UV_EEXIST || job->flags)
    return fd;
  fd = peri__fs_open(job, job->target, O_WRONLY | O_CREAT, mode, &stat);
  if (fd < 0)
    return fd;
  int code = 0;
  if (stat.st_dev == from->st_dev && stat.st_ino == from->st_ino)
    code = UV_EINVAL; /* would be emptied before it is read */
  else if (S_ISREG(stat.st_mode) &&
           (ftruncate(fd, 0) < 0 || fchmod(fd, (mode_t)mode) < 0))
    code = peri__fs_failure();
  if (code < 0)
    close(fd);
  return code < 0 ? code : fd;
}

static int copy_from(fs_job *job, int from, const struct stat *stat)
{
  bool made;
  if (S_ISDIR(stat->st_mode))
    return UV_EISDIR;
  int to = open_target(job, stat, &made);
  if (to < 0)
    return to;
  int code = copy_contents(job, from, to);
  if (close(to) < 0 && code == 0)
    code = peri__fs_failure();
  if (code < 0 && made)
    unlink(job->target);
  return code;
}

static int run_copyfile(fs_job *job)
{
  struct stat stat;
  int from = peri__fs_open(job, job->path, O_RDONLY, 0, &stat);
  if (from < 0)
    return from;
  int code = copy_from(job, from, &stat);
  close(from);
  return code;
}

/* copyfile(path, target, exclusive) */
static int l_copyfile(lua_State *L)
{
  static const fs_operation operation = {"copyfile", run_copyfile, NULL, NULL};
  bool exclusive = lua_toboolean(L, 3);
  fs_job *job = peri__fs_job(L, &operation, 1, 2);
  job->flags = exclusive;
  return peri__fs_submit(L, job);
}

static const luaL_Reg functions[] = {{"read_file", l_read_file},
                                     {"write_file", l_write_file},
                                     {"append_file", l_append_file},
                                     {"copyfile", l_copyfile},
                                     {NULL, NULL}};

void peri__fs_whole_open(lua_State *L, peri_runtime *rt)
{
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, functions, 1);
}
