/*
 * task.c: tasks, which are coroutines that a loop drives.
 *
 * The body of a task runs under a protected call in its own coroutine (the
 * root), so that its <close> variables may wait while an error or a
 * cancellation unwinds them, and so that the coroutine ends well whatever the
 * body does: it can be used again by the next task, which costs a tenth of a
 * new one. Not used again: one that a script got hold of (coroutine.running), or
 * that ran deep or out of memory.
 *
 * The task's userdata is the first argument of the root: the coroutine anchors
 * its task, and the loop's table of anchors the coroutine. Nothing in the
 * registry is touched when a task starts or ends.
 */
#include "debug.h"
#include "inspect.h"

enum {
  ROOT_TASK = PERI_ROOT_TASK,
  ROOT_HANDLER = 2,
  ROOT_FUNCTION = PERI_ROOT_FUNCTION
};
enum { MOST_POOLED = 131072, DEEP = 180 };

/* -- Coroutines to use again ---------------------------------------------------- */

static lua_State *new_coroutine(lua_State *L, peri_loop *loop, int *anchor)
{
  lua_State *co = lua_newthread(L);
  if (lua_gethook(co) != NULL)
    lua_sethook(co, NULL, 0, 0);
  *anchor = peri__anchor(L, loop);
  return co;
}

/* The task is on top of the stack, what it is to call stands from fn on. */
static lua_State *take_coroutine(lua_State *L, peri_loop *loop, int fn,
                                 int *anchor)
{
  if (loop->pooled == 0) {
    if (loop->debug) { /* where none is kept: no other task need ask */
      peri__debug_check_thread(L, loop->rt, loop);
      peri__debug_note_call(L, loop->rt, fn);
    }
    return new_coroutine(L, loop, anchor);
  }
  peri_pooled *pooled = &loop->pool[--loop->pooled];
  *anchor = pooled->anchor;
  return pooled->co;
}

static bool pool_room(peri_runtime *rt, peri_loop *loop)
{
  if (loop->pooled < loop->pool_capacity)
    return true;
  if (loop->debug)
    return false;
  int capacity = loop->pool_capacity ? 2 * loop->pool_capacity : 64;
  size_t unit = sizeof *loop->pool;
  peri_pooled *pool =
      peri__realloc(rt, loop->pool, (size_t)loop->pool_capacity * unit,
                    (size_t)capacity * unit);
  if (pool == NULL)
    return false;
  loop->pool = pool;
  loop->pool_capacity = capacity;
  return true;
}

static int throw_too_many(lua_State *L, lua_State *co, int values)
{
  peri__no_room_in(L, co, values);
  return luaL_error(L, "too many arguments for a task");
}

void peri__coroutines_reserve(lua_State *L, peri_loop *loop, uint32_t n,
                              int values)
{
  while ((uint32_t)loop->pooled < n) {
    if (!pool_room(loop->rt, loop))
      peri__no_memory(L);
    int anchor;
    lua_State *co = new_coroutine(L, loop, &anchor);
    loop->pool[loop->pooled++] = (peri_pooled){co, anchor};
  }
  if (values <= LUA_MINSTACK) /* which every coroutine has room for */
    return;
  for (uint32_t i = 1; i <= n; i++)
    if (!lua_checkstack(loop->pool[(uint32_t)loop->pooled - i].co, values))
      throw_too_many(L, loop->pool[(uint32_t)loop->pooled - i].co, values);
}

void peri__task_take_reserved(peri_task *task)
{
  peri_loop *loop = task->future.loop;
  peri_pooled *pooled = &loop->pool[--loop->pooled];
  task->co = pooled->co;
  task->anchor = pooled->anchor;
}

static void give_coroutine(lua_State *L, peri_runtime *rt, peri_loop *loop,
                           lua_State *co, int anchor, uint16_t flags)
{
  if (flags & (PERI_T_EXPOSED | PERI_T_SPOILT | PERI_T_UNWINDS) ||
      loop->pooled >= MOST_POOLED || !pool_room(rt, loop)) {
    peri__unanchor(L, loop, anchor);
    return;
  }
  if (lua_gethook(co) != NULL)
    lua_sethook(co, NULL, 0, 0);
  loop->pool[loop->pooled++] = (peri_pooled){co, anchor};
}

