/* Fails the libc calls of the server one by one, over its start and a session with it.
 *
 * For n = 1, 2, ... the n-th call fails; then, for memory, the n-th and all later ones. The server
 * must end with one sentence and status 2 before it is ready, or serve on: never crash, hang or
 * leak (the program is built with the sanitizers). Linked with libc_calls.opt, which names the same
 * functions as the tables below.
 *
 * usage: libc_failures [STEP]   every STEP-th call instead of every one */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "session.h"

/* Written by the child, read by its parent. */
struct report {
    _Atomic long calls;
    const char *_Atomic failed; /* name of the function */
    _Atomic bool memory;
};

static struct report *report;
static bool armed; /* in the child only: the harness itself fails nothing */
static bool memory_only;
static long fail_at;

static bool fails(const char *name, bool memory, int why)
{
    if (!armed || (memory_only && !memory))
        return false;
    long call = atomic_fetch_add(&report->calls, 1) + 1;
    if (call != fail_at && !(memory_only && call > fail_at))
        return false;
    if (report->failed == NULL) {
        report->memory = memory;
        report->failed = name;
    }
    errno = why;
    return true;
}

/* result, name, parameters, arguments, what failure returns, errno */
#define MEMORY_CALLS(X)                                                                            \
    X(void *, malloc, (size_t n), (n), NULL, ENOMEM)                                               \
    X(void *, calloc, (size_t n, size_t size), (n, size), NULL, ENOMEM)                            \
    X(void *, realloc, (void *p, size_t n), (p, n), NULL, ENOMEM)                                  \
    X(char *, strdup, (const char *s), (s), NULL, ENOMEM)                                          \
    X(ssize_t, getline, (char **l, size_t *n, FILE *f), (l, n, f), -1, ENOMEM)                     \
    X(FILE *, fopen, (const char *p, const char *m), (p, m), NULL, EMFILE)

#define OTHER_CALLS(X)                                                                             \
    X(ssize_t, write, (int d, const void *b, size_t n), (d, b, n), -1, EINTR)                      \
    X(ssize_t, read, (int d, void *b, size_t n), (d, b, n), -1, EINTR)                             \
    X(ssize_t, send, (int d, const void *b, size_t n, int f), (d, b, n, f), -1, ENOBUFS)           \
    X(ssize_t, recv, (int d, void *b, size_t n, int f), (d, b, n, f), -1, ENOMEM)                  \
    X(int, accept, (int d, struct sockaddr *a, socklen_t *n), (d, a, n), -1, EMFILE)               \
    X(int, epoll_create1, (int f), (f), -1, EMFILE)                                                \
    X(int, epoll_ctl, (int e, int o, int d, struct epoll_event *v), (e, o, d, v), -1, ENOMEM)      \
    X(int, epoll_wait, (int e, struct epoll_event *v, int n, int t), (e, v, n, t), -1, EINTR)      \
    X(int, timerfd_create, (int c, int f), (c, f), -1, EMFILE)                                     \
    X(int, timerfd_settime,                                                                        \
      (int d, int f, const struct itimerspec *n, struct itimerspec *o), (d, f, n, o), -1, ENOMEM)  \
    X(int, pipe, (int *p), (p), -1, EMFILE)                                                        \
    X(int, socket, (int d, int t, int p), (d, t, p), -1, EMFILE)                                   \
    X(int, bind, (int d, const struct sockaddr *a, socklen_t n), (d, a, n), -1, EADDRINUSE)        \
    X(int, listen, (int d, int n), (d, n), -1, EADDRINUSE)                                         \
    X(int, getsockname, (int d, struct sockaddr *a, socklen_t *n), (d, a, n), -1, ENOBUFS)         \
    X(int, setsockopt, (int d, int l, int o, const void *v, socklen_t n), (d, l, o, v, n), -1,     \
      ENOBUFS)                                                                                     \
    X(int, shutdown, (int d, int how), (d, how), -1, ENOTCONN)                                     \
    X(int, getaddrinfo,                                                                            \
      (const char *h, const char *s, const struct addrinfo *i, struct addrinfo **r), (h, s, i, r), \
      EAI_MEMORY, ENOMEM)                                                                          \
    X(int, pthread_create,                                                                         \
      (pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *x), (t, a, f, x), EAGAIN,  \
      EAGAIN)                                                                                      \
    X(int, sigaction, (int s, const struct sigaction *n, struct sigaction *o), (s, n, o), -1,      \
      EINVAL)                                                                                      \
    X(int, getrlimit, (int r, struct rlimit *l), (r, l), -1, EPERM)                                \
    X(int, setrlimit, (int r, const struct rlimit *l), (r, l), -1, EPERM)

