/*
 * handles.c: what stands in one state for a value of another.
 *
 * A loop, and a value that peri.ref has wrapped, stay where they are. A message
 * says of them which state has them, by a number that is random so that no two
 * states are taken for each other, and a number that this state has given them.
 * Elsewhere they are a LoopHandle or a token (a Ref without its value), which go
 * on as what they are; back at home they are the loop and the value again.
 *
 * Life. Home finds both in weak tables: nothing in another state, nor in a
 * message, keeps them. Loops are kept by whoever runs them. A Ref is kept by who
 * sends it, until the job that it went with is answered: see peri__encode.
 *
 * A LoopHandle's methods send notes to its home, through the peer that the
 * message with the handle came from: a header and a message behind it. What they
 * say, and their answers, is Lua (perilune/handles.lua). Lua knows peers by
 * their serial numbers, so that it can hold one that is closed.
 */
#include "pool/handles.h"

#define REF "perilune.Ref"
#define LOOP_HANDLE "perilune.LoopHandle"

/* Its address is the place of this table in the registry. */
static const char state_key = 0;

enum {
  HOME = 1, /* the number of this state */
  LAST,     /* number given to a value, or peer */
  REFS,     /* weak: number to Ref */
  LOOPS,    /* weak: number to loop */
  NUMBERS,  /* weak: loop to number */
  PEERS     /* serial to peer */
};

/* What stands before the message of a note. */
typedef struct note_header {
  uint64_t kind, request, home, loop;
} note_header;

/* -- The state's table ----------------------------------------------------- */

static lua_Integer random_number(const void *salt)
{
  uint64_t number;
  if (uv_random(NULL, NULL, &number, sizeof number, 0, NULL) != 0)
    number = (uv_hrtime() ^ (uintptr_t)salt) * 0x9e3779b97f4a7c15u ^
             (uint64_t)uv_os_getpid() << 32;
  return (lua_Integer)number;
}

/* state[place] = {}, weak in its keys or values */
static void make_weak(lua_State *L, int place, const char *mode)
{
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushstring(L, mode);
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawseti(L, -2, place);
}

static void push_state(lua_State *L)
{
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &state_key) == LUA_TTABLE)
    return;
  lua_pop(L, 1);
  lua_createtable(L, PEERS, 0);
  lua_pushinteger(L, random_number(L));
  lua_rawseti(L, -2, HOME);
  lua_pushinteger(L, 0);
  lua_rawseti(L, -2, LAST);
  make_weak(L, REFS, "v");
  make_weak(L, LOOPS, "v");
  make_weak(L, NUMBERS, "k");
  lua_newtable(L);
  lua_rawseti(L, -2, PEERS);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &state_key);
}

static lua_Integer number_at(lua_State *L, int state, int place)
{
  lua_rawgeti(L, state, place);
  lua_Integer number = lua_tointeger(L, -1);
  lua_pop(L, 1);
  return number;
}

static lua_Integer next_number(lua_State *L, int state)
{
  lua_Integer number = number_at(L, state, LAST) + 1;
  lua_pushinteger(L, number);
  lua_rawseti(L, state, LAST);
  return number;
}

/* -- Handles --------------------------------------------------------------- */

static int l_equal(lua_State *L)
{
  const peri__handle *a = lua_touserdata(L, 1), *b = lua_touserdata(L, 2);
  bool equal = lua_rawlen(L, 1) == sizeof *a && lua_rawlen(L, 2) == sizeof *b &&
               a->home == b->home && a->id == b->id;
  lua_pushboolean(L, equal);
  return 1;
}

/* Pushes a new one; values: how many user values. */
static peri__handle *push_handle(lua_State *L, const char *kind, int values)
{
  static const luaL_Reg metamethods[] = {{"__eq", l_equal}, {NULL, NULL}};
  peri__handle *handle = lua_newuserdatauv(L, sizeof *handle, values);
  *handle = (peri__handle){0};
  peri__set_kind(L, kind, metamethods);
  return handle;
}

