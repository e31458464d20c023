/*
 * stream.c: what a stream is, whatever carries its bytes and whoever asks.
 *
 * Input. The carrier says that there is some; it is not read then if a task
 * waits for it: the task is woken and reads itself, from the kernel into the
 * loop's scratch buffer and from there into a Lua string. So the usual read
 * allocates nothing but its result, and an idle stream has no buffer. Input
 * that nobody waits for goes into a buffer of the stream's own, up to twice the
 * limit; then reading is stopped until the buffer has come down to the limit,
 * and the peer has to wait. What a read finds too little of (half a line) also
 * stands in that buffer until the rest comes: a read that is cancelled has lost
 * nothing.
 *
 * A stream is tried before it is waited for where there may be input already
 * (PERI_S_READY): when a connection was just accepted, and after a read that
 * filled the scratch buffer. The loop gets its turn after some of those.
 *
 * Output. What the kernel takes at once is written at once. Of the rest a copy
 * is made, which grows until the block before it has gone: two blocks at most,
 * however many writes. Above the high-water mark drain() waits until the queue
 * has come down to the low one. close() lets the queue drain first.
 *
 * An error of the output leaves the input readable, for a peer that closes may
 * have said why; an error of the input, which a reset is, ends both.
 */
#include <string.h>

#include "core/debug.h"
#include "io/io.h"

enum {
  SMALLEST_BUFFER = 256,
  WORTH_READING_INTO = 4096,
  LARGEST_AHEAD = 1 << 20,
  MOST_FULL_READS = 8
};

const char peri__stream_mark = 's';

/* -- Objects and references ---------------------------------------------------- */

peri_stream *peri__stream_check_slowly(lua_State *L, int idx)
{
  peri_runtime *rt = peri__rt(L);
  peri_stream_box *box = lua_touserdata(L, idx);
  bool is_stream = box != NULL && lua_rawlen(L, idx) >= sizeof *box &&
                   box->mark == &peri__stream_mark;
  if (is_stream) /* of a connection that was never made */
    peri__throw_os(L, rt, "stream", UV_EBADF, NULL, NULL);
  peri__arg_type_error(L, rt, idx, "Stream");
  return NULL;
}

peri_stream_box *peri__stream_push_box(lua_State *L, peri_runtime *rt)
{
  peri_stream_box *box = lua_newuserdatauv(L, sizeof *box, rt->debug);
  box->mark = &peri__stream_mark;
  box->stream = NULL;
  peri__push_ref(L, rt, PERI_REF_STREAM);
  lua_setmetatable(L, -2);
  if (rt->debug)
    peri__debug_note(L, rt, -1);
  return box;
}

void peri__stream_box(peri_stream_box *box, peri_stream *stream)
{
  box->stream = stream;
  stream->references++;
}

static void free_output(peri_stream *stream, peri_output *output)
{
  if (output != NULL)
    peri__realloc(stream->rt, output, sizeof *output + output->capacity, 0);
}

static void free_input(peri_stream *stream)
{
  peri__realloc(stream->rt, stream->input, stream->capacity, 0);
  stream->input = NULL;
  stream->start = stream->end = stream->capacity = 0;
}

static size_t struct_size(int kind)
{
  static const size_t handle_size[] = {[PERI_STREAM_TCP] = sizeof(uv_tcp_t),
                                       [PERI_STREAM_PIPE] = sizeof(uv_pipe_t),
                                       [PERI_STREAM_TTY] = sizeof(uv_tty_t)};
  return offsetof(peri_stream, uv) + handle_size[kind];
}

void peri__stream_unref(peri_stream *stream)
{
  if (--stream->references > 0)
    return;
  peri_runtime *rt = stream->rt;
  free_input(stream);
  if (stream->path != NULL)
    peri__realloc(rt, stream->path, strlen(stream->path) + 1, 0);
  peri__realloc(rt, stream, struct_size(stream->kind), 0);
}

