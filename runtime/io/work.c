/*
 * work.c: blocking C calls on threads of our own.
 *
 * libuv has one pool of four threads for files, names and everybody's jobs: four
 * slow look-ups and no file can be read. Here files and names have their own
 * threads each, started when there is work for them, up to four; Lua jobs have
 * theirs (pool/).
 *
 * What is done goes into one list. Who finds it empty wakes the loop, the others
 * find it on its way; so a busy loop is woken once a round. Work outstanding
 * counts as external (deadlock.c).
 *
 * A thread that reads from a pipe nobody writes to never comes back, and nothing
 * can call it: a signal would need a handler, which is the process's. So the
 * close of the runtime waits for work that ends, and after a moment leaves
 * behind what may not (`may_hang`). Hence threads, their records and the work
 * are malloc's, know nothing of the runtime while they run, and the last thread
 * out frees what is left.
 *
 * One mutex guards queues, counts and that list; nothing is locked inside. The
 * threads block all signals: those are the host's.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "io/work.h"

enum { MOST_THREADS = 4 };
static const uint64_t grace = 50 * 1000 * 1000; /* nanoseconds */
static const uint64_t look = 10 * 1000 * 1000;  /* between two looks then */

typedef struct work_thread {
  struct peri_workers *workers;
  struct work_group *group;
  uv_thread_t id;
  peri_work *work; /* what it does */
  bool left;       /* it touches nothing any more */
} work_thread;

typedef struct work_group {
  peri_list queue;
  size_t queued; /* its length */
  uv_cond_t wake;
  work_thread thread[MOST_THREADS];
  int threads;
  size_t idle; /* those that wait, woken or not */
  bool waking; /* one has been woken, and does not run yet */
} work_group;

typedef struct peri_workers {
  peri_runtime *rt; /* NULL: it has closed */
  uv_mutex_t mutex;
  uv_cond_t leave;
  work_group groups[PERI_WORK_GROUPS];
  peri_list done;
  int alive; /* threads */
  bool closing;
} peri_workers;

static const char *const thread_names[] = {"peri-files", "peri-names"};

static void free_workers(peri_workers *workers)
{
  for (int i = 0; i < PERI_WORK_GROUPS; i++)
    uv_cond_destroy(&workers->groups[i].wake);
  uv_cond_destroy(&workers->leave);
  uv_mutex_destroy(&workers->mutex);
  free(workers);
}

/* -- On the threads ---------------------------------------------------------- */

/* Whether a thread is to be woken, by uv_cond_signal without the mutex, which it
 * would have to wait for otherwise. One at a time: who comes wakes the next one,
 * so a burst of work does not cost its maker as many wake-ups. */
static bool to_wake(work_group *group)
{
  bool wake = group->idle > 0 && !group->waking;
  group->waking = group->waking || wake;
  return wake;
}

/* The mutex is held, but while the work is done. */
static void work_off(work_thread *self)
{
  peri_workers *workers = self->workers;
  work_group *group = self->group;
  while (!workers->closing && !peri__list_empty(&group->queue)) {
    peri_work *work = (peri_work *)peri__list_shift(&group->queue);
    group->queued--;
    work->queued = false;
    self->work = work;
    bool wake = group->queued > 0 && to_wake(group);
    uv_mutex_unlock(&workers->mutex);
    if (wake)
      uv_cond_signal(&group->wake);
    work->run(work);
    uv_mutex_lock(&workers->mutex);
    self->work = NULL;
    if (workers->rt == NULL) {
      work->orphaned(work);
      return;
    }
    bool first = peri__list_empty(&workers->done);
    peri__list_push(&workers->done, &work->node);
    if (!first)
      continue;
    /* A system call, which the others need not wait for; the runtime's close
     * waits for this thread. */
    peri_runtime *rt = workers->rt;
    uv_mutex_unlock(&workers->mutex);
    peri__attend_work(rt);
    uv_mutex_lock(&workers->mutex);
  }
}

static void thread_main(void *argument)
{
  work_thread *self = argument;
  peri_workers *workers = self->workers;
  work_group *group = self->group;
#if defined(__linux__)
  pthread_setname_np(pthread_self(), thread_names[group - workers->groups]);
#endif
  uv_mutex_lock(&workers->mutex);
  for (;;) {
    work_off(self);
    if (workers->closing)
      break;
    group->idle++;
    uv_cond_wait(&group->wake, &workers->mutex);
    group->idle--;
    group->waking = false;
  }
  self->left = true;
  bool last = --workers->alive == 0 && workers->rt == NULL;
  uv_cond_signal(&workers->leave);
  uv_mutex_unlock(&workers->mutex);
  if (last)
    free_workers(workers);
}

/* -- Closing -------------------------------------------------------------------- */

/* Counts the threads that have not left, and those of them that may never. */
static int count_busy(peri_workers *workers, int *hanging)
{
  int busy = 0;
  *hanging = 0;
  for (int i = 0; i < PERI_WORK_GROUPS; i++) {
    work_group *group = &workers->groups[i];
    for (int k = 0; k < group->threads; k++) {
      work_thread *thread = &group->thread[k];
      busy += !thread->left;
      *hanging += !thread->left && thread->work != NULL &&
                  atomic_load(&thread->work->may_hang);
    }
  }
  return busy;
}

static void await_threads(peri_workers *workers)
{
  uint64_t end = uv_hrtime() + grace;
  for (;;) {
    int hanging, busy = count_busy(workers, &hanging);
    if (busy == 0 || (busy == hanging && uv_hrtime() >= end))
      return;
    uv_cond_timedwait(&workers->leave, &workers->mutex, look);
  }
}

