/*
 * dns.c: getaddrinfo and getnameinfo, on the threads for names (work.c).
 *
 * A look-up is C memory of its own, malloc's as all that threads have: a task
 * that is cancelled leaves at once, and the look-up, which nothing can
 * interrupt, ends in its own time, if need be after the runtime.
 */
#include <errno.h>
#include <netdb.h>
#include <string.h>

#include "io/io.h"
#include "io/work.h"

typedef struct lookup {
  peri_work work; /* first */
  peri_runtime *rt;
  peri_waiters line; /* of the one task that waits */
  bool begun, ended, abandoned;
  int code;   /* of getaddrinfo, getnameinfo */
  int system; /* errno, where that is EAI_SYSTEM */
  struct addrinfo hints, *found;
  peri_address address; /* whose name is asked for */
  int flags;
  char *host, *service; /* in text; NULL: any */
  char *names;          /* found: the host's, and behind it the service's */
  char text[];
} lookup;

static void lookup_free(lookup *look)
{
  if (look->found != NULL)
    freeaddrinfo(look->found);
  free(look->names);
  free(look);
}

static void done(peri_runtime *rt, peri_work *work)
{
  lookup *look = (lookup *)work;
  (void)rt;
  look->ended = true;
  if (look->abandoned || peri__waiters_empty(&look->line))
    lookup_free(look);
  else
    peri__waiters_wake(&look->line);
}

static void orphaned(peri_work *work)
{
  lookup_free((lookup *)work);
}

static void give_up(lua_State *L, peri_runtime *rt, peri_waiters *line, int idx,
                    bool woken)
{
  lookup *look = (lookup *)((char *)line - offsetof(lookup, line));
  (void)L, (void)idx, (void)woken;
  if (look->ended || !look->begun || peri__work_withdraw(rt, &look->work)) {
    lookup_free(look);
    return;
  }
  look->abandoned = true;
  peri__work_forget(rt, &look->work);
}

static char *put(char *to, const char **text, size_t size)
{
  if (size > 0)
    *text = memcpy(to, *text, size);
  return to + size;
}

/* With copies of the names, which may be NULL. */
static lookup *lookup_new(lua_State *L, peri_runtime *rt, const char *what,
                          void (*run)(peri_work *), const char *host,
                          const char *service)
{
  size_t host_size = host != NULL ? strlen(host) + 1 : 0;
  size_t service_size = service != NULL ? strlen(service) + 1 : 0;
  lookup *look = malloc(sizeof *look + host_size + service_size);
  if (look == NULL)
    luaL_error(L, "not enough memory");
  memset(look, 0, sizeof *look);
  char *rest = put(look->text, &host, host_size);
  put(rest, &service, service_size);
  look->host = (char *)host;
  look->service = (char *)service;
  look->rt = rt;
  look->work.group = PERI_WORK_NAMES;
  look->work.run = run;
  look->work.done = done;
  look->work.orphaned = orphaned;
  atomic_init(&look->work.may_hang, true);
  peri__waiters_init(&look->line, what, give_up);
  return look;
}

/* Waits for the look-up, which stands at index 1 of the function that goes on
 * in k. A task that is cancelled already does not begin it. */
static int submit(lua_State *L, peri_runtime *rt, lookup *look, lua_KFunction k)
{
  if (!(rt->task->flags & PERI_T_MUST_CANCEL)) {
    int code = peri__work_submit(rt, &look->work);
    if (code < 0) {
      const char *what = look->line.what;
      lookup_free(look);
      return peri__throw_os(L, rt, what, code, NULL, NULL);
    }
    look->begun = true;
  }
  lua_settop(L, 0);
  lua_pushlightuserdata(L, look);
  peri__waiters_park(L, rt, &look->line);
  return peri__park(L, rt, (lua_KContext)rt, k);
}

/* -- Errors ------------------------------------------------------------------- */

#define CODES(X)                                                               \
  X(EAI_AGAIN)                                                                 \
  X(EAI_BADFLAGS)                                                              \
  X(EAI_FAIL)                                                                  \
  X(EAI_FAMILY)                                                                \
  X(EAI_MEMORY)                                                                \
  X(EAI_NONAME)                                                                \
  X(EAI_OVERFLOW)                                                              \
  X(EAI_SERVICE)                                                               \
  X(EAI_SOCKTYPE)

