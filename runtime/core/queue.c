/*
 * queue.c: Queue, and what PriorityQueue and LifoQueue share with it.
 *
 * An item that is there, and room that is there, are taken without a trip to
 * the loop: for that each of `put` and `get` makes one comparison (room, spare),
 * and moves one value. The items of a Queue lie in user values of the object,
 * a ring; what does not fit in there stands behind it in a table, by number,
 * until the ring has room. A LifoQueue is a list in that table; the heap of a
 * PriorityQueue is an object of the library's, which has push and pop.
 *
 * A getter that was woken looks again, for another task may have been quicker,
 * and then queues at the end; one that is cancelled after it was woken passes
 * its turn on. So do putters. All of that is asyncio's.
 *
 * A queue is known by a mark in its memory, which its finaliser takes away: a
 * look at the metatable would cost a tenth of a `put`.
 */
#include "core.h"

typedef enum queue_kind { FIFO, LIFO, PRIORITY } queue_kind;

static const char *const kind_names[] = {"Queue", "LifoQueue", "PriorityQueue",
                                         NULL};

typedef struct peri_queue {
  const void *mark;
  peri_runtime *rt;
  /* Items are numbered as they come: those from head to tail are inside. */
  uint64_t head, tail;
  uint64_t spill; /* those from here on are in the table; FIFO only */
  uint64_t room;  /* so many inside let `put` just add one: 0 if it must do
                     more, as wake a getter */
  uint64_t spare; /* more inside than this let `get` just take one */
  uint64_t done;  /* marked by task_done */
  uint64_t limit; /* how many fit */
  uint32_t mask;  /* size of the ring less 1 */
  uint8_t kind;
  bool shut_down;
  peri_waiters getters, putters, joiners;
} peri_queue;

enum { UV_STORE = 1, UV_RING = 2 };
enum { SMALLEST_RING = 32, LARGEST_RING = 256 };

static const char queue_mark = 'q';

static peri_cold peri_queue *throw_no_queue(lua_State *L)
{
  peri__arg_type_error(L, peri__rt(L), 1, "Queue");
  return NULL;
}

static inline peri_queue *check_queue(lua_State *L)
{
  peri_queue *queue = lua_touserdata(L, 1);
  if (peri_unlikely(queue == NULL || lua_rawlen(L, 1) < sizeof *queue ||
                    queue->mark != &queue_mark))
    return throw_no_queue(L);
  return queue;
}

static int slot(const peri_queue *queue, uint64_t number)
{
  return UV_RING + (int)(number & queue->mask);
}

static uint64_t size(const peri_queue *queue)
{
  return queue->tail - queue->head;
}

/* -- Storing and taking ------------------------------------------------------- */

/* Says what the quick ways of put and get may do from here on. */
static void set_pace(peri_queue *queue)
{
  bool plain = queue->kind == FIFO && queue->spill == queue->tail;
  uint64_t ring = (uint64_t)queue->mask + 1;
  queue->room = 0;
  queue->spare = UINT64_MAX;
  if (plain && !queue->shut_down && peri__waiters_empty(&queue->getters))
    queue->room = queue->limit < ring ? queue->limit : ring;
  if (plain && peri__waiters_empty(&queue->putters))
    queue->spare = 0;
}

/* Calls push(heap, item) or pop(heap) of a PriorityQueue. The heap is on top of
 * the stack, with the item above. */
static void call_heap(lua_State *L, const char *method, int values, int results)
{
  lua_getfield(L, -values, method);
  lua_insert(L, -(values + 1));
  lua_call(L, values, results);
}

