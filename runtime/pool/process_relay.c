/*
 * process_relay.c: jobs that the jobs of worker processes submit to their own
 * pool, on the owner's side. The workers' side is process_guest.c.
 *
 * Such a job is a relay: it stands in the queue with all others, and where those
 * go home its answer is sent to the worker that submitted it, unread: it has
 * neither chunks nor anything else that means something only on its way. It does
 * not outlive the state that submitted it unless a worker has begun it; apart
 * from workers that end because they are to: theirs are done, and their answers
 * dropped.
 *
 * Workers name their relays by numbers; a table finds these, however many there are.
 *
 * A worker that rests (process_guest.c) gets nothing ahead, since nobody knows
 * when it goes on. It is believed if it has heard all orders that may wake it; one
 * whose job is to stop does not rest for long. Where all rest and the system does
 * not let one more start, a job for which they wait fails with the reason.
 */
#include <string.h>

#include "pool/process.h"

struct relay {
  peri__job job;
  process_pool *pool;
  far_end *from; /* who waits for it, or NULL */
  uint32_t number;
  uint32_t hash;  /* of both */
  bool unwanted;  /* it is to stop as soon as it is known to have begun */
  int64_t grace;  /* which it has then */
  relay *chained; /* in the pool's table: the next one of its place */
  relay *previous, *next;
};

enum { LEAST_ROOM = 64 };

static relay *relay_of(peri__job *job)
{
  return (relay *)((char *)job - offsetof(relay, job));
}

/* -- The pool's relays --------------------------------------------------------- */

static uint32_t hash_of(const far_end *from, uint32_t number)
{
  return number + (uint32_t)((uintptr_t)from >> 4) * 0x9e3779b9u;
}

static relay **place_of(const process_pool *pool, uint32_t hash)
{
  return &pool->relay_table[hash & (pool->relay_room - 1)];
}

static relay *find(const process *p, uint32_t number)
{
  const process_pool *pool = p->pool;
  if (p->far == NULL || pool->relay_room == 0)
    return NULL;
  relay *it = *place_of(pool, hash_of(p->far, number));
  while (it != NULL && (it->from != p->far || it->number != number))
    it = it->chained;
  return it;
}

static void chain(relay *it)
{
  relay **place = place_of(it->pool, it->hash);
  it->chained = *place;
  *place = it;
}

/* Room for one more, if there can be; false: there is no table at all. */
static bool make_room(process_pool *pool)
{
  if (pool->relay_count < pool->relay_room)
    return true;
  uint32_t room = pool->relay_room > 0 ? 2 * pool->relay_room : LEAST_ROOM;
  relay **table = calloc(room, sizeof(relay *));
  if (table == NULL)
    return pool->relay_room > 0;
  free(pool->relay_table);
  pool->relay_table = table;
  pool->relay_room = room;
  for (relay *it = pool->relays; it != NULL; it = it->next)
    chain(it);
  return true;
}

static relay *relay_new(process *p, uint32_t number)
{
  process_pool *pool = p->pool;
  relay *it = make_room(pool) ? calloc(1, sizeof *it) : NULL;
  if (it == NULL)
    return NULL;
  peri__job_init(&it->job, NULL);
  it->job.relayed = true;
  it->pool = pool;
  it->from = p->far;
  it->number = number;
  it->hash = hash_of(p->far, number);
  chain(it);
  it->next = pool->relays;
  if (it->next != NULL)
    it->next->previous = it;
  pool->relays = it;
  pool->relay_count++;
  return it;
}

static void relay_free(relay *it)
{
  process_pool *pool = it->pool;
  relay **place = place_of(pool, it->hash);
  while (*place != it)
    place = &(*place)->chained;
  *place = it->chained;
  if (it->previous != NULL)
    it->previous->next = it->next;
  else
    pool->relays = it->next;
  if (it->next != NULL)
    it->next->previous = it->previous;
  pool->relay_count--;
  peri__job_fini(&it->job);
  free(it);
}

/* -- Back to the worker ---------------------------------------------------------- */

static void tell(process *p, peri__order order, const char *data)
{
  if (peri__process_order(p, order, data) < 0)
    peri__process_put_down(p); /* it would wait for ever */
}

static void answer(process *p, uint32_t number, const peri__job *job)
{
  bool has_values =
      job->outcome == PERI__JOB_RETURNED || job->outcome == PERI__JOB_RAISED;
  const char *data = has_values ? job->out.bytes.data : job->text;
  size_t length = has_values          ? job->out.bytes.length
                  : job->text != NULL ? strlen(job->text)
                                      : 0;
  tell(p,
       (peri__order){.kind = PERI__ORDER_ANSWER,
                     .outcome = job->outcome,
                     .slot = number,
                     .length = length},
       data);
}

/* The process that waits for it, if there is one that can be told. */
static process *waiting(const relay *it)
{
  process *p = it->from != NULL ? it->from->process : NULL;
  bool well =
      p != NULL && !p->damaged && atomic_load(&it->pool->head.broken) == NULL;
  return well ? p : NULL;
}

