/*
 * floor: an echo server in C on libuv, without Lua.
 *   floor queued|try
 *
 *   queued  each answer is copied and given to uv_write, as most servers do
 *   try     uv_try_write first, and uv_write for what it leaves
 */
#include <uv.h>

#include "bench.h"

typedef struct client {
  uv_tcp_t tcp;
} client;

typedef struct answer {
  uv_write_t request;
  char data[];
} answer;

static char buffer[65536];
static int tries;

static void on_closed(uv_handle_t *handle)
{
  free(handle);
}

static void on_written(uv_write_t *request, int status)
{
  (void)status;
  free(request);
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *out)
{
  (void)handle, (void)size;
  *out = uv_buf_init(buffer, sizeof buffer);
}

static void send_answer(uv_stream_t *stream, const char *data, size_t size)
{
  if (tries) {
    uv_buf_t all = uv_buf_init((char *)data, (unsigned)size);
    int gone = uv_try_write(stream, &all, 1);
    if (gone == (int)size)
      return;
    if (gone > 0) {
      data += gone;
      size -= (size_t)gone;
    }
  }
  answer *a = malloc(sizeof *a + size);
  BENCH_CHECK(a != NULL);
  memcpy(a->data, data, size);
  uv_buf_t rest = uv_buf_init(a->data, (unsigned)size);
  BENCH_CHECK(uv_write(&a->request, stream, &rest, 1, on_written) == 0);
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *in)
{
  if (got > 0)
    send_answer(stream, in->base, (size_t)got);
  else if (got < 0)
    uv_close((uv_handle_t *)stream, on_closed);
}

static void on_connection(uv_stream_t *server, int status)
{
  client *c = malloc(sizeof *c);
  BENCH_CHECK(status == 0 && c != NULL);
  uv_tcp_init(server->loop, &c->tcp);
  BENCH_CHECK(uv_accept(server, (uv_stream_t *)&c->tcp) == 0);
  uv_tcp_nodelay(&c->tcp, 1);
  uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
}

int main(int argc, char **argv)
{
  uv_tcp_t server;
  struct sockaddr_in address;
  int size = sizeof address;
  tries = argc > 1 && strcmp(argv[1], "try") == 0;
  uv_loop_t *loop = uv_default_loop();
  uv_tcp_init(loop, &server);
  uv_ip4_addr("127.0.0.1", 0, &address);
  BENCH_CHECK(uv_tcp_bind(&server, (struct sockaddr *)&address, 0) == 0);
  BENCH_CHECK(uv_listen((uv_stream_t *)&server, 1024, on_connection) == 0);
  uv_tcp_getsockname(&server, (struct sockaddr *)&address, &size);
  printf("port %d\n", ntohs(address.sin_port));
  fflush(stdout);
  return uv_run(loop, UV_RUN_DEFAULT);
}
