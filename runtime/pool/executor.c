/*
 * executor.c: jobs as their owner sees them: submitted, and ended in their
 * futures.
 *
 * Life. An executor is a userdata. From its first job on it stands in the table
 * of executors in the registry, until its workers have ended: what nobody holds
 * any more still does its jobs. The posted function finds it in that table, so
 * a post that comes late, after the runtime has closed the executors, finds
 * nothing. Closing the runtime closes every executor and waits for its workers,
 * which do what is queued first, as Python's do at exit.
 *
 * An executor keeps the futures of its jobs by the address of the job. Each job
 * is an external wait of the runtime from its submission to its end, and an
 * executor that was closed is one until its workers have ended.
 */
#include <string.h>

#include "pool/executor.h"
#include "pool/wire.h"

#define EXECUTOR "perilune.Executor"
#define BUFFER "perilune.Buffer"

/* User values of a pool. */
enum {
  PENDING = 1, /* job to future */
  WAITERS,     /* futures that are done when the threads have ended */
  SPARE        /* a buffer that nobody uses, or nil */
};

/* Its address is the place of the pools in the registry. */
static const char executors_key = 0;

static void job_free(peri__job *job)
{
  peri__job_fini(job);
  free(job);
}

static void jobs_free(peri_list *jobs)
{
  while (!peri__list_empty(jobs))
    job_free((peri__job *)peri__list_shift(jobs));
}

static void close_pool(peri__executor *executor)
{
  executor->pool->closed = true;
  executor->pool->ops->close(executor->pool);
}

/* -- The table of pools ---------------------------------------------------- */

static void anchor(lua_State *L, int idx)
{
  lua_rawgetp(L, LUA_REGISTRYINDEX, &executors_key);
  lua_pushvalue(L, idx);
  lua_rawsetp(L, -2, lua_touserdata(L, idx));
  lua_pop(L, 1);
}

/* Pushes the pool if it stands in the table. */
static bool push_anchored(lua_State *L, const peri__executor *executor)
{
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &executors_key) != LUA_TTABLE) {
    lua_pop(L, 1);
    return false;
  }
  bool found = lua_rawgetp(L, -1, executor) == LUA_TUSERDATA;
  lua_remove(L, -2);
  if (!found)
    lua_pop(L, 1);
  return found;
}

static bool is_anchored(lua_State *L, const peri__executor *executor)
{
  if (!push_anchored(L, executor))
    return false;
  lua_pop(L, 1);
  return true;
}