/* Puts the item at index 2 in. Errors leave the queue as it was. */
static void store(lua_State *L, peri_queue *queue)
{
  bool ring = queue->kind == FIFO && queue->spill == queue->tail &&
              size(queue) <= queue->mask;
  if (ring) {
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, 1, slot(queue, queue->tail));
    queue->spill++;
  } else {
    lua_getiuservalue(L, 1, UV_STORE);
    lua_pushvalue(L, 2);
    if (queue->kind == PRIORITY)
      call_heap(L, "push", 2, 0);
    else if (queue->kind == LIFO)
      lua_rawseti(L, -2, (lua_Integer)size(queue) + 1);
    else
      lua_rawseti(L, -2, (lua_Integer)queue->tail);
  }
  queue->tail++;
  lua_settop(L, 2);
}

/* Moves the first item of the table to the ring, which has room. The table is
 * at the top of the stack. */
static void refill(lua_State *L, peri_queue *queue)
{
  lua_Integer number = (lua_Integer)queue->spill;
  lua_rawgeti(L, -1, number);
  lua_setiuservalue(L, 1, slot(queue, queue->spill));
  lua_pushnil(L);
  lua_rawseti(L, -2, number);
  queue->spill++;
}

/* Pushes the next item, which is there, and takes it out. */
static void take(lua_State *L, peri_queue *queue)
{
  if (queue->kind == FIFO) {
    int place = slot(queue, queue->head);
    lua_getiuservalue(L, 1, place);
    lua_pushnil(L);
    lua_setiuservalue(L, 1, place);
    queue->head++;
    if (queue->spill == queue->tail)
      return;
    lua_getiuservalue(L, 1, UV_STORE);
    refill(L, queue);
    lua_pop(L, 1);
    return;
  }
  lua_getiuservalue(L, 1, UV_STORE);
  if (queue->kind == PRIORITY) {
    call_heap(L, "pop", 1, 1);
  } else {
    lua_Integer last = (lua_Integer)size(queue);
    lua_rawgeti(L, -1, last);
    lua_pushnil(L);
    lua_rawseti(L, -3, last);
    lua_replace(L, -2);
  }
  queue->head++;
}

/* Stores the item at index 2 and wakes a getter. */
static int add(lua_State *L, peri_queue *queue)
{
  store(L, queue);
  peri__waiters_wake(&queue->getters);
  set_pace(queue);
  return 0;
}

/* Takes an item and wakes a putter. */
static int remove_one(lua_State *L, peri_queue *queue)
{
  take(L, queue);
  peri__waiters_wake(&queue->putters);
  set_pace(queue);
  return 1;
}

static int throw_shut_down(lua_State *L, peri_queue *queue)
{
  return peri__throw(L, queue->rt, PERI_ERR_QUEUE_SHUT_DOWN, "");
}

/* -- put and get ------------------------------------------------------------------ */

static int finish(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  return lua_gettop(L) - (int)ctx;
}

/* The options at index `at` limit the wait of the method of the queue at index
 * 1: the library calls it again, in a time limit. */
static int limited(lua_State *L, peri_queue *queue, const char *method, int at)
{
  lua_settop(L, at);
  peri__check_stack(L, 12);
  peri__require(L, "perilune.queues");
  lua_getfield(L, -1, "limited");
  lua_replace(L, at + 1);
  lua_pushfstring(L, "%s.%s", kind_names[queue->kind], method);
  lua_pushinteger(L, at - 1);
  lua_pushvalue(L, at);
  lua_getfield(L, 1, method);
  for (int i = 1; i < at; i++)
    lua_pushvalue(L, i);
  lua_callk(L, at + 3, LUA_MULTRET, at, finish);
  return finish(L, LUA_OK, at);
}

static int put_slowly(lua_State *L, peri_queue *queue);

static int put_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  peri_queue *queue = (peri_queue *)ctx;
  peri__waiters_unpark(L, queue->rt);
  return put_slowly(L, queue);
}

static int put_slowly(lua_State *L, peri_queue *queue)
{
  if (queue->shut_down)
    return throw_shut_down(L, queue);
  if (size(queue) < queue->limit) {
    lua_settop(L, 2);
    return add(L, queue);
  }
  if (!lua_isnoneornil(L, 3))
    return limited(L, queue, "put", 3);
  lua_settop(L, 2);
  queue->spare = UINT64_MAX;
  peri__waiters_park(L, queue->rt, &queue->putters);
  return peri__park(L, queue->rt, (lua_KContext)queue, put_k);
}

