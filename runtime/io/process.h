/*
 * process.h: what the files about child processes share: launch.c starts them,
 * child_watch.c notices their end, process.c is what scripts call.
 */
#ifndef PERI_PROCESS_H
#define PERI_PROCESS_H

#include "io/io.h"

/* -- Starting: launch.c ------------------------------------------------------- */

/* What stands for a descriptor of the child's. */
enum {
  PERI_CHILD_INHERITS = -1,
  PERI_CHILD_NULL = -2,  /* /dev/null */
  PERI_CHILD_STDOUT = -3 /* of stderr: where stdout goes */
};

typedef struct peri_launch {
  const char *name; /* as the script says it */
  const char *path; /* where names without a slash are looked for */
  char *const *argv, *const *envp;
  const char *cwd; /* NULL: ours */
  int fds[3];
  const int *kept; /* others that the child has, above 2, in ascending order */
  size_t kept_count;
  bool session; /* a new one */
  bool has_uid, has_gid, has_group, has_umask, has_groups;
  uid_t uid;
  gid_t gid;
  pid_t group; /* of processes; 0: its own */
  mode_t umask;
  const gid_t *groups; /* beside gid */
  size_t groups_count;
} peri_launch;

/* Starts a program: 0, or a libuv error and the call that failed. The thread
 * waits until the program runs, or cannot. Nothing is left running then. */
int peri__launch(const peri_launch *launch, pid_t *pid, const char **failed);

/* -- Processes: process.c ------------------------------------------------------- */

typedef struct peri_process peri_process;

struct peri_process {
  peri_io io; /* listed in loop->open while it runs; loop is NULL after that */
  peri_runtime *rt;
  peri_kernel *kernel;
  int references; /* the watch's, the object's, the orphans', each waiter's */
  unsigned waiting;
  pid_t pid;
  int returncode; /* once it has exited */
  bool exited, watched;
  bool by_thread;       /* how it is watched */
  int pidfd;            /* -1: none */
  peri_process *orphan; /* the next one whose loop has closed before it ended */
  peri_waiters waiters;
  uv_thread_t thread;
  union {
    uv_handle_t handle;
    uv_poll_t poll;   /* of the pidfd */
    uv_async_t async; /* what the thread wakes the loop by */
  } uv;
};

/* The child may have ended: reaps it if so. True: it has ended. */
bool peri__process_reap(peri_process *process);
/* The child has ended, its watch says. */
void peri__process_ended(peri_process *process);
void peri__process_unref(peri_process *process);

/* -- Noticing the end: child_watch.c ---------------------------------------------- */

/* Has peri__process_ended called, from the loop, when the child ends. 0, or a
 * libuv error. The watch does not keep the loop from being idle. */
int peri__child_watch(peri_process *process, uv_loop_t *uv, bool by_thread);
/* A descriptor that is readable when the child has ended, closed on exec; -1:
 * there is none to be had. */
int peri__child_pidfd(pid_t pid);
/* Ends the watch, at once; its reference goes later. */
void peri__child_unwatch(peri_process *process);

/* Pushes the module perilune._process. */
int peri__process_open(lua_State *L);

#endif