static void unanchor(lua_State *L, const peri__executor *executor)
{
  lua_rawgetp(L, LUA_REGISTRYINDEX, &executors_key);
  lua_pushnil(L);
  lua_rawsetp(L, -2, executor);
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

static void push_broken(lua_State *L, peri_runtime *rt, peri__pool *pool)
{
  peri__push_error(L, rt, PERI_ERR_RUNTIME, "the pool is broken%s",
                   atomic_load(&pool->broken));
  specialise(L, rt, pool->ops->broken_class);
}

static void push_stuck(lua_State *L, peri_runtime *rt, const char *text)
{
  static const char class_[] = "DeadlockError: ";
  if (text != NULL && strncmp(text, class_, strlen(class_)) == 0)
    text += strlen(class_);
  push_failure(L, rt, text);
  specialise(L, rt, "DeadlockError");
}

/* [future] [job] [pool]: ends the future as the job did. */
static int settle_future(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__job *job = lua_touserdata(L, 2);
  peri__pool *pool = lua_touserdata(L, 3);
  const peri__buffer *out = &job->out;
  switch (job->outcome) {
  case PERI__JOB_RETURNED: {
    int n = peri__decode(L, rt, out->data, out->length, true);
    peri__future_resolve(L, rt, 1, n);
    return 0;
  }
  case PERI__JOB_RAISED:
    peri__decode(L, rt, out->data, out->length, true);
    add_trace(L, rt, 4);
    break;
  case PERI__JOB_STUCK:
    push_stuck(L, rt, job->text);
    break;
  case PERI__JOB_BROKEN:
    push_broken(L, rt, pool);
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
  peri__executor *executor = lua_touserdata(L, idx);
  atomic_fetch_sub(&executor->pool->pending, 1);
  peri__external(rt, -1);
  lua_getiuservalue(L, idx, PENDING);
  lua_rawgetp(L, -1, job);
  lua_pushnil(L);
  lua_rawsetp(L, -3, job);
  lua_remove(L, -2);
}

static void settle(lua_State *L, peri_runtime *rt, int idx, peri__job *job)
{
  peri__executor *executor = lua_touserdata(L, idx);
  int status = LUA_OK;
  take_future(L, rt, idx, job);
  int future = lua_gettop(L);
  if (is_open(L, rt, future)) {
    lua_pushlightuserdata(L, rt);
    lua_pushcclosure(L, settle_future, 1);
    lua_pushvalue(L, future);
    lua_pushlightuserdata(L, job);
    lua_pushlightuserdata(L, executor->pool);
    status = lua_pcall(L, 3, 0, 0);
  }
  job_free(job);
  if (status != LUA_OK && is_open(L, rt, future))
    reject(L, rt, future);
  lua_settop(L, future - 1);
}

static void settle_all(lua_State *L, peri_runtime *rt, int idx)
{
  peri__executor *executor = lua_touserdata(L, idx);
  peri__home_take(&executor->home, &executor->done);
  while (!peri__list_empty(&executor->done))
    settle(L, rt, idx, (peri__job *)peri__list_shift(&executor->done));
}

/* The threads of the pool at idx have ended, or never were. */
static void finish(lua_State *L, peri_runtime *rt, int idx)
{
  peri__executor *executor = lua_touserdata(L, idx);
  executor->pool->ops->join(executor->pool);
  if (executor->ending)
    peri__external(rt, -1);
  executor->ending = false;
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
  peri__executor *executor = argument;
  peri__check_stack(L, LUA_MINSTACK);
  if (!push_anchored(L, executor))
    return;
  if (executor->pool == NULL) { /* collected with its state */
    lua_pop(L, 1);
    return;
  }
  peri_runtime *rt = peri_of(L);
  int idx = lua_gettop(L);
  bool ended = atomic_load(&executor->pool->ended); /* before the last jobs */
  settle_all(L, rt, idx);
  if (ended) {
    finish(L, rt, idx);
    unanchor(L, executor);
  }
  lua_settop(L, idx - 1);
}

/* -- Buffers --------------------------------------------------------------- */

/* A buffer to make a message in; the pool's spare one if there is one. */
static peri__buffer *push_buffer(lua_State *L, int pool)
{
  peri__buffer *buffer;
  if (lua_getiuservalue(L, pool, SPARE) == LUA_TUSERDATA) {
    lua_pushnil(L);
    lua_setiuservalue(L, pool, SPARE);
    buffer = lua_touserdata(L, -1);
    buffer->length = 0;
    return buffer;
  }
  lua_pop(L, 1);
  buffer = lua_newuserdatauv(L, sizeof *buffer, 0);
  *buffer = (peri__buffer){0};
  luaL_setmetatable(L, BUFFER);
  return buffer;
}

static int l_buffer_gc(lua_State *L)
{
  peri__buffer_fini(lua_touserdata(L, 1));
  return 0;
}

/* A job of the message in the buffer on top, which becomes the spare one. */
static peri__job *make_job(lua_State *L, peri__executor *executor, int idx)
{
  peri__job *job = malloc(sizeof *job);
  if (job == NULL)
    peri__no_memory(L);
  peri__job_init(job, &executor->home);
  peri__job_put(job, &job->in, lua_touserdata(L, -1));
  lua_setiuservalue(L, idx, SPARE);
  return job;
}

/* -- Pools ----------------------------------------------------------------- */

static peri__executor *check_executor(lua_State *L)
{
  peri__executor *executor = luaL_checkudata(L, 1, EXECUTOR);
  if (executor->pool == NULL)
    peri__throw(L, peri__rt(L), PERI_ERR_RUNTIME, "the Lua state is closing");
  return executor;
}

static void check_takes_jobs(lua_State *L, peri_runtime *rt,
                             peri__executor *executor)
{
  if (atomic_load(&executor->pool->broken) != NULL) {
    push_broken(L, rt, executor->pool);
    lua_error(L);
  }
  if (executor->pool->closed)
    peri__throw(L, rt, PERI_ERR_RUNTIME,
                "cannot submit a job: the executor was shut down");
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &executors_key) != LUA_TTABLE)
    peri__throw(L, rt, PERI_ERR_RUNTIME,
                "cannot submit a job: the runtime is closing");
  lua_pop(L, 1);
}

