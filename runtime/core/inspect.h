/*
 * inspect.h: what tells of tasks that wait, and of those that do so for ever.
 */
#ifndef PERI_INSPECT_H
#define PERI_INSPECT_H

#include "core.h"

/* loop.c: whether nothing but the outside could make the loop go on, and nobody
 * there is known to. */
bool peri__stuck(peri_runtime *rt, peri_loop *loop);

/* trace.c: pushes the trace of where a task stands, innermost coroutine first.
 */
void peri__trace_task(lua_State *L, peri_task *task);

/* locks.c */
/* The task that holds the lock whose line this is, unless it has ended; NULL:
 * none, or there is nothing to hold. Valid until something is collected. */
peri_task *peri__waiters_holder(peri_runtime *rt, peri_waiters *line);
/* Pushes the owner of a line of the library's that stands at idx; false, and
 * nothing: something else stands there. */
bool peri__waiters_push_owner(lua_State *L, peri_runtime *rt, int idx);

/* crew.c */
bool peri__is_crew(lua_State *L, peri_runtime *rt, int idx);

/* gather.c: the one whose child a node of kind PERI_NODE_CHILD stands for. */
peri_future *peri__gather_of(peri_node *node);

/* bare.c: the gather of a bare task, and the other way round, by the task's id;
 * NULL: no child of this gather that was bare when it was made. */
peri_future *peri__bare_gather(peri_task *task);
peri_task *peri__bare_find(peri_future *gather, uint64_t id);

/* deadlock.c */
/* Nothing of ours will end the wait of the innermost run. True: it need not
 * block, there is something to do now. */
bool peri__deadlock(lua_State *L, peri_runtime *rt);

/* cycle.c: the running task is about to wait for the future, or in the line,
 * that stands at index 1 (the line's userdata). If that closes a circle of tasks
 * the log will say so. May run finalisers. */
void peri__cycle_check(lua_State *L, peri_runtime *rt, peri_future *future);
void peri__cycle_check_line(lua_State *L, peri_runtime *rt, peri_waiters *line);
/* Whether a pending future is a task that waits for others in its turn. */
static inline bool peri__may_close_cycle(const peri_future *future)
{
  return future->kind == PERI_KIND_TASK &&
         ((const peri_task *)future)->wait >= PERI_WAIT_FUTURE;
}

/* inspect.c */
void peri__inspect_open(lua_State *L, peri_runtime *rt);
/* The tree of tasks that somebody asked for goes to the log. */
void peri__inspect_print(lua_State *L, peri_runtime *rt);

/* A protected call, whose error is raised again, without collecting garbage: no
 * finaliser, which may run the script's code, takes away what is looked at. */
void peri__call_quietly(lua_State *L, int nargs, int nresults);

/* Accounts of a task: its age, its steps, and how long they took, without the
 * steps inside them. Short of memory a task has none. */
typedef struct peri_lap {
  uint64_t begin, inside;
} peri_lap;
void peri__accounts_switch(peri_runtime *rt, peri_loop *loop);
void peri__accounts_open(peri_runtime *rt, peri_task *task);
void peri__lap_begin(peri_runtime *rt, peri_lap *lap);
void peri__lap_end(peri_runtime *rt, peri_lap *lap, peri_task *task);
static inline bool peri__has_accounts(const peri_task *task)
{
  return task->frames != NULL && task->frames->accounts;
}

#endif
