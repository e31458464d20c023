/*
 * module.c: perilune as a C module, for `require "perilune"` from a stock
 * lua5.4. The script asked for it, so its log goes to stderr.
 */
#include <signal.h>
#include <string.h>

#include "../core/core.h"

static void log_to_stderr(void *ud, int level, const char *text)
{
  (void)ud, (void)level;
  fprintf(stderr, "%s\n", text);
}

/* As with Lua's own variables, "lua -E" has none of it looked at. */
static bool debug_in_environment(lua_State *L)
{
  lua_getfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
  bool ignored = lua_toboolean(L, -1);
  lua_pop(L, 1);
  const char *debug = getenv("PERILUNE_DEBUG");
  return !ignored && debug != NULL && strcmp(debug, "") != 0 &&
         strcmp(debug, "0") != 0;
}

static void attach(lua_State *L)
{
  peri_runtime *rt;
  peri_options options;
  if (peri_of(L) != NULL)
    return;
  peri_options_init(&options);
  options.debug = debug_in_environment(L);
  options.log = log_to_stderr;
  options.preempt_signal = SIGURG;
  options.deadlock = 1; /* no thread but our own can post */
  int status = peri_attach(&rt, L, &options);
  if (status == PERI_ENOMEM)
    peri__no_memory(L);
  if (status != PERI_OK)
    luaL_error(L, "perilune: cannot attach a runtime to this state");
}

/* Loads an embedded module by its name. */
static int load(lua_State *L, const char *name)
{
  attach(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_getfield(L, -1, name);
  if (lua_isnil(L, -1))
    return luaL_error(L, "module '%s' is not part of perilune", name);
  lua_pushstring(L, name);
  lua_call(L, 1, 1);
  return 1;
}

/* Lua finds perilune.x in perilune.so by the name luaopen_perilune_x. */
#define MODULES(X)                                                             \
  X(perilune, "perilune")                                                      \
  X(perilune_log, "perilune.log")                                              \
  X(perilune_errors, "perilune.errors")                                        \
  X(perilune_fs, "perilune.fs")                                                \
  X(perilune_futures, "perilune.futures")                                      \
  X(perilune_net, "perilune.net")                                              \
  X(perilune_yieldable, "perilune.yieldable")

#define X(symbol, name)                                                        \
  PERI_API int luaopen_##symbol(lua_State *L);                                 \
  int luaopen_##symbol(lua_State *L)                                           \
  {                                                                            \
    return load(L, name);                                                      \
  }
MODULES(X)
#undef X

/* A worker of a process pool: see pool/process_start.c. */
PERI_API int luaopen_perilune_worker(lua_State *L);
int luaopen_perilune_worker(lua_State *L)
{
  peri_options options;
  (void)L;
  peri_options_init(&options);
  options.log = log_to_stderr;
  exit(peri_worker_main(&options));
}
