/*
 * link.c: links, the callbacks of Lua's that stand among those of a future.
 *
 * While the future is pending its links hang on it (user value PERI_UV_LINKS,
 * newest first), so that a future nobody can resolve goes with its callbacks;
 * when it is done they are anchored in the loop until they have run. Their
 * places there are reserved when they are added: becoming done needs no memory.
 *
 * A link that calls nothing has another future follow this one: it ends as this
 * one did, in the trip in which a callback would have seen to that. That needs
 * no memory either, so nobody waits in vain for a future that is to follow.
 *
 * The future of a job may belong to no loop (pool/). What is to run in a loop
 * then is the running one's, a follower's its own; a link without a loop is
 * called where the future becomes done.
 */
#include "core.h"
#include "debug.h"

typedef struct peri_link {
  peri_node node;
  peri_loop *loop;
  int anchor;
  bool follows; /* what stands for the function is the other future */
} peri_link;

enum {
  LINK_UV_FUNCTION = 1,
  LINK_UV_FUTURE = 2,
  LINK_UV_OLDER = 3,
  LINK_UV_CONTEXT = 4,
  LINK_UV_LOOP = 5,
  LINK_UVS
};

/* -- Adding and removing --------------------------------------------------------- */

static void push_link(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  peri_link *link = lua_newuserdatauv(L, sizeof *link, LINK_UVS - 1);
  link->node.link.next = NULL;
  link->node.kind = PERI_NODE_LINK;
  link->loop = loop;
  link->anchor = LUA_NOREF;
  link->follows = false;
  peri__push_ref(L, rt, PERI_REF_LINK);
  lua_setmetatable(L, -2);
  if (loop == NULL)
    return;
  lua_pushboolean(L, false); /* reserves the place */
  link->anchor = peri__anchor(L, loop);
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

/* [future, function or follower, context, link]: hangs the link on the future.
 */
static void hang(lua_State *L, peri_future *future)
{
  lua_insert(L, 3); /* the link at 3, the context at 4 */
  peri_link *link = lua_touserdata(L, 3);
  lua_setiuservalue(L, 3, LINK_UV_CONTEXT);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, 3, LINK_UV_FUNCTION);
  if (link->loop != NULL)
    peri__push_loop(L, link->loop);
  else
    lua_pushnil(L);
  lua_setiuservalue(L, 3, LINK_UV_LOOP);
  if (future->state == PERI_PENDING) {
    lua_getiuservalue(L, 1, PERI_UV_LINKS);
    lua_setiuservalue(L, 3, LINK_UV_OLDER);
    lua_pushvalue(L, 3);
    lua_setiuservalue(L, 1, PERI_UV_LINKS);
    future->flags |= PERI_F_LINKS;
    if (link->loop != NULL)
      peri__list_push(&future->callbacks, &link->node);
    return;
  }
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, 3, LINK_UV_FUTURE);
  peri__push_anchors(L, link->loop);
  lua_pushvalue(L, 3);
  lua_rawseti(L, -2, link->anchor);
  peri__loop_ready(link->loop, &link->node);
}

/* The loop in which a callback of the future is to run, or raises. */
static peri_loop *loop_for(lua_State *L, peri_runtime *rt, peri_future *future)
{
  peri_loop *loop =
      future->loop != NULL ? future->loop : peri__running_loop(rt);
  if (loop == NULL)
    peri__throw(L, rt, PERI_ERR_RUNTIME, "no running event loop");
  peri__loop_check_open(L, rt, loop);
  return loop;
}

/* future:add_done_callback(fn, {context=}): fn(future) in a later trip round the
 * loop. */
int peri__add_done_callback(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_future *future = peri__check_future(L, rt, 1);
  peri__check_thread(L, rt, future);
  peri_loop *loop = loop_for(L, rt, future);
  peri__check_function(L, rt, 2);
  lua_settop(L, 3);
  push_callback_context(L, rt, 3);
  lua_replace(L, 3);
  push_link(L, rt, loop);
  hang(L, future);
  return 0;
}

/* follow(future, follower): a bare future, or one that no job ends, which ends as
 * the other one does. remove_done_callback(future, follower) takes that back. */
static int l_follow(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_future *future = peri__check_future(L, rt, 1);
  peri_future *follower = peri__check_future(L, rt, 2);
  peri_loop *loop = future->loop != NULL ? future->loop : follower->loop;
  if (follower->kind != PERI_KIND_FUTURE && follower->kind != PERI_KIND_JOB)
    return peri__arg_type_error(L, rt, 2, "Future");
  peri__loop_check_open(L, rt, loop);
  lua_settop(L, 2);
  lua_pushnil(L);
  push_link(L, rt, loop);
  ((peri_link *)lua_touserdata(L, 4))->follows = true;
  hang(L, future);
  return 0;
}

/* future:remove_done_callback(fn) -> how many there were */
int peri__remove_done_callback(lua_State *L)
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
      if (link->loop != NULL) {
        peri__node_unlink(&link->node);
        peri__unanchor(L, link->loop, link->anchor);
        link->anchor = LUA_NOREF;
      }
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

/* -- When the future is done --------------------------------------------------- */

/* Anchors the links of the done future at idx, and gives it to them. */
void peri__links_anchor(lua_State *L, peri_future *future, int idx)
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

peri_loop *peri__link_loop(const peri_node *node)
{
  return ((const peri_link *)node)->loop;
}

/* Gives a link the future at idx, and a place where its loop finds it. */
static void anchor_link(lua_State *L, peri_link *link, int link_idx)
{
  if (link->anchor == LUA_NOREF || link->loop->closed)
    return;
  peri__push_anchors(L, link->loop);
  lua_pushvalue(L, link_idx);
  lua_rawseti(L, -2, link->anchor);
  lua_pop(L, 1);
}

