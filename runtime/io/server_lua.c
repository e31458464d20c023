/*
 * server_lua.c: the server as scripts see it, and the tasks of its connections.
 *
 * A server that serves is anchored in its loop: it goes on when the script has
 * no variable for it any more, as tasks do.
 *
 * The task of a connection runs serve(server, stream), one C function for all of
 * them, which calls the handler and closes the stream however that ends: nothing
 * is made for a connection but its stream, the stream's object and the task.
 */
#include <string.h>

#include "core/debug.h"
#include "io/server.h"

typedef struct peri_server_box {
  const void *mark;
  peri_server *server;
} peri_server_box;

static const char server_mark = 's';

static peri_server *check_server(lua_State *L, int idx)
{
  peri_server_box *box = lua_touserdata(L, idx);
  if (peri_unlikely(box == NULL || lua_rawlen(L, idx) < sizeof *box ||
                    box->mark != &server_mark))
    peri__arg_type_error(L, peri__rt(L), idx, "Server");
  return box->server;
}

/* Its connections and its end reach its own loop only. */
static void check_loop(lua_State *L, peri_server *server, const char *what)
{
  peri_loop *loop = peri__running_loop(server->rt);
  if (loop != NULL && loop != server->io.loop)
    peri__throw(L, server->rt, PERI_ERR_RUNTIME,
                "%s: the server belongs to another loop than the running one",
                what);
}

static int throw_server(lua_State *L, peri_server *server, const char *syscall,
                        int code, const peri_address *address)
{
  char text[PERI_ADDRESS_TEXT];
  if (address != NULL)
    return peri__throw_os(L, server->rt, syscall, code, "address",
                          peri__address_text(address, text));
  return peri__throw_os(L, server->rt, syscall, code, "path", server->path);
}

/* -- Connections ------------------------------------------------------------------ */

/* The error on top of the stack has left the handler of the stream at index 2;
 * popped. */
static void report_handler(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  peri__check_stack(L, 8);
  lua_createtable(L, 0, 4);
  lua_pushliteral(L, "an error in the handler of a connection");
  lua_setfield(L, -2, "message");
  lua_pushvalue(L, 2);
  lua_setfield(L, -2, "stream");
  peri__trace_push(L, rt, -2);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
  } else {
    peri__trace_text(L, rt);
    lua_setfield(L, -2, "traceback");
  }
  lua_insert(L, -2);
  lua_setfield(L, -2, "exception");
  peri__report(L, rt, loop);
}

/* Whether the error on top of the stack only says that the server has closed
 * the connection under its handler. */
static bool was_dismissed(lua_State *L, const peri_stream *stream)
{
  if (!(stream->flags & PERI_S_DISMISSED) || lua_type(L, -1) != LUA_TTABLE)
    return false;
  lua_pushliteral(L, "code");
  lua_rawget(L, -2);
  const char *code = lua_tostring(L, -1);
  bool closed = code != NULL &&
                (strcmp(code, "ECANCELED") == 0 || strcmp(code, "EBADF") == 0);
  lua_pop(L, 1);
  return closed;
}

static int served(lua_State *L, int status, lua_KContext ctx)
{
  peri_runtime *rt = (peri_runtime *)ctx;
  peri_stream *stream = ((peri_stream_box *)lua_touserdata(L, 2))->stream;
  peri_loop *loop = ((peri_server_box *)lua_touserdata(L, 1))->server->io.loop;
  peri__stream_close(stream);
  if (peri_likely(status == LUA_OK || status == LUA_YIELD))
    return 0;
  if (peri__sentinel_of(L, rt, -1) != PERI_SENTINEL_NONE ||
      peri__is_cancelled_error(L, rt, -1) || status == LUA_ERRMEM)
    return lua_error(L);
  if (!was_dismissed(L, stream))
    report_handler(L, rt, loop);
  return 0;
}

/* serve(server, stream): the function of a connection's task */
static int l_serve(lua_State *L)
{
  enum { SERVER = 1, STREAM = 2, MESSAGE_HANDLER = 3 };
  peri_runtime *rt = peri__rt(L);
  peri__push_ref(L, rt, PERI_REF_TRACE_HANDLER);
  lua_getiuservalue(L, SERVER, PERI_SERVER_UV_HANDLER);
  lua_pushvalue(L, STREAM);
  lua_KContext ctx = (lua_KContext)rt;
  int status = lua_pcallk(L, 1, 0, MESSAGE_HANDLER, ctx, served);
  return served(L, status, ctx);
}

