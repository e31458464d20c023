/* An allocator that fails on demand, and counts the bytes in use. */
#ifndef FAILING_H
#define FAILING_H

#include "check.h"

/* ONCE: Lua collects its garbage and asks again, so most points end well; what
 * the runtime allocates itself fails. TWICE: Lua's allocation fails in earnest,
 * but what follows has memory again. FOR_GOOD: nothing has, until so much has
 * failed that who waits for memory may be let go on. */
typedef enum failing { FAIL_ONCE, FAIL_TWICE, FAIL_FOR_GOOD } failing;

enum { ENOUGH_FAILED = 500 };

typedef struct allocator {
  long long bytes;   /* in use */
  long long count;   /* requests for more memory since it was armed */
  long long fail_at; /* the first one to fail; 0: none */
  failing how;
} allocator;

static inline int allocator_fails(allocator *a)
{
  if (a->fail_at == 0)
    return 0;
  long long past = ++a->count - a->fail_at;
  if (past < 0)
    return 0;
  if (a->how == FAIL_FOR_GOOD)
    return past < ENOUGH_FAILED;
  return past == 0 || (past == 1 && a->how == FAIL_TWICE);
}

static inline void *allocate(void *ud, void *block, size_t old_size,
                             size_t new_size)
{
  allocator *a = ud;
  if (block == NULL)
    old_size = 0; /* it was the type of the object */
  if (new_size == 0) {
    a->bytes -= (long long)old_size;
    free(block);
    return NULL;
  }
  /* Lua relies on shrinking not to fail. */
  if (new_size > old_size && allocator_fails(a))
    return NULL;
  void *moved = realloc(block, new_size);
  if (moved != NULL)
    a->bytes += (long long)new_size - (long long)old_size;
  return moved;
}

/* The n-th request from now on fails; 0: none does. */
static inline void allocator_arm(allocator *a, long long n, failing how)
{
  a->count = 0;
  a->fail_at = n;
  a->how = how;
}

#endif
