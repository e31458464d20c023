/*
 * gather.h: what gather.c and bare.c share.
 */
#ifndef PERI_GATHER_H
#define PERI_GATHER_H

#include "core.h"

typedef struct peri_gather peri_gather;

/* Stands among the callbacks of a child. */
typedef struct peri_child {
  peri_node node;
  peri_future *future; /* the gather's table holds it */
  peri_gather *gather;
  uint32_t index; /* of the child in the gather's table */
} peri_child;

/* A child that is a bare task; once that is an ordinary one, where it went
 * (task.resource), and the node among its callbacks. */
typedef struct peri_slot {
  union {
    peri_task task;
    struct {
      char head[offsetof(peri_task, timer)];
      peri_child child;
    };
  };
  uint32_t index;
} peri_slot;

struct peri_gather {
  peri_future future;
  int anchor;
  uint32_t children; /* as many as were given */
  uint32_t nodes;    /* one for each that differs */
  uint32_t finished; /* whose callbacks have run, or need not */
  uint32_t ended;    /* that are done, the callback run or not */
  bool return_exceptions, cancel_requested, no_memory;
  peri_slot *slot;  /* children that are bare tasks, until all have ended;
                       memory of its own, so that no garbage is left of it */
  peri_child *node; /* otherwise; behind this */
  peri_child last;  /* of the bare task that ended last */
};

/* bare.c: memory for the slots, given back when all children have ended. */
bool peri__slots_new(peri_gather *gather);
void peri__slots_free(peri_gather *gather);
/* Starts the calls in the list; the gather is on top of the stack, which has
 * room for the largest call. Needs no memory. */
void peri__bare_start(lua_State *L, peri_runtime *rt, peri_gather *gather,
                      int list);

#endif
