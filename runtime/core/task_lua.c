/*
 * task_lua.c: what scripts call to make tasks, and on tasks.
 */
#include <string.h>

#include "core.h"
#include "debug.h"

static bool is_task(lua_State *L, peri_runtime *rt, int idx)
{
  peri_future *future = peri__to_future(L, rt, idx);
  return future != NULL && future->kind == PERI_KIND_TASK;
}

peri_task *peri__check_task(lua_State *L, peri_runtime *rt, int arg)
{
  if (!is_task(L, rt, arg))
    peri__arg_type_error(L, rt, arg, "Task");
  return lua_touserdata(L, arg);
}

/* -- Making ------------------------------------------------------------------------ */

typedef struct peri_spec {
  int name, context; /* indices, or 0 */
  bool eager;
} peri_spec;

/* The task is at task_idx, its new name at idx. */
static void set_name(lua_State *L, peri_runtime *rt, int task_idx, int idx)
{
  idx = lua_absindex(L, idx);
  task_idx = lua_absindex(L, task_idx);
  peri_task *task = lua_touserdata(L, task_idx);
  peri__check_stack(L, 4);
  peri__push_ref(L, rt, PERI_REF_NAMES);
  lua_pushvalue(L, task_idx);
  luaL_tolstring(L, idx, NULL);
  lua_rawset(L, -3);
  lua_pop(L, 1);
  task->flags |= PERI_T_NAMED;
}

/* factory(loop, coro, opts): what it returns must be a task. */
static void by_factory(lua_State *L, peri_runtime *rt, peri_loop *loop, int fn,
                       const peri_spec *spec)
{
  peri__check_stack(L, 8);
  peri__push_setting(L, loop, "task_factory");
  peri__push_loop(L, loop);
  lua_pushvalue(L, fn);
  lua_createtable(L, 0, 3);
  if (spec != NULL && spec->name != 0) {
    lua_pushvalue(L, spec->name);
    lua_setfield(L, -2, "name");
  }
  if (spec != NULL && spec->context != 0) {
    lua_pushvalue(L, spec->context);
    lua_setfield(L, -2, "context");
  }
  if (spec != NULL) {
    lua_pushboolean(L, spec->eager);
    lua_setfield(L, -2, "eager");
  }
  lua_call(L, 3, 1);
  if (!is_task(L, rt, -1))
    peri__throw(L, rt, PERI_ERR_TYPE,
                "the task factory must return a Task, not a %s",
                luaL_typename(L, -1));
  lua_replace(L, fn);
  lua_settop(L, fn);
}

void peri__task_by_factory(lua_State *L, peri_runtime *rt, peri_loop *loop,
                           int fn)
{
  by_factory(L, rt, loop, fn, NULL);
}

static int throw_not_callable(lua_State *L, peri_runtime *rt, int first)
{
  if (lua_isnoneornil(L, first))
    return peri__throw(L, rt, PERI_ERR_TYPE,
                       "a task needs a function or a coroutine object, got %s: "
                       "pass the function: create_task(peri.sleep, 1)",
                       lua_isnone(L, first) ? "nothing" : "nil");
  if (peri__to_future(L, rt, first) != NULL)
    return peri__throw(L, rt, PERI_ERR_TYPE,
                       "a task needs a function or a coroutine object, got a "
                       "future (ensure_future takes any awaitable)");
  return peri__throw(L, rt, PERI_ERR_TYPE,
                     "a task needs a function or a coroutine object, got a %s",
                     luaL_typename(L, first));
}

/* Puts the function and arguments of the coroutine object or function at
 * first, which the arguments follow, in their place. */
static void unfold(lua_State *L, peri_runtime *rt, int first)
{
  if (peri_likely(lua_isfunction(L, first)))
    return;
  if (peri__is_coroutine(L, rt, first)) {
    if (lua_gettop(L) > first)
      peri__throw(L, rt, PERI_ERR_TYPE,
                  "a coroutine object has its arguments already");
    lua_pushvalue(L, first);
    peri__coroutine_take(L, rt, -1);
    lua_remove(L, first + 1);
    lua_remove(L, first);
    return;
  }
  if (luaL_getmetafield(L, first, "__call") == LUA_TNIL)
    throw_not_callable(L, rt, first);
  lua_pop(L, 1);
}

/* The coroutine object that a factory gets. */
static void fold(lua_State *L, peri_runtime *rt, int first)
{
  if (peri__is_coroutine(L, rt, first))
    return;
  peri__push_ref(L, rt, PERI_REF_CORE);
  lua_getfield(L, -1, "call");
  lua_replace(L, -2);
  lua_insert(L, first);
  lua_call(L, lua_gettop(L) - first, 1);
}

