/*
 * history.h: the file in which an interactive session keeps its lines.
 *
 * What is in the file is the session's affair; this is where it lies, and that
 * nobody but its owner reads it.
 */
#ifndef PERILUNE_HOST_HISTORY_H
#define PERILUNE_HOST_HISTORY_H

#include <stddef.h>

/* The file's path: $PERILUNE_HISTORY (if use_variable), else
 * perilune/history in $XDG_STATE_HOME or ~/.local/state. NULL: there is to be
 * none, or out of memory. The caller frees it. */
char *history_path(int use_variable);

/* What is in the file; NULL if that cannot be had. The caller frees it. */
char *history_read(const char *path, size_t *length);

/* Adds text at the end, replaces all by text. The file is made, with the
 * directories above it, if it is not there. 0, or an errno. */
int history_append(const char *path, const char *text, size_t length);
int history_replace(const char *path, const char *text, size_t length);

#endif