static const char *code_name(int code)
{
  switch (code) {
#define X(name)                                                                \
  case name:                                                                   \
    return #name;
    CODES(X)
#ifdef EAI_NODATA
    X(EAI_NODATA)
#endif
#ifdef EAI_ADDRFAMILY
    X(EAI_ADDRFAMILY)
#endif
#undef X
  default:
    return "EAI_FAIL";
  }
}

/* [look-up that has failed]: its OSError */
static int push_failure(lua_State *L)
{
  lookup *look = lua_touserdata(L, 1);
  const char *what = look->line.what;
  char text[PERI_ADDRESS_TEXT];
  if (look->address.any.sa_family != AF_UNSPEC)
    lua_pushstring(L, peri__address_text(&look->address, text));
  else
    lua_pushfstring(L, "%s%s%s", look->host != NULL ? look->host : "*",
                    look->service != NULL ? ":" : "",
                    look->service != NULL ? look->service : "");
  if (look->code == EAI_SYSTEM) {
    peri__push_os(L, look->rt, what, uv_translate_sys_error(look->system), NULL,
                  "address", lua_tostring(L, 2));
    return 1;
  }
  peri__push_error(L, look->rt, PERI_ERR_OS, "%s: %s (%s)", what,
                   gai_strerror(look->code), lua_tostring(L, 2));
  lua_pushstring(L, code_name(look->code));
  lua_setfield(L, 3, "code");
  lua_pushinteger(L, look->code);
  lua_setfield(L, 3, "errno");
  lua_pushstring(L, what);
  lua_setfield(L, 3, "syscall");
  lua_pushvalue(L, 2);
  lua_setfield(L, 3, "address");
  return 1;
}

/* Returns what push does with the look-up, or raises its error. Either may run
 * out of memory: the look-up is freed all the same. */
static int finish(lua_State *L, peri_runtime *rt, lua_CFunction push)
{
  peri__waiters_unpark(L, rt);
  lookup *look = lua_touserdata(L, 1);
  int code = look->code;
  lua_pushcfunction(L, code == 0 ? push : push_failure);
  lua_pushlightuserdata(L, look);
  int result = lua_pcall(L, 1, LUA_MULTRET, 0);
  lookup_free(look);
  if (code == EAI_MEMORY)
    return luaL_error(L, "not enough memory");
  return result == LUA_OK && code == 0 ? lua_gettop(L) - 1 : lua_error(L);
}

/* -- getaddrinfo -------------------------------------------------------------- */

static void run_addresses(peri_work *work)
{
  lookup *look = (lookup *)work;
  look->code =
      getaddrinfo(look->host, look->service, &look->hints, &look->found);
  look->system = errno;
}

static void push_entry(lua_State *L, const struct addrinfo *info)
{
  peri_address address;
  memcpy(&address, info->ai_addr, info->ai_addrlen);
  lua_createtable(L, 0, 5);
  lua_pushstring(L, info->ai_family == AF_INET ? "inet" : "inet6");
  lua_setfield(L, -2, "family");
  lua_pushstring(L, info->ai_socktype == SOCK_DGRAM ? "dgram" : "stream");
  lua_setfield(L, -2, "type");
  peri__address_push(L, &address);
  lua_setfield(L, -3, "port");
  lua_setfield(L, -2, "host");
  if (info->ai_canonname != NULL) {
    lua_pushstring(L, info->ai_canonname);
    lua_setfield(L, -2, "canonname");
  }
}

/* [look-up that ended well]: a list of entries */
static int push_addresses(lua_State *L)
{
  const lookup *look = lua_touserdata(L, 1);
  lua_newtable(L);
  lua_Integer n = 0;
  const struct addrinfo *info = look->found;
  for (; info != NULL; info = info->ai_next) {
    if (info->ai_addrlen > sizeof(peri_address) ||
        (info->ai_family != AF_INET && info->ai_family != AF_INET6))
      continue;
    push_entry(L, info);
    lua_rawseti(L, 2, ++n);
  }
  return 1;
}

static int addresses_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  return finish(L, (peri_runtime *)ctx, push_addresses);
}

