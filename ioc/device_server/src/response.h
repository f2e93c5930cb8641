/* What the detectors would count per second under given conditions: the physics between the beam
 * and the scaler, free of noise. */
#ifndef BEAMLINE_RESPONSE_H
#define BEAMLINE_RESPONSE_H

#include "config.h"
#include "sample.h"

enum channel { CHANNEL_I0, CHANNEL_IT, CHANNEL_IF, CHANNEL_IR, CHANNEL_XRD, CHANNEL_COUNT };

struct conditions {
    double energy;  /* eV */
    double current; /* mA */
    double open;    /* shutter, 0 to 1 */
    double attenuation; /* transmitted fraction */
    double x, y;    /* um */
    double theta, tth; /* degrees */
    const struct sample *sample;
};

/* Expected counts/s per channel, darks included, before dead time and saturation. Returns the
 * incident intensity in counts/s of I0, without dark. */
double response(const struct config *config, const struct conditions *now,
                double rate[CHANNEL_COUNT]);

/* Fraction of the beam that passes through the sample (the rest passes beside it). */
double sample_overlap(const struct config *config, const struct conditions *now);

/* Relative thickness of a sample with a map, averaged over the beam: 0 to 1. A sample without one is
 * taken to be everywhere: 1. */
double sample_coverage(const struct config *config, const struct conditions *now);

/* Turn an expectation (counts within `seconds`) into a reading: Poisson, dead time of the pulse
 * detectors, saturation. */
struct rng;
double reading(const struct config *config, enum channel channel, double expected, double seconds,
               struct rng *rng);

#endif
