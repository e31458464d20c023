/*
 * inspect.c: what the tasks are doing.
 *
 * A snapshot is taken from the records of the waits and from the suspended
 * stacks, so that whoever waits pays nothing for it. The library
 * (perilune.inspect) words it. While a record is made the collector stands
 * still: a finaliser may run the script's code, which may end the task.
 *
 * Only accounts cost something: with them (debug mode, loop:set_accounting) each
 * step of a task goes the long way, and is timed.
 */
#include <string.h>
#include <time.h>

#include "inspect.h"

/* -- Accounts ----------------------------------------------------------------- */

static uint64_t cpu_now(void)
{
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void peri__accounts_open(peri_runtime *rt, peri_task *task)
{
  peri_frames *frames = task->frames;
  if (frames == NULL) {
    frames = peri__realloc(rt, NULL, 0, sizeof *frames);
    if (frames == NULL)
      return;
    *frames = (peri_frames){0};
    task->frames = frames;
    if (rt->task == task)
      rt->frames = frames;
  }
  frames->accounts = true;
  frames->created = uv_hrtime();
}

void peri__lap_begin(peri_runtime *rt, peri_lap *lap)
{
  lap->inside = rt->cpu_inside;
  rt->cpu_inside = 0;
  lap->begin = cpu_now();
}

/* If the task has ended its accounts have gone with it. */
void peri__lap_end(peri_runtime *rt, peri_lap *lap, peri_task *task)
{
  uint64_t spent = cpu_now() - lap->begin;
  if (peri__has_accounts(task)) {
    task->frames->cpu += spent - rt->cpu_inside;
    task->frames->steps++;
  }
  rt->cpu_inside = lap->inside + spent;
}

void peri__accounts_switch(peri_runtime *rt, peri_loop *loop)
{
  loop->accounts = loop->debug || loop->accounting;
  if (!loop->accounts)
    return;
  for (peri_task *task = loop->tasks; task != NULL; task = task->next)
    if (!peri__has_accounts(task)) {
      peri__accounts_open(rt, task);
      if (task->frames != NULL)
        task->frames->created = 0; /* unknown */
    }
}

/* -- Where a task stands --------------------------------------------------------- */

/* What place() finds: a string on the stack, and how the library was called. */
typedef struct place {
  bool found;
  const char *via; /* the library's function, or NULL */
  char via_what;   /* 'm': a metamethod, or another kind of call */
  char module[32]; /* the library's file, without perilune/ and .lua */
} place;

static const char library[] = "@perilune/";

static void note_library(lua_State *co, lua_Debug *ar, place *at)
{
  const char *file = ar->source + sizeof library - 1;
  size_t length = strcspn(file, ".");
  if (length >= sizeof at->module)
    length = sizeof at->module - 1;
  memcpy(at->module, file, length);
  at->module[length] = '\0';
  lua_getinfo(co, "n", ar);
  at->via = ar->name;
  at->via_what = *ar->namewhat;
}

/* Looks for the innermost frame of the script in a coroutine; pushes its place
 * onto L. */
static void find_in(lua_State *L, lua_State *co, place *at)
{
  lua_Debug ar;
  for (int level = 0; !at->found && lua_getstack(co, level, &ar); level++) {
    lua_getinfo(co, "Sl", &ar);
    if (ar.currentline < 0)
      continue;
    if (strncmp(ar.source, library, sizeof library - 1) == 0) {
      note_library(co, &ar, at);
      continue;
    }
    lua_pushfstring(L, "%s:%d", ar.short_src, ar.currentline);
    at->found = true;
  }
}

/* A task that has not started: where its function is defined. */
static void find_function(lua_State *L, lua_State *co, place *at)
{
  lua_Debug ar;
  lua_checkstack(co, 1);
  lua_pushvalue(co, 1 + PERI_ROOT_FUNCTION); /* above the root itself */
  if (!lua_isfunction(co, -1)) {
    lua_pop(co, 1);
    return;
  }
  lua_getinfo(co, ">S", &ar);
  if (ar.linedefined > 0) {
    lua_pushfstring(L, "%s:%d", ar.short_src, ar.linedefined);
    at->found = true;
  }
}

static void find_place(lua_State *L, peri_task *task, place *at)
{
  peri_frames *frames = task->frames;
  *at = (place){0};
  if (!(task->flags & PERI_T_STARTED)) {
    find_function(L, task->co, at);
    return;
  }
  for (int i = frames != NULL ? frames->n - 1 : -1; i >= 0 && !at->found; i--)
    find_in(L, frames->v[i].co, at);
  if (!at->found)
    find_in(L, task->co, at);
}

/* -- Records ------------------------------------------------------------------------ */

static void set_integer(lua_State *L, const char *key, uint64_t value)
{
  lua_pushinteger(L, (lua_Integer)value);
  lua_setfield(L, -2, key);
}

static void set_number(lua_State *L, const char *key, lua_Number value)
{
  lua_pushnumber(L, value);
  lua_setfield(L, -2, key);
}

static void set_string(lua_State *L, const char *key, const char *value)
{
  lua_pushstring(L, value);
  lua_setfield(L, -2, key);
}

/* In each the record is on top of the stack. */

static void add_place(lua_State *L, peri_task *task)
{
  place at;
  find_place(L, task, &at);
  if (at.found)
    lua_setfield(L, -2, "place");
  if (at.module[0] == '\0')
    return;
  set_string(L, "module", at.module);
  if (at.via != NULL && at.found)
    set_string(L, at.via_what == 'm' ? "metamethod" : "via", at.via);
}

static void add_timer(lua_State *L, peri_task *task)
{
  static const char *const kinds[] = {"real", "manual", "virtual"};
  peri_clock *clock = task->clock;
  int64_t deadline = task->timer.deadline;
  set_number(L, "deadline", (lua_Number)deadline / 1e9);
  set_number(L, "left", (lua_Number)(deadline - peri__clock_now(clock)) / 1e9);
  set_string(L, "clock",
             clock->paused || clock->scale == 0 ? "paused"
                                                : kinds[clock->kind]);
}

/* What the task waits for stands at a place of the C function that waits. */
static void push_resource(lua_State *L, peri_task *task, int idx)
{
  lua_State *co = peri__task_innermost(task);
  lua_checkstack(co, 1);
  lua_pushvalue(co, idx);
  lua_xmove(co, L, 1);
}

static void add_turn(lua_State *L, peri_runtime *rt, peri_task *task)
{
  peri_task *holder = peri__waiters_holder(rt, task->resource);
  if (holder != NULL) {
    peri__push_task(L, holder);
    lua_setfield(L, -2, "holder");
  }
  push_resource(L, task, 1);
  if (peri__is_crew(L, rt, -1)) { /* nothing that the script knows */
    lua_pop(L, 1);
    return;
  }
  if (peri__waiters_push_owner(L, rt, lua_gettop(L)))
    lua_replace(L, -2);
  lua_setfield(L, -2, "resource");
}

static void add_wait(lua_State *L, peri_runtime *rt, peri_task *task)
{
  set_string(L, "what", task->what);
  switch ((peri_wait_kind)task->wait) {
  case PERI_WAIT_TIMER:
    add_timer(L, task);
    break;
  case PERI_WAIT_FUTURE:
  case PERI_WAIT_RESULT:
    push_resource(L, task, 1);
    lua_setfield(L, -2, "resource");
    break;
  case PERI_WAIT_TURN:
    add_turn(L, rt, task);
    break;
  case PERI_WAIT_RUN:
    push_resource(L, task, 2);
    lua_setfield(L, -2, "resource");
    break;
  default:
    break;
  }
}

static void add_accounts(lua_State *L, peri_task *task)
{
  if (!peri__has_accounts(task))
    return;
  peri_frames *frames = task->frames;
  if (frames->created != 0)
    set_number(L, "age", (lua_Number)(uv_hrtime() - frames->created) / 1e9);
  set_integer(L, "steps", frames->steps);
  set_number(L, "cpu", (lua_Number)frames->cpu / 1e9);
}

static const char *state_of(const peri_task *task)
{
  if (task->wait == PERI_WAIT_YIELD || task->wait == PERI_WAIT_WOKEN ||
      task->wait == PERI_WAIT_DUE || !(task->flags & PERI_T_STARTED))
    return "ready";
  return task->wait == PERI_WAIT_NONE ? "running" : "waiting";
}

/* [task, record, with frames]: fills the record in. */
static int fill(lua_State *L)
{
  peri_task *task = lua_touserdata(L, 1);
  peri_runtime *rt = task->future.loop->rt;
  const char *state = state_of(task);
  bool frames = lua_toboolean(L, 3);
  lua_settop(L, 2);
  lua_pushvalue(L, 1);
  lua_setfield(L, 2, "task");
  peri__task_name(L, rt, task, 1);
  lua_setfield(L, 2, "name");
  set_integer(L, "id", task->id);
  if (task->elder != 0)
    set_integer(L, "parent", task->id - task->elder);
  set_string(L, "state", state);
  if (!(task->flags & PERI_T_STARTED))
    set_string(L, "what", "start");
  add_place(L, task);
  if (*state == 'w')
    add_wait(L, rt, task);
  add_accounts(L, task);
  if (frames) {
    peri__trace_task(L, task);
    lua_setfield(L, 2, "frames");
  }
  return 0;
}

void peri__call_quietly(lua_State *L, int nargs, int nresults)
{
  int running = lua_gc(L, LUA_GCISRUNNING);
  lua_gc(L, LUA_GCSTOP);
  int status = lua_pcall(L, nargs, nresults, 0);
  if (running)
    lua_gc(L, LUA_GCRESTART);
  if (status != LUA_OK)
    lua_error(L);
}

/* inspect(task, [with frames]) -> the record of a task; nil: it has ended */
static int l_inspect(lua_State *L)
{
  peri_task *task = peri__check_task(L, peri__rt(L), 1);
  lua_settop(L, 2);
  lua_createtable(L, 0, 16);
  if (task->future.state != PERI_PENDING)
    return 0;
  lua_pushcfunction(L, fill);
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 3);
  lua_pushvalue(L, 2);
  peri__call_quietly(L, 3, 0);
  return 1;
}

