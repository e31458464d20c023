/*
 * locks.c: what the library's locks (locks.lua) do in C: whatever waits, wakes,
 * or lets go.
 *
 * A lock is a table of the library's, and its line of waiters a userdata, in the
 * field `_line`. Its other fields are there from the beginning, and so are the
 * strings that name them (keep_strings): reading and setting them needs no
 * memory. So a permit is never lost for want of memory between being woken and
 * having it, and who closes a guard lets go.
 */
#include <string.h>

#include "inspect.h"

#define LINES(X)                                                               \
  X(LOCK, "Lock.acquire")                                                      \
  X(EVENT, "Event.wait")                                                       \
  X(CONDITION, "Condition.wait")                                               \
  X(SEMAPHORE, "Semaphore.acquire")                                            \
  X(BARRIER, "Barrier.wait")

typedef enum line_kind {
#define X(name, text) name,
  LINES(X)
#undef X
} line_kind;

static const char *const line_names[] = {
#define X(name, text) text,
    LINES(X)
#undef X
        NULL};

enum { UV_OWNER = 1, UV_HOLDER = 2 };

/* Who holds a lock is known by the coroutine (a user value), which costs a third
 * of what the task itself would, and by the id, since another task may run there
 * by now. */
typedef struct peri_line {
  peri_waiters waiters;
  lua_State *holder; /* NULL: none, or not a lock's */
  uint64_t holder_id;
  line_kind kind;
} peri_line;

/* -- Fields of the library's tables ---------------------------------------------- */

static bool get_flag(lua_State *L, int object, const char *field)
{
  lua_pushstring(L, field);
  lua_rawget(L, object);
  bool flag = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return flag;
}

static void set_flag(lua_State *L, int object, const char *field, bool flag)
{
  lua_pushstring(L, field);
  lua_pushboolean(L, flag);
  lua_rawset(L, object);
}

static lua_Integer get_count(lua_State *L, int object, const char *field)
{
  lua_pushstring(L, field);
  lua_rawget(L, object);
  lua_Integer count = lua_tointeger(L, -1);
  lua_pop(L, 1);
  return count;
}

static void set_count(lua_State *L, int object, const char *field,
                      lua_Integer count)
{
  lua_pushstring(L, field);
  lua_pushinteger(L, count);
  lua_rawset(L, object);
}

static peri_line *to_line(lua_State *L, peri_runtime *rt, int idx)
{
  if (lua_type(L, idx) != LUA_TUSERDATA || !lua_getmetatable(L, idx))
    return NULL;
  const void *meta = lua_topointer(L, -1);
  lua_pop(L, 1);
  return meta == rt->meta_line ? lua_touserdata(L, idx) : NULL;
}

/* Pushes the line of the object, which is one of a kind; or NULL, and nothing. */
static peri_line *push_line(lua_State *L, peri_runtime *rt, int object,
                            line_kind kind)
{
  if (lua_type(L, object) != LUA_TTABLE)
    return NULL;
  lua_pushliteral(L, "_line");
  lua_rawget(L, object);
  peri_line *line = to_line(L, rt, -1);
  if (line != NULL && line->kind == kind)
    return line;
  lua_pop(L, 1);
  return NULL;
}

static peri_line *check_line_of(lua_State *L, peri_runtime *rt, line_kind kind,
                                const char *class_name)
{
  peri_line *line = push_line(L, rt, 1, kind);
  if (peri_unlikely(line == NULL))
    peri__arg_type_error(L, rt, 1, class_name);
  return line;
}

/* -- Lines ----------------------------------------------------------------------- */

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

/* Gives a permit to each who waits, as long as there are some. A permit is taken
 * for a task when its turn comes, not when it runs; `_woken` counts those in
 * between, of which one has run, or left. */
static void settle_semaphore(lua_State *L, peri_waiters *line, int object,
                             lua_Integer given_back, lua_Integer settled)
{
  lua_Integer value = get_count(L, object, "_value") + given_back;
  lua_Integer woken = get_count(L, object, "_woken") - settled;
  while (value > 0 && peri__waiters_wake(line)) {
    value--;
    woken++;
  }
  set_count(L, object, "_value", value);
  set_count(L, object, "_woken", woken);
}

