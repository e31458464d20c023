/*
 * core.h: what the files of core/ share. Nothing outside core/, embed/, pool/
 * and io/ includes it.
 *
 * The parts, from the bottom up:
 *   list.h       intrusive lists: every queue of the runtime is one
 *   timer.c      timers of one clock; clock.c, the clocks themselves
 *   future.c     a result to come; link.c, what is to be done then; gather.c, one made of many (bare.c, of
 *                functions); several.c, the wait for many
 *   task.c       a coroutine that is driven by a loop
 *   waiters.c    lines of tasks that wait for their turn; queue.c and locks.c,
 *                what they wait for
 *   coroutine.c  coroutine.*, pcall: waits pass through the script's own
 *   loop.c       ready queue, rounds, runs; post.c, what other threads send
 *   deadlock.c   loops that would block for ever; cycle.c, tasks that do
 *   inspect.c    what the tasks are doing
 *   error.c      error objects; trace.c, raw tracebacks; debug.c, debug mode
 *   runtime.c    the runtime of a Lua state
 *
 * Lua values belong to Lua: a future, a task, a loop are userdata, and C
 * pointers to them are valid only while something anchors them. The rules:
 *   - a task that has not ended is anchored by its coroutine (it is the first
 *     argument of the coroutine's root function), and the coroutine by its
 *     loop's table of anchors;
 *   - what a task waits for stands at index 1 of the waiting C function (the
 *     goal of a run at index 2);
 *   - handles and gathers that are pending stand in the table of anchors;
 *   - every future holds its loop, in user value PERI_UV_LOOP, and so do
 *     handles and links (callbacks).
 * So a loop that nobody holds goes as a whole, with its tasks.
 */
#ifndef PERI_CORE_H
#define PERI_CORE_H

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

typedef struct peri_clock peri_clock;
typedef struct peri_future peri_future;
typedef struct peri_task peri_task;
typedef struct peri_loop peri_loop;
typedef struct peri_run_record peri_run_record;

/* -- Errors ------------------------------------------------------------- */

/* The classes that C raises; the Lua side (perilune.errors) registers them. */
#define PERI_ERROR_CLASSES(X)                                                  \
  X(CANCELLED, "CancelledError")                                               \
  X(INVALID_STATE, "InvalidStateError")                                        \
  X(VALUE, "ValueError")                                                       \
  X(TYPE, "TypeError")                                                         \
  X(RUNTIME, "RuntimeError")                                                   \
  X(NOT_IMPLEMENTED, "NotImplementedError")                                    \
  X(BROKEN_BARRIER, "BrokenBarrierError")                                      \
  X(QUEUE_EMPTY, "QueueEmpty")                                                 \
  X(QUEUE_FULL, "QueueFull")                                                   \
  X(QUEUE_SHUT_DOWN, "QueueShutDown")                                          \
  X(INCOMPLETE_READ, "IncompleteReadError")                                    \
  X(LIMIT_OVERRUN, "LimitOverrunError")                                        \
  X(OS, "OSError")

typedef enum peri_error_class {
#define X(name, text) PERI_ERR_##name,
  PERI_ERROR_CLASSES(X)
#undef X
      PERI_ERR_COUNT
} peri_error_class;

/* Errors that our own pcall, xpcall, resume and wrap never catch. */
typedef enum peri_sentinel {
  PERI_SENTINEL_NONE,
  PERI_SENTINEL_KILL,
  PERI_SENTINEL_EXIT,
  PERI_SENTINEL_INTERRUPT,
  PERI_SENTINEL_COUNT
} peri_sentinel;

/* -- Timers and clocks --------------------------------------------------- */

typedef struct peri_bucket peri_bucket;

/* See timer.c. */
typedef struct peri_timer {
  peri_node node; /* in bucket or heap while it runs, in a ready queue after */
  int64_t deadline;
  union {
    peri_bucket *bucket;
    struct peri_timer *child; /* in the heap, where it stands by itself */
  };
  peri_loop *loop;   /* whose ready queue takes it when it is due */
  uint32_t sequence; /* equal deadlines fire in the order of starting */
  uint8_t place;
} peri_timer;

typedef enum peri_clock_kind {
  PERI_CLOCK_REAL,
  PERI_CLOCK_MANUAL,
  PERI_CLOCK_VIRTUAL
} peri_clock_kind;

enum { PERI_DURATIONS_SEEN = 16 };

typedef struct peri_timers {
  peri_timer *root; /* of the heap: the next one */
  uint32_t sequence;
  uint32_t buckets, table_size;
  peri_bucket **table;               /* open addressing by duration */
  size_t count;                      /* timers that run */
  int64_t seen[PERI_DURATIONS_SEEN]; /* durations lately, by their hash */
} peri_timers;

struct peri_clock {
  peri_runtime *rt;
  peri_node active; /* in rt->clocks while a timer runs */
  peri_timers timers;
  int64_t base;      /* the clock's time at real_base */
  int64_t real_base; /* real and scaled clocks only */
  double scale;
  peri_clock_kind kind;
  bool paused;
  int anchor;     /* in the registry, while users > 0 */
  uint32_t users; /* tasks and loops that use it */
};

/* -- Futures ------------------------------------------------------------- */

enum {
  PERI_UV_RESULT = 1, /* result, error, cancel message */
  PERI_UV_LINKS = 2,  /* callbacks while pending, the trace once failed */
  PERI_UV_LOOP = 3,
  PERI_UV_CONTEXT = 4, /* tasks only */
  PERI_UV_CHILDREN = 4 /* gathers only */
};

typedef enum peri_future_state {
  PERI_PENDING,
  PERI_FINISHED,
  PERI_FAILED,
  PERI_CANCELLED
} peri_future_state;

typedef enum peri_future_kind {
  PERI_KIND_FUTURE,
  PERI_KIND_TASK,
  PERI_KIND_GATHER,
  PERI_KIND_JOB /* of a pool (pool/) */
} peri_future_kind;

