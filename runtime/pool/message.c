/*
 * message.c: what a message is made of, and the chunks of many on their way
 * between processes. No Lua in here.
 */
#include <string.h>

#include "pool/codec.h"

/* -- Buffers --------------------------------------------------------------- */

static bool stands_in_block(const peri__buffer *buffer)
{
  return buffer->blocks != NULL && buffer->capacity > PERI__BLOCK_LEAST;
}

static void free_data(const peri__buffer *buffer)
{
  if (stands_in_block(buffer))
    peri__blocks_give_back(buffer->blocks, buffer->data);
  else
    free(buffer->data);
}

/* Into a larger block; into malloc's memory if there is none. */
static int grow_in_blocks(peri__buffer *buffer, size_t capacity)
{
  peri__buffer larger = {.length = buffer->length, .blocks = buffer->blocks};
  larger.data = peri__blocks_take(buffer->blocks, capacity, &larger.capacity);
  if (larger.data == NULL) {
    larger.data = malloc(capacity);
    larger.capacity = capacity;
    larger.blocks = NULL;
  }
  if (larger.data == NULL)
    return PERI_ENOMEM;
  if (buffer->length > 0)
    memcpy(larger.data, buffer->data, buffer->length);
  free_data(buffer);
  *buffer = larger;
  return 0;
}

int peri__buffer_reserve(peri__buffer *buffer, size_t more)
{
  size_t capacity = buffer->capacity ? buffer->capacity : 64;
  if (more > SIZE_MAX / 2 - buffer->length)
    return PERI_ENOMEM;
  while (capacity - buffer->length < more)
    capacity *= 2;
  if (capacity <= buffer->capacity)
    return 0;
  if (buffer->blocks != NULL && capacity > PERI__BLOCK_LEAST)
    return grow_in_blocks(buffer, capacity);
  char *data = realloc(buffer->data, capacity);
  if (data == NULL)
    return PERI_ENOMEM;
  buffer->data = data;
  buffer->capacity = capacity;
  return 0;
}

void peri__buffer_empty(peri__buffer *buffer)
{
  if (stands_in_block(buffer) || buffer->capacity > PERI__BUFFER_KEPT)
    peri__buffer_fini(buffer);
  buffer->length = 0;
}

void peri__buffer_fini(peri__buffer *buffer)
{
  free_data(buffer);
  *buffer = (peri__buffer){0};
}

void peri__buffer_use(peri__buffer *buffer, peri__blocks *blocks)
{
  if (buffer->capacity > PERI__BLOCK_LEAST)
    peri__buffer_fini(buffer);
  buffer->blocks = blocks;
}

/* -- Chunks ---------------------------------------------------------------- */

peri__chunk *peri__chunk_new(const char *code, size_t length)
{
  if (length > UINT32_MAX)
    return NULL;
  peri__chunk *chunk = malloc(sizeof *chunk + length);
  if (chunk == NULL)
    return NULL;
  atomic_init(&chunk->references, 1);
  chunk->length = (uint32_t)length;
  chunk->lent = 0;
  memcpy(chunk->code, code, length);
  return chunk;
}

void peri__chunk_ref(peri__chunk *chunk)
{
  atomic_fetch_add_explicit(&chunk->references, 1, memory_order_relaxed);
}

void peri__chunk_unref(peri__chunk *chunk)
{
  if (chunk != NULL && atomic_fetch_sub(&chunk->references, 1) == 1)
    free(chunk);
}

/* -- Messages -------------------------------------------------------------- */

int peri__message_add_chunk(peri__message *message, peri__chunk *chunk)
{
  if (message->chunk_count == message->chunk_capacity) {
    uint32_t capacity =
        message->chunk_capacity ? 2 * message->chunk_capacity : 2;
    peri__chunk **chunks = realloc(message->chunks, capacity * sizeof *chunks);
    if (chunks == NULL)
      return PERI_ENOMEM;
    message->chunks = chunks;
    message->chunk_capacity = capacity;
  }
  peri__chunk_ref(chunk);
  message->chunks[message->chunk_count++] = chunk;
  return 0;
}

void peri__message_clear(peri__message *message)
{
  while (message->chunk_count > 0)
    peri__chunk_unref(message->chunks[--message->chunk_count]);
  peri__buffer_empty(&message->bytes);
}

void peri__message_fini(peri__message *message)
{
  peri__message_clear(message);
  peri__buffer_fini(&message->bytes);
  free(message->chunks);
  *message = (peri__message){0};
}

/* -- Places of chunks -------------------------------------------------------
 */

_Static_assert((int)PERI__MESSAGE_CHUNKS < (int)PERI__CHUNK_PLACES,
               "one message leaves a place to use again");

void peri__chunk_places_begin(peri__chunk_places *places)
{
  places->message++;
}

bool peri__chunk_known(const peri__chunk_places *places,
                       const peri__chunk *chunk, unsigned *place)
{
  *place = places->last;
  return places->chunks[places->last] == chunk;
}

unsigned peri__chunk_place(peri__chunk_places *places, peri__chunk *chunk,
                           bool *fresh)
{
  unsigned place = places->last;
  *fresh = false;
  if (places->chunks[place] != chunk)
    for (place = 0; place < PERI__CHUNK_PLACES; place++)
      if (places->chunks[place] == chunk)
        break;
  if (place == PERI__CHUNK_PLACES) {
    /* The one that was given away first, unless this message needs it. */
    do
      place = places->hand++ % PERI__CHUNK_PLACES;
    while (places->chunks[place] != NULL &&
           places->used[place] == places->message);
    peri__chunk_ref(chunk);
    peri__chunk_unref(places->chunks[place]);
    places->chunks[place] = chunk;
    *fresh = true;
  }
  places->used[place] = places->message;
  places->last = place;
  return place;
}

int peri__chunk_arrived(peri__chunk_places *places, unsigned place,
                        const char *code, size_t length)
{
  if (place >= PERI__CHUNK_PLACES)
    return PERI_EINVAL;
  peri__chunk *chunk = peri__chunk_new(code, length);
  if (chunk == NULL)
    return PERI_ENOMEM;
  peri__chunk_unref(places->chunks[place]);
  places->chunks[place] = chunk;
  return 0;
}

peri__chunk *peri__chunk_at(const peri__chunk_places *places, unsigned place)
{
  return place < PERI__CHUNK_PLACES ? places->chunks[place] : NULL;
}

void peri__chunk_places_fini(peri__chunk_places *places)
{
  for (int i = 0; i < PERI__CHUNK_PLACES; i++)
    peri__chunk_unref(places->chunks[i]);
  *places = (peri__chunk_places){0};
}
