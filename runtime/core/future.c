/*
 * future.c: futures, the part of them that tasks and gathers share, and their
 * callbacks.
 *
 * A future that becomes done makes the nodes of its callbacks ready, in the
 * order in which they were added, and calls nothing itself: a waiting task, a
 * gather (C nodes that live in those objects), or a link, the userdata that
 * holds a callback of Lua's. While the future is pending its links hang on it
 * (user value PERI_UV_LINKS, newest first), so that a future nobody can resolve
 * goes with its callbacks; when it is done they are anchored in the loop until
 * they have run. Their places there are reserved when they are added: becoming
 * done needs no memory.
 *
 * An error that nobody looked at is told by the trace of the failure, a
 * userdata with a finaliser (class Unseen below). So only a future that failed
 * costs a finaliser.
 */
#include "debug.h"
#include "inspect.h"

typedef struct peri_link {
  peri_node node;
  peri_loop *loop;
  int anchor;
} peri_link;

enum {
  LINK_UV_FUNCTION = 1,
  LINK_UV_FUTURE = 2,
  LINK_UV_OLDER = 3,
  LINK_UV_CONTEXT = 4,
  LINK_UV_LOOP = 5,
  LINK_UVS
};

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
      meta == rt->meta_gather)
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

/* Anchors the links of the done future at idx, and gives it to them. */
static void anchor_links(lua_State *L, peri_future *future, int idx)
{
  idx = lua_absindex(L, idx);
  peri__push_anchors(L, future->loop);
  lua_getiuservalue(L, idx, PERI_UV_LINKS);
  while (!lua_isnil(L, -1)) {
    peri_link *link = lua_touserdata(L, -1);
    if (link->anchor != LUA_NOREF) {
      lua_pushvalue(L, -1);
      lua_rawseti(L, -3, link->anchor);
      lua_pushvalue(L, idx);
      lua_setiuservalue(L, -2, LINK_UV_FUTURE);
    }
    lua_getiuservalue(L, -1, LINK_UV_OLDER);
    lua_pushnil(L);
    lua_setiuservalue(L, -3, LINK_UV_OLDER);
    lua_replace(L, -2);
  }
  lua_setiuservalue(L, idx, PERI_UV_LINKS);
  lua_pop(L, 1);
}

/* Nobody calls them any more. */
static void drop_callbacks(peri_future *future)
{
  while (!peri__list_empty(&future->callbacks)) {
    peri_node *node = peri__list_shift(&future->callbacks);
    if (node->kind == PERI_NODE_LINK)
      ((peri_link *)node)->anchor = LUA_NOREF;
  }
}

static void schedule(lua_State *L, peri_future *future, int idx)
{
  if (peri_unlikely(future->loop->closed)) {
    drop_callbacks(future);
    return;
  }
  if (future->flags & PERI_F_LINKS)
    anchor_links(L, future, idx);
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

void peri__future_resolve(lua_State *L, peri_runtime *rt, int idx, int n)
{
  (void)rt;
  idx = lua_absindex(L, idx);
  if (n > 1) {
    lua_createtable(L, n, 0);
    lua_insert(L, -(n + 1));
    for (int i = n; i >= 1; i--)
      lua_rawseti(L, -(i + 1), i);
  } else if (n == 0) {
    lua_pushnil(L);
  }
  lua_setiuservalue(L, idx, PERI_UV_RESULT);
  peri_future *future = lua_touserdata(L, idx);
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
  unseen->loop = future->loop;
  unseen->told = false;
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
  if (future->loop->debug) {
    peri__debug_push_source(L, rt, idx);
    lua_setiuservalue(L, -2, UNSEEN_UV_SOURCE);
  }
  peri__list_push(&future->loop->unseen, &unseen->node);
  peri__push_ref(L, rt, PERI_REF_OBJECTS);
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, unseen);
  lua_pop(L, 1);
  lua_setiuservalue(L, idx, PERI_UV_LINKS);
  return 0;
}

/* The error of the done future at idx has been seen, or is not wanted. */
static void mark_retrieved(lua_State *L, int idx)
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
    mark_retrieved(L, idx);
    return false;
  }
  if (future->kind == PERI_KIND_TASK)
    return peri__task_cancel(L, rt, idx, message_idx);
  if (future->kind == PERI_KIND_GATHER)
    return peri__gather_cancel(L, rt, idx, message_idx);
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
  rt->cancel_depth = 0; /* running out of memory leaves it */
  rt->cancel_too_deep = false;
  bool asked = peri__future_cancel(L, rt, idx, message_idx);
  if (rt->cancel_too_deep)
    peri__throw(L, rt, PERI_ERR_RUNTIME, "cancel: gathers are nested too deep");
  return asked;
}

/* -- Asking ------------------------------------------------------------------------ */

