/*
 * executor.c: jobs as their owner sees them: submitted, cancelled, and ended in
 * their futures (executor_results.c).
 *
 * Life. What scripts hold is a handle; collecting it closes the pool. The
 * executor itself stands in the table of executors in the registry from its
 * first job on until its workers have ended: what nobody holds any more still
 * does its jobs. The posted function finds it in that table, so a post that
 * comes late, after the runtime has closed the executors, finds nothing. Closing
 * the runtime closes every executor and waits for its workers, which do what is
 * queued first, as Python's do at exit.
 *
 * A job is part of its future, a userdata, which stands in the executor's table
 * of futures while the carrier has the job. While there are such jobs the
 * executor counts as an external wait, and when it was closed, until its workers
 * have ended.
 *
 * The future of a job that run_in_executor made belongs to a loop, and what hangs
 * on it runs there; others belong to none (job_future.c).
 */
#include <string.h>

#include "pool/executor.h"
#include "pool/wire.h"

#define EXECUTOR "perilune.ExecutorCore"
#define HANDLE "perilune.Executor"
#define MESSAGE "perilune.Message"

enum {
  FUTURES = PERI__EXECUTOR_FUTURES,
  WAITERS = PERI__EXECUTOR_WAITERS,
  SPARE = PERI__EXECUTOR_SPARE
};

/* A handle's user values: its executor, and the executor's table of futures. */
enum { HANDLE_EXECUTOR = 1, HANDLE_FUTURES };

typedef struct handle {
  peri__executor *executor;
} handle;

void peri__executor_close_pool(peri__executor *executor)
{
  executor->pool->closed = true;
  executor->pool->ops->close(executor->pool);
}

/* -- Places ----------------------------------------------------------------- */

static void reserve_place(lua_State *L, peri__executor *executor)
{
  if (executor->free_count > 0 || executor->places < executor->capacity)
    return;
  uint32_t capacity = executor->capacity ? 2 * executor->capacity : 64;
  uint32_t *places = realloc(executor->free, capacity * sizeof *places);
  if (places == NULL)
    peri__no_memory(L);
  executor->free = places;
  executor->capacity = capacity;
}

static uint32_t next_place(const peri__executor *executor)
{
  if (executor->free_count > 0)
    return executor->free[executor->free_count - 1];
  return executor->places + 1;
}

static void take_place(peri__executor *executor)
{
  if (executor->free_count > 0)
    executor->free_count--;
  else
    executor->places++;
}

/* -- Cancelling ------------------------------------------------------------- */

/* The future at idx ends as cancelled. The carrier has the job no more if the
 * table of futures is given, at an index. */
static void end_cancelled(lua_State *L, peri_runtime *rt, int idx,
                          int message_idx, int futures)
{
  peri__job_future *future = lua_touserdata(L, idx);
  peri__links_hold(L, idx);
  if (message_idx != 0)
    lua_pushvalue(L, message_idx);
  else
    lua_pushnil(L);
  peri__future_settle_cancelled(L, rt, idx, false);
  if (futures != 0)
    peri__executor_forget(L, future, futures);
  peri__links_call(L, rt);
}

/* Takes the job back; pushes the executor then. */
static bool withdraw(lua_State *L, peri__job_future *future)
{
  peri__executor *executor = future->executor;
  if (executor == NULL || executor->pool == NULL ||
      !peri__executor_push(L, executor))
    return false;
  if (executor->pool->ops->withdraw(executor->pool, &future->job))
    return true;
  lua_pop(L, 1);
  return false;
}

/* rt->job_cancel. A future of a loop ends in any case: the job of one that runs
 * is dropped when it comes home. So does one that no job ends. */
static bool cancel(lua_State *L, peri_runtime *rt, int idx, int message_idx)
{
  peri__job_future *future = lua_touserdata(L, idx);
  int top = lua_gettop(L);
  if (!lua_checkstack(L, 12)) {
    rt->cancel_lacks_memory = true;
    return false;
  }
  bool withdrawn = withdraw(L, future);
  if (withdrawn)
    lua_getiuservalue(L, top + 1, FUTURES);
  if (!withdrawn && future->future.loop == NULL && future->job.home != NULL)
    return false;
  end_cancelled(L, rt, idx, message_idx, withdrawn ? top + 2 : 0);
  if (withdrawn)
    peri__room_grant(L, rt, top + 1);
  lua_settop(L, top);
  return true;
}

/* -- Messages --------------------------------------------------------------- */