void peri__task_forget_pool(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  while (loop->pooled > 0)
    peri__unanchor(L, loop, loop->pool[--loop->pooled].anchor);
  peri__realloc(rt, loop->pool,
                (size_t)loop->pool_capacity * sizeof *loop->pool, 0);
  loop->pool = NULL;
  loop->pool_capacity = 0;
}

/* -- The list of tasks ------------------------------------------------------------- */

void peri__task_enlist(lua_State *L, peri_task *task)
{
  peri_loop *loop = task->future.loop;
  if (task->clock != loop->rt->clock)
    peri__clock_use(L, task->clock);
  task->previous = loop->newest;
  task->next = NULL;
  if (loop->newest != NULL)
    loop->newest->next = task;
  else
    loop->tasks = task;
  loop->newest = task;
  loop->task_count++;
  if (peri_unlikely(loop->accounts))
    peri__accounts_open(loop->rt, task);
}

static void delist(peri_loop *loop, peri_task *task)
{
  if (task->previous != NULL)
    task->previous->next = task->next;
  else
    loop->tasks = task->next;
  if (task->next != NULL)
    task->next->previous = task->previous;
  else
    loop->newest = task->previous;
  loop->task_count--;
}

/* -- The root: the body's protected call, and how it ended ---------------------------- */

static void free_frames(peri_runtime *rt, peri_task *task)
{
  if (task->frames == NULL)
    return;
  peri_frames *frames = task->frames;
  peri__realloc(rt, frames->v, (size_t)frames->capacity * sizeof *frames->v, 0);
  peri__realloc(rt, frames, sizeof *frames, 0);
  task->frames = NULL;
}

/* The task has ended but for its result. */
static void leave(lua_State *L, peri_runtime *rt, peri_task *task)
{
  delist(task->future.loop, task);
  if (task->clock != rt->clock)
    peri__clock_unuse(L, task->clock);
  if (rt->task == task)
    rt->frames = &rt->no_task; /* what finalisers run now is not the task's */
  free_frames(rt, task);
}

/* [task, runtime] */
static int build_spawned(lua_State *L)
{
  peri_runtime *rt = lua_touserdata(L, 2);
  lua_createtable(L, 0, 4);
  lua_pushliteral(L, "a spawned task failed");
  lua_setfield(L, -2, "message");
  peri__future_push_error(L, rt, 1);
  lua_setfield(L, -2, "exception");
  peri__task_name(L, rt, lua_touserdata(L, 1), 1);
  lua_setfield(L, -2, "task");
  if (lua_getiuservalue(L, 1, PERI_UV_LINKS) == LUA_TUSERDATA) {
    lua_getiuservalue(L, -1, 1);
    peri__trace_text(L, rt);
    lua_setfield(L, -3, "traceback");
  }
  lua_pop(L, 1);
  return 1;
}

static void report_spawned(lua_State *L, peri_runtime *rt, peri_task *task,
                           int idx)
{
  lua_pushvalue(L, idx);
  lua_pushlightuserdata(L, rt);
  peri__report_built(L, rt, task->future.loop, build_spawned, 2,
                     "a spawned task failed");
}

/* The error on top of the stack is the task's end. */
static void fail(lua_State *L, peri_runtime *rt, peri_task *task, int idx)
{
  peri_sentinel sentinel = peri__sentinel_of(L, rt, -1);
  if (sentinel == PERI_SENTINEL_EXIT || sentinel == PERI_SENTINEL_INTERRUPT)
    peri__end_runs(L, rt, sentinel, task, idx, NULL);
  leave(L, rt, task);
  if (sentinel != PERI_SENTINEL_NONE) {
    /* for those who await it, a cancellation like any other */
    peri__push_sentinel_message(L, rt, sentinel);
    peri__future_settle_cancelled(L, rt, idx, false);
  } else if (peri__is_cancelled_error(L, rt, -1)) {
    peri__future_settle_cancelled(L, rt, idx, true);
  } else {
    peri__future_reject(L, rt, idx);
    if (task->flags & PERI_T_SPAWNED)
      report_spawned(L, rt, task, idx);
  }
}

static peri_task *promote(lua_State *L, peri_runtime *rt, peri_task *bare)
{
  peri__task_promote(L, rt, bare);
  peri_task *task = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return task;
}

