/*
 * post.c: what other threads and signal handlers send.
 *
 * Posts stand in a list under a mutex; the loop takes the whole list at the
 * start of a round. The first post into an empty list wakes the loop, the
 * others find it on its way: many posts cost one wake-up.
 *
 * The running loop's wake-up handle is published in rt->async. Whoever uses it
 * counts itself in async_users, so that it is withdrawn only when nobody holds
 * it: no lock, since a signal handler may be the one. An interrupt is a count
 * that the next round looks at; if a second one comes, or the round does not
 * for a second, the host asks again, and the error is raised by a hook in the
 * code that runs (peri_interrupt).
 */
#include <sched.h>

#include "debug.h"
#include "inspect.h"

struct peri_post_record {
  peri_post_record *next;
  peri_post_cb callback;
  void *argument;
};

int peri__post_init(peri_runtime *rt)
{
  rt->posts = NULL;
  rt->posts_end = &rt->posts;
  atomic_init(&rt->attention, 0);
  atomic_init(&rt->interrupts, 0);
  atomic_init(&rt->prints, 0);
  atomic_init(&rt->external, 0);
  atomic_init(&rt->spins, false);
  atomic_init(&rt->async_users, 0);
  atomic_init(&rt->async, NULL);
  return uv_mutex_init(&rt->post_mutex);
}

void peri__post_fini(peri_runtime *rt)
{
  while (rt->posts != NULL) {
    peri_post_record *post = rt->posts;
    rt->posts = post->next;
    free(post);
  }
  uv_mutex_destroy(&rt->post_mutex);
}

void peri__async_set(peri_runtime *rt, uv_async_t *async)
{
  atomic_store(&rt->async, NULL);
  while (atomic_load(&rt->async_users) > 0)
    sched_yield();
  atomic_store(&rt->async, async);
}

void peri__wake(peri_runtime *rt)
{
  atomic_fetch_add(&rt->async_users, 1);
  uv_async_t *async = atomic_load(&rt->async);
  if (async != NULL)
    uv_async_send(async);
  atomic_fetch_sub(&rt->async_users, 1);
}

void peri__attend(peri_runtime *rt, int what)
{
  atomic_fetch_or(&rt->attention, what);
  peri__wake(rt);
}

void peri__attend_work(peri_runtime *rt)
{
  peri__attend(rt, PERI_ATTEND_WORK);
}

/* Whoever let go of a hold after it had posted is seen to have posted: the
 * mutex orders that, where the flag alone would not do. */
bool peri__nothing_came(peri_runtime *rt)
{
  uv_mutex_lock(&rt->post_mutex);
  bool none = rt->posts == NULL && atomic_load(&rt->attention) == 0;
  uv_mutex_unlock(&rt->post_mutex);
  return none;
}

int peri_post(peri_runtime *rt, peri_post_cb callback, void *argument)
{
  if (rt == NULL || callback == NULL)
    return PERI_EINVAL;
  peri_post_record *post = malloc(sizeof *post); /* any thread: not Lua's */
  if (post == NULL)
    return PERI_ENOMEM;
  *post = (peri_post_record){NULL, callback, argument};
  uv_mutex_lock(&rt->post_mutex);
  bool first = rt->posts == NULL;
  *rt->posts_end = post;
  rt->posts_end = &post->next;
  atomic_fetch_or(&rt->attention, PERI_ATTEND_POSTS);
  uv_mutex_unlock(&rt->post_mutex);
  if (first && !atomic_load(&rt->spins))
    peri__wake(rt);
  return PERI_OK;
}

static peri_post_record *take_posts(peri_runtime *rt)
{
  uv_mutex_lock(&rt->post_mutex);
  peri_post_record *posts = rt->posts;
  rt->posts = NULL;
  rt->posts_end = &rt->posts;
  uv_mutex_unlock(&rt->post_mutex);
  return posts;
}

static int call_post(lua_State *L)
{
  peri_post_record *post = lua_touserdata(L, 1);
  lua_settop(L, 0);
  post->callback(L, post->argument);
  return 0;
}

