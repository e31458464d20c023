/*
 * wire.h: what encode.c, decode.c and codec.c share: the bytes of a message,
 * and what a state knows by name.
 */
#ifndef PERI_WIRE_H
#define PERI_WIRE_H

#include "pool/codec.h"

/*
 * message  = VERSION varint(n) value*n
 * value    = tag ...
 *
 * A varint is 7 bits a byte, the lowest first. u32 and double are stored as the
 * machine has them: messages do not leave it. Whatever is marked + takes the
 * next object number when its tag is read, so that a REF may name it from then
 * on, from inside itself too.
 */
enum {
  WIRE_VERSION = 1,

  TAG_NIL = 0,
  TAG_FALSE,
  TAG_TRUE,
  TAG_INTEGER,     /* varint, zigzag */
  TAG_FLOAT,       /* double */
  TAG_STRING,      /* varint(length) bytes */
  TAG_LONG_STRING, /* + as TAG_STRING; may come again as a REF */
  TAG_REF,         /* varint(object number) */
  TAG_TABLE,       /* + u32(a) u32(h) value*a (value value)*h */
  TAG_OBJECT,      /* + value (class), the rest as TAG_TABLE */
  TAG_ERROR,       /* + value (class) value (traceback, string or nil), the rest
                      as TAG_TABLE */
  TAG_PACKED,      /* + value (class) varint(n) value*n: what pack returned */
  TAG_FUNCTION,    /* + u32(length) bytecode varint(n) upvalue*n */
  TAG_CHUNK,       /* + varint(chunk) varint(n) upvalue*n */
  TAG_PLAIN,       /* + varint(chunk): a function without upvalues but _ENV, for
                      the first time in this message */
  TAG_NAME,        /* + string (module) byte(n) string*n (keys) */
  TAG_CLASS,       /* + string byte(1: and three values, metatable, pack and
                      unpack, in case the receiver does not know it) */
  TAG_ERROR_CLASS, /* + string byte(1: and what a receiver that does not know it
                      makes it of: value (base or nil) u32(h) (value value)*h,
                      its own fields) */
  TAG_GLOBALS,     /* the receiver's globals */
  TAG_REFERENCE,   /* + u64(home) varint(number): what peri.ref has wrapped */
  TAG_LOOP,        /* + the same */

  /* In place of an upvalue's value. Each other upvalue but GLOBALS takes the
   * next upvalue number. */
  TAG_SHARED, /* varint(upvalue number) */

  TAG_SMALL_INTEGER = 0x40, /* 0 to 63 */
  TAG_SHORT_STRING = 0x80   /* lengths 0 to 127 */
};

/* Whether the message is the shortest that there is, of no values. */
static inline bool peri__message_is_none(const peri__message *message)
{
  return message->bytes.length == 2 && message->bytes.data[0] == WIRE_VERSION &&
         message->bytes.data[1] == 0;
}

enum {
  SMALL_INTEGERS = TAG_SHORT_STRING - TAG_SMALL_INTEGER,
  SHORT_STRINGS = 0x100 - TAG_SHORT_STRING,
  LONG_STRING = 256, /* from here on looked for among those sent before */
  MAX_VARINT = 10,
  MAX_DEPTH = 100000, /* containers in containers */
  MAX_PACKED = 200,   /* values that pack may return */
  MAX_NAME_KEYS = 8,
  MAX_CHUNK = 131072, /* bytes of code that are worth to be kept */
  FEW = 4,            /* objects, upvalues that need no table to be found in */
  FIRST_FRAMES = 16
};

/* Places in a class entry: a table that says how objects are sent. */
enum { CLASS_NAME = 1, CLASS_METATABLE, CLASS_PACK, CLASS_UNPACK };

typedef enum peri__frame_kind {
  FRAME_TABLE,
  FRAME_FUNCTION,
  FRAME_PACKED,
  FRAME_CLASS,
  FRAME_ERROR_CLASS
} peri__frame_kind;

