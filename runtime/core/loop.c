/*
 * loop.c: loops, their rounds, and runs of them.
 *
 * A round takes what other threads posted, moves the timers that are due behind
 * what is ready, looks at the kernel if it is time to, and then runs what was
 * ready when it began: what that adds belongs to the next round. The look at
 * the kernel costs 230 ns, as much as five switches of tasks, so while there is
 * work it is made every 64 rounds or 20 us, whichever comes first; without work
 * the loop sleeps in it.
 *
 * libuv's callbacks run no Lua: they put nodes into the ready queue. So uv_run
 * is never nested, whatever the script does. A run of another loop from a
 * script's top level is a wait: the run becomes the innermost one, whoever
 * drives drives that, and when it ends the task which waits for it goes on.
 *
 * A run until a future is done goes on for one round after it, in which that
 * future's callbacks run, as asyncio's does.
 */
#include <string.h>

#include "debug.h"
#include "inspect.h"

enum { ROUNDS_PER_LOOK = 64, LONGEST_STRIDE = 16 };
enum { LOOK_AFTER = 20000, QUICK = 5000 }; /* nanoseconds */

/* -- Finding loops and their tables ----------------------------------------------- */

peri_loop *peri__running_loop(peri_runtime *rt)
{
  return rt->run != NULL ? rt->run->loop : NULL;
}

void peri__push_loop(lua_State *L, peri_loop *loop)
{
  peri_runtime *rt = loop->rt;
  if (rt->run != NULL && rt->run->loop == loop) {
    peri__push_ref(L, rt, PERI_REF_LOOP);
    return;
  }
  if (loop == rt->dying) {
    peri__push_ref(L, rt, PERI_REF_DYING);
    return;
  }
  peri__push_ref(L, rt, PERI_REF_OBJECTS);
  lua_rawgetp(L, -1, loop);
  lua_replace(L, -2);
}

void peri__push_anchors(lua_State *L, peri_loop *loop)
{
  peri_runtime *rt = loop->rt;
  if (peri_likely(rt->run != NULL && rt->run->loop == loop)) {
    peri__push_ref(L, rt, PERI_REF_ANCHORS);
    return;
  }
  peri__push_loop(L, loop);
  if (lua_isnil(L, -1)) /* it is garbage: a finaliser asks */
    return;
  lua_getiuservalue(L, -1, PERI_LOOP_UV_ANCHORS);
  lua_replace(L, -2);
}

int peri__anchor(lua_State *L, peri_loop *loop)
{
  peri__check_stack(L, 6);
  peri__push_anchors(L, loop);
  if (!lua_istable(L, -1))
    peri__throw(L, loop->rt, PERI_ERR_RUNTIME, "Event loop is closed");
  lua_insert(L, -2);
  int anchor = luaL_ref(L, -2);
  lua_pop(L, 1);
  return anchor;
}

void peri__unanchor(lua_State *L, peri_loop *loop, int anchor)
{
  if (loop->closed) /* its table has gone, and the number with it */
    return;
  lua_checkstack(L, 6);
  peri__push_anchors(L, loop);
  if (lua_istable(L, -1))
    luaL_unref(L, -1, anchor);
  lua_pop(L, 1);
}

void peri__push_setting(lua_State *L, peri_loop *loop, const char *name)
{
  peri__push_loop(L, loop);
  if (lua_isnil(L, -1))
    return;
  lua_getiuservalue(L, -1, PERI_LOOP_UV_SETTINGS);
  if (lua_istable(L, -1))
    lua_getfield(L, -1, name);
  else
    lua_pushnil(L);
  lua_replace(L, -3);
  lua_pop(L, 1);
}

peri_loop *peri__check_loop(lua_State *L, peri_runtime *rt, int arg)
{
  if (lua_type(L, arg) == LUA_TUSERDATA && lua_getmetatable(L, arg)) {
    const void *meta = lua_topointer(L, -1);
    lua_pop(L, 1);
    if (meta == rt->meta_loop)
      return lua_touserdata(L, arg);
  }
  peri__arg_type_error(L, rt, arg, "loop");
  return NULL;
}

