#include "counters.h"

#include <math.h>
#include <string.h>

#include "sim.h"

enum { STREAM_COUNTS = 1 };
static const uint64_t stream_glance = 0x676c616e6365;

void counters_init(struct counters *counters, const struct config *config)
{
    *counters = (struct counters){.exposure = 0.1};
    rng_seed(&counters->glance, config->seed, stream_glance);
}

void counters_start(struct counters *counters, const struct sim *sim, double seconds)
{
    gate_open(&counters->gate, sim, sim->now);
    counters->preset = seconds;
    counters->end = sim->now + seconds;
    counters->number++;
    memcpy(counters->spoiled, counters->dead, sizeof counters->spoiled);
}

void counters_break(struct counters *counters, enum channel channel, bool dead)
{
    counters->dead[channel] = dead;
    counters->spoiled[channel] |= dead;
}

void counters_latch(struct counters *counters, const struct sim *sim)
{
    struct rng rng;
    gate_advance(&counters->gate, sim, sim->now);
    /* A difference of two times would not be exactly what was asked for. */
    counters->elapsed = sim->now >= counters->end ? counters->preset
                                                  : counters->gate.until - counters->gate.start;
    rng_seed(&rng, rng_mix(sim->config.seed ^ STREAM_COUNTS), counters->number);
    for (int c = 0; c < CHANNEL_COUNT; c++)
        counters->latched[c] = reading(&sim->config, (enum channel)c,
                                       counters->gate.expected[c], counters->elapsed, &rng);
    /* A channel that was dead has no value: zeros would be taken for a dark beam. */
    for (int c = 0; c < CHANNEL_COUNT; c++)
        if (counters->spoiled[c])
            counters->latched[c] = NAN;
    counters->gate.open = false;
}

double counters_next_event(const struct counters *counters)
{
    return counters->gate.open ? counters->end : INFINITY;
}

void counters_glance(struct counters *counters, const struct sim *sim,
                     double counts[CHANNEL_COUNT])
{
    struct conditions now;
    double rate[CHANNEL_COUNT];
    sim_conditions(sim, sim->now, &now);
    response(&sim->config, &now, rate);
    for (int c = 0; c < CHANNEL_COUNT; c++)
        counts[c] = reading(&sim->config, (enum channel)c, rate[c] * counters->exposure,
                            counters->exposure, &counters->glance);
    for (int c = 0; c < CHANNEL_COUNT; c++)
        if (counters->dead[c])
            counts[c] = NAN;
}
