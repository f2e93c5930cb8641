/* The timer heap against a search through all timers. */
#include "../src/rng.h"
#include "../src/timer.h"
#include "check.h"

enum { TIMERS = 300, STEPS = 20000 };
static struct timer timer[TIMERS];
static int64_t model[TIMERS];
static int64_t now, fired_last;
static int fired;

static void fire(void *owner)
{
    struct timer *t = owner;
    CHECK(t->place == 0, "still armed while it fires");
    CHECK(t->deadline <= now && t->deadline >= fired_last, "out of order");
    CHECK(model[t - timer] == t->deadline, "fired at the wrong time");
    model[t - timer] = INT64_MAX;
    fired_last = t->deadline;
    fired++;
}

int main(void)
{
    struct timers timers = {0};
    struct rng rng;
    rng_seed(&rng, 3, 3);
    CHECK(timers_reserve(&timers, TIMERS), "no memory");
    for (int i = 0; i < TIMERS; i++) {
        timer[i] = (struct timer){.fire = fire, .owner = &timer[i]};
        model[i] = INT64_MAX;
    }
    for (int step = 0; step < STEPS; step++) {
        int i = (int)(rng_next(&rng) % TIMERS);
        uint64_t dice = rng_next(&rng) % 10;
        if (dice < 7) {
            model[i] = now + (int64_t)(rng_next(&rng) % 1000);
            timer_set(&timers, &timer[i], model[i]);
        } else if (dice < 9) {
            model[i] = INT64_MAX;
            if (dice == 7)
                timer_cancel(&timers, &timer[i]);
            else
                timer_set(&timers, &timer[i], INT64_MAX);
        } else {
            now += (int64_t)(rng_next(&rng) % 200);
            fired_last = INT64_MIN;
            timers_run(&timers, now);
        }
        int64_t first = INT64_MAX;
        for (int j = 0; j < TIMERS; j++)
            first = model[j] < first ? model[j] : first;
        CHECK(timers_next(&timers) == first, "step %d", step);
    }
    CHECK(fired > 1000, "%d", fired);
    timers_free(&timers);
    return check_status();
}
