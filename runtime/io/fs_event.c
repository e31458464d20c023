/*
 * fs_event.c: what happens to a file or in a directory, as libuv tells it.
 *
 * The events stand in a ring until a task asks for them. When that is full, what
 * comes is counted and dropped, and who reads is told so at the place where it
 * is missing: he has to look for himself.
 *
 * Linux watches one directory at a time. A watch may have parts for directories
 * below it, whose events come into the same ring, told from the root; which there
 * have to be, perilune.watch knows.
 */
#include <stdint.h>
#include <string.h>

#include "core/debug.h"
#include "io/fs.h"
#include "io/io.h"

typedef struct watch_event {
  char *name; /* peri__realloc's; NULL: not known */
  int kind;   /* UV_RENAME | UV_CHANGE, or a negative code */
} watch_event;

typedef struct peri_fs_watch {
  peri_io io;
  peri_runtime *rt;
  peri_kernel *kernel;
  int references; /* the handle's, the object's, those of tasks that wait */
  bool closed;
  peri_waiters readers;
  int waiting; /* tasks */
  watch_event *ring;
  size_t limit, first, count;
  size_t missing; /* dropped since the newest in the ring */
  lua_Integer dropped;
  uv_fs_event_t handle;
  peri_list parts;
} peri_fs_watch;

typedef struct watch_part {
  peri_node node;
  uv_fs_event_t handle;
  peri_fs_watch *watch;
  size_t size;
  char prefix[]; /* of its names: "sub/below/" */
} watch_part;

static const char metatable_key = 'w';

static void drop_name(peri_fs_watch *watch, watch_event *event)
{
  if (event->name != NULL)
    peri__realloc(watch->rt, event->name, strlen(event->name) + 1, 0);
}

static void unref(peri_fs_watch *watch)
{
  if (--watch->references > 0)
    return;
  for (; watch->count > 0; watch->count--) {
    drop_name(watch, &watch->ring[watch->first]);
    watch->first = (watch->first + 1) % watch->limit;
  }
  peri_runtime *rt = watch->rt;
  peri__realloc(rt, watch->ring, watch->limit * sizeof *watch->ring, 0);
  peri__realloc(rt, watch, sizeof *watch, 0);
}

/* -- Events ------------------------------------------------------------------------ */

static bool keep(peri_fs_watch *watch, const char *prefix, const char *name,
                 int kind)
{
  if (watch->count == watch->limit || watch->missing > 0)
    return false;
  char *copy = NULL;
  if (name != NULL) {
    size_t length = strlen(prefix);
    copy = peri__realloc(watch->rt, NULL, 0, length + strlen(name) + 1);
    if (copy == NULL)
      return false;
    memcpy(copy, prefix, length);
    strcpy(copy + length, name);
  }
  size_t at = (watch->first + watch->count++) % watch->limit;
  watch->ring[at] = (watch_event){copy, kind};
  return true;
}

static void note(peri_fs_watch *watch, const char *prefix, const char *name,
                 int kind)
{
  if (!keep(watch, prefix, name, kind)) {
    watch->missing++;
    watch->dropped++;
  }
  peri__waiters_wake(&watch->readers);
}

static void on_event(uv_fs_event_t *handle, const char *name, int events,
                     int status)
{
  note(handle->data, "", name, status < 0 ? status : events);
}

/* What happens to the directory itself is told by the one above. libuv gives it
 * the directory's name then, a piece of its path. */
static void on_part_event(uv_fs_event_t *handle, const char *name, int events,
                          int status)
{
  watch_part *part = handle->data;
  uintptr_t path = (uintptr_t)handle->path, at = (uintptr_t)name;
  if (name == NULL || (at >= path && at <= path + strlen(handle->path)))
    return;
  note(part->watch, part->prefix, name, status < 0 ? status : events);
}

static void on_part_closed(uv_handle_t *handle)
{
  watch_part *part = handle->data;
  peri_fs_watch *watch = part->watch;
  watch->kernel->open--;
  peri__realloc(watch->rt, part, part->size, 0);
  unref(watch);
}

static void close_part(watch_part *part)
{
  peri__node_unlink(&part->node);
  uv_close((uv_handle_t *)&part->handle, on_part_closed);
}

static void on_closed(uv_handle_t *handle)
{
  peri_fs_watch *watch = handle->data;
  watch->kernel->open--;
  unref(watch);
}

static void close_watch(peri_fs_watch *watch)
{
  if (watch->closed)
    return;
  watch->closed = true;
  if (peri__node_listed(&watch->io.listed))
    peri__node_unlink(&watch->io.listed);
  while (peri__waiters_wake(&watch->readers))
    continue;
  while (!peri__list_empty(&watch->parts))
    close_part((watch_part *)peri__list_first(&watch->parts));
  uv_close((uv_handle_t *)&watch->handle, on_closed);
}

static void close_with_loop(peri_io *io)
{
  close_watch((peri_fs_watch *)io);
}

/* -- Waiting ------------------------------------------------------------------------- */

