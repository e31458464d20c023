/*
 * io.h: what the files of io/ share: streams, servers, addresses, errors.
 *
 * A struct with a libuv handle lies in memory of the allocator, not in the
 * object that the script holds: libuv needs it until the close callback, which
 * comes after the object may have been collected. References are counted: the
 * handle has one, the object one, and each task that waits one, so that what a
 * task finds when it goes on is still there. What is open stands in loop->open
 * and is closed with its loop.
 *
 * libuv's callbacks run no Lua and raise nothing: they change that struct, wake
 * tasks (core/waiters.c), or put a node into the ready queue.
 */
#ifndef PERI_IO_H
#define PERI_IO_H

#include <sys/types.h>

#include <netinet/in.h>
#include <sys/socket.h>

#include "core/core.h"

typedef struct peri_stream peri_stream;
typedef struct peri_server peri_server;

/* -- Addresses: address.c --------------------------------------------------- */

typedef union peri_address {
  struct sockaddr any; /* AF_UNSPEC: none */
  struct sockaddr_in in;
  struct sockaddr_in6 in6;
} peri_address;

/* Room for the text of an address: "[ADDRESS%INTERFACE]:PORT". */
enum { PERI_ADDRESS_TEXT = INET6_ADDRSTRLEN + 32 };

/* A numeric address; false: it is none. */
bool peri__address_parse(peri_address *address, const char *host, int port);
socklen_t peri__address_size(const peri_address *address);
int peri__address_port(const peri_address *address);
/* Pushes host and port. */
int peri__address_push(lua_State *L, const peri_address *address);
const char *peri__address_text(const peri_address *address, char *text);

/* -- Errors and options: net.c ------------------------------------------------ */

/* Raises the OSError of a libuv code. It has the name of what the call was about
 * in the field, "address" or "path"; NULL: nothing. */
int peri__throw_os(lua_State *L, peri_runtime *rt, const char *syscall,
                   int code, const char *field, const char *name);
/* Pushes it instead; text, if there is one, says more than the code does. */
void peri__push_os(lua_State *L, peri_runtime *rt, const char *syscall,
                   int code, const char *text, const char *field,
                   const char *name);
/* Whether the argument at idx is a table of options, as what waits takes it. */
static inline bool peri__is_options(lua_State *L, int idx)
{
  return lua_type(L, idx) == LUA_TTABLE;
}
/* Calls the method again, with the arguments below the options at index at,
 * within the time that those allow. name is that of the method in messages. */
int peri__limited(lua_State *L, int at, const char *name, lua_CFunction method);
/* The running loop, open, with its libuv loop and its scratch buffer. */
peri_loop *peri__io_loop(lua_State *L, peri_runtime *rt);
/* Pushes the module perilune._net. */
int peri__net_open(lua_State *L);

/* -- Input: input.c ----------------------------------------------------------- */

enum { PERI_LARGE_INPUT = 4096 };

void peri__discount_input(lua_State *L, size_t size);

/* Pushes input as a string. */
static inline void peri__push_input(lua_State *L, const char *data, size_t size)
{
  lua_pushlstring(L, data, size);
  if (peri_unlikely(size >= PERI_LARGE_INPUT))
    peri__discount_input(L, size);
}

/* -- Signals: signal.c --------------------------------------------------------- */

/* Pushes a table of the signals' numbers by name. */
void peri__push_signals(lua_State *L);
/* Pushes the module perilune._signal. */
int peri__signal_open(lua_State *L);

/* -- Streams: stream.c -------------------------------------------------------- */

/* Output that is under way, or waits for that. */
typedef struct peri_output {
  uv_write_t request; /* libuv's */
  size_t size, capacity;
  char data[];
} peri_output;

/*
 * What carries the bytes of a stream: libuv (uv_stream.c), or a layer that
 * stands on another stream, as TLS would. Each function but close is called
 * only while the stream is open. None runs Lua, none raises; errors are libuv's
 * codes. The carrier tells, from a libuv callback:
 *   peri__stream_readable  that try_read has something, the end or an error
 *                          included, while reading is started; again and again
 *                          until it has been read
 *   peri__stream_written   that the output has gone, or what became of it
 *   peri__stream_closed    that the struct is not needed any more, after close
 */