/* pool:submit(future, fn, ...) -> job */
static int l_submit(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__executor *executor = check_executor(L);
  int n = lua_gettop(L) - 2;
  peri__check_future(L, rt, 2);
  check_takes_jobs(L, rt, executor);
  peri__buffer *message = push_buffer(L, 1);
  peri__encode(L, rt, 3, n, PERI__MESSAGE_CALL, message);
  if (!is_anchored(L, executor))
    anchor(L, 1);
  lua_getiuservalue(L, 1, PENDING);
  lua_insert(L, -2);
  peri__job *job = make_job(L, executor, 1);
  /* The place is made first: this may raise. */
  lua_pushvalue(L, 2);
  lua_rawsetp(L, -2, job);
  atomic_fetch_add(&executor->pool->pending, 1);
  int status = executor->pool->ops->submit(executor->pool, job);
  if (status != 0) {
    atomic_fetch_sub(&executor->pool->pending, 1);
    lua_pushnil(L);
    lua_rawsetp(L, -2, job);
    job_free(job);
    return peri__throw(L, rt, PERI_ERR_RUNTIME, "cannot start a worker: %s",
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
  peri__executor *executor = check_executor(L);
  peri__job *job = lua_touserdata(L, 2);
  peri__check_future(L, rt, 3);
  lua_getiuservalue(L, 1, PENDING);
  lua_rawgetp(L, -1, job);
  bool taken = lua_rawequal(L, -1, 3) &&
               executor->pool->ops->withdraw(executor->pool, job);
  if (taken) {
    take_future(L, rt, 1, job);
    job_free(job);
  }
  lua_pushboolean(L, taken);
  return 1;
}

/* pool:cancel_queued(): withdraws what has not begun, cancels its futures. */
static int l_cancel_queued(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__executor *executor = check_executor(L);
  peri_list jobs;
  peri__list_init(&jobs);
  lua_settop(L, 1);
  executor->pool->ops->withdraw_all(executor->pool, &jobs);
  while (!peri__list_empty(&jobs)) {
    peri__job *job = (peri__job *)peri__list_shift(&jobs);
    take_future(L, rt, 1, job);
    job_free(job);
    if (is_open(L, rt, 2))
      peri__future_cancel(L, rt, 2, 0);
    lua_settop(L, 1);
  }
  return 0;
}

/* pool:close(): no more jobs. */
static int l_close(lua_State *L)
{
  peri__executor *executor = check_executor(L);
  if (executor->pool->closed)
    return 0;
  if (is_anchored(L, executor)) {
    executor->ending = true;
    peri__external(peri__rt(L), 1);
  }
  close_pool(executor);
  return 0;
}

static int l_is_closed(lua_State *L)
{
  lua_pushboolean(L, check_executor(L)->pool->closed);
  return 1;
}

/* pool:when_ended(future): the future is done when the threads of the closed
 * pool have ended. */
static int l_when_ended(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__executor *executor = check_executor(L);
  peri__check_future(L, rt, 2);
  lua_settop(L, 2);
  if (lua_getiuservalue(L, 1, WAITERS) != LUA_TTABLE) {
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, 1, WAITERS);
  }
  lua_pushvalue(L, 2);
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  if (!is_anchored(L, executor))
    finish(L, rt, 1);
  return 0;
}

/* pool:join(): blocks the thread until those of the closed pool have ended. The
 * post that tells of their end comes all the same. */
static int l_join(lua_State *L)
{
  peri__executor *executor = check_executor(L);
  lua_settop(L, 1);
  executor->pool->ops->join(executor->pool);
  settle_all(L, peri__rt(L), 1);
  return 0;
}

static int l_gc(lua_State *L)
{
  peri__executor *executor = lua_touserdata(L, 1);
  jobs_free(&executor->done);
  if (executor->pool == NULL)
    return 0;
  close_pool(executor);
  executor->pool->ops->join(executor->pool);
  executor->pool->ops->free(executor->pool);
  executor->pool = NULL;
  return 0;
}

static void close_if_made(peri__executor *executor)
{
  if (executor->pool != NULL)
    close_pool(executor);
}

static void join_pool(peri__executor *executor)
{
  if (executor->pool != NULL)
    executor->pool->ops->join(executor->pool);
}

static void each_pool(lua_State *L, int pools,
                      void (*fn)(peri__executor *executor))
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
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &executors_key) == LUA_TTABLE) {
    each_pool(L, top + 1, close_if_made);
    each_pool(L, top + 1, join_pool);
  }
  lua_pushboolean(L, false);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &executors_key);
  lua_settop(L, top);
}

/* -- The class -------------------------------------------------------------- */

peri__executor *peri__executor_new(lua_State *L)
{
  peri__executor *executor = lua_newuserdatauv(L, sizeof *executor, SPARE);
  executor->pool = NULL;
  executor->ending = false;
  peri__list_init(&executor->done);
  peri__home_init(&executor->home, peri_of(L), deliver, executor);
  luaL_setmetatable(L, EXECUTOR);
  lua_newtable(L);
  lua_setiuservalue(L, -2, PENDING);
  return executor;
}

peri__buffer peri__executor_encode(lua_State *L, peri_runtime *rt, int executor,
                                   int first, int n)
{
  peri__buffer *message = push_buffer(L, executor);
  peri__encode(L, rt, first, n, PERI__MESSAGE_CALL, message);
  peri__buffer encoded = *message;
  *message = (peri__buffer){0};
  lua_pop(L, 1);
  return encoded;
}

static const luaL_Reg methods[] = {{"submit", l_submit},
                                   {"withdraw", l_withdraw},
                                   {"cancel_queued", l_cancel_queued},
                                   {"close", l_close},
                                   {"is_closed", l_is_closed},
                                   {"when_ended", l_when_ended},
                                   {"join", l_join},
                                   {NULL, NULL}};

static void make_metatable(lua_State *L, peri_runtime *rt, const char *name,
                           lua_CFunction gc, const luaL_Reg *list)
{
  luaL_newmetatable(L, name);
  lua_pushcfunction(L, gc);
  lua_setfield(L, -2, "__gc");
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, list, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

void peri__executor_open(lua_State *L, peri_runtime *rt)
{
  static const luaL_Reg none[] = {{NULL, NULL}};
  make_metatable(L, rt, EXECUTOR, l_gc, methods);
  make_metatable(L, rt, BUFFER, l_buffer_gc, none);
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &executors_key);
  peri__at_close(L, close_pools, rt);
}
