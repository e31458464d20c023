/*
 * process_talk.c: packets to and from one worker, on the owner's side. What comes
 * is checked: a worker may have been damaged by its job, or be none.
 */
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "pool/process.h"

/* -- Sending ------------------------------------------------------------------- */

/* The worker is beyond help: its death is seen when its channel ends. */
void peri__process_put_down(process *p)
{
  p->damaged = true;
  kill(p->pid, SIGKILL);
}

void peri__process_flush(process *p)
{
  while (p->written < p->backlog.length) {
    struct iovec part = {p->backlog.data + p->written,
                         p->backlog.length - p->written};
    ssize_t taken = peri__channel_write(&p->channel, &part, 1);
    if (taken < 0)
      return; /* its end will be seen */
    if (taken == 0 && !peri__channel_want_room(&p->channel))
      break;
    p->written += (size_t)taken;
  }
  if (p->written == p->backlog.length) {
    peri__buffer_empty(&p->backlog);
    p->written = 0;
  }
  peri__process_rewatch(p);
}

static void append(process *p, const char *data, size_t size)
{
  if (peri__buffer_reserve(&p->backlog, size) < 0) {
    peri__process_put_down(p);
    return;
  }
  memcpy(p->backlog.data + p->backlog.length, data, size);
  p->backlog.length += size;
}

static void send_parts(process *p, const struct iovec *parts, int count)
{
  ssize_t taken = 0;
  if (p->backlog.length == 0)
    taken = peri__channel_write(&p->channel, parts, count);
  if (taken < 0)
    return; /* its end will be seen */
  size_t skip = (size_t)taken;
  for (int i = 0; i < count; i++) {
    size_t length = parts[i].iov_len, gone = skip < length ? skip : length;
    skip -= gone;
    if (gone < length)
      append(p, (const char *)parts[i].iov_base + gone, length - gone);
  }
  if (p->backlog.length > 0)
    peri__process_flush(p);
}

/* Has the message in a block, if it is worth that and can be. */
static int move_into_block(process *p, peri__buffer *bytes)
{
  peri__blocks *blocks = p->pool->head.blocks;
  if (bytes->length <= PERI__BLOCK_LEAST || p->channel.page == NULL)
    return -1;
  if (bytes->blocks == NULL) {
    peri__buffer block = {.length = bytes->length, .blocks = blocks};
    block.data = peri__blocks_take(blocks, block.length, &block.capacity);
    if (block.data == NULL)
      return -1;
    memcpy(block.data, bytes->data, block.length);
    free(bytes->data);
    *bytes = block;
  }
  return peri__blocks_place(blocks, bytes->data);
}

/* What the worker has read before it could answer is on the way no more. */
static bool send_block(process *p, int place)
{
  const peri__blocks *blocks = p->pool->head.blocks;
  uint32_t serial = peri__blocks_serial(blocks, place);
  if (p->known[place] == serial)
    return true;
  int fd = peri__blocks_fd(blocks, place);
  if (p->ready && p->next - p->first <= 1)
    p->handed = 0;
  if (p->handed == PERI__CHANNEL_FDS ||
      peri__channel_send_fds(p->channel.fd, &fd, 1) < 0)
    return false;
  p->handed++;
  p->known[place] = serial;
  peri__packet packet = {.kind = PERI__PACKET_BLOCK, .slot = (uint32_t)place};
  const struct iovec part = {&packet, sizeof packet};
  send_parts(p, &part, 1);
  return true;
}

/* Sends a small message whose chunk, if it has one, the worker has got. False:
 * it is not so, or there is no room for it. */
static bool send_small(process *p, peri__packet packet,
                       const peri__message *message)
{
  uint32_t n = message->chunk_count;
  size_t length = message->bytes.length;
  unsigned place = 0;
  if (n > 1 || length > PERI__JOB_ROOM || p->backlog.length > 0 ||
      (n == 1 && !peri__chunk_known(&p->out, message->chunks[0], &place)))
    return false;
  char *to = peri__channel_room(&p->channel, sizeof packet + n + length);
  if (to == NULL)
    return false;
  packet.chunks = (uint8_t)n;
  packet.length = n + length;
  memcpy(to, &packet, sizeof packet);
  to[sizeof packet] = (char)place;
  if (length > 0)
    memcpy(to + sizeof packet + n, message->bytes.data, length);
  peri__channel_put(&p->channel, sizeof packet + n + length);
  return true;
}

