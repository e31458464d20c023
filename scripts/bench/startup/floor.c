/*
 * startup, the floor: what any host of Lua and libuv does before its first line
 * of script and after its last.
 */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <uv.h>

int main(void)
{
  uv_loop_t loop;
  lua_State *L = luaL_newstate();
  if (L == NULL || uv_loop_init(&loop) != 0)
    return 1;
  luaL_openlibs(L);
  if (luaL_dostring(L, "") != LUA_OK)
    return 1;
  uv_run(&loop, UV_RUN_DEFAULT);
  lua_close(L);
  return uv_loop_close(&loop) == 0 ? 0 : 1;
}
