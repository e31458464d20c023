/*
 * names.c: which values of a state have a name that another state knows.
 *
 * A table with weak keys maps such values to the bytes of their name, ready to
 * be written: every module in package.loaded, the functions and classes that
 * are its fields, and what C functions a search in depth has found. A class is
 * a table with a metatable or an __index; a plain table in a module is data,
 * which the script may have changed, and so is copied.
 *
 * Of the standard library only C functions count: a Lua function in there was
 * put there by the script, and no other state has it.
 *
 * The table grows with package.loaded. Where require is ours it counts what it
 * loads, and a new count has the next message that holds an unknown function or
 * table walk through the module names again (a microsecond for 40 of them), and
 * take the fields of new modules; what a script has put into package.loaded by
 * hand is found then, not before. Elsewhere nothing tells us of new modules, and
 * each such message walks. A function without a name is noted as such.
 */
#include <string.h>

#include "pool/wire.h"

/* How far, and through how many fields, a C function is looked for. */
enum { SEARCH_DEPTH = 3, SEARCH_FIELDS = 100000 };

static const char *const standard[] = {
    "_G", "coroutine", "debug",  "io",    "math",
    "os", "package",   "string", "table", "utf8",
};

/* Other C functions among the globals are a script's copies: of no use under
 * that name elsewhere, and known under their own. */
