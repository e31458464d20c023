/*
 * crew.c: futures in whose endings a scope has a share: what map, race and
 * as_completed wait for, one after the other, and the tasks of a task group.
 *
 * Each member has a node among its future's callbacks. In the trip of a callback
 * the member is moved from those that run to those that have ended, and whoever
 * waits is woken. So nothing needs memory once a member has been added, and for
 * that there is a place before it is made (crew_room): no task is started that
 * nobody would wait for.
 *
 * The crew of a task group is strict: the first failure cancels the others and,
 * if it has not come to the end of its block, the parent. Only those that failed
 * are kept.
 *
 * While members run the crew is anchored in its loop, in a place reserved before.
 */
#include "crew.h"

/* A crew's user values; the group is a table of the library's. */
enum { CREW_MEMBERS = 1, CREW_GROUP = 2, CREW_UVS };

typedef struct peri_member {
  peri_node node;
  peri_list order; /* among those that run, or have ended */
  peri_crew *crew;
  peri_future *future;
  int place;         /* in the table of members */
  lua_Integer index; /* of the script's list */
} peri_member;

static const char *const crew_names[] = {
    "map", "race", "gather", "as_completed", "end of TaskGroup", NULL};

enum { GROUP_NAME = 4 };

bool peri__is_crew(lua_State *L, peri_runtime *rt, int idx)
{
  if (lua_type(L, idx) != LUA_TUSERDATA || !lua_getmetatable(L, idx))
    return false;
  bool is = lua_topointer(L, -1) == rt->meta_crew;
  lua_pop(L, 1);
  return is;
}

static peri_crew *check_crew(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  if (peri_unlikely(!peri__is_crew(L, rt, 1)))
    peri__arg_type_error(L, rt, 1, "crew");
  return lua_touserdata(L, 1);
}

static peri_member *member_of(peri_list *order)
{
  return (peri_member *)((char *)order - offsetof(peri_member, order));
}

peri_loop *peri__crew_loop(const peri_node *node)
{
  return ((const peri_member *)node)->crew->loop;
}

static void enqueue(peri_list *list, peri_member *member)
{
  member->order.previous = list->previous;
  member->order.next = list;
  list->previous->next = &member->order;
  list->previous = &member->order;
}

static void dequeue(peri_member *member)
{
  member->order.previous->next = member->order.next;
  member->order.next->previous = member->order.previous;
}

/* -- Anchors ---------------------------------------------------------------------- */

static void anchor(lua_State *L, peri_crew *crew, int idx)
{
  peri__push_anchors(L, crew->loop);
  if (idx != 0)
    lua_pushvalue(L, idx);
  else
    lua_pushboolean(L, false);
  lua_rawseti(L, -2, crew->anchor);
  lua_pop(L, 1);
}

/* One member less runs. */
static void count_down(lua_State *L, peri_crew *crew)
{
  if (--crew->live == 0 && crew->anchor != LUA_NOREF)
    anchor(L, crew, 0);
}

void peri__crew_forget(lua_State *L, peri_runtime *rt, int idx)
{
  if (!peri__is_crew(L, rt, idx))
    return;
  peri_crew *crew = lua_touserdata(L, idx);
  for (peri_list *o = crew->running.next; o != &crew->running; o = o->next)
    if (peri__node_listed(&member_of(o)->node))
      peri__node_unlink(&member_of(o)->node);
  peri__list_init(&crew->running);
  crew->live = 0;
  crew->anchor = LUA_NOREF;
}

static int l_gc(lua_State *L)
{
  peri_crew *crew = lua_touserdata(L, 1);
  if (crew->anchor != LUA_NOREF && !crew->loop->closed)
    peri__unanchor(L, crew->loop, crew->anchor);
  return 0;
}

/* -- Making and adding ------------------------------------------------------------- */

