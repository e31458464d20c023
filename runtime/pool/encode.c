/*
 * encode.c: Lua values to the bytes of a message. The essay is in codec.c, the
 * bytes are in wire.h.
 *
 * While a container is open, the Lua stack holds it and, above it, what it is
 * busy with:
 *   table         [table] items; then [table] [key] ([value]) pairs
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
  peri__frames frames;
  peri__message_kind kind;
  int root; /* the value of the message that is being written, from 1 */
  uint32_t objects, upvalues; /* numbers given so far */
  bool scanned;               /* the names are those of now */
  int seen; /* Places on the Lua stack, nil until needed: what was sent,
               to its object number (negative while it is being packed);
               an upvalue's address to its number; an object number to the
               string, so that it stays where it is. */
  int names, classes;
} encoder;

/* -- Bytes ----------------------------------------------------------------- */

static char *extend(encoder *e, size_t n)
{
  peri__buffer *out = e->out;
  if (out->capacity - out->length < n && peri__buffer_reserve(out, n) < 0)
    luaL_error(e->L, "not enough memory");
  char *at = out->data + out->length;
  out->length += n;
  return at;
}

static void put_byte(encoder *e, int byte)
{
  *extend(e, 1) = (char)byte;
}

static void put_varint(encoder *e, uint64_t n)
{
  for (; n >= 0x80; n >>= 7)
    put_byte(e, (int)(n & 0x7f) | 0x80);
  put_byte(e, (int)n);
}

static void put_integer(encoder *e, lua_Integer n)
{
  if (n >= 0 && n < SMALL_INTEGERS) {
    put_byte(e, TAG_SMALL_INTEGER | (int)n);
    return;
  }
  put_byte(e, TAG_INTEGER);
  put_varint(e, ((uint64_t)n << 1) ^ (n < 0 ? UINT64_MAX : 0));
}

