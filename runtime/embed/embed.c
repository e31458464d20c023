/*
 * embed.c: perilune.h, the runtime for C hosts.
 *
 * The host's main task runs on the runtime's base loop, in two phases: until it
 * is done; then, if it left tasks behind, until a task of the library's has
 * cancelled them and waited for them (perilune.runner, finish). peri_run drives
 * both to their end, peri_step a few rounds at a time. Everything that touches
 * Lua runs under a protected call, so that running out of memory is a status.
 */
#include <string.h>

#include "../core/core.h"
#include "../io/fd_stream.h"
#include "../io/fs.h"
#include "../io/io.h"
#include "../io/process.h"
#include "../pool/pool.h"
#include "heap.h"

/* -- Errors as text ------------------------------------------------------------------ */

static void set_error(peri_runtime *rt, const char *text)
{
  free(rt->error);
  rt->error = strdup(text);
  rt->error_lost = rt->error == NULL;
}

static int lacks_memory(peri_runtime *rt)
{
  set_error(rt, "not enough memory");
  return PERI_ENOMEM;
}

/* [error object, trace or nil] -> its text with causes and sub-errors */
static int object_text(lua_State *L, peri_runtime *rt)
{
  if (!lua_isnil(L, 2))
    peri__trace_text(L, rt);
  peri__require(L, "perilune.exceptions");
  lua_getfield(L, -1, "tell");
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 2);
  lua_call(L, 2, 1);
  return 1;
}

/* [error, trace or nil] -> text */
static int error_text(lua_State *L)
{
  peri_runtime *rt = peri_of(L);
  if (peri__is_error_object(L, rt, 1))
    return object_text(L, rt);
  const char *text;
  if (lua_isstring(L, 1) || luaL_getmetafield(L, 1, "__tostring"))
    text = peri__describe(L, 1);
  else
    text =
        lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
  if (lua_isnil(L, 2)) {
    lua_pushstring(L, text);
    return 1;
  }
  lua_pushvalue(L, 2);
  peri__trace_text(L, rt);
  lua_pushfstring(L, "%s\n%s", text, lua_tostring(L, -1));
  return 1;
}

/* Keeps the error below its trace on top of the stack; pops both. */
static void keep_error(lua_State *L, peri_runtime *rt)
{
  lua_pushcfunction(L, error_text);
  lua_insert(L, -3);
  if (lua_pcall(L, 2, 1, 0) != LUA_OK)
    set_error(rt, "not enough memory");
  else
    set_error(rt, lua_tostring(L, -1));
  lua_pop(L, 1);
}

/* What came to nothing for want of memory. */
static bool is_no_memory(lua_State *L, int status)
{
  return status == LUA_ERRMEM || peri__is_no_memory(L, -1);
}

static int keep_status(lua_State *L, peri_runtime *rt, int status)
{
  bool no_memory = is_no_memory(L, status);
  lua_pushnil(L);
  keep_error(L, rt);
  return no_memory ? PERI_ENOMEM : PERI_EFAILED;
}

/* -- The main task ---------------------------------------------------------------------- */

/* Pushes the base loop; makes it if there is none yet. */
static peri_loop *push_base_loop(lua_State *L, peri_runtime *rt)
{
  peri__push_ref(L, rt, PERI_REF_BASE);
  if (!lua_toboolean(L, -1)) {
    lua_pop(L, 1);
    peri__loop_new(L, rt, rt->options.uv_loop);
    lua_pushvalue(L, -1);
    peri__set_ref(L, rt, PERI_REF_BASE);
  }
  return lua_touserdata(L, -1);
}

/* The task on top of the stack becomes the goal of the host's run. */
static void aim(lua_State *L, peri_runtime *rt, peri_loop *loop)
{
  rt->main.loop = loop;
  rt->main.goal = lua_touserdata(L, -1);
  rt->main.waiter = NULL;
  peri__set_ref(L, rt, PERI_REF_GOAL);
  peri__run_begin(L, rt, &rt->main);
}

/* [function, arguments...]: the main task, and its run begun. */
static int start(lua_State *L)
{
  peri_runtime *rt = peri_of(L);
  peri__check_stack(L, 10);
  peri_loop *loop = push_base_loop(L, rt);
  lua_insert(L, 1);
  peri_task *task = peri__task_new(L, rt, loop, 1, 2);
  task->flags |= PERI_T_TOPLEVEL;
  peri__task_start(L, rt, task, false);
  lua_pushvalue(L, -1);
  peri__set_ref(L, rt, PERI_REF_MAIN);
  aim(L, rt, loop);
  rt->main_phase = PERI_MAIN_RUNS;
  rt->main_status = PERI_OK;
  return 0;
}

