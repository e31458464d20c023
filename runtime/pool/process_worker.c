/*
 * process_worker.c: a worker process.
 *
 * The main thread takes job after job out of the channel and runs each as the
 * main task of its runtime (worker.c), as a worker thread does; in between it
 * sleeps on the channel's socket. A second thread reads the control socket: its
 * end means that the owner is gone, and then so is this process, at once, even
 * out of a loop that never waits; an order interrupts the job that runs, and
 * ends the process if the job has not stopped after the grace.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <sys/socket.h>

#include "pool/process_guest.h"
#include "pool/shared.h"
#include "pool/worker.h"

enum {
  STATUS_BAD_START = 2,
  LINE = 65536,
  PATIENCE = 10 /* seconds until memory is given back */
};
#define NEVER UINT64_MAX

typedef struct task {
  peri__job job;
  uint32_t slot;
} task;

typedef struct worker_process {
  peri__channel channel;
  peri__reader reader;
  peri__worker_setup setup;
  peri__worker worker;
  peri__chunk_places in, out;
  peri__blocks *blocks, *owners; /* of our making, and the owner's; or NULL */
  uint64_t spin;
  peri__patience patience;
  task tasks[2];    /* the one that runs, and the one that follows it */
  uint32_t skipped; /* jobs behind the one that runs, found to be withdrawn */
  bool damaged;     /* it cannot go on */
  int control;
  uv_mutex_t mutex; /* guards worker.rt and home.rt */
  peri__home home;  /* for notes to worker.rt */
  peri__guest guest;
  pthread_t main, watch;
  atomic_bool done;
  /* The job that runs: its slot and 1 more; 0: none does. */
  _Atomic uint64_t current;
  _Atomic uint64_t unwanted; /* the same of the one that is to stop */
} worker_process;

/* -- The other thread ---------------------------------------------------------- */

/* False: the time, in nanoseconds, is over. */
static bool wait_for_control(int fd, uint64_t end)
{
  struct pollfd look = {.fd = fd, .events = POLLIN};
  uint64_t now = uv_hrtime(), left = end > now ? (end - now) / 1000000 + 1 : 0;
  int ms = end == NEVER ? -1 : left >= INT32_MAX ? INT32_MAX : (int)left;
  int n;
  do
    n = poll(&look, 1, ms);
  while (n < 0 && errno == EINTR);
  return n != 0;
}

/* On the main thread: its code is interrupted where it stands, or wherever it
 * waits. */
static void on_signal(int number, siginfo_t *info, void *context)
{
  int error = errno;
  (void)number, (void)context;
  if (info->si_code == SI_QUEUE && info->si_pid == getpid()) {
    worker_process *self = info->si_value.sival_ptr;
    if (atomic_load(&self->current) == atomic_load(&self->unwanted))
      peri__worker_interrupt(&self->worker);
  }
  errno = error;
}

/* Elsewhere than with glibc the job has the grace to end by itself. */
static void interrupt_job(worker_process *self, const peri__order *order)
{
  atomic_store(&self->unwanted, (uint64_t)order->slot + 1);
#if defined(__GLIBC__)
  pthread_sigqueue(self->main, SIGURG, (union sigval){.sival_ptr = self});
#endif
}

/* False: this process ends. Else the owner has gone if it cannot be had, and so
 * has this process. */
static bool receive_all(worker_process *self, void *data, size_t size)
{
  for (size_t got = 0; got < size;) {
    ssize_t n = recv(self->control, (char *)data + got, size - got, 0);
    if (n < 0 && errno == EINTR)
      continue;
    if (atomic_load(&self->done))
      return false;
    if (n <= 0)
      _exit(0);
    got += (size_t)n;
  }
  return true;
}

/* A note is lost where there is no state, of which the owner is told, or no
 * memory. With the mutex. */
static void leave_note(worker_process *self, peri__message *note)
{
  if (self->worker.rt != NULL) {
    if (self->home.rt != self->worker.rt) /* which the other thread reads */
      self->home.rt = self->worker.rt;
    peri__home_leave_note(&self->home, &self->worker.peer, note);
  }
  peri__guest_hear(&self->guest);
}

/* Any but to stop. */
static bool take_order(worker_process *self, const peri__order *order)
{
  peri__message message = {.chunk_count = 0};
  size_t length = (size_t)order->length;
  if (peri__buffer_reserve(&message.bytes, length) < 0)
    _exit(EXIT_FAILURE);
  message.bytes.length = length;
  bool well = receive_all(self, message.bytes.data, length);
  uv_mutex_lock(&self->mutex);
  if (well && order->kind == PERI__ORDER_NOTE)
    leave_note(self, &message);
  else if (well)
    peri__guest_obey(&self->guest, order, &message);
  uv_mutex_unlock(&self->mutex);
  peri__message_fini(&message);
  return well;
}

