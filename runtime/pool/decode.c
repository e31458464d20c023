/*
 * decode.c: the bytes of a message to Lua values. The essay is in codec.c, the
 * bytes are in wire.h.
 *
 * get_value reads one tag. It pushes a complete value, or opens a frame for a
 * container; deliver gives a complete value to the innermost open container,
 * which may complete that one in turn. While a container is open, the Lua stack
 * holds:
 *   table         [table] ([key]) values; [table] until its class has come
 *   function      [function]
 *   packed        [unpack, nil until its class has come] [value 1] ...
 *   class         [entry]
 *   error class   [name]; then [class] ([key])
 *
 * Every length is checked against the bytes that are left before anything is
 * made of it. A count of values is bounded by the bytes too, as each takes one
 * at least; how much room tables get in advance, for all of the message, is
 * bounded by its length (budget), so that a short message cannot ask for much
 * memory.
 */
#include <limits.h>
#include <string.h>

#include "pool/wire.h"

typedef struct decoder {
  lua_State *L;
  peri_runtime *rt;
  const peri__message *message;
  const char *at, *end;
  bool trusted;
  peri__frames frames;
  uint32_t given, upvalues; /* numbers of objects and upvalues */
  size_t budget;
  struct {
    uint32_t object;
    int index;
  } first_places[FEW]; /* upvalue: of which function, where in it */
  int kept;    /* The first objects stand on the Lua stack, from here on. */
  int objects; /* Places on the Lua stack, nil until needed, number to object,
                  for the other objects; */
  int places;  /* 2u - 1: object number of the function and 2u: index, of
                  upvalue number u; */
  int late;    /* objects and their entries, in pairs, whose class is not
                  complete yet, and entries that are not published; */
  int classes; /* the registered classes. */
} decoder;

/* -- Bytes ----------------------------------------------------------------- */

static int damaged(decoder *d, const char *what)
{
  return peri__throw(d->L, d->rt, PERI_ERR_VALUE, "damaged message: %s", what);
}

static int distrust(decoder *d, const char *what)
{
  return peri__throw(d->L, d->rt, PERI_ERR_VALUE,
                     "message from an untrusted source: %s", what);
}

static size_t left(const decoder *d)
{
  return (size_t)(d->end - d->at);
}

static const char *get_bytes(decoder *d, size_t n)
{
  if (left(d) < n)
    damaged(d, "it is truncated");
  const char *bytes = d->at;
  d->at += n;
  return bytes;
}

static int get_byte(decoder *d)
{
  return (unsigned char)*get_bytes(d, 1);
}

static uint64_t get_varint(decoder *d)
{
  uint64_t n = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    uint64_t byte = (uint64_t)get_byte(d);
    if (shift == 63 && byte > 1)
      break;
    n |= (byte & 0x7f) << shift;
    if (byte < 0x80)
      return n;
  }
  damaged(d, "a number is too long");
  return 0;
}

/* A count of things that take one byte at least. */
static size_t check_count(decoder *d, uint64_t n)
{
  if (n > left(d))
    damaged(d, "it is truncated");
  return (size_t)n;
}

static uint32_t get_u32(decoder *d)
{
  uint32_t n;
  memcpy(&n, get_bytes(d, sizeof n), sizeof n);
  return n;
}

static void push_bytes(decoder *d, size_t n)
{
  lua_pushlstring(d->L, get_bytes(d, n), n);
}

/* Pushes a string that must come next; returns it. */
static const char *get_string(decoder *d)
{
  int tag = get_byte(d);
  if (tag >= TAG_SHORT_STRING)
    push_bytes(d, (size_t)(tag - TAG_SHORT_STRING));
  else if (tag == TAG_STRING)
    push_bytes(d, check_count(d, get_varint(d)));
  else
    damaged(d, "a name is no string");
  return lua_tostring(d->L, -1);
}

/* -- Numbered objects ------------------------------------------------------ */

static void need_table(decoder *d, int slot)
{
  if (!lua_isnil(d->L, slot))
    return;
  lua_newtable(d->L);
  lua_replace(d->L, slot);
}

