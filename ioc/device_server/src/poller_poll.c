#if !defined(__linux__) || defined(BEAMLINE_USE_POLL)

#include "poller.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>

#include "clock.h"

struct poller {
    struct pollfd *set;
    void **owners;
    int count, capacity;
    int next; /* where the next report starts, so that a full report starves nobody */
};

struct poller *poller_new(void)
{
    return calloc(1, sizeof(struct poller));
}

void poller_free(struct poller *poller)
{
    if (poller == NULL)
        return;
    free(poller->set);
    free(poller->owners);
    free(poller);
}

static short wanted(unsigned what)
{
    return (short)((what & POLLER_READ ? POLLIN : 0) | (what & POLLER_WRITE ? POLLOUT : 0));
}

static int find(const struct poller *poller, int descriptor)
{
    int i = poller->count - 1;
    while (i >= 0 && poller->set[i].fd != descriptor)
        i--;
    return i;
}

bool poller_add(struct poller *poller, int descriptor, unsigned what, void *owner)
{
    if (poller->count == poller->capacity) {
        int capacity = poller->capacity ? 2 * poller->capacity : 64;
        struct pollfd *set = realloc(poller->set, (size_t)capacity * sizeof *set);
        if (set != NULL)
            poller->set = set;
        void **owners = realloc(poller->owners, (size_t)capacity * sizeof *owners);
        if (owners != NULL)
            poller->owners = owners;
        if (set == NULL || owners == NULL) {
            errno = ENOMEM;
            return false;
        }
        poller->capacity = capacity;
    }
    poller->set[poller->count] = (struct pollfd){.fd = descriptor, .events = wanted(what)};
    poller->owners[poller->count++] = owner;
    return true;
}

bool poller_change(struct poller *poller, int descriptor, unsigned what, void *owner)
{
    int i = find(poller, descriptor);
    if (i < 0) {
        errno = ENOENT;
        return false;
    }
    poller->set[i].events = wanted(what);
    poller->owners[i] = owner;
    return true;
}

void poller_remove(struct poller *poller, int descriptor)
{
    int i = find(poller, descriptor);
    if (i < 0)
        return;
    poller->count--;
    poller->set[i] = poller->set[poller->count];
    poller->owners[i] = poller->owners[poller->count];
}

int poller_wait(struct poller *poller, int64_t deadline, struct poller_event *events, int max)
{
    int64_t left = deadline == INT64_MAX ? -1 : deadline - clock_real();
    int64_t ms = left < 0 ? (deadline == INT64_MAX ? -1 : 0) : (left + 999999) / 1000000;
    int ready = poll(poller->set, (nfds_t)poller->count, ms > INT_MAX ? INT_MAX : (int)ms);
    int used = 0;
    for (int i = 0; ready > 0 && used < max && i < poller->count; i++) {
        int at = (poller->next + i) % poller->count;
        short got = poller->set[at].revents;
        if (got == 0)
            continue;
        events[used++] = (struct poller_event){
            .owner = poller->owners[at],
            .what = (got & POLLIN ? POLLER_READ : 0u) | (got & POLLOUT ? POLLER_WRITE : 0u)
                    | (got & (POLLERR | POLLHUP | POLLNVAL) ? POLLER_GONE : 0u),
        };
        if (used == max)
            poller->next = at + 1;
    }
    return used;
}

#else
/* ISO C wants at least one declaration in a file. */
typedef int poller_poll_unused;
#endif
