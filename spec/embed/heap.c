/* The memory of peri_new's states: blocks through the allocator function
 * against a model, what the system gets back, and what happens when it has
 * nothing more. */
#include "check.h"

#include <dlfcn.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "embed/heap.h"
#include "embed/slabs.h"

enum { MIB = 1 << 20 };

/* -- What the heap has of the system --------------------------------------- */

static struct {
  long long mapped; /* bytes */
  int calls, fail;
} the_system;

#if !PERILUNE_PLAIN_HEAP

/* The program's own come first for all that is linked into it, which is not
 * malloc: that has its own names for them. */

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void *mmap(void *at, size_t size, int protection, int flags, int fd,
           off_t offset)
{
  the_system.calls++;
  if (the_system.fail)
    return MAP_FAILED;
  void *got = REAL(mmap)(at, size, protection, flags, fd, offset);
  if (got != MAP_FAILED)
    the_system.mapped += (long long)size;
  return got;
}

int munmap(void *at, size_t size)
{
  the_system.calls++;
  the_system.mapped -= (long long)size;
  return REAL(munmap)(at, size);
}

int madvise(void *at, size_t size, int advice)
{
  the_system.calls++;
  return REAL(madvise)(at, size, advice);
}

#endif

/* -- Blocks ---------------------------------------------------------------- */

typedef struct thing {
  unsigned char *block;
  size_t size;
  unsigned char mark; /* fills it */
} thing;

static peri_heap *heap;
static uint64_t seed;

static size_t random_below(size_t n)
{
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return (size_t)(seed >> 33) % n;
}

static void *call(void *block, size_t old_size, size_t new_size)
{
  return peri__heap_function(heap)(heap, block, old_size, new_size);
}

static void *take(size_t size)
{
  return call(NULL, LUA_TUSERDATA, size); /* as Lua does */
}

static void give(void *block, size_t size)
{
  CHECK(call(block, size, 0) == NULL);
}

static void fill(thing *t)
{
  t->mark = (unsigned char)random_below(256);
  if (t->size > 0)
    memset(t->block, t->mark, t->size);
}

static void look_at(const thing *t, size_t size)
{
  for (size_t i = 0; i < size; i++)
    CHECK_INT(t->mark, t->block[i]);
}

/* Most are small; the edges of classes and of what is small are frequent. */
static size_t random_size(void)
{
  switch (random_below(8)) {
  case 0:
    return random_below(64) * 16 + random_below(3);
  case 1:
    return 1020 + random_below(10);
  case 2:
    return random_below(20) == 0 ? random_below(100000) : random_below(3000);
  default:
    return random_below(random_below(2) ? 1040 : 100);
  }
}

/* A thing's size changes; 0: it goes. What cannot be had leaves it as it was,
 * and that is more memory, or a small block in place of a large one. */
static int set_size(thing *t, size_t size)
{
  look_at(t, t->size);
  unsigned char *got =
      t->block != NULL ? call(t->block, t->size, size) : take(size);
  if (got == NULL && size > 0) {
    CHECK(the_system.fail && (size > t->size || t->size > 1024));
    return 0;
  }
  CHECK((uintptr_t)got % 16 == 0);
  CHECK((got == NULL) == (size == 0));
  t->block = got;
  look_at(t, size < t->size ? size : t->size);
  t->size = size;
  fill(t);
  return 1;
}

enum { THINGS = 20000 };
static thing things[THINGS];

static void clear(void)
{
  for (size_t i = 0; i < THINGS; i++)
    set_size(&things[i], 0);
}

static void against_model(void)
{
  for (int round = 0; round < 8; round++) {
    heap = peri__heap_new(NULL, NULL, 0);
    seed = (uint64_t)round;
    for (int i = 0; i < 150000; i++) {
      /* There are few for a while, then many, then few. */
      size_t most = i % 50000 < 25000 ? THINGS : 500;
      thing *t = &things[random_below(most)];
      set_size(t, t->block == NULL || random_below(4) == 0 ? random_size() : 0);
      if (i % 50000 == 25000)
        for (size_t j = most; j < THINGS; j++)
          set_size(&things[j], 0);
    }
    clear();
    peri__heap_free(heap);
    CHECK_INT(0, the_system.mapped);
  }
}

/* Of nothing comes nothing. */
static void nothing(void)
{
  heap = peri__heap_new(NULL, NULL, 0);
  CHECK(take(0) == NULL);
  CHECK(call(NULL, 0, 0) == NULL);
  peri__heap_free(heap);
}

