/*
 * editor.c: libedit, read key by key while a loop runs.
 *
 * libedit reads in its own way: el_gets returns when the line is complete, and
 * some of its commands (a search, an escape sequence, a quoted character) read
 * further keys themselves. What it calls in order to read a character is ours,
 * though. So libedit runs on a thread of its own, which hands the work back
 * from there whenever no key has come, in the middle of whatever it does. The
 * two threads never run at the same time: exchange() gives the editor's thread
 * a command and waits until it hands back an event. It is a coroutine made of a
 * thread; nothing here needs a lock.
 *
 * That thread also has its own locale: libedit needs one to know characters and
 * their widths, and the program's, which Lua's functions depend on, stays "C".
 * Signals are blocked in it; they are the main thread's.
 *
 * Declared here is what we use of <histedit.h>, so that building does not need
 * it. Everything is wide characters.
 */
#include "editor.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <locale.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

#include <uv.h>

enum { HISTORY_SIZE = 1000, TAB_WIDTH = 8 };
enum { PROMPT_MARK = '\1', PROMPT_MARK_END = '\2' };

/* -- libedit ----------------------------------------------------------------- */

typedef struct EditLine EditLine;
typedef struct HistoryW HistoryW;

typedef struct line_info {
  const wchar_t *buffer, *cursor, *last;
} line_info;

typedef struct history_event {
  int number;
  const wchar_t *text;
} history_event;

enum {
  EL_EDITOR = 2,
  EL_BIND = 4,
  EL_SETTY = 8,
  EL_ADDFN = 9,
  EL_HIST = 10,
  EL_EDITMODE = 11,
  EL_GETCFN = 13,
  EL_PREP_TERM = 16,
  EL_REFRESH = 20,
  EL_PROMPT_ESC = 21
};
enum { H_SETSIZE = 1, H_ENTER = 10 };
enum { CC_NORM = 0, CC_REFRESH = 4, CC_ERROR = 6 };

/* name, type of result, parameters */
#define LIBEDIT(X)                                                             \
  X(el_init, EditLine *, (const char *, FILE *, FILE *, FILE *))               \
  X(el_end, void, (EditLine *))                                                \
  X(el_wset, int, (EditLine *, int, ...))                                      \
  X(el_wgets, const wchar_t *, (EditLine *, int *))                            \
  X(el_wline, const line_info *, (EditLine *))                                 \
  X(el_winsertstr, int, (EditLine *, const wchar_t *))                         \
  X(el_resize, void, (EditLine *))                                             \
  X(el_source, int, (EditLine *, const char *))                                \
  X(history_winit, HistoryW *, (void))                                         \
  X(history_wend, void, (HistoryW *))                                          \
  X(history_w, int, (HistoryW *, history_event *, int, ...))

typedef struct libedit {
#define X(name, result, parameters) result(*name) parameters;
  LIBEDIT(X)
#undef X
} libedit;

/* -- The editor -------------------------------------------------------------- */

typedef enum editor_command {
  COMMAND_BEGIN,
  COMMAND_FEED,
  COMMAND_COMPLETE,
  COMMAND_ABORT,
  COMMAND_HIDE,
  COMMAND_SHOW,
  COMMAND_RESIZE,
  COMMAND_REMEMBER,
  COMMAND_QUIT
} editor_command;

struct editor {
  libedit api;
  uv_thread_t thread;
  uv_sem_t to_editor, to_caller;
  /* What the two threads tell each other. */
  editor_command command;
  const char *argument, *list; /* of the command */
  editor_event event;
  char *text;
  size_t length;
  /* The editor's own. */
  EditLine *line;
  HistoryW *history;
  wchar_t *prompt;
  char bytes[MB_LEN_MAX]; /* of a character that is not complete */
  size_t count;
  bool aborting;
  bool hidden; /* prompt and line are not on the screen */
};

/* -- Handing over -------------------------------------------------------------- */

/* libedit's callbacks are not told whose they are; each editor has a thread. */
static _Thread_local editor *self;

/* On the caller's thread. */
static editor_event exchange(editor *e, editor_command command)
{
  e->command = command;
  uv_sem_post(&e->to_editor);
  uv_sem_wait(&e->to_caller);
  return e->event;
}