void peri__future_push_error(lua_State *L, peri_runtime *rt, int idx)
{
  peri_future *future = lua_touserdata(L, idx);
  mark_retrieved(L, idx);
  lua_getiuservalue(L, idx, PERI_UV_RESULT);
  if (future->state == PERI_FAILED || future->flags & PERI_F_ERROR_OBJECT)
    return;
  peri__push_cancelled(L, rt);
}

/* The trace of a failure goes with its error, to whoever raises it next. */
static void carry_trace(lua_State *L, peri_runtime *rt, int idx, int error)
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
  luaL_checkstack(L, 8, NULL);
  peri__future_push_error(L, rt, idx);
  if (future->state == PERI_FAILED)
    carry_trace(L, rt, idx, lua_gettop(L));
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
  luaL_checkstack(L, n, "too many results");
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

static void await_with_cancellation(lua_State *L, peri_runtime *rt,
                                    peri_task *task)
{
  peri__push_task(L, task);
  task = lua_touserdata(L, -1);
  lua_getiuservalue(L, -1, PERI_UV_RESULT);
  if (peri__future_cancel(L, rt, 1, lua_gettop(L)))
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
  if (peri_unlikely(future->loop != task->future.loop))
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
    peri__wait_check(L, rt, "await");
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
  luaL_checkstack(L, 8, NULL);
  peri__future_push_error(L, rt, 1);
  carry_trace(L, rt, 1, lua_gettop(L));
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
  peri__check_future(L, rt, 1);
  lua_settop(L, 2);
  lua_pushboolean(L, peri__future_cancel_checked(L, rt, 1, 2));
  return 1;
}

/* Only a bare future may be resolved by hand. */
static peri_future *check_pending(lua_State *L, peri_runtime *rt,
                                  const char *method)
{
  peri_future *future = peri__check_future(L, rt, 1);
  if (future->kind != PERI_KIND_FUTURE)
    peri__throw(L, rt, PERI_ERR_RUNTIME, "%s does not support %s",
                future->kind == PERI_KIND_TASK ? "Task" : "gather", method);
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

/* -- Callbacks ----------------------------------------------------------------------- */

static void push_link(lua_State *L, peri_runtime *rt, peri_future *future)
{
  peri_link *link = lua_newuserdatauv(L, sizeof *link, LINK_UVS - 1);
  link->node.link.next = NULL;
  link->node.kind = PERI_NODE_LINK;
  link->loop = future->loop;
  link->anchor = LUA_NOREF;
  peri__push_ref(L, rt, PERI_REF_LINK);
  lua_setmetatable(L, -2);
  lua_pushboolean(L, false); /* reserves the place */
  link->anchor = peri__anchor(L, future->loop);
}

/* Pushes the context of a callback: the one that the options at idx name, or a
 * copy of the current one. */
static void push_callback_context(lua_State *L, peri_runtime *rt, int idx)
{
  if (lua_isnil(L, idx)) {
    peri__push_context_copy(L, rt);
    return;
  }
  if (!lua_istable(L, idx))
    peri__arg_type_error(L, rt, idx, "table of options");
  if (lua_getfield(L, idx, "context") == LUA_TNIL) {
    lua_pop(L, 1);
    peri__push_context_copy(L, rt);
    return;
  }
  peri__check_context(L, rt, -1);
}

/* future:add_done_callback(fn, {context=}): fn(future) in a later trip round the
 * loop. */
static int l_add_done_callback(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_future *future = peri__check_future(L, rt, 1);
  peri__loop_check_open(L, rt, future->loop);
  peri__check_function(L, rt, 2);
  lua_settop(L, 3);
  push_callback_context(L, rt, 3);
  lua_replace(L, 3);
  push_link(L, rt, future);
  lua_insert(L, 3); /* the link at 3, the context at 4 */
  peri_link *link = lua_touserdata(L, 3);
  lua_setiuservalue(L, 3, LINK_UV_CONTEXT);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, 3, LINK_UV_FUNCTION);
  lua_getiuservalue(L, 1, PERI_UV_LOOP);
  lua_setiuservalue(L, 3, LINK_UV_LOOP);
  if (future->state == PERI_PENDING) {
    lua_getiuservalue(L, 1, PERI_UV_LINKS);
    lua_setiuservalue(L, 3, LINK_UV_OLDER);
    lua_pushvalue(L, 3);
    lua_setiuservalue(L, 1, PERI_UV_LINKS);
    future->flags |= PERI_F_LINKS;
    peri__list_push(&future->callbacks, &link->node);
    return 0;
  }
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, 3, LINK_UV_FUTURE);
  peri__push_anchors(L, future->loop);
  lua_pushvalue(L, 3);
  lua_rawseti(L, -2, link->anchor);
  peri__loop_ready(future->loop, &link->node);
  return 0;
}

