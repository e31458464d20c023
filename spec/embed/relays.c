/* Out of memory where jobs in processes submit jobs: what is malloc's there. The
 * n-th request of ours fails, of the owner's while such a job runs, or of each
 * worker's from its start, for every n. The job ends, well or with an error; the
 * owner goes on. (Lua and libuv have their own here, which does not fail.) */
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

#include "check.h"

enum { LONGEST = 20 /* seconds: what takes longer hangs */ };

/* Points that are tried are so far apart: ThreadSanitizer takes long for each. */
#if defined(__SANITIZE_THREAD__)
enum { STRIDE = 12 };
#else
enum { STRIDE = 1 };
#endif

/* -- Memory that fails ------------------------------------------------------------ */

/* The linker has the calls of our objects come here (CMakeLists.txt). */
void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *block, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *block, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t size);

static atomic_llong count, fail_at; /* 0: none does */
static bool reached;

static bool fails(void)
{
  long long n = atomic_load(&fail_at);
  if (n == 0 || atomic_fetch_add(&count, 1) + 1 != n)
    return false;
  const char *path = getenv("PERILUNE_SPEC_REACHED");
  if (path != NULL) /* of a worker */
    close(open(path, O_CREAT | O_WRONLY, 0600));
  return true;
}

void *__wrap_malloc(size_t size)
{
  return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
  return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *block, size_t size)
{
  return fails() ? NULL : __real_realloc(block, size);
}

char *__wrap_strdup(const char *text)
{
  return fails() ? NULL : __real_strdup(text);
}

char *__wrap_strndup(const char *text, size_t size)
{
  return fails() ? NULL : __real_strndup(text, size);
}

static bool was_reached(void)
{
  long long n = atomic_load(&fail_at);
  return n > 0 && atomic_load(&count) >= n;
}

static void arm(long long n)
{
  atomic_store(&count, 0);
  atomic_store(&fail_at, n);
}

static void *allocate(void *ud, void *block, size_t old_size, size_t new_size)
{
  (void)ud, (void)old_size;
  if (new_size > 0)
    return __real_realloc(block, new_size);
  free(block);
  return NULL;
}

/* -- Jobs ------------------------------------------------------------------------- */

static const char script[] =
    "local peri = require 'perilune'\n"
    "local futures = require 'perilune.futures'\n"
    "local executor <close> = futures.ProcessPoolExecutor { max_workers = 2 }\n"
    /* More than one table of relays has room for, and all that may end them. */
    "local function many()\n"
    "  local own = require 'perilune.futures'.current_executor()\n"
    "  local jobs, n = {}, 0\n"
    "  for i = 1, 70 do\n"
    "    jobs[i] = own:submit(function(s)\n"
    "      if #s == 140 then error(s) end\n"
    "      return s .. s\n"
    "    end, ('x'):rep(2 * i))\n"
    "  end\n"
    "  jobs[69]:cancel()\n"
    "  jobs[68]:cancel { running = true }\n"
    "  for i = 1, 70 do n = n + (pcall(jobs[i].result, jobs[i]) and 1 or 0) "
    "end\n"
    "  return n\n"
    "end\n"
    "local function try(...)\n"
    "  local future = executor:submit(...)\n"
    "  return future:result()\n"
    "end\n"
    "local function is_lack(err)\n"
    "  return peri.BrokenProcessPool:is(err) or tostring(err):find 'memory'\n"
    "end\n"
    "arm(point)\n"
    "fine, err = pcall(try, many)\n"
    "arm(0)\n"
    "assert(fine or is_lack(err), err)\n"
    "local ok, value = pcall(try, math.abs, -1)\n"
    "assert(ok and value == 1 or is_lack(value), value)\n";

/* arm(n): the n-th from now on fails. */
static int l_arm(lua_State *L)
{
  reached = reached || was_reached();
  arm(luaL_checkinteger(L, 1));
  return 0;
}

static void on_log(void *ud, int level, const char *text)
{
  (void)ud, (void)level, (void)text;
}

static peri_options options_of(const char *const *command)
{
  peri_options options;
  peri_options_init(&options);
  options.alloc = allocate;
  options.worker_command = command;
  options.log = on_log;
  return options;
}

/* Of the owner, or of its workers. Whether all went well. */
static bool make_point(const char *const *command, bool owner, long long n)
{
  peri_runtime *runtime;
  peri_options options = options_of(command);
  char text[32];
  snprintf(text, sizeof text, "%lld", owner ? 0 : n);
  setenv("PERILUNE_SPEC_FAILS", text, 1);
  alarm(LONGEST);
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  lua_State *L = peri_state(runtime);
  lua_register(L, "arm", l_arm);
  lua_pushinteger(L, owner ? n : 0);
  lua_setglobal(L, "point");
  int status = run_code(runtime, script);
  arm(0);
  if (status != PERI_OK) {
    fprintf(stderr, "point %lld of the %s: %s\n", n,
            owner ? "owner" : "workers", peri_error(runtime));
    exit(1);
  }
  lua_getglobal(L, "fine");
  bool fine = lua_toboolean(L, -1);
  peri_close(runtime);
  return fine;
}

static void ramp_owner(const char *const *command)
{
  long long points = 0, well = 0;
  do {
    reached = false;
    well += make_point(command, true, 1 + STRIDE * points++);
  } while (reached);
  printf("%lld points of the owner, %lld went well\n", points - 1, well - 1);
}

/* A worker that has got so far makes the file. */
static void ramp_workers(const char *const *command)
{
  long long points = 0, well = 0;
  char path[] = "/tmp/perilune-XXXXXX";
  close(mkstemp(path));
  setenv("PERILUNE_SPEC_REACHED", path, 1);
  /* What such a worker leaves behind goes with it. */
  setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
  while (unlink(path) == 0)
    well += make_point(command, false, 1 + STRIDE * points++);
  printf("%lld points of the workers, %lld went well\n", points - 1, well - 1);
}

static int work(void)
{
  peri_options options = options_of(NULL);
  arm(atoll(getenv("PERILUNE_SPEC_FAILS")));
  return peri_worker_main(&options);
}

int main(int argc, char **argv)
{
  uv_replace_allocator(__real_malloc, __real_realloc, __real_calloc, free);
  if (argc > 1 && strcmp(argv[1], "--worker") == 0)
    return work();
  const char *const command[] = {argv[0], "--worker", NULL};
  ramp_owner(command);
  ramp_workers(command);
  return 0;
}
