/*
 * executors.c: all executors of a runtime that have workers, and what is done
 * with all of them: when another loop runs, before a loop sleeps, and when the
 * runtime closes.
 */
#include "pool/executor.h"

/* Its address is the place of the executors in the registry. */
static const char executors_key = 0;

/* -- The table of executors ------------------------------------------------- */

/* Pushes the table, or pops nothing and returns false: the runtime closes. */
bool peri__executors_push(lua_State *L)
{
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &executors_key) == LUA_TTABLE)
    return true;
  lua_pop(L, 1);
  return false;
}

/* The executor at idx, in the table that is there. */
void peri__executor_anchor(lua_State *L, peri__executor *executor, int idx)
{
  if (executor->anchored)
    return;
  peri__executors_push(L);
  lua_pushvalue(L, idx);
  lua_rawsetp(L, -2, executor);
  lua_pop(L, 1);
  executor->anchored = true;
}

/* Pushes the executor if it stands in the table. */
bool peri__executor_push(lua_State *L, const peri__executor *executor)
{
  if (!peri__executors_push(L))
    return false;
  bool found = lua_rawgetp(L, -1, executor) == LUA_TUSERDATA;
  lua_remove(L, -2);
  if (!found)
    lua_pop(L, 1);
  return found;
}

void peri__executor_unanchor(lua_State *L, peri__executor *executor)
{
  peri__executors_push(L);
  lua_pushnil(L);
  lua_rawsetp(L, -2, executor);
  lua_pop(L, 1);
  executor->anchored = false;
}

static void each_executor(lua_State *L, int table,
                          void (*fn)(lua_State *L, peri__executor *executor))
{
  lua_pushnil(L);
  while (lua_next(L, table)) {
    fn(L, lua_touserdata(L, -1));
    lua_pop(L, 1);
  }
}

static void close_one(lua_State *L, peri__executor *executor)
{
  (void)L;
  if (executor->pool != NULL)
    peri__executor_close_pool(executor);
}

static void join_one(lua_State *L, peri__executor *executor)
{
  (void)L;
  if (executor->pool != NULL)
    executor->pool->ops->join(executor->pool);
}

/* What workers have sent to the end: of what they log nothing is lost. */
static void read_one(lua_State *L, peri__executor *executor)
{
  if (executor->pool != NULL)
    peri__home_read_notes(&executor->home, L);
}

/* When the runtime closes: all workers must have ended before it goes. If its
 * Lua state closes first, the executors' own finalizers have seen to that. */
static void close_all(void *argument)
{
  peri_runtime *rt = argument;
  lua_State *L = peri_state(rt);
  int top = lua_gettop(L);
  peri__check_stack(L, LUA_MINSTACK);
  if (peri__executors_push(L)) {
    each_executor(L, top + 1, close_one);
    each_executor(L, top + 1, join_one);
  }
  lua_pushboolean(L, false);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &executors_key);
  if (lua_istable(L, top + 1))
    each_executor(L, top + 1, read_one);
  lua_settop(L, top);
}

static void attach_one(lua_State *L, peri__executor *executor)
{
  peri__pool *pool = executor->pool;
  peri_runtime *rt = executor->rt;
  if (pool != NULL && pool->ops->attach != NULL &&
      pool->ops->attach(pool, L, rt->run != NULL ? rt->run->loop : NULL) < 0)
    rt->unfollowed = true;
}

/* rt->run_changed: results are to come in the loop that runs. */
static void follow_run(lua_State *L, peri_runtime *rt)
{
  int top = lua_gettop(L);
  rt->unfollowed = !lua_checkstack(L, LUA_MINSTACK);
  if (rt->unfollowed)
    return;
  if (peri__executors_push(L))
    each_executor(L, top + 1, attach_one);
  lua_settop(L, top);
}

static void poll_one(lua_State *L, peri__executor *executor)
{
  (void)L;
  if (executor->pool != NULL && executor->pool->ops->poll != NULL)
    executor->pool->ops->poll(executor->pool);
}

static uint64_t longest_spin(lua_State *L, int table)
{
  uint64_t longest = 0;
  lua_pushnil(L);
  while (lua_next(L, table)) {
    peri__executor *executor = lua_touserdata(L, -1);
    if (executor->pool != NULL && executor->pending > 0 &&
        executor->pool->spin > longest)
      longest = executor->pool->spin;
    lua_pop(L, 1);
  }
  return longest;
}

/* Something was posted, or a delivery stands in the ready queue. */
static bool has_news(peri_runtime *rt)
{
  return atomic_load(&rt->attention) != 0 || peri__has_work(rt);
}

/* rt->spin */
static bool spin(lua_State *L, peri_runtime *rt, int64_t delay)
{
  enum { LOOKS = 8 }; /* between polls, which are dearer */
  unsigned looks = 0;
  int top = lua_gettop(L);
  if (delay == 0 || !peri__executors_push(L))
    return false;
  uint64_t longest = longest_spin(L, top + 1), begin = uv_hrtime();
  if (delay > 0 && (uint64_t)delay < longest)
    longest = (uint64_t)delay;
  atomic_store(&rt->spins, true);
  do {
    each_executor(L, top + 1, poll_one);
    for (int i = 0; i < LOOKS && !has_news(rt); i++)
      peri__relax(looks++);
  } while (!has_news(rt) && uv_hrtime() - begin < longest);
  atomic_store(&rt->spins, false);
  lua_settop(L, top);
  return has_news(rt);
}

void peri__executors_open(lua_State *L, peri_runtime *rt)
{
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &executors_key);
  rt->run_changed = follow_run;
  rt->spin = spin;
  peri__at_close(L, close_all, rt);
}
