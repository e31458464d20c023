/*
 * executor.h: the owner's side of a pool, whatever carries its jobs.
 */
#ifndef PERI_EXECUTOR_H
#define PERI_EXECUTOR_H

#include "pool/pool.h"

/* A userdata of the class perilune.Executor. */
typedef struct peri__executor {
  peri__pool *pool; /* NULL: not made yet, or gone with its state */
  peri__home home;
  peri_list done; /* jobs whose futures are next */
  bool ending;    /* closed, and counted as an external wait */
} peri__executor;

/* Pushes one that has no pool yet: what makes its pool does so with the home,
 * and puts it there. */
peri__executor *peri__executor_new(lua_State *L);

/* Encodes a function and its arguments, n values from index first on, into a
 * buffer that the caller owns. Raises; the buffer is the executor's then. */
peri__buffer peri__executor_encode(lua_State *L, peri_runtime *rt, int executor,
                                   int first, int n);

/* Makes the class; what scripts call on executors. */
void peri__executor_open(lua_State *L, peri_runtime *rt);

#endif