typedef struct peri_stream_ops {
  int (*read_start)(peri_stream *stream);
  void (*read_stop)(peri_stream *stream);
  /* Bytes; 0 at the end; UV_EAGAIN: nothing yet. */
  ssize_t (*try_read)(peri_stream *stream, char *data, size_t size);
  /* How many bytes went at once; UV_EAGAIN: none. No output is under way. */
  ssize_t (*try_write)(peri_stream *stream, const uv_buf_t *buffers,
                       unsigned count);
  /* Writes all of the output, one at a time. */
  int (*write)(peri_stream *stream, peri_output *output);
  /* How much of the output under way has gone, as far as it is known. */
  size_t (*written)(peri_stream *stream);
  /* Ends the output; nothing is under way. */
  int (*shutdown)(peri_stream *stream);
  void (*close)(peri_stream *stream);
  /* A task waits for input, or does not any more: only then does an idle stream
   * keep a loop from being idle. */
  void (*hold)(peri_stream *stream, bool waits);
} peri_stream_ops;

typedef enum peri_stream_kind {
  PERI_STREAM_TCP,
  PERI_STREAM_PIPE, /* a pipe, or a Unix socket */
  PERI_STREAM_TTY
} peri_stream_kind;

enum {
  PERI_S_READABLE = 1 << 0,
  PERI_S_WRITABLE = 1 << 1,
  PERI_S_HALF_CLOSES = 1 << 2, /* its output can end alone: a socket's */
  PERI_S_CONNECTING = 1 << 3,  /* the script has not got it yet */
  PERI_S_STARTED = 1 << 4,     /* the carrier tells when there is input */
  PERI_S_STOPPED = 1 << 5,     /* not, until the buffer is emptier */
  PERI_S_READY = 1 << 6,       /* there may be input: worth an attempt */
  PERI_S_EOF = 1 << 7,         /* the input has ended */
  PERI_S_LOST = 1 << 8,        /* no input comes any more: stream->lost */
  PERI_S_CLOSING = 1 << 9,     /* close() was called */
  PERI_S_CLOSED = 1 << 10,     /* all is flushed, and the carrier closed */
  PERI_S_READING = 1 << 11,    /* a task waits for input, or is about to run */
  PERI_S_CONGESTED = 1 << 12,  /* output above the high-water mark */
  PERI_S_SHUT = 1 << 13,       /* write_eof() was called */
  PERI_S_SHUT_DOWN = 1 << 14,  /* and done */
  PERI_S_DISMISSED = 1 << 15,  /* closed by its server, not by its handler */
  PERI_S_INPUT_OVER = PERI_S_EOF | PERI_S_LOST | PERI_S_CLOSING
};

struct peri_stream {
  peri_io io;
  peri_runtime *rt;
  peri_kernel *kernel; /* outlives loop->kernel, which ends first */
  const peri_stream_ops *ops;
  int references;
  uint32_t flags;
  uint8_t kind;
  uint8_t burst;   /* full reads since the last wait */
  int fd;          /* -1: none */
  int lost;        /* the error that ended the input */
  int output_lost; /* the one that ended the output */

  /* Input that nobody has taken yet: from start to end. */
  char *input;
  size_t start, end, capacity;
  size_t limit;
  size_t progress; /* bytes searched in vain by the read under way */

  peri_output *flying, *pending;
  size_t queued; /* bytes in both */
  size_t high, low;
  uint32_t close_timeout;     /* milliseconds; 0: none */
  struct peri_linger *linger; /* once it closes and has such a limit */

  peri_waiters readers, drainers, closers;

  peri_server *server; /* whose connection it is, or NULL */
  peri_node client;    /* in the server's list */
  peri_address peer;   /* of TCP */
  char *path;          /* of the Unix socket it was connected to, or NULL */

  union {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
    uv_tty_t tty;
  } uv; /* last: allocated as far as the kind needs it */
};

/* The object that the script holds. The mark tells it from others, and costs
 * less than a look at the metatable. */
typedef struct peri_stream_box {
  const void *mark;
  peri_stream *stream; /* NULL: none yet */
} peri_stream_box;

enum { PERI_DEFAULT_LIMIT = 65536 };

extern const char peri__stream_mark;

/* The stream at idx; raises if it is none. */
peri_stream *peri__stream_check_slowly(lua_State *L, int idx);
static inline peri_stream *peri__stream_check(lua_State *L, int idx)
{
  peri_stream_box *box = lua_touserdata(L, idx);
  if (peri_likely(box != NULL && lua_rawlen(L, idx) >= sizeof *box &&
                  box->mark == &peri__stream_mark && box->stream != NULL))
    return box->stream;
  return peri__stream_check_slowly(L, idx);
}

static inline size_t peri__stream_has(const peri_stream *stream)
{
  return stream->end - stream->start;
}

/* uv_stream.c: a stream of a kind whose handle is initialised but has no
 * descriptor. NULL: out of memory. Needs peri__io_loop before. tty: see below.
 * Its one reference is the handle's; peri__stream_abort gives it back. */
peri_stream *peri__stream_new(peri_loop *loop, peri_stream_kind kind);
/* The stream gets a descriptor, which is the stream's from then on if that
 * works. */
