/*
 * waiters.c: lines of tasks that wait for their turn: at a lock, at a queue.
 *
 * A task stands in a line by a node of its own (task->turn, which shares its
 * place with the timer that does not run meanwhile), so waiting allocates
 * nothing, and leaving from the middle costs what leaving the front does.
 *
 * As in asyncio a task that is cancelled while it waits stays in the line until
 * it runs; who asks whether the line is free to pass does not count it. A turn
 * that has come (PERI_T_TURN) belongs to the task from then on: if it is
 * cancelled or killed before it runs, the owner's give_up hands the turn to the
 * next one, so that none is lost.
 *
 * The library's locks have a line each, a userdata whose user values are the
 * owner and its give_up function; C has lines inside its own objects (queue.c).
 */
#include <string.h>

#include "core.h"
#include "inspect.h"

enum { UV_OWNER = 1, UV_GIVE_UP = 2, UV_HOLDER = 3 };

/* A line of the library's. Who holds a lock is known by the coroutine (a user
 * value), which costs a third of what the task itself would, and by the id,
 * since another task may run there by now. */
typedef struct peri_line {
  peri_waiters waiters;
  lua_State *holder; /* NULL: none, or not a lock's */
  uint64_t holder_id;
  bool is_lock;
} peri_line;

static peri_task *task_of(peri_list *turn)
{
  return (peri_task *)((char *)turn - offsetof(peri_task, turn));
}

static void leave(peri_task *task)
{
  if (!(task->flags & PERI_T_IN_LINE))
    return;
  task->turn.previous->next = task->turn.next;
  task->turn.next->previous = task->turn.previous;
  task->flags &= (uint16_t)~PERI_T_IN_LINE;
}

static void wake(peri_task *task)
{
  task->flags |= PERI_T_TURN;
  task->wait = PERI_WAIT_WOKEN;
  peri__loop_ready(task->future.loop, &task->node);
}

void peri__waiters_init(peri_waiters *line, const char *what,
                        peri_give_up_cb give_up)
{
  peri__list_init(&line->turns);
  line->what = what;
  line->give_up = give_up;
}

bool peri__waiters_wake(peri_waiters *line)
{
  while (!peri__list_empty(&line->turns)) {
    peri_task *task = task_of(line->turns.next);
    leave(task);
    if (task->wait == PERI_WAIT_TURN) {
      wake(task);
      return true;
    }
  }
  return false;
}

void peri__waiters_park(lua_State *L, peri_runtime *rt, peri_waiters *line)
{
  peri_task *task = peri__wait_check(L, rt, line->what);
  peri_list *last = line->turns.previous;
  task->turn.previous = last;
  task->turn.next = &line->turns;
  last->next = line->turns.previous = &task->turn;
  task->flags |= PERI_T_IN_LINE;
  task->resource = line;
  task->wait = PERI_WAIT_TURN;
  if (peri_unlikely(task->flags & PERI_T_MUST_CANCEL))
    peri__park_cancelled(task);
}

void peri__waiters_unpark(lua_State *L, peri_runtime *rt)
{
  peri_task *task = rt->task;
  if (peri_unlikely(L != task->co || task->flags & PERI_T_EXPOSED) &&
      peri__parked(L))
    lua_pop(L, 1);
  bool woken = task->flags & PERI_T_TURN;
  task->flags &= (uint16_t)~PERI_T_TURN;
  leave(task);
  if (peri_likely(task->outcome == PERI_OUTCOME_OK))
    return;
  peri_waiters *line = task->resource;
  luaL_checkstack(L, 8, NULL);
  if (line->give_up != NULL)
    line->give_up(L, rt, line, 1, woken);
  peri__raise_outcome(L, rt);
}

/* [task]: gives up what its line has for it */
static int give_up_protected(lua_State *L)
{
  peri_task *task = lua_touserdata(L, 1);
  peri_waiters *line = task->resource;
  bool woken = lua_toboolean(L, 2);
  lua_State *co = peri__task_innermost(task);
  lua_pushvalue(co, 1);
  lua_xmove(co, L, 1);
  line->give_up(L, task->future.loop->rt, line, 3, woken);
  return 0;
}

