/*
 * udp_lua.c: datagram sockets as scripts have them (perilune.datagrams).
 */
#include <errno.h>
#include <string.h>

#include "core/debug.h"
#include "io/udp.h"

static const char metatable_key = 'u';

enum { UV_SENTRY = 1, UV_LOOP = 2 };

peri_udp *peri__udp_check(lua_State *L)
{
  if (lua_type(L, 1) == LUA_TUSERDATA && lua_getmetatable(L, 1)) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &metatable_key);
    bool is = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    peri_udp **box = lua_touserdata(L, 1);
    if (is && *box != NULL)
      return *box;
  }
  peri__arg_type_error(L, peri__rt(L), 1, "DatagramSocket");
  return NULL;
}

int peri__udp_throw(lua_State *L, peri_udp *udp, const char *syscall, int code,
                    const peri_address *address)
{
  char text[PERI_ADDRESS_TEXT];
  bool known = address != NULL && address->any.sa_family != AF_UNSPEC;
  return peri__throw_os(L, udp->rt, syscall, code, "address",
                        known ? peri__address_text(address, text) : NULL);
}

static peri_udp *check_open(lua_State *L, const char *syscall)
{
  peri_udp *udp = peri__udp_check(L);
  if (udp->closed)
    peri__udp_throw(L, udp, syscall, UV_EBADF, NULL);
  return udp;
}

/* A numeric address at arg and a port behind it. */
static void check_address(lua_State *L, int arg, peri_address *address)
{
  peri_runtime *rt = peri__rt(L);
  size_t length;
  const char *host = peri__check_string(L, rt, arg, &length);
  int is_integer;
  lua_Integer port = lua_tointegerx(L, arg + 1, &is_integer);
  if (!is_integer)
    peri__arg_type_error(L, rt, arg + 1, "integer");
  if (port < 0 || port > 65535)
    peri__arg_error(L, rt, PERI_ERR_VALUE, arg + 1, "no port (0 to 65535)");
  if (strlen(host) != length || !peri__address_parse(address, host, (int)port))
    peri__arg_error(L, rt, PERI_ERR_VALUE, arg,
                    "not an IP address: net.getaddrinfo finds it");
}

/* -- Sending and receiving --------------------------------------------------------- */

/* send(data, [host, port], [options]) */
static int l_send(lua_State *L)
{
  peri_udp *udp = peri__udp_check(L);
  int top = lua_gettop(L);
  if (top >= 3 && peri__is_options(L, top))
    return peri__limited(L, top, "DatagramSocket.send", l_send);
  if (lua_isnoneornil(L, 3))
    return peri__udp_send(L, udp, NULL);
  peri_address to;
  check_address(L, 3, &to);
  return peri__udp_send(L, udp, &to);
}

/* recv([options]) -> data, host, port */
static int l_recv(lua_State *L)
{
  peri_udp *udp = peri__udp_check(L);
  if (!lua_isnoneornil(L, 2))
    return peri__limited(L, 2, "DatagramSocket.recv", l_recv);
  lua_settop(L, 1);
  return peri__udp_recv(L, udp, false);
}

/* for data, host, port in socket do */
static int l_call(lua_State *L)
{
  peri_udp *udp = peri__udp_check(L);
  lua_settop(L, 1);
  return peri__udp_recv(L, udp, true);
}

/* -- Addresses ------------------------------------------------------------------------ */

/* connect(host, port); connect(nil): not any more */
static int l_connect(lua_State *L)
{
  peri_udp *udp = check_open(L, "connect");
  peri_address peer = {.any.sa_family = AF_UNSPEC};
  int code = 0;
  if (!lua_isnoneornil(L, 2))
    check_address(L, 2, &peer);
  if (udp->peer.any.sa_family != AF_UNSPEC) /* libuv's order */
    code = uv_udp_connect(&udp->handle, NULL);
  udp->peer.any.sa_family = AF_UNSPEC;
  if (code == 0 && peer.any.sa_family != AF_UNSPEC)
    code = uv_udp_connect(&udp->handle, &peer.any);
  if (code < 0)
    return peri__udp_throw(L, udp, "connect", code, &peer);
  udp->peer = peer;
  return 0;
}

static int l_getsockname(lua_State *L)
{
  peri_udp *udp = check_open(L, "getsockname");
  peri_address address;
  int size = sizeof address;
  int code = uv_udp_getsockname(&udp->handle, &address.any, &size);
  if (code < 0)
    return peri__udp_throw(L, udp, "getsockname", code, NULL);
  return peri__address_push(L, &address);
}

static int l_getpeername(lua_State *L)
{
  peri_udp *udp = check_open(L, "getpeername");
  if (udp->peer.any.sa_family == AF_UNSPEC)
    return peri__udp_throw(L, udp, "getpeername", UV_ENOTCONN, NULL);
  return peri__address_push(L, &udp->peer);
}

static int l_fileno(lua_State *L)
{
  peri_udp *udp = check_open(L, "fileno");
  uv_os_fd_t fd;
  int code = uv_fileno((uv_handle_t *)&udp->handle, &fd);
  if (code < 0)
    return peri__udp_throw(L, udp, "fileno", code, NULL);
  lua_pushinteger(L, fd);
  return 1;
}