static uint32_t give_number(decoder *d)
{
  return ++d->given;
}

/* The value on top is object number id. */
static void set_object(decoder *d, uint32_t id)
{
  if (id <= FEW) {
    lua_copy(d->L, -1, d->kept + (int)id);
    return;
  }
  need_table(d, d->objects);
  lua_pushvalue(d->L, -1);
  lua_rawseti(d->L, d->objects, id);
}

/* False, and nil: there is none yet. */
static bool get_object(decoder *d, uint32_t id)
{
  if (id <= FEW)
    lua_pushvalue(d->L, d->kept + (int)id);
  else if (lua_istable(d->L, d->objects))
    lua_rawgeti(d->L, d->objects, id);
  else
    lua_pushnil(d->L);
  return !lua_isnil(d->L, -1);
}

static void push_object(decoder *d)
{
  uint64_t id = get_varint(d);
  if (id == 0 || id > d->given)
    damaged(d, "a reference leads nowhere");
  if (!get_object(d, (uint32_t)id))
    damaged(d, "an object is part of what it is made of");
}

/* -- Containers ------------------------------------------------------------ */

static peri__frame *open_frame(decoder *d, peri__frame_kind kind, int slot)
{
  peri__frame *frame = peri__frames_push(d->L, &d->frames);
  if (frame == NULL)
    damaged(d, "it is nested too deeply");
  frame->kind = (uint8_t)kind;
  frame->slot = slot;
  return frame;
}

static int take_budget(decoder *d, size_t n)
{
  if (n > d->budget)
    n = d->budget;
  d->budget -= n;
  return n < INT_MAX ? (int)n : INT_MAX;
}

/* The counts of a table. */
static void get_header(decoder *d, peri__frame *frame)
{
  uint32_t items = get_u32(d);
  uint32_t pairs = get_u32(d);
  frame->last = (lua_Integer)check_count(d, items);
  frame->count = (uint32_t)check_count(d, pairs);
  frame->phase = PHASE_ITEMS;
}

static void open_table(decoder *d)
{
  uint32_t id = give_number(d);
  peri__frame header = {0};
  get_header(d, &header);
  int items = take_budget(d, (size_t)header.last);
  lua_createtable(d->L, items, take_budget(d, header.count));
  set_object(d, id);
  peri__frame *frame = open_frame(d, FRAME_TABLE, lua_gettop(d->L));
  frame->last = header.last;
  frame->count = header.count;
  frame->phase = PHASE_ITEMS;
}

static void open_object(decoder *d, bool is_error)
{
  uint32_t id = give_number(d);
  lua_newtable(d->L);
  set_object(d, id);
  peri__frame *frame = open_frame(d, FRAME_TABLE, lua_gettop(d->L));
  frame->phase = PHASE_CLASS;
  frame->is_error = is_error;
}

static void open_packed(decoder *d)
{
  uint32_t id = give_number(d);
  peri__frame *frame = open_frame(d, FRAME_PACKED, lua_gettop(d->L) + 1);
  frame->phase = PHASE_CLASS;
  frame->id = id;
}

/* The function on top is object number id; its upvalues are next. */
static void open_loaded(decoder *d, uint32_t id)
{
  lua_State *L = d->L;
  lua_Debug ar;
  set_object(d, id);
  lua_pushvalue(L, -1);
  lua_getinfo(L, ">u", &ar);
  if (get_varint(d) != ar.nups)
    damaged(d, "a function has other upvalues");
  peri__frame *frame = open_frame(d, FRAME_FUNCTION, lua_gettop(L));
  frame->last = ar.nups;
  frame->id = id;
}

static void open_function(decoder *d)
{
  lua_State *L = d->L;
  uint32_t id = give_number(d);
  size_t length = get_u32(d);
  if (!d->trusted)
    distrust(d, "it holds a function");
  const char *code = get_bytes(d, length);
  if (luaL_loadbufferx(L, code, length, "=message", "b") != LUA_OK)
    damaged(d, lua_tostring(L, -1));
  open_loaded(d, id);
}

