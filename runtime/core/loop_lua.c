/*
 * loop_lua.c: what scripts call on loops.
 */
#include <string.h>

#include "debug.h"
#include "inspect.h"

enum { RUN_LOOP = 1, RUN_GOAL = 2, RUN_RECORD = 3 };

/* -- Running ------------------------------------------------------------------------ */

static int throw_running(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  if (loop->running)
    return peri__throw(L, rt, PERI_ERR_RUNTIME,
                       "This event loop is already running");
  return peri__throw(L, rt, PERI_ERR_RUNTIME,
                     "Cannot run the event loop while another loop is running");
}

/* After the run: its result, or what ended it. */
static int conclude(lua_State *L, peri_runtime *rt)
{
  peri_run_record *run = lua_touserdata(L, RUN_RECORD);
  if (run->no_memory)
    return peri__no_memory(L);
  if (run->deadlocks > 0) {
    lua_getiuservalue(L, RUN_RECORD, PERI_RUN_UV_STAND_IN);
    lua_replace(L, RUN_GOAL);
  }
  if (run->abort != PERI_SENTINEL_NONE)
    return peri__throw_sentinel(L, rt, run->abort);
  if (run->goal == NULL)
    return 0;
  if (run->goal->state == PERI_PENDING)
    return peri__throw(L, rt, PERI_ERR_RUNTIME,
                       "Event loop stopped before Future completed.");
  int results = peri__future_return(L, rt, RUN_GOAL);
  return run->deadlocks > 0 ? lua_error(L) : results;
}

static int run_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  peri_runtime *rt = peri__rt(L);
  peri__unpark(L, rt);
  return conclude(L, rt);
}

/* [loop, goal or nil]: runs, or waits in the top-level task for the run. */
static int run(lua_State *L, peri_runtime *rt, peri_loop *loop,
               peri_future *goal, const char *what)
{
  peri_run_record *record =
      lua_newuserdatauv(L, sizeof *record, PERI_RUN_UV_STAND_IN);
  *record = (peri_run_record){.loop = loop, .goal = goal};
  peri__push_ref(L, rt, PERI_REF_OBJECTS);
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, record);
  lua_pop(L, 1);
  if (rt->run == NULL) {
    int status = peri__run_drive(L, rt, record);
    if (status != LUA_OK)
      return lua_error(L);
    return conclude(L, rt);
  }
  peri_task *task = peri__wait_check(L, rt, what);
  record->waiter = task;
  task->wait = PERI_WAIT_RUN;
  task->resource = record;
  peri__run_begin(L, rt, record);
  return peri__park(L, rt, 0, run_k);
}

static peri_loop *check_runnable(lua_State *L, peri_runtime *rt,
                                 const char *what)
{
  peri_loop *loop = peri__check_loop(L, rt, 1);
  peri__loop_check_open(L, rt, loop);
  bool top_level = rt->task != NULL && rt->task->flags & PERI_T_TOPLEVEL;
  if (loop->running || (rt->run != NULL && !top_level))
    throw_running(L, rt, loop);
  if (rt->run != NULL) /* before there is a task that nobody would run */
    peri__wait_check(L, rt, what);
  return loop;
}

static int l_run_until_complete(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, 2);
  peri_loop *loop = check_runnable(L, rt, "run_until_complete");
  if (!peri__push_awaitable_future(L, rt, loop, RUN_LOOP, RUN_GOAL))
    return peri__arg_type_error(L, rt, 2, "awaitable");
  lua_replace(L, RUN_GOAL);
  peri_future *goal = lua_touserdata(L, RUN_GOAL);
  if (goal->loop != loop && goal->loop != NULL)
    return peri__throw(L, rt, PERI_ERR_VALUE,
                       "The future belongs to a different loop than the one "
                       "that is to run");
  return run(L, rt, loop, goal, "run_until_complete");
}

static int l_run_forever(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, 1);
  peri_loop *loop = check_runnable(L, rt, "run_forever");
  lua_pushnil(L);
  return run(L, rt, loop, NULL, "run_forever");
}

static int l_stop(lua_State *L)
{
  peri__check_loop(L, peri__rt(L), 1)->stopping = true;
  return 0;
}

static int l_close(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = peri__check_loop(L, rt, 1);
  if (loop->running)
    return peri__throw(L, rt, PERI_ERR_RUNTIME,
                       "Cannot close a running event loop");
  peri__loop_close(L, rt, loop);
  return 0;
}

