/*
 * heap.c: the memory of a state that peri_new made.
 *
 * Where the host gave an allocator, every call goes to that, past the count of
 * its limit. Otherwise blocks of up to 1 KiB, which is nearly all that a state
 * has, come from slabs, and larger ones from malloc.
 *
 * malloc has to serve any program; here all is known that makes one slow. A
 * heap is one state's, so there are no locks. Lua tells each block's size when
 * it gives it back, so blocks have no header, and are rounded to 16 bytes only.
 * A task takes six blocks of the same few sizes as the task before it, and the
 * collector gives them back in thousands.
 *
 * Blocks of one size class come from slabs of their own: from those given back,
 * the last one first, and when there are none from what was never used, so that
 * a new slab costs no memory until it is filled. A class has a list of its
 * slabs that have room; the first one serves. A slab leaves the list when it is
 * full, and comes back behind the first with the first block that is freed, so
 * that those that drain are left alone. One that is empty is every class's.
 *
 * The first 64 KiB of a heap are one block of malloc's, cut in the order of
 * asking, whatever the size: a state that does little more than start would
 * else touch a page for each class. They belong to no slab, and their free
 * blocks to a list of each class.
 */
#include "embed/heap.h"

#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "embed/slabs.h"

struct peri_heap {
  lua_Alloc alloc;
  void *ud;           /* of alloc; an allocator of our own has the heap */
  size_t used, limit; /* in bytes; counted only where there is a limit */
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

#if PERILUNE_PLAIN_HEAP

static void *own_alloc(void *ud, void *block, size_t old_size, size_t new_size)
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
  return calloc(1, sizeof(peri_heap));
}

static void own_free(peri_heap *heap)
{
  free(heap);
}

#else

enum {
  LARGEST = 1024, /* of the blocks in slabs */
  CLASSES = LARGEST / PERI__GRAIN + 1,
  START = 64 * 1024 /* cut in the order of asking */
};

/* Stands at the beginning of its start. */
typedef struct own_heap {
  peri_heap base; /* first */
  peri__chunks chunks;
  char *start;                 /* what is not yet cut of it */
  peri__slab *room[CLASSES];   /* the first with room, or &none */
  peri__slab started[CLASSES]; /* the free blocks of the start */
  peri__slab none;             /* has no room */
} own_heap;

/* -- Slabs with room ------------------------------------------------------- */

static void add_room(own_heap *heap, peri__slab *slab, size_t class)
{
  peri__slab *first = heap->room[class];
  slab->has_room = true;
  slab->prev = slab->next = NULL;
  if (first == &heap->none) {
    heap->room[class] = slab;
    return;
  }
  slab->prev = first;
  slab->next = first->next;
  if (first->next != NULL)
    first->next->prev = slab;
  first->next = slab;
}

static void remove_room(own_heap *heap, peri__slab *slab, size_t class)
{
  slab->has_room = false;
  if (slab->next != NULL)
    slab->next->prev = slab->prev;
  if (slab->prev != NULL)
    slab->prev->next = slab->next;
  else
    heap->room[class] = slab->next != NULL ? slab->next : &heap->none;
}

/* -- Small blocks ---------------------------------------------------------- */

static void *take_from(peri__slab *slab)
{
  peri__block *block = slab->free;
  if (block != NULL) {
    slab->free = block->next;
    slab->used++;
    return block;
  }
  char *fresh = slab->fresh;
  if (fresh == slab->end)
    return NULL;
  slab->fresh = fresh + slab->size;
  slab->used++;
  return fresh;
}

static void *cut_start(own_heap *heap, size_t class)
{
  char *got = heap->start;
  size_t size = class * PERI__GRAIN;
  if ((size_t)((char *)heap + START - got) < size)
    return NULL;
  heap->start += size;
  heap->started[class].used++;
  return got;
}

/* The slab that served has no room any more. */
static peri_cold void *take_elsewhere(own_heap *heap, size_t class)
{
  void *got = NULL;
  while (got == NULL && heap->room[class] != &heap->none) {
    remove_room(heap, heap->room[class], class);
    got = take_from(heap->room[class]);
  }
  if (got == NULL)
    got = cut_start(heap, class);
  if (got != NULL)
    return got;
  peri__slab *slab = peri__slab_new(&heap->chunks, class * PERI__GRAIN);
  if (slab == NULL)
    return NULL;
  add_room(heap, slab, class);
  return take_from(slab);
}

static inline void *take(own_heap *heap, size_t size)
{
  size_t class = peri__grains(size);
  void *got = take_from(heap->room[class]);
  return got != NULL ? got : take_elsewhere(heap, class);
}

