/*
 * process_pool.c: worker processes and their jobs, on the owner's side.
 *
 * There is no thread: the running loop looks for answers before it waits for the
 * kernel, and only then asks to be woken (channel.c). Jobs are sent ahead, so
 * that a worker goes from one to the next by itself, and a burst of jobs costs
 * one wake-up. In the page that owner and worker share stands for each of them
 * whether the worker has begun it: who changes that from QUEUED has the job. So
 * a job that was sent can still be withdrawn, or taken back for a worker that
 * is idle, and it is known which job a dead worker ran. Without a page one job
 * at a time is sent.
 *
 * Answers come in the order of the jobs, one for each, also for those that were
 * taken back. The owner keeps a job's message until then.
 *
 * Death. The channel's end tells of it; what the worker had written before is
 * read first. The job it ran fails, or is tried again if it may be; the others
 * that it had go back to the head of the queue, and a new worker starts if there
 * is work for one. A pool breaks, as CPython's do, when a job ends its worker by
 * exit (unless on_worker_death is "replace"), when any worker dies ("break"),
 * and when workers do not even start.
 *
 * A worker sees by its control socket that the owner is gone; memory that both
 * share has no name. So nothing is left of a pool whose owner was killed.
 */
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <sys/socket.h>
#include <sys/wait.h>

#include "io/process.h"
#include "pool/process.h"
#include "pool/shared.h"

enum {
  START_ATTEMPTS = 5, /* workers that die in a row and do nothing before */
  MOST_UNSEEN = 64,   /* submits until answers are looked for without a page */
  LOOKS = 3 /* at a process: its channel, its end, its control socket */
};

/* -- Jobs ahead ------------------------------------------------------------------ */

static void give(process *p, peri__job *job)
{
  uint32_t serial = p->next++;
  slot *at = &p->slots[serial % PERI__WINDOW];
  *at = (slot){.process = p, .job = job};
  job->carrier = at;
  bool idle = p->live++ == 0;
  p->tasks++;
  peri__process_hold(p);
  if (p->channel.page != NULL)
    atomic_store_explicit(ahead_of(p, serial), PERI__AHEAD_QUEUED,
                          memory_order_relaxed);
  peri__process_send(p,
                     (peri__packet){.kind = PERI__PACKET_JOB,
                                    .outcome = job->relayed,
                                    .slot = serial},
                     &job->in);
  if (idle)
    peri__channel_ensure(&p->channel);
}

/* Takes back the job in the slot, if the worker has not begun it. */
static bool take_back(process *p, slot *at)
{
  unsigned char queued = PERI__AHEAD_QUEUED;
  if (p->channel.page == NULL ||
      !atomic_compare_exchange_strong(&p->channel.page->ahead[at - p->slots],
                                      &queued, PERI__AHEAD_WITHDRAWN))
    return false;
  at->job->carrier = NULL;
  at->job = NULL;
  p->live--;
  p->tasks--;
  return true;
}

/* Takes back up to most of the jobs that the worker would begin last, to the
 * head of a list, in order. */
static uint32_t take_last(process *p, uint32_t most, peri_list *jobs)
{
  uint32_t taken = 0;
  for (uint32_t i = p->next; i != p->first && taken < most; i--) {
    slot *at = &p->slots[(i - 1) % PERI__WINDOW];
    peri__job *job = at->job;
    if (job == NULL)
      continue;
    if (!take_back(p, at))
      break;
    push_front(jobs, job);
    taken++;
  }
  return taken;
}

void peri__process_take_back(process *p)
{
  take_last(p, UINT32_MAX, &p->pool->queue);
}

/* -- Starting workers ------------------------------------------------------------ */

static bool make_room(process_pool *pool)
{
  if (pool->count < pool->room)
    return true;
  unsigned room = pool->room > 0 ? 2 * pool->room : 4;
  process **processes = realloc(pool->processes, room * sizeof *processes);
  if (processes == NULL)
    return false;
  pool->processes = processes;
  struct pollfd *looks = realloc(pool->looks, LOOKS * room * sizeof *looks);
  if (looks == NULL)
    return false;
  pool->looks = looks;
  pool->room = room;
  return true;
}

static void free_process(process *p)
{
  if (p->pidfd >= 0)
    close(p->pidfd);
  if (p->control >= 0)
    close(p->control);
  peri__channel_fini(&p->channel);
  peri__shared_unmap((char *)p->channel.page, sizeof(peri__page));
  peri__reader_fini(&p->reader);
  peri__buffer_fini(&p->backlog);
  peri__chunk_places_fini(&p->in);
  peri__chunk_places_fini(&p->out);
  peri__buffer_fini(&p->orders);
  peri__blocks_unref(p->blocks);
  free(p);
}

