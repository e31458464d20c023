/*
 * kernel.c: a loop's part of the kernel: libuv's loop, ours or the host's, with the
 * handles that wake it and time its sleeps. It is made when something needs it.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include "core.h"

static void on_wake(uv_async_t *wake)
{
  (void)wake; /* the round sees what there is */
}

static void on_closed(uv_handle_t *handle)
{
  ((peri_kernel *)handle->data)->open--;
}

/* What stands in the place of a standard stream that is closed would take its
 * output; and libuv ends the process when it closes a descriptor of its own
 * there. */
int peri__fill_standard(void)
{
  int fd;
  do
    fd = open("/dev/null", O_RDWR);
  while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd < 0)
    return uv_translate_sys_error(errno);
  close(fd);
  return 0;
}

/* libuv ends the process, too, if its first loop finds no descriptors for the
 * pipe of its signals, besides one of its own. */
static int check_descriptors(void)
{
  uv_file ends[2][2];
  int code = 0, n = 0, least = INT_MAX;
  while (n < 2 && (code = uv_pipe(ends[n], 0, 0)) == 0)
    n++;
  while (n-- > 0)
    for (int i = 0; i < 2; i++) {
      close(ends[n][i]);
      if (ends[n][i] < least)
        least = ends[n][i];
    }
  return code == 0 && least <= STDERR_FILENO ? peri__fill_standard() : code;
}

static int kernel_init(peri_kernel *kernel, uv_loop_t *host_uv)
{
  kernel->open = 0;
  kernel->scratch = NULL;
  kernel->uv = host_uv;
  if (host_uv == NULL) {
    int code = check_descriptors();
    if (code == 0)
      code = uv_loop_init(&kernel->own);
    if (code < 0)
      return code;
    kernel->uv = &kernel->own;
  }
  int code = uv_async_init(kernel->uv, &kernel->wake, on_wake);
  if (code < 0) {
    if (host_uv == NULL)
      uv_loop_close(&kernel->own);
    return code;
  }
  uv_timer_init(kernel->uv, &kernel->timer);
  kernel->wake.data = kernel->timer.data = kernel;
  kernel->open = 2;
  uv_unref((uv_handle_t *)&kernel->wake);
  return 0;
}

void peri__kernel_free(peri_runtime *rt, peri_loop *loop)
{
  peri_kernel *kernel = loop->kernel;
  if (kernel == NULL)
    return;
  loop->kernel = NULL;
  uv_close((uv_handle_t *)&kernel->wake, on_closed);
  uv_close((uv_handle_t *)&kernel->timer, on_closed);
  while (kernel->open > 0)
    uv_run(kernel->uv, UV_RUN_NOWAIT);
  if (kernel->uv == &kernel->own) {
    int code = uv_loop_close(&kernel->own);
    PERI_CHECK(code == 0);
  }
  peri__realloc(rt, kernel->scratch, PERI_SCRATCH, 0);
  peri__realloc(rt, kernel, sizeof *kernel, 0);
}

/* Makes the loop's part of the kernel, if there is none yet. */
static int kernel_open(peri_runtime *rt, peri_loop *loop)
{
  if (loop->kernel != NULL)
    return 0;
  peri_kernel *kernel = peri__realloc(rt, NULL, 0, sizeof *kernel);
  if (kernel == NULL)
    return UV_ENOMEM;
  int code = kernel_init(kernel, loop->host_uv);
  if (code < 0) {
    peri__realloc(rt, kernel, sizeof *kernel, 0);
    return code;
  }
  loop->kernel = kernel;
  loop->rounds_left = 1;
  if (rt->run != NULL && rt->run->loop == loop)
    peri__async_set(rt, &kernel->wake);
  return 0;
}

bool peri__is_lack(int code)
{
  return code == UV_ENOMEM || code == UV_EMFILE || code == UV_ENFILE;
}

int peri__loop_kernel(lua_State *L, peri_loop *loop)
{
  int code = kernel_open(loop->rt, loop);
  if (!peri__is_lack(code))
    return code;
  lua_gc(L, LUA_GCCOLLECT);
  return kernel_open(loop->rt, loop);
}

uv_loop_t *peri__loop_uv(lua_State *L, peri_loop *loop)
{
  int code = peri__loop_kernel(L, loop);
  if (code < 0)
    peri__throw_uv(L, loop->rt, "uv_loop_init", code);
  return loop->kernel->uv;
}
