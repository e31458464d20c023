/*
 * launch.c: starts programs.
 *
 * posix_spawn shares the parent's memory with the child until the child runs
 * its program. fork, which libuv 1.44 uses, first copies the page tables: 50
 * programs a second from a parent of 500 MiB, against 1,500. The loop's thread
 * stands still meanwhile (some 0.4 ms): another thread would take as long, and
 * the kernel suspends the thread that spawns in any case.
 *
 * What posix_spawn cannot do, becoming another user or a umask, is done by fork
 * and exec:
 * the child tells through a pipe what failed, which closes when the program
 * runs. Between fork and exec it calls only what is safe in a copy of a process
 * with several threads. vfork would not do: the C library's setuid concerns all
 * threads, those of the parent's included.
 *
 * A child has the descriptors 0, 1, 2, those it is to have, and no others, whoever
 * opened them; no signal is blocked, and SIGPIPE and SIGXFSZ, which programs in other languages
 * than C ignore, have their default effect. What else is ignored stays so
 * (nohup).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <unistd.h>

#include <grp.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "io/process.h"

#if defined(__GLIBC__) && defined(__GLIBC_PREREQ)
#if __GLIBC_PREREQ(2, 29)
#define HAS_ADDCHDIR 1
#endif
#if __GLIBC_PREREQ(2, 34)
#define HAS_CLOSEFROM 1
#endif
#endif
#ifndef HAS_ADDCHDIR
#define HAS_ADDCHDIR 0
#endif
#ifndef HAS_CLOSEFROM
#define HAS_CLOSEFROM 0
#endif

/* What a descriptor of the child's is made of, above 2 if it is another one:
 * otherwise it might be overwritten before it is used. */
typedef struct sources {
  int fd[3];
  bool lifted[3];
} sources;

/* -- Looking for the program --------------------------------------------------- */

/* As execve would see it from the child's directory. */
static int look_at(const peri_launch *launch, const char *file)
{
  char there[2 * PATH_MAX];
  struct stat what;
  if (launch->cwd != NULL && file[0] != '/') {
    int length = snprintf(there, sizeof there, "%s/%s", launch->cwd, file);
    if (length < 0 || (size_t)length >= sizeof there)
      return -ENAMETOOLONG;
    file = there;
  }
  if (stat(file, &what) < 0)
    return -errno;
  if (!S_ISREG(what.st_mode))
    return -EACCES;
  bool allowed = launch->has_uid || launch->has_gid
                     ? (what.st_mode & 0111) != 0
                     : faccessat(AT_FDCWD, file, X_OK, AT_EACCESS) == 0;
  return allowed ? 0 : -EACCES;
}

/* Finds the program as a shell does. */
static int find(const peri_launch *launch, char *file, size_t size)
{
  if (strchr(launch->name, '/') != NULL || launch->name[0] == '\0')
    return snprintf(file, size, "%s", launch->name) < (int)size ? 0
                                                                : -ENAMETOOLONG;
  int code = -ENOENT;
  const char *from = launch->path;
  while (true) {
    int length = (int)strcspn(from, ":");
    const char *slash = length > 0 ? "/" : "";
    int written =
        snprintf(file, size, "%.*s%s%s", length, from, slash, launch->name);
    int found = written >= (int)size ? -ENAMETOOLONG : look_at(launch, file);
    if (found == 0)
      return 0;
    if (found == -EACCES)
      code = found;
    if (from[length] == '\0')
      return code;
    from += length + 1;
  }
}

/* -- Descriptors ----------------------------------------------------------------- */

static void drop_sources(sources *from)
{
  for (int i = 0; i < 3; i++)
    if (from->lifted[i])
      close(from->fd[i]);
}

static int check_kept(const peri_launch *launch, const char **failed)
{
  for (size_t i = 0; i < launch->kept_count; i++) {
    if (fcntl(launch->kept[i], F_GETFD) < 0) {
      *failed = "fcntl";
      return -errno;
    }
  }
  return 0;
}

static int take_sources(const peri_launch *launch, sources *from)
{
  *from = (sources){0};
  for (int i = 0; i < 3; i++) {
    int fd = launch->fds[i];
    from->fd[i] = fd;
    if (fd < 0 || fd > 2 || fd == i)
      continue;
    from->fd[i] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (from->fd[i] < 0) {
      int code = -errno;
      drop_sources(from);
      return code;
    }
    from->lifted[i] = true;
  }
  return 0;
}

/* -- By posix_spawn ---------------------------------------------------------------- */

/* Those it is to have are duplicated to themselves, which has exec leave them
 * open. Closing a number that is not open is no error there. */
static int add_kept(posix_spawn_file_actions_t *actions,
                    const peri_launch *launch)
{
  int code = 0, next = 3;
  for (size_t i = 0; i < launch->kept_count && code == 0; i++) {
    int fd = launch->kept[i];
    while (next < fd && code == 0)
      code = posix_spawn_file_actions_addclose(actions, next++);
    if (code == 0)
      code = posix_spawn_file_actions_adddup2(actions, fd, fd);
    next = fd + 1;
  }
#if HAS_CLOSEFROM
  if (code == 0)
    code = posix_spawn_file_actions_addclosefrom_np(actions, next);
#endif
  return code;
}

