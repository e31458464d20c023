/*
 * several.c: the wait for several futures at once, which is peri.wait.
 *
 * One object has a node for each future, which stands among that one's
 * callbacks. As in asyncio each future that ends is looked at in a trip of its
 * own (one that is done already, too), and the waiting task goes on a trip
 * after the one that sufficed. The object stands at index 1 of the function
 * that waits; its nodes are taken back when the wait ends, however it does.
 */
#include "core.h"

typedef struct peri_several peri_several;

typedef struct peri_awaited {
  peri_node node;
  peri_future *future; /* the object's list holds it */
  peri_several *several;
} peri_awaited;

typedef enum several_until {
  ALL_COMPLETED,
  FIRST_COMPLETED,
  FIRST_EXCEPTION
} several_until;

static const char *const until_names[] = {"ALL_COMPLETED", "FIRST_COMPLETED",
                                          "FIRST_EXCEPTION", NULL};

struct peri_several {
  peri_task *task; /* that waits, or NULL */
  uint32_t count, left;
  uint8_t until;
  peri_awaited awaited[];
};

enum { UV_LIST = 1 };

static peri_several *check_several(lua_State *L, peri_runtime *rt, int arg)
{
  if (lua_type(L, arg) == LUA_TUSERDATA && lua_getmetatable(L, arg)) {
    const void *meta = lua_topointer(L, -1);
    lua_pop(L, 1);
    if (meta == rt->meta_several)
      return lua_touserdata(L, arg);
  }
  peri__arg_type_error(L, rt, arg, "wait");
  return NULL;
}

peri_loop *peri__several_loop(const peri_node *node)
{
  return ((const peri_awaited *)node)->several->task->future.loop;
}

static void release(peri_several *several)
{
  peri_task *task = several->task;
  if (task == NULL || task->wait != PERI_WAIT_SEVERAL)
    return;
  task->wait = PERI_WAIT_WOKEN;
  peri__loop_ready(task->future.loop, &task->node);
}

void peri__several_ended(peri_node *node)
{
  peri_awaited *awaited = (peri_awaited *)node;
  peri_several *several = awaited->several;
  several->left--;
  if (several->left == 0 || several->until == FIRST_COMPLETED ||
      (several->until == FIRST_EXCEPTION &&
       awaited->future->state == PERI_FAILED))
    release(several);
}

void peri__several_abandon(peri_task *task)
{
  peri_several *several = task->resource;
  several->task = NULL;
  for (uint32_t i = 0; i < several->count; i++)
    if (peri__node_listed(&several->awaited[i].node))
      peri__node_unlink(&several->awaited[i].node);
}

/* Fills the object with the futures of the list at 1, each once, and makes its
 * own list of them, at the index `own`. A mark tells those that come again. */
static void fill(lua_State *L, peri_runtime *rt, peri_several *several,
                 lua_Integer n, int own)
{
  for (lua_Integer i = 1; i <= n; i++) {
    lua_rawgeti(L, 1, i);
    peri_future *future = peri__to_future(L, rt, -1);
    if (future == NULL || future->flags & PERI_F_MARKED) {
      lua_pop(L, 1);
      continue;
    }
    future->flags |= PERI_F_MARKED;
    several->awaited[several->count++] = (peri_awaited){
        .node.kind = PERI_NODE_AWAITED, .future = future, .several = several};
    lua_rawseti(L, own, several->count);
  }
  for (uint32_t i = 0; i < several->count; i++)
    several->awaited[i].future->flags &= (uint8_t)~PERI_F_MARKED;
  several->left = several->count;
}

static void check_futures(lua_State *L, peri_runtime *rt, lua_Integer n)
{
  for (lua_Integer i = 1; i <= n; i++) {
    lua_rawgeti(L, 1, i);
    if (peri__to_future(L, rt, -1) == NULL)
      peri__throw(L, rt, PERI_ERR_TYPE,
                  "bad argument #1 to 'wait' (task or future as element %I "
                  "expected, got %s)",
                  (LUAI_UACINT)i, luaL_typename(L, -1));
    lua_pop(L, 1);
  }
}