/* crew(what, [group]): of the running loop; with a group it is strict */
static int l_crew(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  int what = luaL_checkoption(L, 1, NULL, crew_names);
  peri_loop *loop = peri__running_loop(rt);
  lua_settop(L, 2);
  if (loop == NULL)
    return peri__throw(L, rt, PERI_ERR_RUNTIME, "no running event loop");
  peri_crew *crew = lua_newuserdatauv(L, sizeof *crew, CREW_UVS - 1);
  *crew = (peri_crew){
      .loop = loop, .anchor = LUA_NOREF, .strict = what == GROUP_NAME};
  peri__list_init(&crew->running);
  peri__list_init(&crew->ended);
  peri__waiters_init(&crew->line, crew_names[what], NULL);
  lua_newtable(L);
  lua_setiuservalue(L, 3, CREW_MEMBERS);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, 3, CREW_GROUP);
  peri__push_ref(L, rt, PERI_REF_CREW);
  lua_setmetatable(L, 3);
  lua_pushboolean(L, false);
  crew->anchor = peri__anchor(L, loop);
  return 1;
}

static void make_room(lua_State *L, peri_crew *crew)
{
  if (crew->spare != NULL)
    return;
  peri_member *member = lua_newuserdatauv(L, sizeof *member, 1);
  *member = (peri_member){.crew = crew};
  member->node.kind = PERI_NODE_MEMBER;
  lua_getiuservalue(L, 1, CREW_MEMBERS);
  lua_insert(L, -2);
  member->place = luaL_ref(L, -2);
  lua_pop(L, 1);
  crew->spare = member;
}

/* crew_room(crew): before what is to be added is made */
static int l_room(lua_State *L)
{
  make_room(L, check_crew(L));
  return 0;
}

static void member_ended(lua_State *L, peri_runtime *rt, int crew_idx,
                         peri_member *member);

/* crew_add(crew, future, [index]) */
static int l_add(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_crew *crew = check_crew(L);
  peri_future *future = peri__check_future(L, rt, 2);
  lua_settop(L, 3);
  make_room(L, crew);
  peri_member *member = crew->spare;
  crew->spare = NULL;
  member->future = future;
  member->index = lua_tointeger(L, 3);
  lua_getiuservalue(L, 1, CREW_MEMBERS);
  lua_rawgeti(L, -1, member->place);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, -2, 1);
  enqueue(&crew->running, member);
  if (crew->live++ == 0)
    anchor(L, crew, 1);
  if (future->state == PERI_PENDING)
    peri__list_push(&future->callbacks, &member->node);
  else if (crew->strict) /* an eager task is counted at once */
    member_ended(L, rt, 1, member);
  else
    peri__loop_ready(crew->loop, &member->node);
  return 0;
}

/* -- Ending ------------------------------------------------------------------------ */

/* Pushes the future of a member, whose crew is at an index. */
static void push_future(lua_State *L, int crew_idx, const peri_member *member)
{
  lua_getiuservalue(L, crew_idx, CREW_MEMBERS);
  lua_rawgeti(L, -1, member->place);
  lua_getiuservalue(L, -1, 1);
  lua_replace(L, -3);
  lua_pop(L, 1);
}

/* The member is in no list any more, and may be garbage. */
static void forget(lua_State *L, int crew_idx, const peri_member *member)
{
  lua_getiuservalue(L, crew_idx, CREW_MEMBERS);
  luaL_unref(L, -1, member->place);
  lua_pop(L, 1);
}

void peri__crew_cancel_all(lua_State *L, peri_runtime *rt, int crew_idx)
{
  peri_crew *crew = lua_touserdata(L, crew_idx);
  peri_list *o = crew->running.next;
  for (; o != &crew->running; o = o->next) {
    peri_member *member = member_of(o);
    if (member->future->state != PERI_PENDING)
      continue;
    push_future(L, crew_idx, member);
    peri__future_cancel(L, rt, lua_gettop(L), 0);
    lua_pop(L, 1);
  }
}

/* [future, runtime]: the context of the report of a failure that comes when the
 * group has raised all that it had to. */
static int build_late(lua_State *L)
{
  peri_runtime *rt = lua_touserdata(L, 2);
  lua_createtable(L, 0, 4);
  lua_pushliteral(L, "a task failed after the end of its task group");
  lua_setfield(L, -2, "message");
  peri__future_push_error(L, rt, 1);
  lua_setfield(L, -2, "exception");
  lua_pushvalue(L, 1);
  lua_setfield(L, -2, "task");
  peri__debug_tell_source(L, rt, 1);
  return 1;
}

