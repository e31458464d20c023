/*
 * repl.h: the interactive session of the program.
 *
 * The session itself is the module perilune.repl, in Lua; it runs in the main
 * task. Here is the terminal it reads from, and what signals do to that.
 */
#ifndef PERILUNE_HOST_REPL_H
#define PERILUNE_HOST_REPL_H

#include <stdbool.h>

#include "perilune.h"

/* Before anything reads standard input, if there is to be a session: what a
 * line of the session reads and what is a line shall not get mixed up. */
void repl_prepare(void);

/* Pushes the function that runs a session, and its argument; returns 1, the
 * number of arguments. Raises errors. */
int repl_push(lua_State *L, bool ignore_environment);

/* Whether a session runs. Safe in a signal handler. */
bool repl_runs(void);

/* Gives the terminal its modes back. Safe in a signal handler. */
void repl_restore(void);

/* Something will be written to the terminal, whole lines: takes the prompt
 * away; it comes back in the loop's next round. Any thread; does nothing on
 * others than the session's. */
void repl_make_room(void);

#endif
