/*
 * thread_state.c: the states that a pool's threads have one after the other, as
 * their owner sees them, and the notes between the two.
 *
 * A job that ends otherwise than it should takes its thread's state with it; the
 * next one has a new one. So the owner's peer is a state's and not a thread's:
 * what goes to one that has gone does not reach the next.
 *
 * Life. The thread makes a record when it begins a state, and passes it to the
 * owner, through `gone`, when all that the state had for the owner is at home. The
 * owner closes the peer and frees it as soon as nothing is at home: until then
 * jobs and notes there may point to it.
 */
#include "pool/thread_pool.h"

typedef peri__thread_pool thread_pool;

/* -- Notes ------------------------------------------------------------------ */

/* The owner's, on its thread. */
static int send_to_worker(peri__peer *peer, peri__message *note)
{
  peri__thread_state *state = (peri__thread_state *)peer;
  peri__thread *thread = state->thread;
  int status = PERI_EFAILED;
  uv_mutex_lock(&thread->mutex);
  if (thread->worker.rt != NULL && thread->state == state) {
    if (thread->home.rt != thread->worker.rt) /* the worker may be reading it */
      thread->home.rt = thread->worker.rt;
    status = peri__home_leave_note(&thread->home, &thread->worker.peer, note);
  }
  uv_mutex_unlock(&thread->mutex);
  return status;
}

int peri__thread_send_to_owner(peri__peer *peer, peri__message *note)
{
  peri__thread *thread =
      (peri__thread *)((char *)peer - offsetof(peri__thread, worker.peer));
  return peri__home_leave_note(thread->pool->head.home,
                               peri__thread_peer(thread), note);
}

void peri__thread_read_notes(lua_State *L, void *argument)
{
  peri__thread *thread = argument;
  atomic_store(&thread->home.posted, false);
  peri__home_read_notes(&thread->home, L);
}

/* -- Life ------------------------------------------------------------------- */

static peri__thread_state *state_new(peri__thread *thread)
{
  peri__thread_state *state = malloc(sizeof *state);
  if (state != NULL)
    *state = (peri__thread_state){
        .peer = {.trusted = true, .chunks = true, .send = send_to_worker},
        .thread = thread};
  return state;
}

bool peri__thread_state_renew(peri__thread *thread, peri__job *job)
{
  peri__thread_state *state = thread->state; /* one that could not be opened */
  if (state == NULL && (state = state_new(thread)) == NULL)
    return false;
  uv_mutex_lock(&thread->mutex);
  peri__home_drop_notes(&thread->home);
  atomic_store(&thread->home.posted, false);
  thread->state = state;
  if (job->home->guest == NULL)
    job->peer = &state->peer;
  uv_mutex_unlock(&thread->mutex);
  return true;
}

void peri__thread_state_part(peri__thread *thread)
{
  peri__thread_state *state = thread->state;
  thread_pool *pool = thread->pool;
  uv_mutex_lock(&thread->mutex);
  thread->state = NULL;
  uv_mutex_unlock(&thread->mutex);
  state->next = atomic_load(&pool->gone);
  while (!atomic_compare_exchange_weak(&pool->gone, &state->next, state))
    ;
  peri__home_notify(pool->head.home);
}

/* -- The owner's side ------------------------------------------------------- */

static void close_states(thread_pool *pool, lua_State *L,
                         peri__thread_state *state)
{
  while (state != NULL) {
    peri__thread_state *next = state->next;
    peri__peer_close(L, pool->head.home->rt, &state->peer);
    free(state);
    state = next;
  }
}

static void collect_gone(thread_pool *pool)
{
  peri__thread_state *first = atomic_exchange(&pool->gone, NULL), *last = first;
  while (last->next != NULL)
    last = last->next;
  last->next = pool->leaving;
  pool->leaving = first;
}

/* What came before a state had gone is at home, and seen if there is nothing. */
void peri__thread_states_bury(peri__pool *head, lua_State *L)
{
  thread_pool *pool = (thread_pool *)head;
  if (peri_unlikely(atomic_load(&pool->gone) != NULL))
    collect_gone(pool);
  if (peri_likely(pool->leaving == NULL) || !peri__home_empty(head->home))
    return;
  peri__thread_state *leaving = pool->leaving;
  pool->leaving = NULL;
  close_states(pool, L, leaving);
}

void peri__thread_states_close(peri__pool *head, lua_State *L)
{
  thread_pool *pool = (thread_pool *)head;
  close_states(pool, L, atomic_exchange(&pool->gone, NULL));
  close_states(pool, L, pool->leaving);
  pool->leaving = NULL;
  for (unsigned i = 0; i < pool->started; i++) {
    close_states(pool, L, pool->threads[i]->state);
    pool->threads[i]->state = NULL;
  }
}
