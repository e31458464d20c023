/*
 * clock.c: clocks, and what time it is on them.
 *
 * A real clock follows the monotonic time of the machine, a manual one goes on
 * when somebody calls advance(), a virtual one jumps to its next deadline when
 * every task is blocked (loop.c decides that). Each may be scaled and paused:
 * a clock's time is base plus what has gone by since real_base, scaled. Times
 * are nanoseconds; a clock never goes back.
 *
 * Tasks hold their clock by a C pointer. A clock that some task or loop uses is
 * anchored in the registry; the count of users says for how long.
 */
#include <math.h>
#include <string.h>

#include "debug.h"

static const double MOST = 4e18; /* nanoseconds that can be added to others */

int64_t peri__nanoseconds(lua_Number seconds)
{
  lua_Number ns = (lua_Number)ceil((double)(seconds * 1e9));
  if (ns >= 9.2e18)
    return INT64_MAX / 2;
  if (ns <= -9.2e18)
    return INT64_MIN / 2;
  return (int64_t)ns;
}

static int64_t real_now(void)
{
  return (int64_t)uv_hrtime();
}

int64_t peri__clock_now(const peri_clock *clock)
{
  if (clock->kind != PERI_CLOCK_REAL || clock->paused)
    return clock->base;
  int64_t gone = real_now() - clock->real_base;
  if (clock->scale == 1.0)
    return clock->base + gone;
  double scaled = (double)gone * clock->scale;
  return scaled < MOST ? clock->base + (int64_t)scaled : INT64_MAX / 2;
}

int64_t peri__clock_after(const peri_clock *clock, int64_t duration)
{
  int64_t now = peri__clock_now(clock);
  return duration > INT64_MAX - now ? INT64_MAX : now + duration;
}

int64_t peri__clock_real_delay(const peri_clock *clock, int64_t deadline)
{
  if (clock->kind != PERI_CLOCK_REAL || clock->paused || clock->scale <= 0)
    return INT64_MAX;
  int64_t delay = deadline - peri__clock_now(clock);
  if (delay <= 0)
    return 0;
  if (clock->scale == 1.0)
    return delay;
  double real = ceil((double)delay / clock->scale);
  return real < 9e18 ? (int64_t)real : INT64_MAX;
}

void peri__clock_jump(peri_clock *clock, int64_t now)
{
  if (now > clock->base)
    clock->base = now;
}

/* Makes what has gone by part of the base, before scale or pause change. */
static void rebase(peri_clock *clock)
{
  clock->base = peri__clock_now(clock);
  clock->real_base = real_now();
}

peri_clock *peri__clock_current(peri_runtime *rt)
{
  if (rt->task != NULL)
    return rt->task->clock;
  return rt->run != NULL ? rt->run->loop->clock : rt->clock;
}

/* The clock is on top of the stack; it stays there. The runtime's own real
 * clock lives as long as the runtime, and counts nobody. */
