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

/* Pushes the list of the functions of co's stack from a level on, bottom
 * first. */
static void push_functions(lua_State *L, lua_State *co, int level)
{
  lua_Debug ar;
  int end = level;
  while (end < MOST_FRAMES && lua_getstack(co, end, &ar))
    end++;
  peri__check_stack(L, 4);
  if (!lua_checkstack(co, 2))
    peri__no_memory(L);
  lua_createtable(L, end - level, 0);
  for (int i = 1; i <= end - level; i++) {
    lua_getstack(co, end - i, &ar);
    lua_getinfo(co, "f", &ar);
    if (co != L)
      lua_xmove(co, L, 1);
    lua_rawseti(L, -2, i);
  }
}

/* [runtime, coroutine]: notes its stack, unless it was noted before. */
static int note(lua_State *L)
{
  lua_State *co = lua_touserdata(L, 2);
  peri__push_ref(L, lua_touserdata(L, 1), PERI_REF_KILLS);
  if (!lua_checkstack(co, 1))
    peri__no_memory(L);
  lua_pushthread(co);
  if (co != L)
    lua_xmove(co, L, 1);
  lua_pushvalue(L, -1);
  if (lua_rawget(L, -3) != LUA_TNIL)
    return 0;
  lua_pop(L, 1);
  push_functions(L, co, co == L ? 1 : 0); /* without this function */
  lua_rawset(L, -3);
  return 0;
}

/* Without memory for it the code may wait as if it unwound, until the grace is
 * over: the kill itself is not to be lost to that. */
static void note_protected(lua_State *L, peri_runtime *rt, lua_State *co)
{
  if (!lua_checkstack(L, 4))
    return;
  lua_pushcfunction(L, note);
  lua_pushlightuserdata(L, rt);
  lua_pushlightuserdata(L, co);
  if (lua_pcall(L, 2, 0, 0) != LUA_OK)
    lua_pop(L, 1);
}

int peri__throw_sentinel(lua_State *L, peri_runtime *rt, peri_sentinel which)
{
  if (rt->task != NULL) {
    rt->task->flags |= PERI_T_UNWINDS;
    note_protected(L, rt, L);
    if (rt->task->co != L)
      note_protected(L, rt, rt->task->co);
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
  peri__check_stack(L, 8);
  peri__push_ref(L, rt, PERI_REF_KILLS);
  lua_pushthread(L);
  if (lua_rawget(L, top + 1) != LUA_TTABLE) {
    lua_settop(L, top); /* a coroutine that the __close itself made */
    return true;
  }
  push_functions(L, L, 0);
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
  /* All the same: what was protected is called again. */
  bool unwinds = i <= n && lua_iscfunction(L, -1);
  lua_settop(L, top);
  return unwinds;
}
