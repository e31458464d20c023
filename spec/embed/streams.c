/* Streams in a host: on its own loop and step by step, without SIGPIPE, and out
 * of memory. A ramp makes the n-th allocation of the state fail, for every n,
 * while a script serves, connects, reads and writes: each point ends in the
 * documented status, and neither bytes nor descriptors are left. */
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "check.h"

typedef struct allocator {
  long long count;   /* allocations since the script has armed it */
  long long fail_at; /* the one to fail; 0: none */
  int forever;       /* and all after it */
  int armed;
  long long bytes; /* in use */
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
  if (a->armed && new_size > old_size && ++a->count >= a->fail_at &&
      (a->count == a->fail_at || a->forever))
    return NULL;
  void *moved = realloc(block, new_size);
  if (moved != NULL)
    a->bytes += (long long)new_size - (long long)old_size;
  return moved;
}

static int count_descriptors(void)
{
  int n = 0;
  DIR *dir = opendir("/proc/self/fd");
  CHECK(dir != NULL);
  while (readdir(dir) != NULL)
    n++;
  closedir(dir);
  return n;
}

static int l_arm(lua_State *L)
{
  allocator *a = lua_touserdata(L, lua_upvalueindex(1));
  a->armed = a->fail_at > 0;
  return 0;
}

static const char script[] =
    "local peri = require 'perilune'\n"
    "local net = require 'perilune.net'\n"
    "peri.get_running_loop():set_exception_handler(function() end)\n"
    "local path = os.tmpname()\n"
    "os.remove(path)\n"
    "local limit = { timeout = seconds }\n"
    "local function echo(stream)\n"
    "  for line in stream:lines(limit) do stream:write(line, '\\n') end\n"
    "end\n"
    "local function talk(stream)\n"
    "  local _ <close> = stream\n"
    "  stream:write('one\\n', 'two\\n')\n"
    "  assert(stream:readline(limit) == 'one\\n')\n"
    "  assert(stream:readuntil('o', limit) == 'two')\n"
    "  local big = ('x'):rep(50000)\n"
    "  for _ = 1, 8 do stream:write(big) end\n"
    "  stream:write '\\n'\n"
    "  stream:drain(limit)\n"
    "  assert(#stream:readexactly(400001, limit) == 400001)\n"
    "  stream:write_eof()\n"
    "  assert(stream:read(-1, limit) == '\\n')\n"
    "end\n"
    "local function all()\n"
    "  local server <close> = net.start_server(echo, 'localhost', 0, { limit = "
    "500000 })\n"
    "  local _, port = server.sockets[1]:getsockname()\n"
    "  talk(net.open_connection('localhost', port, limit))\n"
    "  local unix <close> = net.start_unix_server(echo, path, { limit = 500000 "
    "})\n"
    "  talk(net.open_unix_connection(path, limit))\n"
    "end\n"
    "all()\n" /* loads what there is to load */
    "arm()\n"
    "all()\n"
    "done = 1\n";

/* Once nothing has memory, a wake-up by the script's own code may be lost: only
 * the time limits end that. */
static void open_runtime(peri_runtime **runtime, allocator *a)
{
  peri_options options;
  peri_options_init(&options);
  options.alloc = allocate;
  options.alloc_ud = a;
  CHECK_INT(PERI_OK, peri_new(runtime, &options));
  lua_State *L = peri_state(*runtime);
  lua_pushlightuserdata(L, a);
  lua_pushcclosure(L, l_arm, 1);
  lua_setglobal(L, "arm");
  lua_pushnumber(L, a->forever ? 0.1 : 10);
  lua_setglobal(L, "seconds");
}

/* Makes the n-th allocation fail; returns how many there were. */
static long long point(long long n, int forever, int *outcomes)
{
  allocator a = {.fail_at = n, .forever = forever};
  int descriptors = count_descriptors();
  peri_runtime *runtime;
  open_runtime(&runtime, &a);
  int status = run_code(runtime, script);
  a.armed = 0;
  if (status != PERI_OK && strstr(peri_error(runtime), "memory") == NULL) {
    /* The other end has lost its connection, of memory, too. */
    CHECK(forever || strstr(peri_error(runtime), "Timeout") == NULL);
    CHECK(strstr(peri_error(runtime), "OSError") != NULL ||
          strstr(peri_error(runtime), "TimeoutError") != NULL ||
          strstr(peri_error(runtime), "IncompleteReadError") != NULL ||
          strstr(peri_error(runtime), "assertion failed") != NULL);
    status = PERI_ENOMEM;
  }
  /* Where even a __close had no memory, the collector closes the connection. */
  CHECK_INT(PERI_OK, run_code(runtime, "for _ = 1, 2 do collectgarbage() end"));
  peri_close(runtime);
  outcomes[-status]++;
  CHECK_INT(descriptors, count_descriptors());
  CHECK_INT(0, a.bytes);
  return a.count;
}