void peri__relay_end(peri__job *job)
{
  relay *it = relay_of(job);
  process *p = waiting(it);
  if (p != NULL)
    answer(p, it->number, job);
  relay_free(it);
}

static void interrupt(relay *it)
{
  peri__pool *head = &it->pool->head;
  it->unwanted = !head->ops->interrupt(head, &it->job, it->grace);
}

void peri__relay_begun(peri__job *job)
{
  relay *it = relay_of(job);
  process *p = waiting(it);
  if (p != NULL)
    tell(p, (peri__order){.kind = PERI__ORDER_BEGUN, .slot = it->number}, NULL);
  if (it->unwanted)
    interrupt(it);
}

/* -- From the worker --------------------------------------------------------------- */

/* No relay can be made. */
static void refuse(process *p, uint32_t number, int code)
{
  const peri__job job = {.outcome = PERI__JOB_FAILED,
                         .text = (char *)uv_strerror(code)};
  answer(p, number, &job);
}

void peri__relay_submit(process *p, const peri__packet *packet,
                        peri__message *message, int code)
{
  if (atomic_load(&p->pool->head.broken) != NULL)
    return;
  relay *it = code == 0 ? relay_new(p, packet->slot) : NULL;
  if (it == NULL) {
    refuse(p, packet->slot, code == 0 ? UV_ENOMEM : code);
    return;
  }
  it->job.retries = packet->outcome;
  peri__job_put(&it->job, &it->job.in, message);
  code = peri__process_pool_take(p->pool, &it->job);
  if (code == 0)
    return;
  refuse(p, packet->slot, code);
  relay_free(it);
}

void peri__relay_withdraw(process *p, uint32_t number)
{
  relay *it = find(p, number);
  if (it != NULL && p->pool->head.ops->withdraw(&p->pool->head, &it->job))
    relay_free(it);
}

bool peri__relay_interrupt(process *p, const peri__packet *packet,
                           const char *payload)
{
  relay *it = find(p, packet->slot);
  if (packet->length != sizeof it->grace)
    return false;
  if (it == NULL)
    return true;
  memcpy(&it->grace, payload, sizeof it->grace);
  interrupt(it);
  return true;
}

void peri__relays_leave(process_pool *pool, const far_end *far, bool drops)
{
  for (relay *it = pool->relays, *next; it != NULL; it = next) {
    next = it->next;
    if (it->from == NULL || it->from != far)
      continue;
    it->from = NULL;
    if (drops && pool->head.ops->withdraw(&pool->head, &it->job))
      relay_free(it);
  }
}

void peri__relay_sync(process *p)
{
  tell(p, (peri__order){.kind = PERI__ORDER_SYNC}, NULL);
}

/* -- Rest ---------------------------------------------------------------------------- */

bool peri__process_rest(process *p, const peri__packet *packet,
                        const char *payload)
{
  peri__rest rest;
  if (packet->length != sizeof rest)
    return false;
  memcpy(&rest, payload, sizeof rest);
  p->rests = rest.heard == p->told;
  p->rest_kind = packet->outcome;
  p->rest = rest.number;
  p->rested = ++p->pool->rests;
  if (p->rests)
    peri__process_take_back(p);
  return true;
}

static bool is_resting(const process *p)
{
  bool stops =
      p->first != p->next && p->slots[p->first % PERI__WINDOW].interrupted;
  return p->rests && !p->damaged && !stops;
}

/* If all rest, the one for which the end of hope is least: of those the one that
 * came to rest last. */
static process *find_hopeless(const process_pool *pool)
{
  process *found = NULL;
  for (unsigned i = 0; i < pool->count; i++) {
    process *p = pool->processes[i];
    if (!is_resting(p))
      return NULL;
    if (found == NULL || p->rest_kind > found->rest_kind ||
        (p->rest_kind == found->rest_kind && p->rested > found->rested))
      found = p;
  }
  return found;
}

/* For the job that would begin first, of those for which a worker waits. */
static bool fail_unstarted(process_pool *pool, int code)
{
  char text[300];
  peri_list *link = pool->queue.next;
  for (; link != &pool->queue; link = link->next) {
    peri__job *job = peri__node_job((peri_node *)link);
    if (!job->relayed || relay_of(job)->from == NULL)
      continue;
    peri__node_unlink(&job->node);
    peri__pool_tell_start(&pool->head, code, text, sizeof text);
    end_job(job, PERI__JOB_FAILED, strdup(text));
    return true;
  }
  return false;
}

void peri__process_pool_find_deadlock(process_pool *pool)
{
  process *p = find_hopeless(pool);
  if (peri_likely(p == NULL))
    return;
  int code = peri__process_pool_grow(pool);
  if (code > 0 || (code < 0 && fail_unstarted(pool, code)) ||
      p->rest_kind == PERI__REST_STAYS)
    return;
  p->rests = false;
  tell(p,
       (peri__order){.kind = PERI__ORDER_HOPELESS, .grace = (int64_t)p->rest},
       NULL);
}