/* Pushes the error of the main task, which failed or was cancelled, and below it
 * its trace or nil. */
static void push_failure(lua_State *L, peri_runtime *rt)
{
  int main = lua_gettop(L) + 1;
  peri__push_ref(L, rt, PERI_REF_MAIN);
  if (rt->main.goal->state == PERI_FAILED &&
      lua_getiuservalue(L, main, PERI_UV_LINKS) == LUA_TUSERDATA) {
    lua_getiuservalue(L, -1, 1);
    lua_replace(L, main + 1);
  } else {
    lua_pushnil(L);
  }
  peri__future_push_error(L, rt, main);
  lua_remove(L, main);
}

/* The goal is the task that ended a run which was stuck: its value is the error,
 * unless it could not even do that. */
static void push_deadlock(lua_State *L, peri_runtime *rt)
{
  peri_future *goal = rt->main.goal;
  lua_pushnil(L);
  peri__push_ref(L, rt, PERI_REF_GOAL);
  int idx = lua_gettop(L);
  if (goal->state == PERI_FINISHED)
    peri__future_return(L, rt, idx);
  else if (goal->state == PERI_PENDING)
    lua_pushliteral(L, "the run is stuck");
  else
    peri__future_push_error(L, rt, idx);
  lua_remove(L, idx);
}

/* [whether the run was stuck] -> status; keeps the error. */
static int tell_failure(lua_State *L)
{
  peri_runtime *rt = peri_of(L);
  bool stuck = lua_toboolean(L, 1);
  if (stuck)
    push_deadlock(L, rt);
  else
    push_failure(L, rt);
  bool no_memory = peri__is_no_memory(L, -1);
  lua_insert(L, -2);
  keep_error(L, rt);
  lua_pushinteger(L, stuck       ? PERI_EDEADLOCK
                     : no_memory ? PERI_ENOMEM
                                 : PERI_EFAILED);
  return 1;
}

static int failure(lua_State *L, peri_runtime *rt, bool stuck)
{
  lua_pushcfunction(L, tell_failure);
  lua_pushboolean(L, stuck);
  if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
    lua_pop(L, 1);
    return lacks_memory(rt);
  }
  int status = (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  return status;
}

/* How the main task ended. */
static int outcome(lua_State *L, peri_runtime *rt)
{
  peri_run_record *run = &rt->main;
  if (run->abort == PERI_SENTINEL_EXIT)
    return PERI_EEXIT;
  if (run->abort == PERI_SENTINEL_INTERRUPT)
    return PERI_EINTERRUPTED;
  if (run->deadlocks > 0)
    return failure(L, rt, true);
  if (run->goal->state == PERI_FINISHED)
    return PERI_OK;
  if (run->goal->state == PERI_PENDING) { /* loop:stop() */
    set_error(rt, "Event loop stopped before the main task ended.");
    return PERI_EFAILED;
  }
  if (run->goal->state == PERI_CANCELLED && rt->interrupt_stage > 0)
    return PERI_EINTERRUPTED;
  return failure(L, rt, false);
}

static bool has_leftovers(lua_State *L, peri_runtime *rt)
{
  if (rt->main.loop->tasks != NULL)
    return true;
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_getfield(L, -1, "perilune.futures");
  bool pools = lua_toboolean(L, -1);
  lua_pop(L, 2);
  return pools;
}

/* A task of the library's ends what the main task left behind, if anything. */
static int start_finish(lua_State *L)
{
  enum { LOOP = 1, FUNCTION = 2 };
  peri_runtime *rt = peri_of(L);
  peri_loop *loop = rt->main.loop;
  if (!has_leftovers(L, rt))
    return 0;
  push_base_loop(L, rt);
  peri__require(L, "perilune.runner");
  lua_getfield(L, -1, "finish");
  lua_replace(L, FUNCTION);
  lua_pushvalue(L, LOOP);
  peri_task *task = peri__task_new(L, rt, loop, LOOP, FUNCTION);
  lua_pushvalue(L, -1);
  aim(L, rt, loop);
  rt->main_phase = PERI_MAIN_FINISHES;
  peri__task_start(L, rt, task, true); /* it cancels before they run on */
  return 0;
}

