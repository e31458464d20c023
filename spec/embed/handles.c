/* Two states and a transport between them, as simple as can be: loop handles,
 * refs, and what becomes of them when the other end goes. */
#include "check.h"

#include "pool/codec.h"

enum { MOST_NOTES = 16 };

/* One end of the way. Notes that it sends wait in the other's list. */
typedef struct end {
  peri__peer peer;
  struct end *other;
  peri_runtime *rt;
  peri__message notes[MOST_NOTES];
  int count;
} end;

static int send_note(peri__peer *peer, peri__message *note)
{
  end *other = ((end *)peer)->other;
  if (other->count == MOST_NOTES)
    return PERI_ENOMEM;
  other->notes[other->count++] = *note;
  *note = (peri__message){0};
  return 0;
}

static end home, away;

static void make_end(end *e, end *other)
{
  *e = (end){.peer = {.trusted = true, .chunks = true, .send = send_note},
             .other = other};
  CHECK_INT(PERI_OK, peri_new(&e->rt, NULL));
  peri__peer_open(peri_state(e->rt), e->rt, &e->peer);
}

static void close_end(end *e)
{
  for (int i = 0; i < e->count; i++)
    peri__message_fini(&e->notes[i]);
  e->count = 0;
  peri__peer_close(peri_state(e->rt), e->rt, &e->peer);
  peri_close(e->rt);
}

static void take_notes(end *e)
{
  for (int i = 0; i < e->count; i++) {
    peri__message note = e->notes[i];
    peri__note_arrived(peri_state(e->rt), e->rt, &e->peer, &note);
    peri__message_fini(&note);
  }
  e->count = 0;
}

/* Sends a global of one state to the same global of the other. */
static void pass(end *from, end *to, const char *name)
{
  lua_State *L = peri_state(from->rt), *M = peri_state(to->rt);
  peri__message message = {0};
  lua_getglobal(L, name);
  peri__encode(L, from->rt, -1, 1, PERI__MESSAGE_VALUES, true, &message);
  lua_setglobal(L, "kept");
  lua_settop(L, 0);
  CHECK_INT(1, peri__decode(M, to->rt, &message, &to->peer));
  lua_setglobal(M, name);
  peri__message_fini(&message);
}

static bool flag(end *e, const char *name)
{
  lua_State *L = peri_state(e->rt);
  lua_getglobal(L, name);
  bool value = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return value;
}

/* Runs the script away, and home as well, until it has ended. */
static void run_away(const char *code)
{
  CHECK_INT(PERI_OK, start_code(away.rt, code));
  for (;;) {
    take_notes(&home);
    CHECK(peri_step(home.rt, 0) >= 0);
    take_notes(&away);
    int status = peri_step(away.rt, 0);
    if (status < 0)
      fprintf(stderr, "%s\n", peri_error(away.rt));
    CHECK(status >= 0);
    if (status == 0)
      break;
  }
}

static void open_both(void)
{
  make_end(&home, &away);
  make_end(&away, &home);
  CHECK_INT(PERI_OK, start_code(home.rt, "peri = require 'perilune'\n"
                                         "loop = peri.get_running_loop()\n"
                                         "stop = peri.Event()\n"
                                         "stop:wait()\n"));
  CHECK(peri_step(home.rt, 0) > 0);
  pass(&home, &away, "loop");
}

static void close_both(void)
{
  close_end(&away);
  close_end(&home);
}

static void calls(void)
{
  open_both();
  run_away(
      "peri = require 'perilune'\n"
      "assert(tostring(loop):find '^LoopHandle')\n"
      "local sum = 0\n"
      "loop:call_soon_threadsafe(function(x) sum = sum + x; seen = sum end, "
      "5)\n"
      "assert(sum == 0)\n"
      "local future = loop:run_coroutine_threadsafe(function(a, b)\n"
      "  peri.sleep(0)\n"
      "  return a + b, 'two', seen\n"
      "end, 2, 3)\n"
      "local a, b, c = future:await()\n"
      "assert(a == 5 and b == 'two' and c == 5)\n"
      "assert(peri.run_coroutine_threadsafe(function() return 1 end, loop)\n"
      "  :await() == 1)\n");
  CHECK_INT(5, global_integer(peri_state(home.rt), "seen"));
  close_both();
}