static void run_posts(lua_State *L, peri_runtime *rt)
{
  peri_post_record *post = take_posts(rt);
  while (post != NULL) {
    peri_post_record *next = post->next;
    lua_pushnil(L); /* the context */
    lua_pushcfunction(L, call_post);
    lua_pushlightuserdata(L, post);
    (rt->debug ? peri__debug_call : peri__call_in_context)(
        L, rt, peri__running_loop(rt), 1, "a posted callback");
    free(post);
    post = next;
  }
}

/* -- Interrupts ------------------------------------------------------------------- */

/* The task that the innermost run is for. */
static peri_task *main_task(peri_runtime *rt)
{
  peri_future *goal = rt->run != NULL ? rt->run->goal : NULL;
  if (goal == NULL || goal->kind != PERI_KIND_TASK ||
      goal->state != PERI_PENDING)
    return NULL;
  return (peri_task *)goal;
}

/* At the first interrupt the main task is cancelled; at the next one, if no
 * hook has raised it meanwhile, the task is ended, or the run. */
static void run_interrupts(lua_State *L, peri_runtime *rt)
{
  int count = atomic_exchange(&rt->interrupts, 0);
  peri_task *task = main_task(rt);
  if (count == 0)
    return;
  if (rt->interrupt_stage == 0 && task != NULL) {
    rt->interrupt_stage = 1;
    rt->cancel_lacks_memory = false;
    peri__push_task(L, task);
    peri__task_cancel(L, rt, lua_gettop(L), 0);
    lua_pop(L, 1);
    if (!rt->cancel_lacks_memory)
      return;
  }
  rt->interrupt_stage = 2;
  if (task != NULL && task->wait != PERI_WAIT_RUN)
    peri__task_kill(L, rt, task, PERI_SENTINEL_INTERRUPT);
  else
    rt->abort = PERI_SENTINEL_INTERRUPT;
}

void peri__interrupt_reset(peri_runtime *rt)
{
  rt->interrupt_stage = 0;
  atomic_store(&rt->interrupts, 0);
}

/* Whether the code is the loop's own, to which no interrupt is raised: the round
 * will see that there is one. */
static bool between_steps(const peri_runtime *rt)
{
  return rt->run != NULL && rt->task == NULL && rt->callback == NULL;
}

static void interrupt_hook(lua_State *L, lua_Debug *ar)
{
  (void)ar;
  lua_sethook(L, NULL, 0, 0);
  peri_runtime *rt = peri_of(L);
  if (rt == NULL || atomic_load(&rt->interrupts) == 0 || between_steps(rt))
    return;
  atomic_store(&rt->interrupts, 0);
  rt->interrupt_stage = 2;
  peri__throw_sentinel(L, rt, PERI_SENTINEL_INTERRUPT);
}

int peri_interrupt(peri_runtime *rt)
{
  int count = atomic_fetch_add(&rt->interrupts, 1) + 1;
  atomic_fetch_or(&rt->attention, PERI_ATTEND_INTERRUPT);
  uv_thread_t self = uv_thread_self(), thread = atomic_load(&rt->thread);
  if ((count > 1 || rt->interrupt_stage > 0) &&
      uv_thread_equal(&self, &thread)) {
    lua_State *L = rt->current != NULL ? rt->current : rt->L;
    lua_sethook(L, interrupt_hook,
                LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
  }
  peri__wake(rt);
  return count;
}

int peri_interrupts_pending(const peri_runtime *rt)
{
  return atomic_load(&((peri_runtime *)rt)->interrupts);
}

void peri__post_attend(lua_State *L, peri_runtime *rt)
{
  int attention = atomic_exchange(&rt->attention, 0);
  if (attention & PERI_ATTEND_INTERRUPT)
    run_interrupts(L, rt);
  if (attention & PERI_ATTEND_WORK)
    peri__work_attend(rt);
  if (attention & PERI_ATTEND_PRINT)
    peri__inspect_print(L, rt);
  if (attention & PERI_ATTEND_POSTS)
    run_posts(L, rt);
}