void peri__loop_check_open(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  if (peri_unlikely(loop->closed || loop->closing))
    peri__throw(L, rt, PERI_ERR_RUNTIME, "Event loop is closed");
}

/* -- The kernel --------------------------------------------------------------------- */

/* uv_run may fire the timer before it polls; it must not sleep then. */
static void on_timer(uv_timer_t *timer)
{
  uv_stop(timer->loop);
}

/* Lets libuv run its callbacks; waits for delay nanoseconds (< 0: for ever). */
static void look(peri_loop *loop, int64_t delay)
{
  peri_kernel *kernel = loop->kernel;
  loop->rounds_unpolled = loop->rounds_left;
  if (delay == 0) {
    uv_run(kernel->uv, UV_RUN_NOWAIT);
    return;
  }
  if (delay > 0) {
    uint64_t ms = ((uint64_t)delay + 999999) / 1000000;
    uv_update_time(kernel->uv);
    uv_timer_start(&kernel->timer, on_timer, ms, 0);
  }
  uv_ref((uv_handle_t *)&kernel->wake);
  uv_run(kernel->uv, UV_RUN_ONCE);
  uv_unref((uv_handle_t *)&kernel->wake);
  uv_timer_stop(&kernel->timer);
}

/* Whether the last look was too long ago, by the clock. */
static bool look_is_late(peri_loop *loop)
{
  uint64_t now = uv_hrtime(), gone = now - loop->last_reading;
  loop->last_reading = now;
  if (gone > LOOK_AFTER)
    loop->stride = 1;
  else if (gone < QUICK && loop->stride < LONGEST_STRIDE)
    loop->stride *= 2;
  return gone > LOOK_AFTER;
}

/* Whether it is time for a look while there is work; asked when no rounds are
 * left. The clock is read every stride rounds only, as many as go by in a few
 * microseconds. */
static bool look_is_due(peri_loop *loop)
{
  if (loop->kernel == NULL) {
    loop->rounds_left = ROUNDS_PER_LOOK;
    return false;
  }
  bool due = loop->rounds_unpolled >= ROUNDS_PER_LOOK || look_is_late(loop);
  int most = ROUNDS_PER_LOOK - (due ? 0 : loop->rounds_unpolled);
  loop->rounds_left = loop->stride < most ? loop->stride : most;
  loop->rounds_unpolled += loop->rounds_left;
  return due;
}

/* -- Timers ------------------------------------------------------------------------ */

/* A sleep ends as asyncio's does, in two trips: in the first the timer fires,
 * beside the callbacks that are due, in the second the task goes on. So a
 * timeout that is due at the same time still finds it asleep. */
static void fire(peri_timer *timer)
{
  if (timer->node.kind == PERI_NODE_TASK) {
    peri__node_task(&timer->node)->wait = PERI_WAIT_DUE;
    timer->node.kind = PERI_NODE_DUE;
  } else {
    peri__handle_due(&timer->node);
  }
  peri__loop_ready(timer->loop, &timer->node);
}

static void fire_due(peri_runtime *rt)
{
  peri_list *link = rt->clocks.next, *next;
  for (; link != &rt->clocks; link = next) {
    peri_clock *clock =
        (peri_clock *)((char *)link - offsetof(peri_clock, active));
    int64_t now = peri__clock_now(clock);
    peri_timer *timer;
    next = link->next;
    while ((timer = peri__timer_due(clock, now)) != NULL)
      fire(timer);
  }
}

int64_t peri__next_timer(peri_runtime *rt)
{
  int64_t nearest = INT64_MAX;
  peri_list *link = rt->clocks.next;
  for (; link != &rt->clocks; link = link->next) {
    peri_clock *clock =
        (peri_clock *)((char *)link - offsetof(peri_clock, active));
    int64_t deadline;
    if (!peri__timer_first(clock, &deadline))
      continue;
    int64_t delay = peri__clock_real_delay(clock, deadline);
    if (delay < nearest)
      nearest = delay;
  }
  return nearest;
}