/* No more jobs from its jobs. */
static void tell_closed(process *p)
{
  peri__process_order(p, (peri__order){.kind = PERI__ORDER_CLOSED}, NULL);
}

/* It has got nothing yet, and its end could not be seen. */
static void give_up(process *p)
{
  kill(p->pid, SIGKILL);
  peri__worker_reap(p->pid);
  peri__process_unwatch(p);
  peri__process_part(p);
  p->pool->count--;
  free_process(p);
}

static int start_process(process_pool *pool)
{
  peri__started started;
  process *p = make_room(pool) ? calloc(1, sizeof *p) : NULL;
  if (p == NULL)
    return UV_ENOMEM;
  int code = peri__worker_start(pool->options.command, &started);
  if (code < 0) {
    free(p);
    return code;
  }
  p->pool = pool;
  p->pid = started.pid;
  p->control = started.control;
  p->pidfd = peri__child_pidfd(p->pid);
  p->start = uv_hrtime();
  peri__channel_init(&p->channel, started.channel, started.page, true);
  p->blocks = started.page != NULL ? peri__blocks_new(true) : NULL;
  pool->processes[pool->count++] = p;
  code = peri__process_meet(p);
  if (code == 0 && pool->io.loop != NULL)
    code = peri__process_watch(p);
  if (code < 0) {
    give_up(p);
    return code;
  }
  if (pool->head.closed)
    tell_closed(p);
  peri__process_send(p, (peri__packet){.kind = PERI__PACKET_SETUP},
                     &pool->setup);
  peri__process_watch_start(pool);
  return 0;
}

static unsigned active(const process_pool *pool)
{
  unsigned n = 0;
  for (unsigned i = 0; i < pool->count; i++)
    n += !pool->processes[i]->closing;
  return n;
}

/* As many as there are jobs for. 0, or why there are not. */
static int start_processes(process_pool *pool)
{
  unsigned n = active(pool);
  int code = 0;
  size_t jobs = pool->head.pending + pool->relay_count;
  while (code == 0 && n < pool->options.max_workers && n < jobs) {
    code = start_process(pool);
    n += code == 0;
  }
  return code;
}

/* -- Handing out ------------------------------------------------------------------- */

static inline bool takes_jobs(const process *p)
{
  uint32_t most = p->pool->options.max_tasks;
  bool begins = !p->rests && (p->ready || p->channel.page != NULL);
  return begins && !p->closing && !p->damaged && p->backlog.length == 0 &&
         p->next - p->first < window_of(p) && (most == 0 || p->tasks < most);
}

/* How long it will be until it begins another job. */
static inline uint32_t load_of(const process *p)
{
  return 2 * p->live + !p->ready;
}

/* The one that would begin a job first; *next: the load of the one after it, or
 * 0: that was not looked for, since the first one is idle. */
static process *choose(process_pool *pool, uint32_t *next)
{
  process *best = NULL;
  uint32_t least = UINT32_MAX;
  *next = UINT32_MAX;
  for (unsigned i = 0; *next > 0 && i < pool->count; i++) {
    process *p = pool->processes[i];
    uint32_t load = load_of(p);
    if (load >= *next || !takes_jobs(p))
      continue;
    if (load < least) {
      *next = load > 0 ? least : 0;
      best = p;
      least = load;
    } else {
      *next = load;
    }
  }
  return best;
}

void peri__process_pool_hand_out(process_pool *pool)
{
  process *p;
  uint32_t next;
  while (!peri__list_empty(&pool->queue) && (p = choose(pool, &next)) != NULL)
    do
      give(p, peri__node_job(peri__list_shift(&pool->queue)));
    while (!peri__list_empty(&pool->queue) && load_of(p) < next &&
           takes_jobs(p));
}

int peri__process_pool_grow(process_pool *pool)
{
  unsigned count = pool->count;
  int code = peri__list_empty(&pool->queue) ? 0 : start_processes(pool);
  peri__process_pool_hand_out(pool);
  return pool->count > count ? 1 : code;
}

/* The worker is idle, and so is the queue: it gets half of what another one has
 * not begun. */