/* The executor's spare message if there is one. */
static peri__message *push_spare(lua_State *L, int executor)
{
  peri__message *message;
  if (lua_getiuservalue(L, executor, SPARE) == LUA_TUSERDATA) {
    lua_pushnil(L);
    lua_setiuservalue(L, executor, SPARE);
    message = lua_touserdata(L, -1);
    peri__message_clear(message);
    return message;
  }
  lua_pop(L, 1);
  message = lua_newuserdatauv(L, sizeof *message, 0);
  *message = (peri__message){0};
  luaL_setmetatable(L, MESSAGE);
  return message;
}

/* A message to be filled. */
static peri__message *push_message(lua_State *L, int executor)
{
  const peri__executor *this = lua_touserdata(L, executor);
  peri__message *message = push_spare(L, executor);
  if (this->pool != NULL && this->pool->blocks != NULL)
    peri__buffer_use(&message->bytes, this->pool->blocks);
  return message;
}

static int l_message_gc(lua_State *L)
{
  peri__message_fini(lua_touserdata(L, 1));
  return 0;
}

peri__message peri__executor_encode(lua_State *L, peri_runtime *rt,
                                    int executor, int first, int n)
{
  int top = lua_gettop(L);
  peri__message *message = push_message(L, executor);
  peri__encode(L, rt, first, n, PERI__MESSAGE_CALL, true, message);
  peri__message encoded = *message;
  *message = (peri__message){0};
  lua_settop(L, top);
  return encoded;
}

/* -- Submitting ------------------------------------------------------------- */

static bool is_closed(const peri__executor *executor)
{
  return executor->pool == NULL || executor->pool->closed;
}

static handle *check_handle(lua_State *L, peri_runtime *rt)
{
  void *data = lua_touserdata(L, 1);
  if (peri_likely(data == rt->last_executor && data != NULL &&
                  lua_type(L, 1) == LUA_TUSERDATA))
    return data;
  if (peri_likely(lua_type(L, 1) == LUA_TUSERDATA && lua_getmetatable(L, 1))) {
    const void *meta = lua_topointer(L, -1);
    lua_pop(L, 1);
    if (peri_likely(meta == rt->meta_executor)) {
      if (!is_closed(((handle *)data)->executor))
        rt->last_executor = data; /* its __gc is yet to come */
      return data;
    }
  }
  peri__arg_type_error(L, rt, 1, "executor");
  return NULL;
}

peri__executor *peri__check_executor(lua_State *L)
{
  handle *this = check_handle(L, peri__rt(L));
  if (this->executor->pool == NULL)
    peri__throw(L, peri__rt(L), PERI_ERR_RUNTIME, "the Lua state is closing");
  lua_getiuservalue(L, 1, HANDLE_EXECUTOR);
  return this->executor;
}

static void check_takes_jobs(lua_State *L, peri_runtime *rt,
                             peri__executor *executor)
{
  if (executor->pool == NULL)
    peri__throw(L, rt, PERI_ERR_RUNTIME, "the Lua state is closing");
  if (atomic_load(&executor->pool->broken) != NULL) {
    peri__executor_push_broken(L, rt, executor->pool);
    lua_error(L);
  }
  if (executor->pool->closed)
    peri__throw(L, rt, PERI_ERR_RUNTIME,
                "cannot schedule new futures after shutdown");
  if (executor->anchored)
    return;
  if (!peri__executors_push(L))
    peri__throw(L, rt, PERI_ERR_RUNTIME,
                "cannot submit a job: the runtime is closing");
  lua_pop(L, 1);
}

/* Pushes a future, of the loop at loop_idx or (0) of none. */
static peri__job_future *push_future(lua_State *L, peri_runtime *rt,
                                     peri__executor *executor, int loop_idx)
{
  peri_loop *loop = loop_idx != 0 ? lua_touserdata(L, loop_idx) : NULL;
  peri__job_future *future =
      lua_newuserdatauv(L, sizeof *future, loop != NULL ? 3 : 2);
  peri__future_init(&future->future, PERI_KIND_JOB, loop);
  peri__job_init(&future->job, &executor->home);
  future->executor = NULL;
  future->has_refs = false;
  peri__push_ref(L, rt, loop != NULL ? PERI_REF_FUTURE : PERI_REF_JOB);
  lua_setmetatable(L, -2);
  if (loop != NULL) {
    lua_pushvalue(L, loop_idx);
    lua_setiuservalue(L, -2, PERI_UV_LOOP);
  }
  return future;
}

