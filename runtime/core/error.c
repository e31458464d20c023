/*
 * error.c: error objects as C makes them, argument errors, the sentinels, and
 * reports to the exception handler.
 *
 * The classes live in Lua (perilune.errors), which registers those that C
 * raises; it is loaded when C raises its first one.
 */
#include <stdarg.h>
#include <string.h>

#include "debug.h"

static const char *const class_names[] = {
#define X(name, text) text,
    PERI_ERROR_CLASSES(X)
#undef X
};

void peri__check_failed(const char *condition, const char *file, int line)
{
  fprintf(stderr, "perilune: %s:%d: impossible state: not (%s)\n", file, line,
          condition);
  abort();
}

/* -- Classes ---------------------------------------------------------------- */

void peri__push_class(lua_State *L, peri_runtime *rt, peri_error_class class_)
{
  peri__check_stack(L, 6);
  peri__push_ref(L, rt, PERI_REF_CLASSES);
  if (lua_getfield(L, -1, class_names[class_]) == LUA_TNIL) {
    lua_pop(L, 1);
    peri__require(L, "perilune.errors");
    lua_pop(L, 1);
    lua_getfield(L, -1, class_names[class_]);
  }
  lua_replace(L, -2);
}

/* The message on top of the stack becomes an error object. */
static void wrap_message(lua_State *L, peri_runtime *rt,
                         peri_error_class class_)
{
  lua_createtable(L, 0, 1);
  lua_insert(L, -2);
  lua_setfield(L, -2, "message");
  peri__push_class(L, rt, class_);
  lua_setmetatable(L, -2);
}

static void push_formatted(lua_State *L, peri_runtime *rt,
                           peri_error_class class_, const char *format,
                           va_list arguments)
{
  peri__check_stack(L, 8);
  lua_pushvfstring(L, format, arguments);
  wrap_message(L, rt, class_);
}

void peri__push_error(lua_State *L, peri_runtime *rt, peri_error_class class_,
                      const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  push_formatted(L, rt, class_, format, arguments);
  va_end(arguments);
}

void peri__push_cancelled(lua_State *L, peri_runtime *rt)
{
  peri__check_stack(L, 8);
  if (lua_isnil(L, -1))
    lua_pushliteral(L, "");
  else
    peri__describe(L, -1);
  lua_replace(L, -2);
  wrap_message(L, rt, PERI_ERR_CANCELLED);
}

int peri__throw(lua_State *L, peri_runtime *rt, peri_error_class class_,
                const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  push_formatted(L, rt, class_, format, arguments);
  va_end(arguments);
  return lua_error(L);
}

int peri__throw_uv(lua_State *L, peri_runtime *rt, const char *syscall,
                   int code)
{
  if (code == UV_ENOMEM)
    return peri__no_memory(L);
  peri__push_error(L, rt, PERI_ERR_OS, "%s: %s", syscall, uv_strerror(code));
  lua_pushstring(L, uv_err_name(code));
  lua_setfield(L, -2, "code");
  lua_pushinteger(L, -code);
  lua_setfield(L, -2, "errno");
  lua_pushstring(L, syscall);
  lua_setfield(L, -2, "syscall");
  return lua_error(L);
}

/* -- Arguments ---------------------------------------------------------------- */

/* The name under which the library publishes the running function. */
static const char *published_name(lua_State *L, peri_runtime *rt)
{
  lua_Debug ar;
  const char *name = NULL;
  if (!lua_getstack(L, 0, &ar))
    return NULL;
  peri__check_stack(L, 6);
  int top = lua_gettop(L);
  lua_getinfo(L, "f", &ar);
  peri__push_ref(L, rt, PERI_REF_CORE);
  lua_pushnil(L);
  while (name == NULL && lua_next(L, top + 2)) {
    if (lua_rawequal(L, -1, top + 1) && lua_type(L, -2) == LUA_TSTRING)
      name = lua_tostring(L, -2); /* the table keeps it */
    lua_pop(L, 1);
  }
  lua_settop(L, top);
  return name;
}

int peri__arg_error(lua_State *L, peri_runtime *rt, peri_error_class class_,
                    int arg, const char *message)
{
  lua_Debug ar;
  const char *name = "?";
  if (lua_getstack(L, 0, &ar)) {
    lua_getinfo(L, "n", &ar);
    const char *published = published_name(L, rt);
    if (published != NULL)
      name = published;
    else if (ar.name != NULL)
      name = ar.name;
    if (strcmp(ar.namewhat, "method") == 0 && --arg == 0)
      return peri__throw(L, rt, class_, "calling '%s' on bad self (%s)", name,
                         message);
  }
  return peri__throw(L, rt, class_, "bad argument #%d to '%s' (%s)", arg, name,
                     message);
}