static int make(lua_State *L, peri_runtime *rt, peri_loop *loop, int loop_idx,
                int first, uint16_t flags, const peri_spec *spec)
{
  peri__loop_check_open(L, rt, loop);
  if (peri_unlikely(loop->factory)) {
    if (!lua_isfunction(L, first) && !peri__is_coroutine(L, rt, first))
      throw_not_callable(L, rt, first);
    fold(L, rt, first);
    by_factory(L, rt, loop, first, spec);
    if (spec != NULL && spec->name != 0)
      set_name(L, rt, first, spec->name);
    return 1;
  }
  unfold(L, rt, first);
  peri_task *task = peri__task_new(L, rt, loop, loop_idx, first);
  task->flags |= flags;
  if (spec != NULL && spec->name != 0)
    set_name(L, rt, first, spec->name);
  if (spec != NULL && spec->context != 0)
    peri__task_set_context(L, rt, task, spec->context);
  peri__task_start(L, rt, task, spec != NULL && spec->eager);
  return 1;
}

/* {fn, a, b, n=, name=, context=, eager=} at first becomes fn, a, b above the
 * table's options. The key of the function may also be target=, args=. */
static void read_table(lua_State *L, peri_runtime *rt, int first,
                       peri_spec *spec)
{
  lua_settop(L, first);
  lua_getfield(L, first, "name");
  lua_getfield(L, first, "context");
  lua_getfield(L, first, "eager");
  spec->name = lua_isnil(L, first + 1) ? 0 : first + 1;
  if (spec->name != 0) { /* its __tostring may fail: not in half a task */
    luaL_tolstring(L, first + 1, NULL);
    lua_replace(L, first + 1);
  }
  spec->context = lua_isnil(L, first + 2) ? 0 : first + 2;
  if (spec->context != 0)
    peri__check_context(L, rt, spec->context);
  spec->eager = lua_toboolean(L, first + 3);
  int list = first, from = 1, fn = first + 4;
  if (lua_getfield(L, first, "target") != LUA_TNIL) {
    from = 0;
    if (lua_getfield(L, first, "args") == LUA_TNIL) {
      lua_pop(L, 1);
      return;
    }
    if (!lua_istable(L, -1))
      peri__throw(L, rt, PERI_ERR_TYPE, "Task: args is a table, not a %s",
                  luaL_typename(L, -1));
    list = fn + 1;
    from = 1;
  } else {
    lua_pop(L, 1);
  }
  lua_getfield(L, list, "n");
  lua_Integer n = lua_isinteger(L, -1) ? lua_tointeger(L, -1)
                                       : (lua_Integer)lua_rawlen(L, list);
  lua_pop(L, 1);
  if (n < 0 || n > 100000)
    peri__throw(L, rt, PERI_ERR_VALUE, "a call table of %I values",
                (LUAI_UACINT)n);
  peri__check_stack(L, (int)n + 8);
  for (lua_Integer i = from; i <= n; i++)
    lua_geti(L, list, i);
  if (list != first)
    lua_remove(L, list);
}

static bool is_call_table(lua_State *L, int idx)
{
  if (lua_type(L, idx) != LUA_TTABLE)
    return false;
  if (lua_getmetatable(L, idx)) {
    lua_pop(L, 1);
    return false;
  }
  return true;
}

int peri__create_task(lua_State *L, peri_runtime *rt, peri_loop *loop,
                      int loop_idx, int first, uint16_t flags)
{
  if (!is_call_table(L, first))
    return make(L, rt, loop, loop_idx, first, flags, NULL);
  peri_spec spec;
  read_table(L, rt, first, &spec);
  return make(L, rt, loop, loop_idx, first + 4, flags, &spec);
}

static peri_loop *check_running_loop(lua_State *L, peri_runtime *rt)
{
  peri_loop *loop = peri__running_loop(rt);
  if (peri_unlikely(loop == NULL))
    peri__throw(L, rt, PERI_ERR_RUNTIME, "no running event loop");
  return loop;
}

/* create_task(fn, ...), create_task(coro), create_task{fn, ...} */
static int l_create_task(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = check_running_loop(L, rt);
  return peri__create_task(L, rt, loop, 0, 1, 0);
}

/* spawn(fn, ...): no handle; an error is reported as soon as it happens. */
static int l_spawn(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = check_running_loop(L, rt);
  peri__create_task(L, rt, loop, 0, 1, PERI_T_SPAWNED);
  return 0;
}

/* Task{target=, args=, name=, context=, eager=, loop=}; or, as from a task
 * factory, Task(coro, {loop=, name=, context=, eager=}) */
