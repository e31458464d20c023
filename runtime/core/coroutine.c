/*
 * coroutine.c: coroutine.*, pcall and xpcall, so that a wait works inside them.
 *
 * The script's own coroutines keep their meaning: what they yield goes to who
 * resumed them. A wait inside one is something else: it suspends the whole
 * task. The coroutine yields with a mark on its stack (wait.c), the
 * coroutine.resume that runs it sees the mark and yields in turn, and so down
 * to the task. The runtime keeps the way down as a stack of frames, so that the
 * step which ends the wait resumes the innermost coroutine at once; when that
 * one ends or yields, its values go to the frame below (task.c, hand_down),
 * whose resume then goes on in its continuation as if nothing had happened.
 *
 * A coroutine that was not resumed by us, or below which stands a C function
 * that cannot be suspended, cannot wait: rt->current is NULL while it runs.
 *
 * pcall, xpcall, resume and wrap never catch the sentinels (kill, os.exit,
 * Ctrl-C). Without an error they cost what Lua's own do.
 */
#include "core.h"

enum { CLOSE_DEPTH = 150 };

/* -- The way down ------------------------------------------------------------------ */

/* False: out of memory. */
static bool reserve_frame(peri_runtime *rt)
{
  peri_frames *frames = rt->task != NULL ? rt->frames : &rt->no_task;
  if (peri_unlikely(frames == NULL)) {
    frames = peri__realloc(rt, NULL, 0, sizeof *frames);
    if (frames == NULL)
      return false;
    *frames = (peri_frames){0};
    rt->frames = rt->task->frames = frames;
  }
  if (peri_likely(frames->n < frames->capacity))
    return true;
  int capacity = frames->capacity ? 2 * frames->capacity : 4;
  size_t unit = sizeof *frames->v;
  peri_frame *v = peri__realloc(rt, frames->v, (size_t)frames->capacity * unit,
                                (size_t)capacity * unit);
  if (v == NULL)
    return false;
  frames->v = v;
  frames->capacity = capacity;
  return true;
}

/* Room for one more frame of the code that runs, so that descend needs no
 * memory: nothing has been done then that would have to be undone. */
static void reserve(lua_State *L, peri_runtime *rt)
{
  if (peri_likely(reserve_frame(rt)))
    return;
  lua_gc(L, LUA_GCCOLLECT);
  if (!reserve_frame(rt))
    peri__no_memory(L);
}

peri_task *peri__task_in(peri_runtime *rt, lua_State *co)
{
  for (peri_run_record *run = rt->run; run != NULL; run = run->outer)
    for (peri_task *task = run->loop->tasks; task != NULL; task = task->next) {
      if (task->co == co)
        return task;
      for (int i = 0; task->frames != NULL && i < task->frames->n; i++)
        if (task->frames->v[i].co == co)
          return task;
    }
  return NULL;
}

/* What a coroutine came to: >= 0, that many values on its stack; PARKED, it
 * waits, and so must we; FAILED, an error on its stack. */
enum { PARKED = -1, FAILED = -2 };

/* There is room for the frame. */
static int descend(lua_State *L, peri_runtime *rt, lua_State *co, int nargs)
{
  lua_State *previous = rt->current;
  peri_frames *frames = rt->task != NULL ? rt->frames : &rt->no_task;
  frames->v[frames->n++] = (peri_frame){co, L, previous};
  rt->current = previous == L && lua_isyieldable(L) ? co : NULL;
  int n;
  int status = lua_resume(co, L, nargs, &n);
  if (peri_unlikely(status == LUA_YIELD && peri__parked(co)))
    return PARKED;
  frames->n--;
  rt->current = previous;
  return peri_likely(status == LUA_OK || status == LUA_YIELD) ? n : FAILED;
}

/* Moves what the coroutine gave to L. */
static int collect(lua_State *L, lua_State *co, int n)
{
  if (n == FAILED) {
    lua_xmove(co, L, 1);
    return FAILED;
  }
  if (peri_unlikely(!lua_checkstack(L, n + 1))) {
    lua_pop(co, n);
    lua_pushliteral(L, "too many results to resume");
    return FAILED;
  }
  lua_xmove(co, L, n);
  return n;
}

