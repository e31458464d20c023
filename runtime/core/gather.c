/*
 * gather.c: one future of many.
 *
 * The gather is a future with a node for each child, which stands among the
 * child's callbacks; so gathering 10,000 tasks makes one object. While children
 * are pending the gather is anchored in the loop, and holds them in a table
 * (user value PERI_UV_CHILDREN), which becomes the list of results. As in
 * asyncio each child is looked at in a trip of its own, and the gather's awaiter
 * runs one trip after the last. The children of a gather of calls are bare
 * tasks (bare.c); that table has their values as they end.
 */
#include "gather.h"
#include "inspect.h"

enum { CANCEL_DEPTH = 1000 };

peri_loop *peri__child_loop(const peri_node *node)
{
  return ((const peri_child *)node)->gather->future.loop;
}

peri_future *peri__gather_of(peri_node *node)
{
  return &((peri_child *)node)->gather->future;
}

/* Pushes what return_exceptions puts in the place of a child. */
static void push_outcome(lua_State *L, peri_runtime *rt, int child)
{
  peri_future *future = lua_touserdata(L, child);
  if (future->state != PERI_FINISHED) {
    peri__future_push_error(L, rt, child);
    return;
  }
  lua_getiuservalue(L, child, PERI_UV_RESULT);
  if (future->results > 1) {
    lua_rawgeti(L, -1, 1);
    lua_replace(L, -2);
  }
}

/* Whether the place i of the table has a child, not yet a value. */
static bool has_child(const peri_gather *gather, uint32_t i)
{
  return gather->slot == NULL || gather->slot[i - 1].task.flags & PERI_T_MOVED;
}

/* The cancellation that a cancelled gather ends with: the last child's, as in
 * asyncio, so that its message gets through; or else a new one. */
static void push_cancellation(lua_State *L, peri_runtime *rt,
                              peri_gather *gather, int idx, int children)
{
  if (has_child(gather, gather->children)) {
    lua_rawgeti(L, children, gather->children);
    if (((peri_future *)lua_touserdata(L, -1))->state == PERI_CANCELLED) {
      peri__future_push_error(L, rt, lua_gettop(L));
      return;
    }
  }
  lua_getiuservalue(L, idx, PERI_UV_RESULT); /* what cancel() was given */
  peri__push_cancelled(L, rt);
}

/* All children are done: the list of their values becomes the result. */
static void finish(lua_State *L, peri_runtime *rt, peri_gather *gather, int idx,
                   int children)
{
  if (gather->no_memory)
    peri__no_memory(L);
  if (gather->cancel_requested) {
    push_cancellation(L, rt, gather, idx, children);
    peri__future_reject(L, rt, idx);
    return;
  }
  for (uint32_t i = 1; i <= gather->children; i++) {
    if (!has_child(gather, i))
      continue;
    lua_rawgeti(L, children, i);
    push_outcome(L, rt, lua_gettop(L));
    lua_rawseti(L, children, i);
    lua_pop(L, 1);
  }
  lua_pushinteger(L, gather->children);
  lua_setfield(L, children, "n");
  lua_pushvalue(L, children);
  peri__future_resolve(L, rt, idx, 1);
}

/* The error of a child becomes the gather's. */
static void fail(lua_State *L, peri_runtime *rt, int idx, int child)
{
  peri_future *future = lua_touserdata(L, child);
  peri__future_push_error(L, rt, child);
  if (future->state == PERI_FAILED)
    peri__future_carry_trace(L, rt, child, lua_gettop(L));
  peri__future_reject(L, rt, idx);
}

/* [gather, children, child or nil, runtime]: the gather ends, with the error of
 * the child, or with the results of all. */
static int conclude(lua_State *L)
{
  peri_runtime *rt = lua_touserdata(L, 4);
  peri_gather *gather = lua_touserdata(L, 1);
  peri__check_stack(L, 12);
  if (!lua_isnil(L, 3))
    fail(L, rt, 1, 3);
  else
    finish(L, rt, gather, 1, 2);
  return 0;
}

/* Running out of memory there is the gather's error. The child on top of the
 * stack (or nil) is popped. */
