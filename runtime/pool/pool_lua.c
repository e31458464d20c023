/*
 * pool_lua.c: the module perilune._pool, which perilune.futures and
 * perilune.multiprocessing stand on: how pools are made.
 */
#include <string.h>

#include "pool/executor.h"
#include "pool/process_pool.h"

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
  options->patch = PERI_PATCH_DEFAULT | PERI_PATCH_EXIT | PERI_PATCH_REQUIRE |
                   PERI_PATCH_PRINT;
  options->memory_limit = rt->options.memory_limit;
  options->debug = rt->debug;
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

/* A copy of the list of strings on top of the stack (popped) for a C command
 * line. NULL: no memory. */
static char **copy_command(lua_State *L)
{
  int n = (int)lua_rawlen(L, -1);
  char **command = calloc((size_t)n + 1, sizeof *command);
  bool well = command != NULL;
  for (int i = 0; i < n && well; i++) {
    lua_rawgeti(L, -1, i + 1);
    command[i] = strdup(lua_tostring(L, -1));
    well = command[i] != NULL;
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  if (well)
    return command;
  for (int i = 0; command != NULL && command[i] != NULL; i++)
    free(command[i]);
  free(command);
  return NULL;
}

/* process_pool(max_workers, max_tasks, on_death, spin, grace, start_timeout,
 * initializer, ...) -> executor; times in seconds */
static int l_process_pool(lua_State *L)
{
  enum { COMMAND = 7, INITIALIZER };
  static const char *const deaths[] = {"default", "replace", "break", NULL};
  peri_runtime *rt = peri__rt(L);
  lua_Integer max_workers = luaL_checkinteger(L, 1);
  lua_Integer max_tasks = luaL_checkinteger(L, 2);
  peri__process_options options = {
      .max_workers =
          max_workers < UINT16_MAX ? (unsigned)max_workers : UINT16_MAX,
      .max_tasks = max_tasks < UINT32_MAX ? (uint32_t)max_tasks : UINT32_MAX,
      .on_death = (peri__on_death)luaL_checkoption(L, 3, NULL, deaths),
      .spin = peri__nanoseconds(luaL_checknumber(L, 4)),
      .grace = peri__nanoseconds(luaL_checknumber(L, 5)),
      .start_timeout = peri__nanoseconds(luaL_checknumber(L, 6))};
  peri__worker_command(L, rt);
  lua_insert(L, COMMAND);
  peri__executor *executor = peri__executor_new(L);
  peri__worker_setup setup = make_setup(L, rt, lua_gettop(L), INITIALIZER);
  lua_pushvalue(L, COMMAND);
  options.command = copy_command(L);
  if (options.command == NULL) {
    peri__worker_setup_fini(&setup);
    return peri__no_memory(L);
  }
  executor->pool = peri__process_pool_new(&executor->home, &setup, &options);
  if (executor->pool == NULL)
    return peri__no_memory(L);
  peri__executor_push_handle(L);
  return 1;
}

/* set_worker_command(list or nil) */
static int l_set_worker_command(lua_State *L)
{
  lua_settop(L, 1);
  peri__worker_set_command(L);
  return 0;
}

/* Its address is the place of the job's executor in the registry. */
static const char own_key = 0;

/* current_executor() -> the executor whose worker this state is */
static int l_current_executor(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &own_key) == LUA_TUSERDATA)
    return 1;
  peri__worker *worker = peri__worker_of(L);
  if (worker == NULL)
    return peri__throw(L, rt, PERI_ERR_RUNTIME,
                       "current_executor() was not called in a job");
  peri__executor *executor = peri__executor_new(L);
  executor->pool = worker->own_pool(worker, &executor->home);
  if (executor->pool == NULL)
    return peri__no_memory(L);
  peri__executor_push_handle(L);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &own_key);
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
    {"thread_pool", l_thread_pool},
    {"process_pool", l_process_pool},
    {"set_worker_command", l_set_worker_command},
    {"current_executor", l_current_executor},
    {"cpu_count", l_cpu_count},
    {NULL, NULL}};

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
