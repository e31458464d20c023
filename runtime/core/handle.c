/*
 * handle.c: call_soon, call_later, call_at, and calling the script's callbacks.
 *
 * A handle holds its function and arguments as user values, and stands in the
 * loop's table of anchors until it has run or is cancelled.
 */
#include "debug.h"

typedef struct peri_handle {
  peri_timer timer;
  peri_clock *clock; /* used while the timer runs, else NULL */
  lua_Number when;
  int anchor;
  int values; /* the function and its arguments; then the loop, the context */
  bool timed, cancelled;
  peri_native_cb native; /* called instead of the function; or NULL */
  bool answers;          /* its first argument is a future, whose an error is */
  bool due;              /* its timer has fired: it stands in the ready queue */
} peri_handle;

static peri_handle *check_handle(lua_State *L, peri_runtime *rt, int arg)
{
  if (lua_type(L, arg) == LUA_TUSERDATA && lua_getmetatable(L, arg)) {
    const void *meta = lua_topointer(L, -1);
    lua_pop(L, 1);
    if (meta == rt->meta_handle)
      return lua_touserdata(L, arg);
  }
  peri__arg_type_error(L, rt, arg, "Handle");
  return NULL;
}

/* -- Calling ------------------------------------------------------------------ */

/* The error on top of the stack is that of the future at the index, if there is
 * one that waits for it. */
static bool answer_with_error(lua_State *L, peri_runtime *rt, int future)
{
  if (future == 0 ||
      ((peri_future *)lua_touserdata(L, future))->state != PERI_PENDING)
    return false;
  peri__links_hold(L, future);
  lua_insert(L, -2);
  peri__future_reject(L, rt, future);
  peri__links_call(L, rt);
  return true;
}

/* An error is the end of the future at the index, or if that is 0, for the
 * exception handler. */
static void call_answering(lua_State *L, peri_runtime *rt, peri_loop *loop,
                           int nargs, const char *what, int future)
{
  const char *callback = rt->callback;
  lua_State *current = rt->current;
  peri_frames *frames = rt->frames;
  int function = lua_gettop(L) - nargs;
  peri__push_ref(L, rt, PERI_REF_TRACE_HANDLER);
  lua_insert(L, function);
  rt->callback = what;
  rt->current = L;
  rt->frames = &rt->no_task;
  rt->carrier = 0; /* what another callback carried is not this one's */
  int status = lua_pcall(L, nargs, 0, function);
  rt->callback = callback;
  rt->current = current;
  rt->frames = frames;
  lua_remove(L, function);
  if (peri_likely(status == LUA_OK))
    return;
  peri_sentinel sentinel = peri__sentinel_of(L, rt, -1);
  if (sentinel == PERI_SENTINEL_EXIT || sentinel == PERI_SENTINEL_INTERRUPT) {
    lua_pop(L, 1);
    peri__end_runs(L, rt, sentinel, NULL, 0, what);
    return;
  }
  if (answer_with_error(L, rt, future))
    return;
  char message[96];
  snprintf(message, sizeof message, "an error in %s", what);
  peri__report_error(L, rt, loop, message);
}

void peri__call_protected(lua_State *L, peri_runtime *rt, peri_loop *loop,
                          int nargs, const char *what)
{
  call_answering(L, rt, loop, nargs, what, 0);
}

static void call_in_context(lua_State *L, peri_runtime *rt, peri_loop *loop,
                            int nargs, const char *what, int future)
{
  int context = lua_gettop(L) - nargs - 1;
  bool had = rt->has_context;
  if (peri_likely(lua_isnil(L, context) && !had)) {
    call_answering(L, rt, loop, nargs, what, future);
    lua_pop(L, 1);
    return;
  }
  rt->has_context = !lua_isnil(L, context);
  lua_pushvalue(L, context);
  peri__push_ref(L, rt, PERI_REF_CONTEXT);
  lua_replace(L, context); /* the one before */
  peri__set_ref(L, rt, PERI_REF_CONTEXT);
  call_answering(L, rt, loop, nargs, what, future);
  peri__set_ref(L, rt, PERI_REF_CONTEXT);
  rt->has_context = had;
}

void peri__call_in_context(lua_State *L, peri_runtime *rt, peri_loop *loop,
                           int nargs, const char *what)
{
  call_in_context(L, rt, loop, nargs, what, 0);
}

/* -- Making ---------------------------------------------------------------------- */

static bool is_call_table(lua_State *L, int idx)
{
  if (lua_type(L, idx) != LUA_TTABLE)
    return false;
  if (!lua_getmetatable(L, idx))
    return true;
  lua_pop(L, 1);
  return false;
}

