/* The cases of the functions of perilune.h, and of modules that are loaded late.
 * Each makes one point: it arms the allocator around the call under test. */
#ifndef OOM_API_H
#define OOM_API_H

#include <unistd.h>

#include "host.h"

typedef void c_case(host *h, long long n, failing how);

/* The call ended well, or as one does that finds no memory. */
static void check_status(host *h, peri_runtime *runtime, int expected,
                         int status)
{
  disarm(h);
  h->fine = status == expected;
  if (h->fine)
    return;
  if (status != PERI_ENOMEM && runtime != NULL)
    fprintf(stderr, "%s\n", peri_error(runtime));
  CHECK_INT(PERI_ENOMEM, status);
  if (runtime != NULL)
    CHECK_TEXT("not enough memory", peri_error(runtime));
}

/* The runtime is as good as new. */
static void check_works(peri_runtime *runtime)
{
  static const char code[] = "local peri = require 'perilune'\n"
                             "local task = peri.create_task(function()\n"
                             "  peri.sleep(0.0001)\n"
                             "  return 5\n"
                             "end)\n"
                             "works = peri.wait_for(task, 10)\n";
  int status = run_code(runtime, code);
  if (status != PERI_OK)
    fprintf(stderr, "afterwards: %s\n", peri_error(runtime));
  CHECK_INT(PERI_OK, status);
  CHECK_INT(5, global_integer(peri_state(runtime), "works"));
}

static void c_new(host *h, long long n, failing how)
{
  peri_options options;
  peri_runtime *runtime = NULL;
  options_of(&options, h);
  arm(h, n, how);
  check_status(h, NULL, PERI_OK, peri_new(&runtime, &options));
  if (h->fine)
    check_works(runtime);
  else
    CHECK(runtime == NULL);
  peri_close(runtime);
}

static void c_attach(host *h, long long n, failing how)
{
  peri_options options;
  peri_runtime *runtime = NULL;
  options_of(&options, h);
  options.alloc = NULL;
  lua_State *L = lua_newstate(allocate, &h->allocator);
  luaL_openlibs(L);
  arm(h, n, how);
  check_status(h, NULL, PERI_OK, peri_attach(&runtime, L, &options));
  if (!h->fine)
    CHECK_INT(PERI_OK, peri_attach(&runtime, L, &options));
  CHECK_INT(0, lua_gettop(L));
  check_works(runtime);
  peri_close(runtime);
  lua_close(L);
}

static const char leaving[] = "local peri = require 'perilune'\n"
                              "for i = 1, 3 do\n"
                              "  peri.create_task(function()\n"
                              "    local _ <close> = peri.defer(function() "
                              "ended = (ended or 0) + 1 end)\n"
                              "    peri.sleep(60)\n"
                              "  end)\n"
                              "end\n"
                              "local future = peri.Future()\n"
                              "future:add_done_callback(print)\n"
                              "peri.get_running_loop():call_later(60, print)\n"
                              "peri.sleep(0)\n"
                              "peri.sleep(60)\n";

static void c_close(host *h, long long n, failing how)
{
  peri_runtime *runtime = open_runtime(h);
  CHECK_INT(PERI_OK, start_code(runtime, leaving));
  CHECK_INT(1, peri_step(runtime, 0));
  CHECK_INT(1, peri_step(runtime, 0));
  arm(h, n, how);
  peri_close(runtime);
  disarm(h);
  h->fine = 1;
}

/* A function of the state, which is called with 2, 3 and gives 5, 2, 3. */
static void push_adder(peri_runtime *runtime)
{
  static const char code[] =
      "local sleep = require 'perilune'.sleep\n"
      "return function(a, b) sleep(0) sleep(0.00001) return a + b, a, b end\n";
  lua_State *L = peri_state(runtime);
  CHECK_INT(LUA_OK, luaL_loadstring(L, code));
  CHECK_INT(PERI_OK, peri_run(runtime, 0, 1));
  lua_pushinteger(L, 2);
  lua_pushinteger(L, 3);
}

static void c_run(host *h, long long n, failing how)
{
  peri_runtime *runtime = open_runtime(h);
  lua_State *L = peri_state(runtime);
  push_adder(runtime);
  arm(h, n, how);
  check_status(h, runtime, PERI_OK, peri_run(runtime, 2, LUA_MULTRET));
  CHECK_INT(h->fine ? 3 : 0, lua_gettop(L));
  if (h->fine)
    CHECK_INT(5, lua_tointeger(L, 1));
  lua_settop(L, 0);
  check_works(runtime);
  peri_close(runtime);
}