static peri__chunk *get_chunk(decoder *d)
{
  uint64_t number = get_varint(d);
  if (!d->trusted)
    distrust(d, "it holds a function");
  if (number >= d->message->chunk_count)
    damaged(d, "a function's code is missing");
  return d->message->chunks[number];
}

static void open_chunk(decoder *d)
{
  uint32_t id = give_number(d);
  if (!peri__code_load(d->L, get_chunk(d)))
    damaged(d, lua_tostring(d->L, -1));
  open_loaded(d, id);
}

static void get_plain(decoder *d)
{
  uint32_t id = give_number(d);
  if (!peri__code_load_plain(d->L, get_chunk(d)))
    damaged(d, lua_tostring(d->L, -1));
  set_object(d, id);
}

/* Pushes the module whose name is on top (replaced). */
static void find_module(decoder *d)
{
  lua_State *L = d->L;
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushvalue(L, -2);
  if (lua_rawget(L, -2) == LUA_TNIL) {
    if (!d->trusted)
      distrust(d, "it names a module that is not loaded");
    lua_getglobal(L, "require");
    lua_pushvalue(L, -4);
    lua_call(L, 1, 1);
    lua_replace(L, -2);
  }
  lua_replace(L, -3);
  lua_pop(L, 1);
}

static void get_name(decoder *d)
{
  lua_State *L = d->L;
  uint32_t id = give_number(d);
  const char *module = get_string(d);
  int keys = get_byte(d);
  if (keys > MAX_NAME_KEYS)
    damaged(d, "a name is too long");
  lua_pushvalue(L, -1);
  find_module(d);
  for (int i = 0; i < keys; i++) { /* module value */
    const char *key = get_string(d);
    bool found = lua_istable(L, -2);
    if (found) {
      lua_pushvalue(L, -1);
      found = lua_gettable(L, -3) != LUA_TNIL;
    }
    if (!found)
      peri__throw(L, d->rt, PERI_ERR_RUNTIME,
                  "module '%s' has no '%s' in the state that reads it", module,
                  key);
    lua_replace(L, -3);
    lua_pop(L, 1);
  }
  lua_replace(L, -2);
  set_object(d, id);
}

/* -- Classes --------------------------------------------------------------- */

/* Looks for the class entry whose name is on top; pushes it or nil. */
static bool find_class(decoder *d)
{
  lua_State *L = d->L;
  if (lua_isnil(L, d->classes)) {
    peri__classes_push(L);
    lua_replace(L, d->classes);
  }
  lua_pushvalue(L, -1);
  return lua_rawget(L, d->classes) == LUA_TTABLE;
}

/* A new entry, not published yet, for the name on top (replaced). */
static void make_class(decoder *d)
{
  lua_State *L = d->L;
  const char *name = lua_tostring(L, -1);
  if (!d->trusted)
    distrust(d, "it brings a class along");
  lua_settop(L, lua_gettop(L) + 3);
  peri__class_new(L, name);
  lua_replace(L, -2);
  need_table(d, d->late);
  lua_pushvalue(L, -1);
  lua_pushboolean(L, 1);
  lua_rawset(L, d->late);
}

/* Returns whether it is complete. */
static bool open_class(decoder *d)
{
  lua_State *L = d->L;
  uint32_t id = give_number(d);
  const char *name = get_string(d);
  bool brought = get_byte(d) != 0, known = find_class(d);
  if (known) {
    lua_replace(L, -2);
  } else if (brought) {
    lua_pop(L, 1);
    make_class(d);
  } else {
    peri__throw(L, d->rt, PERI_ERR_RUNTIME,
                "class '%s' is not registered in the state that reads it",
                name);
  }
  set_object(d, id);
  if (!brought)
    return true;
  peri__frame *frame = open_frame(d, FRAME_CLASS, lua_gettop(L));
  frame->next = CLASS_NAME;
  frame->known = known;
  frame->id = id;
  return false;
}

/* The entry on top is complete. Its metatable's module may have registered the
 * class meanwhile: then that entry counts. */