int peri__arg_type_error(lua_State *L, peri_runtime *rt, int arg,
                         const char *expected)
{
  const char *got;
  if (luaL_getmetafield(L, arg, "__name") == LUA_TSTRING)
    got = lua_tostring(L, -1);
  else
    got = luaL_typename(L, arg);
  lua_pushfstring(L, "%s expected, got %s", expected, got);
  return peri__arg_error(L, rt, PERI_ERR_TYPE, arg, lua_tostring(L, -1));
}

lua_Number peri__check_number(lua_State *L, peri_runtime *rt, int arg)
{
  if (lua_type(L, arg) != LUA_TNUMBER)
    peri__arg_type_error(L, rt, arg, "number");
  return lua_tonumber(L, arg);
}

const char *peri__check_string(lua_State *L, peri_runtime *rt, int arg,
                               size_t *length)
{
  if (lua_type(L, arg) != LUA_TSTRING)
    peri__arg_type_error(L, rt, arg, "string");
  return lua_tolstring(L, arg, length);
}

void peri__check_function(lua_State *L, peri_runtime *rt, int arg)
{
  if (peri_likely(lua_type(L, arg) == LUA_TFUNCTION))
    return;
  if (luaL_getmetafield(L, arg, "__call") == LUA_TNIL)
    peri__arg_type_error(L, rt, arg, "function");
  lua_pop(L, 1);
}

/* -- Values as text -------------------------------------------------------------- */

static int describe_protected(lua_State *L)
{
  luaL_tolstring(L, 1, NULL);
  return 1;
}

const char *peri__describe(lua_State *L, int idx)
{
  idx = lua_absindex(L, idx);
  peri__check_stack(L, 4);
  if (lua_type(L, idx) == LUA_TSTRING) {
    lua_pushvalue(L, idx);
    return lua_tostring(L, -1);
  }
  lua_pushcfunction(L, describe_protected);
  lua_pushvalue(L, idx);
  if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
    if (peri__is_no_memory(L, -1))
      lua_error(L);
    lua_pop(L, 1);
    lua_pushfstring(L, "(a %s whose __tostring fails)", luaL_typename(L, idx));
  }
  return lua_tostring(L, -1);
}

/* -- CancelledError and the sentinels ----------------------------------------------- */

/* The table of classes also knows every class by itself: true if its errors
 * are cancellations, false if not. */
static int family_of(lua_State *L, peri_runtime *rt, int idx)
{
  if (lua_type(L, idx) != LUA_TTABLE || !lua_getmetatable(L, idx))
    return LUA_TNIL;
  lua_checkstack(L, 4);
  peri__push_ref(L, rt, PERI_REF_CLASSES);
  lua_insert(L, -2);
  int type = lua_rawget(L, -2);
  if (type == LUA_TBOOLEAN && lua_toboolean(L, -1))
    type = LUA_TUSERDATA; /* stands for: a cancellation */
  lua_pop(L, 2);
  return type;
}

bool peri__is_cancelled_error(lua_State *L, peri_runtime *rt, int idx)
{
  return family_of(L, rt, idx) == LUA_TUSERDATA ||
         peri__sentinel_of(L, rt, idx) != PERI_SENTINEL_NONE;
}

bool peri__is_error_object(lua_State *L, peri_runtime *rt, int idx)
{
  return family_of(L, rt, idx) != LUA_TNIL;
}

peri_sentinel peri__sentinel_of(lua_State *L, peri_runtime *rt, int idx)
{
  if (lua_type(L, idx) != LUA_TTABLE)
    return PERI_SENTINEL_NONE;
  const void *address = lua_topointer(L, idx);
  for (int i = PERI_SENTINEL_KILL; i < PERI_SENTINEL_COUNT; i++)
    if (rt->sentinel[i] == address)
      return (peri_sentinel)i;
  return PERI_SENTINEL_NONE;
}

static const int sentinel_ref[] = {
    [PERI_SENTINEL_KILL] = PERI_REF_KILL,
    [PERI_SENTINEL_EXIT] = PERI_REF_EXIT,
    [PERI_SENTINEL_INTERRUPT] = PERI_REF_INTERRUPT,
};

static const char *const sentinel_message[] = {
    [PERI_SENTINEL_KILL] = "killed",
    [PERI_SENTINEL_EXIT] = "os.exit",
    [PERI_SENTINEL_INTERRUPT] = "interrupted",
};

/* A sentinel is a CancelledError that our pcall does not catch: for __close
 * handlers it is a cancellation. It becomes one when it is first raised. */