/* all_loops() -> list */
static int l_all_loops(lua_State *L)
{
  peri__push_loops(L, peri__rt(L));
  return 1;
}

/* -- Printing on demand ---------------------------------------------------------------- */

/* [] -> the tree of tasks goes to the log */
static int print(lua_State *L)
{
  peri_runtime *rt = peri_of(L);
  peri__require(L, "perilune.inspect");
  lua_getfield(L, -1, "tree");
  lua_call(L, 0, 1);
  const char *text = lua_tostring(L, -1);
  if (rt->options.log != NULL)
    rt->options.log(rt->options.log_ud, 20, text);
  else
    lua_warning(L, text, 0);
  return 0;
}

void peri__inspect_print(lua_State *L, peri_runtime *rt)
{
  if (atomic_exchange(&rt->prints, 0) == 0 || !lua_checkstack(L, 8))
    return;
  lua_pushcfunction(L, print);
  peri__call_protected(L, rt, peri__running_loop(rt), 0, "a look at the tasks");
}

/* Between any two instructions, so no finaliser must run. */
static void print_hook(lua_State *L, lua_Debug *ar)
{
  (void)ar;
  peri_runtime *rt = peri_of(L);
  if (rt == NULL) {
    lua_sethook(L, NULL, 0, 0);
    return;
  }
  lua_sethook(L, rt->hook, rt->hook_mask, rt->hook_count);
  int running = lua_gc(L, LUA_GCISRUNNING);
  lua_gc(L, LUA_GCSTOP);
  peri__inspect_print(L, rt);
  if (running)
    lua_gc(L, LUA_GCRESTART);
}