enum {
  PERI_F_RETRIEVED = 1 << 0,   /* somebody saw the error */
  PERI_F_LINKS = 1 << 1,       /* has callbacks of Lua's */
  PERI_F_SEEN = 1 << 3,        /* a task that scripts may have got hold of */
  PERI_F_CANCELLING = 1 << 4,  /* a gather whose children are being cancelled */
  PERI_F_MARKED = 1 << 5,      /* for the length of a C function */
  PERI_F_ERROR_OBJECT = 1 << 2 /* cancelled: the result is the error itself */
};

struct peri_future {
  peri_list callbacks; /* nodes to make ready when done, in order */
  peri_loop *loop;     /* NULL: a job's that belongs to none; its callbacks are
                          made ready in their own loops */
  int results;         /* finished: how many; several stand in a table */
  uint8_t kind, state, flags;
};

/* -- Tasks ---------------------------------------------------------------- */

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

/* -- Loops ---------------------------------------------------------------- */

/* What a loop has of libuv's; made when the loop first looks at the kernel. */
typedef struct peri_kernel {
  uv_loop_t own;
  uv_loop_t *uv;
  uv_async_t wake;
  uv_timer_t timer;
  int open;      /* our handles that are not closed yet */
  char *scratch; /* PERI_SCRATCH bytes that io/ reads into; NULL: not needed */
} peri_kernel;

enum { PERI_SCRATCH = 65536 };

/* Something that io/ has open on a loop, and that is closed with it. */
typedef struct peri_io {
  peri_node listed; /* in loop->open */
  peri_loop *loop;
  void (*close)(struct peri_io *io); /* at once, whatever is under way */
} peri_io;

/* What io/ puts into the ready queue; kind PERI_NODE_IO. */
typedef struct peri_io_node {
  peri_node node;
  void (*run)(lua_State *L, peri_runtime *rt, struct peri_io_node *node);
} peri_io_node;

typedef struct peri_pooled {
  lua_State *co;
  int anchor;
} peri_pooled;

enum {
  PERI_LOOP_UV_ANCHORS = 1,
  PERI_LOOP_UV_SETTINGS = 2 /* exception handler, task factory, ... */
};

struct peri_loop {
  peri_runtime *rt;
  peri_kernel *kernel; /* NULL: not needed yet */
  uv_loop_t *host_uv;  /* the host's, or NULL */
  peri_list ready, batch;
  peri_task *tasks;  /* first of all that have not ended */
  peri_task *newest; /* last of them */
  size_t task_count;
  peri_pooled *pool; /* coroutines to use again */
  int pooled, pool_capacity;
  peri_list watchers; /* readers, writers, signal handlers */
  peri_list open;     /* what io/ has open */
  peri_list unseen;   /* errors nobody has retrieved */
  peri_clock *clock;
  double slow_callback_duration;
  bool running, closed, closing, stopping, debug, factory;
  bool accounts;   /* steps and time of each task are counted: in debug mode, */
  bool accounting; /* or when this was asked for */
  bool deadlock;   /* a run that could only block for ever is ended */
  int rounds_left; /* until it is asked whether a look is due */
  int rounds_unpolled; /* from the last look at the kernel until then */
  int stride;          /* rounds between two readings of the clock for that */
  uint64_t last_reading;
};

enum { PERI_RUN_UV_STAND_IN = 1 };

/* A run of a loop: of run_until_complete, run_forever, or the host. The host's
 * stands in the runtime; the others are userdata, found by their address. */
struct peri_run_record {
  peri_run_record *outer;
  peri_loop *loop;
  peri_future *goal; /* NULL: for ever */
  peri_task *waiter; /* the top-level task that waits for this run, or NULL */
  bool ended;
  bool no_memory;      /* that ends it: it could not even tell a deadlock */
  uint8_t deadlocks;   /* > 0: the goal is a stand-in (deadlock.c) */
  peri_sentinel abort; /* what ended it early */
};

/* -- The runtime ----------------------------------------------------------- */

/* Places in the registry (luaL_ref), one array slot each. */
#define PERI_REFS(X)                                                           \
  X(LOOP)       /* the running loop, or false */                               \
  X(ANCHORS)    /* its anchors */                                              \
  X(EVENT_LOOP) /* what set_event_loop set, or false */                        \
  X(FUTURE)     /* metatables */                                               \
  X(TASK)                                                                      \
  X(GATHER)                                                                    \
  X(JOB)                                                                       \
  X(LINK)                                                                      \
  X(HANDLE)                                                                    \
  X(LOOP_META)                                                                 \
  X(CLOCK_META)                                                                \
  X(COROUTINE)                                                                 \
  X(ROOT) /* what a task's coroutine runs, and its handler */                  \
  X(ROOT_HANDLER)                                                              \
  X(TRACE_HANDLER)                                                             \
  X(UNSEEN)                                                                    \
  X(WATCHER)                                                                   \
  X(LINE)                                                                      \
  X(CREW)                                                                      \
  X(SEVERAL)                                                                   \
  X(QUEUES) /* weak: class and maxsize to metatable */                         \
  X(SCOPE)                                                                     \
  X(STREAM) /* of io/, once the script uses it */                              \
  X(SERVER)                                                                    \
  X(PROCESS)                                                                   \
  X(SIGNALS)                                                                   \
  X(RAW)                                                                       \
  X(OBJECTS)     /* weak: C pointer to userdata */                             \
  X(NAMES)       /* weak: task to its name */                                  \
  X(OWED)        /* weak: task to a list of futures */                         \
  X(TRACE_ERROR) /* the error on its way, and its trace */                     \
  X(TRACE)                                                                     \
  X(SENTRY)  /* metatable */                                                   \
  X(SOURCES) /* weak: object to the trace of its making (debug.c) */           \
  X(SOURCE)  /* that of the callback that runs, or false */                    \
  X(KILLS)   /* weak: coroutine to its stack (kill.c) */                       \
  X(KILL)    /* the sentinels */                                               \
  X(EXIT)                                                                      \
  X(INTERRUPT)                                                                 \
  X(CLASSES)   /* name to error class */                                       \
  X(CONTEXT)   /* the context outside tasks, or false */                       \
  X(LIBRARY)   /* environment of the Lua library */                            \
  X(CORE)      /* the table perilune._core */                                  \
  X(EXCEPTION) /* default exception handler, or false */                       \
  X(BASE)      /* the host's loop, or false */                                 \
  X(MAIN)      /* the host's main task */                                      \
  X(GOAL)      /* what the host's run is for */                                \
  X(DYING)     /* a loop whose finaliser closes it */                          \
  X(CLOSERS)   /* peri__at_close: userdata */                                  \
  X(REQUIRE)   /* the require that may wait, once it was needed */

