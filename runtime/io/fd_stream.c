/*
 * fd_stream.c: streams for descriptors that the process shares with others: its
 * standard input and output.
 *
 * O_NONBLOCK belongs to what is open, not to the descriptor: set on our standard
 * output it would hit the shell and whoever else writes there, and our own print.
 * So it is never set there. A descriptor is asked (poll) before each read or
 * write, and a write has at most PIPE_BUF bytes, which do not block where the
 * kernel says that there is room. Terminals, where that is not so, are opened
 * anew by their name if possible.
 *
 * What cannot be polled (files, /dev/null) is written at once: the kernel takes
 * it into its cache, and so it stays in order with print. It is read by threads
 * (work.c), a block ahead.
 *
 * Before output goes what C's stdio still holds is flushed; print has what is
 * queued here flushed (peri__fd_streams_flush).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include <sys/socket.h>
#include <sys/uio.h>

#include "io/fd_stream.h"
#include "io/work.h"

enum { BLOCK = PERI_SCRATCH, NOT_READ = -1 };

/* Its stream has it as data of the handle that it does not use. */
typedef struct fd_carrier {
  peri_work work;    /* a read, of what cannot be polled */
  peri_io_node kick; /* in the ready queue: there is input nobody was told of */
  uv_poll_t poll;
  peri_stream *stream;
  peri_runtime *rt;
  int fd;
  int events; /* polled for */
  bool pollable;
  bool shared;      /* blocks: to be asked first */
  bool wants_input; /* between read_start and read_stop */
  bool working;     /* a thread reads */
  bool closed;
  FILE *file;          /* C's, for the same descriptor */
  peri_output *output; /* under way */
  size_t written;      /* of that */
  char *data;          /* what a thread has read, from taken to got */
  ssize_t got, taken;
} fd_carrier;

static fd_carrier *carrier_of(const peri_stream *stream)
{
  return stream->uv.handle.data;
}

static bool is_ready(int fd, short events, int timeout)
{
  struct pollfd ask = {.fd = fd, .events = events};
  int found;
  do
    found = poll(&ask, 1, timeout);
  while (found < 0 && errno == EINTR);
  return found != 0;
}

static void free_carrier(fd_carrier *carrier)
{
  peri_runtime *rt = carrier->rt;
  close(carrier->fd);
  peri__realloc(rt, carrier->data, carrier->data != NULL ? BLOCK : 0, 0);
  peri__realloc(rt, carrier, sizeof *carrier, 0);
}

/* -- Polling ------------------------------------------------------------------------- */

static void update(peri_stream *stream);
static bool advance(fd_carrier *carrier, int *code);

/* Tells what has become of the output; the stream may launch more, or close. */
static void finish_output(fd_carrier *carrier, int code)
{
  carrier->output = NULL;
  if (carrier->pollable)
    uv_unref((uv_handle_t *)&carrier->poll);
  peri__stream_written(carrier->stream, code);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
  fd_carrier *carrier = poll->data;
  peri_stream *stream = carrier->stream;
  int code;
  if (status < 0) { /* what it is reading and writing tell; libuv has stopped */
    events = carrier->events;
    carrier->events = 0;
  }
  if (events & UV_WRITABLE && carrier->output != NULL &&
      advance(carrier, &code))
    finish_output(carrier, code);
  if (!carrier->closed && events & UV_READABLE && carrier->wants_input)
    peri__stream_readable(stream);
  if (!carrier->closed)
    update(stream);
}

static void update(peri_stream *stream)
{
  fd_carrier *carrier = carrier_of(stream);
  int events = (carrier->wants_input ? UV_READABLE : 0) |
               (carrier->output != NULL ? UV_WRITABLE : 0);
  if (!carrier->pollable || events == carrier->events)
    return;
  carrier->events = events;
  if (events == 0)
    uv_poll_stop(&carrier->poll);
  else
    uv_poll_start(&carrier->poll, events, on_poll);
}

/* -- Reading --------------------------------------------------------------------------- */