static void conclude_protected(lua_State *L, peri_runtime *rt, int idx)
{
  lua_pushcfunction(L, conclude);
  lua_insert(L, -2);
  lua_pushvalue(L, idx);
  lua_insert(L, -2);
  lua_pushvalue(L, idx + 1);
  lua_insert(L, -2);
  lua_pushlightuserdata(L, rt);
  if (lua_pcall(L, 4, 0, 0) == LUA_OK)
    return;
  peri_gather *gather = lua_touserdata(L, idx);
  if (gather->future.state == PERI_PENDING)
    peri__future_reject(L, rt, idx);
  else
    lua_pop(L, 1);
}

/* The callback of a child. The gather is at idx, its children at idx + 1. */
static void child_done(lua_State *L, peri_runtime *rt, int idx,
                       peri_child *child)
{
  peri_gather *gather = child->gather;
  bool fails = child->future->state != PERI_FINISHED;
  gather->finished++;
  if (gather->future.state != PERI_PENDING) {
    if (child->future->state == PERI_FAILED) {
      lua_rawgeti(L, idx + 1, child->index);
      peri__future_push_error(L, rt, -1); /* it counts as retrieved */
      lua_pop(L, 2);
    }
  } else if (fails && !gather->return_exceptions) {
    lua_rawgeti(L, idx + 1, child->index);
    conclude_protected(L, rt, idx);
  } else if (gather->finished == gather->nodes) {
    lua_pushnil(L);
    conclude_protected(L, rt, idx);
  }
  if (gather->finished == gather->nodes && gather->anchor != LUA_NOREF) {
    peri__unanchor(L, gather->future.loop, gather->anchor);
    gather->anchor = LUA_NOREF;
    peri__slots_free(gather);
  }
}

void peri__child_ended(peri_node *node)
{
  ((peri_child *)node)->gather->ended++;
}

void peri__gather_child(lua_State *L, peri_runtime *rt, peri_node *node)
{
  peri_child *child = (peri_child *)node;
  peri_gather *gather = child->gather;
  /* Most children bring nothing but their number: the values are collected
   * after the last one. */
  if (peri_likely(child->future->state == PERI_FINISHED &&
                  gather->finished + 1 < gather->nodes)) {
    gather->finished++;
    return;
  }
  int top = lua_gettop(L);
  peri__push_anchors(L, gather->future.loop);
  lua_rawgeti(L, -1, gather->anchor);
  lua_replace(L, -2);
  lua_getiuservalue(L, -1, PERI_UV_CHILDREN);
  child_done(L, rt, top + 1, child);
  lua_settop(L, top);
}

/* Pushes the child at place i of the table; a bare task becomes an ordinary
 * one. Nil: it has ended, and left its value there, or there is no memory to
 * make a task of it. */
static void push_child(lua_State *L, peri_runtime *rt, peri_gather *gather,
                       int children, uint32_t i)
{
  if (!has_child(gather, i)) {
    peri_task *bare = &gather->slot[i - 1].task;
    if (bare->future.state != PERI_PENDING) {
      lua_pushnil(L);
      return;
    }
    if (!peri__task_make_plain(L, rt, bare)) {
      rt->cancel_lacks_memory = true; /* told when all have come back up */
      lua_pushnil(L);
      return;
    }
  }
  lua_rawgeti(L, children, i);
}

/* Whether the child at place i is a job that runs on: only the gather ends. */
static bool runs_on(lua_State *L, int child)
{
  peri_future *future = lua_touserdata(L, child);
  return future != NULL && future->kind == PERI_KIND_JOB &&
         future->state == PERI_PENDING;
}

/* The children that run on are as good as cancelled, for the gather. */
static void abandon_jobs(peri_gather *gather)
{
  for (uint32_t i = 0; i < gather->nodes; i++) {
    peri_child *child = &gather->node[i];
    if (child->future->kind != PERI_KIND_JOB ||
        child->future->state != PERI_PENDING ||
        !peri__node_listed(&child->node))
      continue;
    peri__node_unlink(&child->node);
    peri__child_ended(&child->node);
    peri__loop_ready(gather->future.loop, &child->node);
  }
}

