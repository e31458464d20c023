/* pool.h: what the runtime opens of pool/. */
#ifndef PERI_POOL_H
#define PERI_POOL_H

#include <lua.h>

/* Pushes the module perilune._pool. Raises if the state has no runtime. */
int peri__pool_open(lua_State *L);

#endif
