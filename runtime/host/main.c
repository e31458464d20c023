/*
 * main.c: the program `perilune`, a host that uses nothing but perilune.h.
 *
 * The command line is that of `lua`, and means the same. What it names
 * (LUA_INIT, each -e and -l, the script, then an interactive session: repl.c)
 * runs in ONE main task, one after the other, so all of it may wait: main_task
 * pushes one step after the other and calls it with itself as the continuation.
 * Everything that can raise happens in there as well.
 *
 * Ctrl-C comes in three stages (see on_interrupt): cancel the main task, raise
 * in the running code, end the process. SIGUSR1 has the tasks printed.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lualib.h>

#include "perilune.h"
#include "repl.h"

#define PROGRAM "perilune"
#define WORKER_OPTION "--worker"

enum { EXIT_INTERRUPTED = 130 };

typedef struct host {
  int argc;
  char **argv;
  int script;         /* where the script's name stands; argc: there is none */
  const char *module; /* of -m: the script is this module */
  bool code;          /* there was an -e */
  bool version, help, debug, no_environment, interactive;
  bool failed;         /* an error that has been told already */
  char path[PATH_MAX]; /* of the program */
  const char *worker_command[3];
} host;

static const char usage[] =
    "usage: " PROGRAM " [options] [script [args]]\n"
    "Available options are:\n"
    "  -e stat        execute string 'stat'\n"
    "  -i             enter interactive mode after executing 'script'\n"
    "  -l mod         require library 'mod' into global 'mod'\n"
    "  -l g=mod       require library 'mod' into global 'g'\n"
    "  -m mod [args]  execute module 'mod' as the script\n"
    "  -E             ignore environment variables\n"
    "  -W             turn warnings on\n"
    "  --debug        debug mode (also: PERILUNE_DEBUG=1)\n"
    "  -v, --version  show version information\n"
    "  -h, --help     show this text\n"
    "  --             stop handling options\n"
    "  -              stop handling options and execute stdin\n";

/* One call, so that what several processes say stays in whole lines. */
static void say(const char *text)
{
  fflush(stdout);
  fprintf(stderr, PROGRAM ": %s\n", text);
}

/* -- Signals ------------------------------------------------------------- */

/* A handler gets no argument. NULL: nothing left that could be interrupted. */
static peri_runtime *volatile interruptible;
static volatile sig_atomic_t interrupt_count;

static void handle(int number, void (*handler)(int), int flags)
{
  struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
  sigemptyset(&action.sa_mask);
  sigaction(number, &action, NULL);
}

