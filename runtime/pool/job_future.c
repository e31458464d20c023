/*
 * job_future.c: what scripts call on the future of a job.
 *
 * It is a future of the core (future.c) that belongs to no loop: tasks of any
 * loop of the runtime await it. What is Python's own of it: `result` and
 * `exception` wait, with a timeout, in the task or outside of loops; a wait there
 * leaves the job alone when the task is cancelled; and done callbacks are called
 * where the future becomes done.
 *
 * Some are no executor's: those of run_coroutine_threadsafe, which the library ends.
 * The job in them belongs to no home.
 */
#include "pool/executor.h"

static peri__job_future *check_future(lua_State *L, peri_runtime *rt)
{
  peri_future *future = peri__to_future(L, rt, 1);
  if (peri_unlikely(future == NULL || future->kind != PERI_KIND_JOB))
    peri__arg_type_error(L, rt, 1, "Future");
  return (peri__job_future *)future;
}

/* The values of the done future at 1. */
static int return_result(lua_State *L, peri_runtime *rt)
{
  return peri__future_return(L, rt, 1);
}

/* Its error, or nil. */
static int return_exception(lua_State *L, peri_runtime *rt)
{
  peri_future *future = lua_touserdata(L, 1);
  if (future->state == PERI_CANCELLED)
    return peri__future_return(L, rt, 1); /* which raises */
  if (future->state == PERI_FINISHED) {
    lua_pushnil(L);
    return 1;
  }
  peri__check_stack(L, 8);
  peri__future_push_error(L, rt, 1);
  peri__future_carry_trace(L, rt, 1, lua_gettop(L));
  return 1;
}

static int parked_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  peri_runtime *rt = peri__rt(L);
  peri__unpark(L, rt);
  return ctx ? return_exception(L, rt) : return_result(L, rt);
}

static int waited_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  return ctx ? return_exception(L, peri__rt(L)) : return_result(L, peri__rt(L));
}

/* future:result(timeout), future:exception(timeout): with a timeout, and outside
 * of loops, the library waits. */
static int wait_for_end(lua_State *L, bool exception, const char *what)
{
  peri_runtime *rt = peri__rt(L);
  peri_future *future = &check_future(L, rt)->future;
  lua_settop(L, 2);
  if (future->state != PERI_PENDING)
    return waited_k(L, LUA_OK, exception);
  if (rt->run == NULL || !lua_isnil(L, 2)) {
    lua_getfield(L, 1, "_wait");
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    lua_pushstring(L, what);
    lua_callk(L, 3, 0, exception, waited_k);
    return waited_k(L, LUA_OK, exception);
  }
  peri_task *task = peri__wait_check(L, rt, what);
  task->resource = future;
  task->wait = PERI_WAIT_RESULT;
  if (peri_unlikely(task->flags & PERI_T_MUST_CANCEL))
    peri__park_cancelled(task);
  else
    peri__list_push(&future->callbacks, &task->timer.node);
  return peri__park(L, rt, exception, parked_k);
}

static int l_result(lua_State *L)
{
  return wait_for_end(L, false, "result");
}

static int l_exception(lua_State *L)
{
  return wait_for_end(L, true, "exception");
}

/* What the options at 2 say: whether a job that runs is interrupted, and the
 * seconds it has then, as nanoseconds (-1: the pool's). */
static bool wants_running(lua_State *L, peri_runtime *rt, int64_t *grace)
{
  *grace = -1;
  if (lua_isnoneornil(L, 2))
    return false;
  if (!lua_istable(L, 2))
    peri__arg_type_error(L, rt, 2, "table of options");
  lua_getfield(L, 2, "running");
  bool wants = lua_toboolean(L, -1);
  lua_getfield(L, 2, "grace");
  if (!lua_isnil(L, -1)) {
    lua_Number seconds = lua_tonumber(L, -1);
    if (lua_type(L, -1) != LUA_TNUMBER || !(seconds >= 0))
      peri__throw(L, rt, PERI_ERR_VALUE,
                  "grace must be a number of seconds, at least 0");
    *grace = peri__nanoseconds(seconds);
  }
  lua_pop(L, 2);
  return wants;
}

