/*
 * process_pool.h: what the two sides of a process pool agree on, and how a
 * worker is started. The essay is in process_pool.c.
 */
#ifndef PERI_PROCESS_POOL_H
#define PERI_PROCESS_POOL_H

#include "pool/channel.h"
#include "pool/worker.h"

enum { PERI__PACKETS_FORMAT = 2 };
#define PERI__PACKETS_MAGIC "perilune"

/* A worker finds a socket as its standard input. From there it gets a byte and
 * these descriptors, in this order, the page only where there is one. */
enum { PERI__START_CHANNEL, PERI__START_CONTROL, PERI__START_PAGE };
enum { PERI__START_FDS = 3 };

/* The payload of SETUP: this, then the bytes of three strings. */
typedef struct peri__setup {
  uint64_t memory_limit;
  int64_t spin; /* nanoseconds */
  int32_t debug, deadlock;
  uint64_t path, cpath, initializer; /* their lengths */
} peri__setup;

/* Goes to the worker's own thread, which is there whatever the worker does. */
typedef enum peri__order_kind {
  PERI__ORDER_STOP, /* the job is to stop, and after the grace the worker with it
                     */
  PERI__ORDER_NOTE, /* for the worker's state; its bytes follow */
  /* Of a job that this worker's job has submitted: */
  PERI__ORDER_BEGUN,    /* a worker has begun it */
  PERI__ORDER_ANSWER,   /* it has ended; its message follows, or text */
  PERI__ORDER_HOPELESS, /* nothing comes for a worker that rests; grace: which
                           rest that is */
  PERI__ORDER_SYNC,     /* answers that packet */
  PERI__ORDER_CLOSED    /* the pool takes no more jobs */
} peri__order_kind;

typedef struct peri__order {
  uint16_t kind;    /* peri__order_kind */
  uint16_t outcome; /* ANSWER: peri__outcome */
  uint32_t slot;    /* STOP: of the job; BEGUN, ANSWER: its number */
  int64_t grace;    /* nanoseconds */
  uint64_t length;  /* of what follows */
} peri__order;

/* -- The pool (process_pool.c) -------------------------------------------------- */

typedef enum peri__on_death {
  PERI__DEATH_DEFAULT,  /* breaks if the job has called os.exit */
  PERI__DEATH_REPLACES, /* the job fails, another worker takes the place */
  PERI__DEATH_BREAKS
} peri__on_death;

typedef struct peri__process_options {
  char **command; /* malloc's, each string too */
  unsigned max_workers;
  uint32_t max_tasks; /* of one worker; 0: any number */
  peri__on_death on_death;
  int64_t spin;          /* nanoseconds */
  int64_t grace;         /* between an interrupt and SIGKILL, nanoseconds */
  int64_t start_timeout; /* for a worker to be ready, nanoseconds */
} peri__process_options;

/* Takes what setup and options hold, in any case. NULL: no memory. */
peri__pool *peri__process_pool_new(peri__home *home, peri__worker_setup *setup,
                                   peri__process_options *options);

/* -- Start and end (process_start.c) ------------------------------------------- */

typedef struct peri__started {
  pid_t pid;
  int channel, control; /* our ends */
  peri__page *page;     /* or NULL */
} peri__started;

/* The command that makes a worker of this runtime: a list of strings on top of
 * the stack, as multiprocessing.set_executable has set it, or of the host, or
 * the program that runs. Raises RuntimeError if there is none. */
void peri__worker_command(lua_State *L, peri_runtime *rt);

/* Sets it to the list on top of the stack, or nil; pops that. */
void peri__worker_set_command(lua_State *L);

/* Starts a worker; does not wait for it. 0, or a libuv error: nothing is left
 * then. */
int peri__worker_start(char *const *argv, peri__started *started);

/* The worker's channel has ended, and mostly its process, too: that is killed if it
 * has not soon. Its status, or -1. */
int peri__worker_reap(pid_t pid);

#endif
