/* Waiting for descriptors and one deadline: epoll with a timer descriptor on Linux, poll
 * elsewhere. */
#ifndef BEAMLINE_POLLER_H
#define BEAMLINE_POLLER_H

#include <stdbool.h>
#include <stdint.h>

enum { POLLER_READ = 1, POLLER_WRITE = 2, POLLER_GONE = 4 };

struct poller_event {
    void *owner;
    unsigned what; /* POLLER_... ; GONE: error or hang-up in both directions */
};

struct poller;

struct poller *poller_new(void);
void poller_free(struct poller *poller);

/* Watch a descriptor, change what for, stop watching. False with errno on failure. */
bool poller_add(struct poller *poller, int descriptor, unsigned what, void *owner);
bool poller_change(struct poller *poller, int descriptor, unsigned what, void *owner);
void poller_remove(struct poller *poller, int descriptor);

/* Wait until something happens or the monotonic time `deadline` (ns; INT64_MAX: none) is reached,
 * and return the number of events written. */
int poller_wait(struct poller *poller, int64_t deadline, struct poller_event *events, int max);

#endif