static void publish_class(decoder *d, uint32_t id)
{
  lua_State *L = d->L;
  bool packs = lua_rawgeti(L, -1, CLASS_PACK) == LUA_TFUNCTION;
  bool unpacks = lua_rawgeti(L, -2, CLASS_UNPACK) == LUA_TFUNCTION;
  if (lua_rawgeti(L, -3, CLASS_METATABLE) != LUA_TTABLE || packs != unpacks)
    damaged(d, "a class is incomplete");
  lua_pop(L, 3);
  lua_rawgeti(L, -1, CLASS_NAME);
  if (find_class(d)) { /* entry name found */
    lua_replace(L, -2);
    for (int i = CLASS_METATABLE; i <= CLASS_UNPACK; i++) {
      lua_rawgeti(L, -1, i);
      lua_rawseti(L, -3, i);
    }
    lua_replace(L, -2);
    set_object(d, id);
    return;
  }
  lua_pop(L, 2);
  peri__class_publish(L, d->classes);
}

/* Whether the value on top is a class entry. */
static bool is_entry(decoder *d)
{
  lua_State *L = d->L;
  if (!lua_istable(L, -1))
    return false;
  if (!lua_isnil(L, d->late)) {
    lua_pushvalue(L, -1);
    bool late = lua_rawget(L, d->late) == LUA_TBOOLEAN;
    lua_pop(L, 1);
    if (late)
      return true;
  }
  if (lua_rawgeti(L, -1, CLASS_NAME) != LUA_TSTRING) {
    lua_pop(L, 1);
    return false;
  }
  find_class(d);
  bool found = lua_rawequal(L, -1, -3);
  lua_pop(L, 2);
  return found;
}

static void set_error(decoder *d, int slot)
{
  lua_State *L = d->L;
  if (!peri__error_class_name(L, d->rt, -1))
    damaged(d, "an error's class is none");
  lua_pop(L, 1);
  lua_setmetatable(L, slot);
}

/* The traceback on top (popped) is that of the error at slot. */
static void set_trace(decoder *d, int slot)
{
  lua_State *L = d->L;
  if (lua_type(L, -1) == LUA_TSTRING)
    peri__trace_label(L, d->rt, slot, lua_tostring(L, -1));
  lua_pop(L, 1);
}

/* The class on top (popped) is that of the table at slot. */
static void set_class(decoder *d, int slot)
{
  lua_State *L = d->L;
  if (!is_entry(d))
    damaged(d, "an object's class is none");
  if (lua_rawgeti(L, -1, CLASS_PACK) != LUA_TNIL)
    damaged(d, "an object is not as its class sends it");
  if (lua_rawgeti(L, -2, CLASS_METATABLE) == LUA_TNIL) {
    lua_Integer n = (lua_Integer)lua_rawlen(L, d->late);
    lua_pushvalue(L, slot);
    lua_rawseti(L, d->late, n + 1);
    lua_pushvalue(L, -3);
    lua_rawseti(L, d->late, n + 2);
    lua_pop(L, 3);
    return;
  }
  lua_setmetatable(L, slot);
  lua_pop(L, 2);
}

/* Objects that came before their class was complete. */
static void set_late_classes(decoder *d)
{
  lua_State *L = d->L;
  lua_Integer n = (lua_Integer)lua_rawlen(L, d->late);
  for (lua_Integer i = 1; i < n; i += 2) {
    lua_rawgeti(L, d->late, i);
    lua_rawgeti(L, d->late, i + 1);
    lua_rawgeti(L, -1, CLASS_METATABLE);
    lua_setmetatable(L, -3);
    lua_pop(L, 2);
  }
}

/* Replaces the class on top by its unpack. */
static void set_unpack(decoder *d)
{
  lua_State *L = d->L;
  if (!is_entry(d) || lua_rawgeti(L, -1, CLASS_UNPACK) != LUA_TFUNCTION)
    damaged(d, "an object's class does not unpack it");
  lua_replace(L, -2);
}

