/* What a host is to the ramp, in Lua and in C: its allocator, and its log. */
#ifndef OOM_HOST_H
#define OOM_HOST_H

#include "../failing.h"

typedef struct host {
  allocator allocator;
  int reached, fine; /* of the call under test */
  int lines;         /* of the log, and the last one */
  char line[512];
  int muted; /* what stderr was; -1 */
  char directory[1024];
} host;

static void disarm(host *h)
{
  allocator *a = &h->allocator;
  if (a->fail_at == 0)
    return;
  h->reached = a->count >= a->fail_at;
  a->fail_at = 0;
}

static void arm(host *h, long long n, failing how)
{
  h->reached = 0;
  allocator_arm(&h->allocator, n, how);
}

static void on_log(void *ud, int level, const char *text)
{
  host *h = ud;
  (void)level;
  h->lines++;
  snprintf(h->line, sizeof h->line, "%s", text);
}

static void options_of(peri_options *options, host *h)
{
  peri_options_init(options);
  options->alloc = allocate;
  options->alloc_ud = &h->allocator;
  options->log = on_log;
  options->log_ud = h;
}

static peri_runtime *open_runtime(host *h)
{
  peri_options options;
  peri_runtime *runtime = NULL;
  options_of(&options, h);
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  return runtime;
}

#endif
