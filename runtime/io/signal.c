/*
 * signal.c: streams of signals, as perilune.signal has them.
 *
 * A stream has a handle of libuv's for each of its signals, beside those of
 * add_signal_handler and of other streams: all of them learn of the signal. What
 * comes while nobody waits is noted, each signal once, in the order of coming.
 * Only while a task waits do the handles keep the loop from being idle.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include <sys/types.h>

#include "core/debug.h"
#include "core/signals.h"
#include "io/io.h"

typedef struct peri_signals peri_signals;

typedef struct signal_slot {
  uv_signal_t uv;
  peri_signals *owner;
  int number;
  bool pending; /* stands in the queue */
} signal_slot;

struct peri_signals {
  peri_io io;
  peri_runtime *rt;
  peri_kernel *kernel;
  peri_waiters line;
  int references; /* the object's, each handle's, each waiter's */
  int count;      /* of slots */
  int started;    /* handles that are open */
  int waiting;
  int queued;
  bool closed;
  signal_slot slot[]; /* and behind them the queue */
};

typedef struct signals_box {
  peri_signals *signals;
} signals_box;

static const struct {
  const char *name;
  int number;
} names[] = {
#define X(name) {#name, name},
    PERI_SIGNALS(X)
#undef X
};

enum { NAMES = sizeof names / sizeof *names };

/* The queue of pending slots, by their places. */
static uint8_t *queue_of(peri_signals *signals)
{
  return (uint8_t *)(signals->slot + signals->count);
}

static size_t size_of(int count)
{
  return sizeof(peri_signals) + (size_t)count * (sizeof(signal_slot) + 1);
}

static void unref(peri_signals *signals)
{
  if (--signals->references == 0)
    peri__realloc(signals->rt, signals, size_of(signals->count), 0);
}

/* -- Signals ----------------------------------------------------------------------- */

static void on_signal(uv_signal_t *handle, int number)
{
  (void)number;
  signal_slot *slot = (signal_slot *)handle;
  peri_signals *signals = slot->owner;
  if (slot->pending)
    return;
  slot->pending = true;
  queue_of(signals)[signals->queued++] = (uint8_t)(slot - signals->slot);
  peri__waiters_wake(&signals->line);
}

/* The one that came first. */
static int take(peri_signals *signals)
{
  uint8_t *queue = queue_of(signals);
  signal_slot *slot = &signals->slot[queue[0]];
  memmove(queue, queue + 1, (size_t)--signals->queued);
  slot->pending = false;
  return slot->number;
}

static void push_name(lua_State *L, int number)
{
  for (int i = 0; i < NAMES; i++) {
    if (names[i].number == number) {
      lua_pushstring(L, names[i].name);
      return;
    }
  }
  lua_pushinteger(L, number); /* a real-time signal */
}

/* -- Opening and closing -------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle)
{
  peri_signals *signals = ((signal_slot *)handle)->owner;
  signals->kernel->open--;
  unref(signals);
}

static void close_signals(peri_signals *signals)
{
  if (signals->closed)
    return;
  signals->closed = true;
  if (peri__node_listed(&signals->io.listed))
    peri__node_unlink(&signals->io.listed);
  for (int i = 0; i < signals->started; i++)
    peri__signal_stop(signals->rt, &signals->slot[i].uv,
                      signals->slot[i].number, on_closed);
  while (peri__waiters_wake(&signals->line))
    continue;
}

static void close_with_loop(peri_io *io)
{
  close_signals((peri_signals *)io);
}

static int start(peri_signals *signals, uv_loop_t *uv)
{
  for (int i = 0; i < signals->count; i++) {
    signal_slot *slot = &signals->slot[i];
    int code =
        peri__signal_start(signals->rt, uv, &slot->uv, on_signal, slot->number);
    if (code < 0)
      return code;
    uv_unref((uv_handle_t *)&slot->uv);
    signals->kernel->open++;
    signals->references++;
    signals->started++;
  }
  return 0;
}

/* -- Waiting ----------------------------------------------------------------------------- */

/* One referenced handle is as good as all. */
static void stop_waiting(peri_signals *signals)
{
  if (--signals->waiting == 0 && !signals->closed)
    uv_unref((uv_handle_t *)&signals->slot[0].uv);
  unref(signals);
}

static void give_up(lua_State *L, peri_runtime *rt, peri_waiters *line, int idx,
                    bool woken)
{
  (void)L, (void)rt, (void)idx;
  peri_signals *signals =
      (peri_signals *)((char *)line - offsetof(peri_signals, line));
  if (woken && signals->queued > 0)
    peri__waiters_wake(line);
  stop_waiting(signals);
}

static peri_signals *boxed(lua_State *L)
{
  return ((signals_box *)lua_touserdata(L, 1))->signals;
}

static peri_signals *check_signals(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  bool ours = false;
  if (lua_isuserdata(L, 1) && lua_getmetatable(L, 1)) {
    peri__push_ref(L, rt, PERI_REF_SIGNALS);
    ours = lua_rawequal(L, -1, -2) && boxed(L) != NULL;
    lua_pop(L, 2);
  }
  if (!ours)
    peri__arg_type_error(L, rt, 1, "SignalStream");
  return boxed(L);
}

static int next(lua_State *L, peri_signals *signals);

static int next_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  peri_signals *signals = boxed(L);
  peri__waiters_unpark(L, signals->rt);
  stop_waiting(signals);
  return next(L, signals);
}