/* The task was cancelled, and ends with values. */
static peri_cold void conclude_asked(lua_State *co, peri_runtime *rt,
                                     peri_task *task, int values)
{
  leave(co, rt, task);
  if (task->flags & PERI_T_MUST_CANCEL) {
    /* right before it ended: its values are dropped */
    task->flags &= (uint16_t)~PERI_T_MUST_CANCEL;
    lua_getiuservalue(co, ROOT_TASK, PERI_UV_RESULT);
    peri__future_settle_cancelled(co, rt, ROOT_TASK, false);
    return;
  }
  peri__future_resolve(co, rt, ROOT_TASK, values);
  if (task->future.loop->debug)
    peri__debug_swallowed(co, rt, ROOT_TASK);
}

/* The task at ROOT_TASK ends with the values above ROOT_HANDLER, or with the
 * error on top. The root returns nothing: its coroutine is empty then. */
static int conclude(lua_State *co, peri_runtime *rt, peri_task *task,
                    int status)
{
  int values = lua_gettop(co) - ROOT_HANDLER;
  if (values > 1) /* one has the place of the function, and all its room */
    lua_checkstack(co, 16);
  if (task->flags & PERI_T_BARE) {
    if (peri_likely(status == LUA_OK || status == LUA_YIELD)) {
      leave(co, rt, task);
      peri__bare_done(co, task, ROOT_TASK, ROOT_FUNCTION, values);
      return 0;
    }
    task = promote(co, rt, task);
  }
  if (status == LUA_ERRMEM)
    task->flags |= PERI_T_SPOILT;
  if (status != LUA_OK && status != LUA_YIELD) {
    fail(co, rt, task, ROOT_TASK);
  } else if (task->flags & (PERI_T_MUST_CANCEL | PERI_T_ASKED)) {
    conclude_asked(co, rt, task, values);
  } else {
    if (values > 1) /* while the task can still fail */
      peri__future_pack(co, values);
    leave(co, rt, task);
    peri__future_resolve_packed(co, ROOT_TASK, values);
  }
  return 0;
}

static int owed_k(lua_State *co, int status, lua_KContext ctx)
{
  peri_runtime *rt = peri__rt(co);
  if (status != LUA_OK && status != LUA_YIELD)
    lua_pop(co, 1); /* what the settling of debts raised */
  return conclude(co, rt, rt->task, (int)ctx);
}

/* Scopes that could not wait handed what they own to the task. */
static int settle_debts(lua_State *co, peri_runtime *rt, int status)
{
  rt->task->flags &= (uint16_t)~PERI_T_OWES;
  lua_checkstack(co, 8);
  peri__push_ref(co, rt, PERI_REF_CORE);
  lua_getfield(co, -1, "settle");
  peri__push_ref(co, rt, PERI_REF_OWED);
  lua_pushvalue(co, ROOT_TASK);
  lua_rawget(co, -2);
  lua_replace(co, -2);
  lua_remove(co, -3);
  int result = lua_pcallk(co, 1, 0, 0, status, owed_k);
  return owed_k(co, result, status);
}

static int root_k(lua_State *co, int status, lua_KContext ctx)
{
  peri_runtime *rt = (peri_runtime *)ctx;
  peri_task *task = rt->task;
  if (peri_unlikely(task->flags & PERI_T_OWES))
    return settle_debts(co, rt, status == LUA_YIELD ? LUA_OK : status);
  return conclude(co, rt, task, status);
}

/* [task, message handler, function, arguments...] */
static int root(lua_State *co)
{
  peri_runtime *rt = peri__rt(co);
  peri_task *task = rt->task;
  if (peri_unlikely(task->outcome == PERI_OUTCOME_CANCEL)) {
    task->outcome = PERI_OUTCOME_OK;
    leave(co, rt, task);
    lua_getiuservalue(co, ROOT_TASK, PERI_UV_RESULT);
    peri__future_settle_cancelled(co, rt, ROOT_TASK, false);
    return 0;
  }
  if (peri_unlikely(task->outcome != PERI_OUTCOME_OK)) {
    peri__push_ref(co, rt,
                   task->outcome == PERI_OUTCOME_INTERRUPT ? PERI_REF_INTERRUPT
                                                           : PERI_REF_KILL);
    fail(co, rt, task, ROOT_TASK);
    return 0;
  }
  int nargs = lua_gettop(co) - ROOT_FUNCTION;
  lua_KContext ctx = (lua_KContext)rt;
  int status = lua_pcallk(co, nargs, LUA_MULTRET, ROOT_HANDLER, ctx, root_k);
  return root_k(co, status, ctx);
}

