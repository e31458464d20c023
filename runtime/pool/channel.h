/*
 * channel.h: what goes between the owner of a process pool and a worker. The
 * essay is in channel.c.
 */
#ifndef PERI_CHANNEL_H
#define PERI_CHANNEL_H

#include <stdalign.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "core/core.h"

/* -- The page that both have mapped --------------------------------------------- */

enum {
  PERI__WINDOW = 1024,     /* jobs that a worker may have ahead */
  PERI__RING_SIZE = 131072 /* bytes on the way, in each direction */
};

/* A job that was sent ahead, while it may still be taken back. */
typedef enum peri__ahead {
  PERI__AHEAD_NONE,
  PERI__AHEAD_QUEUED,
  PERI__AHEAD_CLAIMED,  /* the worker's: it runs, or has ended */
  PERI__AHEAD_WITHDRAWN /* the owner's: the worker skips it */
} peri__ahead;

/* Bytes from one process to the other. head and tail only grow, modulo 2^32. */
typedef struct peri__ring {
  alignas(64) _Atomic uint32_t head;     /* the writer's */
  alignas(64) _Atomic uint32_t tail;     /* the reader's */
  alignas(64) atomic_uint reader_sleeps; /* to be woken by the next byte */
  atomic_uint writer_waits;              /* to be woken when there is room */
} peri__ring;

typedef struct peri__page {
  peri__ring to_worker, to_owner;
  alignas(64) atomic_uchar ahead[PERI__WINDOW]; /* peri__ahead */
  alignas(64) char worker_bytes[PERI__RING_SIZE];
  char owner_bytes[PERI__RING_SIZE];
} peri__page;

/* -- Bytes -------------------------------------------------------------------------- */

enum { PERI__CHANNEL_FDS = 32 };

typedef struct peri__channel {
  int fd;           /* a socket: wake-ups, or all bytes if there is no page */
  bool ended;       /* nothing comes out of it any more */
  peri__page *page; /* or NULL */
  peri__ring *in, *out;
  char *in_bytes, *out_bytes;
  uint32_t tail; /* of out, as it was last seen */
  bool unsure;   /* something was put, and the reader may sleep all the same */
  /* Descriptors that came along, oldest first. */
  int fds[PERI__CHANNEL_FDS];
  int fd_count;
} peri__channel;

void peri__channel_init(peri__channel *channel, int fd, peri__page *page,
                        bool owner);
/* Closes the socket; the page is the caller's. */
void peri__channel_fini(peri__channel *channel);

/* Writes what there is room for, and wakes the reader if it sleeps. Returns the
 * bytes that were taken; a negative libuv error: the other end is gone. */
ssize_t peri__channel_write(peri__channel *channel, const struct iovec *parts,
                            int n);
/* For a few bytes that go as a whole: where in the page they are to be written,
 * after which `put` sends them. NULL: there is no room in one piece. */
char *peri__channel_room(peri__channel *channel, size_t size);
/* A reader that falls asleep at this moment may not notice, until `ensure`. */
void peri__channel_put(peri__channel *channel, size_t size);
void peri__channel_ensure(peri__channel *channel);
/* After a write that took nothing: true if there is room now; otherwise, with a
 * page, the other end wakes us once there is. */
bool peri__channel_want_room(peri__channel *channel);

/* Takes bytes that have come, at most size. 0: there are none; UV_EOF: there
 * will be none; UV_EPROTO: the other end has damaged the page. */
ssize_t peri__channel_read(peri__channel *channel, char *data, size_t size);
/* Whether a read would give something. */
bool peri__channel_has_bytes(const peri__channel *channel);
/* After a read that gave nothing: true if we are woken by the next byte, false
 * if there are bytes already. */
bool peri__channel_sleep(peri__channel *channel);
/* Takes the wake-ups there are, and notes the end. Nothing to do without a page.
 */
void peri__channel_attend(peri__channel *channel);
/* Blocks until there are bytes, or room if that was wanted, or the end; it may
 * return early. False: nothing came for as long as patience, with a page only. */
bool peri__channel_wait(peri__channel *channel, bool room);
/* Seconds after which a wait ends anyway. */
void peri__channel_set_patience(peri__channel *channel, int seconds);

