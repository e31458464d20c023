/*
 * dns.c: getaddrinfo and getnameinfo, on the threads for names (work.c).
 *
 * The job is C memory of its own: a task that is cancelled leaves at once, and
 * the look-up, which nothing can interrupt, ends in its own time.
 */
#include <netdb.h>
#include <string.h>

#include "core/core.h"
#include "io/dns.h"
#include "io/work.h"

typedef struct dns_job {
  peri_work work; /* first */
  peri_runtime *rt;
  peri_waiters line; /* of the one task that waits */
  bool ended;
  bool abandoned; /* nobody waits any more */
  int code;       /* of getaddrinfo, getnameinfo */
  int system;     /* errno, where that is EAI_SYSTEM */
  size_t size;    /* of all of this */
  struct addrinfo hints, *found;
  struct sockaddr_storage address;
  socklen_t length;
  int flags;
  char host[NI_MAXHOST], service[NI_MAXSERV];
  bool has_host, has_service;
} dns_job;

static void job_free(dns_job *job)
{
  if (job->found != NULL)
    freeaddrinfo(job->found);
  peri__realloc(job->rt, job, sizeof *job, 0);
}

static void done(peri_runtime *rt, peri_work *work)
{
  dns_job *job = (dns_job *)work;
  (void)rt;
  job->ended = true;
  if (job->abandoned)
    job_free(job);
  else
    peri__waiters_wake(&job->line);
}

static void give_up(lua_State *L, peri_runtime *rt, peri_waiters *line, int idx,
                    bool woken)
{
  dns_job *job = (dns_job *)((char *)line - offsetof(dns_job, line));
  (void)L, (void)idx, (void)woken;
  if (job->ended || peri__work_withdraw(rt, &job->work))
    job_free(job);
  else
    job->abandoned = true;
}

static dns_job *job_new(lua_State *L, peri_runtime *rt, const char *what,
                        void (*run)(peri_work *))
{
  dns_job *job = peri__realloc(rt, NULL, 0, sizeof *job);
  if (job == NULL)
    luaL_error(L, "not enough memory");
  memset(job, 0, offsetof(dns_job, host));
  job->has_host = job->has_service = false;
  job->rt = rt;
  job->work.group = PERI_WORK_NAMES;
  job->work.run = run;
  job->work.done = done;
  peri__waiters_init(&job->line, what, give_up);
  return job;
}

/* Waits for the job, which stands at index 1 of the function that goes on in
 * k. */
static int submit(lua_State *L, peri_runtime *rt, dns_job *job, lua_KFunction k)
{
  int code = peri__work_submit(rt, &job->work);
  if (code < 0) {
    const char *what = job->line.what;
    job_free(job);
    return peri__throw_uv(L, rt, what, code);
  }
  lua_settop(L, 0);
  lua_pushlightuserdata(L, job);
  peri__waiters_park(L, rt, &job->line);
  return peri__park(L, rt, (lua_KContext)rt, k);
}

/* -- Errors ------------------------------------------------------------------- */

static const struct {
  int code;
  const char *name;
} names[] = {
    {EAI_AGAIN, "EAI_AGAIN"},
    {EAI_BADFLAGS, "EAI_BADFLAGS"},
    {EAI_FAIL, "EAI_FAIL"},
    {EAI_FAMILY, "EAI_FAMILY"},
    {EAI_MEMORY, "EAI_MEMORY"},
    {EAI_NONAME, "EAI_NONAME"},
    {EAI_OVERFLOW, "EAI_OVERFLOW"},
    {EAI_SERVICE, "EAI_SERVICE"},
    {EAI_SOCKTYPE, "EAI_SOCKTYPE"},
#ifdef EAI_NODATA
    {EAI_NODATA, "EAI_NODATA"},
#endif
#ifdef EAI_ADDRFAMILY
    {EAI_ADDRFAMILY, "EAI_ADDRFAMILY"},
#endif
};