/* Keeps the frames of the error; notes that the coroutine ran deep. */
static int root_handler(lua_State *co)
{
  peri_runtime *rt = peri__rt(co);
  lua_Debug ar;
  if (rt->task != NULL && lua_getstack(co, DEEP, &ar))
    rt->task->flags |= PERI_T_SPOILT;
  peri__trace_handler(co);
  if (rt->debug)
    peri__debug_trace_task(co, rt, 1);
  return 1;
}

/* -- Making and starting ---------------------------------------------------------------- */

/* How many tasks ago the creator of a new one was made, as task->elder has it.
 */
static inline uint32_t creator_gap(const peri_runtime *rt, uint64_t id)
{
  uint64_t gap = rt->task != NULL ? id - rt->task->id : 0;
  return gap <= UINT32_MAX ? (uint32_t)gap : 0;
}

void peri__task_init(peri_runtime *rt, peri_task *task, peri_loop *loop)
{
  peri__future_init(&task->future, PERI_KIND_TASK, loop);
  task->node.link.next = NULL;
  task->node.kind = PERI_NODE_TASK;
  task->flags = 0;
  task->wait = PERI_WAIT_NONE;
  task->outcome = PERI_OUTCOME_OK;
  task->what = "start";
  task->resource = NULL;
  task->frames = NULL;
  task->cancels = 0;
  task->id = ++rt->next_id;
  task->elder = creator_gap(rt, task->id);
  task->clock = rt->task != NULL && rt->task->future.loop == loop
                    ? rt->task->clock
                    : loop->clock;
}

/* [..., function at fn, arguments, task]: the task gets a coroutine that is to
 * call the function; the task stands in its place. */
static void prepare(lua_State *L, peri_runtime *rt, peri_task *task, int fn)
{
  peri_loop *loop = task->future.loop;
  int nargs = lua_gettop(L) - fn - 1;
  task->co = take_coroutine(L, loop, fn, &task->anchor);
  lua_State *co = task->co;
  if (peri_unlikely(nargs + 8 > LUA_MINSTACK) &&
      !lua_checkstack(co, nargs + 8)) {
    peri__push_anchors(L, loop);
    lua_rawgeti(L, -1, task->anchor);
    peri__unanchor(L, loop, task->anchor);
    throw_too_many(L, co, nargs + 8);
  }
  peri__push_ref(co, rt, PERI_REF_ROOT);
  lua_pushvalue(L, -1);
  lua_xmove(L, co, 1);
  peri__push_ref(co, rt, PERI_REF_ROOT_HANDLER);
  lua_insert(L, fn);
  lua_xmove(L, co, nargs + 1);
  peri__task_enlist(L, task);
}

bool peri__task_renew(lua_State *L, peri_runtime *rt, int idx, int fn)
{
  peri_task *task = lua_touserdata(L, idx);
  peri_loop *loop = task->future.loop;
  if (task->future.state != PERI_FINISHED ||
      task->future.flags & (PERI_F_SEEN | PERI_F_LINKS) || loop->debug ||
      task->flags & (PERI_T_CONTEXT | PERI_T_NAMED))
    return false;
  peri__task_init(rt, task, loop);
  lua_pushvalue(L, idx);
  prepare(L, rt, task, fn);
  return true;
}

bool peri__task_follow(lua_State *L, peri_runtime *rt)
{
  peri_task *task = rt->task;
  peri_loop *loop = task->future.loop;
  if (task->flags & ~(PERI_T_STARTED | PERI_T_TOPLEVEL) ||
      task->future.flags != 0 || task->frames != NULL || L != task->co ||
      lua_gethook(L) != NULL || !peri__list_empty(&task->future.callbacks) ||
      loop->tasks != task || loop->newest != task ||
      !peri__list_empty(&loop->ready) || loop->debug || loop->accounts ||
      loop->stopping || rt->run->loop != loop || task->clock != loop->clock ||
      rt->abort != PERI_SENTINEL_NONE)
    return false;
  task->what = "start";
  task->resource = NULL;
  task->cancels = 0;
  task->id = ++rt->next_id;
  task->elder = 0;
  return true;
}