/* A task that waits keeps the loop from being idle; the watch alone does not. */
static void hold(peri_fs_watch *watch, int delta)
{
  watch->waiting += delta;
  if (watch->closed)
    return;
  if (watch->waiting > 0)
    uv_ref((uv_handle_t *)&watch->handle);
  else
    uv_unref((uv_handle_t *)&watch->handle);
}

static void stop_waiting(peri_fs_watch *watch)
{
  hold(watch, -1);
  unref(watch);
}

/* An event that has come for this task is the next one's. */
static void give_up(lua_State *L, peri_runtime *rt, peri_waiters *line, int idx,
                    bool woken)
{
  (void)L, (void)rt, (void)idx;
  if (woken)
    peri__waiters_wake(line);
  stop_waiting(
      (peri_fs_watch *)((char *)line - offsetof(peri_fs_watch, readers)));
}

static peri_fs_watch *check_watch(lua_State *L)
{
  if (lua_type(L, 1) == LUA_TUSERDATA && lua_getmetatable(L, 1)) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &metatable_key);
    bool is = lua_rawequal(L, -1, -2);
    peri_fs_watch **box = lua_touserdata(L, 1);
    lua_pop(L, 2);
    if (is && *box != NULL) /* NULL: it is used by another one's finalizer */
      return *box;
  }
  peri__arg_type_error(L, peri__rt(L), 1, "Watch");
  return NULL;
}

static int push_event(lua_State *L, peri_fs_watch *watch)
{
  watch_event event = watch->ring[watch->first];
  if (event.kind < 0)
    lua_pushstring(L, "error");
  else
    lua_pushstring(L, event.kind & UV_RENAME ? "rename" : "change");
  lua_pushstring(L, event.kind < 0 ? uv_err_name(event.kind) : event.name);
  watch->first = (watch->first + 1) % watch->limit;
  watch->count--;
  drop_name(watch, &event);
  return 2;
}

static int next_k(lua_State *L, int status, lua_KContext ctx);

static int next(lua_State *L, peri_fs_watch *watch)
{
  if (watch->closed) {
    lua_pushnil(L);
    return 1;
  }
  if (watch->count > 0)
    return push_event(L, watch);
  if (watch->missing > 0) {
    lua_pushliteral(L, "overflow");
    lua_pushinteger(L, (lua_Integer)watch->missing);
    watch->missing = 0;
    return 2;
  }
  if (peri__running_loop(watch->rt) != watch->io.loop)
    return peri__throw(L, watch->rt, PERI_ERR_RUNTIME,
                       "Watch.next: the watch belongs to another loop than the "
                       "running one");
  peri__waiters_park(L, watch->rt, &watch->readers);
  watch->references++;
  hold(watch, 1);
  return peri__park(L, watch->rt, 0, next_k);
}

static int next_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  peri_fs_watch *watch = *(peri_fs_watch **)lua_touserdata(L, 1);
  peri__waiters_unpark(L, watch->rt);
  stop_waiting(watch);
  return next(L, watch);
}

/* watch:next([options]) -> "rename" or "change", name; "overflow", how many;
 * "error", code; nil: closed */
static int l_next(lua_State *L)
{
  peri_fs_watch *watch = check_watch(L);
  if (!lua_isnoneornil(L, 2))
    return peri__limited(L, 2, "Watch.next", l_next);
  lua_settop(L, 1);
  return next(L, watch);
}

/* for kind, name in watch do */
static int l_call(lua_State *L)
{
  peri_fs_watch *watch = check_watch(L);
  lua_settop(L, 1);
  return next(L, watch);
}

/* -- The object ------------------------------------------------------------------------- */

static int l_close(lua_State *L)
{
  peri_fs_watch *watch = check_watch(L);
  close_watch(watch);
  lua_getiuservalue(L, 1, 1);
  peri__debug_release(L, -1);
  return 0;
}

static int l_gc(lua_State *L)
{
  peri_fs_watch **box = lua_touserdata(L, 1);
  if (*box == NULL)
    return 0;
  close_watch(*box);
  unref(*box);
  *box = NULL;
  return 0;
}

/* .dropped, .closed; else a method */
static int l_index(lua_State *L)
{
  peri_fs_watch *watch = check_watch(L);
  const char *name = lua_tostring(L, 2);
  if (name != NULL && strcmp(name, "dropped") == 0)
    lua_pushinteger(L, watch->dropped);
  else if (name != NULL && strcmp(name, "closed") == 0)
    lua_pushboolean(L, watch->closed);
  else
    lua_gettable(L, lua_upvalueindex(2));
  return 1;
}

static int start(peri_fs_watch *watch, peri_loop *loop, const char *path)
{
  int code = uv_fs_event_init(loop->kernel->uv, &watch->handle);
  if (code < 0)
    return code;
  watch->closed = false;
  watch->handle.data = watch;
  watch->references++;
  watch->kernel->open++;
  uv_unref((uv_handle_t *)&watch->handle);
  peri__list_push(&loop->open, &watch->io.listed);
  code = uv_fs_event_start(&watch->handle, on_event, path, 0);
  if (code < 0)
    close_watch(watch);
  return code;
}

