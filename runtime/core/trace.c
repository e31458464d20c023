/*
 * trace.c: where an error came from.
 *
 * luaL_traceback costs 35 to 95 us, since it looks every function up by name in
 * package.loaded; cancelling 100,000 tasks must not pay for text that nobody
 * reads. So the message handler of a task keeps frames raw, in a table of
 * triples (function, line, name), and the text is made when somebody asks.
 *
 * An error that leaves a task, is awaited and leaves the next one passes
 * several stacks. Whoever raises it again says so with peri__trace_carry: the
 * next handler that sees the same error adds its frames behind. Error objects
 * keep their trace themselves, under a private key, as err.traceback.
 */
#include <string.h>

#include "core.h"
#include "inspect.h"

static const char trace_key = 't';

enum { FIRST_FRAMES = 12, LAST_FRAMES = 10, TRIPLE = 3 };

/* A label in place of a triple: false, false, text. */
static void add_label(lua_State *L, int trace, const char *text)
{
  lua_Integer n = (lua_Integer)lua_rawlen(L, trace);
  lua_pushboolean(L, false);
  lua_rawseti(L, trace, n + 1);
  lua_pushboolean(L, false);
  lua_rawseti(L, trace, n + 2);
  lua_pushstring(L, text);
  lua_rawseti(L, trace, n + 3);
}

static void add_frame(lua_State *L, lua_State *co, int trace, lua_Debug *ar)
{
  lua_Integer n = (lua_Integer)lua_rawlen(L, trace);
  lua_getinfo(co, "nlf", ar);
  if (co != L)
    lua_xmove(co, L, 1);
  lua_rawseti(L, trace, n + 1);
  lua_pushinteger(L, ar->currentline);
  lua_rawseti(L, trace, n + 2);
  if (ar->name != NULL)
    lua_pushstring(L, ar->name);
  else
    lua_pushboolean(L, false);
  lua_rawseti(L, trace, n + 3);
}

/* Doubles, then halves: lua_getstack walks the stack from its top. */
int peri__last_level(lua_State *co)
{
  lua_Debug ar;
  int low = 0, high = 1;
  while (lua_getstack(co, high, &ar)) {
    low = high;
    high *= 2;
  }
  while (high - low > 1) {
    int middle = low + (high - low) / 2;
    if (lua_getstack(co, middle, &ar))
      low = middle;
    else
      high = middle;
  }
  return low;
}

/* The lowest level of co that is told of: not the root of the running task. */
static int lowest(peri_runtime *rt, lua_State *co)
{
  int last = peri__last_level(co);
  return rt->task != NULL && co == rt->task->co ? last - 1 : last;
}

/* Adds the frames of co from a level to the last one to the trace at the given
 * index. */
static void add_frames(lua_State *L, lua_State *co, int level, int last,
                       int trace)
{
  lua_Debug ar;
  int from = level + FIRST_FRAMES, to = last - LAST_FRAMES;
  lua_checkstack(co, 4);
  for (; level <= last && lua_getstack(co, level, &ar); level++) {
    if (level >= from && level <= to) {
      lua_pushfstring(L, "...\t(skipping %d levels)", to - level + 1);
      add_label(L, trace, lua_tostring(L, -1));
      lua_pop(L, 1);
      level = to;
      continue;
    }
    add_frame(L, co, trace, &ar);
  }
}

/* Pushes the trace of the error at idx if it is known, else nil. */
void peri__trace_push(lua_State *L, peri_runtime *rt, int idx)
{
  idx = lua_absindex(L, idx);
  peri__push_ref(L, rt, PERI_REF_TRACE_ERROR);
  bool same = lua_toboolean(L, -1) && lua_rawequal(L, -1, idx);
  lua_pop(L, 1);
  if (same) {
    peri__push_ref(L, rt, PERI_REF_TRACE);
    if (lua_istable(L, -1))
      return;
    lua_pop(L, 1);
  }
  if (lua_type(L, idx) == LUA_TTABLE)
    lua_rawgetp(L, idx, &trace_key);
  else
    lua_pushnil(L);
}

void peri__trace_carry(lua_State *L, peri_runtime *rt, int idx)
{
  idx = lua_absindex(L, idx);
  peri__set_ref(L, rt, PERI_REF_TRACE);
  lua_pushvalue(L, idx);
  peri__set_ref(L, rt, PERI_REF_TRACE_ERROR);
}

/* Pushes the trace to add to: the error's own, or a new one that becomes it. */
static void push_or_make(lua_State *L, peri_runtime *rt, int idx)
{
  peri__trace_push(L, rt, idx);
  if (lua_istable(L, -1))
    return;
  lua_pop(L, 1);
  lua_createtable(L, 4 * TRIPLE, 0);
  if (peri__is_error_object(L, rt, idx)) {
    lua_pushvalue(L, -1);
    lua_rawsetp(L, idx, &trace_key);
  }
  lua_pushvalue(L, -1);
  peri__trace_carry(L, rt, idx);
}

void peri__trace_label(lua_State *L, peri_runtime *rt, int idx,
                       const char *label)
{
  idx = lua_absindex(L, idx);
  push_or_make(L, rt, idx);
  add_label(L, lua_gettop(L), label);
  lua_pop(L, 1);
}

