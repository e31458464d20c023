/*
 * shared.h: memory that processes share. See shared.c.
 */
#ifndef PERI_SHARED_H
#define PERI_SHARED_H

#include <stdbool.h>
#include <stddef.h>

/* Maps size new bytes, all zero, and gives the descriptor by which another
 * process maps them (closed on exec; the caller's). 0, or a libuv error:
 * UV_ENOSYS where there is no such memory. */
int peri__shared_new(size_t size, char **data, int *fd);

/* Maps what another process has made, to write there or only to read, and closes
 * the descriptor in any case. UV_EINVAL: it is none of those, or smaller than
 * least. */
int peri__shared_map(int fd, size_t least, bool writes, char **data,
                     size_t *size);

/* Gives the memory back to the system, where that can be; it is all zeros then.
 */
void peri__shared_discard(char *data, size_t size);

void peri__shared_unmap(char *data, size_t size);

#endif