static void balance(process_pool *pool, process *idle)
{
  process *most = NULL;
  for (unsigned i = 0; i < pool->count; i++) {
    process *p = pool->processes[i];
    if (p->live > 1 && (most == NULL || p->live > most->live))
      most = p;
  }
  if (most == NULL || !takes_jobs(idle))
    return;
  take_last(most, most->live / 2, &pool->queue);
  peri__process_pool_hand_out(pool);
}

/* -- Ending ---------------------------------------------------------------------------- */

static void shut_down(process *p)
{
  if (p->closing)
    return;
  p->closing = true;
  shutdown(p->channel.fd, SHUT_WR);
  peri__process_hold(p);
}

/* It has no jobs; finds it some, or an end. */
void peri__process_settle_idle(process_pool *pool, process *p)
{
  if (p->closing || p->live > 0)
    return;
  if (peri__list_empty(&pool->queue))
    balance(pool, p);
  uint32_t most = pool->options.max_tasks;
  bool awaited = !p->ready && !peri__list_empty(&pool->queue);
  if (p->live == 0 && p->backlog.length == 0 && !awaited &&
      (pool->head.closed || (most > 0 && p->tasks >= most)))
    shut_down(p);
}

static void check_ended(process_pool *pool)
{
  if (!pool->head.closed || pool->count > 0 || atomic_load(&pool->head.ended))
    return;
  atomic_store(&pool->head.ended, true);
  peri__home_notify(pool->head.home);
}

static void fail_queue(process_pool *pool, peri__outcome outcome,
                       const char *text)
{
  while (!peri__list_empty(&pool->queue)) {
    peri__job *job = peri__node_job(peri__list_shift(&pool->queue));
    end_job(job, outcome, text != NULL ? strdup(text) : NULL);
  }
}

/* Every job fails, those that run too, and the workers with them. Takes the
 * text, which follows "the pool is broken". */
void peri__process_pool_break(process_pool *pool, char *text)
{
  if (atomic_load(&pool->head.broken) != NULL) {
    free(text);
    return;
  }
  pool->broken = text;
  atomic_store(&pool->head.broken, text != NULL ? text : ", out of memory");
  for (unsigned i = 0; i < pool->count; i++) {
    process *p = pool->processes[i];
    for (; p->first != p->next; p->first++) {
      peri__job *job = p->slots[p->first % PERI__WINDOW].job;
      if (job != NULL)
        end_job(job, PERI__JOB_BROKEN, NULL);
    }
    p->live = 0;
    p->closing = true;
    peri__process_hold(p);
    kill(p->pid, SIGKILL);
  }
  fail_queue(pool, PERI__JOB_BROKEN, NULL);
}

/* -- Death ---------------------------------------------------------------------------- */

static void tell_end(const process *p, int status, char *text, size_t size)
{
  int pid = (int)p->pid;
  if (p->late)
    snprintf(text, size, "worker process %d was not ready after %g seconds",
             pid, (double)p->pool->options.start_timeout / 1e9);
  else if (p->damaged)
    snprintf(text, size, "worker process %d sent what is no answer", pid);
  else if (status >= 0 && WIFSIGNALED(status))
    snprintf(text, size, "worker process %d was killed by signal %d (%s)", pid,
             WTERMSIG(status), strsignal(WTERMSIG(status)));
  else if (status >= 0)
    snprintf(text, size, "worker process %d ended with status %d", pid,
             WEXITSTATUS(status));
  else
    snprintf(text, size, "worker process %d has gone", pid);
}

/* Why the pool cannot go on after this death, behind ", "; NULL: it can. began:
 * the worker ran a job. */
static char *breaks(process *p, int status, const char *end, bool began)
{
  process_pool *pool = p->pool;
  const char *program = pool->options.command[0];
  bool killed = p->damaged || status < 0 || WIFSIGNALED(status);
  char text[400];
  if (!p->hello && p->late)
    snprintf(text, sizeof text, ", %s: is '%.200s' a worker program?", end,
             program);
  else if (p->late)
    snprintf(text, sizeof text, ", %s", end);
  else if (!p->hello && !(killed && !p->damaged))
    snprintf(text, sizeof text,
             ", %s before it said hello: is '%.200s' a worker program?", end,
             program);
  else if (!p->answered && !began && ++pool->failures >= START_ATTEMPTS)
    snprintf(text, sizeof text, ", %s before it did anything", end);
  else if (!p->ready && !killed)
    snprintf(text, sizeof text, ", %s while it started", end);
  else if (p->ready && (pool->options.on_death == PERI__DEATH_BREAKS ||
                        (pool->options.on_death == PERI__DEATH_DEFAULT &&
                         !killed && began)))
    snprintf(text, sizeof text, ", %s", end);
  else
    return NULL;
  return strdup(text);
}

