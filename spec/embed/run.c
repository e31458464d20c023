/* A host that lets Perilune make the state, and runs strings, files and
 * functions to completion. */
#include "check.h"

static void runs_strings(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  lua_State *L = peri_state(runtime);
  CHECK(peri_of(L) == runtime);
  CHECK_INT(0, lua_gettop(L));
  CHECK_TEXT("", peri_error(runtime));

  CHECK_INT(PERI_OK, run_code(runtime, "peri = require 'perilune'\n"
                                       "x = peri.sleep(0.001, 42)"));
  CHECK_INT(42, global_integer(L, "x"));
  /* Again, on the same state. */
  CHECK_INT(PERI_OK, run_code(runtime, "x = x + peri.sleep(0, 1)"));
  CHECK_INT(43, global_integer(L, "x"));
  CHECK_INT(0, lua_gettop(L));
  peri_close(runtime);
}

static void tells_errors(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  CHECK_INT(PERI_EFAILED, run_code(runtime, "local x = = 1"));
  CHECK_TEXT("spec:1: unexpected symbol near '='", peri_error(runtime));
  CHECK_INT(PERI_EFAILED, run_code(runtime, "local function culprit()\n"
                                            "  error 'oops'\n"
                                            "end\n"
                                            "culprit()\n"));
  CHECK_TEXT("spec:2: oops\nstack traceback:\n", peri_error(runtime));
  CHECK(strstr(peri_error(runtime), "culprit") != NULL);
  CHECK(strstr(peri_error(runtime), "spec:4: in main chunk") != NULL);
  CHECK_INT(PERI_EFAILED, run_code(runtime, "error {}"));
  CHECK_TEXT("(error object is a table value)", peri_error(runtime));
  CHECK_INT(PERI_EFAILED, peri_run_file(runtime, "/nonexistent.lua"));
  CHECK_TEXT("cannot open /nonexistent.lua", peri_error(runtime));
  /* The state is none the worse for it. */
  CHECK_INT(PERI_OK, run_code(runtime, "x = 1"));
  CHECK_INT(0, lua_gettop(peri_state(runtime)));
  peri_close(runtime);
}

static void runs_files(void)
{
  char path[] = "/tmp/perilune_spec_XXXXXX";
  int fd = mkstemp(path);
  CHECK(fd >= 0);
  FILE *file = fdopen(fd, "w");
  fputs("#!/usr/bin/env perilune\n"
        "x, n = require('perilune').sleep(0, 7), select('#', ...)\n",
        file);
  fclose(file);
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  CHECK_INT(PERI_OK, peri_run_file(runtime, path));
  CHECK_INT(7, global_integer(peri_state(runtime), "x"));
  CHECK_INT(0, global_integer(peri_state(runtime), "n"));
  CHECK_INT(PERI_OK, run_code(runtime, "x = nil"));
  CHECK_INT(PERI_OK, peri_start_file(runtime, path));
  while (peri_step(runtime, 0) > 0)
    ;
  CHECK_INT(7, global_integer(peri_state(runtime), "x"));
  peri_close(runtime);
  remove(path);
}

static int logged_level;
static char logged[200];

static void on_log(void *ud, int level, const char *text)
{
  CHECK(ud == &logged_level);
  logged_level = level;
  snprintf(logged, sizeof logged, "%s", text);
}

static void logs_to_the_host(void)
{
  peri_options options;
  peri_options_init(&options);
  options.log = on_log;
  options.log_ud = &logged_level;
  options.debug = 1;
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  CHECK_INT(PERI_OK,
            run_code(runtime, "local peri = require 'perilune'\n"
                              "local log = require 'perilune.log'\n"
                              "assert(peri.get_running_loop():get_debug())\n"
                              "log.warning('mind the %s', 'gap')\n"));
  CHECK_INT(30, logged_level);
  CHECK(strstr(logged, "mind the gap") != NULL);
  CHECK_INT(PERI_OK,
            run_code(runtime, "local peri = require 'perilune'\n"
                              "peri.get_running_loop():call_soon(error, 'x')\n"
                              "peri.sleep(0)\n"));
  CHECK_INT(40, logged_level);
  CHECK(strstr(logged, "an error in a call_soon callback\nx") != NULL);
  peri_close(runtime);
}

static void on_warning(void *ud, const char *text, int to_be_continued)
{
  CHECK(ud == logged && !to_be_continued);
  snprintf(logged, sizeof logged, "%s", text);
}

