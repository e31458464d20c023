/*
 * channel.c: the way between the owner of a process pool and one worker.
 *
 * Bytes go through two rings in memory that both have mapped, one a direction:
 * a small packet costs a copy and no system call. Who finds nothing to read says
 * so in the ring and sleeps on a socket; who writes then takes that note away
 * and sends one byte. So a burst of packets costs one wake-up, and one packet
 * at a time what a byte there and a byte back cost. The socket's end tells that
 * the other process is gone, and what it had written before is still in the
 * ring.
 *
 * A reader that sets its flag and looks once more, and a writer that publishes
 * and looks at the flag, must not both miss each other: hence the full fences. Who
 * puts many small packets leaves the fence to the end (`ensure`): they keep the
 * reader awake, and only behind the last one it may have fallen asleep unseen.
 *
 * The owner believes nothing it reads from the page but through checks: a worker
 * may have been scribbled over by its job. The ring's own position is kept where
 * the other one cannot reach it only as far as that is needed: a head that is out
 * of range ends the worker.
 *
 * Without a page (shared.c) the same bytes go through the socket.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include <sys/socket.h>

#include "pool/channel.h"
#include "pool/codec.h"

#if !defined(MSG_NOSIGNAL)
#define MSG_NOSIGNAL 0 /* SO_NOSIGPIPE is set where that is so */
#endif

enum { FIRST_READ = 65536 };

void peri__channel_init(peri__channel *channel, int fd, peri__page *page,
                        bool owner)
{
  *channel = (peri__channel){.fd = fd, .page = page};
#if defined(SO_NOSIGPIPE)
  int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
  if (page == NULL)
    return;
  channel->in = owner ? &page->to_owner : &page->to_worker;
  channel->out = owner ? &page->to_worker : &page->to_owner;
  channel->in_bytes = owner ? page->owner_bytes : page->worker_bytes;
  channel->out_bytes = owner ? page->worker_bytes : page->owner_bytes;
}

void peri__channel_fini(peri__channel *channel)
{
  int fd;
  while ((fd = peri__channel_take_fd(channel)) >= 0)
    close(fd);
  if (channel->fd >= 0)
    close(channel->fd);
  channel->fd = -1;
}

/* -- Descriptors --------------------------------------------------------------- */

/* Room for the descriptors that go with one byte. */
typedef union control {
  struct cmsghdr align;
  char bytes[CMSG_SPACE(PERI__CHANNEL_FDS * sizeof(int))];
} control;

int peri__channel_send_fds(int fd, const int *fds, int n)
{
  control room = {0};
  char byte = '\n';
  struct iovec part = {&byte, 1};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  size_t size = (size_t)n * sizeof *fds;
  message.msg_control = room.bytes;
  message.msg_controllen = CMSG_SPACE(size);
  struct cmsghdr *head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(size);
  memcpy(CMSG_DATA(head), fds, size);
  ssize_t sent;
  do
    sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (sent < 0 && errno == EINTR);
  return sent == 1 ? 0 : sent < 0 ? -errno : UV_EIO;
}

/* The descriptors of a message that came, into fds; what does not fit is
 * closed. Returns how many there are then. */
static int take_fds(struct msghdr *message, int *fds, int n, int most)
{
  struct cmsghdr *head = CMSG_FIRSTHDR(message);
  for (; head != NULL; head = CMSG_NXTHDR(message, head)) {
    if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
      continue;
    size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(head) + i * sizeof fd, sizeof fd);
      if (n < most)
        fds[n++] = fd;
      else
        close(fd);
    }
  }
  return n;
}

#if !defined(MSG_CMSG_CLOEXEC)
#define MSG_CMSG_CLOEXEC 0
#endif