static void errors(void)
{
  open_both();
  run_away(
      "peri = require 'perilune'\n"
      "local function fails(class, message, fn, ...)\n"
      "  local future = loop:run_coroutine_threadsafe(fn, ...)\n"
      "  local ok, err = pcall(peri.await, future)\n"
      "  assert(not ok and class:is(err), tostring(err))\n"
      "  assert(err.message == message, err.message)\n"
      "  return err\n"
      "end\n"
      "local err = fails(peri.ValueError, 'bad', function()\n"
      "  error(peri.ValueError 'bad')\n"
      "end)\n"
      "assert(err.traceback:find 'spec:')\n"
      "fails(peri.TypeError, 'cannot send result 1: coroutine', function()\n"
      "  return coroutine.create(print)\n"
      "end)\n"
      "package.preload.nowhere = function() return { fn = function() end } "
      "end\n"
      "local future = loop:run_coroutine_threadsafe(require 'nowhere'.fn)\n"
      "local ok, err = pcall(peri.await, future)\n"
      "assert(not ok and err:find \"module 'nowhere' not found\")\n");
  close_both();
}

static void what_cannot_go(void)
{
  open_both();
  run_away("peri = require 'perilune'\n"
           "local ok, err = pcall(loop.run_coroutine_threadsafe, loop, print,\n"
           "  coroutine.create(print))\n"
           "assert(not ok and tostring(err) ==\n"
           "  'TypeError: cannot send argument 1: coroutine', tostring(err))\n"
           "assert(not pcall(loop.call_soon_threadsafe, 5, print))\n");
  close_both();
}

static void cancels(void)
{
  open_both();
  run_away("peri = require 'perilune'\n"
           "local future = loop:run_coroutine_threadsafe(function()\n"
           "  local _ <close> = peri.defer(function() cancelled = true end)\n"
           "  started = true\n"
           "  peri.Future():await()\n"
           "end)\n"
           "while not loop:run_coroutine_threadsafe(function()\n"
           "  return started\n"
           "end):await() do end\n"
           "future:cancel()\n"
           "while not loop:run_coroutine_threadsafe(function()\n"
           "  return cancelled\n"
           "end):await() do end\n"
           "local mutual = loop:run_coroutine_threadsafe(function()\n"
           "  peri.current_task():cancel()\n"
           "  peri.sleep(0)\n"
           "end)\n"
           "local ok, err = pcall(peri.await, mutual)\n"
           "assert(not ok and peri.iscancel(err))\n");
  close_both();
}

static void loop_has_gone(void)
{
  open_both();
  lua_State *L = peri_state(home.rt);
  CHECK_INT(LUA_OK, luaL_dostring(L, "loop = peri.new_event_loop()"));
  pass(&home, &away, "loop");
  CHECK_INT(LUA_OK, luaL_dostring(L, "loop:close()"));
  const char *code =
      "peri = require 'perilune'\n"
      "local future = loop:run_coroutine_threadsafe(function() end)\n"
      "local ok, err = pcall(peri.await, future)\n"
      "assert(not ok and tostring(err) == 'RuntimeError: Event loop is "
      "closed')\n";
  run_away(code);
  CHECK_INT(LUA_OK, luaL_dostring(L, "loop = nil; kept = nil\n"
                                     "collectgarbage() collectgarbage()"));
  run_away(code);
  close_both();
}