int peri__handle_ref(lua_State *L)
{
  luaL_checkany(L, 1);
  lua_settop(L, 1);
  push_state(L);
  peri__handle *handle = push_handle(L, REF, 1);
  handle->home = (uint64_t)number_at(L, 2, HOME);
  handle->id = (uint64_t)next_number(L, 2);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, 3, 1);
  lua_rawgeti(L, 2, REFS);
  lua_pushvalue(L, 3);
  lua_rawseti(L, 4, (lua_Integer)handle->id);
  lua_settop(L, 3);
  return 1;
}

int peri__handle_where(lua_State *L)
{
  const peri__handle *handle = luaL_testudata(L, 1, LOOP_HANDLE);
  if (handle == NULL)
    return 0;
  lua_pushinteger(L, (lua_Integer)handle->peer);
  lua_pushinteger(L, (lua_Integer)handle->home);
  lua_pushinteger(L, (lua_Integer)handle->id);
  return 3;
}

void peri__handle_methods(lua_State *L)
{
  push_handle(L, LOOP_HANDLE, 0);
  luaL_getmetafield(L, -1, "__index");
  lua_replace(L, -2);
}

/* -- In messages ----------------------------------------------------------- */

/* What to write of the loop on top. */
static peri__handle name_loop(lua_State *L)
{
  int loop = lua_gettop(L), state = loop + 1;
  peri__handle handle = {0};
  push_state(L);
  handle.home = (uint64_t)number_at(L, state, HOME);
  lua_rawgeti(L, state, NUMBERS);
  lua_pushvalue(L, loop);
  if (lua_rawget(L, -2) == LUA_TNIL) {
    lua_Integer number = next_number(L, state);
    lua_rawgeti(L, state, LOOPS);
    lua_pushvalue(L, loop);
    lua_rawseti(L, -2, number);
    lua_pushvalue(L, loop);
    lua_pushinteger(L, number);
    lua_rawset(L, state + 1);
    lua_pushinteger(L, number);
  }
  handle.id = (uint64_t)lua_tointeger(L, -1);
  lua_settop(L, loop);
  return handle;
}

/* The Ref on top is kept until its message is answered. */
static void keep(encoder *e)
{
  lua_State *L = e->L;
  if (!lua_istable(L, e->refs)) {
    lua_newtable(L);
    lua_replace(L, e->refs);
  }
  lua_pushvalue(L, -1);
  lua_rawseti(L, e->refs, (lua_Integer)lua_rawlen(L, e->refs) + 1);
}

static bool is_loop(encoder *e)
{
  if (!lua_getmetatable(e->L, -1))
    return false;
  bool is = lua_topointer(e->L, -1) == e->rt->meta_loop;
  lua_pop(e->L, 1);
  return is;
}

bool peri__put_handle(encoder *e)
{
  lua_State *L = e->L;
  peri__handle handle, *ref = luaL_testudata(L, -1, REF), *known = ref;
  if (known == NULL)
    known = luaL_testudata(L, -1, LOOP_HANDLE);
  if (known != NULL)
    handle = *known;
  else if (is_loop(e))
    handle = name_loop(L);
  else
    return false;
  if (ref != NULL)
    keep(e);
  peri__mark(e);
  put_byte(e, ref != NULL ? TAG_REFERENCE : TAG_LOOP);
  memcpy(extend(e, sizeof handle.home), &handle.home, sizeof handle.home);
  put_varint(e, handle.id);
  lua_pop(L, 1);
  return true;
}

/* Pushes what a number means in this state, whose table is at state. */
static void push_own(decoder *d, int state, int tag, uint64_t id)
{
  lua_State *L = d->L;
  lua_rawgeti(L, state, tag == TAG_LOOP ? LOOPS : REFS);
  if (lua_rawgeti(L, -1, (lua_Integer)id) == LUA_TNIL)
    peri__throw(L, d->rt, PERI_ERR_RUNTIME,
                tag == TAG_LOOP ? "the loop that a handle stands for has gone"
                                : "the value that a ref stands for has gone");
  if (tag == TAG_REFERENCE)
    lua_getiuservalue(L, -1, 1);
}