/* What the dead worker's job comes to. */
static void lose_job(process *p, slot *at, const char *end)
{
  peri__job *job = at->job;
  p->live--;
  if (at->interrupted) {
    end_job(job, PERI__JOB_CANCELLED, NULL);
  } else if (job->retries > 0) {
    job->retries--;
    job->carrier = NULL;
    push_front(&p->pool->queue, job);
  } else {
    end_job(job, PERI__JOB_BROKEN, strdup(end));
  }
}

static void forget(process_pool *pool, process *p)
{
  for (unsigned i = 0; i < pool->count; i++)
    if (pool->processes[i] == p) {
      pool->processes[i] = pool->processes[--pool->count];
      break;
    }
}

/* Whether the worker has begun its first job. */
static bool has_begun(process *p)
{
  if (p->first == p->next || p->slots[p->first % PERI__WINDOW].job == NULL)
    return false;
  if (p->channel.page == NULL)
    return p->slots[p->first % PERI__WINDOW].begun;
  return atomic_load(ahead_of(p, p->first)) == PERI__AHEAD_CLAIMED;
}

/* The jobs it has not begun are the first of the queue again. */
static void requeue(process *p)
{
  for (uint32_t i = p->next; i != p->first; i--) {
    peri__job *job = p->slots[(i - 1) % PERI__WINDOW].job;
    if (job == NULL)
      continue;
    job->carrier = NULL;
    push_front(&p->pool->queue, job);
  }
}

/* Nobody does what is queued. */
static void fail_unstarted(process_pool *pool, int code)
{
  char text[300];
  peri__pool_tell_start(&pool->head, code, text, sizeof text);
  fail_queue(pool, PERI__JOB_FAILED, text);
}

/* The worker has gone, and all that it sent was read. */
void peri__process_lost(process *p)
{
  process_pool *pool = p->pool;
  char end[120];
  int status = peri__worker_reap(p->pid);
  bool began = has_begun(p);
  slot *at = &p->slots[p->first % PERI__WINDOW];
  tell_end(p, status, end, sizeof end);
  bool expected = p->closing && p->live == 0;
  char *why = expected || (began && at->interrupted)
                  ? NULL
                  : breaks(p, status, end, began);
  far_end *far = p->far;
  peri__process_unwatch(p);
  peri__process_part(p);
  forget(pool, p);
  p->first += began;
  requeue(p);
  if (began)
    lose_job(p, at, end);
  peri__relays_leave(pool, far, !expected);
  free_process(p);
  if (why != NULL)
    peri__process_pool_break(pool, why);
  /* Not for jobs that are done, and whose futures do not know yet. */
  if (atomic_load(&pool->head.broken) == NULL &&
      !peri__list_empty(&pool->queue)) {
    int code = start_processes(pool);
    if (code < 0 && active(pool) == 0)
      fail_unstarted(pool, code);
    peri__process_pool_hand_out(pool);
  }
  check_ended(pool);
  peri__process_pool_find_deadlock(pool);
}

/* -- Start-up ---------------------------------------------------------------------------- */

/* When it is late, as uv_hrtime; an initializer may take any time. */
static uint64_t start_end(const process *p)
{
  bool starts = !p->hello || (!p->ready && !p->pool->has_initializer);
  return starts && !p->late
             ? p->start + (uint64_t)p->pool->options.start_timeout
             : UINT64_MAX;
}

int peri__process_pool_patience(const process_pool *pool)
{
  uint64_t end = UINT64_MAX, now = uv_hrtime();
  for (unsigned i = 0; i < pool->count; i++) {
    uint64_t mine = start_end(pool->processes[i]);
    end = mine < end ? mine : end;
  }
  uint64_t left = end > now ? (end - now) / 1000000 + 1 : 0;
  return end == UINT64_MAX ? -1 : left > INT32_MAX ? INT32_MAX : (int)left;
}

void peri__process_pool_end_late(process_pool *pool)
{
  uint64_t now = uv_hrtime();
  for (unsigned i = pool->count; i-- > 0;) {
    process *p = i < pool->count ? pool->processes[i] : NULL;
    if (p == NULL || start_end(p) > now)
      continue;
    p->late = true;
    kill(p->pid, SIGKILL);
    peri__process_lost(p);
  }
}

