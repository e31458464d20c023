/*
 * process_notes.c: how the owner reaches the state of a worker, besides its jobs.
 *
 * Notes (codec.h) go to the worker's own thread, through its control socket, as
 * orders do; so they reach a worker whose loop waits, and do not stand behind
 * jobs that were sent ahead. From the worker they come as packets. They carry no
 * chunks, whose places belong to the order of jobs.
 *
 * A state of a worker is one far end: when it goes, with its process or before
 * that, the end is kept until what it sent has been seen; then its peer is closed,
 * and who waits for its answers is told.
 */
#include <errno.h>
#include <string.h>

#include <sys/socket.h>

#include "pool/process.h"

#if !defined(MSG_NOSIGNAL)
#define MSG_NOSIGNAL 0
#endif

/* -- Orders -------------------------------------------------------------------- */

/* Returns what was taken; nothing of it matters any more if the worker has gone.
 */
static size_t send_some(const process *p, const char *data, size_t size)
{
  ssize_t sent;
  do
    sent = send(p->control, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent >= 0)
    return (size_t)sent;
  return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : size;
}

void peri__process_flush_orders(process *p)
{
  if (p->orders.length == 0)
    return;
  p->ordered +=
      send_some(p, p->orders.data + p->ordered, p->orders.length - p->ordered);
  if (p->ordered == p->orders.length) {
    peri__buffer_empty(&p->orders);
    p->ordered = 0;
  }
  peri__process_watch_control(p);
}

int peri__process_order(process *p, peri__order order, const char *data)
{
  size_t size = sizeof order + (size_t)order.length;
  bool wakes =
      order.kind == PERI__ORDER_NOTE || order.kind == PERI__ORDER_ANSWER;
  if (peri__buffer_reserve(&p->orders, size) < 0)
    return UV_ENOMEM;
  memcpy(p->orders.data + p->orders.length, &order, sizeof order);
  if (order.length > 0)
    memcpy(p->orders.data + p->orders.length + sizeof order, data,
           (size_t)order.length);
  p->orders.length += size;
  p->told += wakes;
  p->rests = p->rests && !wakes;
  peri__process_flush_orders(p);
  return 0;
}

/* -- Far ends ------------------------------------------------------------------- */

static int send_note(peri__peer *peer, peri__message *note)
{
  process *p = ((far_end *)peer)->process;
  peri__order order = {.kind = PERI__ORDER_NOTE, .length = note->bytes.length};
  if (p == NULL || p->damaged)
    return PERI_EFAILED;
  return peri__process_order(p, order, note->bytes.data) == 0 ? 0 : PERI_ENOMEM;
}

int peri__process_meet(process *p)
{
  p->far = malloc(sizeof *p->far);
  if (p->far == NULL)
    return UV_ENOMEM;
  *p->far =
      (far_end){.peer = {.trusted = true, .send = send_note}, .process = p};
  return 0;
}

void peri__process_part(process *p)
{
  if (p->far == NULL)
    return;
  p->far->process = NULL;
  p->far->next = p->pool->gone;
  p->pool->gone = p->far;
  p->far = NULL;
}

void peri__process_pool_bury(peri__pool *head, lua_State *L)
{
  process_pool *pool = (process_pool *)head;
  while (pool->gone != NULL) {
    far_end *far = pool->gone;
    pool->gone = far->next;
    peri__peer_close(L, head->home->rt, &far->peer);
    free(far);
  }
}