/* queue:put(item, [options]) */
static int l_put(lua_State *L)
{
  peri_queue *queue = check_queue(L);
  if (peri_likely(size(queue) < queue->room && lua_gettop(L) == 2)) {
    lua_setiuservalue(L, 1, slot(queue, queue->tail));
    queue->spill = ++queue->tail;
    return 0;
  }
  return put_slowly(L, queue);
}

/* queue:put_nowait(item) */
static int l_put_nowait(lua_State *L)
{
  peri_queue *queue = check_queue(L);
  lua_settop(L, 2);
  if (queue->shut_down)
    return throw_shut_down(L, queue);
  if (size(queue) >= queue->limit)
    return peri__throw(L, queue->rt, PERI_ERR_QUEUE_FULL, "");
  return add(L, queue);
}

static int get_slowly(lua_State *L, peri_queue *queue);

static int get_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  peri_queue *queue = (peri_queue *)ctx;
  peri__waiters_unpark(L, queue->rt);
  return get_slowly(L, queue);
}

static int get_slowly(lua_State *L, peri_queue *queue)
{
  if (size(queue) > 0)
    return remove_one(L, queue);
  if (queue->shut_down)
    return throw_shut_down(L, queue);
  if (!lua_isnoneornil(L, 2))
    return limited(L, queue, "get", 2);
  lua_settop(L, 1);
  queue->room = 0;
  peri__waiters_park(L, queue->rt, &queue->getters);
  return peri__park(L, queue->rt, (lua_KContext)queue, get_k);
}

static inline int take_quickly(lua_State *L, peri_queue *queue)
{
  int place = slot(queue, queue->head++);
  lua_getiuservalue(L, 1, place);
  lua_pushnil(L);
  lua_setiuservalue(L, 1, place);
  return 1;
}

/* queue:get([options]) */
static int l_get(lua_State *L)
{
  peri_queue *queue = check_queue(L);
  if (peri_likely(size(queue) > queue->spare))
    return take_quickly(L, queue);
  return get_slowly(L, queue);
}

/* queue:get_nowait() */
static int l_get_nowait(lua_State *L)
{
  peri_queue *queue = check_queue(L);
  if (size(queue) > 0)
    return remove_one(L, queue);
  if (queue->shut_down)
    return throw_shut_down(L, queue);
  return peri__throw(L, queue->rt, PERI_ERR_QUEUE_EMPTY, "");
}

static int next_k(lua_State *L, int status, lua_KContext ctx);

/* The iterator of items(): as get, but a queue that is shut down ends it. */
static int next_item(lua_State *L, peri_queue *queue)
{
  if (size(queue) == 0 && queue->shut_down)
    return 0;
  if (size(queue) > 0)
    return remove_one(L, queue);
  lua_settop(L, 1);
  queue->room = 0;
  peri__waiters_park(L, queue->rt, &queue->getters);
  return peri__park(L, queue->rt, (lua_KContext)queue, next_k);
}

static int next_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  peri_queue *queue = (peri_queue *)ctx;
  peri__waiters_unpark(L, queue->rt);
  return next_item(L, queue);
}

static int l_next(lua_State *L)
{
  peri_queue *queue = check_queue(L);
  if (peri_likely(size(queue) > queue->spare))
    return take_quickly(L, queue);
  return next_item(L, queue);
}

/* queue:items() */
static int l_items(lua_State *L)
{
  check_queue(L);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushcclosure(L, l_next, 1);
  lua_pushvalue(L, 1);
  return 2;
}

static void give_up_getting(lua_State *L, peri_runtime *rt, peri_waiters *line,
                            int idx, bool woken)
{
  (void)L, (void)rt, (void)idx;
  peri_queue *queue =
      (peri_queue *)((char *)line - offsetof(peri_queue, getters));
  if (woken && size(queue) > 0)
    peri__waiters_wake(line);
  set_pace(queue);
}

