/*
 * encode.c: Lua values to the bytes of a message. The essay is in codec.c, the
 * bytes are in wire.h.
 *
 * While a container is open, the Lua stack holds it and, above it, what it is
 * busy with:
 *   table         [table] [key] ([value])
 *   function      [function]
 *   packed        [object] [value 1] .. [value n]
 *   class         [entry]
 *   error class   [class] [base or nil]; then ([key] ([value])) pairs
 * put_value takes the value on top of the stack: it writes and pops it, or
 * opens a frame for it and leaves it there until step has written all of it.
 */
#include <string.h>

#include "pool/wire.h"

typedef struct encoder {
  lua_State *L;
  peri_runtime *rt;
  peri__buffer *out;
  peri__message *message;
  peri__frames frames;
  peri__message_kind kind;
  bool chunks;
  bool scanned; /* the names are those of now */
  int root;     /* the value of the message that is being written, from 1 */
  int packing;  /* open frames of packed objects */
  uint32_t objects, upvalues; /* numbers given so far */
  /* What the first numbers were given to, by address; the objects stand on the
   * Lua stack from `kept` on, so that they stay where they are. */
  const void *first_objects[FEW], *first_upvalues[FEW];
  int kept;
  int seen; /* Places on the Lua stack, nil until needed: for the others, what
               was sent to its object number; an upvalue's or string's address
               to its number; an object number to the string. */
  int names, classes;
} encoder;

/* -- Bytes ----------------------------------------------------------------- */

static char *extend(encoder *e, size_t n)
{
  peri__buffer *out = e->out;
  if (out->capacity - out->length < n && peri__buffer_reserve(out, n) < 0)
    peri__no_memory(e->L);
  char *at = out->data + out->length;
  out->length += n;
  return at;
}

static void put_byte(encoder *e, int byte)
{
  *extend(e, 1) = (char)byte;
}

/* A byte, and a number behind it. */
static void put_tagged(encoder *e, int tag, uint64_t n)
{
  char *at = extend(e, MAX_VARINT + 1), *start = at;
  *at++ = (char)tag;
  for (; n >= 0x80; n >>= 7)
    *at++ = (char)(n | 0x80);
  *at++ = (char)n;
  e->out->length -= (size_t)(start + MAX_VARINT + 1 - at);
}

static void put_varint(encoder *e, uint64_t n)
{
  char *at = extend(e, MAX_VARINT), *start = at;
  for (; n >= 0x80; n >>= 7)
    *at++ = (char)(n | 0x80);
  *at++ = (char)n;
  e->out->length -= (size_t)(start + MAX_VARINT - at);
}

static void put_integer(encoder *e, lua_Integer n)
{
  if (n >= 0 && n < SMALL_INTEGERS) {
    put_byte(e, TAG_SMALL_INTEGER | (int)n);
    return;
  }
  put_tagged(e, TAG_INTEGER, ((uint64_t)n << 1) ^ (n < 0 ? UINT64_MAX : 0));
}

static void put_float(encoder *e, lua_Number n)
{
  char *at = extend(e, 1 + sizeof n);
  *at = TAG_FLOAT;
  memcpy(at + 1, &n, sizeof n);
}

static void put_u32(encoder *e, uint32_t n)
{
  memcpy(extend(e, sizeof n), &n, sizeof n);
}

static void put_bytes(encoder *e, const char *s, size_t length)
{
  put_varint(e, length);
  if (length > 0)
    memcpy(extend(e, length), s, length);
}

static void put_short_string(encoder *e, const char *s, size_t length)
{
  if (length < SHORT_STRINGS) {
    char *at = extend(e, length + 1);
    *at = (char)(TAG_SHORT_STRING | length);
    memcpy(at + 1, s, length);
    return;
  }
  put_byte(e, TAG_STRING);
  put_bytes(e, s, length);
}

/* Room for a count that is known later; returns where. */
static size_t put_count(encoder *e)
{
  memset(extend(e, sizeof(uint32_t)), 0, sizeof(uint32_t));
  return e->out->length - sizeof(uint32_t);
}

static void set_count(encoder *e, size_t at, size_t count)
{
  uint32_t n = (uint32_t)count;
  if (n != count)
    luaL_error(e->L, "too large for a message");
  memcpy(e->out->data + at, &n, sizeof n);
}

