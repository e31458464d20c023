/*
 * net.c: the module perilune._net, which perilune.net is made of, and what all
 * of io/ needs.
 */
#include <errno.h>
#include <string.h>
#if defined(__linux__)
#include <malloc.h>
#endif

#include "io/io.h"

/* -- Errors --------------------------------------------------------------------- */

/* Errors of the system that libuv 1.44 does not know, whose names would be "Unknown
 * system error"; NULL: it is none. */
static const char *other_name(int code)
{
  static const struct {
    int code;
    const char *name;
  } others[] = {{ENOEXEC, "ENOEXEC"}, {ECHILD, "ECHILD"}, {EDEADLK, "EDEADLK"},
                {ENOLCK, "ENOLCK"},   {EDQUOT, "EDQUOT"}, {ESTALE, "ESTALE"}};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    if (others[i].code == -code)
      return others[i].name;
  return NULL;
}

void peri__push_os(lua_State *L, peri_runtime *rt, const char *syscall,
                   int code, const char *text, const char *field,
                   const char *name)
{
  const char *other = other_name(code);
  if (text == NULL)
    text = other != NULL ? strerror(-code) : uv_strerror(code);
  if (name != NULL)
    peri__push_error(L, rt, PERI_ERR_OS, "%s: %s (%s)", syscall, text, name);
  else
    peri__push_error(L, rt, PERI_ERR_OS, "%s: %s", syscall, text);
  lua_pushstring(L, other != NULL ? other : uv_err_name(code));
  lua_setfield(L, -2, "code");
  lua_pushinteger(L, -code);
  lua_setfield(L, -2, "errno");
  lua_pushstring(L, syscall);
  lua_setfield(L, -2, "syscall");
  if (name != NULL) {
    lua_pushstring(L, name);
    lua_setfield(L, -2, field);
  }
}

int peri__throw_os(lua_State *L, peri_runtime *rt, const char *syscall,
                   int code, const char *field, const char *name)
{
  if (code == UV_ENOMEM)
    return luaL_error(L, "not enough memory");
  peri__push_os(L, rt, syscall, code, NULL, field, name);
  return lua_error(L);
}

/* -- Time limits ------------------------------------------------------------------ */

static int finish(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  return lua_gettop(L) - (int)ctx;
}

int peri__limited(lua_State *L, int at, const char *name, lua_CFunction method)
{
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, at);
  peri__check_stack(L, 12);
  peri__require(L, "perilune.timeouts");
  lua_getfield(L, -1, "limited");
  lua_replace(L, at + 1);
  lua_pushstring(L, name);
  lua_pushinteger(L, at - 1);
  lua_pushvalue(L, at);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, method, 1);
  for (int i = 1; i < at; i++)
    lua_pushvalue(L, i);
  lua_callk(L, at + 3, LUA_MULTRET, at, finish);
  return finish(L, LUA_OK, at);
}

/* -- Loops ---------------------------------------------------------------------------- */

peri_loop *peri__io_loop(lua_State *L, peri_runtime *rt)
{
  peri_loop *loop = peri__running_loop(rt);
  if (loop == NULL)
    peri__throw(L, rt, PERI_ERR_RUNTIME, "no running event loop");
  peri__loop_check_open(L, rt, loop);
  peri__loop_uv(L, loop);
  if (loop->kernel->scratch == NULL) {
    loop->kernel->scratch = peri__realloc(rt, NULL, 0, PERI_SCRATCH);
    if (loop->kernel->scratch == NULL)
      luaL_error(L, "not enough memory");
  }
  return loop;
}

/* -- The module -------------------------------------------------------------------------- */

/* stream(fd): of a socket, a pipe or a terminal, which is the stream's then */
static int l_stream(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  int is_integer;
  lua_Integer fd = lua_tointegerx(L, 1, &is_integer);
  if (!is_integer || fd < 0 || fd > INT32_MAX)
    return peri__arg_error(L, rt, PERI_ERR_VALUE, 1, "not a descriptor");
  peri__stream_push_fd(L, peri__io_loop(L, rt), (int)fd);
  return 1;
}

/* malloc_in_use() -> bytes; nil where that cannot be told. For the soak. */
static int l_malloc_in_use(lua_State *L)
{
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
  struct mallinfo2 info = mallinfo2();
  lua_pushinteger(L, (lua_Integer)(info.uordblks + info.hblkhd));
#else
  lua_pushnil(L);
#endif
  return 1;
}

static const luaL_Reg functions[] = {
    {"stream", l_stream}, {"malloc_in_use", l_malloc_in_use}, {NULL, NULL}};

static void add(lua_State *L, peri_runtime *rt, const luaL_Reg *list)
{
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, list, 1);
}

int peri__net_open(lua_State *L)
{
  peri_runtime *rt = peri_of(L);
  if (rt == NULL)
    return luaL_error(L, "there is no runtime on this state");
  lua_newtable(L);
  add(L, rt, functions);
  add(L, rt, peri__connect_functions);
  add(L, rt, peri__dns_functions);
  add(L, rt, peri__udp_functions);
  peri__udp_open(L, rt);
  add(L, rt, peri__server_functions);
  peri__stream_open(L, rt);
  lua_setfield(L, -2, "Stream");
  peri__server_open(L, rt);
  lua_setfield(L, -2, "Server");
  return 1;
}
