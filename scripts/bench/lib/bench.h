/*
 * bench.h: what every C floor needs: a clock, the process's memory, a reader of
 * numeric arguments, a Lua state with its threads kept, and loud failure (a
 * floor that went wrong must not be read as a fast one).
 */
#ifndef PERILUNE_BENCH_H
#define PERILUNE_BENCH_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#define BENCH_CHECK(cond)                                                      \
  do {                                                                         \
    if (!(cond)) {                                                             \
      fprintf(stderr, "%s:%d: %s failed\n", __FILE__, __LINE__, #cond);        \
      exit(1);                                                                 \
    }                                                                          \
  } while (0)

/* Nanoseconds of real time. */
static inline double bench_now(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* A line of /proc/self/status in kB: "VmRSS:" now, "VmHWM:" at its peak. */
static inline long bench_memory_kb(const char *field)
{
  char line[256];
  long kb = 0;
  FILE *f = fopen("/proc/self/status", "r");
  if (f == NULL)
    return 0;
  while (fgets(line, sizeof line, f) != NULL)
    if (strncmp(line, field, strlen(field)) == 0)
      kb = strtol(line + strlen(field), NULL, 10);
  fclose(f);
  return kb;
}

static inline long bench_arg(int argc, char **argv, int i)
{
  BENCH_CHECK(i < argc);
  return strtol(argv[i], NULL, 10);
}

static inline lua_State *bench_state(void)
{
  lua_State *L = luaL_newstate();
  BENCH_CHECK(L != NULL);
  luaL_openlibs(L);
  return L;
}

/* Compiles `code` and leaves what it returns on the stack; what was on top of
 * the stack is its argument. */
static inline void bench_eval(lua_State *L, const char *code)
{
  BENCH_CHECK(luaL_loadstring(L, code) == LUA_OK);
  lua_insert(L, -2);
  BENCH_CHECK(lua_pcall(L, 1, 1, 0) == LUA_OK);
}

/* A new thread, kept alive in slot i of the table at index `keep`. */
static inline lua_State *bench_thread(lua_State *L, int keep, long i)
{
  lua_State *co = lua_newthread(L);
  lua_rawseti(L, keep, i);
  return co;
}

/* The yielding C function that Lua loops call: nothing but lua_yield. */
static inline int bench_pause(lua_State *L)
{
  return lua_yield(L, 0);
}

#endif