static void c_run_string(host *h, long long n, failing how)
{
  peri_runtime *runtime = open_runtime(h);
  lua_State *L = peri_state(runtime);
  arm(h, n, how);
  check_status(h, runtime, PERI_OK, run_code(runtime, "x = ('a'):rep(3, 'b')"));
  CHECK_INT(0, lua_gettop(L));
  CHECK_INT(h->fine ? LUA_TSTRING : LUA_TNIL, lua_getglobal(L, "x"));
  lua_settop(L, 0);
  check_works(runtime);
  peri_close(runtime);
}

static const char *script_path(host *h)
{
  static char path[1100];
  snprintf(path, sizeof path, "%s/oom/script.lua", h->directory);
  return path;
}

static void c_run_file(host *h, long long n, failing how)
{
  peri_runtime *runtime = open_runtime(h);
  const char *path = script_path(h);
  arm(h, n, how);
  check_status(h, runtime, PERI_OK, peri_run_file(runtime, path));
  CHECK_INT(0, lua_gettop(peri_state(runtime)));
  CHECK_INT(h->fine ? 10 : 0,
            global_integer(peri_state(runtime), "script_ran"));
  check_works(runtime);
  peri_close(runtime);
}

/* Steps until the main task has ended. */
static int step_to_end(peri_runtime *runtime)
{
  int status;
  while ((status = peri_step(runtime, 0)) > 0)
    usleep(10);
  return status;
}

static void c_start(host *h, long long n, failing how)
{
  peri_runtime *runtime = open_runtime(h);
  push_adder(runtime);
  arm(h, n, how);
  check_status(h, runtime, PERI_OK, peri_start(runtime, 2));
  CHECK_INT(0, lua_gettop(peri_state(runtime)));
  if (h->fine)
    CHECK_INT(PERI_OK, step_to_end(runtime));
  check_works(runtime);
  peri_close(runtime);
}

static void c_start_string(host *h, long long n, failing how)
{
  peri_runtime *runtime = open_runtime(h);
  arm(h, n, how);
  check_status(h, runtime, PERI_OK, start_code(runtime, "x = 3"));
  if (h->fine)
    CHECK_INT(PERI_OK, step_to_end(runtime));
  CHECK_INT(h->fine ? 3 : 0, global_integer(peri_state(runtime), "x"));
  check_works(runtime);
  peri_close(runtime);
}

static void c_start_file(host *h, long long n, failing how)
{
  peri_runtime *runtime = open_runtime(h);
  const char *path = script_path(h);
  arm(h, n, how);
  check_status(h, runtime, PERI_OK, peri_start_file(runtime, path));
  if (h->fine)
    CHECK_INT(PERI_OK, step_to_end(runtime));
  check_works(runtime);
  peri_close(runtime);
}

static void c_step(host *h, long long n, failing how)
{
  peri_runtime *runtime = open_runtime(h);
  push_adder(runtime);
  CHECK_INT(PERI_OK, peri_start(runtime, 2));
  arm(h, n, how);
  check_status(h, runtime, PERI_OK, step_to_end(runtime));
  check_works(runtime);
  peri_close(runtime);
}

/* Tasks that are left behind are ended without memory, too. */
static void c_step_leftovers(host *h, long long n, failing how)
{
  static const char code[] =
      "local peri = require 'perilune'\n"
      "ended = 0\n"
      "for i = 1, 3 do\n"
      "  peri.create_task(function()\n"
      "    local _ <close> = peri.defer(function() ended = ended + 1 end)\n"
      "    peri.sleep(60)\n"
      "  end)\n"
      "end\n"
      "peri.sleep(0)\n"
      "peri.sleep(0)\n";
  peri_runtime *runtime = open_runtime(h);
  CHECK_INT(PERI_OK, start_code(runtime, code));
  CHECK_INT(1, peri_step(runtime, 0));
  CHECK_INT(1, peri_step(runtime, 0));
  arm(h, n, how);
  check_status(h, runtime, PERI_OK, step_to_end(runtime));
  check_works(runtime);
  CHECK_INT(3, global_integer(peri_state(runtime), "ended"));
  peri_close(runtime);
}