static void use_top(lua_State *L, peri_clock *clock)
{
  if (clock == clock->rt->clock)
    return;
  if (clock->users == 0) {
    lua_pushvalue(L, -1);
    clock->anchor = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  clock->users++;
}

void peri__clock_use_at(lua_State *L, peri_clock *clock, int idx)
{
  lua_pushvalue(L, idx);
  use_top(L, clock);
  lua_pop(L, 1);
}

void peri__clock_use(lua_State *L, peri_clock *clock)
{
  (void)L;
  if (clock == clock->rt->clock)
    return;
  PERI_CHECK(clock->users > 0);
  clock->users++;
}

void peri__clock_unuse(lua_State *L, peri_clock *clock)
{
  if (clock == clock->rt->clock)
    return;
  if (--clock->users == 0)
    luaL_unref(L, LUA_REGISTRYINDEX, clock->anchor);
}

static peri_clock *clock_new(lua_State *L, peri_runtime *rt,
                             peri_clock_kind kind, double scale)
{
  peri_clock *clock = lua_newuserdatauv(L, sizeof *clock, 0);
  *clock = (peri_clock){.rt = rt, .kind = kind, .scale = scale};
  peri__timers_init(&clock->timers);
  if (kind == PERI_CLOCK_REAL)
    clock->base = clock->real_base = real_now();
  peri__push_ref(L, rt, PERI_REF_CLOCK_META);
  lua_setmetatable(L, -2);
  return clock;
}

peri_clock *peri__clock_check(lua_State *L, peri_runtime *rt, int arg)
{
  if (lua_type(L, arg) == LUA_TUSERDATA && lua_getmetatable(L, arg)) {
    const void *meta = lua_topointer(L, -1);
    lua_pop(L, 1);
    if (meta == rt->meta_clock)
      return lua_touserdata(L, arg);
  }
  peri__arg_type_error(L, rt, arg, "Clock");
  return NULL;
}

static double check_scale(lua_State *L, peri_runtime *rt, int arg)
{
  double scale = (double)peri__check_number(L, rt, arg);
  if (!(scale >= 0 && scale < HUGE_VAL))
    peri__arg_error(L, rt, PERI_ERR_VALUE, arg,
                    "a scale is a finite number >= 0");
  return scale;
}

/* Clock{kind=, scale=} */
static int l_clock_new(lua_State *L)
{
  static const char *const kinds[] = {"real", "manual", "virtual", NULL};
  peri_runtime *rt = peri__rt(L);
  if (lua_isnoneornil(L, 1)) {
    clock_new(L, rt, PERI_CLOCK_REAL, 1.0);
    return 1;
  }
  if (!lua_istable(L, 1))
    return peri__arg_type_error(L, rt, 1, "table");
  lua_settop(L, 1);
  lua_getfield(L, 1, "kind");
  const char *name = lua_isnil(L, 2) ? "real" : lua_tostring(L, 2);
  int kind = 0;
  while (kinds[kind] && (name == NULL || strcmp(kinds[kind], name) != 0))
    kind++;
  if (kinds[kind] == NULL)
    return peri__throw(L, rt, PERI_ERR_VALUE,
                       "Clock: kind is \"real\", \"manual\" or \"virtual\", "
                       "not %s",
                       peri__describe(L, 2));
  lua_getfield(L, 1, "scale");
  double scale = lua_isnil(L, 3) ? 1.0 : check_scale(L, rt, 3);
  clock_new(L, rt, (peri_clock_kind)kind, scale);
  return 1;
}

static int l_clock_now(lua_State *L)
{
  peri_clock *clock = peri__clock_check(L, peri__rt(L), 1);
  lua_pushnumber(L, (lua_Number)peri__clock_now(clock) / 1e9);
  return 1;
}

/* clock:advance(dt): scaled, and nothing while paused. */
static int l_clock_advance(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_clock *clock = peri__clock_check(L, rt, 1);
  lua_Number seconds = peri__check_number(L, rt, 2);
  if (clock->kind == PERI_CLOCK_REAL)
    return peri__throw(L, rt, PERI_ERR_VALUE,
                       "Clock.advance: a real clock goes by itself");
  if (!(seconds >= 0))
    return peri__arg_error(L, rt, PERI_ERR_VALUE, 2, "a clock cannot go back");
  if (!clock->paused)
    clock->base = peri__clock_after(
        clock, peri__nanoseconds(seconds * (lua_Number)clock->scale));
  peri__wake(rt);
  return 0;
}

static int l_clock_pause(lua_State *L)
{
  peri_clock *clock = peri__clock_check(L, peri__rt(L), 1);
  rebase(clock);
  clock->paused = true;
  return 0;
}

static int l_clock_resume(lua_State *L)
{
  peri_clock *clock = peri__clock_check(L, peri__rt(L), 1);
  rebase(clock);
  clock->paused = false;
  return 0;
}

static int l_clock_set_scale(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_clock *clock = peri__clock_check(L, rt, 1);
  double scale = check_scale(L, rt, 2);
  rebase(clock);
  clock->scale = scale;
  return 0;
}

static const char *const kind_names[] = {"real", "manual", "virtual"};

static int l_clock_index(lua_State *L)
{
  peri_clock *clock = peri__clock_check(L, peri__rt(L), 1);
  const char *key = lua_tostring(L, 2);
  if (key != NULL && strcmp(key, "kind") == 0) {
    lua_pushstring(L, kind_names[clock->kind]);
  } else if (key != NULL && strcmp(key, "scale") == 0) {
    lua_pushnumber(L, (lua_Number)clock->scale);
  } else if (key != NULL && strcmp(key, "paused") == 0) {
    lua_pushboolean(L, clock->paused);
  } else {
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(2));
  }
  return 1;
}

