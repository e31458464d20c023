/*
 * debug.c: debug mode: what it notes, and what it reports.
 *
 * Debug mode is a loop's. rt->debug is that of the running loop, and outside of
 * runs that of the options; so whoever makes something asks rt->debug or the
 * loop's own flag, and a change is in force for what is made from then on.
 *
 * None of it is to cost anything while it is off. The loop asks for its mode
 * where it looks for work, and has it do so in every round while it is on
 * (loop.c, find_work); a task notes where it is made when it needs a new
 * coroutine, and while the mode is on none is used twice (task.c).
 *
 * What is noted stands beside the objects, in a table whose keys are weak: the
 * raw trace (trace.c) of where the object was made, with what it calls, as
 * text, in the field "function". It is told where a report is made.
 *
 * Warnings go to the log, errors to the exception handler. A log handler that
 * fails is reported like a callback that does.
 */
#include "debug.h"

/* Stands in what the script has to end. User values: what it is, the trace of
 * its making; of a coroutine object, that. */
typedef struct peri_sentry {
  peri_node node; /* in rt->sentries until it is released or has reported */
} peri_sentry;

enum { SENTRY_UV_WHAT = 1, SENTRY_UV_TRACE = 2, SENTRY_UV_COROUTINE = 3 };

/* -- Saying -------------------------------------------------------------------- */

/* [level, runtime, function, arguments...]: logs the text that the function
 * makes. */
static int say_protected(lua_State *L)
{
  enum { RUNTIME = 2, FUNCTION = 3 };
  lua_CFunction fn = lua_tocfunction(L, FUNCTION);
  lua_pushvalue(L, RUNTIME);
  lua_pushcclosure(L, fn, 1);
  lua_replace(L, FUNCTION);
  lua_call(L, lua_gettop(L) - FUNCTION, 1);
  peri__require(L, "perilune.log");
  lua_getfield(L, -1, lua_touserdata(L, 1));
  lua_pushvalue(L, FUNCTION);
  lua_call(L, 1, 0);
  return 0;
}

/* Logs what fn makes of its n arguments on top of the stack, which are popped.
 * Never raises. */
static void say(lua_State *L, peri_runtime *rt, const char *level,
                lua_CFunction fn, int n)
{
  if (!lua_checkstack(L, 8)) {
    lua_pop(L, n);
    return;
  }
  const char *callback = rt->callback;
  int first = lua_gettop(L) - n + 1;
  lua_pushcfunction(L, say_protected);
  lua_pushlightuserdata(L, (void *)level);
  lua_pushlightuserdata(L, rt);
  lua_pushcfunction(L, fn);
  lua_rotate(L, first, 4);
  rt->callback = "a log handler";
  int status = lua_pcall(L, n + 3, 0, 0);
  rt->callback = callback;
  if (status == LUA_OK)
    return;
  peri_sentinel sentinel = peri__sentinel_of(L, rt, -1);
  if (sentinel == PERI_SENTINEL_NONE) {
    peri__report_error(L, rt, peri__running_loop(rt),
                       "an error in a log handler");
    return;
  }
  if (sentinel != PERI_SENTINEL_KILL)
    rt->abort = sentinel;
  lua_pop(L, 1);
}

/* -- Where objects were made ----------------------------------------------------- */