bool peri__gather_cancel(lua_State *L, peri_runtime *rt, int idx,
                         int message_idx)
{
  idx = lua_absindex(L, idx);
  peri_gather *gather = lua_touserdata(L, idx);
  bool any = false;
  if (rt->cancel_depth >= CANCEL_DEPTH) {
    rt->cancel_too_deep = true; /* told when all have come back up */
    return false;
  }
  if (!lua_checkstack(L, 12)) {
    rt->cancel_lacks_memory = true;
    return false;
  }
  rt->cancel_depth++;
  lua_getiuservalue(L, idx, PERI_UV_CHILDREN);
  int children = lua_gettop(L);
  gather->future.flags |= PERI_F_CANCELLING;
  bool asked = false; /* the last one */
  bool jobs = false;
  for (uint32_t i = 1; i <= gather->children; i++) {
    push_child(L, rt, gather, children, i);
    asked = !lua_isnil(L, -1) &&
            peri__future_cancel(L, rt, children + 1, message_idx);
    if (!asked && runs_on(L, children + 1))
      asked = jobs = true;
    any = any || asked;
    lua_settop(L, children);
  }
  lua_pop(L, 1);
  rt->cancel_depth--;
  gather->future.flags &= (uint8_t)~PERI_F_CANCELLING;
  if (jobs && gather->node != NULL)
    abandon_jobs(gather);
  if (any && (asked || !gather->cancel_requested))
    /* For the case that the last child swallows its cancellation. */
    peri__future_keep_message(L, idx, message_idx);
  if (any)
    gather->cancel_requested = true;
  return any;
}

void peri__gather_forget(lua_State *L, peri_runtime *rt, int idx)
{
  peri_gather *gather = (peri_gather *)peri__to_future(L, rt, idx);
  if (gather == NULL || gather->future.kind != PERI_KIND_GATHER)
    return;
  bool any = gather->slot != NULL || gather->node != NULL;
  for (uint32_t i = 0; any && i < gather->nodes; i++) {
    peri_slot *slot = gather->slot != NULL ? &gather->slot[i] : NULL;
    if (slot != NULL && !(slot->task.flags & PERI_T_MOVED))
      continue;
    peri_child *child = slot != NULL ? &slot->child : &gather->node[i];
    if (peri__node_listed(&child->node))
      peri__node_unlink(&child->node);
  }
  peri__slots_free(gather);
  gather->anchor = LUA_NOREF;
}

/* -- gather(list, n, return_exceptions) ------------------------------------------- */

/* The loop of a gather is its first future's, or the running one. Pushes it. */
static peri_loop *push_loop_of(lua_State *L, peri_runtime *rt, int list,
                               lua_Integer n)
{
  for (lua_Integer i = 1; i <= n; i++) {
    bool candidate = lua_rawgeti(L, list, i) == LUA_TUSERDATA;
    peri_future *future = candidate ? peri__to_future(L, rt, -1) : NULL;
    lua_pop(L, 1);
    if (future != NULL && future->loop != NULL) {
      peri__push_loop(L, future->loop);
      return future->loop;
    }
  }
  peri_loop *loop = peri__running_loop(rt);
  if (loop == NULL)
    peri__throw(L, rt, PERI_ERR_RUNTIME, "no running event loop");
  peri__push_ref(L, rt, PERI_REF_LOOP);
  return loop;
}

/* Turns the awaitable i of the list into a future in the table of children,
 * with seen (at 6) mapping what was given to the first place it had. NULL: it
 * had one. */
static peri_future *adopt(lua_State *L, peri_runtime *rt, peri_loop *loop,
                          lua_Integer i)
{
  enum { LIST = 1, LOOP = 4, CHILDREN = 5, SEEN = 6 };
  int type = lua_rawgeti(L, LIST, i);
  bool unique = type == LUA_TFUNCTION; /* each call is a child of its own */
  if (!unique && type != LUA_TNIL) {
    lua_pushvalue(L, -1);
    if (lua_rawget(L, SEEN) != LUA_TNIL) {
      lua_rawseti(L, CHILDREN, i);
      lua_pop(L, 1);
      return NULL;
    }
    lua_pop(L, 1);
  }
  if (!peri__push_awaitable_future(L, rt, loop, LOOP, -1))
    peri__throw(L, rt, PERI_ERR_TYPE,
                "bad argument #1 to 'gather' (item %I of the list: awaitable "
                "expected, got %s)",
                (LUAI_UACINT)i, luaL_typename(L, -1));
  peri_future *future = lua_touserdata(L, -1);
  if (future->loop != loop && future->loop != NULL)
    peri__throw(L, rt, PERI_ERR_VALUE,
                "The future belongs to a different loop than the others");
  if (!unique) {
    lua_pushvalue(L, -2);
    lua_pushvalue(L, -2);
    lua_rawset(L, SEEN);
  }
  lua_rawseti(L, CHILDREN, i);
  lua_pop(L, 1);
  return future;
}

