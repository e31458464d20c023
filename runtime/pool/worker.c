/*
 * worker.c: what a worker does with a job.
 *
 * A job is the main task of the worker's own loop: it may wait, and make tasks,
 * which are cancelled and waited for when it ends. The function job_main is
 * that task: it decodes the message, calls the function, and encodes what came
 * of it while the task still runs, so that an error on the way is the job's
 * error. It catches all errors but the runtime's own sentinels: those of
 * os.exit and of interrupts unwind the run as they do elsewhere, and the state
 * is made anew for the next job.
 */
#include <string.h>

#include "pool/worker.h"

/* Places on the stack of job_main and of what it calls under protection. */
enum { JOB = 1, HANDLER = 2 };

/* -- Inside the task ------------------------------------------------------- */

/* The values become the job's message out. */
static void encode(lua_State *L, peri__job *job, int first, int n,
                   peri__message_kind kind)
{
  peri__message *message = &job->worker->out;
  peri__message_clear(message);
  peri__encode(L, peri__rt(L), first, n, kind, true, message);
  lua_pop(L, 1);
  peri__job_put(job, &job->out, message);
}

static int encode_results(lua_State *L, int status, lua_KContext context)
{
  peri__job *job = (peri__job *)context;
  (void)status;
  encode(L, job, JOB + 1, lua_gettop(L) - JOB, PERI__MESSAGE_RESULTS);
  job->outcome = PERI__JOB_RETURNED;
  return 0;
}

/* [job] -> calls its function; the results go into job->out. */
static int job_body(lua_State *L)
{
  peri__job *job = lua_touserdata(L, JOB);
  int n = peri__decode(L, peri__rt(L), &job->in, &job->worker->peer);
  lua_callk(L, n - 1, LUA_MULTRET, (lua_KContext)job, encode_results);
  return encode_results(L, LUA_OK, (lua_KContext)job);
}

/* [job] [error] [traceback] -> both go into job->out. */
static int encode_error(lua_State *L)
{
  peri__job *job = lua_touserdata(L, JOB);
  encode(L, job, 2, 2, PERI__MESSAGE_ERROR);
  job->outcome = PERI__JOB_RAISED;
  return 0;
}

static int call_encode_error(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  int top = lua_gettop(L);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, encode_error, 1);
  lua_pushvalue(L, JOB);
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

/* The job's error is on top. If it cannot be sent, the error that says so is
 * sent in its place. */
static void send_error(lua_State *L, peri__job *job)
{
  if (call_encode_error(L) == LUA_OK)
    return;
  if (peri__is_error_object(L, peri__rt(L), -1)) {
    peri__describe(L, -2);
    lua_setfield(L, -2, "cause");
  }
  if (call_encode_error(L) == LUA_OK)
    return;
  job->outcome = PERI__JOB_FAILED;
}

/* Whether the error on top is the cancellation that ends a deadlock. */
static bool was_stuck(lua_State *L, peri_runtime *rt)
{
  return rt->main_phase == PERI_MAIN_RUNS && rt->main.deadlocks > 0 &&
         peri__is_cancelled_error(L, rt, -1);
}

static int job_ended(lua_State *L, int status, lua_KContext context)
{
  peri__job *job = (peri__job *)context;
  peri_runtime *rt = peri__rt(L);
  if (status == LUA_OK || status == LUA_YIELD)
    return 0;
  if (peri__sentinel_of(L, rt, -1) != PERI_SENTINEL_NONE)
    return lua_error(L);
  if (was_stuck(L, rt)) {
    job->outcome = PERI__JOB_STUCK;
    return 0;
  }
  peri__check_stack(L, LUA_MINSTACK);
  lua_pushfstring(L, "in worker %s", job->worker->name);
  peri__trace_label(L, rt, -2, lua_tostring(L, -1));
  lua_pop(L, 1);
  send_error(L, job);
  return 0;
}

static int job_main(lua_State *L)
{
  peri_runtime *rt = peri__rt(L);
  peri__job *job = lua_touserdata(L, JOB);
  peri__push_ref(L, rt, PERI_REF_TRACE_HANDLER);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, job_body, 1);
  lua_pushvalue(L, JOB);
  int status = lua_pcallk(L, 1, 0, HANDLER, (lua_KContext)job, job_ended);
  return job_ended(L, status, (lua_KContext)job);
}

/* -- Around it ------------------------------------------------------------- */

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

static char *tell_failure(const peri__worker *worker, int status)
{
  char text[80];
  if (status != PERI_EEXIT)
    return strdup(peri_error(worker->rt));
  snprintf(text, sizeof text, "os.exit(%d) was called in a worker %s",
           peri_exit_code(worker->rt), worker->kind);
  return strdup(text);
}

void peri__worker_run(peri__worker *worker, peri__job *job)
{
  lua_State *L = peri_state(worker->rt);
  job->outcome = PERI__JOB_FAILED;
  job->worker = worker;
  lua_pushlightuserdata(L, worker->rt);
  lua_pushcclosure(L, job_main, 1);
  lua_pushlightuserdata(L, job);
  int status = peri_run(worker->rt, 1, 0);
  if (status == PERI_OK)
    return;
  /* The job may have ended well, and a task that it left behind badly. */
  if ((job->outcome == PERI__JOB_FAILED || job->outcome == PERI__JOB_STUCK) &&
      job->text == NULL)
    job->text = tell_failure(worker, status);
  peri__worker_close(worker);
}

/* Runs the initializer, as a job. */
static void run_initializer(peri__worker *worker, peri__job *job)
{
  job->in = worker->setup->initializer; /* lent: it is every worker's */
  peri__worker_run(worker, job);
  job->in = (peri__message){0};
  if (job->outcome == PERI__JOB_RAISED && worker->rt != NULL)
    call(worker->rt, describe_error, job);
}

int peri__worker_open(peri__worker *worker, char **text)
{
  const peri__worker_setup *setup = worker->setup;
  if (worker->rt != NULL)
    return 0;
  worker->peer = (peri__peer){.trusted = true};
  int status = peri_new(&worker->rt, &setup->options);
  if (status == PERI_OK && call(worker->rt, set_paths, setup)) {
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
  peri_close(worker->rt);
  worker->rt = NULL;
  peri__message_fini(&worker->out);
}

void peri__worker_setup_fini(peri__worker_setup *setup)
{
  peri__message_fini(&setup->initializer);
  free(setup->path);
  free(setup->cpath);
  *setup = (peri__worker_setup){0};
}
