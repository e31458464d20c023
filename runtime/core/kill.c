/*
 * kill.c: the errors that our own pcall never catches, and the unwinding they
 * do.
 *
 * A kill is raised once, at the wait (or by a hook, in running code), and runs
 * the <close> variables on its way down; those of the task itself may wait.
 * Somebody else's lua_pcall may catch it, and the code goes on: then its next
 * wait raises it again. So when killed code wants to wait we must know which of
 * the two it is. When the error is raised the functions on the stack are noted,
 * bottom first. A __close that the unwinding runs was called by a protected
 * call that stood there then (a C function), in place of what that had called;
 * code that goes on was called by a Lua function, which still stands.
 */
#include "core.h"

enum { MOST_FRAMES = 1000 };

/* Pushes the list of the functions of co's stack, bottom first. */
static void push_functions(lua_State *L, lua_State *co)
{
  lua_Debug ar;
  int depth = 0;
  while (depth < MOST_FRAMES && lua_getstack(co, depth, &ar))
    depth++;
  luaL_checkstack(L, 4, NULL);
  lua_checkstack(co, 2);
  lua_createtable(L, depth, 0);
  for (int i = 1; i <= depth; i++) {
    lua_getstack(co, depth - i, &ar);
    lua_getinfo(co, "f", &ar);
    if (co != L)
      lua_xmove(co, L, 1);
    lua_rawseti(L, -2, i);
  }
}

/* Notes the stack of co, unless it was noted before. */
static void note(lua_State *L, peri_runtime *rt, lua_State *co)
{
  luaL_checkstack(L, 6, NULL);
  peri__push_ref(L, rt, PERI_REF_KILLS);
  lua_pushthread(co);
  if (co != L)
    lua_xmove(co, L, 1);
  lua_pushvalue(L, -1);
  if (lua_rawget(L, -3) == LUA_TNIL) {
    lua_pop(L, 1);
    push_functions(L, co);
    lua_rawset(L, -3);
  } else {
    lua_pop(L, 2);
  }
  lua_pop(L, 1);
}

int peri__throw_sentinel(lua_State *L, peri_runtime *rt, peri_sentinel which)
{
  if (rt->task != NULL) {
    rt->task->flags |= PERI_T_UNWINDS;
    note(L, rt, L);
    if (rt->task->co != L)
      note(L, rt, rt->task->co);
  }
  peri__push_sentinel(L, rt, which);
  return lua_error(L);
}

/* Whether the code that runs in L, of a killed task, is a __close on the way of
 * the kill: see above. */
bool peri__unwinds(lua_State *L, peri_runtime *rt)
{
  if (!(rt->task->flags & PERI_T_UNWINDS))
    return false;
  int top = lua_gettop(L);
  luaL_checkstack(L, 8, NULL);
  peri__push_ref(L, rt, PERI_REF_KILLS);
  lua_pushthread(L);
  if (lua_rawget(L, top + 1) != LUA_TTABLE) {
    lua_settop(L, top); /* a coroutine that the __close itself made */
    return true;
  }
  push_functions(L, L);
  lua_Integer n = (lua_Integer)lua_rawlen(L, top + 2), i = 1;
  for (; i <= n; i++) {
    lua_rawgeti(L, top + 2, i);
    lua_rawgeti(L, top + 3, i);
    bool same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    if (!same)
      break;
  }
  lua_rawgeti(L, top + 2, i - 1);
  bool unwinds = lua_iscfunction(L, -1);
  lua_settop(L, top);
  return unwinds;
}
