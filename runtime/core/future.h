/*
 * future.h: futures, and what is made of several of them.
 */
#ifndef PERI_FUTURE_H
#define PERI_FUTURE_H

#include "base.h"

enum {
  PERI_UV_RESULT = 1, /* result, error, cancel message */
  PERI_UV_LINKS = 2,  /* callbacks while pending, the trace once failed */
  PERI_UV_LOOP = 3,
  PERI_UV_CONTEXT = 4, /* tasks only */
  PERI_UV_CHILDREN = 4 /* gathers only */
};

typedef enum peri_future_state {
  PERI_PENDING,
  PERI_FINISHED,
  PERI_FAILED,
  PERI_CANCELLED
} peri_future_state;

typedef enum peri_future_kind {
  PERI_KIND_FUTURE,
  PERI_KIND_TASK,
  PERI_KIND_GATHER,
  PERI_KIND_JOB /* of a pool (pool/) */
} peri_future_kind;

enum {
  PERI_F_RETRIEVED = 1 << 0,   /* somebody saw the error */
  PERI_F_LINKS = 1 << 1,       /* has callbacks of Lua's */
  PERI_F_SEEN = 1 << 3,        /* a task that scripts may have got hold of */
  PERI_F_CANCELLING = 1 << 4,  /* a gather whose children are being cancelled */
  PERI_F_MARKED = 1 << 5,      /* for the length of a C function */
  PERI_F_ERROR_OBJECT = 1 << 2 /* cancelled: the result is the error itself */
};

struct peri_future {
  peri_list callbacks; /* nodes to make ready when done, in order */
  peri_loop *loop; /* NULL: a job's that belongs to none; its callbacks are made
                      ready in their own loops */
  int results;     /* finished: how many; several stand in a table */
  uint8_t kind, state, flags;
};

/* future.c */
void peri__future_open(lua_State *L, peri_runtime *rt);
/* The future, task or gather at idx, or NULL. */
peri_future *peri__to_future(lua_State *L, peri_runtime *rt, int idx);
peri_future *peri__check_future(lua_State *L, peri_runtime *rt, int arg);
/* Initialises the head of a userdata on top of the stack. The loop is at
 * loop_idx. */
void peri__future_init(peri_future *future, peri_future_kind kind,
                       peri_loop *loop);
peri_future *peri__future_new(lua_State *L, peri_runtime *rt, peri_loop *loop,
                              int loop_idx);
/* The value(s) on top of the stack become the result of the pending future at
 * idx, and are popped. */
void peri__future_resolve(lua_State *L, peri_runtime *rt, int idx, int n);
/* The same in two steps, of which only the first needs memory. n values (> 1)
 * become a table; idx is no relative index. */
void peri__future_pack(lua_State *L, int n);
void peri__future_resolve_packed(lua_State *L, int idx, int n);
void peri__future_reject(lua_State *L, peri_runtime *rt, int idx);
/* Ends the pending future at idx as cancelled; the message or error object on
 * top of the stack is popped. */
void peri__future_settle_cancelled(lua_State *L, peri_runtime *rt, int idx,
                                   bool is_object);
/* Keeps the message at message_idx (0: none) for the CancelledError to come of the
 * pending future at idx. */
static inline void peri__future_keep_message(lua_State *L, int idx,
                                             int message_idx)
{
  if (message_idx != 0)
    lua_pushvalue(L, message_idx);
  else
    lua_pushnil(L);
  lua_setiuservalue(L, idx, PERI_UV_RESULT);
}

/* cancel() of any kind of future; message at message_idx (0: none). */
bool peri__future_cancel(lua_State *L, peri_runtime *rt, int idx,
                         int message_idx);
/* What a script calls: as above, and raises if gathers are nested so deep that
 * not all could be cancelled. */
bool peri__future_cancel_checked(lua_State *L, peri_runtime *rt, int idx,
                                 int message_idx);
/* Pushes what the done future at idx holds, or raises it: await, result. */
int peri__future_return(lua_State *L, peri_runtime *rt, int idx);
/* Pushes the error of a failed or cancelled future at idx. */
void peri__future_push_error(lua_State *L, peri_runtime *rt, int idx);
/* The trace of the failed future at idx goes with its error, which is at another
 * index, to whoever raises that next, or fails with it. */
void peri__future_carry_trace(lua_State *L, peri_runtime *rt, int idx,
                              int error);
/* The error of the done future at idx has been seen, or is not wanted. */
void peri__future_retrieved(lua_State *L, int idx);
void peri__unseen_report(lua_State *L, peri_runtime *rt, peri_loop *loop);

/* link.c */
void peri__link_open(lua_State *L, peri_runtime *rt);
int peri__add_done_callback(lua_State *L); /* methods of futures */
int peri__remove_done_callback(lua_State *L);
/* Anchors the links of the done future at idx, and gives it to them. */
void peri__links_anchor(lua_State *L, peri_future *future, int idx);
/* The same for a future without a loop, in two steps: before it is made done the
 * inline callbacks are taken from it, and pushed (nil: none); when it is, they
 * are called, and popped. Neither needs memory. */
void peri__links_take(lua_State *L, peri_future *future, int idx);
void peri__links_call(lua_State *L, peri_runtime *rt);
/* As take, of any future: nil if it belongs to a loop, which calls them. */
void peri__links_hold(lua_State *L, int idx);
peri_loop *peri__link_loop(const peri_node *node);
/* A method of such futures: fn(future) is called where the future becomes done,
 * or here and now if it is done. */
int peri__add_inline_callback(lua_State *L);
/* The link will not be called. */
void peri__link_drop(peri_node *node);
void peri__link_run(lua_State *L, peri_runtime *rt, peri_node *node);
/* Pushes the callback of a link, and nil; returns what it is, as text. */
const char *peri__link_push(lua_State *L, peri_runtime *rt, peri_node *node);

/* gather.c */
/* The loop of the gather at idx, if it is one, closes. */
void peri__gather_forget(lua_State *L, peri_runtime *rt, int idx);
void peri__gather_open(lua_State *L, peri_runtime *rt);
void peri__gather_child(lua_State *L, peri_runtime *rt, peri_node *node);
/* A child has become done: its callback, this node, is due in the next round. */
void peri__child_ended(peri_node *node);
peri_loop *peri__child_loop(const peri_node *node);
bool peri__gather_cancel(lua_State *L, peri_runtime *rt, int idx,
                         int message_idx);

/* several.c */
/* A future of a wait for several has ended. */
void peri__several_ended(peri_node *node);
peri_loop *peri__several_loop(const peri_node *node);
/* The wait of the task is over. */
void peri__several_abandon(peri_task *task);
void peri__several_open(lua_State *L, peri_runtime *rt);

/* crew.c: futures whose endings a scope has a share in */
void peri__crew_open(lua_State *L, peri_runtime *rt);
void peri__crew_member(lua_State *L, peri_runtime *rt, peri_node *node);
peri_loop *peri__crew_loop(const peri_node *node);
/* The loop of the crew at idx, if it is one, closes. */
void peri__crew_forget(lua_State *L, peri_runtime *rt, int idx);

#endif
