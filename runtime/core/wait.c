/*
 * wait.c: how the running code waits.
 *
 * Whatever waits does the same three things: peri__wait_check gives the task or
 * says why there is none that could wait here; the task's record is filled
 * (kind, name, resource) and its node put where the wake-up will come from; and
 * peri__park suspends. In the continuation peri__unpark raises what is to be
 * raised instead: a cancellation, a kill.
 *
 * A wait inside a coroutine of the script's own suspends that coroutine; our
 * coroutine.resume sees the mark on its stack and suspends in turn, down to the
 * task's own coroutine (coroutine.c). The step that ends the wait resumes the
 * innermost coroutine directly: a wait costs the same at every depth, but for
 * the way down.
 */
#include <string.h>

#include "core.h"

const char peri__parked_key = 'p';

/* -- Why a wait is impossible ------------------------------------------------ */

/* Pushes a name for the function of a frame: its public name if it has one. */
static void push_frame_name(lua_State *L, lua_State *co, lua_Debug *ar)
{
  lua_getinfo(co, "nf", ar);
  if (co != L)
    lua_xmove(co, L, 1);
  peri__push_public_name(L, -1);
  if (lua_isnil(L, -1) && ar->name != NULL)
    lua_pushstring(L, ar->name);
  else if (lua_isnil(L, -1))
    lua_pushliteral(L, "a C function");
}

/* Whether C functions like this one let a wait through, so that they are not
 * the ones to blame. */
static bool lets_through(lua_State *L, peri_runtime *rt, lua_State *co,
                         lua_Debug *ar)
{
  lua_getinfo(co, "f", ar);
  if (co != L)
    lua_xmove(co, L, 1);
  bool ours = peri__is_binding(L, rt, -1);
  lua_pop(L, 1);
  return ours;
}

/* The C function that co cannot be suspended across. */
static int throw_boundary(lua_State *L, peri_runtime *rt, const char *what,
                          lua_State *co)
{
  lua_Debug ar;
  for (int level = co == L ? 1 : 0; lua_getstack(co, level, &ar); level++) {
    lua_getinfo(co, "Sn", &ar);
    if (ar.name != NULL && strcmp(ar.namewhat, "metamethod") == 0 &&
        strstr(ar.name, "gc") != NULL)
      return peri__throw(L, rt, PERI_ERR_RUNTIME,
                         "cannot wait in '%s' inside __gc", what);
    if (*ar.what == 'C' && !lets_through(L, rt, co, &ar)) {
      push_frame_name(L, co, &ar);
      return peri__throw(
          L, rt, PERI_ERR_RUNTIME,
          "cannot wait in '%s': the C function '%s' in between cannot be "
          "suspended",
          what, lua_tostring(L, -1));
    }
  }
  return peri__throw(L, rt, PERI_ERR_RUNTIME,
                     "cannot wait in '%s' across a C function", what);
}

/* Finds what stands between L and its task: a C function below one of the
 * coroutines, or somebody else's lua_resume. */
static int throw_foreign(lua_State *L, peri_runtime *rt, const char *what)
{
  peri_frames *frames = rt->frames;
  bool ours = false;
  for (int i = frames != NULL ? frames->n - 1 : -1; i >= 0; i--) {
    peri_frame *frame = &frames->v[i];
    ours = ours || frame->co == L;
    if (ours && !lua_isyieldable(frame->from))
      return throw_boundary(L, rt, what, frame->from);
  }
  return peri__throw(
      L, rt, PERI_ERR_RUNTIME,
      "cannot wait in '%s': its coroutine was resumed by a C library or by a "
      "coroutine.resume from before perilune was loaded",
      what);
}

static int throw_cannot_wait(lua_State *L, peri_runtime *rt, const char *what)
{
  if (rt->closing != NULL && L == rt->closing)
    return peri__throw(L, rt, PERI_ERR_RUNTIME,
                       "cannot wait in '%s': the coroutine is being closed",
                       what);
  if (rt->task == NULL && rt->callback != NULL)
    return peri__throw(
        L, rt, PERI_ERR_RUNTIME,
        "cannot wait in '%s': callbacks are not tasks (this is %s)", what,
        rt->callback);
  if (rt->task == NULL)
    return peri__throw(L, rt, PERI_ERR_RUNTIME, "no running event loop");
  if (L != rt->current)
    return throw_foreign(L, rt, what);
  return throw_boundary(L, rt, what, L);
}

bool peri__can_wait(lua_State *L, peri_runtime *rt)
{
  return rt->task != NULL && L == rt->current && lua_isyieldable(L) &&
         L != rt->closing;
}

/* Raises why the code may not wait; returns if it is killed and unwinds. */
void peri__wait_refuse(lua_State *L, peri_runtime *rt, const char *what)
{
  peri_task *task = rt->task;
  if (task == NULL || L != rt->current || !lua_isyieldable(L))
    throw_cannot_wait(L, rt, what);
  if (task->flags & PERI_T_KILLED && !peri__unwinds(L, rt))
    peri__throw_sentinel(L, rt, PERI_SENTINEL_KILL);
}

/* -- Suspending and going on --------------------------------------------------- */

