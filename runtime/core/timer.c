/*
 * timer.c: the timers of one clock.
 *
 * Programs start timers of few durations: 30 s for every request, 1 s for every
 * retry. Timers of one duration, started one after the other on a clock that
 * never goes back, end in the order of their starting; so they stand in a FIFO,
 * the bucket of that duration, and only the first of each bucket stands in a
 * heap. Starting and stopping such a timer costs a few pointers, however many
 * there are; a heap of them all costs a walk through cold memory (measured:
 * 0.9 us a timer with 100,000 of them, against 0.1).
 *
 * A timer for a moment (call_at), or one that would break the order of its
 * bucket because the clock was set back or out of memory, stands in the heap by
 * itself. The order among equal deadlines is that of starting, by sequence.
 */
#include <string.h>

#include "core.h"

struct peri_bucket {
  int64_t duration;
  peri_list timers; /* the first one stands in the heap as well */
};

enum { SMALLEST_TABLE = 16 };

static peri_timer *timer_of(peri_list *link)
{
  return (peri_timer *)link; /* node and its link come first */
}

static bool before(const peri_timer *a, const peri_timer *b)
{
  if (a->deadline != b->deadline)
    return a->deadline < b->deadline;
  return (int32_t)(a->sequence - b->sequence) < 0;
}

static void heap_put(peri_timers *timers, uint32_t i, peri_timer *timer)
{
  timers->heap[i] = timer;
  timer->index = i;
}

static void heap_up(peri_timers *timers, uint32_t i, peri_timer *timer)
{
  while (i > 1 && before(timer, timers->heap[i / 2])) {
    heap_put(timers, i, timers->heap[i / 2]);
    i /= 2;
  }
  heap_put(timers, i, timer);
}

static void heap_down(peri_timers *timers, uint32_t i, peri_timer *timer)
{
  for (;;) {
    uint32_t child = 2 * i;
    if (child > timers->length)
      break;
    if (child < timers->length &&
        before(timers->heap[child + 1], timers->heap[child]))
      child++;
    if (!before(timers->heap[child], timer))
      break;
    heap_put(timers, i, timers->heap[child]);
    i = child;
  }
  heap_put(timers, i, timer);
}

/* Puts a timer where another one, or a hole, was. */
static void heap_settle(peri_timers *timers, uint32_t i, peri_timer *timer)
{
  if (i > 1 && before(timer, timers->heap[i / 2]))
    heap_up(timers, i, timer);
  else
    heap_down(timers, i, timer);
}

static bool heap_add(peri_clock *clock, peri_timer *timer)
{
  peri_timers *timers = &clock->timers;
  if (timers->length + 1 >= timers->capacity) {
    uint32_t capacity = timers->capacity ? 2 * timers->capacity : 16;
    peri_timer **heap =
        peri__realloc(clock->rt, timers->heap, timers->capacity * sizeof *heap,
                      capacity * sizeof *heap);
    if (heap == NULL)
      return false;
    timers->heap = heap;
    timers->capacity = capacity;
  }
  heap_up(timers, ++timers->length, timer);
  return true;
}

static void heap_remove(peri_timers *timers, peri_timer *timer)
{
  uint32_t i = timer->index;
  peri_timer *last = timers->heap[timers->length--];
  timer->index = 0;
  if (last != timer)
    heap_settle(timers, i, last);
}

/* -- Buckets by duration --------------------------------------------------- */

static uint32_t slot_of(const peri_timers *timers, int64_t duration)
{
  uint64_t hash = (uint64_t)duration * UINT64_C(0x9E3779B97F4A7C15);
  uint32_t mask = timers->table_size - 1;
  uint32_t i = (uint32_t)(hash >> 32) & mask;
  while (timers->table[i] != NULL && timers->table[i]->duration != duration)
    i = (i + 1) & mask;
  return i;
}

/* Builds the table anew with room to spare, and without the buckets that no
 * timer uses. */
