/*
 * job.c: jobs, and how they come home.
 *
 * Workers leave what they have done in a stack that needs no lock, and post only
 * when no post is under way: `posted` is set by the one who posts and cleared
 * when the home is looked at, before it takes the stack. So whoever finds it
 * set has left its job in time.
 */
#include <stdio.h>
#include <string.h>

#include "pool/pool.h"

void peri__job_init(peri__job *job, peri__home *home)
{
  memset(job, 0, offsetof(peri__job, chunk_room));
  job->home = home;
}

static void give_back(peri__job *job)
{
  peri__chunk_give_back(job->chunk_room);
  job->lent = false;
}

/* What does not stand in the job itself is freed. */
static void drop(peri__job *job, peri__message *message)
{
  if (message == &job->in && job->lent) {
    give_back(job);
    message->chunk_count = 0;
  }
  for (uint32_t i = 0; i < message->chunk_count; i++)
    peri__chunk_unref(message->chunks[i]);
  if (message->chunks != &job->chunk_room)
    free(message->chunks);
  if (message->bytes.data != job->room)
    peri__buffer_fini(&message->bytes);
  *message = (peri__message){0};
}

/* Whether all it has but text stands in it, and is that of peri__job_put_call. */
static inline bool is_plain(const peri__job *job)
{
  const char *in = job->in.bytes.data, *out = job->out.bytes.data;
  return job->lent && job->out.chunks == NULL &&
         (in == job->room || in == NULL) && (out == job->room || out == NULL);
}

void peri__job_fini(peri__job *job)
{
  if (peri_likely(is_plain(job))) {
    give_back(job);
    job->in = job->out = (peri__message){0};
  } else {
    drop(job, &job->in);
    drop(job, &job->out);
  }
  if (peri_likely(job->text == NULL))
    return;
  free(job->text);
  job->text = NULL;
}

static bool is_small(const peri__job *job, const peri__message *where,
                     const peri__message *message)
{
  return message->bytes.length <= PERI__JOB_ROOM &&
         message->chunk_count <= (where == &job->in ? 1u : 0u);
}

void peri__job_put(peri__job *job, peri__message *where, peri__message *message)
{
  drop(job, where);
  if (!is_small(job, where, message)) {
    *where = *message;
    *message = (peri__message){0};
    return;
  }
  size_t length = message->bytes.length;
  if (where == &job->out && job->in.bytes.data == job->room)
    job->in.bytes = (peri__buffer){0};
  memcpy(job->room, message->bytes.data, length);
  where->bytes = (peri__buffer){
      .data = job->room, .length = length, .capacity = PERI__JOB_ROOM};
  peri__buffer_empty(&message->bytes);
  if (message->chunk_count == 0)
    return;
  job->chunk_room = message->chunks[0];
  where->chunks = &job->chunk_room;
  where->chunk_count = where->chunk_capacity = 1;
  message->chunk_count = 0;
}

void peri__pool_tell_start(const peri__pool *pool, int status, char *text,
                           size_t size)
{
  bool names = status == UV_ENOENT || status == UV_ENOTDIR ||
               status == UV_EACCES || status == UV_EPERM || status == UV_ELOOP;
  if (pool->program != NULL && names)
    snprintf(text, size, "cannot start the worker program '%.200s': %s",
             pool->program, uv_strerror(status));
  else
    snprintf(text, size, "cannot start a worker: %s", uv_strerror(status));
}

void peri__home_init(peri__home *home, peri_runtime *rt, peri_post_cb deliver,
                     void *argument)
{
  home->rt = rt;
  home->deliver = deliver;
  home->argument = argument;
  home->guest = NULL;
  atomic_init(&home->done, NULL);
  peri__list_init(&home->ended);
  atomic_init(&home->notes, NULL);
  atomic_init(&home->posted, false);
}

int peri__home_leave_note(peri__home *home, peri__peer *peer,
                          peri__message *message)
{
  peri__note *note = malloc(sizeof *note);
  if (note == NULL)
    return PERI_ENOMEM;
  note->peer = peer;
  note->message = *message;
  *message = (peri__message){0};
  note->next = atomic_load(&home->notes);
  while (!atomic_compare_exchange_weak(&home->notes, &note->next, note))
    ;
  peri__home_notify(home);
  return 0;
}

/* All notes, the first one first. */
static peri__note *take_notes(peri__home *home)
{
  peri__note *note = atomic_exchange(&home->notes, NULL), *first = NULL;
  while (note != NULL) {
    peri__note *next = note->next;
    note->next = first;
    first = note;
    note = next;
  }
  return first;
}

static peri__note *note_free(peri__note *note)
{
  peri__note *next = note->next;
  peri__message_fini(&note->message);
  free(note);
  return next;
}

/* [peer, runtime] */
static int open_peer(lua_State *L)
{
  peri__peer_open(L, lua_touserdata(L, 2), lua_touserdata(L, 1));
  return 0;
}

static bool is_open(lua_State *L, peri_runtime *rt, peri__peer *peer)
{
  if (peer->serial != 0)
    return true;
  lua_pushcfunction(L, open_peer);
  lua_pushlightuserdata(L, peer);
  lua_pushlightuserdata(L, rt);
  if (lua_pcall(L, 2, 0, 0) == LUA_OK)
    return true;
  lua_pop(L, 1);
  return false;
}

void peri__home_read_notes(peri__home *home, lua_State *L)
{
  if (peri_likely(atomic_load(&home->notes) == NULL))
    return;
  for (peri__note *note = take_notes(home); note != NULL;
       note = note_free(note))
    if (is_open(L, home->rt, note->peer))
      peri__note_arrived(L, home->rt, note->peer, &note->message);
}

void peri__home_drop_notes(peri__home *home)
{
  for (peri__note *note = take_notes(home); note != NULL;)
    note = note_free(note);
}

/* The post cannot be done without, and memory may come back: the owner waits
 * for its workers before it goes. */
void peri__home_notify(peri__home *home)
{
  if (atomic_load(&home->posted) || atomic_exchange(&home->posted, true))
    return;
  while (peri_post(home->rt, home->deliver, home->argument) == PERI_ENOMEM)
    uv_sleep(10);
}

void peri__job_done(peri__job *job)
{
  peri__home *home = job->home;
  peri_node *first = atomic_load_explicit(&home->done, memory_order_relaxed);
  atomic_store_explicit(&job->state, PERI__JOB_DONE, memory_order_relaxed);
  do
    job->node.link.next = (peri_list *)first;
  while (!atomic_compare_exchange_weak(&home->done, &first, &job->node));
  peri__home_notify(home);
}

void peri__job_ended(peri__job *job)
{
  atomic_store_explicit(&job->state, PERI__JOB_DONE, memory_order_relaxed);
  peri__list_push(&job->home->ended, &job->node);
  peri__home_notify(job->home);
}

void peri__home_take(peri__home *home, peri_list *done)
{
  atomic_store(&home->posted, false);
  peri__list_splice(done, &home->ended);
  peri__list_take_stack(done, atomic_exchange(&home->done, NULL));
}