/* The host's run has ended: on to the next phase. */
static void advance(lua_State *L, peri_runtime *rt)
{
  bool first = rt->main_phase == PERI_MAIN_RUNS;
  rt->main_phase = PERI_MAIN_NONE;
  peri__run_end(L, rt, &rt->main);
  if (!first) {
    if (rt->main.deadlocks > 0 && rt->main_status == PERI_OK)
      rt->main_status = failure(L, rt, true);
    if (rt->main.goal->state == PERI_FAILED) /* for want of memory */
      peri__loop_end_tasks(L, rt, rt->main.loop);
    return;
  }
  rt->main_status = outcome(L, rt);
  peri__interrupt_reset(rt);
  lua_pushcfunction(L, start_finish);
  if (lua_pcall(L, 0, 0, 0) != LUA_OK) { /* they end where they stand */
    lua_pop(L, 1);
    peri__loop_end_tasks(L, rt, rt->main.loop);
  }
}

static int turns(lua_State *L)
{
  peri_runtime *rt = lua_touserdata(L, 1);
  uint64_t budget = *(uint64_t *)lua_touserdata(L, 2);
  bool block = lua_toboolean(L, 3);
  uint64_t begin = budget > 0 && !block ? uv_hrtime() : 0;
  peri__check_stack(L, PERI_ROOM);
  while (rt->main_phase != PERI_MAIN_NONE) {
    if (rt->main.ended) {
      advance(L, rt);
      continue;
    }
    peri__turn(L, rt, block);
    if (!rt->main.ended && !block &&
        (budget == 0 || uv_hrtime() - begin >= budget || !peri__has_work(rt)))
      break;
  }
  return 0;
}

/* Ends the runs and the tasks of the base loop, the main task among them: it is
 * not to run on with the next one. */
static int abandon(lua_State *L)
{
  peri_runtime *rt = lua_touserdata(L, 1);
  while (rt->run != NULL) {
    peri_run_record *run = rt->run;
    peri__run_end(L, rt, run);
    if (run == &rt->main)
      peri__loop_end_tasks(L, rt, run->loop);
    else
      peri__tasks_recover(L, rt, run->loop);
  }
  return 0;
}

/* Something that must not fail has. */
static void give_up(lua_State *L, peri_runtime *rt)
{
  rt->task = NULL;
  rt->current = NULL;
  rt->frames = &rt->no_task;
  rt->abort = PERI_SENTINEL_NONE;
  rt->main_phase = PERI_MAIN_NONE;
  lua_pushcfunction(L, abandon);
  lua_pushlightuserdata(L, rt);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK)
    lua_pop(L, 1);
  while (rt->run != NULL)
    peri__run_end(L, rt, rt->run);
}

static int drive(peri_runtime *rt, uint64_t budget, bool block)
{
  lua_State *L = rt->L;
  if (rt->drive_depth > 0)
    return PERI_EINVAL;
  if (!lua_checkstack(L, 10))
    return lacks_memory(rt);
  rt->drive_depth++;
  rt->thread = uv_thread_self();
  peri__sigpipe_block(rt);
  lua_pushcfunction(L, turns);
  lua_pushlightuserdata(L, rt);
  lua_pushlightuserdata(L, &budget);
  lua_pushboolean(L, block);
  int status = lua_pcall(L, 3, 0, 0);
  peri__sigpipe_restore(rt);
  rt->drive_depth--;
  if (status == LUA_OK)
    return rt->main_phase != PERI_MAIN_NONE ? 1 : rt->main_status;
  rt->main_status = keep_status(L, rt, status);
  give_up(L, rt);
  return rt->main_status;
}

/* -- perilune.h -------------------------------------------------------------------------- */

const char *peri_version(void)
{
  return PERI_VERSION;
}

void peri_options_init(peri_options *options)
{
  memset(options, 0, sizeof *options);
  options->size = sizeof *options;
  options->patch = PERI_PATCH_DEFAULT;
}

lua_State *peri_state(peri_runtime *rt)
{
  return rt->L;
}

const char *peri_error(const peri_runtime *rt)
{
  if (rt->error_lost)
    return "not enough memory";
  return rt->error != NULL ? rt->error : "";
}

int peri_exit_code(const peri_runtime *rt)
{
  return rt->exit_code;
}

static int open_libraries(lua_State *L)
{
  luaL_openlibs(L);
  return 0;
}

/* warn("@on") of a state of ours: as Lua's own, to stderr. ud is the runtime. */
static void warn(void *ud, const char *text, int to_be_continued)
{
  peri_runtime *rt = ud;
  if (!rt->warning_continues && !to_be_continued && *text == '@') {
    if (strcmp(text, "@on") == 0)
      rt->warns = true;
    else if (strcmp(text, "@off") == 0)
      rt->warns = false;
    return;
  }
  if (rt->warns)
    fprintf(stderr, "%s%s%s",
            rt->warning_continues ? "" : "Lua warning: ", text,
            to_be_continued ? "" : "\n");
  rt->warning_continues = to_be_continued != 0;
}

