/*
 * bare.c: the children of a gather of calls (functions and coroutine objects),
 * which are bare tasks.
 *
 * Most such children do their work and are never looked at: nobody has a handle
 * of theirs. So their records lie side by side in memory of the gather's, no
 * object is made for any of them, and what they return goes straight into the
 * gather's list. In place of the task, the gather is the first argument of the
 * coroutine's root.
 *
 * Whoever asks for such a task as a Lua value (current_task, a cancellation, an
 * error) has it made into an ordinary one, then and there (peri__task_promote):
 * its record moves into a userdata, and what pointed to it follows. Whoever
 * keeps a pointer to a task while Lua code may run has to follow, too: by
 * reading rt->task anew, or by peri__task_now.
 *
 * A gather counts its children as they end; it concludes when the callback of
 * the last one is due, one trip later. The callbacks of the others would change
 * nothing, so they are not queued.
 */
#include <string.h>

#include "gather.h"
#include "inspect.h"

static peri_slot *slot_of(peri_task *task)
{
  return (peri_slot *)task;
}

/* The slots stand behind a pointer to their gather. */
typedef struct slots {
  peri_gather *gather;
  peri_slot slot[];
} slots;

static peri_gather *gather_of(peri_slot *slot)
{
  peri_slot *first = slot - (slot->index - 1);
  return ((slots *)((char *)first - offsetof(slots, slot)))->gather;
}

static size_t slots_size(const peri_gather *gather)
{
  return sizeof(slots) + gather->children * sizeof(peri_slot);
}

bool peri__slots_new(peri_gather *gather)
{
  peri_runtime *rt = gather->future.loop->rt;
  slots *made = peri__realloc(rt, NULL, 0, slots_size(gather));
  if (made == NULL)
    return false;
  made->gather = gather;
  gather->slot = made->slot;
  return true;
}

void peri__slots_free(peri_gather *gather)
{
  if (gather->slot == NULL)
    return;
  char *made = (char *)gather->slot - offsetof(slots, slot);
  peri__realloc(gather->future.loop->rt, made, slots_size(gather), 0);
  gather->slot = NULL;
}

void peri__bare_start(lua_State *L, peri_runtime *rt, peri_gather *gather,
                      int list)
{
  peri_loop *loop = gather->future.loop;
  int idx = lua_gettop(L); /* of the gather */
  peri__push_ref(L, rt, PERI_REF_ROOT);
  peri__push_ref(L, rt, PERI_REF_ROOT_HANDLER);
  for (uint32_t i = 1; i <= gather->children; i++) {
    peri_slot *slot = &gather->slot[i - 1];
    peri_task *task = &slot->task;
    slot->index = i;
    peri__task_init(rt, task, loop);
    task->flags = PERI_T_BARE;
    peri__task_take_reserved(task);
    lua_pushvalue(L, idx + 1);
    lua_pushvalue(L, idx);
    lua_pushvalue(L, idx + 2);
    if (lua_rawgeti(L, list, i) == LUA_TUSERDATA) {
      peri__coroutine_take(L, rt, -1);
      lua_remove(L, idx + 6); /* the object */
    }
    lua_xmove(L, task->co, lua_gettop(L) - (idx + 2));
    peri__task_enlist(L, task);
    peri__loop_ready(loop, &task->node);
  }
  lua_settop(L, idx);
}

peri_future *peri__bare_gather(peri_task *task)
{
  return &gather_of(slot_of(task))->future;
}

/* They were made one after the other; a record keeps its id when it moves. */
peri_task *peri__bare_find(peri_future *future, uint64_t id)
{
  peri_gather *gather = (peri_gather *)future;
  uint64_t place = gather->slot != NULL ? id - gather->slot[0].task.id : 0;
  if (gather->slot == NULL || place >= gather->children)
    return NULL;
  return peri__task_now(&gather->slot[place].task);
}

