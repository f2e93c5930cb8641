/* Crystal stills: the diffraction of one small crystal on the area detector, by an Ewald construction.
 * No I/O and no globals; stills_draw.c draws what is computed here.
 *
 * Orientation. Random for every frame, uniform over all rotations; or given: one fixed rotation,
 * which depends on the seed alone, then turned by the shot's theta about +y (from z to x).
 *
 * Hits. A frame shows a crystal with `hit_probability` times the shot's coverage, independent of all
 * others, else background only.
 *
 * Reflections. All hkl with low_resolution >= d >= resolution. A reflection is a ball of radius
 * profile_radius + mosaicity * |g| in reciprocal space; where the Ewald sphere cuts it at distance s
 * from its centre, the intensity is proportional to the area of the cut, 1 - (s / radius)^2, and the
 * beam leaves along (k_in + g), normalised. Intensities follow Wilson's acentric distribution with a
 * temperature factor exp(-B / 2 d^2); they are a fixed function of hkl, the same for every seed, and
 * equal for equivalents of Laue group 4/mmm (a = b, right angles), mmm (right angles) or -1.
 * Left out: polarisation, absorption, Lorentz factors, wavelength dependence of the cross-section.
 *
 * Light. `photons` is the number of incident photons during the exposure. Spots and background are
 * proportional to it: at `nominal_photons` a fully excited reflection of mean intensity and zero
 * scattering angle puts `spot_photons` on the detector, and the background peaks near
 * `background_photons` per pixel. 0 (or less, or NaN) is the dark: all pixels 0.
 *
 * All of it is a pure function of (settings, geometry, shot): calls in any order, any number of times,
 * give the same.
 */
#ifndef BEAMLINE_STILLS_H
#define BEAMLINE_STILLS_H

#include <stdbool.h>
#include <stdint.h>

#include "geometry.h"
#include "shot.h"

enum stills_orientation { ORIENTATION_RANDOM, ORIENTATION_THETA };

struct stills_config {
    double a, b, c;            /* unit cell, Å */
    double alpha, beta, gamma; /* degrees */
    double resolution;         /* smallest d spacing, Å */
    double low_resolution;     /* largest d spacing, Å: nearer ones hit the beam stop */
    double b_factor;           /* Å^2 */
    double profile_radius;     /* radius of a reflection at the origin, 1/Å */
    double mosaicity;          /* degrees; radius added per |g| */
    double hit_probability;
    int orientation; /* enum stills_orientation */
    double nominal_photons;
    double spot_photons;
    double background_photons;
    double spot_fwhm_px;
    double visibility_limit;
    uint64_t seed;
};

/* A spot whose centre lies on a panel of the detector.
 *
 * `background` is the expected background in the spot's footprint, a disc of radius spot_fwhm_px
 * around its centre (it holds 94 % of the spot), and snr = photons / sqrt(photons + background).
 * `visible` marks what a good peak finder must find: snr >= visibility_limit, the footprint on the
 * panel, and no brighter spot within three spot widths. Weaker spots are real as well: a
 * finder that reports one has not made an error. */
struct stills_spot {
    double x, y;    /* px of the laboratory */
    int panel;      /* -1: beside all panels */
    double fs, ss;  /* px on the panel */
    double photons; /* expected, all of the spot */
    double background, snr;
    int h, k, l;
    bool visible;
};

struct stills;

/* Tetragonal lysozyme: on the default detector 40 to 100 visible spots at 9-12 keV, nearest ones 8 px
 * apart or more. */
void stills_default(struct stills_config *config);

/* NULL if the configuration can be simulated, else what is wrong with it (a static string). */
const char *stills_check(const struct stills_config *config);

/* NULL if the configuration is refused by stills_check or geometry_check, or memory runs out. */
struct stills *stills_new(const struct stills_config *config, const struct geometry *geometry);
void stills_free(struct stills *stills);

/* Whether the crystal was hit. */
bool stills_hit(const struct stills *stills, const struct shot *shot);
/* Rotation from crystal to laboratory axes, row-major. Crystal axes: a along x, b in the xy plane, as
 * in the PDB. */
void stills_orientation(const struct stills *stills, const struct shot *shot, double rotation[9]);

/* Write up to `max` spots of a shot, in a fixed order, and return how many there are: more than
 * `max` means that the rest was left out (and that `visible` did not see the rest). */
int stills_spots(const struct stills *stills, const struct shot *shot, struct stills_spot *out,
                 int max);

/* Expected background photons of a pixel at `radius` px from the beam centre, at nominal_photons. */
double stills_background(const struct stills *stills, double radius, double energy_eV);
/* Start a random stream of the shot's own, different from those used here. */
struct rng;
void stills_stream(const struct stills *stills, const struct shot *shot, int which,
                   struct rng *rng);

/* All excited reflections of a shot with light, one after the other; also those that miss all panels. */
struct stills_walk {
    double rotation[9], k, scale;
    float axis[3], k2, margin;
    int i;
};
void stills_walk_start(const struct stills *stills, const struct shot *shot,
                       struct stills_walk *walk);
bool stills_walk_next(const struct stills *stills, struct stills_walk *walk,
                      struct stills_spot *spot);

const struct stills_config *stills_settings(const struct stills *stills);

#endif
