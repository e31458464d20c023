/*
 * thread_pool.c: threads that work off a queue of jobs.
 *
 * Threads start on demand, up to max_workers; each makes a runtime with a Lua
 * state of its own for its first job and keeps it until the pool is closed. So
 * what jobs share, within one worker, is its globals.
 *
 * Jobs are submitted into the inbox, a stack that needs no lock; under the
 * pool's mutex its content moves to the queue. A worker takes a share of the
 * queue, so that short jobs cost no visit each, and has it in a list of its own,
 * with a mutex of its own. What stands there has not begun: it can be withdrawn,
 * and a worker that finds the queue empty takes half of another's list before it
 * sleeps. While a worker sleeps the others take one job at a time; so no job
 * waits behind a long one while somebody is free.
 *
 * Who wakes a sleeping worker takes it off the stack `asleep`: many submits wake
 * each of them once. A worker that goes to sleep counts itself among `sleepers`
 * first and then looks at the inbox; whoever submits does it the other way round:
 * one of the two sees the other. The first job in an empty inbox is left to a
 * worker that is awake (linger), if there is one: that looks once more before it
 * sleeps.
 *
 * The threads block all signals that are sent to the process: those belong to
 * the owner's loops, or the host.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "pool/thread_pool.h"

enum { LARGEST_SHARE = 64, LOOKS = PERI__LOOKS };

typedef peri__thread_pool thread_pool;

static void set_state(peri__job *job, peri__job_state state)
{
  atomic_store_explicit(&job->state, (unsigned char)state,
                        memory_order_relaxed);
}

static bool is_queued(const peri__job *job)
{
  return atomic_load_explicit(&((peri__job *)job)->state,
                              memory_order_relaxed) == PERI__JOB_QUEUED;
}

/* -- Taking jobs ------------------------------------------------------------ */

/* With the mutex: what was submitted stands in the queue. */
void peri__threads_fetch(thread_pool *pool)
{
  if (atomic_load_explicit(&pool->inbox, memory_order_relaxed) == NULL)
    return;
  pool->queued +=
      peri__list_take_stack(&pool->queue, atomic_exchange(&pool->inbox, NULL));
}

/* With the thread's mutex: the job has begun. What was asked of the one before
 * comes too late. */
static void begin(peri__thread *thread, peri__job *job)
{
  peri__worker_settle(&thread->worker);
  job->carrier = thread;
  job->peer = job->home->guest == NULL ? peri__thread_peer(thread) : NULL;
  thread->current = job;
  set_state(job, PERI__JOB_RUNS);
}

/* With the pool's mutex: the job begins, and n jobs of a list become the
 * thread's. */
static void give(peri__thread *thread, peri__job *job, peri_list *from,
                 size_t n)
{
  uv_mutex_lock(&thread->mutex);
  begin(thread, job);
  for (size_t i = 0; i < n; i++) {
    peri_node *node = peri__list_shift(from);
    peri__node_job(node)->carrier = thread;
    peri__list_push(&thread->mine, node);
  }
  thread->count += n;
  uv_mutex_unlock(&thread->mutex);
}

/* With the pool's mutex: half of what another thread has not begun, for this
 * one. The first of them is returned and has begun. */
static peri__job *steal(thread_pool *pool, peri__thread *thread)
{
  peri_list loot;
  size_t n = 0;
  peri__list_init(&loot);
  for (unsigned i = 0; i < pool->started && n == 0; i++) {
    peri__thread *other = pool->threads[i];
    uv_mutex_lock(&other->mutex);
    n = (other->count + 1) / 2;
    other->count -= n;
    for (size_t k = 0; k < n; k++) {
      peri_node *node = (peri_node *)other->mine.previous;
      peri__node_unlink(node);
      node->link.next = loot.next;
      node->link.previous = &loot;
      loot.next->previous = &node->link;
      loot.next = &node->link;
    }
    uv_mutex_unlock(&other->mutex);
  }
  if (n == 0)
    return NULL;
  peri__job *job = peri__node_job(peri__list_shift(&loot));
  give(thread, job, &loot, n - 1);
  return job;
}