static int next(lua_State *L, peri_signals *signals)
{
  peri_runtime *rt = signals->rt;
  if (signals->queued > 0) {
    push_name(L, take(signals));
    return 1;
  }
  if (signals->closed) {
    lua_pushnil(L);
    return 1;
  }
  peri__wait_check(L, rt, signals->line.what);
  if (signals->io.loop != peri__running_loop(rt))
    return peri__throw(L, rt, PERI_ERR_RUNTIME,
                       "SignalStream.get: the stream belongs to another loop "
                       "than the running one");
  peri__waiters_park(L, rt, &signals->line);
  signals->references++;
  if (signals->waiting++ == 0)
    uv_ref((uv_handle_t *)&signals->slot[0].uv);
  return peri__park(L, rt, 0, next_k);
}

/* -- What scripts call ---------------------------------------------------------------------- */

/* stream(): what follows a call of a for loop is of no interest */
static int l_call(lua_State *L)
{
  peri_signals *signals = check_signals(L);
  lua_settop(L, 1);
  return next(L, signals);
}

/* get([options]) -> name; nil: closed */
static int l_get(lua_State *L)
{
  peri_signals *signals = check_signals(L);
  if (!lua_isnoneornil(L, 2))
    return peri__limited(L, 2, "SignalStream.get", l_get);
  lua_settop(L, 1);
  return next(L, signals);
}

static int l_close(lua_State *L)
{
  close_signals(check_signals(L));
  return 0;
}

static int l_gc(lua_State *L)
{
  signals_box *box = lua_touserdata(L, 1);
  peri_signals *signals = box->signals;
  if (signals == NULL)
    return 0;
  if (!signals->closed && signals->io.loop->debug)
    peri__debug_unclosed(L, peri__rt(L), 1, "unclosed stream of signals");
  close_signals(signals);
  box->signals = NULL;
  unref(signals);
  return 0;
}

/* The list of numbers at index 1 is Lua's and checked. */
static peri_signals *signals_new(lua_State *L, peri_runtime *rt,
                                 peri_loop *loop)
{
  int count = (int)lua_rawlen(L, 1);
  peri_signals *signals = peri__realloc(rt, NULL, 0, size_of(count));
  if (signals == NULL) {
    luaL_error(L, "not enough memory");
    return NULL;
  }
  memset(signals, 0, size_of(count));
  signals->io.loop = loop;
  signals->io.close = close_with_loop;
  signals->rt = rt;
  signals->kernel = loop->kernel;
  signals->references = 1;
  signals->count = count;
  peri__waiters_init(&signals->line, "SignalStream.get", give_up);
  for (int i = 0; i < count; i++) {
    lua_rawgeti(L, 1, i + 1);
    signals->slot[i].number = (int)lua_tointeger(L, -1);
    signals->slot[i].owner = signals;
    lua_pop(L, 1);
  }
  return signals;
}

/* stream(list of numbers, each once) -> stream */
static int l_stream(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = peri__io_loop(L, rt);
  luaL_checktype(L, 1, LUA_TTABLE);
  signals_box *box = lua_newuserdatauv(L, sizeof *box, 0);
  box->signals = NULL;
  peri__push_ref(L, rt, PERI_REF_SIGNALS);
  lua_setmetatable(L, -2);
  peri_signals *signals = signals_new(L, rt, loop);
  box->signals = signals;
  peri__list_push(&loop->open, &signals->io.listed);
  int code = start(signals, loop->kernel->uv);
  if (code == 0) {
    if (loop->debug)
      peri__debug_note(L, rt, -1);
    return 1;
  }
  close_signals(signals);
  return peri__throw_os(L, rt, "sigaction", code, NULL, NULL);
}

/* raise(number): to this thread */
static int l_raise(lua_State *L)
{
  raise((int)luaL_checkinteger(L, 1));
  return 0;
}

/* kill(pid, number) */
static int l_kill(lua_State *L)
{
  pid_t pid = (pid_t)luaL_checkinteger(L, 1);
  if (kill(pid, (int)luaL_checkinteger(L, 2)) < 0)
    return peri__throw_os(L, peri__rt(L), "kill", -errno, NULL, NULL);
  return 0;
}

static int l_describe(lua_State *L)
{
  lua_pushstring(L, strsignal((int)luaL_checkinteger(L, 1)));
  return 1;
}

static const luaL_Reg meta[] = {
    {"__call", l_call}, {"__close", l_close}, {"__gc", l_gc}, {NULL, NULL}};

static const luaL_Reg methods[] = {
    {"get", l_get}, {"close", l_close}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"stream", l_stream},
                                     {"raise", l_raise},
                                     {"kill", l_kill},
                                     {"describe", l_describe},
                                     {NULL, NULL}};

void peri__push_signals(lua_State *L)
{
  lua_createtable(L, 0, NAMES);
  for (int i = 0; i < NAMES; i++) {
    lua_pushinteger(L, names[i].number);
    lua_setfield(L, -2, names[i].name);
  }
}

int peri__signal_open(lua_State *L)
{
  peri_runtime *rt = peri_of(L);
  if (rt == NULL)
    return luaL_error(L, "there is no runtime on this state");
  peri__metatable(L, rt, PERI_REF_SIGNALS, "SignalStream", meta, methods);
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, functions, 1);
  peri__push_signals(L);
  lua_setfield(L, -2, "signals");
  return 1;
}
