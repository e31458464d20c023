/*
 * server.c: listening sockets, and the connections that come in.
 *
 * The sockets are our own and libuv polls them: so several connections are
 * taken at a time, and running out of descriptors is ours to deal with (libuv
 * would take what waits and close it). The server then leaves the others in the
 * kernel's queue until one of its connections has ended, or for a second.
 *
 * A connection becomes a stream in libuv's callback, and gets its task in the
 * ready queue's turn (server_lua.c).
 *
 * Accepted sockets inherit TCP_NODELAY from the listening one: no call for it.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <netinet/tcp.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "io/server.h"

enum { MOST_AT_ONCE = 64, RETRY_AFTER = 1000, CLOSE_TIMEOUT = 60000 };

/* -- Making and freeing ------------------------------------------------------- */

static void close_with_loop(peri_io *io)
{
  peri__server_close((peri_server *)io);
}

static void give_up_closing(lua_State *L, peri_runtime *rt, peri_waiters *line,
                            int idx, bool woken)
{
  (void)L, (void)rt, (void)idx, (void)woken;
  peri__server_unref(
      (peri_server *)((char *)line - offsetof(peri_server, closers)));
}

peri_server *peri__server_new(peri_loop *loop)
{
  peri_server *server = peri__realloc(loop->rt, NULL, 0, sizeof *server);
  if (server == NULL)
    return NULL;
  memset(server, 0, sizeof *server);
  server->io.loop = loop;
  server->io.close = close_with_loop;
  server->node.node.kind = PERI_NODE_IO;
  server->node.run = peri__server_run;
  server->rt = loop->rt;
  server->kernel = loop->kernel;
  server->references = 1;
  server->anchor = LUA_NOREF;
  server->limit = PERI_DEFAULT_LIMIT;
  server->most = SIZE_MAX;
  peri__list_init(&server->accepted);
  peri__list_init(&server->clients);
  peri__waiters_init(&server->closers, "Server.wait_closed", give_up_closing);
  peri__list_push(&loop->open, &server->io.listed);
  return server;
}

static void free_path(peri_server *server, char *path)
{
  if (path != NULL)
    peri__realloc(server->rt, path, strlen(path) + 1, 0);
}

void peri__server_unref(peri_server *server)
{
  if (--server->references > 0)
    return;
  free_path(server, server->path);
  free_path(server, server->file);
  peri__realloc(server->rt, server, sizeof *server, 0);
}

static void announce(peri_server *server)
{
  if (!peri__node_listed(&server->node.node) && !server->closed)
    peri__loop_ready(server->io.loop, &server->node.node);
}

/* -- Accepting -------------------------------------------------------------------- */

static void on_connection(uv_poll_t *poll, int status, int events);

static void set_polling(peri_server *server)
{
  bool polls = server->serving && !server->full && !server->starved;
  peri_listener *listener = server->listeners;
  for (; listener != NULL; listener = listener->next) {
    if (polls == (uv_is_active((uv_handle_t *)&listener->poll) != 0))
      continue;
    if (polls)
      uv_poll_start(&listener->poll, UV_READABLE, on_connection);
    else
      uv_poll_stop(&listener->poll);
  }
}

static void on_retry(uv_timer_t *timer)
{
  peri_server *server = timer->data;
  server->starved = false;
  set_polling(server);
}

/* It is told once a second: connections that end may have the server try and fail
 * far more often. */
static void starve(peri_server *server, int code)
{
  uint64_t now = uv_now(server->kernel->uv);
  server->starved = true;
  if (!server->told || now - server->told_at >= RETRY_AFTER) {
    server->told = true;
    server->told_at = now;
    server->trouble = code;
    announce(server);
  }
  uv_timer_start(&server->retry, on_retry, RETRY_AFTER, 0);
}

/* Whether it is the problem of one connection, which has gone before it was
 * accepted, or was forbidden, and not the server's (accept(2)). */
static bool concerns_connection(int code)
{
  static const int codes[] = {UV_ECONNABORTED, UV_EINTR,       UV_EPERM,
                              UV_EPROTO,       UV_ENETDOWN,    UV_ENOPROTOOPT,
                              UV_EHOSTDOWN,    UV_ENETUNREACH, UV_EHOSTUNREACH,
                              UV_ETIMEDOUT};
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
    if (codes[i] == code)
      return true;
  return false;
}

