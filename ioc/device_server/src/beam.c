#include "beam.h"

#include <math.h>

#include "rng.h"

enum { STREAM_VACUUM = 0x7661, STREAM_TEMPERATURE = 0x7465 };

double ring_current(const struct ring *ring, const struct config *config, double t)
{
    if (ring->dumped)
        return 0.0;
    if (t < ring->full)
        return fmax(config->ring_max_mA - (ring->full - t) * config->ring_fill_mA_per_s, 0.0);
    double lifetime = config->ring_lifetime_h * 3600.0;
    double decay = lifetime * log(config->ring_max_mA / config->ring_min_mA);
    double refill = (config->ring_max_mA - config->ring_min_mA) / config->ring_fill_mA_per_s;
    double phase = fmod(fmax(t - ring->full, 0.0), decay + refill);
    if (phase < decay)
        return config->ring_max_mA * exp(-phase / lifetime);
    return config->ring_min_mA + (phase - decay) * config->ring_fill_mA_per_s;
}

double ring_reading(const struct ring *ring, const struct config *config, double t)
{
    return round(ring_current(ring, config, t) * 1e3) / 1e3;
}

void ring_break(struct ring *ring, const struct config *config, double t, bool dumped)
{
    if (ring->dumped && !dumped)
        ring->full = t + config->ring_max_mA / config->ring_fill_mA_per_s;
    ring->dumped = dumped;
}

double flux_curve(const struct config *config, double energy)
{
    double x = energy / config->flux_peak_eV;
    return x * x * exp(2.0 * (1.0 - x));
}

void shutter_init(struct shutter *shutter, double travel)
{
    *shutter = (struct shutter){.travel = travel};
}

void shutter_send(struct shutter *shutter, double t, bool open)
{
    shutter->fraction = shutter_fraction(shutter, t);
    shutter->since = t;
    shutter->command = open;
}

double shutter_fraction(const struct shutter *shutter, double t)
{
    double goal = shutter->command ? 1.0 : 0.0;
    if (shutter->travel <= 0.0)
        return goal;
    double way = (t - shutter->since) / shutter->travel;
    return shutter->command ? fmin(shutter->fraction + way, goal)
                            : fmax(shutter->fraction - way, goal);
}

double shutter_next_event(const struct shutter *shutter)
{
    if (shutter->command == shutter->open)
        return INFINITY;
    double goal = shutter->command ? 1.0 : 0.0;
    return shutter->since + shutter->travel * fabs(goal - shutter->fraction);
}

void shutter_arrive(struct shutter *shutter)
{
    shutter->open = shutter->command;
}

/* A normal deviate that belongs to one second of one quantity: no state, any order. */
static double noise(const struct config *config, uint64_t quantity, double second)
{
    struct rng rng;
    rng_seed(&rng, config->seed ^ quantity << 48, (uint64_t)second);
    return rng_normal(&rng);
}

double vacuum_pressure(const struct config *config, double t)
{
    double decades = -9.0 + 0.08 * noise(config, STREAM_VACUUM, floor(t));
    return pow(10.0, fmin(fmax(decades, -9.9), -8.1));
}

double hutch_temperature(const struct config *config, double t)
{
    double second = floor(t);
    double day = 2.0 * 3.141592653589793 * second / 86400.0;
    double celsius = 23.0 + 0.6 * sin(day) + 0.005 * noise(config, STREAM_TEMPERATURE, second);
    return round(celsius * 1e3) / 1e3;
}
