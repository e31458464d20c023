/*
 * timer.c: the timers of one clock.
 *
 * Programs start timers of few durations: 30 s for every request, 1 s for every
 * retry. Timers of one duration, started one after the other on a clock that
 * never goes back, end in the order of their starting; so they stand in a FIFO,
 * the bucket of that duration, and each bucket stands in the heap by its first.
 * Starting and stopping such a timer costs a few pointers, however many there
 * are.
 *
 * A timer of a duration that was not seen lately, a timer for a moment
 * (call_at), and one that would break the order of its bucket because the clock
 * was set back, stand in the heap by themselves. It is a pairing heap: timers
 * are linked in place, so starting one allocates nothing that it needs, and both
 * starting and stopping one that is not the next cost the same with ten and with
 * a hundred thousand of them. (A heap in an array costs a walk through cold
 * memory: measured, 0.9 us a timer with 100,000 of them, against 0.1.)
 *
 * The order among equal deadlines is that of starting, by sequence.
 *
 * In the heap a timer's link has its siblings: next (NULL: the last) and
 * previous (of the first child: the parent; of the root: NULL).
 */
#include <string.h>

#include "core.h"

struct peri_bucket {
  peri_timer entry; /* in the heap, with the deadline of the first */
  int64_t duration;
  peri_list timers;
};

enum { SMALLEST_TABLE = 16 };
enum { IN_BUCKET, IN_HEAP, IS_BUCKET }; /* peri_timer.place */

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

/* -- The heap ---------------------------------------------------------------- */

static peri_timer *next_of(peri_timer *timer)
{
  return timer_of(timer->node.link.next);
}

static void set_next(peri_timer *timer, peri_timer *next)
{
  timer->node.link.next = (peri_list *)next;
}

static void set_previous(peri_timer *timer, peri_timer *previous)
{
  timer->node.link.previous = (peri_list *)previous;
}

/* Two heaps become one; either may be NULL. */
static peri_timer *meld(peri_timer *a, peri_timer *b)
{
  if (a == NULL || b == NULL)
    return a != NULL ? a : b;
  if (before(b, a)) {
    peri_timer *other = a;
    a = b;
    b = other;
  }
  set_next(b, a->child);
  if (a->child != NULL)
    set_previous(a->child, b);
  set_previous(b, a);
  a->child = b;
  return a;
}

/* Siblings, from the first on, become one heap: by pairs from the left, and
 * these from the right. */
static peri_timer *meld_siblings(peri_timer *first)
{
  peri_timer *pairs = NULL, *root = NULL;
  while (first != NULL) {
    peri_timer *second = next_of(first);
    peri_timer *rest = second != NULL ? next_of(second) : NULL;
    set_next(first, NULL);
    if (second != NULL)
      set_next(second, NULL);
    peri_timer *pair = meld(first, second);
    set_next(pair, pairs);
    pairs = pair;
    first = rest;
  }
  while (pairs != NULL) {
    peri_timer *rest = next_of(pairs);
    set_next(pairs, NULL);
    root = meld(root, pairs);
    pairs = rest;
  }
  return root;
}

static void set_root(peri_timers *timers, peri_timer *root)
{
  timers->root = root;
  if (root == NULL)
    return;
  set_next(root, NULL);
  set_previous(root, NULL);
}

static void heap_add(peri_timers *timers, peri_timer *timer)
{
  timer->child = NULL;
  set_next(timer, NULL);
  set_root(timers, meld(timers->root, timer));
}

static void heap_remove(peri_timers *timers, peri_timer *timer)
{
  peri_timer *rest = meld_siblings(timer->child);
  timer->child = NULL;
  if (timers->root == timer) {
    set_root(timers, rest);
  } else {
    peri_timer *previous = timer_of(timer->node.link.previous);
    peri_timer *next = next_of(timer);
    if (previous->child == timer)
      previous->child = next;
    else
      set_next(previous, next);
    if (next != NULL)
      set_previous(next, previous);
    set_root(timers, meld(timers->root, rest));
  }
  timer->node.link.next = NULL;
}

/* -- Buckets by duration --------------------------------------------------- */

static uint32_t hash_of(int64_t duration)
{
  return (uint32_t)((uint64_t)duration * UINT64_C(0x9E3779B97F4A7C15) >> 32);
}

