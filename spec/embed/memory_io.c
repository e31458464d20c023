/* Out of memory, as memory.c has it, in files, names, datagrams, processes and
 * signals: the n-th allocation fails, from when the libraries are loaded, and every byte comes
 * back. (Jobs are malloc's; leaks of theirs are for the address sanitizer.) */
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

typedef struct allocator {
  long long count, fail_at; /* 0: none fails */
  int forever;
  long long bytes;
} allocator;

static void *allocate(void *ud, void *block, size_t old_size, size_t new_size)
{
  allocator *a = ud;
  if (block == NULL)
    old_size = 0;
  if (new_size == 0) {
    a->bytes -= (long long)old_size;
    free(block);
    return NULL;
  }
  if (new_size > old_size && a->fail_at > 0) {
    a->count++;
    if (a->count == a->fail_at || (a->forever && a->count > a->fail_at))
      return NULL;
  }
  void *moved = realloc(block, new_size);
  if (moved != NULL)
    a->bytes += (long long)new_size - (long long)old_size;
  return moved;
}

static const char load[] = "peri = require 'perilune'\n"
                           "fs = require 'perilune.fs'\n"
                           "net = require 'perilune.net'\n"
                           "subprocess = require 'perilune.subprocess'\n"
                           "signal = require 'perilune.signal'\n"
                           "local loop = peri.get_running_loop()\n"
                           "loop:set_exception_handler(function() end)\n"
                           "for _ in fs.scandir '/proc/self' do end\n"
                           "fs.open('/dev/null'):close()\n";

static const char files_script[] =
    "pcall(fs.read_file, '/none')\n"
    "fs.read_file '/proc/self/status'\n"
    "fs.write_file('/dev/null', 'text')\n"
    "fs.stat '/'\n"
    "for _ in fs.scandir '/proc/self' do break end\n"
    "local task = peri.create_task(fs.read_file, '/proc/self/status')\n"
    "peri.sleep(0)\n"
    "task:cancel()\n"
    "pcall(task.await, task)\n"
    "do local file <close> = fs.open '/proc/self/status'\n"
    "for line in file:lines() do if #line > 9 then break end end end\n"
    "fs.open '/dev/null'\n"
    "pcall(net.getaddrinfo, 'no-address', '1', { numeric = true })\n"
    "net.getaddrinfo('127.0.0.1', '1')\n"
    "net.getnameinfo('127.0.0.1', 1,\n"
    "  { numeric_host = true, numeric_service = true })\n"
    "local server <close> =\n"
    "  net.create_datagram_endpoint { local_addr = { '127.0.0.1', 0 } }\n"
    "local client <close> =\n"
    "  net.create_datagram_endpoint { remote_addr = { server:getsockname() } "
    "}\n"
    "client:send 'x'\n"
    /* One that finds no memory is dropped. */
    "pcall(server.recv, server, { timeout = 0.01 })\n"
    "local watch <close> = fs.watch '/'\n"
    "pcall(watch.next, watch, { timeout = 0 })\n";

/* Nothing is left running, whatever fails. */
static const char process_script[] =
    "local dir <const> = os.getenv 'SPEC_DIRECTORY'\n"
    "do local tree <close> = fs.watch(dir, { recursive = true })\n"
    "  fs.write_file(dir .. '/sub/file', 'text', { atomic = true })\n"
    "  pcall(tree.next, tree, { timeout = 0.01 }) end\n"
    "fs.glob(dir .. '/**/f*')\n"
    "for _ in fs.walk(dir) do end\n"
    "do local process <close> = subprocess.create_subprocess_exec('cat',\n"
    "  { stdin = subprocess.PIPE, stdout = subprocess.PIPE, env = { A = 'b' "
    "},\n"
    "    grace = 0, extra_groups = os.getenv 'SPEC_ROOT' and {} or nil })\n"
    "  process:communicate 'text' end\n"
    "do local file <close> = io.open '/dev/null'\n"
    "  subprocess.run({ 'true' }, { pass_fds = { file }, capture = true }) "
    "end\n"
    "do local signals <close> = signal.stream { 'SIGUSR1', 'SIGUSR2' }\n"
    "  signal.raise 'SIGUSR1'\n"
    "  signals:get() end\n";

/* Returns whether the point was reached. */
static int point(const char *script, long long n, int forever, int *outcomes)
{
  allocator a = {.forever = forever};
  peri_options options;
  peri_options_init(&options);
  options.alloc = allocate;
  options.alloc_ud = &a;
  peri_runtime *runtime;
  CHECK_INT(PERI_OK, peri_new(&runtime, &options));
  CHECK_INT(PERI_OK, run_code(runtime, load));
  a.fail_at = n;
  int status = run_code(runtime, script);
  if (status == PERI_ENOMEM || status == PERI_EFAILED)
    CHECK(strstr(peri_error(runtime), "memory") != NULL);
  else
    CHECK_INT(PERI_OK, status);
  a.fail_at = 0;
  CHECK_INT(PERI_OK, run_code(runtime, "fs.read_file '/proc/self/status'"));
  peri_close(runtime);
  outcomes[-status]++;
  if (a.bytes != 0) {
    fprintf(stderr, "point %lld: %lld bytes were not freed\n", n, a.bytes);
    exit(1);
  }
  return n <= a.count;
}

static int count_descriptors(void)
{
  int count = 0;
  for (int fd = 0; fd < 256; fd++)
    count += lseek(fd, 0, SEEK_CUR) >= 0 || dup2(fd, fd) >= 0;
  return count;
}

static void ramp(const char *script, int forever)
{
  int outcomes[16] = {0};
  long long n = 1;
  /* libuv's own descriptors come with it. */
  point(script, 1, forever, outcomes);
  int before = count_descriptors();
  while (point(script, n, forever, outcomes))
    n++;
  CHECK(n > 50);
  CHECK_INT(before, count_descriptors());
  printf("memory ramp%s: %lld points; ok %d, failed %d, no memory %d\n",
         forever ? ", failing for good" : "", n, outcomes[0], outcomes[1],
         outcomes[2]);
}

static void make_directory(void)
{
  static char path[] = "/tmp/peri-XXXXXX";
  CHECK(mkdtemp(path) != NULL);
  CHECK_INT(0, setenv("SPEC_DIRECTORY", path, 1));
  if (geteuid() == 0)
    CHECK_INT(0, setenv("SPEC_ROOT", "1", 1));
  char below[64];
  snprintf(below, sizeof below, "%s/sub", path);
  CHECK_INT(0, mkdir(below, 0700));
}

static void remove_directory(void)
{
  char command[64];
  snprintf(command, sizeof command, "rm -r '%s'", getenv("SPEC_DIRECTORY"));
  CHECK_INT(0, system(command));
}

/* memory_io [SCRIPT N [FOREVER]] tries the one point again that a ramp of script
 * 1 or 2 stopped at. */
int main(int argc, char **argv)
{
  const char *const scripts[] = {files_script, process_script};
  int outcomes[16] = {0};
  make_directory();
  if (argc > 2) {
    point(scripts[atoi(argv[1]) == 2], atoll(argv[2]), argc > 3, outcomes);
  } else {
    for (int i = 0; i < 4; i++)
      ramp(scripts[i / 2], i % 2);
  }
  remove_directory();
  return 0;
}