static void *watch_main(void *argument)
{
  worker_process *self = argument;
  peri__order order;
  uint64_t end = NEVER, unwanted = 0;
  for (;;) {
    if (!wait_for_control(self->control, end)) {
      if (atomic_load(&self->current) == unwanted)
        kill(getpid(), SIGKILL);
      end = NEVER;
    } else if (!receive_all(self, &order, sizeof order)) {
      return NULL;
    } else if (order.kind != PERI__ORDER_STOP) {
      if (!take_order(self, &order))
        return NULL;
    } else {
      unwanted = (uint64_t)order.slot + 1;
      end = uv_hrtime() + (uint64_t)order.grace;
      interrupt_job(self, &order);
    }
  }
}

/* 0, or what the system says. */
static int start_watch(worker_process *self)
{
  sigset_t all, before;
  sigfillset(&all);
  self->main = pthread_self();
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int code = pthread_create(&self->watch, NULL, watch_main, self);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return code;
}

/* -- Packets -------------------------------------------------------------------- */

/* Waits for room; the owner's end ends the process. */
static void send_parts(worker_process *self, struct iovec *parts, int count)
{
  size_t left = 0;
  for (int i = 0; i < count; i++)
    left += parts[i].iov_len;
  while (left > 0) {
    ssize_t taken = peri__channel_write(&self->channel, parts, count);
    if (taken < 0)
      _exit(0);
    if (taken == 0 && !peri__channel_want_room(&self->channel))
      peri__channel_wait(&self->channel, true);
    left -= (size_t)taken;
    for (int i = 0; i < count; i++) {
      size_t n =
          (size_t)taken < parts[i].iov_len ? (size_t)taken : parts[i].iov_len;
      parts[i].iov_base = (char *)parts[i].iov_base + n;
      parts[i].iov_len -= n;
      taken -= (ssize_t)n;
    }
  }
}

static void send_packet(worker_process *self, peri__packet packet,
                        const char *payload)
{
  size_t length = (size_t)packet.length;
  char *to = packet.length <= PERI__JOB_ROOM
                 ? peri__channel_room(&self->channel, sizeof packet + length)
                 : NULL;
  if (peri_likely(to != NULL)) {
    memcpy(to, &packet, sizeof packet);
    if (length > 0)
      memcpy(to + sizeof packet, payload, length);
    peri__channel_put(&self->channel, sizeof packet + length);
    peri__channel_ensure(&self->channel);
    return;
  }
  struct iovec parts[2] = {{&packet, sizeof packet}, {(char *)payload, length}};
  send_parts(self, parts, 2);
}

/* The place of the block that has the message, once the owner knows it; -1: it
 * goes through the channel. */
static int send_block(worker_process *self, const peri__buffer *bytes)
{
  if (bytes->blocks == NULL || bytes->length <= PERI__BLOCK_LEAST)
    return -1;
  int place = peri__blocks_place(self->blocks, bytes->data);
  int fd = peri__blocks_fd(self->blocks, place);
  if (fd < 0)
    return place;
  if (peri__channel_send_fds(self->channel.fd, &fd, 1) < 0)
    return -1;
  send_packet(
      self, (peri__packet){.kind = PERI__PACKET_BLOCK, .slot = (uint32_t)place},
      NULL);
  return place;
}

/* Code that the owner has not got goes ahead. A block is the owner's then. */
static void send_message(worker_process *self, peri__packet packet,
                         peri__message *message)
{
  unsigned char places[PERI__MESSAGE_CHUNKS];
  uint32_t n = message->chunk_count;
  if (n == 0 && message->bytes.length <= PERI__JOB_ROOM) {
    packet.length = message->bytes.length;
    send_packet(self, packet, message->bytes.data);
    return;
  }
  peri__chunk_places_begin(&self->out);
  for (uint32_t i = 0; i < n; i++) {
    bool fresh;
    peri__chunk *chunk = message->chunks[i];
    places[i] = (unsigned char)peri__chunk_place(&self->out, chunk, &fresh);
    if (fresh)
      send_packet(self,
                  (peri__packet){.kind = PERI__PACKET_CODE,
                                 .slot = places[i],
                                 .length = chunk->length},
                  chunk->code);
  }
  int block = send_block(self, &message->bytes);
  uint64_t length = message->bytes.length;
  struct iovec parts[3] = {{&packet, sizeof packet},
                           {places, n},
                           {message->bytes.data, message->bytes.length}};
  if (block >= 0) {
    packet.block = (uint8_t)(block + 1);
    parts[2] = (struct iovec){&length, sizeof length};
    peri__blocks_hand_over(self->blocks, block);
    message->bytes = (peri__buffer){0};
  }
  packet.chunks = (uint8_t)n;
  packet.length = n + parts[2].iov_len;
  send_parts(self, parts, 3);
}

