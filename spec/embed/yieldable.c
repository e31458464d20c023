/* perilune.yieldable in hosts: whose require it is, and what is left of it
 * where a host has little; and out of memory at every point. */
#include "check.h"

static const char modules[] =
    "local peri = require 'perilune'\n"
    "package.preload.slow = function(name) return peri.sleep(0, name) end\n";

static peri_runtime *make(unsigned patch)
{
  peri_options options;
  peri_options_init(&options);
  options.patch |= patch;
  options.memory_limit = 4 << 20;
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  CHECK_INT(PERI_OK, run_code(runtime, modules));
  return runtime;
}

/* A host's require stays Lua's, unless it is to be ours. */
static void whose_require(void)
{
  peri_runtime *runtime = make(0);
  CHECK_INT(PERI_EFAILED, run_code(runtime, "require 'slow'"));
  CHECK_TEXT("RuntimeError: cannot wait in 'sleep': the C function 'require' "
             "in between cannot be suspended",
             peri_error(runtime));
  CHECK_INT(PERI_OK,
            run_code(runtime, "local y = require 'perilune.yieldable'\n"
                              "assert(y.require ~= require)\n"
                              "assert(y.require 'slow' == 'slow')\n"));
  peri_close(runtime);
  runtime = make(PERI_PATCH_REQUIRE);
  CHECK_INT(PERI_OK, run_code(runtime, "assert(require 'slow' == 'slow')"));
  peri_close(runtime);
}

/* A state with nothing but the basic functions. */
static void without_package(void)
{
  lua_State *L = luaL_newstate();
  CHECK(L != NULL);
  luaL_requiref(L, LUA_GNAME, luaopen_base, 1);
  luaL_requiref(L, LUA_STRLIBNAME, luaopen_string, 1);
  luaL_requiref(L, LUA_TABLIBNAME, luaopen_table, 1);
  luaL_requiref(L, LUA_COLIBNAME, luaopen_coroutine, 1);
  lua_settop(L, 0);
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_attach(&runtime, L, NULL));
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_getfield(L, -1, "perilune.yieldable");
  lua_pushliteral(L, "perilune.yieldable");
  lua_call(L, 1, 1);
  lua_setglobal(L, "y");
  lua_settop(L, 0);
  CHECK_INT(PERI_OK,
            run_code(runtime,
                     "local ok, err = pcall(y.require, 'anything')\n"
                     "assert(err == \"'package.searchers' must be a table\")\n"
                     "local list = { 2, 3, 1 }\n"
                     "y.sort(list, function(a, b) return a < b end)\n"
                     "assert(list[1] == 1 and list[3] == 3)\n"));
  peri_close(runtime);
  lua_close(L);
}

/* As in Lua a message handler is not called for want of memory. */
static void no_memory_for_xpcall(void)
{
  peri_runtime *runtime = make(0);
  CHECK_INT(PERI_OK,
            run_code(runtime,
                     "local peri = require 'perilune'\n"
                     "local y = require 'perilune.yieldable'\n"
                     "local ok, err = y.xpcall(function()\n"
                     "  peri.sleep(0)\n"
                     "  return ('x'):rep(8 << 20)\n"
                     "end, function() handled = 1 end)\n"
                     "assert(ok == false and err == 'not enough memory')\n"
                     "assert(handled == nil)\n"));
  peri_close(runtime);
}

/* -- The ramp ---------------------------------------------------------------- */

typedef struct allocator {
  long long count;   /* allocations so far */
  long long fail_at; /* from this one on all fail; 0: none */
  long long bytes;   /* in use */
} allocator;

static void *allocate(void *ud, void *block, size_t old_size, size_t new_size)
{
  allocator *a = ud;
  if (block == NULL)
    old_size = 0;
  if (new_size == 0) {
    a->bytes -= (long long)old_size;
    free(block);
    return NULL;
  }
  /* Lua relies on shrinking not to fail. */
  a->count++;
  if (new_size > old_size && a->fail_at > 0 && a->count >= a->fail_at)
    return NULL;
  void *moved = realloc(block, new_size);
  if (moved != NULL)
    a->bytes += (long long)new_size - (long long)old_size;
  return moved;
}

/* What must be loaded stands before the ramp, what is to fail in it. */
static const char prepare[] =
    "peri = require 'perilune'\n"
    "y = require 'perilune.yieldable'\n"
    "require 'perilune.modules'\n"
    "require 'perilune.errors'\n"
    "function slow(...) return peri.sleep(0, ...) end\n"
    "function less(a, b) return slow(a < b) end\n";

static const char script[] =
    "list = { 5, 2, 4, 1, 3 }\n"
    "y.sort(list, less)\n"
    "y.sort(setmetatable({}, { __len = function() return slow(3) end,\n"
    "  __index = function(_, i) return slow(-i) end,\n"
    "  __newindex = slow }))\n"
    "y.gsub('one two', '(%w)(%w*)', function(a, b) return slow(b .. a) end)\n"
    "y.gsub('one', '%w', setmetatable({}, { __index = function(_, k)\n"
    "  return slow(k)\n"
    "end }))\n"
    "y.tostring(setmetatable({}, { __tostring = function()\n"
    "  return slow 'told'\n"
    "end }))\n"
    "y.xpcall(function() slow() error 'x' end, function(...) return slow(...) "
    "end)\n"
    "package.preload.m = function(...) return slow(...) end\n"
    "package.loaded.m = nil\n"
    "local a, b = peri.create_task(y.require, 'm'), "
    "peri.create_task(y.require, 'm')\n"
    "a:await()\n"
    "b:await()\n"
    "done = 1\n";

/* Returns whether the point was reached. */
static int point(long long n)
{
  allocator a = {0};
  peri_options options;
  peri_options_init(&options);
  options.alloc = allocate;
  options.alloc_ud = &a;
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  CHECK_INT(PERI_OK, run_code(runtime, prepare));
  a.count = 0;
  a.fail_at = n;
  int status = run_code(runtime, script);
  int reached = n <= a.count;
  a.fail_at = 0;
  if (status != PERI_OK) {
    CHECK(reached && (status == PERI_ENOMEM || status == PERI_EFAILED));
    CHECK(strstr(peri_error(runtime), "memory") != NULL);
  } else {
    CHECK_INT(1, global_integer(peri_state(runtime), "done"));
  }
  /* Nothing of what failed stands in the way. */
  CHECK_INT(PERI_OK, run_code(runtime, "done = nil"));
  if (run_code(runtime, script) != PERI_OK)
    CHECK_TEXT("no error", peri_error(runtime));
  CHECK_INT(1, global_integer(peri_state(runtime), "done"));
  peri_close(runtime);
  CHECK_INT(0, a.bytes);
  return reached;
}

int main(void)
{
  whose_require();
  without_package();
  no_memory_for_xpcall();
  long long n = 1;
  while (point(n))
    n++;
  CHECK(n > 100);
  printf("memory ramp: %lld points\n", n);
  return 0;
}
