/*
 * waiters.c: lines of tasks that wait for their turn: at a lock, at a queue.
 *
 * A task stands in a line by a node of its own (task->turn, which shares its
 * place with the timer that does not run meanwhile), so waiting allocates
 * nothing, and leaving from the middle costs what leaving the front does.
 *
 * As in asyncio a task that is cancelled while it waits stays in the line until
 * it runs; who asks whether the line is free to pass does not count it. A turn
 * that has come (PERI_T_TURN) belongs to the task from then on: if it is
 * cancelled or killed before it runs, the owner's give_up hands the turn to the
 * next one, so that none is lost.
 *
 * Nothing here needs memory, nor may what an owner does when a turn is taken or
 * given up: it would be lost.
 */
#include "core.h"

static peri_task *task_of(peri_list *turn)
{
  return (peri_task *)((char *)turn - offsetof(peri_task, turn));
}

static void leave(peri_task *task)
{
  if (!(task->flags & PERI_T_IN_LINE))
    return;
  task->turn.previous->next = task->turn.next;
  task->turn.next->previous = task->turn.previous;
  task->flags &= (uint16_t)~PERI_T_IN_LINE;
}

static void wake(peri_task *task)
{
  task->flags |= PERI_T_TURN;
  task->wait = PERI_WAIT_WOKEN;
  peri__loop_ready(task->future.loop, &task->node);
}

void peri__waiters_init(peri_waiters *line, const char *what,
                        peri_give_up_cb give_up)
{
  peri__list_init(&line->turns);
  line->what = what;
  line->give_up = give_up;
  line->abandoned = NULL;
}

bool peri__waiters_wake(peri_waiters *line)
{
  while (!peri__list_empty(&line->turns)) {
    peri_task *task = task_of(line->turns.next);
    leave(task);
    if (task->wait == PERI_WAIT_TURN) {
      wake(task);
      return true;
    }
  }
  return false;
}

void peri__waiters_park(lua_State *L, peri_runtime *rt, peri_waiters *line)
{
  peri__wait_check(L, rt, line->what);
  peri__waiters_stay(rt->task, line);
}

void peri__waiters_stay(peri_task *task, peri_waiters *line)
{
  task->what = line->what;
  peri_list *last = line->turns.previous;
  task->turn.previous = last;
  task->turn.next = &line->turns;
  last->next = line->turns.previous = &task->turn;
  task->flags |= PERI_T_IN_LINE;
  task->resource = line;
  task->wait = PERI_WAIT_TURN;
  if (peri_unlikely(task->flags & PERI_T_MUST_CANCEL))
    peri__park_cancelled(task);
}

bool peri__waiters_leave(lua_State *L, peri_runtime *rt)
{
  peri_task *task = rt->task;
  if (peri_unlikely(L != task->co || task->flags & PERI_T_EXPOSED) &&
      peri__parked(L))
    lua_pop(L, 1);
  bool woken = task->flags & PERI_T_TURN;
  task->flags &= (uint16_t)~PERI_T_TURN;
  leave(task);
  if (peri_likely(task->outcome == PERI_OUTCOME_OK))
    return true;
  peri_waiters *line = task->resource;
  if (line->give_up != NULL)
    line->give_up(L, rt, line, 1, woken);
  return false;
}

void peri__waiters_unpark(lua_State *L, peri_runtime *rt)
{
  if (peri_unlikely(!peri__waiters_leave(L, rt)))
    peri__raise_outcome(L, rt);
}

void peri__waiters_abandon(lua_State *L, peri_runtime *rt, peri_task *task)
{
  peri_waiters *line = task->resource;
  bool woken = task->flags & PERI_T_TURN;
  lua_State *co = peri__task_innermost(task);
  task->flags &= (uint16_t)~PERI_T_TURN;
  leave(task);
  if (line->give_up != NULL) {
    int top = lua_gettop(L);
    lua_checkstack(co, 1);
    lua_pushvalue(co, 1);
    if (co != L)
      lua_xmove(co, L, 1);
    line->give_up(L, rt, line, top + 1, woken);
    lua_settop(L, top);
  }
  if (line->abandoned != NULL)
    line->abandoned(co, woken);
}

void peri__waiters_wake_all(peri_waiters *line)
{
  while (peri__waiters_wake(line))
    continue;
}

void peri__waiters_wake_first(peri_waiters *line)
{
  if (peri__waiters_empty(line))
    return;
  peri_task *task = task_of(line->turns.next);
  if (task->wait == PERI_WAIT_TURN)
    wake(task);
}

bool peri__waiters_claimed(const peri_waiters *line)
{
  peri_list *turn = line->turns.next;
  for (; turn != &line->turns; turn = turn->next) {
    peri_task *task = task_of(turn);
    if (task->wait == PERI_WAIT_TURN || task->flags & PERI_T_TURN)
      return true;
  }
  return false;
}