peri_task *peri__task_new(lua_State *L, peri_runtime *rt, peri_loop *loop,
                          int loop_idx, int fn)
{
  if (loop_idx != 0)
    loop_idx = lua_absindex(L, loop_idx);
  peri__check_stack(L, 8);
  peri_task *task = lua_newuserdatauv(L, sizeof *task, 4);
  peri__task_init(rt, task, loop);
  peri__push_ref(L, rt, PERI_REF_TASK);
  lua_setmetatable(L, -2);
  if (loop_idx != 0)
    lua_pushvalue(L, loop_idx);
  else
    peri__push_loop(L, loop);
  lua_setiuservalue(L, -2, PERI_UV_LOOP);
  prepare(L, rt, task, fn);
  return task;
}

/* -- Steps ---------------------------------------------------------------------------------- */

/* A coroutine of the script's has ended or yielded to the one below it: its n
 * values go there, with the status. Returns how many arrived. */
static int hand_down(peri_runtime *rt, lua_State *co, lua_State *below,
                     int status, int n)
{
  if (status != LUA_OK && status != LUA_YIELD)
    n = 1;
  if (!lua_checkstack(below, n + 4)) {
    lua_pop(co, n);
    lua_pushliteral(below, "not enough memory"); /* Lua has it always */
    rt->inner_status = LUA_ERRRUN;
    return 1;
  }
  lua_xmove(co, below, n);
  rt->inner_status = status;
  return n;
}

/* Resumes the task's innermost coroutine, then those below it as far as they
 * get. Returns the status of the task's own coroutine. */
static int resume(lua_State *L, peri_runtime *rt, peri_task *task)
{
  int nargs = 0, status, n;
  if (peri_unlikely(task->flags & PERI_T_MUST_CANCEL)) {
    task->flags &= (uint16_t)~PERI_T_MUST_CANCEL;
    if (task->outcome == PERI_OUTCOME_OK)
      task->outcome = PERI_OUTCOME_CANCEL;
  }
  rt->frames = task->frames;
  if (!(task->flags & PERI_T_STARTED)) {
    task->flags |= PERI_T_STARTED;
    nargs = lua_gettop(task->co) - 1;
  }
  for (;;) {
    peri_frames *frames = task->frames;
    int depth = frames != NULL ? frames->n : 0;
    lua_State *co = depth > 0 ? frames->v[depth - 1].co : task->co;
    rt->current = co;
    status = lua_resume(co, L, nargs, &n);
    task = peri__task_now(task);
    if (depth == 0)
      return status;
    if (status == LUA_YIELD && peri__parked(co))
      return LUA_YIELD;
    frames = task->frames;
    frames->n = depth - 1;
    lua_State *below = depth > 1 ? frames->v[depth - 2].co : task->co;
    nargs = hand_down(rt, co, below, status, n);
  }
}

/* Closes the coroutines of a task, innermost first. */
static void close_coroutines(lua_State *L, peri_runtime *rt, peri_task *task)
{
  peri_frames *frames = task->frames;
  while (frames != NULL && frames->n > 0)
    peri__close_coroutine(L, rt, frames->v[--frames->n].co);
  peri__close_coroutine(L, rt, task->co);
}

static int l_promote(lua_State *L)
{
  peri_task *task = lua_touserdata(L, 1);
  peri__task_promote(L, task->future.loop->rt, task);
  return 1;
}

/* Pushes what becomes of the bare task; false, and nothing: out of memory. */
static bool push_promoted(lua_State *L, peri_task *bare)
{
  lua_pushcfunction(L, l_promote);
  lua_pushlightuserdata(L, bare);
  if (lua_pcall(L, 1, 1, 0) == LUA_OK)
    return true;
  lua_pop(L, 1);
  return false;
}

bool peri__task_make_plain(lua_State *L, peri_runtime *rt, peri_task *task)
{
  (void)rt;
  if (!(task->flags & PERI_T_BARE))
    return true;
  if (!push_promoted(L, task))
    return false;
  lua_pop(L, 1);
  return true;
}

