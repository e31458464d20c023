/*
 * repl.c: the terminal of an interactive session, as Lua sees it.
 *
 * Lines come from the editor (editor.c) where standard input and output are a
 * terminal and libedit is there, else plainly from standard input; both are
 * read a piece at a time, when there is something to read. For that the session
 * watches a descriptor of ours, not standard input: a loop makes what it
 * watches non-blocking, and that would hold for everybody who has the terminal
 * open, the shell included.
 *
 * The editor needs other modes of the terminal while a line is typed. Whatever
 * happens then, it gets back those that it had before: set_shown does it at the
 * end of a line or of the session, the handlers below where a signal ends or
 * stops the process.
 */
#include "repl.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <lauxlib.h>

#include "editor.h"
#include "history.h"

#define TERMINAL "perilune.terminal"

typedef struct terminal {
  peri_runtime *runtime;
  editor *editor; /* NULL: plain lines */
  char *history;  /* the file's path, or NULL */
  int watch;      /* readable when standard input is, while watching */
  bool watching;
  bool never_waits; /* standard input is a file */
  bool on_terminal; /* standard input and output are one */
  bool shown;       /* a line is being read */
  bool hidden;      /* and its prompt has made room for something else */
  bool room_whole;  /* what that was ended with a line's end */
  /* Of plain lines: what has come, and the prompt. */
  char *line;
  size_t length, capacity;
  char *prompt;
} terminal;

/* -- Signals ------------------------------------------------------------------- */

/* A handler gets no argument. The modes are those before the line that is
 * being edited. */
static terminal *volatile session;
static uv_thread_t session_thread;
static volatile sig_atomic_t is_raw, was_resized, was_continued;
static volatile int wake = -1; /* an eventfd: a handler has something to tell */
static struct termios modes;

static const int ending[] = {SIGTERM, SIGHUP, SIGQUIT};
enum { ENDING = sizeof ending / sizeof *ending };

bool repl_runs(void)
{
  return session != NULL;
}

/* Not from the background: that would stop the process instead. */
void repl_restore(void)
{
  if (is_raw && tcgetpgrp(STDIN_FILENO) == getpgrp())
    tcsetattr(STDIN_FILENO, TCSANOW, &modes);
}

static void set_handler(int number, void (*handler)(int), int flags)
{
  struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
  sigemptyset(&action.sa_mask);
  sigaction(number, &action, NULL);
}