static bool is_ignored(int number)
{
  struct sigaction action;
  return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

/* A second after an interrupt that nobody has seen: the next stage. */
static void on_alarm(int number)
{
  int saved = errno;
  peri_runtime *runtime = interruptible;
  (void)number;
  if (runtime && peri_interrupts_pending(runtime) > 0)
    peri_interrupt(runtime);
  errno = saved;
}

static void on_interrupt(int number)
{
  int saved = errno;
  peri_runtime *runtime = interruptible;
  (void)number;
  /* In a session an interrupt that was seen has ended no more than a line. */
  if (runtime && repl_runs() && peri_interrupts_pending(runtime) == 0)
    interrupt_count = 0;
  if (!runtime || ++interrupt_count >= 3) {
    if (runtime)
      peri_restore_terminal(runtime);
    repl_restore();
    _exit(EXIT_INTERRUPTED);
  }
  peri_interrupt(runtime);
  /* Taken only now: until then SIGALRM is the script's. */
  handle(SIGALRM, on_alarm, 0);
  alarm(1);
  errno = saved;
}

/* Like a debugger's look: the script does not notice. */
static void on_look(int number)
{
  int saved = errno;
  peri_runtime *runtime = interruptible;
  (void)number;
  if (runtime)
    peri_print_tasks(runtime);
  errno = saved;
}

/* The signal's effect is the default one, but for the terminal. */
static void on_end(int number)
{
  peri_runtime *runtime = interruptible;
  if (runtime)
    peri_restore_terminal(runtime);
  repl_restore();
  handle(number, SIG_DFL, 0);
  raise(number); /* comes when this returns */
}

static void on_pipe(int number)
{
  (void)number;
}

static bool has_default(int number)
{
  struct sigaction action;
  return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_DFL;
}

static void catch_signals(peri_runtime *runtime)
{
  interruptible = runtime;
  /* A session takes what it finds at its default. */
  if (has_default(SIGTERM))
    handle(SIGTERM, on_end, 0);
  /* A shell starts background jobs with SIGINT ignored; let that stand.
   * Without SA_RESTART: a script that blocks in io.read is to notice. */
  if (!is_ignored(SIGINT))
    handle(SIGINT, on_interrupt, 0);
  if (!is_ignored(SIGUSR1))
    handle(SIGUSR1, on_look, SA_RESTART);
  /* A handler that does nothing is as good as SIG_IGN (writes give EPIPE),
   * and unlike that it is not inherited by the programs we start. */
  handle(SIGPIPE, on_pipe, 0);
}

/* What is closed would else be whatever is opened first, and take our output. */
static void open_standard(void)
{
  for (int fd = 0; fd <= 2; fd++)
    if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
      (void)!open("/dev/null", O_RDWR);
}

/* -- The command line ------------------------------------------------------ */

/* The argument of option i: the rest of it, or what follows; NULL if missing.
 * An option's argument must not look like an option, as in lua. */
static const char *option_argument(const host *h, int *i)
{
  const char *rest = h->argv[*i] + 2;
  if (*rest)
    return rest;
  rest = h->argv[*i + 1];
  if (!rest || *rest == '-')
    return NULL;
  *i += 1;
  return rest;
}

static bool read_long_option(host *h, const char *option)
{
  if (strcmp(option, "--version") == 0)
    h->version = true;
  else if (strcmp(option, "--help") == 0)
    h->help = true;
  else if (strcmp(option, "--debug") == 0)
    h->debug = true;
  else
    return false;
  return true;
}

/* Reads option *i, which is no "-" and no "--"; moves *i to its argument. */
static bool read_option(host *h, int *i)
{
  const char *option = h->argv[*i];
  switch (option[1]) {
  case '-':
    return read_long_option(h, option);
  case 'e':
    h->code = true;
    return option_argument(h, i) != NULL;
  case 'l':
    return option_argument(h, i) != NULL;
  case 'm':
    h->module = option_argument(h, i);
    return h->module != NULL;
  case 'i': /* implies -v, as in lua */
    h->interactive = h->version = true;
    break;
  case 'E':
    h->no_environment = true;
    break;
  case 'W':
    break;
  case 'v':
    h->version = true;
    break;
  case 'h':
    h->help = true;
    break;
  default:
    return false;
  }
  return option[2] == '\0';
}

/* Returns 0, or the index of an option that is wrong. */
static int read_arguments(host *h)
{
  int i = 1;
  for (; i < h->argc && h->argv[i][0] == '-' && !h->module; i++) {
    int option = i;
    if (h->argv[i][1] == '\0')
      break;
    if (strcmp(h->argv[i], "--") == 0) {
      i++;
      break;
    }
    if (!read_option(h, &i))
      return option;
  }
  h->script = h->module ? i - 1 : i;
  return 0;
}

static int complain(const char *option)
{
  if (option[1] && strchr("elm", option[1]) && !option[2])
    fprintf(stderr, PROGRAM ": '%s' needs argument\n%s", option, usage);
  else
    fprintf(stderr, PROGRAM ": unrecognized option '%s'\n%s", option, usage);
  return EXIT_FAILURE;
}

/* -- The main task --------------------------------------------------------- */

/* As in lua: the script's name is arg[0], what stands before it has negative
 * indices. */
static void make_arg(lua_State *L, const host *h)
{
  int script = h->script == h->argc ? 0 : h->script;
  int count = h->argc - (script + 1);
  lua_createtable(L, count, script + 1);
  for (int i = 0; i < h->argc; i++) {
    lua_pushstring(L, h->argv[i]);
    lua_rawseti(L, -2, i - script);
  }
  lua_setglobal(L, "arg");
}

/* Pushes the script's arguments: what stands in `arg`, which may have been
 * changed since. */
static int push_arguments(lua_State *L)
{
  if (lua_getglobal(L, "arg") != LUA_TTABLE)
    luaL_error(L, "'arg' is not a table");
  lua_Integer count = luaL_len(L, -1);
  if (count > INT_MAX - 10)
    luaL_error(L, "too many arguments to script");
  int n = (int)count;
  luaL_checkstack(L, n + 3, "too many arguments to script");
  for (int i = 1; i <= n; i++)
    lua_rawgeti(L, -i, i);
  lua_remove(L, -(n + 1));
  return n;
}

/* Puts the path of -m's module into the place of `arg[0]` and on the stack;
 * where there is none, the message of package.searchpath. */
static bool find_module(lua_State *L, const char *module)
{
  if (lua_getglobal(L, "package") != LUA_TTABLE)
    luaL_error(L, "'package' is not a table");
  lua_getfield(L, -1, "searchpath");
  lua_pushstring(L, module);
  lua_getfield(L, -3, "path");
  lua_call(L, 2, 2);
  if (lua_isnil(L, -2)) {
    lua_pushfstring(L, "module '%s' not found:%s%s", module,
                    *lua_tostring(L, -1) == '\n' ? "" : "\n\t",
                    lua_tostring(L, -1));
    return false;
  }
  lua_pop(L, 1);
  if (lua_getglobal(L, "arg") == LUA_TTABLE) {
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, 0);
  }
  lua_pop(L, 1);
  return true;
}

