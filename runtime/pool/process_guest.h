/*
 * process_guest.h: the pool of a worker process as one of its jobs sees it. The
 * essay is in process_guest.c.
 */
#ifndef PERI_PROCESS_GUEST_H
#define PERI_PROCESS_GUEST_H

#include "pool/process_pool.h"

/* Whether the loop sleeps with nothing to wait for but jobs of its own pool. */
typedef enum peri__guest_rest {
  PERI__GUEST_AWAKE,
  PERI__GUEST_RESTS,    /* the owner was told */
  PERI__GUEST_HOPELESS, /* the owner says that none of them can come */
  PERI__GUEST_DESPAIRS  /* so does the loop */
} peri__guest_rest;

/* A worker process has one, for one state after the other. */
typedef struct peri__guest {
  peri__pool head;
  /* On the main thread; takes nothing of the message. */
  void (*send)(struct peri__guest *guest, peri__packet packet,
               peri__message *message);
  uint32_t last; /* number of a job, and of the last one that was sent */
  _Atomic uint32_t sent;

  bool ends;   /* and the process with it */
  bool behind; /* the owner may not have heard what it has withdrawn */
  uv_sem_t sync;
  atomic_bool shut;  /* the owner takes no more jobs */
  uv_mutex_t *mutex; /* guards the rest */
  peri_runtime *rt;  /* NULL: the state has none */
  peri_list jobs;    /* that the owner has; carrier: their number */
  peri__guest_rest rest;
  uint64_t rests, heard; /* see peri__rest */
} peri__guest;

/* 0 or a libuv error. */
int peri__guest_init(peri__guest *guest, uv_mutex_t *mutex);
void peri__guest_fini(peri__guest *guest);
/* Of the worker's state, until that closes. */
peri__pool *peri__guest_open(peri__guest *guest, peri_runtime *rt,
                             peri__home *home);
/* Waits until the owner has done what it was sent. */
void peri__guest_sync(peri__guest *guest);
/* Any thread, with the mutex: does what the owner says, of which the message has
 * the bytes, and may be left without. */
void peri__guest_obey(peri__guest *guest, const peri__order *order,
                      peri__message *message);
/* The same: an order was done that has woken the state if it sleeps. */
void peri__guest_hear(peri__guest *guest);

#endif