void peri__trace_task(lua_State *L, peri_task *task)
{
  peri_frames *frames = task->frames;
  luaL_checkstack(L, 12, NULL);
  lua_createtable(L, 4 * TRIPLE, 0);
  int trace = lua_gettop(L);
  for (int i = frames != NULL ? frames->n - 1 : -1; i >= 0; i--)
    add_frames(L, frames->v[i].co, 0, peri__last_level(frames->v[i].co), trace);
  if (task->flags & PERI_T_STARTED)
    add_frames(L, task->co, 0, peri__last_level(task->co) - 1, trace);
}

void peri__trace_coroutine(lua_State *L, peri_runtime *rt, lua_State *co,
                           int idx)
{
  idx = lua_absindex(L, idx);
  if (!lua_checkstack(L, 12) || peri__sentinel_of(L, rt, idx))
    return;
  push_or_make(L, rt, idx);
  add_frames(L, co, 0, lowest(rt, co), lua_gettop(L));
  lua_pop(L, 1);
}

int peri__trace_handler(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  if (!lua_checkstack(L, 12))
    return 1;
  lua_settop(L, 1);
  if (lua_isnil(L, 1)) {
    peri__push_error(L, rt, PERI_ERR_RUNTIME, "error(nil) was raised");
    lua_replace(L, 1);
  }
  /* frames of cancellations are not worth their time */
  if (peri__sentinel_of(L, rt, 1) || peri__is_cancelled_error(L, rt, 1))
    return 1;
  push_or_make(L, rt, 1);
  if (lua_rawlen(L, 2) > 0 && rt->task != NULL) {
    peri__task_name(L, rt, rt->task, 0);
    lua_pushfstring(L, "in task %s:", lua_tostring(L, -1));
    add_label(L, 2, lua_tostring(L, -1));
    lua_pop(L, 2);
  }
  add_frames(L, L, 1, lowest(rt, L), 2);
  lua_settop(L, 1);
  return 1;
}

/* -- Text -------------------------------------------------------------------- */

/* Pushes the line of a frame: its function and name stand at the indices. */
static void push_line(lua_State *L, int function, int line, int name)
{
  lua_Debug ar;
  const char *text = lua_tostring(L, name);
  if (!lua_isfunction(L, function)) {
    lua_pushfstring(L, "\n\t%s", text);
    return;
  }
  lua_pushvalue(L, function);
  lua_getinfo(L, ">S", &ar);
  const char *place = lua_pushfstring(
      L, line > 0 ? "\n\t%s:%d:" : "\n\t%s:", ar.short_src, line);
  if (*ar.what == 'm')
    lua_pushfstring(L, "%s in main chunk", place);
  else if (text != NULL)
    lua_pushfstring(L, "%s in function '%s'", place, text);
  else if (*ar.what == 'C')
    lua_pushfstring(L, "%s in ?", place);
  else
    lua_pushfstring(L, "%s in function <%s:%d>", place, ar.short_src,
                    ar.linedefined);
  lua_replace(L, -2);
}

void peri__trace_text(lua_State *L, peri_runtime *rt)
{
  (void)rt;
  if (!lua_istable(L, -1)) {
    lua_pop(L, 1);
    lua_pushliteral(L, "");
    return;
  }
  luaL_checkstack(L, 10, NULL);
  int trace = lua_gettop(L);
  lua_Integer n = (lua_Integer)lua_rawlen(L, trace);
  lua_createtable(L, (int)(n / TRIPLE) + 1, 0);
  int lines = lua_gettop(L);
  lua_pushliteral(L, "stack traceback:");
  lua_rawseti(L, lines, 1);
  for (lua_Integer i = 1; i + 2 <= n; i += TRIPLE) {
    lua_rawgeti(L, trace, i);
    lua_rawgeti(L, trace, i + 1);
    lua_rawgeti(L, trace, i + 2);
    push_line(L, lines + 1, (int)lua_tointeger(L, -2), lines + 3);
    lua_rawseti(L, lines, (lua_Integer)lua_rawlen(L, lines) + 1);
    lua_settop(L, lines);
  }
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  lua_Integer count = (lua_Integer)lua_rawlen(L, lines);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, lines, i);
    luaL_addvalue(&b);
  }
  luaL_pushresult(&b);
  lua_replace(L, trace);
  lua_settop(L, trace);
}

/* error_traceback(err): the text, or nil */
static int l_error_traceback(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, 1);
  if (lua_type(L, 1) != LUA_TTABLE)
    return 0;
  if (lua_rawgetp(L, 1, &trace_key) == LUA_TNIL)
    return 0;
  peri__trace_text(L, rt);
  return 1;
}

/* trace_text(trace) */
static int l_trace_text(lua_State *L)
{
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  peri__trace_text(L, peri__rt(L));
  return 1;
}

static const luaL_Reg functions[] = {{"error_traceback", l_error_traceback},
                                     {"trace_text", l_trace_text},
                                     {NULL, NULL}};

void peri__trace_open(lua_State *L, peri_runtime *rt)
{
  lua_pushnil(L);
  peri__set_ref(L, rt, PERI_REF_TRACE_ERROR);
  lua_pushnil(L);
  peri__set_ref(L, rt, PERI_REF_TRACE);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, peri__trace_handler, 1);
  peri__set_ref(L, rt, PERI_REF_TRACE_HANDLER);
  peri__register(L, rt, functions);
}
