/*
 * runtime.h: the runtime of a Lua state.
 */
#ifndef PERI_RUNTIME_H
#define PERI_RUNTIME_H

#include "loop.h"
#include "task.h"

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
  X(REQUIRE)   /* the require that may wait, once it was needed */             \
  X(SENT)      /* of pool/, once it was needed: what goes by name, */          \
  X(CODE)      /* code that was sent lately, and before, */                    \
  X(OLD_CODE)                                                                  \
  X(CHUNKS) /* and code that has come */                                       \
  X(OLD_CHUNKS)                                                                \
  X(PLAIN) /* the function that was sent last, and its code */                 \
  X(PLAIN_CODE)                                                                \
  X(LOADED) /* the one that has come last, and its code */                     \
  X(LOADED_CODE)

enum {
#define X(name) PERI_REF_##name,
  PERI_REFS(X)
#undef X
      PERI_REF_COUNT
};

typedef struct peri_post_record peri_post_record;

/* A loop in a worker is about to sleep with nothing to wait for but jobs of its own
 * pool. If none of them can come: */
typedef enum peri__rest_kind {
  PERI__REST_NOT,   /* it does not sleep */
  PERI__REST_STAYS, /* it sleeps for ever */
  PERI__REST_ENDS,  /* its run ends with a DeadlockError */
  PERI__REST_JUMPS  /* time goes on, on a virtual clock */
} peri__rest_kind;

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
                           one that cannot wait. Never garbage: signal handlers
                           set hooks in it */
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
  uint32_t modules;       /* that our require has loaded; how many of them */
  uint32_t modules_named; /* the codec has looked at (names.c) */
  uint64_t carrier;       /* of an error's trace (trace.c) */
  int cancel_depth;       /* gathers in gathers */
  bool cancel_too_deep, cancel_lacks_memory; /* not all could be cancelled */
  atomic_int external; /* waits that only the outside can end; any thread */
  uint32_t awaits; /* coroutine objects awaited, to probe the depth at times */

  /* Found by address rather than by a look into the registry. */
  int ref[PERI_REF_COUNT];
  const void *meta_future, *meta_task, *meta_gather, *meta_job, *meta_coroutine,
      *meta_handle, *meta_loop, *meta_clock, *meta_line, *meta_several,
      *meta_crew, *meta_executor;
  void *last_executor;        /* that was used, a handle that is not garbage */
  const void *plain_function; /* that stands at PERI_REF_PLAIN, or NULL; */
  struct peri__chunk *plain_chunk;  /* its code, */
  uint32_t plain_modules;           /* without a name as of modules_named */
  struct peri__chunk *loaded_chunk; /* of PERI_REF_LOADED, or NULL */
  bool loaded_has_globals;
  const void *sentinel[PERI_SENTINEL_COUNT];
  lua_CFunction debug_traceback; /* the stock one */

  /* Set from other threads and signal handlers. */
  atomic_int attention;  /* PERI_ATTEND_*: something has come */
  atomic_bool spins;     /* the loop's thread looks at attention all the time */
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
  bool unfollowed; /* which could not do all: once more before a loop sleeps */
  /* A loop is about to sleep while there are `spinners`: looks for news at most
   * so many nanoseconds (< 0: no limit). True: there is something. */
  bool (*spin)(lua_State *L, peri_runtime *rt, int64_t delay);
  uint32_t spinners;
  /* In a worker: the pool to which its job has submitted jobs that are not back,
   * or NULL. Is told when the loop is about to sleep with nothing else to wait
   * for, returns false then if none of them can come any more; and is told when
   * it has slept. */
  struct peri__pool *own_pool;
  bool (*own_pool_rests)(peri_runtime *rt, peri__rest_kind kind);
  bool warns, warning_continues; /* of the state's warn() */
  lua_Alloc alloc;
  void *alloc_ud;
};

/* User values of one userdata: Lua counts them in 16 bits. */
enum { PERI_MOST_VALUES = 60000 };

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

#endif