/* -- Errors -------------------------------------------------------------------------- */

/* What the code means here; NULL: what it always means. */
static const char *explain(const peri_stream *stream, int code)
{
  if (code == UV_ECANCELED)
    return "the stream was closed meanwhile";
  if (code == UV_EBADF)
    return stream->flags & PERI_S_CLOSING ? "the stream is closed"
                                          : "the stream has no such direction";
  if (code == UV_EPIPE && stream->flags & PERI_S_SHUT)
    return "the output was ended by write_eof";
  return NULL;
}

int peri__stream_throw(lua_State *L, peri_stream *stream, const char *syscall,
                       int code)
{
  char text[PERI_ADDRESS_TEXT];
  if (code == UV_ENOMEM)
    return luaL_error(L, "not enough memory");
  if (stream->peer.any.sa_family != AF_UNSPEC)
    peri__push_os(L, stream->rt, syscall, code, explain(stream, code),
                  "address", peri__address_text(&stream->peer, text));
  else
    peri__push_os(L, stream->rt, syscall, code, explain(stream, code), "path",
                  stream->path);
  return lua_error(L);
}

const char *peri__stream_push_name(lua_State *L, const peri_stream *stream)
{
  static const char *const kind_names[] = {"TCP", "pipe", "TTY"};
  char text[PERI_ADDRESS_TEXT];
  const char *what = stream->path;
  if (stream->peer.any.sa_family != AF_UNSPEC)
    what = peri__address_text(&stream->peer, text);
  const char *kind = kind_names[stream->kind];
  if (what != NULL)
    return lua_pushfstring(L, "%s, %s", kind, what);
  return lua_pushfstring(L, "%s, descriptor %d", kind, stream->fd);
}

int peri__stream_throw_input(lua_State *L, peri_stream *stream)
{
  if (stream->flags & PERI_S_CLOSING)
    return peri__stream_throw(L, stream, "read", UV_EBADF);
  if (stream->flags & PERI_S_LOST)
    return peri__stream_throw(L, stream, "read", stream->lost);
  return 0;
}

/* -- Waiting -------------------------------------------------------------------------- */

static void wake_all(peri_waiters *line)
{
  while (peri__waiters_wake(line))
    continue;
}

/* Events of the stream reach its own loop only. */
static void check_loop(lua_State *L, peri_stream *stream, const char *what)
{
  peri_loop *loop = peri__running_loop(stream->rt);
  if (peri_unlikely(loop != stream->io.loop && loop != NULL))
    peri__throw(L, stream->rt, PERI_ERR_RUNTIME,
                "%s: the stream belongs to another loop than the running one",
                what);
}

int peri__stream_park(lua_State *L, peri_stream *stream, peri_waiters *line,
                      lua_KContext ctx, lua_KFunction k)
{
  check_loop(L, stream, line->what);
  peri__waiters_park(L, stream->rt, line);
  stream->references++;
  return peri__park(L, stream->rt, ctx, k);
}

void peri__stream_unpark(lua_State *L, peri_stream *stream)
{
  peri__waiters_unpark(L, stream->rt);
  peri__stream_unref(stream);
}

static void stop_waiting(peri_stream *stream)
{
  stream->flags &= ~(uint32_t)PERI_S_READING;
  if (!(stream->flags & PERI_S_CLOSED))
    stream->ops->hold(stream, false);
}

static int throw_busy(lua_State *L, peri_stream *stream, const char *what)
{
  peri__stream_push_name(L, stream);
  return peri__throw(L, stream->rt, PERI_ERR_RUNTIME,
                     "%s: another task is reading this stream already (%s)",
                     what, lua_tostring(L, -1));
}

static int start_reading(peri_stream *stream)
{
  int code = stream->ops->read_start(stream);
  if (code < 0)
    return code;
  stream->flags |= PERI_S_STARTED;
  stream->flags &= ~(uint32_t)PERI_S_STOPPED;
  return 0;
}

