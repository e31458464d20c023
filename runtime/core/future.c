/*
 * future.c: futures, and the part of them that tasks and gathers share.
 *
 * A future that becomes done makes the nodes of its callbacks ready, in the
 * order in which they were added, and calls nothing itself: a waiting task, a
 * gather (C nodes that live in those objects), or a link, the userdata that
 * holds a callback of Lua's (link.c). Becoming done needs no memory.
 *
 * An error that nobody looked at is told by the trace of the failure, a
 * userdata with a finaliser (class Unseen below). So only a future that failed
 * costs a finaliser.
 */
#include "debug.h"
#include "inspect.h"

/* Stands in a failed future's PERI_UV_LINKS: the trace, and the report if the
 * error is never retrieved. */
typedef struct peri_unseen {
  peri_node node;  /* in loop->unseen until told */
  peri_loop *loop; /* NULL: the loop has closed */
  bool task;
  bool told; /* somebody retrieved the error, or it was reported */
} peri_unseen;

enum {
  UNSEEN_UV_TRACE = 1,
  UNSEEN_UV_ERROR = 2,
  UNSEEN_UV_NAME = 3,
  UNSEEN_UV_SOURCE = 4, /* the trace of the future's making, in debug mode */
  UNSEEN_UVS
};

static const char *const kind_names[] = {"Future", "Task", "gather",
                                         "the future of a job"};

static const char *const state_names[] = {"pending", "finished", "failed",
                                          "cancelled"};

/* -- Finding and making ------------------------------------------------------- */

peri_future *peri__to_future(lua_State *L, peri_runtime *rt, int idx)
{
  if (lua_type(L, idx) != LUA_TUSERDATA || !lua_getmetatable(L, idx))
    return NULL;
  const void *meta = lua_topointer(L, -1);
  lua_pop(L, 1);
  if (meta == rt->meta_task || meta == rt->meta_future ||
      meta == rt->meta_gather || meta == rt->meta_job)
    return lua_touserdata(L, idx);
  return NULL;
}

peri_future *peri__check_future(lua_State *L, peri_runtime *rt, int arg)
{
  peri_future *future = peri__to_future(L, rt, arg);
  if (peri_unlikely(future == NULL))
    peri__arg_type_error(L, rt, arg, "Future");
  return future;
}

void peri__future_init(peri_future *future, peri_future_kind kind,
                       peri_loop *loop)
{
  peri__list_init(&future->callbacks);
  future->loop = loop;
  future->results = 0;
  future->kind = (uint8_t)kind;
  future->state = PERI_PENDING;
  future->flags = 0;
}

peri_future *peri__future_new(lua_State *L, peri_runtime *rt, peri_loop *loop,
                              int loop_idx)
{
  loop_idx = lua_absindex(L, loop_idx);
  peri_future *future = lua_newuserdatauv(L, sizeof *future, 3);
  peri__future_init(future, PERI_KIND_FUTURE, loop);
  peri__push_ref(L, rt, PERI_REF_FUTURE);
  lua_setmetatable(L, -2);
  lua_pushvalue(L, loop_idx);
  lua_setiuservalue(L, -2, PERI_UV_LOOP);
  return future;
}

/* -- Becoming done --------------------------------------------------------------- */

/* Nobody calls them any more. */
static void drop_callbacks(peri_future *future)
{
  while (!peri__list_empty(&future->callbacks)) {
    peri_node *node = peri__list_shift(&future->callbacks);
    if (node->kind == PERI_NODE_LINK)
      peri__link_drop(node);
  }
}

/* The loop in which a callback is to run. */
static peri_loop *loop_of(const peri_node *node)
{
  switch ((peri_node_kind)node->kind) {
  case PERI_NODE_TASK:
    return peri__node_task((peri_node *)node)->future.loop;
  case PERI_NODE_CHILD:
    return peri__child_loop(node);
  case PERI_NODE_AWAITED:
    return peri__several_loop(node);
  case PERI_NODE_MEMBER:
    return peri__crew_loop(node);
  default:
    return peri__link_loop(node);
  }
}

/* Of a future without a loop: each callback goes to its own. */
static void schedule_apart(peri_future *future)
{
  while (!peri__list_empty(&future->callbacks)) {
    peri_node *node = peri__list_shift(&future->callbacks);
    peri_loop *loop = loop_of(node);
    if (node->kind == PERI_NODE_TASK)
      peri__node_task(node)->wait = PERI_WAIT_WOKEN;
    else if (node->kind == PERI_NODE_CHILD)
      peri__child_ended(node);
    if (!loop->closed)
      peri__loop_ready(loop, node);
    else if (node->kind == PERI_NODE_LINK)
      peri__link_drop(node);
  }
}