static bool options_fit(const peri_options *options)
{
  return options->size == sizeof *options;
}

static int preload_modules(lua_State *L)
{
  static const luaL_Reg modules[] = {{"perilune._codec", peri__codec_open},
                                     {"perilune._fs", peri__fs_open_module},
                                     {"perilune._net", peri__net_open},
                                     {"perilune._pool", peri__pool_open},
                                     {"perilune._process", peri__process_open},
                                     {"perilune._signal", peri__signal_open},
                                     {"perilune._stdio", peri__stdio_open},
                                     {NULL, NULL}};
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  luaL_setfuncs(L, modules, 0);
  return 0;
}

/* The core, and what stands beside it. */
static int attach(peri_runtime **out, lua_State *L, const peri_options *options,
                  bool own_state)
{
  int status = peri__attach(out, L, options, own_state);
  if (status != PERI_OK)
    return status;
  lua_pushcfunction(L, preload_modules);
  if (lua_pcall(L, 0, 0, 0) == LUA_OK)
    return PERI_OK;
  lua_pop(L, 1);
  peri__detach(*out);
  *out = NULL;
  return PERI_ENOMEM;
}

int peri_new(peri_runtime **out, const peri_options *options)
{
  peri_options defaults;
  if (options == NULL) {
    peri_options_init(&defaults);
    options = &defaults;
  }
  if (out == NULL || !options_fit(options))
    return PERI_EINVAL;
  *out = NULL;
  peri_heap *heap =
      peri__heap_new(options->alloc, options->alloc_ud, options->memory_limit);
  if (heap == NULL)
    return PERI_ENOMEM;
  lua_State *L = lua_newstate(peri__heap_function(heap), heap);
  if (L == NULL) {
    peri__heap_free(heap);
    return PERI_ENOMEM;
  }
  lua_pushcfunction(L, open_libraries);
  int status = lua_pcall(L, 0, 0, 0) == LUA_OK ? PERI_OK : PERI_ENOMEM;
  if (status == PERI_OK)
    status = attach(out, L, options, true);
  if (status != PERI_OK) {
    lua_close(L);
    peri__heap_free(heap);
    return status;
  }
  (*out)->heap = heap;
  peri__heap_watch(heap, *out);
  lua_setwarnf(L, warn, *out);
  return PERI_OK;
}

int peri_attach(peri_runtime **out, lua_State *L, const peri_options *options)
{
  if (out == NULL || L == NULL || (options != NULL && !options_fit(options)))
    return PERI_EINVAL;
  *out = NULL;
  return attach(out, L, options, false);
}

/* Ends what is left of the main task, as its run would have. */
static void finish_main(peri_runtime *rt)
{
  if (rt->main_phase == PERI_MAIN_NONE || rt->drive_depth > 0)
    return;
  if (rt->main_phase == PERI_MAIN_RUNS) {
    rt->main.ended = true;
    rt->main.abort = PERI_SENTINEL_INTERRUPT;
    while (rt->run != &rt->main)
      peri__run_abandon(rt->L, rt);
  }
  drive(rt, 0, true);
}

void peri_close(peri_runtime *rt)
{
  if (rt == NULL || rt->closed)
    return;
  lua_State *L = rt->L;
  bool owns_state = rt->owns_state;
  peri_heap *heap = rt->heap;
  finish_main(rt);
  peri__detach(rt);
  if (owns_state) {
    peri__heap_watch(heap, NULL);
    lua_close(L);
    peri__heap_free(heap);
  }
}

int peri_start(peri_runtime *rt, int nargs)
{
  lua_State *L = rt->L;
  bool busy = rt->main_phase != PERI_MAIN_NONE || rt->run != NULL;
  if (busy || !lua_checkstack(L, 10)) {
    lua_pop(L, nargs + 1);
    return busy ? PERI_EINVAL : lacks_memory(rt);
  }
  peri__interrupt_reset(rt);
  lua_pushcfunction(L, start);
  lua_insert(L, -(nargs + 2));
  int status = lua_pcall(L, nargs + 1, 0, 0);
  return status == LUA_OK ? PERI_OK : keep_status(L, rt, status);
}

