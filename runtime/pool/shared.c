/*
 * shared.c: memory that processes share, the seam to the system.
 *
 * It has no name: the descriptor goes through a socket, and the memory is gone
 * with the last process that has it mapped, however that ends. On Linux it is a
 * memfd, sealed, so that the other process cannot take back what we read; other
 * systems have shm_open, whose name is unlinked at once. Where there is neither,
 * and with PERILUNE_SHARED_MEMORY=OFF, everything goes through the socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/stat.h>

#include <uv.h>

#include "pool/shared.h"

#if defined(PERILUNE_NO_SHARED_MEMORY)

static int open_memory(size_t size)
{
  (void)size;
  return UV_ENOSYS;
}

static int check_memory(int fd)
{
  (void)fd;
  return UV_ENOSYS;
}

#elif defined(F_ADD_SEALS)

enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW };

static int open_memory(size_t size)
{
  int fd = memfd_create("perilune", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) /* forbidden by a filter: as if there were none */
    return errno == EPERM ? UV_ENOSYS : -errno;
  if (ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, SEALS) == 0)
    return fd;
  int code = -errno;
  close(fd);
  return code;
}

static int check_memory(int fd)
{
  int seals = fcntl(fd, F_GET_SEALS);
  return seals >= 0 && (seals & SEALS) == SEALS ? 0 : UV_EINVAL;
}

#else

static int open_memory(size_t size)
{
  char name[32];
  snprintf(name, sizeof name, "/perilune-%x-%x", (unsigned)getpid(),
           (unsigned)uv_hrtime());
  int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
  if (fd < 0)
    return -errno;
  shm_unlink(name);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  if (ftruncate(fd, (off_t)size) == 0)
    return fd;
  int code = -errno;
  close(fd);
  return code;
}

static int check_memory(int fd)
{
  (void)fd;
  return 0;
}

#endif

static int map(int fd, size_t size, bool writes, char **data)
{
  int access = writes ? PROT_READ | PROT_WRITE : PROT_READ;
  void *at = mmap(NULL, size, access, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED)
    return -errno;
  *data = at;
  return 0;
}

int peri__shared_new(size_t size, char **data, int *out)
{
  int fd = open_memory(size);
  if (fd < 0)
    return fd;
  int code = map(fd, size, true, data);
  if (code == 0)
    *out = fd;
  else
    close(fd);
  return code;
}

int peri__shared_map(int fd, size_t least, bool writes, char **data,
                     size_t *size)
{
  struct stat what;
  int code = check_memory(fd);
  if (code == 0 && fstat(fd, &what) < 0)
    code = -errno;
  if (code == 0 && (size_t)what.st_size < least)
    code = UV_EINVAL;
  if (code == 0) {
    *size = (size_t)what.st_size;
    code = map(fd, *size, writes, data);
  }
  close(fd);
  return code;
}

void peri__shared_discard(char *data, size_t size)
{
#if defined(MADV_REMOVE)
  madvise(data, size, MADV_REMOVE);
#else
  (void)data, (void)size;
#endif
}

void peri__shared_unmap(char *data, size_t size)
{
  if (data != NULL)
    munmap(data, size);
}
