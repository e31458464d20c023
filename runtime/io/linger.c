/*
 * linger.c: streams that are closed and have output left.
 *
 * The other end may be waiting to get rid of its own output before it reads ours,
 * and nobody reads that any more: so it is read and dropped. And it may never read
 * again: a stream with a close timeout (those of a server's connections have one,
 * for nobody else would end them) is aborted when nothing has gone for that long.
 */
#include "io/io.h"

struct peri_linger {
  uv_timer_t timer;
  peri_stream *stream;
  size_t left; /* when the timer last rang */
};

static size_t left(peri_stream *stream)
{
  return stream->queued - stream->ops->written(stream);
}

static void on_timer(uv_timer_t *timer)
{
  peri_linger *linger = timer->data;
  peri_stream *stream = linger->stream;
  size_t now = left(stream);
  if (now < linger->left) {
    linger->left = now;
    return;
  }
  if (stream->output_lost == 0)
    stream->output_lost = UV_ETIMEDOUT;
  peri__stream_abort(stream);
}

static void on_closed(uv_handle_t *handle)
{
  peri_linger *linger = handle->data;
  peri_stream *stream = linger->stream;
  stream->kernel->open--;
  peri__realloc(stream->rt, linger, sizeof *linger, 0);
  peri__stream_unref(stream);
}

static void start_timer(peri_stream *stream)
{
  peri_linger *linger = peri__realloc(stream->rt, NULL, 0, sizeof *linger);
  if (linger == NULL)
    return; /* it lingers for as long as the other end likes */
  linger->stream = stream;
  linger->left = left(stream);
  uv_timer_init(stream->kernel->uv, &linger->timer);
  linger->timer.data = linger;
  stream->kernel->open++;
  stream->references++;
  stream->linger = linger;
  uv_update_time(stream->kernel->uv);
  uv_timer_start(&linger->timer, on_timer, stream->close_timeout,
                 stream->close_timeout);
  uv_unref((uv_handle_t *)&linger->timer); /* the output keeps the loop */
}

void peri__linger_start(peri_stream *stream)
{
  const uint32_t over = PERI_S_EOF | PERI_S_LOST;
  if (stream->flags & PERI_S_HALF_CLOSES && stream->flags & PERI_S_READABLE &&
      !(stream->flags & over) && stream->ops->read_start(stream) == 0)
    stream->flags |= PERI_S_STARTED;
  if (stream->close_timeout > 0)
    start_timer(stream);
}

void peri__linger_readable(peri_stream *stream)
{
  peri__stream_read_scratch(stream);
  stream->flags &= ~(uint32_t)PERI_S_READY;
}

void peri__linger_stop(peri_stream *stream)
{
  if (stream->linger == NULL)
    return;
  uv_close((uv_handle_t *)&stream->linger->timer, on_closed);
  stream->linger = NULL;
}