static void stop_reading(peri_stream *stream)
{
  if (!(stream->flags & PERI_S_STARTED))
    return;
  stream->ops->read_stop(stream);
  stream->flags &= ~(uint32_t)PERI_S_STARTED;
}

int peri__stream_park_reading(lua_State *L, peri_stream *stream,
                              const char *what, lua_KContext ctx,
                              lua_KFunction k)
{
  if (peri_unlikely(stream->flags & PERI_S_READING))
    return throw_busy(L, stream, what);
  check_loop(L, stream, what);
  if (peri_unlikely(!(stream->flags & (PERI_S_STARTED | PERI_S_CONNECTING)))) {
    int code = start_reading(stream);
    if (code < 0)
      return peri__stream_throw(L, stream, "read", code);
  }
  stream->readers.what = what;
  peri__waiters_park(L, stream->rt, &stream->readers);
  stream->references++;
  stream->flags |= PERI_S_READING;
  stream->ops->hold(stream, true);
  return peri__park(L, stream->rt, ctx, k);
}

void peri__stream_unpark_reading(lua_State *L, peri_stream *stream)
{
  peri__waiters_unpark(L, stream->rt);
  stop_waiting(stream);
  peri__stream_unref(stream);
}

/* Nothing has been read for the task: what there is stays where it is. */
static void give_up_reading(lua_State *L, peri_runtime *rt, peri_waiters *line,
                            int idx, bool woken)
{
  (void)L, (void)rt, (void)idx, (void)woken;
  peri_stream *stream =
      (peri_stream *)((char *)line - offsetof(peri_stream, readers));
  stop_waiting(stream);
  if (stream->flags & PERI_S_CONNECTING)
    peri__stream_abort(stream);
  peri__stream_unref(stream);
}

static void give_up_draining(lua_State *L, peri_runtime *rt, peri_waiters *line,
                             int idx, bool woken)
{
  (void)L, (void)rt, (void)idx, (void)woken;
  peri__stream_unref(
      (peri_stream *)((char *)line - offsetof(peri_stream, drainers)));
}

static void give_up_closing(lua_State *L, peri_runtime *rt, peri_waiters *line,
                            int idx, bool woken)
{
  (void)L, (void)rt, (void)idx, (void)woken;
  peri__stream_unref(
      (peri_stream *)((char *)line - offsetof(peri_stream, closers)));
}

/* -- The input's buffer ------------------------------------------------------------------ */

/* Makes room behind what is there. */
static bool reserve(peri_stream *stream, size_t room)
{
  size_t has = peri__stream_has(stream);
  if (stream->capacity - stream->end >= room)
    return true;
  if (stream->start > 0 && stream->capacity - has >= room &&
      has <= stream->capacity / 2) {
    memmove(stream->input, stream->input + stream->start, has);
    stream->start = 0;
    stream->end = has;
    return true;
  }
  size_t capacity = 2 * has;
  if (capacity < has + room)
    capacity = has + room;
  if (capacity < SMALLEST_BUFFER)
    capacity = SMALLEST_BUFFER;
  char *input = peri__realloc(stream->rt, NULL, 0, capacity);
  if (input == NULL)
    return false;
  if (has > 0)
    memcpy(input, stream->input + stream->start, has);
  free_input(stream);
  stream->input = input;
  stream->end = has;
  stream->capacity = capacity;
  return true;
}

bool peri__stream_keep(peri_stream *stream, const char *data, size_t size)
{
  if (!reserve(stream, size))
    return false;
  memcpy(stream->input + stream->end, data, size);
  stream->end += size;
  return true;
}

void peri__stream_consume(peri_stream *stream, size_t size)
{
  size_t has = peri__stream_has(stream);
  stream->start += size < has ? size : has; /* a finalizer may have taken it */
  if (stream->start == stream->end)
    free_input(stream);
  if (stream->flags & PERI_S_STOPPED && !(stream->flags & PERI_S_INPUT_OVER) &&
      peri__stream_has(stream) <= stream->limit)
    start_reading(stream); /* if it fails, the next read says so */
}

