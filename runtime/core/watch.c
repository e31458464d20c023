/*
 * watch.c: add_reader, add_writer, add_signal_handler.
 *
 * libuv has one handle for both directions of a descriptor, so a watcher of a
 * descriptor holds both callbacks. A watcher is pinned in the loop's table of
 * anchors until its handle is closed. libuv's callback queues the watcher; the
 * script's function is called from the ready queue, once a round at most.
 */
#include <signal.h>
#include <string.h>

#include "debug.h"
#include "signals.h"

typedef struct peri_watcher {
  peri_node node;   /* in the ready queue while an event waits */
  peri_node listed; /* in loop->watchers */
  peri_loop *loop;
  peri_kernel *kernel;
  int anchor;
  int id;     /* descriptor, or signal */
  int wanted; /* UV_READABLE | UV_WRITABLE; -1: a signal */
  int events; /* what has come */
  bool closing;
  union {
    uv_handle_t handle;
    uv_poll_t poll;
    uv_signal_t signal;
  } uv;
} peri_watcher;

/* User values: tables {fn, arguments..., n=} */
enum { ON_READ = 1, ON_WRITE = 2, ON_SIGNAL = 1 };

static peri_watcher *of_listed(peri_list *link)
{
  return (peri_watcher *)((char *)link - offsetof(peri_watcher, listed));
}

static peri_watcher *find(peri_loop *loop, int id, bool signal)
{
  peri_list *link = loop->watchers.next;
  for (; link != &loop->watchers; link = link->next) {
    peri_watcher *watcher = of_listed(link);
    if (watcher->id == id && (watcher->wanted < 0) == signal)
      return watcher;
  }
  return NULL;
}

static void push_watcher(lua_State *L, peri_watcher *watcher)
{
  peri__push_anchors(L, watcher->loop);
  lua_rawgeti(L, -1, watcher->anchor);
  lua_replace(L, -2);
}

/* -- Events ------------------------------------------------------------------------ */

static void queue(peri_watcher *watcher)
{
  if (!peri__node_listed(&watcher->node))
    peri__loop_ready(watcher->loop, &watcher->node);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
  peri_watcher *watcher = poll->data;
  /* An error is for the callback to find: it reads or writes and sees it. */
  watcher->events |= status < 0 ? watcher->wanted : events;
  queue(watcher);
}

static void on_signal(uv_signal_t *signal, int number)
{
  (void)number;
  queue(signal->data);
}

