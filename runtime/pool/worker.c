/*
 * worker.c: what a worker does with a job.
 *
 * A job is the main task of the worker's own loop: it may wait, and make tasks,
 * which are cancelled and waited for when it ends. A run of that loop is open
 * for as long as the worker is. Most jobs do not wait: their one step is made
 * directly, and when it has ended them and left nothing behind, the loop need
 * not turn. The record of a task that no script has seen is used again; while
 * there are jobs at hand, in the same step and coroutine.
 *
 * The task decodes the message, calls the function and encodes its results, so
 * that an error on the way is the job's error. Errors are encoded outside of it.
 * A job that ends otherwise (os.exit, an interrupt, no memory for the loop) takes
 * the state with it, which is made anew for the next job.
 */
#include <string.h>

#include "pool/worker.h"

/* Places on the state's main stack, while the worker is open. */
enum { SERVE = 1, BODY, LOOP, TASK, SLOTS = TASK };

/* Its address is the place of the worker in the registry. */
static const char worker_key = 0;

peri__worker *peri__worker_of(lua_State *L)
{
  lua_rawgetp(L, LUA_REGISTRYINDEX, &worker_key);
  peri__worker *worker = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return worker;
}

/* -- Inside the task ------------------------------------------------------- */

enum { JOB = 1 };

/* The values become the job's message out. Its message in has been read, and
 * its memory, if it is this process's, is the best there is for the answer. */
static void encode(lua_State *L, peri__job *job, int first, int n,
                   peri__message_kind kind)
{
  peri__message *message = &job->worker->out;
  peri__message_clear(message);
  if (job->worker->blocks != NULL)
    peri__buffer_use(&message->bytes, job->worker->blocks);
  else if (job->home != NULL && job->in.bytes.data != job->room)
    peri__buffer_swap(&message->bytes, &job->in.bytes);
  message->bytes.length = 0;
  peri__encode(L, peri__rt(L), first, n, kind, !job->relayed, message);
  lua_pop(L, 1);
  peri__job_put(job, &job->out, message);
}

static int encode_results(lua_State *L, int status, lua_KContext context)
{
  peri__job *job = (peri__job *)context;
  int n = lua_gettop(L) - JOB;
  (void)status;
  if (peri_unlikely(!peri__job_put_values(L, job, JOB + 1, n)))
    encode(L, job, JOB + 1, n, PERI__MESSAGE_RESULTS);
  job->outcome = PERI__JOB_RETURNED;
  return 0;
}

/* Loops in what another worker's job has submitted cannot be reached: there is no
 * way but to the owner. */
static int decode_call(lua_State *L, peri_runtime *rt, peri__job *job)
{
  peri__peer stranger = {.trusted = true};
  bool from_job =
      job->relayed || (job->home != NULL && job->home->guest != NULL);
  return peri__decode(L, rt, &job->in,
                      from_job ? &stranger : &job->worker->peer);
}

static inline void begin(peri__worker *worker, peri__job *job)
{
  job->outcome = PERI__JOB_FAILED;
  job->worker = worker;
  worker->job = job;
}

/* The next job, if the task can do that one too. */
static peri__job *next_job(lua_State *L, peri_runtime *rt, peri__worker *worker,
                           peri__job *done)
{
  if (worker->next == NULL || atomic_load(&rt->attention) != 0 ||
      rt->run != &rt->main || !peri__task_follow(L, rt))
    return NULL;
  peri__job *job = worker->next(worker, done);
  if (job == NULL)
    return NULL;
  begin(worker, job);
  lua_settop(L, JOB);
  return job;
}

/* [job] -> calls its function; the results go into job->out. The same for more
 * jobs. */
