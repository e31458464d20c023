/*
 * perilune.h: Perilune for C hosts.
 *
 * A runtime (peri_runtime) belongs to one Lua state and drives any number of
 * event loops on libuv. A host either lets Perilune make a fresh state
 * (peri_new) or attaches a runtime to a state of its own (peri_attach), then
 * runs files, strings or functions as the main task: to completion (peri_run),
 * or step by step without ever blocking (peri_start and peri_step).
 *
 * Threads. Unless a function says "any thread", it must be called on the
 * thread that uses the Lua state. Nothing here installs a signal handler,
 * starts a thread or writes to a stream.
 *
 * Errors. Functions that can fail return a negative peri_status; the text, with
 * the script's traceback, is peri_error(). No function here raises a Lua error
 * or calls exit(), unless it says so.
 */
#ifndef PERILUNE_H
#define PERILUNE_H

#include <stddef.h>
#include <stdint.h>

#include <lua.h>
#include <uv.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PERI_API __attribute__((visibility("default")))
#else
#define PERI_API
#endif

#define PERI_VERSION "0.1.0"

typedef struct peri_runtime peri_runtime;

/* What a call came to. The names are in the order of their numbers. */
typedef enum peri_status {
  PERI_OK = 0,
  PERI_EFAILED = -1,      /* the main task failed: see peri_error() */
  PERI_ENOMEM = -2,       /* out of memory */
  PERI_EEXIT = -3,        /* the script called os.exit: see peri_exit_code() */
  PERI_EINTERRUPTED = -4, /* peri_interrupt() ended the main task */
  PERI_EINVAL = -5,       /* wrong argument, or wrong state for the call */
  PERI_EUV = -6,          /* libuv refused: see peri_error() */
  PERI_EDEADLOCK = -7     /* nothing could happen any more: see peri_error() */
} peri_status;

/* Parts of the Lua state that a host may want left as they are. What is lost:
 * without PERI_PATCH_COROUTINE a wait inside a coroutine of the script's own
 * raises a RuntimeError; without PERI_PATCH_PCALL a kill and os.exit can be
 * caught by pcall and are raised again at the next wait only. */
enum {
  PERI_PATCH_COROUTINE = 1 << 0, /* coroutine.* */
  PERI_PATCH_PCALL = 1 << 1,     /* pcall, xpcall */
  PERI_PATCH_EXIT = 1 << 2,      /* os.exit unwinds to the host */
  PERI_PATCH_REQUIRE = 1 << 3,   /* require lets modules wait */
  PERI_PATCH_PRINT = 1 << 4,     /* print is in order with perilune.stdio */
  PERI_PATCH_DEFAULT = PERI_PATCH_COROUTINE | PERI_PATCH_PCALL
};

/* Fill with peri_options_init, then change what matters. */
typedef struct peri_options {
  size_t size;         /* sizeof(peri_options), set by peri_options_init */
  lua_Alloc alloc;     /* peri_new: the state's allocator; NULL: our own */
  void *alloc_ud;      /* passed to alloc */
  size_t memory_limit; /* peri_new: bytes the state may use; 0: no limit */
  uv_loop_t *uv_loop;  /* the first loop runs on this one; NULL: its own.
                           The host keeps owning it and closes it after
                           peri_close. */
  unsigned patch;      /* PERI_PATCH_* */
  int sigpipe_ignored; /* the host ignores SIGPIPE itself: steps need not
                           block it in their thread */
  int debug;           /* debug mode for every loop (README, "Debug mode").
                           The environment variable PERILUNE_DEBUG is the
                           program's and the module's: a host that wants it
                           reads it. */
  int deadlock;        /* peri_run ends with PERI_EDEADLOCK, and a script's own
                           run raises DeadlockError, where it would block for
                           ever. Unsound unless every thread of the host that
                           is going to post has a hold: see peri_hold. */
  /* A signal that may be sent to worker threads of ours, to interrupt a job that
   * does not wait (future:cancel{running=true}); its handler is installed then,
   * unless the host has one for it. 0: none, such jobs run on. SIGURG suits. */
  int preempt_signal;
  /* Where the log goes (level as in perilune.log: 10 to 50). NULL: to Lua's
   * warn(). The text is valid during the call. */
  void (*log)(void *ud, int level, const char *text);
  void *log_ud;
  /* The command line of a program that calls peri_worker_main, with NULL behind
   * it: what process pools start. Must stay valid as long as the runtime. NULL:
   * a pool raises RuntimeError, unless the script names a program
   * (multiprocessing.set_executable). */
  const char *const *worker_command;
} peri_options;

PERI_API void peri_options_init(peri_options *options);

/* The version this library was built as, PERI_VERSION of its header. Any
 * thread. */
PERI_API const char *peri_version(void);

/* Makes a Lua state with the standard libraries, and a runtime on it; both go
 * with peri_close. options may be NULL. PERI_ENOMEM, PERI_EINVAL, PERI_EUV. */
PERI_API int peri_new(peri_runtime **runtime, const peri_options *options);

/* Attaches a runtime to the host's state; one runtime a state (PERI_EINVAL for
 * a second). peri_close detaches it: the state stays with the host, who calls
 * peri_close before lua_close. */