#define WRAP_MEMORY(result, name, parameters, arguments, failure, why)                             \
    WRAP(result, name, parameters, arguments, failure, why, true)
#define WRAP_OTHER(result, name, parameters, arguments, failure, why)                              \
    WRAP(result, name, parameters, arguments, failure, why, false)
#define WRAP(result, name, parameters, arguments, failure, why, memory)                            \
    result __real_##name parameters;                                                               \
    result __wrap_##name parameters;                                                               \
    result __wrap_##name parameters                                                                \
    {                                                                                              \
        return fails(#name, memory, why) ? (failure) : __real_##name arguments;                    \
    }
MEMORY_CALLS(WRAP_MEMORY)
OTHER_CALLS(WRAP_OTHER)

const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "exitcode=77";
}

static void arm(void)
{
    armed = true;
}

static bool is_sentence(const char *words)
{
    size_t length = strlen(words);
    return strncmp(words, "beamline-sim: ", 14) == 0 && length > 16
           && strcmp(words + length - 2, ".\n") == 0 && strchr(words, '\n') == words + length - 1;
}

/* What is wrong with how the server took the failure; NULL if nothing is. */
static const char *judge(void)
{
    struct child child;
    bool silent = false, ready = child_start(&child, arm), good = true;
    if (ready && child.port != 0) {
        bool startup = report->failed != NULL;
        session_play(&child, &silent);
        /* In lasting need, new clients may be turned away. */
        int client = memory_only ? -1 : client_open(&child);
        for (int i = 0; i < 2 && !memory_only && (client < 0 || !client_ask(client, "PING", &silent)); i++) {
            close(client);
            client = client_open(&child);
            good = i == 0;
        }
        close(client);
        if (!child_end(&child))
            return "it does not stop";
        if (startup && report->memory)
            return "it was ready, although it could not read or keep what it needs";
        if (silent)
            return "it fell silent";
        if (!good)
            return "it takes no new clients";
        if (!WIFEXITED(child.status) || WEXITSTATUS(child.status) != 0 || child.words[0] != '\0') {
            fputs(child.words, stderr);
            return "it did not end well";
        }
        return NULL;
    }
    if (!child_end(&child) || !ready)
        return "it hangs at the start";
    if (!WIFEXITED(child.status) || WEXITSTATUS(child.status) != 2 || !is_sentence(child.words)) {
        fputs(child.words, stderr);
        return "it did not refuse to start with one sentence and status 2";
    }
    return NULL;
}

/* Every call, or with a larger step some of them. */
static int try_all(const char *what, long step)
{
    int bad = 0;
    long n = 1 - step, tried = 0;
    do {
        *report = (struct report){0};
        fail_at = n += step;
        const char *wrong = judge();
        if (wrong != NULL) {
            bad++;
            fprintf(stderr, "%s: call %ld, %s: %s\n", what, n,
                    report->failed == NULL ? "none" : report->failed, wrong);
        }
        tried += report->failed != NULL;
    } while (report->failed != NULL && bad < 10);
    printf("%s: %ld failures injected, %d taken badly\n", what, tried, bad);
    return bad;
}

int main(int count, char **arguments)
{
    long step = count > 1 ? atol(arguments[1]) : 1;
    signal(SIGPIPE, SIG_IGN);
    if (step < 1)
        return 2;
    report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (report == MAP_FAILED)
        return 2;
    files_write();
    int bad = try_all("one call", step);
    memory_only = true;
    bad += try_all("all memory from a call on", step);
    files_remove();
    return bad == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
