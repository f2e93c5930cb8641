/* Counts the allocations of a server that has warmed up, over many sessions: there must be none.
 *
 * The C library's allocator is replaced, so that its own allocations count as well. Built without
 * sanitizers, which replace it too. */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "session.h"

enum { WARM_UP = 3, SESSIONS = 20 };

static _Atomic long *allocations; /* shared with the child */
static bool armed;

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t bytes);

static void note(void)
{
    if (armed)
        atomic_fetch_add(allocations, 1);
}

void *malloc(size_t bytes)
{
    note();
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t size)
{
    note();
    return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t bytes)
{
    note();
    return __libc_realloc(memory, bytes);
}

static void arm(void)
{
    armed = true;
}

int main(void)
{
    struct child child;
    bool silent = false;
    signal(SIGPIPE, SIG_IGN);
    allocations = mmap(NULL, sizeof *allocations, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (allocations == MAP_FAILED)
        return 2;
    files_write();
    bool ready = child_start(&child, arm) && child.port != 0;
    for (int i = 0; ready && i < WARM_UP; i++)
        session_play(&child, &silent);
    long before = atomic_load(allocations);
    for (int i = 0; ready && i < SESSIONS; i++)
        session_play(&child, &silent);
    long during = atomic_load(allocations) - before;
    bool ended = child_end(&child);
    files_remove();
    printf("%ld allocations until it was warm, %ld in %d sessions after\n", before, during,
           SESSIONS);
    bool good = ready && !silent && ended && WIFEXITED(child.status)
                && WEXITSTATUS(child.status) == 0;
    if (!good)
        fprintf(stderr, "the server did not serve all sessions: %s\n", child.words);
    return good && before > 0 && during == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