bool peri__scope_flag(lua_State *L, int scope, const char *field)
{
  lua_pushstring(L, field);
  lua_rawget(L, scope);
  bool flag = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return flag;
}

void peri__scope_set_flag(lua_State *L, int scope, const char *field)
{
  lua_pushstring(L, field);
  lua_pushboolean(L, true);
  lua_rawset(L, scope);
}

/* A task of a group has failed. Its parent, and whether the group has ended, are
 * fields of the group. */
static void fail_group(lua_State *L, peri_runtime *rt, int crew_idx,
                       peri_member *member)
{
  peri_crew *crew = lua_touserdata(L, crew_idx);
  int group = lua_gettop(L) + 1, parent = group + 1;
  push_future(L, crew_idx, member);
  peri__future_retrieved(L, group);
  lua_getiuservalue(L, crew_idx, CREW_GROUP);
  lua_insert(L, group);
  lua_pushliteral(L, "_parent");
  lua_rawget(L, group);
  lua_insert(L, parent); /* group, parent, future */
  peri_future *task = peri__to_future(L, rt, parent);
  if (peri__scope_flag(L, group, "_ended") || task == NULL ||
      task->state != PERI_PENDING) {
    lua_pushlightuserdata(L, rt);
    peri__report_built(L, rt, crew->loop, build_late, 2,
                       "a task failed after the end of its task group");
    forget(L, crew_idx, member);
  } else {
    enqueue(&crew->ended, member);
    if (!peri__scope_flag(L, group, "_aborting") &&
        !peri__scope_flag(L, group, "_parent_cancelled")) {
      rt->cancel_lacks_memory = false;
      peri__scope_set_flag(L, group, "_aborting");
      peri__crew_cancel_all(L, rt, crew_idx);
      peri__scope_set_flag(L, group, "_parent_cancelled");
      peri__future_cancel(L, rt, parent, 0);
    }
  }
  lua_settop(L, group - 1);
}

static void member_ended(lua_State *L, peri_runtime *rt, int crew_idx,
                         peri_member *member)
{
  peri_crew *crew = lua_touserdata(L, crew_idx);
  dequeue(member);
  if (!crew->strict)
    enqueue(&crew->ended, member);
  else if (member->future->state == PERI_FAILED)
    fail_group(L, rt, crew_idx, member);
  else
    forget(L, crew_idx, member);
  count_down(L, crew);
  if (crew->live == 0 || !crew->strict)
    peri__waiters_wake(&crew->line);
}

/* The callback of a member's future. */
void peri__crew_member(lua_State *L, peri_runtime *rt, peri_node *node)
{
  peri_member *member = (peri_member *)node;
  peri_crew *crew = member->crew;
  int top = lua_gettop(L);
  peri__push_anchors(L, crew->loop);
  lua_rawgeti(L, -1, crew->anchor);
  lua_replace(L, -2);
  member_ended(L, rt, top + 1, member);
  lua_settop(L, top);
}

/* -- Waiting ----------------------------------------------------------------------- */

static int next_k(lua_State *L, int status, lua_KContext ctx);

/* [crew] -> future, index; nothing: there is none left; false: the time is up */
static int next(lua_State *L, peri_runtime *rt)
{
  peri_crew *crew = lua_touserdata(L, 1);
  if (!peri__list_empty(&crew->ended)) {
    peri_member *member = member_of(crew->ended.next);
    dequeue(member);
    push_future(L, 1, member);
    lua_pushinteger(L, member->index);
    forget(L, 1, member);
    return 2;
  }
  if (crew->live == 0)
    return 0;
  if (crew->late) {
    lua_pushboolean(L, false);
    return 1;
  }
  peri__waiters_park(L, rt, &crew->line);
  return peri__park(L, rt, 0, next_k);
}

static int next_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  peri_runtime *rt = peri__rt(L);
  peri__waiters_unpark(L, rt);
  return next(L, rt);
}

