/* The smallest test kit: a host that fails says where, and exits 1. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <uv.h>

#include "perilune.h"

#define CHECK(condition)                                                       \
  ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition))

#define CHECK_INT(expected, actual)                                            \
  check_int(__FILE__, __LINE__, #actual, (long long)(expected),                \
            (long long)(actual))

#define CHECK_TEXT(expected, actual)                                           \
  check_text(__FILE__, __LINE__, #actual, expected, actual)

static inline void check_failed(const char *file, int line, const char *what)
{
  fprintf(stderr, "%s:%d: %s\n", file, line, what);
  exit(1);
}

static inline void check_int(const char *file, int line, const char *what,
                             long long expected, long long actual)
{
  if (expected != actual) {
    fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", file, line, what, actual,
            expected);
    exit(1);
  }
}

/* The text begins with what is expected: tracebacks follow messages. */
static inline void check_text(const char *file, int line, const char *what,
                              const char *expected, const char *actual)
{
  if (strncmp(expected, actual, strlen(expected)) != 0) {
    fprintf(stderr, "%s:%d: %s is\n  %s\nand should begin with\n  %s\n", file,
            line, what, actual, expected);
    exit(1);
  }
}

static inline int run_code(peri_runtime *runtime, const char *code)
{
  return peri_run_string(runtime, code, strlen(code), "=spec");
}

static inline int start_code(peri_runtime *runtime, const char *code)
{
  return peri_start_string(runtime, code, strlen(code), "=spec");
}

/* A global of the state, as an integer. */
static inline lua_Integer global_integer(lua_State *L, const char *name)
{
  lua_getglobal(L, name);
  lua_Integer value = lua_tointeger(L, -1);
  lua_pop(L, 1);
  return value;
}

#endif