static void check_started(lua_State *L, peri_runtime *rt,
                          const peri__pool *pool, int status)
{
  char text[300];
  if (peri_likely(status == 0))
    return;
  peri__pool_tell_start(pool, status, text, sizeof text);
  peri__throw(L, rt, PERI_ERR_RUNTIME, "%s", text);
}

/* Results are to come while this loop runs. May raise. */
static void attach(lua_State *L, peri_runtime *rt, peri__pool *pool)
{
  if (pool->ops->attach != NULL && rt->run != NULL)
    check_started(L, rt, pool, pool->ops->attach(pool, L, rt->run->loop));
}

/* The pool takes the job of the future, which stands in the table of futures at
 * an index. */
static void hand_over(lua_State *L, peri_runtime *rt, peri__executor *executor,
                      peri__job_future *future, int futures)
{
  peri__pool *pool = executor->pool;
  future->executor = executor;
  peri__executor_count(executor, 1);
  int status = pool->ops->submit(pool, &future->job);
  if (peri_likely(status == 0))
    return;
  peri__executor_forget(L, future, futures);
  check_takes_jobs(L, rt, executor); /* it may have been told just now */
  check_started(L, rt, pool, status);
}

/* [..., table of futures at idx, future]: the future gets a place there, which is
 * free until take_place. */
static inline void put_in_place(lua_State *L, peri__executor *executor,
                                peri__job_future *future, int idx)
{
  reserve_place(L, executor);
  future->place = next_place(executor);
  lua_pushvalue(L, idx + 1);
  lua_rawseti(L, idx, future->place);
}

/* [..., executor at idx, table of futures, future]: the job is n values from
 * index fn on, which may be anything; or the executor's first one. */
static void encode_any(lua_State *L, peri_runtime *rt, peri__executor *executor,
                       int idx, int fn, int n)
{
  peri__job_future *future = lua_touserdata(L, idx + 2);
  lua_pushboolean(L, false); /* others may submit meanwhile */
  lua_rawseti(L, idx + 1, future->place);
  peri__message *message = push_message(L, idx);
  peri__encode(L, rt, fn, n, PERI__MESSAGE_CALL, true, message);
  check_takes_jobs(L, rt, executor);
  peri__executor_anchor(L, executor, idx);
  put_in_place(L, executor, future, idx + 1);
  if (peri_unlikely(!lua_isnil(L, idx + 4))) {
    lua_pushvalue(L, idx + 4);
    lua_rawseti(L, idx + 1, -(lua_Integer)future->place);
    future->has_refs = true;
  }
  peri__job_put(&future->job, &future->job.in, message);
  lua_pushvalue(L, idx + 3);
  lua_setiuservalue(L, idx, SPARE);
  lua_settop(L, idx + 2);
}

/* How often the job of the call table at idx may be tried again. */
static uint16_t check_retries(lua_State *L, peri_runtime *rt, int idx)
{
  int type = lua_getfield(L, idx, "retries");
  lua_Integer n = lua_tointeger(L, -1);
  if (type != LUA_TNIL && (!lua_isinteger(L, -1) || n < 0))
    peri__throw(L, rt, PERI_ERR_VALUE,
                "retries must be an integer that is not negative");
  lua_pop(L, 1);
  return n < UINT16_MAX ? (uint16_t)n : UINT16_MAX;
}

/* [handle, ..., function and arguments from fn on] -> future */
static int submit(lua_State *L, peri_runtime *rt, peri__executor *executor,
                  int fn, int loop_idx, uint16_t retries)
{
  int top = lua_gettop(L), n = top - fn + 1, idx = top + 1;
  check_takes_jobs(L, rt, executor);
  attach(L, rt, executor->pool);
  peri__check_stack(L, LUA_MINSTACK);
  lua_getiuservalue(L, 1, HANDLE_FUTURES); /* at idx */
  peri__job_future *future = push_future(L, rt, executor, loop_idx);
  future->job.retries = retries;
  put_in_place(L, executor, future, idx);
  if (peri_unlikely(!executor->anchored ||
                    !peri__job_put_call(L, rt, &future->job, fn, n))) {
    lua_getiuservalue(L, 1, HANDLE_EXECUTOR);
    lua_insert(L, idx);
    encode_any(L, rt, executor, idx++, fn, n);
  }
  take_place(executor);
  hand_over(L, rt, executor, future, idx);
  return 1;
}

