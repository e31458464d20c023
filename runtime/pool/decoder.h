/*
 * decoder.h: what the files that read a message share: decode.c, decode_class.c
 * and handles.c.
 */
#ifndef PERI_DECODER_H
#define PERI_DECODER_H

#include <string.h>

#include "pool/wire.h"

typedef struct decoder {
  lua_State *L;
  peri_runtime *rt;
  const peri__message *message;
  peri__peer *peer; /* where it came from, or NULL */
  const char *at, *end;
  bool trusted, has_classes;
  peri__frames frames;
  uint32_t given, upvalues; /* numbers of objects and upvalues */
  size_t budget;
  struct {
    uint32_t object;
    int index;
  } first_places[FEW]; /* upvalue: of which function, where in it */
  int kept;    /* The first objects stand on the Lua stack, from here on. */
  int objects; /* Places on the Lua stack, nil until needed, number to object,
                  for the other objects; */
  int places;  /* 2u - 1: object number of the function and 2u: index, of
                  upvalue number u; */
  int late;    /* objects and their entries, in pairs, whose class is not
                  complete yet, and entries that are not published; */
  int classes; /* the registered classes. */
} decoder;

/* Raise ValueError. */
int peri__damaged(decoder *d, const char *what);
int peri__distrust(decoder *d, const char *what);

static inline size_t left(const decoder *d)
{
  return (size_t)(d->end - d->at);
}

static inline const char *get_bytes(decoder *d, size_t n)
{
  if (left(d) < n)
    peri__damaged(d, "it is truncated");
  const char *bytes = d->at;
  d->at += n;
  return bytes;
}

static inline int get_byte(decoder *d)
{
  return (unsigned char)*get_bytes(d, 1);
}

static inline uint64_t get_varint(decoder *d)
{
  uint64_t n = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    uint64_t byte = (uint64_t)get_byte(d);
    if (shift == 63 && byte > 1)
      break;
    n |= (byte & 0x7f) << shift;
    if (byte < 0x80)
      return n;
  }
  peri__damaged(d, "a number is too long");
  return 0;
}

/* A count of things that take one byte at least. */
static inline size_t check_count(decoder *d, uint64_t n)
{
  if (n > left(d))
    peri__damaged(d, "it is truncated");
  return (size_t)n;
}

static inline uint32_t get_u32(decoder *d)
{
  uint32_t n;
  memcpy(&n, get_bytes(d, sizeof n), sizeof n);
  return n;
}

static inline void push_bytes(decoder *d, size_t n)
{
  lua_pushlstring(d->L, get_bytes(d, n), n);
}

/* Pushes a string that must come next; returns it. */
const char *peri__get_string(decoder *d);

/* Makes the table at a place, if it is not there. */
void peri__need_table(decoder *d, int slot);
/* The next object number; then the value on top is that object. */
uint32_t peri__give_number(decoder *d);
void peri__set_object(decoder *d, uint32_t id);
/* A container whose place on the stack is slot. */
peri__frame *peri__frame_open(decoder *d, peri__frame_kind kind, int slot);

/* decode_class.c: behind TAG_CLASS and TAG_ERROR_CLASS. True: it is complete, on
 * top; false: a frame is open for it. */
bool peri__get_class(decoder *d);
bool peri__get_error_class(decoder *d);
/* Whether the value on top is a class entry, and whether one must come next. */
bool peri__is_class(decoder *d);
bool peri__wants_class(decoder *d);
/* The entry on top is complete. */
void peri__publish_class(decoder *d, uint32_t id);
/* The name and base of an error class are on top; the class takes their place. */
void peri__set_error_class(decoder *d, peri__frame *frame);
/* The class, error class, traceback on top (popped) is that of the table at
 * slot. */
void peri__set_class(decoder *d, int slot);
void peri__set_error(decoder *d, int slot);
void peri__set_trace(decoder *d, int slot);
/* Replaces the class on top by its unpack. */
void peri__set_unpack(decoder *d);
/* Objects that came before their class was complete. */
void peri__set_late_classes(decoder *d);

#endif