static int empty_gather(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  peri__future_new(L, rt, loop, 4);
  lua_createtable(L, 0, 1);
  lua_pushinteger(L, 0);
  lua_setfield(L, -2, "n");
  peri__future_resolve(L, rt, -2, 1);
  return 1;
}

/* The gather of n children, each with a record of a size behind it. */
static peri_gather *gather_new(lua_State *L, peri_runtime *rt, peri_loop *loop,
                               lua_Integer n, size_t record)
{
  peri_gather *gather =
      lua_newuserdatauv(L, sizeof(peri_gather) + (size_t)n * record, 4);
  *gather = (peri_gather){.anchor = LUA_NOREF,
                          .children = (uint32_t)n,
                          .return_exceptions = lua_toboolean(L, 3)};
  peri__future_init(&gather->future, PERI_KIND_GATHER, loop);
  peri__push_ref(L, rt, PERI_REF_GATHER);
  lua_setmetatable(L, -2);
  lua_pushvalue(L, 4);
  lua_setiuservalue(L, -2, PERI_UV_LOOP);
  lua_pushvalue(L, 5);
  lua_setiuservalue(L, -2, PERI_UV_CHILDREN);
  return gather;
}

/* Hangs the gather on a child, unless that is done: then it is dealt with at
 * the end, when the gather stands. */
static bool attach(peri_gather *gather, peri_future *future, uint32_t i)
{
  peri_child *child = &gather->node[gather->nodes++];
  *child = (peri_child){.future = future, .gather = gather, .index = i};
  child->node.kind = PERI_NODE_CHILD;
  if (future->state != PERI_PENDING)
    return false;
  peri__list_push(&future->callbacks, &child->node);
  return true;
}

/* How many values the call at place i of the list at 1 has, the function
 * included; 0 if that is neither function nor coroutine object, or comes a
 * second time. Marks coroutine objects, or takes their marks away. */
static int call_size(lua_State *L, peri_runtime *rt, lua_Integer i, bool mark)
{
  int size = 0, type = lua_rawgeti(L, 1, i);
  if (type == LUA_TFUNCTION)
    size = 1;
  else if (type == LUA_TUSERDATA && peri__is_coroutine(L, rt, -1))
    size = peri__coroutine_mark(L, -1, mark);
  lua_pop(L, 1);
  return size;
}

/* Whether the children are to be bare tasks: calls, without a factory, a context
 * that a task would have to take over, or debug mode. Returns the size of the largest
 * call, or 0. */
static int suits_bare(lua_State *L, peri_runtime *rt, peri_loop *loop,
                      lua_Integer n)
{
  if (loop->factory || loop->debug || loop->closed || loop->closing ||
      peri__has_context(L, rt))
    return 0;
  int largest = 0, size = 1;
  lua_Integer i = 1;
  for (; i <= n && size > 0; i++) {
    size = call_size(L, rt, i, true);
    largest = size > largest ? size : largest;
  }
  for (lua_Integer k = 1; k < i; k++)
    call_size(L, rt, k, false);
  return size > 0 ? largest : 0;
}

static void gather_calls(lua_State *L, peri_runtime *rt, peri_loop *loop,
                         lua_Integer n, int largest)
{
  lua_createtable(L, (int)n, 1); /* at 5 */
  peri_gather *gather = gather_new(L, rt, loop, n, 0);
  peri__coroutines_reserve(L, loop, gather->children, largest + 4);
  peri__check_stack(L, largest + LUA_MINSTACK);
  lua_pushvalue(L, -1);
  gather->anchor = peri__anchor(L, loop);
  gather->nodes = gather->children;
  /* No collection first: a finaliser may use what has been reserved. */
  if (!peri__slots_new(gather)) {
    peri__unanchor(L, loop, gather->anchor);
    peri__no_memory(L);
  }
  peri__bare_start(L, rt, gather, 1);
}

