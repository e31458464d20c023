/*
 * loop_close.c: the end of a loop.
 *
 * Nothing in here raises, and what could is called protected: half a loop closed
 * would never become the other half. It makes do with the stack that a C function
 * has, for there may be no memory for more.
 */
#include "debug.h"
#include "inspect.h"

/* [task, runtime] */
static int build_destroyed(lua_State *L)
{
  peri_runtime *rt = lua_touserdata(L, 2);
  lua_createtable(L, 0, 3);
  lua_pushliteral(L, "Task was destroyed but it is pending!");
  lua_setfield(L, -2, "message");
  peri__task_name(L, rt, lua_touserdata(L, 1), 1);
  lua_setfield(L, -2, "task");
  peri__debug_tell_source(L, rt, 1);
  return 1;
}

/* The task is on top of the stack. */
static void report_destroyed(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  lua_pushvalue(L, -1);
  lua_pushlightuserdata(L, rt);
  peri__report_built(L, rt, loop, build_destroyed, 2,
                     "a task was destroyed but it is pending");
}

/* Takes out what is queued: nothing of the loop runs any more. */
static void drop_queue(lua_State *L, peri_runtime *rt, peri_list *queue)
{
  while (!peri__list_empty(queue)) {
    peri_node *node = peri__list_shift(queue);
    if (node->kind == PERI_NODE_HANDLE)
      peri__handle_drop(L, rt, node);
  }
}

/* Timers of handles, and gathers and crews that stand among the callbacks of
 * futures: found by the table of anchors. */
static void drop_anchored(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  peri__push_anchors(L, loop);
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    if (lua_type(L, -1) == LUA_TUSERDATA) {
      peri__handle_forget(L, rt, lua_gettop(L));
      peri__gather_forget(L, rt, lua_gettop(L));
      peri__crew_forget(L, rt, lua_gettop(L));
    }
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static void close_open(peri_loop *loop)
{
  while (!peri__list_empty(&loop->open)) {
    peri_io *io = (peri_io *)peri__list_shift(&loop->open);
    io->close(io);
  }
}

/* Ends the first of the loop's tasks where it stands. */
static void destroy_first(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  if (!peri__task_make_plain(L, rt, loop->tasks)) {
    peri__task_drop(L, rt, loop->tasks);
    return;
  }
  peri_task *task = loop->tasks;
  peri__push_task(L, task);
  report_destroyed(L, rt, loop);
  if (loop->tasks == task)
    peri__task_destroy(L, rt, task);
  lua_pop(L, 1);
}

void peri__loop_end_tasks(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  while (loop->tasks != NULL)
    destroy_first(L, rt, loop);
}

void peri__loop_close(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  if (loop->closed || loop->closing)
    return;
  loop->closing = true;
  peri__loop_end_tasks(L, rt, loop);
  peri__watch_close_all(L, rt, loop);
  close_open(loop);
  drop_queue(L, rt, &loop->batch);
  drop_queue(L, rt, &loop->ready);
  drop_anchored(L, rt, loop);
  peri__unseen_report(L, rt, loop);
  peri__kernel_free(rt, loop);
  peri__list_init(&loop->ready); /* watchers that closed just now */
  peri__realloc(rt, loop->pool,
                (size_t)loop->pool_capacity * sizeof *loop->pool, 0);
  loop->pool = NULL;
  loop->pooled = loop->pool_capacity = 0;
  peri__clock_unuse(L, loop->clock);
  loop->clock = rt->clock;
  loop->closed = true;
  loop->closing = false;
  peri__push_loop(L, loop);
  if (lua_type(L, -1) == LUA_TUSERDATA) {
    lua_pushnil(L);
    lua_setiuservalue(L, -2, PERI_LOOP_UV_ANCHORS);
  }
  lua_pop(L, 1);
}
