/*
 * context.c: which context the running code has (lua/perilune/context.lua has
 * the variables).
 *
 * A context is a Lua value: nil where it is empty, a table of variables that is
 * never changed, or a Context object, whose table is replaced by another when a
 * variable is set. A task has its own (user value PERI_UV_CONTEXT, flag
 * PERI_T_CONTEXT), callbacks have theirs in the registry while they run. Where
 * Python copies the context, the table is handed on by reference: what one side
 * sets later the other never sees. Only a Context object that a script passes
 * (`context=`) or enters (`ctx:run`) is shared.
 */
#include <string.h>

#include "core.h"

void peri__push_context(lua_State *L, peri_runtime *rt)
{
  if (rt->task != NULL && rt->task->flags & PERI_T_CONTEXT) {
    peri__push_task(L, rt->task);
    lua_getiuservalue(L, -1, PERI_UV_CONTEXT);
    lua_replace(L, -2);
  } else if (rt->task == NULL && rt->has_context) {
    peri__push_ref(L, rt, PERI_REF_CONTEXT);
  } else {
    lua_pushnil(L);
  }
}

void peri__push_context_copy(lua_State *L, peri_runtime *rt)
{
  peri__push_context(L, rt);
  if (lua_isnil(L, -1) || !lua_getmetatable(L, -1))
    return;
  lua_pop(L, 1);
  lua_pushliteral(L, "_map");
  lua_rawget(L, -2);
  lua_replace(L, -2);
}

bool peri__has_context(lua_State *L, peri_runtime *rt)
{
  if (rt->task != NULL ? !(rt->task->flags & PERI_T_CONTEXT) : !rt->has_context)
    return false;
  peri__push_context_copy(L, rt);
  bool any = !lua_isnil(L, -1);
  lua_pop(L, 1);
  return any;
}

void peri__check_context(lua_State *L, peri_runtime *rt, int idx)
{
  idx = lua_absindex(L, idx);
  if (lua_istable(L, idx) &&
      luaL_getmetafield(L, idx, "__name") == LUA_TSTRING) {
    bool right = strcmp(lua_tostring(L, -1), "Context") == 0;
    lua_pop(L, 1);
    if (right)
      return;
  }
  peri__throw(L, rt, PERI_ERR_TYPE, "context= takes a Context, not a %s",
              luaL_typename(L, idx));
}

void peri__task_set_context(lua_State *L, peri_runtime *rt, peri_task *task,
                            int idx)
{
  (void)rt;
  idx = lua_absindex(L, idx);
  peri__push_task(L, task);
  task = lua_touserdata(L, -1);
  lua_pushvalue(L, idx);
  lua_setiuservalue(L, -2, PERI_UV_CONTEXT);
  lua_pop(L, 1);
  task->flags |= PERI_T_CONTEXT;
}

/* context_get() -> the current context, nil if it is empty */
static int l_context_get(lua_State *L)
{
  peri__push_context(L, peri__rt(L));
  return 1;
}

/* context_set(context): of the task that runs, or outside tasks */
static int l_context_set(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, 1);
  if (rt->task != NULL) {
    peri__task_set_context(L, rt, rt->task, 1);
    return 0;
  }
  rt->has_context = !lua_isnil(L, 1);
  peri__set_ref(L, rt, PERI_REF_CONTEXT);
  return 0;
}

/* context_leave({context=, outer=}): a __close (context.lua). It is quick to call,
 * for it must not fail for want of memory. */
static int l_context_leave(lua_State *L)
{
  lua_settop(L, 1);
  lua_getfield(L, 1, "context");
  lua_pushliteral(L, "_entered");
  lua_pushboolean(L, false);
  lua_rawset(L, 2);
  lua_getfield(L, 1, "outer");
  lua_replace(L, 1);
  return l_context_set(L);
}

/* task_context(task, [context]) -> the task's, which the argument replaces */
static int l_task_context(lua_State *L)
{
  peri_task *task = peri__check_task(L, peri__rt(L), 1);
  lua_settop(L, 2);
  if (lua_isnil(L, 2)) {
    if (task->flags & PERI_T_CONTEXT)
      lua_getiuservalue(L, 1, PERI_UV_CONTEXT);
    return 1;
  }
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, 1, PERI_UV_CONTEXT);
  task->flags |= PERI_T_CONTEXT;
  return 1;
}

static const luaL_Reg functions[] = {{"context_get", l_context_get},
                                     {"context_set", l_context_set},
                                     {"context_leave", l_context_leave},
                                     {"task_context", l_task_context},
                                     {NULL, NULL}};

void peri__context_open(lua_State *L, peri_runtime *rt)
{
  peri__register(L, rt, functions);
}
