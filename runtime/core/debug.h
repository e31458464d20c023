/*
 * debug.h: what debug mode notes and reports (debug.c). Outside of debug mode
 * nothing of it is called, but by what is cold anyway.
 */
#ifndef PERI_DEBUG_H
#define PERI_DEBUG_H

#include "core/core.h"

void peri__debug_open(lua_State *L, peri_runtime *rt);
/* Another loop runs, or its mode has changed. */
void peri__debug_follow(lua_State *L, peri_runtime *rt);
/* loop:set_debug */
void peri__debug_set(lua_State *L, peri_runtime *rt, peri_loop *loop, bool on);
/* Raises unless this is the thread on which the loop runs. */
void peri__debug_check_thread(lua_State *L, peri_runtime *rt, peri_loop *loop);
/* The same for what is done with the loop's futures, in its debug mode. */
static inline void peri__check_thread(lua_State *L, peri_runtime *rt,
                                      const peri_future *future)
{
  if (peri_unlikely(future->loop != NULL && future->loop->debug))
    peri__debug_check_thread(L, rt, future->loop);
}

/* Notes where the object at idx is made. */
void peri__debug_note(lua_State *L, peri_runtime *rt, int idx);
/* The same for the object on top of the stack, and what it is to call: the
 * first function of the script's among what stands from fn on. */
void peri__debug_note_call(lua_State *L, peri_runtime *rt, int fn);
/* Pushes what is known of the object at idx: ", FILE:LINE, created at ..." */
const char *peri__debug_details(lua_State *L, peri_runtime *rt, int idx);
/* Pushes the trace of its making, or nil. */
void peri__debug_push_source(lua_State *L, peri_runtime *rt, int idx);
/* Sets source_traceback in the report on top of the stack: from the trace of
 * the object at idx, or from one above the report (popped). */
void peri__debug_tell_source(lua_State *L, peri_runtime *rt, int idx);
void peri__debug_tell_trace(lua_State *L);
/* The error at idx has left the running task: where that was made becomes part
 * of its trace, unless there is no memory for it. */
void peri__debug_trace_task(lua_State *L, peri_runtime *rt, int idx);

/* Runs a node of the ready queue, by run, and reports it if it was slow. */
void peri__debug_run(lua_State *L, peri_runtime *rt, peri_loop *loop,
                     peri_node *node,
                     void (*run)(lua_State *, peri_runtime *, peri_node *));
/* peri__call_in_context that reports the call if it was slow. */
void peri__debug_call(lua_State *L, peri_runtime *rt, peri_loop *loop,
                      int nargs, const char *what);
/* The loop has waited in the kernel: took of the delay it had (< 0: no end), in
 * nanoseconds, until there were so many events. */
void peri__debug_polled(lua_State *L, peri_runtime *rt, int64_t delay,
                        uint64_t took, size_t events);
/* The task at idx has ended well although it was cancelled. */
void peri__debug_swallowed(lua_State *L, peri_runtime *rt, int idx);
/* The object at idx, noted perhaps, is collected without having been closed: the
 * phrase, in which %s is the object as text, says so. Never raises. */
void peri__debug_unclosed(lua_State *L, peri_runtime *rt, int idx,
                          const char *phrase);

/* Sentries stand in what the script has to end, and report if they are collected
 * before they were released. Pushes one for what a phrase such as "TCP
 * transport" names, or nil outside of debug mode. */
void peri__debug_watch(lua_State *L, peri_runtime *rt, const char *what);
/* Releases the sentry at idx, if there is one. */
void peri__debug_release(lua_State *L, int idx);
/* A sentry for the coroutine object at idx, in its last user value: released
 * when that is awaited. */
void peri__debug_watch_coroutine(lua_State *L, peri_runtime *rt, int idx);
/* The runtime closes: reports what has not been ended. */
void peri__debug_close(lua_State *L, peri_runtime *rt);

#endif
