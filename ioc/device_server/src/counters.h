/* The scaler: one gate, five channels, latched together when the gate closes. */
#ifndef BEAMLINE_COUNTERS_H
#define BEAMLINE_COUNTERS_H

#include <stdbool.h>
#include <stdint.h>

#include "gate.h"
#include "rng.h"

struct counters {
    struct gate gate;
    double preset;    /* s asked for */
    double end;       /* when the gate closes by itself, s */
    double exposure;  /* DET:EXPOSURE, s */
    double latched[CHANNEL_COUNT];
    double elapsed;   /* of the latched counts, s */
    bool dead[CHANNEL_COUNT];    /* reads nothing */
    bool spoiled[CHANNEL_COUNT]; /* was dead at some time of the present count */
    uint64_t number;  /* counts so far: each draws its noise from a stream of its own */
    struct rng glance;
};

void counters_init(struct counters *counters, const struct config *config);
/* Open the gate for a time; it must be closed. */
void counters_start(struct counters *counters, const struct sim *sim, double seconds);
/* Let a channel read nothing, or mend it. */
void counters_break(struct counters *counters, enum channel channel, bool dead);
/* Close it at the simulation's present time and latch. */
void counters_latch(struct counters *counters, const struct sim *sim);
double counters_next_event(const struct counters *counters);

/* An exposure of DET:EXPOSURE seconds under present conditions that takes no time: for clients
 * which read a detector without counting. A dead channel gives NaN. */
void counters_glance(struct counters *counters, const struct sim *sim,
                     double counts[CHANNEL_COUNT]);

#endif