static uint32_t slot_of(const peri_timers *timers, int64_t duration)
{
  uint32_t mask = timers->table_size - 1;
  uint32_t i = hash_of(duration) & mask;
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

/* Makes a bucket in a slot of the table. NULL: no memory to. */
static peri_bucket *bucket_new(peri_clock *clock, int64_t duration)
{
  peri_timers *timers = &clock->timers;
  if (2 * (timers->buckets + 1) > timers->table_size && !table_rebuild(clock))
    return NULL;
  peri_bucket *bucket = peri__realloc(clock->rt, NULL, 0, sizeof *bucket);
  if (bucket == NULL)
    return NULL;
  bucket->entry = (peri_timer){.place = IS_BUCKET};
  bucket->duration = duration;
  peri__list_init(&bucket->timers);
  timers->table[slot_of(timers, duration)] = bucket;
  timers->buckets++;
  return bucket;
}

/* The bucket of a duration, made when that is seen again; or NULL. */
static peri_bucket *bucket_for(peri_clock *clock, int64_t duration)
{
  peri_timers *timers = &clock->timers;
  if (timers->table_size > 0) {
    peri_bucket *bucket = timers->table[slot_of(timers, duration)];
    if (bucket != NULL)
      return bucket;
  }
  int64_t *seen = &timers->seen[hash_of(duration) % PERI_DURATIONS_SEEN];
  if (*seen == duration)
    return bucket_new(clock, duration);
  *seen = duration;
  return NULL;
}

/* Whether the timer may stand behind the last one of the bucket. */
static bool keeps_order(const peri_bucket *bucket, const peri_timer *timer)
{
  return peri__list_empty(&bucket->timers) ||
         timer_of(bucket->timers.previous)->deadline <= timer->deadline;
}

/* Puts the bucket where its first timer belongs. */
static void bucket_add(peri_timers *timers, peri_bucket *bucket)
{
  peri_timer *first = timer_of(bucket->timers.next);
  bucket->entry.deadline = first->deadline;
  bucket->entry.sequence = first->sequence;
  heap_add(timers, &bucket->entry);
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
  memset(timers, 0, sizeof *timers);
}

void peri__timer_start(peri_clock *clock, peri_timer *timer, int64_t deadline,
                       int64_t duration)
{
  peri_timers *timers = &clock->timers;
  timer->deadline = deadline;
  timer->sequence = timers->sequence++;
  peri_bucket *bucket = duration < 0 ? NULL : bucket_for(clock, duration);
  if (bucket != NULL && keeps_order(bucket, timer)) {
    bool first = peri__list_empty(&bucket->timers);
    timer->place = IN_BUCKET;
    timer->bucket = bucket;
    peri__list_push(&bucket->timers, &timer->node);
    if (first)
      bucket_add(timers, bucket);
  } else {
    timer->place = IN_HEAP;
    heap_add(timers, timer);
  }
  if (timers->count++ == 0)
    peri__list_push(&clock->rt->clocks, &clock->active);
}

void peri__timer_stop(peri_clock *clock, peri_timer *timer)
{
  peri_timers *timers = &clock->timers;
  if (timer->place == IN_HEAP) {
    heap_remove(timers, timer);
  } else {
    peri_bucket *bucket = timer->bucket;
    bool first = bucket->timers.next == &timer->node.link;
    peri__node_unlink(&timer->node);
    if (first) {
      heap_remove(timers, &bucket->entry);
      if (!peri__list_empty(&bucket->timers))
        bucket_add(timers, bucket);
    }
  }
  if (--timers->count == 0)
    peri__node_unlink(&clock->active);
}

void peri__timer_moved(peri_clock *clock, peri_timer *old, peri_timer *timer)
{
  peri_list *previous = timer->node.link.previous,
            *next = timer->node.link.next;
  if (timer->place == IN_BUCKET) {
    previous->next = next->previous = &timer->node.link;
    return;
  }
  if (next != NULL)
    next->previous = &timer->node.link;
  if (timer->child != NULL)
    set_previous(timer->child, timer);
  if (previous == NULL)
    clock->timers.root = timer;
  else if (timer_of(previous)->child == old)
    timer_of(previous)->child = timer;
  else
    previous->next = &timer->node.link;
}

peri_timer *peri__timer_due(peri_clock *clock, int64_t now)
{
  peri_timer *timer = clock->timers.root;
  if (timer == NULL || timer->deadline > now)
    return NULL;
  if (timer->place == IS_BUCKET)
    timer = timer_of(((peri_bucket *)timer)->timers.next);
  peri__timer_stop(clock, timer);
  return timer;
}