/* Sends a descriptor, ahead of what is written next. 0 or a libuv error. */
int peri__channel_send_fds(int fd, const int *fds, int n);
/* Takes a byte and the descriptors with it: how many there were, at most n; -1:
 * the end, or an error. */
int peri__channel_receive_fds(int fd, int *fds, int n, bool wait);
/* The oldest descriptor that came, the caller's then; -1: none. */
int peri__channel_take_fd(peri__channel *channel);
/* The same of one that was sent before bytes that have come. */
int peri__channel_expect_fd(peri__channel *channel);

/* -- Packets -------------------------------------------------------------------------- */

/* From the worker: HELLO, READY or BROKEN, DONE for each JOB in order, NOTE,
 * GONE, IDLE; and what its jobs do with their own pool. From the owner: SETUP,
 * then JOB. CODE and BLOCK go either way. */
typedef enum peri__packet_kind {
  PERI__PACKET_HELLO = 1, /* payload: peri__hello */
  PERI__PACKET_SETUP,     /* payload: see setup.c */
  PERI__PACKET_READY,
  PERI__PACKET_BROKEN, /* the worker cannot start; payload: text */
  PERI__PACKET_CODE,   /* a chunk for the place `slot`; payload: bytecode */
  PERI__PACKET_BLOCK,  /* a block for the place `slot`: its descriptor came */
  PERI__PACKET_JOB,    /* payload: places of chunks, a byte each; a message */
  PERI__PACKET_DONE,   /* of the job in `slot`; payload as of a job, or text */
  PERI__PACKET_IDLE,   /* the worker has had nothing to do for long */
  PERI__PACKET_NOTE,   /* of the worker's peer; payload as of a job */
  PERI__PACKET_GONE,   /* the worker's state, with its loops */
  PERI__PACKET_BEGUN,  /* the job in `slot`: where there is no page to tell, and
                          of one that a job has submitted */
  /* Of a job that the worker's job submits, `slot` is its number: */
  PERI__PACKET_SUBMIT,    /* payload as of a job */
  PERI__PACKET_WITHDRAW,  /* it is not to begin */
  PERI__PACKET_INTERRUPT, /* it is to stop; payload: the grace, an int64_t */

  PERI__PACKET_LEAVE, /* as WITHDRAW of them all */
  PERI__PACKET_SYNC,  /* the owner is to say that it has come so far */
  PERI__PACKET_REST /* the job waits for such jobs only; payload: peri__rest */
} peri__packet_kind;

typedef struct peri__packet {
  uint8_t kind;
  uint8_t outcome; /* DONE: peri__outcome, or PERI__PACKET_SKIPPED; SUBMIT: how
                      often it may be tried again; JOB: a job has submitted it;
                      REST: peri__rest_kind */
  uint8_t chunks;  /* places in front of the message */
  uint8_t block;   /* 0; or 1 more than the place of the block that has the
                      message: its length, a uint64_t, is in place of it */
  uint32_t slot;
  uint64_t length; /* of the payload */
} peri__packet;

enum { PERI__PACKET_SKIPPED = 0xff /* it had been withdrawn */ };

typedef struct peri__hello {
  char magic[8];
  uint32_t format; /* of all this */
  uint32_t pid;
  char version[16];
} peri__hello;

/* A worker says that it rests for the number-th time, and so many orders it has
 * heard that may have ended the rests before. */
typedef struct peri__rest {
  uint64_t number, heard;
} peri__rest;

/* Packets out of the bytes that come. */
typedef struct peri__reader {
  char *data;
  size_t start, end, capacity;
} peri__reader;

void peri__reader_fini(peri__reader *reader);
/* Reads what the channel has: the bytes read, or as peri__channel_read; or
 * UV_ENOMEM. What peri__reader_next gave before is gone. */
ssize_t peri__reader_fill(peri__reader *reader, peri__channel *channel);
/* The next packet that is there as a whole; its payload is valid until the next
 * fill. False: more bytes are needed. */
bool peri__reader_next(peri__reader *reader, peri__packet *packet,
                       const char **payload);
/* Of a packet that is not there as a whole, its head. False: not even that. */
bool peri__reader_peek(const peri__reader *reader, peri__packet *packet);

#endif