static int push_results(lua_State *L)
{
  peri_runtime *rt = lua_touserdata(L, 1);
  peri__push_ref(L, rt, PERI_REF_MAIN);
  return peri__future_return(L, rt, 2);
}

int peri_run(peri_runtime *rt, int nargs, int nresults)
{
  lua_State *L = rt->L;
  int status = peri_start(rt, nargs);
  if (status == PERI_OK)
    status = drive(rt, 0, true);
  if (status != PERI_OK)
    return status;
  lua_pushcfunction(L, push_results);
  lua_pushlightuserdata(L, rt);
  int result = lua_pcall(L, 1, nresults, 0);
  return result == LUA_OK ? PERI_OK : keep_status(L, rt, result);
}

int peri_step(peri_runtime *rt, uint64_t budget)
{
  if (rt->drive_depth > 0)
    return PERI_EINVAL;
  return rt->main_phase == PERI_MAIN_NONE ? rt->main_status
                                          : drive(rt, budget, false);
}

/* [path, code, length, chunk's name] -> the chunk */
static int load_protected(lua_State *L)
{
  const char *path = lua_touserdata(L, 1), *code = lua_touserdata(L, 2);
  const char *chunkname = lua_touserdata(L, 4);
  size_t *length = lua_touserdata(L, 3);
  int status = code != NULL ? luaL_loadbuffer(L, code, *length,
                                              chunkname ? chunkname : code)
                            : luaL_loadfile(L, path);
  return status == LUA_OK ? 1 : lua_error(L);
}

/* Pushes the chunk; a negative status if it cannot be had. */
static int load(peri_runtime *rt, const char *path, const char *code,
                size_t length, const char *chunkname)
{
  lua_State *L = rt->L;
  if (!lua_checkstack(L, 10))
    return lacks_memory(rt);
  lua_pushcfunction(L, load_protected);
  lua_pushlightuserdata(L, (void *)path);
  lua_pushlightuserdata(L, (void *)code);
  lua_pushlightuserdata(L, &length);
  lua_pushlightuserdata(L, (void *)chunkname);
  int status = lua_pcall(L, 4, 1, 0);
  return status == LUA_OK ? PERI_OK : keep_status(L, rt, status);
}

int peri_run_file(peri_runtime *rt, const char *path)
{
  int status = load(rt, path, NULL, 0, NULL);
  return status == PERI_OK ? peri_run(rt, 0, 0) : status;
}

int peri_run_string(peri_runtime *rt, const char *code, size_t length,
                    const char *chunkname)
{
  int status = load(rt, NULL, code, length, chunkname);
  return status == PERI_OK ? peri_run(rt, 0, 0) : status;
}

int peri_start_file(peri_runtime *rt, const char *path)
{
  int status = load(rt, path, NULL, 0, NULL);
  return status == PERI_OK ? peri_start(rt, 0) : status;
}

int peri_start_string(peri_runtime *rt, const char *code, size_t length,
                      const char *chunkname)
{
  int status = load(rt, NULL, code, length, chunkname);
  return status == PERI_OK ? peri_start(rt, 0) : status;
}

static int make_backend(lua_State *L)
{
  peri_runtime *rt = lua_touserdata(L, 1);
  peri_loop *loop = push_base_loop(L, rt);
  lua_pushinteger(L, uv_backend_fd(peri__loop_uv(L, loop)));
  return 1;
}

int peri_backend_fd(peri_runtime *rt)
{
  lua_State *L = rt->L;
  lua_pushcfunction(L, make_backend);
  lua_pushlightuserdata(L, rt);
  int status = lua_pcall(L, 1, 1, 0);
  if (status != LUA_OK)
    return keep_status(L, rt, status) == PERI_ENOMEM ? PERI_ENOMEM : PERI_EUV;
  int fd = (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  return fd;
}

int peri_backend_timeout(peri_runtime *rt)
{
  if (rt->main_phase == PERI_MAIN_NONE)
    return -1;
  if (peri__has_work(rt) || atomic_load(&rt->attention) != 0 ||
      rt->main.ended || rt->main.goal->state != PERI_PENDING)
    return 0;
  int64_t delay = peri__next_timer(rt);
  peri_kernel *kernel = rt->run->loop->kernel;
  int timeout = kernel != NULL && uv_loop_alive(kernel->uv)
                    ? uv_backend_timeout(kernel->uv)
                    : -1;
  if (delay == INT64_MAX)
    return timeout;
  int64_t ms = (delay + 999999) / 1000000;
  if (ms > INT32_MAX)
    ms = INT32_MAX;
  return timeout >= 0 && timeout < ms ? timeout : (int)ms;
}