/* In a continuation: what task.c handed down, above the mark at top. */
static int handed(lua_State *L, peri_runtime *rt, int top)
{
  if (lua_touserdata(L, top + 1) == (const void *)&peri__parked_key)
    lua_remove(L, top + 1);
  if (rt->inner_status != LUA_OK && rt->inner_status != LUA_YIELD)
    return FAILED;
  return lua_gettop(L) - top;
}

/* -- Who may be resumed ------------------------------------------------------------ */

static lua_State *check_coroutine(lua_State *L)
{
  lua_State *co = lua_tothread(L, 1);
  luaL_argexpected(L, co != NULL, 1, "coroutine");
  return co;
}

/* Pushes why co cannot be resumed or closed, if it waits. */
static bool push_waiting(lua_State *L, peri_runtime *rt, lua_State *co)
{
  if (peri_likely(lua_status(co) != LUA_YIELD || !peri__parked(co)))
    return false;
  peri_task *task = peri__task_in(rt, co);
  if (task == NULL) {
    lua_pushliteral(L, "coroutine is waiting in a task");
    return true;
  }
  const char *name = peri__task_name(L, rt, task, 0);
  lua_pushfstring(L, "coroutine is waiting in task %s", name);
  lua_replace(L, -2);
  return true;
}

/* Pushes why co cannot be resumed with nargs arguments. */
static bool push_refusal(lua_State *L, peri_runtime *rt, lua_State *co,
                         int nargs)
{
  if (peri_unlikely(!lua_checkstack(co, nargs + 2))) {
    lua_pushliteral(L, "too many arguments to resume");
    return true;
  }
  return push_waiting(L, rt, co);
}

/* -- coroutine.resume ----------------------------------------------------------------- */

static int resumed(lua_State *L, peri_runtime *rt, int top, int n)
{
  if (peri_likely(n >= 0)) {
    lua_pushboolean(L, true);
    lua_insert(L, top + 1);
    return n + 1;
  }
  if (peri_unlikely(peri__sentinel_of(L, rt, -1) != PERI_SENTINEL_NONE)) {
    peri__close_coroutine(L, rt, lua_tothread(L, 1));
    return lua_error(L);
  }
  lua_pushboolean(L, false);
  lua_insert(L, -2);
  return 2;
}

static int resume_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  peri_runtime *rt = peri__rt(L);
  return resumed(L, rt, 1, handed(L, rt, 1));
}

static int l_resume(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_State *co = check_coroutine(L);
  int nargs = lua_gettop(L) - 1;
  reserve(L, rt);
  if (peri_unlikely(push_refusal(L, rt, co, nargs))) {
    lua_pushboolean(L, false);
    lua_insert(L, -2);
    return 2;
  }
  lua_xmove(L, co, nargs);
  int n = descend(L, rt, co, nargs);
  if (peri_unlikely(n == PARKED))
    return peri__park(L, rt, 0, resume_k);
  return resumed(L, rt, 1, collect(L, co, n));
}

/* -- coroutine.wrap ------------------------------------------------------------------- */

enum { WRAP_COROUTINE = 2 };

/* The error of the dead coroutine is on top: close it, and raise the error
 * here, with the position added as Lua does. */
static int wrap_failed(lua_State *L, peri_runtime *rt, lua_State *co)
{
  int status = lua_status(co);
  bool dead = status != LUA_OK && status != LUA_YIELD;
  peri_sentinel sentinel = peri__sentinel_of(L, rt, -1);
  if (dead) {
    peri__trace_coroutine(L, rt, co, -1);
    int closed = peri__close_coroutine(L, rt, co);
    if (closed != LUA_OK && closed != PERI_TOO_DEEP) {
      lua_xmove(co, L, 1);
      if (sentinel != PERI_SENTINEL_NONE)
        lua_pop(L, 1); /* nothing replaces a kill */
      else
        lua_replace(L, -2);
    }
  }
  if (lua_type(L, -1) == LUA_TSTRING && !peri__is_no_memory(L, -1)) {
    luaL_where(L, 1);
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  return lua_error(L);
}

static int wrapped(lua_State *L, peri_runtime *rt, int n)
{
  if (peri_likely(n >= 0))
    return n;
  return wrap_failed(L, rt, lua_tothread(L, lua_upvalueindex(WRAP_COROUTINE)));
}

static int wrap_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  peri_runtime *rt = peri__rt(L);
  return wrapped(L, rt, handed(L, rt, 0));
}