/* The root itself failed: out of memory, or no C stack left, which a first
 * step may find before there is a root (the task is at idx then). The error is
 * on top of the coroutine's stack. */
static void root_failed(lua_State *L, peri_runtime *rt, peri_task *task,
                        int idx)
{
  peri_loop *loop = task->future.loop;
  int anchor = task->anchor, top = lua_gettop(L);
  if (idx != 0) {
    lua_pushvalue(L, idx);
  } else if (!(task->flags & PERI_T_BARE)) {
    peri__push_task(L, task);
  } else if (!push_promoted(L, task)) {
    peri__task_drop(L, rt, task);
    return;
  }
  task = lua_touserdata(L, -1);
  lua_xmove(task->co, L, 1);
  close_coroutines(L, rt, task);
  if (task->future.state == PERI_PENDING)
    fail(L, rt, task, top + 1);
  peri__unanchor(L, loop, anchor);
  lua_settop(L, top);
}

static void stray_hook(lua_State *L, lua_Debug *ar)
{
  (void)ar;
  lua_sethook(L, NULL, 0, 0);
  peri__throw(L, peri_of(L), PERI_ERR_RUNTIME,
              "a coroutine.yield from before perilune was loaded, at the level "
              "of a task");
}

/* A yield that is not one of our waits. The task goes on with an error. */
static void stray_yield(peri_task *task)
{
  lua_settop(task->co, 0);
  lua_sethook(task->co, stray_hook, LUA_MASKCOUNT, 1);
  task->wait = PERI_WAIT_YIELD;
  peri__loop_ready(task->future.loop, &task->timer.node);
}

/* The task may be garbage once its coroutine has ended: what is needed of it is
 * read before anything can collect it. */
static inline void stepped(lua_State *L, peri_runtime *rt, peri_task *task,
                           int status, int idx)
{
  if (peri_likely(status == LUA_OK)) {
    give_coroutine(L, rt, task->future.loop, task->co, task->anchor,
                   task->flags);
  } else if (status != LUA_YIELD) {
    root_failed(L, rt, task, idx);
  } else if (task->wait == PERI_WAIT_NONE) {
    stray_yield(task);
  }
}

void peri__task_stepped(lua_State *L, peri_runtime *rt, peri_task *task,
                        int status)
{
  stepped(L, rt, task, status, 0);
}

/* Any step; loop.c makes the ordinary ones by itself. */
void peri__task_step(lua_State *L, peri_runtime *rt, peri_task *task)
{
  int top = 0; /* where an unstarted task is kept on the stack */
  rt->task = task;
  task->wait = PERI_WAIT_NONE;
  if (!(task->flags & (PERI_T_STARTED | PERI_T_BARE))) {
    lua_checkstack(L, 4);
    lua_pushvalue(task->co, 2); /* peri__push_task; it has room */
    lua_xmove(task->co, L, 1);
    top = lua_gettop(L);
  }
  peri_lap lap;
  bool timed = peri_unlikely(peri__has_accounts(task));
  if (timed)
    peri__lap_begin(rt, &lap);
  int status = resume(L, rt, task);
  task = peri__task_now(task);
  if (timed)
    peri__lap_end(rt, &lap, task);
  rt->task = NULL;
  rt->current = NULL; /* which may be garbage when it has ended */
  stepped(L, rt, task, status, top);
  if (top != 0)
    lua_settop(L, top - 1);
}

static void step_inside(lua_State *L, peri_runtime *rt, peri_task *task)
{
  peri_task *previous = rt->task;
  lua_State *current = rt->current;
  peri_frames *frames = rt->frames;
  const char *callback = rt->callback;
  rt->callback = NULL;
  peri__task_step(L, rt, task);
  rt->task = peri__task_now(previous);
  rt->current = current;
  rt->frames = frames;
  rt->callback = callback;
}

static void inherit_context(lua_State *L, peri_runtime *rt, peri_task *task)
{
  bool any =
      rt->task != NULL ? rt->task->flags & PERI_T_CONTEXT : rt->has_context;
  if (peri_likely(!any) || task->flags & PERI_T_CONTEXT)
    return;
  peri__push_context_copy(L, rt);
  if (!lua_isnil(L, -1))
    task->flags |= PERI_T_CONTEXT;
  lua_setiuservalue(L, -2, PERI_UV_CONTEXT);
}

