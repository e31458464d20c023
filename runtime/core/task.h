/*
 * task.h: tasks, their contexts, and how their end is asked for.
 */
#ifndef PERI_TASK_H
#define PERI_TASK_H

#include "error.h"
#include "future.h"
#include "timer.h"

/* A coroutine of the script's own on the way from a task to the code that
 * runs. */
typedef struct peri_frame {
  lua_State *co;
  lua_State *from;     /* who resumed it */
  lua_State *previous; /* rt->current before */
} peri_frame;

/* Tasks whose loop keeps accounts have theirs here, too, so that a step and an
 * end which find no frames need not ask for accounts. */
typedef struct peri_frames {
  peri_frame *v;
  int n, capacity;
  bool accounts;
  uint32_t steps;
  uint64_t created; /* nanoseconds; 0: before there were accounts */
  uint64_t cpu;     /* nanoseconds that the steps have taken */
} peri_frames;

typedef enum peri_wait_kind {
  PERI_WAIT_NONE,    /* runs, or has not started */
  PERI_WAIT_YIELD,   /* stands in the ready queue: sleep(0) */
  PERI_WAIT_WOKEN,   /* what it waited for has come: in the ready queue */
  PERI_WAIT_TIMER,   /* task->timer runs */
  PERI_WAIT_DUE,     /* it has run out: in the ready queue, twice in a row */
  PERI_WAIT_FUTURE,  /* task->resource is a future, in its callbacks */
  PERI_WAIT_SEVERAL, /* task->resource is a peri_several */
  PERI_WAIT_RESULT,  /* as PERI_WAIT_FUTURE, but a cancellation of the task does
                        not concern the future */
  PERI_WAIT_TURN,    /* task->resource is a line of waiters, task->turn in it */
  PERI_WAIT_RUN      /* another loop runs to its end */
} peri_wait_kind;

/* How a task is to go on at its next step. */
typedef enum peri_outcome {
  PERI_OUTCOME_OK,
  PERI_OUTCOME_CANCEL,
  PERI_OUTCOME_KILL,
  PERI_OUTCOME_INTERRUPT
} peri_outcome;

enum {
  PERI_T_MUST_CANCEL = 1 << 0, /* raise CancelledError at the next step */
  PERI_T_STARTED = 1 << 1,
  PERI_T_EXPOSED = 1 << 2,  /* a script holds the coroutine: no recycling */
  PERI_T_SPOILT = 1 << 3,   /* the coroutine ran deep or out of memory */
  PERI_T_KILLED = 1 << 4,   /* kill() was called */
  PERI_T_SPAWNED = 1 << 5,  /* no handle: an error is reported at once */
  PERI_T_OWES = 1 << 6,     /* has futures to wait for before it ends */
  PERI_T_NAMED = 1 << 7,    /* rt's table of names has its name */
  PERI_T_TOPLEVEL = 1 << 8, /* the script itself: may run other loops */
  PERI_T_CONTEXT = 1 << 9,  /* its context is not empty */
  PERI_T_UNWINDS = 1 << 10, /* a kill has been raised in it */
  PERI_T_IN_LINE = 1 << 11, /* task->turn is linked */
  PERI_T_TURN = 1 << 12,    /* its turn has come, and it has not run since */
  PERI_T_BARE = 1 << 13,    /* no object: the record is a gather's (bare.c) */
  PERI_T_MOVED = 1 << 14,   /* was so: task->resource is the task now */
  PERI_T_ASKED = 1 << 15    /* to end: cancelled, and not uncancelled */
};

/* The one record of a wait: kind, what (its name), resource, deadline (in the
 * timer); the waiter is the task itself, the place its suspended stack. */
struct peri_task {
  peri_future future;
  /* What every switch touches stands together, up to timer.node. */
  const char *what;
  peri_frames *frames; /* NULL: never ran a coroutine of the script's */
  lua_State *co;
  int anchor; /* of co, in the loop's table */
  uint16_t flags;
  uint8_t wait, outcome;
  union {
    peri_timer timer; /* timer.node: in a ready queue, a bucket, or a future */
    struct {
      peri_node node; /* the same */
      peri_list turn; /* in a line of waiters (waiters.c); no timer runs then */
    };
  };
  void *resource;
  peri_clock *clock;
  peri_task *previous, *next; /* all tasks of the loop */
  uint64_t id;
  uint32_t cancels; /* cancelling() */
  uint32_t elder;   /* its creator's id is id - elder; 0: it has none */
};

/* bare.c */
/* Makes a bare task an ordinary one, and pushes it. */
void peri__task_promote(lua_State *L, peri_runtime *rt, peri_task *task);
/* The bare task has returned values, from the index first on; its gather stands
 * at gather_idx. */
void peri__bare_done(lua_State *co, peri_task *task, int gather_idx, int first,
                     int values);
/* The bare task could not even be made an ordinary one, in order to fail. */
void peri__bare_lost(peri_task *task);
/* The task that a pointer kept while Lua ran means now. */
static inline peri_task *peri__task_now(peri_task *task)
{
  return task != NULL && task->flags & PERI_T_MOVED ? task->resource : task;
}

/* task.c */
/* In a task's root: the task, or a bare one's gather; and what it calls. */
enum { PERI_ROOT_TASK = 1, PERI_ROOT_FUNCTION = 3 };
/* The record of a new task of the loop, without coroutine. */
void peri__task_init(peri_runtime *rt, peri_task *task, peri_loop *loop);
/* Sees to it that n coroutines wait for use, with room for so many values. */
void peri__coroutines_reserve(lua_State *L, peri_loop *loop, uint32_t n,
                              int values);