static void send_text(worker_process *self, peri__packet packet,
                      const char *text)
{
  packet.length = text != NULL ? strlen(text) : 0;
  send_packet(self, packet, text);
}

/* Why the pool is broken; NULL: there is no memory. */
static void send_broken(worker_process *self, const char *why, const char *text)
{
  char whole[400];
  snprintf(whole, sizeof whole, "%s%s", why, text ? text : "out of memory");
  send_text(self, (peri__packet){.kind = PERI__PACKET_BROKEN}, whole);
}

/* Of peri__worker_open. */
static void send_not_open(worker_process *self, int status, const char *text)
{
  send_broken(self, status < 0 ? "its initializer failed: " : "", text);
}

static void say_hello(worker_process *self)
{
  peri__hello hello = {.magic = PERI__PACKETS_MAGIC,
                       .format = PERI__PACKETS_FORMAT,
                       .pid = (uint32_t)getpid(),
                       .version = PERI_VERSION};
  peri__packet packet = {.kind = PERI__PACKET_HELLO, .length = sizeof hello};
  send_packet(self, packet, (const char *)&hello);
}

/* Looks for packets until `end`, as uv_hrtime. */
static bool linger(worker_process *self, uint64_t end)
{
  bool came = false, alone = true;
  for (unsigned i = 0; !came && alone && uv_hrtime() < end; i++) {
    if (self->spin > 0)
      peri__relax(i);
    else
      alone = peri__patience_yield(&self->patience);
    came = peri__channel_has_bytes(&self->channel);
  }
  return came;
}

/* Nothing has come for long: the memory of large messages is given back. */
static void tell_idle(worker_process *self)
{
  if (peri__blocks_empty(self->blocks) && peri__blocks_empty(self->owners))
    return;
  peri__blocks_trim(self->blocks);
  send_packet(self, (peri__packet){.kind = PERI__PACKET_IDLE}, NULL);
}

static bool receive_packet(worker_process *self, peri__packet *packet,
                           const char **payload)
{
  bool idle = false;
  uint64_t end = 0; /* of looking; 0: there was something all the time */
  while (!peri__reader_next(&self->reader, packet, payload)) {
    ssize_t got = peri__reader_fill(&self->reader, &self->channel);
    if (got < 0)
      return false;
    if (got == 0 && end == 0)
      end = peri__patience_begin(&self->patience, self->spin);
    if (got > 0 || linger(self, end) || !peri__channel_sleep(&self->channel))
      continue;
    if (!peri__channel_wait(&self->channel, false) && !idle) {
      idle = true;
      tell_idle(self);
    }
  }
  if (end > 0)
    peri__patience_end(&self->patience);
  return true;
}

static bool take_block(worker_process *self, uint32_t place)
{
  int fd = peri__channel_expect_fd(&self->channel);
  return fd >= 0 && peri__blocks_arrived(self->owners, place, fd) == 0;
}

/* Waits for the next packet but code and blocks, which are kept. False: there
 * will be none. */
static bool next_packet(worker_process *self, peri__packet *packet,
                        const char **payload)
{
  bool well = true;
  while (well && receive_packet(self, packet, payload)) {
    if (packet->kind == PERI__PACKET_CODE)
      well = peri__chunk_arrived(&self->in, packet->slot, *payload,
                                 (size_t)packet->length) == 0;
    else if (packet->kind == PERI__PACKET_BLOCK)
      well = take_block(self, packet->slot);
    else
      return true;
  }
  return false;
}

static bool read_block(worker_process *self, const peri__packet *packet,
                       peri__buffer *bytes)
{
  uint64_t length;
  if (bytes->length != sizeof length)
    return false;
  memcpy(&length, bytes->data, sizeof length);
  bytes->length = (size_t)length;
  bytes->data = peri__blocks_at(self->owners, packet->block - 1u, length);
  return bytes->data != NULL;
}

