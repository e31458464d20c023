/*
 * stream_lua.c: what scripts call on streams beside reading and writing.
 */
#include <errno.h>
#include <string.h>

#include <netinet/tcp.h>

#include "core/debug.h"
#include "io/io.h"

static peri_stream *boxed(lua_State *L)
{
  return ((peri_stream_box *)lua_touserdata(L, 1))->stream;
}

/* -- Closing -------------------------------------------------------------------- */

static int l_close(lua_State *L)
{
  peri__stream_close(peri__stream_check(L, 1));
  return 0;
}

static int l_abort(lua_State *L)
{
  peri__stream_abort(peri__stream_check(L, 1));
  return 0;
}

static int l_is_closing(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  lua_pushboolean(L, stream->flags & (PERI_S_CLOSING | PERI_S_LOST) ||
                         stream->output_lost != 0);
  return 1;
}

static int wait_closed(lua_State *L, peri_stream *stream);

static int wait_closed_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  peri_stream *stream = boxed(L);
  peri__stream_unpark(L, stream);
  return wait_closed(L, stream);
}

static int wait_closed(lua_State *L, peri_stream *stream)
{
  if (!(stream->flags & PERI_S_CLOSED))
    return peri__stream_park(L, stream, &stream->closers, 0, wait_closed_k);
  if (stream->flags & PERI_S_LOST)
    return peri__stream_throw(L, stream, "read", stream->lost);
  if (stream->output_lost != 0)
    return peri__stream_throw(L, stream, "write", stream->output_lost);
  return 0;
}

/* wait_closed([options]) */
static int l_wait_closed(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  if (!lua_isnoneornil(L, 2))
    return peri__limited(L, 2, "Stream.wait_closed", l_wait_closed);
  lua_settop(L, 1);
  return wait_closed(L, stream);
}

static int scope_end_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  peri_stream *stream = boxed(L);
  peri__stream_unpark(L, stream);
  if (stream->output_lost != 0)
    return peri__stream_throw(L, stream, "write", stream->output_lost);
  return 0;
}

/* The end of a block that ends well waits until the output has gone, and says
 * so if it was lost. Where an error passes by, or no wait is possible, it goes
 * by itself. */
static int l_scope_end(lua_State *L)
{
  peri_stream *stream = boxed(L);
  if (stream == NULL)
    return 0;
  peri__stream_close(stream);
  if (!lua_isnil(L, 2) || stream->flags & PERI_S_CLOSED ||
      !peri__can_wait(L, stream->rt))
    return 0;
  lua_settop(L, 1);
  return peri__stream_park(L, stream, &stream->closers, 0, scope_end_k);
}

static int l_gc(lua_State *L)
{
  peri_stream_box *box = lua_touserdata(L, 1);
  peri_stream *stream = box->stream;
  if (stream == NULL)
    return 0;
  if (!(stream->flags & PERI_S_CLOSING)) {
    if (stream->io.loop->debug)
      peri__debug_unclosed(L, stream->rt, 1, "unclosed %s");
    peri__stream_close(stream);
  }
  box->mark = NULL;
  box->stream = NULL;
  peri__stream_unref(stream);
  return 0;
}

/* -- Addresses --------------------------------------------------------------------- */

static void check_open(lua_State *L, peri_stream *stream, const char *syscall)
{
  if (stream->flags & PERI_S_CLOSED)
    peri__stream_throw(L, stream, syscall, UV_EBADF);
}

typedef int (*name_function)(int, struct sockaddr *, socklen_t *);

/* The path of a Unix socket, "" if it has none; nil: it is no socket. */
static int push_unix_name(lua_State *L, peri_stream *stream,
                          name_function function)
{
  struct {
    sa_family_t family;
    char path[128];
  } name;
  socklen_t size = sizeof name;
  if (function(stream->fd, (struct sockaddr *)&name, &size) < 0) {
    if (errno != ENOTSOCK)
      return peri__stream_throw(L, stream, "getsockname", -errno);
    lua_pushnil(L);
    return 1;
  }
  size_t length = size > offsetof(struct sockaddr, sa_data)
                      ? size - sizeof(sa_family_t)
                      : 0;
  if (length > 0 && name.path[0] != '\0')
    length = strnlen(name.path, length);
  lua_pushlstring(L, name.path, length);
  return 1;
}

/* getsockname() -> host, port; of a Unix socket the path */
static int l_getsockname(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  check_open(L, stream, "getsockname");
  if (stream->kind != PERI_STREAM_TCP)
    return push_unix_name(L, stream, getsockname);
  peri_address address;
  socklen_t size = sizeof address;
  if (getsockname(stream->fd, &address.any, &size) < 0)
    return peri__stream_throw(L, stream, "getsockname", -errno);
  return peri__address_push(L, &address);
}

/* getpeername() -> host, port; of a Unix socket the path */
static int l_getpeername(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  if (stream->peer.any.sa_family != AF_UNSPEC)
    return peri__address_push(L, &stream->peer);
  check_open(L, stream, "getpeername");
  if (stream->kind != PERI_STREAM_TCP)
    return push_unix_name(L, stream, getpeername);
  return peri__stream_throw(L, stream, "getpeername", UV_ENOTCONN);
}

static int l_fileno(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  if (stream->flags & PERI_S_CLOSED)
    lua_pushnil(L);
  else
    lua_pushinteger(L, stream->fd);
  return 1;
}