static void schedule(lua_State *L, peri_future *future, int idx)
{
  if (peri_unlikely(future->loop == NULL)) {
    schedule_apart(future);
    return;
  }
  if (peri_unlikely(future->loop->closed)) {
    drop_callbacks(future);
    return;
  }
  if (future->flags & PERI_F_LINKS)
    peri__links_anchor(L, future, idx);
  peri_list *node = future->callbacks.next;
  for (; node != &future->callbacks; node = node->next) {
    uint8_t kind = ((peri_node *)node)->kind;
    if (kind == PERI_NODE_TASK)
      peri__node_task((peri_node *)node)->wait = PERI_WAIT_WOKEN;
    else if (kind == PERI_NODE_CHILD)
      peri__child_ended((peri_node *)node);
  }
  peri__list_splice(&future->loop->ready, &future->callbacks);
}

void peri__future_pack(lua_State *L, int n)
{
  lua_createtable(L, n, 0);
  lua_insert(L, -(n + 1));
  for (int i = n; i >= 1; i--)
    lua_rawseti(L, -(i + 1), i);
}

void peri__future_resolve(lua_State *L, peri_runtime *rt, int idx, int n)
{
  (void)rt;
  idx = lua_absindex(L, idx);
  if (n > 1)
    peri__future_pack(L, n);
  peri__future_resolve_packed(L, idx, n);
}

void peri__future_resolve_packed(lua_State *L, int idx, int n)
{
  peri_future *future = lua_touserdata(L, idx);
  if (n > 0) {
    lua_setiuservalue(L, idx, PERI_UV_RESULT);
  } else if (future->kind != PERI_KIND_JOB) { /* which has had no message */
    lua_pushnil(L);
    lua_setiuservalue(L, idx, PERI_UV_RESULT);
  }
  future->results = n;
  future->state = PERI_FINISHED;
  schedule(L, future, idx);
}

/* [future]: gets the trace of its error, with the report. */
static int watch_error(lua_State *L)
{
  peri_runtime *rt = lua_touserdata(L, 2);
  peri_future *future = lua_touserdata(L, 1);
  const int idx = 1;
  peri_unseen *unseen = lua_newuserdatauv(L, sizeof *unseen, UNSEEN_UVS - 1);
  unseen->node.link.next = NULL;
  bool watched = future->loop != NULL; /* else nobody is told, as in Python */
  unseen->loop = future->loop;
  unseen->told = true; /* until all of it stands */
  unseen->task = future->kind == PERI_KIND_TASK;
  peri__push_ref(L, rt, PERI_REF_UNSEEN);
  lua_setmetatable(L, -2);
  lua_getiuservalue(L, idx, PERI_UV_RESULT);
  peri__trace_push(L, rt, -1);
  lua_setiuservalue(L, -3, UNSEEN_UV_TRACE);
  lua_setiuservalue(L, -2, UNSEEN_UV_ERROR);
  if (unseen->task) {
    peri__task_name(L, rt, (peri_task *)future, idx);
    lua_setiuservalue(L, -2, UNSEEN_UV_NAME);
  }
  if (watched && future->loop->debug) {
    peri__debug_push_source(L, rt, idx);
    lua_setiuservalue(L, -2, UNSEEN_UV_SOURCE);
  }
  if (watched) {
    peri__push_ref(L, rt, PERI_REF_OBJECTS);
    lua_pushvalue(L, -2);
    lua_rawsetp(L, -2, unseen);
    lua_pop(L, 1);
    unseen->told = false;
    peri__list_push(&future->loop->unseen, &unseen->node);
  }
  lua_setiuservalue(L, idx, PERI_UV_LINKS);
  return 0;
}

/* The error of the done future at idx has been seen, or is not wanted. */
void peri__future_retrieved(lua_State *L, int idx)
{
  peri_future *future = lua_touserdata(L, idx);
  if (future->state != PERI_FAILED || future->flags & PERI_F_RETRIEVED)
    return;
  future->flags |= PERI_F_RETRIEVED;
  if (lua_getiuservalue(L, idx, PERI_UV_LINKS) == LUA_TUSERDATA) {
    peri_unseen *unseen = lua_touserdata(L, -1);
    unseen->told = true;
    if (peri__node_listed(&unseen->node))
      peri__node_unlink(&unseen->node);
  }
  lua_pop(L, 1);
}

