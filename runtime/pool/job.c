/*
 * job.c: jobs, and how they come home.
 *
 * Workers leave what they have done in a stack that needs no lock, and post only
 * when no post is under way: `posted` is set by the one who posts and cleared
 * when the home is looked at, before it takes the stack. So whoever finds it
 * set has left its job in time.
 */
#include <string.h>

#include "pool/pool.h"

void peri__job_init(peri__job *job, peri__home *home)
{
  *job = (peri__job){.home = home};
}

void peri__job_drop(peri__job *job, peri__buffer *buffer)
{
  if (buffer->data != job->room)
    peri__buffer_fini(buffer);
  *buffer = (peri__buffer){0};
}

void peri__job_fini(peri__job *job)
{
  peri__job_drop(job, &job->in);
  peri__job_drop(job, &job->out);
  free(job->text);
  job->text = NULL;
}

void peri__job_put(peri__job *job, peri__buffer *where, peri__buffer *message)
{
  if (where == &job->out)
    peri__job_drop(job, &job->in);
  peri__job_drop(job, where);
  if (message->length > PERI__JOB_ROOM) {
    *where = *message;
    *message = (peri__buffer){0};
    return;
  }
  memcpy(job->room, message->data, message->length);
  *where = (peri__buffer){job->room, message->length, PERI__JOB_ROOM};
  message->length = 0;
}

void peri__home_init(peri__home *home, peri_runtime *rt, peri_post_cb deliver,
                     void *argument)
{
  home->rt = rt;
  home->deliver = deliver;
  home->argument = argument;
  atomic_init(&home->done, NULL);
  atomic_init(&home->posted, false);
}

/* The post cannot be done without, and memory may come back: the owner waits
 * for its workers before it goes. */
void peri__home_notify(peri__home *home)
{
  if (atomic_load(&home->posted) || atomic_exchange(&home->posted, true))
    return;
  while (peri_post(home->rt, home->deliver, home->argument) == PERI_ENOMEM)
    uv_sleep(10);
}

void peri__job_done(peri__job *job)
{
  peri__home *home = job->home;
  peri_node *first = atomic_load_explicit(&home->done, memory_order_relaxed);
  atomic_store_explicit(&job->state, PERI__JOB_DONE, memory_order_relaxed);
  do
    job->node.link.next = (peri_list *)first;
  while (!atomic_compare_exchange_weak(&home->done, &first, &job->node));
  peri__home_notify(home);
}

void peri__home_take(peri__home *home, peri_list *done)
{
  atomic_store(&home->posted, false);
  peri_node *node = atomic_exchange(&home->done, NULL);
  peri_list taken; /* in front of what follows it: the last one comes first */
  peri__list_init(&taken);
  while (node != NULL) {
    peri_node *next = (peri_node *)node->link.next;
    node->link.next = taken.next;
    node->link.previous = &taken;
    taken.next->previous = &node->link;
    taken.next = &node->link;
    node = next;
  }
  peri__list_splice(done, &taken);
}