enum {
#define X(name) PERI_REF_##name,
  PERI_REFS(X)
#undef X
      PERI_REF_COUNT
};

typedef struct peri_post_record peri_post_record;

typedef enum peri_main_phase {
  PERI_MAIN_NONE,
  PERI_MAIN_RUNS,
  PERI_MAIN_FINISHES, /* its leftovers are cancelled and waited for */
} peri_main_phase;

struct peri_runtime {
  lua_State *L; /* the state's main thread */

  /* What runs. */
  peri_task *task;      /* NULL: a callback, or nothing of ours */
  lua_State *current;   /* innermost coroutine that we resumed; NULL: none, or
                           one that cannot wait */
  peri_frames *frames;  /* the running task's; may be NULL */
  bool has_context;     /* outside tasks */
  bool debug;           /* the running loop's; without one the options' */
  const char *callback; /* what runs outside tasks, for messages; or NULL */
  lua_State *closing;   /* the innermost coroutine being closed */
  int close_depth;
  peri_run_record *run; /* the innermost run; NULL: no loop runs */
  peri_loop *dying;     /* the innermost that is closed as garbage, or NULL */
  int drive_depth;      /* turns on the C stack */
  int inner_status;     /* how the coroutine below ended (task.c) */

  peri_list clocks;   /* those with timers */
  peri_list sentries; /* debug.c */
  peri_clock *clock;  /* the real one */
  uint64_t next_id;
  uint32_t
      modules; /* that our require has loaded; how many of them the codec */
  uint32_t modules_named;                    /* has looked at (names.c) */
  uint64_t carrier;                          /* of an error's trace (trace.c) */
  int cancel_depth;                          /* gathers in gathers */
  bool cancel_too_deep, cancel_lacks_memory; /* not all could be cancelled */
  atomic_int external; /* waits that only the outside can end; any thread */
  uint32_t awaits; /* coroutine objects awaited, to probe the depth at times */

  /* Found by address rather than by a look into the registry. */
  int ref[PERI_REF_COUNT];
  const void *meta_future, *meta_task, *meta_gather, *meta_job, *meta_coroutine,
      *meta_handle, *meta_loop, *meta_clock, *meta_line, *meta_several,
      *meta_crew, *meta_executor;
  const void *sentinel[PERI_SENTINEL_COUNT];
  lua_CFunction debug_traceback; /* the stock one */

  /* Set from other threads and signal handlers. */
  atomic_int attention;  /* PERI_ATTEND_*: something has come */
  atomic_int interrupts; /* not yet answered */
  atomic_int async_users;
  _Atomic(uv_async_t *) async; /* wakes the running loop */
  uv_mutex_t post_mutex;       /* guards posts; nothing is locked inside */
  peri_post_record *posts, **posts_end;
  _Atomic(uv_thread_t) thread; /* on which the runtime steps */
  atomic_int interrupt_stage; /* 0; 1: the main task was cancelled; 2: raised */

  peri_sentinel abort; /* an exit or interrupt unwinds the runs */
  bool session;        /* the main task is an interactive session */
  int exit_code;

  peri_frames no_task; /* the frames outside tasks */
  uint64_t cpu_inside; /* of the steps in the accounted one that runs */
  atomic_int prints;   /* of the tasks: asked for, not yet made; any thread */
  lua_Hook hook;       /* the script's, while one of ours stands there */
  int hook_mask, hook_count;

  /* The host's main task (embed/). */
  peri_run_record main;
  peri_main_phase main_phase;
  int main_status;
  char *error;     /* text of the last failure */
  bool error_lost; /* there was no memory for it */

  peri_options options;
  bool owns_state, closed;
  int sigpipe_depth;
  bool sigpipe_blocked, sigpipe_pending; /* before us */
  struct peri_heap *heap;                /* of peri_new */
  struct peri_workers *workers;          /* io/work.c; NULL: none yet */
  struct peri_process *orphans;          /* io/process.c */
  struct peri_signal_use *signal_uses;   /* watch.c */
  struct peri_raw *volatile raw;         /* io/stdio.c; signal handlers look */
  void (*flush_stdio)(peri_runtime *rt); /* for print; NULL: not needed */
  /* pool/: cancel() of the pending future of a job at idx; another loop runs,
   * or none. */
  bool (*job_cancel)(lua_State *L, peri_runtime *rt, int idx, int message_idx);
  void (*run_changed)(lua_State *L, peri_runtime *rt);
  bool warns, warning_continues; /* of the state's warn() */
  lua_Alloc alloc;
  void *alloc_ud;
};

/* User values of one userdata: Lua counts them in 16 bits. */
enum { PERI_MOST_VALUES = 60000 };

extern const char peri__parked_key;

/* The runtime of a binding: every C function of ours has it as upvalue 1. */
static inline peri_runtime *peri__rt(lua_State *L)
{
  return lua_touserdata(L, lua_upvalueindex(1));
}

