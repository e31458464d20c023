/*
 * fd_stream.h: streams for descriptors shared with others. See fd_stream.c.
 */
#ifndef PERI_FD_STREAM_H
#define PERI_FD_STREAM_H

#include "io/io.h"

/* A stream for what the descriptor is open on, which stays as it is, in one
 * direction. NULL, and a libuv error. Needs peri__io_loop before; its one
 * reference is the carrier's. */
peri_stream *peri__fd_stream_new(peri_loop *loop, int fd, bool writes,
                                 int *code);
/* Writes all that is queued on those of the running loop, and blocks until it
 * has gone. */
void peri__fd_streams_flush(peri_runtime *rt);

/* Pushes the module perilune._stdio. */
int peri__stdio_open(lua_State *L);

#endif
