/* A host that owns the main loop: a game that gives the scripts a slice of
 * each frame, and never blocks in it; and one that watches the descriptor. */
#include <poll.h>

#include "check.h"

/* Steps until all has ended; the host's own work goes on between. */
static int frames(peri_runtime *runtime, uint64_t budget, int *count)
{
  int status;
  *count = 0;
  while ((status = peri_step(runtime, budget)) > 0)
    ++*count;
  return status;
}

static void steps_to_the_end(void)
{
  peri_runtime *runtime;
  int count;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  lua_State *L = peri_state(runtime);
  CHECK_INT(PERI_OK, peri_step(runtime, 0)); /* nothing was started */

  CHECK_INT(PERI_OK, start_code(runtime, "local peri = require 'perilune'\n"
                                         "for i = 1, 10 do\n"
                                         "  n = i\n"
                                         "  peri.sleep(0)\n"
                                         "end\n"));
  CHECK_INT(0, global_integer(L, "n")); /* it starts in a step */
  /* One main task at a time. */
  CHECK_INT(PERI_EINVAL, start_code(runtime, "x = 1"));
  CHECK_INT(PERI_EINVAL, run_code(runtime, "x = 1"));
  /* Without a budget, one round a step. */
  CHECK_INT(PERI_OK, frames(runtime, 0, &count));
  CHECK_INT(10, global_integer(L, "n"));
  CHECK(count >= 10);
  CHECK_INT(PERI_OK, peri_step(runtime, 0));
  CHECK_INT(0, lua_gettop(L));

  /* With a budget, many. */
  CHECK_INT(PERI_OK, start_code(runtime, "for i = 1, 1000 do\n"
                                         "  n = i\n"
                                         "  require('perilune').sleep(0)\n"
                                         "end\n"));
  CHECK_INT(PERI_OK, frames(runtime, 1000 * 1000 * 1000, &count));
  CHECK_INT(1000, global_integer(L, "n"));
  CHECK(count < 100);
  peri_close(runtime);
}

static void does_not_block(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  CHECK_INT(PERI_OK, start_code(runtime, "require('perilune').sleep(3600)"));
  uint64_t start = uv_hrtime();
  for (int i = 0; i < 100; i++)
    CHECK_INT(1, peri_step(runtime, 0));
  CHECK(uv_hrtime() - start < UINT64_C(60000000000));
  peri_close(runtime); /* cancels the sleeper */
}

static void tells_how_it_ended(void)
{
  peri_runtime *runtime;
  int count;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  CHECK_INT(PERI_OK, start_code(runtime, "require('perilune').sleep(0)\n"
                                         "error 'oops'\n"));
  CHECK_INT(PERI_EFAILED, frames(runtime, 0, &count));
  CHECK_TEXT("spec:2: oops\nstack traceback:", peri_error(runtime));
  /* The next one starts afresh. */
  CHECK_INT(PERI_OK, start_code(runtime, "x = 5"));
  CHECK_INT(PERI_OK, frames(runtime, 0, &count));
  CHECK_INT(5, global_integer(peri_state(runtime), "x"));
  CHECK_INT(PERI_EFAILED, start_code(runtime, "local = 1"));
  CHECK_INT(PERI_OK, peri_step(runtime, 0));
  CHECK_INT(PERI_EFAILED, peri_start_file(runtime, "/nonexistent.lua"));
  peri_close(runtime);
}

/* The main task has ended; what it left behind has not. */
static void lives_while_leftovers_live(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  CHECK_INT(PERI_OK,
            start_code(runtime, "local peri = require 'perilune'\n"
                                "peri.create_task(function()\n"
                                "  local _ <close> = peri.defer(function()\n"
                                "    for _ = 1, 5 do peri.sleep(0) end\n"
                                "    ended = 1\n"
                                "  end)\n"
                                "  peri.sleep(60)\n"
                                "end)\n"
                                "peri.sleep(0)\n"));
  int count;
  CHECK_INT(PERI_OK, frames(runtime, 0, &count));
  CHECK(count > 5);
  CHECK_INT(1, global_integer(peri_state(runtime), "ended"));
  peri_close(runtime);
}

static int inner_status;

static int l_step(lua_State *L)
{
  inner_status = peri_step(peri_of(L), 0);
  return 0;
}

static void refuses_to_step_inside_a_step(void)
{
  peri_runtime *runtime;
  int count;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  lua_register(peri_state(runtime), "step", l_step);
  CHECK_INT(PERI_OK, start_code(runtime, "step()"));
  CHECK_INT(PERI_OK, frames(runtime, 0, &count));
  CHECK_INT(PERI_EINVAL, inner_status);
  peri_close(runtime);
}

/* A foreign loop: poll() in the place of epoll, glib or SDL. */
static void can_be_watched(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  CHECK_INT(PERI_OK, start_code(runtime, "local peri = require 'perilune'\n"
                                         "for i = 1, 3 do\n"
                                         "  peri.sleep(0.005)\n"
                                         "  n = i\n"
                                         "end\n"));
  CHECK_INT(0, peri_backend_timeout(runtime)); /* its first step is ready */
  int polls = 0, status;
  while ((status = peri_step(runtime, 0)) > 0) {
    int timeout = peri_backend_timeout(runtime);
    CHECK(timeout >= 0 && timeout <= 6);
    struct pollfd fd = {.fd = peri_backend_fd(runtime), .events = POLLIN};
    CHECK(fd.fd >= 0);
    poll(&fd, 1, timeout);
    polls++;
  }
  CHECK_INT(PERI_OK, status);
  CHECK_INT(3, global_integer(peri_state(runtime), "n"));
  CHECK(polls < 100); /* it slept between, it did not spin */
  CHECK_INT(-1, peri_backend_timeout(runtime));
  peri_close(runtime);
}

int main(void)
{
  steps_to_the_end();
  does_not_block();
  tells_how_it_ended();
  lives_while_leftovers_live();
  refuses_to_step_inside_a_step();
  can_be_watched();
  return 0;
}
