/*
 * address.c: socket addresses, from text and to text. No names: those are
 * dns.c's.
 */
#include <arpa/inet.h>
#include <net/if.h>
#include <string.h>

#include "io/io.h"

bool peri__address_parse(peri_address *address, const char *host, int port)
{
  if (uv_ip4_addr(host, port, &address->in) == 0)
    return true;
  if (strchr(host, ':') != NULL && uv_ip6_addr(host, port, &address->in6) == 0)
    return true;
  address->any.sa_family = AF_UNSPEC;
  return false;
}

socklen_t peri__address_size(const peri_address *address)
{
  return address->any.sa_family == AF_INET6 ? sizeof address->in6
                                            : sizeof address->in;
}

int peri__address_port(const peri_address *address)
{
  return ntohs(address->any.sa_family == AF_INET6 ? address->in6.sin6_port
                                                  : address->in.sin_port);
}

/* The host alone; a link-local address has its interface. */
static void host_text(const peri_address *address, char *text, size_t size)
{
  if (address->any.sa_family != AF_INET6) {
    uv_ip4_name(&address->in, text, size);
    return;
  }
  uv_ip6_name(&address->in6, text, size);
  char name[IF_NAMESIZE];
  unsigned scope = address->in6.sin6_scope_id;
  if (scope != 0 && if_indextoname(scope, name) != NULL) {
    size_t length = strlen(text);
    snprintf(text + length, size - length, "%%%s", name);
  }
}

int peri__address_push(lua_State *L, const peri_address *address)
{
  char text[PERI_ADDRESS_TEXT];
  host_text(address, text, sizeof text);
  lua_pushstring(L, text);
  lua_pushinteger(L, peri__address_port(address));
  return 2;
}

const char *peri__address_text(const peri_address *address, char *text)
{
  char host[PERI_ADDRESS_TEXT];
  host_text(address, host, sizeof host);
  snprintf(text, PERI_ADDRESS_TEXT,
           address->any.sa_family == AF_INET6 ? "[%.60s]:%d" : "%.60s:%d", host,
           peri__address_port(address));
  return text;
}
