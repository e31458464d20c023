/*
 * queue, the floors: a ring of values in a Lua table, filled and emptied by two
 * Lua loops that call C functions and yield only when it is full or empty. The
 * queue is an object: the functions find ring and table in their first argument.
 *
 *   floor function|method CAPACITY ITEMS
 *
 * function  the loops call put(q, i) and get(q)
 * method    the loops call q:put(i) and q:get(), which look the name up each time
 */
#include "bench.h"

typedef struct ring {
  lua_Integer capacity, count;
  lua_Integer head, tail; /* slots 1 to capacity */
} ring;

static lua_Integer next_slot(const ring *r, lua_Integer slot)
{
  return slot == r->capacity ? 1 : slot + 1;
}

static int put_ready(lua_State *L, int status, lua_KContext ctx)
{
  ring *r = lua_touserdata(L, 1);
  (void)status;
  (void)ctx;
  if (r->count == r->capacity)
    return lua_yieldk(L, 0, 0, put_ready);
  r->count++;
  lua_getiuservalue(L, 1, 1);
  lua_pushvalue(L, 2);
  lua_rawseti(L, -2, r->tail);
  r->tail = next_slot(r, r->tail);
  return 0;
}

static int l_put(lua_State *L)
{
  return put_ready(L, LUA_OK, 0);
}

static int get_ready(lua_State *L, int status, lua_KContext ctx)
{
  ring *r = lua_touserdata(L, 1);
  (void)status;
  (void)ctx;
  if (r->count == 0)
    return lua_yieldk(L, 0, 0, get_ready);
  r->count--;
  lua_getiuservalue(L, 1, 1);
  lua_rawgeti(L, -1, r->head);
  r->head = next_slot(r, r->head);
  return 1;
}

static int l_get(lua_State *L)
{
  return get_ready(L, LUA_OK, 0);
}

static const char *const FUNCTIONS =
    "local q = ...\n"
    "local put, get = q.put, q.get\n"
    "return function(n) for i = 1, n do put(q, i) end end,\n"
    "function(n)\n"
    "  local s = 0\n"
    "  for _ = 1, n do s = s + get(q) end\n"
    "  return s\n"
    "end\n";

static const char *const METHODS =
    "local q = ...\n"
    "return function(n) for i = 1, n do q:put(i) end end,\n"
    "function(n)\n"
    "  local s = 0\n"
    "  for _ = 1, n do s = s + q:get() end\n"
    "  return s\n"
    "end\n";

/* Leaves a userdata with the methods put and get. */
static void push_queue(lua_State *L, lua_Integer capacity)
{
  static const luaL_Reg methods[] = {{"put", l_put}, {"get", l_get}, {0}};
  ring *r = lua_newuserdatauv(L, sizeof *r, 1);
  *r = (ring){.capacity = capacity, .head = 1, .tail = 1};
  lua_createtable(L, (int)capacity, 0);
  lua_setiuservalue(L, -2, 1);
  lua_createtable(L, 0, 1);
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
}

int main(int argc, char **argv)
{
  lua_Integer items = bench_arg(argc, argv, 3);
  const char *code = strcmp(argv[1], "method") == 0 ? METHODS : FUNCTIONS;
  lua_State *L = bench_state();
  lua_State *producer = lua_newthread(L), *consumer = lua_newthread(L);
  double start;
  int nres, status;

  BENCH_CHECK(luaL_loadstring(L, code) == LUA_OK);
  push_queue(L, bench_arg(argc, argv, 2));
  BENCH_CHECK(lua_pcall(L, 1, 2, 0) == LUA_OK);
  lua_xmove(L, consumer, 1);
  lua_xmove(L, producer, 1);
  lua_pushinteger(producer, items);
  lua_pushinteger(consumer, items);
  start = bench_now();
  lua_resume(producer, L, 1, &nres);
  status = lua_resume(consumer, L, 1, &nres);
  while (status == LUA_YIELD) {
    lua_resume(producer, L, 0, &nres);
    status = lua_resume(consumer, L, 0, &nres);
  }
  start = bench_now() - start;
  BENCH_CHECK(status == LUA_OK);
  BENCH_CHECK(lua_tointeger(consumer, -1) == items * (items + 1) / 2);
  printf("ns %.2f\n", start / (double)items);
  return 0;
}
