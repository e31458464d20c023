/*
 * base.h: what all the other headers need.
 */
#ifndef PERI_BASE_H
#define PERI_BASE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <uv.h>

#include "list.h"
#include "perilune.h"

#if defined(__GNUC__)
#define peri_likely(x) __builtin_expect(!!(x), 1)
#define peri_unlikely(x) __builtin_expect(!!(x), 0)
/* Out of the way of what is hot, which then saves fewer registers. */
#define peri_cold __attribute__((noinline, cold))
#else
#define peri_cold
#define peri_likely(x) (x)
#define peri_unlikely(x) (x)
#endif

/* For states that cannot be: never for what a script or a peer can cause. */
#define PERI_CHECK(condition)                                                  \
  ((condition) ? (void)0 : peri__check_failed(#condition, __FILE__, __LINE__))
void peri__check_failed(const char *condition, const char *file, int line);

typedef struct peri_clock peri_clock;
typedef struct peri_future peri_future;
typedef struct peri_task peri_task;
typedef struct peri_loop peri_loop;
typedef struct peri_run_record peri_run_record;

#endif
