/*
 * work.c: blocking C calls on threads of our own.
 *
 * libuv has one pool of four threads for files, names and everybody's jobs: four
 * slow look-ups and no file can be read. Here files and names have their own
 * threads each, started when there is work for them; Lua jobs have theirs (pool/).
 *
 * Four of a group work at a time: more would only be in each other's way. But work
 * may get stuck, in a pipe that nobody opens or a server that does not answer, and
 * four such jobs must not stop the others. So while work stands in the queue one
 * thread more looks at those four now and then. What has not ended between two
 * looks is stuck: it does not count any more, and another thread takes its turn.
 * Threads that are too many after that leave.
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

/* Of a group: how many work at a time, besides those that are stuck; and how many
 * there are at most. */
enum { WORKING_THREADS = 4, MOST_THREADS = 64 };
/* Nanoseconds. */
static const uint64_t grace = 50 * 1000 * 1000; /* at the runtime's close */
static const uint64_t leave_look =
    10 * 1000 * 1000; /* between two looks then */
static const uint64_t stuck_look = 20 * 1000 * 1000;
static const uint64_t idle_time = (uint64_t)10 * 1000 * 1000 * 1000;

typedef struct work_thread {
  struct peri_workers *workers;
  struct work_group *group;
  uv_thread_t id;
  peri_work *work; /* what it does */
  bool seen;       /* that was so at the last look */
  bool stuck;      /* and at the one before */
  bool started;
  bool left; /* it touches nothing any more */
} work_thread;

typedef struct work_group {
  peri_list queue;
  size_t queued; /* its length */
  uv_cond_t wake;
  work_thread thread[MOST_THREADS];
  int threads; /* that have been started and have not left */
  int working;
  int stuck;    /* of those that work */
  size_t idle;  /* those that wait, woken or not */
  bool waking;  /* one has been woken, and does not run yet */
  bool watched; /* one of them looks at those that work */
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

/* -- Starting threads -------------------------------------------------------- */

static void thread_main(void *argument);

static work_thread *free_slot(work_group *group)
{
  work_thread *thread = group->thread;
  while (thread->started && !thread->left)
    thread++;
  if (thread->left)
    uv_thread_join(&thread->id); /* it has nothing more to do */
  return thread;
}

static int start_thread(peri_workers *workers, work_group *group)
{
  work_thread *thread = free_slot(group);
  *thread = (work_thread){.workers = workers, .group = group};
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int code = uv_thread_create(&thread->id, thread_main, thread);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (code < 0)
    return code;
  thread->started = true;
  group->threads++;
  workers->alive++;
  return 0;
}

/* Starts a thread if more work stands in the queue, or is about to, than threads
 * are idle: they may have been woken already for what stands there. One more than
 * can work, which watches. */
static int add_thread(peri_workers *workers, work_group *group, size_t queued)
{
  if (queued <= group->idle || group->threads == MOST_THREADS ||
      group->threads - group->stuck > WORKING_THREADS)
    return 0;
  return start_thread(workers, group);
}

/* -- On the threads ---------------------------------------------------------- */

static bool has_room(const work_group *group)
{
  return group->working - group->stuck < WORKING_THREADS;
}

/* Whether a thread is to be woken, by uv_cond_signal without the mutex, which it
 * would have to wait for otherwise. One at a time: who comes wakes the next one,
 * so a burst of work does not cost its maker as many wake-ups. */
static bool to_wake(work_group *group)
{
  bool wake =
      group->idle > 0 && !group->waking && (has_room(group) || !group->watched);
  group->waking = group->waking || wake;
  return wake;
}

static void begin_work(work_thread *self)
{
  work_group *group = self->group;
  peri_work *work = (peri_work *)peri__list_shift(&group->queue);
  group->queued--;
  work->queued = false;
  self->work = work;
  self->seen = false;
}

static void end_work(work_thread *self)
{
  self->work = NULL;
  self->group->stuck -= self->stuck;
  self->stuck = false;
}

/* False: the runtime has closed. The mutex is held, but while it is done. */
static bool do_work(work_thread *self)
{
  peri_workers *workers = self->workers;
  work_group *group = self->group;
  begin_work(self);
  peri_work *work = self->work;
  add_thread(workers, group, group->queued);
  bool wake = group->queued > 0 && to_wake(group);
  uv_mutex_unlock(&workers->mutex);
  if (wake)
    uv_cond_signal(&group->wake);
  work->run(work);
  uv_mutex_lock(&workers->mutex);
  end_work(self);
  if (workers->rt == NULL) {
    work->orphaned(work);
    return false;
  }
  bool first = peri__list_empty(&workers->done);
  peri__list_push(&workers->done, &work->node);
  if (first) {
    /* A system call, which the others need not wait for; the runtime's close
     * waits for this thread. */
    peri_runtime *rt = workers->rt;
    uv_mutex_unlock(&workers->mutex);
    peri__attend_work(rt);
    uv_mutex_lock(&workers->mutex);
  }
  return true;
}

static void work_off(work_thread *self)
{
  work_group *group = self->group;
  while (!self->workers->closing && !peri__list_empty(&group->queue) &&
         has_room(group)) {
    group->working++;
    bool go_on = do_work(self);
    group->working--;
    if (!go_on)
      return;
  }
}

/* Finds out who is stuck. */
static void look_at(work_group *group)
{
  for (int i = 0; i < MOST_THREADS; i++) {
    work_thread *thread = &group->thread[i];
    if (thread->work == NULL || thread->stuck)
      continue;
    thread->stuck = thread->seen;
    group->stuck += thread->stuck;
    thread->seen = true;
  }
}

static void watch(work_thread *self)
{
  work_group *group = self->group;
  group->watched = true;
  /* If it is woken there is work for it, and too little time has gone by. */
  int code = uv_cond_timedwait(&group->wake, &self->workers->mutex, stuck_look);
  group->watched = false;
  if (code == UV_ETIMEDOUT)
    look_at(group);
}

/* True: there was nothing to do for long, and other threads will do. */
static bool rest(work_thread *self)
{
  work_group *group = self->group;
  uv_mutex_t *mutex = &self->workers->mutex;
  if (group->threads <= WORKING_THREADS + 1) {
    uv_cond_wait(&group->wake, mutex);
    return false;
  }
  return uv_cond_timedwait(&group->wake, mutex, idle_time) == UV_ETIMEDOUT &&
         peri__list_empty(&group->queue) &&
         group->threads > WORKING_THREADS + 1;
}

static bool stay_idle(work_thread *self)
{
  work_group *group = self->group;
  bool leave = false;
  group->idle++;
  if (!peri__list_empty(&group->queue) && !group->watched)
    watch(self);
  else
    leave = rest(self);
  group->idle--;
  group->waking = false;
  return !leave;
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
  do
    work_off(self);
  while (!workers->closing && stay_idle(self));
  self->left = true;
  group->threads--;
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
    for (int k = 0; k < MOST_THREADS; k++) {
      work_thread *thread = &group->thread[k];
      if (!thread->started || thread->left)
        continue;
      busy++;
      *hanging += thread->work != NULL && atomic_load(&thread->work->may_hang);
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
    uv_cond_timedwait(&workers->leave, &workers->mutex, leave_look);
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
    for (int k = 0; k < MOST_THREADS; k++) {
      if (!group->thread[k].started)
        continue;
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
  bool wake = false;
  uv_mutex_lock(&workers->mutex);
  int code = add_thread(workers, group, group->queued + 1);
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
