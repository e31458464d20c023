/*
 * pool_lua.c: the module perilune._pool, which perilune.futures stands on: thread
 * pools as their owner sees them.
 *
 * Life. A pool is a userdata. From its first job on it stands in the table of
 * pools in the registry, until its threads have ended: what nobody holds any
 * more still does its jobs. The posted function finds the pool in that table,
 * so a post that comes late, after the runtime has closed the pools, finds
 * nothing. Closing the runtime closes every pool and waits for its threads,
 * which do what is queued first, as Python's do at exit.
 *
 * A pool keeps the futures of its jobs by the address of the job. Each job is
 * an external wait of the runtime from its submission to its end, and a pool
 * that was closed is one until its threads have ended.
 */
#include <string.h>

#include "pool/pool.h"
#include "pool/thread_pool.h"
#include "pool/wire.h"

#define POOL "perilune.ThreadPool"

/* User values of a pool. */
enum {
  PENDING = 1, /* job to future */
  WAITERS,     /* futures that are done when the threads have ended */
  SPARE        /* a message that nobody uses, or nil */
};

typedef struct owned_pool {
  peri__thread_pool *pool;
  peri_list done; /* jobs whose futures are next */
  bool ending;    /* closed, and counted as an external wait */
} owned_pool;

/* Its address is the place of the pools in the registry. */
static const char pools_key = 0;

/* -- The table of pools ---------------------------------------------------- */

static void anchor(lua_State *L, int idx)
{
  lua_rawgetp(L, LUA_REGISTRYINDEX, &pools_key);
  lua_pushvalue(L, idx);
  lua_rawsetp(L, -2, lua_touserdata(L, idx));
  lua_pop(L, 1);
}

/* Pushes the pool if it stands in the table. */
static bool push_anchored(lua_State *L, const owned_pool *owned)
{
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &pools_key) != LUA_TTABLE) {
    lua_pop(L, 1);
    return false;
  }
  bool found = lua_rawgetp(L, -1, owned) == LUA_TUSERDATA;
  lua_remove(L, -2);
  if (!found)
    lua_pop(L, 1);
  return found;
}

static bool is_anchored(lua_State *L, const owned_pool *owned)
{
  if (!push_anchored(L, owned))
    return false;
  lua_pop(L, 1);
  return true;
}

static void unanchor(lua_State *L, const owned_pool *owned)
{
  lua_rawgetp(L, LUA_REGISTRYINDEX, &pools_key);
  lua_pushnil(L);
  lua_rawsetp(L, -2, owned);
  lua_pop(L, 1);
}

/* -- Jobs that are done ---------------------------------------------------- */

/* The future at idx, if it may still be given something. */
static bool is_open(lua_State *L, peri_runtime *rt, int idx)
{
  peri_future *future = peri__to_future(L, rt, idx);
  return future != NULL && future->state == PERI_PENDING &&
         !future->loop->closed;
}

/* The error on top ends the future. */
static void reject(lua_State *L, peri_runtime *rt, int future)
{
  if (peri__is_cancelled_error(L, rt, -1))
    peri__future_settle_cancelled(L, rt, future, true);
  else
    peri__future_reject(L, rt, future);
}

/* The error at idx, and its traceback behind it unless it has it itself. */
static void add_trace(lua_State *L, peri_runtime *rt, int idx)
{
  const char *text = lua_tostring(L, idx + 1);
  if (text != NULL && (text = strchr(text, '\n')) != NULL)
    peri__trace_label(L, rt, idx, text + strspn(text, "\n\t"));
  lua_settop(L, idx);
}

static void push_failure(lua_State *L, peri_runtime *rt, const char *text)
{
  peri__push_error(L, rt, PERI_ERR_RUNTIME, "%s",
                   text ? text : "not enough memory");
}

/* Makes the RuntimeError on top one of a class that extends that. */
static void specialise(lua_State *L, peri_runtime *rt, const char *name)
{
  lua_pushstring(L, name);
  if (peri__error_class_find(L, rt))
    lua_setmetatable(L, -2);
  else
    lua_pop(L, 1);
}

static void push_broken(lua_State *L, peri_runtime *rt, const char *why)
{
  peri__push_error(L, rt, PERI_ERR_RUNTIME,
                   "the pool is broken, its initializer failed: %s", why);
  specialise(L, rt, "BrokenThreadPool");
}

static void push_stuck(lua_State *L, peri_runtime *rt, const char *text)
{
  static const char class_[] = "DeadlockError: ";
  if (text != NULL && strncmp(text, class_, strlen(class_)) == 0)
    text += strlen(class_);
  push_failure(L, rt, text);
  specialise(L, rt, "DeadlockError");
}