/* future:remove_done_callback(fn) -> how many there were */
static int l_remove_done_callback(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_future *future = peri__check_future(L, rt, 1);
  lua_settop(L, 2);
  lua_Integer removed = 0;
  if (future->state != PERI_PENDING) {
    lua_pushinteger(L, 0);
    return 1;
  }
  /* 3: the newer link, whose older one may go; nil at first */
  lua_pushnil(L);
  lua_getiuservalue(L, 1, PERI_UV_LINKS);
  while (!lua_isnil(L, 4)) {
    peri_link *link = lua_touserdata(L, 4);
    lua_getiuservalue(L, 4, LINK_UV_FUNCTION);
    lua_getiuservalue(L, 4, LINK_UV_OLDER);
    if (lua_rawequal(L, 2, 5)) {
      removed++;
      peri__node_unlink(&link->node);
      peri__unanchor(L, link->loop, link->anchor);
      link->anchor = LUA_NOREF;
      lua_pushvalue(L, 6);
      if (lua_isnil(L, 3))
        lua_setiuservalue(L, 1, PERI_UV_LINKS);
      else
        lua_setiuservalue(L, 3, LINK_UV_OLDER);
    } else {
      lua_pushvalue(L, 4);
      lua_replace(L, 3);
    }
    lua_replace(L, 4); /* the older link */
    lua_settop(L, 4);
  }
  lua_pushinteger(L, removed);
  return 1;
}

static const char link_name[] = "a done callback";

const char *peri__link_push(lua_State *L, peri_runtime *rt, peri_node *node)
{
  peri_link *link = (peri_link *)node;
  (void)rt;
  peri__push_anchors(L, link->loop);
  lua_rawgeti(L, -1, link->anchor);
  lua_getiuservalue(L, -1, LINK_UV_FUNCTION);
  lua_replace(L, -3);
  lua_pushnil(L);
  lua_replace(L, -2);
  return link_name;
}

/* Calls the callback of a link that came out of the ready queue. */
void peri__link_run(lua_State *L, peri_runtime *rt, peri_node *node)
{
  peri_link *link = (peri_link *)node;
  peri_loop *loop = link->loop;
  peri__push_anchors(L, loop);
  lua_rawgeti(L, -1, link->anchor);
  lua_replace(L, -2);
  peri__unanchor(L, loop, link->anchor);
  link->anchor = LUA_NOREF;
  lua_getiuservalue(L, -1, LINK_UV_CONTEXT);
  lua_getiuservalue(L, -2, LINK_UV_FUNCTION);
  lua_getiuservalue(L, -3, LINK_UV_FUTURE);
  peri__call_in_context(L, rt, loop, 1, link_name);
  lua_pop(L, 1);
}

/* -- Errors that nobody retrieved ------------------------------------------------------- */

/* The context of the report, from the Unseen at idx. */
static void report_unseen(lua_State *L, peri_runtime *rt, int idx)
{
  peri_unseen *unseen = lua_touserdata(L, idx);
  idx = lua_absindex(L, idx);
  luaL_checkstack(L, 8, NULL);
  lua_createtable(L, 0, 5);
  lua_pushstring(L, unseen->task ? "Task exception was never retrieved"
                                 : "Future exception was never retrieved");
  lua_setfield(L, -2, "message");
  lua_getiuservalue(L, idx, UNSEEN_UV_ERROR);
  lua_setfield(L, -2, "exception");
  if (lua_getiuservalue(L, idx, UNSEEN_UV_NAME) != LUA_TNIL)
    lua_setfield(L, -2, "task");
  else
    lua_pop(L, 1);
  lua_getiuservalue(L, idx, UNSEEN_UV_TRACE);
  if (!lua_isnil(L, -1)) {
    peri__trace_text(L, rt);
    lua_setfield(L, -2, "traceback");
  } else {
    lua_pop(L, 1);
  }
  lua_getiuservalue(L, idx, UNSEEN_UV_SOURCE);
  peri__debug_tell_trace(L);
  peri__report(L, rt, unseen->loop);
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

static int l_link_gc(lua_State *L)
{
  peri_link *link = lua_touserdata(L, 1);
  if (link->anchor != LUA_NOREF && !link->loop->closed)
    peri__unanchor(L, link->loop, link->anchor);
  return 0;
}

static const luaL_Reg link_meta[] = {{"__gc", l_link_gc}, {NULL, NULL}};

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
    {"add_done_callback", l_add_done_callback},
    {"remove_done_callback", l_remove_done_callback},
    {"get_loop", l_get_loop},
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
  peri__metatable(L, rt, PERI_REF_LINK, "Link", link_meta, NULL);
  lua_pop(L, 1);
  peri__metatable(L, rt, PERI_REF_UNSEEN, "Unseen", unseen_meta, NULL);
  lua_pop(L, 1);
  peri__register(L, rt, functions);
}
