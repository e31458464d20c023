/*
 * encode_function.c: functions to the bytes of a message: their code, as chunks
 * where the transport carries them, and their upvalues.
 */
#include "pool/encoder.h"

/* -- Code ------------------------------------------------------------------ */

static int write_code(lua_State *L, const void *code, size_t size, void *ud)
{
  peri__buffer *out = ud;
  (void)L;
  if (peri__buffer_reserve(out, size) < 0)
    return 1;
  memcpy(out->data + out->length, code, size);
  out->length += size;
  return 0;
}

/* Writes the code of the function on top into the message. */
static void put_code(encoder *e)
{
  size_t at = put_count(e), start = e->out->length;
  if (lua_dump(e->L, write_code, e->out, 0) != 0)
    peri__no_memory(e->L);
  set_count(e, at, e->out->length - start);
}

/* The function on top is sent for the first time: its code is made a chunk,
 * which is pushed and noted; false and nothing: it is too long for that. */
static bool push_new_code(encoder *e)
{
  lua_State *L = e->L;
  peri__buffer *out = e->out;
  int function = lua_gettop(L);
  size_t at = out->length;
  if (lua_dump(L, write_code, out, 0) != 0)
    peri__no_memory(L);
  size_t length = out->length - at;
  out->length = at;
  bool kept = length <= MAX_CHUNK;
  if (kept)
    peri__code_push(L, e->rt, function, out->data + at, length);
  else
    lua_pushboolean(L, 0);
  lua_pushvalue(L, function);
  lua_pushvalue(L, -2);
  lua_rawset(L, e->names);
  if (!kept)
    lua_pop(L, 1);
  return kept;
}

/* The number of a chunk in this message; *again: it had one before. Negative:
 * there is no room for it. */
static int chunk_number(encoder *e, peri__chunk *chunk, bool *again)
{
  peri__message *message = e->message;
  int n = (int)message->chunk_count;
  *again = true;
  for (int i = 0; i < n; i++)
    if (message->chunks[i] == chunk)
      return i;
  *again = false;
  if (!e->chunks || n == PERI__MESSAGE_CHUNKS)
    return -1;
  if (peri__message_add_chunk(message, chunk) < 0)
    peri__no_memory(e->L);
  return n;
}

static void open_function(encoder *e, int upvalues)
{
  put_varint(e, (uint64_t)upvalues);
  peri__open_frame(e, FRAME_FUNCTION)->last = upvalues;
}

/* The function on top has this code. */
static void put_chunk(encoder *e, const peri__code *code)
{
  bool again;
  int number = chunk_number(e, code->chunk, &again);
  peri__mark(e);
  if (number < 0) {
    put_byte(e, TAG_FUNCTION);
    put_u32(e, code->chunk->length);
    memcpy(extend(e, code->chunk->length), code->chunk->code,
           code->chunk->length);
    open_function(e, code->upvalues);
    return;
  }
  bool plain = code->plain && !again;
  put_tagged(e, plain ? TAG_PLAIN : TAG_CHUNK, (uint64_t)number);
  if (plain)
    lua_pop(e->L, 1);
  else
    open_function(e, code->upvalues);
}

static void put_long_function(encoder *e)
{
  lua_Debug ar;
  lua_pushvalue(e->L, -1);
  lua_getinfo(e->L, ">u", &ar);
  peri__mark(e);
  put_byte(e, TAG_FUNCTION);
  put_code(e);
  open_function(e, ar.nups);
}

static void put_lua_function(encoder *e)
{
  if (!push_new_code(e)) {
    put_long_function(e);
    return;
  }
  peri__code *code = lua_touserdata(e->L, -1);
  lua_pop(e->L, 1); /* the names have it */
  put_chunk(e, code);
}

void peri__put_function(encoder *e)
{
  lua_State *L = e->L;
  if (peri__put_again(e))
    return;
  switch (peri__push_known(e)) {
  case LUA_TSTRING:
    peri__put_known(e);
    return;
  case LUA_TUSERDATA: {
    peri__code *code = lua_touserdata(L, -1);
    lua_pop(L, 1);
    put_chunk(e, code);
    return;
  }
  case LUA_TBOOLEAN:
    lua_pop(L, 1);
    put_long_function(e);
    return;
  default:
    lua_pop(L, 1);
  }
  if (!lua_iscfunction(L, -1)) {
    put_lua_function(e);
    return;
  }
  if (!peri__names_search(L, e->names))
    peri__refuse(e, "C function");
  peri__put_name(e);
}