/* The OSError of a failed look-up; frees the job. */
static int throw_failure(lua_State *L, peri_runtime *rt, dns_job *job)
{
  int code = job->code, system = job->system;
  const char *what = job->line.what, *name = "EAI_FAIL";
  lua_pushfstring(L, "%s%s%s", job->has_host ? job->host : "*",
                  job->has_service ? ":" : "",
                  job->has_service ? job->service : "");
  job_free(job);
  if (code == EAI_SYSTEM)
    return peri__throw_uv(L, rt, what, uv_translate_sys_error(system));
  if (code == EAI_MEMORY)
    return luaL_error(L, "not enough memory");
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (names[i].code == code)
      name = names[i].name;
  peri__push_error(L, rt, PERI_ERR_OS, "%s %s: %s", what, lua_tostring(L, -1),
                   gai_strerror(code));
  lua_pushstring(L, name);
  lua_setfield(L, -2, "code");
  lua_pushinteger(L, code);
  lua_setfield(L, -2, "errno");
  lua_pushstring(L, what);
  lua_setfield(L, -2, "syscall");
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "address");
  return lua_error(L);
}

/* -- getaddrinfo -------------------------------------------------------------- */

static void run_addresses(peri_work *work)
{
  dns_job *job = (dns_job *)work;
  job->code = getaddrinfo(job->has_host ? job->host : NULL,
                          job->has_service ? job->service : NULL, &job->hints,
                          &job->found);
  job->system = errno;
}

static void push_address(lua_State *L, const struct addrinfo *info)
{
  char text[INET6_ADDRSTRLEN] = "";
  int port = 0;
  lua_createtable(L, 0, 5);
  if (info->ai_family == AF_INET6) {
    const struct sockaddr_in6 *in6 = (const void *)info->ai_addr;
    uv_ip6_name(in6, text, sizeof text);
    port = ntohs(in6->sin6_port);
    if (in6->sin6_scope_id != 0) {
      lua_pushinteger(L, in6->sin6_scope_id);
      lua_setfield(L, -2, "scope");
    }
  } else if (info->ai_family == AF_INET) {
    const struct sockaddr_in *in = (const void *)info->ai_addr;
    uv_ip4_name(in, text, sizeof text);
    port = ntohs(in->sin_port);
  }
  lua_pushstring(L, info->ai_family == AF_INET6 ? "inet6" : "inet");
  lua_setfield(L, -2, "family");
  lua_pushstring(L, info->ai_socktype == SOCK_DGRAM ? "dgram" : "stream");
  lua_setfield(L, -2, "socktype");
  lua_pushstring(L, text);
  lua_setfield(L, -2, "address");
  lua_pushinteger(L, port);
  lua_setfield(L, -2, "port");
  if (info->ai_canonname != NULL) {
    lua_pushstring(L, info->ai_canonname);
    lua_setfield(L, -2, "canonname");
  }
}

/* [the list of a look-up that ended well as light userdata]: the list */
static int push_addresses(lua_State *L)
{
  const struct addrinfo *info = lua_touserdata(L, 1);
  lua_newtable(L);
  lua_Integer n = 0;
  for (; info != NULL; info = info->ai_next) {
    if (info->ai_family != AF_INET && info->ai_family != AF_INET6)
      continue;
    push_address(L, info);
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}

static int addresses_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  peri_runtime *rt = (peri_runtime *)ctx;
  peri__waiters_unpark(L, rt);
  dns_job *job = lua_touserdata(L, 1);
  if (job->code != 0)
    return throw_failure(L, rt, job);
  lua_pushcfunction(L, push_addresses);
  lua_pushlightuserdata(L, job->found);
  int result = lua_pcall(L, 1, 1, 0);
  job_free(job);
  return result == LUA_OK ? 1 : lua_error(L);
}

static bool copy_text(lua_State *L, peri_runtime *rt, int arg, char *to,
                      size_t room)
{
  size_t length;
  if (lua_isnoneornil(L, arg))
    return false;
  const char *text = peri__check_string(L, rt, arg, &length);
  if (length >= room || strlen(text) != length)
    peri__arg_error(L, rt, PERI_ERR_VALUE, arg, "not a name");
  memcpy(to, text, length + 1);
  return true;
}

