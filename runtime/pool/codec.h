/*
 * codec.h: Lua values as messages between Lua states. The essay is in codec.c.
 */
#ifndef PERI_CODEC_H
#define PERI_CODEC_H

#include "core/core.h"

/* Bytes that grow. The memory is malloc's, not a state's, because a message is
 * written in one thread and read and freed in another. */
typedef struct peri__buffer {
  char *data;
  size_t length, capacity;
} peri__buffer;

/* Room for more bytes after length: 0 or PERI_ENOMEM. A buffer of zeros is an
 * empty one. */
int peri__buffer_reserve(peri__buffer *buffer, size_t more);
void peri__buffer_fini(peri__buffer *buffer);

/* What the values of a message are, for the paths in its errors. */
typedef enum peri__message_kind {
  PERI__MESSAGE_VALUES,  /* value 1, value 2 */
  PERI__MESSAGE_CALL,    /* a function and its arguments */
  PERI__MESSAGE_RESULTS, /* result 1, result 2 */
  PERI__MESSAGE_ERROR    /* one error, any value */
} peri__message_kind;

/* Appends the n values from index first to the buffer as one message. Raises
 * TypeError for what cannot be sent, or what a pack function raised; the buffer
 * then holds part of a message, and something that outlives the error must own
 * it. Calls pack functions; these cannot wait. */
void peri__encode(lua_State *L, peri_runtime *rt, int first, int n,
                  peri__message_kind kind, peri__buffer *out);

/* Pushes the values of a message and returns how many they are. Raises
 * ValueError for a message that is damaged or, unless it is trusted, holds
 * bytecode, names a module that is not loaded or brings a class along: what is
 * not trusted runs nothing but the unpack functions registered here. */
int peri__decode(lua_State *L, peri_runtime *rt, const char *data,
                 size_t length, bool trusted);

/* register(name, metatable, {pack=, unpack=}): objects with this metatable may
 * be sent from now on. pack(object) returns the values to send, unpack(...)
 * makes the object of them; without the two a table's fields are sent as they
 * are. Raises ValueError if the name or the metatable is taken. */
int peri__codec_register(lua_State *L);

#endif