/* Pushes the server's object, which is anchored. */
static void push_server(lua_State *L, peri_server *server)
{
  peri__push_anchors(L, server->io.loop);
  lua_rawgeti(L, -1, server->anchor);
  lua_replace(L, -2);
}

/* [server's object]: gives the stream that came first its object and task. */
static void start_task(lua_State *L, peri_server *server)
{
  peri_runtime *rt = server->rt;
  peri_stream *stream =
      (peri_stream *)((char *)peri__list_first(&server->accepted) -
                      offsetof(peri_stream, client));
  peri__node_unlink(&stream->client);
  peri__list_push(&server->clients, &stream->client);
  server->starting = stream;
  lua_getiuservalue(L, 1, PERI_SERVER_UV_SERVE);
  lua_pushvalue(L, 1);
  peri__stream_box(peri__stream_push_box(L, rt), stream);
  peri__create_task(L, rt, server->io.loop, 0, 2, 0);
  server->starting = NULL;
  lua_settop(L, 1);
}

static int start_tasks(lua_State *L)
{
  peri_server *server = lua_touserdata(L, 1);
  push_server(L, server);
  lua_replace(L, 1);
  while (!server->closed && !peri__list_empty(&server->accepted))
    start_task(L, server);
  return 0;
}

/* [server]: accept has failed. */
static int report_trouble(lua_State *L)
{
  peri_server *server = lua_touserdata(L, 1);
  int code = server->trouble;
  server->trouble = 0;
  peri__push_os(L, server->rt, "accept", code, NULL, NULL, NULL);
  peri__report_error(L, server->rt, server->io.loop,
                     "a server cannot accept connections; it tries again "
                     "when one has ended, or in a second");
  return 0;
}

/* [server, error]: the error came before a connection had its task. */
static int report_refused(lua_State *L)
{
  peri_server *server = lua_touserdata(L, 1);
  lua_settop(L, 2);
  peri__report_error(L, server->rt, server->io.loop,
                     "a connection was refused a task");
  return 0;
}

/* Calls one of these with the server. Raises nothing: where memory is short, a
 * report is the last thing that matters. */
static bool call(lua_State *L, peri_server *server, lua_CFunction function)
{
  lua_pushcfunction(L, function);
  lua_pushlightuserdata(L, server);
  if (peri_likely(lua_pcall(L, 1, 0, 0) == LUA_OK))
    return true;
  lua_pushcfunction(L, report_refused);
  lua_insert(L, -2);
  lua_pushlightuserdata(L, server);
  lua_insert(L, -2);
  if (lua_pcall(L, 2, 0, 0) != LUA_OK)
    lua_pop(L, 1);
  return false;
}

/* Tasks inherit the context in which the server began to serve. */
static void start_in_context(lua_State *L, peri_runtime *rt,
                             peri_server *server)
{
  bool had = rt->has_context;
  push_server(L, server);
  lua_getiuservalue(L, -1, PERI_SERVER_UV_CONTEXT);
  bool has = !lua_isnil(L, -1);
  peri__push_ref(L, rt, PERI_REF_CONTEXT); /* the one before */
  lua_insert(L, -2);
  peri__set_ref(L, rt, PERI_REF_CONTEXT);
  rt->has_context = has;
  bool started = call(L, server, start_tasks);
  peri__set_ref(L, rt, PERI_REF_CONTEXT);
  rt->has_context = had;
  lua_pop(L, 1);
  if (started)
    return;
  if (server->starting != NULL) /* its handle is still there, if nothing else */
    peri__stream_abort(server->starting);
  server->starting = NULL;
  if (!server->closed && !peri__list_empty(&server->accepted))
    peri__loop_ready(server->io.loop, &server->node.node);
}

void peri__server_run(lua_State *L, peri_runtime *rt, peri_io_node *node)
{
  peri_server *server =
      (peri_server *)((char *)node - offsetof(peri_server, node));
  int top = lua_gettop(L);
  peri__check_stack(L, 8);
  server->references++; /* what is called here may close it */
  if (server->trouble != 0)
    call(L, server, report_trouble);
  if (!server->closed && !peri__list_empty(&server->accepted))
    start_in_context(L, rt, server);
  peri__server_unref(server);
  lua_settop(L, top);
}

