/*
 * require.c: require, as in Lua, but so that a module may wait while it is
 * loaded: its body, and the searchers.
 *
 * So a second task can come for a module that is not there yet. Each load has a
 * record in a table, by the module's name, until it ends: a `<close>` value of
 * the C function, so that errors, cancellations and kills are ends as well. Who
 * finds a record waits for its end, then looks again: the module is there, or
 * the load has failed and the next one tries. What is to be done then, who must
 * not wait since the load waits for him, and whose record was left behind by a
 * coroutine that died, is in Lua (perilune/modules.lua): it is rare.
 *
 * A module that is loaded costs one look more than in Lua.
 */
#include "core.h"

/* Upvalues: of require, and of the records' __close. */
enum { PACKAGE = 2, RECORDS = 3, RECORD_META = 4, CLOSE_RECORDS = 2 };

/* Places on the stack of require. */
enum { NAME = 1, LOADED = 2, RECORD = 3, SEARCHERS = 4, MESSAGE = 5 };

static int look(lua_State *L);

/* -- Records --------------------------------------------------------------- */

static void push_helper(lua_State *L, const char *name)
{
  peri__require(L, "perilune.modules");
  lua_getfield(L, -1, name);
  lua_replace(L, -2);
}

/* records[1] counts the loads: a task's records are told by it in the order of
 * their beginnings. Other keys are names of modules. */
static void push_number(lua_State *L)
{
  lua_rawgeti(L, lua_upvalueindex(RECORDS), 1);
  lua_pushinteger(L, lua_tointeger(L, -1) + 1);
  lua_replace(L, -2);
  lua_pushvalue(L, -1);
  lua_rawseti(L, lua_upvalueindex(RECORDS), 1);
}

/* Opens the record of the load that begins, as a <close> value. */
static void open_record(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_createtable(L, 0, 4);
  lua_pushvalue(L, NAME);
  lua_setfield(L, RECORD, "name");
  if (rt->task != NULL)
    peri__push_task(L, rt->task);
  else
    lua_pushboolean(L, false);
  lua_setfield(L, RECORD, "task");
  lua_pushthread(L);
  lua_setfield(L, RECORD, "thread");
  push_number(L);
  lua_setfield(L, RECORD, "number");
  lua_pushvalue(L, lua_upvalueindex(RECORD_META));
  lua_setmetatable(L, RECORD);
  lua_toclose(L, RECORD);
  lua_pushvalue(L, NAME);
  lua_pushvalue(L, RECORD);
  lua_rawset(L, lua_upvalueindex(RECORDS));
}

/* __close(record): those who wait for it are woken. Needs no memory: they would
 * wait for ever. */
static int l_close_record(lua_State *L)
{
  lua_settop(L, 1);
  lua_getfield(L, 1, "name");
  lua_pushvalue(L, -1);
  lua_rawget(L, lua_upvalueindex(CLOSE_RECORDS));
  if (lua_rawequal(L, 1, -1)) {
    lua_pushvalue(L, 2);
    lua_pushnil(L);
    lua_rawset(L, lua_upvalueindex(CLOSE_RECORDS));
  }
  lua_Integer n = (lua_Integer)lua_rawlen(L, 1);
  for (lua_Integer i = 1; i <= n; i++) {
    lua_settop(L, 1);
    lua_rawgeti(L, 1, i);
    peri_future *future = peri__to_future(L, peri__rt(L), 2);
    if (future->state == PERI_PENDING)
      peri__future_resolve_packed(L, 2, 0);
  }
  return 0;
}

/* -- Loading --------------------------------------------------------------- */

/* ... [data] [what the loader returned] */
static int ran(lua_State *L, int status, lua_KContext context)
{
  (void)status, (void)context;
  const char *name = lua_tostring(L, NAME);
  if (lua_isnil(L, -1))
    lua_pop(L, 1);
  else
    lua_setfield(L, LOADED, name);
  if (lua_getfield(L, LOADED, name) == LUA_TNIL) {
    lua_pop(L, 1);
    lua_pushboolean(L, true);
    lua_pushvalue(L, -1);
    lua_setfield(L, LOADED, name);
  }
  lua_insert(L, -2);
  peri__rt(L)->modules++;
  return 2;
}

