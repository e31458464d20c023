/*
 * thread_pool.h: jobs for threads that each have a Lua state. The essay is in
 * thread_pool.c; worker.c runs a job, pool_lua.c is the owner's side.
 */
#ifndef PERI_THREAD_POOL_H
#define PERI_THREAD_POOL_H

#include "pool/codec.h"

/* How a job ended. */
typedef enum peri__outcome {
  PERI__JOB_FAILED,   /* no Lua value can tell: text; NULL: no memory */
  PERI__JOB_RETURNED, /* out: its results */
  PERI__JOB_RAISED,   /* out: the error, and its traceback or nil */
  PERI__JOB_STUCK,    /* it would have waited for ever: text, as above */
  PERI__JOB_BROKEN    /* the pool is broken: see peri__thread_pool_broken */
} peri__outcome;

/* Belongs to the pool from submit to take_done or withdraw, to its owner's
 * thread before and after. */
typedef struct peri__job {
  peri_node node; /* in the queue, or among those done */
  bool queued;
  peri__outcome outcome;
  peri__message in, out;
  char *text;
  const char *worker; /* the name of the one that runs it */
} peri__job;

void peri__job_free(peri__job *job);
void peri__jobs_free(peri_list *jobs);

/* -- Workers (worker.c): used by one thread each --------------------------- */

/* What every worker's state begins with; not changed once threads run. */
typedef struct peri__worker_setup {
  peri_options options;
  char *path, *cpath;        /* package.path and package.cpath */
  peri__message initializer; /* a message: function, arguments; or empty */
} peri__worker_setup;

typedef struct peri__worker {
  const peri__worker_setup *setup;
  char name[16];
  peri_runtime *rt; /* NULL: to be made for the next job */
} peri__worker;

void peri__worker_setup_fini(peri__worker_setup *setup);
/* Makes the worker's state unless it has one. 0; 1 with *text for the job that
 * wanted it; -1 with *text if the initializer failed. text is malloc's and may
 * be NULL. */
int peri__worker_open(peri__worker *worker, char **text);
void peri__worker_run(peri__worker *worker, peri__job *job);
void peri__worker_close(peri__worker *worker);

/* -- Pools ----------------------------------------------------------------- */

typedef struct peri__thread_pool peri__thread_pool;

/* deliver(L, argument) is posted to the owner when there is something for
 * take_done. Takes what setup holds, in any case. NULL: no memory. Like the
 * functions below, for the owner's thread only. */
peri__thread_pool *peri__thread_pool_new(peri_runtime *owner,
                                         peri__worker_setup *setup,
                                         unsigned max_workers,
                                         const char *prefix,
                                         peri_post_cb deliver, void *argument);

/* The queue takes the job, and a thread starts if there is room for one and
 * none is idle. 0, or a libuv error if no thread at all can be had: the job is
 * the caller's then. Not after close, nor on a broken pool. */
int peri__thread_pool_submit(peri__thread_pool *pool, peri__job *job);

/* Takes a job back, if it has not begun. */
bool peri__thread_pool_withdraw(peri__thread_pool *pool, peri__job *job);

/* Moves all jobs done since the last time, in order of ending, to the end of a
 * list. posted: called by the posted function, so that there will be another
 * post. Returns whether the pool is closed and all threads have ended; if so,
 * and posted, there will be none. */
bool peri__thread_pool_take_done(peri__thread_pool *pool, peri_list *done,
                                 bool posted);
/* Takes all that have not begun out of the queue. */
void peri__thread_pool_take_queued(peri__thread_pool *pool, peri_list *jobs);

/* No jobs will come any more: threads end when the queue is empty. */
void peri__thread_pool_close(peri__thread_pool *pool);
bool peri__thread_pool_is_closed(const peri__thread_pool *pool);

/* Blocks until the threads of a closed pool have ended. */
void peri__thread_pool_join(peri__thread_pool *pool);

/* Why the pool takes no jobs, though it is not closed; NULL: it does. Valid
 * while the pool is. */
const char *peri__thread_pool_broken(peri__thread_pool *pool);

/* The pool must have been joined, or never had a job. Jobs that nobody took are
 * freed with it. */
void peri__thread_pool_free(peri__thread_pool *pool);

#endif
