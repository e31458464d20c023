/*
 * timer.h: timers, and the clocks that they belong to.
 */
#ifndef PERI_TIMER_H
#define PERI_TIMER_H

#include "base.h"

typedef struct peri_bucket peri_bucket;

/* See timer.c. */
typedef struct peri_timer {
  peri_node node; /* in bucket or heap while it runs, in a ready queue after */
  int64_t deadline;
  union {
    peri_bucket *bucket;
    struct peri_timer *child; /* in the heap, where it stands by itself */
  };
  peri_loop *loop;   /* whose ready queue takes it when it is due */
  uint32_t sequence; /* equal deadlines fire in the order of starting */
  uint8_t place;
} peri_timer;

typedef enum peri_clock_kind {
  PERI_CLOCK_REAL,
  PERI_CLOCK_MANUAL,
  PERI_CLOCK_VIRTUAL
} peri_clock_kind;

enum { PERI_DURATIONS_SEEN = 16 };

typedef struct peri_timers {
  peri_timer *root; /* of the heap: the next one */
  uint32_t sequence;
  uint32_t buckets, table_size;
  peri_bucket **table;               /* open addressing by duration */
  size_t count;                      /* timers that run */
  int64_t seen[PERI_DURATIONS_SEEN]; /* durations lately, by their hash */
} peri_timers;

struct peri_clock {
  peri_runtime *rt;
  peri_node active; /* in rt->clocks while a timer runs */
  peri_timers timers;
  int64_t base;      /* the clock's time at real_base */
  int64_t real_base; /* real and scaled clocks only */
  double scale;
  peri_clock_kind kind;
  bool paused;
  int anchor;     /* in the registry, while users > 0 */
  uint32_t users; /* tasks and loops that use it */
};

/* timer.c: durations and deadlines in the nanoseconds of one clock. */
void peri__timers_init(peri_timers *timers);
void peri__timers_fini(peri_runtime *rt, peri_timers *timers);
/* duration < 0: the deadline stands for itself. */
void peri__timer_start(peri_clock *clock, peri_timer *timer, int64_t deadline,
                       int64_t duration);
void peri__timer_stop(peri_clock *clock, peri_timer *timer);
/* A timer that runs has been copied from old to where it is to stand. */
void peri__timer_moved(peri_clock *clock, peri_timer *old, peri_timer *timer);
/* Takes the first timer whose deadline is not after now, or NULL. */
peri_timer *peri__timer_due(peri_clock *clock, int64_t now);
static inline bool peri__timer_first(const peri_clock *clock, int64_t *deadline)
{
  if (clock->timers.root == NULL)
    return false;
  *deadline = clock->timers.root->deadline;
  return true;
}

/* clock.c */
void peri__clock_open(lua_State *L, peri_runtime *rt);
peri_clock *peri__clock_check(lua_State *L, peri_runtime *rt, int arg);
int64_t peri__clock_now(const peri_clock *clock);
/* When a duration from now ends. */
int64_t peri__clock_after(const peri_clock *clock, int64_t duration);
/* Nanoseconds of real time until the deadline; INT64_MAX: it depends on
 * somebody's advance(). */
int64_t peri__clock_real_delay(const peri_clock *clock, int64_t deadline);
void peri__clock_jump(peri_clock *clock, int64_t now);
/* One more user: of a clock that has one, or that stands at idx. */
void peri__clock_use(lua_State *L, peri_clock *clock);
void peri__clock_use_at(lua_State *L, peri_clock *clock, int idx);
void peri__clock_unuse(lua_State *L, peri_clock *clock);
peri_clock *peri__clock_current(peri_runtime *rt);
/* Seconds to nanoseconds, rounded up, clipped to some 290 years. */
int64_t peri__nanoseconds(lua_Number seconds);

#endif
