/*
 * decode_class.c: classes that a message names or brings along, and the objects
 * of them.
 */
#include "pool/decoder.h"

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

bool peri__is_class(decoder *d)
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

bool peri__wants_class(decoder *d)
{
  if (d->frames.depth == 0)
    return false;
  const peri__frame *frame = peri__frames_top(&d->frames);
  return frame->phase == PHASE_CLASS && !frame->is_error &&
         (frame->kind == FRAME_TABLE || frame->kind == FRAME_PACKED);
}

/* A new entry, not published yet, for the name on top (replaced). */
static void make_class(decoder *d)
{
  lua_State *L = d->L;
  const char *name = lua_tostring(L, -1);
  if (!d->trusted)
    peri__distrust(d, "it brings a class along");
  lua_settop(L, lua_gettop(L) + 3);
  peri__class_new(L, name);
  lua_replace(L, -2);
  peri__need_table(d, d->late);
  lua_pushvalue(L, -1);
  lua_pushboolean(L, 1);
  lua_rawset(L, d->late);
}

bool peri__get_class(decoder *d)
{
  lua_State *L = d->L;
  uint32_t id = peri__give_number(d);
  if (!peri__wants_class(d))
    peri__damaged(d, "a class stands for a value");
  d->has_classes = true;
  const char *name = peri__get_string(d);
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
  peri__set_object(d, id);
  if (!brought)
    return true;
  peri__frame *frame = peri__frame_open(d, FRAME_CLASS, lua_gettop(L));
  frame->next = CLASS_NAME;
  frame->known = known;
  frame->id = id;
  return false;
}

/* The metatable's module may have registered the class meanwhile: then that entry
 * counts. */
void peri__publish_class(decoder *d, uint32_t id)
{
  lua_State *L = d->L;
  bool packs = lua_rawgeti(L, -1, CLASS_PACK) == LUA_TFUNCTION;
  bool unpacks = lua_rawgeti(L, -2, CLASS_UNPACK) == LUA_TFUNCTION;
  if (lua_rawgeti(L, -3, CLASS_METATABLE) != LUA_TTABLE || packs != unpacks)
    peri__damaged(d, "a class is incomplete");
  lua_pop(L, 3);
  lua_rawgeti(L, -1, CLASS_NAME);
  if (find_class(d)) { /* entry name found */
    lua_replace(L, -2);
    for (int i = CLASS_METATABLE; i <= CLASS_UNPACK; i++) {
      lua_rawgeti(L, -1, i);
      lua_rawseti(L, -3, i);
    }
    lua_replace(L, -2);
    peri__set_object(d, id);
    return;
  }
  lua_pop(L, 2);
  peri__class_publish(L, d->classes);
}

void peri__set_error(decoder *d, int slot)
{
  lua_State *L = d->L;
  if (!peri__error_class_name(L, d->rt, -1))
    peri__damaged(d, "an error's class is none");
  lua_pop(L, 1);
  lua_setmetatable(L, slot);
}

void peri__set_trace(decoder *d, int slot)
{
  lua_State *L = d->L;
  if (lua_type(L, -1) == LUA_TSTRING)
    peri__trace_label(L, d->rt, slot, lua_tostring(L, -1));
  lua_pop(L, 1);
}

void peri__set_class(decoder *d, int slot)
{
  lua_State *L = d->L;
  if (!peri__is_class(d))
    peri__damaged(d, "an object's class is none");
  if (lua_rawgeti(L, -1, CLASS_PACK) != LUA_TNIL)
    peri__damaged(d, "an object is not as its class sends it");
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

void peri__set_late_classes(decoder *d)
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

void peri__set_unpack(decoder *d)
{
  lua_State *L = d->L;
  if (!peri__is_class(d) || lua_rawgeti(L, -1, CLASS_UNPACK) != LUA_TFUNCTION)
    peri__damaged(d, "an object's class does not unpack it");
  lua_replace(L, -2);
}

bool peri__get_error_class(decoder *d)
{
  lua_State *L = d->L;
  uint32_t id = peri__give_number(d);
  const char *name = peri__get_string(d);
  bool brought = get_byte(d) != 0;
  if (brought) {
    peri__frame *frame = peri__frame_open(d, FRAME_ERROR_CLASS, lua_gettop(L));
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
  peri__set_object(d, id);
  return true;
}

void peri__set_error_class(decoder *d, peri__frame *frame)
{
  lua_State *L = d->L;
  lua_pushvalue(L, -2);
  frame->known = peri__error_class_find(L, d->rt);
  if (!frame->known) {
    lua_pop(L, 1);
    if (!d->trusted)
      peri__distrust(d, "it brings an error class along");
    if (!peri__error_class_name(L, d->rt, -1))
      peri__damaged(d, "an error class has no base");
    lua_pop(L, 1);
    lua_pushvalue(L, -2);
    peri__error_class_extend(L);
    lua_replace(L, -2);
  } else {
    lua_replace(L, -3);
    lua_pop(L, 1);
  }
  peri__set_object(d, frame->id);
  frame->count = (uint32_t)check_count(d, get_u32(d));
  frame->phase = PHASE_KEY;
}
