/*
 * encoder.h: what the files that write a message share: encode.c,
 * encode_function.c and handles.c.
 */
#ifndef PERI_ENCODER_H
#define PERI_ENCODER_H

#include <string.h>

#include "pool/wire.h"

typedef struct encoder {
  lua_State *L;
  peri_runtime *rt;
  peri__buffer *out;
  peri__message *message;
  peri__frames frames;
  peri__message_kind kind;
  bool chunks;
  bool scanned; /* the names are those of now */
  int root;     /* the value of the message that is being written, from 1 */
  int packing;  /* open frames of packed objects */
  uint32_t objects, upvalues; /* numbers given so far */
  /* What the first numbers were given to, by address; the objects stand on the
   * Lua stack from `kept` on, so that they stay where they are. */
  const void *first_objects[FEW], *first_upvalues[FEW];
  int kept;
  int seen; /* Places on the Lua stack, nil until needed: for the others, what
               was sent to its object number; an upvalue's or string's address
               to its number; an object number to the string. */
  int names, classes;
  int refs; /* those in the message, a list */
} encoder;

/* -- Bytes ----------------------------------------------------------------- */

static inline char *extend(encoder *e, size_t n)
{
  peri__buffer *out = e->out;
  if (out->capacity - out->length < n && peri__buffer_reserve(out, n) < 0)
    peri__no_memory(e->L);
  char *at = out->data + out->length;
  out->length += n;
  return at;
}

static inline void put_byte(encoder *e, int byte)
{
  *extend(e, 1) = (char)byte;
}

/* A byte, and a number behind it. */
static inline void put_tagged(encoder *e, int tag, uint64_t n)
{
  char *at = extend(e, MAX_VARINT + 1), *start = at;
  *at++ = (char)tag;
  for (; n >= 0x80; n >>= 7)
    *at++ = (char)(n | 0x80);
  *at++ = (char)n;
  e->out->length -= (size_t)(start + MAX_VARINT + 1 - at);
}

static inline void put_varint(encoder *e, uint64_t n)
{
  char *at = extend(e, MAX_VARINT), *start = at;
  for (; n >= 0x80; n >>= 7)
    *at++ = (char)(n | 0x80);
  *at++ = (char)n;
  e->out->length -= (size_t)(start + MAX_VARINT - at);
}

/* Write a number where there is room for MAX_VARINT + 1 bytes; return the end.
 */
static inline char *write_integer(char *at, lua_Integer n)
{
  if (n >= 0 && n < SMALL_INTEGERS) {
    *at++ = (char)(TAG_SMALL_INTEGER | (int)n);
    return at;
  }
  uint64_t zigzag = ((uint64_t)n << 1) ^ (n < 0 ? UINT64_MAX : 0);
  *at++ = TAG_INTEGER;
  for (; zigzag >= 0x80; zigzag >>= 7)
    *at++ = (char)(zigzag | 0x80);
  *at++ = (char)zigzag;
  return at;
}

static inline char *write_float(char *at, lua_Number n)
{
  *at = TAG_FLOAT;
  memcpy(at + 1, &n, sizeof n);
  return at + 1 + sizeof n;
}

static inline void put_integer(encoder *e, lua_Integer n)
{
  char *at = extend(e, MAX_VARINT + 1);
  e->out->length -= (size_t)(at + MAX_VARINT + 1 - write_integer(at, n));
}

static inline void put_float(encoder *e, lua_Number n)
{
  write_float(extend(e, 1 + sizeof n), n);
}

static inline void put_u32(encoder *e, uint32_t n)
{
  memcpy(extend(e, sizeof n), &n, sizeof n);
}

static inline void put_bytes(encoder *e, const char *s, size_t length)
{
  put_varint(e, length);
  if (length > 0)
    memcpy(extend(e, length), s, length);
}

static inline void put_short_string(encoder *e, const char *s, size_t length)
{
  if (length < SHORT_STRINGS) {
    char *at = extend(e, length + 1);
    *at = (char)(TAG_SHORT_STRING | length);
    memcpy(at + 1, s, length);
    return;
  }
  put_byte(e, TAG_STRING);
  put_bytes(e, s, length);
}

/* Room for a count that is known later; returns where. */
static inline size_t put_count(encoder *e)
{
  memset(extend(e, sizeof(uint32_t)), 0, sizeof(uint32_t));
  return e->out->length - sizeof(uint32_t);
}

static inline void set_count(encoder *e, size_t at, size_t count)
{
  uint32_t n = (uint32_t)count;
  if (n != count)
    luaL_error(e->L, "too large for a message");
  memcpy(e->out->data + at, &n, sizeof n);
}

/* Raises the TypeError for the value that is being written. */
int peri__refuse(encoder *e, const char *format, ...);

/* Gives the value on top the next object number. */
uint32_t peri__mark(encoder *e);
/* Writes a REF for the value on top and pops it, if it was sent before. */
bool peri__put_again(encoder *e);
/* The table `seen`. */
int peri__seen(encoder *e);

/* Pushes what the names say of the value on top: the bytes of its name, what a
 * function has instead, or nil. Returns the type. */
int peri__push_known(encoder *e);
/* Writes the name on top for the value below it and pops both. */
void peri__put_known(encoder *e);
/* Writes the name of the value on top and pops it, if it has one. */
bool peri__put_name(encoder *e);

/* Opens a frame for the value on top; closes it, and the value goes. */
peri__frame *peri__open_frame(encoder *e, peri__frame_kind kind);
void peri__close_frame(encoder *e, const peri__frame *frame);
/* Writes the value on top; true if its frame is open now. */
bool peri__put_child(encoder *e);

/* encode_function.c */
void peri__put_function(encoder *e);
/* Writes the function at idx, which is anchored there, if it is one without
 * upvalues whose code has been sent before, but not in this message. Needs no
 * places. */
bool peri__put_plain(encoder *e, int idx);
void peri__step_function(encoder *e, peri__frame *frame);
/* The chunk of such a function, borrowed; NULL: it is none, or has not been sent
 * yet. */
peri__chunk *peri__plain_chunk(lua_State *L, peri_runtime *rt, int idx);

#endif