/* [future] [job] [why the pool is broken]: ends the future as the job did. */
static int settle_future(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__job *job = lua_touserdata(L, 2);
  const char *broken = lua_touserdata(L, 3);
  peri__peer worker = {.trusted = true};
  switch (job->outcome) {
  case PERI__JOB_RETURNED: {
    int n = peri__decode(L, rt, &job->out, &worker);
    peri__future_resolve(L, rt, 1, n);
    return 0;
  }
  case PERI__JOB_RAISED:
    peri__decode(L, rt, &job->out, &worker);
    add_trace(L, rt, 4);
    break;
  case PERI__JOB_STUCK:
    push_stuck(L, rt, job->text);
    break;
  case PERI__JOB_BROKEN:
    push_broken(L, rt, broken);
    break;
  default:
    push_failure(L, rt, job->text);
  }
  reject(L, rt, 1);
  return 0;
}

/* Pushes the future of a job, which the pool at idx forgets. */
static void take_future(lua_State *L, peri_runtime *rt, int idx,
                        const peri__job *job)
{
  peri__external(rt, -1);
  lua_getiuservalue(L, idx, PENDING);
  lua_rawgetp(L, -1, job);
  lua_pushnil(L);
  lua_rawsetp(L, -3, job);
  lua_remove(L, -2);
}

static void settle(lua_State *L, peri_runtime *rt, int idx, peri__job *job)
{
  owned_pool *owned = lua_touserdata(L, idx);
  int status = LUA_OK;
  take_future(L, rt, idx, job);
  int future = lua_gettop(L);
  if (is_open(L, rt, future)) {
    lua_pushlightuserdata(L, rt);
    lua_pushcclosure(L, settle_future, 1);
    lua_pushvalue(L, future);
    lua_pushlightuserdata(L, job);
    lua_pushlightuserdata(L, (void *)peri__thread_pool_broken(owned->pool));
    status = lua_pcall(L, 3, 0, 0);
  }
  peri__job_free(job);
  if (status != LUA_OK && is_open(L, rt, future))
    reject(L, rt, future);
  lua_settop(L, future - 1);
}

static void settle_all(lua_State *L, peri_runtime *rt, int idx)
{
  owned_pool *owned = lua_touserdata(L, idx);
  while (!peri__list_empty(&owned->done))
    settle(L, rt, idx, (peri__job *)peri__list_shift(&owned->done));
}

/* The threads of the pool at idx have ended, or never were. */
static void finish(lua_State *L, peri_runtime *rt, int idx)
{
  owned_pool *owned = lua_touserdata(L, idx);
  peri__thread_pool_join(owned->pool);
  if (owned->ending)
    peri__external(rt, -1);
  owned->ending = false;
  if (lua_getiuservalue(L, idx, WAITERS) == LUA_TTABLE) {
    int waiters = lua_gettop(L);
    lua_pushnil(L);
    lua_setiuservalue(L, idx, WAITERS);
    lua_Integer n = (lua_Integer)lua_rawlen(L, waiters);
    for (lua_Integer i = 1; i <= n; i++) {
      lua_rawgeti(L, waiters, i);
      if (is_open(L, rt, waiters + 1))
        peri__future_resolve(L, rt, waiters + 1, 0);
      lua_settop(L, waiters);
    }
  }
  lua_pop(L, 1);
}

/* What the threads post. */
static void deliver(lua_State *L, void *argument)
{
  owned_pool *owned = argument;
  peri__check_stack(L, LUA_MINSTACK);
  if (!push_anchored(L, owned))
    return;
  if (owned->pool == NULL) { /* collected with its state */
    lua_pop(L, 1);
    return;
  }
  peri_runtime *rt = peri_of(L);
  int idx = lua_gettop(L);
  bool ended = peri__thread_pool_take_done(owned->pool, &owned->done, true);
  settle_all(L, rt, idx);
  if (ended) {
    finish(L, rt, idx);
    unanchor(L, owned);
  }
  lua_settop(L, idx - 1);
}

/* -- Messages -------------------------------------------------------------- */

/* A message to be filled; the pool's spare one if there is one. */
static peri__message *push_message(lua_State *L, int pool)
{
  peri__message *message;
  if (lua_getiuservalue(L, pool, SPARE) == LUA_TUSERDATA) {
    lua_pushnil(L);
    lua_setiuservalue(L, pool, SPARE);
    message = lua_touserdata(L, -1);
    peri__message_clear(message);
    return message;
  }
  lua_pop(L, 1);
  return peri__message_push(L);
}

/* A job of the message on top, whose userdata becomes the pool's spare. */
static peri__job *make_job(lua_State *L, int pool)
{
  peri__message *message = lua_touserdata(L, -1);
  peri__job *job = calloc(1, sizeof *job);
  if (job == NULL)
    luaL_error(L, "not enough memory");
  job->in = *message;
  *message = (peri__message){0};
  lua_setiuservalue(L, pool, SPARE);
  return job;
}