/* crew_next(crew): the next one to end */
static int l_next(lua_State *L)
{
  check_crew(L);
  lua_settop(L, 1);
  return next(L, peri__rt(L));
}

/* -- Asking and telling ------------------------------------------------------------ */

/* crew_live(crew) -> how many run */
static int l_live(lua_State *L)
{
  lua_pushinteger(L, check_crew(L)->live);
  return 1;
}

/* crew_cancel(crew): those that run, in the order of adding */
static int l_cancel(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  check_crew(L);
  lua_settop(L, 1);
  rt->cancel_lacks_memory = rt->cancel_too_deep = false;
  peri__crew_cancel_all(L, rt, 1);
  if (rt->cancel_lacks_memory)
    peri__no_memory(L);
  if (rt->cancel_too_deep)
    peri__throw(L, rt, PERI_ERR_RUNTIME, "cancel: gathers are nested too deep");
  return 0;
}

/* crew_running(crew) -> a list of those that have not ended */
static int l_running(lua_State *L)
{
  peri_crew *crew = check_crew(L);
  lua_settop(L, 1);
  lua_createtable(L, (int)crew->live, 0);
  lua_Integer n = 0;
  for (peri_list *o = crew->running.next; o != &crew->running; o = o->next) {
    push_future(L, 1, member_of(o));
    lua_rawseti(L, 2, ++n);
  }
  return 1;
}

/* crew_failures(crew) -> the errors of those that failed, and their tasks, in
 * the order of failing */
static int l_failures(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri_crew *crew = check_crew(L);
  lua_settop(L, 1);
  lua_newtable(L);
  lua_newtable(L);
  lua_Integer n = 0;
  for (peri_list *o = crew->ended.next; o != &crew->ended; o = o->next) {
    push_future(L, 1, member_of(o));
    peri__future_push_error(L, rt, 4);
    lua_rawseti(L, 2, ++n);
    lua_rawseti(L, 3, n);
  }
  return 2;
}

void peri__crew_skip(lua_State *L, int crew_idx)
{
  peri_crew *crew = lua_touserdata(L, crew_idx);
  while (!peri__list_empty(&crew->ended)) {
    peri_member *member = member_of(crew->ended.next);
    dequeue(member);
    forget(L, crew_idx, member);
  }
}

/* crew_leave(crew): has nothing to do with those that run any more */
static int l_leave(lua_State *L)
{
  peri_crew *crew = check_crew(L);
  while (!peri__list_empty(&crew->running)) {
    peri_member *member = member_of(crew->running.next);
    dequeue(member);
    if (peri__node_listed(&member->node))
      peri__node_unlink(&member->node);
    forget(L, 1, member);
    count_down(L, crew);
  }
  return 0;
}

static void time_is_up(lua_State *L, peri_runtime *rt)
{
  peri_crew *crew = lua_touserdata(L, -1);
  (void)rt;
  crew->late = true;
  peri__waiters_wake_all(&crew->line);
}

/* crew_limit(loop, seconds, crew) -> handle */
static int l_limit(lua_State *L)
{
  lua_settop(L, 3);
  return peri__call_later_native(L, time_is_up);
}

static const luaL_Reg functions[] = {{"crew", l_crew},
                                     {"crew_room", l_room},
                                     {"crew_add", l_add},
                                     {"crew_next", l_next},
                                     {"crew_live", l_live},
                                     {"crew_cancel", l_cancel},
                                     {"crew_running", l_running},
                                     {"crew_failures", l_failures},
                                     {"crew_leave", l_leave},
                                     {"crew_limit", l_limit},
                                     {NULL, NULL}};

static const luaL_Reg meta[] = {{"__gc", l_gc}, {NULL, NULL}};

void peri__crew_open(lua_State *L, peri_runtime *rt)
{
  rt->meta_crew = peri__metatable(L, rt, PERI_REF_CREW, "crew", meta, NULL);
  lua_pop(L, 1);
  peri__register(L, rt, functions);
  peri__scope_open(L, rt);
}
