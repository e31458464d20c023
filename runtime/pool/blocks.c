/*
 * blocks.c: memory for large messages that two processes have mapped.
 *
 * A large message is encoded into a block, and decoded out of it by the other
 * process, so that it costs a copy into it and one out of it. Both ends have a
 * block mapped once and use it over and over: to touch new pages costs more than
 * to copy into old ones. The owner of a pool makes blocks for all of its workers;
 * each worker makes some for the owner. A block has a place, a number below
 * PERI__BLOCKS; its descriptor goes to a reader ahead of the first message in it,
 * and another block may have the place later.
 *
 * Whether a block is in use stands in its own first bytes, which the maker sets.
 * The owner knows when a job has ended, and with it the use of its message, and
 * its workers cannot write to its blocks; what a worker has made is free when the
 * owner says so there. Its size is sealed (shared.c), so that to read cannot
 * fail. Where a block is of one's own making, all that another process could have
 * spoilt is its bytes, which decode.c checks.
 *
 * At most PERI__BLOCKS are made, and none larger than MOST: messages that find
 * none stand in malloc's memory, and are copied into a block when one is free, or
 * go through the channel. What is larger than KEPT goes back to the system with
 * its message, all of it when nothing happens for a while.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include <uv.h>

#include "pool/blocks.h"
#include "pool/shared.h"

#define LEAST ((size_t)4 << 20) /* what is not touched costs nothing */
#define MOST ((size_t)1 << 30)
#define KEPT ((size_t)8 << 20)

/* What a block begins with. */
typedef struct header {
  _Alignas(64) atomic_uint used;
} header;

typedef struct block {
  header *at; /* NULL: there is none */
  size_t size;
  uint32_t serial;
  int fd;
  bool held; /* by this reader */
} block;

struct peri__blocks {
  unsigned references; /* the owner's, and one for each buffer */
  uint32_t serial;
  bool writes; /* a reader's */
  block blocks[PERI__BLOCKS];
};

static char *data_of(const block *b)
{
  return (char *)(b->at + 1);
}

static void drop(block *b)
{
  if (b->fd >= 0)
    close(b->fd);
  peri__shared_unmap((char *)b->at, b->size);
  *b = (block){.fd = -1};
}

peri__blocks *peri__blocks_new(bool writes)
{
  peri__blocks *blocks = calloc(1, sizeof *blocks);
  if (blocks == NULL)
    return NULL;
  blocks->references = 1;
  blocks->writes = writes;
  for (int i = 0; i < PERI__BLOCKS; i++)
    blocks->blocks[i].fd = -1;
  return blocks;
}

void peri__blocks_unref(peri__blocks *blocks)
{
  if (blocks == NULL || --blocks->references > 0)
    return;
  for (int i = 0; i < PERI__BLOCKS; i++)
    drop(&blocks->blocks[i]);
  free(blocks);
}

/* -- The maker --------------------------------------------------------------- */

static bool is_free(const block *b)
{
  return atomic_load_explicit(&b->at->used, memory_order_acquire) == 0;
}

/* One that is free and large enough; else a place to make one. */
static block *choose(peri__blocks *blocks, size_t size)
{
  block *place = NULL;
  for (int i = 0; i < PERI__BLOCKS; i++) {
    block *b = &blocks->blocks[i];
    if (b->at == NULL) {
      if (place == NULL || place->at != NULL)
        place = b;
    } else if (is_free(b)) {
      if (b->size >= size)
        return b;
      if (place == NULL)
        place = b;
    }
  }
  return place;
}

static bool make(peri__blocks *blocks, block *b, size_t size)
{
  char *data;
  int fd;
  drop(b);
  if (peri__shared_new(size, &data, &fd) < 0)
    return false;
  *b = (block){.at = (header *)(void *)data,
               .size = size,
               .fd = fd,
               .serial = ++blocks->serial ? blocks->serial : ++blocks->serial};
  return true;
}

char *peri__blocks_take(peri__blocks *blocks, size_t size, size_t *capacity)
{
  size_t whole = LEAST;
  if (size > MOST - sizeof(header))
    return NULL;
  while (whole < size + sizeof(header))
    whole *= 2;
  block *b = choose(blocks, whole);
  if (b == NULL || (b->size < whole && !make(blocks, b, whole)))
    return NULL;
  atomic_store_explicit(&b->at->used, 1, memory_order_relaxed);
  blocks->references++;
  *capacity = b->size - sizeof(header);
  return data_of(b);
}

int peri__blocks_place(const peri__blocks *blocks, const char *data)
{
  for (int i = 0; i < PERI__BLOCKS; i++)
    if (blocks->blocks[i].at != NULL && data_of(&blocks->blocks[i]) == data)
      return i;
  return -1;
}

uint32_t peri__blocks_serial(const peri__blocks *blocks, int place)
{
  return blocks->blocks[place].serial;
}

int peri__blocks_fd(const peri__blocks *blocks, int place)
{
  return blocks->blocks[place].fd;
}

/* There is one reader, and it has the descriptor. */
void peri__blocks_hand_over(peri__blocks *blocks, int place)
{
  block *b = &blocks->blocks[place];
  if (b->fd >= 0)
    close(b->fd);
  b->fd = -1;
  peri__blocks_unref(blocks);
}

void peri__blocks_trim(peri__blocks *blocks)
{
  for (int i = 0; i < PERI__BLOCKS; i++) {
    block *b = &blocks->blocks[i];
    if (b->at != NULL && is_free(b))
      peri__shared_discard((char *)b->at, b->size);
  }
}

/* -- A reader ------------------------------------------------------------------ */

int peri__blocks_arrived(peri__blocks *blocks, uint32_t place, int fd)
{
  char *data;
  size_t size;
  if (place >= PERI__BLOCKS || blocks->blocks[place].held) {
    close(fd);
    return UV_EPROTO;
  }
  block *b = &blocks->blocks[place];
  drop(b);
  int code = peri__shared_map(fd, LEAST, blocks->writes, &data, &size);
  if (code < 0)
    return code == UV_EINVAL ? UV_EPROTO : code;
  b->at = (header *)(void *)data;
  b->size = size;
  return 0;
}

char *peri__blocks_at(const peri__blocks *blocks, uint32_t place,
                      uint64_t length)
{
  const block *b = &blocks->blocks[place % PERI__BLOCKS];
  if (place >= PERI__BLOCKS || b->at == NULL ||
      length > b->size - sizeof(header))
    return NULL;
  return data_of(b);
}

bool peri__blocks_hold(peri__blocks *blocks, uint32_t place)
{
  block *b = &blocks->blocks[place];
  if (b->held)
    return false;
  b->held = true;
  blocks->references++;
  return true;
}

/* -- Both ------------------------------------------------------------------------ */

bool peri__blocks_empty(const peri__blocks *blocks)
{
  for (int i = 0; blocks != NULL && i < PERI__BLOCKS; i++)
    if (blocks->blocks[i].at != NULL)
      return false;
  return true;
}

void peri__blocks_give_back(peri__blocks *blocks, const char *data)
{
  block *b = &blocks->blocks[peri__blocks_place(blocks, data)];
  b->held = false;
  if (b->size > KEPT)
    peri__shared_discard((char *)b->at, b->size);
  atomic_store_explicit(&b->at->used, 0, memory_order_release);
  peri__blocks_unref(blocks);
}
