/*
 * wait.h: how a task waits, alone or in a line with others.
 */
#ifndef PERI_WAIT_H
#define PERI_WAIT_H

#include "runtime.h"

extern const char peri__parked_key;

/* wait.c: how a task waits */
/* The running task, if it may wait right here; raises the RuntimeError that
 * says why not. what names the wait. */
void peri__wait_refuse(lua_State *L, peri_runtime *rt, const char *what);
static inline peri_task *peri__wait_check(lua_State *L, peri_runtime *rt,
                                          const char *what)
{
  peri_task *task = rt->task;
  if (peri_unlikely(task == NULL || L != rt->current || !lua_isyieldable(L) ||
                    task->flags & PERI_T_KILLED))
    peri__wait_refuse(L, rt, what);
  task->what = what;
  return task;
}
bool peri__can_wait(lua_State *L, peri_runtime *rt);
/* Suspends the running task until a step resumes it in k. */
static inline int peri__park(lua_State *L, peri_runtime *rt, lua_KContext ctx,
                             lua_KFunction k)
{
  if (peri_unlikely(L != rt->task->co || rt->task->flags & PERI_T_EXPOSED))
    lua_pushlightuserdata(L, (void *)&peri__parked_key);
  return lua_yieldk(L, 0, ctx, k);
}
/* A task that was cancelled before it waits goes on with that at once. */
static inline void peri__park_cancelled(peri_task *task)
{
  task->flags &= (uint16_t)~PERI_T_MUST_CANCEL;
  task->outcome = PERI_OUTCOME_CANCEL;
  task->wait = PERI_WAIT_WOKEN;
  peri__list_push(&task->future.loop->ready, &task->node);
}
/* First thing in k: raises what is to be raised instead of the result. The
 * second one leaves a cancellation to the caller, and returns true. */
void peri__unpark(lua_State *L, peri_runtime *rt);
bool peri__unpark_cancelled(lua_State *L, peri_runtime *rt);
int peri__raise_outcome(lua_State *L, peri_runtime *rt);
static inline bool peri__parked(lua_State *co)
{
  return lua_touserdata(co, -1) == (const void *)&peri__parked_key;
}
void peri__wait_open(lua_State *L, peri_runtime *rt);

/* waiters.c: a line of tasks that wait for their turn */
typedef struct peri_waiters peri_waiters;
/* Passes on the turn of a task that leaves the line by an error; woken: it had
 * come. The object that owns the line is at idx. Neither waits nor raises. */
typedef void (*peri_give_up_cb)(lua_State *L, peri_runtime *rt,
                                peri_waiters *line, int idx, bool woken);
struct peri_waiters {
  peri_list turns;  /* of tasks, the longest wait first */
  const char *what; /* names the wait; static */
  peri_give_up_cb give_up;
  /* The coroutine in whose function a task waits is closed; or NULL. */
  void (*abandoned)(lua_State *co, bool woken);
};
void peri__waiters_init(peri_waiters *line, const char *what,
                        peri_give_up_cb give_up);
static inline bool peri__waiters_empty(const peri_waiters *line)
{
  return peri__list_empty(&line->turns);
}
/* Wakes the first task that is not on its way out, and takes it out of the
 * line. False: there is none. */
bool peri__waiters_wake(peri_waiters *line);
void peri__waiters_wake_all(peri_waiters *line);
/* The turn of the first task comes, which stays first until it runs; nothing if
 * it has come already, or if that task is on its way out. */
void peri__waiters_wake_first(peri_waiters *line);
/* Whether a task stands there that is not on its way out. */
bool peri__waiters_claimed(const peri_waiters *line);
/* Puts the running task at the end of the line, whose owner is at index 1 of
 * the function that is to peri__park next. */
void peri__waiters_park(lua_State *L, peri_runtime *rt, peri_waiters *line);
/* The same where it is known that the task can wait: never raises. */
void peri__waiters_stay(peri_task *task, peri_waiters *line);
/* First thing in the continuation: returns when the turn has come, else passes
 * it on and raises. */
void peri__waiters_unpark(lua_State *L, peri_runtime *rt);
/* The same but for the raising: false, and the outcome is the caller's. */
bool peri__waiters_leave(lua_State *L, peri_runtime *rt);
/* A task that may stand in a line is about to be closed where it stands. */
void peri__waiters_abandon(lua_State *L, peri_runtime *rt, peri_task *task);

/* locks.c */
void peri__locks_open(lua_State *L, peri_runtime *rt);

/* queue.c */
void peri__queue_open(lua_State *L, peri_runtime *rt);

#endif