static void read_block(peri_work *work)
{
  fd_carrier *carrier = (fd_carrier *)work;
  do
    carrier->got = read(carrier->fd, carrier->data, BLOCK);
  while (carrier->got < 0 && errno == EINTR);
  if (carrier->got < 0)
    carrier->got = -errno;
}

static bool has_unread(const fd_carrier *carrier)
{
  return !carrier->working && carrier->taken != NOT_READ;
}

/* Again and again until somebody takes it, or nobody wants it. */
static void tell_unread(fd_carrier *carrier)
{
  peri_stream *stream = carrier->stream;
  while (!carrier->closed && carrier->wants_input && has_unread(carrier)) {
    peri__stream_readable(stream);
    if (stream->flags & PERI_S_READING)
      return;
  }
}

static void block_done(peri_runtime *rt, peri_work *work)
{
  (void)rt;
  fd_carrier *carrier = (fd_carrier *)work;
  peri_stream *stream = carrier->stream;
  carrier->working = false;
  if (carrier->closed) {
    free_carrier(carrier);
    peri__stream_closed(stream);
    return;
  }
  carrier->taken = 0;
  stream->references++;
  tell_unread(carrier);
  peri__stream_unref(stream);
}

static int read_ahead(fd_carrier *carrier)
{
  if (carrier->working || carrier->taken != NOT_READ)
    return 0;
  if (carrier->data == NULL) {
    carrier->data = peri__realloc(carrier->rt, NULL, 0, BLOCK);
    if (carrier->data == NULL)
      return UV_ENOMEM;
  }
  int code = peri__work_submit(carrier->rt, &carrier->work);
  carrier->working = code == 0;
  return code;
}

static void run_kick(lua_State *L, peri_runtime *rt, peri_io_node *node)
{
  (void)L, (void)rt;
  tell_unread((fd_carrier *)((char *)node - offsetof(fd_carrier, kick)));
}

static void kick(fd_carrier *carrier)
{
  if (!carrier->closed && carrier->wants_input && has_unread(carrier) &&
      !peri__node_listed(&carrier->kick.node))
    peri__loop_ready(carrier->stream->io.loop, &carrier->kick.node);
}

static int read_start(peri_stream *stream)
{
  fd_carrier *carrier = carrier_of(stream);
  carrier->wants_input = true;
  if (carrier->pollable) {
    update(stream);
    return 0;
  }
  kick(carrier);
  return read_ahead(carrier);
}

static void read_stop(peri_stream *stream)
{
  carrier_of(stream)->wants_input = false;
  update(stream);
}

static ssize_t take_unread(fd_carrier *carrier, char *data, size_t size)
{
  if (!has_unread(carrier))
    return UV_EAGAIN;
  if (carrier->got <= 0) /* the end, or an error: it stays so */
    return carrier->got;
  size_t left = (size_t)(carrier->got - carrier->taken);
  if (size > left)
    size = left;
  memcpy(data, carrier->data + carrier->taken, size);
  carrier->taken += (ssize_t)size;
  if (carrier->taken == carrier->got) {
    carrier->taken = NOT_READ;
    if (carrier->wants_input)
      read_ahead(carrier); /* if it cannot be, the next wait says so */
  }
  return (ssize_t)size;
}

static ssize_t try_read(peri_stream *stream, char *data, size_t size)
{
  fd_carrier *carrier = carrier_of(stream);
  if (!carrier->pollable)
    return take_unread(carrier, data, size);
  if (carrier->shared && !is_ready(carrier->fd, POLLIN, 0))
    return UV_EAGAIN;
  ssize_t got;
  do
    got = read(carrier->fd, data, size);
  while (got < 0 && errno == EINTR);
  if (got >= 0)
    return got;
  if (errno == EWOULDBLOCK)
    return UV_EAGAIN;
  /* What a terminal says when its other end has gone. */
  return errno == EIO && stream->kind == PERI_STREAM_TTY ? 0 : -errno;
}

/* -- Writing ----------------------------------------------------------------------------- */