static void c_backend(host *h, long long n, failing how)
{
  peri_runtime *runtime = open_runtime(h);
  arm(h, n, how);
  int fd = peri_backend_fd(runtime);
  check_status(h, runtime, PERI_OK, fd >= 0 ? PERI_OK : fd);
  CHECK(peri_backend_fd(runtime) >= 0);
  check_works(runtime);
  peri_close(runtime);
}

static void count_post(lua_State *L, void *argument)
{
  ++*(int *)argument;
  lua_newtable(L);
  lua_pushinteger(L, 1);
  lua_setfield(L, -2, "field");
}

/* Posts reach the loop, and the run goes on, whatever they come to. */
static void c_post(host *h, long long n, failing how)
{
  peri_runtime *runtime = open_runtime(h);
  int called = 0;
  CHECK_INT(PERI_OK, start_code(runtime, "require 'perilune'.sleep(0.0001)\n"));
  CHECK_INT(1, peri_step(runtime, 0));
  for (int i = 0; i < 3; i++)
    CHECK_INT(PERI_OK, peri_post(runtime, count_post, &called));
  arm(h, n, how);
  int status = peri_step(runtime, 0);
  disarm(h);
  h->fine = h->lines == 0;
  CHECK_INT(1, status);
  CHECK_INT(3, called);
  CHECK_INT(PERI_OK, step_to_end(runtime));
  check_works(runtime);
  peri_close(runtime);
}

static void c_interrupt(host *h, long long n, failing how)
{
  peri_runtime *runtime = open_runtime(h);
  CHECK_INT(PERI_OK, start_code(runtime, "require 'perilune'.sleep(60)\n"));
  CHECK_INT(1, peri_step(runtime, 0));
  CHECK_INT(1, peri_interrupt(runtime));
  CHECK_INT(1, peri_interrupts_pending(runtime));
  arm(h, n, how);
  int status = step_to_end(runtime);
  check_status(h, runtime, PERI_EINTERRUPTED, status);
  check_works(runtime);
  peri_close(runtime);
}

static void c_exit(host *h, long long n, failing how)
{
  peri_runtime *runtime = NULL;
  peri_options options;
  options_of(&options, h);
  options.patch |= PERI_PATCH_EXIT;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  arm(h, n, how);
  int status = run_code(runtime, "os.exit(3)");
  check_status(h, runtime, PERI_EEXIT, status);
  if (h->fine)
    CHECK_INT(3, peri_exit_code(runtime));
  check_works(runtime);
  peri_close(runtime);
}

/* What is loaded when it is first needed; a ramp over that is below. */
static void load_library(peri_runtime *runtime)
{
  static const char code[] =
      "for _, name in ipairs { 'errors', 'inspect', 'log', 'runner' } do\n"
      "  require('perilune.' .. name)\n"
      "end\n";
  CHECK_INT(PERI_OK, run_code(runtime, code));
}

/* The text of an error, which needs memory: there is one all the same. */
static void c_error(host *h, long long n, failing how)
{
  peri_runtime *runtime = open_runtime(h);
  load_library(runtime);
  CHECK_INT(PERI_OK,
            start_code(runtime, "local peri = require 'perilune'\n"
                                "error(peri.ValueError 'what went wrong')\n"));
  arm(h, n, how);
  int status = step_to_end(runtime);
  disarm(h);
  h->fine = status == PERI_EFAILED;
  if (!h->fine)
    CHECK_INT(PERI_ENOMEM, status);
  CHECK(strstr(peri_error(runtime), "what went wrong") != NULL ||
        strstr(peri_error(runtime), "not enough memory") != NULL);
  check_works(runtime);
  peri_close(runtime);
}

static void c_print_tasks(host *h, long long n, failing how)
{
  peri_runtime *runtime = open_runtime(h);
  load_library(runtime);
  CHECK_INT(PERI_OK, start_code(runtime, "require 'perilune'.sleep(0.0001)\n"));
  CHECK_INT(1, peri_step(runtime, 0));
  peri_print_tasks(runtime);
  arm(h, n, how);
  CHECK_INT(1, peri_step(runtime, 0));
  disarm(h);
  CHECK_INT(1, h->lines);
  h->fine = strncmp(h->line, "1 task:", 7) == 0;
  CHECK(h->fine || strstr(h->line, "not enough memory") != NULL);
  CHECK_INT(PERI_OK, step_to_end(runtime));
  check_works(runtime);
  peri_close(runtime);
}

