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
 *
 * Strings are equal by chance, and one error object may be raised many times. So
 * a trace that was carried is for the task (or callback) that carried it only;
 * and an error that code raises where its trace begins already is a new one.
 */
#include <string.h>

#include "bundle.h"
#include "core.h"
#include "inspect.h"

static const char trace_key = 't';

enum { FIRST_FRAMES = 12, LAST_FRAMES = 10 }; /* of each stack */
enum { SOURCE_FRAMES = 10, MOST_FRAMES = 500 };
enum { TRIPLE = 3 };

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

/* -- Where the script stands --------------------------------------------------- */

static bool is_module_file(const char *name, const char *path)
{
  for (; *name != '\0'; name++, path++)
    if (*path != (*name == '.' ? '/' : *name))
      return false;
  return strcmp(path, ".lua") == 0 || strcmp(path, "/init.lua") == 0;
}

/* Whether a chunk is ours: "@perilune/tasks.lua", or what C holds as text. */
static bool is_bundled(const char *source)
{
  if (strncmp(source, "=perilune.", 10) == 0)
    return true;
  if (strncmp(source, "@perilune/", 10) != 0)
    return false;
  for (const peri_bundled *module = peri__bundle; module->name; module++)
    if (is_module_file(module->name, source + 1))
      return true;
  return false;
}

bool peri__is_script(const lua_Debug *ar)
{
  return *ar->what != 'C' && !is_bundled(ar->source);
}

bool peri__script_level(lua_State *co, int *level, lua_Debug *ar)
{
  for (; lua_getstack(co, *level, ar); ++*level) {
    lua_getinfo(co, "Sl", ar);
    if (peri__is_script(ar))
      return true;
  }
  return false;
}

/* Below the script there is only what called it. */
static void drop_lowest_c_frames(lua_State *L, int trace)
{
  lua_Integer n = (lua_Integer)lua_rawlen(L, trace);
  for (; n > 0; n -= TRIPLE) {
    lua_rawgeti(L, trace, n - 2);
    bool c = lua_iscfunction(L, -1);
    lua_pop(L, 1);
    if (!c)
      return;
    for (int i = 0; i < TRIPLE; i++) {
      lua_pushnil(L);
      lua_rawseti(L, trace, n - i);
    }
  }
}

/* The innermost frames only: what is made at great depth is not to cost more. */
void peri__trace_here(lua_State *L)
{
  lua_Debug ar;
  int level = 0;
  peri__check_stack(L, 12);
  lua_newtable(L);
  int trace = lua_gettop(L);
  if (!peri__script_level(L, &level, &ar))
    return;
  for (int end = level + SOURCE_FRAMES; level < end; level++) {
    if (!lua_getstack(L, level, &ar)) {
      drop_lowest_c_frames(L, trace);
      return;
    }
    add_frame(L, L, trace, &ar);
  }
  if (lua_getstack(L, level, &ar))
    add_label(L, trace, "...");
}

/* -- Functions and their names ----------------------------------------------------- */

bool peri__is_binding(lua_State *L, peri_runtime *rt, int function)
{
  if (!lua_iscfunction(L, function) || lua_getupvalue(L, function, 1) == NULL)
    return false;
  bool ours = lua_touserdata(L, -1) == rt;
  lua_pop(L, 1);
  return ours;
}

/* Pushes the key under which the table on top of the stack has the function. */
static bool push_key(lua_State *L, int function)
{
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    bool found =
        lua_rawequal(L, -1, function) && lua_type(L, -2) == LUA_TSTRING;
    lua_pop(L, 1);
    if (found)
      return true;
  }
  return false;
}

void peri__push_public_name(lua_State *L, int function)
{
  static const char *const libraries[] = {
      "_G",          "perilune",     LUA_TABLIBNAME,  LUA_STRLIBNAME,
      LUA_IOLIBNAME, LUA_OSLIBNAME,  LUA_MATHLIBNAME, LUA_COLIBNAME,
      LUA_DBLIBNAME, LUA_LOADLIBNAME};
  function = lua_absindex(L, function);
  peri__check_stack(L, 6);
  int loaded = lua_gettop(L) + 1;
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
    if (lua_getfield(L, loaded, libraries[i]) == LUA_TTABLE &&
        push_key(L, function)) {
      if (i > 0)
        lua_pushfstring(L, "%s.%s", libraries[i], lua_tostring(L, -1));
      lua_replace(L, loaded);
      lua_settop(L, loaded);
      return;
    }
    lua_settop(L, loaded);
  }
  lua_pushnil(L);
  lua_replace(L, loaded);
}

