/* Out of memory, call by call. For every public function and method of the core
 * a ramp makes the n-th request for memory fail while the call is under way, for
 * every n: each point ends in the documented error or well, the loop works
 * afterwards, nothing is lost, and when all is closed every byte is back. What
 * Lua's functions do, and the check that none was forgotten, stands in oom/, the
 * functions of perilune.h in oom/api.h. (libuv's own allocations are outside of
 * it: libuv 1.44 aborts on some of them.)
 *
 * oom                      makes every ramp
 * oom --list               tells the names
 * oom NAME...              those whose names contain one of these
 * oom =NAME N HOW          one point of one; HOW is 1, 2 or 3 (once, twice, for
 *                          good) */
#include <signal.h>
#include <unistd.h>

#include "oom/api.h"

/* Seconds: what takes longer hangs. */
enum { LONGEST = 60 };

/* -- What the cases in Lua call ------------------------------------------------- */

static host *host_of(lua_State *L)
{
  return lua_touserdata(L, lua_upvalueindex(1));
}

/* host.arm(n, how); n 0 ends it */
static int l_arm(lua_State *L)
{
  host *h = host_of(L);
  lua_Integer n = luaL_checkinteger(L, 1);
  if (n == 0)
    disarm(h);
  else
    arm(h, n, (failing)(luaL_checkinteger(L, 2) - 1));
  return 0;
}

static int under_k(lua_State *L, int status, lua_KContext ctx)
{
  host *h = (host *)ctx;
  disarm(h);
  h->fine = status == LUA_OK || status == LUA_YIELD;
  if (h->fine)
    return lua_gettop(L);
  lua_pushboolean(L, 0);
  lua_insert(L, -2);
  return 2;
}

/* host.under(n, how, fn, ...): pcall of fn, during which memory fails. */
static int l_under(lua_State *L)
{
  host *h = host_of(L);
  lua_Integer n = luaL_checkinteger(L, 1), how = luaL_checkinteger(L, 2);
  lua_pushboolean(L, 1);
  lua_replace(L, 2);
  lua_remove(L, 1);
  h->reached = 0;
  if (n > 0)
    arm(h, n, (failing)(how - 1));
  lua_KContext ctx = (lua_KContext)h;
  alarm(LONGEST);
  int status = lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, ctx, under_k);
  return under_k(L, status, ctx);
}

static int l_reached(lua_State *L)
{
  lua_pushboolean(L, host_of(L)->reached);
  return 1;
}

static int l_fine(lua_State *L)
{
  lua_pushboolean(L, host_of(L)->fine);
  return 1;
}

static int l_bytes(lua_State *L)
{
  lua_pushinteger(L, host_of(L)->allocator.bytes);
  return 1;
}

/* host.log_lines() -> how many since the last call, and the last one */
static int l_log_lines(lua_State *L)
{
  host *h = host_of(L);
  lua_pushinteger(L, h->lines);
  lua_pushstring(L, h->line);
  h->lines = 0;
  return 2;
}

/* host.mute(flag): keeps what is written to stderr from the test's output */
static int l_mute(lua_State *L)
{
  host *h = host_of(L);
  fflush(stderr);
  if (lua_toboolean(L, 1)) {
    h->muted = dup(2);
    CHECK(freopen("/dev/null", "w", stderr) != NULL);
  } else {
    dup2(h->muted, 2);
    close(h->muted);
  }
  return 0;
}

static const luaL_Reg functions[] = {
    {"arm", l_arm},   {"under", l_under}, {"reached", l_reached},
    {"fine", l_fine}, {"bytes", l_bytes}, {"log_lines", l_log_lines},
    {"mute", l_mute}, {NULL, NULL}};

static void push_host(lua_State *L, host *h)
{
  luaL_newlibtable(L, functions);
  lua_pushlightuserdata(L, h);
  luaL_setfuncs(L, functions, 1);
  lua_pushstring(L, h->directory);
  lua_setfield(L, -2, "directory");
}

/* -- Running the kit ------------------------------------------------------------- */

/* Runs kit.lua with an action and up to three arguments. Its results stand on
 * the state's stack; a negative number if it failed. */
