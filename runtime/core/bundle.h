/* The Lua library, compiled at build time (scripts/bundle.lua writes the
 * array's definition into the build tree). */
#ifndef PERI_BUNDLE_H
#define PERI_BUNDLE_H

#include <stddef.h>

typedef struct peri_bundled {
  const char *name;          /* the module's name: "perilune.errors" */
  const unsigned char *code; /* bytecode with line info, for luaL_loadbufferx */
  size_t size;
} peri_bundled;

/* Sorted by name, in bytes; the last one's name is NULL. */
extern const peri_bundled peri__bundle[];

#endif