static void limit(void)
{
  heap = peri__heap_new(NULL, NULL, 10000);
  void *blocks[100];
  for (int i = 0; i < 99; i++)
    CHECK((blocks[i] = take(100)) != NULL);
  CHECK(take(101) == NULL);
  CHECK(take(SIZE_MAX) == NULL);
  CHECK((blocks[99] = take(100)) != NULL);
  CHECK(take(1) == NULL);
  /* The bytes count, not the room that they take. */
  CHECK((blocks[0] = call(blocks[0], 100, 99)) != NULL);
  CHECK(call(blocks[1], 100, 102) == NULL);
  CHECK((blocks[1] = call(blocks[1], 100, 101)) != NULL);
  CHECK(take(1) == NULL);
  give(blocks[0], 99);
  give(blocks[2], 100);
  void *large = take(199);
  CHECK(large != NULL);
  CHECK(take(1) == NULL);
  give(large, 199);
  give(blocks[1], 101);
  for (int i = 3; i < 100; i++)
    give(blocks[i], 100);
  CHECK(take(10001) == NULL);
  CHECK((large = take(10000)) != NULL); /* not a byte was lost */
  give(large, 10000);
  peri__heap_free(heap);
}

#if !PERILUNE_PLAIN_HEAP

/* In pages: of addresses, and in memory. */
static void read_pages(long *addresses, long *resident)
{
  FILE *file = fopen("/proc/self/statm", "r");
  CHECK(file != NULL);
  CHECK_INT(2, fscanf(file, "%ld %ld", addresses, resident));
  fclose(file);
}

static long long resident(void)
{
  long addresses, pages;
  read_pages(&addresses, &pages);
  return (long long)pages * sysconf(_SC_PAGESIZE);
}

/* -- What the system gets back --------------------------------------------- */

enum { SPIKE = 400000, SIZE = 272 };
static void *spike[SPIKE];

static void grow(size_t n)
{
  for (size_t i = 0; i < n; i++) {
    CHECK((spike[i] = take(SIZE)) != NULL);
    memset(spike[i], 1, SIZE);
  }
}

static void shrink(size_t n, size_t keep_each)
{
  for (size_t i = 0; i < n; i++)
    if (i % keep_each != 0)
      give(spike[i], SIZE);
}

static void give_kept(size_t n, size_t keep_each)
{
  for (size_t i = 0; i < n; i += keep_each)
    give(spike[i], SIZE);
}

/* The bytes of a spike that are still in memory when all of it is given back
 * but each n-th block. */
static long long left_of_spike(size_t keep_each)
{
  heap = peri__heap_new(NULL, NULL, 0);
  memset(spike, 1, sizeof spike); /* so that it is in memory */
  long long before = resident();
  grow(SPIKE);
  long long most = resident() - before;
  CHECK(most > 100 * MIB && most < 110 * MIB);
  shrink(SPIKE, keep_each);
  long long left = resident() - before;
  for (size_t i = 0; i < SPIKE; i += keep_each)
    CHECK_INT(1, *((char *)spike[i] + SIZE - 1));
  give_kept(SPIKE, keep_each);
  peri__heap_free(heap);
  CHECK_INT(0, the_system.mapped);
  return left;
}

static void spikes_go(void)
{
  CHECK(left_of_spike(SPIKE) < 2 * MIB);
  /* 80 blocks, in as many chunks: of each its own slab stays, and a header,
   * and twice that to spare. */
  CHECK(left_of_spike(5000) < 10 * MIB);
}

/* Batches that come and go as a collector has them go do not trouble the
 * system, whatever was there before. */
static void batches_stay(void)
{
  heap = peri__heap_new(NULL, NULL, 0);
  enum { BATCH = 40000, LIVE = 15000 };
  void **live = &spike[BATCH];
  for (int i = 0; i < LIVE; i++)
    CHECK((live[i] = take(720)) != NULL);
  for (int round = 0; round < 20; round++) {
    if (round == 2)
      the_system.calls = 0;
    grow(BATCH);
    shrink(BATCH, BATCH);
    give_kept(BATCH, BATCH);
  }
  CHECK_INT(0, the_system.calls);
  peri__heap_free(heap);
  CHECK_INT(0, the_system.mapped);
}

/* A small state costs no more than what it asks for. */
static void start_is_small(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL)); /* libraries' own first use */
  peri_close(runtime);
  long long before = resident();
  peri_runtime *runtimes[100];
  for (int i = 0; i < 100; i++)
    CHECK_INT(PERI_OK, peri_new(&runtimes[i], NULL));
  long long each = (resident() - before) / 100;
  CHECK(each > 0 && each < 72 * 1024);
  for (int i = 0; i < 100; i++)
    peri_close(runtimes[i]);
  CHECK_INT(0, the_system.mapped);
}

/* -- The system has nothing more ------------------------------------------- */

static void failures_are_clean(void)
{
  int refused = 0;
  heap = peri__heap_new(NULL, NULL, 0);
  seed = 42;
  for (int i = 0; i < 600000; i++) {
    /* There is no memory for most of the time. */
    the_system.fail = i % 100000 > 20000;
    thing *t = &things[random_below(i % 100000 < 70000 ? THINGS : 500)];
    size_t size = t->block == NULL || random_below(3) != 0 ? random_size() : 0;
    refused += !set_size(t, size);
  }
  CHECK(refused > 1000);
  clear();
  the_system.fail = 0;
  peri__heap_free(heap);
  CHECK_INT(0, the_system.mapped);
}