/* What the signal does by default, now. */
static void do_default(int number)
{
  sigset_t only, before;
  set_handler(number, SIG_DFL, 0);
  sigemptyset(&only);
  sigaddset(&only, number);
  raise(number);
  pthread_sigmask(SIG_UNBLOCK, &only, &before); /* here it comes */
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void on_end(int number)
{
  repl_restore();
  do_default(number);
}

/* Ctrl-Z. The prompt is shown again by the session, on SIGCONT. */
static void on_stop(int number)
{
  int saved = errno;
  struct termios raw;
  bool restore = is_raw && tcgetattr(STDIN_FILENO, &raw) == 0;
  if (restore)
    repl_restore();
  do_default(number);
  set_handler(number, on_stop, SA_RESTART);
  if (restore)
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  errno = saved;
}

/* What on_change has noted is done by notice_changes. */
static void on_change(int number)
{
  int saved = errno;
  uint64_t one = 1;
  *(number == SIGWINCH ? &was_resized : &was_continued) = 1;
  if (write(wake, &one, sizeof one) < 0) {
    /* it is full, so somebody will look */
  }
  errno = saved;
}

static void replace_handler(int number, void (*from)(int), void (*to)(int))
{
  struct sigaction now;
  if (sigaction(number, NULL, &now) == 0 && now.sa_handler == from)
    set_handler(number, to, SA_RESTART);
}

/* What is ignored stays so; what the script handles stays the script's. */
static void catch_signals(void)
{
  for (int i = 0; i < ENDING; i++)
    replace_handler(ending[i], SIG_DFL, on_end);
  replace_handler(SIGTSTP, SIG_DFL, on_stop);
  replace_handler(SIGWINCH, SIG_DFL, on_change);
  replace_handler(SIGCONT, SIG_DFL, on_change);
}

static void release_signals(void)
{
  for (int i = 0; i < ENDING; i++)
    replace_handler(ending[i], on_end, SIG_DFL);
  replace_handler(SIGTSTP, on_stop, SIG_DFL);
  replace_handler(SIGWINCH, on_change, SIG_DFL);
  replace_handler(SIGCONT, on_change, SIG_DFL);
}

/* -- Opening and closing --------------------------------------------------------- */

/* A descriptor that is readable when standard input is, once that is added, or
 * when a signal handler says so. */
static int open_watch(terminal *t)
{
  struct epoll_event event = {.events = EPOLLIN};
  t->watch = epoll_create1(EPOLL_CLOEXEC);
  wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (t->watch < 0 || wake < 0 ||
      epoll_ctl(t->watch, EPOLL_CTL_ADD, wake, &event) != 0)
    return errno;
  if (epoll_ctl(t->watch, EPOLL_CTL_ADD, STDIN_FILENO, &event) != 0)
    t->never_waits = true; /* a file, or closed */
  else
    epoll_ctl(t->watch, EPOLL_CTL_DEL, STDIN_FILENO, &event);
  return 0;
}

static bool can_edit(const terminal *t)
{
  const char *kind = getenv("TERM");
  return t->on_terminal && kind && *kind && strcmp(kind, "dumb") != 0;
}

/* $PERILUNE_LIBEDIT names the library; empty, it is not used. */
static void open_editor(terminal *t, bool ignore_environment)
{
  const char *name = ignore_environment ? NULL : getenv("PERILUNE_LIBEDIT");
  if (!can_edit(t) || (name && !*name) || tcgetattr(STDIN_FILENO, &modes) != 0)
    return;
  t->editor = editor_open(name);
  tcsetattr(STDIN_FILENO, TCSADRAIN, &modes); /* libedit has its own idea */
}

/* A line begins to be read, or has ended in one way or another. */
static void set_shown(terminal *t, bool shown)
{
  if (shown && t->editor)
    is_raw = tcgetattr(STDIN_FILENO, &modes) == 0;
  t->shown = shown;
  t->hidden = false;
  if (!shown && is_raw) {
    tcsetattr(STDIN_FILENO, TCSADRAIN, &modes);
    is_raw = 0;
  }
}

/* Idempotent: __gc, __close. */
static void close_terminal(terminal *t)
{
  if (session == t) {
    session = NULL;
    release_signals();
  }
  if (wake >= 0)
    close(wake);
  wake = -1;
  if (t->editor)
    editor_close(t->editor);
  t->editor = NULL;
  set_shown(t, false);
  if (t->watch >= 0)
    close(t->watch);
  t->watch = -1;
  free(t->history);
  free(t->line);
  free(t->prompt);
  t->history = t->line = t->prompt = NULL;
}

static terminal *check_terminal(lua_State *L)
{
  return luaL_checkudata(L, 1, TERMINAL);
}

static int l_close(lua_State *L)
{
  close_terminal(check_terminal(L));
  return 0;
}

/* -- Plain lines ------------------------------------------------------------------- */

static void show_prompt(const terminal *t)
{
  fputs(t->prompt, stdout);
  fflush(stdout);
}

static editor_event begin_plain(terminal *t, const char *prompt)
{
  free(t->prompt);
  t->prompt = strdup(prompt);
  t->length = 0;
  if (!t->prompt)
    return EDITOR_FAILED;
  show_prompt(t);
  return EDITOR_INPUT;
}

static bool append(terminal *t, char c)
{
  if (t->length == t->capacity) {
    size_t capacity = t->capacity ? 2 * t->capacity : 128;
    char *line = realloc(t->line, capacity);
    if (!line)
      return false;
    t->line = line;
    t->capacity = capacity;
  }
  t->line[t->length++] = c;
  return true;
}

static bool input_is_ready(const terminal *t)
{
  struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
  return t->never_waits || poll(&input, 1, 0) > 0;
}

static editor_event feed_plain(terminal *t)
{
  while (input_is_ready(t)) {
    int c = getc(stdin); /* not buffered: repl_prepare */
    if (c == '\n')
      return EDITOR_LINE;
    if (c != EOF) {
      if (!append(t, (char)c))
        return EDITOR_FAILED;
      continue;
    }
    bool interrupted = ferror(stdin) && errno == EINTR;
    clearerr(stdin); /* on a terminal, Ctrl-D ends no more than this */
    if (!interrupted)
      return t->length > 0 ? EDITOR_LINE : EDITOR_END;
  }
  return EDITOR_INPUT;
}

/* -- Reading --------------------------------------------------------------------------- */

/* -> event, and its text */
static int push_event(lua_State *L, terminal *t, editor_event event)
{
  static const char *const names[] = {
      [EDITOR_IDLE] = "idle",         [EDITOR_INPUT] = "input",
      [EDITOR_COMPLETE] = "complete", [EDITOR_LINE] = "line",
      [EDITOR_END] = "end",           [EDITOR_ABORTED] = "aborted"};
  size_t length = t->length;
  const char *text = t->line;
  if (event != EDITOR_INPUT && event != EDITOR_COMPLETE)
    set_shown(t, false);
  if (event == EDITOR_FAILED)
    return luaL_error(L, "not enough memory");
  if (t->editor)
    text = editor_text(t->editor, &length);
  lua_pushstring(L, names[event]);
  if (event != EDITOR_LINE && event != EDITOR_COMPLETE)
    return 1;
  lua_pushlstring(L, length > 0 ? text : "", length);
  return 2;
}

/* Shows again what had made room. */
static void bring_back(terminal *t)
{
  if (!t->hidden)
    return;
  t->hidden = false;
  fflush(stdout);
  if (!t->room_whole)
    fputs("\n", stdout);
  if (t->editor)
    editor_show(t->editor);
  else
    show_prompt(t);
}

static void forget_changes(void)
{
  uint64_t count;
  if (read(wake, &count, sizeof count) < 0) {
    /* there were none */
  }
  was_resized = was_continued = 0;
}

/* The screen has another size, or the process was stopped and goes on: then the
 * shell has written to it. */
static void notice_changes(terminal *t)
{
  bool resized = was_resized, continued = was_continued;
  if (!resized && !continued)
    return;
  forget_changes();
  if (!t->editor)
    return;
  if (continued) {
    fputs("\r\033[J", stdout);
    editor_show(t->editor);
  }
  if (resized)
    editor_resize(t->editor);
}

/* terminal:begin(prompt) */
static int l_begin(lua_State *L)
{
  terminal *t = check_terminal(L);
  const char *prompt = luaL_checkstring(L, 2);
  fflush(stdout);
  forget_changes();
  set_shown(t, true);
  return push_event(L, t,
                    t->editor ? editor_begin(t->editor, prompt)
                              : begin_plain(t, prompt));
}

/* terminal:feed(): there may be something to read */
static int l_feed(lua_State *L)
{
  terminal *t = check_terminal(L);
  bring_back(t);
  notice_changes(t);
  return push_event(L, t, t->editor ? editor_feed(t->editor) : feed_plain(t));
}

/* terminal:complete(insert, list or nil) */
static int l_complete(lua_State *L)
{
  terminal *t = check_terminal(L);
  const char *insert = luaL_checkstring(L, 2),
             *list = luaL_optstring(L, 3, NULL);
  if (!t->editor)
    return 0;
  bring_back(t);
  return push_event(L, t, editor_complete(t->editor, insert, list));
}

/* terminal:abort(): gives up the line that is being read, or else begins a new
 * one on the screen */
static int l_abort(lua_State *L)
{
  terminal *t = check_terminal(L);
  if (t->editor && t->shown)
    editor_abort(t->editor);
  else if (t->on_terminal)
    fputs("\n", stdout);
  set_shown(t, false);
  return 0;
}

/* terminal:descriptor() -> what the loop is to watch */
static int l_descriptor(lua_State *L)
{
  lua_pushinteger(L, check_terminal(L)->watch);
  return 1;
}

/* terminal:watch(on): whether the descriptor is to tell that there is
 * something to read. Returns whether it can. */
static int l_watch(lua_State *L)
{
  terminal *t = check_terminal(L);
  bool on = lua_toboolean(L, 2);
  struct epoll_event event = {.events = EPOLLIN};
  if (!t->never_waits && on != t->watching &&
      epoll_ctl(t->watch, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, STDIN_FILENO,
                &event) == 0)
    t->watching = on;
  lua_pushboolean(L, !t->never_waits);
  return 1;
}

/* -- The screen -------------------------------------------------------------------------- */

static void show_again(lua_State *L, void *argument)
{
  (void)L;
  (void)argument;
  if (session)
    bring_back(session);
}

static void make_room(terminal *t, bool whole)
{
  t->room_whole = whole;
  if (!t->shown || t->hidden || !t->on_terminal)
    return;
  if (peri_post(t->runtime, show_again, NULL) != PERI_OK)
    return;
  t->hidden = true;
  if (t->editor)
    editor_hide(t->editor);
  else
    fputs("\n", stdout);
}

void repl_make_room(void)
{
  uv_thread_t self = uv_thread_self();
  if (session && uv_thread_equal(&self, &session_thread))
    make_room(session, true);
}

/* terminal:make_room(whole): what is going to be written ends with a line's end,
 * or does not */
static int l_make_room(lua_State *L)
{
  make_room(check_terminal(L), lua_toboolean(L, 2));
  return 0;
}

/* terminal:width() -> columns */
static int l_width(lua_State *L)
{
  struct winsize size;
  check_terminal(L);
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
    size.ws_col = 80;
  lua_pushinteger(L, size.ws_col);
  return 1;
}

/* terminal:say(text): a line on stderr */
static int l_say(lua_State *L)
{
  check_terminal(L);
  fflush(stdout);
  fprintf(stderr, "%s\n", luaL_checkstring(L, 2));
  return 0;
}

/* terminal:newline(): on stdout */
static int l_newline(lua_State *L)
{
  check_terminal(L);
  fputs("\n", stdout);
  fflush(stdout);
  return 0;
}

/* -- The history ---------------------------------------------------------------------------- */

static int push_text(lua_State *L)
{
  lua_pushlstring(L, lua_touserdata(L, 1), *(size_t *)lua_touserdata(L, 2));
  return 1;
}

/* terminal:edits() -> whether lines can be edited, and brought back */
static int l_edits(lua_State *L)
{
  lua_pushboolean(L, check_terminal(L)->editor != NULL);
  return 1;
}

/* terminal:remember(line): for the arrow keys */
static int l_remember(lua_State *L)
{
  terminal *t = check_terminal(L);
  const char *line = luaL_checkstring(L, 2);
  if (t->editor)
    editor_remember(t->editor, line);
  return 0;
}

/* terminal:read_history() -> what the file holds, or nil */
static int l_read_history(lua_State *L)
{
  terminal *t = check_terminal(L);
  lua_pushnil(L);
  if (!t->history)
    return 1;
  size_t length;
  char *text = history_read(t->history, &length);
  if (!text)
    return 1;
  lua_pushcfunction(L, push_text);
  lua_pushlightuserdata(L, text);
  lua_pushlightuserdata(L, &length);
  int status = lua_pcall(L, 2, 1, 0);
  free(text);
  return status == LUA_OK ? 1 : lua_error(L);
}

/* terminal:history_file() -> its path, or nil */
static int l_history_file(lua_State *L)
{
  lua_pushstring(L, check_terminal(L)->history);
  return 1;
}

static int write_history(lua_State *L,
                         int (*how)(const char *, const char *, size_t))
{
  terminal *t = check_terminal(L);
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  int code = t->history ? how(t->history, text, length) : 0;
  if (code == 0)
    return 0;
  lua_pushstring(L, strerror(code));
  return 1;
}

/* terminal:append_history(text), terminal:replace_history(text) -> nil, or what
 * went wrong */
static int l_append_history(lua_State *L)
{
  return write_history(L, history_append);
}

static int l_replace_history(lua_State *L)
{
  return write_history(L, history_replace);
}

/* -- Lua ----------------------------------------------------------------------------------- */

/* terminal:metatable(value): the raw one */
static int l_metatable(lua_State *L)
{
  check_terminal(L);
  luaL_checkany(L, 2);
  return lua_getmetatable(L, 2);
}

static const luaL_Reg methods[] = {{"abort", l_abort},
                                   {"append_history", l_append_history},
                                   {"begin", l_begin},
                                   {"close", l_close},
                                   {"complete", l_complete},
                                   {"descriptor", l_descriptor},
                                   {"edits", l_edits},
                                   {"feed", l_feed},
                                   {"history_file", l_history_file},
                                   {"make_room", l_make_room},
                                   {"metatable", l_metatable},
                                   {"newline", l_newline},
                                   {"read_history", l_read_history},
                                   {"remember", l_remember},
                                   {"replace_history", l_replace_history},
                                   {"say", l_say},
                                   {"watch", l_watch},
                                   {"width", l_width},
                                   {NULL, NULL}};

static void push_metatable(lua_State *L)
{
  if (!luaL_newmetatable(L, TERMINAL))
    return;
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, l_close);
  lua_setfield(L, -2, "__gc");
}

static void push_terminal(lua_State *L, bool ignore_environment)
{
  terminal *t = lua_newuserdatauv(L, sizeof *t, 0);
  *t = (terminal){.runtime = peri_of(L), .watch = -1};
  push_metatable(L);
  lua_setmetatable(L, -2);
  int code = open_watch(t);
  if (code != 0)
    luaL_error(L, "cannot watch standard input: %s", strerror(code));
  t->on_terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
  open_editor(t, ignore_environment);
  if (t->editor)
    t->history = history_path(!ignore_environment);
  session_thread = uv_thread_self();
  session = t;
  catch_signals();
}

static void push_module(lua_State *L, const char *name)
{
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_getfield(L, -1, name);
  lua_remove(L, -2);
  lua_pushstring(L, name);
  lua_call(L, 1, 1);
}

int repl_push(lua_State *L, bool ignore_environment)
{
  push_module(L, "perilune.repl");
  lua_getfield(L, -1, "run");
  lua_remove(L, -2);
  push_terminal(L, ignore_environment);
  return 1;
}

void repl_prepare(void)
{
  setvbuf(stdin, NULL, _IONBF, 0);
}
