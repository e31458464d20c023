/*
 * uv_stream.c: streams that libuv carries: TCP, Unix sockets, pipes, terminals.
 *
 * libuv's reading serves as a poll: it is given no buffer, so it says that the
 * descriptor is readable and leaves the reading to who wants the bytes. The
 * handle is not referenced but while a task waits, so that a connection which
 * only lies there does not hide that nothing can happen any more.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "io/io.h"

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buffer)
{
  (void)handle, (void)size;
  buffer->base = NULL;
  buffer->len = 0;
}

static void on_readable(uv_stream_t *handle, ssize_t got,
                        const uv_buf_t *buffer)
{
  (void)got, (void)buffer; /* UV_ENOBUFS: there was none to read into */
  peri__stream_readable(handle->data);
}

static int read_start(peri_stream *stream)
{
  return uv_read_start(&stream->uv.stream, on_alloc, on_readable);
}

static void read_stop(peri_stream *stream)
{
  uv_read_stop(&stream->uv.stream);
}

static ssize_t try_read(peri_stream *stream, char *data, size_t size)
{
  ssize_t got;
  do
    got = read(stream->fd, data, size);
  while (got < 0 && errno == EINTR);
  if (peri_likely(got >= 0))
    return got;
  if (errno == EWOULDBLOCK)
    return UV_EAGAIN;
  /* What a terminal says when its other end has gone. */
  if (errno == EIO && stream->kind == PERI_STREAM_TTY)
    return 0;
  return -errno;
}

/* As uv_try_write, but that SIGPIPE cannot come: a host may have a script write
 * where the runtime does not block it. A uv_buf_t is a struct iovec. */
static ssize_t try_send(peri_stream *stream, const uv_buf_t *buffers,
                        unsigned count)
{
  struct msghdr text = {.msg_iov = (struct iovec *)buffers,
                        .msg_iovlen = count};
  ssize_t gone;
  do
    gone = count == 1
               ? send(stream->fd, buffers->base, buffers->len, MSG_NOSIGNAL)
               : sendmsg(stream->fd, &text, MSG_NOSIGNAL);
  while (gone < 0 && errno == EINTR);
  if (peri_likely(gone >= 0))
    return gone;
  return errno == EWOULDBLOCK ? UV_EAGAIN : -errno;
}

static ssize_t try_write(peri_stream *stream, const uv_buf_t *buffers,
                         unsigned count)
{
  if (peri_likely(stream->flags & PERI_S_HALF_CLOSES))
    return try_send(stream, buffers, count);
  return uv_try_write(&stream->uv.stream, buffers, count);
}

static void on_written(uv_write_t *request, int status)
{
  peri__stream_written(request->handle->data, status);
}

static int write_output(peri_stream *stream, peri_output *output)
{
  uv_buf_t buffer = {.base = output->data, .len = output->size};
  return uv_write(&output->request, &stream->uv.stream, &buffer, 1, on_written);
}

static size_t written(peri_stream *stream)
{
  if (stream->flying == NULL)
    return 0;
  return stream->flying->size -
         uv_stream_get_write_queue_size(&stream->uv.stream);
}

/* uv_shutdown would take a trip to the kernel's poll and back. */
static int shut_down(peri_stream *stream)
{
  return shutdown(stream->fd, SHUT_WR) == 0 ? 0 : -errno;
}

static void on_closed(uv_handle_t *handle)
{
  peri_stream *stream = handle->data;
  stream->kernel->open--;
  peri__stream_closed(stream);
}

static void close_handle(peri_stream *stream)
{
  uv_close(&stream->uv.handle, on_closed);
}

static void hold(peri_stream *stream, bool waits)
{
  if (waits)
    uv_ref(&stream->uv.handle);
  else
    uv_unref(&stream->uv.handle);
}

static const peri_stream_ops uv_ops = {
    .read_start = read_start,
    .read_stop = read_stop,
    .try_read = try_read,
    .try_write = try_write,
    .write = write_output,
    .written = written,
    .shutdown = shut_down,
    .close = close_handle,
    .hold = hold,
};

/* -- Making ------------------------------------------------------------------ */