/* With the mutex: a job to begin with, and a share of those behind it. */
static peri__job *take(thread_pool *pool, peri__thread *thread)
{
  peri__threads_fetch(pool);
  if (peri__list_empty(&pool->queue))
    return steal(pool, thread);
  size_t share = pool->queued / (2 * pool->alive);
  if (share > LARGEST_SHARE)
    share = LARGEST_SHARE;
  if (share == 0 || atomic_load(&pool->sleepers) > 0)
    share = 1;
  peri__job *job = peri__node_job(peri__list_shift(&pool->queue));
  pool->queued -= share;
  give(thread, job, &pool->queue, share - 1);
  return job;
}

/* With the mutex: the one that has fallen asleep last, whose caches know most of
 * jobs, is to be woken. */
static peri__thread *pop_sleeper(thread_pool *pool)
{
  peri__thread *thread = pool->asleep;
  pool->asleep = thread->below;
  atomic_fetch_sub(&pool->sleepers, 1);
  return thread;
}

/* With the mutex: sleeps until it is woken, unless something has come. */
static void doze(thread_pool *pool, peri__thread *thread)
{
  thread->below = pool->asleep;
  pool->asleep = thread;
  atomic_fetch_add(&pool->sleepers, 1);
  if (atomic_load(&pool->inbox) != NULL) {
    pop_sleeper(pool);
    return;
  }
  uv_mutex_unlock(&pool->mutex);
  uv_sem_wait(&thread->wake);
  uv_mutex_lock(&pool->mutex);
}

/* The next of the thread's own. */
static peri__job *next_of_mine(peri__thread *thread)
{
  peri__job *job = NULL;
  uv_mutex_lock(&thread->mutex);
  if (thread->count > 0) {
    thread->count--;
    job = peri__node_job(peri__list_shift(&thread->mine));
    begin(thread, job);
  }
  uv_mutex_unlock(&thread->mutex);
  return job;
}

/* The worker's. */
static peri__job *next_of_worker(peri__worker *worker, peri__job *done)
{
  peri__thread *thread =
      (peri__thread *)((char *)worker - offsetof(peri__thread, worker));
  peri__job *job = next_of_mine(thread);
  if (job == NULL)
    return NULL;
  peri__thread_job_done(thread->pool, done);
  return job;
}

static bool has_news(thread_pool *pool)
{
  return atomic_load_explicit(&pool->inbox, memory_order_relaxed) != NULL;
}

static bool has_reason(thread_pool *pool)
{
  return has_news(pool) || atomic_load(&pool->closing);
}

/* Looks for news until `end`, as uv_hrtime, or for a moment at most; whether it is
 * worth to look for a job again. */
static bool linger(thread_pool *pool, peri__thread *thread, uint64_t end)
{
  bool spins = pool->head.spin > 0, alone = true;
  if (uv_hrtime() >= end)
    return false;
  atomic_fetch_add(&pool->awake, 1);
  for (unsigned i = 0; i < LOOKS && alone && !has_reason(pool); i++)
    if (spins)
      peri__relax(i);
    else
      alone = peri__patience_yield(&thread->patience);
  atomic_fetch_sub(&pool->awake, 1);
  return has_news(pool) || (alone && !atomic_load(&pool->closing));
}

static peri__job *look_for_job(thread_pool *pool, peri__thread *thread)
{
  uv_mutex_lock(&pool->mutex);
  peri__job *job = take(pool, thread);
  uv_mutex_unlock(&pool->mutex);
  return job;
}

static peri__job *sleep_for_job(thread_pool *pool, peri__thread *thread)
{
  peri__job *job;
  uv_mutex_lock(&pool->mutex);
  while ((job = take(pool, thread)) == NULL && !pool->closed)
    doze(pool, thread);
  uv_mutex_unlock(&pool->mutex);
  return job;
}