int peri__open_call(lua_State *L, peri_runtime *rt, int fn)
{
  if (peri_likely(!is_call_table(L, fn))) {
    peri__check_function(L, rt, fn);
    return fn;
  }
  lua_settop(L, fn);
  lua_getfield(L, fn, "n");
  lua_Integer n = lua_isinteger(L, -1) ? lua_tointeger(L, -1)
                                       : (lua_Integer)lua_rawlen(L, fn);
  lua_settop(L, fn);
  if (n > PERI_MOST_VALUES)
    peri__throw(L, rt, PERI_ERR_VALUE, "a call table of %I values",
                (LUAI_UACINT)n);
  peri__check_stack(L, (int)n + 8);
  lua_geti(L, fn, 1);
  peri__check_function(L, rt, fn + 1);
  for (lua_Integer i = 2; i <= n; i++)
    lua_geti(L, fn, i);
  return fn + 1;
}

void peri__push_context_of(lua_State *L, peri_runtime *rt, int fn, int first)
{
  if (first != fn) {
    if (lua_getfield(L, fn, "context") != LUA_TNIL) {
      peri__check_context(L, rt, -1);
      return;
    }
    lua_pop(L, 1);
  }
  peri__push_context_copy(L, rt);
}

/* A handle of what is to be called, from fn on; it is on top then. */
static peri_handle *handle_new(lua_State *L, peri_runtime *rt, peri_loop *loop,
                               int fn, bool any_thread)
{
  int first = peri__open_call(L, rt, fn);
  int n = lua_gettop(L) - first + 1;
  if (n > PERI_MOST_VALUES)
    peri__throw(L, rt, PERI_ERR_VALUE, "a call with %d values is too large", n);
  peri_handle *handle = lua_newuserdatauv(L, sizeof *handle, n + 2);
  if (peri_unlikely(loop->debug)) {
    if (!any_thread)
      peri__debug_check_thread(L, rt, loop);
    peri__debug_note_call(L, rt, first);
  }
  *handle = (peri_handle){.values = n, .anchor = LUA_NOREF};
  handle->timer.node.kind = PERI_NODE_HANDLE;
  handle->timer.loop = loop;
  lua_insert(L, first);
  for (int i = n; i >= 1; i--)
    lua_setiuservalue(L, first, i);
  peri__push_loop(L, loop);
  lua_setiuservalue(L, first, n + 1);
  peri__push_context_of(L, rt, fn, first);
  lua_setiuservalue(L, first, n + 2);
  peri__push_ref(L, rt, PERI_REF_HANDLE);
  lua_setmetatable(L, first);
  lua_pushvalue(L, first);
  handle->anchor = peri__anchor(L, loop);
  return handle;
}

static int call_soon(lua_State *L, peri_runtime *rt, bool any_thread)
{
  peri_loop *loop = peri__check_loop(L, rt, 1);
  peri__loop_check_open(L, rt, loop);
  peri_handle *handle = handle_new(L, rt, loop, 2, any_thread);
  peri__loop_ready(loop, &handle->timer.node);
  return 1;
}

static int l_call_soon(lua_State *L)
{
  return call_soon(L, peri__rt(L), false);
}

/* call_soon_threadsafe: the same, and wakes the loop if it sleeps. Other
 * threads reach a loop through peri_post. */
static int l_call_soon_threadsafe(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  int n = call_soon(L, rt, true);
  peri__wake(rt);
  return n;
}

static int start_timer(lua_State *L, peri_runtime *rt, peri_loop *loop,
                       peri_clock *clock, lua_Number when, int64_t deadline,
                       int64_t duration)
{
  peri_handle *handle = handle_new(L, rt, loop, 3, false);
  handle->timed = true;
  handle->when = when;
  peri__timer_start(clock, &handle->timer, deadline, duration);
  handle->clock = clock;
  peri__clock_use(L, clock);
  return 1;
}

static peri_loop *check_timer_args(lua_State *L, peri_runtime *rt,
                                   lua_Number *seconds, const char *what)
{
  peri_loop *loop = peri__check_loop(L, rt, 1);
  peri__loop_check_open(L, rt, loop);
  *seconds = peri__check_number(L, rt, 2);
  if (*seconds != *seconds)
    peri__throw(L, rt, PERI_ERR_VALUE, "Invalid %s: NaN (not a number)", what);
  return loop;
}

static peri_clock *clock_of(peri_runtime *rt, peri_loop *loop)
{
  if (rt->task != NULL && rt->task->future.loop == loop)
    return rt->task->clock;
  return loop->clock;
}