int peri__stream_take(peri_stream *stream, int fd);
/* The handle has been given a descriptor by libuv. */
void peri__stream_connected(peri_stream *stream);
/* Pushes a stream for a descriptor of any kind that streams have: a socket, a
 * pipe, a terminal. The descriptor is the stream's then. Raises, and leaves it
 * alone. */
peri_stream *peri__stream_push_fd(lua_State *L, peri_loop *loop, int fd);

/* stream.c. Pushes the object of a new stream, without it; what makes streams
 * begins with that and ends with box->stream, which is a reference. */
peri_stream_box *peri__stream_push_box(lua_State *L, peri_runtime *rt);
void peri__stream_box(peri_stream_box *box, peri_stream *stream);
void peri__stream_unref(peri_stream *stream);
/* For carriers: the struct, but for uv; the one reference is the carrier's.
 * NULL: out of memory. */
peri_stream *peri__stream_alloc(peri_loop *loop, const peri_stream_ops *ops,
                                peri_stream_kind kind);

/* Reads once into the scratch buffer; the stream's own has nothing. Bytes, or 0
 * or less: the flags say why. */
ssize_t peri__stream_read_scratch(peri_stream *stream);
/* Reads once behind what is there, with want more bytes in view (0: no idea).
 */
ssize_t peri__stream_fill(peri_stream *stream, size_t want);
/* Puts bytes behind what is there; false: out of memory. */
bool peri__stream_keep(peri_stream *stream, const char *data, size_t size);
/* Takes bytes away from the front. */
void peri__stream_consume(peri_stream *stream, size_t size);
/* What no read goes on from: closed, lost. */
int peri__stream_throw_input(lua_State *L, peri_stream *stream);
/* Waits in a line of the stream's, which stands at idx; in the continuation
 * peri__stream_unpark comes first. */
int peri__stream_park(lua_State *L, peri_stream *stream, peri_waiters *line,
                      lua_KContext ctx, lua_KFunction k);
/* The same, for input; one task at a time. what names the wait. */
int peri__stream_park_reading(lua_State *L, peri_stream *stream,
                              const char *what, lua_KContext ctx,
                              lua_KFunction k);
void peri__stream_unpark(lua_State *L, peri_stream *stream);
void peri__stream_unpark_reading(lua_State *L, peri_stream *stream);

/* Whether output can be written: 0, or why not. */
int peri__stream_writable(const peri_stream *stream);
/* Writes what goes at once and queues a copy of the rest. Nothing else to be
 * done about an error: the stream has noted it. */
int peri__stream_write(peri_stream *stream, const uv_buf_t *buffers,
                       unsigned count);
int peri__stream_write_eof(peri_stream *stream);
void peri__stream_close(peri_stream *stream);
void peri__stream_abort(peri_stream *stream);
/* Raises an OSError about the stream. */
int peri__stream_throw(lua_State *L, peri_stream *stream, const char *syscall,
                       int code);
/* Pushes what tells the stream from others in messages. */
const char *peri__stream_push_name(lua_State *L, const peri_stream *stream);

/* linger.c: a stream has been closed and has output left; input has come to it;
 * it is closed at last. */
typedef struct peri_linger peri_linger;
void peri__linger_start(peri_stream *stream);
void peri__linger_readable(peri_stream *stream);
void peri__linger_stop(peri_stream *stream);

/* For carriers, from libuv's callbacks. */
void peri__stream_readable(peri_stream *stream);
void peri__stream_written(peri_stream *stream, int code);
void peri__stream_closed(peri_stream *stream);

/* stream_read.c, stream_write.c, stream_lua.c: methods */
extern const luaL_Reg peri__stream_read_methods[];
extern const luaL_Reg peri__stream_write_methods[];
void peri__stream_open(lua_State *L, peri_runtime *rt);

/* connect.c: the address of a path, which may be an abstract name (a first byte
 * of 0); false: it is too long, empty, or has a 0 inside. */
struct sockaddr_un;
bool peri__unix_address(struct sockaddr_un *address, socklen_t *size,
                        const char *path, size_t length);
int peri__path_error(size_t length); /* why */
/* A copy of a path for messages, length + 1 bytes; NULL: out of memory. */
char *peri__copy_path(peri_runtime *rt, const char *path, size_t length);

/* connect.c, dns.c, server.c, udp_lua.c: functions of perilune._net */
extern const luaL_Reg peri__connect_functions[];
extern const luaL_Reg peri__dns_functions[];
extern const luaL_Reg peri__udp_functions[];
void peri__udp_open(lua_State *L, peri_runtime *rt);
extern const luaL_Reg peri__server_functions[];
void peri__server_open(lua_State *L, peri_runtime *rt);
/* A connection of the server's has gone. */
void peri__server_detach(peri_stream *stream);

#endif
