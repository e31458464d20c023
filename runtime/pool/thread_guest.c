/*
 * thread_guest.c: a pool of threads as one of its jobs sees it
 * (futures.current_executor).
 *
 * A guest is a pool of the worker's own state, and its jobs go the way of all
 * others; only that they come home to that state. It lives as long as the state
 * does: when that closes, its jobs that have not begun are dropped, and the
 * others waited for.
 *
 * A job that waits for a job of its own pool needs another worker for that one.
 * When every thread rests, that is when its loop is about to sleep with nothing
 * to wait for but jobs of this pool, none of these will ever begin. The last one
 * that comes to rest finds that out, and its job ends with a DeadlockError, as
 * any does that could only wait for ever (core/deadlock.c); its thread is then
 * free for the others. It has one find it out in its place that has a virtual
 * clock to go on, or, if its own run does not end so, one whose does. A thread
 * that rests but has got a post is about to move.
 */
#include "pool/thread_pool.h"

typedef struct guest {
  peri__pool head;
  peri__thread_pool *pool;
  peri__thread *thread; /* whose jobs submit here */
  size_t out;           /* jobs that are not back; with the pool's mutex */
} guest;

/* -- Whether anything can happen ---------------------------------------------- */

/* With the pool's mutex: something has come for a thread that rests. */
static bool has_post(peri__thread *thread)
{
  uv_mutex_lock(&thread->mutex);
  peri_runtime *rt = thread->worker.rt;
  bool has = rt != NULL && !peri__nothing_came(rt);
  uv_mutex_unlock(&thread->mutex);
  return has;
}

/* With the pool's mutex. */
static bool may_move(peri__thread *thread)
{
  if (thread->ended)
    return false;
  return thread->rests == PERI__REST_NOT ||
         (!thread->leaves && has_post(thread));
}

/* With the pool's mutex. */
static bool somebody_moves(peri__thread_pool *pool)
{
  for (unsigned i = 0; i < pool->started; i++)
    if (may_move(pool->threads[i]))
      return true;
  return false;
}

/* With the pool's mutex, where nobody moves: another one that rests is to find that
 * out, if the end of hope is less for it. False: there is none. */
static bool rouse_other(peri__thread_pool *pool, peri__rest_kind kind)
{
  peri__thread *found = NULL;
  for (unsigned i = 0; i < pool->started; i++) {
    peri__thread *thread = pool->threads[i];
    if (thread->ended || thread->leaves || thread->rests <= kind)
      continue;
    found = thread;
    kind = thread->rests;
  }
  if (found == NULL)
    return false;
  uv_mutex_lock(&found->mutex);
  if (found->worker.rt != NULL)
    peri__attend_work(found->worker.rt);
  uv_mutex_unlock(&found->mutex);
  return true;
}

/* rt->own_pool_rests: the loop is about to sleep (false: for ever, since nothing
 * can come), or has slept. */
static bool rest(peri_runtime *rt, peri__rest_kind kind)
{
  guest *this = (guest *)rt->own_pool;
  uv_mutex_lock(&this->pool->mutex);
  this->thread->rests = kind;
  bool hope = somebody_moves(this->pool) || rouse_other(this->pool, kind);
  if (!hope && kind != PERI__REST_STAYS)
    this->thread->rests = PERI__REST_NOT;
  uv_mutex_unlock(&this->pool->mutex);
  return hope;
}

/* -- Jobs ---------------------------------------------------------------------- */

/* With the pool's mutex. */
static void came_back(guest *this)
{
  if (--this->out == 0)
    uv_cond_broadcast(&this->pool->guest_done);
}

/* Its memory may be gone as soon as it is home. */
void peri__thread_job_done(peri__thread_pool *pool, peri__job *job)
{
  guest *this = (guest *)job->home->guest;
  peri__job_done(job);
  if (peri_likely(this == NULL))
    return;
  uv_mutex_lock(&pool->mutex);
  came_back(this);
  uv_mutex_unlock(&pool->mutex);
}