static int call_later(lua_State *L, peri_runtime *rt, peri_loop *loop,
                      peri_clock *clock, lua_Number delay)
{
  int64_t duration = peri__nanoseconds(delay); /* < 0: due before all others */
  int64_t now = peri__clock_now(clock);
  return start_timer(L, rt, loop, clock, (lua_Number)now / 1e9 + delay,
                     peri__clock_after(clock, duration), duration);
}

static int l_call_later(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_Number delay;
  peri_loop *loop = check_timer_args(L, rt, &delay, "delay");
  return call_later(L, rt, loop, clock_of(rt, loop), delay);
}

/* call_later_real(loop, delay, fn, ...): by the real clock, whatever the task's
 * is; for what waits for the world outside */
static int l_call_later_real(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_Number delay;
  peri_loop *loop = check_timer_args(L, rt, &delay, "delay");
  return call_later(L, rt, loop, rt->clock, delay);
}

static int l_call_at(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_Number when;
  peri_loop *loop = check_timer_args(L, rt, &when, "time");
  return start_timer(L, rt, loop, clock_of(rt, loop), when,
                     peri__nanoseconds(when), -1);
}

/* call_answering(loop, fn, future, ...): as call_soon_threadsafe; should fn raise
 * anything, it is the future's error. */
static int l_call_answering(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  if (peri__to_future(L, rt, 3) == NULL)
    return peri__arg_type_error(L, rt, 3, "Future");
  l_call_soon_threadsafe(L);
  ((peri_handle *)lua_touserdata(L, -1))->answers = true;
  return 1;
}

/* Stands in the place of a callback that is never called. */
static int l_native(lua_State *L)
{
  (void)L;
  return 0;
}

/* [loop, ..., argument] -> handle */
static int call_native(lua_State *L, lua_CFunction call, peri_native_cb native)
{
  lua_pushcfunction(L, l_native);
  lua_insert(L, -2);
  call(L);
  ((peri_handle *)lua_touserdata(L, -1))->native = native;
  return 1;
}

int peri__call_later_native(lua_State *L, peri_native_cb native)
{
  return call_native(L, l_call_later, native);
}

int peri__call_later_real_native(lua_State *L, peri_native_cb native)
{
  return call_native(L, l_call_later_real, native);
}

/* The time limit (timeouts.lua) on top of the stack has come: its task is
 * cancelled, and it remembers that it was it. */
static void expire(lua_State *L, peri_runtime *rt)
{
  lua_pushliteral(L, "_task");
  lua_rawget(L, -2);
  rt->cancel_lacks_memory = false;
  if (peri__to_future(L, rt, -1) != NULL)
    peri__future_cancel(L, rt, lua_gettop(L), 0);
  lua_pushliteral(L, "_state");
  lua_pushliteral(L, "expiring");
  lua_rawset(L, -4);
  lua_pop(L, 1);
}

/* expire_soon(loop, limit), expire_later(loop, seconds, limit), expire_at(loop,
 * when, limit): a handle each */
static int l_expire_soon(lua_State *L)
{
  return call_native(L, l_call_soon, expire);
}

static int l_expire_later(lua_State *L)
{
  return call_native(L, l_call_later, expire);
}

static int l_expire_later_real(lua_State *L)
{
  return call_native(L, l_call_later_real, expire);
}

static int l_expire_at(lua_State *L)
{
  return call_native(L, l_call_at, expire);
}

/* -- Running and cancelling ---------------------------------------------------------- */

/* The handle is out of every queue and holds nothing any more. It must be on
 * the stack at idx. */
static void release(lua_State *L, peri_handle *handle, int idx)
{
  if (handle->clock != NULL)
    peri__clock_unuse(L, handle->clock);
  handle->clock = NULL;
  if (handle->anchor != LUA_NOREF)
    peri__unanchor(L, handle->timer.loop, handle->anchor);
  handle->anchor = LUA_NOREF;
  for (int i = 1; i <= handle->values; i++) {
    lua_pushnil(L);
    lua_setiuservalue(L, idx, i);
  }
  handle->values = 0;
}

static void push_handle(lua_State *L, peri_handle *handle)
{
  peri__push_anchors(L, handle->timer.loop);
  lua_rawgeti(L, -1, handle->anchor);
  lua_replace(L, -2);
}

static const char *name_of(const peri_handle *handle)
{
  return handle->timed ? "a call_later callback" : "a call_soon callback";
}