static inline void peri__push_ref(lua_State *L, peri_runtime *rt, int ref)
{
  lua_rawgeti(L, LUA_REGISTRYINDEX, rt->ref[ref]);
}

/* Whether a place has been filled. */
static inline bool peri__has_ref(lua_State *L, peri_runtime *rt, int ref)
{
  peri__push_ref(L, rt, ref);
  bool has = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return has;
}

/* The runtime of a state of our own: quicker, since it stands in front of the
 * lua_State. In a host's state that place is the host's. */
static inline peri_runtime *peri__own_rt(lua_State *L)
{
  return *(peri_runtime **)lua_getextraspace(L);
}

/* runtime.c */
void peri__check_failed(const char *condition, const char *file, int line);
void *peri__realloc(peri_runtime *rt, void *block, size_t old_size,
                    size_t new_size);
/* Raises what Lua raises when it finds no memory. Whoever finds none for itself
 * collects first (lua_gc), as Lua does, tries again, and then raises; finalisers
 * have run in between. */
int peri__no_memory(lua_State *L);
bool peri__is_no_memory(lua_State *L, int idx);
/* luaL_checkstack, which calls a want of memory a stack overflow. */
void peri__no_room(lua_State *L, int n);
/* After lua_checkstack of another coroutine: raises in L if it was for want of
 * memory, returns if that would be too much in any case. */
void peri__no_room_in(lua_State *L, lua_State *co, int n);
static inline void peri__check_stack(lua_State *L, int n)
{
  if (peri_unlikely(!lua_checkstack(L, n)))
    peri__no_room(L, n);
}
void peri__register(lua_State *L, peri_runtime *rt, const luaL_Reg *functions);
/* Pops a value into a place of the registry. Needs no memory. */
void peri__set_ref(lua_State *L, peri_runtime *rt, int ref);
/* A new metatable at the given place, with methods under __index; leaves it on
 * the stack and returns its address. */
const void *peri__metatable(lua_State *L, peri_runtime *rt, int ref,
                            const char *name, const luaL_Reg *metamethods,
                            const luaL_Reg *methods);
/* A new weak table at the given place. */
void peri__weak_table(lua_State *L, peri_runtime *rt, int ref,
                      const char *mode);
/* Pushes a module of the library, loaded if need be: what the script has made
 * of its global require does not matter. */
void peri__require(lua_State *L, const char *name);
/* Pushes the __index table of the metatable at a place. */
void peri__push_methods(lua_State *L, peri_runtime *rt, int ref);
/* The library's runtime for L: made on the first call. Pushes nothing. */
int peri__attach(peri_runtime **out, lua_State *L, const peri_options *options,
                 bool own_state);
void peri__detach(peri_runtime *rt);
/* A library of the runtime blocks SIGPIPE in its thread while it works. */
void peri__sigpipe_block(peri_runtime *rt);
void peri__sigpipe_restore(peri_runtime *rt);
/* Pushes a list of all loops there are. */
void peri__push_loops(lua_State *L, peri_runtime *rt);
/* Call fn(argument) when the runtime closes, before its loops do. */
void peri__at_close(lua_State *L, void (*fn)(void *), void *argument);
/* Count waits that only something outside can end. */
static inline void peri__external(peri_runtime *rt, int delta)
{
  atomic_fetch_add(&rt->external, delta);
}

/* error.c */
void peri__error_open(lua_State *L, peri_runtime *rt);
void peri__push_class(lua_State *L, peri_runtime *rt, peri_error_class class_);
void peri__push_error(lua_State *L, peri_runtime *rt, peri_error_class class_,
                      const char *format, ...);
/* The message of a cancellation on top of the stack (any value, nil for none)
 * becomes the CancelledError. */
void peri__push_cancelled(lua_State *L, peri_runtime *rt);
int peri__throw(lua_State *L, peri_runtime *rt, peri_error_class class_,
                const char *format, ...);
int peri__throw_uv(lua_State *L, peri_runtime *rt, const char *syscall,
                   int code);
int peri__arg_error(lua_State *L, peri_runtime *rt, peri_error_class class_,
                    int arg, const char *message);
int peri__arg_type_error(lua_State *L, peri_runtime *rt, int arg,
                         const char *expected);
lua_Number peri__check_number(lua_State *L, peri_runtime *rt, int arg);
const char *peri__check_string(lua_State *L, peri_runtime *rt, int arg,
                               size_t *length);
void peri__check_function(lua_State *L, peri_runtime *rt, int arg);
/* Any value as text; never raises but for memory: a failing __tostring is told
 * of instead. */
const char *peri__describe(lua_State *L, int idx);
bool peri__is_cancelled_error(lua_State *L, peri_runtime *rt, int idx);
bool peri__is_error_object(lua_State *L, peri_runtime *rt, int idx);
peri_sentinel peri__sentinel_of(lua_State *L, peri_runtime *rt, int idx);
void peri__push_sentinel(lua_State *L, peri_runtime *rt, peri_sentinel which);
void peri__push_sentinel_message(lua_State *L, peri_runtime *rt,
                                 peri_sentinel which);
/* Reports to the loop's exception handler: the context table is on top of the
 * stack and is popped. Never raises. */
void peri__report(lua_State *L, peri_runtime *rt, peri_loop *loop);
/* The same, with the context table that build makes of the nargs values on top
 * of the stack (popped). Without memory for it what is logged. */
void peri__report_built(lua_State *L, peri_runtime *rt, peri_loop *loop,
                        lua_CFunction build, int nargs, const char *what);
/* The same for an error on top of the stack (popped). */
void peri__report_error(lua_State *L, peri_runtime *rt, peri_loop *loop,
                        const char *message);

/* kill.c: raises a sentinel; whether killed code may wait, since it unwinds */
int peri__throw_sentinel(lua_State *L, peri_runtime *rt, peri_sentinel which);
bool peri__unwinds(lua_State *L, peri_runtime *rt);