static int add_descriptors(posix_spawn_file_actions_t *actions,
                           const peri_launch *launch, const sources *from)
{
  int code = 0;
  for (int i = 0; i < 3 && code == 0; i++) {
    int fd = from->fd[i];
    if (fd >= 0)
      code = posix_spawn_file_actions_adddup2(actions, fd, i);
    else if (fd == PERI_CHILD_STDOUT)
      code = posix_spawn_file_actions_adddup2(actions, 1, i);
    else if (fd == PERI_CHILD_NULL)
      code =
          posix_spawn_file_actions_addopen(actions, i, "/dev/null", O_RDWR, 0);
  }
  return code == 0 ? add_kept(actions, launch) : code;
}

static int add_actions(posix_spawn_file_actions_t *actions,
                       const peri_launch *launch, const sources *from)
{
  int code = add_descriptors(actions, launch, from);
#if HAS_ADDCHDIR
  if (code == 0 && launch->cwd != NULL)
    code = posix_spawn_file_actions_addchdir_np(actions, launch->cwd);
#endif
  return code;
}

static int set_attributes(posix_spawnattr_t *attributes,
                          const peri_launch *launch)
{
  short flags = POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK;
  sigset_t set;
  sigemptyset(&set);
  int code = posix_spawnattr_setsigmask(attributes, &set);
  sigaddset(&set, SIGPIPE);
  sigaddset(&set, SIGXFSZ);
  if (code == 0)
    code = posix_spawnattr_setsigdefault(attributes, &set);
#if defined(POSIX_SPAWN_SETSID)
  if (launch->session)
    flags |= POSIX_SPAWN_SETSID;
#endif
  if (launch->has_group) {
    flags |= POSIX_SPAWN_SETPGROUP;
    if (code == 0)
      code = posix_spawnattr_setpgroup(attributes, launch->group);
  }
  return code == 0 ? posix_spawnattr_setflags(attributes, flags) : code;
}

/* Errors of posix_spawn are positive. */
static int spawn(const peri_launch *launch, const sources *from,
                 const char *file, pid_t *pid)
{
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  int code = posix_spawn_file_actions_init(&actions);
  if (code != 0)
    return -code;
  code = posix_spawnattr_init(&attributes);
  if (code == 0) {
    code = set_attributes(&attributes, launch);
    if (code == 0)
      code = add_actions(&actions, launch, from);
    if (code == 0)
      code = posix_spawn(pid, file, &actions, &attributes, launch->argv,
                         launch->envp);
    posix_spawnattr_destroy(&attributes);
  }
  posix_spawn_file_actions_destroy(&actions);
  return -code;
}

/* -- By fork and exec ------------------------------------------------------------------ */

typedef enum child_step {
  STEP_FORK,
  STEP_SESSION,
  STEP_PROCESS_GROUP,
  STEP_DESCRIPTORS,
  STEP_DIRECTORY,
  STEP_GROUPS,
  STEP_GROUP,
  STEP_USER,
  STEP_PROGRAM
} child_step;

static const char *const step_names[] = {"fork",   "setsid", "setpgid",
                                         "dup2",   "chdir",  "setgroups",
                                         "setgid", "setuid", "spawn"};

typedef struct child_report {
  child_step step;
  int error;
} child_report;

static bool set_descriptors(const peri_launch *launch, const sources *from)
{
  for (int i = 0; i < 3; i++) {
    int fd = from->fd[i] == PERI_CHILD_STDOUT ? 1 : from->fd[i];
    if (fd == PERI_CHILD_INHERITS)
      continue;
    if (fd == PERI_CHILD_NULL) {
      fd = open("/dev/null", O_RDWR | O_CLOEXEC);
      if (fd < 0)
        return false;
    }
    /* dup2 of a descriptor to itself would leave it to be closed. */
    int result = fd == i ? fcntl(fd, F_SETFD, 0) : dup2(fd, i);
    if (result < 0)
      return false;
  }
#if defined(SYS_close_range)
  enum { CLOSE_ON_EXEC = 4 }; /* CLOSE_RANGE_CLOEXEC; the pipe must live on */
  syscall(SYS_close_range, 3U, ~0U, CLOSE_ON_EXEC);
#endif
  for (size_t i = 0; i < launch->kept_count; i++)
    if (fcntl(launch->kept[i], F_SETFD, 0) < 0)
      return false;
  return true;
}

/* The parent's other groups are not the user's; only root can drop them, and only
 * root has something to lose. */
static bool set_groups(const peri_launch *launch)
{
  if (launch->has_groups)
    return setgroups(launch->groups_count, launch->groups) == 0;
  if ((launch->has_uid || launch->has_gid) && geteuid() == 0)
    return setgroups(0, NULL) == 0;
  return true;
}

