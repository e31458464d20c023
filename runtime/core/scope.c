/*
 * scope.c: the end of a scope that owns futures: of a task group, of map, race
 * and the gather that cancels.
 *
 * It lets none of them alone, whatever comes: an error or a kill that passes by,
 * cancellations while it waits, and want of memory. So the __close of these
 * scopes is one C function, which calls the library only when all have ended: to
 * make the errors that leave the scope (core.finish_group, core.finish_crew).
 *
 * The scope is a table of the library's, with the fields _crew, _closing,
 * _aborting and, if it is a group, _ended, _parent and _parent_cancelled.
 */
#include "crew.h"

enum { CREW = 1, SCOPE = 2, ERROR = 3 };

static void abort_scope(lua_State *L, peri_runtime *rt)
{
  rt->cancel_lacks_memory = false;
  peri__scope_set_flag(L, SCOPE, "_aborting");
  peri__crew_cancel_all(L, rt, CREW);
}

/* Takes back the cancellation of the parent that was the group's own. Returns
 * how many are left; -1: there was none. */
static lua_Integer uncancel(lua_State *L, peri_runtime *rt)
{
  if (rt->task == NULL || !peri__scope_flag(L, SCOPE, "_parent_cancelled"))
    return -1;
  return peri__task_uncancel(rt->task);
}

static int finished_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)L, (void)status, (void)ctx;
  return 0;
}

/* All have ended. The outcome is that of the wait. */
static int finish(lua_State *L, peri_runtime *rt, lua_KContext outcome)
{
  peri_crew *crew = lua_touserdata(L, CREW);
  lua_Integer left = -1;
  if (crew->strict) {
    peri__scope_set_flag(L, SCOPE, "_ended");
    if (outcome == PERI_OUTCOME_OK || outcome == PERI_OUTCOME_CANCEL)
      left = uncancel(L, rt);
  }
  if (outcome != PERI_OUTCOME_OK && outcome != PERI_OUTCOME_CANCEL) {
    rt->task->outcome = (uint8_t)outcome;
    return peri__raise_outcome(L, rt);
  }
  peri__push_ref(L, rt, PERI_REF_CORE);
  lua_getfield(L, -1, crew->strict ? "finish_group" : "finish_crew");
  lua_replace(L, -2);
  lua_pushvalue(L, SCOPE);
  lua_pushvalue(L, ERROR);
  if (outcome == PERI_OUTCOME_CANCEL) {
    peri__push_task(L, rt->task);
    lua_getiuservalue(L, -1, PERI_UV_RESULT); /* the message */
    lua_replace(L, -2);
    peri__push_cancelled(L, rt);
  } else {
    lua_pushnil(L);
  }
  lua_pushinteger(L, left);
  lua_callk(L, 4, 0, 0, finished_k);
  return 0;
}

static int outlast_k(lua_State *L, int status, lua_KContext outcome);

static int outlast(lua_State *L, peri_runtime *rt, lua_KContext outcome)
{
  peri_crew *crew = lua_touserdata(L, CREW);
  if (crew->live == 0)
    return finish(L, rt, outcome);
  peri__waiters_stay(rt->task, &crew->line);
  return peri__park(L, rt, outcome, outlast_k);
}

/* A cancellation tells a group to end; one that comes when it is ending anyway
 * is not raised any more. Of a crew, which is ending, the last one is. A kill is
 * raised in any case. */
static int outlast_k(lua_State *L, int status, lua_KContext outcome)
{
  (void)status;
  peri_runtime *rt = peri__rt(L);
  if (!peri__waiters_leave(L, rt)) {
    peri_crew *crew = lua_touserdata(L, CREW);
    uint8_t latest = rt->task->outcome;
    rt->task->outcome = PERI_OUTCOME_OK;
    bool aborting = peri__scope_flag(L, SCOPE, "_aborting");
    if (latest != PERI_OUTCOME_CANCEL || !crew->strict || !aborting)
      outcome = latest;
    if (!aborting)
      abort_scope(L, rt);
  }
  return outlast(L, rt, outcome);
}

static int handed_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  return finish(L, peri__rt(L), PERI_OUTCOME_OK);
}

/* In a coroutine that dies there is no waiting: the task does that for the scope
 * before it ends. */
static int hand_over(lua_State *L, peri_runtime *rt)
{
  peri_crew *crew = lua_touserdata(L, CREW);
  if (!peri__scope_flag(L, SCOPE, "_aborting"))
    abort_scope(L, rt);
  peri__push_ref(L, rt, PERI_REF_CORE);
  lua_getfield(L, -1, "hand_over");
  lua_replace(L, -2);
  lua_pushvalue(L, SCOPE);
  lua_pushboolean(L, crew->strict);
  lua_callk(L, 2, 0, 0, handed_k);
  return handed_k(L, LUA_OK, 0);
}

/* close_scope(scope, err): its __close */
static int l_close_scope(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, 2);
  if (!lua_istable(L, 1))
    return peri__arg_type_error(L, rt, 1, "scope");
  lua_pushliteral(L, "_crew");
  lua_rawget(L, 1);
  if (!peri__is_crew(L, rt, -1))
    return peri__arg_type_error(L, rt, 1, "scope");
  lua_insert(L, CREW);
  peri_crew *crew = lua_touserdata(L, CREW);
  if (peri__scope_flag(L, SCOPE, "_closing") ||
      (!crew->strict && crew->live == 0))
    return 0;
  peri__scope_set_flag(L, SCOPE, "_closing");
  if (!crew->strict)
    peri__crew_skip(L, CREW);
  bool fails = !crew->strict || !lua_isnil(L, ERROR);
  if (fails && !peri__scope_flag(L, SCOPE, "_aborting"))
    abort_scope(L, rt);
  if (crew->live > 0 && !peri__can_wait(L, rt))
    return hand_over(L, rt);
  return outlast(L, rt, PERI_OUTCOME_OK);
}

static const luaL_Reg functions[] = {{"close_scope", l_close_scope},
                                     {NULL, NULL}};

void peri__scope_open(lua_State *L, peri_runtime *rt)
{
  peri__register(L, rt, functions);
}