/* session.c */
void peri__session_open(lua_State *L, peri_runtime *rt);
/* An exit or an interrupt has left the task at idx, or (NULL, 0) what is so
 * named: the runs end, unless a session spares them. */
void peri__end_runs(lua_State *L, peri_runtime *rt, peri_sentinel why,
                    peri_task *task, int idx, const char *what);

/* trace.c */
void peri__trace_open(lua_State *L, peri_runtime *rt);
/* Message handler of tasks and callbacks: error -> error, its frames kept. */
int peri__trace_handler(lua_State *L);
/* Adds the frames of another coroutine to the error at idx of L. */
void peri__trace_coroutine(lua_State *L, peri_runtime *rt, lua_State *co,
                           int idx);
/* The trace of the error at idx is the one on top of the stack (popped). */
void peri__trace_carry(lua_State *L, peri_runtime *rt, int idx);
/* The error on its way has arrived: an equal one (a string) is another. */
void peri__trace_forget(lua_State *L, peri_runtime *rt);
/* Pushes the trace of the error at idx, or nil. */
void peri__trace_push(lua_State *L, peri_runtime *rt, int idx);
/* Adds a line such as "awaited by Task-1" to the trace of the error at idx. */
void peri__trace_label(lua_State *L, peri_runtime *rt, int idx,
                       const char *label);
/* The same, with another trace, on top of the stack (popped), below it. */
void peri__trace_append(lua_State *L, peri_runtime *rt, int idx,
                        const char *label);
/* Replaces the trace on top of the stack by its text, which begins "stack
 * traceback:", or with another heading. */
void peri__trace_text(lua_State *L, peri_runtime *rt);
void peri__trace_text_under(lua_State *L, const char *heading);
/* Pushes the trace of where the script stands: without the functions of C and
 * of the library that it has called. It is empty where no script runs. */
void peri__trace_here(lua_State *L);
/* Whether a function is the script's, not C's or the library's; ar has its
 * "S". */
bool peri__is_script(const lua_Debug *ar);
/* Whether a function is one of our bindings, which have the runtime as upvalue.
 */
bool peri__is_binding(lua_State *L, peri_runtime *rt, int function);
/* Pushes the name that a function has in a standard library, or in ours, such as
 * "table.sort"; nil: it has none. */
void peri__push_public_name(lua_State *L, int function);
/* Pushes where a function is defined: "FILE:LINE", or its public name; nil if it
 * is C's and has none. */
void peri__push_place(lua_State *L, int function);
/* The next level of co, from *level on, whose function is the script's, with
 * its "Sl"; false: there is none. */
bool peri__script_level(lua_State *co, int *level, lua_Debug *ar);

/* timer.c: durations and deadlines in the nanoseconds of one clock. */
void peri__timers_init(peri_timers *timers);
void peri__timers_fini(peri_runtime *rt, peri_timers *timers);
/* duration < 0: the deadline stands for itself. */
void peri__timer_start(peri_clock *clock, peri_timer *timer, int64_t deadline,
                       int64_t duration);
void peri__timer_stop(peri_clock *clock, peri_timer *timer);
/* A timer that runs has been copied from old to where it is to stand. */
void peri__timer_moved(peri_clock *clock, peri_timer *old, peri_timer *timer);
/* Takes the first timer whose deadline is not after now, or NULL. */
peri_timer *peri__timer_due(peri_clock *clock, int64_t now);
static inline bool peri__timer_first(const peri_clock *clock, int64_t *deadline)
{
  if (clock->timers.root == NULL)
    return false;
  *deadline = clock->timers.root->deadline;
  return true;
}

/* clock.c */
void peri__clock_open(lua_State *L, peri_runtime *rt);
peri_clock *peri__clock_check(lua_State *L, peri_runtime *rt, int arg);
int64_t peri__clock_now(const peri_clock *clock);
/* When a duration from now ends. */
int64_t peri__clock_after(const peri_clock *clock, int64_t duration);
/* Nanoseconds of real time until the deadline; INT64_MAX: it depends on
 * somebody's advance(). */
int64_t peri__clock_real_delay(const peri_clock *clock, int64_t deadline);
void peri__clock_jump(peri_clock *clock, int64_t now);
/* One more user: of a clock that has one, or that stands at idx. */
void peri__clock_use(lua_State *L, peri_clock *clock);
void peri__clock_use_at(lua_State *L, peri_clock *clock, int idx);
void peri__clock_unuse(lua_State *L, peri_clock *clock);
peri_clock *peri__clock_current(peri_runtime *rt);
/* Seconds to nanoseconds, rounded up, clipped to some 290 years. */
int64_t peri__nanoseconds(lua_Number seconds);

/* future.c */
void peri__future_open(lua_State *L, peri_runtime *rt);
/* The future, task or gather at idx, or NULL. */
peri_future *peri__to_future(lua_State *L, peri_runtime *rt, int idx);
peri_future *peri__check_future(lua_State *L, peri_runtime *rt, int arg);
/* Initialises the head of a userdata on top of the stack. The loop is at
 * loop_idx. */
void peri__future_init(peri_future *future, peri_future_kind kind,
                       peri_loop *loop);
peri_future *peri__future_new(lua_State *L, peri_runtime *rt, peri_loop *loop,
                              int loop_idx);
/* The value(s) on top of the stack become the result of the pending future at
 * idx, and are popped. */
void peri__future_resolve(lua_State *L, peri_runtime *rt, int idx, int n);
/* The same in two steps, of which only the first needs memory. n values (> 1)
 * become a table; idx is no relative index. */
void peri__future_pack(lua_State *L, int n);
void peri__future_resolve_packed(lua_State *L, int idx, int n);
void peri__future_reject(lua_State *L, peri_runtime *rt, int idx);
/* Ends the pending future at idx as cancelled; the message or error object on
 * top of the stack is popped. */
void peri__future_settle_cancelled(lua_State *L, peri_runtime *rt, int idx,
                                   bool is_object);