/* Returns whether it is complete. */
static bool open_error_class(decoder *d)
{
  lua_State *L = d->L;
  uint32_t id = give_number(d);
  const char *name = get_string(d);
  bool brought = get_byte(d) != 0;
  if (brought) {
    peri__frame *frame = open_frame(d, FRAME_ERROR_CLASS, lua_gettop(L));
    frame->phase = PHASE_CLASS;
    frame->id = id;
    return false;
  }
  lua_pushvalue(L, -1);
  if (!peri__error_class_find(L, d->rt))
    peri__throw(L, d->rt, PERI_ERR_RUNTIME,
                "error class '%s' is not known in the state that reads it",
                name);
  lua_replace(L, -2);
  set_object(d, id);
  return true;
}

/* The name and base of an error class are on top; the class takes their place.
 */
static void set_error_class(decoder *d, peri__frame *frame)
{
  lua_State *L = d->L;
  lua_pushvalue(L, -2);
  frame->known = peri__error_class_find(L, d->rt);
  if (!frame->known) {
    lua_pop(L, 1);
    if (!d->trusted)
      distrust(d, "it brings an error class along");
    if (!peri__error_class_name(L, d->rt, -1))
      damaged(d, "an error class has no base");
    lua_pop(L, 1);
    lua_pushvalue(L, -2);
    peri__error_class_extend(L);
    lua_replace(L, -2);
  } else {
    lua_replace(L, -3);
    lua_pop(L, 1);
  }
  set_object(d, frame->id);
  frame->count = (uint32_t)check_count(d, get_u32(d));
  frame->phase = PHASE_KEY;
}

/* -- Values ------------------------------------------------------------------
 */

static void get_integer(decoder *d)
{
  uint64_t n = get_varint(d);
  lua_pushinteger(d->L, (lua_Integer)((n >> 1) ^ (0 - (n & 1))));
}

static void get_float(decoder *d)
{
  lua_Number n;
  memcpy(&n, get_bytes(d, sizeof n), sizeof n);
  lua_pushnumber(d->L, n);
}

/* Reads what stands under one tag: true if a complete value is on top, false
 * if a frame is open for it. */
static bool get_value(decoder *d)
{
  lua_State *L = d->L;
  int tag = get_byte(d);
  if (tag >= TAG_SHORT_STRING) {
    push_bytes(d, (size_t)(tag - TAG_SHORT_STRING));
    return true;
  }
  if (tag >= TAG_SMALL_INTEGER) {
    lua_pushinteger(L, tag - TAG_SMALL_INTEGER);
    return true;
  }
  switch (tag) {
  case TAG_NIL:
    lua_pushnil(L);
    return true;
  case TAG_FALSE:
  case TAG_TRUE:
    lua_pushboolean(L, tag == TAG_TRUE);
    return true;
  case TAG_INTEGER:
    get_integer(d);
    return true;
  case TAG_FLOAT:
    get_float(d);
    return true;
  case TAG_STRING:
    push_bytes(d, check_count(d, get_varint(d)));
    return true;
  case TAG_LONG_STRING:
    push_bytes(d, check_count(d, get_varint(d)));
    set_object(d, give_number(d));
    return true;
  case TAG_REF:
    push_object(d);
    return true;
  case TAG_TABLE:
    open_table(d);
    return false;
  case TAG_OBJECT:
  case TAG_ERROR:
    open_object(d, tag == TAG_ERROR);
    return false;
  case TAG_PACKED:
    open_packed(d);
    return false;
  case TAG_FUNCTION:
    open_function(d);
    return false;
  case TAG_CHUNK:
    open_chunk(d);
    return false;
  case TAG_PLAIN:
    get_plain(d);
    return true;
  case TAG_NAME:
    get_name(d);
    return true;
  case TAG_CLASS:
    return open_class(d);
  case TAG_ERROR_CLASS:
    return open_error_class(d);
  case TAG_GLOBALS:
    lua_pushglobaltable(L);
    return true;
  default:
    damaged(d, "an unknown tag");
    return false;
  }
}

/* -- Filling containers ------------------------------------------------------
 */