static void give_up_semaphore(lua_State *L, peri_runtime *rt,
                              peri_waiters *line, int idx, bool woken)
{
  (void)rt;
  lua_getiuservalue(L, idx, UV_OWNER);
  settle_semaphore(L, line, lua_gettop(L), woken, woken);
  lua_pop(L, 1);
}

static void give_up_lock(lua_State *L, peri_runtime *rt, peri_waiters *line,
                         int idx, bool woken)
{
  (void)rt, (void)woken;
  lua_getiuservalue(L, idx, UV_OWNER);
  if (!get_flag(L, lua_gettop(L), "_locked"))
    peri__waiters_wake_first(line);
  lua_pop(L, 1);
}

peri_task *peri__waiters_holder(peri_runtime *rt, peri_waiters *waiters)
{
  peri_line *line = (peri_line *)waiters;
  if (waiters->give_up != give_up_lock || line->holder == NULL)
    return NULL;
  return find_task(rt, line->holder, line->holder_id);
}

static void abandon_condition(lua_State *co, bool woken);
static void abandon_barrier(lua_State *co, bool woken);

/* line(what, owner) */
static int l_line(lua_State *L)
{
  static const peri_give_up_cb give_up[] = {
      [LOCK] = give_up_lock, [SEMAPHORE] = give_up_semaphore, [BARRIER] = NULL};
  peri_runtime *rt = peri__rt(L);
  line_kind kind = (line_kind)luaL_checkoption(L, 1, NULL, line_names);
  lua_settop(L, 2);
  peri_line *line = lua_newuserdatauv(L, sizeof *line, UV_HOLDER);
  peri__waiters_init(&line->waiters, line_names[kind], give_up[kind]);
  if (kind == LOCK || kind == CONDITION)
    line->waiters.abandoned = abandon_condition;
  else if (kind == BARRIER)
    line->waiters.abandoned = abandon_barrier;
  line->holder = NULL;
  line->holder_id = 0;
  line->kind = kind;
  peri__push_ref(L, rt, PERI_REF_LINE);
  lua_setmetatable(L, -2);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, -2, UV_OWNER);
  return 1;
}

static int wait_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  peri_runtime *rt = (peri_runtime *)ctx;
  peri_line *line = lua_touserdata(L, 1);
  peri__waiters_unpark(L, rt);
  if (line->kind == LOCK) {
    hold(L, rt, line);
  } else if (line->kind == SEMAPHORE) {
    lua_getiuservalue(L, 1, UV_OWNER);
    settle_semaphore(L, &line->waiters, lua_gettop(L), 0, 1);
  }
  return 0;
}

/* line_wait(line, [limited]): at its end, until the turn has come; a semaphore's
 * permit is the task's then. A wait that ends by itself closes no circle. */
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

static int l_line_wake_all(lua_State *L)
{
  peri__waiters_wake_all(&check_line(L, peri__rt(L))->waiters);
  return 0;
}

static int l_line_claimed(lua_State *L)
{
  lua_pushboolean(L,
                  peri__waiters_claimed(&check_line(L, peri__rt(L))->waiters));
  return 1;
}

/* line_take(line) -> whether the lock, which is free, goes to the caller:
 * nobody else has a claim */
static int l_line_take(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_line *line = check_line(L, rt);
  bool free = !peri__waiters_claimed(&line->waiters);
  if (free)
    hold(L, rt, line);
  lua_pushboolean(L, free);
  return 1;
}

/* -- Letting go ------------------------------------------------------------------- */

/* Lets go of the lock at an index. False: nobody holds it. */
static bool unlock(lua_State *L, peri_runtime *rt, int lock)
{
  lua_Integer debts = get_count(L, lock, "_debts");
  if (debts > 0) {
    set_count(L, lock, "_debts", debts - 1);
    return true;
  }
  if (!get_flag(L, lock, "_locked"))
    return false;
  peri_line *line = push_line(L, rt, lock, LOCK);
  line->holder = NULL;
  peri__waiters_wake_first(&line->waiters);
  set_flag(L, lock, "_locked", false);
  lua_pop(L, 1);
  return true;
}