/* cancel() of any kind of future; message at message_idx (0: none). */
bool peri__future_cancel(lua_State *L, peri_runtime *rt, int idx,
                         int message_idx);
/* What a script calls: as above, and raises if gathers are nested so deep that
 * not all could be cancelled. */
bool peri__future_cancel_checked(lua_State *L, peri_runtime *rt, int idx,
                                 int message_idx);
/* Pushes what the done future at idx holds, or raises it: await, result. */
int peri__future_return(lua_State *L, peri_runtime *rt, int idx);
/* Pushes the error of a failed or cancelled future at idx. */
void peri__future_push_error(lua_State *L, peri_runtime *rt, int idx);
/* The trace of the failed future at idx goes with its error, which is at another
 * index, to whoever raises that next, or fails with it. */
void peri__future_carry_trace(lua_State *L, peri_runtime *rt, int idx,
                              int error);
/* The error of the done future at idx has been seen, or is not wanted. */
void peri__future_retrieved(lua_State *L, int idx);
void peri__unseen_report(lua_State *L, peri_runtime *rt, peri_loop *loop);

/* link.c */
void peri__link_open(lua_State *L, peri_runtime *rt);
int peri__add_done_callback(lua_State *L); /* methods of futures */
int peri__remove_done_callback(lua_State *L);
/* A method of futures that belong to no loop: fn(future) is called where the
 * future becomes done, or here and now if it is done. */
int peri__add_inline_callback(lua_State *L);
/* Anchors the links of the done future at idx, and gives it to them. */
void peri__links_anchor(lua_State *L, peri_future *future, int idx);
/* The same for a future without a loop, in two steps: before it is made done the
 * inline callbacks are taken from it, and pushed (nil: none); when it is, they
 * are called, and popped. Neither needs memory. */
void peri__links_take(lua_State *L, peri_future *future, int idx);
void peri__links_call(lua_State *L, peri_runtime *rt);
peri_loop *peri__link_loop(const peri_node *node);
/* The link will not be called. */
void peri__link_drop(peri_node *node);
void peri__link_run(lua_State *L, peri_runtime *rt, peri_node *node);
/* Pushes the callback of a link, and nil; returns what it is, as text. */
const char *peri__link_push(lua_State *L, peri_runtime *rt, peri_node *node);

/* gather.c */
/* The loop of the gather at idx, if it is one, closes. */
void peri__gather_forget(lua_State *L, peri_runtime *rt, int idx);
void peri__gather_open(lua_State *L, peri_runtime *rt);
void peri__gather_child(lua_State *L, peri_runtime *rt, peri_node *node);
/* A child has become done: its callback, this node, is due in the next round. */
void peri__child_ended(peri_node *node);
peri_loop *peri__child_loop(const peri_node *node);
bool peri__gather_cancel(lua_State *L, peri_runtime *rt, int idx,
                         int message_idx);

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

/* several.c */
/* A future of a wait for several has ended. */
void peri__several_ended(peri_node *node);
peri_loop *peri__several_loop(const peri_node *node);
/* The wait of the task is over. */
void peri__several_abandon(peri_task *task);
void peri__several_open(lua_State *L, peri_runtime *rt);

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
/* The same with the task at idx, which has ended well, and which was made by
 * peri__task_new. False, and nothing is done: a script may know it. */
bool peri__task_renew(lua_State *L, peri_runtime *rt, int idx, int fn);
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
/* Ends a task where it stands: its coroutines are closed, innermost first. */
void peri__task_destroy(lua_State *L, peri_runtime *rt, peri_task *task);
/* Sees to it that the task is an ordinary one. False: out of memory, and it is
 * a bare one still, which peri__task_drop can end. */
bool peri__task_make_plain(lua_State *L, peri_runtime *rt, peri_task *task);
void peri__task_drop(lua_State *L, peri_runtime *rt, peri_task *task);
/* After an error threw the driver out of a round: tasks that stood in no queue
 * then are ended, or put back. */
void peri__tasks_recover(lua_State *L, peri_runtime *rt, peri_loop *loop);
lua_State *peri__task_innermost(peri_task *task);
/* Coroutines are not kept for the next task, which notes where it is made only
 * if it needs a new one: debug mode, from here on. */
void peri__task_forget_pool(lua_State *L, peri_runtime *rt, peri_loop *loop);
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

/* wait.c: how a task waits */
/* The running task, if it may wait right here; raises the RuntimeError that
 * says why not. what names the wait. */
void peri__wait_refuse(lua_State *L, peri_runtime *rt, const char *what);
static inline peri_task *peri__wait_check(lua_State *L, peri_runtime *rt,
                                          const char *what)
{
  peri_task *task = rt->task;
  if (peri_unlikely(task == NULL || L != rt->current || !lua_isyieldable(L) ||
                    task->flags & PERI_T_KILLED))
    peri__wait_refuse(L, rt, what);
  task->what = what;
  return task;
}
bool peri__can_wait(lua_State *L, peri_runtime *rt);
/* Suspends the running task until a step resumes it in k. */
static inline int peri__park(lua_State *L, peri_runtime *rt, lua_KContext ctx,
                             lua_KFunction k)
{
  if (peri_unlikely(L != rt->task->co || rt->task->flags & PERI_T_EXPOSED))
    lua_pushlightuserdata(L, (void *)&peri__parked_key);
  return lua_yieldk(L, 0, ctx, k);
}
/* A task that was cancelled before it waits goes on with that at once. */
static inline void peri__park_cancelled(peri_task *task)
{
  task->flags &= (uint16_t)~PERI_T_MUST_CANCEL;
  task->outcome = PERI_OUTCOME_CANCEL;
  task->wait = PERI_WAIT_WOKEN;
  peri__list_push(&task->future.loop->ready, &task->node);
}
/* First thing in k: raises what is to be raised instead of the result. The
 * second one leaves a cancellation to the caller, and returns true. */
