/* Deadlines in a binary heap. Timers belong to their owners; the heap holds pointers. */
#ifndef BEAMLINE_TIMER_H
#define BEAMLINE_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct timer {
    int64_t deadline; /* monotonic ns */
    size_t place;     /* 1 + index in the heap; 0 while not armed */
    void (*fire)(void *owner);
    void *owner;
};

struct timers {
    struct timer **heap;
    size_t count, capacity;
};

void timers_free(struct timers *timers);

/* Make room for as many armed timers; false without memory. */
bool timers_reserve(struct timers *timers, size_t count);

/* Arm a timer, for which there must be room, or move it if it is armed; INT64_MAX disarms. */
void timer_set(struct timers *timers, struct timer *timer, int64_t deadline);
void timer_cancel(struct timers *timers, struct timer *timer);

/* Earliest deadline; INT64_MAX if none. */
int64_t timers_next(const struct timers *timers);
/* Fire what is due at `now`; a timer is disarmed before its function is called. */
void timers_run(struct timers *timers, int64_t now);

#endif