int peri__raise_outcome(lua_State *L, peri_runtime *rt)
{
  peri_task *task = rt->task;
  int outcome = task->outcome;
  task->outcome = PERI_OUTCOME_OK;
  if (outcome == PERI_OUTCOME_KILL)
    return peri__throw_sentinel(L, rt, PERI_SENTINEL_KILL);
  if (outcome == PERI_OUTCOME_INTERRUPT)
    return peri__throw_sentinel(L, rt, PERI_SENTINEL_INTERRUPT);
  lua_checkstack(L, 4);
  peri__push_task(L, task);
  lua_getiuservalue(L, -1, PERI_UV_RESULT); /* the message */
  peri__push_cancelled(L, rt);
  return lua_error(L);
}

bool peri__unpark_cancelled(lua_State *L, peri_runtime *rt)
{
  peri_task *task = rt->task;
  if (peri_unlikely(L != task->co || task->flags & PERI_T_EXPOSED) &&
      peri__parked(L))
    lua_pop(L, 1);
  if (peri_likely(task->outcome == PERI_OUTCOME_OK))
    return false;
  if (task->outcome == PERI_OUTCOME_CANCEL)
    return true;
  peri__raise_outcome(L, rt);
  return false;
}

void peri__unpark(lua_State *L, peri_runtime *rt)
{
  if (peri_unlikely(peri__unpark_cancelled(L, rt)))
    peri__raise_outcome(L, rt);
}

/* -- sleep ------------------------------------------------------------------------ */

static int sleep_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  peri_runtime *rt = (peri_runtime *)ctx;
  peri_task *task = rt->task;
  if (peri_unlikely(L != task->co || task->outcome != PERI_OUTCOME_OK ||
                    task->flags & PERI_T_EXPOSED))
    peri__unpark(L, rt);
  return lua_gettop(L) - 1;
}

static int sleep_timed(lua_State *L, peri_runtime *rt, peri_task *task,
                       lua_Number delay)
{
  if (task->flags & PERI_T_MUST_CANCEL) {
    peri__park_cancelled(task);
    return peri__park(L, rt, (lua_KContext)rt, sleep_k);
  }
  peri_clock *clock = task->clock;
  int64_t duration = peri__nanoseconds(delay);
  int64_t deadline = peri__clock_after(clock, duration);
  task->timer.loop = task->future.loop;
  peri__timer_start(clock, &task->timer, deadline, duration);
  task->wait = PERI_WAIT_TIMER;
  task->resource = NULL;
  return peri__park(L, rt, (lua_KContext)rt, sleep_k);
}

static peri_cold int sleep_once(lua_State *L, peri_runtime *rt)
{
  peri_task *task = peri__wait_check(L, rt, "sleep");
  task->wait = PERI_WAIT_YIELD;
  peri__loop_ready(task->future.loop, &task->timer.node);
  return peri__park(L, rt, (lua_KContext)rt, sleep_k);
}

static int sleep_for(lua_State *L, peri_runtime *rt)
{
  lua_Number delay = peri__check_number(L, rt, 1);
  if (peri_unlikely(delay != delay))
    return peri__throw(L, rt, PERI_ERR_VALUE,
                       "Invalid delay: NaN (not a number)");
  if (delay <= 0)
    return sleep_once(L, rt);
  return sleep_timed(L, rt, peri__wait_check(L, rt, "sleep"), delay);
}

static int sleep_zero_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  peri_runtime *rt = (peri_runtime *)ctx;
  if (peri_unlikely(rt->task->outcome != PERI_OUTCOME_OK))
    return peri__raise_outcome(L, rt);
  return lua_gettop(L) - 1;
}

/* sleep(0) of a task in its own coroutine, which is the switch of tasks: what
 * peri__wait_check and peri__park do, each question asked once. There is no
 * mark to leave, so the continuation has none to look for. */
static inline int sleep_zero(lua_State *L, peri_runtime *rt)
{
  peri_task *task;
  if (peri_unlikely(!lua_isyieldable(L) || L != rt->current ||
                    (task = rt->task) == NULL || L != task->co ||
                    task->flags & (PERI_T_KILLED | PERI_T_EXPOSED)))
    return sleep_once(L, rt);
  task->what = "sleep";
  task->wait = PERI_WAIT_YIELD;
  peri__loop_ready(task->future.loop, &task->timer.node);
  return lua_yieldk(L, 0, (lua_KContext)rt, sleep_zero_k);
}

/* sleep(delay, ...): waits delay seconds, then returns the other arguments.
 * 0 or less is exactly one trip round the loop. */
static int l_sleep(lua_State *L)
{
  int is_integer;
  if (peri_likely(lua_tointegerx(L, 1, &is_integer) == 0 && is_integer))
    return sleep_zero(L, peri__rt(L));
  return sleep_for(L, peri__rt(L));
}

static int l_sleep_own(lua_State *L)
{
  int is_integer;
  if (peri_likely(lua_tointegerx(L, 1, &is_integer) == 0 && is_integer))
    return sleep_zero(L, peri__own_rt(L));
  return sleep_for(L, peri__own_rt(L));
}

static int l_can_wait(lua_State *L)
{
  lua_pushboolean(L, peri__can_wait(L, peri__rt(L)));
  return 1;
}

static const luaL_Reg functions[] = {
    {"sleep", l_sleep}, {"can_wait", l_can_wait}, {NULL, NULL}};

void peri__wait_open(lua_State *L, peri_runtime *rt)
{
  peri__register(L, rt, functions);
  if (!rt->owns_state)
    return;
  peri__push_ref(L, rt, PERI_REF_CORE);
  lua_pushcfunction(L, l_sleep_own);
  lua_setfield(L, -2, "sleep");
  lua_pop(L, 1);
}
