/*
 * sort.c: table.sort, so that the comparator may wait, and __lt as well.
 *
 * A merge sort from the bottom up, of a copy: while a comparison waits others
 * may change the list. Every comparison is a call with a continuation, so the
 * sort is a machine that asks one question after the other: take() moves on by
 * the answer. Elements of a list with a metatable are read and written by Lua
 * functions (perilune/yieldable.lua), since these may wait there.
 *
 * Merging, unlike the partitions of Lua's sort, cannot run out of bounds by a
 * comparator that contradicts itself. To find one nevertheless the first
 * question of a merge that is answered by yes is asked the other way round.
 */
#include <limits.h>

#include "core.h"

enum { READ = 2, WRITE = 3, STOCK = 4 }; /* upvalues */

/* Places on the stack. FROM has what is sorted in runs, TO gets longer ones. */
enum { LIST = 1, COMPARATOR = 2, MERGING = 3, FROM = 4, TO = 5 };

/* As with Lua's sort: no comparator is found to be wrong by so few elements. */
enum { TRUSTED = 3 };

typedef struct merging {
  lua_Integer n, width;     /* elements; the length of a run */
  lua_Integer left, middle; /* what is left of the left run, */
  lua_Integer right, last;  /* and of the right one */
  lua_Integer to;           /* the next place */
  bool doubted, doubting;   /* asked the other way round; asking so now */
} merging;

/* -- Less ------------------------------------------------------------------ */

static int less_k(lua_State *L, int status, lua_KContext context)
{
  (void)status, (void)context;
  lua_pushboolean(L, lua_toboolean(L, -1));
  return 1;
}

/* (a, b): a < b, whose metamethod may wait. What cannot be compared is told
 * without a place, as by Lua's sort. */
static int l_less(lua_State *L)
{
  int a = lua_type(L, 1), b = lua_type(L, 2);
  bool plain = a == b && (a == LUA_TNUMBER || a == LUA_TSTRING);
  if (plain || (luaL_getmetafield(L, 1, "__lt") == LUA_TNIL &&
                luaL_getmetafield(L, 2, "__lt") == LUA_TNIL)) {
    lua_pushboolean(L, lua_compare(L, 1, 2, LUA_OPLT));
    return 1;
  }
  lua_insert(L, 1);
  lua_callk(L, 2, 1, 0, less_k);
  return less_k(L, LUA_OK, 0);
}

/* Whether the elements are compared without a metamethod. */
static bool all_plain(lua_State *L, lua_Integer n)
{
  int type = LUA_TNONE;
  for (lua_Integer i = 1; i <= n; i++) {
    int other = lua_rawgeti(L, FROM, i);
    lua_pop(L, 1);
    if (i == 1)
      type = other;
    if (other != type || (type != LUA_TNUMBER && type != LUA_TSTRING))
      return false;
  }
  return true;
}

/* -- Writing the list ------------------------------------------------------- */

static int written(lua_State *L, int status, lua_KContext context)
{
  (void)L, (void)status, (void)context;
  return 0;
}

static int write_list(lua_State *L, const merging *m)
{
  if (!lua_getmetatable(L, LIST)) {
    for (lua_Integer i = 1; i <= m->n; i++) {
      lua_rawgeti(L, FROM, i);
      lua_rawseti(L, LIST, i);
    }
    return 0;
  }
  lua_pushvalue(L, lua_upvalueindex(WRITE));
  lua_pushvalue(L, LIST);
  lua_pushvalue(L, FROM);
  lua_pushinteger(L, m->n);
  lua_callk(L, 3, 0, 0, written);
  return 0;
}

/* -- Merging ----------------------------------------------------------------- */

static void move(lua_State *L, merging *m, lua_Integer first, lua_Integer last)
{
  for (; first <= last; first++) {
    lua_rawgeti(L, FROM, first);
    lua_rawseti(L, TO, m->to++);
  }
}

/* Two more runs to merge, or longer runs; false: all is one run. */
static bool next_merge(lua_State *L, merging *m)
{
  while (m->n - m->last <= m->width) {
    move(L, m, m->last + 1, m->n);
    lua_insert(L, FROM);
    m->width *= 2;
    m->last = 0;
    m->to = 1;
    if (m->width >= m->n)
      return false;
  }
  m->left = m->last + 1;
  m->middle = m->last + m->width;
  m->right = m->middle + 1;
  m->last = m->n - m->middle < m->width ? m->n : m->middle + m->width;
  m->doubted = m->n <= TRUSTED;
  return true;
}

/* Takes the answer on top and goes on to the next question; false: none is
 * left. */
static bool take(lua_State *L, merging *m)
{
  bool right = lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (m->doubting) {
    if (right)
      luaL_error(L, "invalid order function for sorting");
    m->doubting = false;
    right = true;
  } else if (right && !m->doubted) {
    m->doubted = m->doubting = true;
    return true;
  }
  if (right) {
    move(L, m, m->right, m->right);
    if (m->right++ < m->last)
      return true;
    move(L, m, m->left, m->middle);
  } else {
    move(L, m, m->left, m->left);
    if (m->left++ < m->middle)
      return true;
    move(L, m, m->right, m->last);
  }
  return next_merge(L, m);
}