static int submit(peri__pool *head, peri__job *job)
{
  guest *this = (guest *)head;
  peri__thread_pool *pool = this->pool;
  uv_mutex_lock(&pool->mutex); /* threads that see it closed end */
  head->closed = head->closed || pool->closed;
  atomic_store(&head->broken, atomic_load(&pool->head.broken));
  bool takes = !head->closed && atomic_load(&head->broken) == NULL;
  if (takes) {
    this->out++;
    peri__threads_put(pool, job);
  }
  uv_mutex_unlock(&pool->mutex);
  return takes ? peri__threads_wake(pool, job) : UV_ECANCELED;
}

static bool withdraw(peri__pool *head, peri__job *job)
{
  guest *this = (guest *)head;
  if (!this->pool->head.ops->withdraw(&this->pool->head, job))
    return false;
  uv_mutex_lock(&this->pool->mutex);
  came_back(this);
  uv_mutex_unlock(&this->pool->mutex);
  return true;
}

/* Moves the jobs of one home to another list; returns how many there were. */
static size_t take_from(peri_list *from, const peri__home *home, peri_list *to)
{
  size_t n = 0;
  for (peri_list *link = from->next, *next; link != from; link = next) {
    peri_node *node = (peri_node *)link;
    next = link->next;
    if (peri__node_job(node)->home != home)
      continue;
    peri__node_unlink(node);
    peri__list_push(to, node);
    n++;
  }
  return n;
}

static void withdraw_all(peri__pool *head, peri_list *jobs)
{
  guest *this = (guest *)head;
  peri__thread_pool *pool = this->pool;
  uv_mutex_lock(&pool->mutex);
  peri__threads_fetch(pool);
  for (unsigned i = 0; i < pool->started; i++) {
    peri__thread *thread = pool->threads[i];
    uv_mutex_lock(&thread->mutex);
    size_t n = take_from(&thread->mine, head->home, jobs);
    thread->count -= n;
    this->out -= n;
    uv_mutex_unlock(&thread->mutex);
  }
  size_t n = take_from(&pool->queue, head->home, jobs);
  pool->queued -= n;
  this->out -= n;
  uv_mutex_unlock(&pool->mutex);
}

static bool running(peri__pool *head, const peri__job *job)
{
  peri__pool *pool = &((guest *)head)->pool->head;
  return pool->ops->running(pool, job);
}

static bool interrupt(peri__pool *head, peri__job *job, int64_t grace)
{
  peri__pool *pool = &((guest *)head)->pool->head;
  return pool->ops->interrupt(pool, job, grace);
}

/* -- Life ---------------------------------------------------------------------- */

/* What has not begun is dropped with the state. */
static void close_guest(peri__pool *head)
{
  peri_list dropped;
  peri__list_init(&dropped);
  withdraw_all(head, &dropped);
}

static void join(peri__pool *head)
{
  guest *this = (guest *)head;
  peri__thread_pool *pool = this->pool;
  uv_mutex_lock(&pool->mutex);
  while (this->out > 0) {
    this->thread->rests = PERI__REST_STAYS;
    this->thread->leaves = true;
    if (!somebody_moves(pool))
      rouse_other(pool, PERI__REST_STAYS);
    uv_cond_wait(&pool->guest_done, &pool->mutex);
  }
  this->thread->rests = PERI__REST_NOT;
  this->thread->leaves = false;
  uv_mutex_unlock(&pool->mutex);
}

static void free_guest(peri__pool *head)
{
  free(head);
}

static const peri__pool_ops ops = {
    .broken_class = "BrokenThreadPool",
    .threads = true,
    .submit = submit,
    .withdraw = withdraw,
    .withdraw_all = withdraw_all,
    .running = running,
    .interrupt = interrupt,
    .close = close_guest,
    .join = join,
    .free = free_guest,
};

peri__pool *peri__thread_guest_new(peri__worker *worker, peri__home *home)
{
  peri__thread *thread =
      (peri__thread *)((char *)worker - offsetof(peri__thread, worker));
  guest *this = calloc(1, sizeof *this);
  if (this == NULL)
    return NULL;
  this->head.ops = &ops;
  this->head.home = home;
  this->head.guest = true;
  this->head.spin = thread->pool->head.spin;
  this->pool = thread->pool;
  this->thread = thread;
  home->guest = &this->head;
  worker->rt->own_pool_rests = rest;
  return &this->head;
}
