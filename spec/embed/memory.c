/* Out of memory. A ramp makes the n-th allocation of the state fail, for every
 * n, while a script of many parts runs: each point ends in the documented
 * status, the runtime can be closed, and every byte comes back. (libuv's own
 * allocations are outside of it: libuv 1.44 aborts on some of them.) oom.c does
 * the same call by call. */
#include "failing.h"

/* Every wait here ends by itself: one that does not, when memory failed, is a
 * wake-up that the runtime lost. */
static const char script[] =
    "local peri = require 'perilune'\n"
    "local loop = peri.get_running_loop()\n"
    "loop:set_exception_handler(function() end)\n"
    "local function job(n)\n"
    "  local _ <close> = peri.defer(function() peri.sleep(0) end)\n"
    "  peri.sleep(0)\n"
    "  local g = coroutine.wrap(function() return peri.sleep(0.0001, n) end)\n"
    "  return g()\n"
    "end\n"
    "local tasks = {}\n"
    "for i = 1, 5 do tasks[i] = peri.create_task(job, i) end\n"
    "local f = peri.Future()\n"
    "f:add_done_callback(function() end)\n"
    "loop:call_soon(f.set_result, f, 1, 2)\n"
    "loop:call_later(0.0001, function() end)\n"
    /* The callback that sets it may be the one to fail. */
    "pcall(peri.wait_for, f, 0.001)\n"
    "peri.gather(tasks):await()\n"
    "pcall(peri.wait_for, peri.Future(), 0.0001)\n"
    "local t = peri.create_task(peri.sleep, 60)\n"
    "peri.sleep(0)\n"
    "t:cancel('why')\n"
    "pcall(t.await, t)\n"
    "peri.wait({ peri.create_task(job, 1) }, { timeout = 1 })\n"
    "peri.call(job, 2):await()\n"
    "done = 1\n";

/* Returns whether the point was reached. */
static int point(long long n, failing how, int *outcomes)
{
  allocator a = {.fail_at = n, .how = how};
  peri_options options;
  peri_options_init(&options);
  options.alloc = allocate;
  options.alloc_ud = &a;
  peri_runtime *runtime = NULL;
  int status = peri_new(&runtime, &options);
  if (status == PERI_OK) {
    status = run_code(runtime, script);
    if (status == PERI_ENOMEM || status == PERI_EFAILED)
      CHECK(strstr(peri_error(runtime), "memory") != NULL);
    else
      CHECK_INT(PERI_OK, status);
    /* What is left is usable once there is memory again. */
    a.fail_at = 0;
    CHECK_INT(PERI_OK, run_code(runtime, "again = 1"));
    CHECK_INT(1, global_integer(peri_state(runtime), "again"));
    peri_close(runtime);
  } else {
    CHECK_INT(PERI_ENOMEM, status);
  }
  outcomes[-status]++;
  if (a.bytes != 0) {
    fprintf(stderr, "point %lld: %lld bytes were not freed\n", n, a.bytes);
    exit(1);
  }
  return n <= a.count;
}

static void ramp(failing how)
{
  int outcomes[16] = {0};
  long long n = 1;
  while (point(n, how, outcomes))
    n++;
  CHECK(n > 500);
  /* One failure alone is mended by Lua's emergency collection, mostly. */
  if (how == FAIL_FOR_GOOD)
    CHECK(outcomes[-PERI_ENOMEM] + outcomes[-PERI_EFAILED] > 50);
  printf("memory ramp%s: %lld points; ok %d, failed %d, no memory %d\n",
         how == FAIL_FOR_GOOD ? ", failing for good" : "", n, outcomes[0],
         outcomes[1], outcomes[2]);
}

static void without_failures(void)
{
  allocator a = {0};
  peri_options options;
  peri_options_init(&options);
  options.alloc = allocate;
  options.alloc_ud = &a;
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  CHECK_INT(PERI_OK, run_code(runtime, script));
  CHECK_INT(1, global_integer(peri_state(runtime), "done"));
  CHECK(a.bytes > 0);
  peri_close(runtime);
  CHECK_INT(0, a.bytes);
}

static void limit(void)
{
  peri_options options;
  peri_options_init(&options);
  options.memory_limit = 4 << 20;
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  CHECK_INT(PERI_OK, run_code(runtime, script));
  /* Caught by the script, which has all of its memory again afterwards. */
  CHECK_INT(PERI_OK,
            run_code(runtime,
                     "local ok, err = pcall(string.rep, 'x', 8 << 20)\n"
                     "assert(not ok and err == 'not enough memory')\n"
                     "s = string.rep('x', 1 << 20)\n"));
  /* Not caught, and in many small pieces. */
  CHECK_INT(PERI_ENOMEM,
            run_code(runtime, "local t = {}\n"
                              "for i = 1, 1e9 do t[i] = { i } end\n"));
  CHECK_TEXT("not enough memory", peri_error(runtime));
  /* In a task that is awaited. */
  CHECK_INT(PERI_ENOMEM,
            run_code(runtime, "local peri = require 'perilune'\n"
                              "peri.create_task(string.rep, 'x', 8 << 20)\n"
                              "  :await()\n"));
  CHECK_INT(PERI_OK, run_code(runtime, "x = #s"));
  CHECK_INT(1 << 20, global_integer(peri_state(runtime), "x"));
  peri_close(runtime);

  options.memory_limit = 1000; /* too little for a state */
  CHECK_INT(PERI_ENOMEM, peri_new(&runtime, &options));
}

/* memory [N [FOREVER]] tries the one point again that a ramp stopped at. */
int main(int argc, char **argv)
{
  if (argc > 1) {
    int outcomes[16] = {0};
    point(atoll(argv[1]), argc > 2 ? FAIL_FOR_GOOD : FAIL_ONCE, outcomes);
    return 0;
  }
  without_failures();
  ramp(FAIL_ONCE);
  ramp(FAIL_FOR_GOOD);
  limit();
  return 0;
}
