/* replay DIR: in place of libFuzzer gives a target of spec/fuzz each file of the
 * directory as it is, cut short everywhere, and with each byte changed. So every
 * build compiles the targets, and every sanitizer runs them. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* From a copy of just that size: to read past its end is noticed. */
static void give(const uint8_t *data, size_t size)
{
  uint8_t *copy = malloc(size + (size == 0));
  if (copy == NULL)
    exit(2);
  memcpy(copy, data, size);
  LLVMFuzzerTestOneInput(copy, size);
  free(copy);
}

static void give_variants(uint8_t *data, size_t size)
{
  static const uint8_t changes[] = {0x01, 0x80, 0xff};
  for (size_t n = 0; n <= size; n++)
    give(data, n);
  for (size_t i = 0; i < size; i++)
    for (size_t k = 0; k < sizeof changes; k++) {
      data[i] ^= changes[k];
      give(data, size);
      data[i] ^= changes[k];
    }
}

/* Returns its size. */
static size_t read_file(const char *dir, const char *name, uint8_t *data,
                        size_t room)
{
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  FILE *file = fopen(path, "rb");
  if (file == NULL) {
    perror(path);
    exit(2);
  }
  size_t size = fread(data, 1, room, file);
  fclose(file);
  return size;
}

int main(int argc, char **argv)
{
  static uint8_t data[1 << 12];
  int count = 0;
  DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
  if (dir == NULL) {
    fprintf(stderr, "usage: %s DIR\n", argv[0]);
    return 2;
  }
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
    if (entry->d_name[0] != '.') {
      give_variants(data, read_file(argv[1], entry->d_name, data, sizeof data));
      count++;
    }
  closedir(dir);
  if (count == 0)
    fprintf(stderr, "%s: nothing in %s\n", argv[0], argv[1]);
  return count == 0;
}
