/*
 * pool.h: jobs and pools: the seam between those who submit jobs (executor.c,
 * the owner's side) and what carries them: threads (thread_pool.c) or processes
 * (process_pool.c).
 *
 * A job is a message in (codec.h: a function and its arguments), an outcome, and
 * a message out. Its memory is the submitter's, who frees both messages. A carrier
 * has it from submit until it passes it to peri__job_done, or until withdraw
 * gives it back; then it touches it no more.
 */
#ifndef PERI_POOL_H
#define PERI_POOL_H

#include <sched.h>

#include "pool/codec.h"

enum { PERI__LOOKS = 128 };

/* Between two looks, this one's number is n, at what another thread is to
 * change. That one may have no processor but this: it gets it once in
 * PERI__LOOKS, which is longer than news take that come from another one. */
static inline void peri__relax(unsigned n)
{
  if (n % PERI__LOOKS == PERI__LOOKS - 1) {
    sched_yield();
    return;
  }
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* How a job ended. */
typedef enum peri__outcome {
  PERI__JOB_FAILED,    /* no Lua value can tell: text; NULL: no memory */
  PERI__JOB_RETURNED,  /* out: its results */
  PERI__JOB_RAISED,    /* out: the error, and its traceback or nil */
  PERI__JOB_CANCELLED, /* it was interrupted */
  PERI__JOB_BROKEN     /* its worker died: text; NULL: the pool is broken, its
                          `broken` tells why */
} peri__outcome;

/* What its carrier knows of a job. */
typedef enum peri__job_state {
  PERI__JOB_QUEUED,
  PERI__JOB_RUNS, /* a worker has taken it */
  PERI__JOB_DONE
} peri__job_state;

enum {
  PERI__JOB_ROOM = 48,
  PERI__LINE = 64 /* bytes that a processor takes from another one at once */
};

typedef struct peri__home peri__home;

typedef struct peri__job {
  peri_node node;     /* the carrier's; home's when it is done */
  peri__home *home;   /* where it comes back to */
  void *carrier;      /* whatever the carrier needs */
  atomic_uchar state; /* peri__job_state */
  uint8_t outcome;    /* peri__outcome */
  uint16_t retries;   /* may be tried so often again if its worker dies */
  bool lent;          /* chunk_room is, see peri__chunk_lend */
  bool relayed; /* a job in another process has submitted it: what it comes to
                   goes there by way of the owner, who does not read it */
  peri__message in, out;       /* for reading; see peri__job_put */
  char *text;                  /* malloc's */
  struct peri__worker *worker; /* that runs it */
  peri__peer *peer; /* the home's, of the worker that did it; NULL: none */
  /* For small messages: in, and once there is one, out. */
  peri__chunk *chunk_room;
  char room[PERI__JOB_ROOM];
} peri__job;

static inline peri__job *peri__node_job(peri_node *node)
{
  return (peri__job *)((char *)node - offsetof(peri__job, node));
}

void peri__job_init(peri__job *job, peri__home *home);
void peri__job_fini(peri__job *job);

/* Moves a message into job->in or, which may cost it the bytes of that,
 * job->out: of a small one the content, of others the memory. The message is
 * empty afterwards. Does not fail. */
void peri__job_put(peri__job *job, peri__message *where,
                   peri__message *message);

/* Room for a small message without chunks in job->out, where none is yet, and which
 * may cost it the bytes of job->in. */
static inline char *peri__job_out(peri__job *job, size_t length)
{
  if (job->in.bytes.data == job->room)
    job->in.bytes = (peri__buffer){0};
  job->out.bytes = (peri__buffer){
      .data = job->room, .length = length, .capacity = PERI__JOB_ROOM};
  return job->room;
}

/* The same with n values, from index first on, if they are few and without parts.
 * False, and nothing is there: use encode. */
static inline bool peri__job_put_values(lua_State *L, peri__job *job, int first,
                                        int n)
{
  char *room = peri__job_out(job, 0);
  size_t length = peri__encode_small(L, first, n, room, PERI__JOB_ROOM);
  if (peri_likely(length > 0))
    job->out.bytes.length = length;
  else
    job->out.bytes = (peri__buffer){0};
  return length > 0;
}

/* The same with a function and its arguments, into job->in. */
static inline bool peri__job_put_call(lua_State *L, peri_runtime *rt,
                                      peri__job *job, int first, int n)
{
  size_t length = peri__encode_small_call(L, rt, first, n, job->room,
                                          PERI__JOB_ROOM, &job->chunk_room);
  if (length == 0)
    return false;
  job->in.bytes = (peri__buffer){
      .data = job->room, .length = length, .capacity = PERI__JOB_ROOM};
  job->in.chunks = &job->chunk_room;
  job->in.chunk_count = job->in.chunk_capacity = 1;
  job->lent = true;
  return true;
}

/* -- Where jobs come back to ----------------------------------------------- */

/* A note of a peer's on its way (codec.h). */
typedef struct peri__note {
  struct peri__note *next;
  peri__peer *peer; /* the receiver's */
  peri__message message;
} peri__note;

/* One for each runtime that submits to a pool. */
struct peri__home {
  peri_runtime *rt;
  peri_post_cb deliver; /* is posted to rt when there is something for it */
  void *argument;
  _Atomic(peri_node *) done; /* jobs, the last one first, linked by link.next */
  peri_list ended; /* those that have ended on the home's thread, in order */
  _Atomic(peri__note *) notes; /* the last one first */
  atomic_bool posted;
  struct peri__pool *guest; /* whose jobs come here, if it is one of a job */
};

void peri__home_init(peri__home *home, peri_runtime *rt, peri_post_cb deliver,
                     void *argument);
/* Leaves a job that has ended; however many come, they cost one post until the
 * owner looks. Any thread. */
void peri__job_done(peri__job *job);
/* The same on the home's thread, for pools all of whose jobs end there. */
void peri__job_ended(peri__job *job);
/* Leaves a note for a peer of the home's state; takes the message. 0 or
 * PERI_ENOMEM. Any thread. */
int peri__home_leave_note(peri__home *home, peri__peer *peer,
                          peri__message *message);
/* Gives all notes to their peers. The home's thread. */
void peri__home_read_notes(peri__home *home, lua_State *L);
void peri__home_drop_notes(peri__home *home);
/* Whether there is nothing. The home's thread. */
static inline bool peri__home_empty(peri__home *home)
{
  return peri__list_empty(&home->ended) && atomic_load(&home->done) == NULL &&
         atomic_load(&home->notes) == NULL;
}
/* Has deliver called once more. Any thread. */
void peri__home_notify(peri__home *home);
/* Moves all that came, in the order of their ending, to the end of a list. The
 * home's thread. */
void peri__home_take(peri__home *home, peri_list *done);

/* -- Pools ----------------------------------------------------------------- */

typedef struct peri__pool peri__pool;

/* What a kind of pool can do. All are called on the owner's thread, and none
 * raises. */
typedef struct peri__pool_ops {
  const char *broken_class; /* the error class of a broken pool */
  bool threads;             /* its workers are */
  /* Takes the job. 0, or a libuv error: then the job is the caller's. Not
   * called after close, nor on a broken pool. */
  int (*submit)(peri__pool *pool, peri__job *job);
  /* Gives the job back, if it has not begun. */
  bool (*withdraw)(peri__pool *pool, peri__job *job);
  /* The same for all that have not begun, in order, to the end of a list. */
  void (*withdraw_all)(peri__pool *pool, peri_list *jobs);
  /* Whether a worker has begun it. */
  bool (*running)(peri__pool *pool, const peri__job *job);
  /* Asks a job that runs to stop; how it ended is told as ever. If it has not
   * after so many nanoseconds (< 0: the pool's own), a process is killed, a
   * thread cannot be. False: it does not run, or nothing can be done. A guest's
   * may have been withdrawn: if it has begun all the same it is asked, too. */
  bool (*interrupt)(peri__pool *pool, peri__job *job, int64_t grace);
  /* A task of this loop submits or waits: results are to come while that runs.
   * NULL: nothing to be done. A libuv error otherwise. */
  int (*attach)(peri__pool *pool, lua_State *L, peri_loop *loop);
  /* Of a pool that spins; NULL: not needed. Looks whether something has come for
   * the home, without blocking. */
  void (*poll)(peri__pool *pool);
  /* No more jobs will come: workers end when there are none left. When the last
   * has, `ended` is set and the home notified; at once if there never was one,
   * and then nobody is notified. */
  void (*close)(peri__pool *pool);
  /* Blocks until the workers of a closed pool have ended, and their jobs have
   * come home. */
  void (*join)(peri__pool *pool);
  /* Closes the peers of a joined pool, if it has any; NULL: it has none. */
  void (*close_peers)(peri__pool *pool, lua_State *L);
  /* The same of those that have gone, if nothing of theirs is at home: called
   * when there was nothing, but more may have come. NULL: as long as the pool is
   * there, none goes. */
  void (*bury)(peri__pool *pool, lua_State *L);
  /* Of a joined pool, or one that never had a job. */
  void (*free)(peri__pool *pool);
} peri__pool_ops;

/* The head of every pool. */
struct peri__pool {
  const peri__pool_ops *ops;
  peri__home *home;
  peri__blocks *blocks; /* where messages to workers grow large, or NULL */
  const char *program;  /* is started for each worker; NULL: none is */
  uint64_t spin;        /* nanoseconds to look for news before one sleeps */
  bool guest;           /* somebody else's, as one of its jobs sees it */
  atomic_bool ended;    /* closed, and all workers gone */
  /* Why it takes no jobs, to follow "the pool is broken" (", its initializer
   * failed: ..."), or NULL; the text lives as long as the pool. */
  _Atomic(const char *) broken;
  /* The owner's alone, apart from what workers look at. */
  char apart[PERI__LINE];
  bool closed;
  size_t pending; /* submitted jobs, until their futures know */
};

/* Says that a worker could not be started, for which libuv's error is. */
void peri__pool_tell_start(const peri__pool *pool, int status, char *text,
                           size_t size);

/* Push the modules perilune._pool and perilune._codec. Raise if the state has no
 * runtime. */
int peri__pool_open(lua_State *L);
int peri__codec_open(lua_State *L);

#endif
