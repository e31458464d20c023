/*
 * sleepers, the floors: Lua threads that each sleep for a second, twice over;
 * the second wave reuses the threads of the first.
 *
 *   floor heap|fifo SLEEPERS
 *
 * heap  a uv_timer_t for each
 * fifo  one uv_timer_t before a queue of sleepers: equal durations end in the
 *       order they began
 */
#include <uv.h>

#include "bench.h"

enum { KEEP = 1, TASK = 2, SECOND_MS = 1000 };

typedef struct sleeper {
  lua_State *co;
  uint64_t deadline; /* ns; fifo only */
} sleeper;

typedef struct bench {
  lua_State *L;
  uv_loop_t loop;
  sleeper *sleepers;
  uv_timer_t *timers; /* one each with heap, one in all with fifo */
  long count, started, ended;
  int fifo;
} bench;

static void wake(bench *b, sleeper *s)
{
  int nres;
  b->ended++;
  BENCH_CHECK(lua_resume(s->co, b->L, 0, &nres) == LUA_OK);
  lua_settop(s->co, 0);
}

static void on_timer(uv_timer_t *timer)
{
  wake(timer->loop->data, timer->data);
}

static void on_fifo(uv_timer_t *timer)
{
  bench *b = timer->loop->data;
  uint64_t now = uv_hrtime();
  while (b->ended < b->started && b->sleepers[b->ended].deadline <= now)
    wake(b, &b->sleepers[b->ended]);
  if (b->ended < b->started) {
    uint64_t ns = b->sleepers[b->ended].deadline - now;
    uv_timer_start(timer, on_fifo, ns / 1000000 + 1, 0);
  }
}

/* The C function that the tasks call: sleep for a second. */
static int l_sleep(lua_State *L)
{
  bench *b = lua_touserdata(L, lua_upvalueindex(1));
  sleeper *s = &b->sleepers[b->started];
  if (b->fifo) {
    s->deadline = uv_hrtime() + (uint64_t)SECOND_MS * 1000000;
    if (b->started == 0)
      uv_timer_start(b->timers, on_fifo, SECOND_MS, 0);
  } else {
    /* libuv's time is cached: sleepers must not end early for that. */
    if (b->started % 256 == 0)
      uv_update_time(&b->loop);
    uv_timer_start(&b->timers[b->started], on_timer, SECOND_MS, 0);
  }
  b->started++;
  return lua_yield(L, 0);
}

/* Returns the milliseconds that the wave took beyond the second. */
static double run_wave(bench *b)
{
  double start = bench_now();
  int nres;
  b->started = b->ended = 0;
  uv_update_time(&b->loop);
  for (long i = 0; i < b->count; i++) {
    sleeper *s = &b->sleepers[i];
    if (s->co == NULL) {
      s->co = bench_thread(b->L, KEEP, i + 1);
      if (!b->fifo) {
        uv_timer_init(&b->loop, &b->timers[i]);
        b->timers[i].data = s;
      }
    }
    lua_pushvalue(b->L, TASK);
    lua_xmove(b->L, s->co, 1);
    BENCH_CHECK(lua_resume(s->co, b->L, 0, &nres) == LUA_YIELD);
  }
  uv_run(&b->loop, UV_RUN_DEFAULT);
  BENCH_CHECK(b->ended == b->count);
  return (bench_now() - start) / 1e6 - SECOND_MS;
}

int main(int argc, char **argv)
{
  bench b = {.L = bench_state(), .count = bench_arg(argc, argv, 2)};
  size_t count = (size_t)b.count;
  long before;
  double first, kb;

  b.fifo = strcmp(argv[1], "fifo") == 0;
  BENCH_CHECK(uv_loop_init(&b.loop) == 0);
  b.loop.data = &b;
  lua_newtable(b.L);
  lua_pushlightuserdata(b.L, &b);
  lua_pushcclosure(b.L, l_sleep, 1);
  bench_eval(b.L, "local sleep = ...\nreturn function() sleep() end");
  before = bench_memory_kb("VmRSS:");
  b.sleepers = calloc(count, sizeof *b.sleepers);
  b.timers = calloc(b.fifo ? 1 : count, sizeof *b.timers);
  BENCH_CHECK(b.sleepers != NULL && b.timers != NULL);
  if (b.fifo)
    uv_timer_init(&b.loop, b.timers);
  first = run_wave(&b);
  kb = (double)(bench_memory_kb("VmHWM:") - before) / (double)b.count;
  printf("ms %.2f kb %.3f second %.2f\n", first, kb, run_wave(&b));
  return 0;
}