static int job_body(lua_State *L)
{
  peri__job *job = lua_touserdata(L, JOB);
  peri_runtime *rt = peri__rt(L);
  peri__worker *worker = job->worker;
  do {
    if (peri_unlikely(
            atomic_load_explicit(&worker->asked, memory_order_relaxed)))
      return peri__throw_sentinel(L, rt, PERI_SENTINEL_INTERRUPT);
    if (peri_unlikely(rt->debug)) { /* which tells what it writes in vain */
      peri__require(L, "perilune.lost");
      lua_getfield(L, -1, "call");
      lua_replace(L, JOB + 1);
    }
    int n = decode_call(L, rt, job) + rt->debug;
    lua_callk(L, n - 1, LUA_MULTRET, (lua_KContext)job, encode_results);
    encode_results(L, LUA_OK, (lua_KContext)job);
  } while ((job = next_job(L, rt, worker, job)) != NULL);
  return 0;
}

/* -- When it has failed ---------------------------------------------------- */

/* [job] [error] [traceback] -> both go into job->out. */
static int encode_error(lua_State *L)
{
  peri__job *job = lua_touserdata(L, JOB);
  encode(L, job, 2, 2, PERI__MESSAGE_ERROR);
  job->outcome = PERI__JOB_RAISED;
  return 0;
}

/* Of the error on top of the stack. */
static int call_encode_error(lua_State *L, peri__job *job)
{
  peri_runtime *rt = peri__rt(L);
  int top = lua_gettop(L);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, encode_error, 1);
  lua_pushlightuserdata(L, job);
  lua_pushvalue(L, top);
  /* An error object takes its traceback with it. */
  if (peri__is_error_object(L, rt, top)) {
    lua_pushnil(L);
  } else {
    peri__trace_push(L, rt, top);
    peri__trace_text(L, rt);
  }
  return lua_pcall(L, 3, 0, 0);
}

/* The job's error is on top of the stack. If it cannot be sent, the error that
 * says so is sent in its place. */
static void send_error(lua_State *L, peri__job *job)
{
  peri__check_stack(L, LUA_MINSTACK);
  lua_pushfstring(L, "in worker %s", job->worker->name);
  peri__trace_label(L, peri__rt(L), -2, lua_tostring(L, -1));
  lua_pop(L, 1);
  job->outcome = PERI__JOB_FAILED;
  if (call_encode_error(L, job) == LUA_OK)
    return;
  if (peri__is_error_object(L, peri__rt(L), -1)) {
    peri__describe(L, -2);
    lua_setfield(L, -2, "cause");
  }
  if (call_encode_error(L, job) != LUA_OK)
    job->outcome = PERI__JOB_FAILED;
}

/* The future at idx has failed, or was cancelled. */
static void send_failure(lua_State *L, peri_runtime *rt, peri__job *job,
                         int idx)
{
  peri_future *future = lua_touserdata(L, idx);
  peri__future_push_error(L, rt, idx);
  if (future->state == PERI_FAILED)
    peri__future_carry_trace(L, rt, idx, lua_gettop(L));
  send_error(L, job);
}

/* The run ended because nothing could happen any more; its goal is the task that
 * found that out, whose value is the error. */
static void send_deadlock(lua_State *L, peri_runtime *rt, peri__job *job)
{
  peri_future *goal = rt->main.goal;
  peri__push_ref(L, rt, PERI_REF_GOAL);
  int idx = lua_gettop(L);
  if (goal->state == PERI_FINISHED && peri__future_return(L, rt, idx) > 0)
    send_error(L, job);
  else if (goal->state != PERI_FINISHED && goal->state != PERI_PENDING)
    send_failure(L, rt, job, idx);
  else
    job->text = strdup("the job would have waited for ever");
}

static void tell_abort(peri_runtime *rt, peri__job *job, peri_sentinel abort)
{
  char text[80] = "the job was interrupted";
  job->worker->exited = abort == PERI_SENTINEL_EXIT;
  job->worker->exit_code = peri_exit_code(rt);
  job->outcome = PERI__JOB_CANCELLED;
  if (abort == PERI_SENTINEL_EXIT) {
    snprintf(text, sizeof text, "os.exit(%d) was called in a worker %s",
             peri_exit_code(rt), job->worker->kind);
    job->outcome = PERI__JOB_FAILED;
  }
  job->text = strdup(text);
}