/* Waits for the next job. NULL: there will be none. */
static peri__job *next_job(thread_pool *pool, peri__thread *thread)
{
  peri__job *job = next_of_mine(thread);
  if (job == NULL)
    job = look_for_job(pool, thread);
  if (job != NULL)
    return job;
  uint64_t end = peri__patience_begin(&thread->patience, pool->head.spin);
  while (job == NULL && linger(pool, thread, end))
    job = look_for_job(pool, thread);
  if (job == NULL)
    job = sleep_for_job(pool, thread);
  peri__patience_end(&thread->patience);
  return job;
}

/* Takes all that have not begun, in order, but for those in threads' lists that
 * come first. */
static void take_all(thread_pool *pool, peri_list *jobs)
{
  uv_mutex_lock(&pool->mutex);
  peri__threads_fetch(pool);
  for (unsigned i = 0; i < pool->started; i++) {
    peri__thread *thread = pool->threads[i];
    uv_mutex_lock(&thread->mutex);
    peri__list_splice(jobs, &thread->mine);
    thread->count = 0;
    uv_mutex_unlock(&thread->mutex);
  }
  peri__list_splice(jobs, &pool->queue);
  pool->queued = 0;
  uv_mutex_unlock(&pool->mutex);
}

/* -- Threads ---------------------------------------------------------------- */

static char *tell_why(char *text)
{
  static const char format[] = ", its initializer failed: %s";
  size_t size = text != NULL ? sizeof format + strlen(text) : 0;
  char *why = text != NULL ? malloc(size) : NULL;
  if (why != NULL)
    snprintf(why, size, format, text);
  free(text);
  return why;
}

/* No worker can be had: all that wait fail. Takes the text. */
static void break_pool(thread_pool *pool, char *text)
{
  const char *none = NULL;
  char *why = tell_why(text);
  peri_list waiting;
  if (atomic_compare_exchange_strong(&pool->head.broken, &none,
                                     why ? why : ", out of memory"))
    pool->broken = why;
  else
    free(why);
  peri__list_init(&waiting);
  take_all(pool, &waiting);
  while (!peri__list_empty(&waiting)) {
    peri__job *job = peri__node_job(peri__list_shift(&waiting));
    job->outcome = PERI__JOB_BROKEN;
    peri__thread_job_done(pool, job);
  }
}

/* An error has got it past the end of its rest. */
static void stop_resting(peri__thread *thread)
{
  uv_mutex_lock(&thread->pool->mutex);
  thread->rests = PERI__REST_NOT;
  uv_mutex_unlock(&thread->pool->mutex);
}

/* Opens the thread's state if there is none. 0; or as peri__worker_open, and the
 * text. */
static int open_state(thread_pool *pool, peri__thread *thread, peri__job *job,
                      char **text)
{
  if (atomic_load(&pool->head.broken) != NULL)
    return -1;
  if (peri_unlikely(thread->worker.rt == NULL) &&
      !peri__thread_state_renew(thread, job))
    return 1;
  return peri__worker_open(&thread->worker, text);
}

static void do_job(thread_pool *pool, peri__thread *thread, peri__job *job)
{
  char *text = NULL;
  bool gone = false;
  int status = open_state(pool, thread, job, &text);
  if (status == 0) {
    job = peri__worker_run(&thread->worker, job);
    gone = thread->worker.rt == NULL;
    if (peri_unlikely(thread->rests))
      stop_resting(thread);
  } else if (status > 0) {
    job->outcome = PERI__JOB_FAILED;
    job->text = text;
  } else {
    break_pool(pool, text);
    job->outcome = PERI__JOB_BROKEN;
  }
  peri__thread_job_done(pool, job);
  if (peri_unlikely(gone))
    peri__thread_state_part(thread);
}

