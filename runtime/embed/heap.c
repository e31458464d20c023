/*
 * heap.c: the memory of a state that peri_new made.
 *
 * Where the host gave an allocator, every call goes to that, past the count of
 * its limit. Otherwise blocks of up to 1 KiB, which is nearly all that a state
 * has, come from slabs of our own, and larger ones from malloc.
 *
 * A malloc has to serve any program; here all is known that makes one slow. A
 * heap is one state's, so there are no locks. Lua tells each block's size when
 * it gives it back, so blocks have no header, and are rounded to 16 bytes only.
 * A task takes six blocks of the same few sizes as the task before it, and the
 * collector gives them back in thousands.
 *
 *   A chunk is 1 MiB, aligned to that, so that a block's address tells its
 *   chunk. It begins with its header, which describes its slabs.
 *   A slab is 32 KiB of a chunk. While in use it has blocks of one size class:
 *   those given back, the last first, and beyond them those that were never
 *   used, so that a new slab costs no memory until it is filled.
 *   A class has a list of its slabs that have room; the first one serves. A
 *   slab leaves the list when it is full, and comes back behind the first with
 *   the first block that is freed.
 *
 * The first 64 KiB of a heap are cut in the order of asking, whatever the size:
 * a state that does little more than start would else touch a page for each
 * class. They belong to no slab, and their free blocks to a list of each class.
 *
 * A slab that is empty is free for every class, and is kept as it is: Lua
 * lets garbage grow to as much as lives before it collects, so up to as much
 * free memory as is in use will be asked for soon; giving it to the system and
 * back again costs more than all else here. Beyond that (a spike is over) the
 * system gets it: a whole chunk, or the pages of some slabs of it.
 */
#include "embed/heap.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"

struct peri_heap {
  lua_Alloc alloc;
  void *ud;
  size_t used, limit; /* counted only where there is a limit */
  peri_runtime *rt;   /* NULL until there is one */
};

/* A block beyond this that a task asks for may be its coroutine's stack;
 * one that ran so deep is not used again, since collections give it back by
 * halves only. In a host's own state we cannot see that. */
enum { DEEP_STACK = 64 * 1024 };

/* Lua asks for a stack with neither a block nor, as for objects, their type in
 * the place of the old size. */
static void note_growth(const peri_heap *heap, const void *block,
                        size_t old_size, size_t new_size)
{
  if (new_size > DEEP_STACK && block == NULL && old_size == 0 &&
      heap->rt != NULL && heap->rt->task != NULL)
    heap->rt->task->flags |= PERI_T_SPOILT;
}

/* -- Slabs ----------------------------------------------------------------- */

/* Sanitizers and valgrind see no misuse of a block that we kept: there every
 * block is malloc's. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PERILUNE_PLAIN_HEAP 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||     \
    __has_feature(memory_sanitizer)
#define PERILUNE_PLAIN_HEAP 1
#endif
#endif

#if PERILUNE_PLAIN_HEAP

static void *plain_alloc(void *ud, void *block, size_t old_size,
                         size_t new_size)
{
  if (new_size == 0) {
    free(block);
    return NULL;
  }
  note_growth(ud, block, old_size, new_size);
  return realloc(block, new_size);
}

static peri_heap *own_new(void)
{
  peri_heap *heap = calloc(1, sizeof *heap);
  if (heap != NULL) {
    heap->alloc = plain_alloc;
    heap->ud = heap;
  }
  return heap;
}

static void own_free(peri_heap *heap)
{
  free(heap);
}

#else

#include <sys/mman.h>

enum {
  GRAIN = 16,
  LARGEST = 1024, /* of the blocks in slabs */
  CLASSES = LARGEST / GRAIN + 1,
  SLAB = 32 * 1024,
  CHUNK = 1024 * 1024,
  SLABS = CHUNK / SLAB,
  START_SLABS = 2, /* cut in the order of asking */
  LEAST_SPARE = 32 /* slabs that are kept whatever is in use */
};

typedef struct free_block {
  struct free_block *next;
} free_block;

typedef struct slab {
  free_block *free;         /* given back, the last first */
  char *fresh, *end;        /* never used */
  struct slab *prev, *next; /* among those of its class that have room */
  uint32_t used;            /* blocks */
  uint16_t size;            /* of its blocks; 0: of the heap's start */
  bool has_room;            /* is in the list */
} slab;

typedef struct chunk chunk;

typedef struct chunk_link {
  chunk *prev, *next;
} chunk_link;