/* Sends the code that the worker has not got, and writes down where it is. */
static void send_chunks(process *p, const peri__message *message,
                        unsigned char *places)
{
  peri__chunk_places_begin(&p->out);
  for (uint32_t i = 0; i < message->chunk_count; i++) {
    bool fresh;
    peri__chunk *chunk = message->chunks[i];
    places[i] = (unsigned char)peri__chunk_place(&p->out, chunk, &fresh);
    if (!fresh)
      continue;
    peri__packet code = {
        .kind = PERI__PACKET_CODE, .slot = places[i], .length = chunk->length};
    const struct iovec parts[2] = {{&code, sizeof code},
                                   {chunk->code, chunk->length}};
    send_parts(p, parts, 2);
  }
}

void peri__process_send(process *p, peri__packet packet, peri__message *message)
{
  unsigned char places[PERI__MESSAGE_CHUNKS];
  uint32_t n = message->chunk_count;
  if (peri_likely(send_small(p, packet, message)))
    return;
  send_chunks(p, message, places);
  int block = move_into_block(p, &message->bytes);
  const uint64_t length = message->bytes.length;
  struct iovec parts[3] = {{&packet, sizeof packet},
                           {places, n},
                           {message->bytes.data, message->bytes.length}};
  if (block >= 0 && send_block(p, block)) {
    packet.block = (uint8_t)(block + 1);
    parts[2] = (struct iovec){(void *)&length, sizeof length};
  }
  packet.chunks = (uint8_t)n;
  packet.length = n + parts[2].iov_len;
  send_parts(p, parts, 3);
}

/* -- What workers send -------------------------------------------------------------- */

static bool take_hello(process *p, const peri__packet *packet,
                       const char *payload)
{
  peri__hello hello;
  if (p->hello || packet->length != sizeof hello)
    return false;
  memcpy(&hello, payload, sizeof hello);
  p->hello =
      memcmp(hello.magic, PERI__PACKETS_MAGIC, sizeof hello.magic) == 0 &&
      hello.format == PERI__PACKETS_FORMAT;
  return p->hello;
}

/* The bytes of an answer that stand in a block, until they are freed. */
static int hold_block(process *p, const peri__packet *packet,
                      const char *payload, peri__buffer *bytes)
{
  uint64_t length;
  uint32_t place = packet->block - 1u;
  if (packet->length - packet->chunks != sizeof length || p->blocks == NULL)
    return UV_EPROTO;
  memcpy(&length, payload + packet->chunks, sizeof length);
  char *data = peri__blocks_at(p->blocks, place, length);
  if (data == NULL)
    return UV_EMFILE; /* the block had come, but could not be mapped */
  if (length <= PERI__BLOCK_LEAST || !peri__blocks_hold(p->blocks, place))
    return UV_EPROTO;
  *bytes = (peri__buffer){.data = data,
                          .length = (size_t)length,
                          .capacity = (size_t)length,
                          .blocks = p->blocks};
  return 0;
}

static int copy_bytes(const char *data, size_t length, peri__buffer *bytes)
{
  if (peri__buffer_reserve(bytes, length) < 0)
    return UV_ENOMEM;
  memcpy(bytes->data, data, length);
  bytes->length = length;
  return 0;
}

/* The message in a packet, which is to be freed in any case. 0; UV_ENOMEM;
 * UV_EPROTO: no worker of ours sends that. */
