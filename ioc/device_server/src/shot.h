/* What one frame depends on, beside the settings and the seed. */
#ifndef BEAMLINE_SHOT_H
#define BEAMLINE_SHOT_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

struct shot {
    uint64_t frame;  /* number since the server started */
    double energy;   /* eV */
    double photons;  /* on the sample during the exposure */
    double theta;    /* of the sample, degrees */
    double coverage; /* relative thickness of the sample where the beam meets it, 0 to 1 */
    uint64_t first;  /* number of the first frame of its acquisition */
    double start;    /* of the exposure: s since that frame's */
    double exposure; /* s */
};

/* Without light a frame is dark: all pixels 0. */
static inline bool shot_has_light(const struct shot *shot)
{
    return shot->photons > 0.0 && shot->energy > 0.0 && isfinite(shot->photons)
           && isfinite(shot->energy);
}

#endif
