/*
 * payload, the floors: a large string to a worker and back, one after the other.
 *
 *   floor thread BYTES TIMES   another thread: at each end a message is copied
 *                              from and into a Lua string
 *   floor shared BYTES TIMES   another process: at each end a block is copied into
 *                              and out of shared memory
 *
 * Prints "us U" for each round trip.
 */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static size_t size;

/* -- Another thread ------------------------------------------------------- */

/* Messages from one thread to another; at most one is under way. */
typedef struct lane {
  pthread_mutex_t mutex;
  pthread_cond_t filled;
  char *message;
  int ended;
} lane;

static lane there = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL,
                     0},
            back = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL,
                    0};

static void put(lane *l, char *message)
{
  pthread_mutex_lock(&l->mutex);
  l->message = message;
  l->ended = message == NULL;
  pthread_cond_signal(&l->filled);
  pthread_mutex_unlock(&l->mutex);
}

static char *get(lane *l)
{
  pthread_mutex_lock(&l->mutex);
  while (l->message == NULL && !l->ended)
    pthread_cond_wait(&l->filled, &l->mutex);
  char *message = l->message;
  l->message = NULL;
  pthread_mutex_unlock(&l->mutex);
  return message;
}

static void send_top(lua_State *L, lane *l)
{
  char *message = malloc(size);
  BENCH_CHECK(message != NULL);
  memcpy(message, lua_tostring(L, -1), size);
  put(l, message);
}

/* Replaces the string on top. */
static int receive(lua_State *L, lane *l)
{
  char *message = get(l);
  if (message == NULL)
    return 0;
  lua_pop(L, 1);
  lua_pushlstring(L, message, size);
  free(message);
  return 1;
}

static void *work(void *unused)
{
  (void)unused;
  lua_State *L = bench_state();
  lua_pushnil(L);
  while (receive(L, &there))
    send_top(L, &back);
  lua_close(L);
  return NULL;
}

static double by_thread(long times)
{
  pthread_t worker;
  lua_State *L = bench_state();
  char *text = malloc(size);
  BENCH_CHECK(text != NULL);
  memset(text, 'x', size);
  lua_pushlstring(L, text, size);
  BENCH_CHECK(pthread_create(&worker, NULL, work, NULL) == 0);
  double start = bench_now();
  for (long i = 0; i < times; i++) {
    send_top(L, &there);
    BENCH_CHECK(receive(L, &back));
  }
  double spent = bench_now() - start;
  put(&there, NULL);
  pthread_join(worker, NULL);
  BENCH_CHECK(memcmp(lua_tostring(L, -1), text, size) == 0);
  lua_close(L);
  free(text);
  return spent / (double)times;
}

/* -- Another process ------------------------------------------------------ */

static char *copy(const char *from)
{
  char *block = malloc(size);
  BENCH_CHECK(block != NULL);
  memcpy(block, from, size);
  return block;
}

static void serve(int fd, char *in, char *out)
{
  char byte;
  while (read(fd, &byte, 1) == 1) {
    char *block = copy(in);
    memcpy(out, block, size);
    free(block);
    if (write(fd, &byte, 1) != 1)
      break;
  }
  _exit(0);
}

static double by_shared_memory(long times)
{
  int fds[2];
  char byte = 0;
  char *memory = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  BENCH_CHECK(memory != MAP_FAILED);
  BENCH_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
  pid_t pid = fork();
  BENCH_CHECK(pid >= 0);
  close(fds[pid == 0]);
  int fd = fds[pid != 0];
  if (pid == 0)
    serve(fd, memory, memory + size);
  char *block = malloc(size);
  BENCH_CHECK(block != NULL);
  memset(block, 'x', size);
  double start = bench_now();
  for (long i = 0; i < times; i++) {
    memcpy(memory, block, size);
    free(block);
    BENCH_CHECK(write(fd, &byte, 1) == 1);
    BENCH_CHECK(read(fd, &byte, 1) == 1);
    block = copy(memory + size);
  }
  double spent = bench_now() - start;
  BENCH_CHECK(block[0] == 'x' && block[size - 1] == 'x');
  close(fd);
  waitpid(pid, NULL, 0);
  free(block);
  return spent / (double)times;
}

int main(int argc, char **argv)
{
  size = (size_t)bench_arg(argc, argv, 2);
  long times = bench_arg(argc, argv, 3);
  BENCH_CHECK(size > 0);
  double spent = strcmp(argv[1], "thread") == 0 ? by_thread(times)
                                                : by_shared_memory(times);
  printf("us %.3f\n", spent / 1e3);
  return 0;
}
