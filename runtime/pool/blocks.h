/*
 * blocks.h: memory for large messages that two processes have mapped. The essay
 * is in blocks.c.
 */
#ifndef PERI_BLOCKS_H
#define PERI_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  PERI__BLOCK_LEAST = 65536, /* bytes; smaller ones go through the channel */
  PERI__BLOCKS = 16          /* that one process has made for a pool */
};

/* The blocks of one maker, as that or a reader of them sees them. One thread's.
 * Lives as long as a buffer stands in one of them. */
typedef struct peri__blocks peri__blocks;

/* NULL: no memory. writes: as a reader it tells the maker that it has done with a
 * block; else the maker knows, and the reader cannot write there. */
peri__blocks *peri__blocks_new(bool writes);
void peri__blocks_unref(peri__blocks *blocks); /* NULL is allowed */

/* -- The maker ------------------------------------------------------------------ */

/* A block for size bytes or more, and how many they are; NULL: there is none to
 * be had. */
char *peri__blocks_take(peri__blocks *blocks, size_t size, size_t *capacity);
/* The number of the block; -1: the data stands in none. */
int peri__blocks_place(const peri__blocks *blocks, const char *data);
/* What tells it from others that had, or will have, that number: not 0. */
uint32_t peri__blocks_serial(const peri__blocks *blocks, int place);
/* The descriptor by which a reader maps it, -1: closed. */
int peri__blocks_fd(const peri__blocks *blocks, int place);
/* The block is its only reader's now, who gives it back. */
void peri__blocks_hand_over(peri__blocks *blocks, int place);
/* Gives the memory of what nobody uses back to the system. */
void peri__blocks_trim(peri__blocks *blocks);

/* -- A reader ------------------------------------------------------------------- */

/* Maps what came for a place, and closes the descriptor: 0, or a libuv error:
 * UV_EPROTO: no maker of ours does that. */
int peri__blocks_arrived(peri__blocks *blocks, uint32_t place, int fd);
/* What the maker has written, length bytes; NULL: that cannot be. */
char *peri__blocks_at(const peri__blocks *blocks, uint32_t place,
                      uint64_t length);
/* Has it until it gives it back; false: it has it already. */
bool peri__blocks_hold(peri__blocks *blocks, uint32_t place);

/* -- Both ----------------------------------------------------------------------- */

/* Whether there are none; NULL is allowed. */
bool peri__blocks_empty(const peri__blocks *blocks);

/* Of what was taken, or held. */
void peri__blocks_give_back(peri__blocks *blocks, const char *data);

#endif