/* The message in a packet; it borrows the bytes. */
static bool read_message(worker_process *self, const peri__packet *packet,
                         const char *payload, peri__message *message)
{
  size_t n = packet->chunks;
  if (n > packet->length)
    return false;
  for (size_t i = 0; i < n; i++) {
    peri__chunk *chunk = peri__chunk_at(&self->in, (unsigned char)payload[i]);
    if (chunk == NULL || peri__message_add_chunk(message, chunk) < 0)
      return false;
  }
  message->bytes.data = (char *)payload + n;
  message->bytes.length = (size_t)packet->length - n;
  return packet->block == 0 || read_block(self, packet, &message->bytes);
}

/* -- Jobs ------------------------------------------------------------------------ */

/* The guest's. */
static void send_for_guest(peri__guest *guest, peri__packet packet,
                           peri__message *message)
{
  send_message(
      (worker_process *)((char *)guest - offsetof(worker_process, guest)),
      packet, message);
}

/* The worker's. */
static peri__pool *own_pool(peri__worker *worker, peri__home *home)
{
  worker_process *self =
      (worker_process *)((char *)worker - offsetof(worker_process, worker));
  return peri__guest_open(&self->guest, worker->rt, home);
}

static int send_note(peri__peer *peer, peri__message *note)
{
  worker_process *self =
      (worker_process *)((char *)peer - offsetof(worker_process, worker.peer));
  send_message(self, (peri__packet){.kind = PERI__PACKET_NOTE}, note);
  return 0;
}

static void read_notes(lua_State *L, void *argument)
{
  worker_process *self = argument;
  atomic_store(&self->home.posted, false);
  peri__home_read_notes(&self->home, L);
}

/* There is no state: what was left for the one before is lost. */
static void reset_notes(worker_process *self)
{
  uv_mutex_lock(&self->mutex);
  peri__home_drop_notes(&self->home);
  atomic_store(&self->home.posted, false);
  uv_mutex_unlock(&self->mutex);
}

/* Returns the last of the jobs that were run. */
static peri__job *run_job(worker_process *self, peri__job *job)
{
  char *text = NULL;
  if (self->worker.rt == NULL)
    reset_notes(self);
  int status = peri__worker_open(&self->worker, &text);
  if (status == 0)
    return peri__worker_run(&self->worker, job);
  if (status < 0) {
    send_not_open(self, status, text);
    exit(EXIT_FAILURE);
  }
  job->outcome = PERI__JOB_FAILED;
  job->text = text;
  return job;
}

/* What was asked of the job before comes too late from here on. False: the owner
 * has taken this one back. */
static bool claim(worker_process *self, const peri__packet *packet)
{
  peri__page *page = self->channel.page;
  unsigned char queued = PERI__AHEAD_QUEUED;
  uint32_t slot = packet->slot;
  if (peri_unlikely(self->guest.behind))
    peri__guest_sync(&self->guest);
  atomic_store(&self->current, (uint64_t)slot + 1);
  peri__worker_settle(&self->worker);
  if (page != NULL &&
      !atomic_compare_exchange_strong(&page->ahead[slot % PERI__WINDOW],
                                      &queued, PERI__AHEAD_CLAIMED))
    return false;
  if (peri_likely(page != NULL && packet->outcome == 0))
    return true;
  peri__packet begun = {.kind = PERI__PACKET_BEGUN, .slot = slot};
  send_packet(self, begun, NULL);
  return true;
}

static bool take_job(worker_process *self, const peri__packet *packet,
                     const char *payload, task *it)
{
  it->slot = packet->slot;
  peri__job_init(&it->job, NULL);
  it->job.relayed = packet->outcome != 0;
  if (packet->chunks == 1) {
    it->job.in.chunks = &it->job.chunk_room;
    it->job.in.chunk_capacity = 1;
  }
  return read_message(self, packet, payload, &it->job.in);
}

static void send_skipped(worker_process *self, uint32_t slot)
{
  peri__packet answer = {
      .kind = PERI__PACKET_DONE, .outcome = PERI__PACKET_SKIPPED, .slot = slot};
  send_packet(self, answer, NULL);
}