/* On the editor's thread. */
static editor_command hand_back(editor *e, editor_event event)
{
  e->event = event;
  uv_sem_post(&e->to_caller);
  uv_sem_wait(&e->to_editor);
  return e->command;
}

/* -- Characters ----------------------------------------------------------------- */

/* Bytes that are no characters become U+FFFD. NULL: out of memory. */
static wchar_t *to_wide(const char *text)
{
  size_t length = strlen(text), n = 0;
  wchar_t *wide = malloc((length + 1) * sizeof *wide);
  mbstate_t state = {0};
  if (!wide)
    return NULL;
  for (size_t i = 0; i < length;) {
    size_t used = mbrtowc(&wide[n], text + i, length - i, &state);
    if (used == (size_t)-1 || used == (size_t)-2) {
      memset(&state, 0, sizeof state);
      wide[n] = L'\uFFFD';
      used = 1;
    }
    i += used ? used : 1;
    n++;
  }
  wide[n] = L'\0';
  return wide;
}

/* The characters become e->text. False: out of memory. */
static bool set_text(editor *e, const wchar_t *wide, size_t count)
{
  char *text = malloc(count * MB_LEN_MAX + 1);
  mbstate_t state = {0};
  size_t n = 0;
  if (!text)
    return false;
  for (size_t i = 0; i < count; i++) {
    size_t used = wcrtomb(text + n, wide[i], &state);
    if (used == (size_t)-1) {
      memset(&state, 0, sizeof state);
      text[n] = '?';
      used = 1;
    }
    n += used;
  }
  text[n] = '\0';
  free(e->text);
  e->text = text;
  e->length = n;
  return true;
}

/* -- The screen ------------------------------------------------------------------ */

typedef struct place {
  int row, column;
} place;

static struct winsize screen_size(void)
{
  struct winsize size;
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
    size = (struct winsize){.ws_row = 24, .ws_col = 80};
  return size;
}

static void put(place *at, int width, int columns)
{
  if (at->column + width > columns) /* does not fit */
    *at = (place){at->row + 1, 0};
  at->column += width;
  if (at->column >= columns)
    *at = (place){at->row + 1, 0};
}

/* Moves on as libedit does when it shows the character. */
static void pass(place *at, wchar_t c, int columns)
{
  int width = wcwidth(c);
  if (c == L'\n') {
    *at = (place){at->row + 1, 0};
  } else if (c == L'\t') {
    do
      put(at, 1, columns);
    while (at->column % TAB_WIDTH != 0);
  } else if (c < 0x20 || c == 0x7f) { /* ^X */
    put(at, 1, columns);
    put(at, 1, columns);
  } else if (width < 0) { /* \U+XXXX */
    for (int i = c > 0xffff ? 8 : 7; i > 0; i--)
      put(at, 1, columns);
  } else {
    put(at, width, columns);
  }
}

/* Where the cursor and the end of the line stand, from where the prompt
 * begins. */
static void measure(editor *e, place *cursor, place *end)
{
  int columns = screen_size().ws_col;
  const line_info *line = e->api.el_wline(e->line);
  bool visible = true;
  *end = (place){0, 0};
  for (const wchar_t *c = e->prompt; *c; c++) {
    if (*c == PROMPT_MARK)
      visible = !visible;
    else if (visible)
      pass(end, *c, columns);
  }
  *cursor = *end;
  for (const wchar_t *c = line->buffer; c < line->last; c++) {
    pass(end, *c, columns);
    if (c + 1 == line->cursor)
      *cursor = *end;
  }
}

static void hide(editor *e)
{
  place cursor, end;
  int rows = screen_size().ws_row;
  measure(e, &cursor, &end);
  if (cursor.row >= rows)
    cursor.row = rows - 1;
  fputs("\r", stdout);
  if (cursor.row > 0)
    fprintf(stdout, "\033[%dA", cursor.row);
  fputs("\033[J", stdout);
  fflush(stdout);
  e->hidden = true;
}

static void show(editor *e)
{
  e->hidden = false;
  e->api.el_wset(e->line, EL_REFRESH);
}