void peri__get_handle(decoder *d, int tag)
{
  lua_State *L = d->L;
  uint32_t number = peri__give_number(d);
  uint64_t home;
  memcpy(&home, get_bytes(d, sizeof home), sizeof home);
  uint64_t id = get_varint(d);
  int state = lua_gettop(L) + 1;
  push_state(L);
  if ((uint64_t)number_at(L, state, HOME) == home) {
    push_own(d, state, tag, id);
  } else {
    if (tag == TAG_LOOP)
      peri__require(L, "perilune.handles");
    *push_handle(L, tag == TAG_LOOP ? LOOP_HANDLE : REF, 1) = (peri__handle){
        .home = home, .id = id, .peer = d->peer ? d->peer->serial : 0};
  }
  lua_replace(L, state);
  lua_settop(L, state);
  peri__set_object(d, number);
}

/* -- Peers ----------------------------------------------------------------- */

void peri__peer_open(lua_State *L, peri_runtime *rt, peri__peer *peer)
{
  int top = lua_gettop(L);
  (void)rt;
  peri__check_stack(L, 8);
  push_state(L);
  lua_Integer serial = next_number(L, top + 1);
  lua_rawgeti(L, top + 1, PEERS);
  lua_pushlightuserdata(L, peer);
  lua_rawseti(L, top + 2, serial);
  lua_settop(L, top);
  peer->serial = (uint64_t)serial;
}

/* The peer with this serial; NULL: it is closed. */
static peri__peer *find_peer(lua_State *L, lua_Integer serial)
{
  push_state(L);
  lua_rawgeti(L, -1, PEERS);
  lua_rawgeti(L, -1, serial);
  peri__peer *peer = lua_touserdata(L, -1);
  lua_pop(L, 3);
  return peer;
}

/* Pushes a function of perilune.handles. */
static void push_function(lua_State *L, const char *name)
{
  peri__require(L, "perilune.handles");
  lua_getfield(L, -1, name);
  lua_replace(L, -2);
}

/* [serial] */
static int tell_closed(lua_State *L)
{
  push_function(L, "closed");
  lua_insert(L, 1);
  lua_call(L, 1, 0);
  return 0;
}

void peri__peer_close(lua_State *L, peri_runtime *rt, peri__peer *peer)
{
  lua_Integer serial = (lua_Integer)peer->serial;
  int top = lua_gettop(L);
  (void)rt;
  peer->serial = 0;
  if (serial == 0 || !lua_checkstack(L, 8))
    return;
  push_state(L); /* is there: needs no memory */
  lua_rawgeti(L, top + 1, PEERS);
  lua_pushnil(L);
  lua_rawseti(L, top + 2, serial);
  lua_pushcfunction(L, tell_closed);
  lua_pushinteger(L, serial);
  lua_pcall(L, 1, 0, 0);
  lua_settop(L, top);
}

/* -- Notes ----------------------------------------------------------------- */

/* How the values of a note are called in errors. */
static peri__message_kind path_kind(uint64_t kind)
{
  switch (kind) {
  case PERI__NOTE_CALL:
  case PERI__NOTE_RUN:
    return PERI__MESSAGE_CALL;
  case PERI__NOTE_RAISED:
    return PERI__MESSAGE_ERROR;
  default:
    return PERI__MESSAGE_RESULTS;
  }
}