/* -- Reading ------------------------------------------------------------------------------ */

static void lose_input(peri_stream *stream, int code)
{
  stop_reading(stream);
  stream->flags |= PERI_S_LOST;
  stream->flags &= ~(uint32_t)PERI_S_READY;
  stream->lost = code;
  if (stream->output_lost == 0)
    stream->output_lost = code;
}

/* What an attempt to read size bytes has come to. */
static void note_read(peri_stream *stream, ssize_t got, size_t size)
{
  if (peri_likely(got > 0)) {
    if ((size_t)got < size || ++stream->burst >= MOST_FULL_READS) {
      stream->flags &= ~(uint32_t)PERI_S_READY;
      stream->burst = 0;
    }
  } else if (got == 0) {
    stop_reading(stream);
    stream->flags |= PERI_S_EOF;
    stream->flags &= ~(uint32_t)PERI_S_READY;
  } else if (got == UV_EAGAIN) {
    stream->flags &= ~(uint32_t)PERI_S_READY;
  } else {
    lose_input(stream, (int)got);
  }
}

ssize_t peri__stream_read_scratch(peri_stream *stream)
{
  char *scratch = stream->kernel->scratch;
  ssize_t got = stream->ops->try_read(stream, scratch, PERI_SCRATCH);
  note_read(stream, got, PERI_SCRATCH);
  return got;
}

ssize_t peri__stream_fill(peri_stream *stream, size_t want)
{
  if (want > LARGEST_AHEAD) /* what a peer announces may never come */
    want = LARGEST_AHEAD;
  if (want > WORTH_READING_INTO && !reserve(stream, want))
    return UV_ENOMEM;
  size_t room = stream->capacity - stream->end;
  if (room >= WORTH_READING_INTO) {
    char *data = stream->input + stream->end;
    ssize_t got = stream->ops->try_read(stream, data, room);
    note_read(stream, got, room);
    if (got > 0)
      stream->end += (size_t)got;
    return got;
  }
  ssize_t got = peri__stream_read_scratch(stream);
  if (got > 0 &&
      !peri__stream_keep(stream, stream->kernel->scratch, (size_t)got)) {
    lose_input(stream, UV_ENOMEM);
    return UV_ENOMEM;
  }
  return got;
}

void peri__stream_readable(peri_stream *stream)
{
  if (peri_unlikely(stream->flags & PERI_S_INPUT_OVER)) {
    if (stream->flags & PERI_S_CLOSING)
      peri__linger_readable(stream);
    else
      stop_reading(stream);
    return;
  }
  stream->flags |= PERI_S_READY;
  stream->burst = 0;
  if (peri_likely(stream->flags & PERI_S_READING)) {
    /* If it has been woken already, or is cancelled, it is about to run. */
    peri__waiters_wake(&stream->readers);
    return;
  }
  peri__stream_fill(stream, 0);
  stream->flags &= ~(uint32_t)PERI_S_READY;
  if (peri__stream_has(stream) > 2 * stream->limit) {
    stop_reading(stream);
    stream->flags |= PERI_S_STOPPED;
  }
}

/* -- Writing -------------------------------------------------------------------------------- */

int peri__stream_writable(const peri_stream *stream)
{
  if (stream->flags & PERI_S_CLOSING || !(stream->flags & PERI_S_WRITABLE))
    return UV_EBADF;
  if (stream->output_lost != 0)
    return stream->output_lost;
  return stream->flags & PERI_S_SHUT ? UV_EPIPE : 0;
}

static void finish_close(peri_stream *stream);

static int shut_down(peri_stream *stream)
{
  stream->flags |= PERI_S_SHUT_DOWN;
  int code = stream->ops->shutdown(stream);
  if (code < 0 && stream->output_lost == 0)
    stream->output_lost = code;
  return code;
}