void peri__push_place(lua_State *L, int function)
{
  lua_Debug ar;
  peri__check_stack(L, 6);
  if (lua_isfunction(L, function))
    lua_pushvalue(L, function);
  else if (luaL_getmetafield(L, function, "__call") == LUA_TNIL)
    lua_pushnil(L);
  if (lua_iscfunction(L, -1)) {
    peri__push_public_name(L, -1);
    lua_replace(L, -2);
    return;
  }
  if (!lua_isfunction(L, -1)) {
    lua_pop(L, 1);
    lua_pushnil(L);
    return;
  }
  lua_getinfo(L, ">S", &ar);
  if (*ar.what == 'm')
    lua_pushstring(L, ar.short_src);
  else
    lua_pushfstring(L, "%s:%d", ar.short_src, ar.linedefined);
}

/* -- The traces of errors -------------------------------------------------------- */

/* Who carries a trace; 0 is nobody (call_protected). */
static uint64_t carrier(const peri_runtime *rt)
{
  return rt->task != NULL ? rt->task->id : UINT64_MAX;
}

static bool push_carried(lua_State *L, peri_runtime *rt, int idx)
{
  if (rt->carrier != carrier(rt))
    return false;
  peri__push_ref(L, rt, PERI_REF_TRACE_ERROR);
  bool same = lua_toboolean(L, -1) && lua_rawequal(L, -1, idx);
  lua_pop(L, 1);
  if (!same)
    return false;
  peri__push_ref(L, rt, PERI_REF_TRACE);
  if (lua_istable(L, -1))
    return true;
  lua_pop(L, 1);
  return false;
}

/* Pushes the trace of the error at idx if it is known, else nil. */
void peri__trace_push(lua_State *L, peri_runtime *rt, int idx)
{
  idx = lua_absindex(L, idx);
  if (push_carried(L, rt, idx))
    return;
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
  rt->carrier = carrier(rt);
}

void peri__trace_forget(lua_State *L, peri_runtime *rt)
{
  lua_pushboolean(L, false);
  peri__set_ref(L, rt, PERI_REF_TRACE_ERROR);
}

/* Pushes a new trace, which becomes the error's. */
static void push_new(lua_State *L, peri_runtime *rt, int idx)
{
  lua_createtable(L, 4 * TRIPLE, 0);
  if (peri__is_error_object(L, rt, idx)) {
    lua_pushvalue(L, -1);
    lua_rawsetp(L, idx, &trace_key);
  }
  lua_pushvalue(L, -1);
  peri__trace_carry(L, rt, idx);
}

/* Pushes the trace to add to: the error's own, or a new one. */
static void push_or_make(lua_State *L, peri_runtime *rt, int idx)
{
  peri__trace_push(L, rt, idx);
  if (lua_istable(L, -1))
    return;
  lua_pop(L, 1);
  push_new(L, rt, idx);
}

/* The innermost code of Lua's in a trace: its chunk, and the line. */
static bool first_place(lua_State *L, int trace, lua_Debug *ar)
{
  lua_Integer n = (lua_Integer)lua_rawlen(L, trace);
  for (lua_Integer i = 1; i + 2 <= n && i <= 2 * TRIPLE; i += TRIPLE) {
    if (lua_rawgeti(L, trace, i) == LUA_TFUNCTION && !lua_iscfunction(L, -1)) {
      lua_getinfo(L, ">S", ar);
      lua_rawgeti(L, trace, i + 1);
      ar->currentline = (int)lua_tointeger(L, -1);
      lua_pop(L, 1);
      return true;
    }
    lua_pop(L, 1);
  }
  return false;
}

/* The code of Lua's that has raised an error at a level of co, by itself or by
 * a function of C's; but not by one of ours, whose errors come from further in.
 */
static bool raising_place(lua_State *L, peri_runtime *rt, lua_State *co,
                          int level, lua_Debug *ar)
{
  for (int last = level + 1; level <= last && lua_getstack(co, level, ar);
       level++) {
    lua_getinfo(co, "Slf", ar);
    if (co != L)
      lua_xmove(co, L, 1);
    bool ours = peri__is_binding(L, rt, -1);
    lua_pop(L, 1);
    if (ours)
      return false;
    if (*ar->what != 'C')
      return true;
  }
  return false;
}

/* Whether the error that co raises at a level begins there, for the second
 * time: the trace does so, too. */