static int make_stream(peri_listener *listener, int fd,
                       const peri_address *peer)
{
  peri_server *server = listener->server;
  bool tcp = listener->address.any.sa_family != AF_UNSPEC;
  peri_stream *stream = peri__stream_new(
      server->io.loop, tcp ? PERI_STREAM_TCP : PERI_STREAM_PIPE);
  if (stream == NULL)
    return UV_ENOMEM;
  int code = 0;
  if (!tcp) { /* the client hardly ever has a name */
    stream->path =
        peri__copy_path(server->rt, server->path, strlen(server->path));
    code = stream->path != NULL ? 0 : UV_ENOMEM;
  }
  if (code == 0)
    code = peri__stream_take(stream, fd);
  if (code < 0) {
    peri__stream_abort(stream);
    return code;
  }
  /* What the client has to say may have come already. */
  stream->flags |= PERI_S_HALF_CLOSES | PERI_S_READY;
  stream->limit = server->limit;
  stream->close_timeout = CLOSE_TIMEOUT;
  if (tcp)
    stream->peer = *peer;
  stream->server = server;
  server->references++;
  server->active++;
  peri__list_push(&server->accepted, &stream->client);
  return 0;
}

/* One connection; UV_EAGAIN: none waits. */
static int accept_one(peri_listener *listener)
{
  union {
    peri_address address;
    struct sockaddr_un path;
  } peer;
  socklen_t size = sizeof peer;
  int fd = accept4(listener->fd, &peer.address.any, &size,
                   SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0)
    return -errno;
  int code = make_stream(listener, fd, &peer.address);
  if (code < 0)
    close(fd);
  return code;
}

static void on_connection(uv_poll_t *poll, int status, int events)
{
  (void)status, (void)events; /* an error: accept tells which */
  peri_listener *listener = poll->data;
  peri_server *server = listener->server;
  for (int i = 0; i < MOST_AT_ONCE && server->active < server->most; i++) {
    int code = accept_one(listener);
    if (code == UV_EAGAIN)
      break;
    if (code < 0 && !concerns_connection(code)) {
      starve(server, code);
      break;
    }
  }
  server->full = server->active >= server->most;
  if (server->full || server->starved)
    set_polling(server);
  if (!peri__list_empty(&server->accepted))
    announce(server);
}

static void wake_closers(peri_server *server)
{
  if (!server->closed || server->active > 0)
    return;
  while (peri__waiters_wake(&server->closers))
    continue;
}

void peri__server_detach(peri_stream *stream)
{
  peri_server *server = stream->server;
  stream->server = NULL;
  peri__node_unlink(&stream->client);
  server->active--;
  if (server->starved && server->serving) { /* a descriptor has come free */
    uv_timer_stop(&server->retry);
    server->starved = false;
    set_polling(server);
  }
  if (server->full) {
    server->full = false;
    set_polling(server);
  }
  wake_closers(server);
  peri__server_unref(server);
}

/* -- Binding and listening ------------------------------------------------------------ */

static int add_listener(peri_server *server, int fd,
                        const peri_address *address)
{
  peri_listener *listener =
      peri__realloc(server->rt, NULL, 0, sizeof *listener);
  if (listener == NULL)
    return UV_ENOMEM;
  memset(listener, 0, sizeof *listener);
  int code = uv_poll_init(server->kernel->uv, &listener->poll, fd);
  if (code < 0) {
    peri__realloc(server->rt, listener, sizeof *listener, 0);
    return code;
  }
  listener->poll.data = listener;
  listener->server = server;
  listener->fd = fd;
  listener->address = *address;
  server->references++;
  server->kernel->open++;
  peri_listener **last = &server->listeners;
  while (*last != NULL)
    last = &(*last)->next;
  *last = listener;
  return 0;
}

static int set_on(int fd, int level, int option)
{
  int on = 1;
  return setsockopt(fd, level, option, &on, sizeof on) < 0 ? -errno : 0;
}

static int prepare(int fd, const peri_address *address, bool reuse_port,
                   const char **failed)
{
  *failed = "setsockopt";
  int code = set_on(fd, SOL_SOCKET, SO_REUSEADDR);
  if (code == 0 && reuse_port)
    code = set_on(fd, SOL_SOCKET, SO_REUSEPORT);
  if (code == 0 && address->any.sa_family == AF_INET6)
    code = set_on(fd, IPPROTO_IPV6, IPV6_V6ONLY);
  if (code == 0)
    code = set_on(fd, IPPROTO_TCP, TCP_NODELAY);
  if (code < 0)
    return code;
  *failed = "bind";
  return bind(fd, &address->any, peri__address_size(address)) < 0 ? -errno : 0;
}

static int open_socket(int family, const char **failed)
{
  *failed = "socket";
  int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  return fd < 0 ? -errno : fd;
}