/* The function's next upvalue is a new place. */
static void give_place(decoder *d, const peri__frame *frame)
{
  lua_State *L = d->L;
  uint32_t number = ++d->upvalues;
  int index = (int)frame->next + 1;
  if (number <= FEW) {
    d->first_places[number - 1].object = frame->id;
    d->first_places[number - 1].index = index;
    return;
  }
  need_table(d, d->places);
  lua_pushinteger(L, frame->id);
  lua_rawseti(L, d->places, 2 * (lua_Integer)number - 1);
  lua_pushinteger(L, index);
  lua_rawseti(L, d->places, 2 * (lua_Integer)number);
}

/* Its next upvalue is a place that a function before it has. */
static void share_place(decoder *d, peri__frame *frame)
{
  lua_State *L = d->L;
  uint64_t number = get_varint(d);
  uint32_t object;
  int index;
  if (number == 0 || number > d->upvalues)
    damaged(d, "a shared upvalue is none");
  if (number <= FEW) {
    object = d->first_places[number - 1].object;
    index = d->first_places[number - 1].index;
  } else {
    lua_rawgeti(L, d->places, 2 * (lua_Integer)number - 1);
    lua_rawgeti(L, d->places, 2 * (lua_Integer)number);
    object = (uint32_t)lua_tointeger(L, -2);
    index = (int)lua_tointeger(L, -1);
    lua_pop(L, 2);
  }
  get_object(d, object);
  lua_upvaluejoin(L, frame->slot, (int)++frame->next, -1, index);
  lua_pop(L, 1);
}

/* What comes next is the function's next upvalue. Returns whether it is the
 * value of one. */
static bool get_place(decoder *d, peri__frame *frame)
{
  int tag = left(d) > 0 ? *d->at : TAG_NIL;
  if (tag == TAG_SHARED) {
    d->at++;
    share_place(d, frame);
    return false;
  }
  if (tag != TAG_GLOBALS)
    give_place(d, frame);
  return true;
}

static bool is_complete(decoder *d, peri__frame *frame)
{
  switch (frame->kind) {
  case FRAME_FUNCTION:
    while (frame->next < frame->last)
      if (get_place(d, frame))
        return false;
    return true;
  case FRAME_CLASS:
    return frame->next == CLASS_UNPACK;
  case FRAME_PACKED:
    return frame->phase == PHASE_ITEMS && frame->next == frame->last;
  case FRAME_TABLE:
    if (frame->phase == PHASE_ITEMS && frame->next == frame->last)
      frame->phase = PHASE_KEY;
    return frame->phase == PHASE_KEY && frame->count == 0;
  default:
    return frame->phase == PHASE_KEY && frame->count == 0;
  }
}

/* Closes the innermost container if it is complete: it is on top then. */
static bool complete(decoder *d)
{
  lua_State *L = d->L;
  peri__frame *frame = peri__frames_top(&d->frames);
  if (!is_complete(d, frame))
    return false;
  d->frames.depth--;
  if (frame->kind == FRAME_PACKED) {
    lua_call(L, (int)frame->last, 1);
    set_object(d, frame->id);
  } else if (frame->kind == FRAME_CLASS && !frame->known) {
    publish_class(d, frame->id);
  }
  return true;
}

static void set_pair(decoder *d, peri__frame *frame)
{
  lua_State *L = d->L;
  if (frame->phase == PHASE_KEY) {
    if (lua_isnil(L, -1) || lua_tonumber(L, -1) != lua_tonumber(L, -1))
      damaged(d, "a key is none");
    frame->phase = PHASE_VALUE;
    return;
  }
  if (frame->known)
    lua_pop(L, 2);
  else
    lua_rawset(L, frame->slot);
  frame->count--;
  frame->phase = PHASE_KEY;
}

static void deliver_to_table(decoder *d, peri__frame *frame)
{
  switch (frame->phase) {
  case PHASE_CLASS:
    if (frame->is_error) {
      set_error(d, frame->slot);
      frame->phase = PHASE_TRACE;
      break;
    }
    set_class(d, frame->slot);
    get_header(d, frame);
    break;
  case PHASE_TRACE:
    set_trace(d, frame->slot);
    get_header(d, frame);
    break;
  case PHASE_ITEMS:
    lua_rawseti(d->L, frame->slot, ++frame->next);
    break;
  default:
    set_pair(d, frame);
  }
}