/* getaddrinfo(host or nil, service or nil, family, socktype, flags) -> list of
 * { family=, socktype=, address=, port=, canonname= } */
static int l_getaddrinfo(lua_State *L)
{
  static const char *const families[] = {"any", "inet", "inet6", NULL};
  static const int family_codes[] = {AF_UNSPEC, AF_INET, AF_INET6};
  static const char *const types[] = {"stream", "dgram", NULL};
  peri_runtime *rt = peri__rt(L);
  char host[NI_MAXHOST], service[NI_MAXSERV];
  lua_settop(L, 5);
  bool has_host = copy_text(L, rt, 1, host, sizeof host);
  bool has_service = copy_text(L, rt, 2, service, sizeof service);
  int family = luaL_checkoption(L, 3, "any", families);
  int type = luaL_checkoption(L, 4, "stream", types);
  int flags = (int)luaL_optinteger(L, 5, 0);
  peri__wait_check(L, rt, "getaddrinfo");
  dns_job *job = job_new(L, rt, "getaddrinfo", run_addresses);
  job->hints.ai_family = family_codes[family];
  job->hints.ai_socktype = type == 0 ? SOCK_STREAM : SOCK_DGRAM;
  job->hints.ai_flags = flags;
  job->has_host = has_host;
  job->has_service = has_service;
  if (has_host)
    strcpy(job->host, host);
  if (has_service)
    strcpy(job->service, service);
  return submit(L, rt, job, addresses_k);
}

/* -- getnameinfo -------------------------------------------------------------- */

static void run_names(peri_work *work)
{
  dns_job *job = (dns_job *)work;
  job->code = getnameinfo((struct sockaddr *)&job->address, job->length,
                          job->host, sizeof job->host, job->service,
                          sizeof job->service, job->flags);
  job->system = errno;
}

/* [host, service as light userdata] */
static int push_names(lua_State *L)
{
  lua_pushstring(L, lua_touserdata(L, 1));
  lua_pushstring(L, lua_touserdata(L, 2));
  return 2;
}

static int names_k(lua_State *L, int status, lua_KContext ctx)
{
  (void)status;
  peri_runtime *rt = (peri_runtime *)ctx;
  peri__waiters_unpark(L, rt);
  dns_job *job = lua_touserdata(L, 1);
  if (job->code != 0)
    return throw_failure(L, rt, job);
  lua_pushcfunction(L, push_names);
  lua_pushlightuserdata(L, job->host);
  lua_pushlightuserdata(L, job->service);
  int result = lua_pcall(L, 2, 2, 0);
  job_free(job);
  return result == LUA_OK ? 2 : lua_error(L);
}

/* getnameinfo(address, port, flags) -> host, service */
static int l_getnameinfo(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  struct sockaddr_storage storage = {0};
  const char *text = peri__check_string(L, rt, 1, NULL);
  int port = (int)luaL_optinteger(L, 2, 0);
  int flags = (int)luaL_optinteger(L, 3, 0);
  socklen_t length = sizeof(struct sockaddr_in);
  if (uv_ip4_addr(text, port, (struct sockaddr_in *)&storage) < 0) {
    length = sizeof(struct sockaddr_in6);
    if (uv_ip6_addr(text, port, (struct sockaddr_in6 *)&storage) < 0)
      return peri__arg_error(L, rt, PERI_ERR_VALUE, 1, "not an IP address");
  }
  peri__wait_check(L, rt, "getnameinfo");
  dns_job *job = job_new(L, rt, "getnameinfo", run_names);
  job->address = storage;
  job->length = length;
  job->flags = flags;
  return submit(L, rt, job, names_k);
}

static const luaL_Reg functions[] = {{"getaddrinfo", l_getaddrinfo},
                                     {"getnameinfo", l_getnameinfo},
                                     {NULL, NULL}};

int peri__dns_open_module(lua_State *L)
{
  peri_runtime *rt = peri_of(L);
  if (rt == NULL)
    return luaL_error(L, "there is no runtime on this state");
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, functions, 1);
  return 1;
}
