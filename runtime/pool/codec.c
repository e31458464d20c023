/*
 * codec.c: how Lua values travel between Lua states.
 *
 * Worker states share nothing with the state that sends them work, so every
 * argument and result is copied: encode.c writes values into a message, which
 * belongs to no state, and decode.c makes new values of it in the state that
 * reads. What a message holds is written down in wire.h.
 *
 * Order. Values are written depth first, each container with its values right
 * behind it. A table or function gets a number when it begins, so that any
 * later mention, from inside itself too, is a REF: sharing and cycles survive.
 * Depth first matters for objects with pack and unpack: when unpack is called,
 * all that pack returned is complete. Only an object that is reached again
 * through its own packed values cannot be made; encode.c refuses it.
 *
 * Depth. Neither direction recurses: the open containers are frames in an array
 * and their values wait on the Lua stack, which can grow to a million slots; so
 * a list of 50,000 linked nodes is no danger to the C stack.
 *
 * Functions travel as bytecode with debug information: a chunk beside the bytes,
 * which is made once and which threads share; a process is sent it once
 * (chunks.c, message.c). An upvalue is a place, not a value: the places are
 * numbered too, by lua_upvalueid, and two functions of one message that shared a
 * place share one again. A local function that calls itself is such a cycle. The
 * upvalue _ENV always is the receiver's globals, whatever it was here.
 *
 * Names (names.c). A module is never copied, and neither are its functions and
 * classes: they go as "module, key" and the receiver requires the module. So do
 * C functions, which cannot be copied. This is also what keeps a script's
 * upvalue `peri` from dragging the whole library along.
 *
 * Classes. An object has a metatable, so it can be sent only if its class was
 * registered. The class travels with the first object of a message (as a name
 * where it is part of a module), since a class that was made by a script is
 * unknown to a worker. Error classes are told by their registered names and
 * made anew, with the same base, where that name is unknown.
 *
 * Handles (handles.c). A loop, and what peri.ref has wrapped, stay where they are:
 * a number goes, and comes home as what it stands for.
 *
 * Speed. Most messages are a function that was sent before and a few values
 * without parts, or such values alone. Those are written and read in one loop;
 * the first value that needs more has places made on the Lua stack for what the
 * rest takes. The first few objects of a message are found by their addresses,
 * only then a table is made for them.
 *
 * Trust. Bytecode can do anything to the process. decode.c checks every length,
 * number and type against the message and raises an error for what does not
 * fit, but it takes functions, modules that are yet to be loaded and new
 * classes only from messages that our own workers wrote.
 *
 * Memory. Messages are malloc's and owned by whoever called: encoding may raise at
 * any point, and the caller's userdata frees them. All else that the codec needs
 * while it works stands on the Lua stack. A long string is copied once, into the
 * message, and once out of it.
 */
#include <string.h>

#include "pool/wire.h"

_Static_assert(LUA_MAXINTEGER == INT64_MAX, "integers have 64 bits");
_Static_assert(sizeof(lua_Number) == 8, "floats are doubles");

/* Its address is the place of the classes in the registry. */
static const char classes_key = 0;

/* -- Open containers ------------------------------------------------------- */

void peri__frames_init(peri__frames *frames, int slot)
{
  frames->v = frames->first;
  frames->depth = 0;
  frames->capacity = FIRST_FRAMES;
  frames->slot = slot;
}

/* The old userdata, if there was one, is left to the collector. */
static void frames_grow(lua_State *L, peri__frames *frames)
{
  size_t used = (size_t)frames->depth * sizeof(peri__frame);
  peri__frame *v = lua_newuserdatauv(L, 2 * used, 0);
  memcpy(v, frames->v, used);
  lua_replace(L, frames->slot);
  frames->v = v;
  frames->capacity *= 2;
}

peri__frame *peri__frames_push(lua_State *L, peri__frames *frames)
{
  /* Room for what a container and one value of it take on the Lua stack. */
  if (frames->depth == MAX_DEPTH || !lua_checkstack(L, 12))
    return NULL;
  if (frames->depth == frames->capacity)
    frames_grow(L, frames);
  peri__frame *frame = &frames->v[frames->depth++];
  memset(frame, 0, sizeof *frame);
  return frame;
}

/* -- Userdata of the codec's own ------------------------------------------- */

void peri__set_kind(lua_State *L, const char *kind, const luaL_Reg *metamethods)
{
  if (luaL_getmetatable(L, kind) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_newtable(L);
    luaL_setfuncs(L, metamethods, 0);
    lua_newtable(L);
    lua_setfield(L, -2, "__index");
    lua_pushstring(L, strchr(kind, '.') + 1);
    lua_setfield(L, -2, "__name");
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, kind);
  }
  lua_setmetatable(L, -2);
}

static int l_message_gc(lua_State *L)
{
  peri__message_fini(lua_touserdata(L, 1));
  return 0;
}