/* Pushes the code that is noted for the function at idx, or something else. */
static void push_known_code(lua_State *L, peri_runtime *rt, int idx)
{
  peri__names_push(L, rt);
  lua_pushvalue(L, idx);
  lua_rawget(L, -2);
  lua_replace(L, -2);
}

/* NULL: the function at idx has none yet. */
static const peri__code *known_code(lua_State *L, peri_runtime *rt, int idx)
{
  push_known_code(L, rt, idx);
  const peri__code *code = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return code;
}

/* The function that was asked for last is kept, and its code, so that its
 * address tells that it is the same. */
peri__chunk *peri__plain_chunk(lua_State *L, peri_runtime *rt, int idx)
{
  const void *function = lua_topointer(L, idx);
  if (peri_likely(function == rt->plain_function && function != NULL &&
                  rt->plain_modules == rt->modules_named))
    return rt->plain_chunk;
  if (lua_type(L, idx) != LUA_TFUNCTION)
    return NULL;
  const peri__code *code = known_code(L, rt, idx);
  if (code == NULL || !code->plain)
    return NULL;
  rt->plain_function = NULL;
  lua_pushvalue(L, idx);
  peri__set_ref(L, rt, PERI_REF_PLAIN);
  push_known_code(L, rt, idx);
  peri__set_ref(L, rt, PERI_REF_PLAIN_CODE);
  rt->plain_function = function;
  rt->plain_chunk = code->chunk;
  rt->plain_modules = rt->modules_named;
  return code->chunk;
}

bool peri__put_plain(encoder *e, int idx)
{
  lua_State *L = e->L;
  bool again;
  if (!e->chunks || e->objects == FEW || lua_type(L, idx) != LUA_TFUNCTION)
    return false;
  const peri__code *code = known_code(L, e->rt, idx);
  if (code == NULL || !code->plain)
    return false;
  int number = chunk_number(e, code->chunk, &again);
  if (number < 0 || again)
    return false;
  e->first_objects[e->objects++] = lua_topointer(L, idx);
  put_tagged(e, TAG_PLAIN, (uint64_t)number);
  return true;
}

/* -- Upvalues -------------------------------------------------------------- */

/* The number of the upvalue at an address; a new one if *is_new. */
static uint32_t upvalue_number(encoder *e, const void *address, bool *is_new)
{
  lua_State *L = e->L;
  uint32_t few = e->upvalues < FEW ? e->upvalues : FEW;
  *is_new = false;
  for (uint32_t i = 0; i < few; i++)
    if (e->first_upvalues[i] == address)
      return i + 1;
  if (e->upvalues >= FEW) {
    lua_rawgetp(L, peri__seen(e), address);
    uint32_t number = (uint32_t)lua_tointeger(L, -1);
    lua_pop(L, 1);
    if (number != 0)
      return number;
  }
  *is_new = true;
  uint32_t number = ++e->upvalues;
  if (number <= FEW) {
    e->first_upvalues[number - 1] = address;
  } else {
    lua_pushinteger(L, number);
    lua_rawsetp(L, e->seen, address);
  }
  return number;
}

/* Writes upvalue i; true if the frame of its value is open now. */
static bool put_upvalue(encoder *e, const peri__frame *frame, int i)
{
  lua_State *L = e->L;
  bool is_new;
  const char *name = lua_getupvalue(L, frame->slot, i);
  if (name != NULL && strcmp(name, "_ENV") == 0) {
    put_byte(e, TAG_GLOBALS);
    lua_pop(L, 1);
    return false;
  }
  const void *address = lua_upvalueid(L, frame->slot, i);
  uint32_t number = upvalue_number(e, address, &is_new);
  if (is_new)
    return peri__put_child(e);
  put_byte(e, TAG_SHARED);
  put_varint(e, number);
  lua_pop(L, 1);
  return false;
}

void peri__step_function(encoder *e, peri__frame *frame)
{
  while (frame->next < frame->last)
    if (put_upvalue(e, frame, (int)++frame->next))
      return;
  peri__close_frame(e, frame);
}