/* The virtual clock that is nearest to its next deadline, or NULL. */
static peri_clock *next_virtual(peri_runtime *rt, int64_t *target)
{
  peri_clock *nearest = NULL;
  int64_t shortest = INT64_MAX;
  peri_list *link = rt->clocks.next;
  for (; link != &rt->clocks; link = link->next) {
    peri_clock *clock =
        (peri_clock *)((char *)link - offsetof(peri_clock, active));
    int64_t deadline;
    if (clock->kind != PERI_CLOCK_VIRTUAL || clock->paused ||
        !peri__timer_first(clock, &deadline))
      continue;
    int64_t delay = deadline - peri__clock_now(clock);
    if (delay < shortest) {
      shortest = delay;
      nearest = clock;
      *target = deadline;
    }
  }
  return nearest;
}

/* Everything is blocked: time goes on to the next deadline on a virtual clock.
 */
static bool jump(peri_runtime *rt)
{
  int64_t target;
  peri_clock *clock = next_virtual(rt, &target);
  if (clock != NULL)
    peri__clock_jump(clock, target);
  return clock != NULL;
}

/* -- Rounds ------------------------------------------------------------------------- */

/* What comes of it if nothing comes. */
static peri__rest_kind rest_kind(peri_runtime *rt)
{
  int64_t target;
  if (next_virtual(rt, &target) != NULL)
    return PERI__REST_JUMPS;
  bool ends = rt->run->goal != NULL && rt->run->loop->deadlock;
  return ends ? PERI__REST_ENDS : PERI__REST_STAYS;
}

bool peri__idle(peri_runtime *rt, peri_loop *loop)
{
  if (atomic_load(&rt->external) != 0)
    return false;
  uv_loop_t *uv = loop->kernel != NULL ? loop->kernel->uv : loop->host_uv;
  if (uv != NULL && uv_loop_alive(uv))
    return false;
  return peri_likely(rt->own_pool == NULL) ||
         !rt->own_pool_rests(rt, rest_kind(rt));
}

static bool has_work(peri_loop *loop)
{
  return !peri__list_empty(&loop->ready) || !peri__list_empty(&loop->batch);
}

bool peri__has_work(peri_runtime *rt)
{
  return rt->run != NULL && has_work(rt->run->loop);
}

/* In debug mode it is told how long the wait took. */
static peri_cold void look_timed(lua_State *L, peri_runtime *rt,
                                 peri_loop *loop, int64_t delay)
{
  uint64_t begin = uv_hrtime();
  look(loop, delay);
  uint64_t took = uv_hrtime() - begin;
  size_t events = atomic_load(&rt->attention) != 0;
  peri_list *node = loop->ready.next;
  for (; node != &loop->ready; node = node->next)
    events++;
  peri__debug_polled(L, rt, delay, took, events);
}

/* Manual clocks, and those that are paused, only move when somebody who runs
 * in this very loop moves them: their timers count for nothing. The holds are
 * looked at before the posts, see peri__nothing_came. */
bool peri__stuck(peri_runtime *rt, peri_loop *loop)
{
  int64_t target;
  return !has_work(loop) && peri__next_timer(rt) == INT64_MAX &&
         next_virtual(rt, &target) == NULL && peri__idle(rt, loop) &&
         peri__nothing_came(rt);
}

/* The loop's part of the kernel, and what pools need of it, for a sleep there.
 * False: it does without for a moment, until there is memory or a descriptor. */
static bool prepare_sleep(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  int code = peri__loop_kernel(L, loop);
  if (code < 0 && !peri__is_lack(code))
    peri__throw_uv(L, rt, "uv_loop_init", code);
  if (peri_unlikely(code == 0 && rt->unfollowed))
    rt->run_changed(L, rt);
  if (peri_likely(code == 0 && !rt->unfollowed))
    return true;
  uv_sleep(1);
  return false;
}

static void sleep_for_work(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  int64_t delay = peri__next_timer(rt);
  if (delay == INT64_MAX && peri__idle(rt, loop) &&
      (jump(rt) || peri__deadlock(L, rt)))
    return;
  if (!prepare_sleep(L, rt, loop))
    return;
  if (delay == INT64_MAX)
    delay = -1;
  if (atomic_load(&rt->attention) != 0 ||
      (rt->spinners > 0 && rt->spin(L, rt, delay)))
    return;
  if (loop->debug)
    look_timed(L, rt, loop, delay);
  else
    look(loop, delay);
}

