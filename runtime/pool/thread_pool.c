/*
 * thread_pool.c: a queue of jobs and the threads that work it off.
 *
 * A job is a message (codec.h): a function and its arguments. Threads start on
 * demand, up to max_workers; each makes a runtime with a Lua state of its own
 * for its first job and keeps it until the pool is closed. So what jobs share,
 * within one worker, is its globals.
 *
 * One mutex guards the queue, the list of jobs done and the counts. A worker
 * that comes back for its next job leaves the last one in the same visit. The
 * owner is told of jobs done by one post, however many end until it looks:
 * `posted` is set by the worker that posts and cleared by take_done.
 *
 * Who may do what: everything but worker_main and what it calls runs on the
 * owner's thread. A job is touched by the worker that took it, without the
 * mutex, until it is in the list of those done. Threads count as ended only
 * when their state is gone; after that they touch nothing but the mutex, and
 * join waits for even that.
 *
 * The threads block all signals that are sent to the process: those belong to
 * the owner's loops, or the host.
 */
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "pool/thread_pool.h"

struct peri__thread_pool {
  peri_runtime *owner;
  peri_post_cb deliver;
  void *argument;
  peri__worker_setup setup;
  unsigned max_workers;
  char prefix[16];

  /* The owner's alone. */
  uv_thread_t *threads;
  unsigned started, joined;

  uv_mutex_t mutex; /* guards the rest; nothing is locked inside */
  uv_cond_t wake;   /* a job came, or the pool was closed */
  peri_list queue, done;
  size_t queued;
  unsigned idle, alive;
  bool closed, posted;
  bool is_broken;
  char *broken; /* why; may be NULL for lack of memory */
};

/* What a new thread is told; it frees it. */
typedef struct thread_start {
  peri__thread_pool *pool;
  unsigned number;
} thread_start;

/* -- Jobs ------------------------------------------------------------------ */

void peri__job_free(peri__job *job)
{
  peri__message_fini(&job->in);
  peri__message_fini(&job->out);
  free(job->text);
  free(job);
}

void peri__jobs_free(peri_list *jobs)
{
  while (!peri__list_empty(jobs))
    peri__job_free((peri__job *)peri__list_shift(jobs));
}

/* -- The workers' side ----------------------------------------------------- */

/* With the mutex: the job is done. True: the caller is to post. */
static bool leave_done(peri__thread_pool *pool, peri__job *job)
{
  bool post = !pool->posted;
  peri__list_push(&pool->done, &job->node);
  pool->posted = true;
  return post;
}

/* Without the mutex. The post cannot be done without, and memory may come back;
 * the owner waits for its threads before it goes. */
static void post(peri__thread_pool *pool)
{
  while (peri_post(pool->owner, pool->deliver, pool->argument) == PERI_ENOMEM)
    uv_sleep(10);
}

/* Leaves the job that was done last, or NULL, and waits for the next one. NULL:
 * there will be none. */
static peri__job *next_job(peri__thread_pool *pool, peri__job *last)
{
  peri__job *job = NULL;
  uv_mutex_lock(&pool->mutex);
  if (last != NULL && leave_done(pool, last)) {
    uv_mutex_unlock(&pool->mutex);
    post(pool);
    uv_mutex_lock(&pool->mutex);
  }
  while (peri__list_empty(&pool->queue) && !pool->closed) {
    pool->idle++;
    uv_cond_wait(&pool->wake, &pool->mutex);
    pool->idle--;
  }
  if (!peri__list_empty(&pool->queue)) {
    job = (peri__job *)peri__list_shift(&pool->queue);
    job->queued = false;
    pool->queued--;
  }
  uv_mutex_unlock(&pool->mutex);
  return job;
}

