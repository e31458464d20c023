/*
 * pty STEPS PROGRAM [ARGS]: runs a program on a terminal of its own and does
 * what the file STEPS says, a step a line:
 *
 *   expect TEXT   reads until TEXT has come, behind what was expected before
 *   send TEXT     types TEXT (as bytes; \xHH is one byte, \\ a backslash)
 *   signal N      sends the program a signal
 *   size R C      gives the terminal so many rows and columns
 *   modes NAME    waits until the terminal has these modes: raw (neither lines
 *                 nor echo), or the original ones
 *   stopped NAME  waits until the program is stopped, the modes being these
 *   resume        brings it back to the foreground
 *   exit N        waits until it has ended with this status (128 + n: by signal
 *                 n), the modes being the original ones
 *
 * All that the program writes goes to stdout. A step that does not come true
 * within the deadline ($PTY_DEADLINE seconds, 20) is told on stderr; the status
 * is then 1.
 *
 * This process is the session's leader, as a shell is: only so can the program
 * be stopped by Ctrl-Z.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { LINE_LENGTH = 4096, POLL_MS = 10 };

typedef struct pty {
  int master, slave;
  pid_t child;
  bool ended;
  int status; /* of waitpid */
  struct termios before;
  char *output;
  size_t length, matched;
  const char *step;
  double deadline;
} pty;

static void finish(pty *p, int code)
{
  if (!p->ended)
    kill(-p->child, SIGKILL);
  fwrite(p->output, 1, p->length, stdout);
  fflush(stdout);
  exit(code);
}

static void fail(pty *p, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "%s: ", p->step);
  vfprintf(stderr, format, arguments);
  fputs("\n", stderr);
  va_end(arguments);
  finish(p, 1);
}

static void must(bool ok, const char *what)
{
  if (ok)
    return;
  perror(what);
  exit(2);
}