static void wait_for_work(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  sleep_for_work(L, rt, loop);
  if (peri_unlikely(rt->own_pool != NULL))
    rt->own_pool_rests(rt, PERI__REST_NOT);
}

static void wake_sleeper(peri_node *node)
{
  peri_task *task = peri__node_task(node);
  node->kind = PERI_NODE_TASK;
  task->wait = PERI_WAIT_WOKEN;
  peri__loop_ready(task->future.loop, node);
}

static void run_node(lua_State *L, peri_runtime *rt, peri_node *node)
{
  switch ((peri_node_kind)node->kind) {
  case PERI_NODE_TASK:
    peri__task_step(L, rt, peri__node_task(node));
    break;
  case PERI_NODE_DUE:
    wake_sleeper(node);
    break;
  case PERI_NODE_HANDLE:
    peri__handle_run(L, rt, node);
    break;
  case PERI_NODE_LINK:
    peri__link_run(L, rt, node);
    break;
  case PERI_NODE_CHILD:
    peri__gather_child(L, rt, node);
    break;
  case PERI_NODE_AWAITED:
    peri__several_ended(node);
    break;
  case PERI_NODE_MEMBER:
    peri__crew_member(L, rt, node);
    break;
  case PERI_NODE_WATCH:
    peri__watch_run(L, rt, node);
    break;
  case PERI_NODE_IO:
    ((peri_io_node *)node)->run(L, rt, (peri_io_node *)node);
    break;
  }
}

static inline void nothing_runs(peri_runtime *rt)
{
  rt->task = NULL;
  rt->current = NULL;
}

/* The ordinary step, most of what a loop does: a task that has started,
 * is not cancelled and has no coroutines of the script's goes on to its next
 * wait. All others are for task.c. Leaves rt->task and rt->current set after a
 * wait, when both are sure to live on. */
static inline void step(lua_State *L, peri_runtime *rt, peri_task *task)
{
  enum { ORDINARY = PERI_T_STARTED, LOOK_AT = ORDINARY | PERI_T_MUST_CANCEL };
  if (peri_unlikely((task->flags & LOOK_AT) != ORDINARY ||
                    task->frames != NULL)) {
    peri__task_step(L, rt, task);
    return;
  }
  int n;
  rt->task = task;
  rt->current = task->co;
  rt->frames = NULL;
  task->wait = PERI_WAIT_NONE;
  int status = lua_resume(task->co, L, 0, &n);
  task = peri__task_now(task);
  if (peri_likely(status == LUA_YIELD && task->wait != PERI_WAIT_NONE))
    return;
  nothing_runs(rt);
  peri__task_stepped(L, rt, task, status);
}

static inline void run_batch(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  peri__list_splice(&loop->batch, &loop->ready);
  while (!peri__list_empty(&loop->batch)) {
    peri_node *node = peri__list_shift(&loop->batch);
    if (peri_likely(node->kind == PERI_NODE_TASK)) {
      step(L, rt, peri__node_task(node));
    } else {
      nothing_runs(rt);
      run_node(L, rt, node);
    }
    if (peri_unlikely(rt->abort != PERI_SENTINEL_NONE))
      break;
  }
  nothing_runs(rt);
}

/* The same in debug mode: each entry is timed. */
static peri_cold void run_batch_timed(lua_State *L, peri_runtime *rt,
                                      peri_loop *loop)
{
  peri__list_splice(&loop->batch, &loop->ready);
  while (!peri__list_empty(&loop->batch) && rt->abort == PERI_SENTINEL_NONE)
    peri__debug_run(L, rt, loop, peri__list_shift(&loop->batch), run_node);
}

static inline bool has_news(peri_runtime *rt)
{
  return atomic_load_explicit(&rt->attention, memory_order_relaxed) != 0 ||
         !peri__list_empty(&rt->clocks);
}

