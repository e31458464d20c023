/* peri_interrupt, as Ctrl-C does it: from another thread, in the runtime's own
 * code, and twice. */
#include <pthread.h>
#include <signal.h>
#include <stddef.h>

#include "check.h"

/* ThreadSanitizer keeps a signal back until the program calls something that
 * blocks: code that runs on never gets it. */
#ifdef __SANITIZE_THREAD__
#define SIGNALS_INTERRUPT 0
#else
#define SIGNALS_INTERRUPT 1
#endif

typedef struct interrupter {
  peri_runtime *runtime;
  int times;
  pthread_t stepping; /* the runtime's thread */
  uv_sem_t ready;     /* posted by the script */
} interrupter;

static int l_ready(lua_State *L)
{
  interrupter *i = lua_touserdata(L, lua_upvalueindex(1));
  uv_sem_post(&i->ready);
  return 0;
}

static peri_runtime *signalled;

static void on_signal(int number)
{
  (void)number;
  peri_interrupt(signalled);
}

/* One interrupt comes from this thread. Code that runs for ever is stopped on
 * the runtime's own thread, to which a watchdog sends a signal. */
static void interrupt_all(void *ud)
{
  interrupter *i = ud;
  uv_sem_wait(&i->ready);
  CHECK(peri_interrupt(i->runtime) > 0);
  if (i->times > 1)
    CHECK_INT(0, pthread_kill(i->stepping, SIGUSR1));
}

static int interrupted(int times, const char *code, lua_Integer *x)
{
  interrupter i = {.times = times, .stepping = pthread_self()};
  CHECK_INT(0, uv_sem_init(&i.ready, 0));
  CHECK_INT(PERI_OK, peri_new(&i.runtime, NULL));
  signalled = i.runtime;
  signal(SIGUSR1, on_signal);
  lua_State *L = peri_state(i.runtime);
  lua_pushlightuserdata(L, &i);
  lua_pushcclosure(L, l_ready, 1);
  lua_setglobal(L, "ready");
  uv_thread_t thread;
  CHECK_INT(0, uv_thread_create(&thread, interrupt_all, &i));
  int status = run_code(i.runtime, code);
  CHECK_INT(0, uv_thread_join(&thread));
  *x = global_integer(L, "x");
  CHECK_INT(0, lua_gettop(L));
  peri_close(i.runtime);
  uv_sem_destroy(&i.ready);
  return status;
}

static void cancels_a_waiting_script(void)
{
  lua_Integer x;
  CHECK_INT(PERI_EINTERRUPTED,
            interrupted(1,
                        "local peri = require 'perilune'\n"
                        "local _ <close> = peri.defer(function()\n"
                        "  peri.sleep(0)\n"
                        "  x = 1\n"
                        "end)\n"
                        "ready()\n"
                        "peri.sleep(3600)\n",
                        &x));
  CHECK_INT(1, x);
}

static void may_be_answered(void)
{
  lua_Integer x;
  CHECK_INT(PERI_OK, interrupted(1,
                                 "local peri = require 'perilune'\n"
                                 "ready()\n"
                                 "local ok, err = pcall(peri.sleep, 3600)\n"
                                 "assert(peri.iscancel(err))\n"
                                 "peri.current_task():uncancel()\n"
                                 "x = peri.sleep(0, 2)\n",
                                 &x));
  CHECK_INT(2, x);
}

static void stops_running_code(void)
{
  lua_Integer x;
  CHECK_INT(PERI_EINTERRUPTED,
            interrupted(2,
                        "local peri = require 'perilune'\n"
                        "local _ <close> = peri.defer(function() x = 3 end)\n"
                        "ready()\n"
                        "pcall(function() while true do end end)\n"
                        "x = 4\n",
                        &x));
  CHECK_INT(3, x);
}

static void stops_another_task(void)
{
  lua_Integer x;
  CHECK_INT(PERI_EINTERRUPTED,
            interrupted(2,
                        "local peri = require 'perilune'\n"
                        "peri.create_task(function()\n"
                        "  ready()\n"
                        "  while true do pcall(tostring, 1) end\n"
                        "end)\n"
                        "local _ <close> = peri.defer(function() x = 5 end)\n"
                        "peri.sleep(3600)\n",
                        &x));
  CHECK_INT(5, x);
}

