/*
 * yieldable.c: what perilune.yieldable needs of C, but for sort and require.
 *
 * The functions there are those of the standard library, but may wait where
 * these cannot be suspended. Arguments are checked by the same calls as in
 * Lua's own libraries, so that mistakes are told in the same words and with the
 * caller's place. The script's functions are called from C here too: an
 * error(..., 2) in them has no place in the library to blame.
 */
#include <string.h>

#include "core.h"

/* Lua's MAXTAGLOOP: so long a chain of metamethods is told as a loop. */
enum { LONGEST_CHAIN = 2000 };

int peri__fail(lua_State *L)
{
  if (peri__is_no_memory(L, -1))
    return lua_error(L);
  luaL_where(L, 1);
  lua_insert(L, -2);
  lua_concat(L, 2);
  return lua_error(L);
}

/* -- Calls and accesses ----------------------------------------------------- */

static int all_results(lua_State *L, int status, lua_KContext context)
{
  (void)status, (void)context;
  return lua_gettop(L);
}

/* apply(fn, ...) */
static int l_apply(lua_State *L)
{
  lua_callk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, all_results);
  return lua_gettop(L);
}

/* index(t, key): t[key] */
static int l_index(lua_State *L)
{
  lua_settop(L, 2);
  for (int i = 0; i < LONGEST_CHAIN; i++) {
    if (lua_istable(L, 1)) {
      lua_pushvalue(L, 2);
      if (lua_rawget(L, 1) != LUA_TNIL)
        return 1;
      lua_pop(L, 1);
    }
    if (luaL_getmetafield(L, 1, "__index") == LUA_TNIL)
      break;
    if (lua_isfunction(L, -1)) {
      lua_insert(L, 1);
      lua_callk(L, 2, 1, 0, all_results);
      return 1;
    }
    lua_replace(L, 1);
  }
  lua_gettable(L, 1); /* nil, or the error */
  return 1;
}

/* newindex(t, key, value): t[key] = value */
static int l_newindex(lua_State *L)
{
  lua_settop(L, 3);
  for (int i = 0; i < LONGEST_CHAIN; i++) {
    if (lua_istable(L, 1)) {
      lua_pushvalue(L, 2);
      bool there = lua_rawget(L, 1) != LUA_TNIL;
      lua_pop(L, 1);
      if (there) {
        lua_rawset(L, 1);
        return 0;
      }
    }
    if (luaL_getmetafield(L, 1, "__newindex") == LUA_TNIL)
      break;
    if (lua_isfunction(L, -1)) {
      lua_insert(L, 1);
      lua_callk(L, 3, 0, 0, all_results);
      return 0;
    }
    lua_replace(L, 1);
  }
  lua_settable(L, 1);
  return 0;
}

/* -- gsub -------------------------------------------------------------------- */

enum { BODY = 2, STOCK = 3 }; /* upvalues */

/* What a string or a table without metamethods gives never waits. */
static bool may_wait(lua_State *L, int replacement)
{
  int type = lua_type(L, replacement);
  if (type != LUA_TTABLE)
    return type == LUA_TFUNCTION;
  if (!lua_getmetatable(L, replacement))
    return false;
  lua_pop(L, 1);
  return true;
}

/* The body returns the string and the count, or false and a message. */
static int gsub_done(lua_State *L, int status, lua_KContext context)
{
  (void)status, (void)context;
  return lua_isboolean(L, -2) ? peri__fail(L) : 2;
}

/* gsub(s, pattern, repl [, n]) */
static int l_gsub(lua_State *L)
{
  size_t length;
  luaL_checklstring(L, 1, &length);
  luaL_checkstring(L, 2);
  int type = lua_type(L, 3);
  lua_Integer max = luaL_optinteger(L, 4, (lua_Integer)length + 1);
  luaL_argexpected(L,
                   type == LUA_TNUMBER || type == LUA_TSTRING ||
                       type == LUA_TFUNCTION || type == LUA_TTABLE,
                   3, "string/function/table");
  bool waits = may_wait(L, 3);
  lua_settop(L, 3);
  lua_pushinteger(L, max);
  lua_pushvalue(L, lua_upvalueindex(waits ? BODY : STOCK));
  lua_insert(L, 1);
  if (!waits)
    return lua_pcall(L, 4, 2, 0) == LUA_OK ? 2 : peri__fail(L);
  lua_callk(L, 4, 2, 0, gsub_done);
  return gsub_done(L, LUA_OK, 0);
}

