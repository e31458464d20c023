/* Posts from other threads: all arrive, in order, on the runtime's thread,
 * with few wake-ups; they end a wait; errors in them are reported. */
#include <stdatomic.h>

#include "check.h"

enum { POSTS = 1000, THREADS = 4 };

static uv_thread_t runtime_thread;
static lua_Integer received[THREADS];
static int in_order = 1;

typedef struct message {
  int thread;
  lua_Integer number;
} message;

static message messages[THREADS][POSTS];

static void on_message(lua_State *L, void *argument)
{
  message *m = argument;
  uv_thread_t self = uv_thread_self();
  if (!uv_thread_equal(&self, &runtime_thread) ||
      m->number != received[m->thread] + 1)
    in_order = 0;
  received[m->thread] = m->number;
  lua_getglobal(L, "on_message");
  lua_pushinteger(L, m->thread);
  lua_pushinteger(L, m->number);
  lua_call(L, 2, 0);
}

typedef struct poster {
  peri_runtime *runtime;
  int thread;
} poster;

static void post_all(void *ud)
{
  poster *p = ud;
  for (int i = 0; i < POSTS; i++) {
    messages[p->thread][i] = (message){p->thread, i + 1};
    CHECK_INT(PERI_OK,
              peri_post(p->runtime, on_message, &messages[p->thread][i]));
  }
}

static void from_many_threads(void)
{
  peri_runtime *runtime;
  runtime_thread = uv_thread_self();
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  /* The script waits for all of them with nothing else to do: each wake-up is
   * a post's. */
  CHECK_INT(PERI_OK,
            start_code(runtime, "local peri = require 'perilune'\n"
                                "local all = peri.Future()\n"
                                "count = 0\n"
                                "function on_message()\n"
                                "  count = count + 1\n"
                                "  if count == 4000 then all:set_result() end\n"
                                "end\n"
                                "all:await()\n"));
  CHECK_INT(1, peri_step(runtime, 0));
  poster posters[THREADS];
  uv_thread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++) {
    posters[i] = (poster){runtime, i};
    CHECK_INT(0, uv_thread_create(&threads[i], post_all, &posters[i]));
  }
  int status;
  while ((status = peri_step(runtime, 0)) > 0)
    ;
  for (int i = 0; i < THREADS; i++)
    CHECK_INT(0, uv_thread_join(&threads[i]));
  CHECK_INT(PERI_OK, status);
  CHECK(in_order);
  CHECK_INT(THREADS * POSTS, global_integer(peri_state(runtime), "count"));
  peri_close(runtime);
}

/* Posted before the loop looks, a thousand posts are taken in one round. */
static void many_posts_cost_one_wakeup(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  memset(received, 0, sizeof received);
  CHECK_INT(PERI_OK,
            start_code(runtime,
                       "local peri = require 'perilune'\n"
                       "count, rounds = 0, 0\n"
                       "local all = peri.Future()\n"
                       "function on_message()\n"
                       "  count = count + 1\n"
                       "  if count == 1000 then all:set_result() end\n"
                       "end\n"
                       "peri.create_task(function()\n"
                       "  while not all:done() do\n"
                       "    peri.sleep(0)\n"
                       "    if count > 0 then rounds = rounds + 1 end\n"
                       "  end\n"
                       "end)\n"
                       "all:await()\n"));
  CHECK_INT(1, peri_step(runtime, 0));
  poster p = {runtime, 0};
  uv_thread_t thread;
  CHECK_INT(0, uv_thread_create(&thread, post_all, &p));
  CHECK_INT(0, uv_thread_join(&thread));
  int status;
  while ((status = peri_step(runtime, 0)) > 0)
    ;
  CHECK_INT(PERI_OK, status);
  CHECK_INT(1000, global_integer(peri_state(runtime), "count"));
  CHECK(global_integer(peri_state(runtime), "rounds") <= 3);
  peri_close(runtime);
}

/* A post wakes a loop that sleeps in the kernel. */
static void stop_sleeping(lua_State *L, void *argument)
{
  (void)argument;
  if (luaL_dostring(L, "future:set_result 'posted'"))
    lua_error(L);
}

static void post_later(void *ud)
{
  uv_sleep(20); /* until peri_run blocks; too early would pass as well */
  CHECK_INT(PERI_OK, peri_post(ud, stop_sleeping, NULL));
}

static void wakes_the_loop(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  uv_thread_t thread;
  CHECK_INT(0, uv_thread_create(&thread, post_later, runtime));
  CHECK_INT(PERI_OK,
            run_code(runtime,
                     "local peri = require 'perilune'\n"
                     "future = peri.Future()\n"
                     "assert(peri.wait_for(future, 3600) == 'posted')\n"));
  CHECK_INT(0, uv_thread_join(&thread));
  peri_close(runtime);
}

static void fail(lua_State *L, void *argument)
{
  luaL_error(L, "posted error %d", *(int *)argument);
}

static void reports_errors(void)
{
  peri_runtime *runtime;
  int number = 7, status;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  CHECK_INT(PERI_OK,
            start_code(runtime,
                       "local peri = require 'perilune'\n"
                       "local told = peri.Future()\n"
                       "local loop = peri.get_running_loop()\n"
                       "loop:set_exception_handler(function(_, context)\n"
                       "  told:set_result(context.exception)\n"
                       "end)\n"
                       "local err = told:await()\n"
                       "assert(err == 'posted error 7', tostring(err))\n"));
  CHECK_INT(1, peri_step(runtime, 0));
  CHECK_INT(PERI_OK, peri_post(runtime, fail, &number));
  while ((status = peri_step(runtime, 0)) > 0)
    ;
  CHECK_INT(PERI_OK, status);
  CHECK_INT(0, lua_gettop(peri_state(runtime)));
  peri_close(runtime);
}

static void count(lua_State *L, void *argument)
{
  (void)L;
  ++*(int *)argument;
}

/* Before anything runs: the posts wait for the first round. */
static void waits_for_a_run(void)
{
  peri_runtime *runtime;
  int counted = 0;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  for (int i = 0; i < 3; i++)
    CHECK_INT(PERI_OK, peri_post(runtime, count, &counted));
  CHECK_INT(0, counted);
  CHECK_INT(PERI_OK, run_code(runtime, "require('perilune').sleep(0)"));
  CHECK_INT(3, counted);
  peri_close(runtime);
}

/* What nobody ran any more is dropped by the close. */
static void leftover_posts_are_dropped(void)
{
  peri_runtime *runtime;
  int number = 1;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  for (int i = 0; i < 100; i++)
    CHECK_INT(PERI_OK, peri_post(runtime, fail, &number));
  peri_close(runtime);
}

int main(void)
{
  from_many_threads();
  many_posts_cost_one_wakeup();
  wakes_the_loop();
  reports_errors();
  waits_for_a_run();
  leftover_posts_are_dropped();
  return 0;
}