/* Gives a bare task one of those. */
void peri__task_take_reserved(peri_task *task);
void peri__task_enlist(lua_State *L, peri_task *task);
void peri__task_open(lua_State *L, peri_runtime *rt);
peri_task *peri__check_task(lua_State *L, peri_runtime *rt, int arg);
/* Makes a task of the function and arguments from fn to the top of the stack;
 * the task stands in their place. The loop stands at loop_idx, or nowhere (0).
 * The first step is queued, unless eager. */
peri_task *peri__task_new(lua_State *L, peri_runtime *rt, peri_loop *loop,
                          int loop_idx, int fn);
/* As peri__task_new with the task at idx, which has ended well, and which that
 * has made. False, and nothing is done: a script may know it. */
bool peri__task_renew(lua_State *L, peri_runtime *rt, int idx, int fn);
/* The task that runs, in whose coroutine L is, becomes the next one where it
 * stands: what it called has returned, and neither has a script got hold of it
 * nor is anything else left of it, in its loop or elsewhere. False, and nothing
 * is done: that is not so. */
bool peri__task_follow(lua_State *L, peri_runtime *rt);
/* The coroutine object on top of the stack becomes a task made by the loop's
 * factory. */
void peri__task_by_factory(lua_State *L, peri_runtime *rt, peri_loop *loop,
                           int fn);
void peri__task_start(lua_State *L, peri_runtime *rt, peri_task *task,
                      bool eager);
void peri__task_step(lua_State *L, peri_runtime *rt, peri_task *task);
/* After a step whose lua_resume came to status, other than a wait. The task
 * has started, and rt->task is NULL again. */
void peri__task_stepped(lua_State *L, peri_runtime *rt, peri_task *task,
                        int status);
/* Ends a task where it stands: its coroutines are closed, innermost first. */
void peri__task_destroy(lua_State *L, peri_runtime *rt, peri_task *task);
/* Sees to it that the task is an ordinary one. False: out of memory, and it is
 * a bare one still, which peri__task_drop can end. */
bool peri__task_make_plain(lua_State *L, peri_runtime *rt, peri_task *task);
void peri__task_drop(lua_State *L, peri_runtime *rt, peri_task *task);
/* After an error threw the driver out of a round: tasks that stood in no queue
 * then are ended, or put back. */
void peri__tasks_recover(lua_State *L, peri_runtime *rt, peri_loop *loop);
static inline lua_State *peri__task_innermost(peri_task *task)
{
  peri_frames *frames = task->frames;
  return frames != NULL && frames->n > 0 ? frames->v[frames->n - 1].co
                                         : task->co;
}
/* Coroutines are not kept for the next task, which notes where it is made only
 * if it needs a new one: debug mode, from here on. */
void peri__task_forget_pool(lua_State *L, peri_runtime *rt, peri_loop *loop);
/* cancel.c */
bool peri__task_cancel(lua_State *L, peri_runtime *rt, int idx,
                       int message_idx);
/* Takes one cancellation back; how many are left. */
static inline uint32_t peri__task_uncancel(peri_task *task)
{
  if (task->cancels > 0 && --task->cancels == 0)
    task->flags &= (uint16_t) ~(PERI_T_MUST_CANCEL | PERI_T_ASKED);
  return task->cancels;
}
void peri__task_kill(lua_State *L, peri_runtime *rt, peri_task *task,
                     peri_sentinel why);
/* Takes the task out of every queue. */
void peri__task_take_out(lua_State *L, peri_runtime *rt, peri_task *task);
/* task_lua.c: what scripts call on tasks */
void peri__task_lua_open(lua_State *L, peri_runtime *rt);
/* create_task with what stands from first to the top: a function and its
 * arguments, a coroutine object, or a call table. Leaves the task; returns 1.
 * flags are PERI_T_*. */
int peri__create_task(lua_State *L, peri_runtime *rt, peri_loop *loop,
                      int loop_idx, int first, uint16_t flags);
/* Pushes the task. One that was bare is an ordinary one from then on, and
 * somewhere else: read rt->task anew, or use peri__task_now. */
void peri__push_task(lua_State *L, peri_task *task);
/* Pushes the name. The task stands at idx; 0: it has not ended. */
const char *peri__task_name(lua_State *L, peri_runtime *rt, peri_task *task,
                            int idx);
static inline peri_task *peri__node_task(peri_node *node)
{
  return (peri_task *)((char *)node - offsetof(peri_task, timer));
}

/* context.c: contexts of tasks and callbacks */
void peri__context_open(lua_State *L, peri_runtime *rt);
/* Pushes the current context, nil if it is empty; or one like it that what it
 * sets later does not change. */
void peri__push_context(lua_State *L, peri_runtime *rt);
void peri__push_context_copy(lua_State *L, peri_runtime *rt);
/* Whether there are variables that a new task would have to take over. */
bool peri__has_context(lua_State *L, peri_runtime *rt);
/* Raises unless a Context stands at idx. */
void peri__check_context(lua_State *L, peri_runtime *rt, int idx);
void peri__task_set_context(lua_State *L, peri_runtime *rt, peri_task *task,
                            int idx);

#endif
