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

enum { CACHE_SIZE = 128 };

/* -- Caches: tables by light userdata; [1] is the count of the young one ----- */

/* The place of a cache's young table; that of the old one follows. */
typedef enum cache {
  BY_HASH = PERI_REF_CODE,
  BY_ADDRESS = PERI_REF_CHUNKS
} cache;

_Static_assert(PERI_REF_OLD_CODE == PERI_REF_CODE + 1 &&
                   PERI_REF_OLD_CHUNKS == PERI_REF_CHUNKS + 1,
               "old tables follow young ones");

/* The young table, on top, becomes the old one, and a new one the young. */
static void age(lua_State *L, peri_runtime *rt, cache which)
{
  lua_createtable(L, 0, CACHE_SIZE);
  lua_insert(L, -2);
  peri__set_ref(L, rt, (int)which + 1);
  lua_pushvalue(L, -1);
  peri__set_ref(L, rt, (int)which);
}

/* cache[key] = the value on top, which stays. */
static void cache_put(lua_State *L, peri_runtime *rt, cache which,
                      const void *key)
{
  lua_Integer count = CACHE_SIZE;
  peri__push_ref(L, rt, (int)which);
  if (lua_istable(L, -1)) {
    lua_rawgeti(L, -1, 1);
    count = lua_tointeger(L, -1);
    lua_pop(L, 1);
  }
  if (count >= CACHE_SIZE) {
    count = 0;
    age(L, rt, which);
  }
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, key);
  lua_pushinteger(L, count + 1);
  lua_rawseti(L, -2, 1);
  lua_pop(L, 1);
}

/* Pushes cache[key] and returns true, or neither. */
static bool cache_get(lua_State *L, peri_runtime *rt, cache which,
                      const void *key)
{
  for (int i = 0; i < 2; i++) {
    peri__push_ref(L, rt, (int)which + i);
    if (lua_istable(L, -1)) {
      if (lua_rawgetp(L, -1, key) == LUA_TUSERDATA) {
        lua_replace(L, -2);
        if (i == 1)
          cache_put(L, rt, which, key);
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
  static const luaL_Reg metamethods[] = {{"__gc", l_code_gc}, {NULL, NULL}};
  peri__code *code = lua_newuserdatauv(L, sizeof *code, 1);
  *code = (peri__code){0};
  peri__set_kind(L, "perilune.Code", metamethods);
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

peri__code *peri__code_push(lua_State *L, peri_runtime *rt, int function,
                            const char *bytes, size_t length)
{
  const void *key = hash(bytes, length);
  if (cache_get(L, rt, BY_HASH, key)) {
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
  cache_put(L, rt, BY_HASH, key);
  return code;
}

/* -- Receiving ------------------------------------------------------------- */

bool peri__code_load(lua_State *L, const char *code, size_t length)
{
  int status = luaL_loadbufferx(L, code, length, "=message", "b");
  if (status == LUA_ERRMEM)
    peri__no_memory(L);
  return status == LUA_OK;
}

/* Pushes the handle and the function. */
static bool load_shared(lua_State *L, peri_runtime *rt, peri__chunk *chunk)
{
  peri__code *code = push_code(L);
  if (!peri__code_load(L, chunk->code, chunk->length))
    return false;
  look_at_upvalues(L, lua_gettop(L), code);
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, -3, 1);
  lua_pushvalue(L, -2);
  peri__chunk_ref(chunk);
  code->chunk = chunk;
  cache_put(L, rt, BY_ADDRESS, chunk);
  lua_pop(L, 1);
  return true;
}

/* Puts the function of the chunk, and what keeps its code, where they are found
 * without a look into the cache. Pushes nothing; false and a text: it is
 * damaged. */
static bool load_last(lua_State *L, peri_runtime *rt, peri__chunk *chunk)
{
  if (cache_get(L, rt, BY_ADDRESS, chunk))
    lua_getiuservalue(L, -1, 1);
  else if (!load_shared(L, rt, chunk))
    return false;
  rt->loaded_has_globals = ((peri__code *)lua_touserdata(L, -2))->upvalues > 0;
  rt->loaded_chunk = chunk;
  peri__set_ref(L, rt, PERI_REF_LOADED);
  peri__set_ref(L, rt, PERI_REF_LOADED_CODE);
  return true;
}

bool peri__code_load_plain(lua_State *L, peri_runtime *rt, peri__chunk *chunk)
{
  if (peri_unlikely(rt->loaded_chunk != chunk) && !load_last(L, rt, chunk))
    return false;
  peri__push_ref(L, rt, PERI_REF_LOADED);
  if (rt->loaded_has_globals) { /* a job may have assigned to it */
    lua_pushglobaltable(L);
    lua_setupvalue(L, -2, 1);
  }
  return true;
}
