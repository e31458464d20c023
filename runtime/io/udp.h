/*
 * udp.h: what udp.c and udp_lua.c share: datagram sockets.
 */
#ifndef PERI_UDP_H
#define PERI_UDP_H

#include "io/io.h"

/* One that has come and nobody has taken, or an error in its place. */
typedef struct peri_datagram {
  struct peri_datagram *next;
  peri_address from;
  int code; /* < 0: the error */
  size_t size;
  char data[];
} peri_datagram;

typedef struct peri_udp {
  peri_io io;
  peri_runtime *rt;
  peri_kernel *kernel;
  int references; /* the handle's, the object's, those of tasks that wait */
  bool closed;
  int waiting; /* tasks, for datagrams or for room */
  peri_waiters readers;
  peri_datagram *first, **end;
  size_t held, limit; /* bytes */
  lua_Integer dropped;
  peri_address peer; /* AF_UNSPEC: not connected */
  uv_udp_t handle;
} peri_udp;

/* udp.c. Its one reference is the caller's; there is no handle yet. NULL: out of
 * memory. */
peri_udp *peri__udp_new(peri_loop *loop, size_t limit);
/* Makes the socket; the handle is closed by peri__udp_close then. */
int peri__udp_init(peri_udp *udp, int family);
/* From here on datagrams are taken. */
int peri__udp_start(peri_udp *udp);
void peri__udp_close(peri_udp *udp);
void peri__udp_unref(peri_udp *udp);
/* Waits for the next datagram, with the object at index 1: to be returned. With
 * soft, gives nil where the socket is closed. */
int peri__udp_recv(lua_State *L, peri_udp *udp, bool soft);
/* Sends the string at index 2, to the address or (NULL) the peer. */
int peri__udp_send(lua_State *L, peri_udp *udp, const peri_address *to);

/* udp_lua.c */
/* The socket at index 1; raises if there is none. */
peri_udp *peri__udp_check(lua_State *L);
int peri__udp_throw(lua_State *L, peri_udp *udp, const char *syscall, int code,
                    const peri_address *address);

#endif
