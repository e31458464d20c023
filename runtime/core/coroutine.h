/*
 * coroutine.h: coroutines of the script's, and coroutine objects.
 */
#ifndef PERI_COROUTINE_H
#define PERI_COROUTINE_H

#include "base.h"

/* coroutine.c */
void peri__coroutine_open(lua_State *L, peri_runtime *rt, unsigned patch);
/* The lowest level that lua_getstack knows; co must have one. */
int peri__last_level(lua_State *co);
/* The task that waits inside a coroutine of the script's, or NULL. */
peri_task *peri__task_in(peri_runtime *rt, lua_State *co);
/* Returns a Lua status; an error is on top of co then. PERI_TOO_DEEP: it is not
 * closed, since coroutines close each other without end. */
int peri__close_coroutine(lua_State *L, peri_runtime *rt, lua_State *co);
enum { PERI_TOO_DEEP = -1 };
int peri__xpcall(lua_State *L); /* ours for Lua's */
/* Raises the message on top as luaL_error would, and that of want of memory,
 * which some pcall has caught, as it is. */
int peri__fail(lua_State *L);

/* yieldable.c, sort.c, require.c: functions of Lua's library that may wait. The
 * first one loads the private module perilune._yieldable. */
int peri__yieldable_load(lua_State *L);
int peri__make_sort(lua_State *L);
void peri__require_push(lua_State *L, peri_runtime *rt);
/* Replaces our require on top of the stack by its table of records. */
void peri__require_records(lua_State *L);

/* awaitable.c: coroutine objects, await, what may be awaited */
void peri__awaitable_open(lua_State *L, peri_runtime *rt);
/* Turns the awaitable at idx into a future on top of the stack; false (and
 * nothing) if it is none. */
bool peri__push_awaitable_future(lua_State *L, peri_runtime *rt,
                                 peri_loop *loop, int loop_idx, int idx);
/* The function and arguments of the coroutine object at idx, pushed; raises if
 * it was awaited before. Returns how many values. */
int peri__coroutine_take(lua_State *L, peri_runtime *rt, int idx);
bool peri__is_coroutine(lua_State *L, peri_runtime *rt, int idx);
/* Marks the coroutine object at idx, or takes the mark away. Returns how many
 * values it has; 0 if it is so marked already, or was awaited. */
int peri__coroutine_mark(lua_State *L, int idx, bool mark);
/* Whether the coroutine object at idx was awaited, or closed. */
bool peri__coroutine_taken(lua_State *L, int idx);

#endif