/* What goes without blocking; UV_EAGAIN: nothing. */
static ssize_t write_some(const fd_carrier *carrier, const char *data,
                          size_t size)
{
  if (carrier->shared && carrier->pollable) {
    if (!is_ready(carrier->fd, POLLOUT, 0))
      return UV_EAGAIN;
    if (size > PIPE_BUF)
      size = PIPE_BUF;
  }
  ssize_t written;
  do
    written = write(carrier->fd, data, size);
  while (written < 0 && errno == EINTR);
  if (written >= 0)
    return written;
  return errno == EWOULDBLOCK ? UV_EAGAIN : -errno;
}

/* Writes on of the output; true: it has gone, or is lost. */
static bool advance(fd_carrier *carrier, int *code)
{
  peri_output *output = carrier->output;
  *code = 0;
  while (carrier->written < output->size) {
    ssize_t gone = write_some(carrier, output->data + carrier->written,
                              output->size - carrier->written);
    if (gone == UV_EAGAIN)
      return false;
    if (gone < 0) {
      *code = (int)gone;
      return true;
    }
    carrier->written += (size_t)gone;
  }
  return true;
}

static ssize_t try_write(peri_stream *stream, const uv_buf_t *buffers,
                         unsigned count)
{
  fd_carrier *carrier = carrier_of(stream);
  ssize_t total = 0;
  if (carrier->file != NULL)
    fflush(carrier->file);
  for (unsigned i = 0; i < count; i++) {
    size_t at = 0;
    while (at < buffers[i].len) {
      ssize_t gone =
          write_some(carrier, buffers[i].base + at, buffers[i].len - at);
      if (gone < 0) /* an error is met again by what is queued */
        return total > 0 ? total : gone;
      at += (size_t)gone;
      total += gone;
    }
  }
  return total;
}

static int write_output(peri_stream *stream, peri_output *output)
{
  fd_carrier *carrier = carrier_of(stream);
  int code = 0;
  carrier->output = output;
  carrier->written = 0;
  if (carrier->pollable) {
    uv_ref((uv_handle_t *)&carrier->poll);
    update(stream);
    return 0;
  }
  while (!advance(carrier, &code))
    is_ready(carrier->fd, POLLOUT, -1);
  if (code == 0)
    finish_output(carrier, 0);
  else
    carrier->output = NULL;
  return code;
}

static void flush(peri_stream *stream)
{
  int code;
  while (!(stream->flags & PERI_S_CLOSED)) {
    fd_carrier *carrier = carrier_of(stream);
    if (carrier->output == NULL)
      return;
    if (!advance(carrier, &code)) {
      is_ready(carrier->fd, POLLOUT, -1);
      continue;
    }
    finish_output(carrier, code);
  }
}

/* -- Closing ------------------------------------------------------------------------------ */

static int shut_down(peri_stream *stream)
{
  (void)stream;
  return UV_ENOTSUP;
}

static void on_closed(uv_handle_t *handle)
{
  fd_carrier *carrier = handle->data;
  peri_stream *stream = carrier->stream;
  stream->kernel->open--;
  free_carrier(carrier);
  peri__stream_closed(stream);
}

static void close_carrier(peri_stream *stream)
{
  fd_carrier *carrier = carrier_of(stream);
  carrier->closed = true;
  if (peri__node_listed(&carrier->kick.node))
    peri__node_unlink(&carrier->kick.node);
  if (carrier->output != NULL) { /* given up */
    peri_output *output = carrier->output;
    carrier->output = NULL;
    stream->flying = NULL;
    peri__realloc(carrier->rt, output, sizeof *output + output->capacity, 0);
  }
  if (carrier->pollable) {
    uv_close((uv_handle_t *)&carrier->poll, on_closed);
    return;
  }
  if (carrier->working && !peri__work_withdraw(carrier->rt, &carrier->work))
    return; /* the thread's end is the carrier's */
  free_carrier(carrier);
  peri__stream_closed(stream);
}

static void hold(peri_stream *stream, bool waits)
{
  fd_carrier *carrier = carrier_of(stream);
  if (!carrier->pollable) {
    if (waits)
      kick(carrier);
    return;
  }
  if (waits || carrier->output != NULL)
    uv_ref((uv_handle_t *)&carrier->poll);
  else
    uv_unref((uv_handle_t *)&carrier->poll);
}

