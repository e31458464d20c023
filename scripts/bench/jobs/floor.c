/*
 * jobs, the floors: jobs that do nothing, on threads and in another process.
 *
 *   floor work flight JOBS BATCH  uv_queue_work on two threads, BATCH at a time
 *   floor work one JOBS           the same, one after the other
 *   floor coalesced JOBS BATCH    frames to a child process and back, BATCH at a
 *                                 time, by libuv's pipes: a write for what a turn
 *                                 of the loop has brought
 *   floor each JOBS BATCH         the same, a write for each frame
 *   floor pair JOBS               frames there and back, one after the other, by
 *                                 blocking calls on a socket pair
 *
 * No Lua. Prints "ns N" or, one after the other, "us U" for each job.
 */
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <uv.h>

#include "bench.h"

enum { FRAME = 64, BUFFER = 65536, PENDING = 1 << 20 };

/* -- uv_queue_work -------------------------------------------------------- */

static long jobs_left, jobs_done;

static void do_nothing(uv_work_t *job)
{
  (void)job;
}

static void on_done(uv_work_t *job, int status)
{
  BENCH_CHECK(status == 0);
  jobs_done++;
  if (jobs_left > 0) {
    jobs_left--;
    uv_queue_work(job->loop, job, do_nothing, on_done);
  }
}

/* A batch is awaited before the next one begins. */
static double work_flight(long jobs, long batch)
{
  uv_loop_t *loop = uv_default_loop();
  uv_work_t *requests = calloc((size_t)batch, sizeof *requests);
  BENCH_CHECK(requests != NULL);
  double start = bench_now();
  for (long i = 0; i < jobs; i += batch) {
    for (long k = 0; k < batch; k++)
      uv_queue_work(loop, &requests[k], do_nothing, on_done);
    uv_run(loop, UV_RUN_DEFAULT);
  }
  double spent = bench_now() - start;
  BENCH_CHECK(jobs_done == jobs);
  free(requests);
  return spent / (double)jobs;
}

static double work_one(long jobs)
{
  uv_work_t request;
  jobs_left = jobs - 1;
  double start = bench_now();
  uv_queue_work(uv_default_loop(), &request, do_nothing, on_done);
  uv_run(uv_default_loop(), UV_RUN_DEFAULT);
  BENCH_CHECK(jobs_done == jobs);
  return (bench_now() - start) / (double)jobs;
}

/* -- Frames through libuv's pipes ----------------------------------------- */

/* One end: frames go out through `out`, what comes in is counted by frames. */
typedef struct side {
  uv_pipe_t pipe;
  uv_prepare_t flush; /* before the loop polls: once a turn */
  int each;           /* a write for each frame */
  long in, bytes;     /* frames, and bytes of the one under way */
  size_t pending;
  char out[PENDING];
  char buffer[BUFFER];
  void (*came)(struct side *side, long frames);
  long left, batch, due; /* the parent's */
} side;

typedef struct output {
  uv_write_t request;
  char data[];
} output;

static void on_written(uv_write_t *request, int status)
{
  BENCH_CHECK(status == 0);
  free(request);
}

static void write_all(side *s, const char *data, size_t size)
{
  uv_buf_t all = uv_buf_init((char *)data, (unsigned)size);
  int gone = uv_try_write((uv_stream_t *)&s->pipe, &all, 1);
  if (gone == (int)size)
    return;
  size_t done = gone > 0 ? (size_t)gone : 0;
  output *o = malloc(sizeof *o + size - done);
  BENCH_CHECK(o != NULL);
  memcpy(o->data, data + done, size - done);
  uv_buf_t rest = uv_buf_init(o->data, (unsigned)(size - done));
  BENCH_CHECK(uv_write(&o->request, (uv_stream_t *)&s->pipe, &rest, 1,
                       on_written) == 0);
}

static void flush(side *s)
{
  if (s->pending == 0)
    return;
  size_t size = s->pending;
  s->pending = 0;
  write_all(s, s->out, size);
}

static void on_turn(uv_prepare_t *handle)
{
  flush(handle->data);
}