/* The task is on top of the stack. An eager one runs here and now, but only
 * inside its own loop: elsewhere it would wait for things of another one. */
void peri__task_start(lua_State *L, peri_runtime *rt, peri_task *task,
                      bool eager)
{
  inherit_context(L, rt, task);
  if (!eager || peri__running_loop(rt) != task->future.loop) {
    peri__loop_ready(task->future.loop, &task->timer.node);
    return;
  }
  step_inside(L, rt, task);
}

/* -- Ending where it stands ----------------------------------------------- */

void peri__task_drop(lua_State *L, peri_runtime *rt, peri_task *task)
{
  peri_loop *loop = task->future.loop;
  int anchor = task->anchor;
  peri__task_take_out(L, rt, task);
  close_coroutines(L, rt, task);
  leave(L, rt, task);
  peri__bare_lost(task);
  peri__unanchor(L, loop, anchor);
}

void peri__task_destroy(lua_State *L, peri_runtime *rt, peri_task *task)
{
  peri_loop *loop = task->future.loop;
  int anchor = task->anchor, top = lua_gettop(L);
  peri__push_task(L, task);
  task = lua_touserdata(L, -1);
  peri__task_take_out(L, rt, task);
  close_coroutines(L, rt, task);
  if (task->future.state == PERI_PENDING) {
    leave(L, rt, task);
    peri__push_sentinel_message(L, rt, PERI_SENTINEL_KILL);
    peri__future_settle_cancelled(L, rt, top + 1, false);
  }
  peri__unanchor(L, loop, anchor);
  lua_settop(L, top);
}

static int destroy_protected(lua_State *L)
{
  peri_task *task = lua_touserdata(L, 1);
  peri__task_destroy(L, task->future.loop->rt, task);
  return 0;
}

void peri__tasks_recover(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  peri_task *next;
  (void)rt;
  for (peri_task *task = loop->tasks; task != NULL; task = next) {
    next = task->next;
    if (peri__node_listed(&task->timer.node) || task->wait == PERI_WAIT_TIMER ||
        task->wait == PERI_WAIT_TURN)
      continue;
    if (!(task->flags & PERI_T_STARTED) || task->wait != PERI_WAIT_NONE) {
      task->wait = PERI_WAIT_WOKEN;
      peri__loop_ready(loop, &task->timer.node);
      continue;
    }
    lua_pushcfunction(L, destroy_protected);
    lua_pushlightuserdata(L, task);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK)
      lua_pop(L, 1);
  }
}

/* A task that has not started stands below its root; one that has is the
 * root's first argument. */
void peri__push_task(lua_State *L, peri_task *task)
{
  lua_State *co = task->co;
  if (peri_unlikely(task->flags & PERI_T_BARE)) {
    peri__task_promote(L, task->future.loop->rt, task);
    return;
  }
  task->future.flags |= PERI_F_SEEN;
  lua_checkstack(co, 2);
  if (!(task->flags & PERI_T_STARTED)) {
    lua_pushvalue(co, 2);
  } else {
    lua_Debug ar;
    lua_getstack(co, peri__last_level(co), &ar);
    lua_getlocal(co, &ar, ROOT_TASK);
  }
  if (co != L)
    lua_xmove(co, L, 1);
}

const char *peri__task_name(lua_State *L, peri_runtime *rt, peri_task *task,
                            int idx)
{
  if (task->flags & PERI_T_NAMED) {
    idx = idx != 0 ? lua_absindex(L, idx) : 0;
    peri__push_ref(L, rt, PERI_REF_NAMES);
    if (idx != 0)
      lua_pushvalue(L, idx);
    else
      peri__push_task(L, task);
    lua_rawget(L, -2);
    lua_replace(L, -2);
  } else {
    lua_pushfstring(L, "Task-%I", (LUAI_UACINT)task->id);
  }
  return lua_tostring(L, -1);
}

void peri__task_open(lua_State *L, peri_runtime *rt)
{
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, root, 1);
  peri__set_ref(L, rt, PERI_REF_ROOT);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, root_handler, 1);
  peri__set_ref(L, rt, PERI_REF_ROOT_HANDLER);
}
