/*
 * connect.c: connections that the script makes, to one address each. Which
 * addresses, and in what order, is perilune.net's business.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <sys/un.h>

#include "io/io.h"

typedef struct peri_connect {
  uv_connect_t request;
  peri_stream *stream;
} peri_connect;

/* -- TCP ---------------------------------------------------------------------- */

static void on_connected(uv_connect_t *request, int status)
{
  peri_connect *connect = (peri_connect *)request;
  peri_stream *stream = connect->stream;
  peri__realloc(stream->rt, connect, sizeof *connect, 0);
  if (status == 0) {
    peri__stream_connected(stream);
  } else {
    stream->flags |= PERI_S_LOST;
    stream->lost = status;
  }
  peri__waiters_wake(&stream->readers);
}

/* Returns the call that failed, or NULL. */
static const char *begin(peri_stream *stream, const peri_address *local,
                         int *code)
{
  uv_tcp_t *tcp = &stream->uv.tcp;
  uv_tcp_nodelay(tcp, 1); /* noted for when there is a socket */
  if (local->any.sa_family != AF_UNSPEC) {
    *code = uv_tcp_bind(tcp, &local->any, 0);
    if (*code < 0)
      return "bind";
  }
  peri_connect *connect = peri__realloc(stream->rt, NULL, 0, sizeof *connect);
  *code = UV_ENOMEM;
  if (connect == NULL)
    return "connect";
  connect->stream = stream;
  *code =
      uv_tcp_connect(&connect->request, tcp, &stream->peer.any, on_connected);
  if (*code == 0) {
    stream->flags |= PERI_S_CONNECTING;
    return NULL;
  }
  peri__realloc(stream->rt, connect, sizeof *connect, 0);
  return "connect";
}

static int connect_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  peri_stream *stream = ((peri_stream_box *)lua_touserdata(L, 1))->stream;
  peri__stream_unpark_reading(L, stream);
  stream->flags &= ~(uint32_t)PERI_S_CONNECTING;
  if (stream->flags & PERI_S_CLOSING)
    return peri__stream_throw(L, stream, "connect", UV_ECANCELED);
  if (stream->flags & PERI_S_LOST) {
    peri__stream_abort(stream);
    return peri__stream_throw(L, stream, "connect", stream->lost);
  }
  return 1;
}

static void check_address(lua_State *L, peri_runtime *rt, int arg,
                          peri_address *address)
{
  const char *host = peri__check_string(L, rt, arg, NULL);
  int port = (int)luaL_checkinteger(L, arg + 1);
  if (!peri__address_parse(address, host, port))
    peri__arg_error(L, rt, PERI_ERR_VALUE, arg, "not a numeric address");
}

static size_t check_limit(lua_State *L, int arg)
{
  return (size_t)luaL_optinteger(L, arg, PERI_DEFAULT_LIMIT);
}

/* connect_tcp(host, port, limit, [local host, local port]) -> stream */
static int l_connect_tcp(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_address peer, local = {.any.sa_family = AF_UNSPEC};
  check_address(L, rt, 1, &peer);
  size_t limit = check_limit(L, 3);
  if (!lua_isnoneornil(L, 4))
    check_address(L, rt, 4, &local);
  peri_loop *loop = peri__io_loop(L, rt);
  peri__wait_check(L, rt, "open_connection");
  lua_settop(L, 0);
  peri_stream_box *box = peri__stream_push_box(L, rt);
  peri_stream *stream = peri__stream_new(loop, PERI_STREAM_TCP);
  if (stream == NULL)
    return luaL_error(L, "not enough memory");
  peri__stream_box(box, stream);
  stream->limit = limit;
  stream->peer = peer;
  int code;
  const char *failed = begin(stream, &local, &code);
  if (failed == NULL)
    return peri__stream_park_reading(L, stream, "open_connection", 0,
                                     connect_k);
  peri__stream_abort(stream);
  if (strcmp(failed, "bind") == 0)
    stream->peer = local;
  return peri__stream_throw(L, stream, failed, code);
}

/* -- Unix sockets ------------------------------------------------------------------ */

bool peri__unix_address(struct sockaddr_un *address, socklen_t *size,
                        const char *path, size_t length)
{
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  if (length == 0 || length >= sizeof address->sun_path ||
      (*path != '\0' && memchr(path, '\0', length) != NULL))
    return false;
  memcpy(address->sun_path, path, length);
  /* The name of an abstract socket has no end but its length. */
  *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length +
                      (path[0] != '\0'));
  return true;
}

int peri__path_error(size_t length)
{
  struct sockaddr_un address;
  return length >= sizeof address.sun_path ? UV_ENAMETOOLONG : UV_EINVAL;
}

char *peri__copy_path(peri_runtime *rt, const char *path, size_t length)
{
  char *copy = peri__realloc(rt, NULL, 0, length + 1);
  if (copy == NULL)
    return NULL;
  /* Abstract sockets are written so. */
  for (size_t i = 0; i < length; i++)
    copy[i] = path[i] != '\0' ? path[i] : '@';
  copy[length] = '\0';
  return copy;
}

static int connect_unix(peri_stream *stream, const struct sockaddr_un *address,
                        socklen_t size)
{
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -errno;
  int code;
  do
    code = connect(fd, (const struct sockaddr *)address, size);
  while (code < 0 && errno == EINTR);
  code = code < 0 ? -errno : peri__stream_take(stream, fd);
  if (code < 0)
    close(fd);
  return code;
}

/* connect_unix(path, limit) -> stream; false: the server has no room for more
 * connections at the moment */
static int l_connect_unix(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  size_t length;
  const char *path = peri__check_string(L, rt, 1, &length);
  size_t limit = check_limit(L, 2);
  peri_loop *loop = peri__io_loop(L, rt);
  struct sockaddr_un address;
  socklen_t size;
  if (!peri__unix_address(&address, &size, path, length))
    return peri__throw_os(L, rt, "connect", peri__path_error(length), "path",
                          path);
  peri_stream_box *box = peri__stream_push_box(L, rt);
  peri_stream *stream = peri__stream_new(loop, PERI_STREAM_PIPE);
  if (stream == NULL)
    return luaL_error(L, "not enough memory");
  peri__stream_box(box, stream);
  stream->limit = limit;
  stream->path = peri__copy_path(rt, path, length);
  stream->flags |= PERI_S_HALF_CLOSES;
  int code =
      stream->path != NULL ? connect_unix(stream, &address, size) : UV_ENOMEM;
  if (code == 0)
    return 1;
  peri__stream_abort(stream);
  if (code != UV_EAGAIN)
    return peri__stream_throw(L, stream, "connect", code);
  lua_pushboolean(L, false);
  return 1;
}

/* family(host) -> "inet" or "inet6" of a numeric address, else nil */
static int l_family(lua_State *L)
{
  peri_address address;
  const char *host = peri__check_string(L, peri__rt(L), 1, NULL);
  if (!peri__address_parse(&address, host, 0))
    return 0;
  lua_pushstring(L, address.any.sa_family == AF_INET ? "inet" : "inet6");
  return 1;
}

const luaL_Reg peri__connect_functions[] = {{"family", l_family},
                                            {"connect_tcp", l_connect_tcp},
                                            {"connect_unix", l_connect_unix},
                                            {NULL, NULL}};