/* The handle is libuv's from here on. */
static void adopt(peri_stream *stream)
{
  stream->uv.handle.data = stream;
  stream->kernel->open++;
  uv_unref(&stream->uv.handle);
}

static void disown(peri_stream *stream)
{
  peri__node_unlink(&stream->io.listed);
  peri__stream_unref(stream);
}

peri_stream *peri__stream_new(peri_loop *loop, peri_stream_kind kind)
{
  peri_stream *stream = peri__stream_alloc(loop, &uv_ops, kind);
  if (stream == NULL)
    return NULL;
  /* Neither can fail without a descriptor. */
  if (kind == PERI_STREAM_TCP)
    uv_tcp_init(loop->kernel->uv, &stream->uv.tcp);
  else
    uv_pipe_init(loop->kernel->uv, &stream->uv.pipe, 0);
  adopt(stream);
  return stream;
}

void peri__stream_connected(peri_stream *stream)
{
  uv_fileno(&stream->uv.handle, &stream->fd);
  stream->flags |= PERI_S_READABLE | PERI_S_WRITABLE | PERI_S_HALF_CLOSES;
}

int peri__stream_take(peri_stream *stream, int fd)
{
  int code = stream->kind == PERI_STREAM_TCP
                 ? uv_tcp_open(&stream->uv.tcp, fd)
                 : uv_pipe_open(&stream->uv.pipe, fd);
  if (code < 0)
    return code;
  stream->fd = fd;
  if (uv_is_readable(&stream->uv.stream))
    stream->flags |= PERI_S_READABLE;
  if (uv_is_writable(&stream->uv.stream))
    stream->flags |= PERI_S_WRITABLE;
  return 0;
}

static peri_stream *open_terminal(peri_loop *loop, int fd, int *code)
{
  peri_stream *stream = peri__stream_alloc(loop, &uv_ops, PERI_STREAM_TTY);
  *code = UV_ENOMEM;
  if (stream == NULL)
    return NULL;
  *code = uv_tty_init(loop->kernel->uv, &stream->uv.tty, fd, 0);
  if (*code < 0) {
    disown(stream);
    return NULL;
  }
  adopt(stream);
  uv_fileno(&stream->uv.handle, &stream->fd);
  if (uv_is_readable(&stream->uv.stream))
    stream->flags |= PERI_S_READABLE;
  if (uv_is_writable(&stream->uv.stream))
    stream->flags |= PERI_S_WRITABLE;
  return stream;
}

/* A socket, a pipe or the like, or a terminal. */
static peri_stream *open_fd(peri_loop *loop, int fd, int *code)
{
  uv_handle_type type = uv_guess_handle(fd);
  if (type == UV_TTY)
    return open_terminal(loop, fd, code);
  *code = UV_ENOTSUP;
  if (type != UV_TCP && type != UV_NAMED_PIPE)
    return NULL;
  peri_stream *stream = peri__stream_new(
      loop, type == UV_TCP ? PERI_STREAM_TCP : PERI_STREAM_PIPE);
  *code = UV_ENOMEM;
  if (stream == NULL)
    return NULL;
  *code = peri__stream_take(stream, fd);
  if (*code == 0)
    return stream;
  peri__stream_abort(stream);
  return NULL;
}

/* What a socket has and other descriptors have not. */
static void look_at_socket(peri_stream *stream)
{
  int type;
  socklen_t size = sizeof type;
  if (getsockopt(stream->fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0)
    stream->flags |= PERI_S_HALF_CLOSES;
  size = sizeof stream->peer;
  if (stream->kind == PERI_STREAM_TCP &&
      getpeername(stream->fd, &stream->peer.any, &size) < 0)
    stream->peer.any.sa_family = AF_UNSPEC;
}

peri_stream *peri__stream_push_fd(lua_State *L, peri_loop *loop, int fd)
{
  int code;
  peri_stream_box *box = peri__stream_push_box(L, loop->rt);
  peri_stream *stream = open_fd(loop, fd, &code);
  if (stream == NULL) {
    peri__throw_os(L, loop->rt, "open", code, NULL, NULL);
    return NULL;
  }
  look_at_socket(stream);
  peri__stream_box(box, stream);
  return stream;
}