peri__message *peri__message_push(lua_State *L)
{
  static const luaL_Reg metamethods[] = {{"__gc", l_message_gc}, {NULL, NULL}};
  peri__message *message = lua_newuserdatauv(L, sizeof *message, 0);
  *message = (peri__message){0};
  peri__set_kind(L, "perilune.Message", metamethods);
  return message;
}

/* -- Classes --------------------------------------------------------------- */

void peri__classes_push(lua_State *L)
{
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &classes_key) == LUA_TTABLE)
    return;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &classes_key);
}

void peri__class_new(lua_State *L, const char *name)
{
  lua_createtable(L, CLASS_UNPACK, 0);
  lua_insert(L, -4);
  lua_rawseti(L, -4, CLASS_UNPACK);
  lua_rawseti(L, -3, CLASS_PACK);
  lua_rawseti(L, -2, CLASS_METATABLE);
  lua_pushstring(L, name);
  lua_rawseti(L, -2, CLASS_NAME);
}

void peri__class_publish(lua_State *L, int classes)
{
  /* Both places are made first: this may raise. */
  for (int i = CLASS_NAME; i <= CLASS_METATABLE; i++) {
    lua_rawgeti(L, -1, i);
    lua_pushboolean(L, 0);
    lua_rawset(L, classes);
  }
  for (int i = CLASS_NAME; i <= CLASS_METATABLE; i++) {
    lua_rawgeti(L, -1, i);
    lua_pushvalue(L, -2);
    lua_rawset(L, classes);
  }
}

/* Pushes a field of the options at index 3: a function, or nil. */
static void push_option(lua_State *L, peri_runtime *rt, const char *name)
{
  if (lua_isnoneornil(L, 3))
    lua_pushnil(L);
  else
    lua_getfield(L, 3, name);
  if (!lua_isnil(L, -1) && !lua_isfunction(L, -1))
    peri__throw(L, rt, PERI_ERR_TYPE,
                "register: function expected as %s, got %s", name,
                luaL_typename(L, -1));
}

int peri__codec_register(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  const char *name = peri__check_string(L, rt, 1, NULL);
  if (!lua_istable(L, 2))
    peri__arg_type_error(L, rt, 2, "metatable");
  if (!lua_isnoneornil(L, 3) && !lua_istable(L, 3))
    peri__arg_type_error(L, rt, 3, "table");
  peri__classes_push(L);
  int classes = lua_gettop(L);
  if (lua_getfield(L, classes, name) == LUA_TTABLE)
    peri__throw(L, rt, PERI_ERR_VALUE, "register: the name '%s' is taken",
                name);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, classes) == LUA_TTABLE)
    peri__throw(L, rt, PERI_ERR_VALUE,
                "register: the metatable of '%s' is registered already", name);
  lua_pushvalue(L, 2);
  push_option(L, rt, "pack");
  push_option(L, rt, "unpack");
  if (lua_isnil(L, -1) != lua_isnil(L, -2))
    peri__throw(L, rt, PERI_ERR_VALUE,
                "register: pack and unpack belong together");
  peri__class_new(L, name);
  peri__class_publish(L, classes);
  return 0;
}

/* -- Error classes -----------------------------------------------------------
 */

bool peri__error_class_name(lua_State *L, peri_runtime *rt, int idx)
{
  idx = lua_absindex(L, idx);
  if (!lua_istable(L, idx))
    return false;
  int top = lua_gettop(L);
  lua_pushliteral(L, "__name");
  if (lua_rawget(L, idx) == LUA_TSTRING) {
    peri__push_ref(L, rt, PERI_REF_CLASSES);
    lua_pushvalue(L, -2);
    lua_rawget(L, -2); /* name classes class */
    if (lua_rawequal(L, -1, idx)) {
      lua_settop(L, top + 1);
      return true;
    }
  }
  lua_settop(L, top);
  return false;
}

bool peri__error_class_is_own(lua_State *L, int idx)
{
  idx = lua_absindex(L, idx);
  peri__require(L, "perilune.errors");
  lua_pushliteral(L, "__name");
  lua_rawget(L, idx);
  lua_rawget(L, -2);
  bool own = lua_rawequal(L, -1, idx);
  lua_pop(L, 2);
  return own;
}

void peri__error_class_base(lua_State *L, int idx)
{
  idx = lua_absindex(L, idx);
  peri__require(L, "perilune.errors");
  lua_getfield(L, -1, "parent");
  lua_replace(L, -2);
  lua_pushvalue(L, idx);
  lua_call(L, 1, 1);
}

bool peri__error_class_find(lua_State *L, peri_runtime *rt)
{
  peri__require(L, "perilune.errors"); /* so that the library's own are there */
  peri__push_ref(L, rt, PERI_REF_CLASSES);
  lua_replace(L, -2);
  lua_insert(L, -2);
  bool found = lua_rawget(L, -2) == LUA_TTABLE;
  lua_remove(L, -2);
  return found;
}

void peri__error_class_extend(lua_State *L)
{
  lua_getfield(L, -2, "extend");
  lua_insert(L, -3);
  lua_call(L, 2, 1);
}