static size_t written(peri_stream *stream)
{
  (void)stream; /* it has no close timeout */
  return 0;
}

static const peri_stream_ops ops = {
    .read_start = read_start,
    .read_stop = read_stop,
    .try_read = try_read,
    .try_write = try_write,
    .write = write_output,
    .written = written,
    .shutdown = shut_down,
    .close = close_carrier,
    .hold = hold,
};

/* -- Making ---------------------------------------------------------------------------------- */

/* What is written to a standard stream gets there, also when the loop closes. */
static void close_with_loop(peri_io *io)
{
  peri_stream *stream = (peri_stream *)io;
  flush(stream);
  peri__stream_abort(stream);
}

void peri__fd_streams_flush(peri_runtime *rt)
{
  peri_loop *loop = peri__running_loop(rt);
  if (loop == NULL)
    return;
  peri_list *link = loop->open.next;
  while (link != &loop->open) {
    peri_io *io = (peri_io *)((char *)link - offsetof(peri_io, listed));
    link = link->next; /* what is flushed may close */
    if (io->close == close_with_loop && ((peri_stream *)io)->queued > 0)
      flush((peri_stream *)io);
  }
}

/* A descriptor of our own; a terminal is opened anew. */
static int take_descriptor(fd_carrier *carrier, int fd, int mode)
{
  char name[PATH_MAX];
  carrier->shared = true;
  if (isatty(fd) && ttyname_r(fd, name, sizeof name) == 0) {
    carrier->fd = open(name, mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    carrier->shared = carrier->fd < 0;
  }
  if (carrier->shared)
    carrier->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  return carrier->fd < 0 ? -errno : 0;
}

/* libuv makes the descriptor non-blocking, which is not for us to say. */
static void try_polling(fd_carrier *carrier, peri_kernel *kernel)
{
  int flags = fcntl(carrier->fd, F_GETFL);
  int code = uv_poll_init(kernel->uv, &carrier->poll, carrier->fd);
  if (carrier->shared)
    fcntl(carrier->fd, F_SETFL, flags);
  if (code < 0)
    return;
  carrier->pollable = true;
  carrier->poll.data = carrier;
  kernel->open++;
  uv_unref((uv_handle_t *)&carrier->poll);
}

static fd_carrier *carrier_new(peri_runtime *rt, int fd, int *code)
{
  int mode = fcntl(fd, F_GETFL);
  *code = mode < 0 ? -errno : UV_ENOMEM;
  fd_carrier *carrier =
      mode < 0 ? NULL : peri__realloc(rt, NULL, 0, sizeof *carrier);
  if (carrier == NULL)
    return NULL;
  memset(carrier, 0, sizeof *carrier);
  carrier->rt = rt;
  carrier->taken = NOT_READ;
  carrier->file = fd == 1 ? stdout : fd == 2 ? stderr : NULL;
  carrier->kick.node.kind = PERI_NODE_IO;
  carrier->kick.run = run_kick;
  carrier->work.group = PERI_WORK_FILES;
  carrier->work.run = read_block;
  carrier->work.done = block_done;
  *code = take_descriptor(carrier, fd, mode & O_ACCMODE);
  if (*code == 0)
    return carrier;
  peri__realloc(rt, carrier, sizeof *carrier, 0);
  return NULL;
}

peri_stream *peri__fd_stream_new(peri_loop *loop, int fd, bool writes,
                                 int *code)
{
  peri_runtime *rt = loop->rt;
  fd_carrier *carrier = carrier_new(rt, fd, code);
  if (carrier == NULL)
    return NULL;
  peri_stream *stream = peri__stream_alloc(
      loop, &ops, isatty(fd) ? PERI_STREAM_TTY : PERI_STREAM_PIPE);
  if (stream == NULL) {
    *code = UV_ENOMEM;
    free_carrier(carrier);
    return NULL;
  }
  carrier->stream = stream;
  stream->uv.handle.data = carrier;
  stream->io.close = close_with_loop;
  stream->fd = carrier->fd;
  stream->flags |= writes ? PERI_S_WRITABLE : PERI_S_READABLE;
  try_polling(carrier, loop->kernel);
  return stream;
}