static int dress_sentinel(lua_State *L)
{
  lua_rawgeti(L, 1, 1);
  lua_setfield(L, 1, "message");
  peri__push_class(L, lua_touserdata(L, 2), PERI_ERR_CANCELLED);
  lua_setmetatable(L, 1);
  return 0;
}

void peri__push_sentinel(lua_State *L, peri_runtime *rt, peri_sentinel which)
{
  peri__check_stack(L, 8);
  peri__push_ref(L, rt, sentinel_ref[which]);
  if (lua_getmetatable(L, -1)) {
    lua_pop(L, 1);
    return;
  }
  lua_pushcfunction(L, dress_sentinel);
  lua_pushvalue(L, -2);
  lua_pushlightuserdata(L, rt);
  if (lua_pcall(L, 2, 0, 0) != LUA_OK)
    lua_pop(L, 1); /* out of memory: it is known by itself, too */
}

/* The message without the rest: needs no memory. */
void peri__push_sentinel_message(lua_State *L, peri_runtime *rt,
                                 peri_sentinel which)
{
  peri__push_ref(L, rt, sentinel_ref[which]);
  lua_rawgeti(L, -1, 1);
  lua_replace(L, -2);
}

static void make_sentinel(lua_State *L, peri_runtime *rt, peri_sentinel which)
{
  lua_createtable(L, 1, 1);
  rt->sentinel[which] = lua_topointer(L, -1);
  lua_pushstring(L, sentinel_message[which]);
  lua_rawseti(L, -2, 1);
  peri__set_ref(L, rt, sentinel_ref[which]);
}

/* -- Reports ------------------------------------------------------------------------- */

/* [context, loop, handler's turn, runtime]: calls the loop's handler, or the
 * default one if there is none or it is not its turn. */
static int report_protected(lua_State *L)
{
  peri_loop *loop = lua_touserdata(L, 2);
  peri_runtime *rt = lua_touserdata(L, 4);
  if (loop != NULL && lua_toboolean(L, 3)) {
    peri__push_setting(L, loop, "exception_handler");
    if (!lua_isnil(L, -1)) {
      peri__push_loop(L, loop);
      lua_pushvalue(L, 1);
      lua_call(L, 2, 0);
      return 0;
    }
  }
  peri__require(L, "perilune.exceptions");
  peri__push_ref(L, rt, PERI_REF_EXCEPTION);
  if (loop != NULL)
    peri__push_loop(L, loop);
  else
    lua_pushnil(L);
  lua_pushvalue(L, 1);
  lua_call(L, 2, 0);
  return 0;
}

/* To where the host wants its log, or else to Lua's warnings. Needs no memory. */
static void log_line(lua_State *L, peri_runtime *rt, int level,
                     const char *text)
{
  if (rt->options.log != NULL)
    rt->options.log(rt->options.log_ud, level, text);
  else
    lua_warning(L, text, 0);
}

/* [error, runtime] */
static int log_failure(lua_State *L)
{
  const char *error = peri__describe(L, 1);
  log_line(L, lua_touserdata(L, 2), 40,
           lua_pushfstring(
               L, "ERROR perilune: the exception handler failed: %s", error));
  return 0;
}

/* Calls the handlers in turn for the context table on top of the stack. */
static void call_handlers(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  for (int turn = 1; turn >= 0; turn--) {
    lua_pushcfunction(L, report_protected);
    lua_pushvalue(L, -2);
    lua_pushlightuserdata(L, loop);
    lua_pushboolean(L, turn);
    lua_pushlightuserdata(L, rt);
    if (lua_pcall(L, 4, 0, 0) == LUA_OK)
      return;
    lua_pushcfunction(L, log_failure);
    lua_insert(L, -2);
    lua_pushlightuserdata(L, rt);
    if (lua_pcall(L, 2, 0, 0) == LUA_OK)
      continue;
    lua_pop(L, 1);
    log_line(L, rt, 40,
             "ERROR perilune: the exception handler failed: not enough memory");
  }
}

void peri__report(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  if (!lua_checkstack(L, 12)) {
    lua_pop(L, 1);
    log_line(L, rt, 40, "ERROR perilune: not enough memory for a report");
    return;
  }
  const char *callback = rt->callback;
  peri_task *task = rt->task;
  lua_State *current = rt->current;
  peri_frames *frames = rt->frames;
  bool had_context = rt->has_context;
  int report = lua_gettop(L);
  peri__push_ref(L, rt, PERI_REF_CONTEXT);
  peri__push_context(L, rt); /* the handler runs in that of the caller */
  rt->has_context = !lua_isnil(L, -1);
  peri__set_ref(L, rt, PERI_REF_CONTEXT);
  lua_insert(L, report);
  rt->callback = "an exception handler";
  rt->frames = &rt->no_task;
  rt->task = NULL;
  rt->current = NULL;
  call_handlers(L, rt, loop);
  lua_pop(L, 1);
  peri__set_ref(L, rt, PERI_REF_CONTEXT);
  rt->has_context = had_context;
  rt->callback = callback;
  rt->task = peri__task_now(task);
  rt->current = current;
  rt->frames = frames;
}

