/*
 * crew.h: what crew.c and scope.c share.
 */
#ifndef PERI_CREW_H
#define PERI_CREW_H

#include "debug.h"
#include "inspect.h"

typedef struct peri_crew {
  peri_list running, ended; /* members, in the order of adding, of ending */
  uint32_t live;            /* how many run */
  peri_loop *loop;
  int anchor;
  bool strict, late;
  struct peri_member *spare; /* the place for the next one, or NULL */
  peri_waiters line;         /* the scope's task, when it waits */
} peri_crew;

/* Whether the scope, a table of the library's, has a flag; sets it. Needs no
 * memory: the field and its name are there. */
bool peri__scope_flag(lua_State *L, int scope, const char *field);
void peri__scope_set_flag(lua_State *L, int scope, const char *field);
/* Those of the crew at an index that run are cancelled. If there is no memory
 * for that, or gathers are nested too deep, the runtime's flags say so. */
void peri__crew_cancel_all(lua_State *L, peri_runtime *rt, int crew_idx);
/* What has ended so far is not looked at any more. */
void peri__crew_skip(lua_State *L, int crew_idx);

void peri__scope_open(lua_State *L, peri_runtime *rt);

#endif
