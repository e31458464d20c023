/*
 * stream_write.c: write, writelines, drain, write_eof, and their limits.
 */
#include "io/io.h"

enum { BATCH = 16 }; /* strings that go with one call of the kernel */

static void check_writable(lua_State *L, peri_stream *stream)
{
  int code = peri__stream_writable(stream);
  if (peri_unlikely(code < 0))
    peri__stream_throw(L, stream, "write", code);
}

/* Sends the strings at first to last of the stack. */
static void write_values(lua_State *L, peri_stream *stream, int first, int last)
{
  uv_buf_t buffers[BATCH];
  while (first <= last) {
    unsigned n = 0;
    for (; n < BATCH && first <= last; n++, first++) {
      size_t length;
      buffers[n].base = (char *)lua_tolstring(L, first, &length);
      buffers[n].len = length;
    }
    int code = peri__stream_write(stream, buffers, n);
    if (peri_unlikely(code < 0))
      peri__stream_throw(L, stream, "write", code);
  }
}

static void check_data(lua_State *L, int idx)
{
  int type = lua_type(L, idx);
  if (peri_unlikely(type != LUA_TSTRING && type != LUA_TNUMBER))
    peri__arg_type_error(L, peri__rt(L), idx, "string");
}

/* write(data, ...): strings, or numbers as text; one after the other */
static int l_write(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  int top = lua_gettop(L);
  for (int i = 2; i <= top; i++)
    check_data(L, i);
  check_writable(L, stream);
  write_values(L, stream, 2, top);
  return 0;
}

/* writelines(list of strings): as write, with each of them */
static int l_writelines(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  if (lua_type(L, 2) != LUA_TTABLE)
    return peri__arg_type_error(L, stream->rt, 2, "list of strings");
  lua_settop(L, 2);
  lua_Integer n = (lua_Integer)lua_rawlen(L, 2);
  for (lua_Integer i = 1; i <= n; i++) { /* all or nothing */
    int type = lua_rawgeti(L, 2, i);
    if (type != LUA_TSTRING && type != LUA_TNUMBER)
      return peri__arg_error(L, stream->rt, PERI_ERR_TYPE, 2,
                             lua_pushfstring(L, "element %I is a %s",
                                             (LUAI_UACINT)i,
                                             lua_typename(L, type)));
    lua_pop(L, 1);
  }
  check_writable(L, stream);
  for (lua_Integer i = 1; i <= n; lua_settop(L, 2)) {
    for (int k = 0; k < BATCH && i <= n; k++, i++)
      lua_rawgeti(L, 2, i);
    write_values(L, stream, 3, lua_gettop(L));
  }
  return 0;
}

/* -- drain ---------------------------------------------------------------------- */

static int drain(lua_State *L, peri_stream *stream);

static int drain_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  peri_stream *stream = ((peri_stream_box *)lua_touserdata(L, 1))->stream;
  peri__stream_unpark(L, stream);
  if (peri_unlikely(stream->flags & PERI_S_CLOSING))
    return peri__stream_throw(L, stream, "write", UV_ECANCELED);
  return drain(L, stream);
}

static int drain(lua_State *L, peri_stream *stream)
{
  int code = peri__stream_writable(stream);
  if (peri_unlikely(code < 0 &&
                    !(stream->flags & PERI_S_SHUT && stream->output_lost == 0)))
    return peri__stream_throw(L, stream, "write", code);
  if (peri_likely(!(stream->flags & PERI_S_CONGESTED)))
    return 0;
  return peri__stream_park(L, stream, &stream->drainers, 0, drain_k);
}

/* drain([options]) */
static int l_drain(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  if (peri_unlikely(!lua_isnoneornil(L, 2)))
    return peri__limited(L, 2, "Stream.drain", l_drain);
  lua_settop(L, 1);
  return drain(L, stream);
}

/* -- The end of the output --------------------------------------------------------- */

static int l_write_eof(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  int code = peri__stream_write_eof(stream);
  if (code < 0)
    return peri__stream_throw(L, stream, "shutdown", code);
  return 0;
}

static int l_can_write_eof(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  bool half = stream->flags & PERI_S_HALF_CLOSES;
  lua_pushboolean(L, stream->flags & PERI_S_WRITABLE &&
                         (half || !(stream->flags & PERI_S_READABLE)));
  return 1;
}

/* -- Limits -------------------------------------------------------------------------- */

static lua_Integer limit_field(lua_State *L, const char *name,
                               lua_Integer otherwise)
{
  int is_integer;
  if (lua_getfield(L, 2, name) == LUA_TNIL) {
    lua_pop(L, 1);
    return otherwise;
  }
  lua_Integer value = lua_tointegerx(L, -1, &is_integer);
  if (!is_integer || value < 0)
    peri__arg_error(L, peri__rt(L), PERI_ERR_VALUE, 2,
                    lua_pushfstring(L, "%s is a number of bytes", name));
  lua_pop(L, 1);
  return value;
}

/* set_write_buffer_limits{high=, low=}: as asyncio's transports */
static int l_set_write_buffer_limits(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  lua_settop(L, 2);
  if (lua_isnil(L, 2)) {
    lua_newtable(L);
    lua_replace(L, 2);
  }
  if (!lua_istable(L, 2))
    return peri__arg_type_error(L, stream->rt, 2, "table of options");
  lua_Integer low = limit_field(L, "low", -1);
  lua_Integer high =
      limit_field(L, "high", low >= 0 ? 4 * low : PERI_DEFAULT_LIMIT);
  if (low < 0)
    low = high / 4;
  if (low > high)
    return peri__arg_error(L, stream->rt, PERI_ERR_VALUE, 2,
                           "low is not above high");
  stream->high = (size_t)high;
  stream->low = (size_t)low;
  return 0;
}

static int l_get_write_buffer_size(lua_State *L)
{
  lua_pushinteger(L, (lua_Integer)peri__stream_check(L, 1)->queued);
  return 1;
}

static int l_get_write_buffer_limits(lua_State *L)
{
  peri_stream *stream = peri__stream_check(L, 1);
  lua_pushinteger(L, (lua_Integer)stream->low);
  lua_pushinteger(L, (lua_Integer)stream->high);
  return 2;
}

const luaL_Reg peri__stream_write_methods[] = {
    {"write", l_write},
    {"writelines", l_writelines},
    {"drain", l_drain},
    {"write_eof", l_write_eof},
    {"can_write_eof", l_can_write_eof},
    {"set_write_buffer_limits", l_set_write_buffer_limits},
    {"get_write_buffer_limits", l_get_write_buffer_limits},
    {"get_write_buffer_size", l_get_write_buffer_size},
    {NULL, NULL}};