/* Goes behind the end of the line, writes the text and begins a new one. */
static void write_below(editor *e, const char *text)
{
  place cursor, end;
  measure(e, &cursor, &end);
  if (end.row > cursor.row)
    fprintf(stdout, "\033[%dB", end.row - cursor.row);
  fputs("\r", stdout);
  if (end.column > 0)
    fprintf(stdout, "\033[%dC", end.column);
  fprintf(stdout, "%s\n", text);
  fflush(stdout);
}

/* -- What libedit calls ------------------------------------------------------------- */

/* Gives up the line, and the keys behind it. */
static void discard(editor *e)
{
  tcflush(STDIN_FILENO, TCIFLUSH);
  if (!e->hidden)
    write_below(e, e->argument);
  e->aborting = true;
}

/* Waits for a command that goes on with the reading; those that are about the
 * screen are done here. */
static editor_command wait_for(editor *e, editor_event event)
{
  for (;;) {
    switch (hand_back(e, event)) {
    case COMMAND_HIDE:
      if (!e->hidden)
        hide(e);
      break;
    case COMMAND_SHOW:
      show(e);
      break;
    case COMMAND_RESIZE:
      e->api.el_resize(e->line);
      show(e);
      break;
    case COMMAND_ABORT:
      discard(e);
      return COMMAND_ABORT;
    default:
      return e->command;
    }
  }
}

/* Puts the next byte into e->bytes: 1; 0: there is none yet; -1: the end. */
static int take_byte(editor *e)
{
  struct pollfd ready = {.fd = STDIN_FILENO, .events = POLLIN};
  int n = poll(&ready, 1, 0);
  if (n <= 0)
    return n < 0 && errno != EINTR ? -1 : 0;
  /* One at a time: what follows the line is for whom the line lets read. */
  if (read(STDIN_FILENO, e->bytes + e->count, 1) != 1)
    return -1;
  e->count++;
  return 1;
}

/* Whether the bytes are a character now. Those that can be none are dropped. */
static bool decode(editor *e, wchar_t *c)
{
  mbstate_t state = {0};
  size_t used = mbrtowc(c, e->bytes, e->count, &state);
  if (used == (size_t)-2 && e->count < MB_LEN_MAX)
    return false;
  if (used == (size_t)-2 || (used == (size_t)-1 && e->count == 1)) {
    e->count = 0;
    return false;
  }
  if (used == (size_t)-1) { /* the last one may begin another */
    e->bytes[0] = e->bytes[e->count - 1];
    e->count = 1;
    return decode(e, c);
  }
  e->count = 0;
  return true;
}

/* 1: a character; 0: the end; -1: nothing more for this line. */
static int next_character(EditLine *line, wchar_t *c)
{
  editor *e = self;
  (void)line;
  while (!e->aborting) {
    int n = take_byte(e);
    if (n < 0)
      return 0;
    if (n == 0)
      wait_for(e, EDITOR_INPUT);
    else if (decode(e, c))
      return 1;
  }
  return -1;
}

static wchar_t *give_prompt(EditLine *line)
{
  (void)line;
  return self->prompt;
}

/* The answer to EDITOR_COMPLETE has come. */
static unsigned char take_completion(editor *e)
{
  if (e->list) {
    write_below(e, "");
    fputs(e->list, stdout);
    show(e);
    return CC_NORM;
  }
  wchar_t *insert = to_wide(e->argument);
  bool inserted =
      insert && *insert && e->api.el_winsertstr(e->line, insert) == 0;
  free(insert);
  return inserted ? CC_REFRESH : CC_ERROR;
}

/* The Tab key. */
static unsigned char on_tab(EditLine *line, wint_t key)
{
  editor *e = self;
  (void)key;
  const line_info *info = e->api.el_wline(line);
  if (!set_text(e, info->buffer, (size_t)(info->cursor - info->buffer)))
    return CC_ERROR;
  if (wait_for(e, EDITOR_COMPLETE) != COMMAND_COMPLETE)
    return CC_NORM;
  return take_completion(e);
}

/* -- The editor's thread --------------------------------------------------------------- */

