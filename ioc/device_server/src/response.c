#include "response.h"

#include <math.h>
#include <stdbool.h>

#include "beam.h"
#include "constants.h"
#include "rng.h"

static bool is_pulse_counter(enum channel channel)
{
    return channel == CHANNEL_IF || channel == CHANNEL_XRD;
}

/* Part of a Gaussian beam of this width, centred at `offset` from the middle of a slab, that hits
 * the slab. */
static double slab_overlap(double offset, double width, double fwhm)
{
    double scale = FWHM_PER_SIGMA / (fwhm * sqrt(2.0));
    return 0.5 * (erf((0.5 * width - offset) * scale) + erf((0.5 * width + offset) * scale));
}

static double tilt(const struct conditions *now)
{
    /* A foil seen edge-on has no end of material: beyond 89.4 degrees it stays as at 89.4. */
    return fmax(fabs(cos(now->theta * DEGREE)), 0.01);
}

double sample_overlap(const struct config *config, const struct conditions *now)
{
    const struct sample *s = now->sample;
    double width = s->width_um * tilt(now);
    return slab_overlap(now->x - s->x_um, width, config->beam_fwhm_x_um)
           * slab_overlap(now->y - s->y_um, s->height_um, config->beam_fwhm_y_um);
}

static struct passage pass_map(const struct config *config, const struct conditions *now,
                               double mut)
{
    const struct sample *s = now->sample;
    const struct map_view view = {
        .x = now->x - s->x_um, .y = now->y - s->y_um,
        .fwhm_x = config->beam_fwhm_x_um, .fwhm_y = config->beam_fwhm_y_um,
        .width = s->width_um * tilt(now), .height = s->height_um,
    };
    return sample_map_pass(&s->map, &view, mut);
}

double sample_coverage(const struct config *config, const struct conditions *now)
{
    /* What scatters of a beam that nothing absorbs. */
    return now->sample->map.pixel == NULL ? 1.0 : pass_map(config, now, 0.0).scattered;
}

/* What the sample makes of the beam at an absorption of `mut`, were it to face the beam. */
static struct passage pass_sample(const struct config *config, const struct conditions *now,
                                  double mut)
{
    const struct sample *s = now->sample;
    double across = tilt(now);
    if (s->map.pixel == NULL) {
        double hit = sample_overlap(config, now), through = exp(-mut / across);
        return (struct passage){1.0 - hit + hit * through, hit * (1.0 - through), hit * through};
    }
    return pass_map(config, now, mut / across);
}

/* Diffracted part of the beam at the arm's angle: a Gaussian line per reflection that the energy
 * can reach, on a flat background. */
static double diffraction(const struct config *config, const struct conditions *now)
{
    double sum = config->xrd_background;
    double wavelength = HC_EV_ANGSTROM / now->energy;
    double scale = FWHM_PER_SIGMA / config->xrd_fwhm_deg;
    for (size_t i = 0; i < now->sample->reflection_count; i++) {
        const struct reflection_line *line = &now->sample->reflections[i];
        double sine = wavelength / (2.0 * line->d);
        if (sine > 1.0)
            continue;
        double z = (now->tth - 2.0 * asin(sine) / DEGREE) * scale;
        if (fabs(z) < 8.0)
            sum += config->xrd_yield * line->intensity * exp(-0.5 * z * z);
    }
    return sum;
}

double response(const struct config *config, const struct conditions *now,
                double rate[CHANNEL_COUNT])
{
    double incident = config->flux_counts_per_s * now->current / config->ring_max_mA
                      * flux_curve(config, now->energy) * now->open * now->attenuation;
    struct sample_row mu = sample_absorption(now->sample, now->energy);
    struct passage passage = pass_sample(config, now, mu.total);
    double transmitted = incident * passage.onward;
    /* Of what the sample absorbs, the edge takes the share that it has in the absorption. */
    double share = mu.total > 0.0 ? fmin(mu.fluorescence / mu.total, 1.0) : 0.0;
    rate[CHANNEL_I0] = config->dark_per_s + incident;
    rate[CHANNEL_IT] = config->dark_per_s + transmitted;
    rate[CHANNEL_IR] = config->dark_per_s + transmitted * exp(-mu.reference);
    rate[CHANNEL_IF] =
        config->pulse_dark_per_s + incident * share * passage.absorbed * config->fluorescence_yield;
    rate[CHANNEL_XRD] =
        config->pulse_dark_per_s
        + (incident > 0.0 ? incident * passage.scattered * diffraction(config, now) : 0.0);
    return incident;
}

double reading(const struct config *config, enum channel channel, double expected, double seconds,
               struct rng *rng)
{
    double counts = (double)rng_poisson(rng, expected);
    if (!is_pulse_counter(channel))
        return fmin(counts, floor(config->full_scale_per_s * seconds));
    if (seconds > 0.0) {
        /* A non-paralysable counter is blind for the dead time after each count: n true pulses give
         * n / (1 + n tau / T). The fraction is rounded at random so that the mean stays right. */
        double live = counts / (1.0 + counts * config->dead_time_s / seconds);
        counts = floor(live + rng_uniform(rng));
    }
    return fmin(counts, floor(config->pulse_full_scale_per_s * seconds));
}