void peri__future_reject(lua_State *L, peri_runtime *rt, int idx)
{
  idx = lua_absindex(L, idx);
  peri_future *future = lua_touserdata(L, idx);
  bool cancellation = peri__is_cancelled_error(L, rt, -1);
  lua_setiuservalue(L, idx, PERI_UV_RESULT);
  future->state = PERI_FAILED;
  schedule(L, future, idx);
  if (cancellation) /* a gather's, whose child was: nobody need look at it */
    return;
  /* without memory it fails unwatched */
  lua_pushcfunction(L, watch_error);
  lua_pushvalue(L, idx);
  lua_pushlightuserdata(L, rt);
  if (lua_pcall(L, 2, 0, 0) != LUA_OK)
    lua_pop(L, 1);
}

void peri__future_settle_cancelled(lua_State *L, peri_runtime *rt, int idx,
                                   bool is_object)
{
  (void)rt;
  idx = lua_absindex(L, idx);
  peri_future *future = lua_touserdata(L, idx);
  lua_setiuservalue(L, idx, PERI_UV_RESULT);
  future->state = PERI_CANCELLED;
  if (is_object)
    future->flags |= PERI_F_ERROR_OBJECT;
  schedule(L, future, idx);
}

bool peri__future_cancel(lua_State *L, peri_runtime *rt, int idx,
                         int message_idx)
{
  peri_future *future = lua_touserdata(L, idx);
  if (future->state != PERI_PENDING) {
    peri__future_retrieved(L, idx);
    return false;
  }
  if (future->kind == PERI_KIND_TASK)
    return peri__task_cancel(L, rt, idx, message_idx);
  if (future->kind == PERI_KIND_GATHER)
    return peri__gather_cancel(L, rt, idx, message_idx);
  if (future->kind == PERI_KIND_JOB)
    return rt->job_cancel(L, rt, lua_absindex(L, idx), message_idx);
  idx = lua_absindex(L, idx);
  if (message_idx != 0)
    lua_pushvalue(L, message_idx);
  else
    lua_pushnil(L);
  peri__future_settle_cancelled(L, rt, idx, false);
  return true;
}

bool peri__future_cancel_checked(lua_State *L, peri_runtime *rt, int idx,
                                 int message_idx)
{
  rt->cancel_too_deep = rt->cancel_lacks_memory = false;
  bool asked = peri__future_cancel(L, rt, idx, message_idx);
  if (rt->cancel_lacks_memory)
    peri__no_memory(L);
  if (rt->cancel_too_deep)
    peri__throw(L, rt, PERI_ERR_RUNTIME, "cancel: gathers are nested too deep");
  return asked;
}

/* -- Asking ------------------------------------------------------------------------ */

void peri__future_push_error(lua_State *L, peri_runtime *rt, int idx)
{
  peri_future *future = lua_touserdata(L, idx);
  peri__future_retrieved(L, idx);
  lua_getiuservalue(L, idx, PERI_UV_RESULT);
  if (future->state == PERI_FAILED || future->flags & PERI_F_ERROR_OBJECT)
    return;
  peri__push_cancelled(L, rt);
}

/* The trace of a failure goes with its error, to whoever raises it next. */
void peri__future_carry_trace(lua_State *L, peri_runtime *rt, int idx,
                              int error)
{
  lua_getiuservalue(L, idx, PERI_UV_LINKS);
  if (lua_type(L, -1) == LUA_TUSERDATA) {
    lua_getiuservalue(L, -1, UNSEEN_UV_TRACE);
    peri__trace_carry(L, rt, error);
  }
  lua_pop(L, 1);
}

static int raise_error(lua_State *L, peri_runtime *rt, int idx)
{
  peri_future *future = lua_touserdata(L, idx);
  peri__check_stack(L, 8);
  peri__future_push_error(L, rt, idx);
  if (future->state == PERI_FAILED)
    peri__future_carry_trace(L, rt, idx, lua_gettop(L));
  return lua_error(L);
}