static int call_wrapped(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_State *co = lua_tothread(L, lua_upvalueindex(WRAP_COROUTINE));
  int nargs = lua_gettop(L);
  reserve(L, rt);
  if (peri_unlikely(push_refusal(L, rt, co, nargs)))
    return wrap_failed(L, rt, co);
  lua_xmove(L, co, nargs);
  int n = descend(L, rt, co, nargs);
  if (peri_unlikely(n == PARKED))
    return peri__park(L, rt, 0, wrap_k);
  return wrapped(L, rt, collect(L, co, n));
}

static int l_create(lua_State *L)
{
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_State *co = lua_newthread(L);
  lua_pushvalue(L, 1);
  lua_xmove(L, co, 1);
  return 1;
}

static int l_wrap(lua_State *L)
{
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_State *co = lua_newthread(L);
  lua_pushvalue(L, 2);
  lua_xmove(L, co, 1);
  lua_remove(L, 2);
  lua_pushcclosure(L, call_wrapped, 2);
  return 1;
}

/* -- The rest of coroutine.* -------------------------------------------------------------- */

static int l_yield(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  if (peri_unlikely(rt->task != NULL && rt->task->co == L))
    return peri__throw(L, rt, PERI_ERR_RUNTIME,
                       "coroutine.yield at the level of a task (to let others "
                       "run, use sleep(0))");
  return lua_yield(L, lua_gettop(L));
}

static const char *status_of(lua_State *L, lua_State *co)
{
  if (L == co)
    return "running";
  switch (lua_status(co)) {
  case LUA_YIELD:
    return peri__parked(co) ? "normal" : "suspended";
  case LUA_OK: {
    lua_Debug ar;
    if (lua_getstack(co, 0, &ar))
      return "normal";
    return lua_gettop(co) == 0 ? "dead" : "suspended";
  }
  default:
    return "dead";
  }
}

static int l_status(lua_State *L)
{
  lua_State *co = check_coroutine(L);
  lua_pushstring(L, status_of(L, co));
  return 1;
}

static int l_running(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  int main = lua_pushthread(L);
  if (rt->task != NULL && rt->task->co == L)
    rt->task->flags |= PERI_T_EXPOSED;
  lua_pushboolean(L, main);
  return 2;
}

static int l_isyieldable(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_State *co = lua_isnone(L, 1) ? L : check_coroutine(L);
  bool task_level = rt->task != NULL && rt->task->co == co;
  lua_pushboolean(L, !task_level && lua_isyieldable(co));
  return 1;
}

int peri__close_coroutine(lua_State *L, peri_runtime *rt, lua_State *co)
{
  (void)L;
  if (rt->close_depth >= CLOSE_DEPTH)
    return PERI_TOO_DEEP;
  lua_State *closing = rt->closing, *current = rt->current;
  rt->closing = co;
  rt->current = NULL;
  rt->close_depth++;
  int status = lua_resetthread(co);
  rt->close_depth--;
  rt->current = current;
  rt->closing = closing;
  return status;
}

/* Stock Lua recurses in C without a bound when coroutines close each other. */
static int close_checked(lua_State *L, peri_runtime *rt, lua_State *co)
{
  int status = peri__close_coroutine(L, rt, co);
  if (status == PERI_TOO_DEEP)
    luaL_error(L, "C stack overflow (coroutines that close each other)");
  return status;
}

static int l_close(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_State *co = check_coroutine(L);
  if (push_waiting(L, rt, co)) {
    lua_pushfstring(L, "cannot close: %s", lua_tostring(L, -1));
    return lua_error(L);
  }
  const char *status = status_of(L, co);
  if (*status != 's' && *status != 'd')
    return luaL_error(L, "cannot close a %s coroutine", status);
  if (close_checked(L, rt, co) == LUA_OK) {
    lua_pushboolean(L, true);
    return 1;
  }
  lua_pushboolean(L, false);
  lua_xmove(co, L, 1);
  if (peri_unlikely(peri__sentinel_of(L, rt, -1) != PERI_SENTINEL_NONE))
    return lua_error(L);
  return 2;
}

/* -- pcall, xpcall --------------------------------------------------------------------------- */

