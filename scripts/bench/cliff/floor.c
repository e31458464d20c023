/*
 * cliff, the floors: what the same amount of memory costs bare C when there are
 * few and when there are many of a thing (caches end somewhere between).
 *
 *   floor gather|cancel|timers|timers-spread OPERATIONS
 *
 * gather  recycled Lua threads run a no-op, all of a wave alive at a time
 * cancel  parked Lua threads are resumed with an error that ends them
 * timers  a uv_timer_t for each is started and stopped, all with one duration
 *         or ("timers-spread") each with its own
 */
#include <uv.h>

#include "bench.h"

enum { KEEP = 1, TASK = 2 };

typedef struct bench {
  lua_State *L;
  lua_State **co;
  uv_loop_t loop;
  uv_timer_t *timers;
  long count;
  int spread;
} bench;

static int raise_on_resume(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  (void)ctx;
  lua_pushliteral(L, "cancelled");
  return lua_error(L);
}

static int l_park(lua_State *L)
{
  return lua_yieldk(L, 0, 0, raise_on_resume);
}

static void start_threads(bench *b)
{
  for (long i = 0; i < b->count; i++) {
    lua_pushvalue(b->L, TASK);
    lua_xmove(b->L, b->co[i], 1);
  }
}

/* Each wave returns the nanoseconds of its timed part. */
static double wave_gather(bench *b)
{
  double start = bench_now();
  int nres;
  start_threads(b);
  for (long i = 0; i < b->count; i++) {
    BENCH_CHECK(lua_resume(b->co[i], b->L, 0, &nres) == LUA_OK);
    lua_settop(b->co[i], 0);
  }
  return bench_now() - start;
}

static double wave_cancel(bench *b)
{
  double start;
  int nres;
  start_threads(b);
  for (long i = 0; i < b->count; i++)
    BENCH_CHECK(lua_resume(b->co[i], b->L, 0, &nres) == LUA_YIELD);
  start = bench_now();
  for (long i = 0; i < b->count; i++) {
    BENCH_CHECK(lua_resume(b->co[i], b->L, 0, &nres) == LUA_ERRRUN);
    lua_resetthread(b->co[i]);
    lua_settop(b->co[i], 0);
  }
  return bench_now() - start;
}

static void on_timer(uv_timer_t *timer)
{
  (void)timer;
}

static double wave_timers(bench *b)
{
  double start = bench_now();
  uint64_t ms = 1000000, seed = 1;
  for (long i = 0; i < b->count; i++) {
    seed = seed * 16807 % 2147483647;
    uv_timer_start(&b->timers[i], on_timer,
                   b->spread ? ms + seed % 1000000 : ms, 0);
  }
  for (long i = 0; i < b->count; i++)
    uv_timer_stop(&b->timers[i]);
  return bench_now() - start;
}

static void make_threads(bench *b, int park)
{
  lua_settop(b->L, 0);
  lua_newtable(b->L);
  lua_pushcfunction(b->L, l_park);
  bench_eval(b->L, park ? "local park = ...\nreturn function() park() end"
                        : "return function() end");
  b->co = calloc((size_t)b->count, sizeof *b->co);
  BENCH_CHECK(b->co != NULL);
  for (long i = 0; i < b->count; i++)
    b->co[i] = bench_thread(b->L, KEEP, i + 1);
}

static void make_timers(bench *b)
{
  b->timers = calloc((size_t)b->count, sizeof *b->timers);
  BENCH_CHECK(b->timers != NULL && uv_loop_init(&b->loop) == 0);
  for (long i = 0; i < b->count; i++)
    uv_timer_init(&b->loop, &b->timers[i]);
}

/* Nanoseconds for one operation among `count` of them. */
static double measure(const char *op, long count, long operations)
{
  bench b = {.L = bench_state(), .count = count};
  double (*wave)(bench *) = wave_timers;
  double total = 0;
  if (strcmp(op, "gather") == 0)
    wave = wave_gather;
  else if (strcmp(op, "cancel") == 0)
    wave = wave_cancel;
  b.spread = strcmp(op, "timers-spread") == 0;
  if (wave == wave_timers)
    make_timers(&b);
  else
    make_threads(&b, wave == wave_cancel);
  wave(&b); /* the first touch of the memory is not what is asked here */
  for (long done = 0; done < operations; done += count)
    total += wave(&b);
  lua_close(b.L);
  free(b.co);
  return total / (double)operations;
}

int main(int argc, char **argv)
{
  long operations = bench_arg(argc, argv, 2);
  double few = measure(argv[1], 100, operations);
  double many = measure(argv[1], 100000, operations);
  printf("cliff %.3f few %.2f many %.2f\n", many / few, few, many);
  return 0;
}
