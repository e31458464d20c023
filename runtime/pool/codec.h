/*
 * codec.h: Lua values as messages between Lua states. The essay is in codec.c.
 */
#ifndef PERI_CODEC_H
#define PERI_CODEC_H

#include "core/core.h"
#include "pool/blocks.h"

/* -- Messages (message.c): any thread, one at a time ------------------------- */

/* Bytes that grow. The memory is malloc's, not a state's, because a message is
 * written in one thread and read and freed in another; or, if it was given blocks
 * and has a capacity above PERI__BLOCK_LEAST, it is one of these. A buffer of
 * zeros is an empty one. */
typedef struct peri__buffer {
  char *data;
  size_t length, capacity;
  peri__blocks *blocks; /* where it grows large, or NULL */
} peri__buffer;

/* Memory that is kept for what comes next, at most; what is larger is given back
 * after use. */
enum { PERI__BUFFER_KEPT = 4 << 20 };

/* Room for more bytes after length: 0 or PERI_ENOMEM. */
int peri__buffer_reserve(peri__buffer *buffer, size_t more);
/* Has no bytes any more; the memory is kept, but not a large one or a block. */
void peri__buffer_empty(peri__buffer *buffer);
void peri__buffer_fini(peri__buffer *buffer);
/* An empty one is to grow into these from now on. */
void peri__buffer_use(peri__buffer *buffer, peri__blocks *blocks);
static inline void peri__buffer_swap(peri__buffer *one, peri__buffer *other)
{
  peri__buffer buffer = *one;
  *one = *other;
  *other = buffer;
}

/* The bytecode of one function. Never changes, so that any thread may read it,
 * and is freed with its last reference. Its address says which it is: whoever
 * keeps something by the address keeps a reference as well. */
typedef struct peri__chunk {
  atomic_uint references;
  uint32_t length;
  size_t lent; /* its maker's, see peri__chunk_lend */
  char code[];
} peri__chunk;

/* With one reference, the caller's; NULL: no memory. */
peri__chunk *peri__chunk_new(const char *code, size_t length);
void peri__chunk_ref(peri__chunk *chunk);
void peri__chunk_unref(peri__chunk *chunk); /* NULL is allowed */
/* A reference, on the thread of the state that has made it, without atomics: all
 * that are lent have one together. */
static inline void peri__chunk_lend(peri__chunk *chunk)
{
  if (chunk->lent++ == 0)
    peri__chunk_ref(chunk);
}
static inline void peri__chunk_give_back(peri__chunk *chunk)
{
  if (--chunk->lent == 0)
    peri__chunk_unref(chunk);
}

enum { PERI__MESSAGE_CHUNKS = 32 /* in one message, at most */ };

/* The bytes, and the chunks that they name by number, from 0: bytes and chunks
 * are all there is to carry. A message of zeros is an empty one. */
typedef struct peri__message {
  peri__buffer bytes;
  peri__chunk **chunks; /* a reference to each */
  uint32_t chunk_count, chunk_capacity;
} peri__message;

/* Appends a chunk, with a reference of its own: 0 or PERI_ENOMEM. */
int peri__message_add_chunk(peri__message *message, peri__chunk *chunk);
/* Empties it for the next one. */
void peri__message_clear(peri__message *message);
void peri__message_fini(peri__message *message);

/* Chunks on the way between processes (message.c). Either end keeps one of
 * these for a direction. A chunk has a place in it, a number below
 * PERI__CHUNK_PLACES; its code is sent once, with that number, before the first
 * message that names it, and messages carry numbers in place of chunks. A place
 * is used again for another chunk: what was there is forgotten, by the receiver
 * when the new code comes. All zeros: nothing is there. */
enum { PERI__CHUNK_PLACES = 128 };

typedef struct peri__chunk_places {
  peri__chunk *chunks[PERI__CHUNK_PLACES];
  uint32_t used[PERI__CHUNK_PLACES]; /* by which message, the last time */
  uint32_t message, hand, last;
} peri__chunk_places;

/* Sender: whether it is the one that had its place last, and is there still. */
bool peri__chunk_known(const peri__chunk_places *places,
                       const peri__chunk *chunk, unsigned *place);
/* Sender: the message's chunks are placed next; then, for each of them in turn,
 * its place. *fresh: its code is to be sent, ahead of the message. Places of
 * this message are not used again before the next begins. */
void peri__chunk_places_begin(peri__chunk_places *places);
unsigned peri__chunk_place(peri__chunk_places *places, peri__chunk *chunk,
                           bool *fresh);
/* Receiver: code has come for a place; 0, PERI_EINVAL (no such place) or
 * PERI_ENOMEM. Then the chunk at a place, borrowed, NULL: none. */
