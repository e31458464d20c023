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

#include "pool/handles.h"
/* -- Bytes ----------------------------------------------------------------- */

int peri__damaged(decoder *d, const char *what)
{
  return peri__throw(d->L, d->rt, PERI_ERR_VALUE, "damaged message: %s", what);
}

int peri__distrust(decoder *d, const char *what)
{
  return peri__throw(d->L, d->rt, PERI_ERR_VALUE,
                     "message from an untrusted source: %s", what);
}

const char *peri__get_string(decoder *d)
{
  int tag = get_byte(d);
  if (tag >= TAG_SHORT_STRING)
    push_bytes(d, (size_t)(tag - TAG_SHORT_STRING));
  else if (tag == TAG_STRING)
    push_bytes(d, check_count(d, get_varint(d)));
  else
    peri__damaged(d, "a name is no string");
  return lua_tostring(d->L, -1);
}
/* -- Numbered objects ------------------------------------------------------ */

void peri__need_table(decoder *d, int slot)
{
  if (!lua_isnil(d->L, slot))
    return;
  lua_newtable(d->L);
  lua_replace(d->L, slot);
}

uint32_t peri__give_number(decoder *d)
{
  return ++d->given;
}

void peri__set_object(decoder *d, uint32_t id)
{
  if (id <= FEW) {
    lua_copy(d->L, -1, d->kept + (int)id);
    return;
  }
  peri__need_table(d, d->objects);
  lua_pushvalue(d->L, -1);
  lua_rawseti(d->L, d->objects, id);
}

static void get_object(decoder *d, uint32_t id)
{
  if (id <= FEW)
    lua_pushvalue(d->L, d->kept + (int)id);
  else if (lua_istable(d->L, d->objects))
    lua_rawgeti(d->L, d->objects, id);
  else
    lua_pushnil(d->L);
}

/* Whether the object is yet to be made, of what is being read. */
static bool is_unmade(decoder *d, uint32_t id)
{
  for (int i = 0; i < d->frames.depth; i++) {
    const peri__frame *frame = &d->frames.v[i];
    if (frame->id == id &&
        (frame->kind == FRAME_PACKED || frame->kind == FRAME_ERROR_CLASS))
      return true;
  }
  return false;
}

static void push_object(decoder *d)
{
  uint64_t id = get_varint(d);
  if (id == 0 || id > d->given)
    peri__damaged(d, "a reference leads nowhere");
  get_object(d, (uint32_t)id);
  if (lua_isnil(d->L, -1) && is_unmade(d, (uint32_t)id))
    peri__damaged(d, "an object is part of what it is made of");
  if (d->has_classes && !peri__wants_class(d) && peri__is_class(d))
    peri__damaged(d, "a class stands for a value");
}

/* -- Containers ------------------------------------------------------------ */

peri__frame *peri__frame_open(decoder *d, peri__frame_kind kind, int slot)
{
  peri__frame *frame = peri__frames_push(d->L, &d->frames);
  if (frame == NULL)
    peri__damaged(d, "it is nested too deeply");
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
  uint32_t id = peri__give_number(d);
  peri__frame header = {0};
  get_header(d, &header);
  int items = take_budget(d, (size_t)header.last);
  lua_createtable(d->L, items, take_budget(d, header.count));
  peri__set_object(d, id);
  peri__frame *frame = peri__frame_open(d, FRAME_TABLE, lua_gettop(d->L));
  frame->last = header.last;
  frame->count = header.count;
  frame->phase = PHASE_ITEMS;
}

static void open_object(decoder *d, bool is_error)
{
  uint32_t id = peri__give_number(d);
  lua_newtable(d->L);
  peri__set_object(d, id);
  peri__frame *frame = peri__frame_open(d, FRAME_TABLE, lua_gettop(d->L));
  frame->phase = PHASE_CLASS;
  frame->is_error = is_error;
}

static void open_packed(decoder *d)
{
  uint32_t id = peri__give_number(d);
  peri__frame *frame = peri__frame_open(d, FRAME_PACKED, lua_gettop(d->L) + 1);
  frame->phase = PHASE_CLASS;
  frame->id = id;
}

/* The function on top is object number id; its upvalues are next. */
static void open_loaded(decoder *d, uint32_t id)
{
  lua_State *L = d->L;
  lua_Debug ar;
  peri__set_object(d, id);
  lua_pushvalue(L, -1);
  lua_getinfo(L, ">u", &ar);
  if (get_varint(d) != ar.nups)
    peri__damaged(d, "a function has other upvalues");
  peri__frame *frame = peri__frame_open(d, FRAME_FUNCTION, lua_gettop(L));
  frame->last = ar.nups;
  frame->id = id;
}

static void open_function(decoder *d)
{
  lua_State *L = d->L;
  uint32_t id = peri__give_number(d);
  size_t length = get_u32(d);
  if (!d->trusted)
    peri__distrust(d, "it holds a function");
  const char *code = get_bytes(d, length);
  if (!peri__code_load(L, code, length))
    peri__damaged(d, lua_tostring(L, -1));
  open_loaded(d, id);
}

static peri__chunk *get_chunk(decoder *d)
{
  uint64_t number = get_varint(d);
  if (!d->trusted)
    peri__distrust(d, "it holds a function");
  if (number >= d->message->chunk_count)
    peri__damaged(d, "a function's code is missing");
  return d->message->chunks[number];
}

static void open_chunk(decoder *d)
{
  uint32_t id = peri__give_number(d);
  const peri__chunk *chunk = get_chunk(d);
  if (!peri__code_load(d->L, chunk->code, chunk->length))
    peri__damaged(d, lua_tostring(d->L, -1));
  open_loaded(d, id);
}