static ssize_t receive(int fd, char *data, size_t size, struct msghdr *message,
                       control *room, bool wait)
{
  struct iovec part = {data, size};
  ssize_t got;
  do {
    *message = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
    message->msg_control = room->bytes;
    message->msg_controllen = sizeof room->bytes;
    got = recvmsg(fd, message, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
  } while (got < 0 && errno == EINTR);
  return got;
}

int peri__channel_receive_fds(int fd, int *fds, int n, bool wait)
{
  control room;
  struct msghdr message;
  char byte;
  if (receive(fd, &byte, 1, &message, &room, wait) != 1)
    return -1;
  return take_fds(&message, fds, 0, n);
}

int peri__channel_take_fd(peri__channel *channel)
{
  if (channel->fd_count == 0)
    return -1;
  int fd = channel->fds[0];
  channel->fd_count--;
  memmove(channel->fds, channel->fds + 1,
          (size_t)channel->fd_count * sizeof fd);
  return fd;
}

/* -- Wake-ups -------------------------------------------------------------------- */

/* A socket that is full has wake-ups in it. */
static void wake(peri__channel *channel)
{
  char byte = 1;
  ssize_t sent;
  do
    sent = send(channel->fd, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (sent < 0 && errno == EINTR);
}

static void wake_if(peri__channel *channel, atomic_uint *flag)
{
  atomic_thread_fence(memory_order_seq_cst);
  if (atomic_load_explicit(flag, memory_order_relaxed) != 0 &&
      atomic_exchange(flag, 0) != 0)
    wake(channel);
}

/* Whether anything has come. */
static bool attend(peri__channel *channel, bool wait)
{
  control room;
  struct msghdr message;
  char bytes[64];
  ssize_t got =
      receive(channel->fd, bytes, sizeof bytes, &message, &room, wait);
  if (got > 0)
    channel->fd_count =
        take_fds(&message, channel->fds, channel->fd_count, PERI__CHANNEL_FDS);
  else if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
    channel->ended = true;
  return got > 0;
}

int peri__channel_expect_fd(peri__channel *channel)
{
  while (channel->fd_count == 0 && attend(channel, false))
    ;
  return peri__channel_take_fd(channel);
}

void peri__channel_attend(peri__channel *channel)
{
  if (channel->page != NULL && !channel->ended)
    attend(channel, false);
}

bool peri__channel_wait(peri__channel *channel, bool room)
{
  struct pollfd look = {.fd = channel->fd, .events = room ? POLLOUT : POLLIN};
  if (channel->page == NULL)
    return poll(&look, 1, -1) != 0;
  return channel->ended || attend(channel, true) || channel->ended;
}

void peri__channel_set_patience(peri__channel *channel, int seconds)
{
  struct timeval time = {.tv_sec = seconds};
  setsockopt(channel->fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
}

/* -- Writing ---------------------------------------------------------------------- */

static size_t room_behind(const peri__channel *channel, uint32_t head)
{
  uint32_t used = head - channel->tail;
  return used > PERI__RING_SIZE ? 0 : PERI__RING_SIZE - used;
}

/* At least `wanted` if there is as much: only then the reader's end is looked at,
 * which costs a trip between processors. */
static size_t room_of(peri__channel *channel, uint32_t head, size_t wanted)
{
  size_t room = room_behind(channel, head);
  if (room >= wanted)
    return room;
  channel->tail =
      atomic_load_explicit(&channel->out->tail, memory_order_acquire);
  return room_behind(channel, head);
}

/* Copies what there is room for. */
static size_t copy_in(peri__channel *channel, const struct iovec *parts, int n)
{
  uint32_t head =
      atomic_load_explicit(&channel->out->head, memory_order_relaxed);
  size_t room = room_of(channel, head, PERI__RING_SIZE), taken = 0;
  for (int i = 0; i < n && taken < room; i++) {
    const char *data = parts[i].iov_base;
    size_t left = room - taken;
    size_t size = parts[i].iov_len < left ? parts[i].iov_len : left;
    if (size == 0)
      continue;
    size_t at = (head + taken) % PERI__RING_SIZE;
    size_t first = size < PERI__RING_SIZE - at ? size : PERI__RING_SIZE - at;
    memcpy(channel->out_bytes + at, data, first);
    if (size > first)
      memcpy(channel->out_bytes, data + first, size - first);
    taken += size;
  }
  atomic_store_explicit(&channel->out->head, head + (uint32_t)taken,
                        memory_order_release);
  return taken;
}

static ssize_t write_socket(peri__channel *channel, const struct iovec *parts,
                            int n)
{
  struct msghdr message = {.msg_iov = (struct iovec *)parts};
  message.msg_iovlen = (size_t)n;
  ssize_t sent;
  do
    sent = sendmsg(channel->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (sent < 0 && errno == EINTR);
  if (sent >= 0)
    return sent;
  return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
}

ssize_t peri__channel_write(peri__channel *channel, const struct iovec *parts,
                            int n)
{
  if (channel->page == NULL)
    return write_socket(channel, parts, n);
  size_t taken = copy_in(channel, parts, n);
  if (taken == 0)
    return channel->ended ? UV_EPIPE : 0;
  wake_if(channel, &channel->out->reader_sleeps);
  return (ssize_t)taken;
}

char *peri__channel_room(peri__channel *channel, size_t size)
{
  if (channel->page == NULL)
    return NULL;
  uint32_t head =
      atomic_load_explicit(&channel->out->head, memory_order_relaxed);
  size_t at = head % PERI__RING_SIZE;
  if (size > room_of(channel, head, size) || size > PERI__RING_SIZE - at)
    return NULL;
  return channel->out_bytes + at;
}

void peri__channel_put(peri__channel *channel, size_t size)
{
  uint32_t head =
      atomic_load_explicit(&channel->out->head, memory_order_relaxed);
  atomic_store_explicit(&channel->out->head, head + (uint32_t)size,
                        memory_order_release);
  channel->unsure = true;
  if (atomic_load_explicit(&channel->out->reader_sleeps, memory_order_relaxed))
    peri__channel_ensure(channel);
}

void peri__channel_ensure(peri__channel *channel)
{
  if (!channel->unsure)
    return;
  channel->unsure = false;
  wake_if(channel, &channel->out->reader_sleeps);
}

bool peri__channel_want_room(peri__channel *channel)
{
  if (channel->page == NULL)
    return false;
  atomic_store(&channel->out->writer_waits, 1);
  atomic_thread_fence(memory_order_seq_cst);
  uint32_t head =
      atomic_load_explicit(&channel->out->head, memory_order_relaxed);
  if (room_of(channel, head, 1) == 0)
    return false;
  atomic_store(&channel->out->writer_waits, 0);
  return true;
}

/* -- Reading ---------------------------------------------------------------------- */

static uint32_t bytes_in(const peri__channel *channel)
{
  uint32_t tail =
      atomic_load_explicit(&channel->in->tail, memory_order_relaxed);
  return atomic_load_explicit(&channel->in->head, memory_order_acquire) - tail;
}

bool peri__channel_has_bytes(const peri__channel *channel)
{
  struct pollfd look = {.fd = channel->fd, .events = POLLIN};
  return channel->page != NULL ? bytes_in(channel) > 0 : poll(&look, 1, 0) > 0;
}

static ssize_t read_socket(peri__channel *channel, char *data, size_t size)
{
  ssize_t got;
  do
    got = recv(channel->fd, data, size, MSG_DONTWAIT);
  while (got < 0 && errno == EINTR);
  if (got > 0)
    return got;
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
    return 0;
  channel->ended = true;
  return UV_EOF;
}

ssize_t peri__channel_read(peri__channel *channel, char *data, size_t size)
{
  if (channel->page == NULL)
    return read_socket(channel, data, size);
  bool ended = channel->ended; /* what it wrote before that is seen below */
  uint32_t n = bytes_in(channel);
  if (n == 0)
    return ended ? UV_EOF : 0;
  if (n > PERI__RING_SIZE)
    return UV_EPROTO;
  if (n > size)
    n = (uint32_t)size;
  uint32_t tail =
      atomic_load_explicit(&channel->in->tail, memory_order_relaxed);
  size_t at = tail % PERI__RING_SIZE;
  size_t first = n < PERI__RING_SIZE - at ? n : PERI__RING_SIZE - at;
  memcpy(data, channel->in_bytes + at, first);
  if (n > first)
    memcpy(data + first, channel->in_bytes, n - first);
  atomic_store_explicit(&channel->in->tail, tail + n, memory_order_release);
  wake_if(channel, &channel->in->writer_waits);
  return n;
}

bool peri__channel_sleep(peri__channel *channel)
{
  if (channel->page == NULL)
    return true;
  if (atomic_load_explicit(&channel->in->reader_sleeps, memory_order_relaxed))
    return true; /* it was said before, and nobody has come since */
  atomic_store(&channel->in->reader_sleeps, 1);
  atomic_thread_fence(memory_order_seq_cst);
  if (bytes_in(channel) == 0)
    return true;
  atomic_store(&channel->in->reader_sleeps, 0);
  return false;
}

/* -- Packets ----------------------------------------------------------------------- */

void peri__reader_fini(peri__reader *reader)
{
  free(reader->data);
  *reader = (peri__reader){0};
}

/* Moves what is left to the front, and sees to it that there is room behind. */
static bool make_room(peri__reader *reader)
{
  size_t left = reader->end - reader->start;
  if (left == 0 && reader->capacity > PERI__BUFFER_KEPT)
    peri__reader_fini(reader);
  if (left > 0 && reader->start > 0)
    memmove(reader->data, reader->data + reader->start, left);
  reader->start = 0;
  reader->end = left;
  if (left < reader->capacity)
    return true;
  size_t capacity = reader->capacity ? 2 * reader->capacity : FIRST_READ;
  char *data = realloc(reader->data, capacity);
  if (data == NULL)
    return false;
  reader->data = data;
  reader->capacity = capacity;
  return true;
}

ssize_t peri__reader_fill(peri__reader *reader, peri__channel *channel)
{
  if (!make_room(reader))
    return UV_ENOMEM;
  ssize_t got = peri__channel_read(channel, reader->data + reader->end,
                                   reader->capacity - reader->end);
  if (got > 0)
    reader->end += (size_t)got;
  return got;
}

bool peri__reader_peek(const peri__reader *reader, peri__packet *packet)
{
  if (reader->end - reader->start < sizeof *packet)
    return false;
  memcpy(packet, reader->data + reader->start, sizeof *packet);
  return true;
}

bool peri__reader_next(peri__reader *reader, peri__packet *packet,
                       const char **payload)
{
  size_t there = reader->end - reader->start;
  if (!peri__reader_peek(reader, packet) ||
      packet->length > there - sizeof *packet)
    return false;
  *payload = reader->data + reader->start + sizeof *packet;
  reader->start += sizeof *packet + (size_t)packet->length;
  return true;
}