static int run_kit(peri_runtime *runtime, host *h, const char *action,
                   const char *name, long long n, int how)
{
  lua_State *L = peri_state(runtime);
  char path[1100];
  snprintf(path, sizeof path, "%s/oom/kit.lua", h->directory);
  if (luaL_loadfile(L, path) != LUA_OK) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    return -1;
  }
  push_host(L, h);
  lua_pushstring(L, action);
  lua_pushstring(L, name);
  lua_pushinteger(L, n);
  lua_pushinteger(L, how);
  return peri_run(runtime, 5, LUA_MULTRET);
}

static int close_all(peri_runtime *runtime, host *h, const char *name)
{
  peri_close(runtime);
  if (h->allocator.bytes == 0)
    return 0;
  fprintf(stderr, "%s: %lld bytes were not freed\n", name, h->allocator.bytes);
  return 1;
}

/* Returns how many points there were, negative if it failed. */
static long long ramp_lua(const host *origin, const char *name)
{
  host h = *origin;
  peri_runtime *runtime = open_runtime(&h);
  int status = run_kit(runtime, &h, "ramp", name, 0, 0);
  allocator_arm(&h.allocator, 0, FAIL_ONCE);
  long long points = -1;
  if (status == PERI_OK)
    points = lua_tointeger(peri_state(runtime), -1);
  else
    printf("FAILED: %s: %s\n", name, peri_error(runtime));
  if (close_all(runtime, &h, name) != 0)
    return -1;
  return points;
}

static int point_lua(const host *origin, const char *name, long long n, int how)
{
  host h = *origin;
  peri_runtime *runtime = open_runtime(&h);
  int status = run_kit(runtime, &h, "point", name, n, how);
  allocator_arm(&h.allocator, 0, FAIL_ONCE);
  if (status != PERI_OK)
    fprintf(stderr, "%s: %s\n", name, peri_error(runtime));
  return close_all(runtime, &h, name) != 0 || status != PERI_OK;
}

/* For the message of a check that fails in the middle of a point. */
static struct {
  const char *name;
  long long n;
  int how;
} under_way;

static void on_alarm(int signal)
{
  static const char text[] = "the call hangs\n";
  (void)signal;
  (void)!write(2, text, sizeof text - 1);
  exit(1);
}

static void tell_point(void)
{
  if (under_way.name != NULL)
    fprintf(stderr, "at point %lld of %s, failing %d\n", under_way.n,
            under_way.name, under_way.how);
}

static void point_c(const host *origin, size_t i, long long n, failing how,
                    int *reached, int *fine)
{
  host h = *origin;
  under_way.name = c_cases[i].name;
  under_way.n = n;
  under_way.how = (int)how + 1;
  alarm(LONGEST);
  c_cases[i].make(&h, n, how);
  *reached = h.reached;
  *fine = h.fine;
  if (h.allocator.bytes != 0) {
    fprintf(stderr, "%s, point %lld, failing %d: %lld bytes were not freed\n",
            c_cases[i].name, n, how + 1, h.allocator.bytes);
    exit(1);
  }
  under_way.name = NULL;
}

static long long ramp_c(const host *origin, size_t i)
{
  long long points[3] = {0}, well = 0;
  for (int how = FAIL_ONCE; how <= FAIL_FOR_GOOD; how++)
    for (long long n = 1;; n++) {
      int reached, fine;
      point_c(origin, i, n, (failing)how, &reached, &fine);
      if (!reached)
        break;
      points[how]++;
      well += fine;
    }
  long long all = points[0] + points[1] + points[2];
  printf("%-44s %4lld points (%lld + %lld + %lld): %lld went well, "
         "%lld found no memory\n",
         c_cases[i].name, all, points[0], points[1], points[2], well,
         all - well);
  return all;
}

/* -- All of it --------------------------------------------------------------------------- */

static int wanted(int argc, char **argv, const char *name)
{
  for (int i = 1; i < argc; i++)
    if (*argv[i] == '=' ? strcmp(argv[i] + 1, name) == 0
                        : strstr(name, argv[i]) != NULL)
      return 1;
  return argc == 1;
}