/* The same, or a call table at fn. */
static int submit_any(lua_State *L, peri_runtime *rt, peri__executor *executor,
                      int fn, int loop_idx)
{
  int first = peri__open_call(L, rt, fn);
  uint16_t retries =
      peri_unlikely(first != fn) ? check_retries(L, rt, fn) : (uint16_t)0;
  return submit(L, rt, executor, first, loop_idx, retries);
}

static int submitted_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)L, (void)status, (void)ctx;
  return 1;
}

/* There are as many jobs as there may be: the library waits for room. */
static peri_cold int submit_later(lua_State *L)
{
  int n = lua_gettop(L);
  lua_getfield(L, 1, "_submit_later");
  lua_insert(L, 2);
  lua_pushvalue(L, 1);
  lua_insert(L, 3);
  lua_callk(L, n, 1, 0, submitted_k);
  return 1;
}

static bool is_full(const peri__executor *executor)
{
  return executor->limit != 0 &&
         (executor->waiting > 0 ||
          executor->pending + executor->granted >= executor->limit);
}

/* executor:submit(fn, ...) -> future */
static int l_submit(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__executor *executor = check_handle(L, rt)->executor;
  if (peri_unlikely(is_full(executor)))
    return submit_later(L);
  if (peri_likely(lua_type(L, 2) == LUA_TFUNCTION))
    return submit(L, rt, executor, 2, 0, 0);
  return submit_any(L, rt, executor, 2, 0);
}

/* executor:_submit_now(fn, ...) -> future: whether there is room or not */
static int l_submit_now(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  return submit_any(L, rt, check_handle(L, rt)->executor, 2, 0);
}

/* submit_for(executor, loop, fn, ...) -> future of the loop */
static int l_submit_for(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__executor *executor = check_handle(L, rt)->executor;
  peri__check_loop(L, rt, 2);
  return submit_any(L, rt, executor, 3, 2);
}

/* -- Ending ----------------------------------------------------------------- */

/* executor:cancel_queued(): withdraws what has not begun, cancels its futures. */
static int l_cancel_queued(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, 1);
  peri__executor *executor = peri__check_executor(L); /* at 2 */
  peri_list jobs;
  peri__list_init(&jobs);
  executor->pool->ops->withdraw_all(executor->pool, &jobs);
  while (!peri__list_empty(&jobs)) {
    peri__job_future *future = peri__job_future_of(peri__list_shift(&jobs));
    lua_getiuservalue(L, 2, FUTURES);
    lua_rawgeti(L, 3, future->place);
    if (peri__job_future_is_open(future))
      end_cancelled(L, rt, 4, 0, 3);
    else
      peri__executor_forget(L, future, 3);
    lua_settop(L, 2);
  }
  peri__room_grant(L, rt, 2);
  return 0;
}

static void close_executor(peri__executor *executor)
{
  if (is_closed(executor))
    return;
  if (executor->anchored) {
    executor->ending = true;
    peri__external(executor->rt, 1);
  }
  peri__executor_close_pool(executor);
}

/* executor:_of_threads(): whether its workers are threads */
static int l_of_threads(lua_State *L)
{
  lua_settop(L, 1);
  peri__pool *pool = peri__check_executor(L)->pool;
  lua_pushboolean(L, pool == NULL || pool->ops->threads);
  return 1;
}

/* executor:close(): no more jobs. */
static int l_close(lua_State *L)
{
  peri__executor *executor = peri__check_executor(L);
  if (executor->pool != NULL && executor->pool->guest)
    peri__throw(L, peri__rt(L), PERI_ERR_RUNTIME,
                "an executor cannot be shut down by one of its jobs");
  close_executor(executor);
  peri__room_grant(L, peri__rt(L), lua_gettop(L));
  return 0;
}

/* executor:when_ended(future): the future is done when the workers of the closed
 * pool have ended. */
static int l_when_ended(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__check_future(L, rt, 2);
  lua_settop(L, 2);
  peri__executor *executor = peri__check_executor(L); /* at 3 */
  if (lua_getiuservalue(L, 3, WAITERS) != LUA_TTABLE) {
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, 3, WAITERS);
  }
  lua_pushvalue(L, 2);
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  if (!executor->anchored)
    peri__executor_finish(L, rt, 3);
  return 0;
}

/* executor:join(): blocks the thread until the workers of the closed pool have
 * ended. The post that tells of their end comes all the same. */
static int l_join(lua_State *L)
{
  lua_settop(L, 1);
  peri__executor *executor = peri__check_executor(L); /* at 2 */
  executor->pool->ops->join(executor->pool);
  peri__executor_settle(L, peri__rt(L), 2);
  return 0;
}