/* The slab was full, or is empty. */
static peri_cold void given(own_heap *heap, peri__slab *slab, size_t size)
{
  size_t class = peri__grains(size);
  if (!slab->has_room)
    add_room(heap, slab, class);
  /* The one that serves stays: for one block that comes and goes, a slab would
   * else come and go each time. */
  if (slab->used > 0 || slab == heap->room[class])
    return;
  remove_room(heap, slab, class);
  peri__slab_free(&heap->chunks, slab);
}

static inline void give(own_heap *heap, void *old, size_t size)
{
  bool started = (uintptr_t)old - (uintptr_t)heap < START;
  peri__slab *slab =
      started ? &heap->started[peri__grains(size)] : peri__slab_of(old);
  peri__block *block = old;
  block->next = slab->free;
  slab->free = block;
  if (--slab->used == 0 || !slab->has_room)
    given(heap, slab, started ? size : slab->size);
}

/* -- Blocks of any size ---------------------------------------------------- */

static void *take_large(own_heap *heap, void *old, size_t size)
{
  void *got = realloc(old, size);
  if (got != NULL || heap->chunks.spare_slabs == 0)
    return got;
  peri__chunks_trim(&heap->chunks, 0);
  return realloc(old, size);
}

/* When a block shrinks, one of a larger class will do; it goes back to its own
 * slab, for that tells the class, not the size that Lua remembers. If there is
 * none, Lua 5.4 copes with that, too. */
static void *take_any(own_heap *heap, size_t size)
{
  void *got = take(heap, size);
  for (size_t i = peri__grains(size); got == NULL && i < CLASSES; i++)
    got = take_from(heap->room[i]);
  return got;
}

static peri_cold void *resize(own_heap *heap, void *old, size_t old_size,
                              size_t new_size)
{
  bool was_small = old_size <= LARGEST, is_small = new_size <= LARGEST;
  if (!was_small && !is_small)
    return take_large(heap, old, new_size);
  void *got;
  if (!is_small)
    got = take_large(heap, NULL, new_size);
  else if (was_small)
    got = take(heap, new_size);
  else
    got = take_any(heap, new_size);
  if (got == NULL) /* the old one will do, if it is the larger one */
    return was_small && new_size < old_size ? old : NULL;
  memcpy(got, old, old_size < new_size ? old_size : new_size);
  if (was_small)
    give(heap, old, old_size);
  else
    free(old);
  return got;
}

static void *own_alloc(void *ud, void *block, size_t old_size, size_t new_size)
{
  own_heap *heap = ud;
  if (block == NULL) {
    if (new_size - 1 < LARGEST)
      return take(heap, new_size);
    note_growth(&heap->base, block, old_size, new_size);
    return new_size > 0 ? take_large(heap, NULL, new_size) : NULL;
  }
  if (new_size == 0) {
    if (old_size <= LARGEST)
      give(heap, block, old_size);
    else
      free(block);
    return NULL;
  }
  if (old_size <= LARGEST && peri__grains(old_size) == peri__grains(new_size))
    return block;
  return resize(heap, block, old_size, new_size);
}

static peri_heap *own_new(void)
{
  own_heap *heap = malloc(START);
  if (heap == NULL)
    return NULL;
  memset(heap, 0, sizeof *heap);
  peri__chunks_init(&heap->chunks);
  heap->start = (char *)heap + peri__grains(sizeof *heap) * PERI__GRAIN;
  for (size_t i = 0; i < CLASSES; i++) {
    heap->room[i] = &heap->none;
    heap->started[i].used = UINT32_MAX / 2; /* never empty */
  }
  return &heap->base;
}

static void own_free(peri_heap *base)
{
  peri__chunks_fini(&((own_heap *)base)->chunks);
  free(base);
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
  size_t old = block != NULL ? old_size : 0; /* without a block: its type */
  if (new_size > old && new_size - old > heap->limit - heap->used)
    return NULL;
  void *result = host_alloc(heap, block, old_size, new_size);
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
  *heap = (peri_heap){.alloc = alloc, .ud = ud, .limit = limit};
  if (alloc == NULL) {
    heap->alloc = own_alloc;
    heap->ud = heap;
  }
  return heap;
}

void peri__heap_free(peri_heap *heap)
{
  if (heap->alloc == own_alloc)
    own_free(heap);
  else
    heap->alloc(heap->ud, heap, sizeof *heap, 0);
}

lua_Alloc peri__heap_function(const peri_heap *heap)
{
  if (heap->limit > 0)
    return limited_alloc;
  return heap->alloc == own_alloc ? own_alloc : host_alloc;
}

void peri__heap_watch(peri_heap *heap, peri_runtime *rt)
{
  heap->rt = rt;
}