/* The task has ended; the gather concludes a trip after the last of them. */
static void count(peri_gather *gather, peri_task *task)
{
  if (++gather->ended < gather->children) {
    gather->finished++;
    return;
  }
  peri_child *last = &gather->last;
  *last = (peri_child){.future = &task->future, .gather = gather};
  last->node.kind = PERI_NODE_CHILD;
  peri__loop_ready(gather->future.loop, &last->node);
}

void peri__bare_done(lua_State *co, peri_task *task, int gather_idx, int first,
                     int values)
{
  peri_slot *slot = slot_of(task);
  task->future.state = PERI_FINISHED;
  if (values > 0 && !lua_isnil(co, first)) {
    lua_getiuservalue(co, gather_idx, PERI_UV_CHILDREN);
    lua_pushvalue(co, first);
    lua_rawseti(co, -2, slot->index);
  }
  count(gather_of(slot), task);
}

void peri__bare_lost(peri_task *task)
{
  peri_gather *gather = gather_of(slot_of(task));
  task->future.state = PERI_FINISHED;
  gather->no_memory = true;
  count(gather, task);
}

/* -- Becoming an ordinary task ----------------------------------------------- */

static void relink(peri_list *link, peri_list *moved)
{
  link->previous->next = moved;
  link->next->previous = moved;
}

/* The record has been copied from task to moved: whatever pointed to it. */
static void redirect(peri_runtime *rt, peri_task *task, peri_task *moved)
{
  peri_loop *loop = task->future.loop;
  peri__list_init(&moved->future.callbacks);
  if (task->wait == PERI_WAIT_TIMER)
    peri__timer_moved(task->clock, &task->timer, &moved->timer);
  else if (peri__node_listed(&task->node))
    relink(&task->node.link, &moved->node.link);
  if (task->flags & PERI_T_IN_LINE)
    relink(&task->turn, &moved->turn);
  if (task->previous != NULL)
    task->previous->next = moved;
  else
    loop->tasks = moved;
  if (task->next != NULL)
    task->next->previous = moved;
  else
    loop->newest = moved;
  if (rt->task == task)
    rt->task = moved;
}

/* The task is the first argument of its root from now on. It stands on top of
 * L, and stays there. */
static void replace_argument(lua_State *L, peri_task *task)
{
  lua_State *co = task->co;
  lua_Debug ar;
  if (task->flags & PERI_T_STARTED && !lua_getstack(co, 0, &ar))
    return; /* its root could not even be called */
  lua_checkstack(co, 2);
  lua_pushvalue(L, -1);
  if (co != L)
    lua_xmove(L, co, 1);
  if (!(task->flags & PERI_T_STARTED)) {
    lua_replace(co, 2);
    return;
  }
  lua_getstack(co, peri__last_level(co), &ar);
  lua_setlocal(co, &ar, PERI_ROOT_TASK);
}

void peri__task_promote(lua_State *L, peri_runtime *rt, peri_task *task)
{
  peri__check_stack(L, 8);
  peri_slot *slot = slot_of(task);
  peri_gather *gather = gather_of(slot);
  peri_task *moved = lua_newuserdatauv(L, sizeof *moved, 4);
  *moved = *task;
  moved->flags &= (uint16_t)~PERI_T_BARE;
  peri__push_ref(L, rt, PERI_REF_TASK);
  lua_setmetatable(L, -2);
  peri__push_loop(L, gather->future.loop);
  lua_setiuservalue(L, -2, PERI_UV_LOOP);
  peri__push_anchors(L, gather->future.loop);
  lua_rawgeti(L, -1, gather->anchor);
  lua_getiuservalue(L, -1, PERI_UV_CHILDREN);
  lua_pushvalue(L, -4);
  lua_rawseti(L, -2, slot->index);
  lua_pop(L, 3);
  redirect(rt, task, moved);
  replace_argument(L, moved);
  task->flags = PERI_T_MOVED;
  task->resource = moved;
  peri_child *child = &slot->child;
  *child = (peri_child){.future = &moved->future, .gather = gather};
  child->index = slot->index;
  child->node.kind = PERI_NODE_CHILD;
  peri__list_push(&moved->future.callbacks, &child->node);
}