static int l_task_new(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_spec spec = {0};
  lua_settop(L, 2);
  int options = is_call_table(L, 1) ? 1 : 2;
  if (options == 2 && lua_isnil(L, 2)) {
    lua_newtable(L);
    lua_replace(L, 2);
  }
  if (!lua_istable(L, options))
    return peri__arg_type_error(L, rt, options, "table");
  lua_getfield(L, options, "loop"); /* at 3 */
  peri_loop *loop;
  if (lua_isnil(L, 3)) {
    loop = peri__running_loop(rt);
    if (loop == NULL)
      return peri__throw(L, rt, PERI_ERR_RUNTIME, "no running event loop");
    peri__push_ref(L, rt, PERI_REF_LOOP);
    lua_replace(L, 3);
  } else {
    loop = peri__check_loop(L, rt, 3);
  }
  lua_pushvalue(L, options); /* at 4 */
  read_table(L, rt, 4, &spec);
  if (options == 2) {
    lua_settop(L, 7);
    lua_pushvalue(L, 1);
  }
  peri__loop_check_open(L, rt, loop);
  unfold(L, rt, 8);
  peri_task *task = peri__task_new(L, rt, loop, 3, 8);
  if (spec.name != 0)
    set_name(L, rt, 8, spec.name);
  if (spec.context != 0)
    peri__task_set_context(L, rt, task, spec.context);
  peri__task_start(L, rt, task, spec.eager);
  return 1;
}

/* -- Asking and telling --------------------------------------------------------------- */

static int l_cancelling(lua_State *L)
{
  lua_pushinteger(L, peri__check_task(L, peri__rt(L), 1)->cancels);
  return 1;
}

static int l_uncancel(lua_State *L)
{
  peri_task *task = peri__check_task(L, peri__rt(L), 1);
  lua_pushinteger(L, peri__task_uncancel(task));
  return 1;
}

static int l_get_name(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__task_name(L, rt, peri__check_task(L, rt, 1), 1);
  return 1;
}

static int l_set_name(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__check_task(L, rt, 1);
  luaL_checkany(L, 2);
  set_name(L, rt, 1, 2);
  return 0;
}

static int second_stage(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_task *task = peri__check_task(L, rt, 1);
  if (task->future.state == PERI_PENDING && task->wait != PERI_WAIT_NONE)
    peri__task_destroy(L, rt, task);
  return 0;
}

static int first_stage(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_task *task = peri__check_task(L, rt, 1);
  lua_getfield(L, 1, "kill");
  lua_pushvalue(L, 1);
  if (task->future.state == PERI_PENDING)
    lua_call(L, 1, 0);
  return 0;
}

static int forget_timer(lua_State *L)
{
  lua_getfield(L, lua_upvalueindex(1), "cancel");
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_call(L, 1, 0);
  return 0;
}

/* Calls fn(task), the task at 1, after a time, unless the task ends or the
 * loop closes before. */
static void after(lua_State *L, peri_runtime *rt, peri_task *task,
                  lua_Number seconds, lua_CFunction fn)
{
  peri__check_stack(L, 8);
  peri__push_loop(L, task->future.loop);
  lua_getfield(L, -1, "call_later");
  lua_insert(L, -2);
  lua_pushnumber(L, seconds);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, fn, 1);
  lua_pushvalue(L, 1);
  lua_call(L, 4, 1);
  lua_pushcclosure(L, forget_timer, 1);
  lua_getfield(L, 1, "add_done_callback");
  lua_pushvalue(L, 1);
  lua_rotate(L, -3, -1);
  lua_call(L, 2, 0);
}

static lua_Number check_grace(lua_State *L, peri_runtime *rt, int arg)
{
  if (lua_isnoneornil(L, arg))
    return 1.0;
  lua_Number grace = peri__check_number(L, rt, arg);
  if (!(grace >= 0))
    peri__arg_error(L, rt, PERI_ERR_VALUE, arg, "a grace is a number >= 0");
  return grace;
}

/* task:kill([grace]) -> false if it was done */
static int l_kill(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_task *task = peri__check_task(L, rt, 1);
  lua_Number grace = check_grace(L, rt, 2);
  lua_settop(L, 1);
  if (task->future.state != PERI_PENDING) {
    lua_pushboolean(L, false);
    return 1;
  }
  bool first = !(task->flags & PERI_T_KILLED);
  if (first)
    after(L, rt, task, grace, second_stage);
  if (task == rt->task) {
    task->flags |= PERI_T_KILLED;
    return peri__throw_sentinel(L, rt, PERI_SENTINEL_KILL);
  }
  if (first)
    peri__task_kill(L, rt, task, PERI_SENTINEL_KILL);
  lua_pushboolean(L, true);
  return 1;
}

