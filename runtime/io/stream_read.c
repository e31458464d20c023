/*
 * stream_read.c: read, readexactly, readuntil, readline, lines, forward.
 *
 * Each is a loop: is there enough? has the input ended? may there be more to
 * read at once? and if not, a wait, after which the loop goes on. The first
 * bytes of a read are looked at where the kernel has put them, in the scratch
 * buffer; what is not taken from there is kept in the stream's own.
 */
#include <string.h>

#include "io/io.h"

static int throw_memory(lua_State *L)
{
  return luaL_error(L, "not enough memory");
}

/* Of the got bytes in the scratch buffer the first size are taken, of which text
 * become a string; the rest is kept. Where that fails they are lost, and the
 * rest is worth nothing. As a string is made, finalizers may run, which may
 * close the stream or read another one, into the same scratch buffer. */
static int take_scratch(lua_State *L, peri_stream *stream, size_t text,
                        size_t size, size_t got)
{
  const char *scratch = stream->kernel->scratch;
  stream->flags |= PERI_S_LOST;
  stream->lost = UV_ENOMEM;
  if (peri_unlikely(got > size) &&
      !peri__stream_keep(stream, scratch + size, got - size))
    return throw_memory(L);
  peri__push_input(L, scratch, text);
  stream->flags &= ~(uint32_t)PERI_S_LOST;
  return 1;
}

static void keep_scratch(lua_State *L, peri_stream *stream, ssize_t got)
{
  if (peri__stream_keep(stream, stream->kernel->scratch, (size_t)got))
    return;
  stream->flags |= PERI_S_LOST;
  stream->lost = UV_ENOMEM;
  throw_memory(L);
}

static int take(lua_State *L, peri_stream *stream, size_t size)
{
  peri__push_input(L, stream->input + stream->start, size);
  peri__stream_consume(stream, size);
  return 1;
}

/* After a wait: closing ends it with an error of its own. */
static peri_stream *unpark(lua_State *L)
{
  peri_stream *stream = ((peri_stream_box *)lua_touserdata(L, 1))->stream;
  peri__stream_unpark_reading(L, stream);
  if (peri_unlikely(stream->flags & PERI_S_CLOSING))
    peri__stream_throw(L, stream, "read", UV_ECANCELED);
  return stream;
}

static void check_readable(lua_State *L, peri_stream *stream)
{
  if (peri_unlikely(!(stream->flags & PERI_S_READABLE)))
    peri__stream_throw(L, stream, "read", UV_EBADF);
}

/* A number of bytes at idx. */
static lua_Integer check_size(lua_State *L, int idx)
{
  int is_integer;
  lua_Integer size = lua_tointegerx(L, idx, &is_integer);
  if (peri_unlikely(lua_type(L, idx) != LUA_TNUMBER || !is_integer))
    peri__arg_type_error(L, peri__rt(L), idx, "integer");
  return size;
}

/* -- read --------------------------------------------------------------------- */

static int read_some(lua_State *L, peri_stream *stream, size_t most);

static int read_some_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  return read_some(L, unpark(L), (size_t)ctx);
}

static int read_some(lua_State *L, peri_stream *stream, size_t most)
{
  for (;;) {
    size_t has = peri__stream_has(stream);
    if (has > 0)
      return take(L, stream, has < most ? has : most);
    if (peri_unlikely(stream->flags & PERI_S_INPUT_OVER)) {
      peri__stream_throw_input(L, stream);
      lua_pushnil(L);
      return 1;
    }
    if (!(stream->flags & PERI_S_READY))
      return peri__stream_park_reading(L, stream, "Stream.read",
                                       (lua_KContext)most, read_some_k);
    ssize_t got = peri__stream_read_scratch(stream);
    if (peri_likely(got > 0)) {
      size_t size = (size_t)got < most ? (size_t)got : most;
      return take_scratch(L, stream, size, size, (size_t)got);
    }
  }
}

static int read_all(lua_State *L, peri_stream *stream);

static int read_all_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  return read_all(L, unpark(L));
}

static int read_all(lua_State *L, peri_stream *stream)
{
  for (;;) {
    peri__stream_throw_input(L, stream);
    if (stream->flags & PERI_S_EOF) {
      size_t has = peri__stream_has(stream);
      if (has > 0)
        return take(L, stream, has);
      lua_pushliteral(L, "");
      return 1;
    }
    if (!(stream->flags & PERI_S_READY))
      return peri__stream_park_reading(L, stream, "Stream.read", 0, read_all_k);
    if (peri__stream_fill(stream, 0) == UV_ENOMEM)
      return throw_memory(L);
  }
}

