/* Simulated time: seconds since the server started, at `scale` simulated seconds per real one. */
#ifndef BEAMLINE_CLOCK_H
#define BEAMLINE_CLOCK_H

#include <stdint.h>

struct clock {
    int64_t origin; /* monotonic ns at simulated time 0 */
    double scale;
};

/* Monotonic real time, ns. */
int64_t clock_real(void);
/* Unix time, s. */
double clock_unix(void);

void clock_start(struct clock *clock, double scale);
/* Simulated time of a monotonic time, and the first monotonic time at which it is reached
 * (INT64_MAX for an infinite or unreachable one). */
double clock_simulated(const struct clock *clock, int64_t real);
int64_t clock_deadline(const struct clock *clock, double simulated);

#endif
