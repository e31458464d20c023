/* Several runtimes in one process: stepped in turn on one thread, on one
 * uv_loop_t of the host's, and each on a thread of its own. */
#include "check.h"

enum { RUNTIMES = 8 };

static const char worker[] = "local peri = require 'perilune'\n"
                             "local tasks = {}\n"
                             "for i = 1, 10 do\n"
                             "  tasks[i] = peri.create_task(function()\n"
                             "    for _ = 1, 10 do peri.sleep(0.0001) end\n"
                             "    return i\n"
                             "  end)\n"
                             "end\n"
                             "sum = 0\n"
                             "for i = 1, 10 do\n"
                             "  sum = sum + tasks[i]:await()\n"
                             "end\n";

static void in_turn(uv_loop_t *loop)
{
  peri_runtime *runtimes[RUNTIMES];
  peri_options options;
  peri_options_init(&options);
  options.uv_loop = loop;
  for (int i = 0; i < RUNTIMES; i++) {
    CHECK_INT(PERI_OK, peri_new(&runtimes[i], &options));
    CHECK_INT(PERI_OK, start_code(runtimes[i], worker));
  }
  int alive = RUNTIMES;
  while (alive > 0) {
    alive = 0;
    for (int i = 0; i < RUNTIMES; i++) {
      int status = peri_step(runtimes[i], 0);
      CHECK(status >= 0);
      alive += status;
    }
  }
  for (int i = 0; i < RUNTIMES; i++) {
    CHECK_INT(55, global_integer(peri_state(runtimes[i]), "sum"));
    peri_close(runtimes[i]);
  }
}

static void one_thread(void)
{
  in_turn(NULL);
  uv_loop_t loop;
  CHECK_INT(0, uv_loop_init(&loop));
  in_turn(&loop);
  CHECK_INT(0, uv_loop_close(&loop));
}

static void run_one(void *ud)
{
  (void)ud;
  for (int i = 0; i < 5; i++) {
    peri_runtime *runtime;
    CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
    CHECK_INT(PERI_OK, run_code(runtime, worker));
    CHECK_INT(55, global_integer(peri_state(runtime), "sum"));
    peri_close(runtime);
  }
}

static void a_thread_each(void)
{
  uv_thread_t threads[RUNTIMES];
  for (int i = 0; i < RUNTIMES; i++)
    CHECK_INT(0, uv_thread_create(&threads[i], run_one, NULL));
  for (int i = 0; i < RUNTIMES; i++)
    CHECK_INT(0, uv_thread_join(&threads[i]));
}

/* A script that runs another runtime's script to its end, in a C function. */
static int l_run_inner(lua_State *L)
{
  peri_runtime *inner;
  CHECK_INT(PERI_OK, peri_new(&inner, NULL));
  CHECK_INT(PERI_OK, run_code(inner, worker));
  lua_pushinteger(L, global_integer(peri_state(inner), "sum"));
  peri_close(inner);
  return 1;
}

static void one_inside_another(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  lua_register(peri_state(runtime), "run_inner", l_run_inner);
  CHECK_INT(PERI_OK, run_code(runtime, "local peri = require 'perilune'\n"
                                       "peri.sleep(0)\n"
                                       "x = run_inner()\n"
                                       "peri.sleep(0)\n"));
  CHECK_INT(55, global_integer(peri_state(runtime), "x"));
  peri_close(runtime);
}

int main(void)
{
  one_thread();
  a_thread_each();
  one_inside_another();
  return 0;
}
