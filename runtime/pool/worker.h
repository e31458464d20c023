/*
 * worker.h: what a worker does with a job, whatever carries it. The essay is in
 * worker.c. Each worker belongs to one thread.
 */
#ifndef PERI_WORKER_H
#define PERI_WORKER_H

#include <limits.h>

#include "pool/pool.h"

/* What every worker's state begins with; not changed once workers run. */
typedef struct peri__worker_setup {
  peri_options options;
  char *path, *cpath;        /* package.path and package.cpath */
  peri__message initializer; /* function, arguments; or empty */
} peri__worker_setup;

typedef struct peri__worker {
  const peri__worker_setup *setup;
  char name[16];    /* "peri-3" */
  const char *kind; /* "thread" or "process", for messages */
  /* NULL: to be made for the next job. Changes with the guard locked, if there is
   * one, so that another thread that has locked it can interrupt a job. */
  peri_runtime *rt;
  uv_mutex_t *guard;
  bool debug;        /* in debug mode, whatever the setup says */
  atomic_bool asked; /* the job is to end */
  /* Leaves a job that has returned where it belongs, and gives another one,
   * which has begun; NULL, and nothing is done: none can be had at once. */
  peri__job *(*next)(struct peri__worker *worker, peri__job *done);
  peri__job *job;       /* that runs */
  peri__message out;    /* results are encoded here */
  peri__blocks *blocks; /* where they grow large, or NULL */
  peri__peer peer;      /* the owner, as this state sees it */
  int (*send)(peri__peer *peer, peri__message *note); /* the peer's */
  /* Makes the pool of this worker, as its jobs see it, with the home of those
   * that they submit; it is owned by this state. NULL: no memory. */
  peri__pool *(*own_pool)(struct peri__worker *worker, peri__home *home);
  bool exited; /* a job, or what it left behind, has called os.exit */
  int exit_code;
} peri__worker;

void peri__worker_setup_fini(peri__worker_setup *setup);
/* Makes the worker's state unless it has one. 0; 1 with *text for the job that
 * wanted it; -1 with *text if the initializer failed. text is malloc's and may
 * be NULL. */
int peri__worker_open(peri__worker *worker, char **text);
/* Does the job, and those that `next` gives. Returns the last of them: its
 * outcome, and out or text, are there. */
peri__job *peri__worker_run(peri__worker *worker, peri__job *job);
void peri__worker_close(peri__worker *worker);
/* The worker whose state this is; NULL: it is not a worker's. */
peri__worker *peri__worker_of(lua_State *L);

/* The job that has begun is to end: before it runs, or at its next wait. With the
 * guard locked. */
void peri__worker_interrupt(peri__worker *worker);
/* In a signal handler on the worker's thread: it is to end here and now. */
void peri__worker_preempt(peri__worker *worker);
/* Another job begins: what was asked comes too late. With the guard locked, on
 * the worker's thread. */
void peri__worker_settle(peri__worker *worker);

/* -- Between jobs --------------------------------------------------------------- */

/* A worker without a job that got its last one soon looks for the next one before
 * it sleeps, and lets others run meanwhile. It looks for about as long as it
 * takes to sleep and to be woken, on both sides, and after longer work for longer;
 * the job that comes within that time has come soon. Where others do run on its
 * processor, the one that it waits for may be among them, and it would be in its
 * way: then it does not look the next times, and twice as often each time that
 * it finds this again. */
enum {
  PERI__LEAST_PATIENCE = 50000, /* nanoseconds */
  PERI__MOST_PATIENCE = 200000,
  PERI__CROWD = 4000,        /* of a call that lets nobody run, at most */
  PERI__LEAST_RESTRAINT = 4, /* times */
  PERI__MOST_RESTRAINT = 256
};

typedef struct peri__patience {
  bool expects; /* the last job came soon */
  bool looks;   /* and the one to come is looked for */
  unsigned
      setback; /* the times that it was not to look when it was last told */
  unsigned restraint; /* those that are left; UINT_MAX: for ever */
  uint64_t since;     /* that it has a job, or none */
  uint64_t limit;
} peri__patience;

/* Where one thread runs at a time nobody need look. */
static inline peri__patience peri__patience_new(void)
{
  bool parallel = uv_available_parallelism() > 1;
  return (peri__patience){.restraint = parallel ? 0 : UINT_MAX};
}

/* There is no job. When to sleep, as uv_hrtime; at spin nanoseconds at least. */
static inline uint64_t peri__patience_begin(peri__patience *this, uint64_t spin)
{
  uint64_t now = uv_hrtime(), limit = 2 * (now - this->since);
  this->looks = this->expects && this->restraint == 0;
  if (this->restraint > 0 && this->restraint < UINT_MAX)
    this->restraint--;
  this->since = now;
  this->limit = limit < PERI__LEAST_PATIENCE  ? PERI__LEAST_PATIENCE
                : limit > PERI__MOST_PATIENCE ? PERI__MOST_PATIENCE
                                              : limit;
  return now + (this->looks && spin < this->limit ? this->limit : spin);
}

/* Lets others run. False: somebody did. */
static inline bool peri__patience_yield(peri__patience *this)
{
  uint64_t start = uv_hrtime();
  sched_yield();
  if (uv_hrtime() - start < PERI__CROWD)
    return true;
  this->looks = false;
  this->setback = this->setback == 0                     ? PERI__LEAST_RESTRAINT
                  : this->setback < PERI__MOST_RESTRAINT ? 2 * this->setback
                                                         : this->setback;
  this->restraint = this->setback;
  return false;
}

/* There is one. */
static inline void peri__patience_end(peri__patience *this)
{
  uint64_t now = uv_hrtime();
  this->expects = now - this->since < this->limit;
  if (this->expects && this->looks)
    this->setback = 0;
  this->since = now;
}

/* -- Kinds of pools --------------------------------------------------------- */

/* A pool of threads. Takes what setup holds, in any case. The prefix is that of
 * the threads' names. NULL: no memory. */
peri__pool *peri__thread_pool_new(peri__home *home, peri__worker_setup *setup,
                                  unsigned max_workers, const char *prefix);

#endif