/* The code of threads that are left behind has to stay, though the library be
 * unloaded with its last state. */
static void stay_loaded(void)
{
#ifdef RTLD_NODELETE
  Dl_info info;
  if (dladdr((void *)&thread_names, &info) != 0 && info.dli_fname != NULL)
    dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
#endif
}

/* Lets go of the threads; returns how many are to be joined, in ids. */
static int sort_threads(peri_workers *workers, uv_thread_t *ids)
{
  int joined = 0;
  for (int i = 0; i < PERI_WORK_GROUPS; i++) {
    work_group *group = &workers->groups[i];
    for (int k = 0; k < group->threads; k++) {
      if (group->thread[k].left)
        ids[joined++] = group->thread[k].id;
      else
        pthread_detach(group->thread[k].id);
    }
  }
  if (workers->alive > 0)
    stay_loaded();
  return joined;
}

static void finish_all(peri_runtime *rt, peri_list *list)
{
  while (!peri__list_empty(list)) {
    peri_work *work = (peri_work *)peri__list_shift(list);
    if (!work->forgotten)
      peri__external(rt, -1);
    work->done(rt, work);
  }
}

/* The loops have closed: nobody waits any more. What has not begun never does.
 */
void peri__work_close(peri_runtime *rt)
{
  peri_workers *workers = rt->workers;
  if (workers == NULL)
    return;
  uv_thread_t ids[PERI_WORK_GROUPS * MOST_THREADS];
  peri_list undone;
  peri__list_init(&undone);
  uv_mutex_lock(&workers->mutex);
  workers->closing = true;
  for (int i = 0; i < PERI_WORK_GROUPS; i++)
    uv_cond_broadcast(&workers->groups[i].wake);
  await_threads(workers);
  int joined = sort_threads(workers, ids);
  peri__list_splice(&undone, &workers->done);
  for (int i = 0; i < PERI_WORK_GROUPS; i++)
    peri__list_splice(&undone, &workers->groups[i].queue);
  workers->rt = NULL;
  rt->workers = NULL;
  bool last = workers->alive == 0;
  uv_mutex_unlock(&workers->mutex);
  for (int i = 0; i < joined; i++)
    uv_thread_join(&ids[i]);
  if (last)
    free_workers(workers);
  finish_all(rt, &undone);
}

/* -- On the runtime's thread ------------------------------------------------------ */

static int start_thread(peri_workers *workers, work_group *group)
{
  work_thread *thread = &group->thread[group->threads];
  *thread = (work_thread){.workers = workers, .group = group};
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int code = uv_thread_create(&thread->id, thread_main, thread);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (code < 0)
    return code;
  group->threads++;
  workers->alive++;
  return 0;
}

static bool init_conditions(peri_workers *workers)
{
  if (uv_cond_init(&workers->leave) < 0)
    return false;
  for (int i = 0; i < PERI_WORK_GROUPS; i++) {
    peri__list_init(&workers->groups[i].queue);
    if (uv_cond_init(&workers->groups[i].wake) < 0) {
      while (--i >= 0)
        uv_cond_destroy(&workers->groups[i].wake);
      uv_cond_destroy(&workers->leave);
      return false;
    }
  }
  return true;
}

static peri_workers *make_workers(peri_runtime *rt)
{
  peri_workers *workers = calloc(1, sizeof *workers);
  if (workers == NULL)
    return NULL;
  workers->rt = rt;
  peri__list_init(&workers->done);
  if (uv_mutex_init(&workers->mutex) == 0) {
    if (init_conditions(workers))
      return workers;
    uv_mutex_destroy(&workers->mutex);
  }
  free(workers);
  return NULL;
}

int peri__work_submit(peri_runtime *rt, peri_work *work)
{
  if (rt->workers == NULL)
    rt->workers = make_workers(rt);
  peri_workers *workers = rt->workers;
  if (workers == NULL)
    return UV_ENOMEM;
  work_group *group = &workers->groups[work->group];
  int code = 0;
  bool wake = false;
  uv_mutex_lock(&workers->mutex);
  /* An idle thread may have been woken already, for work that still stands in
   * the queue. */
  if (group->queued >= group->idle && group->threads < MOST_THREADS)
    code = start_thread(workers, group);
  if (group->threads > 0) {
    code = 0; /* those there are will do */
    peri__list_push(&group->queue, &work->node);
    group->queued++;
    work->queued = true;
    peri__external(rt, 1);
    wake = to_wake(group);
  }
  uv_mutex_unlock(&workers->mutex);
  if (wake)
    uv_cond_signal(&group->wake);
  return code;
}

bool peri__work_withdraw(peri_runtime *rt, peri_work *work)
{
  peri_workers *workers = rt->workers;
  work_group *group = &workers->groups[work->group];
  uv_mutex_lock(&workers->mutex);
  bool found = work->queued;
  if (found) {
    peri__node_unlink(&work->node);
    group->queued--;
    work->queued = false;
  }
  uv_mutex_unlock(&workers->mutex);
  if (found)
    peri__external(rt, -1);
  return found;
}

void peri__work_forget(peri_runtime *rt, peri_work *work)
{
  work->forgotten = true;
  peri__external(rt, -1);
}

void peri__work_attend(peri_runtime *rt)
{
  peri_workers *workers = rt->workers;
  peri_list done;
  if (workers == NULL)
    return;
  peri__list_init(&done);
  uv_mutex_lock(&workers->mutex);
  peri__list_splice(&done, &workers->done);
  uv_mutex_unlock(&workers->mutex);
  finish_all(rt, &done);
}