static void take_news(lua_State *L, peri_runtime *rt)
{
  if (atomic_load_explicit(&rt->attention, memory_order_relaxed) != 0)
    peri__post_attend(L, rt);
  fire_due(rt);
}

static void find_work(lua_State *L, peri_runtime *rt, peri_loop *loop,
                      bool block)
{
  if (has_work(loop)) {
    if (look_is_due(loop))
      look(loop, 0);
    return;
  }
  if (block && rt->abort == PERI_SENTINEL_NONE)
    wait_for_work(L, rt, loop);
  else if (loop->kernel != NULL)
    look(loop, 0);
  take_news(L, rt);
}

/* Nothing is ready, or it is time to ask whether a look is due. In debug mode
 * it always is, and the round is run here: true. So no other round asks. */
static peri_cold bool find_and_run(lua_State *L, peri_runtime *rt,
                                   peri_loop *loop, bool block)
{
  find_work(L, rt, loop, block);
  if (!loop->debug)
    return false;
  loop->rounds_left = 1;
  run_batch_timed(L, rt, loop);
  return true;
}

static bool goal_done(const peri_run_record *run)
{
  return run->goal != NULL && run->goal->state != PERI_PENDING;
}

/* The innermost run has ended: the task that waits for it goes on. */
static void hand_back(lua_State *L, peri_runtime *rt, peri_run_record *run)
{
  peri_task *waiter = run->waiter;
  peri__run_end(L, rt, run);
  waiter->wait = PERI_WAIT_WOKEN;
  peri__loop_ready(waiter->future.loop, &waiter->timer.node);
}

/* Has the runs end, from the innermost one to the given one. */
void peri__runs_stop(peri_runtime *rt, const peri_run_record *through)
{
  for (peri_run_record *run = rt->run; run != NULL; run = run->outer) {
    run->loop->stopping = true;
    if (run == through)
      break;
  }
}

/* The innermost run ends here and now; no round is under way. */
void peri__run_abandon(lua_State *L, peri_runtime *rt)
{
  peri_run_record *run = rt->run;
  run->ended = true;
  run->abort = PERI_SENTINEL_KILL;
  if (run->waiter != NULL)
    hand_back(L, rt, run);
  else
    peri__run_end(L, rt, run);
}

static peri_cold void end_run(lua_State *L, peri_runtime *rt,
                              peri_run_record *run)
{
  run->ended = true;
  run->abort = rt->abort;
  rt->abort = PERI_SENTINEL_NONE;
  run->loop->stopping = false;
  if (run->waiter != NULL)
    hand_back(L, rt, run);
}

void peri__turn(lua_State *L, peri_runtime *rt, bool block)
{
  do {
    peri_run_record *run = rt->run;
    peri_loop *loop = run->loop;
    if (peri_unlikely(has_news(rt)))
      take_news(L, rt);
    bool last = goal_done(run) || loop->stopping;
    if (peri_likely(--loop->rounds_left > 0 &&
                    !peri__list_empty(&loop->ready)) ||
        !find_and_run(L, rt, loop, block && !last))
      run_batch(L, rt, loop);
    if (peri_unlikely(last || loop->stopping ||
                      rt->abort != PERI_SENTINEL_NONE)) {
      end_run(L, rt, run);
      return;
    }
  } while (block);
}

/* -- Runs ---------------------------------------------------------------------------- */

void peri__run_begin(lua_State *L, peri_runtime *rt, peri_run_record *run)
{
  peri__push_loop(L, run->loop);
  lua_getiuservalue(L, -1, PERI_LOOP_UV_ANCHORS);
  peri__set_ref(L, rt, PERI_REF_ANCHORS);
  peri__set_ref(L, rt, PERI_REF_LOOP);
  run->outer = rt->run;
  run->ended = run->no_memory = false;
  run->deadlocks = 0;
  run->abort = PERI_SENTINEL_NONE;
  rt->run = run;
  run->loop->running = true;
  run->loop->stride = run->loop->rounds_left = 1;
  rt->thread = uv_thread_self();
  peri__debug_follow(L, rt);
  peri__async_set(rt,
                  run->loop->kernel != NULL ? &run->loop->kernel->wake : NULL);
  if (rt->run_changed != NULL)
    rt->run_changed(L, rt);
}