static int l_read(lua_State *L);

/* Anything but one number. */
static peri_cold lua_Integer read_arguments(lua_State *L, int *options)
{
  *options = lua_gettop(L) == 2 && peri__is_options(L, 2) ? 2 : 3;
  lua_Integer most = -1;
  if (*options == 3 && !lua_isnoneornil(L, 2))
    most = check_size(L, 2);
  if (lua_isnoneornil(L, *options))
    *options = 0;
  return most;
}

/* read([n], [options]): as many as n bytes, as soon as there are any; without
 * n, or n < 0: all until the end. */
static int l_read(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  int is_integer, options = 0;
  lua_Integer most = lua_tointegerx(L, 2, &is_integer);
  if (peri_unlikely(lua_gettop(L) != 2 || !is_integer))
    most = read_arguments(L, &options);
  if (peri_unlikely(options != 0))
    return peri__limited(L, options, "Stream.read", l_read);
  check_readable(L, stream);
  lua_settop(L, 1);
  if (peri_likely(most > 0))
    return read_some(L, stream, (size_t)most);
  if (most < 0)
    return read_all(L, stream);
  lua_pushliteral(L, "");
  return 1;
}

/* -- readexactly ----------------------------------------------------------------- */

/* expected < 0: unknown */
static int throw_incomplete(lua_State *L, peri_stream *stream,
                            lua_Integer expected)
{
  size_t has = peri__stream_has(stream);
  peri_runtime *rt = stream->rt;
  if (expected >= 0)
    peri__push_error(L, rt, PERI_ERR_INCOMPLETE_READ,
                     "%I bytes read on a total of %I expected bytes",
                     (LUAI_UACINT)has, (LUAI_UACINT)expected);
  else
    peri__push_error(L, rt, PERI_ERR_INCOMPLETE_READ,
                     "%I bytes read, and no separator", (LUAI_UACINT)has);
  if (expected >= 0) {
    lua_pushinteger(L, expected);
    lua_setfield(L, -2, "expected");
  }
  lua_pushlstring(L, has > 0 ? stream->input + stream->start : "", has);
  lua_setfield(L, -2, "partial");
  if (has > 0)
    peri__stream_consume(stream, has);
  return lua_error(L);
}

static int read_exactly(lua_State *L, peri_stream *stream, size_t size);

static int read_exactly_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  return read_exactly(L, unpark(L), (size_t)ctx);
}

static int read_exactly(lua_State *L, peri_stream *stream, size_t size)
{
  for (;;) {
    size_t has = peri__stream_has(stream);
    if (has >= size)
      return take(L, stream, size);
    if (peri_unlikely(stream->flags & PERI_S_INPUT_OVER)) {
      peri__stream_throw_input(L, stream);
      return throw_incomplete(L, stream, (lua_Integer)size);
    }
    if (!(stream->flags & PERI_S_READY))
      return peri__stream_park_reading(L, stream, "Stream.readexactly",
                                       (lua_KContext)size, read_exactly_k);
    ssize_t got;
    if (has > 0 || size > PERI_SCRATCH) {
      got = peri__stream_fill(stream, size - has);
    } else {
      got = peri__stream_read_scratch(stream);
      if (got >= (ssize_t)size)
        return take_scratch(L, stream, size, size, (size_t)got);
      if (got > 0)
        keep_scratch(L, stream, got);
    }
    if (got == UV_ENOMEM)
      return throw_memory(L);
  }
}

/* readexactly(n, [options]) */
static int l_readexactly(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  lua_Integer size = check_size(L, 2);
  if (size < 0)
    return peri__throw(L, stream->rt, PERI_ERR_VALUE,
                       "readexactly size can not be less than zero");
  if (peri_unlikely(!lua_isnoneornil(L, 3)))
    return peri__limited(L, 3, "Stream.readexactly", l_readexactly);
  check_readable(L, stream);
  lua_settop(L, 2);
  if (size > 0)
    return read_exactly(L, stream, (size_t)size);
  lua_pushliteral(L, "");
  return 1;
}

/* -- readuntil, readline, lines ----------------------------------------------------- */

/* What ends a piece: a byte, or the string(s) at index 2. */
typedef struct separators {
  bool newline; /* just that byte */
  size_t shortest, longest;
} separators;

typedef struct match {
  size_t start, end; /* of the separator; end 0: none */
} match;

