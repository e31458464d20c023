/* Runs that nobody can wake: on request, and never while a thread has a hold. */
#include "check.h"

static peri_runtime *make(int deadlock)
{
  peri_runtime *runtime;
  peri_options options;
  peri_options_init(&options);
  CHECK_INT(0, options.deadlock);
  options.deadlock = deadlock;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  return runtime;
}

static const char waits[] = "local peri = require 'perilune'\n"
                            "future = peri.Future()\n"
                            "x = future:await()\n";

static void set_result(lua_State *L, void *argument)
{
  (void)argument;
  if (luaL_dostring(L, "if future then future:set_result(5) end"))
    lua_error(L);
}

static void ends_a_run(void)
{
  peri_runtime *runtime = make(1);
  CHECK_INT(PERI_EDEADLOCK, run_code(runtime, waits));
  CHECK_TEXT("DeadlockError: nothing can happen any more: 1 task waits for "
             "ever\n  Task-1 at spec:3: awaits Future",
             peri_error(runtime));
  CHECK_INT(0, lua_gettop(peri_state(runtime)));
  /* The runtime is as good as new. */
  CHECK_INT(PERI_OK, run_code(runtime, "x = require('perilune').sleep(0, 9)"));
  CHECK_INT(9, global_integer(peri_state(runtime), "x"));
  peri_close(runtime);
}

static void post_then_release(void *ud)
{
  uv_sleep(20);
  CHECK_INT(PERI_OK, peri_post(ud, set_result, NULL));
  peri_release(ud);
}

static void waits_for_a_hold(void)
{
  peri_runtime *runtime = make(1);
  uv_thread_t thread;
  peri_hold(runtime);
  CHECK_INT(0, uv_thread_create(&thread, post_then_release, runtime));
  CHECK_INT(PERI_OK, run_code(runtime, waits));
  CHECK_INT(5, global_integer(peri_state(runtime), "x"));
  CHECK_INT(0, uv_thread_join(&thread));
  peri_close(runtime);
}

/* A post and a release around the moment in which the loop is about to sleep,
 * many times: whoever sees the release must see the post. */
static void post_at_once(void *ud)
{
  CHECK_INT(PERI_OK, peri_post(ud, set_result, NULL));
  peri_release(ud);
}

static uv_thread_t poster;

static int l_start(lua_State *L)
{
  peri_runtime *runtime = peri_of(L);
  peri_hold(runtime);
  CHECK_INT(0, uv_thread_create(&poster, post_at_once, runtime));
  return 0;
}

static void loses_no_post(void)
{
  peri_runtime *runtime = make(1);
  lua_register(peri_state(runtime), "start", l_start);
  for (int i = 0; i < 500; i++) {
    CHECK_INT(PERI_OK, run_code(runtime, "local peri = require 'perilune'\n"
                                         "future = peri.Future()\n"
                                         "start()\n"
                                         "future:await()\n"));
    CHECK_INT(0, uv_thread_join(&poster));
  }
  peri_close(runtime);
}

static void release_only(void *ud)
{
  uv_sleep(20);
  peri_release(ud);
}

/* The last hold goes while the loop sleeps: that wakes it to think again. */
static void notices_that_a_hold_has_gone(void)
{
  peri_runtime *runtime = make(1);
  uv_thread_t thread;
  peri_hold(runtime);
  peri_hold(runtime);
  peri_release(runtime);
  CHECK_INT(0, uv_thread_create(&thread, release_only, runtime));
  CHECK_INT(PERI_EDEADLOCK, run_code(runtime, waits));
  CHECK_INT(0, uv_thread_join(&thread));
  peri_close(runtime);
}

/* Unless it is asked for, a thread without a hold may post. */
static void post_only(void *ud)
{
  uv_sleep(20);
  CHECK_INT(PERI_OK, peri_post(ud, set_result, NULL));
}

static void is_off_by_default(void)
{
  peri_runtime *runtime = make(0);
  uv_thread_t thread;
  CHECK_INT(0, uv_thread_create(&thread, post_only, runtime));
  CHECK_INT(PERI_OK, run_code(runtime, waits));
  CHECK_INT(0, uv_thread_join(&thread));
  peri_close(runtime);
}

/* Nor does it concern run_forever, or a Runner that does not want it. */
static void may_be_declined(void)
{
  static const char *const codes[] = {
      "local peri = require 'perilune'\n"
      "local runner <close> = peri.Runner{deadlock=false}\n"
      "runner:run(function() future = peri.Future() future:await() end)\n",
      "local peri = require 'perilune'\n"
      "local loop = peri.new_event_loop()\n"
      "future = { set_result = function() loop:stop() end }\n"
      "loop:run_forever()\n"
      "loop:close()\n"};
  for (int i = 0; i < 2; i++) {
    peri_runtime *runtime = make(1);
    uv_thread_t thread;
    CHECK_INT(0, uv_thread_create(&thread, post_only, runtime));
    CHECK_INT(PERI_OK, run_code(runtime, codes[i]));
    CHECK_INT(0, uv_thread_join(&thread));
    peri_close(runtime);
  }
}

