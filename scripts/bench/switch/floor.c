/*
 * switch, the floor: C resumes Lua loops that call a yielding C function, round
 * robin. With a third argument it looks at the kernel once in that many rounds,
 * as a scheduler has to.
 *
 *   floor TASKS SWITCHES [ROUNDS_PER_POLL]
 */
#include <uv.h>

#include "bench.h"

int main(int argc, char **argv)
{
  long tasks = bench_arg(argc, argv, 1);
  long rounds = bench_arg(argc, argv, 2) / tasks;
  long poll = argc > 3 ? bench_arg(argc, argv, 3) : 0;
  lua_State *L = bench_state();
  lua_State **co = calloc((size_t)tasks, sizeof *co);
  uv_loop_t loop;
  uv_async_t async; /* an active handle: without one uv_run would not poll */
  double start;
  int nres;

  BENCH_CHECK(co != NULL && uv_loop_init(&loop) == 0);
  BENCH_CHECK(uv_async_init(&loop, &async, NULL) == 0);
  lua_newtable(L);
  lua_pushcfunction(L, bench_pause);
  bench_eval(L, "local pause = ...\n"
                "return function(n) for _ = 1, n do pause() end end");
  for (long i = 0; i < tasks; i++) {
    co[i] = bench_thread(L, 1, i + 1);
    lua_pushvalue(L, 2);
    lua_xmove(L, co[i], 1);
    lua_pushinteger(co[i], rounds);
    BENCH_CHECK(lua_resume(co[i], L, 1, &nres) == LUA_YIELD);
  }
  start = bench_now();
  for (long r = 1; r <= rounds; r++) {
    for (long i = 0; i < tasks; i++)
      lua_resume(co[i], L, 0, &nres);
    if (poll > 0 && r % poll == 0)
      uv_run(&loop, UV_RUN_NOWAIT);
  }
  start = bench_now() - start;
  for (long i = 0; i < tasks; i++)
    BENCH_CHECK(lua_status(co[i]) == LUA_OK);
  printf("ns %.2f\n", start / (double)(rounds * tasks));
  return 0;
}
