/*
 * executor.h: the owner's side of a pool, whatever carries its jobs.
 */
#ifndef PERI_EXECUTOR_H
#define PERI_EXECUTOR_H

#include "pool/pool.h"

/* A userdata that lives as long as its workers; scripts hold a handle of it,
 * which closes the pool when it is collected. */
typedef struct peri__executor {
  peri__pool *pool; /* NULL: not made yet, or gone with its state */
  peri_runtime *rt;
  peri_list done; /* jobs whose futures are next */
  uint32_t *free; /* places in the table of futures to use again */
  uint32_t free_count;
  uint32_t places; /* that have been used; there is room for so many in free */
  uint32_t capacity;
  uint32_t pending;          /* jobs submitted, whose ends have not been seen */
  uint32_t limit;            /* of those; 0: none (room.c) */
  uint32_t waiting, granted; /* who wait for room, and who may submit */
  lua_Integer first_waiting;
  bool anchored; /* stands in the table of executors */
  bool ending;   /* closed, and counted as an external wait */
  /* What workers write, apart from what the owner looks at with each job. */
  char apart[PERI__LINE];
  peri__home home;
  char apart_too[PERI__LINE];
} peri__executor;

/* What a future is of: PERI_KIND_JOB. */
typedef struct peri__job_future {
  peri_future future;       /* without a loop, or of run_in_executor's */
  peri__executor *executor; /* while the job is there, else NULL */
  uint32_t place;
  bool has_refs; /* the table of futures has what the message refers to */
  peri__job job;
} peri__job_future;

/* Pushes the executor, which has no pool yet: what makes its pool does so with
 * the home, and puts it there; then peri__executor_push_handle. */
peri__executor *peri__executor_new(lua_State *L);
/* Replaces the executor on top of the stack by its handle. */
void peri__executor_push_handle(lua_State *L);

/* Encodes a function and its arguments, n values from index first on, into a
 * message that is the caller's, who is not to raise before it has been given
 * away. */
peri__message peri__executor_encode(lua_State *L, peri_runtime *rt,
                                    int executor, int first, int n);

/* The executor's user values. */
enum {
  PERI__EXECUTOR_FUTURES = 1, /* place to future */
  PERI__EXECUTOR_WAITERS,     /* futures that are done when the workers have
                                 ended */
  PERI__EXECUTOR_SPARE,       /* a message that nobody uses, or nil */
  PERI__EXECUTOR_ROOM         /* futures that are done when there is room */
};

/* The handle at 1; pushes its executor. */
peri__executor *peri__check_executor(lua_State *L);

/* No more jobs; of one that has a pool. */
void peri__executor_close_pool(peri__executor *executor);

static inline peri__job_future *peri__job_future_of(peri_node *node)
{
  return (peri__job_future *)((char *)node - offsetof(peri__job_future, job) -
                              offsetof(peri__job, node));
}

/* Whether the future may still be given something. */
static inline bool peri__job_future_is_open(const peri__job_future *future)
{
  const peri_future *head = &future->future;
  return head->state == PERI_PENDING &&
         (head->loop == NULL || !head->loop->closed);
}

/* The carrier has one job more, or less. */
static inline void peri__executor_count(peri__executor *executor, int delta)
{
  bool had = executor->pending > 0;
  executor->pending += (uint32_t)delta;
  executor->pool->pending = executor->pending;
  if (had == (executor->pending > 0))
    return;
  if (peri_unlikely(executor->pool->guest))
    executor->rt->own_pool = had ? NULL : executor->pool;
  else
    peri__external(executor->rt, had ? -1 : 1);
  if (executor->pool->spin > 0)
    executor->rt->spinners += had ? -1u : 1u;
}

/* The job is the future's alone again. The table of futures is at idx. */
static inline void peri__executor_forget(lua_State *L, peri__job_future *future,
                                         int idx)
{
  peri__executor *executor = future->executor;
  peri__job_fini(&future->job);
  future->executor = NULL;
  lua_pushboolean(L, false); /* keeps the place in the table's array */
  lua_rawseti(L, idx, future->place);
  if (peri_unlikely(future->has_refs)) {
    lua_pushnil(L);
    lua_rawseti(L, idx, -(lua_Integer)future->place);
  }
  executor->free[executor->free_count++] = future->place;
  peri__executor_count(executor, -1);
}

/* executor_results.c. What is posted when there is something at home. */
void peri__executor_deliver(lua_State *L, void *argument);
/* Ends the futures of the jobs that have come home. The executor is at idx. */
void peri__executor_settle(lua_State *L, peri_runtime *rt, int idx);
/* The workers of the executor at idx have ended, or never were. */
void peri__executor_finish(lua_State *L, peri_runtime *rt, int idx);
void peri__executor_close_peers(lua_State *L, peri__executor *executor);
/* The error of jobs of a broken pool. */
void peri__executor_push_broken(lua_State *L, peri_runtime *rt,
                                peri__pool *pool);

/* executors.c: the table of those that have workers. */
void peri__executors_open(lua_State *L, peri_runtime *rt);
/* Pushes it; false, and nothing: the runtime closes. */
bool peri__executors_push(lua_State *L);
/* The executor at idx stands in it from now on; until unanchor. */
void peri__executor_anchor(lua_State *L, peri__executor *executor, int idx);
void peri__executor_unanchor(lua_State *L, peri__executor *executor);
/* Pushes the executor if it stands there. */
bool peri__executor_push(lua_State *L, const peri__executor *executor);

/* room.c: there may be room, in the executor at idx. */
void peri__room_grant(lua_State *L, peri_runtime *rt, int idx);
extern const luaL_Reg peri__room_methods[];

/* Makes the classes; what scripts call on executors, and (job_future.c) on
 * futures. */
void peri__executor_open(lua_State *L, peri_runtime *rt);
void peri__job_future_open(lua_State *L, peri_runtime *rt);

#endif