static int throw_not_locked(lua_State *L, peri_runtime *rt)
{
  return peri__throw(L, rt, PERI_ERR_RUNTIME, "the lock is not acquired");
}

/* lock:release() */
static int l_lock_release(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  check_line_of(L, rt, LOCK, "Lock");
  if (!unlock(L, rt, 1))
    return throw_not_locked(L, rt);
  return 0;
}

static bool give_permit(lua_State *L, peri_waiters *line, int object)
{
  if (get_flag(L, object, "_bound") &&
      get_count(L, object, "_value") >= get_count(L, object, "_bound"))
    return false;
  const char *field = peri__waiters_wake(line) ? "_woken" : "_value";
  set_count(L, object, field, get_count(L, object, field) + 1);
  return true;
}

static int throw_too_many(lua_State *L, peri_runtime *rt)
{
  return peri__throw(L, rt, PERI_ERR_VALUE,
                     "the bounded semaphore was released too many times");
}

/* semaphore:release() */
static int l_semaphore_release(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_line *line = check_line_of(L, rt, SEMAPHORE, "Semaphore");
  if (!give_permit(L, &line->waiters, 1))
    return throw_too_many(L, rt);
  return 0;
}

/* guard_close(guard, err): its owner is a lock or semaphore, a condition, whose
 * lock it is, or anything that has a release(). */
static int l_guard_close(lua_State *L)
{
  enum { OWNER = 2 };
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, 1);
  lua_pushliteral(L, "owner");
  lua_rawget(L, 1);
  if (push_line(L, rt, OWNER, CONDITION) != NULL) {
    lua_pushliteral(L, "_lock");
    lua_rawget(L, OWNER);
    lua_replace(L, OWNER);
  }
  lua_settop(L, OWNER);
  if (push_line(L, rt, OWNER, LOCK) != NULL)
    return unlock(L, rt, OWNER) ? 0 : throw_not_locked(L, rt);
  peri_line *line = push_line(L, rt, OWNER, SEMAPHORE);
  if (line != NULL)
    return give_permit(L, &line->waiters, OWNER) ? 0 : throw_too_many(L, rt);
  lua_getfield(L, OWNER, "release");
  lua_insert(L, OWNER);
  lua_call(L, 1, 0);
  return 0;
}

/* -- Conditions ------------------------------------------------------------------- */

/* While a task waits, first for a notification and then for the lock, the line
 * it stands in is at index 1. The outcome of the first wait is the continuation's
 * context. */
enum { CONDITION_OBJECT = 2, CONDITION_LOCK = 3 };

/* The lock was not taken back. The guards that end next will release what is not
 * theirs: the lock lets one release pass. */
static void abandon_condition(lua_State *co, bool woken)
{
  peri_line *line = lua_touserdata(co, 1);
  if (woken && line->kind == CONDITION)
    peri__waiters_wake(&line->waiters);
  if (lua_type(co, CONDITION_LOCK) != LUA_TTABLE || !lua_checkstack(co, 3))
    return;
  set_count(co, CONDITION_LOCK, "_debts",
            get_count(co, CONDITION_LOCK, "_debts") + 1);
}

static lua_KContext take_outcome(peri_task *task)
{
  lua_KContext outcome = task->outcome;
  task->outcome = PERI_OUTCOME_OK;
  return outcome;
}

/* The lock is held again. A notification that came together with an error is
 * for another waiter. */
static int come_back(lua_State *L, peri_runtime *rt, lua_KContext outcome)
{
  if (outcome == PERI_OUTCOME_OK)
    return 0;
  peri__waiters_wake(&push_line(L, rt, CONDITION_OBJECT, CONDITION)->waiters);
  rt->task->outcome = (uint8_t)outcome;
  return peri__raise_outcome(L, rt);
}

static int check_cycle(lua_State *L)
{
  peri_line *line = lua_touserdata(L, 1);
  peri__cycle_check_line(L, lua_touserdata(L, 2), &line->waiters);
  return 0;
}