static void logs_to_warnings_without_the_host(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  lua_setwarnf(peri_state(runtime), on_warning, logged);
  CHECK_INT(PERI_OK,
            run_code(runtime, "warn = nil\n"
                              "require 'perilune'\n"
                              "require 'perilune.log'.error('to whom?')\n"));
  CHECK_TEXT("ERROR perilune: to whom?", logged);
  peri_close(runtime);
}

static void runs_functions(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  lua_State *L = peri_state(runtime);
  lua_pushliteral(L, "below");
  CHECK_INT(LUA_OK, luaL_loadstring(L, "local a, b = ...\n"
                                       "local peri = require 'perilune'\n"
                                       "return peri.sleep(0, b, a, nil)"));
  lua_pushinteger(L, 1);
  lua_pushinteger(L, 2);
  CHECK_INT(PERI_OK, peri_run(runtime, 2, LUA_MULTRET));
  CHECK_INT(4, lua_gettop(L));
  CHECK_INT(2, lua_tointeger(L, 2));
  CHECK_INT(1, lua_tointeger(L, 3));
  CHECK(lua_isnil(L, 4));
  lua_settop(L, 1);

  /* Exactly as many results as asked for. */
  CHECK_INT(LUA_OK, luaL_loadstring(L, "return 'only one'"));
  CHECK_INT(PERI_OK, peri_run(runtime, 0, 3));
  CHECK_INT(4, lua_gettop(L));
  CHECK_TEXT("only one", lua_tostring(L, 2));
  CHECK(lua_isnil(L, 3) && lua_isnil(L, 4));
  lua_settop(L, 1);

  /* Nothing stands in its place if it fails. */
  CHECK_INT(LUA_OK, luaL_loadstring(L, "error 'no'"));
  CHECK_INT(PERI_EFAILED, peri_run(runtime, 0, 3));
  CHECK_INT(1, lua_gettop(L));
  CHECK_TEXT("below", lua_tostring(L, 1));
  peri_close(runtime);
}

static void waits_for_leftovers(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  CHECK_INT(PERI_OK,
            run_code(runtime, "local peri = require 'perilune'\n"
                              "peri.create_task(function()\n"
                              "  local _ <close> = peri.defer(function()\n"
                              "    peri.sleep(0)\n"
                              "    ended = 1\n"
                              "  end)\n"
                              "  peri.sleep(60)\n"
                              "end)\n"
                              "peri.sleep(0)\n"));
  CHECK_INT(1, global_integer(peri_state(runtime), "ended"));
  peri_close(runtime);
}

/* os.exit is the host's affair unless it asks for the patch. */
static void hands_exit_to_the_host(void)
{
  peri_options options;
  peri_options_init(&options);
  CHECK(options.size == sizeof options);
  options.patch |= PERI_PATCH_EXIT;
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  CHECK_INT(0, peri_exit_code(runtime));
  CHECK_INT(PERI_EEXIT,
            run_code(runtime,
                     "local peri = require 'perilune'\n"
                     "local _ <close> = peri.defer(function() x = 1 end)\n"
                     "pcall(function() os.exit(7) end)\n"
                     "x = 2\n"));
  CHECK_INT(7, peri_exit_code(runtime));
  CHECK_INT(1, global_integer(peri_state(runtime), "x"));
  peri_close(runtime);
}

static void leaves_exit_alone(void)
{
  peri_runtime *runtime;
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  lua_getglobal(L, "os");
  lua_getfield(L, -1, "exit");
  const void *stock = lua_topointer(L, -1);
  lua_pop(L, 2);
  CHECK_INT(PERI_OK, peri_attach(&runtime, L, NULL));
  lua_getglobal(L, "os");
  lua_getfield(L, -1, "exit");
  CHECK(lua_topointer(L, -1) == stock);
  lua_pop(L, 2);
  peri_close(runtime);
  lua_close(L);
}

static void checks_its_arguments(void)
{
  peri_runtime *runtime = NULL;
  CHECK_TEXT(PERI_VERSION, peri_version());
  peri_close(NULL);
  peri_options options;
  peri_options_init(&options);
  options.size = 3;
  CHECK_INT(PERI_EINVAL, peri_new(&runtime, &options));
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  peri_runtime *second;
  CHECK_INT(PERI_EINVAL, peri_attach(&second, peri_state(runtime), NULL));
  peri_close(runtime);
}

int main(void)
{
  runs_strings();
  tells_errors();
  runs_files();
  logs_to_the_host();
  logs_to_warnings_without_the_host();
  runs_functions();
  waits_for_leftovers();
  hands_exit_to_the_host();
  leaves_exit_alone();
  checks_its_arguments();
  return 0;
}