void peri__waiters_abandon(lua_State *L, peri_runtime *rt, peri_task *task)
{
  (void)rt;
  peri_waiters *line = task->resource;
  bool woken = task->flags & PERI_T_TURN;
  task->flags &= (uint16_t)~PERI_T_TURN;
  leave(task);
  if (line->give_up == NULL)
    return;
  lua_pushcfunction(L, give_up_protected);
  lua_pushlightuserdata(L, task);
  lua_pushboolean(L, woken);
  if (lua_pcall(L, 2, 0, 0) != LUA_OK)
    lua_pop(L, 1); /* out of memory: the next release finds who waits */
}

/* -- Lines of the library's locks ------------------------------------------- */

static peri_line *to_line(lua_State *L, peri_runtime *rt, int idx)
{
  if (lua_type(L, idx) != LUA_TUSERDATA || !lua_getmetatable(L, idx))
    return NULL;
  const void *meta = lua_topointer(L, -1);
  lua_pop(L, 1);
  return meta == rt->meta_line ? lua_touserdata(L, idx) : NULL;
}

static peri_line *check_line(lua_State *L, peri_runtime *rt)
{
  peri_line *line = to_line(L, rt, 1);
  if (peri_unlikely(line == NULL))
    peri__arg_type_error(L, rt, 1, "line of waiters");
  return line;
}

bool peri__waiters_push_owner(lua_State *L, peri_runtime *rt, int idx)
{
  if (to_line(L, rt, idx) == NULL)
    return false;
  lua_getiuservalue(L, idx, UV_OWNER);
  return true;
}

static void call_give_up(lua_State *L, peri_runtime *rt, peri_waiters *line,
                         int idx, bool woken)
{
  (void)rt, (void)line;
  if (lua_getiuservalue(L, idx, UV_GIVE_UP) == LUA_TNIL) {
    lua_pop(L, 1);
    return;
  }
  lua_getiuservalue(L, idx, UV_OWNER);
  lua_pushboolean(L, woken);
  lua_call(L, 2, 0);
}

/* The running task has got the lock whose line stands at index 1. */
static void hold(lua_State *L, peri_runtime *rt, peri_line *line)
{
  peri_task *task = rt->task;
  line->holder = NULL;
  if (task == NULL) /* a callback has */
    return;
  lua_State *co = task->co;
  lua_checkstack(co, 1);
  lua_pushthread(co);
  if (co != L)
    lua_xmove(co, L, 1);
  lua_setiuservalue(L, 1, UV_HOLDER);
  line->holder = co;
  line->holder_id = task->id;
}

/* The task with that id if it has started in that coroutine and not ended. */
static peri_task *find_task(peri_runtime *rt, lua_State *co, uint64_t id)
{
  lua_Debug ar;
  if (!lua_checkstack(co, 2) || !lua_getstack(co, 0, &ar))
    return NULL;
  lua_getstack(co, peri__last_level(co), &ar);
  if (lua_getlocal(co, &ar, PERI_ROOT_TASK) == NULL)
    return NULL;
  peri_future *future = peri__to_future(co, rt, -1);
  lua_pop(co, 1);
  peri_task *task = NULL;
  if (future != NULL && future->kind == PERI_KIND_GATHER)
    task = peri__bare_find(future, id);
  else if (future != NULL && future->kind == PERI_KIND_TASK)
    task = (peri_task *)future;
  return task != NULL && task->id == id && task->future.state == PERI_PENDING
             ? task
             : NULL;
}

peri_task *peri__waiters_holder(peri_runtime *rt, peri_waiters *waiters)
{
  peri_line *line = (peri_line *)waiters;
  if (waiters->give_up != call_give_up || line->holder == NULL)
    return NULL;
  return find_task(rt, line->holder, line->holder_id);
}