/* Raises the TypeError for the value that is being written. */
static int refuse(encoder *e, const char *format, ...)
{
  va_list arguments;
  peri__check_stack(e->L, LUA_MINSTACK);
  const char *path = peri__path_push(e->L, &e->frames, e->kind, e->root);
  va_start(arguments, format);
  const char *why = lua_pushvfstring(e->L, format, arguments);
  va_end(arguments);
  return peri__throw(e->L, e->rt, PERI_ERR_TYPE, "cannot send %s: %s", path,
                     why);
}

/* -- What was sent before, and what goes by name -----------------------------
 */

static int seen(encoder *e)
{
  if (!lua_istable(e->L, e->seen)) {
    lua_newtable(e->L);
    lua_replace(e->L, e->seen);
  }
  return e->seen;
}

/* Gives the value on top the next object number. */
static uint32_t mark(encoder *e)
{
  lua_State *L = e->L;
  uint32_t id = ++e->objects;
  if (id <= FEW) {
    bool light = lua_islightuserdata(L, -1); /* its address is not its own */
    e->first_objects[id - 1] = light ? NULL : lua_topointer(L, -1);
    lua_copy(L, -1, e->kept + (int)id);
    return id;
  }
  seen(e);
  if (lua_type(L, -1) == LUA_TSTRING) { /* by address: Lua would hash all */
    lua_pushvalue(L, -1);
    lua_rawseti(L, e->seen, id);
    lua_pushinteger(L, id);
    lua_rawsetp(L, e->seen, lua_topointer(L, -2));
    return id;
  }
  lua_pushvalue(L, -1);
  lua_pushinteger(L, id);
  lua_rawset(L, e->seen);
  return id;
}

/* The number of the value on top; 0: it has none. */
static uint32_t number_of(encoder *e)
{
  lua_State *L = e->L;
  const void *address = lua_topointer(L, -1);
  uint32_t few = e->objects < FEW ? e->objects : FEW;
  for (uint32_t i = 0; i < few; i++)
    if (e->first_objects[i] == address)
      return i + 1;
  if (e->objects <= FEW || !lua_istable(L, e->seen))
    return 0;
  if (lua_type(L, -1) == LUA_TSTRING) {
    lua_rawgetp(L, e->seen, address);
  } else {
    lua_pushvalue(L, -1);
    lua_rawget(L, e->seen);
  }
  uint32_t id = (uint32_t)lua_tointeger(L, -1);
  lua_pop(L, 1);
  return id;
}

static bool is_being_packed(encoder *e, uint32_t id)
{
  for (int i = 0; i < e->frames.depth; i++)
    if (e->frames.v[i].kind == FRAME_PACKED && e->frames.v[i].id == id)
      return true;
  return false;
}

/* Writes a REF for the value on top and pops it, if it was sent before. */
static bool put_again(encoder *e)
{
  uint32_t id = number_of(e);
  if (id == 0)
    return false;
  if (e->packing > 0 && is_being_packed(e, id))
    refuse(e, "it is part of what its own pack returned");
  put_byte(e, TAG_REF);
  put_varint(e, id);
  lua_pop(e->L, 1);
  return true;
}

static int names(encoder *e)
{
  if (!lua_istable(e->L, e->names)) {
    peri__names_push(e->L);
    lua_replace(e->L, e->names);
  }
  return e->names;
}

static int classes(encoder *e)
{
  if (!lua_istable(e->L, e->classes)) {
    peri__classes_push(e->L);
    lua_replace(e->L, e->classes);
  }
  return e->classes;
}

/* Pushes what the names say of the value on top: the bytes of its name, what a
 * function has instead, or nil. Returns the type. */
static int push_name(encoder *e)
{
  lua_State *L = e->L;
  lua_pushvalue(L, -1);
  int type = lua_rawget(L, names(e));
  if (type != LUA_TNIL || e->scanned || peri__names_are_current(e->rt))
    return type;
  lua_pop(L, 1);
  peri__names_scan(L, e->rt, e->names);
  e->scanned = true;
  lua_pushvalue(L, -1);
  return lua_rawget(L, e->names);
}