struct chunk {
  chunk_link link;       /* first: the lists' heads are links only */
  uint32_t spare, clean; /* sets of free slabs: with pages, and without */
  slab slabs[SLABS];
};

/* Stands at the start of its first chunk, behind its header. */
typedef struct own_heap {
  peri_heap common; /* first */
  slab *room[CLASSES];
  slab start[CLASSES]; /* the free blocks of the start */
  slab none;           /* in place of a slab with room: it has none */
  char *start_fresh, *start_end;
  chunk_link spare, clean, full; /* by the best that their chunks have */
  size_t slabs_used, slabs_spare;
} own_heap;

_Static_assert(SLABS == 32, "a slab has a bit");

static size_t class_of(size_t size)
{
  return (size + GRAIN - 1) / GRAIN;
}

static char *behind(void *thing, size_t size)
{
  return (char *)thing + class_of(size) * GRAIN;
}

static chunk *chunk_of(const void *block)
{
  return (chunk *)((uintptr_t)block & ~(uintptr_t)(CHUNK - 1));
}

static size_t index_of(const void *block)
{
  return ((uintptr_t)block & (CHUNK - 1)) / SLAB;
}

/* -- Chunks */

static void *map(size_t size)
{
  void *got = mmap(NULL, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return got != MAP_FAILED ? got : NULL;
}

/* Maps a chunk. The system aligns to pages only, but puts one mapping beside
 * the other: after the first chunk the short way is the rule. */
static chunk *map_chunk(void)
{
  char *got = map(CHUNK);
  if (got == NULL || index_of(got) + (uintptr_t)got % SLAB == 0)
    return (chunk *)got;
  munmap(got, CHUNK);
  got = map((size_t)2 * CHUNK);
  if (got == NULL)
    return NULL;
  char *fits = (char *)chunk_of(got + CHUNK - 1);
  if (fits > got)
    munmap(got, (size_t)(fits - got));
  if (fits < got + CHUNK)
    munmap(fits + CHUNK, (size_t)(got + CHUNK - fits));
  return (chunk *)fits;
}

/* Its pages go, its addresses stay ours. What it holds then does not matter. */
static void discard(void *from, size_t size)
{
#ifdef __linux__
  madvise(from, size, MADV_DONTNEED);
#elif defined(MADV_FREE)
  madvise(from, size, MADV_FREE);
#else
  (void)from, (void)size;
#endif
}

static void link_first(chunk_link *list, chunk *c)
{
  c->link.prev = (chunk *)list;
  c->link.next = list->next;
  list->next->link.prev = c;
  list->next = c;
}

static void unlink_chunk(chunk *c)
{
  c->link.prev->link.next = c->link.next;
  c->link.next->link.prev = c->link.prev;
}

/* After a change of what is free in it: into the list where it belongs. */
static void place(own_heap *heap, chunk *c)
{
  unlink_chunk(c);
  link_first(c->spare != 0   ? &heap->spare
             : c->clean != 0 ? &heap->clean
                             : &heap->full,
             c);
}

static bool is_empty(const chunk_link *list)
{
  return (const chunk_link *)list->next == list;
}

static chunk *chunk_with_slab(own_heap *heap)
{
  if (!is_empty(&heap->spare))
    return heap->spare.next;
  if (!is_empty(&heap->clean))
    return heap->clean.next;
  chunk *c = map_chunk();
  if (c == NULL)
    return NULL;
  c->clean = UINT32_MAX;
  link_first(&heap->clean, c);
  return c;
}

static void discard_spare(chunk *c)
{
  for (size_t from = 0, to; from < SLABS; from = to + 1) {
    for (to = from; to < SLABS && (c->spare >> to & 1) != 0; to++)
      continue;
    size_t first = from > 0 ? from : 1; /* the header stays */
    if (to > first)
      discard((char *)c + first * SLAB, (to - first) * SLAB);
  }
  c->clean |= c->spare;
  c->spare = 0;
}

static size_t count(uint32_t set)
{
  size_t n = 0;
  for (; set != 0; set &= set - 1)
    n++;
  return n;
}

/* Gives spare slabs back to the system, those first that are free for longest,
 * until half of what may be kept is left. */
static void release(own_heap *heap, size_t kept)
{
  while (heap->slabs_spare > kept / 2) {
    chunk *c = heap->spare.prev;
    heap->slabs_spare -= count(c->spare);
    if ((c->spare | c->clean) == UINT32_MAX) {
      unlink_chunk(c);
      munmap(c, CHUNK);
    } else {
      discard_spare(c);
      place(heap, c);
    }
  }
}

/* -- Slabs with room */

static void add_room(own_heap *heap, slab *s, size_t class)
{
  slab *first = heap->room[class];
  s->has_room = true;
  s->prev = s->next = NULL;
  if (first == &heap->none) {
    heap->room[class] = s;
    return;
  }
  s->prev = first;
  s->next = first->next;
  if (first->next != NULL)
    first->next->prev = s;
  first->next = s;
}

static void remove_room(own_heap *heap, slab *s, size_t class)
{
  s->has_room = false;
  if (s->next != NULL)
    s->next->prev = s->prev;
  if (s->prev != NULL)
    s->prev->next = s->next;
  else
    heap->room[class] = s->next != NULL ? s->next : &heap->none;
}

static slab *new_slab(own_heap *heap, size_t class)
{
  chunk *c = chunk_with_slab(heap);
  if (c == NULL)
    return NULL;
  uint32_t *set = c->spare != 0 ? &c->spare : &c->clean;
  size_t i = 0;
  while ((*set >> i & 1) == 0)
    i++;
  if (set == &c->spare)
    heap->slabs_spare--;
  heap->slabs_used++;
  *set &= ~((uint32_t)1 << i);
  place(heap, c);
  slab *s = &c->slabs[i];
  char *begin = i == 0 ? behind(c, sizeof *c) : (char *)c + i * SLAB;
  size_t room = (i + 1) * SLAB - (size_t)(begin - (char *)c);
  s->free = NULL;
  s->used = 0;
  s->size = (uint16_t)(class * GRAIN);
  s->fresh = begin;
  s->end = begin + room / s->size * s->size;
  add_room(heap, s, class);
  return s;
}

/* An empty slab: it is free for all classes. */
static void retire(own_heap *heap, slab *s)
{
  remove_room(heap, s, s->size / GRAIN);
  chunk *c = chunk_of(s);
  c->spare |= (uint32_t)1 << (s - c->slabs);
  place(heap, c);
  heap->slabs_used--;
  heap->slabs_spare++;
  size_t kept = heap->slabs_used > LEAST_SPARE ? heap->slabs_used : LEAST_SPARE;
  if (heap->slabs_spare > kept)
    release(heap, kept);
}

/* -- Blocks */

static void *take_from(slab *s)
{
  free_block *b = s->free;
  if (b != NULL) {
    s->free = b->next;
    s->used++;
    return b;
  }
  char *fresh = s->fresh;
  if (fresh == s->end)
    return NULL;
  s->fresh = fresh + s->size;
  s->used++;
  return fresh;
}

static void *take_from_start(own_heap *heap, size_t class)
{
  char *got = heap->start_fresh;
  if ((size_t)(heap->start_end - got) < class * GRAIN)
    return NULL;
  heap->start_fresh += class * GRAIN;
  heap->start[class].used++;
  return got;
}

/* The first slab with room has none any more. */
static void *take_elsewhere(own_heap *heap, size_t class)
{
  while (heap->room[class] != &heap->none) {
    remove_room(heap, heap->room[class], class);
    void *got = take_from(heap->room[class]);
    if (got != NULL)
      return got;
  }
  void *got = take_from_start(heap, class);
  if (got != NULL)
    return got;
  slab *s = new_slab(heap, class);
  return s != NULL ? take_from(s) : NULL;
}

static inline void *take(own_heap *heap, size_t size)
{
  size_t class = class_of(size);
  void *got = take_from(heap->room[class]);
  return got != NULL ? got : take_elsewhere(heap, class);
}

static void given(own_heap *heap, slab *s, size_t class)
{
  if (!s->has_room)
    add_room(heap, s, class);
  /* The first of its class stays, else one block that comes and goes would
   * make and retire a slab each time. */
  if (s->used == 0 && heap->room[class] != s)
    retire(heap, s);
}

static inline void give(own_heap *heap, void *old, size_t size)
{
  slab *s = &chunk_of(old)->slabs[index_of(old)];
  size_t class = s->size / GRAIN;
  if (class == 0) {
    class = class_of(size);
    s = &heap->start[class];
  }
  free_block *b = old;
  b->next = s->free;
  s->free = b;
  if (--s->used == 0 || !s->has_room)
    given(heap, s, class);
}

/* Room for what shrinks must be found: a larger block will do. It goes back to
 * its slab, whatever size Lua believes it has. */
static void *take_any(own_heap *heap, size_t size)
{
  void *got = take(heap, size);
  for (size_t class = class_of(size); got == NULL && class < CLASSES; class ++)
    got = take_from(heap->room[class]);
  return got;
}

static void *resize(own_heap *heap, void *old, size_t old_size, size_t new_size)
{
  bool was_small = old_size <= LARGEST, is_small = new_size <= LARGEST;
  if (!was_small && !is_small)
    return realloc(old, new_size);
  if (was_small && is_small && class_of(old_size) == class_of(new_size))
    return old;
  void *got = !is_small   ? malloc(new_size)
              : was_small ? take(heap, new_size)
                          : take_any(heap, new_size);
  if (got == NULL) /* as above, a larger block will do */
    return was_small && new_size < old_size ? old : NULL;
  memcpy(got, old, old_size < new_size ? old_size : new_size);
  if (was_small)
    give(heap, old, old_size);
  else
    free(old);
  return got;
}

static void *slab_alloc(void *ud, void *block, size_t old_size, size_t new_size)
{
  own_heap *heap = ud;
  if (block == NULL) {
    if (new_size - 1 < LARGEST)
      return take(heap, new_size);
    if (new_size == 0)
      return NULL;
    note_growth(&heap->common, block, old_size, new_size);
    return malloc(new_size);
  }
  if (new_size != 0)
    return resize(heap, block, old_size, new_size);
  if (old_size <= LARGEST)
    give(heap, block, old_size);
  else
    free(block);
  return NULL;
}

static void init_link(chunk_link *list)
{
  list->prev = list->next = (chunk *)list;
}

static peri_heap *own_new(void)
{
  chunk *c = map_chunk();
  if (c == NULL)
    return NULL;
  own_heap *heap = (own_heap *)behind(c, sizeof *c);
  heap->common.alloc = slab_alloc;
  heap->common.ud = heap;
  init_link(&heap->spare);
  init_link(&heap->clean);
  init_link(&heap->full);
  for (size_t i = 0; i < CLASSES; i++) {
    heap->room[i] = &heap->none;
    heap->start[i].used = UINT32_MAX / 2; /* never empty */
  }
  heap->start_fresh = (char *)heap + (sizeof *heap + GRAIN - 1) / GRAIN * GRAIN;
  heap->start_end = (char *)c + START_SLABS * SLAB;
  c->clean = UINT32_MAX << START_SLABS;
  link_first(&heap->clean, c);
  return &heap->common;
}

static void unmap_all(chunk_link *list, const chunk *but)
{
  while (!is_empty(list)) {
    chunk *c = list->next;
    unlink_chunk(c);
    if (c != but)
      munmap(c, CHUNK);
  }
}

static void own_free(peri_heap *common)
{
  own_heap *heap = (own_heap *)common;
  chunk *first = chunk_of(heap);
  unmap_all(&heap->spare, first);
  unmap_all(&heap->clean, first);
  unmap_all(&heap->full, first);
  munmap(first, CHUNK);
}

#endif

/* -- The heap -------------------------------------------------------------- */

static void *host_alloc(void *ud, void *block, size_t old_size, size_t new_size)
{
  peri_heap *heap = ud;
  note_growth(heap, block, old_size, new_size);
  return heap->alloc(heap->ud, block, old_size, new_size);
}

static void *limited_alloc(void *ud, void *block, size_t old_size,
                           size_t new_size)
{
  peri_heap *heap = ud;
  note_growth(heap, block, old_size, new_size);
  size_t old = block != NULL ? old_size : 0; /* without a block: its type */
  if (new_size > old && heap->used + (new_size - old) > heap->limit)
    return NULL;
  void *result = heap->alloc(heap->ud, block, old_size, new_size);
  if (result != NULL || new_size == 0)
    heap->used = heap->used - old + new_size;
  return result;
}

peri_heap *peri__heap_new(lua_Alloc alloc, void *ud, size_t limit)
{
  peri_heap *heap =
      alloc != NULL ? alloc(ud, NULL, 0, sizeof *heap) : own_new();
  if (heap == NULL)
    return NULL;
  if (alloc != NULL)
    *heap = (peri_heap){.alloc = alloc, .ud = ud};
  heap->limit = limit;
  return heap;
}

void peri__heap_free(peri_heap *heap)
{
  if (heap->ud == heap)
    own_free(heap);
  else
    heap->alloc(heap->ud, heap, sizeof *heap, 0);
}

lua_Alloc peri__heap_function(const peri_heap *heap)
{
  if (heap->limit > 0)
    return limited_alloc;
  return heap->ud == heap ? heap->alloc : host_alloc;
}

void peri__heap_watch(peri_heap *heap, peri_runtime *rt)
{
  heap->rt = rt;
}