/* -- The object ------------------------------------------------------------------------ */

static void close_server(lua_State *L, peri_server *server)
{
  int anchor = server->anchor;
  server->anchor = LUA_NOREF;
  peri__server_close(server);
  if (anchor != LUA_NOREF)
    peri__unanchor(L, server->io.loop, anchor);
}

/* server(handler, limit, most connections, backlog) */
static int l_server(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__check_function(L, rt, 1);
  size_t limit = (size_t)luaL_checkinteger(L, 2);
  lua_Integer most = luaL_optinteger(L, 3, 0);
  int backlog = (int)luaL_checkinteger(L, 4);
  peri_loop *loop = peri__io_loop(L, rt);
  peri_server_box *box = lua_newuserdatauv(L, sizeof *box, 3);
  box->mark = &server_mark;
  box->server = NULL;
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, PERI_SERVER_UV_HANDLER);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, l_serve, 1);
  lua_setiuservalue(L, -2, PERI_SERVER_UV_SERVE);
  box->server = peri__server_new(loop);
  if (box->server == NULL)
    return luaL_error(L, "not enough memory");
  box->server->limit = limit;
  box->server->backlog = backlog;
  if (most > 0)
    box->server->most = (size_t)most;
  peri__push_ref(L, rt, PERI_REF_SERVER);
  lua_setmetatable(L, -2);
  if (loop->debug)
    peri__debug_note(L, rt, -1);
  return 1;
}

/* bind_tcp(server, host, port, reuse_port) -> port */
static int l_bind_tcp(lua_State *L)
{
  peri_server *server = check_server(L, 1);
  const char *host = peri__check_string(L, server->rt, 2, NULL);
  peri_address address;
  if (!peri__address_parse(&address, host, (int)luaL_checkinteger(L, 3)))
    return peri__arg_error(L, server->rt, PERI_ERR_VALUE, 2,
                           "not a numeric address");
  const char *failed;
  int code = peri__server_bind(server, &address, lua_toboolean(L, 4), &failed);
  if (code < 0)
    return throw_server(L, server, failed, code, &address);
  peri_listener *last = server->listeners;
  while (last->next != NULL)
    last = last->next;
  lua_pushinteger(L, peri__address_port(&last->address));
  return 1;
}

/* bind_unix(server, path) */
static int l_bind_unix(lua_State *L)
{
  peri_server *server = check_server(L, 1);
  size_t length;
  const char *path = peri__check_string(L, server->rt, 2, &length), *failed;
  int code = peri__server_bind_path(server, path, length, &failed);
  if (code < 0)
    return throw_server(L, server, failed, code, NULL);
  return 0;
}

/* start_serving(): begins to listen, unless it does */
static int l_listen(lua_State *L)
{
  peri_server *server = check_server(L, 1);
  peri_runtime *rt = server->rt;
  check_loop(L, server, "Server.start_serving");
  if (server->serving)
    return 0;
  if (server->closed)
    return peri__throw(L, rt, PERI_ERR_RUNTIME, "the server is closed");
  peri__push_context_copy(L, rt);
  lua_setiuservalue(L, 1, PERI_SERVER_UV_CONTEXT);
  lua_pushvalue(L, 1);
  server->anchor = peri__anchor(L, server->io.loop);
  int code = peri__server_listen(server);
  if (code == 0)
    return 0;
  const peri_address *address = &server->listeners->address;
  if (address->any.sa_family == AF_UNSPEC)
    address = NULL;
  peri_address copy = address != NULL ? *address : (peri_address){0};
  close_server(L, server);
  return throw_server(L, server, "listen", code,
                      address != NULL ? &copy : NULL);
}

static int l_close(lua_State *L)
{
  close_server(L, check_server(L, 1));
  return 0;
}

static int l_is_serving(lua_State *L)
{
  lua_pushboolean(L, check_server(L, 1)->serving);
  return 1;
}

static int l_is_closed(lua_State *L)
{
  lua_pushboolean(L, check_server(L, 1)->closed);
  return 1;
}

static int wait_closed(lua_State *L, peri_server *server);

static int wait_closed_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status, (void)ctx;
  peri_server *server = ((peri_server_box *)lua_touserdata(L, 1))->server;
  peri__waiters_unpark(L, server->rt);
  peri__server_unref(server);
  return wait_closed(L, server);
}

