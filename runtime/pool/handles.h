/*
 * handles.h: what stands in one state for a value of another. The essay is in
 * handles.c.
 */
#ifndef PERI_HANDLES_H
#define PERI_HANDLES_H

#include "pool/decoder.h"
#include "pool/encoder.h"

/* A Ref (a value that its state keeps; in other states a token) and a LoopHandle:
 * userdata that look the same. */
typedef struct peri__handle {
  uint64_t home; /* the state that has what it stands for, */
  uint64_t id;   /* and what that is there */
  uint64_t
      peer; /* LoopHandle: serial of the peer behind which home is; 0: none */
} peri__handle;

/* Writes the value on top and pops it, if it is a loop, a LoopHandle or a Ref. */
bool peri__put_handle(encoder *e);
/* Behind TAG_REFERENCE or TAG_LOOP: pushes what it means here. */
void peri__get_handle(decoder *d, int tag);

/* What a note is about. */
typedef enum peri__note_kind {
  PERI__NOTE_CALL = 1, /* call_soon_threadsafe */
  PERI__NOTE_RUN,      /* run_coroutine_threadsafe; answered by one of these: */
  PERI__NOTE_RETURNED,
  PERI__NOTE_RAISED,
  PERI__NOTE_CANCELLED,
  PERI__NOTE_CANCEL, /* the future of a RUN was cancelled */
  PERI__NOTE_LOG     /* of a worker, for the owner's log; request: the level */
} peri__note_kind;

/* ref(value) */
int peri__handle_ref(lua_State *L);
/* where(handle) -> peer, home, id of a LoopHandle; nothing: it is none */
int peri__handle_where(lua_State *L);
/* send(peer, kind, request, home, id, values ...): a note. Raises TypeError for
 * values that cannot be sent, RuntimeError if the peer is closed. */
int peri__handle_send(lua_State *L);
/* Pushes the table of LoopHandle's methods. */
void peri__handle_methods(lua_State *L);

#endif