static void find(match *found, const char *data, size_t size, size_t from,
                 const char *separator, size_t length)
{
  const char *place = length == 1
                          ? memchr(data + from, *separator, size - from)
                          : memmem(data + from, size - from, separator, length);
  if (place == NULL)
    return;
  size_t start = (size_t)(place - data);
  if (found->end == 0 || start + length < found->end)
    *found = (match){start, start + length};
}

/* The separator that ends first, and of those that end together the shortest:
 * the list is sorted so. */
static match search(lua_State *L, const separators *ends, const char *data,
                    size_t size, size_t from)
{
  match found = {0, 0};
  size_t length;
  if (peri_likely(ends->newline)) {
    find(&found, data, size, from, "\n", 1);
  } else if (lua_type(L, 2) == LUA_TSTRING) {
    const char *separator = lua_tolstring(L, 2, &length);
    find(&found, data, size, from, separator, length);
  } else {
    lua_Integer n = (lua_Integer)lua_rawlen(L, 2);
    for (lua_Integer i = 1; i <= n; i++) {
      lua_rawgeti(L, 2, i);
      const char *separator = lua_tolstring(L, -1, &length);
      find(&found, data, size, from, separator, length);
      lua_pop(L, 1);
    }
  }
  return found;
}

/* Where a search must begin again when there is more than size bytes. */
static size_t searched(const separators *ends, size_t size)
{
  return size + 1 > ends->longest ? size + 1 - ends->longest : 0;
}

static const char not_found_text[] =
    "Separator is not found, and chunk exceed the limit";
static const char too_long_text[] =
    "Separator is found, but chunk is longer than limit";

static int throw_overrun(lua_State *L, peri_stream *stream, const char *text,
                         size_t consumed)
{
  peri__push_error(L, stream->rt, PERI_ERR_LIMIT_OVERRUN, "%s", text);
  lua_pushinteger(L, (lua_Integer)consumed);
  lua_setfield(L, -2, "consumed");
  return lua_error(L);
}

/* What readline does about a line that is too long: away with it, as far as it
 * has come. */
static int throw_long_line(lua_State *L, peri_stream *stream, const char *text,
                           size_t size)
{
  peri__stream_consume(stream, size);
  return peri__throw(L, stream->rt, PERI_ERR_VALUE, "%s", text);
}

enum { UNTIL = 0, LINE = 1, BARE_LINE = 2 }; /* readuntil, readline, lines */

/* What is there of a piece is all there will be. */
static int last_piece(lua_State *L, peri_stream *stream, int mode)
{
  peri__stream_throw_input(L, stream);
  if (mode == UNTIL)
    return throw_incomplete(L, stream, -1);
  size_t has = peri__stream_has(stream);
  if (has > 0)
    return take(L, stream, has);
  lua_pushnil(L);
  return 1;
}

/* The piece that ends with what was found, in the stream's buffer. */
static int take_piece(lua_State *L, peri_stream *stream, int mode, match found)
{
  if (peri_unlikely(found.start > stream->limit)) {
    if (mode == UNTIL)
      return throw_overrun(L, stream, too_long_text, found.start);
    return throw_long_line(L, stream, too_long_text, found.end);
  }
  if (mode != BARE_LINE)
    return take(L, stream, found.end);
  lua_pushlstring(L, stream->input + stream->start, found.start);
  peri__stream_consume(stream, found.end);
  return 1;
}

/* A first read, where the stream's buffer is empty: true if the piece was there
 * and has been pushed. */
static bool piece_at_once(lua_State *L, peri_stream *stream, int mode,
                          const separators *ends)
{
  const char *scratch = stream->kernel->scratch;
  ssize_t got = peri__stream_read_scratch(stream);
  if (got <= 0)
    return false;
  size_t size = (size_t)got;
  match found = search(L, ends, scratch, size, 0);
  if (found.end == 0 || found.start > stream->limit) {
    keep_scratch(L, stream, got);
    return false;
  }
  size_t text = mode == BARE_LINE ? found.start : found.end;
  take_scratch(L, stream, text, found.end, size);
  return true;
}

static int continue_piece(lua_State *L, peri_stream *stream, int mode);

static int piece_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  return continue_piece(L, unpark(L), (int)ctx);
}

static const char *const piece_names[] = {"Stream.readuntil", "Stream.readline",
                                          "Stream.lines"};