/* -- Operations ------------------------------------------------------------------------- */

int peri__process_pool_take(process_pool *pool, peri__job *job)
{
  bool all_full = !peri__list_empty(&pool->queue);
  job->carrier = NULL;
  pool->used = true;
  if (pool->count < pool->options.max_workers) {
    int code = start_processes(pool);
    if (code < 0 && active(pool) == 0)
      return code;
    all_full = false;
  }
  peri__list_push(&pool->queue, &job->node);
  if (!all_full)
    peri__process_pool_hand_out(pool);
  return 0;
}

/* While a script submits and submits: the workers may have done what they had. */
static bool may_be_done(process_pool *pool)
{
  if (peri__list_empty(&pool->queue) || pool->count == 0)
    return false;
  bool paged = pool->processes[0]->channel.page != NULL;
  return ++pool->unseen >= (paged ? PERI__WINDOW : MOST_UNSEEN);
}

static int submit(peri__pool *head, peri__job *job)
{
  process_pool *pool = (process_pool *)head;
  if (may_be_done(pool)) {
    peri__process_pool_poll(head);
    if (atomic_load(&head->broken) != NULL)
      return UV_ECANCELED;
  }
  return peri__process_pool_take(pool, job);
}

static bool withdraw(peri__pool *head, peri__job *job)
{
  (void)head;
  slot *at = job->carrier;
  if (at != NULL)
    return take_back(at->process, at);
  if (!peri__node_listed(&job->node))
    return false;
  peri__node_unlink(&job->node);
  return true;
}

static void withdraw_all(peri__pool *head, peri_list *jobs)
{
  process_pool *pool = (process_pool *)head;
  peri_list all;
  peri__list_init(&all);
  for (unsigned i = 0; i < pool->count; i++)
    take_last(pool->processes[i], UINT32_MAX, &all);
  peri__list_splice(&all, &pool->queue);
  while (!peri__list_empty(&all)) {
    peri__job *job = peri__node_job(peri__list_shift(&all));
    if (job->relayed)
      end_job(job, PERI__JOB_CANCELLED, NULL);
    else
      peri__list_push(jobs, &job->node);
  }
}

static bool running(peri__pool *head, const peri__job *job)
{
  (void)head;
  const slot *at = job->carrier;
  if (at == NULL || at->process->channel.page == NULL)
    return at != NULL && at->begun;
  return atomic_load(
             &at->process->channel.page->ahead[at - at->process->slots]) ==
         PERI__AHEAD_CLAIMED;
}

/* The answers of those before it may be there unread. */
static uint32_t serial_of(const slot *at)
{
  const process *p = at->process;
  uint32_t place = (uint32_t)(at - p->slots);
  return p->first + (place - p->first) % PERI__WINDOW;
}

static bool interrupt(peri__pool *head, peri__job *job, int64_t grace)
{
  process_pool *pool = (process_pool *)head;
  slot *at = job->carrier;
  if (at == NULL || !running(head, job))
    return false;
  at->interrupted = true;
  return peri__process_order(
             at->process,
             (peri__order){.kind = PERI__ORDER_STOP,
                           .slot = serial_of(at),
                           .grace = grace < 0 ? pool->options.grace : grace},
             NULL) == 0;
}

static void close_pool(peri__pool *head)
{
  process_pool *pool = (process_pool *)head;
  if (pool->used)
    check_ended(pool);
  else
    atomic_store(&head->ended, true);
  for (unsigned i = pool->count; i-- > 0;) {
    tell_closed(pool->processes[i]);
    peri__process_settle_idle(pool, pool->processes[i]);
  }
}

static void attend(process *p, const struct pollfd *looks)
{
  if (looks[2].revents != 0)
    peri__process_flush_orders(p);
  if (looks[1].revents != 0) {
    peri__process_end(p);
  } else if (looks[0].revents != 0) {
    peri__channel_attend(&p->channel);
    peri__process_look(p);
  }
}

