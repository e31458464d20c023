/*
 * spawn, the floors: no-op Lua functions, each run in a thread of its own, a
 * batch of them alive at a time.
 *
 *   floor recycled|handle|reset|fresh TASKS BATCH
 *
 * recycled  threads that returned are given the next function as they are
 * handle    the same, and a userdata of 96 bytes for each task
 * reset     threads go through lua_resetthread in between
 * fresh     a new thread for each task
 */
#include "bench.h"

enum { KEEP = 1, NOOP = 2, HANDLES = 3 };

typedef struct pool {
  lua_State *L;
  lua_State **co;
  long batch;
  int handle, reset, fresh;
} pool;

static void run_batch(pool *p)
{
  int nres;
  for (long i = 0; i < p->batch; i++) {
    if (p->fresh)
      p->co[i] = bench_thread(p->L, KEEP, i + 1);
    if (p->handle) {
      lua_newuserdatauv(p->L, 96, 0);
      lua_rawseti(p->L, HANDLES, i + 1);
    }
    lua_pushvalue(p->L, NOOP);
    lua_xmove(p->L, p->co[i], 1);
  }
  for (long i = 0; i < p->batch; i++) {
    BENCH_CHECK(lua_resume(p->co[i], p->L, 0, &nres) == LUA_OK);
    if (p->reset)
      lua_resetthread(p->co[i]);
    else
      lua_settop(p->co[i], 0);
  }
}

int main(int argc, char **argv)
{
  const char *mode = argc > 1 ? argv[1] : "";
  long tasks = bench_arg(argc, argv, 2);
  pool p = {.L = bench_state(), .batch = bench_arg(argc, argv, 3)};
  double start;

  p.handle = strcmp(mode, "handle") == 0;
  p.reset = strcmp(mode, "reset") == 0;
  p.fresh = strcmp(mode, "fresh") == 0;
  p.co = calloc((size_t)p.batch, sizeof *p.co);
  BENCH_CHECK(p.co != NULL);
  lua_newtable(p.L);
  lua_pushnil(p.L);
  bench_eval(p.L, "return function() end");
  lua_newtable(p.L);
  for (long i = 0; i < p.batch; i++)
    p.co[i] = bench_thread(p.L, KEEP, i + 1);
  start = bench_now();
  for (long i = 0; i < tasks / p.batch; i++)
    run_batch(&p);
  printf("ns %.2f\n", (bench_now() - start) / (double)tasks);
  return 0;
}