PERI_API int peri_attach(peri_runtime **runtime, lua_State *L,
                         const peri_options *options);

/* The runtime of a state, or NULL. Never raises. */
PERI_API peri_runtime *peri_of(lua_State *L);

/* The state's main thread. */
PERI_API lua_State *peri_state(peri_runtime *runtime);

/* Ends everything: cancels what is left of the main task and of its tasks and
 * waits for them (as the end of a run does), closes every loop, and frees the
 * runtime; after peri_new the state as well. NULL is fine. Not from inside
 * Lua code that the runtime runs. */
PERI_API void peri_close(peri_runtime *runtime);

/* Run the function below its nargs arguments on top of the state's stack as
 * the main task, until it and every task it left behind have ended. On PERI_OK
 * nresults results (or LUA_MULTRET: all) stand in their place; otherwise
 * nothing does. Blocks. */
PERI_API int peri_run(peri_runtime *runtime, int nargs, int nresults);

/* The same for a file (NULL: standard input) or a string; the results are
 * dropped. The chunk gets no arguments. */
PERI_API int peri_run_file(peri_runtime *runtime, const char *path);
PERI_API int peri_run_string(peri_runtime *runtime, const char *code,
                             size_t length, const char *chunkname);

/* Start the function below its nargs arguments on top of the state's stack as
 * the main task and return at once; the work is done by peri_step. One main
 * task at a time: PERI_EINVAL while another runs. */
PERI_API int peri_start(peri_runtime *runtime, int nargs);
PERI_API int peri_start_file(peri_runtime *runtime, const char *path);
PERI_API int peri_start_string(peri_runtime *runtime, const char *code,
                               size_t length, const char *chunkname);

/* Does what is due, without blocking: posts, timers, I/O, ready tasks; no new
 * round begins once budget nanoseconds have gone (0: one round). Returns 1
 * while the main task or what it left behind lives, PERI_OK once all has
 * ended well, a negative status once it failed. PERI_OK when nothing was
 * started. Called from inside a step it returns PERI_EINVAL. */
PERI_API int peri_step(peri_runtime *runtime, uint64_t budget);

/* For a foreign loop: a descriptor that becomes readable when there may be
 * work, and the milliseconds until the next timer (-1: none, 0: work is ready).
 */
PERI_API int peri_backend_fd(peri_runtime *runtime);
PERI_API int peri_backend_timeout(peri_runtime *runtime);

/* Asks for callback(L, argument) to be called on the runtime's thread, in the
 * next round of the running loop; many posts cost one wake-up. Any thread, also
 * while the runtime steps; not after peri_close has begun. PERI_ENOMEM. The
 * callback runs protected: an error it raises goes to the loop's exception
 * handler. */
typedef void (*peri_post_cb)(lua_State *L, void *argument);
PERI_API int peri_post(peri_runtime *runtime, peri_post_cb callback,
                       void *argument);

/* A hold says that something outside of the runtime will post: as long as there
 * is one the runtime is not found to be in a deadlock (peri_options.deadlock),
 * and virtual clocks stand still. Take it before the thread that is to post is
 * started, or where another hold is in force, and release it once, after the
 * last post. Any thread; not after peri_close has begun. */
PERI_API void peri_hold(peri_runtime *runtime);
PERI_API void peri_release(peri_runtime *runtime);

/* Has the tree of tasks, each with what it does and waits for, written to the
 * log (level 20): in the next round, or at once if the runtime's thread runs a
 * script and this is called in a signal handler there. Any thread, and safe in
 * a signal handler. */
PERI_API void peri_print_tasks(peri_runtime *runtime);

/* Ctrl-C for scripts. The first call cancels the main task; the next raises an
 * error no pcall of ours catches: in the running code at once when it is called
 * in a signal handler on the runtime's thread, else at the main task's wait.
 * (A watchdog thread stops code that never waits by pthread_kill with a signal
 * whose handler calls this.) Returns the number of calls not yet answered, this
 * one included. Any thread, and safe in a signal handler. */
PERI_API int peri_interrupt(peri_runtime *runtime);

/* How many interrupts nobody has seen yet. Safe in a signal handler. */
PERI_API int peri_interrupts_pending(const peri_runtime *runtime);

/* Gives the terminal the modes back that it had before a script put it into raw
 * mode (perilune.stdio), for a host that a signal ends; peri_close does so, too.
 * On the runtime's thread, and safe in a signal handler there. */
PERI_API void peri_restore_terminal(peri_runtime *runtime);

/* The whole life of a process that a pool has started as a worker (see
 * peri_options.worker_command); call it first thing in main, return what it
 * returns. It takes the standard input over, starts a thread, handles SIGINT and
 * SIGPIPE, and may exit(). The options, or NULL, are those of the worker's
 * state, but for what the pool decides (memory_limit, debug, deadlock). Blocks
 * until the pool needs it no more. */
PERI_API int peri_worker_main(const peri_options *options);

/* The text of the last failure with its traceback, "" if there was none. Valid
 * until the next call that fails, or peri_close. */
PERI_API const char *peri_error(const peri_runtime *runtime);

/* What os.exit was called with; 0 before. */
PERI_API int peri_exit_code(const peri_runtime *runtime);

#ifdef __cplusplus
}
#endif

#endif