/* -- Pools ----------------------------------------------------------------- */

static owned_pool *check_pool(lua_State *L)
{
  owned_pool *owned = luaL_checkudata(L, 1, POOL);
  if (owned->pool == NULL)
    peri__throw(L, peri__rt(L), PERI_ERR_RUNTIME, "the Lua state is closing");
  return owned;
}

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
  options->sigpipe_ignored = 1; /* blocked in worker threads */
}

/* thread_pool(max_workers, prefix, initializer, ...) */
static int l_thread_pool(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_Integer max_workers = luaL_checkinteger(L, 1);
  const char *prefix = luaL_checkstring(L, 2);
  int n = lua_gettop(L) - 2;
  owned_pool *owned = lua_newuserdatauv(L, sizeof *owned, SPARE);
  int idx = lua_gettop(L);
  owned->pool = NULL;
  owned->ending = false;
  peri__list_init(&owned->done);
  luaL_setmetatable(L, POOL);
  lua_newtable(L);
  lua_setiuservalue(L, idx, PENDING);
  peri__message *message = push_message(L, idx);
  if (n > 0 && !lua_isnil(L, 3))
    peri__encode(L, rt, 3, n, PERI__MESSAGE_CALL, true, message);
  peri__worker_setup setup = {.initializer = *message};
  *message = (peri__message){0};
  fill_options(rt, &setup.options);
  setup.path = copy_path(L, "path");
  setup.cpath = copy_path(L, "cpath");
  if (max_workers > UINT16_MAX)
    max_workers = UINT16_MAX;
  owned->pool = peri__thread_pool_new(rt, &setup, (unsigned)max_workers, prefix,
                                      deliver, owned);
  if (owned->pool == NULL)
    return luaL_error(L, "not enough memory");
  lua_settop(L, idx);
  return 1;
}

static void check_takes_jobs(lua_State *L, peri_runtime *rt, owned_pool *owned)
{
  const char *broken = peri__thread_pool_broken(owned->pool);
  if (broken != NULL) {
    push_broken(L, rt, broken);
    lua_error(L);
  }
  if (peri__thread_pool_is_closed(owned->pool))
    peri__throw(L, rt, PERI_ERR_RUNTIME,
                "cannot submit a job: the executor was shut down");
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &pools_key) != LUA_TTABLE)
    peri__throw(L, rt, PERI_ERR_RUNTIME,
                "cannot submit a job: the runtime is closing");
  lua_pop(L, 1);
}

/* pool:submit(future, fn, ...) -> job */
static int l_submit(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  owned_pool *owned = check_pool(L);
  int n = lua_gettop(L) - 2;
  peri__check_future(L, rt, 2);
  check_takes_jobs(L, rt, owned);
  peri__message *message = push_message(L, 1);
  peri__encode(L, rt, 3, n, PERI__MESSAGE_CALL, true, message);
  lua_pop(L, 1);
  if (!is_anchored(L, owned))
    anchor(L, 1);
  lua_getiuservalue(L, 1, PENDING);
  lua_insert(L, -2);
  peri__job *job = make_job(L, 1);
  /* The place is made first: this may raise. */
  lua_pushvalue(L, 2);
  lua_rawsetp(L, -2, job);
  int status = peri__thread_pool_submit(owned->pool, job);
  if (status != 0) {
    lua_pushnil(L);
    lua_rawsetp(L, -2, job);
    peri__job_free(job);
    return peri__throw(L, rt, PERI_ERR_RUNTIME, "cannot start a thread: %s",
                       uv_strerror(status));
  }
  peri__external(rt, 1);
  lua_pushlightuserdata(L, job);
  return 1;
}

/* pool:withdraw(job, future): whether it had not begun. The future tells the
 * job from a later one at the same address. */
static int l_withdraw(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  owned_pool *owned = check_pool(L);
  peri__job *job = lua_touserdata(L, 2);
  peri__check_future(L, rt, 3);
  lua_getiuservalue(L, 1, PENDING);
  lua_rawgetp(L, -1, job);
  bool taken =
      lua_rawequal(L, -1, 3) && peri__thread_pool_withdraw(owned->pool, job);
  if (taken) {
    take_future(L, rt, 1, job);
    peri__job_free(job);
  }
  lua_pushboolean(L, taken);
  return 1;
}

/* pool:cancel_queued(): withdraws what has not begun, cancels its futures. */
static int l_cancel_queued(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  owned_pool *owned = check_pool(L);
  peri_list jobs;
  peri__list_init(&jobs);
  lua_settop(L, 1);
  peri__thread_pool_take_queued(owned->pool, &jobs);
  while (!peri__list_empty(&jobs)) {
    peri__job *job = (peri__job *)peri__list_shift(&jobs);
    take_future(L, rt, 1, job);
    peri__job_free(job);
    if (is_open(L, rt, 2))
      peri__future_cancel(L, rt, 2, 0);
    lua_settop(L, 1);
  }
  return 0;
}