/* task:cancel([message], {grace=s}) */
static int l_cancel(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_task *task = peri__check_task(L, rt, 1);
  peri__check_thread(L, rt, &task->future);
  lua_settop(L, 3);
  bool asked = peri__future_cancel_checked(L, rt, 1, 2);
  if (asked && lua_istable(L, 3)) {
    lua_getfield(L, 3, "grace");
    if (!lua_isnil(L, -1)) {
      lua_Number grace = check_grace(L, rt, 4);
      lua_settop(L, 3);
      after(L, rt, task, grace, first_stage);
    }
  }
  lua_pushboolean(L, asked);
  return 1;
}

/* The text of where the task stands, innermost coroutine first. */
static void push_stack(lua_State *L, peri_task *task)
{
  peri_frames *frames = task->frames;
  luaL_Buffer b;
  if (task->future.state != PERI_PENDING) {
    lua_pushliteral(L, "stack traceback:");
    return;
  }
  int n = frames != NULL ? frames->n : 0;
  peri__check_stack(L, n + 8);
  for (int i = n - 1; i >= 0; i--)
    luaL_traceback(L, frames->v[i].co, NULL, 0);
  luaL_traceback(L, task->co, NULL, 0);
  int first = lua_gettop(L) - n;
  luaL_buffinit(L, &b);
  for (int i = 0; i <= n; i++) {
    if (i > 0)
      luaL_addstring(&b, "\n");
    lua_pushvalue(L, first + i);
    luaL_addvalue(&b);
  }
  luaL_pushresult(&b);
  lua_replace(L, first);
  lua_settop(L, first);
}

/* task:traceback(): of its error if it failed, else of where it stands */
static int l_traceback(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_task *task = peri__check_task(L, rt, 1);
  if (task->future.state == PERI_PENDING) {
    push_stack(L, task);
    return 1;
  }
  peri__push_methods(L, rt, PERI_REF_FUTURE);
  lua_getfield(L, -1, "traceback");
  lua_pushvalue(L, 1);
  lua_call(L, 1, 1);
  return 1;
}

static int l_print_stack(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__check_task(L, rt, 1);
  luaL_tolstring(L, 1, NULL);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, l_traceback, 1);
  lua_pushvalue(L, 1);
  lua_call(L, 1, 1);
  fprintf(stderr, "%s\n%s\n", lua_tostring(L, 2),
          lua_isnil(L, -1) ? "" : lua_tostring(L, -1));
  return 0;
}

/* -- Functions ------------------------------------------------------------------------- */

static int l_current_task(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  if (rt->task == NULL)
    return 0;
  peri__push_task(L, rt->task);
  return 1;
}

/* all_tasks([loop]) -> list, in the order of creation */
static int l_all_tasks(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = lua_isnoneornil(L, 1) ? peri__running_loop(rt)
                                          : peri__check_loop(L, rt, 1);
  if (loop == NULL)
    return peri__throw(L, rt, PERI_ERR_RUNTIME, "no running event loop");
  lua_createtable(L, (int)loop->task_count, 0);
  lua_Integer n = 0;
  for (peri_task *task = loop->tasks; task != NULL; task = task->next) {
    peri__push_task(L, task);
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}

/* own(future, ...): the current task waits for them before it ends */
static int l_own(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  int n = lua_gettop(L);
  if (rt->task == NULL)
    return 0;
  peri__check_stack(L, 8);
  peri__push_ref(L, rt, PERI_REF_OWED);
  peri__push_task(L, rt->task);
  lua_pushvalue(L, -1);
  if (lua_rawget(L, n + 1) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -2);
    lua_pushvalue(L, -2);
    lua_rawset(L, n + 1);
  }
  for (int i = 1; i <= n; i++) {
    lua_pushvalue(L, i);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  }
  rt->task->flags |= PERI_T_OWES;
  return 0;
}

static const luaL_Reg methods[] = {{"cancelling", l_cancelling},
                                   {"uncancel", l_uncancel},
                                   {"get_name", l_get_name},
                                   {"set_name", l_set_name},
                                   {"kill", l_kill},
                                   {"cancel", l_cancel},
                                   {"traceback", l_traceback},
                                   {"print_stack", l_print_stack},
                                   {NULL, NULL}};

static const luaL_Reg functions[] = {{"create_task", l_create_task},
                                     {"spawn", l_spawn},
                                     {"Task_new", l_task_new},
                                     {"current_task", l_current_task},
                                     {"all_tasks", l_all_tasks},
                                     {"own", l_own},
                                     {NULL, NULL}};

void peri__task_lua_open(lua_State *L, peri_runtime *rt)
{
  peri__push_methods(L, rt, PERI_REF_TASK);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, methods, 1);
  lua_pop(L, 1);
  peri__register(L, rt, functions);
}