static int read_message(process *p, const peri__packet *packet,
                        const char *payload, peri__message *out)
{
  size_t n = packet->chunks;
  int code = 0;
  if (n > packet->length || n > PERI__MESSAGE_CHUNKS)
    return UV_EPROTO;
  for (size_t i = 0; i < n && code == 0; i++) {
    peri__chunk *chunk = peri__chunk_at(&p->in, (unsigned char)payload[i]);
    code = chunk == NULL                             ? UV_EPROTO
           : peri__message_add_chunk(out, chunk) < 0 ? UV_ENOMEM
                                                     : 0;
  }
  if (code == 0)
    code =
        packet->block != 0
            ? hold_block(p, packet, payload, &out->bytes)
            : copy_bytes(payload + n, (size_t)packet->length - n, &out->bytes);
  return code;
}

static int put_answer(process *p, peri__job *job, const peri__packet *packet,
                      const char *payload)
{
  size_t length = (size_t)packet->length;
  peri__message out = {.chunk_count = 0};
  if (job->relayed && packet->chunks > 0)
    return UV_EPROTO;
  if (packet->chunks == 0 && length <= PERI__JOB_ROOM && packet->block == 0) {
    memcpy(peri__job_out(job, length), payload, length);
    return 0;
  }
  int code = read_message(p, packet, payload, &out);
  if (code == 0)
    peri__job_put(job, &job->out, &out);
  peri__message_fini(&out);
  return code;
}

static char *copy_text(const char *data, size_t length)
{
  return length > 0 ? strndup(data, length) : NULL;
}

static bool take_outcome(process *p, peri__job *job, const peri__packet *packet,
                         const char *payload)
{
  if (packet->outcome != PERI__JOB_RETURNED &&
      packet->outcome != PERI__JOB_RAISED) {
    end_job(job, packet->outcome, copy_text(payload, (size_t)packet->length));
    return true;
  }
  int code = put_answer(p, job, packet, payload);
  if (code == 0)
    end_job(job, packet->outcome, NULL);
  else
    end_job(job, PERI__JOB_FAILED, strdup(uv_strerror(code)));
  return code != UV_EPROTO;
}

static bool take_done(process *p, const peri__packet *packet,
                      const char *payload)
{
  if (!p->ready || p->first == p->next || packet->slot != p->first)
    return false;
  slot *at = &p->slots[p->first % PERI__WINDOW];
  bool skipped = packet->outcome == PERI__PACKET_SKIPPED;
  if (skipped != (at->job == NULL) ||
      (!skipped && packet->outcome > PERI__JOB_CANCELLED))
    return false;
  p->first++;
  p->answered = true;
  p->pool->failures = 0;
  if (skipped)
    return true;
  peri__job *job = at->job;
  at->job = NULL;
  job->peer = &p->far->peer;
  p->live--;
  return take_outcome(p, job, packet, payload);
}

/* It is lost where there is no memory, as with threads. */
static bool take_note(process *p, const peri__packet *packet,
                      const char *payload)
{
  peri__message note = {.chunk_count = 0};
  int code = read_message(p, packet, payload, &note);
  if (code == 0)
    peri__home_leave_note(p->pool->head.home, &p->far->peer, &note);
  peri__message_fini(&note);
  return p->hello && code != UV_EPROTO;
}

static bool take_submit(process *p, const peri__packet *packet,
                        const char *payload)
{
  peri__message message = {.chunk_count = 0};
  if (!p->hello)
    return false;
  int code = read_message(p, packet, payload, &message);
  if (code != UV_EPROTO)
    peri__relay_submit(p, packet, &message, code);
  peri__message_fini(&message);
  return code != UV_EPROTO;
}

/* With a page it is told of relays only, maybe ahead of the answer before. */
static bool take_begun(process *p, const peri__packet *packet)
{
  slot *at = &p->slots[packet->slot % PERI__WINDOW];
  if (packet->slot - p->first >= p->next - p->first || at->job == NULL)
    return false;
  if (p->channel.page == NULL)
    at->begun = true;
  if (at->job->relayed)
    peri__relay_begun(at->job);
  return p->channel.page == NULL || at->job->relayed;
}

/* The state has gone, with what it has submitted. */
static bool take_gone(process *p)
{
  far_end *far = p->far;
  peri__process_part(p);
  peri__relays_leave(p->pool, far, true);
  return peri__process_meet(p) == 0;
}