static void give_up_putting(lua_State *L, peri_runtime *rt, peri_waiters *line,
                            int idx, bool woken)
{
  (void)L, (void)rt, (void)idx;
  peri_queue *queue =
      (peri_queue *)((char *)line - offsetof(peri_queue, putters));
  if (woken && size(queue) < queue->limit)
    peri__waiters_wake(line);
  set_pace(queue);
}

/* -- Counting, joining, shutting down ------------------------------------------------ */

static int l_qsize(lua_State *L)
{
  lua_pushinteger(L, (lua_Integer)size(check_queue(L)));
  return 1;
}

static int l_empty(lua_State *L)
{
  lua_pushboolean(L, size(check_queue(L)) == 0);
  return 1;
}

static int l_full(lua_State *L)
{
  peri_queue *queue = check_queue(L);
  lua_pushboolean(L, size(queue) >= queue->limit);
  return 1;
}

static void wake_all(peri_waiters *line)
{
  while (peri__waiters_wake(line))
    continue;
}

/* queue:task_done() */
static int l_task_done(lua_State *L)
{
  peri_queue *queue = check_queue(L);
  if (queue->done == queue->tail)
    return peri__throw(L, queue->rt, PERI_ERR_VALUE,
                       "task_done was called more often than items were put");
  if (++queue->done == queue->tail)
    wake_all(&queue->joiners);
  return 0;
}

static int join_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  peri__waiters_unpark(L, ((peri_queue *)ctx)->rt);
  return 0;
}

/* queue:join([options]) */
static int l_join(lua_State *L)
{
  peri_queue *queue = check_queue(L);
  if (queue->done == queue->tail)
    return 0;
  if (!lua_isnoneornil(L, 2))
    return limited(L, queue, "join", 2);
  lua_settop(L, 1);
  peri__waiters_park(L, queue->rt, &queue->joiners);
  return peri__park(L, queue->rt, (lua_KContext)queue, join_k);
}

/* Drops the items; each counts as done with. */
static void drop_items(lua_State *L, peri_queue *queue)
{
  uint64_t dropped = size(queue), left = queue->tail - queue->done;
  if (queue->kind == PRIORITY) {
    lua_getiuservalue(L, 1, UV_STORE);
    call_heap(L, "clear", 1, 0);
  } else {
    lua_newtable(L);
    lua_setiuservalue(L, 1, UV_STORE);
  }
  for (uint64_t i = queue->head; queue->kind == FIFO && i < queue->spill; i++) {
    lua_pushnil(L);
    lua_setiuservalue(L, 1, slot(queue, i));
  }
  queue->head = queue->spill = queue->tail;
  queue->done += dropped < left ? dropped : left;
  if (queue->done == queue->tail)
    wake_all(&queue->joiners);
}

/* shutdown(queue, immediate) */
static int l_shutdown(lua_State *L)
{
  peri_queue *queue = check_queue(L);
  bool immediate = lua_toboolean(L, 2);
  lua_settop(L, 1);
  if (immediate)
    drop_items(L, queue);
  queue->shut_down = true;
  wake_all(&queue->getters);
  wake_all(&queue->putters);
  set_pace(queue);
  return 0;
}

static int l_tostring(lua_State *L)
{
  peri_queue *queue = check_queue(L);
  lua_pushfstring(L, "<%s of %I item%s%s>", kind_names[queue->kind],
                  (LUAI_UACINT)size(queue), size(queue) == 1 ? "" : "s",
                  queue->shut_down ? ", shut down" : "");
  return 1;
}

static int l_gc(lua_State *L)
{
  peri_queue *queue = lua_touserdata(L, 1);
  queue->mark = NULL;
  return 0;
}

/* -- Making ------------------------------------------------------------------------------ */