void peri__run_end(lua_State *L, peri_runtime *rt, peri_run_record *run)
{
  PERI_CHECK(rt->run == run);
  run->loop->running = false;
  rt->run = NULL; /* push_loop must not take the place for the loop's */
  peri_run_record *outer = run->outer;
  if (outer != NULL) {
    peri__push_loop(L, outer->loop);
    lua_getiuservalue(L, -1, PERI_LOOP_UV_ANCHORS);
    peri__async_set(rt, outer->loop->kernel != NULL ? &outer->loop->kernel->wake
                                                    : NULL);
  } else {
    lua_pushboolean(L, false);
    lua_pushboolean(L, false);
    peri__async_set(rt, NULL);
  }
  peri__set_ref(L, rt, PERI_REF_ANCHORS);
  peri__set_ref(L, rt, PERI_REF_LOOP);
  rt->run = outer;
  peri__debug_follow(L, rt);
  if (rt->run_changed != NULL)
    rt->run_changed(L, rt);
}

static int drive(lua_State *L)
{
  peri_run_record *run = lua_touserdata(L, 1);
  peri_runtime *rt = run->loop->rt;
  peri__check_stack(L, PERI_ROOM);
  while (!run->ended)
    peri__turn(L, rt, true);
  return 0;
}

static void end_and_recover(lua_State *L, peri_runtime *rt,
                            peri_run_record *run, int status)
{
  peri_loop *loop = run->loop;
  peri__run_end(L, rt, run);
  if (status != LUA_OK)
    peri__tasks_recover(L, rt, loop);
}

/* Drives the run to its end on this thread. Returns a Lua status; an error
 * (out of memory, the kernel refuses) is on top of the stack. */
int peri__run_drive(lua_State *L, peri_runtime *rt, peri_run_record *run)
{
  peri_task *task = rt->task;
  lua_State *current = rt->current;
  peri_frames *frames = rt->frames;
  const char *callback = rt->callback;
  rt->task = NULL;
  rt->current = NULL;
  rt->frames = &rt->no_task;
  rt->callback = NULL;
  peri__run_begin(L, rt, run);
  peri__sigpipe_block(rt);
  lua_pushcfunction(L, drive);
  lua_pushlightuserdata(L, run);
  int status = lua_pcall(L, 1, 0, 0);
  peri__sigpipe_restore(rt);
  while (rt->run != run)
    end_and_recover(L, rt, rt->run, status);
  end_and_recover(L, rt, run, status);
  rt->task = peri__task_now(task);
  rt->current = current;
  rt->frames = frames;
  rt->callback = callback;
  return status;
}

/* -- Making and closing ----------------------------------------------------------------- */

peri_loop *peri__loop_new(lua_State *L, peri_runtime *rt, uv_loop_t *host_uv)
{
  peri_loop *loop = lua_newuserdatauv(L, sizeof *loop, 2);
  *loop = (peri_loop){.rt = rt, .host_uv = host_uv, .closed = true};
  peri__list_init(&loop->ready);
  peri__list_init(&loop->batch);
  peri__list_init(&loop->watchers);
  peri__list_init(&loop->open);
  peri__list_init(&loop->unseen);
  loop->slow_callback_duration = 0.1;
  loop->debug = loop->accounts = rt->options.debug != 0;
  loop->deadlock = rt->options.deadlock != 0;
  loop->stride = loop->rounds_left = 1;
  peri__push_ref(L, rt, PERI_REF_OBJECTS);
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, loop);
  lua_pop(L, 1);
  lua_newtable(L);
  lua_setiuservalue(L, -2, PERI_LOOP_UV_ANCHORS);
  peri__push_ref(L, rt, PERI_REF_LOOP_META);
  lua_setmetatable(L, -2);
  loop->clock = peri__clock_current(rt); /* its maker's, as a task has */
  peri__clock_use(L, loop->clock);
  loop->closed = false;
  if (rt->debug)
    peri__debug_note(L, rt, -1);
  return loop;
}