static void call(lua_State *L, peri_runtime *rt, peri_loop *loop, int watcher,
                 int uservalue, const char *what)
{
  if (lua_getiuservalue(L, watcher, uservalue) != LUA_TTABLE) {
    lua_pop(L, 1);
    return;
  }
  int list = lua_gettop(L);
  lua_getfield(L, list, "n");
  int n = (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  if (!lua_checkstack(L, n + 8)) {
    lua_pushliteral(L, "not enough memory");
    peri__report_error(L, rt, loop, "a callback could not be called");
    lua_settop(L, list - 1);
    return;
  }
  lua_getfield(L, list, "context");
  for (int i = 1; i <= n; i++)
    lua_rawgeti(L, list, i);
  if (loop->debug)
    peri__debug_call(L, rt, loop, n - 1, what);
  else
    peri__call_in_context(L, rt, loop, n - 1, what);
  lua_settop(L, list - 1);
}

void peri__watch_run(lua_State *L, peri_runtime *rt, peri_node *node)
{
  peri_watcher *watcher = (peri_watcher *)node;
  peri_loop *loop = watcher->loop;
  int events = watcher->events, top = lua_gettop(L);
  watcher->events = 0;
  if (watcher->closing) {
    peri__unanchor(L, loop, watcher->anchor);
    return;
  }
  push_watcher(L, watcher);
  if (watcher->wanted < 0) {
    call(L, rt, loop, top + 1, ON_SIGNAL, "a signal handler");
  } else {
    if (events & UV_READABLE)
      call(L, rt, loop, top + 1, ON_READ, "a reader callback");
    if (events & UV_WRITABLE && !watcher->closing)
      call(L, rt, loop, top + 1, ON_WRITE, "a writer callback");
  }
  lua_settop(L, top);
}

/* -- Opening and closing ------------------------------------------------------------- */

/* The userdata stays anchored until the handle is closed; its last event lets
 * it go. */
static void on_closed(uv_handle_t *handle)
{
  peri_watcher *watcher = handle->data;
  watcher->kernel->open--;
  queue(watcher);
}

/* What a signal did before the runtime handled it: libuv would leave it at the
 * default. */
struct peri_signal_use {
  struct peri_signal_use *next;
  int number;
  int handles; /* ours for it, on all loops */
  struct sigaction before;
};

static struct peri_signal_use **find_use(peri_runtime *rt, int number)
{
  struct peri_signal_use **at = &rt->signal_uses;
  while (*at != NULL && (*at)->number != number)
    at = &(*at)->next;
  return at;
}

static struct peri_signal_use *use_signal(peri_runtime *rt, int number)
{
  struct peri_signal_use **at = find_use(rt, number);
  if (*at != NULL)
    return *at;
  struct peri_signal_use *use = peri__realloc(rt, NULL, 0, sizeof *use);
  if (use == NULL)
    return NULL;
  memset(use, 0, sizeof *use);
  use->number = number;
  sigaction(number, NULL, &use->before);
  *at = use;
  return use;
}

static void unuse_signal(peri_runtime *rt, int number)
{
  struct peri_signal_use **at = find_use(rt, number), *use = *at;
  if (use->handles > 0)
    return;
  struct sigaction now;
  if (sigaction(number, NULL, &now) == 0 && now.sa_handler == SIG_DFL)
    sigaction(number, &use->before, NULL);
  *at = use->next;
  peri__realloc(rt, use, sizeof *use, 0);
}

int peri__signal_start(peri_runtime *rt, uv_loop_t *uv, uv_signal_t *handle,
                       uv_signal_cb callback, int number)
{
  struct sigaction now;
  if (sigaction(number, NULL, &now) < 0) /* the C library's own */
    return UV_EINVAL;
  struct peri_signal_use *use = use_signal(rt, number);
  if (use == NULL)
    return UV_ENOMEM;
  int code = uv_signal_init(uv, handle);
  if (code < 0) {
    unuse_signal(rt, number);
    return code;
  }
  code = uv_signal_start(handle, callback, number);
  PERI_CHECK(code == 0); /* it fails for signals that there are not */
  /* libuv has it already, for somebody else, who knows what was there. */
  sigaction(number, NULL, &now);
  if (use->handles++ == 0 && now.sa_handler == use->before.sa_handler)
    use->before.sa_handler = SIG_DFL;
  return 0;
}

void peri__signal_stop(peri_runtime *rt, uv_signal_t *handle, int number,
                       uv_close_cb closed)
{
  uv_close((uv_handle_t *)handle, closed);
  (*find_use(rt, number))->handles--;
  unuse_signal(rt, number);
}

static void close_watcher(peri_watcher *watcher)
{
  if (watcher->closing)
    return;
  watcher->closing = true;
  peri__node_unlink(&watcher->listed);
  if (peri__node_listed(&watcher->node))
    peri__node_unlink(&watcher->node);
  if (watcher->wanted < 0)
    peri__signal_stop(watcher->loop->rt, &watcher->uv.signal, watcher->id,
                      on_closed);
  else
    uv_close(&watcher->uv.handle, on_closed);
}

/* Leaves the new watcher on the stack, without a handle yet. */
static peri_watcher *watcher_new(lua_State *L, peri_runtime *rt,
                                 peri_loop *loop, int id)
{
  peri_watcher *watcher = lua_newuserdatauv(L, sizeof *watcher, 2);
  memset(watcher, 0, sizeof *watcher);
  watcher->node.kind = PERI_NODE_WATCH;
  watcher->loop = loop;
  watcher->id = id;
  peri__push_ref(L, rt, PERI_REF_WATCHER);
  lua_setmetatable(L, -2);
  lua_pushvalue(L, -1);
  watcher->anchor = peri__anchor(L, loop);
  return watcher;
}

static void publish(peri_watcher *watcher)
{
  watcher->uv.handle.data = watcher;
  watcher->kernel = watcher->loop->kernel;
  watcher->kernel->open++;
  peri__list_push(&watcher->loop->watchers, &watcher->listed);
}

static int failed(lua_State *L, peri_runtime *rt, peri_watcher *watcher,
                  const char *what, int code)
{
  peri__unanchor(L, watcher->loop, watcher->anchor);
  return peri__throw_uv(L, rt, what, code);
}

/* Packs what a script gave at index 3 and behind it, to be called, into the table
 * that call() reads, at that index. */
static void pack_call(lua_State *L, peri_runtime *rt)
{
  int first = peri__open_call(L, rt, 3);
  int n = lua_gettop(L) - first + 1;
  lua_createtable(L, n, 1);
  lua_insert(L, first);
  for (int i = n; i >= 1; i--)
    lua_rawseti(L, first, i);
  lua_pushinteger(L, n);
  lua_setfield(L, first, "n");
  peri__push_context_of(L, rt, 3, first);
  lua_setfield(L, first, "context");
  lua_copy(L, first, 3);
  lua_settop(L, 3);
}

/* -- Readers and writers --------------------------------------------------------------- */

static int check_descriptor(lua_State *L, peri_runtime *rt, int arg)
{
  if (lua_isinteger(L, arg)) {
    lua_Integer fd = lua_tointeger(L, arg);
    if (fd < 0 || fd > INT32_MAX)
      peri__arg_error(L, rt, PERI_ERR_VALUE, arg, "not a descriptor");
    return (int)fd;
  }
  luaL_Stream *stream = luaL_testudata(L, arg, LUA_FILEHANDLE);
  if (stream == NULL || stream->closef == NULL)
    peri__arg_type_error(L, rt, arg, "descriptor or open file");
  return fileno(stream->f);
}

static int add_watch(lua_State *L, int event, int uservalue, const char *what)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = peri__check_loop(L, rt, 1);
  peri__loop_check_open(L, rt, loop);
  int fd = check_descriptor(L, rt, 2);
  pack_call(L, rt);
  uv_loop_t *uv = peri__loop_uv(L, loop);
  peri_watcher *watcher = find(loop, fd, false);
  if (watcher == NULL) {
    watcher = watcher_new(L, rt, loop, fd);
    int code = uv_poll_init(uv, &watcher->uv.poll, fd);
    if (code < 0)
      return failed(L, rt, watcher, what, code);
    publish(watcher);
  } else {
    push_watcher(L, watcher);
  }
  lua_pushvalue(L, 3);
  lua_setiuservalue(L, -2, uservalue);
  watcher->wanted |= event;
  int code = uv_poll_start(&watcher->uv.poll, watcher->wanted, on_poll);
  if (code < 0) {
    close_watcher(watcher);
    return peri__throw_uv(L, rt, what, code);
  }
  return 0;
}