/* ... [loader] [data] */
static int run_loader(lua_State *L)
{
  lua_insert(L, -2);
  lua_pushvalue(L, NAME);
  lua_pushvalue(L, -3);
  lua_callk(L, 2, 1, 0, ran);
  return ran(L, LUA_OK, 0);
}

/* Takes what a searcher returned; true: it is a loader, which stays. */
static bool has_loader(lua_State *L)
{
  if (lua_isfunction(L, -2))
    return true;
  if (lua_isstring(L, -2)) {
    lua_settop(L, MESSAGE + 1);
    lua_pushliteral(L, "\n\t");
    lua_insert(L, -2);
    lua_concat(L, 3);
  }
  lua_settop(L, MESSAGE);
  return false;
}

static int searched(lua_State *L, int status, lua_KContext i);

/* Asks the searchers from the i-th on. */
static int search(lua_State *L, lua_Integer i)
{
  for (;; i++) {
    if (lua_rawgeti(L, SEARCHERS, i) == LUA_TNIL)
      return luaL_error(L, "module '%s' not found:%s", lua_tostring(L, NAME),
                        lua_tostring(L, MESSAGE));
    lua_pushvalue(L, NAME);
    lua_callk(L, 1, 2, (lua_KContext)i, searched);
    if (has_loader(L))
      return run_loader(L);
  }
}

static int searched(lua_State *L, int status, lua_KContext i)
{
  (void)status;
  return has_loader(L) ? run_loader(L) : search(L, (lua_Integer)i + 1);
}

static int load(lua_State *L)
{
  lua_settop(L, LOADED);
  open_record(L);
  if (lua_getfield(L, lua_upvalueindex(PACKAGE), "searchers") != LUA_TTABLE)
    return luaL_error(L, "'package.searchers' must be a table");
  lua_pushliteral(L, "");
  return search(L, 1);
}

/* ... [what is in package.loaded] [whether that is to be taken as it is] */
static int attended(lua_State *L, int status, lua_KContext context)
{
  (void)status, (void)context;
  bool as_it_is = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return as_it_is ? 1 : look(L);
}

/* Returns the module if it is there; otherwise loads it, or waits for who
 * does. */
static int look(lua_State *L)
{
  lua_settop(L, LOADED);
  lua_getfield(L, LOADED, lua_tostring(L, NAME));
  bool there = lua_toboolean(L, -1);
  lua_pushvalue(L, NAME);
  if (peri_likely(lua_rawget(L, lua_upvalueindex(RECORDS)) == LUA_TNIL)) {
    lua_pop(L, 1);
    return there ? 1 : load(L);
  }
  push_helper(L, "attend");
  lua_insert(L, -2);
  lua_pushboolean(L, there);
  lua_callk(L, 2, 1, 0, attended);
  return attended(L, LUA_OK, 0);
}

static int l_require(lua_State *L)
{
  luaL_checkstring(L, NAME);
  lua_settop(L, NAME);
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  return look(L);
}

/* Made once: it has the one table of records. */
static void make_require(lua_State *L, peri_runtime *rt)
{
  lua_pushlightuserdata(L, rt);
  if (lua_getglobal(L, LUA_LOADLIBNAME) != LUA_TTABLE) {
    lua_newtable(L); /* where a host has none nothing is found */
    lua_replace(L, -2);
  }
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushlightuserdata(L, rt);
  lua_pushvalue(L, -3);
  lua_pushcclosure(L, l_close_record, 2);
  lua_setfield(L, -2, "__close");
  lua_pushcclosure(L, l_require, 4);
  peri__set_ref(L, rt, PERI_REF_REQUIRE);
}

void peri__require_push(lua_State *L, peri_runtime *rt)
{
  if (!peri__has_ref(L, rt, PERI_REF_REQUIRE))
    make_require(L, rt);
  peri__push_ref(L, rt, PERI_REF_REQUIRE);
}

void peri__require_records(lua_State *L)
{
  lua_getupvalue(L, -1, RECORDS);
  lua_replace(L, -2);
}