static int l_gc(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = lua_touserdata(L, 1);
  if (loop->closed)
    return 0;
  /* The weak table has lost it as garbage. */
  peri_loop *outer = rt->dying;
  if (loop->debug)
    peri__debug_unclosed(L, rt, 1, "unclosed event loop %s");
  peri__push_ref(L, rt, PERI_REF_DYING);
  lua_pushvalue(L, 1);
  peri__set_ref(L, rt, PERI_REF_DYING);
  rt->dying = loop;
  peri__loop_close(L, rt, loop);
  rt->dying = outer;
  peri__set_ref(L, rt, PERI_REF_DYING);
  return 0;
}

static int l_is_running(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_pushboolean(L, peri__check_loop(L, rt, 1) == peri__running_loop(rt));
  return 1;
}

static int l_is_closed(lua_State *L)
{
  lua_pushboolean(L, peri__check_loop(L, peri__rt(L), 1)->closed);
  return 1;
}

/* loop:time(): seconds on the calling task's clock, else on the loop's */
static int l_time(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = peri__check_loop(L, rt, 1);
  peri_clock *clock = rt->task != NULL && rt->task->future.loop == loop
                          ? rt->task->clock
                          : loop->clock;
  lua_pushnumber(L, (lua_Number)peri__clock_now(clock) / 1e9);
  return 1;
}

/* set_clock(loop, clock): for a loop that has not run (Runner{clock=}) */
static int l_set_clock(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = peri__check_loop(L, rt, 1);
  peri_clock *clock = peri__clock_check(L, rt, 2);
  lua_settop(L, 2);
  peri__clock_use_at(L, clock, 2);
  peri__clock_unuse(L, loop->clock);
  loop->clock = clock;
  return 0;
}

/* -- Futures and tasks ----------------------------------------------------------------- */

static int l_create_future(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = peri__check_loop(L, rt, 1);
  peri__future_new(L, rt, loop, 1);
  if (peri_unlikely(loop->debug))
    peri__debug_note(L, rt, -1);
  return 1;
}

static int l_create_task(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = peri__check_loop(L, rt, 1);
  return peri__create_task(L, rt, loop, 1, 2, 0);
}

/* -- Settings ------------------------------------------------------------------------- */

static int set_setting(lua_State *L, const char *name)
{
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, 2);
  peri__check_loop(L, rt, 1);
  if (!lua_isnil(L, 2))
    peri__check_function(L, rt, 2);
  lua_getiuservalue(L, 1, PERI_LOOP_UV_SETTINGS);
  if (!lua_istable(L, -1)) {
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, 1, PERI_LOOP_UV_SETTINGS);
  }
  lua_pushvalue(L, 2);
  lua_setfield(L, -2, name);
  return 0;
}

static int get_setting(lua_State *L, const char *name)
{
  peri_loop *loop = peri__check_loop(L, peri__rt(L), 1);
  peri__push_setting(L, loop, name);
  return 1;
}

static int l_set_task_factory(lua_State *L)
{
  set_setting(L, "task_factory");
  peri_loop *loop = lua_touserdata(L, 1);
  loop->factory = !lua_isnil(L, 2);
  return 0;
}

static int l_get_task_factory(lua_State *L)
{
  return get_setting(L, "task_factory");
}

static int l_set_exception_handler(lua_State *L)
{
  return set_setting(L, "exception_handler");
}

static int l_get_exception_handler(lua_State *L)
{
  return get_setting(L, "exception_handler");
}

static int l_call_exception_handler(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = peri__check_loop(L, rt, 1);
  if (!lua_istable(L, 2))
    return peri__arg_type_error(L, rt, 2, "table");
  lua_settop(L, 2);
  peri__report(L, rt, loop);
  return 0;
}

static int l_default_exception_handler(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__check_loop(L, rt, 1);
  lua_settop(L, 2);
  peri__require(L, "perilune.exceptions");
  lua_pop(L, 1);
  peri__push_ref(L, rt, PERI_REF_EXCEPTION);
  lua_insert(L, 1);
  lua_call(L, 2, 0);
  return 0;
}

static int l_set_debug(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = peri__check_loop(L, rt, 1);
  peri__debug_set(L, rt, loop, lua_toboolean(L, 2));
  peri__accounts_switch(rt, loop);
  return 0;
}

static int l_get_debug(lua_State *L)
{
  lua_pushboolean(L, peri__check_loop(L, peri__rt(L), 1)->debug);
  return 1;
}

/* set_deadlock(loop, whether): Runner{deadlock=} */
static int l_set_deadlock(lua_State *L)
{
  peri__check_loop(L, peri__rt(L), 1)->deadlock = lua_toboolean(L, 2);
  return 0;
}

static bool is_duration_key(lua_State *L, int idx)
{
  return lua_type(L, idx) == LUA_TSTRING &&
         strcmp(lua_tostring(L, idx), "slow_callback_duration") == 0;
}