/* -- Around it -------------------------------------------------------------- */

/* Drives the worker's run until its goal, the future at idx, has ended. */
static void drive(lua_State *L, peri_runtime *rt, int idx)
{
  peri_run_record *run = &rt->main;
  run->goal = lua_touserdata(L, idx);
  run->ended = false;
  run->deadlocks = 0;
  while (!run->ended)
    peri__turn(L, rt, true);
}

/* [..., loop at idx]: cancels the tasks that the job left behind, and waits for
 * them. */
static void end_leftovers(lua_State *L, peri_runtime *rt, int idx)
{
  peri_loop *loop = lua_touserdata(L, idx);
  int fn = lua_gettop(L) + 1;
  peri__require(L, "perilune.runner");
  lua_getfield(L, -1, "end_tasks");
  lua_replace(L, fn);
  lua_pushvalue(L, idx);
  peri_task *task = peri__task_new(L, rt, loop, idx, fn);
  peri__task_start(L, rt, task, true); /* it cancels before they run on */
  drive(L, rt, fn);
  if (loop->tasks != NULL) /* for want of memory, or they hang on */
    peri__loop_end_tasks(L, rt, loop);
}

static bool has_ended(const peri_runtime *rt, const peri_loop *loop,
                      const peri_task *task)
{
  return task->future.state != PERI_PENDING && loop->tasks == NULL &&
         peri__list_empty(&loop->ready) && rt->abort == PERI_SENTINEL_NONE;
}

/* How the job's task at idx has ended, and with it the run. */
static void conclude(lua_State *L, peri_runtime *rt, peri__job *job, int idx)
{
  peri_run_record *run = &rt->main;
  peri_future *future = lua_touserdata(L, idx);
  peri_sentinel abort = run->abort;
  run->abort = PERI_SENTINEL_NONE;
  if (abort != PERI_SENTINEL_NONE) {
    tell_abort(rt, job, abort);
  } else if (run->deadlocks > 0) {
    send_deadlock(L, rt, job);
  } else if (future->state == PERI_PENDING) { /* loop:stop() */
    job->outcome = PERI__JOB_FAILED;
    job->text = strdup("Event loop stopped before the job ended.");
  } else if (future->state != PERI_FINISHED) {
    send_failure(L, rt, job, idx);
  }
}

/* [body, loop, task or false, job] -> a task for the next time */
static int serve(lua_State *L)
{
  enum { BODY_AT = 1, LOOP_AT, TASK_AT, JOB_AT, FUNCTION_AT };
  peri_runtime *rt = peri__rt(L);
  peri__worker *worker = ((peri__job *)lua_touserdata(L, JOB_AT))->worker;
  peri_loop *loop = lua_touserdata(L, LOOP_AT);
  peri__check_stack(L, PERI_ROOM);
  lua_pushvalue(L, BODY_AT);
  lua_pushvalue(L, JOB_AT);
  if (!lua_isuserdata(L, TASK_AT) ||
      !peri__task_renew(L, rt, TASK_AT, FUNCTION_AT))
    peri__task_new(L, rt, loop, LOOP_AT, FUNCTION_AT);
  lua_replace(L, TASK_AT);
  peri_task *task = lua_touserdata(L, TASK_AT);
  task->flags |= PERI_T_TOPLEVEL;
  rt->main.goal = &task->future;
  rt->main.abort = PERI_SENTINEL_NONE;
  rt->main.deadlocks = 0;
  if (peri_likely(!loop->debug))
    peri__task_step(L, rt, task);
  else /* which times each step */
    peri__loop_ready(loop, &task->node);
  if (peri_likely(has_ended(rt, loop, task))) {
    if (peri_unlikely(task->future.state != PERI_FINISHED))
      send_failure(L, rt, worker->job, TASK_AT);
  } else {
    drive(L, rt, TASK_AT);
    conclude(L, rt, worker->job, TASK_AT);
    if (loop->tasks != NULL)
      end_leftovers(L, rt, LOOP_AT);
  }
  if (peri_unlikely(atomic_load(&rt->attention) != 0))
    peri__posts_run(L, rt);
  lua_settop(L, TASK_AT);
  return 1;
}