static void same_class_stays(void)
{
  heap = peri__heap_new(NULL, NULL, 0);
  void *block = take(100);
  CHECK(call(block, 100, 112) == block);
  CHECK(call(block, 112, 97) == block);
  CHECK(call(block, 97, 113) != block);
  peri__heap_free(heap);
}

/* A block that shrinks finds room among larger ones. */
static void shrinking_makes_do(void)
{
  heap = peri__heap_new(NULL, NULL, 0);
  for (int i = 0; i < 100; i++) /* more than there is room for at first */
    CHECK(take(1000) != NULL);
  the_system.fail = 1;
  char *small = take(5000);
  memset(small, 7, 5000);
  while (take(100) != NULL || take(16) != NULL)
    continue;
  CHECK((small = call(small, 5000, 100)) != NULL);
  CHECK_INT(7, small[99]);
  CHECK(call(small, 100, 16) == small); /* there is nothing smaller */
  CHECK(call(small, 16, 300) == NULL);
  give(small, 16);
  CHECK(take(1000) == (void *)small);
  the_system.fail = 0;
  peri__heap_free(heap);
}

/* To a script it is an error like any other. */
static void scripts_go_on(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  CHECK_INT(PERI_OK, run_code(runtime, "sum = 0\n"
                                       "local t = {}\n"
                                       "for i = 1, 5e4 do t = { t } end\n"));
  the_system.fail = 1;
  CHECK_INT(PERI_ENOMEM,
            run_code(runtime, "local t = {}\n"
                              "for i = 1, 1e9 do t = { t } end\n"));
  CHECK_TEXT("not enough memory", peri_error(runtime));
  CHECK_INT(PERI_OK,
            run_code(runtime, "local ok, err = pcall(function()\n"
                              "  local t = {}\n"
                              "  for i = 1, 1e9 do t = { t } end\n"
                              "end)\n"
                              "assert(not ok and err == 'not enough memory')\n"
                              "for i = 1, 1e5 do sum = sum + #{ i } end\n"));
  the_system.fail = 0;
  CHECK_INT(100000, global_integer(peri_state(runtime), "sum"));
  peri_close(runtime);
  CHECK_INT(0, the_system.mapped);
}

/* What is spare in slabs is there for a large block. */
static void spare_is_lent(void)
{
  heap = peri__heap_new(NULL, NULL, 0);
  grow(100000);
  for (size_t i = 30000; i < 100000; i++)
    give(spike[i], SIZE);
  long addresses, pages;
  read_pages(&addresses, &pages);
  struct rlimit before, now;
  CHECK_INT(0, getrlimit(RLIMIT_AS, &before));
  now = before;
  now.rlim_cur = (rlim_t)addresses * (rlim_t)sysconf(_SC_PAGESIZE) + 65536;
  CHECK_INT(0, setrlimit(RLIMIT_AS, &now));
  void *large = take(8 * MIB);
  void *too_large = take(100 * MIB);
  CHECK_INT(0, setrlimit(RLIMIT_AS, &before));
  CHECK(large != NULL);
  CHECK(too_large == NULL);
  give(large, 8 * MIB);
  peri__heap_free(heap);
}

#endif

/* -- States ---------------------------------------------------------------- */

/* A coroutine that ran deep is not used again: nothing of it is left after the
 * task. */
static void deep_stacks_go(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  CHECK_INT(PERI_OK,
            run_code(runtime,
                     "local peri = require 'perilune'\n"
                     "local function deep(n)\n"
                     "  if n > 0 then return 1 + deep(n - 1) end\n"
                     "  return 0\n"
                     "end\n"
                     "peri.create_task(deep, 10):await()\n"
                     "collectgarbage()\n"
                     "local before = collectgarbage 'count'\n"
                     "assert(peri.create_task(deep, 50000):await() == 50000)\n"
                     "collectgarbage()\n"
                     "grown = (collectgarbage 'count' - before) // 1 | 0\n"));
  CHECK(global_integer(peri_state(runtime), "grown") < 200);
  peri_close(runtime);
}

static void close_here(void *runtime)
{
  peri_close(runtime);
}

static void other_threads_close(void)
{
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, NULL));
  CHECK_INT(PERI_OK, run_code(runtime, "t = {}\n"
                                       "for i = 1, 1e5 do t[i] = { i } end\n"));
  uv_thread_t thread;
  CHECK_INT(0, uv_thread_create(&thread, close_here, runtime));
  CHECK_INT(0, uv_thread_join(&thread));
}

int main(void)
{
#if !PERILUNE_PLAIN_HEAP
  spare_is_lent(); /* before malloc has any to spare */
#endif
  nothing();
  limit();
  against_model();
  deep_stacks_go();
  other_threads_close();
#if !PERILUNE_PLAIN_HEAP
  spikes_go();
  batches_stay();
  start_is_small();
  failures_are_clean();
  same_class_stays();
  shrinking_makes_do();
  scripts_go_on();
#endif
  return 0;
}
