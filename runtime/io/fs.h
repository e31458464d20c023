/*
 * fs.h: what fs_job.c, fs.c and file.c share: jobs on the threads for files.
 */
#ifndef PERI_FS_H
#define PERI_FS_H

#include <sys/stat.h>
#include <sys/types.h>

#include "core/core.h"
#include "io/work.h"

/* An open file: the object of the script's has a reference, and each job on it.
 * The last one closes the descriptor. malloc's, as jobs are. */
typedef struct peri_file {
  atomic_int references;
  int fd;         /* set by the job that opens, or that closes; -1: none */
  bool may_hang;  /* a pipe, a terminal: reading it may take for ever */
  peri_list jobs; /* on it, not ended, in the order of their calls */
  char path[];    /* as it was opened; "": it has no name */
} peri_file;

void peri__file_release(peri_file *file);
/* Gives the module on top of the stack what file.c has for it. */
void peri__file_open(lua_State *L, peri_runtime *rt);

typedef struct fs_job fs_job;

/* What a job does. */
typedef struct fs_operation {
  const char *name;
  /* On a thread: 0, or a negative libuv code. */
  int (*run)(fs_job *job);
  /* Pushes the results on an empty stack; may raise. NULL: none. */
  int (*push)(lua_State *L, fs_job *job);
  /* Nobody takes the result. NULL: nothing to undo. */
  void (*undo)(fs_job *job);
} fs_operation;

/* malloc's: a thread that cannot be called back may hold it when the runtime
 * has gone. */
struct fs_job {
  peri_work work; /* first */
  peri_runtime *rt;
  const fs_operation *operation;
  peri_waiters line; /* of the one task that waits */
  bool begun;        /* the threads have it */
  bool queued;       /* it will, once those before it on its file have ended */
  bool ended, abandoned;
  bool ordered;     /* does not begin before those on its file have ended */
  bool closed;      /* its file was closed meanwhile */
  atomic_bool stop; /* read by the thread: nobody waits any more */
  int code;
  uv_fs_t request;
  peri_file *file;   /* that is used meanwhile, or NULL */
  peri_node of_file; /* in file->jobs */
  int flags, mode;
  int64_t offset;
  double times[2];
  char *data;
  size_t length, wanted;
  char *path, *target; /* in text; target may be NULL */
  char text[];
};

/* fs_job.c. A job with copies of the paths at the arguments (0: none). Checks
 * them, and that the task may wait, before anything is made; raises. */
fs_job *peri__fs_job(lua_State *L, const fs_operation *operation, int path,
                     int target);
void peri__fs_free(fs_job *job);
/* The job gets a copy of the string at an argument; raises, and frees it. */
void peri__fs_copy_data(lua_State *L, fs_job *job, int arg);
/* Hands the job to a thread and waits: to be returned. */
int peri__fs_submit(lua_State *L, fs_job *job);
/* Those who wait for a job on the file get an error. */
void peri__fs_close_jobs(peri_file *file);

/* Results. */
int peri__fs_push_stat(lua_State *L, fs_job *job);
int peri__fs_push_data(lua_State *L, fs_job *job);

/* On any thread; negative libuv codes. */
int peri__fs_failure(void); /* errno as such */
/* Opens; where it may take for ever (a FIFO) it says so meanwhile. Leaves what
 * is known of the file in *stat. */
int peri__fs_open(fs_job *job, const char *path, int flags, int mode,
                  struct stat *stat);
/* Up to length bytes, from the file's own place if offset < 0; returns how many
 * came before the end. */
ssize_t peri__fs_read(int fd, char *to, size_t length, int64_t offset);
int peri__fs_write(int fd, const char *data, size_t length, int64_t offset);

/* fs.c: the module perilune._fs. */
int peri__fs_open_module(lua_State *L);
/* fs_whole.c, fs_event.c: what they have for that module. */
void peri__fs_whole_open(lua_State *L, peri_runtime *rt);
void peri__fs_event_open(lua_State *L, peri_runtime *rt);

#endif
