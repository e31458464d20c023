/*
 * session.c: what an interactive session needs of the core.
 *
 * A session is a main task that runs one line after another. What ends a line
 * must not end the session: attempt() is a protected call that answers Ctrl-C,
 * too. It catches the interrupt that no pcall of ours catches, and the
 * cancellation that came first, and takes back what both have left in the task,
 * so that the next Ctrl-C is a first one again. A kill of the main task and
 * os.exit go through, and any cancellation once the run is over: they mean the
 * session itself.
 *
 * An interrupt that is raised in a background task or in a callback ends no
 * more than that; outside a session it ends the runs (peri__end_runs).
 */
#include "core.h"

enum { ATTEMPT_HANDLER = 1 };

/* Upvalues of attempt, behind the runtime: what it says about a failure, which
 * may be one for want of memory. */
enum { ATTEMPT_ERROR = 2, ATTEMPT_INTERRUPT, ATTEMPT_NO_ROOM };
static const char *const attempt_texts[] = {"error", "interrupt",
                                            "too many results"};

static bool is_interrupt(lua_State *L, peri_runtime *rt)
{
  switch (peri__sentinel_of(L, rt, -1)) {
  case PERI_SENTINEL_INTERRUPT:
    return true;
  case PERI_SENTINEL_KILL: /* how an interrupt that was caught comes back */
    return rt->interrupt_stage == 2;
  case PERI_SENTINEL_NONE:
    return rt->interrupt_stage > 0 && peri__is_cancelled_error(L, rt, -1);
  default:
    return false;
  }
}

/* Takes back what was asked of the task since it had been cancelled so many
 * times. */
static void answer(lua_State *L, peri_runtime *rt, uint32_t cancels)
{
  peri_task *task = rt->task;
  uint16_t asked = PERI_T_MUST_CANCEL;
  if (rt->interrupt_stage == 2) /* it kills, see run_interrupts */
    asked |= PERI_T_KILLED;
  if (task->flags & PERI_T_UNWINDS) {
    peri__push_ref(L, rt, PERI_REF_KILLS);
    lua_pushthread(L);
    lua_pushnil(L);
    lua_rawset(L, -3);
    lua_pop(L, 1);
    task->flags &= (uint16_t)~PERI_T_UNWINDS;
  }
  task->flags &= (uint16_t)~asked;
  task->cancels = cancels;
  peri__interrupt_reset(rt);
}

/* [trace, runtime] */
static int trace_text(lua_State *L)
{
  peri_runtime *rt = lua_touserdata(L, 2);
  lua_settop(L, 1);
  peri__trace_text(L, rt);
  return 1;
}

/* The error is on top: whose it is, and what it says. Without memory for the
 * text of its trace there is none. */
static int push_failure(lua_State *L, peri_runtime *rt)
{
  int err = lua_gettop(L);
  lua_pushboolean(L, false);
  lua_pushvalue(L, lua_upvalueindex(ATTEMPT_ERROR));
  lua_pushvalue(L, err);
  lua_pushcfunction(L, trace_text);
  peri__trace_push(L, rt, err);
  if (!lua_istable(L, -1)) {
    lua_replace(L, -2);
    return 4;
  }
  lua_pushlightuserdata(L, rt);
  if (lua_pcall(L, 2, 1, 0) != LUA_OK) {
    lua_pop(L, 1);
    lua_pushnil(L);
  }
  return 4;
}

/* The run is over, and the main task is cancelled like all that is left: there
 * is to be no next line. */
static int go_through(lua_State *L, peri_runtime *rt, bool failed)
{
  if (failed)
    return lua_error(L);
  lua_pushnil(L);
  peri__push_cancelled(L, rt);
  return lua_error(L);
}

static int attempt_k(lua_State *L, int status, lua_KContext ctx)
{
  peri_runtime *rt = peri__rt(L);
  bool failed = status != LUA_OK && status != LUA_YIELD;
  if (!failed && !lua_checkstack(L, 16)) { /* after an error there is room */
    lua_settop(L, ATTEMPT_HANDLER);
    lua_pushvalue(L, lua_upvalueindex(ATTEMPT_NO_ROOM));
    failed = true;
  }
  if (rt->main_phase != PERI_MAIN_RUNS)
    return go_through(L, rt, failed);
  if (!failed) {
    answer(L, rt, (uint32_t)ctx);
    lua_pushboolean(L, true);
    lua_replace(L, ATTEMPT_HANDLER);
    return lua_gettop(L);
  }
  bool interrupted = is_interrupt(L, rt);
  if (!interrupted && peri__sentinel_of(L, rt, -1) != PERI_SENTINEL_NONE)
    return lua_error(L);
  answer(L, rt, (uint32_t)ctx);
  if (!interrupted)
    return push_failure(L, rt);
  lua_pushboolean(L, false);
  lua_pushvalue(L, lua_upvalueindex(ATTEMPT_INTERRUPT));
  return 2;
}

