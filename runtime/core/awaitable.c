/*
 * awaitable.c: coroutine objects, and what may be awaited.
 *
 * A coroutine object is a call that has not been made. Awaiting it makes the
 * call in the same task, as a Lua tail call: no coroutine, no C stack. So the
 * await of a coroutine object is a few lines of Lua (below), and only the
 * bookkeeping is C. A call nested without end would fill Lua's stack with the
 * string "stack overflow"; every so often the depth is probed, so that it is a
 * RuntimeError that says what happened.
 */
#include "debug.h"

typedef struct peri_coroutine {
  int values;  /* the function and its arguments; 0: awaited */
  bool marked; /* for the length of a C function */
} peri_coroutine;

enum { PROBE_EVERY = 64, DEEP_FRAMES = 2000, STACK_TO_SPARE = 20000 };

bool peri__is_coroutine(lua_State *L, peri_runtime *rt, int idx)
{
  if (lua_type(L, idx) != LUA_TUSERDATA || !lua_getmetatable(L, idx))
    return false;
  bool is = lua_topointer(L, -1) == rt->meta_coroutine;
  lua_pop(L, 1);
  return is;
}

/* Makes a coroutine object of the function and arguments from fn to the top. */
static void coroutine_new(lua_State *L, peri_runtime *rt, int fn)
{
  int n = lua_gettop(L) - fn + 1;
  if (n > PERI_MOST_VALUES)
    peri__throw(L, rt, PERI_ERR_VALUE, "a call with %d values is too large", n);
  peri_coroutine *object = lua_newuserdatauv(L, sizeof *object, n + rt->debug);
  *object = (peri_coroutine){.values = n};
  lua_insert(L, fn);
  for (int i = n; i >= 1; i--)
    lua_setiuservalue(L, fn, i);
  peri__push_ref(L, rt, PERI_REF_COROUTINE);
  lua_setmetatable(L, fn);
  if (peri_unlikely(rt->debug)) {
    peri__debug_watch_coroutine(L, rt, fn);
    lua_setiuservalue(L, fn, n + 1);
  }
}

bool peri__coroutine_taken(lua_State *L, int idx)
{
  return ((peri_coroutine *)lua_touserdata(L, idx))->values == 0;
}

static int throw_reuse(lua_State *L, peri_runtime *rt)
{
  return peri__throw(L, rt, PERI_ERR_RUNTIME,
                     "cannot reuse already awaited coroutine");
}

int peri__coroutine_mark(lua_State *L, int idx, bool mark)
{
  peri_coroutine *object = lua_touserdata(L, idx);
  if (object->marked == mark)
    return 0;
  object->marked = mark;
  return object->values;
}

int peri__coroutine_take(lua_State *L, peri_runtime *rt, int idx)
{
  idx = lua_absindex(L, idx);
  peri_coroutine *object = lua_touserdata(L, idx);
  int n = object->values;
  if (n == 0)
    throw_reuse(L, rt);
  peri__check_stack(L, n + 2);
  for (int i = 1; i <= n; i++)
    lua_getiuservalue(L, idx, i);
  object->values = 0;
  for (int i = 1; i <= n; i++) {
    lua_pushnil(L);
    lua_setiuservalue(L, idx, i);
  }
  return n;
}

static void probe_depth(lua_State *L, peri_runtime *rt)
{
  lua_Debug ar;
  if (++rt->awaits % PROBE_EVERY == 0 && lua_getstack(L, DEEP_FRAMES, &ar) &&
      !lua_checkstack(L, STACK_TO_SPARE))
    peri__throw(L, rt, PERI_ERR_RUNTIME,
                "await is nested too deep (coroutine objects that await each "
                "other without end?)");
}

/* enter(x) -> the function and arguments to call in order to await x:
 * a coroutine object's own, a future's await method, __await and its object. */
static int l_enter(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, 1);
  if (peri__is_coroutine(L, rt, 1)) {
    if (rt->task == NULL)
      peri__wait_check(L, rt, "await");
    probe_depth(L, rt);
    return peri__coroutine_take(L, rt, 1);
  }
  if (peri__to_future(L, rt, 1) != NULL) {
    lua_getfield(L, 1, "await");
    lua_insert(L, 1);
    return 2;
  }
  if (luaL_getmetafield(L, 1, "__await") != LUA_TNIL) {
    lua_insert(L, 1);
    return 2;
  }
  if (lua_isfunction(L, 1))
    return peri__throw(L, rt, PERI_ERR_TYPE,
                       "a function cannot be awaited: call it, or await "
                       "call(f, ...)");
  return peri__throw(L, rt, PERI_ERR_TYPE,
                     "bad argument #1 to 'await' (awaitable expected, got %s)",
                     luaL_typename(L, 1));
}