static const luaL_Reg meta[] = {
    {"__tostring", l_tostring}, {"__gc", l_gc}, {NULL, NULL}};

/* Pushes the metatable of queues of a kind and size. Their methods are looked
 * up in a plain table, which is quick; so that has their one field, too. */
static void push_metatable(lua_State *L, peri_runtime *rt, queue_kind kind,
                           lua_Integer maxsize)
{
  peri__push_ref(L, rt, PERI_REF_QUEUES);
  lua_pushfstring(L, "%s %I", kind_names[kind], (LUAI_UACINT)maxsize);
  lua_pushvalue(L, -1);
  if (lua_rawget(L, -3) == LUA_TTABLE) {
    lua_replace(L, -3);
    lua_pop(L, 1);
    return;
  }
  lua_pop(L, 1);
  lua_createtable(L, 0, 7); /* 3: metatable */
  lua_pushstring(L, kind_names[kind]);
  lua_setfield(L, -2, "__name");
  lua_pushliteral(L, "perilune");
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "__module");
  lua_setfield(L, -2, "__metatable");
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, meta, 1);
  lua_createtable(L, 0, 16);
  peri__push_ref(L, rt, PERI_REF_CORE);
  lua_getfield(L, -1, "Queue");
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_rawset(L, -6);
  }
  lua_pop(L, 2);
  lua_pushinteger(L, maxsize);
  lua_setfield(L, -2, "maxsize");
  lua_setfield(L, -2, "__index");
  lua_insert(L, -3); /* metatable, table of all, key */
  lua_pushvalue(L, -3);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

/* queue(kind, maxsize, [heap]): maxsize is an integer */
static int l_queue(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  queue_kind kind = (queue_kind)luaL_checkoption(L, 1, NULL, kind_names);
  lua_Integer maxsize = luaL_checkinteger(L, 2);
  lua_settop(L, 3);
  uint32_t ring = kind == FIFO ? SMALLEST_RING : 1;
  while (kind == FIFO && ring < LARGEST_RING && (lua_Integer)ring < maxsize)
    ring *= 2;
  if (kind != PRIORITY) {
    lua_newtable(L);
    lua_replace(L, 3);
  }
  push_metatable(L, rt, kind, maxsize);
  peri_queue *queue =
      lua_newuserdatauv(L, sizeof *queue, UV_RING - 1 + (int)ring);
  *queue = (peri_queue){.mark = &queue_mark,
                        .rt = rt,
                        .mask = ring - 1,
                        .kind = (uint8_t)kind,
                        .limit = maxsize > 0 ? (uint64_t)maxsize : UINT64_MAX};
  peri__waiters_init(&queue->getters, "Queue.get", give_up_getting);
  peri__waiters_init(&queue->putters, "Queue.put", give_up_putting);
  peri__waiters_init(&queue->joiners, "Queue.join", NULL);
  set_pace(queue);
  lua_pushvalue(L, 3);
  lua_setiuservalue(L, -2, UV_STORE);
  lua_insert(L, -2);
  lua_setmetatable(L, -2);
  return 1;
}

static const luaL_Reg methods[] = {{"put", l_put},
                                   {"put_nowait", l_put_nowait},
                                   {"get", l_get},
                                   {"get_nowait", l_get_nowait},
                                   {"items", l_items},
                                   {"qsize", l_qsize},
                                   {"empty", l_empty},
                                   {"full", l_full},
                                   {"task_done", l_task_done},
                                   {"join", l_join},
                                   {NULL, NULL}};

static const luaL_Reg functions[] = {
    {"queue", l_queue}, {"queue_shutdown", l_shutdown}, {NULL, NULL}};

void peri__queue_open(lua_State *L, peri_runtime *rt)
{
  peri__register(L, rt, functions);
  peri__push_ref(L, rt, PERI_REF_CORE);
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, methods, 1);
  lua_setfield(L, -2, "Queue");
  lua_pop(L, 1);
}
