/*
 * udp.c: datagram sockets: what comes, and what is sent.
 *
 * Datagrams are taken from the kernel as they come, whether a task waits or not,
 * up to so many bytes; what is more is dropped here, where it can be counted,
 * and not in the kernel. A datagram is sent at once if the kernel has room; else
 * libuv gets a copy, and the task waits until that has gone. A task that is
 * cancelled then does not call it back.
 */
#include <string.h>

#include "io/udp.h"

typedef struct udp_sending {
  uv_udp_send_t request;
  peri_udp *udp;     /* a reference */
  peri_waiters line; /* of the one task that waits */
  peri_address to;
  bool ended, abandoned;
  int code;
  size_t size;
  char data[];
} udp_sending;

/* -- Lifetime ------------------------------------------------------------------ */

static void free_datagram(peri_udp *udp, peri_datagram *datagram)
{
  peri__realloc(udp->rt, datagram, sizeof *datagram + datagram->size, 0);
}

/* The first of the queue, which is not empty; the caller's now. */
static peri_datagram *take(peri_udp *udp)
{
  peri_datagram *datagram = udp->first;
  udp->first = datagram->next;
  if (udp->first == NULL)
    udp->end = &udp->first;
  udp->held -= sizeof *datagram + datagram->size;
  return datagram;
}

void peri__udp_unref(peri_udp *udp)
{
  if (--udp->references > 0)
    return;
  while (udp->first != NULL)
    free_datagram(udp, take(udp));
  peri__realloc(udp->rt, udp, sizeof *udp, 0);
}

static void on_closed(uv_handle_t *handle)
{
  peri_udp *udp = handle->data;
  udp->kernel->open--;
  peri__udp_unref(udp);
}

/* What is being sent is told so by libuv, before on_closed. */
void peri__udp_close(peri_udp *udp)
{
  if (udp->closed)
    return;
  udp->closed = true;
  if (peri__node_listed(&udp->io.listed))
    peri__node_unlink(&udp->io.listed);
  while (peri__waiters_wake(&udp->readers))
    continue;
  uv_close((uv_handle_t *)&udp->handle, on_closed);
}

static void close_with_loop(peri_io *io)
{
  peri__udp_close((peri_udp *)io);
}

/* A task that waits keeps the loop from being idle; the socket alone does not. */
static void hold(peri_udp *udp, int delta)
{
  udp->waiting += delta;
  if (udp->closed)
    return;
  if (udp->waiting > 0)
    uv_ref((uv_handle_t *)&udp->handle);
  else
    uv_unref((uv_handle_t *)&udp->handle);
}

/* -- Receiving ------------------------------------------------------------------- */

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buffer)
{
  peri_udp *udp = handle->data;
  (void)size;
  *buffer = uv_buf_init(udp->kernel->scratch, PERI_SCRATCH);
}

static bool keep(peri_udp *udp, ssize_t got, const char *data,
                 const struct sockaddr *from)
{
  size_t size = got > 0 ? (size_t)got : 0, all = sizeof(peri_datagram) + size;
  if (udp->held + all > udp->limit)
    return false;
  peri_datagram *datagram = peri__realloc(udp->rt, NULL, 0, all);
  if (datagram == NULL)
    return false;
  *datagram = (peri_datagram){.code = got < 0 ? (int)got : 0, .size = size};
  if (from != NULL)
    memcpy(&datagram->from, from,
           from->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                       : sizeof(struct sockaddr_in));
  if (size > 0)
    memcpy(datagram->data, data, size);
  *udp->end = datagram;
  udp->end = &datagram->next;
  udp->held += all;
  return true;
}

static void on_datagram(uv_udp_t *handle, ssize_t got, const uv_buf_t *buffer,
                        const struct sockaddr *from, unsigned flags)
{
  peri_udp *udp = handle->data;
  (void)flags;
  if (got == 0 && from == NULL)
    return; /* nothing more for now */
  if (!keep(udp, got, buffer->base, from))
    udp->dropped++;
  else
    peri__waiters_wake(&udp->readers);
}

/* A datagram that has come for this task is the next one's. */
static void give_up_reading(lua_State *L, peri_runtime *rt, peri_waiters *line,
                            int idx, bool woken)
{
  peri_udp *udp = (peri_udp *)((char *)line - offsetof(peri_udp, readers));
  (void)L, (void)rt, (void)idx;
  if (woken)
    peri__waiters_wake(line);
  hold(udp, -1);
  peri__udp_unref(udp);
}

/* [datagram]: data, host, port */
static int push_datagram(lua_State *L)
{
  const peri_datagram *datagram = lua_touserdata(L, 1);
  lua_pushlstring(L, datagram->data, datagram->size);
  peri__address_push(L, &datagram->from);
  return 3;
}

static int give(lua_State *L, peri_udp *udp)
{
  peri_datagram *datagram = take(udp);
  int code = datagram->code;
  if (code < 0) {
    free_datagram(udp, datagram);
    return peri__udp_throw(L, udp, "recv", code, &udp->peer);
  }
  lua_pushcfunction(L, push_datagram);
  lua_pushlightuserdata(L, datagram);
  int result = lua_pcall(L, 1, 3, 0);
  free_datagram(udp, datagram);
  return result == LUA_OK ? 3 : lua_error(L);
}

static int recv_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  peri_udp *udp = peri__udp_check(L);
  peri__waiters_unpark(L, udp->rt);
  hold(udp, -1);
  peri__udp_unref(udp); /* the object has another */
  return peri__udp_recv(L, udp, ctx != 0);
}