static void bind_keys(editor *e)
{
  static const wchar_t *const keys[][2] = {
      {L"^R", L"em-inc-search-prev"}, {L"\\e[1~", L"ed-move-to-beg"},
      {L"\\e[4~", L"ed-move-to-end"}, {L"\\e[7~", L"ed-move-to-beg"},
      {L"\\e[8~", L"ed-move-to-end"}, {L"\\e[H", L"ed-move-to-beg"},
      {L"\\e[F", L"ed-move-to-end"},  {L"\\e[3~", L"ed-delete-next-char"},
      {L"\\e[1;5C", L"em-next-word"}, {L"\\e[1;5D", L"ed-prev-word"},
  };
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    e->api.el_wset(e->line, EL_BIND, keys[i][0], keys[i][1], NULL);
}

static bool open_line(editor *e)
{
  history_event event;
  e->line = e->api.el_init("perilune", stdin, stdout, stderr);
  e->history = e->api.history_winit();
  if (!e->line || !e->history)
    return false;
  e->api.history_w(e->history, &event, H_SETSIZE, HISTORY_SIZE);
  e->api.el_wset(e->line, EL_HIST, e->api.history_w, e->history);
  e->api.el_wset(e->line, EL_GETCFN, next_character);
  e->api.el_wset(e->line, EL_PROMPT_ESC, give_prompt, PROMPT_MARK);
  e->api.el_wset(e->line, EL_EDITOR, L"emacs");
  bind_keys(e);
  e->api.el_source(e->line, NULL); /* ~/.editrc */
  e->api.el_wset(e->line, EL_ADDFN, L"perilune-complete",
                 L"Complete a Lua name", on_tab);
  e->api.el_wset(e->line, EL_BIND, L"^I", L"perilune-complete", NULL);
  /* Else Ctrl-C would throw away a key that take_byte has just been promised,
   * and it would wait for the next one. discard() does it, later. */
  e->api.el_wset(e->line, EL_SETTY, L"-d", L"+noflsh", NULL);
  return true;
}

static void close_line(editor *e)
{
  if (e->line) {
    /* Else it would throw away what has been typed ahead. */
    e->api.el_wset(e->line, EL_EDITMODE, 0);
    e->api.el_end(e->line);
  }
  if (e->history)
    e->api.history_wend(e->history);
}

static wchar_t *make_prompt(const char *text)
{
  wchar_t *prompt = to_wide(text);
  if (prompt)
    for (wchar_t *c = prompt; *c; c++)
      if (*c == PROMPT_MARK_END) /* readline's; libedit has one for both */
        *c = PROMPT_MARK;
  return prompt;
}

static editor_event read_line(editor *e)
{
  free(e->prompt);
  e->prompt = make_prompt(e->argument);
  e->aborting = e->hidden = false;
  e->count = 0;
  if (!e->prompt)
    return EDITOR_FAILED;
  /* Raw before the prompt shows, so that nothing is echoed twice. */
  e->api.el_wset(e->line, EL_PREP_TERM, 1);
  int count = 0;
  const wchar_t *line = e->api.el_wgets(e->line, &count);
  if (e->aborting)
    return EDITOR_ABORTED;
  if (!line || count <= 0)
    return EDITOR_END;
  if (line[count - 1] == L'\n')
    count--;
  return set_text(e, line, (size_t)count) ? EDITOR_LINE : EDITOR_FAILED;
}

static void remember(editor *e)
{
  history_event event;
  wchar_t *line = to_wide(e->argument);
  if (line)
    e->api.history_w(e->history, &event, H_ENTER, line);
  free(line);
}

/* The locale of the environment; where that is "C", UTF-8 all the same. */
static locale_t make_locale(void)
{
  locale_t locale = newlocale(LC_CTYPE_MASK, "", (locale_t)0);
  if (locale)
    uselocale(locale);
  if (locale && MB_CUR_MAX > 1)
    return locale;
  locale_t better = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
  if (!better)
    return locale;
  uselocale(better);
  if (locale)
    freelocale(locale);
  return better;
}

static void serve(void *argument)
{
  editor *e = self = argument;
  locale_t locale = make_locale();
  editor_event event = open_line(e) ? EDITOR_IDLE : EDITOR_FAILED;
  while (hand_back(e, event) != COMMAND_QUIT) {
    event = EDITOR_IDLE;
    if (e->command == COMMAND_BEGIN)
      event = read_line(e);
    else if (e->command == COMMAND_REMEMBER)
      remember(e);
  }
  close_line(e);
  uselocale(LC_GLOBAL_LOCALE);
  if (locale)
    freelocale(locale);
}