int peri__chunk_arrived(peri__chunk_places *places, unsigned place,
                        const char *code, size_t length);
peri__chunk *peri__chunk_at(const peri__chunk_places *places, unsigned place);
void peri__chunk_places_fini(peri__chunk_places *places);

/* -- The other end ----------------------------------------------------------- */

/*
 * How a state reaches another one: what a transport has at either end of its
 * way, one for each pair of states (the threads of one pool are one each), in
 * memory that it zeroes and fills before peri__peer_open. From then until
 * peri__peer_close it belongs to the thread of that state.
 *
 * Besides jobs, with which this has nothing to do, notes go along it: messages
 * of loop handles and their answers. What one end sends, the other gives to
 * peri__note_arrived, in its state's thread, in order.
 */
typedef struct peri__peer peri__peer;
struct peri__peer {
  bool trusted; /* a worker of ours, or the owner of this one: what comes from
                   there may hold bytecode */
  bool chunks;  /* notes may have chunks */
  /* Sends a note: takes what is in it and leaves it empty, or to be cleared. 0
   * or a negative PERI_E code, the note is lost then. May be called in anything
   * that the state runs; does not call Lua. NULL: nothing can be sent. */
  int (*send)(peri__peer *peer, peri__message *note);
  uint64_t serial; /* the codec's own; 0: not open */
};

/* Raises on no memory, not open then. A peer must be closed before its state. */
void peri__peer_open(lua_State *L, peri_runtime *rt, peri__peer *peer);
/* What waits for an answer from there fails with RuntimeError. Harmless if it is
 * not open. Never raises. */
void peri__peer_close(lua_State *L, peri_runtime *rt, peri__peer *peer);
/* Puts what is asked for into the loop's ready queue, or settles what waits for
 * the answer. Of the script's code it calls unpack functions, and modules may be
 * loaded. Never raises: what is wrong is answered, or logged. */
void peri__note_arrived(lua_State *L, peri_runtime *rt, peri__peer *peer,
                        const peri__message *note);

/* Pushes an empty message in a userdata, which frees what is left in it. */
peri__message *peri__message_push(lua_State *L);

/* -- The codec --------------------------------------------------------------- */

/* What the values of a message are, for the paths in its errors. */
typedef enum peri__message_kind {
  PERI__MESSAGE_VALUES,  /* value 1, value 2 */
  PERI__MESSAGE_CALL,    /* a function and its arguments */
  PERI__MESSAGE_RESULTS, /* result 1, result 2 */
  PERI__MESSAGE_ERROR    /* one error, any value */
} peri__message_kind;

/* Appends the n values from index first on to an empty message. chunks: functions
 * go as chunks, for a transport that carries them; else as part of the bytes.
 *
 * Pushes what must be kept, anywhere in the state, until the message has been
 * answered or is lost: a table of the values in it that peri.ref has wrapped,
 * or nil. A token that comes home when nothing keeps its value any more is an
 * error.
 *
 * Raises TypeError for what cannot be sent, or what a pack function raised; the
 * message then holds part of that, and something that outlives the error must
 * own it. Calls pack functions; these cannot wait. */
void peri__encode(lua_State *L, peri_runtime *rt, int first, int n,
                  peri__message_kind kind, bool chunks, peri__message *out);

/* Writes the same message for values without parts that take no more than size
 * bytes, and returns how many they take; 0: they are not so. Neither raises nor
 * needs memory. */
size_t peri__encode_small(lua_State *L, int first, int n, char *out,
                          size_t size);
/* The same for a function and its arguments: a function without upvalues but
 * _ENV that the state has sent before, and that it sends mostly. *chunk: the
 * reference that the message needs. */
size_t peri__encode_small_call(lua_State *L, peri_runtime *rt, int first, int n,
                               char *out, size_t size, peri__chunk **chunk);

/* Pushes the values of a message and returns how many they are. Reads it where
 * it lies: bytes.data and chunks may be anybody's, shared memory too if nobody
 * writes there meanwhile. peer: where it came from, through which the loops in
 * it are reached; NULL: from an unknown source, not trusted.
 *
 * Raises ValueError for a message that is damaged or, unless it is trusted,
 * holds bytecode, names a module that is not loaded or brings a class along:
 * what is not trusted runs nothing but the unpack functions registered here. */
int peri__decode(lua_State *L, peri_runtime *rt, const peri__message *message,
                 peri__peer *peer);

/* register(name, metatable, {pack=, unpack=}): objects with this metatable may
 * be sent from now on. pack(object) returns the values to send, unpack(...)
 * makes the object of them; without the two a table's fields are sent as they
 * are. Raises ValueError if the name or the metatable is taken. */
int peri__codec_register(lua_State *L);

#endif