static int read_piece(lua_State *L, peri_stream *stream, int mode,
                      const separators *ends)
{
  for (;;) {
    size_t has = peri__stream_has(stream), from = stream->progress;
    if (has >= from + ends->shortest) {
      match found = search(L, ends, stream->input + stream->start, has, from);
      if (found.end > 0)
        return take_piece(L, stream, mode, found);
      stream->progress = searched(ends, has);
      if (peri_unlikely(stream->progress > stream->limit)) {
        if (mode == UNTIL)
          return throw_overrun(L, stream, not_found_text, stream->progress);
        return throw_long_line(L, stream, not_found_text, has);
      }
    }
    if (peri_unlikely(stream->flags & PERI_S_INPUT_OVER))
      return last_piece(L, stream, mode);
    if (!(stream->flags & PERI_S_READY))
      return peri__stream_park_reading(L, stream, piece_names[mode],
                                       (lua_KContext)mode, piece_k);
    if (has == 0) {
      if (piece_at_once(L, stream, mode, ends))
        return 1;
    } else if (peri__stream_fill(stream, 0) == UV_ENOMEM) {
      return throw_memory(L);
    }
  }
}

static int throw_separator(lua_State *L, const char *text)
{
  return peri__arg_error(L, peri__rt(L), PERI_ERR_VALUE, 2, text);
}

/* The separators at index 2, which have been checked. */
static separators separators_at(lua_State *L)
{
  if (lua_type(L, 2) == LUA_TSTRING) {
    size_t length = lua_rawlen(L, 2);
    return (separators){.shortest = length, .longest = length};
  }
  separators all = {.shortest = SIZE_MAX};
  lua_Integer n = (lua_Integer)lua_rawlen(L, 2);
  for (lua_Integer i = 1; i <= n; i++) {
    lua_rawgeti(L, 2, i);
    size_t length = lua_rawlen(L, -1);
    all.shortest = length < all.shortest ? length : all.shortest;
    all.longest = length > all.longest ? length : all.longest;
    lua_pop(L, 1);
  }
  return all;
}

static const separators just_newline = {.newline = true, 1, 1};

static int continue_piece(lua_State *L, peri_stream *stream, int mode)
{
  if (mode != UNTIL)
    return read_piece(L, stream, mode, &just_newline);
  separators ends = separators_at(L);
  return read_piece(L, stream, mode, &ends);
}

static int begin_piece(lua_State *L, peri_stream *stream, int mode)
{
  check_readable(L, stream);
  stream->progress = 0;
  return continue_piece(L, stream, mode);
}

/* Replaces the list at index 2 by a copy that nobody changes meanwhile, the
 * shortest first. */
static void copy_separators(lua_State *L)
{
  lua_Integer n = (lua_Integer)lua_rawlen(L, 2);
  if (n == 0)
    throw_separator(L, "Separator should contain at least one element");
  lua_createtable(L, (int)(n < 1000 ? n : 1000), 0);
  for (lua_Integer i = 1; i <= n; i++) {
    if (lua_rawgeti(L, 2, i) != LUA_TSTRING)
      throw_separator(L, "a separator is a string");
    lua_Integer place = i;
    for (; place > 1; place--) { /* they are few */
      lua_rawgeti(L, -2, place - 1);
      if (lua_rawlen(L, -1) <= lua_rawlen(L, -2)) {
        lua_pop(L, 1);
        break;
      }
      lua_rawseti(L, -3, place);
    }
    lua_rawseti(L, -2, place);
  }
  lua_replace(L, 2);
}

/* readuntil(separator or list of them, [options]) */
static int l_readuntil(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  if (lua_isnoneornil(L, 2)) {
    lua_settop(L, lua_gettop(L) < 2 ? 2 : lua_gettop(L));
    lua_pushliteral(L, "\n");
    lua_replace(L, 2);
  }
  if (peri_unlikely(!lua_isnoneornil(L, 3)))
    return peri__limited(L, 3, "Stream.readuntil", l_readuntil);
  lua_settop(L, 2);
  int type = lua_type(L, 2);
  if (type == LUA_TTABLE)
    copy_separators(L);
  else if (type != LUA_TSTRING)
    return peri__arg_type_error(L, stream->rt, 2, "string or list of strings");
  if (separators_at(L).shortest == 0)
    return throw_separator(L, "Separator should be at least one-byte string");
  return begin_piece(L, stream, UNTIL);
}

/* readline([options]) */
static int l_readline(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  if (peri_unlikely(!lua_isnoneornil(L, 2)))
    return peri__limited(L, 2, "Stream.readline", l_readline);
  lua_settop(L, 1);
  return begin_piece(L, stream, LINE);
}