enum { MOST_NAMES = 1000 };

static int names_of(const host *origin, char **names)
{
  host h = *origin;
  peri_runtime *runtime = open_runtime(&h);
  lua_State *L = peri_state(runtime);
  int status = run_kit(runtime, &h, "names", "", 0, 0);
  if (status != PERI_OK)
    fprintf(stderr, "%s\n", peri_error(runtime));
  CHECK_INT(PERI_OK, status);
  int n = lua_gettop(L);
  CHECK(n < MOST_NAMES);
  for (int i = 0; i < n; i++)
    names[i] = strdup(lua_tostring(L, i + 1));
  CHECK_INT(0, close_all(runtime, &h, "names"));
  return n;
}

/* Every public name is in a case. */
static int check_surface(const host *origin)
{
  host h = *origin;
  peri_runtime *runtime = open_runtime(&h);
  lua_State *L = peri_state(runtime);
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (size_t i = 0; i < sizeof c_cases / sizeof *c_cases; i++) {
    luaL_addstring(&b, c_cases[i].name);
    luaL_addstring(&b, "\n");
  }
  luaL_pushresult(&b);
  lua_setglobal(L, "c_cases");
  int status = run_kit(runtime, &h, "surface", "", 0, 0);
  if (status != PERI_OK)
    fprintf(stderr, "%s\n", peri_error(runtime));
  return close_all(runtime, &h, "surface") != 0 || status != PERI_OK;
}

static const char *short_name(const char *name)
{
  return strchr(name, ' ') + 1; /* the file's name stands before */
}

static int list(char **names, int n)
{
  for (size_t i = 0; i < sizeof c_cases / sizeof *c_cases; i++)
    printf("%s\n", c_cases[i].name);
  for (int i = 0; i < n; i++)
    printf("%s\n", short_name(names[i]));
  return 0;
}

static int one_point(const host *origin, char **names, int n, char **argv)
{
  long long point = atoll(argv[2]);
  int how = atoi(argv[3]), reached, fine;
  for (int i = 0; i < n; i++)
    if (strcmp(short_name(names[i]), argv[1] + 1) == 0)
      return point_lua(origin, names[i], point, how);
  for (size_t i = 0; i < sizeof c_cases / sizeof *c_cases; i++)
    if (strcmp(c_cases[i].name, argv[1] + 1) == 0) {
      point_c(origin, i, point, (failing)(how - 1), &reached, &fine);
      printf("%s\n", reached ? "reached" : "not reached");
      return 0;
    }
  fprintf(stderr, "there is no case '%s'\n", argv[1] + 1);
  return 1;
}

int main(int argc, char **argv)
{
  static char *names[MOST_NAMES];
  host origin = {0};
  long long cases = 0, points = 0;
  int failures = 0;
  setvbuf(stdout, NULL, _IOLBF, 0);
  atexit(tell_point);
  signal(SIGALRM, on_alarm);
  const char *slash = strrchr(__FILE__, '/');
  snprintf(origin.directory, sizeof origin.directory, "%.*s",
           slash != NULL ? (int)(slash - __FILE__) : 1,
           slash != NULL ? __FILE__ : ".");
  int n = names_of(&origin, names);
  if (argc == 2 && strcmp(argv[1], "--list") == 0)
    return list(names, n);
  if (argc == 4 && *argv[1] == '=')
    return one_point(&origin, names, n, argv);
  for (size_t i = 0; i < sizeof c_cases / sizeof *c_cases; i++)
    if (wanted(argc, argv, c_cases[i].name)) {
      points += ramp_c(&origin, i);
      cases++;
    }
  for (int i = 0; i < n; i++) {
    if (wanted(argc, argv, short_name(names[i]))) {
      under_way.name = names[i];
      long long reached = ramp_lua(&origin, names[i]);
      failures += reached < 0;
      points += reached > 0 ? reached : 0;
      cases++;
      under_way.name = NULL;
    }
    free(names[i]);
  }
  if (argc == 1)
    failures += check_surface(&origin);
  printf("out of memory: %lld calls, %lld points\n", cases, points);
  return failures > 0;
}