static bool table_rebuild(peri_clock *clock)
{
  peri_timers *timers = &clock->timers;
  uint32_t used = 0;
  for (uint32_t i = 0; i < timers->table_size; i++)
    if (timers->table[i] != NULL &&
        !peri__list_empty(&timers->table[i]->timers))
      used++;
  uint32_t size = SMALLEST_TABLE;
  while (size < 4 * (used + 1))
    size *= 2;
  peri_bucket **table = peri__realloc(clock->rt, NULL, 0, size * sizeof *table);
  if (table == NULL)
    return false;
  memset(table, 0, size * sizeof *table);
  peri_timers old = *timers;
  timers->table = table;
  timers->table_size = size;
  timers->buckets = used;
  for (uint32_t i = 0; i < old.table_size; i++) {
    peri_bucket *bucket = old.table[i];
    if (bucket == NULL)
      continue;
    if (peri__list_empty(&bucket->timers))
      peri__realloc(clock->rt, bucket, sizeof *bucket, 0);
    else
      table[slot_of(timers, bucket->duration)] = bucket;
  }
  peri__realloc(clock->rt, old.table, old.table_size * sizeof *table, 0);
  return true;
}

/* NULL: out of memory. */
static peri_bucket *bucket_for(peri_clock *clock, int64_t duration)
{
  peri_timers *timers = &clock->timers;
  if (2 * (timers->buckets + 1) > timers->table_size && !table_rebuild(clock))
    return NULL;
  uint32_t i = slot_of(timers, duration);
  if (timers->table[i] == NULL) {
    peri_bucket *bucket = peri__realloc(clock->rt, NULL, 0, sizeof *bucket);
    if (bucket == NULL)
      return NULL;
    bucket->duration = duration;
    peri__list_init(&bucket->timers);
    timers->table[i] = bucket;
    timers->buckets++;
  }
  return timers->table[i];
}

/* Whether the timer may stand behind the last one of the bucket. */
static bool keeps_order(const peri_bucket *bucket, const peri_timer *timer)
{
  return peri__list_empty(&bucket->timers) ||
         timer_of(bucket->timers.previous)->deadline <= timer->deadline;
}

/* -- Timers ------------------------------------------------------------------ */

void peri__timers_init(peri_timers *timers)
{
  memset(timers, 0, sizeof *timers);
}

void peri__timers_fini(peri_runtime *rt, peri_timers *timers)
{
  for (uint32_t i = 0; i < timers->table_size; i++)
    if (timers->table[i] != NULL)
      peri__realloc(rt, timers->table[i], sizeof(peri_bucket), 0);
  peri__realloc(rt, timers->table, timers->table_size * sizeof(peri_bucket *),
                0);
  peri__realloc(rt, timers->heap, timers->capacity * sizeof(peri_timer *), 0);
  memset(timers, 0, sizeof *timers);
}

bool peri__timer_start(peri_clock *clock, peri_timer *timer, int64_t deadline,
                       int64_t duration)
{
  peri_timers *timers = &clock->timers;
  timer->deadline = deadline;
  timer->sequence = timers->sequence++;
  timer->index = 0;
  timer->bucket = duration < 0 ? NULL : bucket_for(clock, duration);
  if (timer->bucket != NULL && !keeps_order(timer->bucket, timer))
    timer->bucket = NULL;
  bool first =
      timer->bucket == NULL || peri__list_empty(&timer->bucket->timers);
  if (first && !heap_add(clock, timer))
    return false;
  if (timer->bucket != NULL)
    peri__list_push(&timer->bucket->timers, &timer->node);
  if (timers->count++ == 0)
    peri__list_push(&clock->rt->clocks, &clock->active);
  return true;
}

void peri__timer_stop(peri_clock *clock, peri_timer *timer)
{
  peri_timers *timers = &clock->timers;
  peri_bucket *bucket = timer->bucket;
  peri_list *next = NULL;
  if (bucket != NULL) {
    next = timer->node.link.next;
    peri__node_unlink(&timer->node);
  }
  if (timer->index > 0) {
    if (bucket != NULL && next != &bucket->timers) {
      uint32_t i = timer->index;
      timer->index = 0;
      heap_settle(timers, i, timer_of(next));
    } else {
      heap_remove(timers, timer);
    }
  }
  if (--timers->count == 0)
    peri__node_unlink(&clock->active);
}

void peri__timer_moved(peri_clock *clock, peri_timer *timer)
{
  if (timer->index > 0)
    clock->timers.heap[timer->index] = timer;
}

peri_timer *peri__timer_due(peri_clock *clock, int64_t now)
{
  int64_t deadline;
  if (!peri__timer_first(clock, &deadline) || deadline > now)
    return NULL;
  peri_timer *timer = clock->timers.heap[1];
  peri__timer_stop(clock, timer);
  return timer;
}
