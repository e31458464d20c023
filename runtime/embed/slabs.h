/*
 * slabs.h: memory from the system for one heap, by the slab; see heap.c.
 *
 * A chunk is 1 MiB, aligned to that, so that a block's address tells its chunk.
 * It begins with its header, which describes its slabs: 32 KiB each, the first
 * one less by the header. (Beside each other the descriptions share few cache
 * lines; in the slabs, 32 KiB apart, all would want the same ones.)
 *
 * A slab that is given back keeps its pages: it is spare, and the first to be
 * taken again. Of spare slabs twice as many are kept as are in use, but at
 * least 1 MiB: Lua lets garbage grow to as much as lives before it collects,
 * and more comes while it does, so all of it will be asked for again soon, and
 * the way to the system and back costs more than anything else here. If there
 * are more, a spike is over, and the system gets half of them: whole chunks
 * where it can be, else the pages of slabs, whose addresses stay ours.
 */
#ifndef PERI_EMBED_SLABS_H
#define PERI_EMBED_SLABS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Sanitizers and valgrind see no misuse of a block in a slab: for them every
 * block is malloc's. (For valgrind by the CMake option of this name.) */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PERILUNE_PLAIN_HEAP 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||     \
    __has_feature(memory_sanitizer)
#define PERILUNE_PLAIN_HEAP 1
#endif
#endif

enum {
  PERI__GRAIN = 16, /* what blocks are aligned to */
  PERI__SLAB = 32 * 1024,
  PERI__CHUNK = 1024 * 1024,
  PERI__CHUNK_SLABS = PERI__CHUNK / PERI__SLAB,
  PERI__LEAST_SPARE = PERI__CHUNK_SLABS
};

typedef struct peri__block {
  struct peri__block *next;
} peri__block;

typedef struct peri__slab {
  peri__block *free;              /* given back, the last first */
  char *fresh, *end;              /* never used */
  struct peri__slab *prev, *next; /* among those of its class that have room */
  uint32_t used;                  /* blocks */
  uint16_t size;                  /* of its blocks */
  bool has_room;                  /* is in the list */
} peri__slab;

typedef struct peri__chunk peri__chunk;

typedef struct peri__chunk_list {
  peri__chunk *prev, *next;
} peri__chunk_list;

struct peri__chunk {
  peri__chunk_list link; /* first: a list's head is nothing but a link */
  uint32_t spare, clean; /* sets of free slabs: with pages, and without */
  peri__slab slabs[PERI__CHUNK_SLABS];
};

/* A heap's chunks, by the best that they have to offer. */
typedef struct peri__chunks {
  peri__chunk_list spare, clean, full;
  size_t used_slabs, spare_slabs;
  char *next; /* where the next chunk would go best, or NULL */
} peri__chunks;

void peri__chunks_init(peri__chunks *chunks);
void peri__chunks_fini(peri__chunks *chunks);

/* An empty slab for blocks of this size, or NULL. */
peri__slab *peri__slab_new(peri__chunks *chunks, size_t size);

void peri__slab_free(peri__chunks *chunks, peri__slab *slab);

/* Gives spare slabs to the system until so many are left. */
void peri__chunks_trim(peri__chunks *chunks, size_t kept);

static inline size_t peri__grains(size_t size)
{
  return (size + PERI__GRAIN - 1) / PERI__GRAIN;
}

static inline peri__chunk *peri__chunk_of(const void *address)
{
  return (peri__chunk *)((uintptr_t)address & ~(uintptr_t)(PERI__CHUNK - 1));
}

static inline peri__slab *peri__slab_of(const void *block)
{
  size_t offset = (uintptr_t)block & (PERI__CHUNK - 1);
  return &peri__chunk_of(block)->slabs[offset / PERI__SLAB];
}

#endif
