/*
 * thread_pool.h: what the parts of a pool of threads share: its owner and its
 * threads (thread_pool.c), their states (thread_state.c), and the side of its
 * jobs (thread_guest.c).
 */
#ifndef PERI_THREAD_POOL_H
#define PERI_THREAD_POOL_H

#include "pool/worker.h"

typedef struct peri__thread_pool peri__thread_pool;

/* The state of a thread, as the owner sees it. */
typedef struct peri__thread_state {
  peri__peer peer; /* the owner's thread */
  struct peri__thread *thread;
  struct peri__thread_state *next; /* of those that have gone */
} peri__thread_state;

/* A thread. Locked inside the pool's mutex, or alone. */
typedef struct peri__thread {
  peri__thread_pool *pool;
  uv_thread_t id;
  peri__worker worker;
  peri__home home; /* for notes to worker.rt */
  uv_sem_t wake;   /* when it is asleep no more */
  peri__patience patience;

  /* Guarded by the pool's mutex, and only written by the thread itself. */
  peri__rest_kind rests; /* its job waits for others of this pool only */
  bool leaves; /* its state closes, and waits for what its jobs submitted */
  bool ended;
  struct peri__thread *below; /* that sleeps, too */

  uv_mutex_t mutex; /* guards the rest, and worker.rt; inside of it only the
                       mutex of a runtime's posts is locked */
  peri__thread_state *state; /* worker.rt, or what that will be; or NULL */
  peri__job *current;        /* the one that has begun last */
  peri_list mine; /* jobs taken and not begun; job->carrier is this thread */
  size_t count;
} peri__thread;

struct peri__thread_pool {
  peri__pool head;
  peri__worker_setup setup;
  unsigned max_workers;
  char prefix[16];
  unsigned joined; /* the owner's */
  bool signalled;  /* has sent its signal */
  char *broken;    /* what head.broken points to, unless that is static */
  peri__thread_state *leaving;        /* the owner's: that have gone */
  _Atomic(peri__thread_state *) gone; /* and the owner does not know it yet */

  char apart[PERI__LINE];
  _Atomic(peri_node *) inbox; /* the last one first, linked by link.next */
  char apart_too[PERI__LINE];
  /* Written with the mutex. */
  atomic_uint sleepers; /* as many as are asleep */
  atomic_bool closing;
  atomic_uint started;
  atomic_uint awake; /* who have no job, and look at the inbox without a lock */

  char apart_again[PERI__LINE];
  uv_mutex_t mutex; /* guards the rest; threads' mutexes are locked inside */
  uv_cond_t guest_done; /* a guest has got all of its jobs back */
  peri__thread **threads;
  peri__thread *asleep; /* linked by below */
  unsigned alive;
  peri_list queue; /* job->carrier is NULL */
  size_t queued;
  bool closed;
};

/* -- thread_pool.c ----------------------------------------------------------- */

/* With the mutex: what was submitted stands in the queue. */
void peri__threads_fetch(peri__thread_pool *pool);
/* Puts a job into the inbox. Returns whether that was empty. */
bool peri__threads_put(peri__thread_pool *pool, peri__job *job);
/* Some thread will see to a job of the inbox. 0, or a libuv error: there is none,
 * and the job is the caller's again. */
int peri__threads_wake(peri__thread_pool *pool, peri__job *job);

/* -- thread_state.c ---------------------------------------------------------- */

/* What stands for the thread's state at the owner's, or NULL. */
static inline peri__peer *peri__thread_peer(const peri__thread *thread)
{
  return thread->state != NULL ? &thread->state->peer : NULL;
}

/* The thread has no state: what was left for the one before is lost. The one to
 * come begins with this job. False: no memory. */
bool peri__thread_state_renew(peri__thread *thread, peri__job *job);
/* The state has gone, and all that it had for the owner is at home. */
void peri__thread_state_part(peri__thread *thread);
/* The pool's bury and close_peers. */
void peri__thread_states_bury(peri__pool *head, lua_State *L);
void peri__thread_states_close(peri__pool *head, lua_State *L);
/* The worker's send, and its home's deliver. */
int peri__thread_send_to_owner(peri__peer *peer, peri__message *note);
void peri__thread_read_notes(lua_State *L, void *argument);

/* -- thread_guest.c ----------------------------------------------------------- */

/* The worker's own_pool. */
peri__pool *peri__thread_guest_new(peri__worker *worker, peri__home *home);
/* A job has ended: it goes home. */
void peri__thread_job_done(peri__thread_pool *pool, peri__job *job);

#endif