/* Nobody can submit any more: the workers do what there is, and end. */
static int l_handle_gc(lua_State *L)
{
  handle *this = lua_touserdata(L, 1);
  peri_runtime *rt = peri_of(L);
  if (rt != NULL && rt->last_executor == this)
    rt->last_executor = NULL;
  close_executor(this->executor);
  return 0;
}

/* -- The class -------------------------------------------------------------- */

/* Futures that the script still has are told that nothing will come. */
static void orphan_futures(lua_State *L, int idx)
{
  lua_getiuservalue(L, idx, FUTURES);
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    peri__job_future *future = lua_touserdata(L, -1);
    if (future != NULL) {
      peri__job_fini(&future->job);
      future->executor = NULL;
    }
    lua_pop(L, 1);
  }
}

static int l_gc(lua_State *L)
{
  peri__executor *executor = lua_touserdata(L, 1);
  if (executor->pool != NULL) {
    peri__executor_close_pool(executor);
    executor->pool->ops->join(executor->pool);
    peri__executor_close_peers(L, executor);
    peri__home_drop_notes(&executor->home);
    orphan_futures(L, 1);
    executor->pool->ops->free(executor->pool);
    executor->pool = NULL;
  }
  free(executor->free);
  executor->free = NULL;
  return 0;
}

/* executor:_set_spin(seconds), before anybody submits */
static int l_set_spin(lua_State *L)
{
  lua_Number seconds = luaL_checknumber(L, 2);
  lua_settop(L, 1);
  peri__executor *executor = peri__check_executor(L);
  executor->pool->spin = (uint64_t)peri__nanoseconds(seconds);
  return 0;
}

peri__executor *peri__executor_new(lua_State *L)
{
  peri__executor *executor =
      lua_newuserdatauv(L, sizeof *executor, PERI__EXECUTOR_ROOM);
  *executor = (peri__executor){.rt = peri_of(L)};
  peri__list_init(&executor->done);
  peri__home_init(&executor->home, executor->rt, peri__executor_deliver,
                  executor);
  luaL_setmetatable(L, EXECUTOR);
  lua_newtable(L);
  lua_setiuservalue(L, -2, FUTURES);
  return executor;
}

void peri__executor_push_handle(lua_State *L)
{
  handle *this = lua_newuserdatauv(L, sizeof *this, HANDLE_FUTURES);
  this->executor = lua_touserdata(L, -2);
  lua_getiuservalue(L, -2, FUTURES);
  lua_setiuservalue(L, -2, HANDLE_FUTURES);
  lua_insert(L, -2);
  lua_setiuservalue(L, -2, HANDLE_EXECUTOR);
  luaL_setmetatable(L, HANDLE);
}

static const luaL_Reg methods[] = {{"submit", l_submit},
                                   {"_submit_now", l_submit_now},
                                   {"_set_spin", l_set_spin},
                                   {"_submit_for", l_submit_for},
                                   {"_cancel_queued", l_cancel_queued},
                                   {"_of_threads", l_of_threads},
                                   {"_close", l_close},
                                   {"_when_ended", l_when_ended},
                                   {"_join", l_join},
                                   {NULL, NULL}};

static void make_metatable(lua_State *L, const char *name, lua_CFunction gc)
{
  luaL_newmetatable(L, name);
  lua_pushcfunction(L, gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}

/* The class of handles, to which the library adds; its methods are pushed. */
static void push_methods(lua_State *L, peri_runtime *rt)
{
  luaL_getmetatable(L, HANDLE);
  rt->meta_executor = lua_topointer(L, -1);
  lua_pushliteral(L, "Executor");
  lua_setfield(L, -2, "__name");
  lua_pushliteral(L, "perilune.futures");
  lua_setfield(L, -2, "__module");
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, methods, 1);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, peri__room_methods, 1);
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "__index");
  lua_remove(L, -2);
}

void peri__executor_open(lua_State *L, peri_runtime *rt)
{
  make_metatable(L, EXECUTOR, l_gc);
  make_metatable(L, MESSAGE, l_message_gc);
  make_metatable(L, HANDLE, l_handle_gc);
  push_methods(L, rt);
  peri__push_ref(L, rt, PERI_REF_CORE);
  luaL_getmetatable(L, HANDLE);
  lua_setfield(L, -2, "Executor_meta");
  lua_insert(L, -2);
  lua_setfield(L, -2, "Executor");
  lua_pop(L, 1);
  peri__job_future_open(L, rt);
  rt->job_cancel = cancel;
  peri__executors_open(L, rt);
}