/* Of all signals only the one that interrupts. */
static void let_through(int number)
{
  sigset_t set;
  if (number == 0)
    return;
  sigemptyset(&set);
  sigaddset(&set, number);
  pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void name_thread(const char *name)
{
#if defined(__linux__)
  pthread_setname_np(pthread_self(), name);
#elif defined(__APPLE__)
  pthread_setname_np(name);
#else
  (void)name;
#endif
}

/* The last of a closed pool's threads tells the owner; it touches nothing
 * afterwards but the home, which is there until all threads were joined. */
static void end_thread(thread_pool *pool, peri__thread *thread)
{
  uv_mutex_lock(&pool->mutex);
  thread->ended = true;
  bool last = --pool->alive == 0;
  uv_mutex_unlock(&pool->mutex);
  if (!last)
    return;
  atomic_store(&pool->head.ended, true);
  peri__home_notify(pool->head.home);
}

static void thread_main(void *argument)
{
  peri__thread *thread = argument;
  thread_pool *pool = thread->pool;
  peri__job *job;
  name_thread(thread->worker.name);
  let_through(pool->setup.options.preempt_signal);
  while ((job = next_job(pool, thread)) != NULL)
    do_job(pool, thread, job);
  peri__worker_settle(&thread->worker);
  peri__worker_close(&thread->worker);
  end_thread(pool, thread);
}

static void thread_free(peri__thread *thread)
{
  peri__home_drop_notes(&thread->home);
  uv_sem_destroy(&thread->wake);
  uv_mutex_destroy(&thread->mutex);
  free(thread);
}

/* "peri-3", in the 15 bytes that the system shows. */
static void make_name(char *name, size_t size, const char *prefix,
                      unsigned number)
{
  char digits[12];
  int n = snprintf(digits, sizeof digits, "-%u", number);
  snprintf(name, size, "%.*s%s", (int)size - 1 - n, prefix, digits);
}

static peri__thread *thread_new(thread_pool *pool, bool debug)
{
  peri__thread *thread = calloc(1, sizeof *thread);
  if (thread == NULL)
    return NULL;
  if (uv_mutex_init(&thread->mutex) != 0)
    goto fail;
  if (uv_sem_init(&thread->wake, 0) != 0)
    goto fail_mutex;
  peri__list_init(&thread->mine);
  thread->pool = pool;
  thread->worker.setup = &pool->setup;
  thread->worker.debug = debug;
  thread->worker.guard = &thread->mutex;
  thread->worker.send = peri__thread_send_to_owner;
  thread->worker.own_pool = peri__thread_guest_new;
  thread->worker.next = next_of_worker;
  peri__home_init(&thread->home, NULL, peri__thread_read_notes, thread);
  thread->worker.kind = "thread";
  thread->patience = peri__patience_new();
  make_name(thread->worker.name, sizeof thread->worker.name, pool->prefix,
            pool->started);
  return thread;

fail_mutex:
  uv_mutex_destroy(&thread->mutex);
fail:
  free(thread);
  return NULL;
}

/* With the mutex: room for one more thread. */
static bool reserve_thread(thread_pool *pool)
{
  size_t started = pool->started;
  if ((started & (started - 1)) != 0)
    return true; /* there is room up to the next power of two */
  size_t room = started > 0 ? 2 * started : 1;
  peri__thread **threads =
      realloc(pool->threads, room * sizeof(peri__thread *));
  if (threads != NULL)
    pool->threads = threads;
  return threads != NULL;
}

/* With the mutex. Its debug mode is that of whoever submits. */
static int start_thread(thread_pool *pool, bool debug)
{
  peri__thread *thread = reserve_thread(pool) ? thread_new(pool, debug) : NULL;
  if (thread == NULL)
    return UV_ENOMEM;
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int status = uv_thread_create(&thread->id, thread_main, thread);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (status != 0) {
    thread_free(thread);
    return status;
  }
  pool->threads[pool->started++] = thread;
  pool->alive++;
  return 0;
}

/* -- Interrupts ------------------------------------------------------------- */

/* The signal is sent with the thread as its value, to that very thread. */
static void on_signal(int number, siginfo_t *info, void *context)
{
  int error = errno;
  (void)number, (void)context;
  if (info->si_code == SI_QUEUE && info->si_pid == getpid()) {
    peri__thread *thread = info->si_value.sival_ptr;
    peri__worker_preempt(&thread->worker);
  }
  errno = error;
}

/* Whether the signal is ours: it is, unless somebody else handles it. */
static bool claim_signal(int number)
{
  struct sigaction action,
      ours = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
  if (number == 0 || sigaction(number, NULL, &action) != 0)
    return false;
  if (action.sa_flags & SA_SIGINFO)
    return action.sa_sigaction == on_signal;
  if (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN)
    return false;
  sigfillset(&ours.sa_mask);
  return sigaction(number, &ours, NULL) == 0;
}

static void release_signal(int number)
{
  struct sigaction action, none = {.sa_handler = SIG_DFL};
  if (number != 0 && sigaction(number, NULL, &action) == 0 &&
      action.sa_flags & SA_SIGINFO && action.sa_sigaction == on_signal)
    sigaction(number, &none, NULL);
}

/* With the thread's mutex: the code that it runs is interrupted, if the host
 * lets us. */
static void send_signal(int number, peri__thread *thread)
{
#if defined(__GLIBC__)
  if (claim_signal(number))
    pthread_sigqueue(thread->id, number, (union sigval){.sival_ptr = thread});
#else
  (void)number, (void)thread;
#endif
}

/* -- The owner's side ------------------------------------------------------- */

/* With the mutex: takes a job back that stands in the queue or with a thread. */
static bool unqueue(thread_pool *pool, peri__job *job)
{
  peri__threads_fetch(pool);
  if (!is_queued(job))
    return false;
  peri__thread *thread = job->carrier;
  if (thread == NULL) {
    peri__node_unlink(&job->node);
    pool->queued--;
    return true;
  }
  uv_mutex_lock(&thread->mutex);
  bool queued = is_queued(job);
  if (queued) {
    peri__node_unlink(&job->node);
    thread->count--;
  }
  uv_mutex_unlock(&thread->mutex);
  return queued;
}

static bool withdraw(peri__pool *head, peri__job *job)
{
  thread_pool *pool = (thread_pool *)head;
  if (!is_queued(job))
    return false;
  uv_mutex_lock(&pool->mutex);
  bool taken = unqueue(pool, job);
  uv_mutex_unlock(&pool->mutex);
  return taken;
}

/* Those of other jobs are told. */
static void withdraw_all(peri__pool *head, peri_list *jobs)
{
  thread_pool *pool = (thread_pool *)head;
  peri_list all;
  peri__list_init(&all);
  take_all(pool, &all);
  while (!peri__list_empty(&all)) {
    peri_node *node = peri__list_shift(&all);
    peri__job *job = peri__node_job(node);
    if (job->home == head->home) {
      peri__list_push(jobs, node);
    } else {
      job->outcome = PERI__JOB_CANCELLED;
      peri__thread_job_done(pool, job);
    }
  }
}

/* With the mutex: whether one more is started for a job. Of jobs of other jobs
 * the count is not known here; the one that submits is busy in any case. */
static bool wants_thread(thread_pool *pool, const peri__job *job)
{
  return pool->started < pool->max_workers && !pool->closed &&
         (job->home->guest != NULL || pool->started < pool->head.pending);
}

/* A sleeping thread is woken; or one is started if there are fewer than jobs;
 * or those there are will see to the job. */
int peri__threads_wake(thread_pool *pool, peri__job *job)
{
  int status = 0;
  peri__thread *sleeper = NULL;
  uv_mutex_lock(&pool->mutex);
  if (pool->asleep != NULL) {
    sleeper = pop_sleeper(pool);
  } else if (wants_thread(pool, job)) {
    status = start_thread(pool, job->home->rt->debug);
    if (status != 0 && pool->started == 0)
      unqueue(pool, job);
    else
      status = 0;
  }
  uv_mutex_unlock(&pool->mutex);
  if (sleeper != NULL)
    uv_sem_post(&sleeper->wake);
  return status;
}

bool peri__threads_put(thread_pool *pool, peri__job *job)
{
  peri_node *first = atomic_load_explicit(&pool->inbox, memory_order_relaxed);
  job->carrier = NULL;
  set_state(job, PERI__JOB_QUEUED);
  do
    job->node.link.next = (peri_list *)first;
  while (!atomic_compare_exchange_weak(&pool->inbox, &first, &job->node));
  return first == NULL;
}

static int submit(peri__pool *head, peri__job *job)
{
  thread_pool *pool = (thread_pool *)head;
  if (peri__threads_put(pool, job) && atomic_load(&pool->awake) > 0)
    return 0;
  if (atomic_load(&pool->sleepers) == 0 && pool->started >= pool->max_workers)
    return 0;
  return peri__threads_wake(pool, job);
}

static bool running(peri__pool *pool, const peri__job *job)
{
  (void)pool;
  return atomic_load(&((peri__job *)job)->state) == PERI__JOB_RUNS;
}

static bool interrupt(peri__pool *head, peri__job *job, int64_t grace)
{
  (void)grace;
  thread_pool *pool = (thread_pool *)head;
  uv_mutex_lock(&pool->mutex); /* job->carrier stands still */
  peri__thread *thread = job->carrier;
  bool asked = false;
  if (thread != NULL) {
    uv_mutex_lock(&thread->mutex);
    asked = thread->current == job && running(head, job);
    if (asked) {
      peri__worker_interrupt(&thread->worker);
      send_signal(pool->setup.options.preempt_signal, thread);
      pool->signalled = true;
    }
    uv_mutex_unlock(&thread->mutex);
  }
  uv_mutex_unlock(&pool->mutex);
  return asked;
}

static void close_pool(peri__pool *head)
{
  thread_pool *pool = (thread_pool *)head;
  uv_mutex_lock(&pool->mutex);
  bool none = pool->started == 0;
  pool->closed = true;
  atomic_store(&pool->closing, true);
  while (pool->asleep != NULL)
    uv_sem_post(&pop_sleeper(pool)->wake);
  uv_mutex_unlock(&pool->mutex);
  if (none)
    atomic_store(&head->ended, true);
}

static void join(peri__pool *head)
{
  thread_pool *pool = (thread_pool *)head;
  for (; pool->joined < pool->started; pool->joined++)
    uv_thread_join(&pool->threads[pool->joined]->id);
  if (pool->signalled)
    release_signal(pool->setup.options.preempt_signal);
  pool->signalled = false;
}

static void free_pool(peri__pool *head)
{
  thread_pool *pool = (thread_pool *)head;
  PERI_CHECK(pool->joined == pool->started);
  for (unsigned i = 0; i < pool->started; i++)
    thread_free(pool->threads[i]);
  free(pool->threads);
  uv_cond_destroy(&pool->guest_done);
  uv_mutex_destroy(&pool->mutex);
  peri__worker_setup_fini(&pool->setup);
  free(pool->broken);
  free(pool);
}

static const peri__pool_ops ops = {
    .broken_class = "BrokenThreadPool",
    .threads = true,
    .submit = submit,
    .withdraw = withdraw,
    .withdraw_all = withdraw_all,
    .running = running,
    .interrupt = interrupt,
    .close = close_pool,
    .join = join,
    .close_peers = peri__thread_states_close,
    .bury = peri__thread_states_bury,
    .free = free_pool,
};

peri__pool *peri__thread_pool_new(peri__home *home, peri__worker_setup *setup,
                                  unsigned max_workers, const char *prefix)
{
  thread_pool *pool = calloc(1, sizeof *pool);
  if (pool == NULL)
    goto fail;
  if (uv_mutex_init(&pool->mutex) != 0)
    goto fail;
  if (uv_cond_init(&pool->guest_done) != 0)
    goto fail_mutex;
  pool->head.ops = &ops;
  pool->head.home = home;
  pool->setup = *setup;
  pool->max_workers = max_workers;
  snprintf(pool->prefix, sizeof pool->prefix, "%s", prefix);
  peri__list_init(&pool->queue);
  return &pool->head;

fail_mutex:
  uv_mutex_destroy(&pool->mutex);
fail:
  free(pool);
  peri__worker_setup_fini(setup);
  return NULL;
}
