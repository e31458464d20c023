/*
 * pool_lua.c: the module perilune._pool, which perilune.futures and
 * perilune.multiprocessing stand on: how pools are made.
 */
#include <string.h>

#include "pool/executor.h"
#include "pool/worker.h"

/* -- Pools ----------------------------------------------------------------- */

/* A copy of a string field of the module package. */
static char *copy_path(lua_State *L, const char *name)
{
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_getfield(L, -1, LUA_LOADLIBNAME);
  const char *path = NULL;
  if (lua_istable(L, -1)) {
    lua_getfield(L, -1, name);
    path = lua_tostring(L, -1);
    lua_replace(L, -2);
  }
  char *copy = strdup(path ? path : "");
  lua_pop(L, 2);
  return copy;
}

static void fill_options(const peri_runtime *rt, peri_options *options)
{
  peri_options_init(options);
  options->patch = PERI_PATCH_DEFAULT | PERI_PATCH_EXIT | PERI_PATCH_REQUIRE;
  options->memory_limit = rt->options.memory_limit;
  options->debug = rt->options.debug;
  options->deadlock = rt->options.deadlock;
  options->preempt_signal = rt->options.preempt_signal;
  options->sigpipe_ignored = 1; /* blocked in worker threads */
}

/* What workers begin with: the initializer and its arguments stand from first
 * to the top (none, or nil: there is none). */
static peri__worker_setup make_setup(lua_State *L, peri_runtime *rt,
                                     int executor, int first)
{
  peri__worker_setup setup = {.path = NULL};
  int n = executor - first;
  if (n > 0 && !lua_isnil(L, first))
    setup.initializer = peri__executor_encode(L, rt, executor, first, n);
  fill_options(rt, &setup.options);
  setup.path = copy_path(L, "path");
  setup.cpath = copy_path(L, "cpath");
  return setup;
}

/* thread_pool(max_workers, prefix, initializer, ...) -> executor */
static int l_thread_pool(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_Integer max_workers = luaL_checkinteger(L, 1);
  const char *prefix = luaL_checkstring(L, 2);
  peri__executor *executor = peri__executor_new(L);
  peri__worker_setup setup = make_setup(L, rt, lua_gettop(L), 3);
  if (max_workers > UINT16_MAX)
    max_workers = UINT16_MAX;
  executor->pool = peri__thread_pool_new(&executor->home, &setup,
                                         (unsigned)max_workers, prefix);
  if (executor->pool == NULL)
    return peri__no_memory(L);
  peri__executor_push_handle(L);
  return 1;
}

/* cpu_count(): how many threads can run at once here. */
static int l_cpu_count(lua_State *L)
{
  lua_pushinteger(L, uv_available_parallelism());
  return 1;
}

/* -- The module ------------------------------------------------------------ */

static const luaL_Reg functions[] = {
    {"thread_pool", l_thread_pool}, {"cpu_count", l_cpu_count}, {NULL, NULL}};

int peri__pool_open(lua_State *L)
{
  peri_runtime *rt = peri_of(L);
  if (rt == NULL)
    return luaL_error(L, "there is no runtime on this state");
  peri__executor_open(L, rt);
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, functions, 1);
  return 1;
}
