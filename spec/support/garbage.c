/*
 * garbage MODE [SEED]: a worker program of a process pool that does not do what
 * a worker does. It takes the descriptors from its standard input, as they do.
 *
 *   quiet   ends at once
 *   wait    says nothing; ends when the channel does
 *   hello   says hello, and nothing more
 *   fork    says that it is ready, and ends; a child of it has the channel open
 *   head    damages the position in the ring
 *   bytes   sends random bytes
 *   packets says hello, and sends random packets that are well formed
 *   chunks  submits a job with more chunks than a message has
 *   jobs    does random things with jobs that it submits
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pool/process_pool.h"
#include "pool/shared.h"

static peri__channel channel;

static void put(const void *data, size_t size)
{
  struct iovec part = {(void *)data, size};
  while (part.iov_len > 0) {
    ssize_t taken = peri__channel_write(&channel, &part, 1);
    if (taken < 0)
      exit(0);
    if (taken == 0)
      usleep(1000);
    part.iov_base = (char *)part.iov_base + taken;
    part.iov_len -= (size_t)taken;
  }
}

static void put_hello(bool ready)
{
  peri__hello hello = {.magic = PERI__PACKETS_MAGIC,
                       .format = PERI__PACKETS_FORMAT};
  peri__packet packet = {.kind = PERI__PACKET_HELLO, .length = sizeof hello};
  put(&packet, sizeof packet);
  put(&hello, sizeof hello);
  if (!ready)
    return;
  packet = (peri__packet){.kind = PERI__PACKET_READY};
  put(&packet, sizeof packet);
}

/* What is no block as often as one. */
static void put_block(void)
{
  char *data;
  int fd;
  if (rand() % 2 == 0)
    fd = dup(0);
  else if (peri__shared_new((size_t)1 << (rand() % 24), &data, &fd) < 0)
    return;
  peri__channel_send_fds(channel.fd, &fd, 1);
  close(fd);
}

static void put_packet(void)
{
  char payload[300];
  peri__packet packet = {.kind = (uint8_t)(rand() % 12),
                         .outcome = (uint8_t)(rand() % 8),
                         .chunks = (uint8_t)(rand() % 4),
                         .block = (uint8_t)(rand() % 8 ? 0 : rand() % 20),
                         .slot = (uint32_t)(rand() % 4)};
  packet.length = (uint64_t)(rand() % (int)sizeof payload);
  for (size_t i = 0; i < sizeof payload; i++)
    payload[i] = (char)rand();
  if (rand() % 16 == 0)
    packet.length = (uint64_t)rand() << 40;
  if (packet.kind == PERI__PACKET_BLOCK && channel.page != NULL &&
      rand() % 4 != 0)
    put_block();
  put(&packet, sizeof packet);
  put(payload, packet.length % sizeof payload);
}

static void put_code(uint32_t place)
{
  peri__packet code = {
      .kind = PERI__PACKET_CODE, .slot = place, .length = sizeof code};
  put(&code, sizeof code);
  put(&code, sizeof code);
}

/* With n chunks, which is the same one. */
static void put_submit(uint32_t number, uint8_t n)
{
  char payload[UINT8_MAX + 100] = {0};
  peri__packet packet = {.kind = PERI__PACKET_SUBMIT,
                         .outcome = (uint8_t)(rand() % 3),
                         .chunks = n,
                         .slot = number,
                         .length = n + (uint64_t)(rand() % 100)};
  put(&packet, sizeof packet);
  put(payload, packet.length);
}

/* What only a worker whose job has submitted some sends. */
static void put_about_jobs(void)
{
  static const uint8_t kinds[] = {PERI__PACKET_WITHDRAW, PERI__PACKET_INTERRUPT,
                                  PERI__PACKET_LEAVE,    PERI__PACKET_SYNC,
                                  PERI__PACKET_REST,     PERI__PACKET_GONE};
  uint32_t number = (uint32_t)(rand() % 8);
  uint64_t values[2] = {(uint64_t)(rand() % 3), (uint64_t)(rand() % 30)};
  if (rand() % 2 == 0) {
    put_submit(number, (uint8_t)(rand() % 3));
    return;
  }
  uint8_t kind = kinds[(size_t)rand() % sizeof kinds];
  peri__packet packet = {.kind = kind,
                         .slot = number,
                         .length = kind == PERI__PACKET_INTERRUPT
                                       ? sizeof values[0]
                                   : kind == PERI__PACKET_REST ? sizeof values
                                                               : 0};
  if (rand() % 1000 == 0)
    packet.length = (uint64_t)(rand() % (int)sizeof values);
  put(&packet, sizeof packet);
  put(values, packet.length);
}

static void put_bytes(void)
{
  for (int i = 0; i < 1000; i++) {
    char byte = (char)rand();
    put(&byte, 1);
  }
}

static bool start(void)
{
  int fds[PERI__START_FDS];
  int n = peri__channel_receive_fds(0, fds, PERI__START_FDS, true);
  char *page = NULL;
  size_t size;
  if (n > PERI__START_PAGE)
    peri__shared_map(fds[PERI__START_PAGE], sizeof(peri__page), true, &page,
                     &size);
  peri__channel_init(&channel, fds[PERI__START_CHANNEL],
                     (peri__page *)(void *)page, false);
  return n >= PERI__START_PAGE;
}

int main(int argc, char **argv)
{
  const char *mode = argc > 1 ? argv[1] : "";
  srand(argc > 2 ? (unsigned)atoi(argv[2]) : 1);
  if (strcmp(mode, "quiet") == 0 || !start())
    return 0;
  if (strcmp(mode, "head") == 0 && channel.page != NULL) {
    put_hello(true);
    atomic_store(&channel.out->head, 0x12345678);
    if (write(channel.fd, "x", 1) < 0) /* wakes the owner */
      return 1;
  } else if (strcmp(mode, "hello") == 0) {
    put_hello(false);
  } else if (strcmp(mode, "fork") == 0) {
    put_hello(true);
    if (fork() != 0)
      return 3;
  } else if (strcmp(mode, "packets") == 0) {
    put_hello(true);
    for (int i = 0; i < 100; i++)
      put_packet();
  } else if (strcmp(mode, "chunks") == 0) {
    put_hello(true);
    put_code(0);
    put_submit(1, UINT8_MAX);
  } else if (strcmp(mode, "jobs") == 0) {
    put_hello(true);
    put_code(0);
    for (int i = 0; i < 300; i++)
      put_about_jobs();
    return 0;
  } else if (strcmp(mode, "wait") != 0) {
    put_bytes();
  }
  while (!channel.ended) {
    char bytes[4096];
    peri__channel_wait(&channel, false);
    peri__channel_read(&channel, bytes, sizeof bytes);
  }
  return 0;
}
