/*
 * child_watch.c: noticing that a child has ended.
 *
 * A pidfd becomes readable when its process ends: the loop polls it like any
 * descriptor. SIGCHLD is not touched (libuv's uv_process_t would install its
 * handler for the whole process), and no child but ours is ever waited for.
 *
 * Where the kernel has no pidfd (before 5.3, or forbidden by a filter) and where
 * no descriptor is left, a thread waits for each child. PERILUNE_PIDFD=OFF
 * builds it so throughout. Such a thread lives until its child ends, or is
 * cancelled when the loop closes: it waits in waitid, and can be cancelled only
 * there.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <sys/syscall.h>
#include <sys/wait.h>

#include "io/process.h"

static void on_closed(uv_handle_t *handle)
{
  peri_process *process = handle->data;
  process->kernel->open--;
  peri__process_unref(process);
}

static void watching(peri_process *process)
{
  process->watched = true;
  process->references++;
  process->uv.handle.data = process;
  process->kernel->open++;
  uv_unref(&process->uv.handle);
}

/* -- By pidfd ---------------------------------------------------------------------- */

int peri__child_pidfd(pid_t pid)
{
#if defined(SYS_pidfd_open) && !defined(PERILUNE_NO_PIDFD)
  return (int)syscall(SYS_pidfd_open, pid, 0); /* closed on exec */
#else
  (void)pid;
  return -1;
#endif
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
  (void)status, (void)events; /* an error is for waitpid to find, too */
  peri__process_ended(poll->data);
}

static int watch_pidfd(peri_process *process, uv_loop_t *uv)
{
  int code = uv_poll_init(uv, &process->uv.poll, process->pidfd);
  if (code < 0)
    return code;
  watching(process);
  uv_poll_start(&process->uv.poll, UV_READABLE, on_poll);
  return 0;
}

/* -- By a thread --------------------------------------------------------------------- */

static void wait_for_end(void *argument)
{
  peri_process *process = argument;
  siginfo_t info;
  int result, ignored;
  do {
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &ignored);
    result = waitid(P_PID, (id_t)process->pid, &info, WEXITED | WNOWAIT);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &ignored);
  } while (result < 0 && errno == EINTR);
  uv_async_send(&process->uv.async);
}

static void on_async(uv_async_t *async)
{
  peri__process_ended(async->data);
}

static int watch_by_thread(peri_process *process, uv_loop_t *uv)
{
  int code = uv_async_init(uv, &process->uv.async, on_async);
  if (code < 0)
    return code;
  watching(process);
  process->by_thread = true;
  sigset_t all, before;
  sigfillset(&all); /* signals are the host's */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  code = uv_thread_create(&process->thread, wait_for_end, process);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (code == 0)
    return 0;
  process->watched = false;
  uv_close(&process->uv.handle, on_closed);
  return code;
}

/* -- Either ---------------------------------------------------------------------------- */

int peri__child_watch(peri_process *process, uv_loop_t *uv, bool by_thread)
{
  process->pidfd = by_thread ? -1 : peri__child_pidfd(process->pid);
  if (process->pidfd < 0)
    return watch_by_thread(process, uv);
  int code = watch_pidfd(process, uv);
  if (code < 0) {
    close(process->pidfd);
    process->pidfd = -1;
  }
  return code;
}

void peri__child_unwatch(peri_process *process)
{
  if (!process->watched)
    return;
  process->watched = false;
  if (process->by_thread) {
    pthread_cancel(process->thread);
    uv_thread_join(&process->thread);
  }
  uv_close(&process->uv.handle, on_closed);
  if (process->pidfd >= 0)
    close(process->pidfd);
  process->pidfd = -1;
}
