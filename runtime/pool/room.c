/*
 * room.c: max_queued: who submits waits until there is room for the job.
 *
 * Those who wait are futures in a list, the longest wait first. When there is
 * room the first is ended, and counts as granted until the one who waited has
 * submitted, or given up; so nobody who comes later takes its place.
 */
#include "pool/executor.h"

static bool is_waiting(const peri_future *future)
{
  return future->state == PERI_PENDING && !future->loop->closed;
}

/* Who waits at a closed executor is told so when it submits. */
static bool has_room(const peri__executor *executor)
{
  return executor->pool->closed ||
         executor->pending + executor->granted < executor->limit;
}

static void grant(lua_State *L, peri_runtime *rt, peri__executor *executor,
                  int idx)
{
  int top = lua_gettop(L);
  lua_getiuservalue(L, idx, PERI__EXECUTOR_ROOM);
  while (executor->waiting > 0 && has_room(executor)) {
    lua_rawgeti(L, top + 1, executor->first_waiting);
    lua_pushnil(L);
    lua_rawseti(L, top + 1, executor->first_waiting++);
    executor->waiting--;
    if (is_waiting(lua_touserdata(L, top + 2))) {
      executor->granted++;
      peri__future_resolve(L, rt, top + 2, 0);
    }
    lua_settop(L, top + 1);
  }
  lua_settop(L, top);
}

void peri__room_grant(lua_State *L, peri_runtime *rt, int idx)
{
  peri__executor *executor = lua_touserdata(L, idx);
  if (executor->waiting > 0)
    grant(L, rt, executor, idx);
}

/* executor:_queue(future): the future is done when there is room. */
static int l_queue(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__check_future(L, rt, 2);
  lua_settop(L, 2);
  peri__executor *executor = peri__check_executor(L); /* at 3 */
  if (lua_getiuservalue(L, 3, PERI__EXECUTOR_ROOM) != LUA_TTABLE) {
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, 3, PERI__EXECUTOR_ROOM);
  }
  lua_pushvalue(L, 2);
  lua_rawseti(L, -2, executor->first_waiting + executor->waiting);
  executor->waiting++;
  peri__room_grant(L, rt, 3);
  return 0;
}

/* executor:_leave(future): it has submitted, or does not want to any more. */
static int l_leave(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_future *future = peri__check_future(L, rt, 2);
  lua_settop(L, 2);
  peri__executor *executor = peri__check_executor(L); /* at 3 */
  if (future->state == PERI_FINISHED)
    executor->granted--;
  else if (future->state == PERI_PENDING)
    peri__future_cancel(L, rt, 2, 0);
  peri__room_grant(L, rt, 3);
  return 0;
}

/* executor:_set_limit(n): how many jobs there may be, before anybody submits */
static int l_set_limit(lua_State *L)
{
  lua_Integer limit = luaL_checkinteger(L, 2);
  lua_settop(L, 1);
  peri__executor *executor = peri__check_executor(L);
  executor->limit = limit < INT32_MAX ? (uint32_t)limit : INT32_MAX;
  return 0;
}

const luaL_Reg peri__room_methods[] = {{"_queue", l_queue},
                                       {"_leave", l_leave},
                                       {"_set_limit", l_set_limit},
                                       {NULL, NULL}};
