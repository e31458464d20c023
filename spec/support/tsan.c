/*
 * tsan.c: linked into the programs of a ThreadSanitizer build only. Lua and
 * libuv come as they are, without instrumentation, and two of the functions
 * they call are not among those that gcc 12's ThreadSanitizer follows:
 *   _longjmp, by which Lua raises and yields (under its fortified name,
 *   __longjmp_chk, in Debian's liblua): without it every frame of ours
 *   that is jumped over stays on the sanitizer's stack for ever, which
 *   spoils its reports and overflows in the end;
 *   syscall, by which libuv closes descriptors: one that another thread then
 *   opens under the same number would look like a race.
 * The linker turns those calls to the functions here (--wrap).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

_Noreturn void __wrap__longjmp(jmp_buf target, int value);
_Noreturn void __wrap___longjmp_chk(jmp_buf target, int value);
long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);

void __wrap__longjmp(jmp_buf target, int value)
{
  longjmp(target, value);
}

void __wrap___longjmp_chk(jmp_buf target, int value)
{
  longjmp(target, value);
}

long __wrap_syscall(long number, ...)
{
  long argument[6];
  va_list arguments;
  va_start(arguments, number);
  for (int i = 0; i < 6; i++)
    argument[i] = va_arg(arguments, long);
  va_end(arguments);
  if (number == SYS_close)
    return close((int)argument[0]);
  return __real_syscall(number, argument[0], argument[1], argument[2],
                        argument[3], argument[4], argument[5]);
}
