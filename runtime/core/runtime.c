/*
 * runtime.c: the runtime of a Lua state.
 *
 * Everything of ours in a state is reachable from one userdata in the registry
 * (the runtime) and from the places in the registry that it counts. Bindings
 * find the runtime as their first upvalue; peri_of() finds it by its key.
 */
#include <signal.h>
#include <string.h>
#include <time.h>

#include "bundle.h"
#include "core.h"
#include "debug.h"
#include "inspect.h"

static const char runtime_key = 'r';

typedef struct peri_closer {
  void (*fn)(void *);
  void *argument;
} peri_closer;

void *peri__realloc(peri_runtime *rt, void *block, size_t old_size,
                    size_t new_size)
{
  return rt->alloc(rt->alloc_ud, block, block != NULL ? old_size : 0, new_size);
}

int peri__no_memory(lua_State *L)
{
  lua_pushliteral(L, "not enough memory");
  return lua_error(L);
}

bool peri__is_no_memory(lua_State *L, int idx)
{
  return lua_type(L, idx) == LUA_TSTRING &&
         strcmp(lua_tostring(L, idx), "not enough memory") == 0;
}

/* Lua's answer is the same for a stack as high as it may be and for a want of
 * memory, of which it has collected the garbage. */
void peri__no_room_in(lua_State *L, lua_State *co, int n)
{
  lua_newuserdatauv(L, 64 * (size_t)n, 0); /* raises, if that is it */
  lua_pop(L, 1);
  if (lua_checkstack(co, n))
    peri__no_memory(L); /* there is some again, but we have failed */
}

void peri__no_room(lua_State *L, int n)
{
  lua_newuserdatauv(L, 64 * (size_t)n, 0);
  lua_pop(L, 1);
  if (!lua_checkstack(L, n))
    luaL_error(L, "stack overflow");
}

peri_runtime *peri_of(lua_State *L)
{
  if (!lua_checkstack(L, 1))
    return NULL;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &runtime_key);
  peri_runtime *rt = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return rt != NULL && !rt->closed ? rt : NULL;
}

/* -- Registering -------------------------------------------------------------------- */

/* A place never holds nil: luaL_ref would give it to somebody else. */
void peri__set_ref(lua_State *L, peri_runtime *rt, int ref)
{
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    lua_pushboolean(L, false);
  }
  lua_rawseti(L, LUA_REGISTRYINDEX, rt->ref[ref]);
}

void peri__register(lua_State *L, peri_runtime *rt, const luaL_Reg *functions)
{
  peri__push_ref(L, rt, PERI_REF_CORE);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, functions, 1);
  lua_pop(L, 1);
}

const void *peri__metatable(lua_State *L, peri_runtime *rt, int ref,
                            const char *name, const luaL_Reg *metamethods,
                            const luaL_Reg *methods)
{
  lua_newtable(L);
  lua_pushstring(L, name);
  lua_setfield(L, -2, "__name");
  lua_pushliteral(L, "perilune");
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "__module");
  lua_setfield(L, -2, "__metatable");
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, metamethods, 1);
  if (methods != NULL) {
    lua_newtable(L);
    lua_pushlightuserdata(L, rt);
    luaL_setfuncs(L, methods, 1);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "methods");
    lua_setfield(L, -2, "__index");
  }
  lua_pushvalue(L, -1);
  peri__set_ref(L, rt, ref);
  return lua_topointer(L, -1);
}

void peri__push_methods(lua_State *L, peri_runtime *rt, int ref)
{
  peri__push_ref(L, rt, ref);
  lua_getfield(L, -1, "methods");
  lua_replace(L, -2);
}

void peri__weak_table(lua_State *L, peri_runtime *rt, int ref, const char *mode)
{
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushstring(L, mode);
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  peri__set_ref(L, rt, ref);
}

/* -- The Lua library, embedded ---------------------------------------------------------- */