/* No worker can be had: this job and all that wait fail. Takes the text. */
static void break_pool(peri__thread_pool *pool, peri__job *job, char *text)
{
  uv_mutex_lock(&pool->mutex);
  if (pool->is_broken)
    free(text);
  else
    pool->broken = text;
  pool->is_broken = true;
  job->outcome = PERI__JOB_BROKEN;
  while (!peri__list_empty(&pool->queue)) {
    peri__job *waiting = (peri__job *)peri__list_shift(&pool->queue);
    waiting->queued = false;
    waiting->outcome = PERI__JOB_BROKEN;
    peri__list_push(&pool->done, &waiting->node);
  }
  pool->queued = 0;
  uv_mutex_unlock(&pool->mutex);
}

static void do_job(peri__thread_pool *pool, peri__worker *worker,
                   peri__job *job)
{
  char *text = NULL;
  int status = peri__worker_open(worker, &text);
  if (status == 0) {
    peri__worker_run(worker, job);
  } else if (status < 0) {
    break_pool(pool, job, text);
  } else {
    job->outcome = PERI__JOB_FAILED;
    job->text = text;
  }
}

/* The last of a closed pool's threads tells the owner. */
static void end_thread(peri__thread_pool *pool)
{
  uv_mutex_lock(&pool->mutex);
  bool last = --pool->alive == 0 && pool->closed && !pool->posted;
  pool->posted = pool->posted || last;
  uv_mutex_unlock(&pool->mutex);
  if (last)
    post(pool);
}

/* "peri-3", in the 15 bytes that the system shows. */
static void name_thread(peri__worker *worker, const char *prefix,
                        unsigned number)
{
  char digits[12];
  int n = snprintf(digits, sizeof digits, "-%u", number);
  snprintf(worker->name, sizeof worker->name, "%.*s%s", 15 - n, prefix, digits);
#if defined(__linux__)
  pthread_setname_np(pthread_self(), worker->name);
#elif defined(__APPLE__)
  pthread_setname_np(worker->name);
#endif
}

static void worker_main(void *argument)
{
  thread_start start = *(thread_start *)argument;
  peri__thread_pool *pool = start.pool;
  peri__worker worker = {.setup = &pool->setup};
  peri__job *job = NULL;
  free(argument);
  name_thread(&worker, pool->prefix, start.number);
  while ((job = next_job(pool, job)) != NULL)
    do_job(pool, &worker, job);
  peri__worker_close(&worker);
  end_thread(pool);
}

/* -- The owner's side ------------------------------------------------------ */

peri__thread_pool *peri__thread_pool_new(peri_runtime *owner,
                                         peri__worker_setup *setup,
                                         unsigned max_workers,
                                         const char *prefix,
                                         peri_post_cb deliver, void *argument)
{
  peri__thread_pool *pool = calloc(1, sizeof *pool);
  if (pool == NULL)
    goto fail;
  if (uv_mutex_init(&pool->mutex) != 0)
    goto fail;
  if (uv_cond_init(&pool->wake) != 0) {
    uv_mutex_destroy(&pool->mutex);
    goto fail;
  }
  pool->owner = owner;
  pool->deliver = deliver;
  pool->argument = argument;
  pool->setup = *setup;
  pool->max_workers = max_workers;
  snprintf(pool->prefix, sizeof pool->prefix, "%s", prefix);
  peri__list_init(&pool->queue);
  peri__list_init(&pool->done);
  return pool;
fail:
  free(pool);
  peri__worker_setup_fini(setup);
  return NULL;
}

/* Signals that tell of a mistake of the thread itself stay open. */
static void block_signals(sigset_t *old)
{
  static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
  sigset_t set;
  sigfillset(&set);
  for (size_t i = 0; i < sizeof own / sizeof *own; i++)
    sigdelset(&set, own[i]);
  pthread_sigmask(SIG_SETMASK, &set, old);
}

