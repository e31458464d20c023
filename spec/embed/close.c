/* Closing with everything still open: tasks that wait (and wait again while
 * they are cancelled), that never end, loops, futures, timers, readers. */
#include <unistd.h>

#include "check.h"

static lua_Integer closed_count;

static int l_note(lua_State *L)
{
  (void)L;
  closed_count++;
  return 0;
}

static peri_runtime *half_way(const char *code)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  lua_register(peri_state(runtime), "note", l_note);
  closed_count = 0;
  CHECK_INT(PERI_OK, start_code(runtime, code));
  for (int i = 0; i < 5; i++)
    CHECK_INT(1, peri_step(runtime, 0));
  return runtime;
}

static void cancels_and_waits(void)
{
  peri_close(half_way("local peri = require 'perilune'\n"
                      "for _ = 1, 10 do\n"
                      "  peri.create_task(function()\n"
                      "    local _ <close> = peri.defer(function()\n"
                      "      peri.sleep(0.001)\n"
                      "      note()\n"
                      "    end)\n"
                      "    peri.sleep(3600)\n"
                      "  end)\n"
                      "end\n"
                      "local _ <close> = peri.defer(note)\n"
                      "peri.sleep(3600)\n"));
  CHECK_INT(11, closed_count);
}

static void closes_other_loops(void)
{
  peri_close(half_way("local peri = require 'perilune'\n"
                      "loop = peri.new_event_loop()\n"
                      "task = loop:create_task(peri.sleep, 60)\n"
                      "future = loop:create_future()\n"
                      "handle = loop:call_later(60, print)\n"
                      "loop:call_soon(print)\n"
                      "future2 = peri.Future()\n"
                      "future2:await()\n"));
}

/* It once waited for ever for the main task, which waits for a run that had
 * been dropped. */
static void ends_a_run_inside(void)
{
  peri_close(half_way("local peri = require 'perilune'\n"
                      "local _ <close> = peri.defer(note)\n"
                      "peri.run(function()\n"
                      "  local _ <close> = peri.defer(note)\n"
                      "  peri.sleep(3600)\n"
                      "end)\n"));
  CHECK_INT(2, closed_count);
}

static void right_after_start(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  CHECK_INT(PERI_OK, start_code(runtime, "x = 1"));
  peri_close(runtime);
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  peri_close(runtime);
}

/* A state of the host's survives; references that it kept are dead, not
 * dangerous. */
static void leaves_the_host_its_state(void)
{
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_attach(&runtime, L, NULL));
  CHECK_INT(PERI_OK, start_code(runtime, "local peri = require 'perilune'\n"
                                         "kept = peri.current_task()\n"
                                         "loop = peri.get_running_loop()\n"
                                         "sleep = peri.sleep\n"
                                         "peri.sleep(3600)\n"));
  CHECK_INT(1, peri_step(runtime, 0));
  peri_close(runtime);
  CHECK_INT(LUA_OK,
            luaL_dostring(L, "pcall(function() kept:cancel() end)\n"
                             "pcall(function() loop:call_soon(print) end)\n"
                             "ok = pcall(sleep, 0) and 1 or 0\n"
                             "tostring(kept)\n"
                             "kept, loop = nil\n"
                             "collectgarbage()\n"));
  CHECK_INT(0, global_integer(L, "ok"));
  lua_close(L);
}

/* No descriptor stays behind, however often. */
static void leaves_no_descriptors(void)
{
  int before = dup(0);
  close(before);
  for (int i = 0; i < 20; i++)
    cancels_and_waits();
  int after = dup(0);
  close(after);
  CHECK_INT(before, after);
}

int main(void)
{
  cancels_and_waits();
  closes_other_loops();
  ends_a_run_inside();
  right_after_start();
  leaves_the_host_its_state();
  leaves_no_descriptors();
  return 0;
}
