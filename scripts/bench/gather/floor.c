/*
 * gather, the floor: a batch of recycled Lua threads, each of which takes an
 * argument, yields once and returns a value that C puts into a list.
 *
 *   floor CHILDREN BATCH
 */
#include "bench.h"

enum { KEEP = 1, CHILD = 2, RESULTS = 3 };

static void run_batch(lua_State *L, lua_State **co, long batch)
{
  int nres;
  lua_createtable(L, (int)batch, 0);
  for (long i = 0; i < batch; i++) {
    lua_pushvalue(L, CHILD);
    lua_xmove(L, co[i], 1);
    lua_pushinteger(co[i], i);
  }
  for (long i = 0; i < batch; i++)
    BENCH_CHECK(lua_resume(co[i], L, 1, &nres) == LUA_YIELD);
  for (long i = 0; i < batch; i++) {
    BENCH_CHECK(lua_resume(co[i], L, 0, &nres) == LUA_OK && nres == 1);
    lua_xmove(co[i], L, 1);
    lua_rawseti(L, RESULTS, i + 1);
  }
  lua_settop(L, CHILD);
}

int main(int argc, char **argv)
{
  long children = bench_arg(argc, argv, 1), batch = bench_arg(argc, argv, 2);
  lua_State *L = bench_state();
  lua_State **co = calloc((size_t)batch, sizeof *co);
  double start;

  BENCH_CHECK(co != NULL);
  lua_newtable(L);
  lua_pushcfunction(L, bench_pause);
  bench_eval(L, "local pause = ...\n"
                "return function(i) pause() return i end");
  for (long i = 0; i < batch; i++)
    co[i] = bench_thread(L, KEEP, i + 1);
  start = bench_now();
  for (long i = 0; i < children / batch; i++)
    run_batch(L, co, batch);
  printf("ns %.2f\n", (bench_now() - start) / (double)children);
  return 0;
}