static void ramp(int forever)
{
  int outcomes[16] = {0};
  /* On a slow machine a time limit ends a run before it is through: how many
   * points there are is told by one that nothing happens to. */
  long long n = 1, last = point(1000000000, 0, outcomes);
  CHECK(last > 100);
  for (; n <= last; n++)
    point(n, forever, outcomes);
  if (forever)
    CHECK(outcomes[-PERI_ENOMEM] + outcomes[-PERI_EFAILED] > 50);
  printf("memory ramp%s: %lld points; ok %d, failed %d, no memory %d\n",
         forever ? ", failing for good" : "", n, outcomes[0],
         outcomes[-PERI_EFAILED], outcomes[-PERI_ENOMEM]);
}

/* On the host's libuv loop, step by step: the host waits itself. */
static void steps(void)
{
  uv_loop_t loop;
  CHECK_INT(0, uv_loop_init(&loop));
  peri_options options;
  peri_options_init(&options);
  options.uv_loop = &loop;
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  CHECK_INT(PERI_OK, run_code(runtime, "function arm() end seconds = 10"));
  CHECK_INT(PERI_OK, start_code(runtime, script));
  int status;
  while ((status = peri_step(runtime, 0)) > 0) {
    struct pollfd fd = {.fd = peri_backend_fd(runtime), .events = POLLIN};
    CHECK(poll(&fd, 1, peri_backend_timeout(runtime)) >= 0);
  }
  if (status != PERI_OK)
    fprintf(stderr, "%s\n", peri_error(runtime));
  CHECK_INT(PERI_OK, status);
  CHECK_INT(1, global_integer(peri_state(runtime), "done"));
  peri_close(runtime);
  CHECK_INT(0, uv_loop_close(&loop));
}

/* Ends while connections are open, idle and busy. */
static void ends_in_between(void)
{
  int descriptors = count_descriptors();
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  CHECK_INT(
      PERI_OK,
      start_code(
          runtime,
          "local peri = require 'perilune'\n"
          "local net = require 'perilune.net'\n"
          "local server = net.start_server(function(s) s:read() end, nil, 0)\n"
          "local _, port = server.sockets[1]:getsockname()\n"
          "streams = {}\n"
          "for i = 1, 20 do\n"
          "  streams[i] = net.open_connection('localhost', port)\n"
          "  streams[i]:write(('x'):rep(i * 100000))\n"
          "end\n"
          "ready = 1\n"
          "streams[1]:read()\n"));
  while (global_integer(peri_state(runtime), "ready") == 0)
    CHECK(peri_step(runtime, 0) > 0);
  peri_close(runtime);
  CHECK_INT(descriptors, count_descriptors());
}

/* A second runtime on the same state has modules of its own. */
static void attached_twice(void)
{
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  for (int i = 0; i < 2; i++) {
    peri_runtime *runtime;
    CHECK_INT(PERI_OK, peri_attach(&runtime, L, NULL));
    CHECK_INT(PERI_OK, run_code(runtime, "done = nil seconds = 10 "
                                         "function arm() end"));
    CHECK_INT(PERI_OK, run_code(runtime, script));
    CHECK_INT(1, global_integer(L, "done"));
    peri_close(runtime);
  }
  lua_close(L);
}

static volatile sig_atomic_t broken_pipes;

static void on_broken_pipe(int number)
{
  (void)number;
  broken_pipes++;
}

/* The host has a handler for SIGPIPE, and calls a script outside of a run. */
static void no_sigpipe(void)
{
  peri_runtime *runtime;
  signal(SIGPIPE, on_broken_pipe);
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  lua_State *L = peri_state(runtime);
  CHECK_INT(LUA_OK,
            luaL_dostring(
                L,
                "local peri = require 'perilune'\n"
                "local net = require 'perilune.net'\n"
                "local loop = peri.new_event_loop()\n"
                "local stream = loop:run_until_complete(peri.call(function()\n"
                "  local server = net.start_server(function() end, nil, 0)\n"
                "  local _, port = server.sockets[1]:getsockname()\n"
                "  local stream = net.open_connection('localhost', port)\n"
                "  assert(stream:read() == '')\n"
                "  server:close()\n"
                "  return stream\n"
                "end))\n"
                "local ok, err\n"
                "for _ = 1, 1000 do\n"
                "  ok, err = pcall(stream.write, stream, 'x')\n"
                "  if not ok then break end\n"
                "end\n"
                "assert(err.code == 'EPIPE' or err.code == 'ECONNRESET')\n"
                "loop:close()\n"));
  peri_close(runtime);
  CHECK_INT(0, broken_pipes);
  signal(SIGPIPE, SIG_DFL);
}

/* streams [N [FOREVER]] tries the one point again that a ramp stopped at. */
int main(int argc, char **argv)
{
  steps(); /* libuv opens some descriptors for the process */
  if (argc > 1) {
    int outcomes[16] = {0};
    point(atoll(argv[1]), argc > 2, outcomes);
    return 0;
  }
  ends_in_between();
  no_sigpipe();
  attached_twice();
  ramp(0);
  ramp(1);
  return 0;
}