void peri__unpark(lua_State *L, peri_runtime *rt);
bool peri__unpark_cancelled(lua_State *L, peri_runtime *rt);
int peri__raise_outcome(lua_State *L, peri_runtime *rt);
static inline bool peri__parked(lua_State *co)
{
  return lua_touserdata(co, -1) == (const void *)&peri__parked_key;
}
void peri__wait_open(lua_State *L, peri_runtime *rt);

/* waiters.c: a line of tasks that wait for their turn */
typedef struct peri_waiters peri_waiters;
/* Passes on the turn of a task that leaves the line by an error; woken: it had
 * come. The object that owns the line is at idx. Neither waits nor raises. */
typedef void (*peri_give_up_cb)(lua_State *L, peri_runtime *rt,
                                peri_waiters *line, int idx, bool woken);
struct peri_waiters {
  peri_list turns;  /* of tasks, the longest wait first */
  const char *what; /* names the wait; static */
  peri_give_up_cb give_up;
  /* The coroutine in whose function a task waits is closed; or NULL. */
  void (*abandoned)(lua_State *co, bool woken);
};
void peri__waiters_init(peri_waiters *line, const char *what,
                        peri_give_up_cb give_up);
static inline bool peri__waiters_empty(const peri_waiters *line)
{
  return peri__list_empty(&line->turns);
}
/* Wakes the first task that is not on its way out, and takes it out of the
 * line. False: there is none. */
bool peri__waiters_wake(peri_waiters *line);
void peri__waiters_wake_all(peri_waiters *line);
/* The turn of the first task comes, which stays first until it runs; nothing if
 * it has come already, or if that task is on its way out. */
void peri__waiters_wake_first(peri_waiters *line);
/* Whether a task stands there that is not on its way out. */
bool peri__waiters_claimed(const peri_waiters *line);
/* Puts the running task at the end of the line, whose owner is at index 1 of
 * the function that is to peri__park next. */
void peri__waiters_park(lua_State *L, peri_runtime *rt, peri_waiters *line);
/* The same where it is known that the task can wait: never raises. */
void peri__waiters_stay(peri_task *task, peri_waiters *line);
/* First thing in the continuation: returns when the turn has come, else passes
 * it on and raises. */
void peri__waiters_unpark(lua_State *L, peri_runtime *rt);
/* The same but for the raising: false, and the outcome is the caller's. */
bool peri__waiters_leave(lua_State *L, peri_runtime *rt);
/* A task that may stand in a line is about to be closed where it stands. */
void peri__waiters_abandon(lua_State *L, peri_runtime *rt, peri_task *task);

/* locks.c */
void peri__locks_open(lua_State *L, peri_runtime *rt);

/* queue.c */
void peri__queue_open(lua_State *L, peri_runtime *rt);

/* coroutine.c */
void peri__coroutine_open(lua_State *L, peri_runtime *rt, unsigned patch);
/* The lowest level that lua_getstack knows; co must have one. */
int peri__last_level(lua_State *co);
/* The task that waits inside a coroutine of the script's, or NULL. */
peri_task *peri__task_in(peri_runtime *rt, lua_State *co);
/* Returns a Lua status; an error is on top of co then. PERI_TOO_DEEP: it is not
 * closed, since coroutines close each other without end. */
int peri__close_coroutine(lua_State *L, peri_runtime *rt, lua_State *co);
enum { PERI_TOO_DEEP = -1 };
int peri__xpcall(lua_State *L); /* ours for Lua's */
/* Raises the message on top as luaL_error would, and that of want of memory,
 * which some pcall has caught, as it is. */
int peri__fail(lua_State *L);

/* yieldable.c, sort.c, require.c: functions of Lua's library that may wait. The
 * first one loads the private module perilune._yieldable. */
int peri__yieldable_load(lua_State *L);
int peri__make_sort(lua_State *L);
void peri__require_push(lua_State *L, peri_runtime *rt);
/* Replaces our require on top of the stack by its table of records. */
void peri__require_records(lua_State *L);

/* awaitable.c: coroutine objects, await, what may be awaited */
void peri__awaitable_open(lua_State *L, peri_runtime *rt);
/* Turns the awaitable at idx into a future on top of the stack; false (and
 * nothing) if it is none. */
bool peri__push_awaitable_future(lua_State *L, peri_runtime *rt,
                                 peri_loop *loop, int loop_idx, int idx);
/* The function and arguments of the coroutine object at idx, pushed; raises if
 * it was awaited before. Returns how many values. */
int peri__coroutine_take(lua_State *L, peri_runtime *rt, int idx);
bool peri__is_coroutine(lua_State *L, peri_runtime *rt, int idx);
/* Marks the coroutine object at idx, or takes the mark away. Returns how many
 * values it has; 0 if it is so marked already, or was awaited. */
int peri__coroutine_mark(lua_State *L, int idx, bool mark);
/* Whether the coroutine object at idx was awaited, or closed. */
bool peri__coroutine_taken(lua_State *L, int idx);

/* crew.c: futures whose endings a scope has a share in */
void peri__crew_open(lua_State *L, peri_runtime *rt);
void peri__crew_member(lua_State *L, peri_runtime *rt, peri_node *node);
peri_loop *peri__crew_loop(const peri_node *node);
/* The loop of the crew at idx, if it is one, closes. */
void peri__crew_forget(lua_State *L, peri_runtime *rt, int idx);

/* handle.c: call_soon, call_later, call_at */
void peri__handle_open(lua_State *L, peri_runtime *rt);
void peri__handle_run(lua_State *L, peri_runtime *rt, peri_node *node);
/* Pushes the function of a handle, and the handle; returns what it is. */
const char *peri__handle_push(lua_State *L, peri_runtime *rt, peri_node *node);
/* Its timer has fired. */
void peri__handle_due(peri_node *node);
void peri__handle_drop(lua_State *L, peri_runtime *rt, peri_node *node);
/* What is called with its one argument on top of the stack, and needs no memory:
 * a deadline must not be lost for want of it. */
