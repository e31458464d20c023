/* slabs.c: memory from the system, by the slab. The idea is told in slabs.h. */
#include "embed/slabs.h"

#if !PERILUNE_PLAIN_HEAP

#include <sys/mman.h>
#include <unistd.h>

/* Sets of a chunk's slabs. */
#define ALL UINT32_MAX
_Static_assert(PERI__CHUNK_SLABS == 32, "each slab of a chunk has its bit");

static bool has(uint32_t set, size_t i)
{
  return (set >> i & 1) != 0;
}

static size_t count(uint32_t set)
{
  size_t n = 0;
  for (; set != 0; set &= set - 1)
    n++;
  return n;
}

/* -- The system ------------------------------------------------------------ */

/* At that address if it is free, else where the system likes. */
static char *map(char *at, size_t size)
{
  void *got = mmap(at, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return got != MAP_FAILED ? got : NULL;
}

/* The system aligns to pages only. */
static peri__chunk *map_aligned(void)
{
  char *got = map(NULL, (size_t)2 * PERI__CHUNK);
  if (got == NULL)
    return NULL;
  peri__chunk *chunk = peri__chunk_of(got + PERI__CHUNK - 1);
  size_t before = (size_t)((char *)chunk - got);
  if (before > 0)
    munmap(got, before);
  if (before < PERI__CHUNK)
    munmap((char *)chunk + PERI__CHUNK, PERI__CHUNK - before);
  return chunk;
}

/* As it grows, a heap has its chunks side by side: one call for each. */
static peri__chunk *map_chunk(peri__chunks *chunks)
{
  char *got = NULL;
  if (chunks->next != NULL)
    got = map(chunks->next, PERI__CHUNK);
  if (got != NULL && (char *)peri__chunk_of(got) != got) {
    munmap(got, PERI__CHUNK);
    got = NULL;
  }
  if (got == NULL)
    got = (char *)map_aligned();
  chunks->next = got != NULL ? got - PERI__CHUNK : NULL;
  return (peri__chunk *)got;
}

/* The pages go, or stay if the system will not have them; what they held does
 * not matter any more. Where a page is larger than a slab, its neighbour would
 * go as well: there only whole chunks go. */
static void discard(void *from, size_t size)
{
  if (sysconf(_SC_PAGESIZE) > PERI__SLAB)
    return;
#ifdef __linux__
  madvise(from, size, MADV_DONTNEED);
#elif defined(MADV_FREE)
  madvise(from, size, MADV_FREE);
#else
  (void)from, (void)size;
#endif
}

/* -- Lists of chunks ------------------------------------------------------- */

static void list_init(peri__chunk_list *list)
{
  list->prev = list->next = (peri__chunk *)list;
}

static bool is_empty(const peri__chunk_list *list)
{
  return (const peri__chunk_list *)list->next == list;
}

static void push(peri__chunk_list *list, peri__chunk *chunk)
{
  chunk->link.prev = (peri__chunk *)list;
  chunk->link.next = list->next;
  list->next->link.prev = chunk;
  list->next = chunk;
}

static void unlink_chunk(peri__chunk *chunk)
{
  chunk->link.prev->link.next = chunk->link.next;
  chunk->link.next->link.prev = chunk->link.prev;
}

/* What is free in it has changed. */
static void move(peri__chunks *chunks, peri__chunk *chunk)
{
  unlink_chunk(chunk);
  if (chunk->spare != 0)
    push(&chunks->spare, chunk);
  else if (chunk->clean != 0)
    push(&chunks->clean, chunk);
  else
    push(&chunks->full, chunk);
}

/* -- Giving back ----------------------------------------------------------- */

static void discard_spare(peri__chunk *chunk)
{
  for (size_t from = 0, to; from < PERI__CHUNK_SLABS; from = to + 1) {
    for (to = from; to < PERI__CHUNK_SLABS && has(chunk->spare, to); to++)
      continue;
    size_t first = from > 0 ? from : 1; /* the header stays */
    if (to > first)
      discard((char *)chunk + first * PERI__SLAB, (to - first) * PERI__SLAB);
  }
  chunk->clean |= chunk->spare;
  chunk->spare = 0;
}

/* The chunk that nothing came to or went from for longest is the first. */
void peri__chunks_trim(peri__chunks *chunks, size_t kept)
{
  while (chunks->spare_slabs > kept) {
    peri__chunk *chunk = chunks->spare.prev;
    chunks->spare_slabs -= count(chunk->spare);
    if ((chunk->spare | chunk->clean) == ALL) {
      unlink_chunk(chunk);
      munmap(chunk, PERI__CHUNK);
      chunks->next = (char *)chunk;
    } else {
      discard_spare(chunk);
      move(chunks, chunk);
    }
  }
}

void peri__slab_free(peri__chunks *chunks, peri__slab *slab)
{
  peri__chunk *chunk = peri__chunk_of(slab);
  chunk->spare |= (uint32_t)1 << (slab - chunk->slabs);
  move(chunks, chunk);
  chunks->used_slabs--;
  chunks->spare_slabs++;
  size_t most = 2 * chunks->used_slabs;
  if (most < PERI__LEAST_SPARE)
    most = PERI__LEAST_SPARE;
  if (chunks->spare_slabs > most)
    peri__chunks_trim(chunks, most / 2);
}

/* -- Taking ---------------------------------------------------------------- */

static peri__chunk *find_chunk(peri__chunks *chunks)
{
  if (!is_empty(&chunks->spare))
    return chunks->spare.next;
  if (!is_empty(&chunks->clean))
    return chunks->clean.next;
  peri__chunk *chunk = map_chunk(chunks);
  if (chunk == NULL)
    return NULL;
  chunk->clean = ALL;
  push(&chunks->clean, chunk);
  return chunk;
}

peri__slab *peri__slab_new(peri__chunks *chunks, size_t size)
{
  peri__chunk *chunk = find_chunk(chunks);
  if (chunk == NULL)
    return NULL;
  bool spare = chunk->spare != 0;
  uint32_t *set = spare ? &chunk->spare : &chunk->clean;
  size_t i = 0;
  while (!has(*set, i))
    i++;
  *set &= ~((uint32_t)1 << i);
  move(chunks, chunk);
  chunks->spare_slabs -= spare;
  chunks->used_slabs++;
  size_t from = i > 0 ? i * PERI__SLAB : sizeof *chunk;
  from = peri__grains(from) * PERI__GRAIN;
  size_t room = (i + 1) * PERI__SLAB - from;
  char *begin = (char *)chunk + from;
  peri__slab *slab = &chunk->slabs[i];
  *slab = (peri__slab){.fresh = begin,
                       .end = begin + room / size * size,
                       .size = (uint16_t)size};
  return slab;
}

/* -- Beginning and end ----------------------------------------------------- */

void peri__chunks_init(peri__chunks *chunks)
{
  list_init(&chunks->spare);
  list_init(&chunks->clean);
  list_init(&chunks->full);
  chunks->used_slabs = chunks->spare_slabs = 0;
  chunks->next = NULL;
}

static void unmap_all(peri__chunk_list *list)
{
  while (!is_empty(list)) {
    peri__chunk *chunk = list->next;
    unlink_chunk(chunk);
    munmap(chunk, PERI__CHUNK);
  }
}

void peri__chunks_fini(peri__chunks *chunks)
{
  unmap_all(&chunks->spare);
  unmap_all(&chunks->clean);
  unmap_all(&chunks->full);
}

#endif
