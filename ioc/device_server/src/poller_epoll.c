#if defined(__linux__) && !defined(BEAMLINE_USE_POLL)

#include "poller.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "clock.h"

enum { EVENTS_MAX = 256 };

struct poller {
    int epoll, timer;
    int64_t armed; /* deadline that the timer is set to; INT64_MAX: none */
};

struct poller *poller_new(void)
{
    struct poller *p = calloc(1, sizeof *p);
    if (p == NULL)
        return NULL;
    p->armed = INT64_MAX;
    p->epoll = epoll_create1(EPOLL_CLOEXEC);
    p->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (p->epoll >= 0 && p->timer >= 0 && poller_add(p, p->timer, POLLER_READ, p))
        return p;
    poller_free(p);
    return NULL;
}

void poller_free(struct poller *poller)
{
    if (poller == NULL)
        return;
    if (poller->epoll >= 0)
        close(poller->epoll);
    if (poller->timer >= 0)
        close(poller->timer);
    free(poller);
}

static bool control(struct poller *poller, int operation, int descriptor, unsigned what,
                    void *owner)
{
    struct epoll_event event = {
        .events = (what & POLLER_READ ? EPOLLIN : 0u) | (what & POLLER_WRITE ? EPOLLOUT : 0u),
        .data.ptr = owner,
    };
    return epoll_ctl(poller->epoll, operation, descriptor, &event) == 0;
}

bool poller_add(struct poller *poller, int descriptor, unsigned what, void *owner)
{
    return control(poller, EPOLL_CTL_ADD, descriptor, what, owner);
}

bool poller_change(struct poller *poller, int descriptor, unsigned what, void *owner)
{
    return control(poller, EPOLL_CTL_MOD, descriptor, what, owner);
}

void poller_remove(struct poller *poller, int descriptor)
{
    control(poller, EPOLL_CTL_DEL, descriptor, 0, NULL);
}

/* epoll's own timeout has milliseconds only; a move may last less. */
static bool arm(struct poller *poller, int64_t deadline)
{
    if (deadline == poller->armed)
        return true;
    struct itimerspec when = {0};
    if (deadline != INT64_MAX) {
        when.it_value.tv_sec = deadline / 1000000000;
        when.it_value.tv_nsec = deadline % 1000000000;
    }
    if (timerfd_settime(poller->timer, TFD_TIMER_ABSTIME, &when, NULL) != 0)
        return false;
    poller->armed = deadline;
    return true;
}

int poller_wait(struct poller *poller, int64_t deadline, struct poller_event *events, int max)
{
    struct epoll_event ready[EVENTS_MAX];
    /* Without the timer, look every millisecond. */
    int timeout = deadline <= clock_real() ? 0 : arm(poller, deadline) ? -1 : 1;
    int count = epoll_wait(poller->epoll, ready, max < EVENTS_MAX ? max : EVENTS_MAX, timeout);
    int used = 0;
    for (int i = 0; i < count; i++) {
        if (ready[i].data.ptr == poller) {
            uint64_t expirations;
            if (read(poller->timer, &expirations, sizeof expirations) > 0)
                poller->armed = INT64_MAX;
            continue;
        }
        events[used++] = (struct poller_event){
            .owner = ready[i].data.ptr,
            .what = (ready[i].events & EPOLLIN ? POLLER_READ : 0u)
                    | (ready[i].events & EPOLLOUT ? POLLER_WRITE : 0u)
                    | (ready[i].events & (EPOLLERR | EPOLLHUP) ? POLLER_GONE : 0u),
        };
    }
    return used;
}

#else
/* ISO C wants at least one declaration in a file. */
typedef int poller_epoll_unused;
#endif