typedef void (*peri_native_cb)(lua_State *L, peri_runtime *rt);
/* [loop, seconds, argument] -> handle; raises as call_later */
int peri__call_later_native(lua_State *L, peri_native_cb native);
int peri__call_later_real_native(lua_State *L, peri_native_cb native);
/* Cancels the handle at idx, if it is one. */
void peri__handle_forget(lua_State *L, peri_runtime *rt, int idx);
/* What is to be called stands from fn on: a function and its arguments, or a
 * call table {fn, a, b, n=, context=}, behind which they are put then. Returns
 * where the function stands. */
int peri__open_call(lua_State *L, peri_runtime *rt, int fn);
/* Pushes the context that such a table names, or a copy of the current one. */
void peri__push_context_of(lua_State *L, peri_runtime *rt, int fn, int first);
/* Calls the function and arguments on top of L, protected; an error goes to
 * the exception handler. what names it in messages. */
void peri__call_protected(lua_State *L, peri_runtime *rt, peri_loop *loop,
                          int nargs, const char *what);
/* The same in a context, which stands below the function; pops that, too. */
void peri__call_in_context(lua_State *L, peri_runtime *rt, peri_loop *loop,
                           int nargs, const char *what);

/* loop.c */
void peri__loop_open(lua_State *L, peri_runtime *rt);
peri_loop *peri__loop_new(lua_State *L, peri_runtime *rt, uv_loop_t *host_uv);
peri_loop *peri__check_loop(lua_State *L, peri_runtime *rt, int arg);
peri_loop *peri__running_loop(peri_runtime *rt);
/* Pushes the loop, the table of its anchors. */
void peri__push_loop(lua_State *L, peri_loop *loop);
void peri__push_anchors(lua_State *L, peri_loop *loop);
int peri__anchor(lua_State *L, peri_loop *loop); /* pops a value */
void peri__unanchor(lua_State *L, peri_loop *loop, int anchor);
void peri__push_setting(lua_State *L, peri_loop *loop, const char *name);
static inline void peri__loop_ready(peri_loop *loop, peri_node *node)
{
  peri__list_push(&loop->ready, node);
}
void peri__loop_check_open(lua_State *L, peri_runtime *rt, peri_loop *loop);
/* loop_close.c */
void peri__loop_close(lua_State *L, peri_runtime *rt, peri_loop *loop);
/* Ends the loop's tasks where they stand, and reports them. Never raises. */
void peri__loop_end_tasks(lua_State *L, peri_runtime *rt, peri_loop *loop);
uv_loop_t *peri__loop_uv(lua_State *L, peri_loop *loop);
/* Closes what the loop has of the kernel, if it has any. */
void peri__kernel_free(peri_runtime *rt, peri_loop *loop);
/* Runs. */
void peri__run_begin(lua_State *L, peri_runtime *rt, peri_run_record *run);
void peri__run_end(lua_State *L, peri_runtime *rt, peri_run_record *run);
int peri__run_drive(lua_State *L, peri_runtime *rt, peri_run_record *run);
void peri__runs_stop(peri_runtime *rt, const peri_run_record *through);
void peri__run_abandon(lua_State *L, peri_runtime *rt);
/* Stack that a driver sees to, so that a round need not ask: what it does
 * itself has room in it, and the rest is called protected. */
enum { PERI_ROOM = 60 };
/* One round of the innermost run; with block, which also waits for something to
 * do, it may be several. */
void peri__turn(lua_State *L, peri_runtime *rt, bool block);
bool peri__idle(peri_runtime *rt, peri_loop *loop);
bool peri__has_work(peri_runtime *rt);
/* Nanoseconds until the next timer on real time; INT64_MAX: none. */
int64_t peri__next_timer(peri_runtime *rt);

/* post.c */
enum {
  PERI_ATTEND_POSTS = 1,
  PERI_ATTEND_INTERRUPT = 2,
  PERI_ATTEND_PRINT = 4,
  PERI_ATTEND_RELEASE = 8, /* a hold has gone */
  PERI_ATTEND_WORK = 16    /* of our threads is done (io/) */
};
/* Has the next round look at what has come. Any thread; signal handlers. */
void peri__attend(peri_runtime *rt, int what);
bool peri__nothing_came(peri_runtime *rt);
int peri__post_init(peri_runtime *rt);
void peri__post_fini(peri_runtime *rt);
void peri__post_attend(lua_State *L, peri_runtime *rt);
void peri__async_set(peri_runtime *rt, uv_async_t *async);
void peri__wake(peri_runtime *rt);
void peri__interrupt_reset(peri_runtime *rt);
/* There is work done: the next round calls peri__work_attend. Any thread. */
void peri__attend_work(peri_runtime *rt);
/* io/work.c */
void peri__work_attend(peri_runtime *rt);
void peri__work_close(peri_runtime *rt);
/* io/process.c: children whose loops have closed are left to themselves */
void peri__process_close(peri_runtime *rt);
/* io/stdio.c: restores the terminal */
void peri__stdio_close(peri_runtime *rt);

/* watch.c: readers, writers, signal handlers */
void peri__watch_open(lua_State *L, peri_runtime *rt);
void peri__watch_run(lua_State *L, peri_runtime *rt, peri_node *node);
void peri__watch_close_all(lua_State *L, peri_runtime *rt, peri_loop *loop);
/* Has the callback called for a signal,. What the signal did before it does again when the last handle of the
 * runtime's for it has been stopped. 0, or a libuv error: the handle is not
 * initialised then. */
int peri__signal_start(peri_runtime *rt, uv_loop_t *uv, uv_signal_t *handle,
                       uv_signal_cb callback, int number);
void peri__signal_stop(peri_runtime *rt, uv_signal_t *handle, int number,
                       uv_close_cb closed);

#endif