static void c_deadlock(host *h, long long n, failing how)
{
  peri_runtime *runtime = NULL;
  peri_options options;
  options_of(&options, h);
  options.deadlock = 1;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  load_library(runtime);
  arm(h, n, how);
  int status = run_code(runtime, "require 'perilune'.Future():await()");
  check_status(h, runtime, PERI_EDEADLOCK, status);
  check_works(runtime);
  peri_close(runtime);
}

/* What debug mode notes and reports is not worth a run. */
static void c_run_debug(host *h, long long n, failing how)
{
  static const char code[] =
      "local peri = require 'perilune'\n"
      "local loop = peri.get_running_loop()\n"
      "loop.slow_callback_duration = 0\n"
      "local task = peri.create_task(peri.sleep, 0.0001, 2)\n"
      "loop:call_soon(function() x = 1 end)\n"
      "loop:call_later(0.0001, function() x = x + 1 end)\n"
      "local results = peri.gather(task, function() return 3 end):await()\n"
      "x = results[1] + results[2]\n";
  peri_runtime *runtime = NULL;
  peri_options options;
  options_of(&options, h);
  options.debug = 1;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  load_library(runtime);
  arm(h, n, how);
  check_status(h, runtime, PERI_OK, run_code(runtime, code));
  if (h->fine)
    CHECK_INT(5, global_integer(peri_state(runtime), "x"));
  check_works(runtime);
  peri_close(runtime);
}

/* Nothing here asks for memory. */
static void c_asking(host *h, long long n, failing how)
{
  peri_runtime *runtime = open_runtime(h);
  arm(h, n, how);
  CHECK(peri_version() != NULL);
  CHECK(peri_of(peri_state(runtime)) == runtime);
  CHECK_INT(-1, peri_backend_timeout(runtime));
  CHECK_INT(0, peri_exit_code(runtime));
  CHECK_INT(0, peri_interrupts_pending(runtime));
  CHECK_TEXT("", peri_error(runtime));
  peri_hold(runtime);
  peri_release(runtime);
  peri_restore_terminal(runtime);
  disarm(h);
  h->fine = 1;
  CHECK(!h->reached);
  peri_close(runtime);
}

/* The library's modules are loaded when one of their names is first used: what
 * failed half is loaded anew. */
static void load_lazily(host *h, long long n, failing how, const char *code)
{
  peri_runtime *runtime = open_runtime(h);
  arm(h, n, how);
  check_status(h, runtime, PERI_OK, run_code(runtime, code));
  CHECK_INT(PERI_OK, run_code(runtime, code));
  check_works(runtime);
  peri_close(runtime);
}

static void c_require(host *h, long long n, failing how)
{
  load_lazily(h, n, how, "assert(require 'perilune'.sleep)");
}

static void c_load_errors(host *h, long long n, failing how)
{
  load_lazily(h, n, how,
              "local class = require 'perilune'.ValueError\n"
              "assert(class:is(class 'x'))");
}

static void c_load_locks(host *h, long long n, failing how)
{
  load_lazily(h, n, how,
              "local lock <close> = require 'perilune'.Lock():guard()");
}

static void c_load_combinators(host *h, long long n, failing how)
{
  load_lazily(h, n, how,
              "local peri = require 'perilune'\n"
              "assert(peri.map(function(x) return x end, { 4 })[1] == 4)");
}

static const struct {
  const char *name;
  c_case *make;
} c_cases[] = {{"peri_new", c_new},
               {"peri_attach", c_attach},
               {"peri_close", c_close},
               {"peri_run", c_run},
               {"peri_run_string", c_run_string},
               {"peri_run_file", c_run_file},
               {"peri_run_string, debug mode", c_run_debug},
               {"peri_start", c_start},
               {"peri_start_string", c_start_string},
               {"peri_start_file", c_start_file},
               {"peri_step", c_step},
               {"peri_step, leftovers", c_step_leftovers},
               {"peri_backend_fd", c_backend},
               {"peri_post", c_post},
               {"peri_interrupt", c_interrupt},
               {"peri_exit_code", c_exit},
               {"peri_print_tasks", c_print_tasks},
               {"a deadlock of the main task", c_deadlock},
               {"peri_error", c_error},
               {"peri_version, peri_of, peri_state, peri_options_init, "
                "peri_backend_timeout, peri_interrupts_pending, "
                "peri_hold, peri_release, peri_restore_terminal",
                c_asking},
               {"require perilune", c_require},
               {"perilune.errors, loaded late", c_load_errors},
               {"perilune.locks, loaded late", c_load_locks},
               {"perilune.combinators, loaded late", c_load_combinators}};

#endif
