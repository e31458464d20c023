/*
 * list.h: intrusive, circular, doubly linked lists.
 *
 * Every queue of the runtime is one of these, so that putting something into a
 * queue allocates nothing and cannot fail, and taking it out of the middle
 * (a cancelled handle, a timer) costs the same as at the ends.
 */
#ifndef PERI_LIST_H
#define PERI_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What is to be done with a node that comes out of the ready queue. */
typedef enum peri_node_kind {
  PERI_NODE_TASK, /* a step of a task (task.c) */
  PERI_NODE_DUE,  /* a task whose sleep is over: its step is the next trip's */
  PERI_NODE_HANDLE,  /* a call_soon, call_later, call_at (handle.c) */
  PERI_NODE_LINK,    /* a done callback (future.c) */
  PERI_NODE_CHILD,   /* a child of a gather has ended (gather.c) */
  PERI_NODE_AWAITED, /* a future of a wait for several has (several.c) */
  PERI_NODE_MEMBER,  /* a future of a crew has (crew.c) */
  PERI_NODE_WATCH,   /* a descriptor or signal is ready (watch.c) */
  PERI_NODE_IO       /* a peri_io_node: something of io/ has come */
} peri_node_kind;

typedef struct peri_list {
  struct peri_list *previous, *next; /* of a list: last and first */
} peri_list;

typedef struct peri_node {
  peri_list link; /* next is NULL: in no list */
  uint8_t kind;
  uint8_t flags;
} peri_node;

static inline void peri__list_init(peri_list *list)
{
  list->previous = list->next = list;
}

static inline bool peri__list_empty(const peri_list *list)
{
  return list->next == list;
}

static inline peri_node *peri__list_first(const peri_list *list)
{
  return (peri_node *)list->next;
}

static inline void peri__list_push(peri_list *list, peri_node *node)
{
  peri_list *last = list->previous;
  node->link.previous = last;
  node->link.next = list;
  last->next = &node->link;
  list->previous = &node->link;
}

static inline bool peri__node_listed(const peri_node *node)
{
  return node->link.next != NULL;
}

static inline void peri__node_unlink(peri_node *node)
{
  node->link.previous->next = node->link.next;
  node->link.next->previous = node->link.previous;
  node->link.next = NULL;
}

/* Takes the first node out; the list must not be empty. */
static inline peri_node *peri__list_shift(peri_list *list)
{
  peri_node *node = peri__list_first(list);
  list->next = node->link.next;
  list->next->previous = list;
  node->link.next = NULL;
  return node;
}

/* Moves all of from to the end of to. */
static inline void peri__list_splice(peri_list *to, peri_list *from)
{
  if (peri__list_empty(from))
    return;
  from->next->previous = to->previous;
  from->previous->next = to;
  to->previous->next = from->next;
  to->previous = from->previous;
  peri__list_init(from);
}

/* Moves nodes that others have pushed onto a stack, linked by link.next with the
 * last one first, to the end of a list in the order they came. How many. */
static inline size_t peri__list_take_stack(peri_list *to, peri_node *node)
{
  size_t n = 0;
  peri_list taken; /* in front of what is in it: the last one comes first */
  peri__list_init(&taken);
  for (; node != NULL; n++) {
    peri_node *next = (peri_node *)node->link.next;
    node->link.next = taken.next;
    node->link.previous = &taken;
    taken.next->previous = &node->link;
    taken.next = &node->link;
    node = next;
  }
  peri__list_splice(to, &taken);
  return n;
}

#endif