int peri__future_return(lua_State *L, peri_runtime *rt, int idx)
{
  peri_future *future = lua_touserdata(L, idx);
  if (peri_unlikely(future->state != PERI_FINISHED))
    return raise_error(L, rt, idx);
  if (future->results == 0)
    return 0;
  lua_getiuservalue(L, idx, PERI_UV_RESULT);
  if (future->results == 1)
    return 1;
  int n = future->results, list = lua_gettop(L);
  peri__check_stack(L, n);
  for (int i = 1; i <= n; i++)
    lua_rawgeti(L, list, i);
  return n;
}

/* Whether the future at idx ended by a cancellation: a gather fails by one. */
static bool ended_cancelled(lua_State *L, peri_runtime *rt, int idx)
{
  peri_future *future = lua_touserdata(L, idx);
  if (future->state != PERI_FAILED)
    return future->state == PERI_CANCELLED;
  lua_getiuservalue(L, idx, PERI_UV_RESULT);
  bool result = peri__is_cancelled_error(L, rt, -1);
  lua_pop(L, 1);
  return result;
}

static int await_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  peri_runtime *rt = peri__rt(L);
  if (peri_unlikely(peri__unpark_cancelled(L, rt))) {
    if (!ended_cancelled(L, rt, 1))
      return peri__raise_outcome(L, rt);
    rt->task->outcome = PERI_OUTCOME_OK;
  }
  return peri__future_return(L, rt, 1);
}

static int throw_foreign_loop(lua_State *L, peri_runtime *rt, peri_task *task)
{
  peri__task_name(L, rt, task, 0);
  luaL_tolstring(L, 1, NULL);
  return peri__throw(L, rt, PERI_ERR_RUNTIME,
                     "Task %s got %s, which belongs to a different loop",
                     lua_tostring(L, -2), lua_tostring(L, -1));
}

/* The task, which is to be cancelled, has begun to wait; it stands at 2. */
static void await_with_cancellation(lua_State *L, peri_runtime *rt,
                                    peri_task *task)
{
  rt->cancel_lacks_memory = false;
  lua_getiuservalue(L, 2, PERI_UV_RESULT);
  if (peri__future_cancel(L, rt, 1, 3))
    task->flags &= (uint16_t)~PERI_T_MUST_CANCEL;
  lua_settop(L, 1);
}

/* future:await() */
static int l_await(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_future *future = peri__check_future(L, rt, 1);
  if (future->state != PERI_PENDING)
    return peri__future_return(L, rt, 1);
  peri_task *task = peri__wait_check(L, rt, "await");
  if (peri_unlikely(future->loop != task->future.loop && future->loop != NULL))
    return throw_foreign_loop(L, rt, task);
  if (peri_unlikely(future == &task->future)) {
    luaL_tolstring(L, 1, NULL);
    return peri__throw(L, rt, PERI_ERR_RUNTIME,
                       "Task cannot await on itself: %s", lua_tostring(L, -1));
  }
  lua_settop(L, 1);
  if (peri_unlikely(peri__may_close_cycle(future))) {
    peri__cycle_check(L, rt, future);
    if (future->state !=
        PERI_PENDING) /* a finaliser's work, as may be a kill */
      return peri__future_return(L, rt, 1);
    task = peri__wait_check(L, rt, "await"); /* it may stand elsewhere now */
  }
  if (peri_unlikely(task->flags & PERI_T_MUST_CANCEL)) {
    peri__push_task(L, task); /* which may need memory: before it waits */
    task = lua_touserdata(L, 2);
  }
  task->wait = PERI_WAIT_FUTURE;
  task->resource = future;
  peri__list_push(&future->callbacks, &task->timer.node);
  if (peri_unlikely(task->flags & PERI_T_MUST_CANCEL))
    await_with_cancellation(L, rt, task);
  return peri__park(L, rt, 0, await_k);
}

static int throw_not_done(lua_State *L, peri_runtime *rt, const char *what)
{
  return peri__throw(L, rt, PERI_ERR_INVALID_STATE, "%s is not set.", what);
}

static int l_result(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_future *future = peri__check_future(L, rt, 1);
  if (future->state == PERI_PENDING)
    return throw_not_done(L, rt, "Result");
  return peri__future_return(L, rt, 1);
}

/* The trace goes along: the error may become another future's. */
static int l_exception(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_future *future = peri__check_future(L, rt, 1);
  if (future->state == PERI_PENDING)
    return throw_not_done(L, rt, "Exception");
  if (future->state == PERI_CANCELLED)
    return raise_error(L, rt, 1);
  if (future->state != PERI_FAILED) {
    lua_pushnil(L);
    return 1;
  }
  peri__check_stack(L, 8);
  peri__future_push_error(L, rt, 1);
  peri__future_carry_trace(L, rt, 1, lua_gettop(L));
  return 1;
}

