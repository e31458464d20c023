/*
 * codec_lua.c: the module perilune._codec, which perilune.multiprocessing and
 * perilune.handles stand on.
 */
#include "pool/handles.h"
#include "pool/pool.h"

/* encode(...) -> bytes */
static int l_encode(lua_State *L)
{
  int n = lua_gettop(L);
  peri__message *message = peri__message_push(L);
  peri__encode(L, peri__rt(L), 1, n, PERI__MESSAGE_VALUES, false, message);
  lua_pushlstring(L, message->bytes.data, message->bytes.length);
  return 1;
}

/* decode(bytes, trusted) -> ... */
static int l_decode(lua_State *L)
{
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  peri__peer self = {.trusted = true};
  peri__message message = {.bytes = {.data = (char *)bytes, .length = length}};
  return peri__decode(L, peri__rt(L), &message,
                      lua_toboolean(L, 2) ? &self : NULL);
}

/* external(n): counts waits that only the outside can end. */
static int l_external(lua_State *L)
{
  peri__external(peri__rt(L), (int)luaL_checkinteger(L, 1));
  return 0;
}

static const luaL_Reg functions[] = {{"register", peri__codec_register},
                                     {"encode", l_encode},
                                     {"decode", l_decode},
                                     {"ref", peri__handle_ref},
                                     {"where", peri__handle_where},
                                     {"send", peri__handle_send},
                                     {"external", l_external},
                                     {NULL, NULL}};

static const struct {
  const char *name;
  peri__note_kind kind;
} kinds[] = {{"CALL", PERI__NOTE_CALL},
             {"RUN", PERI__NOTE_RUN},
             {"RETURNED", PERI__NOTE_RETURNED},
             {"RAISED", PERI__NOTE_RAISED},
             {"CANCELLED", PERI__NOTE_CANCELLED},
             {"CANCEL", PERI__NOTE_CANCEL},
             {"LOG", PERI__NOTE_LOG}};

int peri__codec_open(lua_State *L)
{
  peri_runtime *rt = peri_of(L);
  if (rt == NULL)
    return luaL_error(L, "there is no runtime on this state");
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, functions, 1);
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    lua_pushinteger(L, (lua_Integer)kinds[i].kind);
    lua_setfield(L, -2, kinds[i].name);
  }
  peri__handle_methods(L);
  lua_setfield(L, -2, "LoopHandle");
  return 1;
}