/* Writes the name on top for the value below it and pops both. */
static void put_bytes_of_name(encoder *e)
{
  size_t length;
  const char *bytes = lua_tolstring(e->L, -1, &length);
  memcpy(extend(e, length), bytes, length);
  lua_pop(e->L, 1);
  mark(e);
  lua_pop(e->L, 1);
}

/* Writes the name of the value on top and pops it, if it has one. */
static bool put_name(encoder *e)
{
  if (push_name(e) == LUA_TSTRING) {
    put_bytes_of_name(e);
    return true;
  }
  lua_pop(e->L, 1);
  return false;
}

/* -- Values ------------------------------------------------------------------
 */

/* Opens a frame for the value on top. */
static peri__frame *open_frame(encoder *e, peri__frame_kind kind)
{
  peri__frame *frame = peri__frames_push(e->L, &e->frames);
  if (frame == NULL)
    refuse(e, "nested too deeply");
  frame->kind = (uint8_t)kind;
  frame->slot = lua_gettop(e->L);
  return frame;
}

/* The string on top, which stays if it was sent before. */
static bool put_string(encoder *e)
{
  size_t length;
  const char *s = lua_tolstring(e->L, -1, &length);
  if (length < LONG_STRING) {
    put_short_string(e, s, length);
    return true;
  }
  if (number_of(e) != 0)
    return false;
  mark(e);
  put_tagged(e, TAG_LONG_STRING, length);
  memcpy(extend(e, length), s, length);
  return true;
}

/* The counts of a table, whose frame is on top; its items are next. */
static void open_items(encoder *e, peri__frame *frame)
{
  frame->phase = PHASE_ITEMS;
  frame->count_at = put_count(e);
  put_count(e);
  lua_pushnil(e->L); /* the key before the first one */
}

/* Pushes what says how the object at idx is sent, its class entry or its error
 * class; false and nothing if there is neither. */
static bool push_class(encoder *e, int idx)
{
  lua_State *L = e->L;
  if (!lua_getmetatable(L, idx))
    return false;
  if (peri__error_class_name(L, e->rt, -1)) {
    lua_pop(L, 1);
    return true;
  }
  if (lua_rawget(L, classes(e)) == LUA_TTABLE)
    return true;
  lua_pop(L, 1);
  return false;
}

static int refuse_object(encoder *e)
{
  bool named = luaL_getmetafield(e->L, -1, "__name") == LUA_TSTRING;
  const char *name = named ? lua_tostring(e->L, -1) : "table with a metatable";
  return refuse(e, "%s (its class is not registered)", name);
}

/* The object on top has a metatable. */
static void put_object(encoder *e)
{
  lua_State *L = e->L;
  if (!push_class(e, -1))
    refuse_object(e);
  bool is_error = lua_rawgeti(L, -1, CLASS_NAME) == LUA_TNIL;
  bool packs = lua_rawgeti(L, -2, CLASS_PACK) != LUA_TNIL;
  lua_pop(L, 3);
  uint32_t id = mark(e);
  put_byte(e, is_error ? TAG_ERROR : packs ? TAG_PACKED : TAG_OBJECT);
  e->packing += packs;
  peri__frame *frame = open_frame(e, packs ? FRAME_PACKED : FRAME_TABLE);
  frame->phase = PHASE_CLASS;
  frame->is_error = is_error;
  frame->id = id;
}

static void put_error_class(encoder *e)
{
  lua_State *L = e->L;
  size_t length;
  peri__error_class_name(L, e->rt, -1);
  const char *name = lua_tolstring(L, -1, &length);
  bool own = peri__error_class_is_own(L, -2);
  lua_insert(L, -2);
  mark(e);
  put_byte(e, TAG_ERROR_CLASS);
  put_short_string(e, name, length);
  put_byte(e, !own);
  lua_remove(L, -2);
  if (own)
    lua_pop(L, 1);
  else
    open_frame(e, FRAME_ERROR_CLASS)->phase = PHASE_CLASS;
}

static bool is_error_class(encoder *e)
{
  if (!peri__error_class_name(e->L, e->rt, -1))
    return false;
  lua_pop(e->L, 1);
  return true;
}