static int start_thread(peri__thread_pool *pool)
{
  size_t size = (pool->started + 1) * sizeof *pool->threads;
  uv_thread_t *threads = realloc(pool->threads, size);
  if (threads == NULL)
    return UV_ENOMEM;
  pool->threads = threads;
  thread_start *start = malloc(sizeof *start);
  if (start == NULL)
    return UV_ENOMEM;
  *start = (thread_start){pool, pool->started};
  sigset_t old;
  uv_mutex_lock(&pool->mutex);
  pool->alive++;
  uv_mutex_unlock(&pool->mutex);
  block_signals(&old);
  int status = uv_thread_create(&threads[pool->started], worker_main, start);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (status == 0) {
    pool->started++;
    return 0;
  }
  free(start);
  uv_mutex_lock(&pool->mutex);
  pool->alive--;
  uv_mutex_unlock(&pool->mutex);
  return status;
}

int peri__thread_pool_submit(peri__thread_pool *pool, peri__job *job)
{
  uv_mutex_lock(&pool->mutex);
  peri__list_push(&pool->queue, &job->node);
  job->queued = true;
  pool->queued++;
  bool start = pool->queued > pool->idle && pool->started < pool->max_workers;
  if (pool->idle > 0)
    uv_cond_signal(&pool->wake);
  uv_mutex_unlock(&pool->mutex);
  int status = start ? start_thread(pool) : 0;
  /* The threads there are will do it. */
  if (status == 0 || pool->started > 0)
    return 0;
  peri__thread_pool_withdraw(pool, job);
  return status;
}

bool peri__thread_pool_withdraw(peri__thread_pool *pool, peri__job *job)
{
  uv_mutex_lock(&pool->mutex);
  bool queued = job->queued;
  if (queued) {
    peri__node_unlink(&job->node);
    job->queued = false;
    pool->queued--;
  }
  uv_mutex_unlock(&pool->mutex);
  return queued;
}

bool peri__thread_pool_take_done(peri__thread_pool *pool, peri_list *done,
                                 bool posted)
{
  uv_mutex_lock(&pool->mutex);
  peri__list_splice(done, &pool->done);
  if (posted)
    pool->posted = false;
  bool ended = pool->closed && pool->alive == 0;
  uv_mutex_unlock(&pool->mutex);
  return ended;
}

void peri__thread_pool_take_queued(peri__thread_pool *pool, peri_list *jobs)
{
  uv_mutex_lock(&pool->mutex);
  while (!peri__list_empty(&pool->queue)) {
    peri__job *job = (peri__job *)peri__list_shift(&pool->queue);
    job->queued = false;
    peri__list_push(jobs, &job->node);
  }
  pool->queued = 0;
  uv_mutex_unlock(&pool->mutex);
}

void peri__thread_pool_close(peri__thread_pool *pool)
{
  uv_mutex_lock(&pool->mutex);
  pool->closed = true;
  uv_cond_broadcast(&pool->wake);
  uv_mutex_unlock(&pool->mutex);
}

bool peri__thread_pool_is_closed(const peri__thread_pool *pool)
{
  return pool->closed; /* written by this thread only */
}

void peri__thread_pool_join(peri__thread_pool *pool)
{
  for (; pool->joined < pool->started; pool->joined++)
    uv_thread_join(&pool->threads[pool->joined]);
}

const char *peri__thread_pool_broken(peri__thread_pool *pool)
{
  uv_mutex_lock(&pool->mutex);
  const char *text = pool->broken ? pool->broken : "not enough memory";
  if (!pool->is_broken)
    text = NULL;
  uv_mutex_unlock(&pool->mutex);
  return text;
}

void peri__thread_pool_free(peri__thread_pool *pool)
{
  PERI_CHECK(pool->joined == pool->started);
  peri__jobs_free(&pool->queue);
  peri__jobs_free(&pool->done);
  uv_cond_destroy(&pool->wake);
  uv_mutex_destroy(&pool->mutex);
  peri__worker_setup_fini(&pool->setup);
  free(pool->threads);
  free(pool->broken);
  free(pool);
}
