/*
 * signals.h: the signals that scripts know by name.
 */
#ifndef PERI_SIGNALS_H
#define PERI_SIGNALS_H

#include <signal.h>

#define PERI_SIGNALS(X)                                                        \
  X(SIGHUP)                                                                    \
  X(SIGINT)                                                                    \
  X(SIGQUIT)                                                                   \
  X(SIGILL)                                                                    \
  X(SIGTRAP)                                                                   \
  X(SIGABRT)                                                                   \
  X(SIGBUS)                                                                    \
  X(SIGFPE)                                                                    \
  X(SIGKILL)                                                                   \
  X(SIGUSR1)                                                                   \
  X(SIGSEGV)                                                                   \
  X(SIGUSR2)                                                                   \
  X(SIGPIPE)                                                                   \
  X(SIGALRM)                                                                   \
  X(SIGTERM)                                                                   \
  X(SIGCHLD)                                                                   \
  X(SIGCONT)                                                                   \
  X(SIGSTOP)                                                                   \
  X(SIGTSTP)                                                                   \
  X(SIGTTIN)                                                                   \
  X(SIGTTOU)                                                                   \
  X(SIGURG)                                                                    \
  X(SIGXCPU)                                                                   \
  X(SIGXFSZ)                                                                   \
  X(SIGVTALRM)                                                                 \
  X(SIGPROF)                                                                   \
  X(SIGWINCH)                                                                  \
  X(SIGIO)                                                                     \
  X(SIGSYS)

#endif
