/*
 * process_guest.c: a pool of processes as one of its jobs sees it
 * (futures.current_executor).
 *
 * A guest is a pool of the worker's own state. Its jobs go to the owner as
 * packets, with a number; there they stand in the queue with all others
 * (process_relay.c). What becomes of them comes back as orders, to the worker's
 * other thread: that a job has begun, and its answer. So a guest knows a little
 * later than the owner whether a job runs: a job of which it does not know is
 * cancelled at once, and the owner is told; what it comes to is dropped if it has
 * begun after all, and it is interrupted if that was asked for, too. A state that closes has the owner withdraw those that have not
 * begun; if all of the worker goes, the owner sees to it by itself. After either
 * the worker waits for the owner to have heard before it begins another job: that
 * may be one of those.
 *
 * A job that waits for a job of its own pool needs another worker for that one.
 * Where its loop is about to sleep with nothing to wait for but such jobs, it says
 * so to the owner, who takes back what was sent ahead to it. When every worker
 * rests, and there may be no other, the owner tells one that there is no
 * hope: one that has a virtual clock to go on, or else the last one. Its job ends
 * with a DeadlockError then, as any does that could only wait for ever
 * (core/deadlock.c), and the worker is free for the others. What was on its
 * way is no matter: a worker says which of its rests that is, and how many orders
 * it has heard; the owner believes it if that is all of them, and the worker the
 * owner if it has not woken since.
 */
#include <sched.h>
#include <string.h>

#include "pool/process_guest.h"

static peri__guest *guest_of(peri__pool *head)
{
  return (peri__guest *)head;
}

static uint32_t number_of(const peri__job *job)
{
  return (uint32_t)(uintptr_t)job->carrier;
}

/* -- Jobs ---------------------------------------------------------------------- */

static int submit(peri__pool *head, peri__job *job)
{
  peri__guest *this = guest_of(head);
  head->closed = head->closed || atomic_load(&this->shut);
  if (head->closed)
    return UV_ECANCELED;
  uint8_t retries =
      job->retries < UINT8_MAX ? (uint8_t)job->retries : UINT8_MAX;
  uint32_t number = ++this->last;
  job->carrier = (void *)(uintptr_t)number;
  uv_mutex_lock(this->mutex);
  this->rest = PERI__GUEST_AWAKE;
  peri__list_push(&this->jobs, &job->node);
  uv_mutex_unlock(this->mutex);
  this->send(this,
             (peri__packet){.kind = PERI__PACKET_SUBMIT,
                            .outcome = retries,
                            .slot = number},
             &job->in);
  atomic_store(&this->sent, number);
  return 0;
}

static bool withdraw(peri__pool *head, peri__job *job)
{
  peri__guest *this = guest_of(head);
  peri__message none = {.chunk_count = 0};
  uv_mutex_lock(this->mutex);
  bool takes = atomic_load(&job->state) == PERI__JOB_QUEUED &&
               peri__node_listed(&job->node);
  if (takes)
    peri__node_unlink(&job->node);
  uv_mutex_unlock(this->mutex);
  if (!takes)
    return false;
  this->behind = true;
  this->send(
      this,
      (peri__packet){.kind = PERI__PACKET_WITHDRAW, .slot = number_of(job)},
      &none);
  return true;
}

/* With the mutex: the first job in the list that is not known to have begun. */
static peri__job *first_queued(peri__guest *this)
{
  peri_list *link = this->jobs.next;
  for (; link != &this->jobs; link = link->next)
    if (atomic_load(&peri__node_job((peri_node *)link)->state) ==
        PERI__JOB_QUEUED)
      return peri__node_job((peri_node *)link);
  return NULL;
}

static void withdraw_all(peri__pool *head, peri_list *jobs)
{
  peri__guest *this = guest_of(head);
  peri__job *job;
  do {
    uv_mutex_lock(this->mutex);
    job = first_queued(this);
    uv_mutex_unlock(this->mutex);
    if (job != NULL && withdraw(head, job))
      peri__list_push(jobs, &job->node);
  } while (job != NULL);
}

static bool running(peri__pool *head, const peri__job *job)
{
  (void)head;
  return atomic_load(&((peri__job *)job)->state) == PERI__JOB_RUNS;
}

static bool interrupt(peri__pool *head, peri__job *job, int64_t grace)
{
  peri__guest *this = guest_of(head);
  peri__message message = {
      .bytes = {.data = (char *)&grace, .length = sizeof grace}};
  unsigned char state = atomic_load(&job->state);
  if (state == PERI__JOB_DONE)
    return false;
  this->send(
      this,
      (peri__packet){.kind = PERI__PACKET_INTERRUPT, .slot = number_of(job)},
      &message);
  return state == PERI__JOB_RUNS;
}

/* -- What the owner says --------------------------------------------------------- */

static peri__job *find(peri__guest *this, uint32_t number)
{
  peri_list *link = this->jobs.next;
  for (; link != &this->jobs; link = link->next)
    if (number_of(peri__node_job((peri_node *)link)) == number)
      return peri__node_job((peri_node *)link);
  return NULL;
}

/* The job is none of ours any more if it was cancelled, or its state has gone. The
 * main thread may not know yet that it has sent it. */
static void take_answer(peri__guest *this, const peri__order *order,
                        peri__message *answer)
{
  while ((int32_t)(atomic_load(&this->sent) - order->slot) < 0)
    sched_yield();
  peri__job *job = find(this, order->slot);
  if (job == NULL)
    return;
  peri__node_unlink(&job->node);
  job->outcome = (uint8_t)order->outcome;
  if (order->outcome == PERI__JOB_RETURNED ||
      order->outcome == PERI__JOB_RAISED)
    peri__job_put(job, &job->out, answer);
  else if (answer->bytes.length > 0)
    job->text = strndup(answer->bytes.data, answer->bytes.length);
  peri__job_done(job);
}