/* Without the newline: the iterator of lines(). */
static int l_bare_line(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  if (!lua_isnoneornil(L, lua_upvalueindex(2))) {
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(2));
    return peri__limited(L, 2, "Stream.lines", l_bare_line);
  }
  lua_settop(L, 1);
  return begin_piece(L, stream, BARE_LINE);
}

/* lines([options]) */
static int l_lines(lua_State *L)
{
  peri__stream_check(L, 1);
  lua_settop(L, 2);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushvalue(L, 2);
  lua_pushcclosure(L, l_bare_line, 2);
  lua_pushvalue(L, 1);
  return 2;
}

/* at_eof(): the input has ended, and all of it was taken. */
static int l_at_eof(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  const uint32_t known = PERI_S_INPUT_OVER | PERI_S_READING | PERI_S_STARTED;
  if (!(stream->flags & known) && stream->flags & PERI_S_READABLE &&
      peri__stream_has(stream) == 0)
    peri__stream_fill(stream, 0); /* nobody has looked yet */
  lua_pushboolean(L,
                  stream->flags & PERI_S_EOF && peri__stream_has(stream) == 0);
  return 1;
}

/* -- forward ---------------------------------------------------------------------------- */

static int forward(lua_State *L, peri_stream *from, peri_stream *to,
                   lua_KContext count);

static peri_stream *target(lua_State *L)
{
  return ((peri_stream_box *)lua_touserdata(L, 2))->stream;
}

static int forward_read_k(lua_State *L, int status, lua_KContext count)
{
  (void)status;
  return forward(L, unpark(L), target(L), count);
}

static int forward_written_k(lua_State *L, int status, lua_KContext count)
{
  (void)status;
  peri_stream *to = target(L);
  peri__stream_unpark(L, to);
  if (to->flags & PERI_S_CLOSING)
    return peri__stream_throw(L, to, "write", UV_ECANCELED);
  return forward(L, peri__stream_check(L, 1), to, count);
}

/* What goes wrong here is seen before the next bytes are read. */
static void pass(peri_stream *to, char *data, size_t size, lua_KContext *count)
{
  uv_buf_t buffer = {.base = data, .len = size};
  if (peri__stream_write(to, &buffer, 1) == 0)
    *count += (lua_KContext)size;
}

static int forward(lua_State *L, peri_stream *from, peri_stream *to,
                   lua_KContext count)
{
  for (;;) {
    int code = peri__stream_writable(to);
    if (peri_unlikely(code < 0))
      return peri__stream_throw(L, to, "write", code);
    if (to->flags & PERI_S_CONGESTED)
      return peri__stream_park(L, to, &to->drainers, count, forward_written_k);
    size_t has = peri__stream_has(from);
    if (has > 0) {
      pass(to, from->input + from->start, has, &count);
      peri__stream_consume(from, has);
      continue;
    }
    if (peri_unlikely(from->flags & PERI_S_INPUT_OVER)) {
      peri__stream_throw_input(L, from);
      lua_pushinteger(L, (lua_Integer)count);
      return 1;
    }
    if (!(from->flags & PERI_S_READY))
      return peri__stream_park_reading(L, from, "Stream.forward", count,
                                       forward_read_k);
    ssize_t got = peri__stream_read_scratch(from);
    if (got > 0)
      pass(to, from->kernel->scratch, (size_t)got, &count);
  }
}

/* forward(other, [options]) -> bytes */
static int l_forward(lua_State *L)
{
  peri_stream *from = peri__stream_check(L, 1);
  peri_stream *to = peri__stream_check(L, 2);
  if (peri_unlikely(!lua_isnoneornil(L, 3)))
    return peri__limited(L, 3, "Stream.forward", l_forward);
  lua_settop(L, 2);
  check_readable(L, from);
  if (from->flags & PERI_S_READING)
    return peri__throw(L, from->rt, PERI_ERR_RUNTIME,
                       "Stream.forward: another task is reading this stream "
                       "already (%s)",
                       peri__stream_push_name(L, from));
  return forward(L, from, to, 0);
}

const luaL_Reg peri__stream_read_methods[] = {
    {"read", l_read},           {"readexactly", l_readexactly},
    {"readuntil", l_readuntil}, {"readline", l_readline},
    {"lines", l_lines},         {"at_eof", l_at_eof},
    {"forward", l_forward},     {NULL, NULL}};
