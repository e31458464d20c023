/*
 * file.c: open files, as perilune._fs has them: a descriptor, and jobs that read
 * and write. Where a file object is in its file, and what it has read ahead, is
 * the library's business (perilune.file); what has no places (a pipe, a
 * terminal) is read and written at its own, which a negative offset stands for.
 *
 * A file that is closed while a job uses it stays open until that ends; who
 * waits for the job gets an error at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/fs.h"

static const char metatable_key = 'f';

enum { CHUNK = 65536, LARGEST_CHUNK = 1 << 24 };

void peri__file_release(peri_file *file)
{
  if (atomic_fetch_sub(&file->references, 1) > 1)
    return;
  if (file->fd >= 0)
    close(file->fd);
  free(file);
}

static peri_file **check_box(lua_State *L)
{
  if (lua_type(L, 1) == LUA_TUSERDATA && lua_getmetatable(L, 1)) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &metatable_key);
    bool is = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    if (is)
      return lua_touserdata(L, 1);
  }
  peri__arg_type_error(L, peri__rt(L), 1, "file");
  return NULL;
}

/* For methods that the library names `name`. */
static peri_file *check_file(lua_State *L, const char *name)
{
  peri_file **box = check_box(L);
  if (*box == NULL) {
    lua_getiuservalue(L, 1, 1);
    const char *path = lua_tostring(L, -1);
    peri__push_error(L, peri__rt(L), PERI_ERR_OS,
                     path != NULL ? "%s '%s': the file is closed"
                                  : "%s: the file is closed",
                     name, path);
    lua_pushliteral(L, "EBADF");
    lua_setfield(L, -2, "code");
    lua_pushinteger(L, -UV_EBADF);
    lua_setfield(L, -2, "errno");
    lua_pushstring(L, name);
    lua_setfield(L, -2, "syscall");
    lua_getiuservalue(L, 1, 1);
    lua_setfield(L, -2, "path");
    lua_error(L);
  }
  return *box;
}

/* -- Opening -------------------------------------------------------------------- */

static int run_open(fs_job *job)
{
  struct stat stat;
  int fd = peri__fs_open(job, job->path, job->flags, job->mode, &stat);
  if (fd < 0)
    return fd;
  job->file->fd = fd;
  if (S_ISDIR(stat.st_mode))
    return UV_EISDIR;
  job->wanted = S_ISREG(stat.st_mode) || S_ISBLK(stat.st_mode);
  job->file->may_hang = !job->wanted;
  return 0;
}

static void push_file(lua_State *L, fs_job *job)
{
  peri_file **box = lua_newuserdatauv(L, sizeof *box, 1);
  *box = NULL;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &metatable_key);
  lua_setmetatable(L, -2);
  if (*job->file->path != '\0') {
    lua_pushstring(L, job->file->path); /* for errors once it is closed */
    lua_setiuservalue(L, -2, 1);
  }
  *box = job->file;
  job->file = NULL; /* the reference goes over */
}

static int push_open(lua_State *L, fs_job *job)
{
  push_file(L, job);
  lua_pushboolean(L, job->wanted != 0);
  return 2;
}

/* Submits a job that makes a file, which has a name or none. */
static int submit_opening(lua_State *L, fs_job *job, const char *path)
{
  peri_file *file = calloc(1, sizeof *file + strlen(path) + 1);
  if (file == NULL) {
    peri__fs_free(job);
    return luaL_error(L, "not enough memory");
  }
  strcpy(file->path, path);
  atomic_init(&file->references, 1);
  file->fd = -1;
  peri__list_init(&file->jobs);
  job->file = file;
  return peri__fs_submit(L, job);
}

/* The flags of a mode of fopen's: r, w, a, x, with + and b. */
static bool flags_of(const char *mode, int *flags)
{
  static const char letters[] = "rwax";
  static const int bases[] = {0, O_CREAT | O_TRUNC, O_CREAT | O_APPEND,
                              O_CREAT | O_EXCL};
  const char *letter = *mode != '\0' ? strchr(letters, *mode) : NULL;
  if (letter == NULL)
    return false;
  const char *rest = mode + 1;
  bool plus = false;
  for (; *rest == '+' || *rest == 'b'; rest++)
    plus = plus || *rest == '+';
  int access = *mode == 'r' ? O_RDONLY : O_WRONLY;
  *flags = bases[letter - letters] | (plus ? O_RDWR : access);
  return *rest == '\0';
}

/* open(path, mode, permissions) -> file, whether it has places */
static int l_open(lua_State *L)
{
  static const fs_operation operation = {"open", run_open, push_open, NULL};
  peri_runtime *rt = peri__rt(L);
  int flags;
  if (!flags_of(luaL_checkstring(L, 2), &flags))
    return peri__arg_error(L, rt, PERI_ERR_VALUE, 2, "invalid mode");
  int mode = (int)luaL_optinteger(L, 3, 0666);
  fs_job *job = peri__fs_job(L, &operation, 1, 0);
  job->flags = flags;
  job->mode = mode;
  return submit_opening(L, job, job->path);
}