/* The message on top says why a chunk could not be loaded. No frame of a
 * script is to blame, so there is no traceback to print. */
static int load_failed(lua_State *L, host *h)
{
  say(lua_tostring(L, -1));
  h->failed = true;
  return -1;
}

/* What follows pushes a function and its arguments and returns how many
 * these are, or -1 once the end has come. */

static int push_code(lua_State *L, host *h, const char *code, const char *name)
{
  if (luaL_loadbuffer(L, code, strlen(code), name) != LUA_OK)
    return load_failed(L, h);
  return 0;
}

static int push_file(lua_State *L, host *h, const char *path)
{
  if (luaL_loadfile(L, path) != LUA_OK)
    return load_failed(L, h);
  return 0;
}

static int push_script(lua_State *L, host *h)
{
  const char *path = NULL; /* standard input */
  if (h->module) {
    if (!find_module(L, h->module))
      return load_failed(L, h);
    path = lua_tostring(L, -1);
  } else if (h->script < h->argc) {
    path = h->argv[h->script];
    /* After "--" a "-" is the name of a file. */
    if (strcmp(path, "-") == 0 && strcmp(h->argv[h->script - 1], "--") != 0)
      path = NULL;
  }
  if (push_file(L, h, path) < 0)
    return -1;
  return push_arguments(L);
}

/* What LUA_INIT holds, "@path" or code, or NULL; and what such code is named. */
static const char *find_init(const host *h, const char **name)
{
  static const char *const names[] = {"=LUA_INIT_5_4", "=LUA_INIT"};
  const char *init = NULL;
  for (size_t i = 0; i < 2 && !init && !h->no_environment; i++) {
    *name = names[i];
    init = getenv(names[i] + 1);
  }
  return init;
}

static int push_init(lua_State *L, host *h, const char *init, const char *name)
{
  return init[0] == '@' ? push_file(L, h, init + 1)
                        : push_code(L, h, init, name);
}

static int library_loaded(lua_State *L, int status, lua_KContext context)
{
  (void)status;
  (void)context;
  lua_setglobal(L, lua_tostring(L, 1));
  return 0;
}

/* (global, module): the work of -l. */
static int l_library(lua_State *L)
{
  lua_getglobal(L, "require");
  lua_insert(L, 2);
  lua_callk(L, 1, 1, 0, library_loaded);
  return library_loaded(L, LUA_OK, 0);
}

static int push_library(lua_State *L, const char *argument)
{
  const char *equals = strchr(argument, '=');
  lua_pushcfunction(L, l_library);
  if (equals) {
    lua_pushlstring(L, argument, (size_t)(equals - argument));
    lua_pushstring(L, equals + 1);
  } else {
    lua_pushstring(L, argument);
    lua_pushvalue(L, -1);
  }
  return 2;
}

static bool wants_script(const host *h)
{
  return h->script < h->argc || (!h->code && !h->version);
}

/* Pushes the next thing to call; *at counts through the arguments. */
static int push_step(lua_State *L, host *h, int *at)
{
  if (*at == 0) {
    *at = 1;
    make_arg(L, h);
    const char *name;
    const char *init = find_init(h, &name);
    if (init)
      return push_init(L, h, init, name);
  }
  /* With -m the module's name stands at `script`, its option maybe too. */
  while (*at < h->script && h->argv[*at][1] != 'm') {
    const char *option = h->argv[*at];
    const char *argument = NULL;
    if (option[1] == 'e' || option[1] == 'l')
      argument = option_argument(h, at);
    *at += 1;
    if (option[1] == 'e')
      return push_code(L, h, argument, "=(command line)");
    if (option[1] == 'l')
      return push_library(L, argument);
    if (option[1] == 'W')
      lua_warning(L, "@on", 0);
  }
  if (*at <= h->argc && wants_script(h)) {
    *at = h->argc + 1;
    return push_script(L, h);
  }
  if (*at <= h->argc + 1 && h->interactive) {
    *at = h->argc + 2;
    return repl_push(L, h->no_environment);
  }
  return -1;
}

static int main_task(lua_State *L, int status, lua_KContext context)
{
  host *h = lua_touserdata(L, 1);
  int at = (int)context;
  (void)status;
  for (;;) {
    lua_settop(L, 1);
    int arguments = push_step(L, h, &at);
    if (arguments < 0)
      return 0;
    lua_callk(L, arguments, 0, at, main_task);
  }
}

