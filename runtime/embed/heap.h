/* The memory of a state that peri_new made; see heap.c. */
#ifndef PERI_EMBED_HEAP_H
#define PERI_EMBED_HEAP_H

#include <lua.h>
#include <stddef.h>

#include <perilune.h>

typedef struct peri_heap peri_heap;

/* alloc NULL: an allocator of our own. limit: bytes that Lua may have, 0 for no
 * limit. NULL: no memory. */
peri_heap *peri__heap_new(lua_Alloc alloc, void *ud, size_t limit);

/* After lua_close; any thread. */
void peri__heap_free(peri_heap *heap);

/* The state's allocator, whose ud is the heap. */
lua_Alloc peri__heap_function(const peri_heap *heap);

/* From here on a stack that grows deep spoils the coroutine of rt's task; NULL:
 * no longer. */
void peri__heap_watch(peri_heap *heap, peri_runtime *rt);

#endif