static peri_fs_watch *make(peri_loop *loop, size_t limit)
{
  peri_fs_watch *watch = peri__realloc(loop->rt, NULL, 0, sizeof *watch);
  if (watch == NULL)
    return NULL;
  memset(watch, 0, sizeof *watch);
  watch->ring = peri__realloc(loop->rt, NULL, 0, limit * sizeof *watch->ring);
  if (watch->ring == NULL) {
    peri__realloc(loop->rt, watch, sizeof *watch, 0);
    return NULL;
  }
  watch->io.loop = loop;
  watch->io.close = close_with_loop;
  watch->rt = loop->rt;
  watch->kernel = loop->kernel;
  watch->references = 1;
  watch->limit = limit;
  watch->closed = true; /* until there is a handle */
  peri__list_init(&watch->parts);
  peri__waiters_init(&watch->readers, "Watch.next", give_up);
  return watch;
}

/* watch(path, limit) -> watch */
static int l_watch(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  size_t length;
  const char *path = peri__check_string(L, rt, 1, &length);
  if (strlen(path) != length)
    return peri__arg_error(L, rt, PERI_ERR_VALUE, 1, "a path has no zero byte");
  size_t limit = (size_t)luaL_checkinteger(L, 2);
  peri_loop *loop = peri__io_loop(L, rt);
  peri_fs_watch **box = lua_newuserdatauv(L, sizeof *box, 2);
  *box = NULL;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &metatable_key);
  lua_setmetatable(L, -2);
  peri__push_loop(L, loop);
  lua_setiuservalue(L, -2, 2);
  *box = make(loop, limit);
  if (*box == NULL)
    return luaL_error(L, "not enough memory");
  int code = start(*box, loop, path);
  if (code < 0)
    return peri__throw_os(L, rt, "watch", code, "path", path);
  lua_pushfstring(L, "watch of '%s'", path);
  peri__debug_watch(L, rt, lua_tostring(L, -1));
  lua_setiuservalue(L, -3, 1);
  lua_pop(L, 1);
  return 1;
}

/* -- Parts ------------------------------------------------------------------------------ */

/* NULL: no memory */
static watch_part *make_part(peri_fs_watch *watch, const char *prefix)
{
  size_t size = sizeof(watch_part) + strlen(prefix) + 1;
  watch_part *part = peri__realloc(watch->rt, NULL, 0, size);
  if (part == NULL)
    return NULL;
  memset(part, 0, sizeof *part);
  part->watch = watch;
  part->size = size;
  strcpy(part->prefix, prefix);
  return part;
}

static int start_part(watch_part *part, const char *path)
{
  peri_fs_watch *watch = part->watch;
  int code = uv_fs_event_init(watch->kernel->uv, &part->handle);
  if (code < 0) {
    peri__realloc(watch->rt, part, part->size, 0);
    return code;
  }
  part->handle.data = part;
  watch->references++;
  watch->kernel->open++;
  uv_unref((uv_handle_t *)&part->handle);
  peri__list_push(&watch->parts, &part->node);
  code = uv_fs_event_start(&part->handle, on_part_event, path, 0);
  if (code < 0)
    close_part(part);
  return code;
}

/* watch_part(watch, path, prefix) -> the part, for unwatch_part; nil: the watch is
 * closed */
static int l_watch_part(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_fs_watch *watch = check_watch(L);
  const char *path = peri__check_string(L, rt, 2, NULL);
  const char *prefix = peri__check_string(L, rt, 3, NULL);
  if (watch->closed)
    return 0;
  watch_part *part = make_part(watch, prefix);
  if (part == NULL)
    return luaL_error(L, "not enough memory");
  int code = start_part(part, path);
  if (code < 0)
    return peri__throw_os(L, rt, "watch", code, "path", path);
  lua_pushlightuserdata(L, part);
  return 1;
}

/* unwatch_part(watch, part): once for each part */
static int l_unwatch_part(lua_State *L)
{
  peri_fs_watch *watch = check_watch(L);
  if (!watch->closed)
    close_part(lua_touserdata(L, 2));
  return 0;
}

static const luaL_Reg methods[] = {
    {"next", l_next}, {"close", l_close}, {NULL, NULL}};

static const luaL_Reg meta[] = {
    {"__gc", l_gc}, {"__close", l_close}, {"__call", l_call}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"watch", l_watch},
                                     {"watch_part", l_watch_part},
                                     {"unwatch_part", l_unwatch_part},
                                     {NULL, NULL}};

void peri__fs_event_open(lua_State *L, peri_runtime *rt)
{
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, functions, 1);
  lua_createtable(L, 0, 8);
  lua_pushliteral(L, "Watch");
  lua_setfield(L, -2, "__name");
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, meta, 1);
  lua_pushlightuserdata(L, rt);
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, methods, 1);
  lua_pushvalue(L, -1);
  lua_setfield(L, -4, "methods");
  lua_pushcclosure(L, l_index, 2);
  lua_setfield(L, -2, "__index");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &metatable_key);
}