int peri__server_bind(peri_server *server, const peri_address *address,
                      bool reuse_port, const char **failed)
{
  int fd = open_socket(address->any.sa_family, failed);
  if (fd < 0)
    return fd;
  int code = prepare(fd, address, reuse_port, failed);
  if (code == 0) {
    peri_address bound; /* with the port that was given for 0 */
    socklen_t size = sizeof bound;
    *failed = "getsockname";
    code = getsockname(fd, &bound.any, &size) < 0
               ? -errno
               : add_listener(server, fd, &bound);
  }
  if (code < 0)
    close(fd);
  return code;
}

/* A socket that nobody listens on any more, as far as one can see, makes room:
 * as asyncio has it, one that somebody listens on does, too. */
static void remove_stale(const char *path)
{
  struct stat status;
  if (stat(path, &status) == 0 && S_ISSOCK(status.st_mode))
    unlink(path);
}

static int bind_path(peri_server *server, int fd, const char *path,
                     size_t length, const char **failed)
{
  struct sockaddr_un address;
  socklen_t size;
  *failed = "bind";
  if (!peri__unix_address(&address, &size, path, length))
    return peri__path_error(length);
  if (*path != '\0')
    remove_stale(path);
  if (bind(fd, (struct sockaddr *)&address, size) < 0)
    return -errno;
  struct stat status;
  if (*path == '\0' || stat(path, &status) < 0)
    return 0;
  server->file = peri__copy_path(server->rt, path, length);
  if (server->file == NULL) {
    unlink(path);
    return UV_ENOMEM;
  }
  server->file_device = status.st_dev;
  server->file_number = status.st_ino;
  return 0;
}

int peri__server_bind_path(peri_server *server, const char *path, size_t length,
                           const char **failed)
{
  const peri_address none = {.any.sa_family = AF_UNSPEC};
  server->path = peri__copy_path(server->rt, path, length);
  if (server->path == NULL)
    return UV_ENOMEM;
  int fd = open_socket(AF_UNIX, failed);
  if (fd < 0)
    return fd;
  int code = bind_path(server, fd, path, length, failed);
  if (code == 0) {
    *failed = "poll";
    code = add_listener(server, fd, &none);
  }
  if (code < 0)
    close(fd);
  return code;
}

int peri__server_listen(peri_server *server)
{
  peri_listener *listener = server->listeners;
  for (; listener != NULL; listener = listener->next)
    if (listen(listener->fd, server->backlog) < 0)
      return -errno;
  if (!server->has_timer) {
    uv_timer_init(server->kernel->uv, &server->retry);
    server->retry.data = server;
    server->has_timer = true;
    server->references++;
    server->kernel->open++;
  }
  server->serving = true;
  set_polling(server);
  return 0;
}

/* -- Closing ----------------------------------------------------------------------------- */

static void on_listener_closed(uv_handle_t *handle)
{
  peri_listener *listener = handle->data;
  peri_server *server = listener->server;
  server->kernel->open--;
  peri__realloc(server->rt, listener, sizeof *listener, 0);
  peri__server_unref(server);
}

static void on_timer_closed(uv_handle_t *handle)
{
  peri_server *server = handle->data;
  server->kernel->open--;
  peri__server_unref(server);
}

static void close_listeners(peri_server *server)
{
  peri_listener *listener = server->listeners;
  server->listeners = NULL;
  while (listener != NULL) {
    peri_listener *next = listener->next;
    uv_close((uv_handle_t *)&listener->poll, on_listener_closed);
    close(listener->fd);
    listener = next;
  }
}

/* Only if it is still the one that was made. */
static void remove_file(peri_server *server)
{
  struct stat status;
  if (server->file == NULL || stat(server->file, &status) < 0)
    return;
  if (status.st_dev == server->file_device &&
      status.st_ino == server->file_number)
    unlink(server->file);
}

void peri__server_close(peri_server *server)
{
  if (server->closed)
    return;
  server->closed = true;
  server->serving = false;
  if (peri__node_listed(&server->io.listed))
    peri__node_unlink(&server->io.listed);
  if (peri__node_listed(&server->node.node))
    peri__node_unlink(&server->node.node);
  remove_file(server);
  close_listeners(server);
  if (server->has_timer)
    uv_close((uv_handle_t *)&server->retry, on_timer_closed);
  /* Nobody has seen these. */
  while (!peri__list_empty(&server->accepted)) {
    peri_node *node = peri__list_first(&server->accepted);
    peri__stream_abort(
        (peri_stream *)((char *)node - offsetof(peri_stream, client)));
  }
  wake_closers(server);
}