/* -- Options ----------------------------------------------------------------------------- */

static int done(lua_State *L, peri_udp *udp, const char *call, int code)
{
  return code < 0 ? peri__udp_throw(L, udp, call, code, NULL) : 0;
}

static int l_set_broadcast(lua_State *L)
{
  peri_udp *udp = check_open(L, "set_broadcast");
  int on = lua_isnone(L, 2) || lua_toboolean(L, 2);
  return done(L, udp, "set_broadcast", uv_udp_set_broadcast(&udp->handle, on));
}

static int l_set_multicast_loopback(lua_State *L)
{
  peri_udp *udp = check_open(L, "set_multicast_loopback");
  int on = lua_isnone(L, 2) || lua_toboolean(L, 2);
  return done(L, udp, "set_multicast_loopback",
              uv_udp_set_multicast_loop(&udp->handle, on));
}

static int check_ttl(lua_State *L)
{
  int is_integer;
  lua_Integer ttl = lua_tointegerx(L, 2, &is_integer);
  if (!is_integer)
    peri__arg_type_error(L, peri__rt(L), 2, "integer");
  if (ttl < 1 || ttl > 255)
    peri__arg_error(L, peri__rt(L), PERI_ERR_VALUE, 2, "no number of 1 to 255");
  return (int)ttl;
}

static int l_set_ttl(lua_State *L)
{
  peri_udp *udp = check_open(L, "set_ttl");
  return done(L, udp, "set_ttl", uv_udp_set_ttl(&udp->handle, check_ttl(L)));
}

static int l_set_multicast_ttl(lua_State *L)
{
  peri_udp *udp = check_open(L, "set_multicast_ttl");
  return done(L, udp, "set_multicast_ttl",
              uv_udp_set_multicast_ttl(&udp->handle, check_ttl(L)));
}

static int l_set_multicast_interface(lua_State *L)
{
  peri_udp *udp = check_open(L, "set_multicast_interface");
  const char *name =
      lua_isnil(L, 2) ? NULL : peri__check_string(L, udp->rt, 2, NULL);
  return done(L, udp, "set_multicast_interface",
              uv_udp_set_multicast_interface(&udp->handle, name));
}

static int membership(lua_State *L, uv_membership what, const char *call)
{
  peri_udp *udp = check_open(L, call);
  const char *group = peri__check_string(L, udp->rt, 2, NULL);
  const char *interface =
      lua_isnoneornil(L, 3) ? NULL : peri__check_string(L, udp->rt, 3, NULL);
  int code = uv_udp_set_membership(&udp->handle, group, interface, what);
  if (code < 0)
    return peri__throw_os(L, udp->rt, call, code, "address", group);
  return 0;
}

/* join_multicast(group, [interface]) */
static int l_join_multicast(lua_State *L)
{
  return membership(L, UV_JOIN_GROUP, "join_multicast");
}

static int l_leave_multicast(lua_State *L)
{
  return membership(L, UV_LEAVE_GROUP, "leave_multicast");
}

/* A size of 0 asks. */
static int buffer_size(lua_State *L, const char *call,
                       int (*function)(uv_handle_t *, int *))
{
  peri_udp *udp = check_open(L, call);
  int is_integer;
  lua_Integer size = lua_tointegerx(L, 2, &is_integer);
  if (!is_integer || size < 1 || size > INT32_MAX)
    return peri__arg_error(L, udp->rt, PERI_ERR_VALUE, 2,
                           "not a number of bytes");
  int value = (int)size;
  return done(L, udp, call, function((uv_handle_t *)&udp->handle, &value));
}

static int l_set_send_buffer_size(lua_State *L)
{
  return buffer_size(L, "set_send_buffer_size", uv_send_buffer_size);
}

static int l_set_receive_buffer_size(lua_State *L)
{
  return buffer_size(L, "set_receive_buffer_size", uv_recv_buffer_size);
}

/* -- The object --------------------------------------------------------------------------- */

static int l_close(lua_State *L)
{
  peri__udp_close(peri__udp_check(L));
  lua_getiuservalue(L, 1, UV_SENTRY);
  peri__debug_release(L, -1);
  return 0;
}

static int l_is_closing(lua_State *L)
{
  lua_pushboolean(L, peri__udp_check(L)->closed);
  return 1;
}

static int l_gc(lua_State *L)
{
  peri_udp **box = lua_touserdata(L, 1);
  if (*box == NULL)
    return 0;
  peri__udp_close(*box);
  peri__udp_unref(*box);
  *box = NULL;
  return 0;
}

static int l_tostring(lua_State *L)
{
  peri_udp *udp = peri__udp_check(L);
  peri_address address;
  int size = sizeof address;
  char text[PERI_ADDRESS_TEXT] = "";
  if (udp->closed ||
      uv_udp_getsockname(&udp->handle, &address.any, &size) < 0) {
    lua_pushliteral(L, "<DatagramSocket, closed>");
    return 1;
  }
  lua_pushfstring(L, "<DatagramSocket %s>", peri__address_text(&address, text));
  return 1;
}