static void state_has_gone(void)
{
  open_both();
  CHECK_INT(
      PERI_OK,
      start_code(away.rt,
                 "peri = require 'perilune'\n"
                 "local future = loop:run_coroutine_threadsafe(\n"
                 "  function() peri.Future():await() end)\n"
                 "asked = true\n"
                 "local ok, err = pcall(peri.await, future)\n"
                 "assert(not ok and peri.RuntimeError:is(err))\n"
                 "text = err.message\n"
                 "ok, err = pcall(loop.call_soon_threadsafe, loop, print)\n"
                 "assert(not ok and peri.RuntimeError:is(err))\n"));
  while (!flag(&away, "asked"))
    CHECK(peri_step(away.rt, 0) > 0);
  take_notes(&home);
  peri__peer_close(peri_state(away.rt), away.rt, &away.peer);
  peri__peer_close(peri_state(away.rt), away.rt, &away.peer);
  int status;
  while ((status = peri_step(away.rt, 0)) > 0)
    continue;
  CHECK_INT(0, status);
  lua_State *L = peri_state(away.rt);
  lua_getglobal(L, "text");
  CHECK_TEXT("the state of the loop has gone", lua_tostring(L, -1));
  lua_pop(L, 1);
  close_both();
}

static void come_home(void)
{
  open_both();
  lua_State *L = peri_state(home.rt), *M = peri_state(away.rt);
  CHECK_INT(LUA_OK,
            luaL_dostring(L, "own = peri.get_event_loop and loop\n"
                             "conn = coroutine.create(print)\n"
                             "box = { peri.ref(conn), peri.ref(nil) }"));
  pass(&home, &away, "box");
  CHECK_INT(LUA_OK, luaL_dostring(M, "assert(tostring(box[1]):find '^Ref')\n"
                                     "box = { box, box[1], loop, box[2] }"));
  pass(&away, &home, "box");
  CHECK_INT(LUA_OK,
            luaL_dostring(L, "assert(box[1][1] == conn and box[2] == conn)\n"
                             "assert(box[3] == own and box[4] == nil)"));
  /* Tokens of one thing are equal. */
  CHECK_INT(LUA_OK, luaL_dostring(L, "box = peri.ref(conn)"));
  pass(&home, &away, "box");
  CHECK_INT(LUA_OK, luaL_dostring(M, "first = box"));
  pass(&home, &away, "box");
  CHECK_INT(LUA_OK, luaL_dostring(M, "assert(first == box and box ~= loop)"));
  close_both();
}

static int decode_note(lua_State *L)
{
  peri__decode(L, home.rt, lua_touserdata(L, 1), &home.peer);
  return 0;
}

static void comes_home_too_late(void)
{
  open_both();
  lua_State *L = peri_state(home.rt), *M = peri_state(away.rt);
  CHECK_INT(LUA_OK, luaL_dostring(L, "box = peri.ref(print)"));
  pass(&home, &away, "box");
  CHECK_INT(LUA_OK, luaL_dostring(L, "assert(#kept == 1)\n"
                                     "box = nil; collectgarbage()"));
  pass(&away, &home, "box");
  CHECK_INT(LUA_OK, luaL_dostring(L, "assert(box == print)\n"
                                     "kept = nil\n"
                                     "collectgarbage() collectgarbage()"));
  peri__message message = {0};
  lua_getglobal(M, "box");
  peri__encode(M, away.rt, -1, 1, PERI__MESSAGE_VALUES, true, &message);
  lua_settop(M, 0);
  lua_pushcfunction(L, decode_note);
  lua_pushlightuserdata(L, &message);
  CHECK_INT(LUA_ERRRUN, lua_pcall(L, 1, 0, 0));
  CHECK_TEXT("RuntimeError: the value that a ref stands for has gone",
             luaL_tolstring(L, -1, NULL));
  lua_settop(L, 0);
  peri__message_fini(&message);
  close_both();
}

static void damaged_notes(void)
{
  open_both();
  lua_State *L = peri_state(home.rt);
  char bytes[64] = {0};
  for (size_t length = 0; length <= sizeof bytes; length++) {
    for (bytes[0] = 0; bytes[0] < 8; bytes[0]++) {
      peri__message note = {.bytes = {bytes, length, 0}};
      peri__note_arrived(L, home.rt, &home.peer, &note);
    }
  }
  CHECK_INT(0, lua_gettop(L));
  close_both();
}

int main(void)
{
  calls();
  errors();
  what_cannot_go();
  cancels();
  loop_has_gone();
  state_has_gone();
  come_home();
  comes_home_too_late();
  damaged_notes();
  return 0;
}
