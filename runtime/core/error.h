/*
 * error.h: errors: their classes, what no pcall catches, reports, and traces.
 */
#ifndef PERI_ERROR_H
#define PERI_ERROR_H

#include "base.h"

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

#endif