static bool take_block(process *p, const peri__packet *packet)
{
  int fd = peri__channel_expect_fd(&p->channel);
  if (fd < 0)
    return true; /* we had no descriptor for it */
  if (p->blocks != NULL)
    return peri__blocks_arrived(p->blocks, packet->slot, fd) != UV_EPROTO;
  close(fd);
  return false;
}

/* False: a worker of ours does not send that. */
static bool take_packet(process *p, const peri__packet *packet,
                        const char *payload)
{
  p->rests = p->rests && packet->kind == PERI__PACKET_REST;
  switch ((peri__packet_kind)packet->kind) {
  case PERI__PACKET_HELLO:
    return take_hello(p, packet, payload);
  case PERI__PACKET_READY:
    p->ready = p->hello;
    peri__process_watch_start(p->pool);
    return p->hello;
  case PERI__PACKET_BROKEN: {
    char text[400];
    int length = packet->length < 300 ? (int)packet->length : 300;
    snprintf(text, sizeof text, ", %.*s", length, length > 0 ? payload : "");
    peri__process_pool_break(p->pool, strdup(text));
    return true;
  }
  case PERI__PACKET_CODE:
    return peri__chunk_arrived(&p->in, packet->slot, payload,
                               (size_t)packet->length) == 0;
  case PERI__PACKET_BLOCK:
    return take_block(p, packet);
  case PERI__PACKET_NOTE:
    return take_note(p, packet, payload);
  case PERI__PACKET_GONE:
    return take_gone(p);
  case PERI__PACKET_IDLE:
    if (p->pool->head.pending == 0)
      peri__blocks_trim(p->pool->head.blocks);
    return p->ready;
  case PERI__PACKET_BEGUN:
    return take_begun(p, packet);
  case PERI__PACKET_SUBMIT:
    return take_submit(p, packet, payload);
  case PERI__PACKET_WITHDRAW:
    peri__relay_withdraw(p, packet->slot);
    return true;
  case PERI__PACKET_INTERRUPT:
    return peri__relay_interrupt(p, packet, payload);
  case PERI__PACKET_LEAVE:
    peri__relays_leave(p->pool, p->far, true);
    return true;
  case PERI__PACKET_SYNC:
    peri__relay_sync(p);
    return true;
  case PERI__PACKET_REST:
    return peri__process_rest(p, packet, payload);
  case PERI__PACKET_DONE:
    return take_done(p, packet, payload);
  default:
    return false;
  }
}

/* Whether it is worth waiting for the rest of such a packet. */
static bool is_plausible(const process *p, const peri__packet *packet)
{
  static const uint64_t most = UINT64_C(1) << 40;
  if (!p->hello)
    return packet->kind == PERI__PACKET_HELLO &&
           packet->length == sizeof(peri__hello);
  return packet->length < most;
}

/* Reads what there is. False: it is damaged, or the end. */
static bool read_packets(process *p)
{
  peri__packet packet;
  const char *payload;
  for (;;) {
    while (peri__reader_next(&p->reader, &packet, &payload))
      if (!take_packet(p, &packet, payload)) {
        p->damaged = true;
        return false;
      }
    ssize_t got = peri__reader_fill(&p->reader, &p->channel);
    if (got < 0 ||
        (peri__reader_peek(&p->reader, &packet) && !is_plausible(p, &packet))) {
      p->damaged = got != UV_EOF;
      return false;
    }
    if (got == 0)
      return true;
  }
}

void peri__process_end(process *p)
{
  peri__channel_attend(&p->channel);
  read_packets(p);
  peri__process_lost(p);
}

void peri__process_look(process *p)
{
  process_pool *pool = p->pool;
  if (!read_packets(p)) {
    kill(p->pid, p->damaged ? SIGKILL : 0);
    peri__process_lost(p);
    return;
  }
  if (p->backlog.length > 0)
    peri__process_flush(p);
  peri__process_flush_orders(p);
  peri__process_pool_hand_out(pool);
  peri__process_settle_idle(pool, p);
  peri__process_hold(p);
  peri__process_pool_find_deadlock(pool);
}
