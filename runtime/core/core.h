/*
 * core.h: what the files of core/ share, in a header for each subject. Nothing
 * outside core/, embed/, pool/ and io/ includes it.
 *
 * The parts, from the bottom up:
 *   list.h       intrusive lists: every queue of the runtime is one
 *   timer.c      timers of one clock; clock.c, the clocks themselves
 *   future.c     a result to come; link.c, what is to be done then; gather.c, one made of many (bare.c, of
 *                functions); several.c, the wait for many
 *   task.c       a coroutine that is driven by a loop; cancel.c, how its end is
 *                asked for
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

#include "base.h"
#include "coroutine.h"
#include "error.h"
#include "future.h"
#include "loop.h"
#include "runtime.h"
#include "task.h"
#include "timer.h"
#include "wait.h"

#endif