static void send_frames(side *s, long count)
{
  static const char frame[FRAME];
  for (; count > 0; count--) {
    if (s->each) {
      write_all(s, frame, FRAME);
      continue;
    }
    if (s->pending + FRAME > PENDING)
      flush(s);
    memcpy(s->out + s->pending, frame, FRAME);
    s->pending += FRAME;
  }
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buffer)
{
  (void)size;
  side *s = handle->data;
  *buffer = uv_buf_init(s->buffer, sizeof s->buffer);
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buffer)
{
  (void)buffer;
  side *s = stream->data;
  if (got < 0) {
    uv_stop(stream->loop);
    return;
  }
  s->bytes += got;
  long frames = s->bytes / FRAME;
  s->bytes %= FRAME;
  s->came(s, frames);
}

static void open_side(side *s, int fd, int each)
{
  uv_loop_t *loop = uv_default_loop();
  s->each = each;
  uv_pipe_init(loop, &s->pipe, 0);
  BENCH_CHECK(uv_pipe_open(&s->pipe, fd) == 0);
  uv_prepare_init(loop, &s->flush);
  s->pipe.data = s->flush.data = s;
  uv_prepare_start(&s->flush, on_turn);
  uv_unref((uv_handle_t *)&s->flush);
  uv_read_start((uv_stream_t *)&s->pipe, on_alloc, on_read);
}

static void next_batch(side *s)
{
  long count = s->left < s->batch ? s->left : s->batch;
  s->left -= count;
  s->due = count;
  send_frames(s, count);
}

static void answered(side *s, long frames)
{
  s->in += frames;
  s->due -= frames;
  if (s->due > 0)
    return;
  if (s->left > 0)
    next_batch(s);
  else
    uv_stop(uv_default_loop());
}

static side ours;

static double frames_flight(int each, long jobs, long batch)
{
  int fds[2];
  BENCH_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
  pid_t pid = fork();
  BENCH_CHECK(pid >= 0);
  close(fds[pid == 0]);
  open_side(&ours, fds[pid != 0], each);
  if (pid == 0) {
    ours.came = send_frames;
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
    _exit(0);
  }
  ours.came = answered;
  ours.left = jobs;
  ours.batch = batch;
  double start = bench_now();
  next_batch(&ours);
  uv_run(uv_default_loop(), UV_RUN_DEFAULT);
  double spent = bench_now() - start;
  BENCH_CHECK(ours.in == jobs);
  close(fds[1]);
  waitpid(pid, NULL, 0);
  return spent / (double)jobs;
}

/* -- A socket pair, blocking ---------------------------------------------- */

static int receive_frame(int fd, char *frame)
{
  for (size_t got = 0; got < FRAME;) {
    ssize_t n = read(fd, frame + got, FRAME - got);
    if (n <= 0)
      return 0;
    got += (size_t)n;
  }
  return 1;
}

static double pair_one(long jobs)
{
  char frame[FRAME] = "";
  int fds[2];
  BENCH_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
  pid_t pid = fork();
  BENCH_CHECK(pid >= 0);
  close(fds[pid == 0]);
  int fd = fds[pid != 0];
  if (pid == 0) {
    while (receive_frame(fd, frame) && write(fd, frame, FRAME) == FRAME)
      continue;
    _exit(0);
  }
  double start = bench_now();
  for (long i = 0; i < jobs; i++) {
    BENCH_CHECK(write(fd, frame, FRAME) == FRAME);
    BENCH_CHECK(receive_frame(fd, frame));
  }
  double spent = bench_now() - start;
  close(fd);
  waitpid(pid, NULL, 0);
  return spent / (double)jobs;
}

int main(int argc, char **argv)
{
  BENCH_CHECK(argc > 2);
  setenv("UV_THREADPOOL_SIZE", "2", 1);
  if (strcmp(argv[1], "work") == 0 && strcmp(argv[2], "flight") == 0)
    printf("ns %.3f\n",
           work_flight(bench_arg(argc, argv, 3), bench_arg(argc, argv, 4)));
  else if (strcmp(argv[1], "work") == 0)
    printf("us %.3f\n", work_one(bench_arg(argc, argv, 3)) / 1e3);
  else if (strcmp(argv[1], "pair") == 0)
    printf("us %.3f\n", pair_one(bench_arg(argc, argv, 2)) / 1e3);
  else
    printf("ns %.3f\n",
           frames_flight(strcmp(argv[1], "each") == 0, bench_arg(argc, argv, 2),
                         bench_arg(argc, argv, 3)));
  return 0;
}