void peri__handle_run(lua_State *L, peri_runtime *rt, peri_node *node)
{
  peri_handle *handle = (peri_handle *)node;
  peri_loop *loop = handle->timer.loop;
  int n = handle->values, top = lua_gettop(L);
  push_handle(L, handle);
  if (peri_unlikely(handle->native != NULL)) {
    lua_getiuservalue(L, top + 1, 2);
    release(L, handle, top + 1);
    handle->native(L, rt);
    lua_settop(L, top);
    return;
  }
  lua_getiuservalue(L, top + 1, 2);
  int answer = handle->answers ? top + 2 : 0;
  if (peri_unlikely(!lua_checkstack(L, n + 8))) {
    release(L, handle, top + 1);
    lua_pushliteral(L, "not enough memory");
    if (!answer_with_error(L, rt, answer))
      peri__report_error(L, rt, loop, "a callback could not be called");
    lua_settop(L, top);
    return;
  }
  lua_getiuservalue(L, top + 1, n + 2);
  for (int i = 1; i <= n; i++)
    lua_getiuservalue(L, top + 1, i);
  release(L, handle, top + 1);
  call_in_context(L, rt, loop, n - 1, name_of(handle), answer);
  lua_settop(L, top);
}

const char *peri__handle_push(lua_State *L, peri_runtime *rt, peri_node *node)
{
  peri_handle *handle = (peri_handle *)node;
  (void)rt;
  push_handle(L, handle);
  lua_getiuservalue(L, -1, 1);
  lua_insert(L, -2);
  return name_of(handle);
}

void peri__handle_due(peri_node *node)
{
  ((peri_handle *)node)->due = true;
}

void peri__handle_drop(lua_State *L, peri_runtime *rt, peri_node *node)
{
  peri_handle *handle = (peri_handle *)node;
  (void)rt;
  push_handle(L, handle);
  release(L, handle, lua_gettop(L));
  lua_pop(L, 1);
}

/* Takes the pending handle at idx out of its queue. */
static void cancel(lua_State *L, peri_handle *handle, int idx)
{
  handle->cancelled = true;
  if (handle->anchor == LUA_NOREF)
    return;
  if (handle->clock != NULL && !handle->due)
    peri__timer_stop(handle->clock, &handle->timer);
  else if (peri__node_listed(&handle->timer.node))
    peri__node_unlink(&handle->timer.node);
  release(L, handle, idx);
}

void peri__handle_forget(lua_State *L, peri_runtime *rt, int idx)
{
  if (!lua_getmetatable(L, idx))
    return;
  const void *meta = lua_topointer(L, -1);
  lua_pop(L, 1);
  if (meta == rt->meta_handle)
    cancel(L, lua_touserdata(L, idx), idx);
}

static int l_cancel(lua_State *L)
{
  peri_handle *handle = check_handle(L, peri__rt(L), 1);
  lua_settop(L, 1);
  cancel(L, handle, 1);
  return 0;
}

static int l_cancelled(lua_State *L)
{
  lua_pushboolean(L, check_handle(L, peri__rt(L), 1)->cancelled);
  return 1;
}

/* handle:when() -> seconds on the clock of its timer; nil for call_soon */
static int l_when(lua_State *L)
{
  peri_handle *handle = check_handle(L, peri__rt(L), 1);
  if (!handle->timed)
    return 0;
  lua_pushnumber(L, handle->when);
  return 1;
}

static int l_tostring(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_handle *handle = check_handle(L, rt, 1);
  const char *state = handle->cancelled             ? "cancelled"
                      : handle->anchor == LUA_NOREF ? "done"
                                                    : "pending";
  lua_pushfstring(L, "<%s %s%s>", handle->timed ? "TimerHandle" : "Handle",
                  state, peri__debug_details(L, rt, 1));
  return 1;
}

static const luaL_Reg meta[] = {{"__tostring", l_tostring}, {NULL, NULL}};

static const luaL_Reg methods[] = {{"cancel", l_cancel},
                                   {"cancelled", l_cancelled},
                                   {"when", l_when},
                                   {NULL, NULL}};

static const luaL_Reg loop_methods[] = {
    {"call_soon", l_call_soon},
    {"call_later", l_call_later},
    {"call_at", l_call_at},
    {"call_soon_threadsafe", l_call_soon_threadsafe},
    {NULL, NULL}};

static const luaL_Reg functions[] = {{"call_later_real", l_call_later_real},
                                     {"call_answering", l_call_answering},
                                     {"expire_soon", l_expire_soon},
                                     {"expire_later", l_expire_later},
                                     {"expire_later_real", l_expire_later_real},
                                     {"expire_at", l_expire_at},
                                     {NULL, NULL}};

/* The loop's metatable exists. */
void peri__handle_open(lua_State *L, peri_runtime *rt)
{
  rt->meta_handle =
      peri__metatable(L, rt, PERI_REF_HANDLE, "Handle", meta, methods);
  lua_pop(L, 1);
  peri__push_methods(L, rt, PERI_REF_LOOP_META);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, loop_methods, 1);
  lua_pop(L, 1);
  peri__register(L, rt, functions);
}
