/*
 * stdio.c: the standard streams and the terminal, as perilune.stdio has them.
 *
 * A terminal in raw mode is the user's, who has to live with it when we are
 * gone. So the runtime knows the modes of before: it restores them when it
 * closes, and peri_restore_terminal does when a signal ends the process.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include <sys/ioctl.h>

#include "io/fd_stream.h"

/* What a signal handler may look at once rt->raw points there. */
typedef struct peri_raw {
  int fd; /* of our own, for the terminal */
  int scopes;
  struct termios before;
} peri_raw;

/* A scope of raw mode. */
typedef struct raw_scope {
  struct termios before; /* those of an outer scope */
  int depth;             /* 1: the outermost */
  bool active;
} raw_scope;

static const char *const names[] = {"stdin", "stdout", "stderr"};

/* -- Streams -------------------------------------------------------------------------- */

static int check_standard(lua_State *L)
{
  lua_Integer fd = luaL_checkinteger(L, 1);
  luaL_argcheck(L, fd >= 0 && fd <= 2, 1, "0, 1 or 2");
  return (int)fd;
}

/* open(0, 1 or 2) -> stream */
static int l_open(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  int fd = check_standard(L), code;
  peri_loop *loop = peri__io_loop(L, rt);
  peri_stream_box *box = peri__stream_push_box(L, rt);
  peri_stream *stream = peri__fd_stream_new(loop, fd, fd > 0, &code);
  if (stream == NULL)
    return peri__throw_os(L, rt, "open", code, "path", names[fd]);
  stream->path = peri__copy_path(rt, names[fd], strlen(names[fd]));
  peri__stream_box(box, stream);
  return 1;
}

/* flush(): blocks until what is queued has gone */
static int l_flush(lua_State *L)
{
  peri__fd_streams_flush(peri__rt(L));
  return 0;
}

/* -- Terminals --------------------------------------------------------------------------- */

static int check_fd(lua_State *L, int idx)
{
  int is_integer;
  lua_Integer fd = lua_tointegerx(L, idx, &is_integer);
  if (!is_integer || fd < 0 || fd > INT32_MAX)
    peri__arg_error(L, peri__rt(L), PERI_ERR_VALUE, idx, "not a descriptor");
  return (int)fd;
}

/* isatty(fd) */
static int l_isatty(lua_State *L)
{
  lua_pushboolean(L, isatty(check_fd(L, 1)));
  return 1;
}

/* size(fd) -> columns, lines */
static int l_size(lua_State *L)
{
  struct winsize size;
  if (ioctl(check_fd(L, 1), TIOCGWINSZ, &size) < 0)
    return peri__throw_os(L, peri__rt(L), "ioctl", -errno, NULL, NULL);
  lua_pushinteger(L, size.ws_col);
  lua_pushinteger(L, size.ws_row);
  return 2;
}

/* -- Raw mode -------------------------------------------------------------------------------- */

void peri_restore_terminal(peri_runtime *rt)
{
  peri_raw *raw = rt->raw;
  if (raw != NULL)
    tcsetattr(raw->fd, TCSANOW, &raw->before);
}

static void end_raw(peri_runtime *rt)
{
  peri_raw *raw = rt->raw;
  rt->raw = NULL;
  close(raw->fd);
  peri__realloc(rt, raw, sizeof *raw, 0);
}

void peri__stdio_close(peri_runtime *rt)
{
  if (rt->raw == NULL)
    return;
  peri_restore_terminal(rt);
  end_raw(rt);
}

static int begin_raw(peri_runtime *rt)
{
  if (rt->raw != NULL)
    return 0;
  peri_raw *raw = peri__realloc(rt, NULL, 0, sizeof *raw);
  if (raw == NULL)
    return UV_ENOMEM;
  memset(raw, 0, sizeof *raw);
  raw->fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
  int code = raw->fd < 0 ? -errno : 0;
  if (code == 0 && tcgetattr(raw->fd, &raw->before) < 0) {
    code = -errno;
    close(raw->fd);
  }
  if (code < 0)
    peri__realloc(rt, raw, sizeof *raw, 0);
  else
    rt->raw = raw;
  return code;
}

/* Each key at once and unseen; output is processed as ever, so that print does
 * not make stairs. */
static void make_raw(struct termios *modes, bool signals)
{
  modes->c_iflag &= ~(tcflag_t)(BRKINT | ICRNL | INPCK | ISTRIP | IXON);
  modes->c_cflag |= CS8;
  modes->c_lflag &= ~(tcflag_t)(ECHO | ICANON | IEXTEN);
  if (!signals)
    modes->c_lflag &= ~(tcflag_t)ISIG;
  modes->c_cc[VMIN] = 1;
  modes->c_cc[VTIME] = 0;
}

static void leave(peri_runtime *rt, raw_scope *scope)
{
  if (!scope->active)
    return;
  scope->active = false;
  if (rt->raw == NULL)
    return;
  if (rt->raw->scopes == 1) {
    tcsetattr(rt->raw->fd, TCSADRAIN, &rt->raw->before);
    end_raw(rt);
    return;
  }
  if (scope->depth == rt->raw->scopes) /* the innermost */
    tcsetattr(rt->raw->fd, TCSADRAIN, &scope->before);
  rt->raw->scopes--;
}

/* raw(signals) -> scope */
static int l_raw(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  raw_scope *scope = lua_newuserdatauv(L, sizeof *scope, 0);
  memset(scope, 0, sizeof *scope);
  peri__push_ref(L, rt, PERI_REF_RAW);
  lua_setmetatable(L, -2);
  int code = begin_raw(rt);
  if (code < 0)
    return peri__throw_os(L, rt, "tcgetattr", code, "path", "stdin");
  struct termios modes;
  scope->depth = ++rt->raw->scopes;
  scope->active = true;
  if (tcgetattr(rt->raw->fd, &modes) == 0) {
    scope->before = modes;
    make_raw(&modes, lua_toboolean(L, 1));
    if (tcsetattr(rt->raw->fd, TCSADRAIN, &modes) == 0)
      return 1;
  }
  code = -errno;
  scope->before = rt->raw->before;
  leave(rt, scope);
  return peri__throw_os(L, rt, "tcsetattr", code, "path", "stdin");
}

static int l_restore(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  bool ours = false;
  if (lua_isuserdata(L, 1) && lua_getmetatable(L, 1)) {
    peri__push_ref(L, rt, PERI_REF_RAW);
    ours = lua_rawequal(L, -1, -2);
  }
  if (!ours)
    return peri__arg_type_error(L, rt, 1, "RawMode");
  leave(rt, lua_touserdata(L, 1));
  return 0;
}

static const luaL_Reg meta[] = {
    {"__close", l_restore}, {"__gc", l_restore}, {NULL, NULL}};

static const luaL_Reg methods[] = {{"restore", l_restore}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"open", l_open},     {"flush", l_flush},
                                     {"isatty", l_isatty}, {"size", l_size},
                                     {"raw", l_raw},       {NULL, NULL}};

int peri__stdio_open(lua_State *L)
{
  peri_runtime *rt = peri_of(L);
  if (rt == NULL)
    return luaL_error(L, "there is no runtime on this state");
  peri__require(L, "perilune._net"); /* streams */
  peri__metatable(L, rt, PERI_REF_RAW, "RawMode", meta, methods);
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, functions, 1);
  rt->flush_stdio = peri__fd_streams_flush;
  return 1;
}
