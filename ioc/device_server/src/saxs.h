/* Small-angle scattering of polydisperse spheres, in absolute numbers of photons.
 *
 *     photons in a pixel = photons on the sample · dΣ/dΩ(q) · thickness · solid angle
 *     dΣ/dΩ(q) = forward · P(q) + background             (1/cm)
 *     solid angle = (pixel / distance)^2 · cos^3 2θ
 *     q = 4π/λ · sin θ,  tan 2θ = pixel · r / distance    (r: px from the beam centre)
 *
 * P(q) is the mean over spheres of V² F², F(x) = 3 (sin x - x cos x) / x³ at x = q R, divided by the
 * mean of V²; the number of spheres of radius R is Gaussian, of mean `radius_A` and standard deviation
 * polydispersity · radius_A, cut at 4 standard deviations. Pixels with r below `beam_stop_px` get
 * nothing. Left out: structure factor, absorption, polarisation, dark counts. */
#ifndef BEAMLINE_SAXS_H
#define BEAMLINE_SAXS_H

#include <stdbool.h>

#include "canvas.h"
#include "geometry.h"
#include "noise.h"
#include "shot.h"

struct saxs_config {
    double radius_A, polydispersity;
    double forward_per_cm, background_per_cm;
    double thickness_mm;
    double beam_stop_px;
    uint64_t seed;
};

/* Spheres of 12 Å ± 10 %, 1 mm. */
void saxs_default(struct saxs_config *config);

/* The distribution of spheres, on a grid. */
enum { FORM_FACTOR_RADII = 41 };
struct form_factor {
    int points;
    double first_A, step_A;
    double weight[FORM_FACTOR_RADII]; /* of V² and number; the sum is 1 */
};
void form_factor_init(struct form_factor *form, double radius_A, double polydispersity);
/* P(q), 1 at q = 0. */
double form_factor(const struct form_factor *form, double q);

struct saxs {
    struct saxs_config config;
    struct form_factor form;
    const struct radial_map *map;
    double energy;  /* of `share`, eV */
    double *share;  /* per bin of the map: photons in a pixel for one on the sample */
    double total;   /* of all pixels */
    struct noise noise;
};

/* False if memory runs out; saxs_free is right in either case. `map` must outlive it. */
bool saxs_init(struct saxs *saxs, const struct saxs_config *config, const struct radial_map *map);
void saxs_free(struct saxs *saxs);

/* Bring `share` and `total` to an energy. */
void saxs_tune(struct saxs *saxs, double energy_eV);

/* Draw a frame: a pure function of settings and shot. */
void saxs_draw(struct saxs *saxs, const struct shot *shot, struct canvas *canvas);

/* Single photons of a frame, each with its pixel, ascending, and its time as a part of the exposure,
 * ascending in a pixel: a Poisson process of `photons` · share per pixel. */
struct photon_walk {
    const struct saxs *saxs;
    double photons;
    double gap; /* expected photons that are still to be passed, from the beginning of the pixel */
    size_t pixel;
    double time;
};
void photon_walk_start(struct photon_walk *walk, const struct saxs *saxs, double photons);
bool photon_walk_next(struct photon_walk *walk, struct rng *rng);

#endif