static void join(peri__pool *head)
{
  process_pool *pool = (process_pool *)head;
  while (pool->count > 0) {
    if (peri__process_pool_doze(pool) > 0)
      continue;
    unsigned n = pool->count;
    for (unsigned i = 0; i < n; i++) {
      process *p = pool->processes[i];
      bool writes = p->backlog.length > 0 && p->channel.page == NULL;
      struct pollfd *looks = &pool->looks[LOOKS * i];
      looks[0] = (struct pollfd){
          .fd = p->channel.fd,
          .events = (short)(writes ? POLLIN | POLLOUT : POLLIN)};
      looks[1] = (struct pollfd){.fd = p->pidfd, .events = POLLIN};
      looks[2] = (struct pollfd){.fd = p->orders.length > 0 ? p->control : -1,
                                 .events = POLLOUT};
    }
    if (poll(pool->looks, LOOKS * n, peri__process_pool_patience(pool)) < 0)
      continue;
    /* Backwards: one that goes is replaced by the last. */
    for (unsigned i = n; i-- > 0;)
      if (i < pool->count &&
          pool->processes[i]->channel.fd == pool->looks[LOOKS * i].fd)
        attend(pool->processes[i], &pool->looks[LOOKS * i]);
    peri__process_pool_end_late(pool);
  }
}

static void free_options(peri__process_options *options)
{
  for (int i = 0; options->command != NULL && options->command[i] != NULL; i++)
    free(options->command[i]);
  free(options->command);
}

static void free_pool(peri__pool *head)
{
  process_pool *pool = (process_pool *)head;
  PERI_CHECK(pool->count == 0 && pool->relays == NULL);
  peri__process_pool_detach(pool);
  free(pool->processes);
  free(pool->looks);
  free(pool->relay_table);
  while (pool->gone != NULL) {
    far_end *next = pool->gone->next;
    free(pool->gone);
    pool->gone = next;
  }
  free(pool->broken);
  peri__message_fini(&pool->setup);
  peri__blocks_unref(pool->head.blocks);
  free_options(&pool->options);
  free(pool);
}

static const peri__pool_ops ops = {
    .broken_class = "BrokenProcessPool",
    .submit = submit,
    .withdraw = withdraw,
    .withdraw_all = withdraw_all,
    .running = running,
    .interrupt = interrupt,
    .attach = peri__process_pool_attach,
    .poll = peri__process_pool_poll,
    .close = close_pool,
    .join = join,
    .close_peers = peri__process_pool_bury,
    .bury = peri__process_pool_bury,
    .free = free_pool,
};

static int make_setup(process_pool *pool, const peri__worker_setup *from)
{
  const peri__buffer *initializer = &from->initializer.bytes;
  peri__buffer *to = &pool->setup.bytes;
  peri__setup head = {.memory_limit = from->options.memory_limit,
                      .spin = pool->options.spin,
                      .debug = from->options.debug,
                      .deadlock = from->options.deadlock,
                      .path = strlen(from->path),
                      .cpath = strlen(from->cpath),
                      .initializer = initializer->length};
  const struct iovec parts[] = {{&head, sizeof head},
                                {from->path, head.path},
                                {from->cpath, head.cpath},
                                {initializer->data, initializer->length}};
  for (int i = 0; i < 4; i++) {
    if (parts[i].iov_len == 0)
      continue;
    if (peri__buffer_reserve(to, parts[i].iov_len) < 0)
      return UV_ENOMEM;
    memcpy(to->data + to->length, parts[i].iov_base, parts[i].iov_len);
    to->length += parts[i].iov_len;
  }
  for (uint32_t i = 0; i < from->initializer.chunk_count; i++)
    if (peri__message_add_chunk(&pool->setup, from->initializer.chunks[i]) < 0)
      return UV_ENOMEM;
  return 0;
}

peri__pool *peri__process_pool_new(peri__home *home, peri__worker_setup *setup,
                                   peri__process_options *options)
{
  process_pool *pool = calloc(1, sizeof *pool);
  if (pool == NULL) {
    free_options(options);
    peri__worker_setup_fini(setup);
    return NULL;
  }
  pool->head.ops = &ops;
  pool->head.home = home;
  pool->head.program = options->command[0];
  pool->head.spin = (uint64_t)options->spin;
  pool->options = *options;
  pool->io.close = peri__process_pool_on_loop_close;
  pool->deliver.node.kind = PERI_NODE_IO;
  pool->deliver.run = peri__process_pool_deliver;
  peri__list_init(&pool->queue);
  bool well = setup->path != NULL && setup->cpath != NULL &&
              make_setup(pool, setup) == 0;
  pool->has_initializer = setup->initializer.bytes.length > 0;
  peri__worker_setup_fini(setup);
  pool->head.blocks = peri__blocks_new(false);
  if (well && pool->head.blocks != NULL)
    return &pool->head;
  free_pool(&pool->head);
  return NULL;
}
