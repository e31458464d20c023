/* Bytes from nowhere: what can be read of a message from an untrusted source is
 * written and read again, and must be the same. For clang's libFuzzer; see
 * scripts/fuzz, and seeds.lua for what it begins with. */
#include <stdio.h>
#include <string.h>

#include "pool/codec.h"

/* Registers classes; returns same(a, b), which compares two lists with n. */
static const char script[] =
    "local peri = require 'perilune'\n"
    "local multiprocessing = require 'perilune.multiprocessing'\n"
    "peri.ValueError:extend 'fuzz.Error'\n"
    "multiprocessing.register('fuzz.Point', {})\n"
    "local Set = {}\n"
    "multiprocessing.register('fuzz.Set', Set, {\n"
    "  pack = function(set) return table.unpack(set, 1, set.n) end,\n"
    "  unpack = function(...)\n"
    "    return setmetatable({ n = select('#', ...), ... }, Set)\n"
    "  end,\n"
    "})\n"
    "local same\n"
    "local function same_table(a, b, seen)\n"
    "  if seen[a] then return seen[a] == b end\n"
    "  seen[a] = b\n"
    "  if debug.getmetatable(a) ~= debug.getmetatable(b) then return false "
    "end\n"
    "  local n = 0\n"
    "  for key, value in next, a do\n"
    "    n = n + 1\n"
    "    local kind = type(key)\n"
    "    if (kind == 'string' or kind == 'number' or kind == 'boolean') and\n"
    "        not same(value, rawget(b, key), seen) then return false end\n"
    "  end\n"
    "  for _ in next, b do n = n - 1 end\n"
    "  return n == 0\n"
    "end\n"
    "function same(a, b, seen)\n"
    "  if rawequal(a, b) and math.type(a) == math.type(b) then return true "
    "end\n"
    "  if type(a) ~= type(b) or math.type(a) ~= math.type(b) then return false "
    "end\n"
    "  if type(a) == 'table' then return same_table(a, b, seen) end\n"
    "  if type(a) == 'userdata' then return a == b end\n"
    "  return type(a) == 'function' or a ~= a and b ~= b\n"
    "end\n"
    "return function(a, b) return same(a, b, {}) end\n";

static peri_runtime *rt;
static peri__message again;

/* [bytes] [peer] -> values */
static int decode(lua_State *L)
{
  const peri__message *message = lua_touserdata(L, 1);
  peri__peer *peer = lua_touserdata(L, 2);
  lua_settop(L, 0);
  return peri__decode(L, rt, message, peer);
}

/* [values] -> into again */
static int encode(lua_State *L)
{
  peri__encode(L, rt, 1, lua_gettop(L), PERI__MESSAGE_VALUES, false, &again);
  return 0;
}

/* Calls a function with n values on top; the results stand in a table with n
 * instead; nil: it raised. */
static bool call(lua_State *L, lua_CFunction function, int n)
{
  int first = lua_gettop(L) - n;
  lua_pushcfunction(L, function);
  lua_insert(L, first + 1);
  if (lua_pcall(L, n, LUA_MULTRET, 0) != LUA_OK) {
    lua_settop(L, first);
    return false;
  }
  return true;
}

static void pack(lua_State *L, int first)
{
  int n = lua_gettop(L) - first + 1;
  lua_createtable(L, n, 1);
  lua_insert(L, first);
  for (int i = n; i >= 1; i--)
    lua_rawseti(L, first, i);
  lua_pushinteger(L, n);
  lua_setfield(L, first, "n");
}

static bool read_message(lua_State *L, const peri__message *message,
                         peri__peer *peer)
{
  lua_pushlightuserdata(L, (void *)message);
  lua_pushlightuserdata(L, peer);
  return call(L, decode, 2);
}

static void fail(const char *what)
{
  fprintf(stderr, "%s\n", what);
  abort();
}

static void try(lua_State *L, const peri__message *message)
{
  static peri__peer self = {.trusted = true};
  lua_pushvalue(L, 1); /* same */
  if (!read_message(L, message, NULL))
    return;
  int n = lua_gettop(L) - 2;
  if (!lua_checkstack(L, n + LUA_MINSTACK))
    return;
  for (int i = 0; i < n; i++)
    lua_pushvalue(L, 3 + i);
  peri__message_clear(&again);
  /* Names may stand for what cannot be sent. */
  if (!call(L, encode, n))
    return;
  lua_settop(L, n + 2);
  pack(L, 3);
  if (!read_message(L, &again, &self))
    fail("what was written cannot be read");
  pack(L, 4);
  if (lua_pcall(L, 2, 1, 0) != LUA_OK)
    fail(lua_tostring(L, -1));
  if (!lua_toboolean(L, -1))
    fail("what was written is read as something else");
}

static void start(void)
{
  if (peri_new(&rt, NULL) != PERI_OK)
    fail("no runtime");
  lua_State *L = peri_state(rt);
  if (luaL_dostring(L, script) != LUA_OK)
    fail(lua_tostring(L, -1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  if (rt == NULL)
    start();
  lua_State *L = peri_state(rt);
  /* A copy, so that a read past its end is noticed. */
  char *bytes = malloc(size ? size : 1);
  memcpy(bytes, data, size);
  peri__message message = {.bytes = {.data = bytes, .length = size}};
  try(L, &message);
  lua_settop(L, 1);
  free(bytes);
  return 0;
}