/* One loader for all modules: it is called with the name. */
static int load_bundled(lua_State *L)
{
  const char *name = luaL_checkstring(L, 1);
  const peri_bundled *module = peri__bundle;
  while (module->name != NULL && strcmp(module->name, name) != 0)
    module++;
  if (module->name == NULL)
    return luaL_error(L, "module '%s' is not part of perilune", name);
  lua_pushfstring(L, "@perilune/%s.lua", module->name);
  if (luaL_loadbufferx(L, (const char *)module->code, module->size,
                       lua_tostring(L, -1), "b") != LUA_OK)
    return lua_error(L);
  peri__push_ref(L, peri__rt(L), PERI_REF_LIBRARY);
  lua_setupvalue(L, -2, 1); /* _ENV */
  lua_pushstring(L, module->name);
  lua_pushliteral(L, ":embedded:");
  lua_call(L, 2, 1);
  return 1;
}

void peri__require(lua_State *L, const char *name)
{
  peri__check_stack(L, 8);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, name) == LUA_TNIL) {
    lua_pop(L, 1);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    if (lua_getfield(L, -1, name) == LUA_TNIL)
      luaL_error(L, "module '%s' is not part of perilune", name);
    lua_replace(L, -2);
    lua_pushstring(L, name);
    lua_call(L, 1, 1);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, name);
    peri_runtime *rt = peri_of(L);
    if (rt != NULL)
      rt->modules++;
  }
  lua_replace(L, -2);
}

/* The library's own require. It loads its modules when they are first needed,
 * which may be after a host has taken require from the script. */
static int l_require(lua_State *L)
{
  peri__require(L, luaL_checkstring(L, 1));
  return 1;
}

/* The environment of the library: the globals, but for require. */
static void make_environment(lua_State *L, peri_runtime *rt)
{
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, l_require);
  lua_setfield(L, -2, "require");
  lua_createtable(L, 0, 1);
  lua_pushglobaltable(L);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
  peri__set_ref(L, rt, PERI_REF_LIBRARY);
}

static int load_core(lua_State *L)
{
  peri__push_ref(L, peri__rt(L), PERI_REF_CORE);
  return 1;
}

static void preload(lua_State *L, peri_runtime *rt)
{
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, load_bundled, 1);
  for (const peri_bundled *module = peri__bundle; module->name; module++) {
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, module->name);
  }
  lua_pop(L, 1);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, load_core, 1);
  lua_setfield(L, -2, "perilune._core");
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, peri__yieldable_load, 1);
  lua_setfield(L, -2, "perilune._yieldable");
  lua_pop(L, 1);
}

/* core.Future = methods of Future, and so on: the library adds to them. */
static void publish_classes(lua_State *L, peri_runtime *rt)
{
  static const struct {
    const char *name;
    int ref;
  } classes[] = {
      {"Future", PERI_REF_FUTURE},    {"Task", PERI_REF_TASK},
      {"Loop", PERI_REF_LOOP_META},   {"Handle", PERI_REF_HANDLE},
      {"Clock", PERI_REF_CLOCK_META}, {"Coroutine", PERI_REF_COROUTINE},
      {"Gather", PERI_REF_GATHER}};
  peri__push_ref(L, rt, PERI_REF_CORE);
  for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
    peri__push_methods(L, rt, classes[i].ref);
    lua_setfield(L, -2, classes[i].name);
  }
  lua_pop(L, 1);
}

/* -- os.exit, print -------------------------------------------------------------- */

/* os.exit([code [, close]]): in a task or a callback it unwinds to the host. */
static int l_exit(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  int code;
  if (lua_isboolean(L, 1))
    code = lua_toboolean(L, 1) ? EXIT_SUCCESS : EXIT_FAILURE;
  else
    code = (int)luaL_optinteger(L, 1, EXIT_SUCCESS);
  rt->exit_code = code;
  return peri__throw_sentinel(L, rt, PERI_SENTINEL_EXIT);
}

