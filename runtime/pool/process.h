/*
 * process.h: what the files about process pools share on the owner's side:
 * process_pool.c has the jobs and the life of workers, process_relay.c the jobs
 * that they submit themselves, process_talk.c what goes to and comes from a worker,
 * process_watch.c the loop that watches their sockets.
 */
#ifndef PERI_POOL_PROCESS_H
#define PERI_POOL_PROCESS_H

#include "pool/process_pool.h"

typedef struct process_pool process_pool;
typedef struct process process;
typedef struct relay relay;

/* A job that a worker has: job->carrier is this. */
typedef struct slot {
  process *process;
  peri__job *job; /* NULL: it was taken back */
  bool begun;     /* without a page: the worker has told */
  bool interrupted;
} slot;

/* Of libuv's; outlives what it is of until it is closed. */
typedef struct watch {
  union {
    uv_handle_t handle;
    uv_poll_t poll;
  } uv;
  peri_kernel *kernel;
  process *process; /* NULL: it is closing */
} watch;

/* Of a pool and the loop that watches it. The same. */
typedef struct pool_watch {
  uv_timer_t timer;     /* until a worker that starts is late */
  uv_prepare_t prepare; /* looks for news before each wait for the kernel */
  uv_idle_t idle;       /* runs: there was some, and the loop is not to wait */
  peri_kernel *kernel;
  process_pool *pool;
  int open; /* handles */
} pool_watch;

/* A worker's state; outlives that until nothing of it is at home. */
typedef struct far_end {
  peri__peer peer;
  process *process; /* NULL: it has gone */
  struct far_end *next;
} far_end;

struct process {
  process_pool *pool;
  pid_t pid;
  peri__channel channel;
  peri__reader reader;
  int control;
  int pidfd;      /* readable when the process has ended; or -1 */
  uint64_t start; /* when it was started, as uv_hrtime */
  /* The control socket's is there while orders are left. */
  watch *watch, *control_watch, *end_watch;
  far_end *far;
  peri__buffer orders; /* what the control socket had no room for */
  size_t ordered;      /* of it, sent */
  peri__chunk_places in, out;
  peri__blocks *blocks;         /* of the worker's making, or NULL */
  uint32_t known[PERI__BLOCKS]; /* serials of the blocks that it has mapped */
  uint32_t handed;              /* descriptors that are on the way at most */
  peri__buffer backlog;         /* what the channel had no room for */
  size_t written;               /* of it */
  uint32_t first, next; /* the oldest job without an answer; the next one */
  uint32_t live;        /* jobs between those that were not taken back */
  uint32_t tasks;       /* jobs it has, or had */
  bool hello, ready, answered;
  bool held;             /* the watch keeps its loop from being idle */
  bool closing;          /* gets no more jobs; its end is expected */
  bool damaged;          /* what it sent makes no sense */
  bool late;             /* it was not ready in time */
  bool rests;            /* its job waits for jobs of this pool only */
  uint8_t rest_kind;     /* peri__rest_kind */
  uint64_t rest, rested; /* its number for that, and the pool's */
  uint64_t told;         /* orders sent that end a rest */
  slot slots[PERI__WINDOW];
};

struct process_pool {
  peri__pool head;
  peri__process_options options;
  peri__message setup; /* that of SETUP */
  peri_list queue;     /* jobs with carrier NULL */
  process **processes;
  struct pollfd *looks; /* as many as there is room for processes */
  unsigned count, room;
  unsigned failures; /* workers that have died before they did anything, since
                        one did */
  unsigned unseen; /* jobs that were submitted since answers were looked for */
  bool used;       /* a job was submitted: the owner waits for the end */
  bool has_initializer;
  char *broken;
  far_end *gone; /* those whose peers are to be closed */
  relay *relays; /* jobs that workers have submitted, the last one first */
  relay **relay_table;
  uint32_t relay_count, relay_room;
  uint64_t rests;    /* of its workers */
  pool_watch *watch; /* while a loop watches; or NULL */
  peri_io io; /* listed with the loop that watches; its loop NULL: none does */
  peri_io_node deliver;
};

static inline void push_front(peri_list *list, peri__job *job)
{
  job->node.link.next = list->next;
  job->node.link.previous = list;
  list->next->previous = &job->node.link;
  list->next = &job->node.link;
}

/* process_relay.c: a job that a worker's job has submitted is sent back. */
void peri__relay_end(peri__job *job);

static inline void end_job(peri__job *job, peri__outcome outcome, char *text)
{
  job->carrier = NULL;
  job->outcome = (uint8_t)outcome;
  job->text = text;
  if (peri_unlikely(job->relayed))
    peri__relay_end(job);
  else
    peri__job_ended(job);
}

