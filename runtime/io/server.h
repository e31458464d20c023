/*
 * server.h: what the two files of servers share: server.c, the listening
 * sockets and their connections; server_lua.c, the object and its tasks.
 */
#ifndef PERI_SERVER_H
#define PERI_SERVER_H

#include "io/io.h"

typedef struct peri_listener {
  uv_poll_t poll;
  peri_server *server;
  struct peri_listener *next; /* in the order of binding */
  int fd;
  peri_address address; /* AF_UNSPEC: the server's path */
} peri_listener;

enum {
  PERI_SERVER_UV_HANDLER = 1,
  PERI_SERVER_UV_SERVE,
  PERI_SERVER_UV_CONTEXT
};

struct peri_server {
  peri_io io;
  peri_io_node node; /* while there is something to tell the script */
  peri_runtime *rt;
  peri_kernel *kernel;
  int references; /* object, listeners, timer, connections */
  int anchor;     /* of the object, while it serves */
  bool serving, closed;
  bool full;    /* as many connections as there may be */
  bool starved; /* no descriptors: until a connection ends, or the timer */
  int trouble;  /* why; to be reported; 0: nothing is */
  bool told;    /* when it was last */
  uint64_t told_at;
  int backlog;
  size_t limit;        /* of the streams */
  size_t most, active; /* connections */
  peri_listener *listeners;
  peri_list accepted;    /* streams that have no task yet, by stream->client */
  peri_list clients;     /* those that have */
  peri_stream *starting; /* the one that is getting its task */
  uv_timer_t retry;
  bool has_timer;
  peri_waiters closers;
  char *path; /* of a Unix socket, for messages */
  char *file; /* to be removed at the end, or NULL */
  dev_t file_device;
  ino_t file_number;
};

/* A new server without sockets; its reference is the caller's. */
peri_server *peri__server_new(peri_loop *loop);
void peri__server_unref(peri_server *server);
/* Binds one more socket; its error, and the call that failed. */
int peri__server_bind(peri_server *server, const peri_address *address,
                      bool reuse_port, const char **failed);
int peri__server_bind_path(peri_server *server, const char *path, size_t length,
                           const char **failed);
/* Begins to listen on all sockets. */
int peri__server_listen(peri_server *server);
/* No new connections; the ones there are go on. */
void peri__server_close(peri_server *server);
/* server_lua.c: the server's node has come out of the ready queue. */
void peri__server_run(lua_State *L, peri_runtime *rt, peri_io_node *node);

#endif