/* attempt(fn, ...) -> true, values...
 *                   | false, "interrupt"
 *                   | false, "error", error, traceback or nil
 * Raises nothing of its own once fn is called. */
static int l_attempt(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_task *task = rt->task;
  peri__check_function(L, rt, 1);
  if (task == NULL || task->co != L)
    return peri__throw(L, rt, PERI_ERR_RUNTIME,
                       "attempt works at the level of a task only");
  peri__push_ref(L, rt, PERI_REF_TRACE_HANDLER);
  lua_insert(L, ATTEMPT_HANDLER);
  lua_KContext ctx = (lua_KContext)task->cancels;
  int status = lua_pcallk(L, lua_gettop(L) - ATTEMPT_HANDLER - 1, LUA_MULTRET,
                          ATTEMPT_HANDLER, ctx, attempt_k);
  return attempt_k(L, status, ctx);
}

/* session(on): the main task is one. A line that waits for ever is then for
 * the user to end: a DeadlockError would end all tasks, the session too. */
static int l_session(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  rt->session = lua_toboolean(L, 1);
  rt->main.loop->deadlock = !rt->session && rt->options.deadlock != 0;
  return 0;
}

/* [task or nil, runtime, what is so named] */
static int build_interrupted(lua_State *L)
{
  bool task = !lua_isnil(L, 1);
  lua_createtable(L, 0, 2);
  lua_pushfstring(L, "%s was ended by an interrupt",
                  task ? "a task" : (const char *)lua_touserdata(L, 3));
  lua_setfield(L, -2, "message");
  if (task) {
    peri__task_name(L, lua_touserdata(L, 2), lua_touserdata(L, 1), 1);
    lua_setfield(L, -2, "task");
  }
  return 1;
}

/* Whose end it was: a task, which stands at idx, or what is so named. */
static void report_interrupted(lua_State *L, peri_runtime *rt, peri_task *task,
                               int idx, const char *what)
{
  if (!lua_checkstack(L, 4))
    return;
  if (task != NULL)
    lua_pushvalue(L, idx);
  else
    lua_pushnil(L);
  lua_pushlightuserdata(L, rt);
  lua_pushlightuserdata(L, (void *)what);
  peri__report_built(L, rt, rt->run->loop, build_interrupted, 3,
                     "something was ended by an interrupt");
}

void peri__end_runs(lua_State *L, peri_runtime *rt, peri_sentinel why,
                    peri_task *task, int idx, const char *what)
{
  bool spares = why == PERI_SENTINEL_INTERRUPT && rt->session &&
                rt->run == &rt->main &&
                (task == NULL || &task->future != rt->main.goal);
  if (!spares) {
    rt->abort = why;
    return;
  }
  peri__interrupt_reset(rt);
  report_interrupted(L, rt, task, idx, what);
}

/* -- Standing in for a function of Lua's --------------------------------------- */

static int called(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  return lua_gettop(L);
}

static int l_stood_in(lua_State *L)
{
  lua_pushvalue(L, lua_upvalueindex(2));
  lua_insert(L, 1);
  lua_callk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, called);
  return called(L, LUA_OK, 0);
}

/* stand_in(fn): fn as a C function. In the place of print, say, it is sent to
 * workers by that name, as print is: there it is theirs. */
static int l_stand_in(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__check_function(L, rt, 1);
  lua_pushlightuserdata(L, rt);
  lua_pushvalue(L, 1);
  lua_pushcclosure(L, l_stood_in, 2);
  return 1;
}

static const luaL_Reg functions[] = {
    {"session", l_session}, {"stand_in", l_stand_in}, {NULL, NULL}};

void peri__session_open(lua_State *L, peri_runtime *rt)
{
  peri__register(L, rt, functions);
  enum { TEXTS = sizeof attempt_texts / sizeof *attempt_texts };
  peri__push_ref(L, rt, PERI_REF_CORE);
  lua_pushlightuserdata(L, rt);
  for (int i = 0; i < TEXTS; i++)
    lua_pushstring(L, attempt_texts[i]);
  lua_pushcclosure(L, l_attempt, 1 + TEXTS);
  lua_setfield(L, -2, "attempt");
  lua_pop(L, 1);
}
