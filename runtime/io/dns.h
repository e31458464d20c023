/*
 * dns.h: names and addresses. See dns.c.
 */
#ifndef PERI_DNS_H
#define PERI_DNS_H

#include <lua.h>

/* The module perilune._dns. */
int peri__dns_open_module(lua_State *L);

#endif