static int wait_closed(lua_State *L, peri_server *server)
{
  if (server->closed && server->active == 0)
    return 0;
  check_loop(L, server, "Server.wait_closed");
  peri__waiters_park(L, server->rt, &server->closers);
  server->references++;
  return peri__park(L, server->rt, 0, wait_closed_k);
}

/* wait_closed([options]) */
static int l_wait_closed(lua_State *L)
{
  peri_server *server = check_server(L, 1);
  if (!lua_isnoneornil(L, 2))
    return peri__limited(L, 2, "Server.wait_closed", l_wait_closed);
  lua_settop(L, 1);
  return wait_closed(L, server);
}

/* Each connection that has a task, while others come and go. */
static int each_client(lua_State *L, void (*end)(peri_stream *))
{
  peri_server *server = check_server(L, 1);
  peri_list rest;
  peri__list_init(&rest);
  peri__list_splice(&rest, &server->clients);
  while (!peri__list_empty(&rest)) {
    peri_node *node = peri__list_shift(&rest);
    peri__list_push(&server->clients, node);
    peri_stream *stream =
        (peri_stream *)((char *)node - offsetof(peri_stream, client));
    stream->flags |= PERI_S_DISMISSED;
    end(stream);
  }
  return 0;
}

static int l_close_clients(lua_State *L)
{
  return each_client(L, peri__stream_close);
}

static int l_abort_clients(lua_State *L)
{
  return each_client(L, peri__stream_abort);
}

/* addresses(server) -> list of {host, port} or {path} */
static int l_addresses(lua_State *L)
{
  peri_server *server = check_server(L, 1);
  lua_newtable(L);
  lua_Integer n = 0;
  peri_listener *listener = server->listeners;
  for (; listener != NULL; listener = listener->next) {
    lua_newtable(L);
    if (listener->address.any.sa_family == AF_UNSPEC) {
      lua_pushstring(L, server->path);
      lua_rawseti(L, -2, 1);
    } else {
      peri__address_push(L, &listener->address);
      lua_rawseti(L, -3, 2);
      lua_rawseti(L, -2, 1);
    }
    lua_pushinteger(L, listener->fd);
    lua_setfield(L, -2, "fd");
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}

static int l_gc(lua_State *L)
{
  peri_server_box *box = lua_touserdata(L, 1);
  if (box->server == NULL)
    return 0;
  if (!box->server->closed && box->server->io.loop->debug)
    peri__debug_unclosed(L, box->server->rt, 1, "unclosed %s");
  peri__server_close(box->server);
  box->mark = NULL;
  peri__server_unref(box->server);
  box->server = NULL;
  return 0;
}

static int l_tostring(lua_State *L)
{
  peri_server *server = check_server(L, 1);
  peri_listener *listener = server->listeners;
  luaL_Buffer text;
  char address[PERI_ADDRESS_TEXT];
  luaL_buffinit(L, &text);
  luaL_addstring(&text, "<Server");
  if (server->path != NULL) {
    luaL_addstring(&text, " ");
    luaL_addstring(&text, server->path);
    listener = NULL;
  }
  for (; listener != NULL; listener = listener->next) {
    luaL_addstring(&text, " ");
    luaL_addstring(&text, peri__address_text(&listener->address, address));
  }
  luaL_addstring(&text, server->closed    ? ", closed>"
                        : server->serving ? ", serving>"
                                          : ">");
  luaL_pushresult(&text);
  return 1;
}

static const luaL_Reg meta[] = {
    {"__gc", l_gc}, {"__tostring", l_tostring}, {NULL, NULL}};

static const luaL_Reg methods[] = {{"close", l_close},
                                   {"is_serving", l_is_serving},
                                   {"wait_closed", l_wait_closed},
                                   {"close_clients", l_close_clients},
                                   {"abort_clients", l_abort_clients},
                                   {NULL, NULL}};

const luaL_Reg peri__server_functions[] = {{"server", l_server},
                                           {"bind_tcp", l_bind_tcp},
                                           {"bind_unix", l_bind_unix},
                                           {"listen", l_listen},
                                           {"is_closed", l_is_closed},
                                           {"addresses", l_addresses},
                                           {NULL, NULL}};

/* Leaves the metatable on the stack: perilune.net adds to it. */
void peri__server_open(lua_State *L, peri_runtime *rt)
{
  peri__metatable(L, rt, PERI_REF_SERVER, "Server", meta, methods);
}