static int l_clock_tostring(lua_State *L)
{
  peri_clock *clock = peri__clock_check(L, peri__rt(L), 1);
  lua_pushfstring(L, "<Clock %s at %f>", kind_names[clock->kind],
                  (lua_Number)peri__clock_now(clock) / 1e9);
  return 1;
}

static int l_clock_gc(lua_State *L)
{
  peri_clock *clock = lua_touserdata(L, 1);
  /* In use: only when the state closes, where the order is none of ours. The
   * loops must end before their timers do. */
  if (clock->users > 0)
    peri__detach(clock->rt);
  if (clock->timers.count > 0)
    peri__node_unlink(&clock->active);
  peri__timers_fini(clock->rt, &clock->timers);
  clock->timers.count = 0;
  return 0;
}

/* The clock of the running task, or of the running loop. */
static int l_clock(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_clock *clock = peri__clock_current(rt);
  lua_rawgeti(L, LUA_REGISTRYINDEX, clock->anchor);
  return 1;
}

/* The clock before, until it is restored. */
enum { SCOPE_UV_CLOCK = 1, SCOPE_UV_SENTRY = 2 };

static int restore_clock(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_getiuservalue(L, 1, SCOPE_UV_CLOCK);
  peri_clock *clock = lua_touserdata(L, -1);
  peri_task *task = *(peri_task **)lua_touserdata(L, 1);
  lua_getiuservalue(L, 1, SCOPE_UV_SENTRY);
  peri__debug_release(L, -1);
  lua_pop(L, 1);
  if (clock == NULL || task == NULL || task != rt->task)
    return 0;
  use_top(L, clock);
  peri__clock_unuse(L, task->clock);
  task->clock = clock;
  lua_pushnil(L);
  lua_setiuservalue(L, 1, SCOPE_UV_CLOCK);
  return 0;
}

/* local _ <close> = use_clock(clock): the task's timers from here on belong to
 * clock, and those of the tasks it creates. */
static int l_use_clock(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_clock *clock = peri__clock_check(L, rt, 1);
  if (rt->task == NULL)
    return peri__throw(L, rt, PERI_ERR_RUNTIME,
                       "use_clock: no task is running");
  peri__push_task(L, rt->task); /* from here on it stays where it is */
  peri_clock *old = rt->task->clock;
  peri_task **scope = lua_newuserdatauv(L, sizeof *scope, 2);
  *scope = rt->task;
  lua_rawgeti(L, LUA_REGISTRYINDEX, old->anchor);
  lua_setiuservalue(L, -2, SCOPE_UV_CLOCK);
  peri__push_ref(L, rt, PERI_REF_SCOPE);
  lua_setmetatable(L, -2);
  if (rt->debug) {
    peri__debug_watch(L, rt, "clock scope");
    lua_setiuservalue(L, -2, SCOPE_UV_SENTRY);
  }
  peri__clock_use_at(L, clock, 1);
  peri__clock_unuse(L, old);
  rt->task->clock = clock;
  return 1;
}

static const luaL_Reg clock_meta[] = {
    {"__tostring", l_clock_tostring}, {"__gc", l_clock_gc}, {NULL, NULL}};

static const luaL_Reg clock_methods[] = {{"now", l_clock_now},
                                         {"advance", l_clock_advance},
                                         {"pause", l_clock_pause},
                                         {"resume", l_clock_resume},
                                         {"set_scale", l_clock_set_scale},
                                         {NULL, NULL}};

static const luaL_Reg functions[] = {{"Clock_new", l_clock_new},
                                     {"clock", l_clock},
                                     {"use_clock", l_use_clock},
                                     {NULL, NULL}};

static const luaL_Reg scope_meta[] = {{"__close", restore_clock}, {NULL, NULL}};

void peri__clock_open(lua_State *L, peri_runtime *rt)
{
  rt->meta_clock = peri__metatable(L, rt, PERI_REF_CLOCK_META, "Clock",
                                   clock_meta, clock_methods);
  lua_pushlightuserdata(L, rt);
  lua_getfield(L, -2, "__index");
  lua_pushcclosure(L, l_clock_index, 2);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  peri__metatable(L, rt, PERI_REF_SCOPE, "ClockScope", scope_meta, NULL);
  lua_pop(L, 1);
  peri_clock *clock = clock_new(L, rt, PERI_CLOCK_REAL, 1.0);
  use_top(L, clock); /* for ever */
  rt->clock = clock;
  lua_pop(L, 1);
  peri__register(L, rt, functions);
}