static int run_tmpfile(fs_job *job)
{
#ifdef O_TMPFILE
  int fd = open(job->path, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
  if (fd >= 0) {
    job->file->fd = fd;
    return 0;
  }
  /* What file systems and kernels without it say. */
  if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
    return peri__fs_failure();
#endif
  char name[4096];
  if (snprintf(name, sizeof name, "%s/peri-XXXXXX", job->path) >=
      (int)sizeof name)
    return UV_ENAMETOOLONG;
  int made = mkostemp(name, O_CLOEXEC);
  if (made < 0)
    return peri__fs_failure();
  unlink(name);
  job->file->fd = made;
  return 0;
}

static int push_tmpfile(lua_State *L, fs_job *job)
{
  push_file(L, job);
  return 1;
}

/* tmpfile(directory) -> file */
static int l_tmpfile(lua_State *L)
{
  static const fs_operation operation = {"tmpfile", run_tmpfile, push_tmpfile,
                                         NULL};
  return submit_opening(L, peri__fs_job(L, &operation, 1, 0), "");
}

/* -- Reading and writing --------------------------------------------------------- */

/* A job on the file at index 1. */
static fs_job *file_job(lua_State *L, const fs_operation *operation,
                        bool ordered)
{
  peri_file *file = check_file(L, operation->name);
  fs_job *job = peri__fs_job(L, operation, 0, 0);
  job->file = file;
  job->ordered = ordered;
  atomic_init(&job->work.may_hang, file->may_hang);
  atomic_fetch_add(&file->references, 1);
  return job;
}

/* Reads `wanted` bytes, as far as there are so many. The room grows with what
 * comes: the number may be any. */
static int run_read(fs_job *job)
{
  size_t room = 0;
  while (job->length < job->wanted) {
    if (atomic_load(&job->stop))
      return UV_ECANCELED;
    size_t step = room < CHUNK ? CHUNK : room;
    step = step < LARGEST_CHUNK ? step : LARGEST_CHUNK;
    room = job->wanted - room < step ? job->wanted : room + step;
    char *data = realloc(job->data, room);
    if (data == NULL)
      return UV_ENOMEM;
    job->data = data;
    ssize_t n =
        peri__fs_read(job->file->fd, data + job->length, room - job->length,
                      job->offset + (int64_t)job->length);
    if (n < 0)
      return (int)n;
    job->length += (size_t)n;
    if (job->length < room)
      break;
  }
  return 0;
}

/* What there is, up to `wanted` bytes, at the file's own place. */
static int run_read_some(fs_job *job)
{
  job->data = malloc(job->wanted);
  if (job->data == NULL)
    return UV_ENOMEM;
  ssize_t n;
  do
    n = read(job->file->fd, job->data, job->wanted);
  while (n < 0 && errno == EINTR);
  if (n < 0)
    return peri__fs_failure();
  job->length = (size_t)n;
  return 0;
}

static int read_at(lua_State *L, bool ordered)
{
  static const fs_operation at = {"read", run_read, peri__fs_push_data, NULL};
  static const fs_operation own = {"read", run_read_some, peri__fs_push_data,
                                   NULL};
  lua_Integer wanted = luaL_optinteger(L, 2, -1);
  lua_Integer offset = luaL_checkinteger(L, 3);
  fs_job *job = file_job(L, offset < 0 ? &own : &at, ordered);
  if (offset < 0)
    job->wanted = wanted > 0 && wanted < CHUNK ? (size_t)wanted : CHUNK;
  else
    job->wanted = wanted >= 0 ? (size_t)wanted : SIZE_MAX / 2;
  job->offset = offset;
  return peri__fs_submit(L, job);
}

/* file:read(n or nil, offset): nil: to the end; offset < 0: what there is, at
 * the file's own place */
static int l_read(lua_State *L)
{
  return read_at(L, true);
}

/* file:pread(n, offset): the same, whatever else is done to the file */
static int l_pread(lua_State *L)
{
  return read_at(L, false);
}

static int run_write(fs_job *job)
{
  int code = peri__fs_write(job->file->fd, job->data, job->length, job->offset);
  if (code == 0 && job->offset < 0) /* where appending has led to */
    job->offset = lseek(job->file->fd, 0, SEEK_CUR);
  return code;
}

static int push_place(lua_State *L, fs_job *job)
{
  lua_pushinteger(L, (lua_Integer)job->offset);
  return 1;
}

static int write_at(lua_State *L, bool ordered)
{
  static const fs_operation operation = {"write", run_write, push_place, NULL};
  peri__check_string(L, peri__rt(L), 2, NULL);
  lua_Integer offset = luaL_checkinteger(L, 3);
  fs_job *job = file_job(L, &operation, ordered);
  peri__fs_copy_data(L, job, 2);
  job->offset = offset;
  return peri__fs_submit(L, job);
}

/* file:write(data, offset): offset < 0: at the file's own place; gives where
 * that is afterwards, -1: it has none */
static int l_write(lua_State *L)
{
  return write_at(L, true);
}

/* file:pwrite(data, offset): the same, whatever else is done to the file */
static int l_pwrite(lua_State *L)
{
  return write_at(L, false);
}

static int run_sync(fs_job *job)
{
  int result = job->flags ? fdatasync(job->file->fd) : fsync(job->file->fd);
  return result < 0 ? peri__fs_failure() : 0;
}

/* file:sync(data_only) */
static int l_sync(lua_State *L)
{
  static const fs_operation operation = {"sync", run_sync, NULL, NULL};
  bool data_only = lua_toboolean(L, 2);
  fs_job *job = file_job(L, &operation, true);
  job->flags = data_only;
  return peri__fs_submit(L, job);
}

static int run_truncate(fs_job *job)
{
  int result = ftruncate(job->file->fd, (off_t)job->offset);
  return result < 0 ? peri__fs_failure() : 0;
}

/* file:truncate(length) */
static int l_truncate(lua_State *L)
{
  static const fs_operation operation = {"truncate", run_truncate, NULL, NULL};
  lua_Integer length = luaL_checkinteger(L, 2);
  fs_job *job = file_job(L, &operation, true);
  job->offset = length;
  return peri__fs_submit(L, job);
}

static int run_fstat(fs_job *job)
{
  return uv_fs_fstat(NULL, &job->request, job->file->fd, NULL);
}

/* file:stat() */
static int l_stat(lua_State *L)
{
  static const fs_operation operation = {"stat", run_fstat, peri__fs_push_stat,
                                         NULL};
  return peri__fs_submit(L, file_job(L, &operation, true));
}

static int l_fileno(lua_State *L)
{
  lua_pushinteger(L, check_file(L, "fileno")->fd);
  return 1;
}

/* -- Closing ---------------------------------------------------------------------- */

static int run_close(fs_job *job)
{
  int fd = job->file->fd;
  job->file->fd = -1;
  return close(fd) < 0 && errno != EINTR ? peri__fs_failure() : 0;
}

/* Without workers nothing is under way but what the runtime's close has left to
 * the threads, and that is theirs. */
static void release(peri_runtime *rt, peri_file **box)
{
  peri_file *file = *box;
  *box = NULL;
  if (file == NULL)
    return;
  if (rt->workers != NULL)
    peri__fs_close_jobs(file);
  peri__file_release(file);
}

/* file:close(): harmless when it is closed */
static int l_close(lua_State *L)
{
  static const fs_operation operation = {"close", run_close, NULL, NULL};
  peri_file **box = check_box(L), *file = *box;
  if (file == NULL)
    return 0;
  if (!peri__list_empty(&file->jobs) || !peri__can_wait(L, peri__rt(L))) {
    release(peri__rt(L), box); /* the last job on it closes it */
    return 0;
  }
  fs_job *job = peri__fs_job(L, &operation, 0, 0);
  *box = NULL;
  job->file = file;
  return peri__fs_submit(L, job);
}

/* file:release(): closes it without a wait, and without a word */
static int l_release(lua_State *L)
{
  release(peri__rt(L), check_box(L));
  return 0;
}

static int l_gc(lua_State *L)
{
  release(peri__rt(L), lua_touserdata(L, 1));
  return 0;
}

static const luaL_Reg methods[] = {
    {"read", l_read},         {"pread", l_pread},   {"write", l_write},
    {"pwrite", l_pwrite},     {"sync", l_sync},     {"stat", l_stat},
    {"truncate", l_truncate}, {"fileno", l_fileno}, {"close", l_close},
    {"release", l_release},   {NULL, NULL}};

static const luaL_Reg functions[] = {
    {"open", l_open}, {"tmpfile", l_tmpfile}, {NULL, NULL}};

void peri__file_open(lua_State *L, peri_runtime *rt)
{
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, functions, 1);
  lua_createtable(L, 0, 4);
  lua_pushliteral(L, "perilune");
  lua_setfield(L, -2, "__metatable");
  lua_pushliteral(L, "file");
  lua_setfield(L, -2, "__name");
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, l_gc, 1);
  lua_setfield(L, -2, "__gc");
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, methods, 1);
  lua_setfield(L, -2, "__index");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &metatable_key);
}