static int remove_watch(lua_State *L, int event, int uservalue)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = peri__check_loop(L, rt, 1);
  int fd = check_descriptor(L, rt, 2);
  peri_watcher *watcher = find(loop, fd, false);
  bool found = watcher != NULL && watcher->wanted & event;
  if (found) {
    push_watcher(L, watcher);
    lua_pushnil(L);
    lua_setiuservalue(L, -2, uservalue);
    watcher->wanted &= ~event;
    watcher->events &= ~event;
    if (watcher->wanted == 0)
      close_watcher(watcher);
    else
      uv_poll_start(&watcher->uv.poll, watcher->wanted, on_poll);
  }
  lua_pushboolean(L, found);
  return 1;
}

static int l_add_reader(lua_State *L)
{
  return add_watch(L, UV_READABLE, ON_READ, "add_reader");
}

static int l_remove_reader(lua_State *L)
{
  return remove_watch(L, UV_READABLE, ON_READ);
}

static int l_add_writer(lua_State *L)
{
  return add_watch(L, UV_WRITABLE, ON_WRITE, "add_writer");
}

static int l_remove_writer(lua_State *L)
{
  return remove_watch(L, UV_WRITABLE, ON_WRITE);
}

/* -- Signals ------------------------------------------------------------------------------ */