int peri__udp_recv(lua_State *L, peri_udp *udp, bool soft)
{
  if (udp->closed && soft) {
    lua_pushnil(L);
    return 1;
  }
  if (udp->closed)
    return peri__udp_throw(L, udp, "recv", UV_EBADF, NULL);
  if (udp->first != NULL)
    return give(L, udp);
  if (peri__running_loop(udp->rt) != udp->io.loop)
    return peri__throw(L, udp->rt, PERI_ERR_RUNTIME,
                       "DatagramSocket.recv: the socket belongs to another "
                       "loop than the running one");
  peri__waiters_park(L, udp->rt, &udp->readers);
  udp->references++;
  hold(udp, 1);
  return peri__park(L, udp->rt, soft, recv_k);
}

/* -- Sending ------------------------------------------------------------------------ */

static void free_sending(udp_sending *sending)
{
  peri_udp *udp = sending->udp;
  peri__realloc(udp->rt, sending, sizeof *sending + sending->size, 0);
  peri__udp_unref(udp);
}

static void on_sent(uv_udp_send_t *request, int code)
{
  udp_sending *sending = (udp_sending *)request;
  sending->ended = true;
  sending->code = code;
  hold(sending->udp, -1);
  if (sending->abandoned || peri__waiters_empty(&sending->line))
    free_sending(sending);
  else
    peri__waiters_wake(&sending->line);
}

static void give_up_sending(lua_State *L, peri_runtime *rt, peri_waiters *line,
                            int idx, bool woken)
{
  udp_sending *sending =
      (udp_sending *)((char *)line - offsetof(udp_sending, line));
  (void)L, (void)rt, (void)idx, (void)woken;
  if (sending->ended)
    free_sending(sending);
  else
    sending->abandoned = true;
}

static int send_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  udp_sending *sending = (udp_sending *)ctx;
  peri_udp *udp = sending->udp;
  peri__waiters_unpark(L, udp->rt);
  int code = sending->code;
  peri_address to = sending->to;
  free_sending(sending); /* the object has another reference */
  if (code == UV_ECANCELED)
    code = UV_EBADF; /* the socket was closed */
  return code < 0 ? peri__udp_throw(L, udp, "send", code, &to) : 0;
}

/* Leaves it to libuv, and waits. */
static int send_later(lua_State *L, peri_udp *udp, const uv_buf_t *data,
                      const peri_address *to)
{
  peri__wait_check(L, udp->rt, "DatagramSocket.send");
  udp_sending *sending =
      peri__realloc(udp->rt, NULL, 0, sizeof *sending + data->len);
  if (sending == NULL)
    return luaL_error(L, "not enough memory");
  memset(sending, 0, sizeof *sending);
  sending->udp = udp;
  sending->size = data->len;
  sending->to = to != NULL ? *to : udp->peer;
  memcpy(sending->data, data->base, data->len);
  udp->references++;
  peri__waiters_init(&sending->line, "DatagramSocket.send", give_up_sending);
  uv_buf_t copy = uv_buf_init(sending->data, (unsigned)data->len);
  int code = uv_udp_send(&sending->request, &udp->handle, &copy, 1,
                         to != NULL ? &to->any : NULL, on_sent);
  if (code < 0) {
    peri_address where = sending->to;
    free_sending(sending);
    return peri__udp_throw(L, udp, "send", code, &where);
  }
  hold(udp, 1);
  lua_settop(L, 1);
  peri__waiters_park(L, udp->rt, &sending->line);
  return peri__park(L, udp->rt, (lua_KContext)sending, send_k);
}

int peri__udp_send(lua_State *L, peri_udp *udp, const peri_address *to)
{
  size_t size;
  const char *text = peri__check_string(L, udp->rt, 2, &size);
  const peri_address *where = to != NULL ? to : &udp->peer;
  if (udp->closed)
    return peri__udp_throw(L, udp, "send", UV_EBADF, where);
  if (size > 65535)
    return peri__udp_throw(L, udp, "send", UV_EMSGSIZE, where);
  uv_buf_t data = uv_buf_init((char *)text, (unsigned)size);
  int code =
      uv_udp_try_send(&udp->handle, &data, 1, to != NULL ? &to->any : NULL);
  if (peri_likely(code >= 0))
    return 0;
  if (code == UV_EAGAIN)
    return send_later(L, udp, &data, to);
  return peri__udp_throw(L, udp, "send", code, where);
}

/* -- Making --------------------------------------------------------------------------- */

peri_udp *peri__udp_new(peri_loop *loop, size_t limit)
{
  peri_udp *udp = peri__realloc(loop->rt, NULL, 0, sizeof *udp);
  if (udp == NULL)
    return NULL;
  memset(udp, 0, sizeof *udp);
  udp->io.loop = loop;
  udp->io.close = close_with_loop;
  udp->rt = loop->rt;
  udp->kernel = loop->kernel;
  udp->references = 1;
  udp->closed = true; /* until there is a handle */
  udp->end = &udp->first;
  udp->limit = limit;
  peri__waiters_init(&udp->readers, "DatagramSocket.recv", give_up_reading);
  return udp;
}

int peri__udp_init(peri_udp *udp, int family)
{
  int code = uv_udp_init_ex(udp->kernel->uv, &udp->handle, (unsigned)family);
  if (code < 0)
    return code;
  udp->closed = false;
  udp->handle.data = udp;
  udp->references++;
  udp->kernel->open++;
  uv_unref((uv_handle_t *)&udp->handle);
  peri__list_push(&udp->io.loop->open, &udp->io.listed);
  return 0;
}

int peri__udp_start(peri_udp *udp)
{
  return uv_udp_recv_start(&udp->handle, on_alloc, on_datagram);
}