static int l_index(lua_State *L)
{
  peri_loop *loop = peri__check_loop(L, peri__rt(L), 1);
  lua_pushvalue(L, 2);
  lua_rawget(L, lua_upvalueindex(2));
  if (lua_isnil(L, -1) && is_duration_key(L, 2))
    lua_pushnumber(L, loop->slow_callback_duration);
  return 1;
}

static int l_newindex(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = peri__check_loop(L, rt, 1);
  if (!is_duration_key(L, 2))
    return peri__throw(L, rt, PERI_ERR_TYPE,
                       "a loop has no field '%s' that could be set",
                       peri__describe(L, 2));
  lua_Number seconds = lua_tonumber(L, 3);
  if (lua_type(L, 3) != LUA_TNUMBER)
    return peri__throw(
        L, rt, PERI_ERR_TYPE,
        "slow_callback_duration is a number of seconds, not a %s",
        luaL_typename(L, 3));
  if (seconds != seconds)
    return peri__throw(L, rt, PERI_ERR_VALUE,
                       "slow_callback_duration cannot be NaN");
  loop->slow_callback_duration = seconds;
  return 0;
}

static int l_tostring(lua_State *L)
{
  peri_loop *loop = peri__check_loop(L, peri__rt(L), 1);
  lua_pushfstring(L, "<loop %s, %I tasks>",
                  loop->closed    ? "closed"
                  : loop->running ? "running"
                                  : "idle",
                  (LUAI_UACINT)loop->task_count);
  return 1;
}

/* -- Functions -------------------------------------------------------------------------- */

static int l_running_loop(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  if (rt->run == NULL)
    return 0;
  peri__push_ref(L, rt, PERI_REF_LOOP);
  return 1;
}

static int l_get_running_loop(lua_State *L)
{
  if (l_running_loop(L) == 0)
    return peri__throw(L, peri__rt(L), PERI_ERR_RUNTIME,
                       "no running event loop");
  return 1;
}

static int l_new_event_loop(lua_State *L)
{
  peri__loop_new(L, peri__rt(L), NULL);
  return 1;
}

/* get_event_loop(): the running one, else the one that was set, else a new
 * one that is then set. */
static int l_get_event_loop(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  if (l_running_loop(L) == 1)
    return 1;
  peri__push_ref(L, rt, PERI_REF_EVENT_LOOP);
  if (lua_toboolean(L, -1))
    return 1;
  peri__loop_new(L, rt, NULL);
  lua_pushvalue(L, -1);
  peri__set_ref(L, rt, PERI_REF_EVENT_LOOP);
  return 1;
}

static int l_set_event_loop(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, 1);
  if (lua_isnil(L, 1)) {
    lua_pushboolean(L, false);
    lua_replace(L, 1);
  } else {
    peri__check_loop(L, rt, 1);
  }
  peri__set_ref(L, rt, PERI_REF_EVENT_LOOP);
  return 0;
}

static const luaL_Reg meta[] = {{"__tostring", l_tostring},
                                {"__gc", l_gc},
                                {"__newindex", l_newindex},
                                {NULL, NULL}};

static const luaL_Reg methods[] = {
    {"run_until_complete", l_run_until_complete},
    {"run_forever", l_run_forever},
    {"stop", l_stop},
    {"close", l_close},
    {"is_running", l_is_running},
    {"is_closed", l_is_closed},
    {"time", l_time},
    {"create_future", l_create_future},
    {"create_task", l_create_task},
    {"set_task_factory", l_set_task_factory},
    {"get_task_factory", l_get_task_factory},
    {"set_exception_handler", l_set_exception_handler},
    {"get_exception_handler", l_get_exception_handler},
    {"call_exception_handler", l_call_exception_handler},
    {"default_exception_handler", l_default_exception_handler},
    {"set_debug", l_set_debug},
    {"get_debug", l_get_debug},
    {NULL, NULL}};

static const luaL_Reg functions[] = {{"running_loop", l_running_loop},
                                     {"get_running_loop", l_get_running_loop},
                                     {"new_event_loop", l_new_event_loop},
                                     {"get_event_loop", l_get_event_loop},
                                     {"set_event_loop", l_set_event_loop},
                                     {"set_clock", l_set_clock},
                                     {"set_deadlock", l_set_deadlock},
                                     {NULL, NULL}};

void peri__loop_open(lua_State *L, peri_runtime *rt)
{
  rt->meta_loop =
      peri__metatable(L, rt, PERI_REF_LOOP_META, "loop", meta, methods);
  lua_pushlightuserdata(L, rt);
  lua_getfield(L, -2, "__index");
  lua_pushcclosure(L, l_index, 2);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  peri__register(L, rt, functions);
}
