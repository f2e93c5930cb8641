#include "clock.h"

#include <math.h>
#include <time.h>

static const double ns = 1e9;

int64_t clock_real(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

double clock_unix(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / ns;
}

void clock_start(struct clock *clock, double scale)
{
    clock->origin = clock_real();
    clock->scale = scale;
}

double clock_simulated(const struct clock *clock, int64_t real)
{
    return (double)(real - clock->origin) / ns * clock->scale;
}

int64_t clock_deadline(const struct clock *clock, double simulated)
{
    double real = ceil(simulated / clock->scale * ns);
    if (!(real < 9e18 - (double)clock->origin))
        return INT64_MAX;
    int64_t deadline = clock->origin + (int64_t)real;
    /* Rounding may leave us a nanosecond early, and the loop would spin on it. */
    while (clock_simulated(clock, deadline) < simulated)
        deadline++;
    return deadline;
}