static void put_table(encoder *e)
{
  lua_State *L = e->L;
  if (put_again(e))
    return;
  bool meta = lua_getmetatable(L, -1);
  if (meta)
    lua_pop(L, 1);
  bool error_class = meta && is_error_class(e);
  if (error_class && peri__error_class_is_own(L, -1)) {
    put_error_class(e);
  } else if (put_name(e)) {
    return;
  } else if (error_class) {
    put_error_class(e);
  } else if (meta) {
    put_object(e);
  } else {
    mark(e);
    put_byte(e, TAG_TABLE);
    open_items(e, open_frame(e, FRAME_TABLE));
  }
}

static void put_userdata(encoder *e)
{
  lua_State *L = e->L;
  if (put_again(e) || put_name(e))
    return;
  bool known = push_class(e, -1);
  if (known && lua_rawgeti(L, -1, CLASS_PACK) != LUA_TNIL) {
    lua_pop(L, 2);
    put_object(e);
    return;
  }
  lua_pop(L, known ? 2 : 0);
  bool named = luaL_getmetafield(L, -1, "__name") == LUA_TSTRING;
  refuse(e, "%s", named ? lua_tostring(L, -1) : "userdata");
}

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
    peri__code_push(L, function, out->data + at, length);
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
  open_frame(e, FRAME_FUNCTION)->last = upvalues;
}

