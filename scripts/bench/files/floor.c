/*
 * floor: reads COUNT files of 4 KiB in DIRECTORY, named 1 to COUNT, AT_ONCE at a
 * time, in C on libuv alone.
 *   floor KIND COUNT AT_ONCE
 * uvfs: open, fstat, read and close by uv_fs, each a trip to libuv's pool.
 * job: one uv_queue_work for each file.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <uv.h>

#include "../lib/bench.h"

enum { SIZE = 4096 };

typedef struct reader {
  uv_fs_t request;
  uv_work_t work;
  int file;
  size_t size;
  char path[512];
  char *data;
} reader;

static const char *directory;
static long next_file = 1, count, left;
static size_t bytes;

static void begin_uvfs(reader *r);
static void begin_job(reader *r);

static int take(reader *r)
{
  if (next_file > count)
    return 0;
  snprintf(r->path, sizeof r->path, "%s/%ld", directory, next_file++);
  return 1;
}

static void count_in(reader *r, size_t n)
{
  bytes += n;
  left--;
  free(r->data);
  r->data = NULL;
}

/* -- uv_fs --------------------------------------------------------------------- */

static void on_closed(uv_fs_t *request)
{
  reader *r = request->data;
  uv_fs_req_cleanup(request);
  count_in(r, r->size);
  begin_uvfs(r);
}

static void on_read(uv_fs_t *request)
{
  reader *r = request->data;
  BENCH_CHECK(request->result == (ssize_t)r->size);
  uv_fs_req_cleanup(request);
  uv_fs_close(request->loop, request, r->file, on_closed);
}

static void on_stat(uv_fs_t *request)
{
  reader *r = request->data;
  r->size = (size_t)request->statbuf.st_size;
  uv_fs_req_cleanup(request);
  r->data = malloc(r->size);
  BENCH_CHECK(r->data != NULL);
  uv_buf_t buffer = uv_buf_init(r->data, (unsigned)r->size);
  uv_fs_read(request->loop, request, r->file, &buffer, 1, 0, on_read);
}

static void on_open(uv_fs_t *request)
{
  reader *r = request->data;
  BENCH_CHECK(request->result >= 0);
  r->file = (int)request->result;
  uv_fs_req_cleanup(request);
  uv_fs_fstat(request->loop, request, r->file, on_stat);
}

static void begin_uvfs(reader *r)
{
  if (!take(r))
    return;
  r->request.data = r;
  uv_fs_open(uv_default_loop(), &r->request, r->path, O_RDONLY, 0, on_open);
}

/* -- A job a file ----------------------------------------------------------------- */

static void run(uv_work_t *work)
{
  reader *r = work->data;
  struct stat stat;
  int fd = open(r->path, O_RDONLY | O_CLOEXEC);
  BENCH_CHECK(fd >= 0 && fstat(fd, &stat) == 0);
  r->size = (size_t)stat.st_size;
  r->data = malloc(r->size);
  BENCH_CHECK(r->data != NULL);
  BENCH_CHECK(read(fd, r->data, r->size) == (ssize_t)r->size);
  close(fd);
}

static void on_done(uv_work_t *work, int status)
{
  reader *r = work->data;
  BENCH_CHECK(status == 0);
  count_in(r, r->size);
  begin_job(r);
}

static void begin_job(reader *r)
{
  if (!take(r))
    return;
  r->work.data = r;
  uv_queue_work(uv_default_loop(), &r->work, run, on_done);
}

int main(int argc, char **argv)
{
  BENCH_CHECK(argc == 4);
  int uvfs = strcmp(argv[1], "uvfs") == 0;
  char name[64];
  count = bench_arg(argc, argv, 2);
  long at_once = bench_arg(argc, argv, 3);
  snprintf(name, sizeof name, "/tmp/perilune-bench-files-%ld", count);
  directory = name;
  if (access(name, F_OK) != 0) {
    BENCH_CHECK(mkdir(name, 0755) == 0);
    char path[600], data[SIZE];
    memset(data, 'x', sizeof data);
    for (long i = 1; i <= count; i++) {
      snprintf(path, sizeof path, "%s/%ld", name, i);
      FILE *f = fopen(path, "w");
      BENCH_CHECK(f != NULL && fwrite(data, 1, SIZE, f) == SIZE);
      BENCH_CHECK(fclose(f) == 0);
    }
  }
  reader *readers = calloc((size_t)at_once, sizeof *readers);
  BENCH_CHECK(readers != NULL);
  enum { ROUNDS = 5 };
  double start = 0;
  for (int round = 0; round <= ROUNDS; round++) { /* the first one warms up */
    if (round == 1)
      start = bench_now();
    next_file = 1;
    left = count;
    bytes = 0;
    for (long i = 0; i < at_once; i++)
      (uvfs ? begin_uvfs : begin_job)(&readers[i]);
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
    BENCH_CHECK(left == 0 && bytes == (size_t)count * SIZE);
  }
  printf("us %.3f\n", (bench_now() - start) / 1e3 / (double)(ROUNDS * count));
  return 0;
}
