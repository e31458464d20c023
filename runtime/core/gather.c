/*
 * gather.c: one future of many.
 *
 * The gather is a future with a node for each child, which stands among the
 * child's callbacks; so gathering 10,000 tasks makes one object. While children
 * are pending the gather is anchored in the loop, and holds them in a table
 * (user value PERI_UV_CHILDREN). As in asyncio each child is looked at in a trip
 * of its own, and the gather's awaiter runs one trip after the last.
 */
#include "core.h"

typedef struct peri_gather peri_gather;

enum { CANCEL_DEPTH = 1000 };

typedef struct peri_child {
  peri_node node;
  peri_future *future; /* the gather's table holds it */
  uint32_t index;      /* of the child in the gather's table */
  uint32_t place;      /* of this node among the gather's */
} peri_child;

struct peri_gather {
  peri_future future;
  int anchor;
  uint32_t children; /* as many as were given */
  uint32_t nodes;    /* one for each that differs */
  uint32_t finished;
  bool return_exceptions, cancel_requested;
  peri_child child[];
};

static peri_gather *gather_of(peri_child *child)
{
  return (peri_gather *)((char *)(child - child->place) -
                         offsetof(peri_gather, child));
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

/* All children are done: the list of their values becomes the result. */
static void finish(lua_State *L, peri_runtime *rt, peri_gather *gather, int idx,
                   int children)
{
  if (gather->cancel_requested) {
    peri__push_error(L, rt, PERI_ERR_CANCELLED, "");
    peri__future_reject(L, rt, idx);
    return;
  }
  lua_createtable(L, (int)gather->children, 1);
  for (uint32_t i = 1; i <= gather->children; i++) {
    lua_rawgeti(L, children, i);
    push_outcome(L, rt, lua_gettop(L));
    lua_rawseti(L, -3, i);
    lua_pop(L, 1);
  }
  lua_pushinteger(L, gather->children);
  lua_setfield(L, -2, "n");
  peri__future_resolve(L, rt, idx, 1);
}

/* The error of a child becomes the gather's. */
static void fail(lua_State *L, peri_runtime *rt, int idx, int child)
{
  peri__future_push_error(L, rt, child);
  if (lua_getiuservalue(L, child, PERI_UV_LINKS) == LUA_TUSERDATA) {
    lua_getiuservalue(L, -1, 1);
    peri__trace_carry(L, rt, -3);
  }
  lua_pop(L, 1);
  peri__future_reject(L, rt, idx);
}

/* [gather, children, child, runtime]: the gather ends, with the error of the
 * child, or with the results of all. */
static int conclude(lua_State *L)
{
  peri_runtime *rt = lua_touserdata(L, 4);
  peri_gather *gather = lua_touserdata(L, 1);
  peri_future *child = lua_touserdata(L, 3);
  luaL_checkstack(L, 12, NULL);
  if (!gather->return_exceptions && child->state != PERI_FINISHED)
    fail(L, rt, 1, 3);
  else
    finish(L, rt, gather, 1, 2);
  return 0;
}

/* Running out of memory there is the gather's error. */
static void conclude_protected(lua_State *L, peri_runtime *rt, int idx,
                               int child)
{
  lua_pushcfunction(L, conclude);
  lua_pushvalue(L, idx);
  lua_pushvalue(L, idx + 1);
  lua_pushvalue(L, child);
  lua_pushlightuserdata(L, rt);
  if (lua_pcall(L, 4, 0, 0) == LUA_OK)
    return;
  peri_gather *gather = lua_touserdata(L, idx);
  if (gather->future.state == PERI_PENDING)
    peri__future_reject(L, rt, idx);
}

/* A child has ended. The gather is at idx, its children at idx + 1. */
static void child_done(lua_State *L, peri_runtime *rt, int idx, uint32_t index)
{
  peri_gather *gather = lua_touserdata(L, idx);
  gather->finished++;
  lua_rawgeti(L, idx + 1, index);
  int child = lua_gettop(L);
  peri_future *future = lua_touserdata(L, child);
  if (gather->future.state != PERI_PENDING) {
    if (future->state == PERI_FAILED) {
      peri__future_push_error(L, rt, child); /* it counts as retrieved */
      lua_pop(L, 1);
    }
  } else if (gather->finished == gather->nodes ||
             (!gather->return_exceptions && future->state != PERI_FINISHED)) {
    conclude_protected(L, rt, idx, child);
  }
  lua_settop(L, child - 1);
  if (gather->finished == gather->nodes && gather->anchor != LUA_NOREF) {
    peri__unanchor(L, gather->future.loop, gather->anchor);
    gather->anchor = LUA_NOREF;
  }
}

void peri__gather_child(lua_State *L, peri_runtime *rt, peri_node *node)
{
  peri_child *child = (peri_child *)node;
  peri_gather *gather = gather_of(child);
  /* Most children bring nothing but their number: the values are collected
   * after the last one. */
  if (peri_likely(child->future->state == PERI_FINISHED &&
                  gather->finished + 1 < gather->nodes)) {
    gather->finished++;
    return;
  }
  int top = lua_gettop(L);
  luaL_checkstack(L, 12, NULL);
  peri__push_anchors(L, gather->future.loop);
  lua_rawgeti(L, -1, gather->anchor);
  lua_replace(L, -2);
  lua_getiuservalue(L, -1, PERI_UV_CHILDREN);
  child_done(L, rt, top + 1, child->index);
  lua_settop(L, top);
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
  rt->cancel_depth++;
  luaL_checkstack(L, 12, NULL);
  lua_getiuservalue(L, idx, PERI_UV_CHILDREN);
  int children = lua_gettop(L);
  gather->future.flags |= PERI_F_CANCELLING;
  for (uint32_t i = 1; i <= gather->children; i++) {
    lua_rawgeti(L, children, i);
    if (peri__future_cancel(L, rt, children + 1, message_idx))
      any = true;
    lua_settop(L, children);
  }
  lua_pop(L, 1);
  rt->cancel_depth--;
  gather->future.flags &= (uint8_t)~PERI_F_CANCELLING;
  if (any)
    gather->cancel_requested = true;
  return any;
}

void peri__gather_forget(lua_State *L, peri_runtime *rt, int idx)
{
  peri_gather *gather = (peri_gather *)peri__to_future(L, rt, idx);
  if (gather == NULL || gather->future.kind != PERI_KIND_GATHER)
    return;
  for (uint32_t i = 0; i < gather->nodes; i++)
    if (peri__node_listed(&gather->child[i].node))
      peri__node_unlink(&gather->child[i].node);
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
    if (future != NULL) {
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
  if (!peri__push_awaitable_future(L, rt, loop, LOOP, -1)) {
    lua_pushfstring(L, "item %I of the list: awaitable expected, got %s",
                    (LUAI_UACINT)i, luaL_typename(L, -1));
    peri__arg_error(L, rt, PERI_ERR_TYPE, 1, lua_tostring(L, -1));
  }
  peri_future *future = lua_touserdata(L, -1);
  if (future->loop != loop)
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

static peri_gather *gather_new(lua_State *L, peri_runtime *rt, peri_loop *loop,
                               lua_Integer n)
{
  size_t size = sizeof(peri_gather) + (size_t)n * sizeof(peri_child);
  peri_gather *gather = lua_newuserdatauv(L, size, 4);
  peri__future_init(&gather->future, PERI_KIND_GATHER, loop);
  gather->anchor = LUA_NOREF;
  gather->children = (uint32_t)n;
  gather->nodes = gather->finished = 0;
  gather->cancel_requested = false;
  gather->return_exceptions = lua_toboolean(L, 3);
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
  peri_child *child = &gather->child[gather->nodes];
  child->future = future;
  child->index = i;
  child->place = gather->nodes++;
  child->node.kind = PERI_NODE_CHILD;
  child->node.link.next = NULL;
  if (future->state != PERI_PENDING)
    return false;
  peri__list_push(&future->callbacks, &child->node);
  return true;
}

static int l_gather(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, 3);
  if (!lua_istable(L, 1))
    return peri__arg_type_error(L, rt, 1, "table");
  lua_Integer n = lua_isnil(L, 2) ? luaL_len(L, 1) : lua_tointeger(L, 2);
  if (n < 0 || n > INT32_MAX / (lua_Integer)sizeof(peri_child))
    return peri__arg_error(L, rt, PERI_ERR_VALUE, 2, "not a length");
  peri_loop *loop = push_loop_of(L, rt, 1, n);
  if (n == 0)
    return empty_gather(L, rt, loop);
  lua_createtable(L, (int)n, 0);
  lua_newtable(L);
  peri_future **fresh = lua_newuserdatauv(L, (size_t)n * sizeof *fresh, 0);
  for (lua_Integer i = 1; i <= n; i++)
    fresh[i - 1] = adopt(L, rt, loop, i);
  peri_gather *gather = gather_new(L, rt, loop, n); /* at 8 */
  lua_pushvalue(L, -1);
  gather->anchor = peri__anchor(L, loop);
  bool late = false;
  for (uint32_t i = 1; i <= (uint32_t)n; i++)
    if (fresh[i - 1] != NULL && !attach(gather, fresh[i - 1], i))
      late = true;
  lua_pushvalue(L, 5);
  for (uint32_t k = 0; late && k < gather->nodes; k++) {
    peri_child *child = &gather->child[k];
    if (!peri__node_listed(&child->node) &&
        child->future->state != PERI_PENDING)
      child_done(L, rt, 8, child->index);
  }
  lua_settop(L, 8);
  return 1;
}

static const luaL_Reg functions[] = {{"gather", l_gather}, {NULL, NULL}};

void peri__gather_open(lua_State *L, peri_runtime *rt)
{
  peri__register(L, rt, functions);
}
