/*
 * chunks.c: the bytecode of functions, as a state sends and receives it.
 *
 * A chunk stands in a userdata of the state, its handle. The sender notes a
 * function's handle beside its name (names.c), so that a function is dumped
 * once; and since scripts make the same closure over and over, a chunk is looked
 * for by its bytes as well before a new one is made. The receiver finds the
 * handle by the chunk's address. Both look in caches that keep what was used
 * lately: as many handles as CACHE_SIZE, and at most as many again.
 *
 * A function without upvalues but _ENV is loaded once: nothing tells two of it
 * apart but that they are not equal, so one does for all messages (encode.c sees
 * to it that it is not used twice in one message). Others are loaded each time,
 * for somebody may hold the last one, with its upvalues.
 */
#include <string.h>

#include "pool/wire.h"

#define CODE "perilune.Code"

enum { CACHE_SIZE = 128 };

/* Their addresses are the places in the registry of the young half of a cache,
 * that of [1] of the old one. */
static const char by_hash[2], by_address[2];

/* -- Caches: tables by light userdata; [1] is the count of the young one ----- */

static void cache_open(lua_State *L, const char *cache)
{
  lua_createtable(L, 0, CACHE_SIZE);
  lua_pushinteger(L, 0);
  lua_rawseti(L, -2, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, cache);
}

/* cache[key] = the value on top, which stays. */
static void cache_put(lua_State *L, const char *cache, const void *key)
{
  lua_Integer count = CACHE_SIZE;
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, cache) == LUA_TTABLE) {
    lua_rawgeti(L, -1, 1);
    count = lua_tointeger(L, -1);
    lua_pop(L, 1);
  }
  if (count >= CACHE_SIZE) {
    count = 0;
    cache_open(L, cache);
    lua_rawsetp(L, LUA_REGISTRYINDEX, cache + 1); /* the young one is old now */
    lua_rawgetp(L, LUA_REGISTRYINDEX, cache);
  }
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, key);
  lua_pushinteger(L, count + 1);
  lua_rawseti(L, -2, 1);
  lua_pop(L, 1);
}

/* Pushes cache[key] and returns true, or neither. */
static bool cache_get(lua_State *L, const char *cache, const void *key)
{
  for (int i = 0; i < 2; i++) {
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, cache + i) == LUA_TTABLE) {
      if (lua_rawgetp(L, -1, key) == LUA_TUSERDATA) {
        lua_replace(L, -2);
        if (i == 1)
          cache_put(L, cache, key);
        return true;
      }
      lua_pop(L, 1);
    }
    lua_pop(L, 1);
  }
  return false;
}

/* -- Handles --------------------------------------------------------------- */

static int l_code_gc(lua_State *L)
{
  peri__code *code = lua_touserdata(L, 1);
  peri__chunk_unref(code->chunk);
  code->chunk = NULL;
  return 0;
}

/* Pushes a handle without a chunk. */
static peri__code *push_code(lua_State *L)
{
  peri__code *code = lua_newuserdatauv(L, sizeof *code, 1);
  *code = (peri__code){0};
  if (luaL_newmetatable(L, CODE)) {
    lua_pushcfunction(L, l_code_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return code;
}

/* -- Sending --------------------------------------------------------------- */

static const void *hash(const char *bytes, size_t length)
{
  uint64_t h = length;
  for (; length >= sizeof h; bytes += sizeof h, length -= sizeof h) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    h = (h ^ word) * 0x9e3779b97f4a7c15u;
    h ^= h >> 32;
  }
  for (; length > 0; bytes++, length--)
    h = (h ^ (unsigned char)*bytes) * 0x9e3779b97f4a7c15u;
  return (const void *)(uintptr_t)(h ^ h >> 29);
}

/* Counts the upvalues of the function at idx and says whether they are but
 * _ENV. */
static void look_at_upvalues(lua_State *L, int idx, peri__code *code)
{
  lua_Debug ar;
  lua_pushvalue(L, idx);
  lua_getinfo(L, ">u", &ar);
  code->upvalues = ar.nups;
  code->plain = ar.nups == 0;
  if (ar.nups == 1) {
    code->plain = strcmp(lua_getupvalue(L, idx, 1), "_ENV") == 0;
    lua_pop(L, 1);
  }
}

peri__code *peri__code_push(lua_State *L, int function, const char *bytes,
                            size_t length)
{
  const void *key = hash(bytes, length);
  if (cache_get(L, by_hash, key)) {
    peri__code *code = lua_touserdata(L, -1);
    if (code->chunk->length == length &&
        memcmp(code->chunk->code, bytes, length) == 0)
      return code;
    lua_pop(L, 1);
  }
  peri__code *code = push_code(L);
  look_at_upvalues(L, function, code);
  code->chunk = peri__chunk_new(bytes, length);
  if (code->chunk == NULL)
    peri__no_memory(L);
  cache_put(L, by_hash, key);
  return code;
}

/* -- Receiving ------------------------------------------------------------- */

bool peri__code_load(lua_State *L, const peri__chunk *chunk)
{
  return luaL_loadbufferx(L, chunk->code, chunk->length, "=message", "b") ==
         LUA_OK;
}

static bool load_shared(lua_State *L, peri__chunk *chunk)
{
  peri__code *code = push_code(L);
  if (!peri__code_load(L, chunk))
    return false;
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, -3, 1);
  lua_insert(L, -2);
  peri__chunk_ref(chunk);
  code->chunk = chunk;
  cache_put(L, by_address, chunk);
  lua_pop(L, 1);
  return true;
}

bool peri__code_load_plain(lua_State *L, peri__chunk *chunk)
{
  if (cache_get(L, by_address, chunk)) {
    lua_getiuservalue(L, -1, 1);
    lua_replace(L, -2);
  } else if (!load_shared(L, chunk)) {
    return false;
  }
  /* A job may have assigned to it. */
  lua_pushglobaltable(L);
  if (lua_setupvalue(L, -2, 1) == NULL)
    lua_pop(L, 1);
  return true;
}