/* Of the job, and of those behind it that are not to be done. */
static void answer(worker_process *self, task *it)
{
  peri__job *job = &it->job;
  peri__packet answer = {.kind = PERI__PACKET_DONE,
                         .slot = it->slot,
                         .outcome = (uint8_t)job->outcome};
  if (self->worker.exited && job->outcome == PERI__JOB_FAILED)
    ; /* the end of this process tells */
  else if (job->outcome == PERI__JOB_RETURNED ||
           job->outcome == PERI__JOB_RAISED)
    send_message(self, answer, &job->out);
  else
    send_text(self, answer, job->text);
  if (job->in.bytes.data != job->room)
    job->in.bytes = (peri__buffer){0}; /* borrowed */
  peri__job_fini(job);
  for (uint32_t slot = it->slot; self->skipped > 0; self->skipped--)
    send_skipped(self, ++slot);
}

static task *task_of(peri__job *job)
{
  return (task *)((char *)job - offsetof(task, job));
}

/* Whether the next packet is a job that is there as a whole. */
static bool job_at_hand(worker_process *self, peri__packet *packet,
                        const char **payload)
{
  if (!peri__reader_peek(&self->reader, packet) &&
      (peri__reader_fill(&self->reader, &self->channel) <= 0 ||
       !peri__reader_peek(&self->reader, packet)))
    return false;
  return packet->kind == PERI__PACKET_JOB &&
         peri__reader_next(&self->reader, packet, payload);
}

/* The worker's. The job that is done is answered for after the next one is
 * claimed, which changes nothing for the owner: it has not begun. */
static peri__job *next_of_worker(peri__worker *worker, peri__job *done)
{
  worker_process *self =
      (worker_process *)((char *)worker - offsetof(worker_process, worker));
  task *next = &self->tasks[task_of(done) == &self->tasks[0]];
  peri__packet packet;
  const char *payload;
  while (job_at_hand(self, &packet, &payload)) {
    if (!claim(self, &packet)) {
      self->skipped++;
      continue;
    }
    self->damaged = !take_job(self, &packet, payload, next);
    if (self->damaged)
      return NULL;
    answer(self, task_of(done));
    return &next->job;
  }
  return NULL;
}

static bool do_job(worker_process *self, const peri__packet *packet,
                   const char *payload)
{
  if (!claim(self, packet)) {
    atomic_store(&self->current, 0);
    send_skipped(self, packet->slot);
    return true;
  }
  if (!take_job(self, packet, payload, &self->tasks[0]))
    return false;
  peri__job *last = run_job(self, &self->tasks[0].job);
  atomic_store(&self->current, 0);
  peri__worker_settle(&self->worker);
  answer(self, task_of(last));
  if (self->worker.rt == NULL && !self->worker.exited)
    send_packet(self, (peri__packet){.kind = PERI__PACKET_GONE}, NULL);
  return !self->damaged;
}

static int serve(worker_process *self)
{
  peri__packet packet;
  const char *payload;
  while (next_packet(self, &packet, &payload)) {
    bool well = false;
    if (packet.kind == PERI__PACKET_JOB)
      well = do_job(self, &packet, payload);
    if (!well)
      return EXIT_FAILURE;
    if (self->worker.exited)
      return self->worker.exit_code;
  }
  return EXIT_SUCCESS;
}

/* -- Starting ---------------------------------------------------------------------- */

static void do_nothing(int number)
{
  (void)number;
}

/* Ctrl-C is for the owner, whose end is ours. */
static void set_signals(void)
{
  struct sigaction action = {.sa_handler = do_nothing, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGPIPE, &action, NULL);
  action.sa_sigaction = on_signal;
  action.sa_flags |= SA_SIGINFO;
  sigfillset(&action.sa_mask);
  sigaction(SIGURG, &action, NULL);
}

/* Takes what the owner has sent to the standard input, which is empty then. */
static bool take_start(worker_process *self)
{
  int fds[PERI__START_FDS];
  int n = peri__channel_receive_fds(STDIN_FILENO, fds, PERI__START_FDS, true);
  if (n < PERI__START_PAGE)
    return false;
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0 || dup2(null, STDIN_FILENO) < 0)
    return false;
  close(null);
  char *page = NULL;
  size_t size;
  if (n > PERI__START_PAGE) {
    self->blocks = peri__blocks_new(true);
    self->owners = peri__blocks_new(false);
    if (peri__shared_map(fds[PERI__START_PAGE], sizeof(peri__page), true, &page,
                         &size) < 0 ||
        self->blocks == NULL || self->owners == NULL)
      return false;
  }
  self->control = fds[PERI__START_CONTROL];
  peri__channel_init(&self->channel, fds[PERI__START_CHANNEL],
                     (peri__page *)(void *)page, false);
  peri__channel_set_patience(&self->channel, PATIENCE);
  return true;
}