static int l_done(lua_State *L)
{
  peri_future *future = peri__check_future(L, peri__rt(L), 1);
  lua_pushboolean(L, future->state != PERI_PENDING);
  return 1;
}

static int l_cancelled(lua_State *L)
{
  peri_future *future = peri__check_future(L, peri__rt(L), 1);
  lua_pushboolean(L, future->state == PERI_CANCELLED);
  return 1;
}

static int l_cancel(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__check_thread(L, rt, peri__check_future(L, rt, 1));
  lua_settop(L, 2);
  lua_pushboolean(L, peri__future_cancel_checked(L, rt, 1, 2));
  return 1;
}

/* Only a bare future may be resolved by hand. */
static peri_future *check_pending(lua_State *L, peri_runtime *rt,
                                  const char *method)
{
  peri_future *future = peri__check_future(L, rt, 1);
  peri__check_thread(L, rt, future);
  if (future->kind != PERI_KIND_FUTURE)
    peri__throw(L, rt, PERI_ERR_RUNTIME, "%s does not support %s",
                kind_names[future->kind], method);
  if (future->state != PERI_PENDING) {
    luaL_tolstring(L, 1, NULL);
    peri__throw(L, rt, PERI_ERR_INVALID_STATE,
                "%s: the future is already %s: %s", method,
                state_names[future->state], lua_tostring(L, -1));
  }
  return future;
}

static int l_set_result(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  check_pending(L, rt, "set_result");
  peri__future_resolve(L, rt, 1, lua_gettop(L) - 1);
  return 0;
}

static int l_set_exception(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  check_pending(L, rt, "set_exception");
  if (lua_isnoneornil(L, 2))
    return peri__arg_error(L, rt, PERI_ERR_TYPE, 2, "error value expected");
  lua_settop(L, 2);
  peri__future_reject(L, rt, 1);
  return 0;
}

/* future:traceback(): the text of where its error came from, or nil. */
static int l_traceback(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_future *future = peri__check_future(L, rt, 1);
  if (future->state != PERI_FAILED)
    return 0;
  lua_getiuservalue(L, 1, PERI_UV_LINKS);
  if (lua_type(L, -1) != LUA_TUSERDATA)
    return 0;
  lua_getiuservalue(L, -1, UNSEEN_UV_TRACE);
  peri__trace_text(L, rt);
  return 1;
}

/* -- Errors that nobody retrieved ------------------------------------------------------- */

/* [unseen, runtime] */
static int build_unseen(lua_State *L)
{
  peri_unseen *unseen = lua_touserdata(L, 1);
  lua_createtable(L, 0, 5);
  lua_pushstring(L, unseen->task ? "Task exception was never retrieved"
                                 : "Future exception was never retrieved");
  lua_setfield(L, -2, "message");
  lua_getiuservalue(L, 1, UNSEEN_UV_ERROR);
  lua_setfield(L, -2, "exception");
  if (lua_getiuservalue(L, 1, UNSEEN_UV_NAME) != LUA_TNIL)
    lua_setfield(L, -2, "task");
  else
    lua_pop(L, 1);
  lua_getiuservalue(L, 1, UNSEEN_UV_TRACE);
  if (!lua_isnil(L, -1)) {
    peri__trace_text(L, lua_touserdata(L, 2));
    lua_setfield(L, -2, "traceback");
  } else {
    lua_pop(L, 1);
  }
  lua_getiuservalue(L, 1, UNSEEN_UV_SOURCE);
  peri__debug_tell_trace(L);
  return 1;
}

/* Of the Unseen at idx. */
static void report_unseen(lua_State *L, peri_runtime *rt, int idx)
{
  peri_unseen *unseen = lua_touserdata(L, idx);
  lua_pushvalue(L, idx);
  lua_pushlightuserdata(L, rt);
  peri__report_built(L, rt, unseen->loop, build_unseen, 2,
                     unseen->task ? "a task's exception was never retrieved"
                                  : "a future's exception was never retrieved");
}

static int l_unseen_gc(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_unseen *unseen = lua_touserdata(L, 1);
  if (peri__node_listed(&unseen->node))
    peri__node_unlink(&unseen->node);
  if (!unseen->told && !rt->closed)
    report_unseen(L, rt, 1);
  return 0;
}