static void check_cycle_protected(lua_State *L, peri_runtime *rt)
{
  lua_pushcfunction(L, check_cycle);
  lua_pushvalue(L, 1);
  lua_pushlightuserdata(L, rt);
  if (lua_pcall(L, 2, 0, 0) != LUA_OK)
    lua_pop(L, 1); /* no memory to tell of it */
}

static int reacquire_k(lua_State *L, int status, lua_KContext outcome);

/* The lock is taken back whatever has ended the wait, and through further
 * cancellations; the last of them is what is raised. */
static int reacquire(lua_State *L, peri_runtime *rt, lua_KContext outcome)
{
  peri_line *line = push_line(L, rt, CONDITION_LOCK, LOCK);
  lua_replace(L, 1);
  if (line->holder != NULL)
    check_cycle_protected(L, rt);
  if (!get_flag(L, CONDITION_LOCK, "_locked") &&
      !peri__waiters_claimed(&line->waiters)) {
    hold(L, rt, line);
    set_flag(L, CONDITION_LOCK, "_locked", true);
    return come_back(L, rt, outcome);
  }
  peri__waiters_stay(rt->task, &line->waiters);
  return peri__park(L, rt, outcome, reacquire_k);
}

static int reacquire_k(lua_State *L, int status, lua_KContext outcome)
{
  (void)status;
  peri_runtime *rt = peri__rt(L);
  if (!peri__waiters_leave(L, rt))
    return reacquire(L, rt, take_outcome(rt->task));
  hold(L, rt, lua_touserdata(L, 1));
  set_flag(L, CONDITION_LOCK, "_locked", true);
  return come_back(L, rt, outcome);
}

static int notified_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  peri_runtime *rt = peri__rt(L);
  lua_KContext outcome = PERI_OUTCOME_OK;
  if (!peri__waiters_leave(L, rt))
    outcome = take_outcome(rt->task);
  return reacquire(L, rt, outcome);
}

/* condition_wait(condition), whose lock is one of ours */
static int l_condition_wait(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, 1);
  peri_line *line = check_line_of(L, rt, CONDITION, "Condition");
  lua_insert(L, 1);
  lua_pushliteral(L, "_lock");
  lua_rawget(L, CONDITION_OBJECT);
  if (push_line(L, rt, CONDITION_LOCK, LOCK) == NULL)
    return peri__arg_type_error(L, rt, 1, "Condition");
  lua_pop(L, 1);
  peri__wait_check(L, rt, line->waiters.what);
  if (!unlock(L, rt, CONDITION_LOCK))
    return throw_not_locked(L, rt);
  peri__waiters_stay(rt->task, &line->waiters);
  return peri__park(L, rt, 0, notified_k);
}

/* -- Barriers --------------------------------------------------------------------- */

/* The states: "filling" while tasks arrive; "draining" while they leave;
 * "resetting" while those that `reset` threw out leave; "broken". A task that
 * waits has the line at index 1, and its place in the round at the third once it
 * has arrived. */
enum { BARRIER_OBJECT = 2, BARRIER_PLACE = 3 };

static bool in_state(lua_State *L, const char *state)
{
  lua_pushliteral(L, "_state");
  lua_rawget(L, BARRIER_OBJECT);
  bool same = strcmp(lua_tostring(L, -1), state) == 0;
  lua_pop(L, 1);
  return same;
}

static void set_state(lua_State *L, const char *state)
{
  lua_pushliteral(L, "_state");
  lua_pushstring(L, state);
  lua_rawset(L, BARRIER_OBJECT);
}

/* Who arrived goes; the last one makes room for the next round. */
static void depart(lua_State *L)
{
  lua_Integer count = get_count(L, BARRIER_OBJECT, "_count") - 1;
  set_count(L, BARRIER_OBJECT, "_count", count);
  if (count > 0)
    return;
  if (in_state(L, "draining") || in_state(L, "resetting"))
    set_state(L, "filling");
  peri__waiters_wake_all(&((peri_line *)lua_touserdata(L, 1))->waiters);
}

static void abandon_barrier(lua_State *co, bool woken)
{
  (void)woken; /* all are woken together */
  if (lua_isinteger(co, BARRIER_PLACE) && lua_checkstack(co, 4))
    depart(co);
}

