/*
 * deadlock.c: a run that would block for ever ends with a DeadlockError.
 *
 * loop.c asks where it is about to sleep without a limit. The run must be one
 * with an end (run, run_until_complete: not step, not run_forever), and nothing
 * may be left that could wake it (peri__stuck): nothing ready, no post, no
 * timer that goes on by itself, no handle or request of libuv's but our own,
 * and no external wait. Those are counted in rt->external: jobs of pools, and
 * the holds that hosts take for threads of theirs which will post. Whoever lets
 * a hold go posts first, so the count is read first and the posts after it.
 * Then the garbage is collected, since a finaliser may wake somebody, and the
 * question is asked again. Timers of loops that are parked meanwhile do count
 * until they are due; to look for the loop of each timer would cost too much.
 *
 * What follows is what run() does at its end, inside the run that is stuck. A
 * task of the library's, the stand-in, becomes the goal of the run: it cancels
 * all the others and waits for them, and its result is the error that the run
 * raises. Tasks that swallow the cancellation and wait again get the run stuck
 * a second time, and are killed; those that hang on even then, in a __close, are
 * closed where they stand.
 */
#include "inspect.h"

enum { CANCELLED = 1, KILLED = 2, DESTROYED = 3 };

void peri_hold(peri_runtime *rt)
{
  peri__external(rt, 1);
}

/* The loop may sleep, and now for ever. */
void peri_release(peri_runtime *rt)
{
  if (atomic_fetch_sub(&rt->external, 1) == 1)
    peri__attend(rt, PERI_ATTEND_RELEASE);
}

/* No task runs, and what is called does not wait. False: Ctrl-C came meanwhile.
 */
static bool call(lua_State *L, peri_runtime *rt, const char *what, int nargs,
                 int nresults)
{
  const char *callback = rt->callback;
  rt->current = NULL;
  rt->frames = &rt->no_task;
  rt->callback = what;
  int status = lua_pcall(L, nargs, nresults, 0);
  rt->callback = callback;
  if (status == LUA_OK)
    return true;
  rt->abort = peri__sentinel_of(L, rt, -1);
  if (rt->abort == PERI_SENTINEL_NONE)
    lua_error(L); /* out of memory */
  lua_pop(L, 1);
  return false;
}

static int collect(lua_State *L)
{
  lua_gc(L, LUA_GCCOLLECT);
  return 0;
}

/* Keeps the stand-in on top of the stack for the end of the run; pops it. */
static void replace_goal(lua_State *L, peri_runtime *rt, peri_run_record *run)
{
  run->goal = lua_touserdata(L, -1);
  run->deadlocks = CANCELLED;
  if (run == &rt->main) {
    peri__set_ref(L, rt, PERI_REF_GOAL);
    return;
  }
  peri__push_ref(L, rt, PERI_REF_OBJECTS);
  lua_rawgetp(L, -1, run);
  lua_rotate(L, -3, -1);
  lua_setiuservalue(L, -2, PERI_RUN_UV_STAND_IN);
  lua_pop(L, 2);
}

static void cancel_all(lua_State *L, peri_runtime *rt, peri_run_record *run)
{
  peri_loop *loop = run->loop;
  int top = lua_gettop(L);
  peri__check_stack(L, 16);
  peri__require(L, "perilune.inspect");
  lua_getfield(L, top + 1, "end_stuck");
  peri__push_loop(L, loop);
  lua_getfield(L, top + 1, "deadlock");
  peri__push_loop(L, loop);
  if (call(L, rt, "the report of a deadlock", 1, 1)) {
    peri_task *task = peri__task_new(L, rt, loop, 0, top + 2);
    lua_pushvalue(L, -1);
    replace_goal(L, rt, run);
    peri__task_start(L, rt, task, true); /* it cancels before they run on */
  }
  lua_settop(L, top);
}

static void kill_all(lua_State *L, peri_runtime *rt, peri_run_record *run)
{
  for (peri_task *task = run->loop->tasks; task != NULL; task = task->next)
    if (&task->future != run->goal)
      peri__task_kill(L, rt, task, PERI_SENTINEL_KILL);
}

static void destroy_all(lua_State *L, peri_runtime *rt, peri_run_record *run)
{
  peri_task *task = run->loop->tasks;
  while (task != NULL) {
    if (&task->future == run->goal) {
      task = task->next;
      continue;
    }
    peri__task_destroy(L, rt, task);
    task = run->loop->tasks; /* what that ran may have ended others */
  }
}

/* What was done before did not help: the next, harder means. */
static void end_tasks(lua_State *L, peri_runtime *rt, peri_run_record *run)
{
  if (run->deadlocks == 0) {
    cancel_all(L, rt, run);
  } else if (run->deadlocks == CANCELLED) {
    run->deadlocks = KILLED;
    kill_all(L, rt, run);
  } else if (run->deadlocks == KILLED) {
    run->deadlocks = DESTROYED;
    destroy_all(L, rt, run);
  } else { /* the stand-in itself */
    run->loop->stopping = true;
  }
}

static int answer(lua_State *L)
{
  peri_runtime *rt = lua_touserdata(L, 1);
  peri_run_record *run = rt->run;
  peri__check_stack(L, PERI_ROOM);
  lua_pushcfunction(L, collect);
  if (call(L, rt, "a finaliser", 0, 0) && peri__stuck(rt, run->loop))
    end_tasks(L, rt, run);
  return 0;
}

/* Without memory the run ends with that: the error must not go through those
 * around it. */
bool peri__deadlock(lua_State *L, peri_runtime *rt)
{
  peri_run_record *run = rt->run;
  if (run->goal == NULL || !run->loop->deadlock || !peri__nothing_came(rt))
    return false;
  lua_checkstack(L, 2); /* drivers have the room */
  lua_pushcfunction(L, answer);
  lua_pushlightuserdata(L, rt);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    if (run->waiter == NULL)
      lua_error(L);
    lua_pop(L, 1);
    run->no_memory = run->loop->stopping = true;
  }
  return true;
}
