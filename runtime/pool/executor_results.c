/*
 * executor_results.c: how jobs end in their futures.
 *
 * What comes home is looked at in a posted function. Results come in batches,
 * each under one protected call; an error of one job's values is the error of
 * that job's future, and the batch goes on. When the workers of a closed pool have
 * ended, those who wait for that are told, behind their last jobs.
 */
#include <string.h>

#include "pool/executor.h"
#include "pool/wire.h"

enum {
  FUTURES = PERI__EXECUTOR_FUTURES,
  WAITERS = PERI__EXECUTOR_WAITERS,
  SPARE = PERI__EXECUTOR_SPARE
};

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

void peri__executor_push_broken(lua_State *L, peri_runtime *rt,
                                peri__pool *pool)
{
  const char *why = atomic_load(&pool->broken);
  peri__push_error(L, rt, PERI_ERR_RUNTIME, "the pool is broken%s",
                   why != NULL ? why : ""); /* of a job's own pool: not known */
  specialise(L, rt, pool->ops->broken_class);
}

/* [job]: pushes where its function is defined, or its name */
static int push_function(lua_State *L)
{
  const peri__job *job = lua_touserdata(L, 1);
  peri__peer trusted = {.trusted = true};
  peri__decode(L, peri_of(L), &job->in, &trusted);
  peri__push_place(L, 2);
  return 1;
}

/* Its worker has died while it ran. */
static void push_died(lua_State *L, peri_runtime *rt, peri__pool *pool,
                      const peri__job *job)
{
  lua_pushcfunction(L, push_function);
  lua_pushlightuserdata(L, (void *)job);
  if (lua_pcall(L, 1, 1, 0) != LUA_OK || !lua_isstring(L, -1)) {
    lua_pop(L, 1);
    lua_pushliteral(L, "the job");
  }
  peri__push_error(L, rt, PERI_ERR_RUNTIME, "%s while it ran %s", job->text,
                   lua_tostring(L, -1));
  lua_remove(L, -2);
  specialise(L, rt, pool->ops->broken_class);
}

/* Pushes the error that the job came to. */
static void push_job_error(lua_State *L, peri_runtime *rt, peri__pool *pool,
                           const peri__job *job, peri__peer *peer)
{
  int idx = lua_gettop(L) + 1;
  switch ((peri__outcome)job->outcome) {
  case PERI__JOB_RAISED:
    peri__decode(L, rt, &job->out, peer);
    add_trace(L, rt, idx);
    break;
  case PERI__JOB_CANCELLED:
    lua_pushnil(L);
    peri__push_cancelled(L, rt);
    break;
  case PERI__JOB_BROKEN:
    if (job->text != NULL)
      push_died(L, rt, pool, job);
    else
      peri__executor_push_broken(L, rt, pool);
    break;
  default:
    push_failure(L, rt, job->text);
  }
}

/* The error on top of the stack ends the future at idx. */
static void reject(lua_State *L, peri_runtime *rt, int idx)
{
  peri_future *future = lua_touserdata(L, idx);
  bool interrupted =
      ((peri__job_future *)future)->job.outcome == PERI__JOB_CANCELLED;
  if ((future->loop != NULL || interrupted) &&
      peri__is_cancelled_error(L, rt, -1))
    peri__future_settle_cancelled(L, rt, idx, true);
  else
    peri__future_reject(L, rt, idx);
}

/* Of a batch: what stands on the stack of settle_batch. */
typedef struct batch {
  peri__executor *executor;
  peri__job_future *current; /* whose results are being decoded, or NULL */
} batch;

/* Ends the future on top of the stack as its job did, with the values above idx
 * (-1: with the error on top), and pops all that. */
static void end_future(lua_State *L, peri_runtime *rt, peri__job_future *future,
                       int futures, int idx, int values)
{
  bool has_links = future->future.flags & PERI_F_LINKS;
  bool inline_links = has_links && future->future.loop == NULL;
  if (inline_links) {
    peri__links_take(L, &future->future, idx);
    lua_insert(L, idx + 1);
  }
  if (values >= 0)
    peri__future_resolve(L, rt, idx, values);
  else
    reject(L, rt, idx);
  peri__executor_forget(L, future, futures);
  if (inline_links)
    peri__links_call(L, rt);
  lua_settop(L, idx - 1);
}

/* The memory of a large answer is for the next message. The executor is at idx.
 */
static void keep_memory(lua_State *L, peri__job *job, int idx)
{
  peri__buffer *buffer = &job->out.bytes;
  if (peri_likely(buffer->data == job->room) || buffer->blocks != NULL ||
      buffer->capacity > PERI__BUFFER_KEPT)
    return;
  lua_getiuservalue(L, idx, SPARE);
  peri__message *spare = lua_touserdata(L, -1);
  if (spare != NULL && spare->bytes.capacity < buffer->capacity)
    peri__buffer_swap(&spare->bytes, buffer);
  lua_pop(L, 1);
}