static int l_main_task(lua_State *L)
{
  return main_task(L, LUA_OK, 0);
}

/* -- The runtime ----------------------------------------------------------- */

static void on_log(void *ud, int level, const char *text)
{
  (void)ud;
  (void)level;
  repl_make_room();
  fflush(stdout);
  fprintf(stderr, "%s\n", text);
}

static void fill_options(peri_options *options)
{
  peri_options_init(options);
  options->patch = PERI_PATCH_DEFAULT | PERI_PATCH_EXIT | PERI_PATCH_REQUIRE |
                   PERI_PATCH_PRINT;
  options->sigpipe_ignored = 1;
  options->deadlock = 1;
  options->preempt_signal = SIGURG;
  options->log = on_log;
}

/* -E must be known to the state before the libraries are opened, so it takes
 * a state of our own; *own is set then. */
static int make_runtime(const host *h, peri_runtime **runtime, lua_State **own)
{
  peri_options options;
  fill_options(&options);
  options.debug = h->debug;
  if (h->worker_command[0] != NULL)
    options.worker_command = h->worker_command;
  if (!h->no_environment)
    return peri_new(runtime, &options);
  lua_State *L = luaL_newstate();
  if (!L)
    return PERI_ENOMEM;
  *own = L;
  lua_pushboolean(L, 1);
  lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
  luaL_openlibs(L);
  return peri_attach(runtime, L, &options);
}

static int run(host *h, peri_runtime *runtime)
{
  lua_State *L = peri_state(runtime);
  lua_pushcfunction(L, l_main_task);
  lua_pushlightuserdata(L, h);
  switch (peri_run(runtime, 1, 0)) {
  case PERI_OK:
    return h->failed ? EXIT_FAILURE : EXIT_SUCCESS;
  case PERI_EEXIT:
    return peri_exit_code(runtime);
  case PERI_EINTERRUPTED:
    say("interrupted");
    return EXIT_INTERRUPTED;
  default:
    say(peri_error(runtime));
    /* What Ctrl-C made fail before it was seen, such as io.read. */
    return peri_interrupts_pending(runtime) > 0 ? EXIT_INTERRUPTED
                                                : EXIT_FAILURE;
  }
}

static void show_version(void)
{
  printf("Perilune %s (%s, libuv %s)\n", peri_version(), LUA_RELEASE,
         uv_version_string());
}

/* Returns true if the command line leaves nothing to run. */
static bool ends_early(host *h, int *code)
{
  *code = EXIT_SUCCESS;
  if (wants_script(h) && h->script == h->argc && isatty(STDIN_FILENO))
    h->interactive = h->version = true;
  if (h->help) {
    fputs(usage, stdout);
    return true;
  }
  if (h->version) {
    show_version();
    return h->script == h->argc && !h->code && !h->interactive;
  }
  return false;
}

static bool debug_in_environment(void)
{
  const char *value = getenv("PERILUNE_DEBUG");
  return value && *value && strcmp(value, "0") != 0;
}

/* What process pools start: this program, with an option that the usage does
 * not tell of. */
static void name_workers(host *h)
{
  size_t size = sizeof h->path;
  if (uv_exepath(h->path, &size) < 0)
    return;
  h->worker_command[0] = h->path;
  h->worker_command[1] = WORKER_OPTION;
}

static int be_worker(const host *h)
{
  peri_options options;
  fill_options(&options);
  options.worker_command = h->worker_command[0] ? h->worker_command : NULL;
  return peri_worker_main(&options);
}

int main(int argc, char **argv)
{
  static char *nothing[] = {PROGRAM, NULL};
  host h = {.argc = argc, .argv = argv};
  if (argc < 1) { /* execve allows it */
    h.argc = 1;
    h.argv = nothing;
  }
  name_workers(&h);
  if (h.argc == 2 && strcmp(h.argv[1], WORKER_OPTION) == 0)
    return be_worker(&h);
  int wrong = read_arguments(&h);
  if (wrong)
    return complain(h.argv[wrong]);
  int code;
  if (ends_early(&h, &code))
    return code;
  if (!h.no_environment && debug_in_environment())
    h.debug = true;

  open_standard();
  if (h.interactive)
    repl_prepare();
  peri_runtime *runtime = NULL;
  lua_State *own = NULL;
  int status = make_runtime(&h, &runtime, &own);
  if (status == PERI_OK) {
    catch_signals(runtime);
    code = run(&h, runtime);
    interruptible = NULL;
    peri_close(runtime);
  } else {
    say(status == PERI_ENOMEM ? "out of memory" : "cannot make a runtime");
    code = EXIT_FAILURE;
  }
  if (own)
    lua_close(own);
  return code;
}