void peri__links_take(lua_State *L, peri_future *future, int idx)
{
  idx = lua_absindex(L, idx);
  lua_pushnil(L); /* the inline ones, turned round: the oldest first */
  if (!(future->flags & PERI_F_LINKS))
    return;
  int taken = lua_gettop(L), next = taken + 1;
  lua_getiuservalue(L, idx, PERI_UV_LINKS);
  while (!lua_isnil(L, next)) {
    peri_link *link = lua_touserdata(L, next);
    lua_pushvalue(L, idx);
    lua_setiuservalue(L, next, LINK_UV_FUTURE);
    lua_getiuservalue(L, next, LINK_UV_OLDER);
    if (link->loop != NULL) {
      anchor_link(L, link, next);
      lua_pushnil(L);
    } else {
      lua_pushvalue(L, taken);
    }
    lua_setiuservalue(L, next, LINK_UV_OLDER);
    if (link->loop == NULL) {
      lua_pushvalue(L, next);
      lua_replace(L, taken);
    }
    lua_replace(L, next);
  }
  lua_setiuservalue(L, idx, PERI_UV_LINKS);
  future->flags &= (uint8_t)~PERI_F_LINKS;
}

void peri__links_hold(lua_State *L, int idx)
{
  peri_future *future = lua_touserdata(L, idx);
  if (future->loop == NULL)
    peri__links_take(L, future, idx);
  else
    lua_pushnil(L);
}

/* Calls the function below the future on top of the stack, and pops both and
 * the context below them. */
static void call_inline(lua_State *L, peri_runtime *rt)
{
  peri_task *task = rt->task;
  rt->task = NULL;
  peri__call_in_context(L, rt, NULL, 1, "a done callback of a pool's future");
  rt->task = peri__task_now(task);
}

void peri__links_call(lua_State *L, peri_runtime *rt)
{
  int link = lua_gettop(L);
  while (!lua_isnil(L, link)) {
    lua_getiuservalue(L, link, LINK_UV_CONTEXT);
    lua_getiuservalue(L, link, LINK_UV_FUNCTION);
    lua_getiuservalue(L, link, LINK_UV_FUTURE);
    call_inline(L, rt);
    lua_getiuservalue(L, link, LINK_UV_OLDER);
    lua_replace(L, link);
  }
  lua_pop(L, 1);
}

int peri__add_inline_callback(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_future *future = peri__check_future(L, rt, 1);
  peri__check_function(L, rt, 2);
  lua_settop(L, 3);
  push_callback_context(L, rt, 3);
  lua_replace(L, 3);
  if (future->state == PERI_PENDING) {
    push_link(L, rt, NULL);
    hang(L, future);
    return 0;
  }
  lua_insert(L, 2); /* below the function */
  lua_pushvalue(L, 1);
  call_inline(L, rt);
  return 0;
}

void peri__link_drop(peri_node *node)
{
  ((peri_link *)node)->anchor = LUA_NOREF;
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

/* The future at `future` is done: the follower at `follower` ends likewise. */
static void end_follower(lua_State *L, peri_runtime *rt, int future,
                         int follower)
{
  peri_future *done = lua_touserdata(L, future);
  if (((peri_future *)lua_touserdata(L, follower))->state != PERI_PENDING) {
    peri__future_retrieved(L, future); /* nobody else will */
    return;
  }
  peri__links_hold(L, follower);
  if (done->state == PERI_CANCELLED) {
    lua_pushnil(L);
    peri__future_settle_cancelled(L, rt, follower, false);
  } else if (done->state == PERI_FAILED) {
    peri__future_push_error(L, rt, future);
    peri__future_carry_trace(L, rt, future, lua_gettop(L));
    peri__future_reject(L, rt, follower);
  } else {
    if (done->results > 0)
      lua_getiuservalue(L, future, PERI_UV_RESULT);
    peri__future_resolve_packed(L, follower, done->results);
  }
  peri__links_call(L, rt);
}

/* Calls the callback of a link that came out of the ready queue. */
void peri__link_run(lua_State *L, peri_runtime *rt, peri_node *node)
{
  peri_link *link = (peri_link *)node;
  peri_loop *loop = link->loop;
  int top = lua_gettop(L);
  peri__push_anchors(L, loop);
  lua_rawgeti(L, -1, link->anchor);
  lua_replace(L, -2);
  peri__unanchor(L, loop, link->anchor);
  link->anchor = LUA_NOREF;
  lua_getiuservalue(L, -1, LINK_UV_CONTEXT);
  lua_getiuservalue(L, -2, LINK_UV_FUNCTION);
  lua_getiuservalue(L, -3, LINK_UV_FUTURE);
  if (link->follows)
    end_follower(L, rt, top + 4, top + 3);
  else
    peri__call_in_context(L, rt, loop, 1, link_name);
  lua_settop(L, top);
}

static int l_link_gc(lua_State *L)
{
  peri_link *link = lua_touserdata(L, 1);
  if (link->anchor != LUA_NOREF && !link->loop->closed)
    peri__unanchor(L, link->loop, link->anchor);
  return 0;
}

static const luaL_Reg meta[] = {{"__gc", l_link_gc}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"follow", l_follow}, {NULL, NULL}};

void peri__link_open(lua_State *L, peri_runtime *rt)
{
  peri__metatable(L, rt, PERI_REF_LINK, "Link", meta, NULL);
  lua_pop(L, 1);
  peri__register(L, rt, functions);
}
