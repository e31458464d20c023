/*
 * client: drives an echo server, which it starts itself, on the other CPU.
 *   client MODE CONNECTIONS BYTES AMOUNT -- SERVER [ARGS]
 *
 *   echo     CONNECTIONS at once send BYTES and wait for them to come back, for
 *            AMOUNT milliseconds
 *   connect  AMOUNT times, CONNECTIONS at once: connect, send BYTES, receive
 *            them, close
 *   idle     CONNECTIONS that send BYTES once and then nothing; afterwards all
 *            must still answer
 *
 * The server prints "port N". Prints "us U cpu C": microseconds of time and of
 * the server's processor time for each request; or "kb K": KB of the server's
 * memory for each connection. The client never sleeps, so that a wake-up of its
 * own is not measured.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

enum { MOST_EVENTS = 256, WARM_UP = 200 }; /* milliseconds */

typedef struct connection {
  int fd;
  long sent, received; /* of the message under way */
} connection;

static char *message, *scratch;
static long size;
static struct sockaddr_in server;
static pid_t server_pid;
static int epoll_fd;
static int cpus[2]; /* the client's, the server's; -1: any */

/* -- The server ------------------------------------------------------------ */

static void pin(int cpu)
{
  cpu_set_t set;
  if (cpu < 0)
    return;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
}

/* The last CPU that we may use is the client's, the first the server's. */
static void choose_cpus(void)
{
  cpu_set_t set;
  cpus[0] = cpus[1] = -1;
  if (sched_getaffinity(0, sizeof set, &set) < 0)
    return;
  for (int i = 0; i < CPU_SETSIZE; i++) {
    if (!CPU_ISSET(i, &set))
      continue;
    if (cpus[1] < 0)
      cpus[1] = i;
    cpus[0] = i;
  }
}

static void stop_server(void)
{
  if (server_pid > 0)
    kill(server_pid, SIGKILL);
}

static void start_server(char **argv)
{
  int out[2];
  char line[64] = "";
  BENCH_CHECK(pipe(out) == 0);
  server_pid = fork();
  BENCH_CHECK(server_pid >= 0);
  if (server_pid == 0) {
    pin(cpus[1]);
    dup2(out[1], STDOUT_FILENO);
    close(out[0]);
    close(out[1]);
    execvp(argv[0], argv);
    _exit(127);
  }
  atexit(stop_server);
  close(out[1]);
  FILE *f = fdopen(out[0], "r");
  BENCH_CHECK(fgets(line, sizeof line, f) != NULL);
  int port;
  BENCH_CHECK(sscanf(line, "port %d", &port) == 1);
  server.sin_family = AF_INET;
  server.sin_port = htons((uint16_t)port);
  server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
}

/* Nanoseconds that all threads of the server have run. */
static double server_time(void)
{
  char path[128];
  double total = 0;
  snprintf(path, sizeof path, "/proc/%d/task", server_pid);
  DIR *dir = opendir(path);
  BENCH_CHECK(dir != NULL);
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
    double time;
    if (entry->d_name[0] == '.')
      continue;
    snprintf(path, sizeof path, "/proc/%d/task/%.32s/schedstat", server_pid,
             entry->d_name);
    FILE *f = fopen(path, "r");
    if (f == NULL)
      continue;
    if (fscanf(f, "%lf", &time) == 1)
      total += time;
    fclose(f);
  }
  closedir(dir);
  return total;
}

static long server_memory(void)
{
  char line[256], path[64];
  long kb = 0;
  snprintf(path, sizeof path, "/proc/%d/status", server_pid);
  FILE *f = fopen(path, "r");
  BENCH_CHECK(f != NULL);
  while (fgets(line, sizeof line, f) != NULL)
    if (strncmp(line, "VmRSS:", 6) == 0)
      kb = strtol(line + 6, NULL, 10);
  fclose(f);
  return kb;
}

/* -- Connections -------------------------------------------------------------- */

static void begin_connect(connection *c)
{
  int on = 1;
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  BENCH_CHECK(c->fd >= 0);
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  int result = connect(c->fd, (struct sockaddr *)&server, sizeof server);
  BENCH_CHECK(result == 0 || errno == EINPROGRESS);
  c->sent = c->received = 0;
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
  BENCH_CHECK(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) == 0);
}

static void watch(connection *c, uint32_t events)
{
  struct epoll_event event = {.events = events, .data.ptr = c};
  BENCH_CHECK(epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event) == 0);
}

/* Whether all of the message has gone. */
static int send_some(connection *c)
{
  ssize_t n =
      send(c->fd, message + c->sent, (size_t)(size - c->sent), MSG_NOSIGNAL);
  BENCH_CHECK(n > 0 || errno == EAGAIN);
  if (n > 0)
    c->sent += n;
  return c->sent == size;
}