/* The queue is empty, or will not be written any more. */
static void flushed(peri_stream *stream)
{
  if (stream->flags & PERI_S_CLOSED)
    return;
  if (stream->flags & PERI_S_CLOSING)
    finish_close(stream);
  else if (stream->flags & PERI_S_SHUT && !(stream->flags & PERI_S_SHUT_DOWN))
    shut_down(stream);
}

static void drop_pending(peri_stream *stream)
{
  if (stream->pending == NULL)
    return;
  stream->queued -= stream->pending->size;
  free_output(stream, stream->pending);
  stream->pending = NULL;
}

static void lose_output(peri_stream *stream, int code)
{
  if (stream->output_lost == 0)
    stream->output_lost = code;
  drop_pending(stream);
  stream->flags &= ~(uint32_t)PERI_S_CONGESTED;
  wake_all(&stream->drainers);
}

static void launch(peri_stream *stream)
{
  stream->flying = stream->pending;
  stream->pending = NULL;
  int code = stream->ops->write(stream, stream->flying);
  if (code == 0)
    return;
  stream->queued -= stream->flying->size;
  free_output(stream, stream->flying);
  stream->flying = NULL;
  lose_output(stream, code);
}

void peri__stream_written(peri_stream *stream, int code)
{
  stream->queued -= stream->flying->size;
  free_output(stream, stream->flying);
  stream->flying = NULL;
  if (code < 0 && !(stream->flags & PERI_S_CLOSED))
    lose_output(stream, code);
  else if (stream->pending != NULL)
    launch(stream);
  if (stream->flags & PERI_S_CONGESTED && stream->queued <= stream->low) {
    stream->flags &= ~(uint32_t)PERI_S_CONGESTED;
    wake_all(&stream->drainers);
  }
  if (stream->queued == 0)
    flushed(stream);
}

/* Room for size bytes more in the block that waits; it may grow, for nobody
 * reads it yet. */
static bool reserve_pending(peri_stream *stream, size_t size)
{
  peri_output *old = stream->pending;
  size_t used = old != NULL ? old->size : 0;
  if (old != NULL && old->capacity - used >= size)
    return true;
  size_t capacity = used + size;
  if (used > 0 && capacity < 2 * used)
    capacity = 2 * used;
  peri_output *output = peri__realloc(
      stream->rt, old, old != NULL ? sizeof *old + old->capacity : 0,
      sizeof *old + capacity);
  if (output == NULL)
    return false;
  output->size = used;
  output->capacity = capacity;
  stream->pending = output;
  return true;
}

/* Queues the buffers without the first `gone` bytes, which make up `left`. */
static int enqueue(peri_stream *stream, const uv_buf_t *buffers, unsigned count,
                   size_t gone, size_t left)
{
  if (!reserve_pending(stream, left)) {
    lose_output(stream, UV_ENOMEM); /* half of a write is worth nothing */
    return UV_ENOMEM;
  }
  for (unsigned i = 0; i < count; i++) {
    if (gone >= buffers[i].len) {
      gone -= buffers[i].len;
      continue;
    }
    size_t size = buffers[i].len - gone;
    peri_output *output = stream->pending;
    memcpy(output->data + output->size, buffers[i].base + gone, size);
    output->size += size;
    gone = 0;
  }
  stream->queued += left;
  if (stream->queued > stream->high)
    stream->flags |= PERI_S_CONGESTED;
  if (stream->flying == NULL)
    launch(stream);
  return stream->output_lost;
}

