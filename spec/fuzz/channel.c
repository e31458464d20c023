/* Packets of a worker that is none, as the owner of a process pool reads them:
 * whatever it sends, it is put down or goes on, and each job ends once. For
 * clang's libFuzzer; see scripts/fuzz.
 *
 * The first byte of the input says how much the worker has said already, and
 * whether there is a page. Then come packets, most of their fields a byte each;
 * kind 0xff: what follows is sent as it is. */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/socket.h>

#include "pool/process.h"
#include "pool/shared.h"

enum {
  HELLO = 1,
  READY = 2,
  PAGE = 4,
  JOBS = 8,  /* times 3 bits */
  CLAIM = 64 /* the first job runs */
};
enum { MOST_JOBS = 8, NO_PROCESS = 0x3fffffff };

static peri_runtime *rt;
static peri__home home;

/* What stands in front of a payload in the input. */
typedef struct head {
  uint8_t kind, outcome, chunks, block, slot, length;
} head;

static void fail(const char *what)
{
  fprintf(stderr, "%s\n", what);
  abort();
}

static void deliver(lua_State *L, void *argument)
{
  (void)L, (void)argument;
}

static char **make_command(void)
{
  char **command = calloc(2, sizeof *command);
  command[0] = strdup("/nowhere");
  return command;
}

static process_pool *make_pool(void)
{
  peri__worker_setup setup = {.path = strdup(""), .cpath = strdup("")};
  peri__process_options options = {.command = make_command(),
                                   .max_workers = 1,
                                   .start_timeout = INT64_MAX / 2};
  peri__pool *pool = peri__process_pool_new(&home, &setup, &options);
  if (pool == NULL)
    fail("no pool");
  return (process_pool *)pool;
}

/* A worker of the pool, which is no process; gives its end of the channel. */
static void make_process(process_pool *pool, int flags, peri__channel *theirs)
{
  int channel[2], control[2], fd;
  char *page = NULL;
  process *p = calloc(1, sizeof *p);
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) != 0 ||
      socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control) != 0)
    fail("no sockets");
  close(control[1]);
  if (flags & PAGE && peri__shared_new(sizeof(peri__page), &page, &fd) == 0)
    close(fd);
  p->pool = pool;
  p->pid = NO_PROCESS;
  p->pidfd = -1;
  p->control = control[0];
  p->start = uv_hrtime();
  p->hello = flags & HELLO;
  p->ready = p->hello && flags & READY;
  peri__channel_init(&p->channel, channel[0], (peri__page *)(void *)page, true);
  p->blocks = page != NULL ? peri__blocks_new(true) : NULL;
  peri__channel_init(theirs, channel[1], (peri__page *)(void *)page, false);
  pool->processes = calloc(4, sizeof(process *));
  pool->looks = calloc(12, sizeof(struct pollfd));
  pool->room = 4;
  pool->processes[pool->count++] = p;
  if (peri__process_meet(p) < 0)
    fail("no far end");
}

static void put(peri__channel *channel, const void *data, size_t size)
{
  struct iovec part = {(void *)data, size};
  peri__channel_write(channel, &part, 1);
}

static void put_block(peri__channel *channel, int size)
{
  char *data;
  int fd;
  if (channel->page == NULL ||
      peri__shared_new((size_t)1 << (size % 24), &data, &fd) < 0)
    return;
  peri__channel_send_fds(channel->fd, &fd, 1);
  peri__shared_unmap(data, (size_t)1 << (size % 24));
  close(fd);
}

/* One packet of the input, or the rest; returns the bytes used. */
static size_t put_packet(peri__channel *channel, const uint8_t *data,
                         size_t size)
{
  head h;
  if (size < sizeof h || data[0] == 0xff) {
    put(channel, data, size);
    return size;
  }
  memcpy(&h, data, sizeof h);
  size_t length = size - sizeof h < h.length ? size - sizeof h : h.length;
  peri__packet packet = {.kind = h.kind,
                         .outcome = h.outcome,
                         .chunks = h.chunks,
                         .block = h.block,
                         .slot = h.slot,
                         .length = length};
  if (h.kind == PERI__PACKET_BLOCK && h.outcome > 0)
    put_block(channel, h.outcome);
  put(channel, &packet, sizeof packet);
  put(channel, data + sizeof h, length);
  return sizeof h + length;
}

static void look(process_pool *pool)
{
  if (pool->count == 0)
    return;
  peri__channel_attend(&pool->processes[0]->channel);
  peri__process_look(pool->processes[0]);
}

/* All that have come home. */
static int take_jobs(void)
{
  int n = 0;
  peri_list done;
  peri__list_init(&done);
  peri__home_take(&home, &done);
  atomic_store(&home.posted, true);
  for (; !peri__list_empty(&done); n++)
    peri__job_fini(peri__node_job(peri__list_shift(&done)));
  return n;
}

static void run(const uint8_t *data, size_t size, int flags)
{
  peri__job jobs[MOST_JOBS];
  process_pool *pool = make_pool();
  peri__channel theirs;
  make_process(pool, flags, &theirs);
  int count = flags / JOBS % MOST_JOBS;
  for (int i = 0; i < count; i++) {
    peri__job_init(&jobs[i], &home);
    if (pool->head.ops->submit(&pool->head, &jobs[i]) != 0)
      fail("a job was refused");
  }
  if (flags & CLAIM && theirs.page != NULL)
    atomic_store(&theirs.page->ahead[0], PERI__AHEAD_CLAIMED);
  while (size > 0 && pool->count > 0) {
    size_t used = put_packet(&theirs, data, size);
    data += used;
    size -= used;
    look(pool);
  }
  close(theirs.fd);
  pool->head.closed = true;
  for (int i = 0; i < 3; i++)
    look(pool);
  peri_list waiting;
  int left = 0;
  peri__list_init(&waiting);
  pool->head.ops->withdraw_all(&pool->head, &waiting);
  for (; !peri__list_empty(&waiting); left++)
    peri__job_fini(peri__node_job(peri__list_shift(&waiting)));
  if (pool->count != 0 || take_jobs() + left != count)
    fail("a job was lost, or ended twice");
  peri__home_drop_notes(&home);
  peri__process_pool_bury(&pool->head, peri_state(rt));
  pool->head.ops->free(&pool->head);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  if (rt == NULL) {
    if (peri_new(&rt, NULL) != PERI_OK)
      fail("no runtime");
    peri__home_init(&home, rt, deliver, NULL);
    atomic_store(&home.posted, true); /* nobody is to be told */
  }
  if (size > 0)
    run(data + 1, size - 1, data[0]);
  return 0;
}
