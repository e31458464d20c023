/*
 * path.c: where in a message a value is, as its errors tell it.
 *
 * The path is read off the open containers of encode.c and what they are busy
 * with: "argument 2[3].x". A function's upvalue starts a new one, for the
 * function says best where to look, and what led to the function follows in
 * parentheses: "upvalue 'conn' of function jobs.lua:12 (argument 2.handler)".
 */
#include <stdarg.h>
#include <string.h>

#include "pool/wire.h"

typedef struct path {
  lua_State *L;
  const peri__frames *frames;
  peri__message_kind kind;
  int root; /* the value of the message, from 1 */
} path;

typedef struct text {
  size_t length;
  char s[240];
} text;

__attribute__((format(printf, 2, 3))) static void
text_add(text *t, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  size_t room = sizeof t->s - t->length;
  int n = vsnprintf(t->s + t->length, room, format, arguments);
  va_end(arguments);
  if (n > 0)
    t->length += (size_t)n < room ? (size_t)n : room - 1;
}

static void text_reset(text *t)
{
  t->length = 0;
  t->s[0] = '\0';
}

static bool is_name(const char *s, size_t length)
{
  if (length == 0 || length > 60 || (*s >= '0' && *s <= '9'))
    return false;
  return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"
                   "0123456789") == length;
}

/* The step from a table to its value under the key at idx. */
static void text_key(text *t, lua_State *L, int idx)
{
  size_t length;
  switch (lua_type(L, idx)) {
  case LUA_TSTRING: {
    const char *s = lua_tolstring(L, idx, &length);
    if (is_name(s, length))
      text_add(t, ".%s", s);
    else
      text_add(t, "['%.40s']", s);
    break;
  }
  case LUA_TNUMBER:
    if (lua_isinteger(L, idx))
      text_add(t, "[" LUA_INTEGER_FMT "]", lua_tointeger(L, idx));
    else
      text_add(t, "[" LUA_NUMBER_FMT "]", lua_tonumber(L, idx));
    break;
  case LUA_TBOOLEAN:
    text_add(t, "[%s]", lua_toboolean(L, idx) ? "true" : "false");
    break;
  default:
    text_add(t, "[%s]", luaL_typename(L, idx));
  }
}

static void text_function(text *t, lua_State *L, int idx)
{
  lua_Debug ar;
  lua_pushvalue(L, idx);
  lua_getinfo(L, ">S", &ar);
  if (*ar.what == 'm')
    text_add(t, "main chunk %s", ar.short_src);
  else
    text_add(t, "function %s:%d", ar.short_src, ar.linedefined);
}

static void text_root(text *t, const path *p)
{
  switch (p->kind) {
  case PERI__MESSAGE_CALL:
    if (p->root == 1)
      text_add(t, "function");
    else
      text_add(t, "argument %d", p->root - 1);
    break;
  case PERI__MESSAGE_RESULTS:
    text_add(t, "result %d", p->root);
    break;
  case PERI__MESSAGE_ERROR:
    text_add(t, "error");
    break;
  default:
    text_add(t, "value %d", p->root);
  }
}

/* An upvalue starts a new path, since its function says where it is; the old
 * one stays as the context, unless that is the function that was to be sent. */
static void text_upvalue(text *head, text *tail, const path *p, int depth)
{
  lua_State *L = p->L;
  const peri__frame *frame = &p->frames->v[depth];
  text context = *tail, was = *head;
  const char *name = lua_getupvalue(L, frame->slot, (int)frame->next);
  text_reset(head);
  text_reset(tail);
  if (name && *name)
    text_add(head, "upvalue '%s'", name);
  else
    text_add(head, "upvalue %d", (int)frame->next);
  if (name)
    lua_pop(L, 1);
  text_add(tail, " of ");
  text_function(tail, L, frame->slot);
  if (depth > 0 || p->kind != PERI__MESSAGE_CALL || p->root != 1)
    text_add(tail, " (%s%s)", was.s, depth > 0 ? context.s : "");
}

static void text_table(text *t, lua_State *L, const peri__frame *frame)
{
  switch (frame->phase) {
  case PHASE_CLASS:
    break;
  case PHASE_ITEMS:
    text_add(t, "[" LUA_INTEGER_FMT "]", frame->next);
    break;
  case PHASE_KEY:
    text_key(t, L, frame->slot + 1);
    break;
  default:
    text_add(t, ", a key of it");
  }
}

static void text_class(text *t, lua_State *L, const peri__frame *frame)
{
  static const char *const parts[] = {[CLASS_METATABLE] = "metatable",
                                      [CLASS_PACK] = "pack",
                                      [CLASS_UNPACK] = "unpack"};
  lua_rawgeti(L, frame->slot, CLASS_NAME);
  text_reset(t);
  text_add(t, "%s of class '%s'", parts[frame->next], lua_tostring(L, -1));
  lua_pop(L, 1);
}

static void text_step(text *head, text *tail, const path *p, int depth)
{
  const peri__frame *frame = &p->frames->v[depth];
  switch (frame->kind) {
  case FRAME_TABLE:
    text_table(head, p->L, frame);
    break;
  case FRAME_FUNCTION:
    text_upvalue(head, tail, p, depth);
    break;
  case FRAME_PACKED:
    if (frame->phase == PHASE_ITEMS)
      text_add(head, ", packed value %d", (int)frame->next);
    break;
  case FRAME_CLASS:
    text_class(head, p->L, frame);
    break;
  default:
    if (frame->phase == PHASE_KEY)
      text_key(head, p->L, frame->slot + 2);
  }
}

const char *peri__path_push(lua_State *L, const peri__frames *frames,
                            peri__message_kind kind, int root)
{
  enum { SHOWN_FIRST = 6, SHOWN_LAST = 10 };
  path p = {.L = L, .frames = frames, .kind = kind, .root = root};
  text head, tail;
  int depth = frames->depth;
  text_reset(&head);
  text_reset(&tail);
  text_root(&head, &p);
  for (int i = 0; i < depth; i++) {
    if (i == SHOWN_FIRST && depth > SHOWN_FIRST + SHOWN_LAST) {
      text_add(&head, " ... ");
      i = depth - SHOWN_LAST;
    }
    text_step(&head, &tail, &p, i);
  }
  return lua_pushfstring(L, "%s%s", head.s, tail.s);
}
