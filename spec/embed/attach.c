/* A host with its own state and its own uv_loop_t, on which a timer of its own
 * runs beside the script. */
#include "check.h"

static int ticks;

static void on_tick(uv_timer_t *timer)
{
  (void)timer;
  ticks++;
}

static int l_ticks(lua_State *L)
{
  lua_pushinteger(L, ticks);
  return 1;
}

/* A sandbox: the script has neither debug nor require, and raised errors, their
 * reports and the end of the run do not need them. */
static void does_without_what_the_host_took(void)
{
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  lua_pushnil(L);
  lua_setglobal(L, "debug");
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_attach(&runtime, L, NULL));
  CHECK_INT(PERI_OK, run_code(runtime, "peri = require 'perilune'\n"
                                       "require = nil\n"));
  CHECK_INT(PERI_OK,
            run_code(runtime,
                     "local function handler(m) return 'handled ' .. m end\n"
                     "local _, err = xpcall(error, handler, 'x')\n"
                     "assert(err == 'handled x', err)\n"
                     "_, err = pcall(peri.sleep, {})\n"
                     "assert(tostring(err):find '^TypeError: ')\n"));
  CHECK_INT(PERI_EFAILED, run_code(runtime, "peri.sleep(0 / 0)"));
  CHECK(strstr(peri_error(runtime), "ValueError: ") != NULL);
  CHECK_INT(0, lua_gettop(L));
  peri_close(runtime);
  lua_close(L);
}

static void runs_beside_the_host(void)
{
  uv_loop_t loop;
  uv_timer_t timer;
  CHECK_INT(0, uv_loop_init(&loop));
  CHECK_INT(0, uv_timer_init(&loop, &timer));
  CHECK_INT(0, uv_timer_start(&timer, on_tick, 1, 1));

  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  lua_register(L, "ticks", l_ticks);
  peri_options options;
  peri_options_init(&options);
  options.uv_loop = &loop;
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_attach(&runtime, L, &options));
  CHECK(peri_state(runtime) == L);
  CHECK(peri_of(L) == runtime);
  CHECK_INT(0, lua_gettop(L));

  /* The script waits until the host's timer has fired five times. */
  CHECK_INT(PERI_OK, run_code(runtime, "local peri = require 'perilune'\n"
                                       "local start = ticks()\n"
                                       "repeat\n"
                                       "  peri.sleep(0.001)\n"
                                       "until ticks() >= start + 5\n"));
  CHECK(ticks >= 5);
  /* A script that never waits in the kernel leaves the host's turn, too. */
  ticks = 0;
  CHECK_INT(PERI_OK, run_code(runtime, "local peri = require 'perilune'\n"
                                       "repeat\n"
                                       "  peri.sleep(0)\n"
                                       "until ticks() >= 3\n"));
  peri_close(runtime);
  CHECK(peri_of(L) == NULL);

  /* The loop and the state are the host's own again. */
  CHECK_INT(LUA_OK, luaL_dostring(L, "x = coroutine.wrap(function()\n"
                                     "  return select(2, pcall(error, 7))\n"
                                     "end)()\n"));
  CHECK_INT(7, global_integer(L, "x"));
  ticks = 0;
  while (ticks < 2)
    uv_run(&loop, UV_RUN_ONCE);
  uv_close((uv_handle_t *)&timer, NULL);
  uv_run(&loop, UV_RUN_DEFAULT);
  CHECK_INT(0, uv_loop_close(&loop));
  lua_close(L);
}

/* What the runtime replaced is put back by its close, and a second runtime
 * may follow on the same state. */
static void can_be_attached_again(void)
{
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  for (int i = 1; i <= 3; i++) {
    peri_runtime *runtime;
    CHECK_INT(PERI_OK, peri_attach(&runtime, L, NULL));
    CHECK_INT(PERI_OK,
              run_code(runtime, "x = (x or 0)\n"
                                "  + require('perilune').sleep(0, 1)"));
    CHECK_INT(i, global_integer(L, "x"));
    peri_close(runtime);
    CHECK_INT(0, lua_gettop(L));
  }
  lua_close(L);
}

/* Without the patches a wait in the script's own coroutine is refused. */
static void may_leave_the_state_alone(void)
{
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  lua_getglobal(L, "pcall");
  const void *stock_pcall = lua_topointer(L, -1);
  lua_pop(L, 1);
  peri_options options;
  peri_options_init(&options);
  options.patch = 0;
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_attach(&runtime, L, &options));
  lua_getglobal(L, "pcall");
  CHECK(lua_topointer(L, -1) == stock_pcall);
  lua_pop(L, 1);
  CHECK_INT(PERI_OK,
            run_code(runtime,
                     "local peri = require 'perilune'\n"
                     "assert(peri.sleep(0, 1) == 1)\n"
                     "assert(select(2, pcall(peri.sleep, 0, 'in pcall'))\n"
                     "  == 'in pcall')\n"
                     "local co = coroutine.create(function()\n"
                     "  peri.sleep(0)\n"
                     "end)\n"
                     "local ok, err = coroutine.resume(co)\n"
                     "assert(not ok)\n"
                     "assert(peri.RuntimeError:is(err))\n"));
  peri_close(runtime);
  lua_close(L);
}

int main(void)
{
  does_without_what_the_host_took();
  runs_beside_the_host();
  can_be_attached_again();
  may_leave_the_state_alone();
  return 0;
}