/* pool:close(): no more jobs. */
static int l_close(lua_State *L)
{
  owned_pool *owned = check_pool(L);
  if (peri__thread_pool_is_closed(owned->pool))
    return 0;
  if (is_anchored(L, owned)) {
    owned->ending = true;
    peri__external(peri__rt(L), 1);
  }
  peri__thread_pool_close(owned->pool);
  return 0;
}

static int l_is_closed(lua_State *L)
{
  lua_pushboolean(L, peri__thread_pool_is_closed(check_pool(L)->pool));
  return 1;
}

/* pool:when_ended(future): the future is done when the threads of the closed
 * pool have ended. */
static int l_when_ended(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  owned_pool *owned = check_pool(L);
  peri__check_future(L, rt, 2);
  lua_settop(L, 2);
  if (lua_getiuservalue(L, 1, WAITERS) != LUA_TTABLE) {
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, 1, WAITERS);
  }
  lua_pushvalue(L, 2);
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  if (!is_anchored(L, owned))
    finish(L, rt, 1);
  return 0;
}

/* pool:join(): blocks the thread until those of the closed pool have ended. The
 * post that tells of their end comes all the same. */
static int l_join(lua_State *L)
{
  owned_pool *owned = check_pool(L);
  lua_settop(L, 1);
  peri__thread_pool_join(owned->pool);
  peri__thread_pool_take_done(owned->pool, &owned->done, false);
  settle_all(L, peri__rt(L), 1);
  return 0;
}

static int l_pool_gc(lua_State *L)
{
  owned_pool *owned = lua_touserdata(L, 1);
  peri__jobs_free(&owned->done);
  if (owned->pool == NULL)
    return 0;
  peri__thread_pool_close(owned->pool);
  peri__thread_pool_join(owned->pool);
  peri__thread_pool_free(owned->pool);
  owned->pool = NULL;
  return 0;
}

static void close_pool(owned_pool *owned)
{
  if (owned->pool != NULL)
    peri__thread_pool_close(owned->pool);
}

static void join_pool(owned_pool *owned)
{
  if (owned->pool != NULL)
    peri__thread_pool_join(owned->pool);
}

static void each_pool(lua_State *L, int pools, void (*fn)(owned_pool *owned))
{
  lua_pushnil(L);
  while (lua_next(L, pools)) {
    fn(lua_touserdata(L, -1));
    lua_pop(L, 1);
  }
}

/* When the runtime closes: all threads must have ended before it goes. If its
 * Lua state closes first, the pools' own finalizers have seen to that. */
static void close_pools(void *argument)
{
  peri_runtime *rt = argument;
  lua_State *L = peri_state(rt);
  int top = lua_gettop(L);
  peri__check_stack(L, LUA_MINSTACK);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &pools_key) == LUA_TTABLE) {
    each_pool(L, top + 1, close_pool);
    each_pool(L, top + 1, join_pool);
  }
  lua_pushboolean(L, false);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &pools_key);
  lua_settop(L, top);
}

/* -- The module ------------------------------------------------------------ */

/* cpu_count(): how many threads can run at once here. */
static int l_cpu_count(lua_State *L)
{
  lua_pushinteger(L, uv_available_parallelism());
  return 1;
}

static const luaL_Reg methods[] = {{"submit", l_submit},
                                   {"withdraw", l_withdraw},
                                   {"cancel_queued", l_cancel_queued},
                                   {"close", l_close},
                                   {"is_closed", l_is_closed},
                                   {"when_ended", l_when_ended},
                                   {"join", l_join},
                                   {NULL, NULL}};

static const luaL_Reg functions[] = {
    {"thread_pool", l_thread_pool}, {"cpu_count", l_cpu_count}, {NULL, NULL}};

static void push_functions(lua_State *L, peri_runtime *rt, const luaL_Reg *list)
{
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, list, 1);
}

static void make_metatable(lua_State *L, peri_runtime *rt, const char *name,
                           lua_CFunction gc, const luaL_Reg *list)
{
  luaL_newmetatable(L, name);
  lua_pushcfunction(L, gc);
  lua_setfield(L, -2, "__gc");
  push_functions(L, rt, list);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

int peri__pool_open(lua_State *L)
{
  peri_runtime *rt = peri_of(L);
  if (rt == NULL)
    return luaL_error(L, "there is no runtime on this state");
  make_metatable(L, rt, POOL, l_pool_gc, methods);
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &pools_key);
  peri__at_close(L, close_pools, rt);
  push_functions(L, rt, functions);
  return 1;
}