typedef enum peri__frame_phase {
  PHASE_CLASS,
  PHASE_TRACE,
  PHASE_HEADER,
  PHASE_ITEMS,
  PHASE_KEY,
  PHASE_VALUE
} peri__frame_phase;

/* A container that is open: its values are being written or read. */
typedef struct peri__frame {
  uint8_t kind, phase;
  bool is_error;
  bool known;             /* decode, class: the receiver has it */
  int slot;               /* where it is on the Lua stack */
  uint32_t id;            /* its object number */
  uint32_t count;         /* pairs written, or still to be read */
  lua_Integer next, last; /* items: done, all */
  size_t count_at;        /* encode: where count goes when it is known */
} peri__frame;

/* The open containers, outermost first: an array in the C frame of the caller,
 * or a userdata at slot once that is full. */
typedef struct peri__frames {
  peri__frame *v;
  int depth, capacity, slot;
  peri__frame first[FIRST_FRAMES];
} peri__frames;

void peri__frames_init(peri__frames *frames, int slot);
/* NULL: too deep. Raises on no memory. */
peri__frame *peri__frames_push(lua_State *L, peri__frames *frames);
static inline peri__frame *peri__frames_top(peri__frames *frames)
{
  return &frames->v[frames->depth - 1];
}

/* Gives the userdata on top the metatable of its kind ("perilune.Kind"), which is
 * made if need be. */
void peri__set_kind(lua_State *L, const char *kind,
                    const luaL_Reg *metamethods);

/* Pushes where the value is that is being written (path.c); of a deep path the
 * middle is left out. */
const char *peri__path_push(lua_State *L, const peri__frames *frames,
                            peri__message_kind kind, int root);

/* A function's code as a state knows it: a userdata. */
typedef struct peri__code {
  peri__chunk *chunk;
  int upvalues;
  bool plain; /* they are but _ENV */
} peri__code;

/* Pushes the handle of a function's code. */
peri__code *peri__code_push(lua_State *L, peri_runtime *rt, int function,
                            const char *bytes, size_t length);
/* Pushes a new function; false and a text: the code is damaged. */
bool peri__code_load(lua_State *L, const char *code, size_t length);
/* The same for a plain one, which need not be new. */
bool peri__code_load_plain(lua_State *L, peri_runtime *rt, peri__chunk *chunk);

/* Pushes the table that says what goes by name: value to the bytes of its
 * TAG_NAME; for a function known to have none its peri__code, or false. */
void peri__names_push(lua_State *L, peri_runtime *rt);
/* Takes modules loaded since the last time into the table at names. */
void peri__names_scan(lua_State *L, peri_runtime *rt, int names);
/* Whether there are none, as far as one can tell without looking. */
static inline bool peri__names_are_current(const peri_runtime *rt)
{
  return rt->modules_named == rt->modules &&
         rt->options.patch & PERI_PATCH_REQUIRE;
}
/* Looks for the C function on top of the stack in the depth of the loaded
 * modules; true if names has it now. */
bool peri__names_search(lua_State *L, int names);

/* Pushes the table of registered classes: both name and metatable to entry. */
void peri__classes_push(lua_State *L);
/* A new entry of the values on top (metatable, pack, unpack; popped). */
void peri__class_new(lua_State *L, const char *name);
/* Puts the complete entry on top into the table at classes. */
void peri__class_publish(lua_State *L, int classes);

/* Error classes (perilune.errors). Pushes the name of the one at idx; false and
 * nothing if there is none. */
bool peri__error_class_name(lua_State *L, peri_runtime *rt, int idx);
/* Whether the error class at idx is one of the library's. */
bool peri__error_class_is_own(lua_State *L, int idx);
/* Pushes its base, or nil. */
void peri__error_class_base(lua_State *L, int idx);
/* Pushes the one with the name on top (replaced); false and nil: none. */
bool peri__error_class_find(lua_State *L, peri_runtime *rt);
/* Makes a class of the base and the name on top, in their place. */
void peri__error_class_extend(lua_State *L);

#endif
