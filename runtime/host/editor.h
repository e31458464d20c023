/*
 * editor.h: a line editor for the terminal, on libedit, that never blocks.
 *
 * libedit is loaded at run time; where there is none, editor_open says so. All
 * functions are called on one thread. Each of those that return an event
 * returns at once: EDITOR_INPUT asks to be called again, by editor_feed, when
 * the terminal has something to read.
 */
#ifndef PERILUNE_HOST_EDITOR_H
#define PERILUNE_HOST_EDITOR_H

#include <stdbool.h>
#include <stddef.h>

typedef struct editor editor;

typedef enum editor_event {
  EDITOR_IDLE,     /* nothing is being read */
  EDITOR_INPUT,    /* the next key is awaited */
  EDITOR_COMPLETE, /* the Tab key: editor_complete is to answer */
  EDITOR_LINE,     /* a line has been read */
  EDITOR_END,      /* Ctrl-D, or the terminal has gone */
  EDITOR_ABORTED,  /* editor_abort was called */
  EDITOR_FAILED    /* out of memory */
} editor_event;

/* Loads libedit, by its usual names or by the one given. NULL: there is none,
 * or it cannot use the terminal. */
editor *editor_open(const char *library);
/* Stops reading and gives everything back; the terminal is as libedit found
 * it, but for what the caller restores himself. */
void editor_close(editor *e);

/* Shows the prompt and begins to read a line. */
editor_event editor_begin(editor *e, const char *prompt);
/* There is something to read. */
editor_event editor_feed(editor *e);
/* Answers EDITOR_COMPLETE: lines to show below the line, or NULL; then text to
 * insert, "" for none. */
editor_event editor_complete(editor *e, const char *insert, const char *list);
/* Gives up the line that is being read. */
editor_event editor_abort(editor *e);

/* While a line is being read: takes prompt and line from the screen so that
 * something else can be written; shows them again; adapts to a new size. */
void editor_hide(editor *e);
void editor_show(editor *e);
void editor_resize(editor *e);

/* After EDITOR_LINE the line, after EDITOR_COMPLETE what stands before the
 * cursor. Valid until the next call. */
const char *editor_text(const editor *e, size_t *length);

/* Adds a line to those that the arrow keys bring back. */
void editor_remember(editor *e, const char *line);

#endif