static void put_float(encoder *e, lua_Number n)
{
  put_byte(e, TAG_FLOAT);
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

/* Gives the value on top the next object number. */
static uint32_t mark(encoder *e)
{
  lua_State *L = e->L;
  if (lua_isnil(L, e->seen)) {
    lua_newtable(L);
    lua_replace(L, e->seen);
  }
  lua_pushvalue(L, -1);
  lua_pushinteger(L, ++e->objects);
  lua_rawset(L, e->seen);
  return e->objects;
}

/* Writes a REF for the value on top and pops it, if it was sent before. */
static bool put_again(encoder *e)
{
  lua_State *L = e->L;
  if (!lua_istable(L, e->seen))
    return false;
  lua_pushvalue(L, -1);
  bool found = lua_rawget(L, e->seen) == LUA_TNUMBER;
  lua_Integer id = lua_tointeger(L, -1);
  lua_pop(L, 1);
  if (!found)
    return false;
  if (id < 0)
    refuse(e, "it is part of what its own pack returned");
  put_byte(e, TAG_REF);
  put_varint(e, (uint64_t)id);
  lua_pop(L, 1);
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

/* Pushes what the names say of the value on top: bytes, false or nil. */
static int name_type(encoder *e)
{
  lua_pushvalue(e->L, -1);
  return lua_rawget(e->L, names(e));
}

/* Writes the name of the value on top and pops it, if it has one. */
static bool put_name(encoder *e)
{
  lua_State *L = e->L;
  int type = name_type(e);
  if (type == LUA_TNIL && !e->scanned) {
    lua_pop(L, 1);
    peri__names_scan(L, e->names);
    e->scanned = true;
    type = name_type(e);
  }
  if (type != LUA_TSTRING) {
    lua_pop(L, 1);
    return false;
  }
  size_t length;
  const char *bytes = lua_tolstring(L, -1, &length);
  memcpy(extend(e, length), bytes, length);
  lua_pop(L, 1);
  mark(e);
  lua_pop(L, 1);
  return true;
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

static void put_string(encoder *e)
{
  lua_State *L = e->L;
  size_t length;
  const char *s = lua_tolstring(L, -1, &length);
  if (length < LONG_STRING) {
    put_short_string(e, s, length);
    lua_pop(L, 1);
    return;
  }
  /* Known by address: Lua would hash all of it. */
  lua_pushlightuserdata(L, (void *)lua_topointer(L, -1));
  if (put_again(e)) {
    lua_pop(L, 1);
    return;
  }
  uint32_t id = mark(e);
  lua_pop(L, 1);
  put_byte(e, TAG_LONG_STRING);
  put_bytes(e, s, length);
  lua_rawseti(L, e->seen, id);
}

/* The counts of a table, whose frame is on top; its items are next. */
static void open_items(encoder *e, peri__frame *frame)
{
  frame->last = (lua_Integer)lua_rawlen(e->L, frame->slot);
  frame->phase = PHASE_ITEMS;
  put_varint(e, (uint64_t)frame->last);
  frame->count_at = put_count(e);
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
  if (packs) {
    lua_pushvalue(L, -1);
    lua_pushinteger(L, -(lua_Integer)id);
    lua_rawset(L, e->seen);
  }
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

static void put_code(encoder *e)
{
  lua_State *L = e->L;
  lua_Debug ar;
  mark(e);
  put_byte(e, TAG_FUNCTION);
  size_t at = put_count(e), start = e->out->length;
  if (lua_dump(L, write_code, e->out, 0) != 0)
    luaL_error(L, "not enough memory");
  set_count(e, at, e->out->length - start);
  lua_pushvalue(L, -1);
  lua_getinfo(L, ">u", &ar);
  put_varint(e, ar.nups);
  open_frame(e, FRAME_FUNCTION)->last = ar.nups;
}

static void put_function(encoder *e)
{
  lua_State *L = e->L;
  if (put_again(e) || put_name(e))
    return;
  if (!lua_iscfunction(L, -1)) {
    lua_pushvalue(L, -1);
    lua_pushboolean(L, 0);
    lua_rawset(L, e->names);
    put_code(e);
    return;
  }
  if (!peri__names_search(L, e->names))
    refuse(e, "C function");
  put_name(e);
}

static void put_value(encoder *e)
{
  lua_State *L = e->L;
  switch (lua_type(L, -1)) {
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
    put_string(e);
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
  lua_pop(L, 1);
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

/* True if the frame of the value just written is open now. */
static bool put_child(encoder *e)
{
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
  if (frame->is_error && lua_islightuserdata(L, -2))
    return true;
  if (!lua_isinteger(L, -2))
    return false;
  lua_Integer i = lua_tointeger(L, -2);
  return i >= 1 && i <= frame->last;
}

/* The key is on top, nil before the first one. */
static void step_pairs(encoder *e, peri__frame *frame)
{
  lua_State *L = e->L;
  for (;;) {
    if (frame->phase == PHASE_KEY) {
      if (!lua_next(L, frame->slot))
        break;
      if (is_passed_over(L, frame)) {
        lua_pop(L, 1);
        continue;
      }
      frame->count++;
      frame->phase = PHASE_VALUE;
      lua_pushvalue(L, -2);
      if (put_child(e))
        return;
    }
    frame->phase = PHASE_KEY;
    if (put_child(e))
      return;
  }
  set_count(e, frame->count_at, frame->count);
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
  lua_State *L = e->L;
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
  case PHASE_ITEMS:
    while (frame->next < frame->last) {
      lua_rawgeti(L, frame->slot, ++frame->next);
      if (put_child(e))
        return;
    }
    lua_pushnil(L);
    frame->phase = PHASE_KEY;
    return;
  default:
    step_pairs(e, frame);
  }
}

static void step_function(encoder *e, peri__frame *frame)
{
  lua_State *L = e->L;
  while (frame->next < frame->last) {
    int i = (int)++frame->next;
    const char *name = lua_getupvalue(L, frame->slot, i);
    void *id = lua_upvalueid(L, frame->slot, i);
    if (lua_rawgetp(L, e->seen, id) == LUA_TNUMBER) {
      put_byte(e, TAG_SHARED);
      put_varint(e, (uint64_t)lua_tointeger(L, -1));
      lua_pop(L, 2);
      continue;
    }
    lua_pushinteger(L, ++e->upvalues);
    lua_rawsetp(L, e->seen, id);
    lua_pop(L, 1);
    if (name && strcmp(name, "_ENV") == 0) {
      put_byte(e, TAG_GLOBALS);
      lua_pop(L, 1);
    } else if (put_child(e)) {
      return;
    }
  }
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
    lua_pushvalue(L, frame->slot);
    lua_pushinteger(L, frame->id);
    lua_rawset(L, e->seen);
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
    step_pairs(e, frame);
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
  encoder e = {.L = L, .rt = rt, .out = &out->bytes, .kind = kind};
  (void)chunks;
  first = lua_absindex(L, first);
  int top = lua_gettop(L);
  peri__check_stack(L, LUA_MINSTACK);
  lua_settop(L, top + 4);
  e.seen = top + 1;
  e.names = top + 2;
  e.classes = top + 3;
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
