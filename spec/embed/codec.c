/* Messages below what scripts see: chunks, how they are kept and carried, and a
 * state without memory. */
#include "failing.h"

#include "pool/codec.h"

static peri__peer trusted = {.trusted = true};

/* What a script leaves as `values` and what it is to be on the other side. */
static const char values[] =
    "peri = require 'perilune'\n"
    "multiprocessing = require 'perilune.multiprocessing'\n"
    "local Set = {}\n"
    "multiprocessing.register('spec.Set', Set, {\n"
    "  pack = function(set) return table.unpack(set) end,\n"
    "  unpack = function(...) return setmetatable({ ... }, Set) end,\n"
    "})\n"
    "MyError = peri.ValueError:extend 'spec.MyError'\n"
    "local count, name = 0, ('n'):rep(300)\n"
    "local function increment() count = count + 1 return count, name end\n"
    "values = { 1, 2.5, 'three', name, true, x = { y = {} } }\n"
    "values.self = values\n"
    "for i = 1, 6 do values[#values + 1] = { i, increment } end\n"
    "values.set = setmetatable({ {}, 'two' }, Set)\n"
    "values.fns = { increment, function() return count end, print, "
    "peri.sleep,\n"
    "  function(x) return x end }\n"
    "values.err = MyError('m', { code = 1 })\n"
    "values.ref, values.loop = peri.ref(print), peri.new_event_loop()\n";

/* -- Chunks ---------------------------------------------------------------- */

/* Encodes the values of an expression. */
static void encode(peri_runtime *rt, const char *code, peri__message *message)
{
  lua_State *L = peri_state(rt);
  CHECK_INT(LUA_OK, luaL_dostring(L, code));
  peri__message_clear(message);
  peri__encode(L, rt, 1, lua_gettop(L), PERI__MESSAGE_CALL, true, message);
  lua_settop(L, 0);
}

static void chunks_are_kept(void)
{
  peri_runtime *sender, *receiver;
  peri__message first = {0}, second = {0};
  CHECK_INT(PERI_OK, peri_new(&sender, NULL));
  CHECK_INT(PERI_OK, peri_new(&receiver, NULL));
  lua_State *M = peri_state(receiver);
  CHECK_INT(LUA_OK, luaL_dostring(peri_state(sender),
                                  "function make(n)\n"
                                  "  return function() return n end\n"
                                  "end\n"
                                  "function plain() _ENV = { x = x } end\n"));
  /* Closures of one function have one chunk, with any upvalues. */
  encode(sender, "return make(1), make(2)", &first);
  encode(sender, "return make(3)", &second);
  CHECK_INT(1, first.chunk_count);
  CHECK(second.chunks[0] == first.chunks[0]);
  CHECK_INT(2, peri__decode(M, receiver, &first, &trusted));
  CHECK(!lua_rawequal(M, 1, 2));
  lua_call(M, 0, 1);
  CHECK_INT(2, lua_tointeger(M, -1));
  lua_settop(M, 0);
  /* Without upvalues it is loaded once, but once a message only. */
  encode(sender, "return function() end", &first);
  CHECK_INT(1, peri__decode(M, receiver, &first, &trusted));
  CHECK_INT(1, peri__decode(M, receiver, &first, &trusted));
  CHECK(lua_rawequal(M, 1, 2));
  lua_settop(M, 0);
  encode(sender,
         "local a, b = load 'return 1', load 'return 1'\n"
         "assert(a ~= b)\n"
         "return a, b, a",
         &first);
  CHECK_INT(3, peri__decode(M, receiver, &first, &trusted));
  CHECK(!lua_rawequal(M, 1, 2) && lua_rawequal(M, 1, 3));
  lua_settop(M, 0);
  /* It begins with the globals each time. */
  encode(sender, "return plain", &first);
  for (int i = 0; i < 2; i++) {
    CHECK_INT(1, peri__decode(M, receiver, &first, &trusted));
    CHECK_TEXT("_ENV", lua_getupvalue(M, 1, 1));
    lua_pushglobaltable(M);
    CHECK(lua_rawequal(M, -1, -2));
    lua_settop(M, 1);
    lua_call(M, 0, 0);
  }
  peri__message_fini(&first);
  peri__message_fini(&second);
  peri_close(sender);
  peri_close(receiver);
}

/* More functions than a message has room for, and than are kept. */
static void many_chunks(void)
{
  peri_runtime *rt;
  peri__message message = {0};
  CHECK_INT(PERI_OK, peri_new(&rt, NULL));
  lua_State *L = peri_state(rt);
  for (int round = 0; round < 2; round++) {
    encode(rt,
           "local list = {}\n"
           "for i = 1, 1000 do list[i] = load('return ' .. i) end\n"
           "return list",
           &message);
    CHECK_INT(PERI__MESSAGE_CHUNKS, message.chunk_count);
    CHECK_INT(1, peri__decode(L, rt, &message, &trusted));
    lua_setglobal(L, "list");
    CHECK_INT(LUA_OK, luaL_dostring(L, "for i = 1, 1000 do\n"
                                       "  assert(list[i]() == i)\n"
                                       "end"));
  }
  peri__message_fini(&message);
  peri_close(rt);
}