int peri__stream_write(peri_stream *stream, const uv_buf_t *buffers,
                       unsigned count)
{
  size_t total = 0, gone = 0;
  for (unsigned i = 0; i < count; i++)
    total += buffers[i].len;
  if (peri_unlikely(total == 0))
    return 0;
  if (peri_likely(stream->queued == 0)) {
    ssize_t written = stream->ops->try_write(stream, buffers, count);
    if (peri_likely(written == (ssize_t)total))
      return 0;
    if (written < 0 && written != UV_EAGAIN) {
      lose_output(stream, (int)written);
      return (int)written;
    }
    if (written > 0)
      gone = (size_t)written;
  }
  return enqueue(stream, buffers, count, gone, total - gone);
}

int peri__stream_write_eof(peri_stream *stream)
{
  if (stream->flags & PERI_S_SHUT)
    return 0;
  int code = peri__stream_writable(stream);
  if (code < 0)
    return code;
  if (!(stream->flags & PERI_S_HALF_CLOSES)) {
    if (stream->flags & PERI_S_READABLE)
      return UV_ENOTSUP;
    peri__stream_close(stream); /* a pipe has nothing but its output */
    return 0;
  }
  stream->flags |= PERI_S_SHUT;
  return stream->queued == 0 ? shut_down(stream) : 0;
}

/* -- Closing ---------------------------------------------------------------------------------- */

/* Those who wait for input or for room get an error now; who waits for the end
 * waits on. */
static void begin_close(peri_stream *stream)
{
  stop_reading(stream);
  stream->flags |= PERI_S_CLOSING;
  stream->flags &= ~(uint32_t)(PERI_S_READY | PERI_S_STOPPED);
  free_input(stream);
  peri__waiters_wake(&stream->readers);
  wake_all(&stream->drainers);
}

static void finish_close(peri_stream *stream)
{
  stream->flags |= PERI_S_CLOSED;
  peri__linger_stop(stream);
  drop_pending(stream);
  if (stream->flags & PERI_S_READING)
    stream->ops->hold(stream, false);
  if (peri__node_listed(&stream->io.listed))
    peri__node_unlink(&stream->io.listed);
  if (stream->server != NULL)
    peri__server_detach(stream);
  wake_all(&stream->closers);
  stream->ops->close(stream);
}

void peri__stream_close(peri_stream *stream)
{
  if (stream->flags & PERI_S_CLOSING)
    return;
  begin_close(stream);
  if (stream->queued == 0 || stream->output_lost != 0)
    finish_close(stream);
  else
    peri__linger_start(stream);
}

void peri__stream_abort(peri_stream *stream)
{
  if (!(stream->flags & PERI_S_CLOSING))
    begin_close(stream);
  if (!(stream->flags & PERI_S_CLOSED))
    finish_close(stream);
}

void peri__stream_closed(peri_stream *stream)
{
  peri__stream_unref(stream);
}

/* -- Making -------------------------------------------------------------------------------------- */

static void close_with_loop(peri_io *io)
{
  peri__stream_abort((peri_stream *)io);
}

peri_stream *peri__stream_alloc(peri_loop *loop, const peri_stream_ops *ops,
                                peri_stream_kind kind)
{
  peri_stream *stream = peri__realloc(loop->rt, NULL, 0, struct_size(kind));
  if (stream == NULL)
    return NULL;
  memset(stream, 0, struct_size(kind));
  stream->io.loop = loop;
  stream->io.close = close_with_loop;
  stream->rt = loop->rt;
  stream->kernel = loop->kernel;
  stream->ops = ops;
  stream->references = 1;
  stream->kind = (uint8_t)kind;
  stream->fd = -1;
  stream->limit = PERI_DEFAULT_LIMIT;
  stream->high = PERI_DEFAULT_LIMIT;
  stream->low = PERI_DEFAULT_LIMIT / 4;
  peri__waiters_init(&stream->readers, "Stream.read", give_up_reading);
  peri__waiters_init(&stream->drainers, "Stream.drain", give_up_draining);
  peri__waiters_init(&stream->closers, "Stream.wait_closed", give_up_closing);
  peri__list_push(&loop->open, &stream->io.listed);
  return stream;
}