static void get_plain(decoder *d)
{
  uint32_t id = peri__give_number(d);
  if (!peri__code_load_plain(d->L, d->rt, get_chunk(d)))
    peri__damaged(d, lua_tostring(d->L, -1));
  peri__set_object(d, id);
}

/* Pushes the module whose name is on top (replaced). */
static void find_module(decoder *d)
{
  lua_State *L = d->L;
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushvalue(L, -2);
  if (lua_rawget(L, -2) == LUA_TNIL) {
    if (!d->trusted)
      peri__distrust(d, "it names a module that is not loaded");
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
  uint32_t id = peri__give_number(d);
  const char *module = peri__get_string(d);
  int keys = get_byte(d);
  if (keys > MAX_NAME_KEYS)
    peri__damaged(d, "a name is too long");
  lua_pushvalue(L, -1);
  find_module(d);
  for (int i = 0; i < keys; i++) { /* module value */
    const char *key = peri__get_string(d);
    bool found = lua_istable(L, -2);
    if (found) {
      lua_pushvalue(L, -1);
      /* __index is code, too. */
      found = (d->trusted ? lua_gettable : lua_rawget)(L, -3) != LUA_TNIL;
    }
    if (!found)
      peri__throw(L, d->rt, PERI_ERR_RUNTIME,
                  "module '%s' has no '%s' in the state that reads it", module,
                  key);
    lua_replace(L, -3);
    lua_pop(L, 1);
  }
  lua_replace(L, -2);
  peri__set_object(d, id);
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
    peri__set_object(d, peri__give_number(d));
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
    return peri__get_class(d);
  case TAG_ERROR_CLASS:
    return peri__get_error_class(d);
  case TAG_REFERENCE:
  case TAG_LOOP:
    peri__get_handle(d, tag);
    return true;
  case TAG_GLOBALS:
    lua_pushglobaltable(L);
    return true;
  default:
    peri__damaged(d, "an unknown tag");
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
  peri__need_table(d, d->places);
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
    peri__damaged(d, "a shared upvalue is none");
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
    peri__set_object(d, frame->id);
  } else if (frame->kind == FRAME_CLASS && !frame->known) {
    peri__publish_class(d, frame->id);
  }
  return true;
}

static void set_pair(decoder *d, peri__frame *frame)
{
  lua_State *L = d->L;
  if (frame->phase == PHASE_KEY) {
    if (lua_isnil(L, -1) || lua_tonumber(L, -1) != lua_tonumber(L, -1))
      peri__damaged(d, "a key is none");
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
      peri__set_error(d, frame->slot);
      frame->phase = PHASE_TRACE;
      break;
    }
    peri__set_class(d, frame->slot);
    get_header(d, frame);
    break;
  case PHASE_TRACE:
    peri__set_trace(d, frame->slot);
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
  peri__set_unpack(d);
  uint64_t n = get_varint(d);
  if (n > MAX_PACKED)
    peri__damaged(d, "an object has too many values");
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
      peri__set_error_class(d, frame);
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

/* Pushes n values, if none of them has parts but for functions that are shared:
 * then nothing needs a place on the Lua stack. Else it pushes and reads nothing. */
static bool get_simple(decoder *d, size_t n)
{
  const char *start = d->at;
  int top = lua_gettop(d->L);
  for (size_t i = 0; i < n; i++) {
    int tag = get_byte(d);
    if (tag == TAG_PLAIN) {
      if (!peri__code_load_plain(d->L, d->rt, get_chunk(d)))
        peri__damaged(d, lua_tostring(d->L, -1));
    } else if (tag >= TAG_SMALL_INTEGER || tag <= TAG_STRING) {
      d->at--;
      get_value(d);
    } else {
      lua_settop(d->L, top);
      d->at = start;
      return false;
    }
  }
  return true;
}

static void make_places(decoder *d)
{
  int top = lua_gettop(d->L);
  lua_settop(d->L, top + 5 + FEW);
  d->objects = top + 1;
  d->places = top + 2;
  d->late = top + 3;
  d->classes = top + 4;
  d->kept = top + 5;
  d->has_classes = false;
  d->given = d->upvalues = 0;
  d->budget = left(d);
  peri__frames_init(&d->frames, top + 5);
}

/* Pushes n values above the places, and moves them down. */
static void get_all(decoder *d, int n)
{
  lua_State *L = d->L;
  int top = lua_gettop(L);
  make_places(d);
  for (int i = 0; i < n; i++)
    get_root(d);
  if (!lua_isnil(L, d->late))
    peri__set_late_classes(d);
  for (int i = 1; i <= n; i++)
    lua_copy(L, d->kept + FEW + i, top + i);
  lua_settop(L, top + n);
}

int peri__decode(lua_State *L, peri_runtime *rt, const peri__message *message,
                 peri__peer *peer)
{
  decoder d;
  d.L = L;
  d.rt = rt;
  d.message = message;
  d.peer = peer;
  d.at = message->bytes.data;
  d.end = d.at + message->bytes.length;
  d.trusted = peer != NULL && peer->trusted;
  if (get_byte(&d) != WIRE_VERSION)
    peri__damaged(&d, "it is of another version");
  size_t n = check_count(&d, get_varint(&d));
  if (n > INT_MAX - LUA_MINSTACK - FEW)
    peri__damaged(&d, "too many values");
  peri__check_stack(L, (int)n + FEW + LUA_MINSTACK);
  if (!get_simple(&d, n))
    get_all(&d, (int)n);
  if (d.at != d.end)
    peri__damaged(&d, "bytes are left over");
  return (int)n;
}