static void send_message(connection *c)
{
  c->sent = c->received = 0;
  if (!send_some(c))
    watch(c, EPOLLIN | EPOLLOUT);
}

/* Whether all of the message has come back. */
static int receive_some(connection *c)
{
  ssize_t n = recv(c->fd, scratch, (size_t)(size - c->received), 0);
  if (n < 0 && errno == EAGAIN)
    return 0;
  BENCH_CHECK(n > 0);
  BENCH_CHECK(memcmp(scratch, message + c->received, (size_t)n) == 0);
  c->received += n;
  return c->received == size;
}

/* Goes on with what an event says; whether an answer is complete. */
static int proceed(const struct epoll_event *event)
{
  connection *c = event->data.ptr;
  if (event->events & EPOLLOUT && c->sent < size && send_some(c))
    watch(c, EPOLLIN);
  return event->events & (EPOLLIN | EPOLLERR | EPOLLHUP) && c->sent == size &&
         receive_some(c);
}

/* -- What is measured ------------------------------------------------------------ */

static void report(double start, double cpu_start, long requests)
{
  double time = bench_now() - start, cpu = server_time() - cpu_start;
  printf("us %.4f cpu %.4f\n", time / 1e3 / (double)requests,
         cpu / 1e3 / (double)requests);
}

static void run_echo(connection *all, long count, long milliseconds)
{
  struct epoll_event events[MOST_EVENTS];
  double start = bench_now(), cpu = 0;
  double begin = start + WARM_UP * 1e6,
         end = begin + (double)milliseconds * 1e6;
  long requests = 0;
  int measures = 0;
  for (long i = 0; i < count; i++)
    begin_connect(&all[i]);
  for (double now = start; now < end; now = bench_now()) {
    if (!measures && now >= begin) {
      measures = 1;
      requests = 0;
      start = now;
      cpu = server_time();
    }
    int n = epoll_wait(epoll_fd, events, MOST_EVENTS, 0);
    for (int i = 0; i < n; i++) {
      if (!proceed(&events[i]))
        continue;
      requests++;
      send_message(events[i].data.ptr);
    }
  }
  report(start, cpu, requests);
}

static void run_connect(connection *all, long count, long amount)
{
  struct epoll_event events[MOST_EVENTS];
  double start = 0, cpu = 0;
  long begun = 0, done = 0, warm_up = amount / 10;
  for (; begun < count; begun++)
    begin_connect(&all[begun]);
  while (done < warm_up + amount) {
    int n = epoll_wait(epoll_fd, events, MOST_EVENTS, 0);
    for (int i = 0; i < n; i++) {
      connection *c = events[i].data.ptr;
      if (!proceed(&events[i]))
        continue;
      close(c->fd);
      if (++done == warm_up) {
        start = bench_now();
        cpu = server_time();
      }
      if (begun++ < warm_up + amount)
        begin_connect(c);
    }
  }
  report(start, cpu, amount);
}

/* Each connection sends its message and has it back. */
static void exchange(connection *all, long count, int connects)
{
  struct epoll_event events[MOST_EVENTS];
  enum { AT_ONCE = 64 };
  long begun = 0, done = 0;
  while (done < count) {
    for (; begun < count && begun - done < AT_ONCE; begun++) {
      if (connects)
        begin_connect(&all[begun]);
      else
        send_message(&all[begun]);
    }
    int n = epoll_wait(epoll_fd, events, MOST_EVENTS, 0);
    for (int i = 0; i < n; i++)
      done += proceed(&events[i]);
  }
}

static void run_idle(connection *all, long count)
{
  connection first;
  exchange(&first, 1, 1);
  long before = server_memory();
  exchange(all, count, 1);
  usleep(100000);
  long after = server_memory();
  exchange(all, count, 0);
  printf("kb %.4f\n", (double)(after - before) / (double)count);
}

int main(int argc, char **argv)
{
  BENCH_CHECK(argc > 6 && strcmp(argv[5], "--") == 0);
  long count = bench_arg(argc, argv, 2), amount = bench_arg(argc, argv, 4);
  size = bench_arg(argc, argv, 3);
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  choose_cpus();
  start_server(argv + 6);
  pin(cpus[0]);
  message = malloc((size_t)size);
  scratch = malloc((size_t)size);
  connection *all = calloc((size_t)count, sizeof *all);
  BENCH_CHECK(message != NULL && scratch != NULL && all != NULL);
  for (long i = 0; i < size; i++)
    message[i] = (char)('a' + i % 26);
  epoll_fd = epoll_create1(0);
  BENCH_CHECK(epoll_fd >= 0);
  if (strcmp(argv[1], "echo") == 0)
    run_echo(all, count, amount);
  else if (strcmp(argv[1], "connect") == 0)
    run_connect(all, count, amount);
  else
    run_idle(all, count);
  return 0;
}