static char *copy_text(const char *text, size_t length)
{
  char *copy = malloc(length + 1);
  if (copy == NULL)
    return NULL;
  memcpy(copy, text, length);
  copy[length] = '\0';
  return copy;
}

static bool read_setup(worker_process *self, const peri_options *options)
{
  peri__packet packet;
  const char *payload;
  peri__setup head;
  peri__worker_setup *setup = &self->setup;
  peri__message *initializer = &setup->initializer;
  if (!next_packet(self, &packet, &payload) ||
      packet.kind != PERI__PACKET_SETUP ||
      !read_message(self, &packet, payload, initializer) ||
      initializer->bytes.length < sizeof head)
    return false;
  payload = initializer->bytes.data;
  size_t length = initializer->bytes.length;
  initializer->bytes = (peri__buffer){0};
  memcpy(&head, payload, sizeof head);
  payload += sizeof head;
  if (sizeof head + head.path + head.cpath + head.initializer != length)
    return false;
  self->spin = (uint64_t)head.spin;
  setup->options = *options;
  setup->options.memory_limit = (size_t)head.memory_limit;
  setup->options.debug = head.debug;
  setup->options.deadlock = head.deadlock;
  setup->path = copy_text(payload, head.path);
  setup->cpath = copy_text(payload + head.path, head.cpath);
  if (head.initializer > 0 &&
      peri__buffer_reserve(&initializer->bytes, head.initializer) < 0)
    return false;
  if (head.initializer > 0)
    memcpy(initializer->bytes.data, payload + head.path + head.cpath,
           head.initializer);
  initializer->bytes.length = head.initializer;
  return setup->path != NULL && setup->cpath != NULL;
}

static int work(worker_process *self, const peri_options *options)
{
  char *text = NULL;
  say_hello(self);
  if (!read_setup(self, options))
    return EXIT_FAILURE;
  self->worker.setup = &self->setup;
  self->worker.blocks = self->blocks;
  self->worker.guard = &self->mutex;
  self->worker.send = send_note;
  self->worker.own_pool = own_pool;
  self->guest.send = send_for_guest;
  if (self->channel.page != NULL)
    self->worker.next = next_of_worker;
  self->worker.kind = "process";
  snprintf(self->worker.name, sizeof self->worker.name, "%d", (int)getpid());
  int status = peri__worker_open(&self->worker, &text);
  if (status != 0) {
    send_not_open(self, status, text);
    return EXIT_FAILURE;
  }
  send_packet(self, (peri__packet){.kind = PERI__PACKET_READY}, NULL);
  status = serve(self);
  self->guest.ends = true;
  peri__worker_close(&self->worker);
  return status;
}

static void finish(worker_process *self)
{
  atomic_store(&self->done, true);
  shutdown(self->control, SHUT_RD);
  pthread_join(self->watch, NULL);
  close(self->control);
  peri__home_drop_notes(&self->home);
  peri__guest_fini(&self->guest);
  uv_mutex_destroy(&self->mutex);
  peri__worker_setup_fini(&self->setup);
  peri__chunk_places_fini(&self->in);
  peri__chunk_places_fini(&self->out);
  peri__blocks_unref(self->blocks);
  peri__blocks_unref(self->owners);
  peri__reader_fini(&self->reader);
  peri__shared_unmap((char *)self->channel.page, sizeof(peri__page));
  peri__channel_fini(&self->channel);
}

int peri_worker_main(const peri_options *given)
{
  peri_options options;
  worker_process self = {.control = -1};
  peri_options_init(&options);
  if (given != NULL)
    options = *given;
  options.patch |= PERI_PATCH_EXIT | PERI_PATCH_REQUIRE | PERI_PATCH_PRINT;
  options.sigpipe_ignored = 1;
  set_signals();
  peri__fill_standard();
  self.patience = peri__patience_new();
  peri__home_init(&self.home, NULL, read_notes, &self);
  if (uv_mutex_init(&self.mutex) != 0 ||
      peri__guest_init(&self.guest, &self.mutex) != 0 || !take_start(&self)) {
    fputs("perilune: a worker is started by its process pool\n", stderr);
    return STATUS_BAD_START;
  }
  int code = start_watch(&self);
  if (code != 0) {
    say_hello(&self);
    send_broken(&self,
                "a worker process cannot start a thread: ", strerror(code));
    return EXIT_FAILURE;
  }
  setvbuf(stdout, NULL, _IOLBF, LINE); /* lines stay whole */
  int status = work(&self, &options);
  finish(&self);
  return status;
}
