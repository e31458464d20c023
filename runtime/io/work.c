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
 * One mutex guards queues, counts and that list; nothing is locked inside. The
 * threads block all signals: those are the host's.
 */
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "io/work.h"

enum { MOST_THREADS = 4 };

typedef struct work_group {
  peri_list queue;
  uv_cond_t wake;
  uv_thread_t thread[MOST_THREADS];
  int threads, idle;
} work_group;

typedef struct peri_workers {
  peri_runtime *rt;
  uv_mutex_t mutex;
  work_group groups[PERI_WORK_GROUPS];
  peri_list done;
  bool closing;
} peri_workers;

typedef struct thread_start {
  peri_workers *workers;
  work_group *group;
} thread_start;

static const char *const thread_names[] = {"peri-files", "peri-names"};

/* -- On the threads ---------------------------------------------------------- */

static void work_off(peri_workers *workers, work_group *group)
{
  while (!peri__list_empty(&group->queue)) {
    peri_work *work = (peri_work *)peri__list_shift(&group->queue);
    uv_mutex_unlock(&workers->mutex);
    work->run(work);
    uv_mutex_lock(&workers->mutex);
    bool first = peri__list_empty(&workers->done);
    peri__list_push(&workers->done, &work->node);
    if (first)
      peri__attend_work(workers->rt);
  }
}

static void thread_main(void *argument)
{
  thread_start start = *(thread_start *)argument;
  peri_workers *workers = start.workers;
  free(argument);
#if defined(__linux__)
  pthread_setname_np(pthread_self(),
                     thread_names[start.group - workers->groups]);
#endif
  uv_mutex_lock(&workers->mutex);
  while (!workers->closing) {
    work_off(workers, start.group);
    if (workers->closing)
      break;
    start.group->idle++;
    uv_cond_wait(&start.group->wake, &workers->mutex);
    start.group->idle--;
  }
  uv_mutex_unlock(&workers->mutex);
}

/* -- On the runtime's thread ------------------------------------------------------ */

static int start_thread(peri_workers *workers, work_group *group)
{
  thread_start *start = malloc(sizeof *start);
  if (start == NULL)
    return UV_ENOMEM;
  *start = (thread_start){workers, group};
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int code =
      uv_thread_create(&group->thread[group->threads], thread_main, start);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (code < 0)
    free(start);
  else
    group->threads++;
  return code;
}

static void free_workers(peri_workers *workers)
{
  for (int i = 0; i < PERI_WORK_GROUPS; i++)
    uv_cond_destroy(&workers->groups[i].wake);
  uv_mutex_destroy(&workers->mutex);
  peri__realloc(workers->rt, workers, sizeof *workers, 0);
}

static void finish_all(peri_workers *workers, peri_list *list)
{
  while (!peri__list_empty(list)) {
    peri_work *work = (peri_work *)peri__list_shift(list);
    peri__external(workers->rt, -1);
    work->done(workers->rt, work);
  }
}

/* The loops have closed: nobody waits any more. What has not begun never does.
 */
void peri__work_close(peri_runtime *rt)
{
  peri_workers *workers = rt->workers;
  if (workers == NULL)
    return;
  uv_mutex_lock(&workers->mutex);
  workers->closing = true;
  for (int i = 0; i < PERI_WORK_GROUPS; i++)
    uv_cond_broadcast(&workers->groups[i].wake);
  uv_mutex_unlock(&workers->mutex);
  for (int i = 0; i < PERI_WORK_GROUPS; i++)
    for (int k = 0; k < workers->groups[i].threads; k++)
      uv_thread_join(&workers->groups[i].thread[k]);
  finish_all(workers, &workers->done);
  for (int i = 0; i < PERI_WORK_GROUPS; i++)
    finish_all(workers, &workers->groups[i].queue);
  rt->workers = NULL;
  free_workers(workers);
}

static peri_workers *make_workers(peri_runtime *rt)
{
  peri_workers *workers = peri__realloc(rt, NULL, 0, sizeof *workers);
  if (workers == NULL)
    return NULL;
  memset(workers, 0, sizeof *workers);
  workers->rt = rt;
  peri__list_init(&workers->done);
  int made = 0;
  bool failed = uv_mutex_init(&workers->mutex) < 0;
  for (; made < PERI_WORK_GROUPS && !failed; made++) {
    peri__list_init(&workers->groups[made].queue);
    if (uv_cond_init(&workers->groups[made].wake) < 0)
      failed = true;
  }
  if (!failed)
    return workers;
  peri__realloc(rt, workers, sizeof *workers, 0);
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
  uv_mutex_lock(&workers->mutex);
  if (group->idle == 0 && group->threads < MOST_THREADS)
    code = start_thread(workers, group);
  if (group->threads > 0) {
    code = 0; /* those there are will do */
    peri__list_push(&group->queue, &work->node);
    peri__external(rt, 1);
    if (group->idle > 0)
      uv_cond_signal(&group->wake);
  }
  uv_mutex_unlock(&workers->mutex);
  return code;
}

bool peri__work_withdraw(peri_runtime *rt, peri_work *work)
{
  peri_workers *workers = rt->workers;
  work_group *group = &workers->groups[work->group];
  bool found = false;
  uv_mutex_lock(&workers->mutex);
  peri_list *link = group->queue.next;
  for (; link != &group->queue && !found; link = link->next)
    found = link == &work->node.link;
  if (found)
    peri__node_unlink(&work->node);
  uv_mutex_unlock(&workers->mutex);
  if (found)
    peri__external(rt, -1);
  return found;
}

void peri__work_attend(peri_runtime *rt)
{
  peri_workers *workers = rt->workers;
  peri_list done;
  peri__list_init(&done);
  uv_mutex_lock(&workers->mutex);
  peri__list_splice(&done, &workers->done);
  uv_mutex_unlock(&workers->mutex);
  while (!peri__list_empty(&done)) {
    peri_work *work = (peri_work *)peri__list_shift(&done);
    peri__external(rt, -1);
    work->done(rt, work);
  }
}