/* A host that steps has reasons of its own to. */
static void does_not_concern_steps(void)
{
  peri_runtime *runtime = make(1);
  CHECK_INT(PERI_OK, start_code(runtime, waits));
  for (int i = 0; i < 100; i++)
    CHECK_INT(1, peri_step(runtime, 0));
  CHECK_INT(PERI_OK, peri_post(runtime, set_result, NULL));
  int status;
  while ((status = peri_step(runtime, 0)) > 0)
    ;
  CHECK_INT(PERI_OK, status);
  peri_close(runtime);
}

/* peri_close waits for what steps left; it does not do so for ever. */
static void ends_with_the_runtime(void)
{
  peri_runtime *runtime = make(1);
  CHECK_INT(PERI_OK,
            start_code(runtime, "local peri = require 'perilune'\n"
                                "local _ <close> = peri.defer(function()\n"
                                "  peri.Future():await()\n"
                                "end)\n"
                                "peri.sleep(3600)\n"));
  CHECK_INT(1, peri_step(runtime, 0));
  CHECK_INT(1, peri_step(runtime, 0));
  peri_close(runtime);
}

static void on_timer(uv_timer_t *timer)
{
  lua_State *L = timer->data;
  set_result(L, NULL);
}

/* What the host has in its own loop counts, before we ever looked there. */
static void sees_the_hosts_handles(void)
{
  uv_loop_t uv;
  uv_timer_t timer;
  peri_runtime *runtime;
  peri_options options;
  CHECK_INT(0, uv_loop_init(&uv));
  peri_options_init(&options);
  options.deadlock = 1;
  options.uv_loop = &uv;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  CHECK_INT(0, uv_timer_init(&uv, &timer));
  timer.data = peri_state(runtime);
  CHECK_INT(0, uv_timer_start(&timer, on_timer, 20, 0));
  CHECK_INT(PERI_OK, run_code(runtime, waits));
  CHECK_INT(5, global_integer(peri_state(runtime), "x"));
  CHECK_INT(PERI_EDEADLOCK, run_code(runtime, waits));
  uv_close((uv_handle_t *)&timer, NULL);
  peri_close(runtime);
  CHECK_INT(0, uv_run(&uv, UV_RUN_DEFAULT));
  CHECK_INT(0, uv_loop_close(&uv));
}

typedef struct asker {
  peri_runtime *runtime;
  uv_sem_t sleeps; /* posted by the script */
  int told;
} asker;

static void on_log(void *ud, int level, const char *text)
{
  asker *a = ud;
  CHECK_INT(20, level);
  CHECK_TEXT("1 task:\n  Task-1 at spec:2: waits in sleep, ", text);
  a->told++;
  peri_interrupt(a->runtime);
}

static void ask(void *ud)
{
  asker *a = ud;
  uv_sem_wait(&a->sleeps);
  peri_print_tasks(a->runtime);
}

static int l_sleeps(lua_State *L)
{
  uv_sem_post(lua_touserdata(L, lua_upvalueindex(1)));
  return 0;
}

/* The tree of tasks, asked for by another thread. */
static void prints_tasks(void)
{
  asker a = {0};
  peri_options options;
  uv_thread_t thread;
  peri_options_init(&options);
  options.log = on_log;
  options.log_ud = &a;
  CHECK_INT(0, uv_sem_init(&a.sleeps, 0));
  CHECK_INT(PERI_OK, peri_new(&a.runtime, &options));
  lua_State *L = peri_state(a.runtime);
  lua_pushlightuserdata(L, &a.sleeps);
  lua_pushcclosure(L, l_sleeps, 1);
  lua_setglobal(L, "sleeps");
  CHECK_INT(0, uv_thread_create(&thread, ask, &a));
  CHECK_INT(PERI_EINTERRUPTED,
            run_code(a.runtime, "local peri = require 'perilune'\n"
                                "peri.sleep(3600, peri.get_running_loop()"
                                ":call_soon(sleeps))\n"));
  CHECK_INT(0, uv_thread_join(&thread));
  CHECK_INT(1, a.told);
  peri_close(a.runtime);
  uv_sem_destroy(&a.sleeps);
}

int main(void)
{
  ends_a_run();
  waits_for_a_hold();
  loses_no_post();
  notices_that_a_hold_has_gone();
  is_off_by_default();
  may_be_declined();
  does_not_concern_steps();
  ends_with_the_runtime();
  sees_the_hosts_handles();
  prints_tasks();
  return 0;
}