/* -- For the caller -------------------------------------------------------------------- */

/* The library stays loaded: others may have been loaded for it. */
static bool load(libedit *api, const char *name)
{
  void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!library)
    return false;
#define X(name, result, parameters)                                            \
  *(void **)&api->name = dlsym(library, #name);                                \
  if (!api->name)                                                              \
    return false;
  LIBEDIT(X)
#undef X
  return true;
}

static bool load_any(libedit *api)
{
  static const char *const names[] = {"libedit.so.2", "libedit.so.0",
                                      "libedit.so", "libedit.3.dylib"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (load(api, names[i]))
      return true;
  return false;
}

static void free_editor(editor *e)
{
  free(e->prompt);
  free(e->text);
  uv_sem_destroy(&e->to_editor);
  uv_sem_destroy(&e->to_caller);
  free(e);
}

static editor *make_editor(void)
{
  editor *e = calloc(1, sizeof *e);
  if (!e)
    return NULL;
  if (uv_sem_init(&e->to_editor, 0) != 0) {
    free(e);
    return NULL;
  }
  if (uv_sem_init(&e->to_caller, 0) != 0) {
    uv_sem_destroy(&e->to_editor);
    free(e);
    return NULL;
  }
  return e;
}

/* The thread is to have no signals, not even at its start; but for those that
 * stop a process in the background that touches the terminal: blocked, they
 * would let it do so. */
static int start_thread(editor *e)
{
  sigset_t mask, before;
  sigfillset(&mask);
  sigdelset(&mask, SIGTTIN);
  sigdelset(&mask, SIGTTOU);
  pthread_sigmask(SIG_SETMASK, &mask, &before);
  int code = uv_thread_create(&e->thread, serve, e);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return code;
}

editor *editor_open(const char *library)
{
  editor *e = make_editor();
  if (!e)
    return NULL;
  if (!(library ? load(&e->api, library) : load_any(&e->api)) ||
      start_thread(e) != 0) {
    free_editor(e);
    return NULL;
  }
  uv_sem_wait(&e->to_caller);
  if (e->event == EDITOR_IDLE)
    return e;
  editor_close(e);
  return NULL;
}

static bool is_reading(const editor *e)
{
  return e->event == EDITOR_INPUT || e->event == EDITOR_COMPLETE;
}

void editor_close(editor *e)
{
  e->argument = "";
  if (is_reading(e))
    exchange(e, COMMAND_ABORT);
  e->command = COMMAND_QUIT;
  uv_sem_post(&e->to_editor);
  uv_thread_join(&e->thread);
  free_editor(e);
}

editor_event editor_begin(editor *e, const char *prompt)
{
  e->argument = prompt;
  return exchange(e, COMMAND_BEGIN);
}

editor_event editor_feed(editor *e)
{
  return e->event == EDITOR_INPUT ? exchange(e, COMMAND_FEED) : e->event;
}

editor_event editor_complete(editor *e, const char *insert, const char *list)
{
  e->argument = insert;
  e->list = list;
  return e->event == EDITOR_COMPLETE ? exchange(e, COMMAND_COMPLETE) : e->event;
}

editor_event editor_abort(editor *e)
{
  e->argument = "^C";
  return is_reading(e) ? exchange(e, COMMAND_ABORT) : e->event;
}

void editor_hide(editor *e)
{
  if (is_reading(e))
    exchange(e, COMMAND_HIDE);
}

void editor_show(editor *e)
{
  if (is_reading(e))
    exchange(e, COMMAND_SHOW);
}

void editor_resize(editor *e)
{
  if (is_reading(e))
    exchange(e, COMMAND_RESIZE);
}

const char *editor_text(const editor *e, size_t *length)
{
  *length = e->length;
  return e->text ? e->text : "";
}

void editor_remember(editor *e, const char *line)
{
  if (is_reading(e))
    return;
  e->argument = line;
  exchange(e, COMMAND_REMEMBER);
}
