/*
 * loop.h: loops, what they run, and runs of them.
 */
#ifndef PERI_LOOP_H
#define PERI_LOOP_H

#include "error.h"
#include "timer.h"

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
/* Opens /dev/null in the place of each standard stream that is closed. 0 or a
 * libuv error. */
int peri__fill_standard(void);
/* The loop's part of the kernel is made, if there is none yet. kernel: 0 or a
 * libuv error; the other one raises. */
int peri__loop_kernel(lua_State *L, peri_loop *loop);
uv_loop_t *peri__loop_uv(lua_State *L, peri_loop *loop);
/* Whether the error is a lack of memory, or of descriptors, of which garbage may
 * have some. */
bool peri__is_lack(int code);
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
/* Calls what was posted, between two turns. */
void peri__posts_run(lua_State *L, peri_runtime *rt);
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