static void lose_hope(peri__guest *this, const peri__order *order)
{
  if (this->rest != PERI__GUEST_RESTS || this->rests != (uint64_t)order->grace)
    return;
  this->rest = PERI__GUEST_HOPELESS;
  peri__attend_work(this->rt);
}

void peri__guest_obey(peri__guest *this, const peri__order *order,
                      peri__message *message)
{
  peri__job *job;
  switch ((peri__order_kind)order->kind) {
  case PERI__ORDER_ANSWER:
    take_answer(this, order, message);
    peri__guest_hear(this);
    break;
  case PERI__ORDER_BEGUN:
    job = find(this, order->slot);
    if (job != NULL)
      atomic_store(&job->state, PERI__JOB_RUNS);
    break;
  case PERI__ORDER_HOPELESS:
    lose_hope(this, order);
    break;
  case PERI__ORDER_SYNC:
    uv_sem_post(&this->sync);
    break;
  case PERI__ORDER_CLOSED:
    atomic_store(&this->shut, true);
    break;
  default:
    break;
  }
}

/* It is to say again that it rests, if it does: the owner takes it for awake. */
void peri__guest_hear(peri__guest *this)
{
  this->heard++;
  if (this->rest == PERI__GUEST_RESTS)
    peri__attend_work(this->rt);
  else if (this->rest == PERI__GUEST_HOPELESS)
    this->rest = PERI__GUEST_AWAKE;
}

/* -- Rest -------------------------------------------------------------------------- */

/* With the mutex; what the orders that were heard have posted has been done. */
static bool begin_rest(peri__guest *this, peri_runtime *rt, peri__rest *rest)
{
  if (this->rest != PERI__GUEST_AWAKE || !peri__nothing_came(rt))
    return false;
  this->rest = PERI__GUEST_RESTS;
  *rest = (peri__rest){.number = ++this->rests, .heard = this->heard};
  return true;
}

/* With the mutex: it has slept, and not to hear that there is no hope. */
static void end_rest(peri__guest *this, peri_runtime *rt)
{
  int came = atomic_load(&rt->attention) & ~PERI_ATTEND_WORK;
  if (this->rest != PERI__GUEST_HOPELESS || came != 0 || peri__has_work(rt))
    this->rest = PERI__GUEST_AWAKE;
}

/* rt->own_pool_rests: the loop is about to sleep (false: for ever, since nothing
 * can come), or has slept. */
static bool rests(peri_runtime *rt, peri__rest_kind kind)
{
  peri__guest *this = guest_of(rt->own_pool);
  peri__rest rest;
  bool tells = false, sleeps = kind != PERI__REST_NOT;
  uv_mutex_lock(this->mutex);
  bool hope = !sleeps || this->rest < PERI__GUEST_HOPELESS;
  if (!sleeps)
    end_rest(this, rt);
  else if (hope)
    tells = begin_rest(this, rt, &rest);
  else
    this->rest = PERI__GUEST_DESPAIRS;
  uv_mutex_unlock(this->mutex);
  if (tells)
    this->send(
        this,
        (peri__packet){.kind = PERI__PACKET_REST, .outcome = (uint8_t)kind},
        &(peri__message){
            .bytes = {.data = (char *)&rest, .length = sizeof rest}});
  return hope;
}

/* -- Life ---------------------------------------------------------------------- */

static void close_guest(peri__pool *head)
{
  peri__guest *this = guest_of(head);
  peri__message none = {.chunk_count = 0};
  uv_mutex_lock(this->mutex);
  bool leaves = !peri__list_empty(&this->jobs) && !this->ends;
  while (!peri__list_empty(&this->jobs))
    peri__list_shift(&this->jobs);
  this->rest = PERI__GUEST_AWAKE;
  this->rt = NULL;
  uv_mutex_unlock(this->mutex);
  if (!leaves)
    return;
  this->behind = true;
  this->send(this, (peri__packet){.kind = PERI__PACKET_LEAVE}, &none);
}

static void do_nothing(peri__pool *head)
{
  (void)head;
}

static const peri__pool_ops ops = {
    .broken_class = "BrokenProcessPool",
    .submit = submit,
    .withdraw = withdraw,
    .withdraw_all = withdraw_all,
    .running = running,
    .interrupt = interrupt,
    .close = close_guest,
    .join = do_nothing,
    .free = do_nothing,
};

int peri__guest_init(peri__guest *this, uv_mutex_t *mutex)
{
  this->mutex = mutex;
  peri__list_init(&this->jobs);
  return uv_sem_init(&this->sync, 0);
}

void peri__guest_fini(peri__guest *this)
{
  uv_sem_destroy(&this->sync);
}

void peri__guest_sync(peri__guest *this)
{
  peri__message none = {.chunk_count = 0};
  this->behind = false;
  this->send(this, (peri__packet){.kind = PERI__PACKET_SYNC}, &none);
  uv_sem_wait(&this->sync);
}

peri__pool *peri__guest_open(peri__guest *this, peri_runtime *rt,
                             peri__home *home)
{
  this->head = (peri__pool){.ops = &ops, .home = home, .guest = true};
  uv_mutex_lock(this->mutex);
  this->rt = rt;
  uv_mutex_unlock(this->mutex);
  rt->own_pool_rests = rests;
  return &this->head;
}