/* several(list, n, until) -> what several_wait takes */
static int l_several(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, 3);
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_Integer n = luaL_checkinteger(L, 2);
  int until = luaL_checkoption(L, 3, NULL, until_names);
  if (n < 1 || n > INT32_MAX / (lua_Integer)sizeof(peri_awaited))
    return peri__arg_error(L, rt, PERI_ERR_VALUE, 2, "not a length");
  check_futures(L, rt, n);
  lua_createtable(L, (int)n, 0); /* at 4 */
  size_t size = sizeof(peri_several) + (size_t)n * sizeof(peri_awaited);
  peri_several *several = lua_newuserdatauv(L, size, 1);
  *several = (peri_several){.until = (uint8_t)until};
  peri__push_ref(L, rt, PERI_REF_SEVERAL);
  lua_setmetatable(L, -2);
  lua_pushvalue(L, 4);
  lua_setiuservalue(L, -2, UV_LIST);
  fill(L, rt, several, n, 4);
  return 1;
}

static void time_is_up(lua_State *L, peri_runtime *rt)
{
  (void)rt;
  release(lua_touserdata(L, -1));
}

/* several_limit(loop, seconds, several) -> handle */
static int l_limit(lua_State *L)
{
  lua_settop(L, 3);
  check_several(L, peri__rt(L), 3);
  return peri__call_later_native(L, time_is_up);
}

/* several_limit_real(loop, seconds, several) -> handle: by the real clock */
static int l_limit_real(lua_State *L)
{
  lua_settop(L, 3);
  check_several(L, peri__rt(L), 3);
  return peri__call_later_real_native(L, time_is_up);
}

/* Pushes the lists of those that are done and of those that are not. */
static int push_lists(lua_State *L, peri_several *several)
{
  lua_Integer done = 0, pending = 0;
  uint32_t ended = 0;
  for (uint32_t i = 0; i < several->count; i++)
    ended += several->awaited[i].future->state != PERI_PENDING;
  peri__check_stack(L, 6);
  lua_getiuservalue(L, 1, UV_LIST);
  if (ended == several->count) {
    lua_newtable(L);
    return 2;
  }
  int list = lua_gettop(L);
  lua_createtable(L, (int)ended, 0);
  lua_createtable(L, (int)(several->count - ended), 0);
  for (uint32_t i = 0; i < several->count; i++) {
    lua_rawgeti(L, list, i + 1);
    if (several->awaited[i].future->state != PERI_PENDING)
      lua_rawseti(L, list + 1, ++done);
    else
      lua_rawseti(L, list + 2, ++pending);
  }
  return 2;
}

static int wait_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  peri_runtime *rt = (peri_runtime *)ctx;
  peri__several_abandon(rt->task);
  peri__unpark(L, rt);
  return push_lists(L, lua_touserdata(L, 1));
}

static void look_at(peri_loop *loop, peri_awaited *awaited)
{
  peri_future *future = awaited->future;
  if (future->state == PERI_PENDING)
    peri__list_push(&future->callbacks, &awaited->node);
  else
    peri__loop_ready(loop, &awaited->node);
}

/* several_wait(several) -> done, pending */
static int l_wait(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_several *several = check_several(L, rt, 1);
  peri_task *task = peri__wait_check(L, rt, "wait");
  if (several->task != NULL)
    return peri__throw(L, rt, PERI_ERR_RUNTIME, "this wait is under way");
  lua_settop(L, 1);
  several->task = task;
  for (uint32_t i = 0; i < several->count; i++)
    look_at(task->future.loop, &several->awaited[i]);
  task->resource = several;
  task->wait = PERI_WAIT_SEVERAL;
  if (peri_unlikely(task->flags & PERI_T_MUST_CANCEL))
    peri__park_cancelled(task);
  return peri__park(L, rt, (lua_KContext)rt, wait_k);
}

static const luaL_Reg functions[] = {{"several", l_several},
                                     {"several_limit", l_limit},
                                     {"several_limit_real", l_limit_real},
                                     {"several_wait", l_wait},
                                     {NULL, NULL}};

static const luaL_Reg meta[] = {{NULL, NULL}};

void peri__several_open(lua_State *L, peri_runtime *rt)
{
  rt->meta_several =
      peri__metatable(L, rt, PERI_REF_SEVERAL, "wait", meta, NULL);
  lua_pop(L, 1);
  peri__register(L, rt, functions);
}