/* .dropped; else a method */
static int l_index(lua_State *L)
{
  peri_udp *udp = peri__udp_check(L);
  const char *name = lua_tostring(L, 2);
  if (name != NULL && strcmp(name, "dropped") == 0)
    lua_pushinteger(L, udp->dropped);
  else
    lua_gettable(L, lua_upvalueindex(2));
  return 1;
}

static int set_option(peri_udp *udp, int level, int option)
{
  uv_os_fd_t fd;
  int on = 1, code = uv_fileno((uv_handle_t *)&udp->handle, &fd);
  if (code < 0)
    return code;
  return setsockopt(fd, level, option, &on, sizeof on) < 0
             ? uv_translate_sys_error(errno)
             : 0;
}

/* What the letters ask for: b broadcast, p and a port and address are shared. */
static int set_options(peri_udp *udp, const char *letters)
{
  int code = 0;
  if (strchr(letters, 'p') != NULL)
    code = set_option(udp, SOL_SOCKET, SO_REUSEPORT);
  if (code == 0 && strchr(letters, 'a') != NULL)
    code = set_option(udp, SOL_SOCKET, SO_REUSEADDR);
  if (code == 0 && strchr(letters, 'b') != NULL)
    code = set_option(udp, SOL_SOCKET, SO_BROADCAST);
  return code;
}

static peri_udp *push_socket(lua_State *L, peri_runtime *rt, size_t limit)
{
  peri_loop *loop = peri__io_loop(L, rt);
  peri_udp **box = lua_newuserdatauv(L, sizeof *box, 2);
  *box = NULL;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &metatable_key);
  lua_setmetatable(L, -2);
  peri__push_loop(L, loop);
  lua_setiuservalue(L, -2, UV_LOOP);
  *box = peri__udp_new(loop, limit);
  if (*box == NULL)
    luaL_error(L, "not enough memory");
  return *box;
}

static int failed(lua_State *L, peri_udp *udp, const char *call, int code,
                  const peri_address *address)
{
  peri__udp_close(udp);
  return peri__udp_throw(L, udp, call, code, address);
}

/* datagram(local host, local port, remote host or nil, remote port, limit,
 * letters) -> socket */
static int l_datagram(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_address local, remote = {.any.sa_family = AF_UNSPEC};
  check_address(L, 1, &local);
  if (!lua_isnil(L, 3))
    check_address(L, 3, &remote);
  size_t limit = (size_t)luaL_checkinteger(L, 5);
  const char *letters = luaL_checkstring(L, 6);
  peri_udp *udp = push_socket(L, rt, limit);
  int code = peri__udp_init(udp, local.any.sa_family);
  if (code < 0)
    return failed(L, udp, "socket", code, &local);
  code = set_options(udp, letters);
  if (code < 0)
    return failed(L, udp, "setsockopt", code, &local);
  code = uv_udp_bind(&udp->handle, &local.any, 0);
  if (code < 0)
    return failed(L, udp, "bind", code, &local);
  if (remote.any.sa_family != AF_UNSPEC)
    code = uv_udp_connect(&udp->handle, &remote.any);
  if (code < 0)
    return failed(L, udp, "connect", code, &remote);
  udp->peer = remote;
  code = peri__udp_start(udp);
  if (code < 0)
    return failed(L, udp, "recv", code, &local);
  peri__debug_watch(L, rt, "datagram socket");
  lua_setiuservalue(L, -2, UV_SENTRY);
  return 1;
}

static const luaL_Reg methods[] = {
    {"send", l_send},
    {"recv", l_recv},
    {"connect", l_connect},
    {"close", l_close},
    {"is_closing", l_is_closing},
    {"getsockname", l_getsockname},
    {"getpeername", l_getpeername},
    {"fileno", l_fileno},
    {"set_broadcast", l_set_broadcast},
    {"set_ttl", l_set_ttl},
    {"set_multicast_loopback", l_set_multicast_loopback},
    {"set_multicast_ttl", l_set_multicast_ttl},
    {"set_multicast_interface", l_set_multicast_interface},
    {"join_multicast", l_join_multicast},
    {"leave_multicast", l_leave_multicast},
    {"set_send_buffer_size", l_set_send_buffer_size},
    {"set_receive_buffer_size", l_set_receive_buffer_size},
    {NULL, NULL}};

static const luaL_Reg meta[] = {{"__gc", l_gc},
                                {"__close", l_close},
                                {"__call", l_call},
                                {"__tostring", l_tostring},
                                {NULL, NULL}};

const luaL_Reg peri__udp_functions[] = {{"datagram", l_datagram}, {NULL, NULL}};

void peri__udp_open(lua_State *L, peri_runtime *rt)
{
  lua_createtable(L, 0, 8);
  lua_pushliteral(L, "DatagramSocket");
  lua_setfield(L, -2, "__name");
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, meta, 1);
  lua_pushlightuserdata(L, rt);
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, methods, 1);
  lua_pushvalue(L, -1);
  lua_setfield(L, -4, "methods");
  lua_pushcclosure(L, l_index, 2);
  lua_setfield(L, -2, "__index");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &metatable_key);
}