static int finish_pcall(lua_State *L, int status, lua_KContext extra)
{
  if (peri_likely(status == LUA_OK || status == LUA_YIELD))
    return lua_gettop(L) - (int)extra;
  if (peri_unlikely(lua_type(L, -1) == LUA_TTABLE &&
                    peri__sentinel_of(L, peri__rt(L), -1)))
    return lua_error(L);
  lua_pushboolean(L, false);
  lua_pushvalue(L, -2);
  return 2;
}

static inline int pcall_with(lua_State *L, lua_KFunction finish)
{
  luaL_checkany(L, 1);
  lua_pushboolean(L, true);
  lua_insert(L, 1);
  int status = lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, 0, finish);
  return finish(L, status, 0);
}

static int l_pcall(lua_State *L)
{
  return pcall_with(L, finish_pcall);
}

/* Message handlers of the script's do not see what is not for them to change:
 * the sentinels, and in peri.xpcall cancellations. */
enum { HANDLER = 2, LETS_CANCEL = 3 };

static int handle_message(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  if (peri__sentinel_of(L, rt, 1) != PERI_SENTINEL_NONE)
    return 1;
  if (lua_toboolean(L, lua_upvalueindex(LETS_CANCEL)) &&
      peri__is_cancelled_error(L, rt, 1))
    return 1;
  if (rt->debug_traceback != NULL &&
      lua_tocfunction(L, lua_upvalueindex(HANDLER)) == rt->debug_traceback) {
    if (lua_isstring(L, 1) || lua_isnil(L, 1))
      luaL_traceback(L, L, lua_tostring(L, 1), 1);
    return 1;
  }
  lua_pushvalue(L, lua_upvalueindex(HANDLER));
  lua_insert(L, 1);
  lua_call(L, 1, 1);
  return 1;
}

static int xpcall_with(lua_State *L, bool lets_cancel, lua_KFunction finish)
{
  int n = lua_gettop(L);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushvalue(L, 2);
  lua_pushboolean(L, lets_cancel);
  lua_pushcclosure(L, handle_message, 3);
  lua_replace(L, 2);
  lua_pushboolean(L, true);
  lua_pushvalue(L, 1);
  lua_rotate(L, 3, 2);
  int status = lua_pcallk(L, n - 2, LUA_MULTRET, 2, 2, finish);
  return finish(L, status, 2);
}

int peri__xpcall(lua_State *L)
{
  return xpcall_with(L, false, finish_pcall);
}

/* peri.pcall and peri.xpcall: the same, but a CancelledError goes through. */
static int finish_peri_pcall(lua_State *L, int status, lua_KContext extra)
{
  if (status != LUA_OK && status != LUA_YIELD &&
      peri__is_cancelled_error(L, peri__rt(L), -1))
    return lua_error(L);
  return finish_pcall(L, status, extra);
}

static int l_peri_pcall(lua_State *L)
{
  return pcall_with(L, finish_peri_pcall);
}

static int l_peri_xpcall(lua_State *L)
{
  return xpcall_with(L, true, finish_peri_pcall);
}

static const luaL_Reg coroutine_functions[] = {
    {"create", l_create}, {"wrap", l_wrap},
    {"resume", l_resume}, {"close", l_close},
    {"status", l_status}, {"running", l_running},
    {"yield", l_yield},   {"isyieldable", l_isyieldable},
    {NULL, NULL}};

static const luaL_Reg protected_calls[] = {
    {"pcall", l_pcall}, {"xpcall", peri__xpcall}, {NULL, NULL}};

static const luaL_Reg functions[] = {
    {"pcall", l_peri_pcall}, {"xpcall", l_peri_xpcall}, {NULL, NULL}};

static void patch_table(lua_State *L, peri_runtime *rt, const luaL_Reg *list)
{
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, list, 1);
}

void peri__coroutine_open(lua_State *L, peri_runtime *rt, unsigned patch)
{
  peri__register(L, rt, functions);
  lua_getglobal(L, LUA_DBLIBNAME);
  if (lua_istable(L, -1)) {
    lua_getfield(L, -1, "traceback");
    rt->debug_traceback = lua_tocfunction(L, -1);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  if (patch & PERI_PATCH_PCALL) {
    lua_pushglobaltable(L);
    patch_table(L, rt, protected_calls);
    lua_pop(L, 1);
  }
  if (patch & PERI_PATCH_COROUTINE) {
    if (lua_getglobal(L, LUA_COLIBNAME) == LUA_TTABLE)
      patch_table(L, rt, coroutine_functions);
    lua_pop(L, 1);
  }
}