/* make_gsub(body, string.gsub) */
static int l_make_gsub(lua_State *L)
{
  lua_settop(L, 2);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_pushcclosure(L, l_gsub, 3);
  return 1;
}

/* -- tostring ---------------------------------------------------------------- */

static int tostring_k(lua_State *L, int status, lua_KContext context)
{
  (void)status, (void)context;
  if (!lua_isstring(L, -1))
    return luaL_error(L, "'__tostring' must return a string");
  lua_tostring(L, -1); /* it may be a number */
  return 1;
}

static int l_tostring(lua_State *L)
{
  luaL_checkany(L, 1);
  if (luaL_getmetafield(L, 1, "__tostring") == LUA_TNIL) {
    luaL_tolstring(L, 1, NULL);
    return 1;
  }
  lua_pushvalue(L, 1);
  lua_callk(L, 1, 1, 0, tostring_k);
  return tostring_k(L, LUA_OK, 0);
}

/* -- xpcall ------------------------------------------------------------------ */

/* Lua calls a handler that fails again, with its own error, until the C stack
 * ends: about so often. */
enum { MOST_CALLS = 200 };

enum { SCRIPTS_HANDLER = 1, OUR_HANDLER = 2 }; /* places on the stack */

/* The handler of ours: keeps the frames, while they stand. Unlike that of
 * tasks it leaves error(nil) alone. */
static int keep_frames(lua_State *L)
{
  lua_settop(L, 1);
  return lua_isnil(L, 1) ? 1 : peri__trace_handler(L);
}

static int protected_done(lua_State *L, int status, lua_KContext calls);

/* The error is on top: calls the script's handler with it, and with the stacks
 * it has passed. */
static int call_handler(lua_State *L, peri_runtime *rt, int calls)
{
  if (calls >= MOST_CALLS) {
    lua_pushboolean(L, false);
    lua_pushliteral(L, "error in error handling");
    return 2;
  }
  peri__check_stack(L, LUA_MINSTACK);
  lua_insert(L, OUR_HANDLER + 1);
  lua_settop(L, OUR_HANDLER + 1);
  lua_pushboolean(L, false);
  lua_pushvalue(L, SCRIPTS_HANDLER);
  lua_rotate(L, OUR_HANDLER + 1, -1);
  peri__trace_push(L, rt, -1);
  peri__trace_text(L, rt);
  peri__trace_forget(L, rt);
  int status = lua_pcallk(L, 2, 1, OUR_HANDLER, calls + 1, protected_done);
  return protected_done(L, status, calls + 1);
}

/* The function, or a handler, has ended: [handlers] [true] [results], or
 * [handlers] [false] [result], or an error. */
static int protected_done(lua_State *L, int status, lua_KContext calls)
{
  peri_runtime *rt = peri__rt(L);
  if (peri_likely(status == LUA_OK || status == LUA_YIELD))
    return lua_gettop(L) - OUR_HANDLER;
  if (peri__sentinel_of(L, rt, -1) != PERI_SENTINEL_NONE)
    return lua_error(L);
  if (status != LUA_ERRMEM)
    return call_handler(L, rt, (int)calls);
  lua_pushboolean(L, false);
  lua_insert(L, -2);
  return 2;
}

/* xpcall(fn, handler, ...). A handler that is a C function is called where the
 * error is raised: it has no use for a text, and debug.traceback reads the
 * stack itself. */
static int l_xpcall(lua_State *L)
{
  luaL_checktype(L, 2, LUA_TFUNCTION);
  if (lua_iscfunction(L, 2))
    return peri__xpcall(L);
  int n = lua_gettop(L) - 2;
  lua_pushvalue(L, 2);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushcclosure(L, keep_frames, 1);
  lua_pushboolean(L, true);
  lua_pushvalue(L, 1);
  lua_rotate(L, 3, 4); /* fn, handler, [handler, ours, true, fn], ... */
  lua_remove(L, 1);
  lua_remove(L, 1);
  int status = lua_pcallk(L, n, LUA_MULTRET, OUR_HANDLER, 0, protected_done);
  return protected_done(L, status, 0);
}

static const luaL_Reg functions[] = {{"apply", l_apply},
                                     {"index", l_index},
                                     {"newindex", l_newindex},
                                     {"make_gsub", l_make_gsub},
                                     {"make_sort", peri__make_sort},
                                     {"tostring", l_tostring},
                                     {"xpcall", l_xpcall},
                                     {NULL, NULL}};

int peri__yieldable_load(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, functions, 1);
  peri__require_push(L, rt);
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "require");
  peri__require_records(L);
  lua_setfield(L, -2, "loading");
  return 1;
}