static const struct {
  const char *name;
  int number;
} signals[] = {
#define X(name) {#name, name},
    PERI_SIGNALS(X)
#undef X
};

static int signal_number(const char *name)
{
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
    if (strcmp(signals[i].name, name) == 0)
      return signals[i].number;
  return 0;
}

static int check_signal(lua_State *L, peri_runtime *rt, int arg)
{
  lua_Integer number = 0;
  if (lua_isinteger(L, arg))
    number = lua_tointeger(L, arg);
  else if (lua_type(L, arg) == LUA_TSTRING)
    number = signal_number(lua_tostring(L, arg));
  else
    return peri__arg_type_error(L, rt, arg, "signal name");
  if (number > 0 && number < NSIG && number != SIGKILL && number != SIGSTOP)
    return (int)number;
  lua_pushfstring(L, "%s cannot be handled", peri__describe(L, arg));
  return peri__arg_error(L, rt, PERI_ERR_VALUE, arg, lua_tostring(L, -1));
}

/* loop:add_signal_handler(name, fn, ...) */
static int l_add_signal_handler(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = peri__check_loop(L, rt, 1);
  peri__loop_check_open(L, rt, loop);
  int number = check_signal(L, rt, 2);
  pack_call(L, rt);
  uv_loop_t *uv = peri__loop_uv(L, loop);
  peri_watcher *watcher = find(loop, number, true);
  if (watcher == NULL) {
    watcher = watcher_new(L, rt, loop, number);
    watcher->wanted = -1;
    int code =
        peri__signal_start(rt, uv, &watcher->uv.signal, on_signal, number);
    if (code < 0)
      return failed(L, rt, watcher, "add_signal_handler", code);
    publish(watcher);
  } else {
    push_watcher(L, watcher);
  }
  lua_pushvalue(L, 3);
  lua_setiuservalue(L, -2, ON_SIGNAL);
  return 0;
}

static int l_remove_signal_handler(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_loop *loop = peri__check_loop(L, rt, 1);
  peri_watcher *watcher = find(loop, check_signal(L, rt, 2), true);
  if (watcher != NULL)
    close_watcher(watcher);
  lua_pushboolean(L, watcher != NULL);
  return 1;
}

void peri__watch_close_all(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  (void)L, (void)rt;
  while (!peri__list_empty(&loop->watchers))
    close_watcher(of_listed(loop->watchers.next));
}

static const luaL_Reg meta[] = {{NULL, NULL}};

static const luaL_Reg loop_methods[] = {
    {"add_reader", l_add_reader},
    {"remove_reader", l_remove_reader},
    {"add_writer", l_add_writer},
    {"remove_writer", l_remove_writer},
    {"add_signal_handler", l_add_signal_handler},
    {"remove_signal_handler", l_remove_signal_handler},
    {NULL, NULL}};

void peri__watch_open(lua_State *L, peri_runtime *rt)
{
  peri__metatable(L, rt, PERI_REF_WATCHER, "Watcher", meta, NULL);
  lua_pop(L, 1);
  peri__push_methods(L, rt, PERI_REF_LOOP_META);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, loop_methods, 1);
  lua_pop(L, 1);
}
