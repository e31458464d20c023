/*
 * file.c: open files, as perilune._fs has them: a descriptor, and jobs that read
 * and write at an offset. Where a file object is in its file, and what it has
 * read ahead, is the library's business (perilune.fs).
 *
 * A file that is closed while a job uses it stays open until that ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/fs.h"

static const char metatable_key = 'f';

enum { CHUNK = 65536 };

void peri__file_release(peri_file *file)
{
  if (--file->references > 0)
    return;
  if (file->fd >= 0)
    close(file->fd);
  peri__realloc(file->rt, file, sizeof *file, 0);
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

static peri_file *check_file(lua_State *L)
{
  peri_file **box = check_box(L);
  if (*box == NULL)
    peri__throw(L, peri__rt(L), PERI_ERR_VALUE, "the file is closed");
  return *box;
}

/* -- Opening -------------------------------------------------------------------- */

static int run_open(fs_job *job)
{
  struct stat stat;
  int fd = peri__fs_open(job->path, job->flags, job->mode);
  if (fd < 0)
    return fd;
  job->file->fd = fd;
  if (fstat(fd, &stat) < 0)
    return peri__fs_failure();
  if (S_ISDIR(stat.st_mode))
    return UV_EISDIR;
  job->wanted = S_ISREG(stat.st_mode) || S_ISBLK(stat.st_mode);
  return 0;
}

static void push_file(lua_State *L, fs_job *job)
{
  peri_file **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &metatable_key);
  lua_setmetatable(L, -2);
  *box = job->file;
  job->file = NULL; /* the reference goes over */
}

static int push_open(lua_State *L, peri_runtime *rt, fs_job *job)
{
  (void)rt;
  push_file(L, job);
  lua_pushboolean(L, job->wanted != 0);
  return 2;
}

