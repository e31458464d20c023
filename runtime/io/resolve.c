/*
 * resolve.c: names to addresses, by getaddrinfo(3) on a thread of its own kind.
 */
#include <netdb.h>
#include <string.h>

#include "io/io.h"
#include "io/work.h"

typedef struct peri_lookup {
  peri_work work;
  peri_runtime *rt;
  peri_waiters line;
  int references; /* the task's, the thread's */
  struct addrinfo hints, *result;
  int code; /* of getaddrinfo */
  bool done;
  char *host; /* behind the struct; NULL: any */
  char *service;
  size_t size;
} peri_lookup;

static void unref(peri_lookup *lookup)
{
  if (--lookup->references > 0)
    return;
  if (lookup->result != NULL)
    freeaddrinfo(lookup->result);
  peri__realloc(lookup->rt, lookup, lookup->size, 0);
}

static void run(peri_work *work)
{
  peri_lookup *lookup = (peri_lookup *)work;
  lookup->code = getaddrinfo(lookup->host, lookup->service, &lookup->hints,
                             &lookup->result);
}

static void done(peri_runtime *rt, peri_work *work)
{
  (void)rt;
  peri_lookup *lookup = (peri_lookup *)work;
  lookup->done = true;
  peri__waiters_wake(&lookup->line);
  unref(lookup);
}

/* A name that is being looked up cannot be stopped; nobody waits for it. */
static void give_up(lua_State *L, peri_runtime *rt, peri_waiters *line, int idx,
                    bool woken)
{
  (void)L, (void)idx, (void)woken;
  peri_lookup *lookup =
      (peri_lookup *)((char *)line - offsetof(peri_lookup, line));
  if (!lookup->done && peri__work_withdraw(rt, &lookup->work))
    unref(lookup);
  unref(lookup);
}

static int uv_code(int code)
{
  static const struct {
    int code, uv;
  } codes[] = {{EAI_AGAIN, UV_EAI_AGAIN},      {EAI_BADFLAGS, UV_EAI_BADFLAGS},
               {EAI_FAIL, UV_EAI_FAIL},        {EAI_FAMILY, UV_EAI_FAMILY},
               {EAI_MEMORY, UV_EAI_MEMORY},    {EAI_NODATA, UV_EAI_NODATA},
               {EAI_NONAME, UV_EAI_NONAME},    {EAI_SERVICE, UV_EAI_SERVICE},
               {EAI_SOCKTYPE, UV_EAI_SOCKTYPE}};
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
    if (codes[i].code == code)
      return codes[i].uv;
  return UV_EAI_FAIL;
}

/* The result must be freed also where memory fails while it is told. */
static int push_list(lua_State *L)
{
  peri_lookup *lookup = lua_touserdata(L, 1);
  lua_newtable(L);
  lua_Integer n = 0;
  for (struct addrinfo *a = lookup->result; a != NULL; a = a->ai_next) {
    if (a->ai_family != AF_INET && a->ai_family != AF_INET6)
      continue;
    peri_address address;
    memcpy(&address, a->ai_addr, a->ai_addrlen);
    lua_createtable(L, 0, 3);
    lua_pushstring(L, a->ai_family == AF_INET ? "inet" : "inet6");
    lua_setfield(L, -2, "family");
    peri__address_push(L, &address);
    lua_setfield(L, -3, "port");
    lua_setfield(L, -2, "host");
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}

static int lookup_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  peri_lookup *lookup = (peri_lookup *)ctx;
  peri_runtime *rt = peri__rt(L);
  peri__waiters_unpark(L, rt);
  if (lookup->code != 0) {
    int code = uv_code(lookup->code);
    unref(lookup);
    return peri__throw_os(L, rt, "getaddrinfo", code, "address",
                          lua_tostring(L, 1));
  }
  lua_pushcfunction(L, push_list);
  lua_pushlightuserdata(L, lookup);
  int result = lua_pcall(L, 1, 1, 0);
  unref(lookup);
  return result == LUA_OK ? 1 : lua_error(L);
}

static peri_lookup *lookup_new(peri_runtime *rt, const char *host,
                               const char *service)
{
  size_t host_size = host != NULL ? strlen(host) + 1 : 0;
  size_t size = sizeof(peri_lookup) + host_size + strlen(service) + 1;
  peri_lookup *lookup = peri__realloc(rt, NULL, 0, size);
  if (lookup == NULL)
    return NULL;
  memset(lookup, 0, sizeof *lookup);
  char *text = (char *)(lookup + 1);
  if (host != NULL)
    lookup->host = memcpy(text, host, host_size);
  lookup->service = strcpy(text + host_size, service);
  lookup->size = size;
  lookup->rt = rt;
  lookup->references = 2;
  lookup->work.group = PERI_WORK_NAMES;
  lookup->work.run = run;
  lookup->work.done = done;
  lookup->hints.ai_socktype = SOCK_STREAM;
  peri__waiters_init(&lookup->line, "getaddrinfo", give_up);
  return lookup;
}

/* lookup(host or nil, service, family or nil, passive) -> list of tables
 * {family=, host=, port=} */
static int l_lookup(lua_State *L)
{
  static const char *const families[] = {"any", "inet", "inet6", NULL};
  static const int numbers[] = {AF_UNSPEC, AF_INET, AF_INET6};
  peri_runtime *rt = peri__rt(L);
  const char *host =
      lua_isnil(L, 1) ? NULL : peri__check_string(L, rt, 1, NULL);
  const char *service = peri__check_string(L, rt, 2, NULL);
  int family = numbers[luaL_checkoption(L, 3, "any", families)];
  bool passive = lua_toboolean(L, 4);
  peri__wait_check(L, rt, "getaddrinfo");
  peri_lookup *lookup = lookup_new(rt, host, service);
  if (lookup == NULL)
    return luaL_error(L, "not enough memory");
  lookup->hints.ai_family = family;
  lookup->hints.ai_flags = passive ? AI_PASSIVE : 0;
  int code = peri__work_submit(rt, &lookup->work);
  if (code < 0) {
    lookup->references = 1;
    unref(lookup);
    return peri__throw_os(L, rt, "getaddrinfo", code, "address", host);
  }
  lua_settop(L, 1);
  peri__waiters_park(L, rt, &lookup->line);
  return peri__park(L, rt, (lua_KContext)lookup, lookup_k);
}

const luaL_Reg peri__resolve_functions[] = {{"lookup", l_lookup}, {NULL, NULL}};