/* print(...): Lua's, in order with the streams of perilune.stdio, and in one piece
 * whatever other threads print */
static int l_print(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  int n = lua_gettop(L);
  if (rt->flush_stdio != NULL)
    rt->flush_stdio(rt);
  for (int i = 1; i <= n; i++) { /* may raise: nothing is locked yet */
    luaL_tolstring(L, i, NULL);
    lua_replace(L, i);
  }
  flockfile(stdout);
  for (int i = 1; i <= n; i++) {
    size_t length;
    const char *text = lua_tolstring(L, i, &length);
    if (i > 1)
      lua_writestring("\t", 1);
    lua_writestring(text, length);
  }
  lua_writeline();
  funlockfile(stdout);
  return 0;
}

static void patch_print(lua_State *L, peri_runtime *rt)
{
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, l_print, 1);
  lua_setglobal(L, "print");
}

static void patch_exit(lua_State *L, peri_runtime *rt)
{
  if (lua_getglobal(L, LUA_OSLIBNAME) == LUA_TTABLE) {
    lua_pushlightuserdata(L, rt);
    lua_pushcclosure(L, l_exit, 1);
    lua_setfield(L, -2, "exit");
  }
  lua_pop(L, 1);
}

/* -- SIGPIPE ------------------------------------------------------------------------------ */

/* libuv 1.44 writes without MSG_NOSIGNAL: the signal is kept from the host for
 * as long as the runtime works, and one of our making is taken away. */
void peri__sigpipe_block(peri_runtime *rt)
{
  if (rt->options.sigpipe_ignored || rt->sigpipe_depth++ > 0)
    return;
  sigset_t pipe, old, pending;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  sigpending(&pending);
  rt->sigpipe_pending = sigismember(&pending, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe, &old);
  rt->sigpipe_blocked = sigismember(&old, SIGPIPE);
}

void peri__sigpipe_restore(peri_runtime *rt)
{
  if (rt->options.sigpipe_ignored || --rt->sigpipe_depth > 0)
    return;
  sigset_t pipe;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  struct timespec now = {0, 0};
  if (!rt->sigpipe_pending)
    while (sigtimedwait(&pipe, NULL, &now) > 0)
      continue;
  if (!rt->sigpipe_blocked)
    pthread_sigmask(SIG_UNBLOCK, &pipe, NULL);
}

/* -- What is to be done at the close ---------------------------------------------------------- */

void peri__at_close(lua_State *L, void (*fn)(void *), void *argument)
{
  peri_runtime *rt = peri_of(L);
  PERI_CHECK(rt != NULL);
  peri__check_stack(L, 4);
  peri__push_ref(L, rt, PERI_REF_CLOSERS);
  peri_closer *closer = lua_newuserdatauv(L, sizeof *closer, 0);
  *closer = (peri_closer){fn, argument};
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  lua_pop(L, 1);
}