/* For the log (log.lua), which is the owner's. */
static void name_owner(lua_State *L, peri_runtime *rt,
                       const peri__worker *worker)
{
  peri__push_ref(L, rt, PERI_REF_CORE);
  lua_pushinteger(L, (lua_Integer)worker->peer.serial);
  lua_setfield(L, -2, "owner");
  lua_pushfstring(L, "worker %s", worker->name);
  lua_setfield(L, -2, "worker_name");
  lua_pop(L, 1);
}

/* [worker] -> what stands in the slots; the worker's run has begun. */
static int prepare(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__worker *worker = lua_touserdata(L, 1);
  peri__peer_open(L, rt, &worker->peer);
  lua_pushlightuserdata(L, worker);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &worker_key);
  if (worker->send != NULL)
    name_owner(L, rt, worker);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, serve, 1);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, job_body, 1);
  peri_loop *loop = peri__loop_new(L, rt, NULL);
  lua_pushvalue(L, -1);
  peri__set_ref(L, rt, PERI_REF_BASE); /* which nobody need close */
  lua_pushboolean(L, false);
  rt->main.loop = loop;
  rt->main.goal = NULL;
  rt->main.waiter = NULL;
  peri__run_begin(L, rt, &rt->main);
  return SLOTS;
}

static int set_paths(lua_State *L)
{
  const peri__worker_setup *setup = lua_touserdata(L, 1);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_getfield(L, -1, LUA_LOADLIBNAME);
  lua_pushstring(L, setup->path);
  lua_setfield(L, -2, "path");
  lua_pushstring(L, setup->cpath);
  lua_setfield(L, -2, "cpath");
  return 0;
}

/* [job] -> the text of the error in job->out, into job->text. */
static int describe_error(lua_State *L)
{
  peri__job *job = lua_touserdata(L, 1);
  peri__decode(L, peri__rt(L), &job->out, &job->worker->peer);
  job->text = strdup(peri__describe(L, 2));
  return 0;
}

/* Calls a function of ours outside of tasks, with a pointer; false: it raised.
 */
static bool call(peri_runtime *rt, lua_CFunction function, const void *argument)
{
  lua_State *L = peri_state(rt);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, function, 1);
  lua_pushlightuserdata(L, (void *)argument);
  if (lua_pcall(L, 1, 0, 0) == LUA_OK)
    return true;
  lua_pop(L, 1);
  return false;
}

static void set_runtime(peri__worker *worker, peri_runtime *rt)
{
  if (worker->guard != NULL)
    uv_mutex_lock(worker->guard);
  worker->rt = rt;
  if (worker->guard != NULL)
    uv_mutex_unlock(worker->guard);
}

/* As the second Ctrl-C does: stage 1 is behind us. */
static void interrupt(peri_runtime *rt)
{
  rt->interrupt_stage = 1;
  peri_interrupt(rt);
}

void peri__worker_interrupt(peri__worker *worker)
{
  atomic_store(&worker->asked, true);
  if (worker->rt != NULL)
    interrupt(worker->rt);
}

/* Where no coroutine runs the job has not begun to, and looks itself; or it has
 * ended. */
void peri__worker_preempt(peri__worker *worker)
{
  peri_runtime *rt = worker->rt;
  if (atomic_load(&worker->asked) && rt != NULL && rt->current != NULL)
    interrupt(rt);
}