void peri__report_built(lua_State *L, peri_runtime *rt, peri_loop *loop,
                        lua_CFunction build, int nargs, const char *what)
{
  lua_pushcfunction(L, build);
  lua_insert(L, -(nargs + 1));
  if (lua_pcall(L, nargs, 1, 0) == LUA_OK) {
    peri__report(L, rt, loop);
    return;
  }
  lua_pop(L, 1);
  char line[256];
  snprintf(line, sizeof line,
           "ERROR perilune: %s; not enough memory to tell more", what);
  log_line(L, rt, 40, line);
}

/* [error, message, runtime] */
static int build_error(lua_State *L)
{
  peri_runtime *rt = lua_touserdata(L, 3);
  lua_createtable(L, 0, 3);
  lua_pushstring(L, lua_touserdata(L, 2));
  lua_setfield(L, -2, "message");
  lua_pushvalue(L, 1);
  lua_setfield(L, -2, "exception");
  peri__trace_push(L, rt, 1);
  if (!lua_isnil(L, -1)) {
    peri__trace_text(L, rt);
    lua_setfield(L, -2, "traceback");
  } else {
    lua_pop(L, 1);
  }
  if (rt->debug) {
    peri__push_ref(L, rt, PERI_REF_SOURCE);
    peri__debug_tell_trace(L);
  }
  return 1;
}

void peri__report_error(lua_State *L, peri_runtime *rt, peri_loop *loop,
                        const char *message)
{
  char what[192];
  if (lua_type(L, -1) == LUA_TSTRING)
    snprintf(what, sizeof what, "%s: %s", message, lua_tostring(L, -1));
  else
    snprintf(what, sizeof what, "%s", message);
  lua_pushlightuserdata(L, (void *)message);
  lua_pushlightuserdata(L, rt);
  peri__report_built(L, rt, loop, build_error, 3, what);
}

/* -- Functions for the library --------------------------------------------------------- */

/* register_error(name, class, parent) */
static int l_register_error(lua_State *L)
{
  const char *name = lua_tostring(L, 1);
  lua_settop(L, 3);
  peri__push_ref(L, peri__rt(L), PERI_REF_CLASSES);
  bool cancelled = name != NULL && strcmp(name, "CancelledError") == 0;
  if (!cancelled && !lua_isnil(L, 3)) {
    lua_pushvalue(L, 3);
    cancelled = lua_rawget(L, 4) == LUA_TBOOLEAN && lua_toboolean(L, -1);
    lua_pop(L, 1);
  }
  lua_pushvalue(L, 2);
  lua_pushboolean(L, cancelled);
  lua_rawset(L, 4);
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 2);
  lua_rawset(L, 4);
  return 0;
}

static int l_iscancel(lua_State *L)
{
  lua_settop(L, 1);
  lua_pushboolean(L, peri__is_cancelled_error(L, peri__rt(L), 1));
  return 1;
}

static int l_set_default_exception_handler(lua_State *L)
{
  lua_settop(L, 1);
  peri__set_ref(L, peri__rt(L), PERI_REF_EXCEPTION);
  return 0;
}

/* emit(level, text): writes a finished line of the log. */
static int l_emit(lua_State *L)
{
  log_line(L, peri__rt(L), (int)lua_tointeger(L, 1), lua_tostring(L, 2));
  return 0;
}

/* issentinel(err): whether it is a kill, an os.exit or a Ctrl-C */
static int l_issentinel(lua_State *L)
{
  lua_settop(L, 1);
  lua_pushboolean(L, peri__sentinel_of(L, peri__rt(L), 1));
  return 1;
}

static const luaL_Reg functions[] = {
    {"issentinel", l_issentinel},
    {"register_error", l_register_error},
    {"iscancel", l_iscancel},
    {"set_default_exception_handler", l_set_default_exception_handler},
    {"emit", l_emit},
    {NULL, NULL}};

void peri__error_open(lua_State *L, peri_runtime *rt)
{
  make_sentinel(L, rt, PERI_SENTINEL_KILL);
  make_sentinel(L, rt, PERI_SENTINEL_EXIT);
  make_sentinel(L, rt, PERI_SENTINEL_INTERRUPT);
  lua_newtable(L);
  peri__set_ref(L, rt, PERI_REF_CLASSES);
  peri__register(L, rt, functions);
}
