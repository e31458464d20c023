/*
 * cycle.c: tasks that wait for each other in a circle.
 *
 * A task waits for another one by awaiting it, directly or in a gather, or by
 * standing in line for a lock which that one holds. When a wait begins we go
 * from task to task along these; if that leads back the circle has just closed,
 * and since only somebody from outside can break it (a cancellation, a timeout,
 * a release by a task that does not hold the lock) the log says so at once, be
 * the rest of the program as busy as it is. It is no error: there may be a
 * timeout around it.
 *
 * It must not make waits slow. An await asks only if what it awaits is a task
 * that waits for a future or in a line itself (future.c), a lock only if there
 * is a holder; and we do not go further than LONGEST tasks, so that a long chain
 * of tasks, each of which awaits the one before, is not walked over and over.
 */
#include "inspect.h"

enum { LONGEST = 64 };

static peri_task *task_of(peri_future *future)
{
  return future->kind == PERI_KIND_TASK && future->state == PERI_PENDING
             ? (peri_task *)future
             : NULL;
}

/* Whether the task is a child of the gather. */
static bool is_gathered(peri_task *task, const peri_future *gather)
{
  if (task->flags & PERI_T_BARE)
    return peri__bare_gather(task) == gather;
  const peri_list *callbacks = &task->future.callbacks;
  int steps = 0;
  for (peri_list *link = callbacks->next; link != callbacks;
       link = link->next) {
    peri_node *node = (peri_node *)link;
    if (node->kind == PERI_NODE_CHILD && peri__gather_of(node) == gather)
      return true;
    if (++steps == LONGEST)
      break;
  }
  return false;
}

/* The task that this one waits for; of a gather's the one that we look for. */
static peri_task *waited_for(peri_runtime *rt, const peri_task *task,
                             peri_task *wanted)
{
  if (task->wait == PERI_WAIT_TURN)
    return peri__waiters_holder(rt, task->resource);
  if (task->wait != PERI_WAIT_FUTURE)
    return NULL;
  peri_future *future = task->resource;
  if (future->kind == PERI_KIND_GATHER)
    return is_gathered(wanted, future) ? wanted : NULL;
  return task_of(future);
}

/* What the running task is about to wait for; it stands at index 1. */
typedef struct next_wait {
  const char *what;
  peri_future *future; /* or NULL, and a line */
  peri_waiters *line;
} next_wait;

static peri_task *first(peri_runtime *rt, const next_wait *wait)
{
  return wait->future != NULL ? task_of(wait->future)
                              : peri__waiters_holder(rt, wait->line);
}

/* How many tasks are in the circle that the running one closes; 0: there is
 * none. */
static int measure(peri_runtime *rt, const next_wait *wait)
{
  peri_task *self = rt->task, *task = first(rt, wait);
  int n = 1;
  for (; task != NULL && task != self; n++) {
    if (n == LONGEST)
      return 0;
    task = waited_for(rt, task, self);
  }
  return task != NULL ? n : 0;
}

/* [wait, resource] -> the circle that is still there, as a list of tasks with
 * the running one first. A task that had no object gets one: its record moves. */
static int list_tasks(lua_State *L)
{
  const next_wait *wait = lua_touserdata(L, 1);
  peri_runtime *rt = peri__rt(L);
  peri_task *task = rt->task;
  int n = measure(rt, wait);
  lua_createtable(L, n, 0);
  for (int i = 1; i <= n; i++) {
    peri__push_task(L, task);
    task = i == 1 ? first(rt, wait)
                  : waited_for(rt, lua_touserdata(L, -1), rt->task);
    lua_rawseti(L, -2, i);
  }
  return 1;
}

/* Calls report_cycle(tasks, what, resource). */
static void report(lua_State *L, peri_runtime *rt, const next_wait *wait)
{
  int top = lua_gettop(L);
  peri__check_stack(L, 10);
  peri__require(L, "perilune.inspect");
  lua_getfield(L, -1, "report_cycle");
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, list_tasks, 1);
  lua_pushlightuserdata(L, (void *)wait);
  peri__call_quietly(L, 1, 1);
  lua_pushstring(L, wait->what);
  if (!peri__waiters_push_owner(L, rt, 1))
    lua_pushvalue(L, 1);
  lua_call(L, 3, 0);
  lua_settop(L, top);
}

static peri_cold void check(lua_State *L, peri_runtime *rt,
                            const next_wait *wait)
{
  if (rt->task != NULL && measure(rt, wait) > 0)
    report(L, rt, wait);
}

void peri__cycle_check(lua_State *L, peri_runtime *rt, peri_future *future)
{
  check(L, rt, &(next_wait){"await", future, NULL});
}

void peri__cycle_check_line(lua_State *L, peri_runtime *rt, peri_waiters *line)
{
  check(L, rt, &(next_wait){line->what, NULL, line});
}