static int barrier_fill_k(lua_State *L, int status, lua_KContext ctx);

/* Has arrived, and waits for the others. */
static int barrier_fill(lua_State *L, peri_runtime *rt)
{
  peri_line *line = lua_touserdata(L, 1);
  if (in_state(L, "filling")) {
    peri__waiters_stay(rt->task, &line->waiters);
    return peri__park(L, rt, 0, barrier_fill_k);
  }
  bool drains = in_state(L, "draining");
  depart(L);
  if (!drains)
    return peri__throw(L, rt, PERI_ERR_BROKEN_BARRIER,
                       "the barrier was aborted or reset");
  lua_pushvalue(L, BARRIER_PLACE);
  return 1;
}

static int barrier_fill_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  peri_runtime *rt = peri__rt(L);
  if (peri__waiters_leave(L, rt))
    return barrier_fill(L, rt);
  peri__waiters_wake(&((peri_line *)lua_touserdata(L, 1))->waiters);
  depart(L);
  return peri__raise_outcome(L, rt);
}

static int barrier_enter_k(lua_State *L, int status, lua_KContext ctx);

/* Who arrives while the last round leaves waits for it to be gone. */
static int barrier_enter(lua_State *L, peri_runtime *rt)
{
  peri_line *line = lua_touserdata(L, 1);
  if (in_state(L, "draining") || in_state(L, "resetting")) {
    peri__waiters_park(L, rt, &line->waiters);
    return peri__park(L, rt, 0, barrier_enter_k);
  }
  if (in_state(L, "broken"))
    return peri__throw(L, rt, PERI_ERR_BROKEN_BARRIER,
                       "the barrier was aborted");
  lua_Integer place = get_count(L, BARRIER_OBJECT, "_count");
  bool last = place + 1 == get_count(L, BARRIER_OBJECT, "_parties");
  if (!last)
    peri__wait_check(L, rt, line->waiters.what);
  set_count(L, BARRIER_OBJECT, "_count", place + 1);
  lua_pushinteger(L, place);
  if (!last)
    return barrier_fill(L, rt);
  set_state(L, "draining");
  peri__waiters_wake_all(&line->waiters);
  depart(L);
  return 1;
}

static int barrier_enter_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  peri_runtime *rt = peri__rt(L);
  if (peri__waiters_leave(L, rt))
    return barrier_enter(L, rt);
  peri__waiters_wake(&((peri_line *)lua_touserdata(L, 1))->waiters);
  return peri__raise_outcome(L, rt);
}

/* barrier_wait(barrier) -> place */
static int l_barrier_wait(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  lua_settop(L, 1);
  check_line_of(L, rt, BARRIER, "Barrier");
  lua_insert(L, 1);
  return barrier_enter(L, rt);
}

static const luaL_Reg functions[] = {{"line", l_line},
                                     {"line_wait", l_line_wait},
                                     {"line_wake", l_line_wake},
                                     {"line_wake_all", l_line_wake_all},
                                     {"line_claimed", l_line_claimed},
                                     {"line_take", l_line_take},
                                     {"lock_release", l_lock_release},
                                     {"semaphore_release", l_semaphore_release},
                                     {"guard_close", l_guard_close},
                                     {"condition_wait", l_condition_wait},
                                     {"barrier_wait", l_barrier_wait},
                                     {NULL, NULL}};

static const luaL_Reg meta[] = {{NULL, NULL}};

/* In the metatable on top of the stack. */
static void keep_strings(lua_State *L)
{
  static const char *const strings[] = {
      "_line",    "_locked", "_debts",   "_value",    "_woken",
      "_bound",   "_lock",   "owner",    "_state",    "_count",
      "_parties", "filling", "draining", "resetting", "broken"};
  for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
    lua_pushstring(L, strings[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

void peri__locks_open(lua_State *L, peri_runtime *rt)
{
  rt->meta_line =
      peri__metatable(L, rt, PERI_REF_LINE, "line of waiters", meta, NULL);
  keep_strings(L);
  lua_pop(L, 1);
  peri__register(L, rt, functions);
}
