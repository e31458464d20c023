/*
 * fs.h: what fs.c and file.c share: jobs on the threads for files.
 */
#ifndef PERI_FS_H
#define PERI_FS_H

#include <sys/types.h>

#include "core/core.h"
#include "io/work.h"

/* An open file: the object of the script's has a reference, and each job on it.
 * The last one closes the descriptor. */
typedef struct peri_file {
  peri_runtime *rt;
  int fd;
  int references;
} peri_file;

void peri__file_release(peri_file *file);
int peri__file_open(lua_State *L);
void peri__file_metatable(lua_State *L, peri_runtime *rt);

typedef struct fs_job fs_job;

/* What a job does. */
typedef struct fs_operation {
  const char *name;
  /* On a thread: 0, or a negative libuv code. */
  int (*run)(fs_job *job);
  /* Pushes the results on an empty stack; may raise. NULL: none. */
  int (*push)(lua_State *L, peri_runtime *rt, fs_job *job);
  /* Nobody takes the result. NULL: nothing to undo. */
  void (*undo)(fs_job *job);
} fs_operation;

struct fs_job {
  peri_work work; /* first */
  peri_runtime *rt;
  const fs_operation *operation;
  peri_waiters line; /* of the one task that waits */
  bool ended, abandoned;
  atomic_bool stop; /* read by the thread: nobody waits any more */
  int code;
  size_t size; /* of all of this */
  uv_fs_t request;
  peri_file *file; /* that is used meanwhile, or NULL */
  int flags, mode;
  int64_t offset;
  double times[2];
  char *data; /* malloc's: threads have no business with Lua's allocator */
  size_t length, wanted;
  char *path, *target; /* in text; target may be NULL */
  char text[];
};

/* A job with copies of the paths at the arguments (0: none). Checks them, and
 * that the task may wait, before anything is made; raises. */
fs_job *peri__fs_job(lua_State *L, const fs_operation *operation, int path,
                     int target);
void peri__fs_free(fs_job *job);
/* The job gets a copy of the string at an argument; raises, and frees it. */
void peri__fs_copy_data(lua_State *L, fs_job *job, int arg);
/* Hands the job to a thread and waits: to be returned. */
int peri__fs_submit(lua_State *L, fs_job *job);
int peri__fs_push_stat(lua_State *L, peri_runtime *rt, fs_job *job);
int peri__fs_push_data(lua_State *L, peri_runtime *rt, fs_job *job);

/* On any thread; negative libuv codes. */
int peri__fs_failure(void); /* errno as such */
int peri__fs_open(const char *path, int flags, int mode);
/* Up to length bytes, from the file's own place if offset < 0; returns how many
 * came before the end. */
ssize_t peri__fs_read(int fd, char *to, size_t length, int64_t offset);
int peri__fs_write(int fd, const char *data, size_t length, int64_t offset);

/* The module perilune._fs. */
int peri__fs_open_module(lua_State *L);

#endif