/* Reports every error of the loop that nobody retrieved: the loop closes. What
 * the collector has found already reports itself, to the default handler. */
void peri__unseen_report(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  while (!peri__list_empty(&loop->unseen)) {
    peri_unseen *unseen = (peri_unseen *)peri__list_shift(&loop->unseen);
    peri__push_ref(L, rt, PERI_REF_OBJECTS);
    if (lua_rawgetp(L, -1, unseen) == LUA_TUSERDATA) {
      unseen->told = true;
      report_unseen(L, rt, lua_gettop(L));
    }
    unseen->loop = NULL;
    lua_pop(L, 2);
  }
}

static int l_get_loop(lua_State *L)
{
  peri__check_future(L, peri__rt(L), 1);
  lua_getiuservalue(L, 1, PERI_UV_LOOP);
  return 1;
}

static int l_tostring(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_future *future = peri__check_future(L, rt, 1);
  const char *state = state_names[future->state];
  if (future->kind == PERI_KIND_TASK) {
    const char *name = peri__task_name(L, rt, (peri_task *)future, 1);
    const char *details = peri__debug_details(L, rt, 1);
    lua_pushfstring(L, "<Task %s %s%s>", name, state, details);
  } else {
    lua_pushfstring(L, "<%s %s%s>",
                    future->kind == PERI_KIND_GATHER ? "gather" : "Future",
                    state, peri__debug_details(L, rt, 1));
  }
  return 1;
}

static const luaL_Reg methods[] = {
    {"await", l_await},
    {"result", l_result},
    {"exception", l_exception},
    {"done", l_done},
    {"cancelled", l_cancelled},
    {"cancel", l_cancel},
    {"set_result", l_set_result},
    {"set_exception", l_set_exception},
    {"add_done_callback", peri__add_done_callback},
    {"remove_done_callback", peri__remove_done_callback},
    {"get_loop", l_get_loop},
    {"traceback", l_traceback},
    {NULL, NULL}};

/* pool/ has the others. */
static const luaL_Reg job_methods[] = {
    {"await", l_await},
    {"done", l_done},
    {"cancelled", l_cancelled},
    {"add_done_callback", peri__add_inline_callback},
    {"traceback", l_traceback},
    {NULL, NULL}};

static const luaL_Reg common_meta[] = {{"__tostring", l_tostring},
                                       {NULL, NULL}};

static const luaL_Reg unseen_meta[] = {{"__gc", l_unseen_gc}, {NULL, NULL}};

/* create_future([loop]) */
static int l_create_future(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop;
  if (lua_isnoneornil(L, 1)) {
    lua_settop(L, 0);
    loop = peri__running_loop(rt);
    if (loop == NULL)
      return peri__throw(L, rt, PERI_ERR_RUNTIME, "no running event loop");
    peri__push_ref(L, rt, PERI_REF_LOOP);
  } else {
    loop = peri__check_loop(L, rt, 1);
  }
  peri__future_new(L, rt, loop, 1);
  if (peri_unlikely(loop->debug))
    peri__debug_note(L, rt, -1);
  return 1;
}

static int l_isfuture(lua_State *L)
{
  lua_pushboolean(L, peri__to_future(L, peri__rt(L), 1) != NULL);
  return 1;
}

static const luaL_Reg functions[] = {
    {"create_future", l_create_future}, {"isfuture", l_isfuture}, {NULL, NULL}};

void peri__future_open(lua_State *L, peri_runtime *rt)
{
  rt->meta_future =
      peri__metatable(L, rt, PERI_REF_FUTURE, "Future", common_meta, methods);
  lua_pop(L, 1);
  rt->meta_task =
      peri__metatable(L, rt, PERI_REF_TASK, "Task", common_meta, methods);
  lua_pop(L, 1);
  rt->meta_gather =
      peri__metatable(L, rt, PERI_REF_GATHER, "gather", common_meta, methods);
  lua_pop(L, 1);
  rt->meta_job =
      peri__metatable(L, rt, PERI_REF_JOB, "Future", common_meta, job_methods);
  lua_pop(L, 1);
  peri__metatable(L, rt, PERI_REF_UNSEEN, "Unseen", unseen_meta, NULL);
  lua_pop(L, 1);
  peri__register(L, rt, functions);
}
