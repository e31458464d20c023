/*
 * input.c: large strings of input, and the collector.
 *
 * The collector begins a cycle when so many bytes have been allocated; what the
 * cycle costs depends on how many objects live. Input is many bytes in few
 * objects: with the usual pause a server of a small heap, which answers messages
 * of 16 KiB, would mark all of it every dozen messages. So while the heap is
 * small, large strings of input count for a quarter of their size.
 *
 * Not for less, since the strings go through the processor's cache: with more of
 * them about, copying costs more than collecting saves; and a generational
 * collector takes a heap that has doubled for a reason to look at all of it.
 */
#include "io/io.h"

enum { SMALL_HEAP = 2048 }; /* KiB */

void peri__discount_input(lua_State *L, size_t size)
{
  if (size >> 10 < SMALL_HEAP && lua_gc(L, LUA_GCCOUNT) < SMALL_HEAP &&
      lua_gc(L, LUA_GCISRUNNING))
    lua_gc(L, LUA_GCSTEP, -(int)(size >> 10) * 3 / 4);
}
