/*
 * process_watch.c: the loop that watches the workers' sockets, and how what comes
 * reaches the futures from there.
 */
#include "pool/process.h"

/* -- Watching ------------------------------------------------------------------------- */

typedef struct visit {
  process_pool *pool;
  bool ours, ended;
} visit;

/* What comes home until the visit ends is delivered by a node in the ready queue
 * of the loop that watches, in place of a post: no wake-up of ourselves, and no
 * memory. */
static visit begin_visit(process_pool *pool)
{
  return (visit){.pool = pool,
                 .ours = !atomic_exchange(&pool->head.home->posted, true),
                 .ended = atomic_load(&pool->head.ended)};
}

static void post(peri__home *home)
{
  atomic_store(&home->posted, false);
  peri__home_notify(home);
}

static void end_visit(const visit *this)
{
  process_pool *pool = this->pool;
  peri__home *home = pool->head.home;
  if (!this->ours)
    return;
  if (peri__home_empty(home) && pool->gone == NULL &&
      atomic_load(&pool->head.ended) == this->ended)
    atomic_store(&home->posted, false);
  else if (pool->io.loop != NULL)
    peri__loop_ready(pool->io.loop, &pool->deliver.node);
  else
    post(home);
}

static void visit_one(process *p)
{
  visit this = begin_visit(p->pool);
  peri__process_look(p);
  end_visit(&this);
}

static void on_end(uv_poll_t *poll, int status, int events)
{
  process *p = ((watch *)poll)->process;
  visit this = begin_visit(p->pool);
  (void)status, (void)events;
  peri__process_end(p);
  end_visit(&this);
}

static void on_timer(uv_timer_t *timer)
{
  process_pool *pool = ((pool_watch *)timer->data)->pool;
  visit this = begin_visit(pool);
  peri__process_pool_end_late(pool);
  end_visit(&this);
  peri__process_watch_start(pool);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
  process *p = ((watch *)poll)->process;
  (void)status, (void)events;
  peri__channel_attend(&p->channel);
  visit_one(p);
}

/* Looks at the workers of which `has` says so, and gives how many they were.
 * Backwards: one that goes is replaced by the last. */
static unsigned visit_those(process_pool *pool, bool (*has)(process *p))
{
  unsigned n = 0;
  for (unsigned i = pool->count; i-- > 0;) {
    process *p = i < pool->count ? pool->processes[i] : NULL;
    if (p == NULL || !has(p))
      continue;
    visit_one(p);
    n++;
  }
  return n;
}

static bool has_bytes(process *p)
{
  return peri__channel_has_bytes(&p->channel);
}

/* Those of a socket are seen by who waits for it. */
static bool has_bytes_in_page(process *p)
{
  peri__channel_ensure(&p->channel);
  return p->channel.page != NULL && has_bytes(p);
}

static bool is_awake(process *p)
{
  return !peri__channel_sleep(&p->channel);
}

void peri__process_pool_poll(peri__pool *head)
{
  process_pool *pool = (process_pool *)head;
  pool->unseen = 0;
  visit_those(pool, has_bytes);
}

unsigned peri__process_pool_doze(process_pool *pool)
{
  pool->unseen = 0;
  unsigned n = visit_those(pool, has_bytes_in_page);
  return n > 0 ? n : visit_those(pool, is_awake);
}

static void on_idle(uv_idle_t *idle)
{
  (void)idle; /* it is there so that the kernel is not waited for */
}

/* The loop would wait for the kernel now. */
static void on_prepare(uv_prepare_t *prepare)
{
  pool_watch *it = prepare->data;
  if (peri__process_pool_doze(it->pool) > 0)
    uv_idle_start(&it->idle, on_idle);
  else
    uv_idle_stop(&it->idle);
}

static int call_deliver(lua_State *L)
{
  peri__home *home = lua_touserdata(L, 1);
  lua_settop(L, 0);
  home->deliver(L, home->argument);
  return 0;
}

void peri__process_pool_deliver(lua_State *L, peri_runtime *rt,
                                peri_io_node *node)
{
  process_pool *pool =
      (process_pool *)((char *)node - offsetof(process_pool, deliver));
  lua_pushnil(L); /* the context */
  lua_pushcfunction(L, call_deliver);
  lua_pushlightuserdata(L, pool->head.home);
  peri__call_in_context(L, rt, peri__running_loop(rt), 1,
                        "the delivery of a pool");
}

/* A loop that has work looks at nothing else unless something keeps it from being
 * idle: a worker does that from which something will come. */
void peri__process_hold(process *p)
{
  bool hold_it = p->first != p->next || !p->ready || p->closing;
  if (p->watch == NULL || hold_it == p->held)
    return;
  p->held = hold_it;
  if (hold_it)
    uv_ref(&p->watch->uv.handle);
  else
    uv_unref(&p->watch->uv.handle);
}

static void on_closed(uv_handle_t *handle)
{
  watch *it = (watch *)(void *)handle;
  it->kernel->open--;
  free(it);
}

void peri__process_rewatch(process *p)
{
  if (p->watch == NULL)
    return;
  int events = UV_READABLE;
  if (p->backlog.length > 0 && p->channel.page == NULL)
    events |= UV_WRITABLE;
  uv_poll_start(&p->watch->uv.poll, events, on_poll);
}

