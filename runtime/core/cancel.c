/*
 * cancel.c: what is asked of a task: to be cancelled, to be killed.
 *
 * cancel() is asyncio's: a request, counted, passed on to what the task waits
 * for, or kept until the next step. kill() raises an error that no pcall of
 * ours catches; <close> variables run, and may wait in the task itself, until
 * the grace is over; then the coroutines are closed where they stand.
 */
#include "core.h"

/* Takes the task's node out of wherever it waits. */
static void withdraw(peri_task *task)
{
  if (task->wait == PERI_WAIT_TIMER)
    peri__timer_stop(task->clock, &task->timer);
  else if (peri__node_listed(&task->node))
    peri__node_unlink(&task->node);
  task->node.kind = PERI_NODE_TASK; /* it may have been due */
}

static void wake_with(peri_task *task, peri_outcome outcome)
{
  withdraw(task);
  task->outcome = (uint8_t)outcome;
  task->wait = PERI_WAIT_WOKEN;
  peri__loop_ready(task->future.loop, &task->timer.node);
}

/* Whether a cancellation concerns nobody but the task. */
static bool waits_alone(const peri_task *task)
{
  return task->wait == PERI_WAIT_TIMER || task->wait == PERI_WAIT_DUE ||
         task->wait == PERI_WAIT_TURN || task->wait == PERI_WAIT_SEVERAL ||
         task->wait == PERI_WAIT_RESULT;
}

/* Goes down a chain of tasks that await each other without recursion. */
bool peri__task_cancel(lua_State *L, peri_runtime *rt, int idx, int message_idx)
{
  int top = lua_gettop(L);
  size_t links = 0;
  idx = lua_absindex(L, idx);
  if (!lua_checkstack(L, 8)) {
    rt->cancel_lacks_memory = true;
    return false;
  }
  for (;;) {
    peri_task *task = lua_touserdata(L, idx);
    task->cancels++;
    task->flags |= PERI_T_ASKED;
    if (task->outcome != PERI_OUTCOME_CANCEL) /* else one is on its way */
      peri__future_keep_message(L, idx, message_idx);
    if (waits_alone(task)) {
      wake_with(task, PERI_OUTCOME_CANCEL);
      break;
    }
    int place = 1; /* of the awaited future in the waiting function */
    if (task->wait == PERI_WAIT_RUN &&
        ((peri_run_record *)task->resource)->goal)
      place = 2;
    else if (task->wait != PERI_WAIT_FUTURE) {
      task->flags |= PERI_T_MUST_CANCEL;
      break;
    }
    lua_State *co = peri__task_innermost(task);
    lua_pushvalue(co, place);
    if (co != L)
      lua_xmove(co, L, 1);
    peri_future *awaited = lua_touserdata(L, -1);
    if (links++ > task->future.loop->task_count) { /* they await each other */
      wake_with(task, PERI_OUTCOME_CANCEL);
      break;
    }
    if (awaited->kind == PERI_KIND_TASK && awaited->state == PERI_PENDING) {
      lua_insert(L, top + 1);
      lua_settop(L, top + 1);
      idx = top + 1;
      continue;
    }
    if (awaited->flags & PERI_F_CANCELLING) { /* it awaits us in turn */
      wake_with(task, PERI_OUTCOME_CANCEL);
      break;
    }
    bool asked = peri__future_cancel(L, rt, lua_gettop(L), message_idx);
    bool refused = !asked && awaited->kind == PERI_KIND_JOB; /* it runs on */
    if ((rt->cancel_lacks_memory || refused) && task->wait == PERI_WAIT_FUTURE)
      wake_with(task, PERI_OUTCOME_CANCEL); /* it comes at least here */
    else if (!asked)
      task->flags |= PERI_T_MUST_CANCEL;
    break;
  }
  lua_settop(L, top);
  return true;
}

static void kill_hook(lua_State *L, lua_Debug *ar)
{
  (void)ar;
  lua_sethook(L, NULL, 0, 0);
  peri_runtime *rt = peri_of(L);
  if (rt == NULL || rt->task == NULL || !(rt->task->flags & PERI_T_KILLED))
    return;
  peri__throw_sentinel(L, rt, PERI_SENTINEL_KILL);
}

void peri__task_kill(lua_State *L, peri_runtime *rt, peri_task *task,
                     peri_sentinel why)
{
  (void)L, (void)rt;
  task->flags |= PERI_T_KILLED;
  if (task->wait == PERI_WAIT_NONE && task->flags & PERI_T_STARTED) {
    lua_sethook(peri__task_innermost(task), kill_hook, LUA_MASKCOUNT, 1);
    return;
  }
  if (task->wait == PERI_WAIT_RUN) {
    task->outcome = why == PERI_SENTINEL_INTERRUPT ? PERI_OUTCOME_INTERRUPT
                                                   : PERI_OUTCOME_KILL;
    peri__runs_stop(rt, task->resource);
    return;
  }
  wake_with(task, why == PERI_SENTINEL_INTERRUPT ? PERI_OUTCOME_INTERRUPT
                                                 : PERI_OUTCOME_KILL);
}

void peri__task_take_out(lua_State *L, peri_runtime *rt, peri_task *task)
{
  withdraw(task);
  if (task->wait == PERI_WAIT_SEVERAL)
    peri__several_abandon(task);
  task->wait = PERI_WAIT_NONE;
  if (task->flags & (PERI_T_IN_LINE | PERI_T_TURN))
    peri__waiters_abandon(L, rt, task);
}