int peri__handle_send(lua_State *L)
{
  enum { PEER = 1, KIND, REQUEST, HOME_ID, LOOP_ID, VALUES };
  peri_runtime *rt = peri__rt(L);
  int n = lua_gettop(L) - VALUES + 1;
  note_header header = {
      .kind = (uint64_t)luaL_checkinteger(L, KIND),
      .request = (uint64_t)luaL_checkinteger(L, REQUEST),
      .home = (uint64_t)luaL_checkinteger(L, HOME_ID),
      .loop = (uint64_t)luaL_checkinteger(L, LOOP_ID),
  };
  peri__peer *peer = find_peer(L, luaL_checkinteger(L, PEER));
  if (peer == NULL || peer->send == NULL)
    peri__throw(L, rt, PERI_ERR_RUNTIME,
                "the state of the loop cannot be reached");
  peri__message *note = peri__message_push(L);
  if (peri__buffer_reserve(&note->bytes, sizeof header) < 0)
    peri__no_memory(L);
  memcpy(note->bytes.data, &header, sizeof header);
  note->bytes.length = sizeof header;
  peri__encode(L, rt, VALUES, n, path_kind(header.kind), peer->chunks, note);
  /* A pack function may have closed it. */
  peer = find_peer(L, lua_tointeger(L, PEER));
  int status = peer != NULL ? peer->send(peer, note) : PERI_EFAILED;
  if (status == PERI_ENOMEM)
    peri__no_memory(L);
  if (status < 0)
    peri__throw(L, rt, PERI_ERR_RUNTIME,
                "the state of the loop cannot be reached");
  return 0;
}

typedef struct arrival {
  peri_runtime *rt;
  peri__peer *peer;
  uint64_t serial;
  const peri__message *note;
  note_header header;
} arrival;

/* Pushes the loop that a note is for, or nil. */
static void push_loop(lua_State *L, const note_header *header)
{
  push_state(L);
  bool own = (uint64_t)number_at(L, lua_gettop(L), HOME) == header->home;
  lua_rawgeti(L, -1, LOOPS);
  if (own)
    lua_rawgeti(L, -1, (lua_Integer)header->loop);
  else
    lua_pushnil(L);
  lua_replace(L, -3);
  lua_pop(L, 1);
}

/* [arrival] -> arrived(peer, kind, request, loop, values ...) */
static int note_body(lua_State *L)
{
  const arrival *a = lua_touserdata(L, 1);
  peri__message message = *a->note;
  message.bytes.data += sizeof a->header;
  message.bytes.length -= sizeof a->header;
  push_function(L, "arrived");
  lua_pushinteger(L, (lua_Integer)a->serial);
  lua_pushinteger(L, (lua_Integer)a->header.kind);
  lua_pushinteger(L, (lua_Integer)a->header.request);
  push_loop(L, &a->header);
  int n = peri__decode(L, a->rt, &message, a->peer);
  lua_call(L, 4 + n, 0);
  return 0;
}

/* [arrival] [error] -> failed(peer, kind, request, error) */
static int note_failed(lua_State *L)
{
  const arrival *a = lua_touserdata(L, 1);
  push_function(L, "failed");
  lua_pushinteger(L, (lua_Integer)a->serial);
  lua_pushinteger(L, (lua_Integer)a->header.kind);
  lua_pushinteger(L, (lua_Integer)a->header.request);
  lua_pushvalue(L, 2);
  lua_call(L, 4, 0);
  return 0;
}

void peri__note_arrived(lua_State *L, peri_runtime *rt, peri__peer *peer,
                        const peri__message *note)
{
  int top = lua_gettop(L);
  arrival a = {.rt = rt, .peer = peer, .serial = peer->serial, .note = note};
  if (note->bytes.length < sizeof a.header || !lua_checkstack(L, 8))
    return;
  memcpy(&a.header, note->bytes.data, sizeof a.header);
  lua_pushcfunction(L, note_body);
  lua_pushlightuserdata(L, &a);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    lua_pushcfunction(L, note_failed);
    lua_pushlightuserdata(L, &a);
    lua_pushvalue(L, top + 1);
    lua_pcall(L, 2, 0, 0);
  }
  lua_settop(L, top);
}