/* future:cancel([{running=, grace=}]) */
static int l_cancel(lua_State *L)
{
  int64_t grace;
  peri_runtime *rt = peri__rt(L);
  peri__job_future *future = check_future(L, rt);
  peri_future *head = &future->future;
  bool running = wants_running(L, rt, &grace);
  lua_settop(L, 1);
  bool cancelled = head->state == PERI_CANCELLED;
  peri__pool *pool = future->executor ? future->executor->pool : NULL;
  if (head->state == PERI_PENDING)
    cancelled = peri__future_cancel_checked(L, rt, 1, 0);
  if (running && head->state == PERI_PENDING && pool != NULL)
    cancelled = pool->ops->interrupt(pool, &future->job, grace);
  else if (running && pool != NULL && pool->guest) /* it may have begun */
    pool->ops->interrupt(pool, &future->job, grace);
  lua_pushboolean(L, cancelled);
  return 1;
}

static int l_running(lua_State *L)
{
  peri__job_future *future = check_future(L, peri__rt(L));
  peri__pool *pool = future->executor ? future->executor->pool : NULL;
  lua_pushboolean(L, future->future.state == PERI_PENDING && pool != NULL &&
                         pool->ops->running(pool, &future->job));
  return 1;
}

/* job_future(x): whether it is the future of a job that belongs to no loop */
static int l_is_job_future(lua_State *L)
{
  peri_future *future = peri__to_future(L, peri__rt(L), 1);
  lua_pushboolean(L, future != NULL && future->kind == PERI_KIND_JOB &&
                         future->loop == NULL);
  return 1;
}

/* -- Futures that no executor ends ------------------------------------------ */

/* new_job_future() -> future: `resolve_job_future` ends it, or `reject_job_future`,
 * or its cancel. */
static int l_new(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__job_future *future = lua_newuserdatauv(L, sizeof *future, 2);
  peri__future_init(&future->future, PERI_KIND_JOB, NULL);
  peri__job_init(&future->job, NULL);
  future->executor = NULL;
  future->has_refs = false;
  peri__push_ref(L, rt, PERI_REF_JOB);
  lua_setmetatable(L, -2);
  return 1;
}

/* Has the future at 1 end with what stands above it, unless it has ended. */
static int end_by_hand(lua_State *L, bool failed)
{
  peri_runtime *rt = peri__rt(L);
  peri__job_future *future = check_future(L, rt);
  int n = lua_gettop(L) - 1;
  if (future->job.home != NULL)
    return peri__arg_type_error(L, rt, 1, "future that no job ends");
  if (future->future.state != PERI_PENDING)
    return 0;
  peri__check_stack(L, LUA_MINSTACK);
  if (n > 1)
    peri__future_pack(L, n);
  peri__links_take(L, &future->future, 1);
  lua_insert(L, 2);
  if (failed)
    peri__future_reject(L, rt, 1);
  else
    peri__future_resolve_packed(L, 1, n);
  peri__links_call(L, rt);
  return 0;
}

/* resolve_job_future(future, ...) */
static int l_resolve(lua_State *L)
{
  return end_by_hand(L, false);
}

/* reject_job_future(future, error) */
static int l_reject(lua_State *L)
{
  lua_settop(L, 2);
  return end_by_hand(L, true);
}

static const luaL_Reg methods[] = {{"result", l_result},
                                   {"exception", l_exception},
                                   {"cancel", l_cancel},
                                   {"running", l_running},
                                   {NULL, NULL}};

/* now(): seconds of the real clock */
static int l_now(lua_State *L)
{
  lua_pushnumber(L, (lua_Number)uv_hrtime() / 1e9);
  return 1;
}

static const luaL_Reg functions[] = {{"is_job_future", l_is_job_future},
                                     {"new_job_future", l_new},
                                     {"resolve_job_future", l_resolve},
                                     {"reject_job_future", l_reject},
                                     {"now", l_now},
                                     {NULL, NULL}};

void peri__job_future_open(lua_State *L, peri_runtime *rt)
{
  peri__push_methods(L, rt, PERI_REF_JOB);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, methods, 1);
  peri__push_ref(L, rt, PERI_REF_CORE);
  lua_insert(L, -2);
  lua_setfield(L, -2, "JobFuture");
  lua_pop(L, 1);
  peri__register(L, rt, functions);
}
