/* pool.h: what the runtime opens of pool/. */
#ifndef PERI_POOL_H
#define PERI_POOL_H

#include <lua.h>

/* Push the modules perilune._pool and perilune._codec. Raise if the state has no
 * runtime. */
int peri__pool_open(lua_State *L);
int peri__codec_open(lua_State *L);

#endif