static void run_closers(lua_State *L, peri_runtime *rt)
{
  peri__push_ref(L, rt, PERI_REF_CLOSERS);
  for (lua_Integer i = (lua_Integer)lua_rawlen(L, -1); i >= 1; i--) {
    lua_rawgeti(L, -1, i);
    peri_closer *closer = lua_touserdata(L, -1);
    closer->fn(closer->argument);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

/* -- Opening and closing --------------------------------------------------------------------- */

/* All of them at once: to set one later needs no memory. */
static void reserve_refs(lua_State *L, peri_runtime *rt)
{
  for (int i = 0; i < PERI_REF_COUNT; i++) {
    lua_pushboolean(L, false);
    rt->ref[i] = luaL_ref(L, LUA_REGISTRYINDEX);
  }
}

static void open_parts(lua_State *L, peri_runtime *rt)
{
  reserve_refs(L, rt);
  lua_newtable(L);
  peri__set_ref(L, rt, PERI_REF_CORE);
  lua_newtable(L);
  peri__set_ref(L, rt, PERI_REF_CLOSERS);
  peri__weak_table(L, rt, PERI_REF_OBJECTS, "v");
  peri__weak_table(L, rt, PERI_REF_QUEUES, "v");
  peri__weak_table(L, rt, PERI_REF_OWED, "k");
  peri__weak_table(L, rt, PERI_REF_NAMES, "k");
  peri__weak_table(L, rt, PERI_REF_KILLS, "k");
  peri__error_open(L, rt);
  peri__trace_open(L, rt);
  peri__debug_open(L, rt);
  peri__clock_open(L, rt);
  peri__future_open(L, rt);
  peri__link_open(L, rt);
  peri__crew_open(L, rt);
  peri__task_open(L, rt);
  peri__task_lua_open(L, rt);
  peri__context_open(L, rt);
  peri__wait_open(L, rt);
  peri__locks_open(L, rt);
  peri__queue_open(L, rt);
  peri__awaitable_open(L, rt);
  peri__gather_open(L, rt);
  peri__several_open(L, rt);
  peri__loop_open(L, rt);
  peri__handle_open(L, rt);
  peri__watch_open(L, rt);
  peri__session_open(L, rt);
  peri__inspect_open(L, rt);
  publish_classes(L, rt);
  make_environment(L, rt);
  preload(L, rt);
  peri__coroutine_open(L, rt, rt->options.patch);
  if (rt->options.patch & PERI_PATCH_REQUIRE) {
    peri__require_push(L, rt);
    lua_setglobal(L, "require");
  }
  if (rt->options.patch & PERI_PATCH_EXIT)
    patch_exit(L, rt);
  if (rt->options.patch & PERI_PATCH_PRINT)
    patch_print(L, rt);
}

/* The loop on top of the stack. All but the host's own are for the script to
 * close. */
static void close_loop(lua_State *L, peri_runtime *rt)
{
  peri_loop *loop = lua_touserdata(L, -1);
  peri__push_ref(L, rt, PERI_REF_BASE);
  bool base = lua_rawequal(L, -1, -2);
  lua_pop(L, 1);
  if (loop->debug && !loop->closed && !base)
    peri__debug_unclosed(L, rt, lua_gettop(L), "unclosed event loop %s");
  peri__loop_close(L, rt, loop);
}

void peri__push_loops(lua_State *L, peri_runtime *rt)
{
  peri__check_stack(L, 6);
  lua_newtable(L); /* the weak table may change meanwhile */
  int list = lua_gettop(L);
  peri__push_ref(L, rt, PERI_REF_OBJECTS);
  if (!lua_istable(L, -1)) { /* there was no memory to make a runtime */
    lua_settop(L, list);
    return;
  }
  lua_Integer n = 0;
  lua_pushnil(L);
  while (lua_next(L, list + 1)) {
    if (lua_getmetatable(L, -1)) {
      bool loop = lua_topointer(L, -1) == rt->meta_loop;
      lua_pop(L, 1);
      if (loop) {
        lua_pushvalue(L, -1);
        lua_rawseti(L, list, ++n);
      }
    }
    lua_pop(L, 1);
  }
  lua_settop(L, list);
}

static void close_loops(lua_State *L, peri_runtime *rt)
{
  peri__push_loops(L, rt);
  lua_Integer n = (lua_Integer)lua_rawlen(L, -1);
  for (lua_Integer i = 1; i <= n; i++) {
    lua_rawgeti(L, -1, i);
    close_loop(L, rt);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static bool is_ours(const char *module)
{
  return strncmp(module, "perilune", 8) == 0 &&
         (module[8] == '.' || module[8] == '\0');
}

/* What is required after this is a later runtime's. */
static void forget_modules(lua_State *L)
{
  static const char *const tables[] = {LUA_LOADED_TABLE, LUA_PRELOAD_TABLE};
  for (int i = 0; i < 2; i++) {
    luaL_getsubtable(L, LUA_REGISTRYINDEX, tables[i]);
    lua_pushnil(L);
    while (lua_next(L, -2)) {
      lua_pop(L, 1);
      if (lua_type(L, -1) != LUA_TSTRING || !is_ours(lua_tostring(L, -1)))
        continue;
      lua_pushvalue(L, -1); /* a traversal allows to clear fields */
      lua_pushnil(L);
      lua_rawset(L, -4);
    }
    lua_pop(L, 1);
  }
}

static int close_protected(lua_State *L)
{
  peri_runtime *rt = lua_touserdata(L, 1);
  lua_settop(L, 0);
  run_closers(L, rt);
  close_loops(L, rt);
  peri__debug_close(L, rt);
  peri__work_close(rt);
  peri__process_close(rt);
  peri__stdio_close(rt);
  forget_modules(L);
  return 0;
}

/* Closes what the runtime has; the state lives on, with errors instead of
 * waits. */
void peri__detach(peri_runtime *rt)
{
  if (rt->closed)
    return;
  lua_State *L = rt->L;
  lua_checkstack(L, 20);
  lua_pushcfunction(L, close_protected);
  lua_pushlightuserdata(L, rt);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK)
    lua_pop(L, 1);
  rt->closed = true;
  rt->frames = &rt->no_task;
  peri__post_fini(rt);
  free(rt->error);
  rt->error = NULL;
  rt->error_lost = false;
}

static int l_gc(lua_State *L)
{
  peri_runtime *rt = lua_touserdata(L, 1);
  peri__detach(rt);
  peri__realloc(rt, rt->no_task.v,
                (size_t)rt->no_task.capacity * sizeof *rt->no_task.v, 0);
  rt->no_task = (peri_frames){0};
  return 0;
}

static int open_protected(lua_State *L)
{
  const peri_options *options = lua_touserdata(L, 1);
  peri_runtime *rt = lua_newuserdatauv(L, sizeof *rt, 0);
  memset(rt, 0, sizeof *rt);
  rt->closed = true; /* until all of it stands */
  rt->alloc = lua_getallocf(L, &rt->alloc_ud);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  rt->L = lua_tothread(L, -1);
  lua_pop(L, 1);
  rt->options = *options;
  rt->modules = 1; /* the standard library */
  rt->owns_state = lua_toboolean(L, 2);
  if (rt->owns_state)
    *(peri_runtime **)lua_getextraspace(rt->L) = rt;
  rt->frames = &rt->no_task;
  rt->thread = uv_thread_self();
  peri__list_init(&rt->clocks);
  peri__list_init(&rt->sentries);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, l_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  if (peri__post_init(rt) < 0)
    return luaL_error(L, "perilune: cannot make a mutex");
  rt->closed = false; /* from here on the collection of it closes it */
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &runtime_key);
  /* Functions of ours that the script keeps point at it for ever. */
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, rt);
  open_parts(L, rt);
  return 1;
}

int peri__attach(peri_runtime **out, lua_State *L, const peri_options *options,
                 bool own_state)
{
  peri_options defaults;
  if (options == NULL) {
    peri_options_init(&defaults);
    options = &defaults;
  }
  if (peri_of(L) != NULL)
    return PERI_EINVAL;
  if (!lua_checkstack(L, 20))
    return PERI_ENOMEM;
  lua_pushcfunction(L, open_protected);
  lua_pushlightuserdata(L, (void *)options);
  lua_pushboolean(L, own_state);
  int status = lua_pcall(L, 2, 1, 0);
  if (status == LUA_OK)
    *out = lua_touserdata(L, -1);
  lua_pop(L, 1);
  if (status == LUA_OK)
    return PERI_OK;
  lua_pushnil(L); /* what stands half goes with the next collection */
  lua_rawsetp(L, LUA_REGISTRYINDEX, &runtime_key);
  return status == LUA_ERRMEM ? PERI_ENOMEM : PERI_EFAILED;
}