static int asked(lua_State *L, int status, lua_KContext context);

static int merge(lua_State *L, merging *m)
{
  do {
    lua_pushvalue(L, COMPARATOR);
    lua_rawgeti(L, FROM, m->doubting ? m->left : m->right);
    lua_rawgeti(L, FROM, m->doubting ? m->right : m->left);
    lua_callk(L, 2, 1, (lua_KContext)m, asked);
  } while (take(L, m));
  return write_list(L, m);
}

static int asked(lua_State *L, int status, lua_KContext context)
{
  (void)status;
  merging *m = (merging *)context;
  return take(L, m) ? merge(L, m) : write_list(L, m);
}

/* -- Reading the list -------------------------------------------------------- */

/* Lua's own sort for what it can do; raises its error as ours. */
static int sort_plain(lua_State *L, const merging *m)
{
  lua_pushvalue(L, lua_upvalueindex(STOCK));
  lua_pushvalue(L, FROM);
  if (lua_pcall(L, 1, 0, 0) == LUA_OK)
    return write_list(L, m);
  return peri__fail(L);
}

static int read_k(lua_State *L, int status, lua_KContext context)
{
  (void)status;
  merging *m = (merging *)context;
  if (lua_isnil(L, COMPARATOR)) {
    if (all_plain(L, m->n))
      return sort_plain(L, m);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushcclosure(L, l_less, 1);
    lua_replace(L, COMPARATOR);
  }
  next_merge(L, m);
  return merge(L, m);
}

static int read_list(lua_State *L, lua_Integer n)
{
  lua_settop(L, COMPARATOR);
  merging *m = lua_newuserdatauv(L, sizeof *m, 0);
  *m = (merging){.n = n, .width = 1, .to = 1};
  lua_newtable(L);
  lua_newtable(L);
  if (!lua_getmetatable(L, LIST)) {
    for (lua_Integer i = 1; i <= n; i++) {
      lua_rawgeti(L, LIST, i);
      lua_rawseti(L, FROM, i);
    }
    return read_k(L, LUA_OK, (lua_KContext)m);
  }
  lua_settop(L, TO);
  lua_pushvalue(L, lua_upvalueindex(READ));
  lua_pushvalue(L, LIST);
  lua_pushvalue(L, FROM);
  lua_pushinteger(L, n);
  lua_callk(L, 3, 0, (lua_KContext)m, read_k);
  return read_k(L, LUA_OK, (lua_KContext)m);
}

/* -- Arguments ----------------------------------------------------------------- */

static bool has_field(lua_State *L, int table, const char *name)
{
  lua_pushstring(L, name);
  bool has = lua_rawget(L, table) != LUA_TNIL;
  lua_pop(L, 1);
  return has;
}

/* A table, or what behaves like one. */
static void check_list(lua_State *L)
{
  if (lua_type(L, LIST) == LUA_TTABLE)
    return;
  bool like_table = false;
  if (lua_getmetatable(L, LIST)) {
    int meta = lua_gettop(L);
    like_table = has_field(L, meta, "__index") &&
                 has_field(L, meta, "__newindex") &&
                 has_field(L, meta, "__len");
    lua_pop(L, 1);
  }
  if (!like_table)
    luaL_checktype(L, LIST, LUA_TTABLE);
}

/* The length is on top. */
static int measured(lua_State *L, int status, lua_KContext context)
{
  (void)status, (void)context;
  int is_integer;
  lua_Integer n = lua_tointegerx(L, -1, &is_integer);
  if (!is_integer)
    return luaL_error(L, "object length is not an integer");
  if (n <= 1)
    return 0;
  luaL_argcheck(L, n < INT_MAX, LIST, "array too big");
  if (!lua_isnil(L, COMPARATOR))
    luaL_checktype(L, COMPARATOR, LUA_TFUNCTION);
  return read_list(L, n);
}

/* sort(list [, comparator]) */
static int l_sort(lua_State *L)
{
  check_list(L);
  lua_settop(L, COMPARATOR);
  if (luaL_getmetafield(L, LIST, "__len") == LUA_TNIL) {
    lua_pushinteger(L, (lua_Integer)lua_rawlen(L, LIST));
    return measured(L, LUA_OK, 0);
  }
  lua_pushvalue(L, LIST);
  lua_pushvalue(L, LIST);
  lua_callk(L, 2, 1, 0, measured);
  return measured(L, LUA_OK, 0);
}

/* make_sort(read, write, table.sort) */
int peri__make_sort(lua_State *L)
{
  lua_settop(L, 3);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_pushcclosure(L, l_sort, 4);
  return 1;
}