static double now(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double patience(void)
{
  const char *seconds = getenv("PTY_DEADLINE");
  return seconds && *seconds ? atof(seconds) : 20.0;
}

/* Reads what has come, waiting for it up to so many milliseconds. */
static void read_output(pty *p, int milliseconds)
{
  enum { CHUNK = 4096 };
  struct pollfd ready = {.fd = p->master, .events = POLLIN};
  if (poll(&ready, 1, milliseconds) <= 0)
    return;
  p->output = realloc(p->output, p->length + CHUNK);
  must(p->output, "realloc");
  ssize_t n = read(p->master, p->output + p->length, CHUNK);
  if (n > 0)
    p->length += (size_t)n;
}

/* Notes a change of the program's state. */
static bool reap(pty *p)
{
  int status;
  if (p->ended || waitpid(p->child, &status, WNOHANG | WUNTRACED) != p->child)
    return false;
  p->status = status;
  p->ended = !WIFSTOPPED(status);
  return true;
}

static bool same_modes(const struct termios *a, const struct termios *b)
{
  return a->c_iflag == b->c_iflag && a->c_oflag == b->c_oflag &&
         a->c_cflag == b->c_cflag && a->c_lflag == b->c_lflag &&
         memcmp(a->c_cc, b->c_cc, sizeof a->c_cc) == 0;
}

static bool has_modes(const pty *p, const char *name)
{
  struct termios modes;
  if (tcgetattr(p->slave, &modes) != 0)
    return false;
  if (strcmp(name, "raw") == 0)
    return (modes.c_lflag & (ICANON | ECHO)) == 0;
  return same_modes(&modes, &p->before);
}

/* -- Steps ------------------------------------------------------------------- */

static int hex(char c)
{
  const char *digits = "0123456789abcdef";
  const char *at = strchr(digits, c);
  return c && at ? (int)(at - digits) : 0;
}

/* In place; returns the length. */
static size_t unescape(char *text)
{
  char *to = text;
  for (const char *c = text; *c; c++) {
    if (c[0] == '\\' && c[1] == 'x' && c[2] && c[3]) {
      *to++ = (char)(hex(c[2]) * 16 + hex(c[3]));
      c += 3;
    } else {
      if (c[0] == '\\' && c[1])
        c++;
      *to++ = *c;
    }
  }
  *to = '\0';
  return (size_t)(to - text);
}

static void expect(pty *p, const char *text, size_t length)
{
  for (;;) {
    char *found =
        memmem(p->output + p->matched, p->length - p->matched, text, length);
    if (found) {
      p->matched = (size_t)(found - p->output) + length;
      return;
    }
    if (now() > p->deadline)
      fail(p, "has not come");
    if (p->ended) {
      size_t before = p->length;
      read_output(p, 0);
      if (p->length == before)
        fail(p, "the program has ended (%d)", p->status);
      continue;
    }
    read_output(p, POLL_MS);
    reap(p);
  }
}

static void type(pty *p, const char *text, size_t length)
{
  while (length > 0) {
    ssize_t n = write(p->master, text, length);
    if (n < 0)
      fail(p, "%s", strerror(errno));
    text += n;
    length -= (size_t)n;
  }
}

static void set_size(pty *p, const char *argument)
{
  struct winsize size = {0};
  char *end;
  size.ws_row = (unsigned short)strtoul(argument, &end, 10);
  size.ws_col = (unsigned short)strtoul(end, NULL, 10);
  if (ioctl(p->master, TIOCSWINSZ, &size) != 0)
    fail(p, "%s", strerror(errno));
}

static void wait_for_modes(pty *p, const char *argument)
{
  while (!has_modes(p, argument)) {
    if (now() > p->deadline)
      fail(p, "the modes have not become so");
    read_output(p, POLL_MS);
  }
}

static void wait_for_stop(pty *p, const char *argument)
{
  while (!reap(p)) {
    if (now() > p->deadline)
      fail(p, "it has not stopped");
    read_output(p, POLL_MS);
  }
  if (p->ended)
    fail(p, "it has ended instead (%d)", p->status);
  if (!has_modes(p, argument))
    fail(p, "it has left the terminal in other modes");
  tcsetpgrp(p->slave, getpgrp());
}

static void resume(pty *p)
{
  tcsetpgrp(p->slave, p->child);
  kill(-p->child, SIGCONT);
}

static void wait_for_exit(pty *p, const char *argument)
{
  while (!p->ended) {
    if (now() > p->deadline)
      fail(p, "it has not ended");
    read_output(p, POLL_MS);
    reap(p);
  }
  int code = WIFSIGNALED(p->status) ? 128 + WTERMSIG(p->status)
                                    : WEXITSTATUS(p->status);
  if (code != atoi(argument))
    fail(p, "it has ended with %d", code);
  if (!has_modes(p, "original"))
    fail(p, "it has left the terminal in other modes");
}

static void do_step(pty *p, const char *verb, char *argument)
{
  size_t length = unescape(argument);
  if (strcmp(verb, "expect") == 0)
    expect(p, argument, length);
  else if (strcmp(verb, "send") == 0)
    type(p, argument, length);
  else if (strcmp(verb, "signal") == 0)
    kill(p->child, atoi(argument));
  else if (strcmp(verb, "size") == 0)
    set_size(p, argument);
  else if (strcmp(verb, "modes") == 0)
    wait_for_modes(p, argument);
  else if (strcmp(verb, "stopped") == 0)
    wait_for_stop(p, argument);
  else if (strcmp(verb, "resume") == 0)
    resume(p);
  else if (strcmp(verb, "exit") == 0)
    wait_for_exit(p, argument);
  else
    fail(p, "no such step");
}

static void do_steps(pty *p, FILE *steps)
{
  char line[LINE_LENGTH], step[LINE_LENGTH];
  while (fgets(line, sizeof line, steps)) {
    line[strcspn(line, "\n")] = '\0';
    memcpy(step, line, sizeof step);
    p->step = step;
    p->deadline = now() + patience();
    char *blank = strchr(line, ' ');
    if (blank)
      *blank = '\0';
    do_step(p, line, blank ? blank + 1 : line + strlen(line));
  }
}

/* -- The terminal ------------------------------------------------------------- */

static void open_terminal(pty *p)
{
  p->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  must(p->master >= 0 && grantpt(p->master) == 0 && unlockpt(p->master) == 0,
       "posix_openpt");
  p->slave = open(ptsname(p->master), O_RDWR | O_NOCTTY | O_CLOEXEC);
  must(p->slave >= 0, "open");
  set_size(p, "24 80");
  must(ioctl(p->slave, TIOCSCTTY, 0) == 0, "TIOCSCTTY");
  must(tcgetattr(p->slave, &p->before) == 0, "tcgetattr");
  p->before.c_lflag &= ~(tcflag_t)ECHOE; /* not what an editor would guess */
  must(tcsetattr(p->slave, TCSANOW, &p->before) == 0, "tcsetattr");
}

static void start(pty *p, char **argv)
{
  p->child = fork();
  must(p->child >= 0, "fork");
  if (p->child > 0) {
    setpgid(p->child, p->child);
    tcsetpgrp(p->slave, p->child);
    return;
  }
  setpgid(0, 0);
  tcsetpgrp(p->slave, getpid());
  signal(SIGTTOU, SIG_DFL);
  signal(SIGHUP, SIG_DFL);
  for (int fd = 0; fd <= 2; fd++)
    dup2(p->slave, fd);
  execv(argv[0], argv);
  perror(argv[0]);
  _exit(127);
}

int main(int argc, char **argv)
{
  pty p = {.step = "start", .output = malloc(1)};
  must(argc >= 3 && p.output, "pty STEPS PROGRAM [ARGS]");
  FILE *steps = fopen(argv[1], "re");
  must(steps, argv[1]);
  if (setsid() < 0) { /* it leads a group: its child does not */
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid > 0) {
      int status;
      waitpid(pid, &status, 0);
      return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    }
    must(setsid() >= 0, "setsid");
  }
  signal(SIGTTOU, SIG_IGN); /* tcsetpgrp from the background */
  signal(SIGHUP, SIG_IGN);
  open_terminal(&p);
  start(&p, argv + 2);
  do_steps(&p, steps);
  read_output(&p, 0);
  finish(&p, 0);
}
