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
#include "io/io.h"
#include "pool/handles.h"

int peri__refuse(encoder *e, const char *format, ...)
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

int peri__seen(encoder *e)
{
  if (!lua_istable(e->L, e->seen)) {
    lua_newtable(e->L);
    lua_replace(e->L, e->seen);
  }
  return e->seen;
}

uint32_t peri__mark(encoder *e)
{
  lua_State *L = e->L;
  uint32_t id = ++e->objects;
  bool light = lua_islightuserdata(L, -1); /* its address is not its own */
  if (id <= FEW) {
    e->first_objects[id - 1] = light ? NULL : lua_topointer(L, -1);
    lua_copy(L, -1, e->kept + (int)id);
    return id;
  }
  if (light)
    return id;
  peri__seen(e);
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

bool peri__put_again(encoder *e)
{
  uint32_t id = number_of(e);
  if (id == 0)
    return false;
  if (e->packing > 0 && is_being_packed(e, id))
    peri__refuse(e, "it is part of what its own pack returned");
  put_byte(e, TAG_REF);
  put_varint(e, id);
  lua_pop(e->L, 1);
  return true;
}

static int names(encoder *e)
{
  if (!lua_istable(e->L, e->names)) {
    peri__names_push(e->L, e->rt);
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

int peri__push_known(encoder *e)
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

void peri__put_known(encoder *e)
{
  size_t length;
  const char *bytes = lua_tolstring(e->L, -1, &length);
  memcpy(extend(e, length), bytes, length);
  lua_pop(e->L, 1);
  peri__mark(e);
  lua_pop(e->L, 1);
}

bool peri__put_name(encoder *e)
{
  if (peri__push_known(e) == LUA_TSTRING) {
    peri__put_known(e);
    return true;
  }
  lua_pop(e->L, 1);
  return false;
}

/* -- Values ------------------------------------------------------------------
 */

peri__frame *peri__open_frame(encoder *e, peri__frame_kind kind)
{
  peri__frame *frame = peri__frames_push(e->L, &e->frames);
  if (frame == NULL)
    peri__refuse(e, "nested too deeply");
  frame->kind = (uint8_t)kind;
  frame->slot = lua_gettop(e->L);
  return frame;
}

/* Writes the string at idx, if it is short. */
static bool put_string(encoder *e, int idx)
{
  size_t length;
  const char *s = lua_tolstring(e->L, idx, &length);
  if (length >= LONG_STRING)
    return false;
  put_short_string(e, s, length);
  return true;
}

static void put_long_string(encoder *e)
{
  size_t length;
  const char *s = lua_tolstring(e->L, -1, &length);
  if (peri__put_again(e))
    return;
  peri__mark(e);
  put_tagged(e, TAG_LONG_STRING, length);
  memcpy(extend(e, length), s, length);
  lua_pop(e->L, 1);
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

/* Pushes a string of the metatable of the value at idx, or else nil. */
static const char *push_meta_string(lua_State *L, int idx, const char *name)
{
  idx = lua_absindex(L, idx);
  if (luaL_getmetafield(L, idx, name) == LUA_TNIL || !lua_isstring(L, -1))
    lua_pushnil(L);
  return lua_tostring(L, -1);
}

/* The value on top is of a class that is not sent; anonymous: what it is if that
 * has no name. The library's classes have a module. */
static int refuse_object(encoder *e, const char *anonymous)
{
  lua_State *L = e->L;
  int object = lua_gettop(L);
  bool is_table = lua_istable(L, object);
  peri__check_stack(L, LUA_MINSTACK);
  const char *name = push_meta_string(L, object, "__name");
  const char *module = push_meta_string(L, object, "__module");
  if (name != NULL && module != NULL)
    return peri__refuse(
        e, "%s.%s, which stays in its Lua state (peri.ref sends a token)",
        module, name);
  return peri__refuse(e, is_table ? "%s (its class is not registered)" : "%s",
                      name != NULL ? name : anonymous);
}

/* The object on top has a metatable. */
static void put_object(encoder *e)
{
  lua_State *L = e->L;
  if (!push_class(e, -1))
    refuse_object(e, "table with a metatable");
  bool is_error = lua_rawgeti(L, -1, CLASS_NAME) == LUA_TNIL;
  bool packs = lua_rawgeti(L, -2, CLASS_PACK) != LUA_TNIL;
  lua_pop(L, 3);
  uint32_t id = peri__mark(e);
  put_byte(e, is_error ? TAG_ERROR : packs ? TAG_PACKED : TAG_OBJECT);
  e->packing += packs;
  peri__frame *frame = peri__open_frame(e, packs ? FRAME_PACKED : FRAME_TABLE);
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
  peri__mark(e);
  put_byte(e, TAG_ERROR_CLASS);
  put_short_string(e, name, length);
  put_byte(e, !own);
  lua_remove(L, -2);
  if (own)
    lua_pop(L, 1);
  else
    peri__open_frame(e, FRAME_ERROR_CLASS)->phase = PHASE_CLASS;
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
  if (peri__put_again(e))
    return;
  bool meta = lua_getmetatable(L, -1);
  if (meta)
    lua_pop(L, 1);
  bool error_class = meta && is_error_class(e);
  if (error_class && peri__error_class_is_own(L, -1)) {
    put_error_class(e);
  } else if (peri__put_name(e)) {
    return;
  } else if (error_class) {
    put_error_class(e);
  } else if (meta) {
    put_object(e);
  } else {
    peri__mark(e);
    put_byte(e, TAG_TABLE);
    open_items(e, peri__open_frame(e, FRAME_TABLE));
  }
}

/* What the stream on top is; NULL: it is none. */
static const char *stream_kind(lua_State *L)
{
  static const char *const kinds[] = {[PERI_STREAM_TCP] = "tcp stream",
                                      [PERI_STREAM_PIPE] = "pipe stream",
                                      [PERI_STREAM_TTY] = "tty stream"};
  const peri_stream_box *box = lua_touserdata(L, -1);
  if (lua_rawlen(L, -1) < sizeof *box || box->mark != &peri__stream_mark ||
      box->stream == NULL)
    return NULL;
  return kinds[box->stream->kind];
}

static void put_userdata(encoder *e)
{
  lua_State *L = e->L;
  if (peri__put_again(e) || peri__put_handle(e) || peri__put_name(e))
    return;
  bool known = push_class(e, -1);
  if (known && lua_rawgeti(L, -1, CLASS_PACK) != LUA_TNIL) {
    lua_pop(L, 2);
    put_object(e);
    return;
  }
  lua_pop(L, known ? 2 : 0);
  const char *kind = stream_kind(L);
  if (kind != NULL)
    peri__refuse(e, "%s", kind);
  refuse_object(e, "userdata");
}

/* Writes the value at idx, of this type, if it has no parts. */
static inline bool put_simple(encoder *e, int idx, int type)
{
  lua_State *L = e->L;
  switch (type) {
  case LUA_TNIL:
    put_byte(e, TAG_NIL);
    return true;
  case LUA_TBOOLEAN:
    put_byte(e, lua_toboolean(L, idx) ? TAG_TRUE : TAG_FALSE);
    return true;
  case LUA_TNUMBER:
    if (lua_isinteger(L, idx))
      put_integer(e, lua_tointeger(L, idx));
    else
      put_float(e, lua_tonumber(L, idx));
    return true;
  case LUA_TSTRING:
    return put_string(e, idx);
  default:
    return false;
  }
}

static void put_value(encoder *e)
{
  lua_State *L = e->L;
  int type = lua_type(L, -1);
  if (put_simple(e, -1, type)) {
    lua_pop(L, 1);
    return;
  }
  switch (type) {
  case LUA_TSTRING:
    put_long_string(e);
    return;
  case LUA_TTABLE:
    put_table(e);
    return;
  case LUA_TFUNCTION:
    peri__put_function(e);
    return;
  case LUA_TUSERDATA:
    put_userdata(e);
    return;
  case LUA_TLIGHTUSERDATA:
    if (peri__put_name(e))
      return;
    peri__refuse(e, "light userdata");
    return;
  default:
    peri__refuse(e, "coroutine");
  }
}

/* -- Containers: each step writes what it can until a value opens a frame
 * ------ */

void peri__close_frame(encoder *e, const peri__frame *frame)
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
  if (peri__put_again(e)) {
    lua_pop(L, 1);
    return;
  }
  peri__mark(e);
  put_byte(e, TAG_CLASS);
  put_short_string(e, name, length);
  lua_remove(L, -2);
  /* What C functions pack is known wherever the library is. */
  lua_rawgeti(L, -1, CLASS_PACK);
  bool known = lua_iscfunction(L, -1);
  put_byte(e, !known);
  lua_pop(L, known ? 2 : 1);
  if (!known)
    peri__open_frame(e, FRAME_CLASS)->next = CLASS_NAME;
}

bool peri__put_child(encoder *e)
{
  if (put_simple(e, -1, lua_type(e->L, -1))) {
    lua_pop(e->L, 1);
    return false;
  }
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
  if (peri__put_child(e))
    return true;
  frame->phase = PHASE_KEY;
  return peri__put_child(e);
}

/* The items and pairs of a table, the pairs of a class. The key is on top, nil
 * before the first one. True: that was all. */
static bool step_pairs(encoder *e, peri__frame *frame)
{
  if (frame->phase == PHASE_VALUE) {
    frame->phase = PHASE_KEY;
    if (peri__put_child(e))
      return false;
  }
  while (lua_next(e->L, frame->slot)) {
    bool open = is_item(e->L, frame) ? peri__put_child(e) : put_pair(e, frame);
    if (open)
      return false;
  }
  return true;
}

static void close_table(encoder *e, const peri__frame *frame)
{
  set_count(e, frame->count_at, (size_t)frame->next);
  set_count(e, frame->count_at + sizeof(uint32_t), frame->count);
  peri__close_frame(e, frame);
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
    peri__refuse(e, "its pack returned more than %d values", MAX_PACKED);
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
      if (peri__put_child(e))
        return;
    }
    e->packing--;
    peri__close_frame(e, frame);
  }
}

static void step_class(encoder *e, peri__frame *frame)
{
  while (frame->next < CLASS_UNPACK) {
    lua_rawgeti(e->L, frame->slot, ++frame->next);
    if (peri__put_child(e))
      return;
  }
  peri__close_frame(e, frame);
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
    peri__close_frame(e, frame);
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
    peri__step_function(e, frame);
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

/* Writes what comes first of the values from index first on, as long as it needs
 * no places on the Lua stack: values without parts, and the functions that jobs
 * are. What is numbered stands on the caller's stack. Returns how many it wrote. */
static int put_first(encoder *e, int first, int n)
{
  int i = 0;
  while (i < n && (put_simple(e, first + i, lua_type(e->L, first + i)) ||
                   peri__put_plain(e, first + i)))
    i++;
  return i;
}

/* -- Small messages -------------------------------------------------------- */

/* Writes the value at idx, if it has no parts and there is room for it. NULL: it
 * was not written. */
static char *put_small(lua_State *L, int idx, char *at, const char *end)
{
  size_t length, room = (size_t)(end - at);
  const char *s;
  int type = lua_type(L, idx);
  if (room < MAX_VARINT + 1 && (type != LUA_TSTRING || room == 0))
    return NULL;
  switch (type) {
  case LUA_TNIL:
    *at++ = TAG_NIL;
    return at;
  case LUA_TBOOLEAN:
    *at++ = lua_toboolean(L, idx) ? TAG_TRUE : TAG_FALSE;
    return at;
  case LUA_TNUMBER:
    if (lua_isinteger(L, idx))
      return write_integer(at, lua_tointeger(L, idx));
    return write_float(at, lua_tonumber(L, idx));
  case LUA_TSTRING:
    s = lua_tolstring(L, idx, &length);
    if (length >= SHORT_STRINGS || length >= room)
      return NULL;
    *at++ = (char)(TAG_SHORT_STRING | length);
    memcpy(at, s, length);
    return at + length;
  default:
    return NULL;
  }
}

static char *put_all_small(lua_State *L, int first, int n, char *at,
                           const char *end)
{
  for (int i = 0; i < n && at != NULL; i++)
    at = put_small(L, first + i, at, end);
  return at;
}

size_t peri__encode_small(lua_State *L, int first, int n, char *out,
                          size_t size)
{
  if ((size_t)n + 2 > size)
    return 0;
  out[0] = WIRE_VERSION;
  out[1] = (char)n;
  char *end = put_all_small(L, first, n, out + 2, out + size);
  return end != NULL ? (size_t)(end - out) : 0;
}

size_t peri__encode_small_call(lua_State *L, peri_runtime *rt, int first, int n,
                               char *out, size_t size, peri__chunk **chunk)
{
  if ((size_t)n + 4 > size ||
      (*chunk = peri__plain_chunk(L, rt, first)) == NULL)
    return 0;
  out[0] = WIRE_VERSION;
  out[1] = (char)n;
  out[2] = TAG_PLAIN;
  out[3] = 0;
  char *end = put_all_small(L, first + 1, n - 1, out + 4, out + size);
  if (end == NULL)
    return 0;
  peri__chunk_lend(*chunk);
  return (size_t)(end - out);
}

static void make_places(encoder *e, int top)
{
  lua_settop(e->L, top + 5 + FEW);
  e->seen = top + 1;
  e->names = top + 2;
  e->classes = top + 3;
  e->refs = top + 4;
  e->kept = top + 5;
  e->scanned = false;
  e->packing = 0;
  e->upvalues = 0;
  peri__frames_init(&e->frames, top + 5);
}

void peri__encode(lua_State *L, peri_runtime *rt, int first, int n,
                  peri__message_kind kind, bool chunks, peri__message *out)
{
  encoder e;
  int top = lua_gettop(L);
  first = lua_absindex(L, first);
  peri__check_stack(L, LUA_MINSTACK + FEW);
  e.L = L;
  e.rt = rt;
  e.out = &out->bytes;
  e.message = out;
  e.kind = kind;
  e.chunks = chunks;
  e.objects = 0;
  put_tagged(&e, WIRE_VERSION, (uint64_t)n);
  int done = put_first(&e, first, n);
  if (done == n) {
    lua_pushnil(L);
    return;
  }
  make_places(&e, top);
  for (e.root = done + 1; e.root <= n; e.root++) {
    lua_pushvalue(L, first + e.root - 1);
    put_value(&e);
    while (e.frames.depth > 0)
      step(&e);
  }
  lua_copy(L, e.refs, top + 1);
  lua_settop(L, top + 1);
}
