/* history.c: see history.h. */
#include "history.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *join(const char *a, const char *b)
{
  size_t length = strlen(a) + strlen(b) + 1;
  char *path = malloc(length);
  if (path)
    snprintf(path, length, "%s%s", a, b);
  return path;
}

char *history_path(int use_variable)
{
  const char *path = use_variable ? getenv("PERILUNE_HISTORY") : NULL;
  if (path)
    return *path ? strdup(path) : NULL;
  const char *state = getenv("XDG_STATE_HOME");
  if (state && *state == '/') /* one that is relative is to be ignored */
    return join(state, "/perilune/history");
  const char *home = getenv("HOME");
  if (home && *home)
    return join(home, "/.local/state/perilune/history");
  return NULL;
}

/* Makes the directories above the file; what fails, opening it will tell. */
static void make_directories(const char *path)
{
  char *copy = strdup(path);
  if (!copy)
    return;
  for (char *slash = strchr(copy + 1, '/'); copy[0] && slash;
       slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    mkdir(copy, 0700);
    *slash = '/';
  }
  free(copy);
}

static int open_file(const char *path, int flags)
{
  enum { OWNER_ONLY = 0600 };
  flags |= O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY;
  int fd = open(path, flags, OWNER_ONLY);
  if (fd >= 0 || errno != ENOENT)
    return fd;
  make_directories(path);
  return open(path, flags, OWNER_ONLY);
}

char *history_read(const char *path, size_t *length)
{
  FILE *file = fopen(path, "re");
  char *text = NULL;
  struct stat about;
  if (!file)
    return NULL;
  if (fstat(fileno(file), &about) == 0 && S_ISREG(about.st_mode))
    text = malloc((size_t)about.st_size + 1);
  if (text)
    *length = fread(text, 1, (size_t)about.st_size, file);
  fclose(file);
  return text;
}

static int write_all(int fd, const char *text, size_t length)
{
  while (length > 0) {
    ssize_t n = write(fd, text, length);
    if (n < 0 && errno != EINTR)
      return errno;
    if (n > 0) {
      text += n;
      length -= (size_t)n;
    }
  }
  return 0;
}

/* One write, at what is the end then: sessions may share the file. */
int history_append(const char *path, const char *text, size_t length)
{
  int fd = open_file(path, O_APPEND);
  if (fd < 0)
    return errno;
  int code = write_all(fd, text, length);
  close(fd);
  return code;
}

/* By way of a file beside it, so that nothing is lost on the way. A symbolic
 * link stays one. */
int history_replace(const char *path, const char *text, size_t length)
{
  char *target = realpath(path, NULL);
  char *beside = join(target ? target : path, ".new");
  int code = ENOMEM;
  if (beside) {
    int fd = open_file(beside, O_TRUNC);
    code = fd < 0 ? errno : write_all(fd, text, length);
    if (fd >= 0)
      close(fd);
    if (code == 0 && rename(beside, target ? target : path) != 0)
      code = errno;
    if (code != 0)
      unlink(beside);
  }
  free(beside);
  free(target);
  return code;
}
