/* Debug mode as a host sees it: set by an option only; calls of a loop from
 * another thread are refused; slow posts are told; what the script still holds
 * when the runtime closes is told as well. */
#include "check.h"

static char logged[4000];

static void on_log(void *ud, int level, const char *text)
{
  (void)ud;
  size_t length = strlen(logged);
  snprintf(logged + length, sizeof logged - length, "%d %s\n", level, text);
}

static peri_runtime *make(int debug)
{
  peri_options options;
  peri_runtime *runtime;
  peri_options_init(&options);
  options.log = on_log;
  options.debug = debug;
  *logged = '\0';
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  return runtime;
}

static void is_not_set_by_the_environment(void)
{
  setenv("PERILUNE_DEBUG", "1", 1);
  peri_runtime *runtime = make(0);
  CHECK_INT(PERI_OK,
            run_code(runtime,
                     "local peri = require 'perilune'\n"
                     "assert(not peri.get_running_loop():get_debug())\n"
                     "assert(not peri.new_event_loop():get_debug())\n"
                     "kept = peri.call(print)\n"));
  peri_close(runtime);
  CHECK_TEXT("", logged);
  CHECK_INT(0, strlen(logged));
  unsetenv("PERILUNE_DEBUG");
}

/* -- Another thread ------------------------------------------------------- */

typedef struct call {
  lua_State *L;
  int status;
} call;

static void call_there(void *ud)
{
  call *c = ud;
  c->status = lua_pcall(c->L, 0, 0, 0);
}

/* there(fn): calls fn on another thread, while this one stands still. Returns
 * the error as text, or nil. */
static int l_there(lua_State *L)
{
  uv_thread_t thread;
  call c = {L, 0};
  lua_settop(L, 1);
  CHECK_INT(0, uv_thread_create(&thread, call_there, &c));
  CHECK_INT(0, uv_thread_join(&thread));
  if (c.status == LUA_OK)
    return 0;
  luaL_tolstring(L, -1, NULL);
  return 1;
}

static const char foreign[] =
    "local peri = require 'perilune'\n"
    "local loop = peri.get_running_loop()\n"
    "local function nothing() end\n"
    "local function try(fn) seen = there(fn)\n"
    "  local is = (seen or ''):find('RuntimeError: Non-thread-safe operation "
    "'\n"
    "    .. 'invoked on an event loop other than the current one', 1, true)\n"
    "  assert((is ~= nil) == expected, seen)\n"
    "end\n"
    "try(function() loop:call_soon(nothing) end)\n"
    "try(function() loop:call_later(0.001, nothing) end)\n"
    "try(function() loop:call_at(loop:time(), nothing) end)\n"
    "try(function() loop:create_task(nothing) end)\n"
    "local future, other_task = peri.Future(), peri.create_task(peri.sleep, "
    "0)\n"
    "if expected then\n"
    "  try(function() future:set_result(1) end)\n"
    "  try(function() future:set_exception('bad') end)\n"
    "  try(function() future:cancel() end)\n"
    "  try(function() other_task:cancel() end)\n"
    "  assert(not future:done())\n"
    "end\n"
    "other_task:await()\n"
    "assert(not other_task:cancelled())\n"
    "future:set_result(1)\n"
    "try(function() future:add_done_callback(nothing) end)\n"
    "expected = false\n"
    "try(function() loop:call_soon_threadsafe(nothing) end)\n"
    "loop:call_soon(nothing)\n"
    "peri.sleep(0)\n"
    "local other = peri.new_event_loop()\n"
    "try(function() other:call_soon(nothing) end)\n"
    "other:close()\n";

static void refuses_other_threads(int debug)
{
  peri_runtime *runtime = make(debug);
  lua_State *L = peri_state(runtime);
  lua_register(L, "there", l_there);
  lua_pushboolean(L, debug);
  lua_setglobal(L, "expected");
  int status = run_code(runtime, foreign);
  CHECK_TEXT("", peri_error(runtime));
  CHECK_INT(PERI_OK, status);
  peri_close(runtime);
}

/* -- Posts ----------------------------------------------------------------- */

static void on_post(lua_State *L, void *argument)
{
  (void)argument;
  luaL_dostring(L, "posted:set_result()");
}

static void tells_slow_posts(void)
{
  peri_runtime *runtime = make(1);
  CHECK_INT(
      PERI_OK,
      start_code(runtime,
                 "local peri = require 'perilune'\n"
                 "posted = peri.Future()\n"
                 "peri.get_running_loop().slow_callback_duration = 0\n"
                 "posted:await()\n"
                 "peri.get_running_loop().slow_callback_duration = 60\n"));
  CHECK_INT(1, peri_step(runtime, 0));
  CHECK_INT(PERI_OK, peri_post(runtime, on_post, NULL));
  while (peri_step(runtime, 0) > 0)
    continue;
  CHECK(strstr(logged,
               "30 WARNING perilune: Executing <a posted callback> took "
               "0.") != NULL);
  peri_close(runtime);
}

/* -- The end --------------------------------------------------------------- */

static void tells_what_is_left_when_it_closes(void)
{
  peri_runtime *runtime = make(1);
  CHECK_INT(PERI_OK, run_code(runtime, "local peri = require 'perilune'\n"
                                       "kept = peri.call(print)\n"
                                       "group = peri.TaskGroup()\n"
                                       "loop = peri.new_event_loop()\n"));
  CHECK_INT(0, strlen(logged));
  peri_close(runtime);
  CHECK(strstr(logged, "RuntimeWarning: <coroutine object print> was never "
                       "awaited\ncreated at:\n\tspec:2: in ") != NULL);
  CHECK(strstr(logged, "ResourceWarning: unclosed task group\n"
                       "created at:\n\tspec:3: in ") != NULL);
  const char *loops = strstr(logged, "unclosed event loop");
  CHECK(loops != NULL && strstr(loops, "created at:\n\tspec:4: in ") != NULL);
  /* the host's own loop is no loose end */
  CHECK(strstr(loops + 1, "unclosed event loop") == NULL);
}

int main(void)
{
  is_not_set_by_the_environment();
  refuses_other_threads(1);
  refuses_other_threads(0);
  tells_slow_posts();
  tells_what_is_left_when_it_closes();
  return 0;
}