static const char *check_name(lua_State *L, peri_runtime *rt, int arg)
{
  size_t length;
  if (lua_isnoneornil(L, arg))
    return NULL;
  const char *text = peri__check_string(L, rt, arg, &length);
  if (strlen(text) != length)
    peri__arg_error(L, rt, PERI_ERR_VALUE, arg, "a name has no zero byte");
  return text;
}

static int check_flags(lua_State *L, int arg)
{
  static const struct {
    char letter;
    int flag;
  } flags[] = {{'p', AI_PASSIVE},
               {'c', AI_CANONNAME},
               {'n', AI_NUMERICHOST},
               {'a', AI_ADDRCONFIG}};
  const char *letters = luaL_optstring(L, arg, "");
  int all = 0;
  for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
    if (strchr(letters, flags[i].letter) != NULL)
      all |= flags[i].flag;
  return all;
}

/* lookup(host or nil, service or nil, family, type, flags) -> list of
 * {family=, type=, host=, port=, canonname=}; flags are letters: p passive, c
 * canonical name, n numeric host, a only families that the machine has */
static int l_lookup(lua_State *L)
{
  static const char *const families[] = {"any", "inet", "inet6", NULL};
  static const int family_codes[] = {AF_UNSPEC, AF_INET, AF_INET6};
  static const char *const types[] = {"stream", "dgram", NULL};
  peri_runtime *rt = peri__rt(L);
  const char *host = check_name(L, rt, 1), *service = check_name(L, rt, 2);
  int family = luaL_checkoption(L, 3, "any", families);
  int type = luaL_checkoption(L, 4, "stream", types);
  int flags = check_flags(L, 5);
  peri__wait_check(L, rt, "getaddrinfo");
  lookup *look = lookup_new(L, rt, "getaddrinfo", run_addresses, host, service);
  look->hints.ai_family = family_codes[family];
  look->hints.ai_socktype = type == 0 ? SOCK_STREAM : SOCK_DGRAM;
  look->hints.ai_flags = flags;
  return submit(L, rt, look, addresses_k);
}

/* -- getnameinfo -------------------------------------------------------------- */

static void run_names(peri_work *work)
{
  lookup *look = (lookup *)work;
  char host[NI_MAXHOST], service[NI_MAXSERV];
  look->code =
      getnameinfo(&look->address.any, peri__address_size(&look->address), host,
                  sizeof host, service, sizeof service, look->flags);
  look->system = errno;
  if (look->code != 0)
    return;
  size_t host_size = strlen(host) + 1, service_size = strlen(service) + 1;
  look->names = malloc(host_size + service_size);
  if (look->names == NULL) {
    look->code = EAI_MEMORY;
    return;
  }
  memcpy(look->names, host, host_size);
  memcpy(look->names + host_size, service, service_size);
}

static int push_names(lua_State *L)
{
  const lookup *look = lua_touserdata(L, 1);
  lua_pushstring(L, look->names);
  lua_pushstring(L, look->names + strlen(look->names) + 1);
  return 2;
}

static int names_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  return finish(L, (peri_runtime *)ctx, push_names);
}

/* reverse(address, port, flags) -> host, service; flags are letters: h numeric
 * host, s numeric service, r the name is required, d of a datagram service */
static int l_reverse(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  const char *host = check_name(L, rt, 1);
  int port = (int)luaL_optinteger(L, 2, 0);
  const char *letters = luaL_optstring(L, 3, "");
  peri_address address;
  if (host == NULL || !peri__address_parse(&address, host, port))
    return peri__arg_error(L, rt, PERI_ERR_VALUE, 1, "not an IP address");
  peri__wait_check(L, rt, "getnameinfo");
  lookup *look = lookup_new(L, rt, "getnameinfo", run_names, NULL, NULL);
  look->address = address;
  look->flags = (strchr(letters, 'h') ? NI_NUMERICHOST : 0) |
                (strchr(letters, 's') ? NI_NUMERICSERV : 0) |
                (strchr(letters, 'r') ? NI_NAMEREQD : 0) |
                (strchr(letters, 'd') ? NI_DGRAM : 0);
  return submit(L, rt, look, names_k);
}

const luaL_Reg peri__dns_functions[] = {
    {"lookup", l_lookup}, {"reverse", l_reverse}, {NULL, NULL}};