/* The function on top has this code. */
static void put_chunk(encoder *e, const peri__code *code)
{
  bool again;
  int number = chunk_number(e, code->chunk, &again);
  mark(e);
  if (number < 0) {
    put_byte(e, TAG_FUNCTION);
    put_u32(e, code->chunk->length);
    memcpy(extend(e, code->chunk->length), code->chunk->code,
           code->chunk->length);
    open_function(e, code->upvalues);
    return;
  }
  bool plain = code->plain && !again;
  put_byte(e, plain ? TAG_PLAIN : TAG_CHUNK);
  put_varint(e, (uint64_t)number);
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
  mark(e);
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

static void put_function(encoder *e)
{
  lua_State *L = e->L;
  if (put_again(e))
    return;
  switch (push_name(e)) {
  case LUA_TSTRING:
    put_bytes_of_name(e);
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
    refuse(e, "C function");
  put_name(e);
}

/* Writes the value on top, of this type, and pops it, if it has no parts. */
static inline bool put_simple(encoder *e, int type)
{
  lua_State *L = e->L;
  switch (type) {
  case LUA_TNIL:
    put_byte(e, TAG_NIL);
    break;
  case LUA_TBOOLEAN:
    put_byte(e, lua_toboolean(L, -1) ? TAG_TRUE : TAG_FALSE);
    break;
  case LUA_TNUMBER:
    if (lua_isinteger(L, -1))
      put_integer(e, lua_tointeger(L, -1));
    else
      put_float(e, lua_tonumber(L, -1));
    break;
  case LUA_TSTRING:
    if (!put_string(e))
      return false;
    break;
  default:
    return false;
  }
  lua_pop(L, 1);
  return true;
}

static void put_value(encoder *e)
{
  lua_State *L = e->L;
  int type = lua_type(L, -1);
  if (put_simple(e, type))
    return;
  switch (type) {
  case LUA_TSTRING:
    put_again(e);
    return;
  case LUA_TTABLE:
    put_table(e);
    return;
  case LUA_TFUNCTION:
    put_function(e);
    return;
  case LUA_TUSERDATA:
    put_userdata(e);
    return;
  case LUA_TLIGHTUSERDATA:
    if (put_name(e))
      return;
    refuse(e, "light userdata");
    return;
  default:
    refuse(e, "coroutine");
  }
}

/* -- Containers: each step writes what it can until a value opens a frame
 * ------ */

static void close_frame(encoder *e, const peri__frame *frame)
{
  lua_settop(e->L, frame->slot - 1);
  e->frames.depth--;
}

/* Writes the entry or error class on top. */
static void put_class(encoder *e)
{
  lua_State *L = e->L;
  if (lua_rawgeti(L, -1, CLASS_NAME) != LUA_TSTRING) {
    lua_pop(L, 1);
    put_value(e);
    return;
  }
  size_t length;
  const char *name = lua_tolstring(L, -1, &length);
  lua_insert(L, -2);
  if (put_again(e)) {
    lua_pop(L, 1);
    return;
  }
  mark(e);
  put_byte(e, TAG_CLASS);
  put_short_string(e, name, length);
  lua_remove(L, -2);
  /* What C functions pack is known wherever the library is. */
  lua_rawgeti(L, -1, CLASS_PACK);
  bool known = lua_iscfunction(L, -1);
  put_byte(e, !known);
  lua_pop(L, known ? 2 : 1);
  if (!known)
    open_frame(e, FRAME_CLASS)->next = CLASS_NAME;
}

/* Writes the value on top; true if its frame is open now. */
static bool put_child(encoder *e)
{
  if (put_simple(e, lua_type(e->L, -1)))
    return false;
  int depth = e->frames.depth;
  put_value(e);
  return e->frames.depth != depth;
}

/* Whether a class field at the top, under the key below it, is what every error
 * class has or what its base has (above the class). */
static bool is_inherited(lua_State *L, const peri__frame *frame)
{
  static const char *const common[] = {"__name", "__index", "is", "extend"};
  if (lua_type(L, -2) != LUA_TSTRING)
    return false;
  const char *key = lua_tostring(L, -2);
  for (size_t i = 0; i < sizeof common / sizeof *common; i++)
    if (strcmp(key, common[i]) == 0)
      return true;
  lua_pushvalue(L, -2);
  lua_rawget(L, frame->slot + 1);
  bool same = lua_rawequal(L, -1, -2);
  lua_pop(L, 1);
  return same;
}

/* Whether the pair on top is not one to be written here. */
static bool is_passed_over(lua_State *L, const peri__frame *frame)
{
  if (frame->kind == FRAME_ERROR_CLASS)
    return is_inherited(L, frame);
  /* An error's private field: put_trace has told it. */
  return frame->is_error && lua_islightuserdata(L, -2);
}

/* Whether the value on top is the next item. Items are what lua_next gives first,
 * as long as its keys are 1, 2, 3. */
static bool is_item(lua_State *L, peri__frame *frame)
{
  if (frame->phase != PHASE_ITEMS)
    return false;
  if (lua_isinteger(L, -2) && lua_tointeger(L, -2) == frame->next + 1) {
    frame->next++;
    return true;
  }
  frame->phase = PHASE_KEY;
  return false;
}

/* Writes the pair on top; true: the frame of its key or value is open. */
static bool put_pair(encoder *e, peri__frame *frame)
{
  lua_State *L = e->L;
  if (is_passed_over(L, frame)) {
    lua_pop(L, 1);
    return false;
  }
  frame->count++;
  frame->phase = PHASE_VALUE;
  lua_pushvalue(L, -2);
  if (put_child(e))
    return true;
  frame->phase = PHASE_KEY;
  return put_child(e);
}

/* The items and pairs of a table, the pairs of a class. The key is on top, nil
 * before the first one. True: that was all. */
static bool step_pairs(encoder *e, peri__frame *frame)
{
  if (frame->phase == PHASE_VALUE) {
    frame->phase = PHASE_KEY;
    if (put_child(e))
      return false;
  }
  while (lua_next(e->L, frame->slot)) {
    bool open = is_item(e->L, frame) ? put_child(e) : put_pair(e, frame);
    if (open)
      return false;
  }
  return true;
}

static void close_table(encoder *e, const peri__frame *frame)
{
  set_count(e, frame->count_at, (size_t)frame->next);
  set_count(e, frame->count_at + sizeof(uint32_t), frame->count);
  close_frame(e, frame);
}

/* The traceback of an error, whose frames are of this state, as text. */
static void put_trace(encoder *e, const peri__frame *frame)
{
  lua_State *L = e->L;
  peri__trace_push(L, e->rt, frame->slot);
  if (lua_istable(L, -1)) {
    peri__trace_text(L, e->rt);
    const char *text = lua_tostring(L, -1);
    const char *lines = strchr(text, '\n');
    lua_pushstring(L, lines ? lines + strspn(lines, "\n\t") : text);
    lua_replace(L, -2);
  }
  put_value(e);
}

static void step_table(encoder *e, peri__frame *frame)
{
  switch (frame->phase) {
  case PHASE_CLASS:
    push_class(e, frame->slot);
    frame->phase = PHASE_HEADER;
    put_class(e);
    return;
  case PHASE_HEADER:
    if (frame->is_error)
      put_trace(e, frame);
    open_items(e, frame);
    return;
  default:
    if (step_pairs(e, frame))
      close_table(e, frame);
  }
}

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
    lua_rawgetp(L, seen(e), address);
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
    return put_child(e);
  put_byte(e, TAG_SHARED);
  put_varint(e, number);
  lua_pop(L, 1);
  return false;
}

static void step_function(encoder *e, peri__frame *frame)
{
  while (frame->next < frame->last)
    if (put_upvalue(e, frame, (int)++frame->next))
      return;
  close_frame(e, frame);
}

/* Calls pack; the values are left above the object. */
static void pack(encoder *e, peri__frame *frame)
{
  lua_State *L = e->L;
  push_class(e, frame->slot);
  lua_rawgeti(L, -1, CLASS_PACK);
  lua_replace(L, -2);
  lua_pushvalue(L, frame->slot);
  lua_call(L, 1, LUA_MULTRET);
  int n = lua_gettop(L) - frame->slot;
  if (n > MAX_PACKED)
    refuse(e, "its pack returned more than %d values", MAX_PACKED);
  peri__check_stack(L, LUA_MINSTACK);
  put_varint(e, (uint64_t)n);
  frame->last = n;
  frame->phase = PHASE_ITEMS;
}

static void step_packed(encoder *e, peri__frame *frame)
{
  lua_State *L = e->L;
  switch (frame->phase) {
  case PHASE_CLASS:
    push_class(e, frame->slot);
    frame->phase = PHASE_HEADER;
    put_class(e);
    return;
  case PHASE_HEADER:
    pack(e, frame);
    return;
  default:
    while (frame->next < frame->last) {
      lua_pushvalue(L, frame->slot + (int)++frame->next);
      if (put_child(e))
        return;
    }
    e->packing--;
    close_frame(e, frame);
  }
}

static void step_class(encoder *e, peri__frame *frame)
{
  while (frame->next < CLASS_UNPACK) {
    lua_rawgeti(e->L, frame->slot, ++frame->next);
    if (put_child(e))
      return;
  }
  close_frame(e, frame);
}

static void step_error_class(encoder *e, peri__frame *frame)
{
  lua_State *L = e->L;
  switch (frame->phase) {
  case PHASE_CLASS:
    peri__error_class_base(L, frame->slot);
    lua_pushvalue(L, -1);
    frame->phase = PHASE_HEADER;
    put_value(e);
    return;
  case PHASE_HEADER:
    frame->count_at = put_count(e);
    frame->phase = PHASE_KEY;
    lua_pushnil(L);
    return;
  default:
    if (!step_pairs(e, frame))
      return;
    set_count(e, frame->count_at, frame->count);
    close_frame(e, frame);
  }
}

static void step(encoder *e)
{
  peri__frame *frame = peri__frames_top(&e->frames);
  switch (frame->kind) {
  case FRAME_TABLE:
    step_table(e, frame);
    break;
  case FRAME_FUNCTION:
    step_function(e, frame);
    break;
  case FRAME_PACKED:
    step_packed(e, frame);
    break;
  case FRAME_CLASS:
    step_class(e, frame);
    break;
  default:
    step_error_class(e, frame);
  }
}

void peri__encode(lua_State *L, peri_runtime *rt, int first, int n,
                  peri__message_kind kind, bool chunks, peri__message *out)
{
  encoder e;
  int top = lua_gettop(L);
  first = lua_absindex(L, first);
  peri__check_stack(L, LUA_MINSTACK + FEW);
  lua_settop(L, top + 4 + FEW);
  e.L = L;
  e.rt = rt;
  e.out = &out->bytes;
  e.message = out;
  e.kind = kind;
  e.chunks = chunks;
  e.scanned = false;
  e.packing = 0;
  e.objects = e.upvalues = 0;
  e.seen = top + 1;
  e.names = top + 2;
  e.classes = top + 3;
  e.kept = top + 4;
  peri__frames_init(&e.frames, top + 4);
  put_byte(&e, WIRE_VERSION);
  put_varint(&e, (uint64_t)n);
  for (e.root = 1; e.root <= n; e.root++) {
    lua_pushvalue(L, first + e.root - 1);
    put_value(&e);
    while (e.frames.depth > 0)
      step(&e);
  }
  lua_settop(L, top);
  lua_pushnil(L);
}