static void file_for(lua_State *L, fs_job *job)
{
  job->file = peri__realloc(job->rt, NULL, 0, sizeof *job->file);
  if (job->file == NULL) {
    peri__fs_free(job);
    luaL_error(L, "not enough memory");
  }
  *job->file = (peri_file){job->rt, -1, 1};
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
int peri__file_open(lua_State *L)
{
  static const fs_operation open_file = {"open", run_open, push_open, NULL};
  peri_runtime *rt = peri__rt(L);
  int flags;
  if (!flags_of(luaL_checkstring(L, 2), &flags))
    return peri__arg_error(L, rt, PERI_ERR_VALUE, 2, "invalid mode");
  int mode = (int)luaL_optinteger(L, 3, 0666);
  fs_job *job = peri__fs_job(L, &open_file, 1, 0);
  file_for(L, job);
  job->flags = flags;
  job->mode = mode;
  return peri__fs_submit(L, job);
}

static int run_temporary(fs_job *job)
{
#ifdef O_TMPFILE
  int fd = peri__fs_open(job->path, O_TMPFILE | O_RDWR | O_EXCL, 0600);
  if (fd != UV_ENOTSUP && fd != UV_EISDIR && fd != UV_EINVAL &&
      fd != UV_ENOENT) {
    job->file->fd = fd;
    return fd < 0 ? fd : 0;
  }
#endif
  char name[4096];
  if (snprintf(name, sizeof name, "%s/peri-XXXXXX", job->path) >=
      (int)sizeof name)
    return UV_ENAMETOOLONG;
  int made = mkstemp(name);
  if (made < 0)
    return peri__fs_failure();
  fcntl(made, F_SETFD, FD_CLOEXEC);
  unlink(name);
  job->file->fd = made;
  return 0;
}

static int push_temporary(lua_State *L, peri_runtime *rt, fs_job *job)
{
  (void)rt;
  push_file(L, job);
  return 1;
}

/* tmpfile(directory) -> file */
static int l_tmpfile(lua_State *L)
{
  static const fs_operation operation = {"tmpfile", run_temporary,
                                         push_temporary, NULL};
  fs_job *job = peri__fs_job(L, &operation, 1, 0);
  file_for(L, job);
  return peri__fs_submit(L, job);
}

/* -- Reading and writing --------------------------------------------------------- */

/* A job on the file at index 1. */
static fs_job *file_job(lua_State *L, const fs_operation *operation)
{
  peri_file *file = check_file(L);
  fs_job *job = peri__fs_job(L, operation, 0, 0);
  job->file = file;
  file->references++;
  return job;
}

static int run_pread(fs_job *job)
{
  size_t room = job->wanted;
  bool all = room == SIZE_MAX;
  if (all)
    room = CHUNK;
  for (;;) {
    char *data = realloc(job->data, room > 0 ? room : 1);
    if (data == NULL)
      return UV_ENOMEM;
    job->data = data;
    int64_t offset = job->offset < 0 ? -1 : job->offset + (int64_t)job->length;
    ssize_t n = peri__fs_read(job->file->fd, data + job->length,
                              room - job->length, offset);
    if (n < 0)
      return (int)n;
    job->length += (size_t)n;
    if (!all || job->length < room)
      return 0;
    if (atomic_load(&job->stop))
      return UV_ECANCELED;
    room *= 2;
  }
}

/* A pipe or terminal gives what it has. */
static int run_read(fs_job *job)
{
  job->data = malloc(job->wanted > 0 ? job->wanted : 1);
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

/* file:pread(n or nil, offset): nil: to the end; offset < 0: what there is, at
 * the file's own place */
static int l_pread(lua_State *L)
{
  static const fs_operation at = {"read", run_pread, peri__fs_push_data, NULL};
  static const fs_operation own = {"read", run_read, peri__fs_push_data, NULL};
  peri_runtime *rt = peri__rt(L);
  lua_Integer wanted = luaL_optinteger(L, 2, -1);
  lua_Integer offset = luaL_optinteger(L, 3, 0);
  if (wanted > PTRDIFF_MAX / 2)
    return peri__arg_error(L, rt, PERI_ERR_VALUE, 2, "too many bytes");
  fs_job *job = file_job(L, offset < 0 ? &own : &at);
  job->wanted = wanted >= 0 ? (size_t)wanted : offset < 0 ? CHUNK : SIZE_MAX;
  job->offset = offset;
  return peri__fs_submit(L, job);
}

static int run_pwrite(fs_job *job)
{
  return peri__fs_write(job->file->fd, job->data, job->length, job->offset);
}

/* file:pwrite(data, offset): offset < 0: at the file's own place */
static int l_pwrite(lua_State *L)
{
  static const fs_operation operation = {"write", run_pwrite, NULL, NULL};
  peri__check_string(L, peri__rt(L), 2, NULL);
  lua_Integer offset = luaL_optinteger(L, 3, 0);
  fs_job *job = file_job(L, &operation);
  peri__fs_copy_data(L, job, 2);
  job->offset = offset;
  return peri__fs_submit(L, job);
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
  fs_job *job = file_job(L, &operation);
  job->flags = data_only;
  return peri__fs_submit(L, job);
}

static int run_truncate(fs_job *job)
{
  return ftruncate(job->file->fd, (off_t)job->offset) < 0 ? peri__fs_failure()
                                                          : 0;
}

/* file:truncate(length) */
static int l_truncate(lua_State *L)
{
  static const fs_operation operation = {"truncate", run_truncate, NULL, NULL};
  lua_Integer length = luaL_checkinteger(L, 2);
  fs_job *job = file_job(L, &operation);
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
  return peri__fs_submit(L, file_job(L, &operation));
}

static int l_fileno(lua_State *L)
{
  lua_pushinteger(L, check_file(L)->fd);
  return 1;
}

static int run_close(fs_job *job)
{
  int fd = job->file->fd;
  job->file->fd = -1;
  return close(fd) < 0 ? peri__fs_failure() : 0;
}

/* file:close(): harmless when it is closed */
static int l_close(lua_State *L)
{
  static const fs_operation operation = {"close", run_close, NULL, NULL};
  peri_runtime *rt = peri__rt(L);
  peri_file **box = check_box(L), *file = *box;
  if (file == NULL)
    return 0;
  if (file->references > 1 || !peri__can_wait(L, rt)) {
    *box = NULL; /* the last job on it closes it */
    peri__file_release(file);
    return 0;
  }
  fs_job *job = peri__fs_job(L, &operation, 0, 0);
  *box = NULL;
  job->file = file;
  return peri__fs_submit(L, job);
}

static int l_gc(lua_State *L)
{
  peri_file **box = lua_touserdata(L, 1);
  if (*box != NULL)
    peri__file_release(*box);
  *box = NULL;
  return 0;
}

static const luaL_Reg methods[] = {
    {"pread", l_pread},       {"pwrite", l_pwrite},
    {"sync", l_sync},         {"stat", l_stat},
    {"truncate", l_truncate}, {"fileno", l_fileno},
    {"close", l_close},       {NULL, NULL}};

/* The module is on top of the stack; gets what file.c has for it. */
void peri__file_metatable(lua_State *L, peri_runtime *rt)
{
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, l_tmpfile, 1);
  lua_setfield(L, -2, "tmpfile");
  lua_createtable(L, 0, 4);
  lua_pushliteral(L, "perilune");
  lua_setfield(L, -2, "__metatable");
  lua_pushliteral(L, "file");
  lua_setfield(L, -2, "__name");
  lua_pushcfunction(L, l_gc);
  lua_setfield(L, -2, "__gc");
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, methods, 1);
  lua_setfield(L, -2, "__index");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &metatable_key);
}