void peri__worker_settle(peri__worker *worker)
{
  if (atomic_exchange_explicit(&worker->asked, false, memory_order_relaxed) &&
      worker->rt != NULL)
    peri__interrupt_reset(worker->rt);
}

static bool open_slots(peri__worker *worker)
{
  peri_runtime *rt = worker->rt;
  lua_State *L = peri_state(rt);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, prepare, 1);
  lua_pushlightuserdata(L, worker);
  if (lua_pcall(L, 1, SLOTS, 0) == LUA_OK)
    return true;
  lua_pop(L, 1);
  return false;
}

/* What the loop could not do, or what a job without memory came to. */
static void tell_error(lua_State *L, peri__job *job)
{
  if (job->text == NULL)
    job->text = strdup(lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1)
                                                      : "the worker failed");
  job->outcome = PERI__JOB_FAILED;
}

peri__job *peri__worker_run(peri__worker *worker, peri__job *job)
{
  peri_runtime *rt = worker->rt;
  lua_State *L = peri_state(rt);
  begin(worker, job);
  for (int slot = SERVE; slot <= SLOTS; slot++)
    lua_pushvalue(L, slot);
  lua_pushlightuserdata(L, job);
  int status = lua_pcall(L, SLOTS, 1, 0);
  job = worker->job;
  if (peri_likely(status == LUA_OK && rt->abort == PERI_SENTINEL_NONE &&
                  rt->run == &rt->main && job->text == NULL)) {
    lua_replace(L, TASK);
    return job;
  }
  if (status != LUA_OK)
    tell_error(L, job);
  peri__worker_close(worker);
  return job;
}

/* Runs the initializer, as a job. */
static void run_initializer(peri__worker *worker, peri__job *job)
{
  peri__job *(*next)(peri__worker *, peri__job *) = worker->next;
  worker->next = NULL;
  job->in = worker->setup->initializer; /* lent: it is every worker's */
  peri__worker_run(worker, job);
  worker->next = next;
  job->in = (peri__message){0};
  if (job->outcome == PERI__JOB_RAISED && worker->rt != NULL)
    call(worker->rt, describe_error, job);
}

int peri__worker_open(peri__worker *worker, char **text)
{
  const peri__worker_setup *setup = worker->setup;
  if (worker->rt != NULL)
    return 0;
  worker->peer =
      (peri__peer){.trusted = true, .chunks = true, .send = worker->send};
  peri_runtime *rt;
  peri_options options = setup->options;
  options.debug = options.debug || worker->debug;
  int status = peri_new(&rt, &options);
  set_runtime(worker, status == PERI_OK ? rt : NULL);
  if (status == PERI_OK && call(worker->rt, set_paths, setup) &&
      open_slots(worker)) {
    if (setup->initializer.bytes.length == 0)
      return 0;
    peri__job job;
    peri__job_init(&job, NULL);
    run_initializer(worker, &job);
    *text = job.text;
    job.text = NULL;
    peri__job_fini(&job);
    if (job.outcome == PERI__JOB_RETURNED)
      return 0;
    peri__worker_close(worker);
    return -1;
  }
  peri__worker_close(worker);
  *text =
      strdup(status == PERI_EUV ? "the worker's state was refused by the system"
                                : "not enough memory for the worker's state");
  return 1;
}

void peri__worker_close(peri__worker *worker)
{
  peri_runtime *rt = worker->rt;
  set_runtime(worker, NULL);
  if (rt != NULL)
    peri__peer_close(rt->L, rt, &worker->peer);
  while (rt != NULL && rt->run != NULL)
    peri__run_end(rt->L, rt, rt->run);
  peri_close(rt);
  peri__message_fini(&worker->out);
}

void peri__worker_setup_fini(peri__worker_setup *setup)
{
  peri__message_fini(&setup->initializer);
  free(setup->path);
  free(setup->cpath);
  *setup = (peri__worker_setup){0};
}