static void deliver_to_packed(decoder *d, peri__frame *frame)
{
  if (frame->phase == PHASE_ITEMS) {
    frame->next++;
    return;
  }
  set_unpack(d);
  uint64_t n = get_varint(d);
  if (n > MAX_PACKED)
    damaged(d, "an object has too many values");
  peri__check_stack(d->L, MAX_PACKED);
  frame->last = (lua_Integer)n;
  frame->phase = PHASE_ITEMS;
}

/* Gives the complete value on top to the innermost container. */
static void deliver(decoder *d)
{
  lua_State *L = d->L;
  peri__frame *frame = peri__frames_top(&d->frames);
  switch (frame->kind) {
  case FRAME_TABLE:
    deliver_to_table(d, frame);
    break;
  case FRAME_FUNCTION:
    lua_setupvalue(L, frame->slot, (int)++frame->next);
    break;
  case FRAME_PACKED:
    deliver_to_packed(d, frame);
    break;
  case FRAME_CLASS:
    frame->next++;
    if (frame->known)
      lua_pop(L, 1);
    else
      lua_rawseti(L, frame->slot, frame->next);
    break;
  default:
    if (frame->phase == PHASE_CLASS)
      set_error_class(d, frame);
    else
      set_pair(d, frame);
  }
}

/* As get_value, for the innermost container; what can be given to it at once,
 * is. */
static bool get_part(decoder *d)
{
  lua_State *L = d->L;
  peri__frame *frame = peri__frames_top(&d->frames);
  if (frame->kind != FRAME_TABLE)
    return get_value(d);
  if (frame->phase == PHASE_ITEMS) {
    while (get_value(d)) {
      if (frame->next + 1 == frame->last)
        return true;
      lua_rawseti(L, frame->slot, ++frame->next);
    }
    return false;
  }
  while (get_value(d)) {
    if (frame->phase != PHASE_KEY)
      return true;
    set_pair(d, frame);
    if (!get_value(d))
      return false;
    if (frame->count == 1)
      return true;
    set_pair(d, frame);
  }
  return false;
}

/* Pushes the next value of the message. */
static void get_root(decoder *d)
{
  bool ready = get_value(d);
  while (d->frames.depth > 0) {
    if (ready)
      deliver(d);
    ready = complete(d) || get_part(d);
  }
}

int peri__decode(lua_State *L, peri_runtime *rt, const peri__message *message,
                 peri__peer *peer)
{
  const char *data = message->bytes.data;
  size_t length = message->bytes.length;
  int top = lua_gettop(L);
  decoder d;
  peri__check_stack(L, LUA_MINSTACK + FEW);
  lua_settop(L, top + 5 + FEW);
  d.L = L;
  d.rt = rt;
  d.message = message;
  d.at = data;
  d.end = data + length;
  d.trusted = peer != NULL && peer->trusted;
  d.given = d.upvalues = 0;
  d.budget = length;
  d.objects = top + 1;
  d.places = top + 2;
  d.late = top + 3;
  d.classes = top + 4;
  d.kept = top + 5;
  peri__frames_init(&d.frames, top + 5);
  if (get_byte(&d) != WIRE_VERSION)
    damaged(&d, "it is of another version");
  size_t n = check_count(&d, get_varint(&d));
  if (n > INT_MAX - LUA_MINSTACK - FEW)
    damaged(&d, "too many values");
  peri__check_stack(L, (int)n + LUA_MINSTACK);
  for (size_t i = 0; i < n; i++)
    get_root(&d);
  if (d.at != d.end)
    damaged(&d, "bytes are left over");
  if (!lua_isnil(L, d.late))
    set_late_classes(&d);
  for (int i = 1; i <= (int)n; i++)
    lua_copy(L, d.kept + FEW + i, top + i);
  lua_settop(L, top + (int)n);
  return (int)n;
}