/* -- Between processes ----------------------------------------------------- */

static peri__chunk *make_chunk(int i)
{
  char code[20];
  snprintf(code, sizeof code, "code %d", i);
  peri__chunk *chunk = peri__chunk_new(code, strlen(code));
  CHECK(chunk != NULL);
  return chunk;
}

/* What the sender says is there is there, whatever was sent before. */
static void places(void)
{
  enum { CHUNKS = 3 * PERI__CHUNK_PLACES };
  peri__chunk_places sender = {0}, receiver = {0};
  peri__chunk *chunks[CHUNKS];
  unsigned sent = 0;
  for (int i = 0; i < CHUNKS; i++)
    chunks[i] = make_chunk(i);
  for (int m = 0; m < 1000; m++) {
    unsigned at[PERI__MESSAGE_CHUNKS];
    peri__chunk_places_begin(&sender);
    for (int i = 0; i < PERI__MESSAGE_CHUNKS; i++) {
      bool fresh;
      peri__chunk *chunk = chunks[(m * 7 + i * i * 5) % CHUNKS];
      at[i] = peri__chunk_place(&sender, chunk, &fresh);
      sent += fresh;
      if (fresh)
        CHECK_INT(0, peri__chunk_arrived(&receiver, at[i], chunk->code,
                                         chunk->length));
    }
    for (int i = 0; i < PERI__MESSAGE_CHUNKS; i++) {
      const peri__chunk *chunk = chunks[(m * 7 + i * i * 5) % CHUNKS];
      const peri__chunk *there = peri__chunk_at(&receiver, at[i]);
      CHECK(there != NULL && there->length == chunk->length &&
            memcmp(there->code, chunk->code, chunk->length) == 0);
    }
  }
  CHECK(sent < 1000 * PERI__MESSAGE_CHUNKS);
  bool fresh;
  peri__chunk_places_begin(&sender);
  unsigned at = peri__chunk_place(&sender, chunks[0], &fresh);
  peri__chunk_places_begin(&sender);
  CHECK_INT(at, peri__chunk_place(&sender, chunks[0], &fresh));
  CHECK(!fresh);
  CHECK_INT(PERI_EINVAL,
            peri__chunk_arrived(&receiver, PERI__CHUNK_PLACES, "x", 1));
  CHECK(peri__chunk_at(&receiver, PERI__CHUNK_PLACES) == NULL);
  for (int i = 0; i < CHUNKS; i++)
    peri__chunk_unref(chunks[i]);
  peri__chunk_places_fini(&sender);
  peri__chunk_places_fini(&receiver);
}

/* -- Without memory -------------------------------------------------------- */

static int encode_values(lua_State *L)
{
  peri__message *message = lua_touserdata(L, 1);
  lua_getglobal(L, "values");
  peri__message_clear(message);
  peri__encode(L, peri_of(L), -1, 1, PERI__MESSAGE_VALUES, true, message);
  return 0;
}

static int decode_values(lua_State *L)
{
  peri__decode(L, peri_of(L), lua_touserdata(L, 1), &trusted);
  return 0;
}

static int status_of(peri_runtime *rt, lua_CFunction function,
                     peri__message *message)
{
  lua_State *L = peri_state(rt);
  lua_settop(L, 0);
  lua_pushcfunction(L, function);
  lua_pushlightuserdata(L, message);
  int status = lua_pcall(L, 1, 0, 0);
  if (status != LUA_OK)
    CHECK_TEXT("not enough memory", luaL_tolstring(L, -1, NULL));
  return status;
}

/* From one state to another, with the n-th request for memory failing; false: it
 * was not reached. */
static bool point(allocator *a, long long n, failing how)
{
  peri_runtime *sender, *receiver;
  peri_options options;
  peri__message message = {0};
  peri_options_init(&options);
  options.alloc = allocate;
  options.alloc_ud = a;
  CHECK_INT(PERI_OK, peri_new(&sender, &options));
  CHECK_INT(PERI_OK, peri_new(&receiver, &options));
  CHECK_INT(LUA_OK, luaL_dostring(peri_state(sender), values));
  allocator_arm(a, n, how);
  if (status_of(sender, encode_values, &message) == LUA_OK)
    status_of(receiver, decode_values, &message);
  bool reached = a->count >= n;
  allocator_arm(a, 0, how);
  CHECK_INT(LUA_OK, status_of(sender, encode_values, &message));
  CHECK_INT(LUA_OK, status_of(receiver, decode_values, &message));
  peri__message_fini(&message);
  peri_close(sender);
  peri_close(receiver);
  CHECK_INT(0, a->bytes);
  return reached;
}

/* Lua's requests fail in earnest when they fail twice: each of those points; of
 * the others, which differ from them in a few, every third. */
static void without_memory(void)
{
  allocator a = {0};
  for (int how = FAIL_ONCE; how <= FAIL_FOR_GOOD; how++)
    for (long long n = 1; point(&a, n, (failing)how);
         n += how == FAIL_TWICE ? 1 : 3)
      continue;
}

int main(void)
{
  chunks_are_kept();
  many_chunks();
  places();
  without_memory();
  return 0;
}