static int make_watch(process *p, int fd, watch **where)
{
  peri_kernel *kernel = p->pool->io.loop->kernel;
  watch *it = malloc(sizeof *it);
  if (it == NULL)
    return UV_ENOMEM;
  int code = uv_poll_init(kernel->uv, &it->uv.poll, fd);
  if (code < 0) {
    free(it);
    return code;
  }
  it->kernel = kernel;
  it->process = p;
  kernel->open++;
  *where = it;
  return 0;
}

static void on_room(uv_poll_t *poll, int status, int events)
{
  (void)status, (void)events;
  peri__process_flush_orders(((watch *)poll)->process);
}

static void stop_watch(watch **where)
{
  watch *it = *where;
  if (it == NULL)
    return;
  it->process = NULL;
  uv_close(&it->uv.handle, on_closed);
  *where = NULL;
}

void peri__process_watch_control(process *p)
{
  if (p->orders.length == 0) {
    stop_watch(&p->control_watch);
  } else if (p->control_watch == NULL && p->pool->io.loop != NULL &&
             make_watch(p, p->control, &p->control_watch) == 0) {
    uv_unref(&p->control_watch->uv.handle);
    uv_poll_start(&p->control_watch->uv.poll, UV_WRITABLE, on_room);
  }
}

static void watch_end(process *p)
{
  if (p->pidfd < 0 || make_watch(p, p->pidfd, &p->end_watch) < 0)
    return; /* its channel will tell */
  uv_unref(&p->end_watch->uv.handle);
  uv_poll_start(&p->end_watch->uv.poll, UV_READABLE, on_end);
}

void peri__process_watch_start(process_pool *pool)
{
  int ms = peri__process_pool_patience(pool);
  if (pool->watch == NULL)
    return;
  if (ms < 0) {
    uv_timer_stop(&pool->watch->timer);
    return;
  }
  uv_update_time(pool->watch->kernel->uv);
  uv_timer_start(&pool->watch->timer, on_timer, (uint64_t)ms, 0);
}

static void add_handle(pool_watch *it, uv_handle_t *handle)
{
  handle->data = it;
  uv_unref(handle);
  it->open++;
  it->kernel->open++;
}

static int watch_pool(process_pool *pool)
{
  pool_watch *it = malloc(sizeof *it);
  if (it == NULL)
    return UV_ENOMEM;
  it->kernel = pool->io.loop->kernel;
  it->pool = pool;
  it->open = 0;
  uv_timer_init(it->kernel->uv, &it->timer);
  uv_prepare_init(it->kernel->uv, &it->prepare);
  uv_idle_init(it->kernel->uv, &it->idle);
  add_handle(it, (uv_handle_t *)&it->timer);
  add_handle(it, (uv_handle_t *)&it->prepare);
  add_handle(it, (uv_handle_t *)&it->idle);
  uv_prepare_start(&it->prepare, on_prepare);
  pool->watch = it;
  return 0;
}

static void on_pool_closed(uv_handle_t *handle)
{
  pool_watch *it = handle->data;
  it->kernel->open--;
  if (--it->open == 0)
    free(it);
}

static void unwatch_pool(process_pool *pool)
{
  pool_watch *it = pool->watch;
  if (it == NULL)
    return;
  pool->watch = NULL;
  uv_close((uv_handle_t *)&it->timer, on_pool_closed);
  uv_close((uv_handle_t *)&it->prepare, on_pool_closed);
  uv_close((uv_handle_t *)&it->idle, on_pool_closed);
}

int peri__process_watch(process *p)
{
  int code = make_watch(p, p->channel.fd, &p->watch);
  if (code < 0)
    return code;
  watch_end(p);
  p->held = true; /* as libuv's handles are */
  peri__process_hold(p);
  peri__process_rewatch(p);
  peri__process_watch_control(p);
  return 0;
}

void peri__process_unwatch(process *p)
{
  stop_watch(&p->watch);
  stop_watch(&p->control_watch);
  stop_watch(&p->end_watch);
}

/* A delivery that is under way is made by a post. */
void peri__process_pool_detach(process_pool *pool)
{
  if (pool->io.loop == NULL)
    return;
  pool->io.loop = NULL;
  if (peri__node_listed(&pool->io.listed))
    peri__node_unlink(&pool->io.listed);
  for (unsigned i = 0; i < pool->count; i++)
    peri__process_unwatch(pool->processes[i]);
  unwatch_pool(pool);
  if (!peri__node_listed(&pool->deliver.node))
    return;
  peri__node_unlink(&pool->deliver.node);
  post(pool->head.home);
}

void peri__process_pool_on_loop_close(peri_io *io)
{
  peri__process_pool_detach(
      (process_pool *)((char *)io - offsetof(process_pool, io)));
}

int peri__process_pool_attach(peri__pool *head, lua_State *L, peri_loop *loop)
{
  process_pool *pool = (process_pool *)head;
  if (pool->io.loop == loop)
    return 0;
  int code = loop != NULL ? peri__loop_kernel(L, loop) : 0;
  peri__process_pool_detach(pool);
  if (loop == NULL || code < 0)
    return code;
  pool->io.loop = loop;
  peri__list_push(&loop->open, &pool->io.listed);
  code = watch_pool(pool);
  for (unsigned i = 0; i < pool->count && code == 0; i++)
    code = peri__process_watch(pool->processes[i]);
  peri__process_watch_start(pool);
  if (code < 0)
    peri__process_pool_detach(pool);
  return code;
}
