#include "timer.h"

#include <assert.h>
#include <stdlib.h>

static void put(struct timers *timers, size_t index, struct timer *timer)
{
    timers->heap[index] = timer;
    timer->place = index + 1;
}

static void sift_up(struct timers *timers, size_t index)
{
    struct timer *timer = timers->heap[index];
    while (index > 0) {
        size_t parent = (index - 1) / 2;
        if (timers->heap[parent]->deadline <= timer->deadline)
            break;
        put(timers, index, timers->heap[parent]);
        index = parent;
    }
    put(timers, index, timer);
}

static void sift_down(struct timers *timers, size_t index)
{
    struct timer *timer = timers->heap[index];
    for (;;) {
        size_t child = 2 * index + 1;
        if (child >= timers->count)
            break;
        if (child + 1 < timers->count
            && timers->heap[child + 1]->deadline < timers->heap[child]->deadline)
            child++;
        if (timers->heap[child]->deadline >= timer->deadline)
            break;
        put(timers, index, timers->heap[child]);
        index = child;
    }
    put(timers, index, timer);
}

void timers_free(struct timers *timers)
{
    free(timers->heap);
    *timers = (struct timers){0};
}

bool timers_reserve(struct timers *timers, size_t count)
{
    if (count <= timers->capacity)
        return true;
    size_t capacity = timers->capacity ? timers->capacity : 64;
    while (capacity < count)
        capacity *= 2;
    struct timer **heap = realloc(timers->heap, capacity * sizeof *heap);
    if (heap == NULL)
        return false;
    timers->heap = heap;
    timers->capacity = capacity;
    return true;
}

void timer_set(struct timers *timers, struct timer *timer, int64_t deadline)
{
    if (deadline == INT64_MAX) {
        timer_cancel(timers, timer);
        return;
    }
    if (timer->place == 0) {
        assert(timers->count < timers->capacity);
        timer->deadline = deadline;
        put(timers, timers->count++, timer);
        sift_up(timers, timer->place - 1);
        return;
    }
    timer->deadline = deadline;
    sift_up(timers, timer->place - 1);
    sift_down(timers, timer->place - 1);
}

void timer_cancel(struct timers *timers, struct timer *timer)
{
    if (timer->place == 0)
        return;
    size_t index = timer->place - 1;
    timer->place = 0;
    struct timer *last = timers->heap[--timers->count];
    if (last == timer)
        return;
    put(timers, index, last);
    sift_up(timers, index);
    sift_down(timers, last->place - 1);
}

int64_t timers_next(const struct timers *timers)
{
    return timers->count > 0 ? timers->heap[0]->deadline : INT64_MAX;
}

void timers_run(struct timers *timers, int64_t now)
{
    while (timers->count > 0 && timers->heap[0]->deadline <= now) {
        struct timer *timer = timers->heap[0];
        timer_cancel(timers, timer);
        timer->fire(timer->owner);
    }
}