/* -- Options ------------------------------------------------------------------------- */

static peri_stream *check_tcp(lua_State *L, const char *syscall)
{
  peri_stream *stream = peri__stream_check(L, 1);
  check_open(L, stream, syscall);
  if (stream->kind != PERI_STREAM_TCP)
    peri__stream_throw(L, stream, syscall, UV_ENOTSUP);
  return stream;
}

static int set_option(lua_State *L, peri_stream *stream, int level, int name,
                      const void *value, size_t size)
{
  if (setsockopt(stream->fd, level, name, value, (socklen_t)size) < 0)
    return peri__stream_throw(L, stream, "setsockopt", -errno);
  return 0;
}

/* set_nodelay([on]) */
static int l_set_nodelay(lua_State *L)
{
  peri_stream *stream = check_tcp(L, "set_nodelay");
  int on = lua_isnone(L, 2) || lua_toboolean(L, 2);
  return set_option(L, stream, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* A number of seconds of at least 1. */
static int check_seconds(lua_State *L, int idx)
{
  lua_Number seconds = peri__check_number(L, peri__rt(L), idx);
  if (!(seconds >= 0 && seconds <= 32767))
    peri__arg_error(L, peri__rt(L), PERI_ERR_VALUE, idx,
                    "0 to 32767 seconds are possible");
  return seconds < 1 ? 1 : (int)seconds;
}

/* set_keepalive([on or seconds of idleness before the first probe]) */
static int l_set_keepalive(lua_State *L)
{
  peri_stream *stream = check_tcp(L, "set_keepalive");
  int on = lua_isnone(L, 2) || lua_toboolean(L, 2);
  if (lua_type(L, 2) == LUA_TNUMBER) {
    int idle = check_seconds(L, 2);
    set_option(L, stream, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  }
  return set_option(L, stream, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

/* set_linger([seconds]): nil: none */
static int l_set_linger(lua_State *L)
{
  peri_stream *stream = check_tcp(L, "set_linger");
  struct linger linger = {0, 0};
  if (!lua_isnoneornil(L, 2)) {
    linger.l_onoff = 1;
    linger.l_linger = lua_tonumber(L, 2) == 0 ? 0 : check_seconds(L, 2);
  }
  return set_option(L, stream, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

/* set_close_timeout([seconds]): nil: none */
static int l_set_close_timeout(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  lua_Number seconds =
      lua_isnoneornil(L, 2) ? 0 : peri__check_number(L, stream->rt, 2);
  if (!(seconds >= 0 && seconds <= 4000000))
    return peri__arg_error(L, stream->rt, PERI_ERR_VALUE, 2,
                           "not a number of seconds");
  stream->close_timeout = (uint32_t)(seconds * 1000);
  if (seconds > 0 && stream->close_timeout == 0)
    stream->close_timeout = 1;
  return 0;
}

static int set_buffer_size(lua_State *L, int option)
{
  peri_stream *stream = peri__stream_check(L, 1);
  check_open(L, stream, "setsockopt");
  int is_integer;
  lua_Integer size = lua_tointegerx(L, 2, &is_integer);
  if (!is_integer || size < 1 || size > INT32_MAX)
    return peri__arg_error(L, stream->rt, PERI_ERR_VALUE, 2,
                           "not a number of bytes");
  int value = (int)size;
  return set_option(L, stream, SOL_SOCKET, option, &value, sizeof value);
}

/* set_send_buffer_size(bytes), set_receive_buffer_size(bytes): the kernel's */
static int l_set_send_buffer_size(lua_State *L)
{
  return set_buffer_size(L, SO_SNDBUF);
}

static int l_set_receive_buffer_size(lua_State *L)
{
  return set_buffer_size(L, SO_RCVBUF);
}

static int l_tostring(lua_State *L)
{
  peri_stream *stream = boxed(L);
  if (stream == NULL) {
    lua_pushliteral(L, "<Stream, closed>");
    return 1;
  }
  const char *state = stream->flags & PERI_S_CLOSED    ? ", closed"
                      : stream->flags & PERI_S_CLOSING ? ", closing"
                                                       : "";
  lua_pushfstring(L, "<Stream %s%s>", peri__stream_push_name(L, stream), state);
  return 1;
}

static const luaL_Reg meta[] = {{"__gc", l_gc},
                                {"__close", l_scope_end},
                                {"__tostring", l_tostring},
                                {NULL, NULL}};

static const luaL_Reg methods[] = {
    {"close", l_close},
    {"abort", l_abort},
    {"is_closing", l_is_closing},
    {"wait_closed", l_wait_closed},
    {"getsockname", l_getsockname},
    {"getpeername", l_getpeername},
    {"fileno", l_fileno},
    {"set_nodelay", l_set_nodelay},
    {"set_keepalive", l_set_keepalive},
    {"set_linger", l_set_linger},
    {"set_close_timeout", l_set_close_timeout},
    {"set_send_buffer_size", l_set_send_buffer_size},
    {"set_receive_buffer_size", l_set_receive_buffer_size},
    {NULL, NULL}};

/* Leaves the table of methods on the stack. */
void peri__stream_open(lua_State *L, peri_runtime *rt)
{
  peri__metatable(L, rt, PERI_REF_STREAM, "Stream", meta, methods);
  lua_getfield(L, -1, "methods");
  lua_replace(L, -2);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, peri__stream_read_methods, 1);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, peri__stream_write_methods, 1);
}