/* Handlers are the parent's code, and write into its pipes. */
static void reset_signals(void)
{
  sigset_t none;
  struct sigaction action;
  for (int i = 1; i < NSIG; i++) {
    if (i == SIGKILL || i == SIGSTOP || sigaction(i, NULL, &action) < 0)
      continue;
    if (action.sa_handler == SIG_IGN && i != SIGPIPE && i != SIGXFSZ)
      continue;
    signal(i, SIG_DFL);
  }
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The child's way up to its program; returns where it ended. */
static child_step run_child(const peri_launch *launch, const sources *from,
                            const char *file)
{
  if (launch->session && setsid() < 0)
    return STEP_SESSION;
  if (launch->has_group && setpgid(0, launch->group) < 0)
    return STEP_PROCESS_GROUP;
  if (!set_descriptors(launch, from))
    return STEP_DESCRIPTORS;
  if (launch->cwd != NULL && chdir(launch->cwd) < 0)
    return STEP_DIRECTORY;
  if (launch->has_umask)
    umask(launch->umask);
  if (!set_groups(launch))
    return STEP_GROUPS;
  if (launch->has_gid && setgid(launch->gid) < 0)
    return STEP_GROUP;
  if (launch->has_uid && setuid(launch->uid) < 0)
    return STEP_USER;
  reset_signals();
  execve(file, launch->argv, launch->envp);
  return STEP_PROGRAM;
}

static void tell_parent(int fd, child_step step)
{
  child_report report = {step, errno};
  ssize_t written;
  do
    written = write(fd, &report, sizeof report);
  while (written < 0 && errno == EINTR);
  _exit(127);
}

/* Forks with all signals blocked, so that no handler runs in the child. */
static pid_t fork_child(const peri_launch *launch, const sources *from,
                        const char *file, const int ends[2])
{
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pid_t pid = fork();
  if (pid == 0)
    tell_parent(ends[1], run_child(launch, from, file));
  int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  errno = error;
  return pid;
}

static bool read_report(int fd, child_report *report)
{
  ssize_t got;
  do
    got = read(fd, report, sizeof *report);
  while (got < 0 && errno == EINTR);
  return got == sizeof *report;
}

/* The child's end must be out of the way of its 0, 1 and 2. */
static int open_report(int ends[2])
{
  if (pipe2(ends, O_CLOEXEC) < 0)
    return -errno;
  if (ends[1] > 2)
    return 0;
  int lifted = fcntl(ends[1], F_DUPFD_CLOEXEC, 3);
  int code = -errno;
  close(ends[1]);
  ends[1] = lifted;
  if (lifted >= 0)
    return 0;
  close(ends[0]);
  return code;
}

static int fork_and_exec(const peri_launch *launch, const sources *from,
                         const char *file, pid_t *pid, const char **failed)
{
  int ends[2];
  int code = open_report(ends);
  if (code < 0)
    return code;
  child_report report = {STEP_FORK, 0};
  *pid = fork_child(launch, from, file, ends);
  if (*pid < 0)
    report.error = errno;
  close(ends[1]);
  if (*pid > 0 && read_report(ends[0], &report)) {
    int status;
    while (waitpid(*pid, &status, 0) < 0 && errno == EINTR)
      continue;
  }
  close(ends[0]);
  if (report.error != 0)
    *failed = step_names[report.step];
  return -report.error;
}

/* -- Which of the two ---------------------------------------------------------------------- */

static bool needs_fork(const peri_launch *launch)
{
#if !HAS_ADDCHDIR
  if (launch->cwd != NULL)
    return true;
#endif
#if !defined(POSIX_SPAWN_SETSID)
  if (launch->session)
    return true;
#endif
  return launch->has_uid || launch->has_gid || launch->has_groups ||
         launch->has_umask;
}

/* posix_spawn does not say which step has failed. */
static bool directory_is_bad(const peri_launch *launch)
{
  struct stat what;
  return launch->cwd != NULL &&
         (stat(launch->cwd, &what) < 0 || !S_ISDIR(what.st_mode) ||
          faccessat(AT_FDCWD, launch->cwd, X_OK, AT_EACCESS) < 0);
}

int peri__launch(const peri_launch *launch, pid_t *pid, const char **failed)
{
  char file[PATH_MAX];
  sources from;
  *failed = "spawn";
  int code = find(launch, file, sizeof file);
  if (code == 0) {
    code = check_kept(launch, failed);
    if (code == 0)
      code = take_sources(launch, &from);
    if (code < 0)
      return code;
    code = needs_fork(launch) ? fork_and_exec(launch, &from, file, pid, failed)
                              : spawn(launch, &from, file, pid);
    drop_sources(&from);
  }
  if ((code == -ENOENT || code == -EACCES || code == -ENOTDIR) &&
      directory_is_bad(launch)) {
    struct stat what;
    *failed = "chdir";
    if (stat(launch->cwd, &what) < 0)
      return -errno;
    return S_ISDIR(what.st_mode) ? -EACCES : -ENOTDIR;
  }
  return code;
}