static const char *const base[] = {
    "assert",   "collectgarbage", "dofile",   "error",        "getmetatable",
    "ipairs",   "load",           "loadfile", "next",         "pairs",
    "pcall",    "print",          "rawequal", "rawget",       "rawlen",
    "rawset",   "require",        "select",   "setmetatable", "tonumber",
    "tostring", "type",           "warn",     "xpcall",
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static bool is_among(const char *name, const char *const *list, size_t n)
{
  for (size_t i = 0; i < n; i++)
    if (strcmp(name, list[i]) == 0)
      return true;
  return false;
}

void peri__names_push(lua_State *L, peri_runtime *rt)
{
  peri__push_ref(L, rt, PERI_REF_SENT);
  if (peri_likely(lua_istable(L, -1)))
    return;
  lua_pop(L, 1);
  peri__weak_table(L, rt, PERI_REF_SENT, "k");
  peri__push_ref(L, rt, PERI_REF_SENT);
}

static void add_string(luaL_Buffer *buffer, const char *s, size_t length)
{
  size_t rest = length;
  if (length < SHORT_STRINGS) {
    luaL_addchar(buffer, (char)(TAG_SHORT_STRING | length));
  } else {
    luaL_addchar(buffer, TAG_STRING);
    for (; rest >= 0x80; rest >>= 7)
      luaL_addchar(buffer, (char)(rest | 0x80));
    luaL_addchar(buffer, (char)rest);
  }
  luaL_addlstring(buffer, s, length);
}

/* Pushes the bytes of a name whose module and keys are the n strings from
 * index first on. */
static void push_name(lua_State *L, int first, int n)
{
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  luaL_addchar(&buffer, TAG_NAME);
  for (int i = 0; i < n; i++) {
    size_t length;
    const char *s = lua_tolstring(L, first + i, &length);
    add_string(&buffer, s, length);
    if (i == 0)
      luaL_addchar(&buffer, (char)(n - 1));
  }
  luaL_pushresult(&buffer);
}

/* names[value] = the bytes on top (popped), unless value has a name. */
static void set_name(lua_State *L, int names, int value)
{
  lua_pushvalue(L, value);
  if (lua_rawget(L, names) == LUA_TSTRING) {
    lua_pop(L, 2);
    return;
  }
  lua_pop(L, 1);
  lua_pushvalue(L, value);
  lua_insert(L, -2);
  lua_rawset(L, names);
}

static bool is_class(lua_State *L, int table)
{
  if (lua_getmetatable(L, table)) {
    lua_pop(L, 1);
    return true;
  }
  lua_pushliteral(L, "__index");
  bool found = lua_rawget(L, table) != LUA_TNIL;
  lua_pop(L, 1);
  return found;
}

static bool is_named_standard(lua_State *L, const char *module, int key)
{
  if (strcmp(module, "io") == 0 && lua_isuserdata(L, key + 1))
    return true;
  return lua_iscfunction(L, key + 1) &&
         (strcmp(module, "_G") != 0 ||
          is_among(lua_tostring(L, key), base, COUNT(base)));
}

/* Whether the value behind the key, a field of a module, goes by its name. */
static bool is_named(lua_State *L, int key)
{
  switch (lua_type(L, key + 1)) {
  case LUA_TFUNCTION:
  case LUA_TUSERDATA:
  case LUA_TLIGHTUSERDATA:
    return true;
  case LUA_TTABLE:
    return is_class(L, key + 1);
  default:
    return false;
  }
}

/* The module's name and table stand at name and name + 1. */
static void scan_fields(lua_State *L, int names, int name)
{
  const char *module = lua_tostring(L, name);
  bool in_standard = is_among(module, standard, COUNT(standard));
  peri__check_stack(L, LUA_MINSTACK);
  lua_pushnil(L);
  while (lua_next(L, name + 1)) { /* ... key value */
    int key = lua_gettop(L) - 1;
    if (lua_type(L, key) == LUA_TSTRING &&
        (in_standard ? is_named_standard(L, module, key) : is_named(L, key))) {
      lua_pushvalue(L, name);
      lua_pushvalue(L, key); /* ... key value name key */
      push_name(L, key + 2, 2);
      set_name(L, names, key + 1);
    }
    lua_settop(L, key);
  }
}

/* A module that was not there before; its name and value are on top. */
static void scan_module(lua_State *L, int names)
{
  int name = lua_gettop(L) - 1;
  push_name(L, name, 1);
  lua_pushvalue(L, name + 1);
  lua_insert(L, -2);
  /* A function that was taken for nameless has got a name now. */
  lua_rawset(L, names);
  if (lua_istable(L, name + 1))
    scan_fields(L, names, name);
}

void peri__names_scan(lua_State *L, peri_runtime *rt, int names)
{
  int top = lua_gettop(L);
  uint32_t modules = rt->modules;
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushnil(L);
  while (lua_next(L, top + 1)) { /* loaded name module */
    int type = lua_type(L, -1);
    if (lua_type(L, -2) == LUA_TSTRING &&
        (type == LUA_TTABLE || type == LUA_TFUNCTION ||
         type == LUA_TUSERDATA)) {
      lua_pushvalue(L, -1);
      bool known = lua_rawget(L, names) == LUA_TSTRING;
      lua_pop(L, 1);
      if (!known)
        scan_module(L, names);
    }
    lua_settop(L, top + 2);
  }
  lua_settop(L, top);
  rt->modules_named = modules;
}

/* What a search in depth carries; path holds the module and keys so far. */
typedef struct search {
  int wanted, names, visited;
  int path[SEARCH_DEPTH + 1]; /* where its strings are on the stack */
  int fields;                 /* still to be looked at */
} search;

static bool search_table(lua_State *L, search *s, int depth, int table);

/* The key is on the stack below the value, which is on top. */
static bool search_field(lua_State *L, search *s, int depth)
{
  int value = lua_gettop(L);
  if (s->fields-- <= 0 || lua_type(L, value - 1) != LUA_TSTRING)
    return false;
  s->path[depth] = value - 1;
  if (lua_rawequal(L, value, s->wanted)) {
    for (int i = 0; i <= depth; i++)
      lua_pushvalue(L, s->path[i]);
    push_name(L, value + 1, depth + 1);
    set_name(L, s->names, s->wanted);
    return true;
  }
  return lua_istable(L, value) && depth < SEARCH_DEPTH &&
         search_table(L, s, depth + 1, value);
}

static bool search_table(lua_State *L, search *s, int depth, int table)
{
  peri__check_stack(L, LUA_MINSTACK);
  lua_pushvalue(L, table);
  if (lua_rawget(L, s->visited) != LUA_TNIL) {
    lua_pop(L, 1);
    return false;
  }
  lua_pop(L, 1);
  lua_pushvalue(L, table);
  lua_pushboolean(L, 1);
  lua_rawset(L, s->visited);
  lua_pushnil(L);
  while (lua_next(L, table)) {
    int key = lua_gettop(L) - 1;
    if (search_field(L, s, depth))
      return true;
    lua_settop(L, key);
  }
  return false;
}

bool peri__names_search(lua_State *L, int names)
{
  int wanted = lua_gettop(L);
  search s = {.wanted = wanted, .names = names, .fields = SEARCH_FIELDS};
  lua_newtable(L);
  s.visited = lua_gettop(L);
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  bool found = search_table(L, &s, 0, lua_gettop(L));
  lua_settop(L, wanted);
  return found;
}