static int l_interrupt(lua_State *L)
{
  lua_pushinteger(L, peri_interrupt(peri_of(L)));
  return 1;
}

/* On the runtime's own thread, as a signal handler does it. */
static void counts_what_is_not_answered(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  lua_register(peri_state(runtime), "interrupt", l_interrupt);
  CHECK_INT(0, peri_interrupts_pending(runtime));
  CHECK_INT(PERI_EINTERRUPTED,
            run_code(runtime, "local peri = require 'perilune'\n"
                              "x = interrupt()\n"
                              "peri.sleep(3600)\n"));
  CHECK_INT(1, global_integer(peri_state(runtime), "x"));
  CHECK_INT(0, peri_interrupts_pending(runtime));
  /* The next run is not interrupted by what is over. */
  CHECK_INT(PERI_OK, run_code(runtime, "x = require('perilune').sleep(0, 9)"));
  CHECK_INT(9, global_integer(peri_state(runtime), "x"));
  peri_close(runtime);
}

static void works_between_steps(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  CHECK_INT(PERI_OK, start_code(runtime, "require('perilune').sleep(3600)"));
  CHECK_INT(1, peri_step(runtime, 0));
  CHECK_INT(1, peri_interrupt(runtime));
  CHECK_INT(1, peri_interrupts_pending(runtime));
  int status;
  while ((status = peri_step(runtime, 0)) > 0)
    ;
  CHECK_INT(PERI_EINTERRUPTED, status);
  peri_close(runtime);
}

/* An allocator that gives nothing back, but sees who writes there. */
typedef struct grave {
  struct grave *next;
  size_t size;
  unsigned char bytes[];
} grave;

enum { DEAD = 0xdd };

static void *bury(void *ud, void *block, size_t old_size, size_t new_size)
{
  grave **graves = ud, *made = NULL;
  if (new_size > 0) {
    made = malloc(sizeof *made + new_size);
    if (made == NULL)
      return NULL;
    made->size = new_size;
  }
  if (block != NULL) {
    grave *old = (grave *)((char *)block - offsetof(grave, bytes));
    if (made != NULL)
      memcpy(made->bytes, block, old_size < new_size ? old_size : new_size);
    memset(old->bytes, DEAD, old->size);
    old->next = *graves;
    *graves = old;
  }
  return made != NULL ? made->bytes : NULL;
}

static void check_graves(grave *old)
{
  while (old != NULL) {
    grave *next = old->next;
    for (size_t i = 0; i < old->size; i++)
      CHECK_INT(DEAD, old->bytes[i]);
    free(old);
    old = next;
  }
}

/* In debug mode no coroutine is used again, so the last one is garbage. */
static void knows_what_runs(void)
{
  peri_runtime *runtime;
  peri_options options;
  grave *graves = NULL;
  peri_options_init(&options);
  options.alloc = bury;
  options.alloc_ud = &graves;
  options.debug = 1;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  CHECK_INT(PERI_OK,
            start_code(runtime, "local peri = require 'perilune'\n"
                                "peri.create_task(function() ended = 1 end)\n"
                                "peri.sleep(3600)\n"));
  while (global_integer(peri_state(runtime), "ended") != 1)
    CHECK_INT(1, peri_step(runtime, 0));
  lua_gc(peri_state(runtime), LUA_GCCOLLECT);
  lua_gc(peri_state(runtime), LUA_GCCOLLECT);
  CHECK_INT(1, peri_interrupt(runtime));
  CHECK_INT(2, peri_interrupt(runtime));
  peri_print_tasks(runtime);
  int status;
  while ((status = peri_step(runtime, 0)) > 0)
    ;
  CHECK_INT(PERI_EINTERRUPTED, status);
  peri_close(runtime);
  check_graves(graves);
}

int main(void)
{
  cancels_a_waiting_script();
  may_be_answered();
  if (SIGNALS_INTERRUPT) {
    stops_running_code();
    stops_another_task();
  }
  counts_what_is_not_answered();
  works_between_steps();
  knows_what_runs();
  return 0;
}
