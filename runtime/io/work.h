/*
 * work.h: blocking C calls on threads of our own. See work.c.
 */
#ifndef PERI_WORK_H
#define PERI_WORK_H

#include "core/core.h"

/* Each group has threads of its own, so that one cannot starve another. */
typedef enum peri_work_group {
  PERI_WORK_FILES,
  PERI_WORK_NAMES,
  PERI_WORK_GROUPS
} peri_work_group;

/* One piece of work, a part of something larger in malloc's memory: a thread
 * may hold it longer than the runtime lives. It belongs to the threads from
 * submit to done. */
typedef struct peri_work peri_work;
struct peri_work {
  peri_node node;
  uint8_t group;
  bool queued;    /* under the mutex of the workers */
  bool forgotten; /* on the runtime's thread */
  /* What it is doing may take for ever, and nothing depends on its end: the
   * runtime's close leaves it behind. Set by run. */
  atomic_bool may_hang;
  /* On a thread: no Lua, none of the runtime. */
  void (*run)(peri_work *work);
  /* On the runtime's thread, in a round of the running loop, or after its loops
   * have closed. Runs no Lua: it wakes who waits. */
  void (*done)(peri_runtime *rt, peri_work *work);
  /* On a thread, in the place of done: the runtime has closed. Frees it. */
  void (*orphaned)(peri_work *work);
};

/* 0, or a libuv error if there is no thread and none can be had: the work is
 * still the caller's then. Raises nothing. */
int peri__work_submit(peri_runtime *rt, peri_work *work);
/* Takes back work that has not begun: it is the caller's again. */
bool peri__work_withdraw(peri_runtime *rt, peri_work *work);
/* Nobody waits for work that has begun: it is not outstanding any more, and is
 * done all the same. */
void peri__work_forget(peri_runtime *rt, peri_work *work);

#endif