static inline atomic_uchar *ahead_of(process *p, uint32_t serial)
{
  return &p->channel.page->ahead[serial % PERI__WINDOW];
}

static inline uint32_t window_of(const process *p)
{
  return p->channel.page != NULL ? PERI__WINDOW : 1;
}

/* -- process_pool.c -------------------------------------------------------------- */

/* Takes the job: 0, or a libuv error and it has not. */
int peri__process_pool_take(process_pool *pool, peri__job *job);
/* The jobs that wait go to workers that take them. */
void peri__process_pool_hand_out(process_pool *pool);
/* The worker may be idle: finds it jobs, or an end. */
void peri__process_settle_idle(process_pool *pool, process *p);
/* Every job fails, those that run too, and the workers with them. Takes the
 * text, which follows "the pool is broken". */
void peri__process_pool_break(process_pool *pool, char *text);
/* The worker has gone, and all that it sent was read. Frees it. */
void peri__process_lost(process *p);
/* Takes back what was sent ahead to the worker. */
void peri__process_take_back(process *p);
/* Starts workers for jobs that wait. 1: there are more now; 0: there may not be;
 * or a libuv error. */
int peri__process_pool_grow(process_pool *pool);
/* Milliseconds until a worker that starts is late; -1: none does. */
int peri__process_pool_patience(const process_pool *pool);
/* Ends those that are late. */
void peri__process_pool_end_late(process_pool *pool);

/* -- process_notes.c --------------------------------------------------------------- */

/* The worker has a new state; 0 or UV_ENOMEM. */
int peri__process_meet(process *p);
/* That has gone. */
void peri__process_part(process *p);
/* Sends an order with what follows it: 0 or UV_ENOMEM. */
int peri__process_order(process *p, peri__order order, const char *data);
/* Sends what the control socket had no room for before. */
void peri__process_flush_orders(process *p);
void peri__process_pool_bury(peri__pool *head, lua_State *L);

/* -- process_relay.c --------------------------------------------------------------- */

/* A worker has begun the job, whose submitter is told. */
void peri__relay_begun(peri__job *job);
/* The worker's job submits one; takes the message. code: it could not be read.
 */
void peri__relay_submit(process *p, const peri__packet *packet,
                        peri__message *message, int code);
/* What the worker asks for its jobs. False: no worker of ours sends that. */
void peri__relay_withdraw(process *p, uint32_t number);
void peri__relay_sync(process *p);
bool peri__relay_interrupt(process *p, const peri__packet *packet,
                           const char *payload);
bool peri__process_rest(process *p, const peri__packet *packet,
                        const char *payload);
/* Nobody waits for the far end's jobs any more; drops: what has not begun is not
 * done. */
void peri__relays_leave(process_pool *pool, const far_end *far, bool drops);
/* If no worker can go on, one is told. */
void peri__process_pool_find_deadlock(process_pool *pool);

/* -- process_talk.c -------------------------------------------------------------- */

/* Sends a packet with a message; code and blocks that the worker has not got go
 * ahead. A large message may be moved into a block. */
void peri__process_send(process *p, peri__packet packet,
                        peri__message *message);
/* Sends what the channel had no room for before. */
void peri__process_flush(process *p);
/* The worker is beyond help: its death is seen when its channel ends. */
void peri__process_put_down(process *p);
/* The worker may have sent something. The process may be gone afterwards. */
void peri__process_look(process *p);
/* It has ended, whoever has its channel open still. */
void peri__process_end(process *p);

/* -- process_watch.c ------------------------------------------------------------- */

/* Has the loop tell when a worker that starts is late. */
void peri__process_watch_start(process_pool *pool);
/* Has the pool's loop watch the worker: 0 or a libuv error. */
int peri__process_watch(process *p);
void peri__process_unwatch(process *p);
/* What it is watched for may have changed. */
void peri__process_rewatch(process *p);
/* Has the loop tell when there is room for orders, while some are left. */
void peri__process_watch_control(process *p);
/* The loop is kept from being idle while something will come. */
void peri__process_hold(process *p);
/* Looks for what has come. */
void peri__process_pool_poll(peri__pool *head);
/* The same; when nothing has, the workers wake who waits at their sockets. Gives
 * how many had sent something. */
unsigned peri__process_pool_doze(process_pool *pool);
int peri__process_pool_attach(peri__pool *head, lua_State *L, peri_loop *loop);
void peri__process_pool_detach(process_pool *pool);
void peri__process_pool_on_loop_close(peri_io *io);
void peri__process_pool_deliver(lua_State *L, peri_runtime *rt,
                                peri_io_node *node);

#endif