/* Whether the job has returned nothing, and nobody is to be told. */
static bool ends_quietly(const peri__job_future *future)
{
  return future->job.outcome == PERI__JOB_RETURNED &&
         peri__message_is_none(&future->job.out) &&
         peri__list_empty(&future->future.callbacks);
}

/* [executor, batch]: ends the futures of all jobs that are done. */
static int settle_batch(lua_State *L)
{
  enum { EXECUTOR_AT = 1, FUTURES_AT = 3, FUTURE_AT = 4 };
  peri_runtime *rt = peri__rt(L);
  peri__peer worker = {.trusted = true};
  batch *this = lua_touserdata(L, 2);
  peri__executor *executor = this->executor;
  peri__check_stack(L, PERI_ROOM);
  lua_getiuservalue(L, EXECUTOR_AT, FUTURES);
  while (!peri__list_empty(&executor->done)) {
    peri__job_future *future =
        peri__job_future_of(peri__list_shift(&executor->done));
    peri__job *job = &future->job;
    if (peri_likely(ends_quietly(future) && peri__job_future_is_open(future))) {
      future->future.state = PERI_FINISHED;
      peri__executor_forget(L, future, FUTURES_AT);
      continue;
    }
    lua_rawgeti(L, FUTURES_AT, future->place);
    if (!peri__job_future_is_open(future)) {
      peri__executor_forget(L, future, FUTURES_AT);
      lua_settop(L, FUTURES_AT);
      continue;
    }
    int values = -1;
    peri__peer *peer = job->peer != NULL ? job->peer : &worker;
    this->current = future;
    if (peri_unlikely(job->peer != NULL && peer->serial == 0))
      peri__peer_open(L, rt, peer);
    if (peri_likely(job->outcome == PERI__JOB_RETURNED))
      values = peri__message_is_none(&job->out)
                   ? 0
                   : peri__decode(L, rt, &job->out, peer);
    else
      push_job_error(L, rt, executor->pool, job, peer);
    this->current = NULL;
    keep_memory(L, job, EXECUTOR_AT);
    end_future(L, rt, future, FUTURES_AT, FUTURE_AT, values);
  }
  return 0;
}

/* The error on top of the stack is that of the job whose results could not be
 * had. */
static void fail_current(lua_State *L, peri_runtime *rt, int idx,
                         peri__job_future *future)
{
  int error = lua_gettop(L);
  lua_getiuservalue(L, idx, FUTURES);
  lua_rawgeti(L, -1, future->place);
  lua_pushvalue(L, error);
  end_future(L, rt, future, error + 1, error + 2, -1);
}

void peri__executor_settle(lua_State *L, peri_runtime *rt, int idx)
{
  peri__executor *executor = lua_touserdata(L, idx);
  int top = lua_gettop(L);
  peri__home_take(&executor->home, &executor->done);
  while (!peri__list_empty(&executor->done)) {
    batch this = {.executor = executor};
    lua_pushlightuserdata(L, rt);
    lua_pushcclosure(L, settle_batch, 1);
    lua_pushvalue(L, idx);
    lua_pushlightuserdata(L, &this);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK && this.current != NULL)
      fail_current(L, rt, idx, this.current);
    lua_settop(L, top);
  }
  peri__room_grant(L, rt, idx);
}

void peri__executor_close_peers(lua_State *L, peri__executor *executor)
{
  if (executor->pool->ops->close_peers != NULL)
    executor->pool->ops->close_peers(executor->pool, L);
}

void peri__executor_finish(lua_State *L, peri_runtime *rt, int idx)
{
  peri__executor *executor = lua_touserdata(L, idx);
  executor->pool->ops->join(executor->pool);
  peri__executor_close_peers(L, executor);
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
      peri_future *future = lua_touserdata(L, -1);
      if (future->state == PERI_PENDING && !future->loop->closed)
        peri__future_resolve(L, rt, waiters + 1, 0);
      lua_settop(L, waiters);
    }
  }
  lua_pop(L, 1);
}

/* What workers that have gone sent has been seen, unless more came meanwhile. */
static void bury(lua_State *L, peri__executor *executor)
{
  if (executor->pool->ops->bury != NULL && peri__list_empty(&executor->done) &&
      peri__home_empty(&executor->home))
    executor->pool->ops->bury(executor->pool, L);
}

void peri__executor_deliver(lua_State *L, void *argument)
{
  peri__executor *executor = argument;
  peri__check_stack(L, LUA_MINSTACK);
  if (!peri__executor_push(L, executor))
    return;
  if (executor->pool == NULL) { /* collected with its state */
    lua_pop(L, 1);
    return;
  }
  peri_runtime *rt = executor->rt;
  int idx = lua_gettop(L);
  bool ended = atomic_load(&executor->pool->ended); /* before the last jobs */
  peri__executor_settle(L, rt, idx);
  peri__home_read_notes(&executor->home, L);
  bury(L, executor);
  if (ended && executor->anchored) {
    peri__executor_finish(L, rt, idx);
    peri__executor_unanchor(L, executor);
  }
  lua_settop(L, idx - 1);
}