static bool raised_anew(lua_State *L, peri_runtime *rt, lua_State *co,
                        int level, int trace)
{
  lua_Debug first, now;
  return first_place(L, trace, &first) &&
         raising_place(L, rt, co, level, &now) &&
         first.currentline == now.currentline &&
         strcmp(first.source, now.source) == 0;
}

/* Adds the frames of co, which has raised the error at a level. Pushes the
 * trace. */
static void add_stack(lua_State *L, peri_runtime *rt, lua_State *co, int level,
                      int idx)
{
  push_or_make(L, rt, idx);
  if (raised_anew(L, rt, co, level, lua_gettop(L))) {
    lua_pop(L, 1);
    push_new(L, rt, idx);
  }
  int trace = lua_gettop(L);
  lua_Integer n = (lua_Integer)lua_rawlen(L, trace);
  if (n >= MOST_FRAMES * TRIPLE)
    return;
  if (n > 0 && rt->task != NULL && co == rt->task->co) {
    peri__task_name(L, rt, rt->task, 0);
    lua_pushfstring(L, "in task %s:", lua_tostring(L, -1));
    add_label(L, trace, lua_tostring(L, -1));
    lua_settop(L, trace);
  }
  add_frames(L, co, level, lowest(rt, co), trace);
}

void peri__trace_label(lua_State *L, peri_runtime *rt, int idx,
                       const char *label)
{
  idx = lua_absindex(L, idx);
  push_or_make(L, rt, idx);
  add_label(L, lua_gettop(L), label);
  lua_pop(L, 1);
}

void peri__trace_append(lua_State *L, peri_runtime *rt, int idx,
                        const char *label)
{
  idx = lua_absindex(L, idx);
  int from = lua_gettop(L);
  push_or_make(L, rt, idx);
  add_label(L, from + 1, label);
  lua_Integer n = (lua_Integer)lua_rawlen(L, from + 1);
  lua_Integer more = (lua_Integer)lua_rawlen(L, from);
  for (lua_Integer i = 1; i <= more; i++) {
    lua_rawgeti(L, from, i);
    lua_rawseti(L, from + 1, n + i);
  }
  lua_settop(L, from - 1);
}

void peri__trace_task(lua_State *L, peri_task *task)
{
  peri_frames *frames = task->frames;
  peri__check_stack(L, 12);
  lua_createtable(L, 4 * TRIPLE, 0);
  int trace = lua_gettop(L);
  for (int i = frames != NULL ? frames->n - 1 : -1; i >= 0; i--)
    add_frames(L, frames->v[i].co, 0, peri__last_level(frames->v[i].co), trace);
  if (task->flags & PERI_T_STARTED)
    add_frames(L, task->co, 0, peri__last_level(task->co) - 1, trace);
}

/* [error, runtime, coroutine, level] */
static int add_stack_protected(lua_State *L)
{
  add_stack(L, lua_touserdata(L, 2), lua_touserdata(L, 3),
            (int)lua_tointeger(L, 4), 1);
  return 0;
}

/* Adds the frames of co to the error at idx: an error without a trace, if there
 * is no memory for one, is not to be lost to that. */
static void try_add_stack(lua_State *L, peri_runtime *rt, lua_State *co,
                          int level, int idx)
{
  lua_pushcfunction(L, add_stack_protected);
  lua_pushvalue(L, idx);
  lua_pushlightuserdata(L, rt);
  lua_pushlightuserdata(L, co);
  lua_pushinteger(L, level);
  if (lua_pcall(L, 4, 0, 0) != LUA_OK)
    lua_pop(L, 1);
}

void peri__trace_coroutine(lua_State *L, peri_runtime *rt, lua_State *co,
                           int idx)
{
  idx = lua_absindex(L, idx);
  if (lua_checkstack(L, 8) && !peri__sentinel_of(L, rt, idx))
    try_add_stack(L, rt, co, 0, idx);
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
  try_add_stack(L, rt, L, 2, 1); /* above this function and the protected one */
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

void peri__trace_text_under(lua_State *L, const char *heading)
{
  if (!lua_istable(L, -1)) {
    lua_pop(L, 1);
    lua_pushliteral(L, "");
    return;
  }
  peri__check_stack(L, 10);
  int trace = lua_gettop(L);
  lua_Integer n = (lua_Integer)lua_rawlen(L, trace);
  lua_createtable(L, (int)(n / TRIPLE) + 1, 0);
  int lines = lua_gettop(L);
  lua_pushstring(L, heading);
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

void peri__trace_text(lua_State *L, peri_runtime *rt)
{
  (void)rt;
  peri__trace_text_under(L, "stack traceback:");
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