/* In a signal handler: the script's own hook is put aside. */
static void arm(peri_runtime *rt, lua_State *L)
{
  if (lua_gethook(L) == print_hook)
    return;
  rt->hook = lua_gethook(L);
  rt->hook_mask = lua_gethookmask(L);
  rt->hook_count = lua_gethookcount(L);
  lua_sethook(L, print_hook, LUA_MASKCOUNT, 1);
}

/* While something of the script's runs, rt->current is what it is. */
void peri_print_tasks(peri_runtime *rt)
{
  uv_thread_t self = uv_thread_self(), thread = atomic_load(&rt->thread);
  atomic_fetch_add(&rt->prints, 1);
  if (uv_thread_equal(&self, &thread) && rt->current != NULL &&
      (rt->task != NULL || rt->callback != NULL))
    arm(rt, rt->current);
  peri__attend(rt, PERI_ATTEND_PRINT);
}

static const luaL_Reg functions[] = {
    {"inspect", l_inspect}, {"all_loops", l_all_loops}, {NULL, NULL}};

/* loop:set_accounting(whether); debug mode has it, too */
static int l_set_accounting(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = peri__check_loop(L, rt, 1);
  loop->accounting = lua_toboolean(L, 2);
  peri__accounts_switch(rt, loop);
  return 0;
}

static int l_get_accounting(lua_State *L)
{
  lua_pushboolean(L, peri__check_loop(L, peri__rt(L), 1)->accounts);
  return 1;
}

static const luaL_Reg loop_methods[] = {{"set_accounting", l_set_accounting},
                                        {"get_accounting", l_get_accounting},
                                        {NULL, NULL}};

void peri__inspect_open(lua_State *L, peri_runtime *rt)
{
  peri__register(L, rt, functions);
  peri__push_methods(L, rt, PERI_REF_LOOP_META);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, loop_methods, 1);
  lua_pop(L, 1);
}