/* Adopts the futures of a list that has nothing else in it: nothing runs
 * meanwhile, and a mark tells those that come again. -1: something else was in
 * it. Else whether one was done before. */
static int adopt_futures(lua_State *L, peri_gather *gather)
{
  enum { LIST = 1, CHILDREN = 5 };
  peri_loop *loop = gather->future.loop;
  bool late = false, all = true;
  for (uint32_t i = 1; all && i <= gather->children; i++) {
    lua_rawgeti(L, LIST, i);
    peri_future *future = peri__to_future(L, loop->rt, -1);
    all = future != NULL && (future->loop == loop || future->loop == NULL);
    if (all && !(future->flags & PERI_F_MARKED)) {
      future->flags |= PERI_F_MARKED;
      late = !attach(gather, future, i) || late;
    }
    lua_rawseti(L, CHILDREN, i);
  }
  for (uint32_t k = 0; k < gather->nodes; k++)
    gather->node[k].future->flags &= (uint8_t)~PERI_F_MARKED;
  if (all)
    return late;
  for (; gather->nodes > 0; gather->nodes--)
    if (peri__node_listed(&gather->node[gather->nodes - 1].node))
      peri__node_unlink(&gather->node[gather->nodes - 1].node);
  return -1;
}

/* [list, n, return_exceptions, loop, children, seen, gather]: hangs the gather
 * on all that is in the list, at once: an eager task that is started for one
 * item may end the future of an earlier one. */
static int adopt_all(lua_State *L)
{
  peri_gather *gather = lua_touserdata(L, 7);
  peri_loop *loop = gather->future.loop;
  bool late = false;
  for (uint32_t i = 1; i <= gather->children; i++) {
    peri_future *future = adopt(L, loop->rt, loop, i);
    if (future != NULL && !attach(gather, future, i))
      late = true;
  }
  lua_pushboolean(L, late);
  return 1;
}

static void gather_any(lua_State *L, peri_runtime *rt, peri_loop *loop,
                       lua_Integer n)
{
  enum { GATHER = 7 };
  peri__check_stack(L, GATHER + 4); /* nothing is anchored yet */
  lua_createtable(L, (int)n, 1);
  lua_newtable(L);
  peri_gather *gather = gather_new(L, rt, loop, n, sizeof(peri_child));
  gather->node = (peri_child *)(gather + 1);
  lua_pushvalue(L, -1);
  gather->anchor = peri__anchor(L, loop);
  int late = adopt_futures(L, gather);
  if (late < 0) {
    lua_pushcfunction(L, adopt_all);
    for (int i = 1; i <= GATHER; i++)
      lua_pushvalue(L, i);
    if (lua_pcall(L, GATHER, 1, 0) != LUA_OK) {
      int anchor = gather->anchor;
      peri__gather_forget(L, rt, GATHER);
      peri__unanchor(L, loop, anchor);
      lua_error(L);
    }
    late = lua_toboolean(L, -1);
    lua_pop(L, 1);
  }
  lua_pushvalue(L, 5);
  for (uint32_t k = 0; late && k < gather->nodes; k++) {
    peri_child *child = &gather->node[k];
    if (!peri__node_listed(&child->node))
      child_done(L, rt, GATHER, child);
  }
  lua_settop(L, GATHER);
}

static int l_gather(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, 3);
  if (!lua_istable(L, 1))
    return peri__arg_type_error(L, rt, 1, "table");
  lua_Integer n = lua_isnil(L, 2) ? luaL_len(L, 1) : lua_tointeger(L, 2);
  if (n < 0 || n > INT32_MAX / (lua_Integer)sizeof(peri_slot))
    return peri__arg_error(L, rt, PERI_ERR_VALUE, 2, "not a length");
  peri_loop *loop = push_loop_of(L, rt, 1, n);
  if (n == 0)
    return empty_gather(L, rt, loop);
  int largest = suits_bare(L, rt, loop, n);
  if (largest > 0)
    gather_calls(L, rt, loop, n, largest);
  else
    gather_any(L, rt, loop, n);
  return 1;
}

static const luaL_Reg functions[] = {{"gather", l_gather}, {NULL, NULL}};

void peri__gather_open(lua_State *L, peri_runtime *rt)
{
  peri__register(L, rt, functions);
}