/* call(fn, ...) -> coroutine object */
static int l_call(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  int fn = peri__open_call(L, rt, 1);
  if (fn > 1) {
    if (lua_getfield(L, 1, "context") != LUA_TNIL)
      return peri__throw(L, rt, PERI_ERR_VALUE,
                         "call: a coroutine object has no context of its own");
    lua_pop(L, 1);
  }
  coroutine_new(L, rt, fn);
  return 1;
}

static int l_iscoroutine(lua_State *L)
{
  lua_pushboolean(L, peri__is_coroutine(L, peri__rt(L), 1));
  return 1;
}

static int l_tostring(lua_State *L)
{
  peri_coroutine *object = lua_touserdata(L, 1);
  if (object->values == 0) {
    lua_pushliteral(L, "<coroutine object awaited>");
    return 1;
  }
  lua_getiuservalue(L, 1, 1);
  peri__push_place(L, -1);
  if (lua_isnil(L, -1))
    lua_pushliteral(L, "<coroutine object>");
  else
    lua_pushfstring(L, "<coroutine object %s>", lua_tostring(L, -1));
  return 1;
}

/* coro:close(): it will not be awaited. Also as the end of a scope. */
static int l_close(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  if (!peri__is_coroutine(L, rt, 1))
    return peri__arg_type_error(L, rt, 1, "coroutine object");
  peri_coroutine *object = lua_touserdata(L, 1);
  if (object->values > 0) {
    lua_settop(L, 1);
    peri__coroutine_take(L, rt, 1);
  }
  return 0;
}

/* -- ensure_future ------------------------------------------------------------- */

bool peri__push_awaitable_future(lua_State *L, peri_runtime *rt,
                                 peri_loop *loop, int loop_idx, int idx)
{
  idx = lua_absindex(L, idx);
  loop_idx = lua_absindex(L, loop_idx);
  if (peri__to_future(L, rt, idx) != NULL) {
    lua_pushvalue(L, idx);
    return true;
  }
  int fn = lua_gettop(L) + 1;
  if (peri__is_coroutine(L, rt, idx)) {
    if (loop->factory) {
      lua_pushvalue(L, idx);
      peri__task_by_factory(L, rt, loop, fn);
      return true;
    }
    peri__coroutine_take(L, rt, idx);
  } else if (lua_isfunction(L, idx)) {
    lua_pushvalue(L, idx);
  } else if (luaL_getmetafield(L, idx, "__await") != LUA_TNIL) {
    lua_pushvalue(L, idx);
  } else {
    return false;
  }
  if (loop->factory) {
    coroutine_new(L, rt, fn);
    peri__task_by_factory(L, rt, loop, fn);
    return true;
  }
  peri_task *task = peri__task_new(L, rt, loop, loop_idx, fn);
  peri__task_start(L, rt, task, false);
  return true;
}

/* The loop of the optional argument, or the running one, at index 2. */
static peri_loop *loop_argument(lua_State *L, peri_runtime *rt)
{
  lua_settop(L, 2);
  if (!lua_isnil(L, 2))
    return peri__check_loop(L, rt, 2);
  peri_loop *loop = peri__running_loop(rt);
  if (loop == NULL)
    peri__throw(L, rt, PERI_ERR_RUNTIME, "no running event loop");
  peri__push_ref(L, rt, PERI_REF_LOOP);
  lua_replace(L, 2);
  return loop;
}

/* ensure_future(awaitable, [loop]) */
static int l_ensure_future(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, 2);
  if (peri__to_future(L, rt, 1) != NULL) {
    lua_settop(L, 1);
    return 1;
  }
  peri_loop *loop = loop_argument(L, rt);
  if (!peri__push_awaitable_future(L, rt, loop, 2, 1))
    return peri__arg_type_error(L, rt, 1, "awaitable");
  return 1;
}

static const luaL_Reg meta[] = {
    {"__tostring", l_tostring}, {"__close", l_close}, {NULL, NULL}};

static const luaL_Reg methods[] = {{"close", l_close}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"call", l_call},
                                     {"iscoroutine", l_iscoroutine},
                                     {"ensure_future", l_ensure_future},
                                     {NULL, NULL}};

/* await in Lua, so that it is a tail call into what is awaited. */
static const char await_source[] =
    "local enter = ... "
    "local function go(f, ...) return f(...) end "
    "return function(x) return go(enter(x)) end";

void peri__awaitable_open(lua_State *L, peri_runtime *rt)
{
  rt->meta_coroutine = peri__metatable(L, rt, PERI_REF_COROUTINE,
                                       "coroutine object", meta, methods);
  lua_getfield(L, -1, "__index");
  if (luaL_loadbuffer(L, await_source, sizeof await_source - 1,
                      "=perilune.await") != LUA_OK)
    lua_error(L);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, l_enter, 1);
  lua_call(L, 1, 1);
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "await");
  peri__push_ref(L, rt, PERI_REF_CORE);
  lua_insert(L, -2);
  lua_setfield(L, -2, "await");
  lua_pop(L, 3);
  peri__register(L, rt, functions);
}