/* line(what, owner, [give_up]): give_up(owner, woken) is called when a task
 * leaves by an error; it does not wait. */
static int l_line(lua_State *L)
{
  static const char *const names[] = {"Lock.acquire", "Event.wait",
                                      "Condition.wait", "Semaphore.acquire",
                                      NULL};
  peri_runtime *rt = peri__rt(L);
  const char *what = names[luaL_checkoption(L, 1, NULL, names)];
  lua_settop(L, 3);
  peri_line *line = lua_newuserdatauv(L, sizeof *line, UV_HOLDER);
  peri__waiters_init(&line->waiters, what, call_give_up);
  line->holder = NULL;
  line->holder_id = 0;
  line->is_lock = what == names[0];
  peri__push_ref(L, rt, PERI_REF_LINE);
  lua_setmetatable(L, -2);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, -2, UV_OWNER);
  lua_pushvalue(L, 3);
  lua_setiuservalue(L, -2, UV_GIVE_UP);
  return 1;
}

static int wait_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  peri_runtime *rt = (peri_runtime *)ctx;
  peri_line *line = lua_touserdata(L, 1);
  peri__waiters_unpark(L, rt);
  if (line->is_lock)
    hold(L, rt, line);
  return 0;
}

/* line_wait(line, [limited]): at its end, until the turn has come. A wait that
 * ends by itself closes no circle. */
static int l_line_wait(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_line *line = check_line(L, rt);
  bool limited = lua_toboolean(L, 2);
  lua_settop(L, 1);
  if (line->holder != NULL && !limited)
    peri__cycle_check_line(L, rt, &line->waiters);
  peri__waiters_park(L, rt, &line->waiters);
  return peri__park(L, rt, (lua_KContext)rt, wait_k);
}

/* line_wake(line) -> whether somebody was there */
static int l_line_wake(lua_State *L)
{
  lua_pushboolean(L, peri__waiters_wake(&check_line(L, peri__rt(L))->waiters));
  return 1;
}

/* line_wake_first(line): the lock is free; the turn of the first task comes,
 * which stays first until it runs. Nothing if it has come already, or if that
 * task is on its way out. */
static int l_line_wake_first(lua_State *L)
{
  peri_line *line = check_line(L, peri__rt(L));
  line->holder = NULL;
  if (peri__waiters_empty(&line->waiters))
    return 0;
  peri_task *task = task_of(line->waiters.turns.next);
  if (task->wait == PERI_WAIT_TURN)
    wake(task);
  return 0;
}

/* Whether a task stands there that is not on its way out. */
static bool is_claimed(const peri_waiters *line)
{
  peri_list *turn = line->turns.next;
  for (; turn != &line->turns; turn = turn->next) {
    peri_task *task = task_of(turn);
    if (task->wait == PERI_WAIT_TURN || task->flags & PERI_T_TURN)
      return true;
  }
  return false;
}

static int l_line_claimed(lua_State *L)
{
  lua_pushboolean(L, is_claimed(&check_line(L, peri__rt(L))->waiters));
  return 1;
}

/* line_take(line) -> whether the lock, which is free, goes to the caller:
 * nobody else has a claim */
static int l_line_take(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_line *line = check_line(L, rt);
  bool free = !is_claimed(&line->waiters);
  if (free)
    hold(L, rt, line);
  lua_pushboolean(L, free);
  return 1;
}

static const luaL_Reg functions[] = {{"line", l_line},
                                     {"line_wait", l_line_wait},
                                     {"line_wake", l_line_wake},
                                     {"line_wake_first", l_line_wake_first},
                                     {"line_claimed", l_line_claimed},
                                     {"line_take", l_line_take},
                                     {NULL, NULL}};

static const luaL_Reg meta[] = {{NULL, NULL}};

void peri__waiters_open(lua_State *L, peri_runtime *rt)
{
  rt->meta_line =
      peri__metatable(L, rt, PERI_REF_LINE, "line of waiters", meta, NULL);
  lua_pop(L, 1);
  peri__register(L, rt, functions);
}