/* Notes the trace on top of the stack, which stays, for the object at idx. */
static void keep_source(lua_State *L, peri_runtime *rt, int idx)
{
  peri__push_ref(L, rt, PERI_REF_SOURCES);
  lua_pushvalue(L, idx);
  lua_pushvalue(L, -3);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

void peri__debug_note(lua_State *L, peri_runtime *rt, int idx)
{
  idx = lua_absindex(L, idx);
  peri__trace_here(L);
  keep_source(L, rt, idx);
  lua_pop(L, 1);
}

static bool is_script_function(lua_State *L, int idx)
{
  lua_Debug ar;
  if (!lua_isfunction(L, idx))
    return false;
  lua_pushvalue(L, idx);
  lua_getinfo(L, ">S", &ar);
  return peri__is_script(&ar);
}

/* The library wraps the script's functions in its own, whose arguments they
 * are: Context.run, for one. */
void peri__debug_note_call(lua_State *L, peri_runtime *rt, int fn)
{
  int object = lua_gettop(L), target = fn;
  for (int i = fn; i < object; i++) {
    if (is_script_function(L, i)) {
      target = i;
      break;
    }
  }
  peri__trace_here(L);
  peri__push_place(L, target);
  lua_setfield(L, -2, "function");
  keep_source(L, rt, object);
  lua_settop(L, object);
}

void peri__debug_push_source(lua_State *L, peri_runtime *rt, int idx)
{
  idx = lua_absindex(L, idx);
  peri__check_stack(L, 6);
  if (!peri__has_ref(L, rt, PERI_REF_SOURCES)) {
    lua_pushnil(L);
    return;
  }
  peri__push_ref(L, rt, PERI_REF_SOURCES);
  lua_pushvalue(L, idx);
  lua_rawget(L, -2);
  lua_replace(L, -2);
}

/* Adds what the object calls to the text on top. */
static void add_function(lua_State *L, int trace)
{
  if (lua_getfield(L, trace, "function") == LUA_TSTRING) {
    lua_pushliteral(L, ", ");
    lua_insert(L, -2);
    lua_concat(L, 3);
  } else {
    lua_pop(L, 1);
  }
}

/* Adds the place of the first frame of the trace to the text on top. */
static void add_creation(lua_State *L, int trace)
{
  lua_Debug ar;
  if (lua_rawgeti(L, trace, 1) != LUA_TFUNCTION) {
    lua_pop(L, 1);
    return;
  }
  lua_getinfo(L, ">S", &ar);
  lua_rawgeti(L, trace, 2);
  int line = (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  lua_pushfstring(L, ", created at %s:%d", ar.short_src, line);
  lua_concat(L, 2);
}

/* Adds where the task waits, in the script. */
static void add_wait(lua_State *L, peri_task *task)
{
  lua_Debug ar;
  int level = 0;
  if (task->future.state != PERI_PENDING || task->wait == PERI_WAIT_NONE ||
      !(task->flags & PERI_T_STARTED) ||
      !peri__script_level(peri__task_innermost(task), &level, &ar))
    return;
  lua_pushfstring(L, ", waits at %s:%d", ar.short_src, ar.currentline);
  lua_concat(L, 2);
}

const char *peri__debug_details(lua_State *L, peri_runtime *rt, int idx)
{
  idx = lua_absindex(L, idx);
  peri__debug_push_source(L, rt, idx);
  int trace = lua_gettop(L);
  lua_pushliteral(L, "");
  if (lua_istable(L, trace)) {
    add_function(L, trace);
    peri_future *future = peri__to_future(L, rt, idx);
    if (future != NULL && future->kind == PERI_KIND_TASK)
      add_wait(L, (peri_task *)future);
    add_creation(L, trace);
  }
  lua_replace(L, trace);
  return lua_tostring(L, trace);
}

void peri__debug_tell_trace(lua_State *L)
{
  if (!lua_istable(L, -1) || lua_rawlen(L, -1) == 0) {
    lua_pop(L, 1);
    return;
  }
  peri__trace_text_under(L, "stack traceback:");
  lua_setfield(L, -2, "source_traceback");
}

void peri__debug_tell_source(lua_State *L, peri_runtime *rt, int idx)
{
  peri__debug_push_source(L, rt, idx);
  peri__debug_tell_trace(L);
}

/* [error, runtime] */
static int trace_task(lua_State *L)
{
  peri_runtime *rt = lua_touserdata(L, 2);
  peri__push_task(L, rt->task); /* at 3 */
  const char *name = peri__task_name(L, rt, rt->task, 3);
  lua_pushfstring(L, "%s was created at:", name);
  peri__debug_push_source(L, rt, 3);
  if (lua_istable(L, -1) && lua_rawlen(L, -1) > 0)
    peri__trace_append(L, rt, 1, lua_tostring(L, -2));
  return 0;
}

void peri__debug_trace_task(lua_State *L, peri_runtime *rt, int idx)
{
  if (rt->task == NULL || !lua_checkstack(L, 8) ||
      peri__sentinel_of(L, rt, idx) || peri__is_cancelled_error(L, rt, idx))
    return;
  lua_pushvalue(L, idx);
  lua_pushcfunction(L, trace_task);
  lua_insert(L, -2);
  lua_pushlightuserdata(L, rt);
  if (lua_pcall(L, 2, 0, 0) != LUA_OK) /* the error goes on without it */
    lua_pop(L, 1);
}

/* source_traceback(object) -> the text of where it was made, or nil */
static int l_source_traceback(lua_State *L)
{
  lua_settop(L, 1);
  peri__debug_push_source(L, peri__rt(L), 1);
  if (!lua_istable(L, 2) || lua_rawlen(L, 2) == 0)
    return 0;
  peri__trace_text_under(L, "stack traceback:");
  return 1;
}

/* The text on top of the stack gets the stack below it, from the trace at idx.
 */
static void add_created(lua_State *L, int trace)
{
  if (!lua_istable(L, trace) || lua_rawlen(L, trace) == 0)
    return;
  lua_pushvalue(L, trace);
  peri__trace_text_under(L, "\ncreated at:");
  lua_concat(L, 2);
}

/* -- What is slow ------------------------------------------------------------------ */

static bool is_slow(const peri_loop *loop, uint64_t took)
{
  return (double)took / 1e9 >= loop->slow_callback_duration;
}

/* [task, nil, nothing, ns], or [function, its handle or nil, what it is, ns] */
static int slow_text(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  const char *what = lua_touserdata(L, 3);
  char seconds[32];
  snprintf(seconds, sizeof seconds, "%.3f", lua_tonumber(L, 4) / 1e9);
  if (what == NULL) {
    luaL_tolstring(L, 1, NULL);
    lua_pushfstring(L, "Executing %s took %s seconds", lua_tostring(L, -1),
                    seconds);
    return 1;
  }
  if (!lua_isnil(L, 2)) {
    peri__debug_details(L, rt, 2);
  } else {
    peri__push_place(L, 1);
    const char *place = lua_tostring(L, -1);
    lua_pushfstring(L, place != NULL ? ", %s" : "", place);
  }
  lua_pushfstring(L, "Executing <%s%s> took %s seconds", what,
                  lua_tostring(L, -1), seconds);
  return 1;
}

/* What ran is at subject, its handle above it. */
static void report_slow(lua_State *L, peri_runtime *rt, int subject,
                        const char *what, uint64_t took)
{
  lua_pushvalue(L, subject);
  lua_pushvalue(L, subject + 1);
  lua_pushlightuserdata(L, (void *)what);
  lua_pushnumber(L, (lua_Number)took);
  say(L, rt, "warning", slow_text, 4);
}

/* Pushes the task whose node this is. A bare one, and its node, is somewhere
 * else then; without memory for that it is not pushed, but nil. */
static void push_task(lua_State *L, peri_runtime *rt, peri_node **node)
{
  if (!peri__task_make_plain(L, rt, peri__node_task(*node))) {
    lua_pushnil(L);
    return;
  }
  peri_task *task = peri__task_now(peri__node_task(*node));
  *node = &task->node;
  peri__push_task(L, task);
}

/* Pushes what the node runs, and its handle or nil. Returns what a function is;
 * NULL: a task, or nothing that can be told of (nil). Needs no memory. */
static const char *push_subject(lua_State *L, peri_runtime *rt,
                                peri_node **node)
{
  if ((*node)->kind == PERI_NODE_HANDLE)
    return peri__handle_push(L, rt, *node);
  if ((*node)->kind == PERI_NODE_LINK)
    return peri__link_push(L, rt, *node);
  if ((*node)->kind == PERI_NODE_TASK)
    push_task(L, rt, node);
  else
    lua_pushnil(L); /* watch.c times its callbacks one by one */
  lua_pushnil(L);
  return NULL;
}

void peri__debug_run(lua_State *L, peri_runtime *rt, peri_loop *loop,
                     peri_node *node,
                     void (*run)(lua_State *, peri_runtime *, peri_node *))
{
  int top = lua_gettop(L);
  peri__check_stack(L, 16);
  const char *what = push_subject(L, rt, &node);
  peri__debug_push_source(L, rt, top + 2);
  peri__set_ref(L, rt, PERI_REF_SOURCE);
  uint64_t begin = uv_hrtime();
  run(L, rt, node);
  uint64_t took = uv_hrtime() - begin;
  lua_pushboolean(L, false);
  peri__set_ref(L, rt, PERI_REF_SOURCE);
  if (is_slow(loop, took) && !lua_isnil(L, top + 1))
    report_slow(L, rt, top + 1, what, took);
  lua_settop(L, top);
}

void peri__debug_call(lua_State *L, peri_runtime *rt, peri_loop *loop,
                      int nargs, const char *what)
{
  if (!lua_checkstack(L, 8)) {
    peri__call_in_context(L, rt, loop, nargs, what);
    return;
  }
  int subject = lua_gettop(L) - nargs - 1; /* below the context */
  lua_pushvalue(L, subject + 1);
  lua_pushnil(L);
  lua_rotate(L, subject, 2);
  uint64_t begin = uv_hrtime();
  peri__call_in_context(L, rt, loop, nargs, what);
  uint64_t took = uv_hrtime() - begin;
  if (is_slow(loop, took))
    report_slow(L, rt, subject, what, took);
  lua_settop(L, subject - 1);
}

/* [delay, took, events] */
static int polled_text(lua_State *L)
{
  char text[96];
  double delay = lua_tonumber(L, 1) / 1e6, took = lua_tonumber(L, 2) / 1e6;
  int events = (int)lua_tointeger(L, 3);
  int n = delay < 0 ? snprintf(text, sizeof text, "poll took %.3f ms: ", took)
                    : snprintf(text, sizeof text,
                               "poll %.3f ms took %.3f ms: ", delay, took);
  if (events == 0 && delay >= 0)
    snprintf(text + n, sizeof text - (size_t)n, "timeout");
  else
    snprintf(text + n, sizeof text - (size_t)n, "%d event%s", events,
             events == 1 ? "" : "s");
  lua_pushstring(L, text);
  return 1;
}

void peri__debug_polled(lua_State *L, peri_runtime *rt, int64_t delay,
                        uint64_t took, size_t events)
{
  if (!lua_checkstack(L, 8))
    return;
  lua_pushnumber(L, (lua_Number)delay);
  lua_pushnumber(L, (lua_Number)took);
  lua_pushinteger(L, (lua_Integer)events);
  say(L, rt, took >= 1000000000 ? "info" : "debug", polled_text, 3);
}

/* -- What should not be --------------------------------------------------------------- */

void peri__debug_check_thread(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  uv_thread_t self = uv_thread_self(), thread = atomic_load(&rt->thread);
  if (loop->running && !uv_thread_equal(&self, &thread))
    peri__throw(L, rt, PERI_ERR_RUNTIME,
                "Non-thread-safe operation invoked on an event loop other than "
                "the current one: other threads use peri_post");
}

/* [task] */
static int swallowed_text(lua_State *L)
{
  peri_task *task = lua_touserdata(L, 1);
  luaL_tolstring(L, 1, NULL);
  lua_pushfstring(L,
                  "%s swallowed a cancellation: it has ended well, with "
                  "cancelling() == %d",
                  lua_tostring(L, -1), (int)task->cancels);
  return 1;
}

void peri__debug_swallowed(lua_State *L, peri_runtime *rt, int idx)
{
  if (!lua_checkstack(L, 8))
    return;
  lua_pushvalue(L, idx);
  say(L, rt, "warning", swallowed_text, 1);
}

/* [object, phrase] */
static int unclosed_text(lua_State *L)
{
  peri__debug_push_source(L, peri__rt(L), 1);
  luaL_tolstring(L, 1, NULL);
  lua_pushliteral(L, "ResourceWarning: ");
  lua_pushfstring(L, lua_touserdata(L, 2), lua_tostring(L, 4));
  lua_concat(L, 2);
  add_created(L, 3);
  return 1;
}

void peri__debug_unclosed(lua_State *L, peri_runtime *rt, int idx,
                          const char *phrase)
{
  if (!lua_checkstack(L, 8))
    return;
  lua_pushvalue(L, idx);
  lua_pushlightuserdata(L, (void *)phrase);
  say(L, rt, "warning", unclosed_text, 2);
}

/* -- Sentries --------------------------------------------------------------------------- */

/* [sentry] */
static int sentry_text(lua_State *L)
{
  lua_getiuservalue(L, 1, SENTRY_UV_TRACE);
  if (lua_getiuservalue(L, 1, SENTRY_UV_COROUTINE) != LUA_TNIL) {
    luaL_tolstring(L, 3, NULL);
    lua_pushfstring(L, "RuntimeWarning: %s was never awaited",
                    lua_tostring(L, -1));
  } else {
    lua_getiuservalue(L, 1, SENTRY_UV_WHAT);
    lua_pushfstring(L, "ResourceWarning: unclosed %s", lua_tostring(L, -1));
  }
  add_created(L, 2);
  return 1;
}

/* The sentry at idx has left its list. */
static void report_sentry(lua_State *L, peri_runtime *rt, int idx)
{
  if (!lua_checkstack(L, 8))
    return;
  idx = lua_absindex(L, idx);
  bool coroutine = lua_getiuservalue(L, idx, SENTRY_UV_COROUTINE) != LUA_TNIL;
  bool taken = coroutine && peri__coroutine_taken(L, -1);
  lua_pop(L, 1);
  if (taken)
    return;
  lua_pushvalue(L, idx);
  say(L, rt, "warning", sentry_text, 1);
}

static int l_sentry_gc(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_sentry *sentry = lua_touserdata(L, 1);
  if (!peri__node_listed(&sentry->node))
    return 0;
  peri__node_unlink(&sentry->node);
  if (!rt->closed)
    report_sentry(L, rt, 1);
  return 0;
}

/* Pushes a new one, in the list, without a word on what it is for. */
static void sentry_new(lua_State *L, peri_runtime *rt)
{
  peri__check_stack(L, 6);
  peri_sentry *sentry = lua_newuserdatauv(L, sizeof *sentry, 3);
  sentry->node.link.next = NULL;
  peri__trace_here(L);
  lua_setiuservalue(L, -2, SENTRY_UV_TRACE);
  peri__push_ref(L, rt, PERI_REF_OBJECTS);
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, sentry);
  peri__push_ref(L, rt, PERI_REF_SENTRY);
  lua_setmetatable(L, -3);
  lua_pop(L, 1);
  peri__list_push(&rt->sentries, &sentry->node);
}

void peri__debug_watch(lua_State *L, peri_runtime *rt, const char *what)
{
  if (!rt->debug) {
    lua_pushnil(L);
    return;
  }
  lua_pushstring(L, what);
  sentry_new(L, rt);
  lua_insert(L, -2);
  lua_setiuservalue(L, -2, SENTRY_UV_WHAT);
}

void peri__debug_watch_coroutine(lua_State *L, peri_runtime *rt, int idx)
{
  idx = lua_absindex(L, idx);
  sentry_new(L, rt);
  lua_pushvalue(L, idx);
  lua_setiuservalue(L, -2, SENTRY_UV_COROUTINE);
}

void peri__debug_release(lua_State *L, int idx)
{
  peri_sentry *sentry = lua_touserdata(L, idx);
  if (sentry != NULL && peri__node_listed(&sentry->node))
    peri__node_unlink(&sentry->node);
}

/* What is garbage reports itself, before the rest is told. */
void peri__debug_close(lua_State *L, peri_runtime *rt)
{
  if (peri__list_empty(&rt->sentries))
    return;
  lua_gc(L, LUA_GCCOLLECT);
  while (!peri__list_empty(&rt->sentries)) {
    peri_sentry *sentry = (peri_sentry *)peri__list_shift(&rt->sentries);
    peri__push_ref(L, rt, PERI_REF_OBJECTS);
    if (lua_rawgetp(L, -1, sentry) == LUA_TUSERDATA)
      report_sentry(L, rt, -1);
    lua_pop(L, 2);
  }
}

/* watch(what) -> a sentry, or nil outside of debug mode */
static int l_watch(lua_State *L)
{
  peri__debug_watch(L, peri__rt(L), lua_tostring(L, 1));
  return 1;
}

/* release(sentry) */
static int l_release(lua_State *L)
{
  peri__debug_release(L, 1);
  return 0;
}

/* -- The mode ------------------------------------------------------------------------------ */

/* core.debugging, which the library reads: the string and the field exist. */
static void publish(lua_State *L, peri_runtime *rt)
{
  if (!lua_checkstack(L, 4))
    return;
  peri__push_ref(L, rt, PERI_REF_CORE);
  lua_pushboolean(L, rt->debug);
  lua_setfield(L, -2, "debugging");
  lua_pop(L, 1);
}

void peri__debug_follow(lua_State *L, peri_runtime *rt)
{
  bool on = rt->run != NULL ? rt->run->loop->debug : rt->options.debug != 0;
  if (peri_likely(rt->debug == on))
    return;
  rt->debug = on;
  publish(L, rt);
}

static const luaL_Reg sentry_meta[] = {{"__gc", l_sentry_gc}, {NULL, NULL}};

/* What only debug mode needs is made when a loop is first in it. */
static void prepare(lua_State *L, peri_runtime *rt)
{
  if (peri__has_ref(L, rt, PERI_REF_SOURCES))
    return;
  peri__check_stack(L, 8);
  peri__metatable(L, rt, PERI_REF_SENTRY, "Sentry", sentry_meta, NULL);
  lua_pop(L, 1);
  lua_pushboolean(L, false);
  peri__set_ref(L, rt, PERI_REF_SOURCE);
  peri__weak_table(L, rt, PERI_REF_SOURCES, "k");
}

void peri__debug_set(lua_State *L, peri_runtime *rt, peri_loop *loop, bool on)
{
  if (on)
    prepare(L, rt);
  loop->debug = on;
  loop->rounds_left = 1; /* the next round asks for the mode */
  if (on)
    peri__task_forget_pool(L, rt, loop);
  peri__debug_follow(L, rt);
}

static const luaL_Reg functions[] = {{"watch", l_watch},
                                     {"release", l_release},
                                     {"source_traceback", l_source_traceback},
                                     {NULL, NULL}};

void peri__debug_open(lua_State *L, peri_runtime *rt)
{
  peri__register(L, rt, functions);
  rt->debug = rt->options.debug != 0;
  if (rt->debug)
    prepare(L, rt);
  publish(L, rt);
}
