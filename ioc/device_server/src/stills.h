/* Crystal stills: the diffraction of one small crystal in a random orientation per frame, on a flat
 * detector, by an Ewald construction. No I/O and no globals; the server wraps it in a clock and a
 * queue.
 *
 * Geometry. The beam goes along +z; detector fast scan (fs) is +x, slow scan (ss) is +y. The detector
 * is normal to the beam at `distance_m`. Positions are in pixels, and pixel centres are integers: the
 * middle of the first pixel is (0, 0), the detector spans -0.5 to nx - 0.5. `beam_x`, `beam_y` is where
 * the direct beam hits.
 *
 * Reflections. All hkl with low_resolution >= d >= resolution. A reflection is a ball of radius
 * profile_radius + mosaicity * |g| in reciprocal space; where the Ewald sphere cuts it at distance s
 * from its centre, the intensity is proportional to the area of the cut, 1 - (s / radius)^2, and the
 * beam leaves along (k_in + g), normalised. Intensities follow Wilson's acentric distribution with a
 * temperature factor exp(-B / 2 d^2); they are a fixed function of hkl, the same for every seed, and
 * equal for equivalents of Laue group 4/mmm (a = b, right angles), mmm (right angles) or -1.
 * Left out: polarisation, absorption, Lorentz factors, wavelength dependence of the cross-section.
 *
 * The detector counts photons: one unit of a pixel is one photon, up to 65535.
 *
 * Light. `photons` is the number of incident photons during the exposure. Spots and background are
 * proportional to it: at `nominal_photons` a fully excited reflection of mean intensity and zero
 * scattering angle puts `spot_photons` on the detector, and the background peaks near
 * `background_photons` per pixel. 0 (or less, or NaN) is the dark: all pixels 0.
 *
 * A frame is a pure function of (config, frame, energy, photons): calls in any order, any number of
 * times, give the same pixels.
 */
#ifndef BEAMLINE_STILLS_H
#define BEAMLINE_STILLS_H

#include <stdbool.h>
#include <stdint.h>

struct stills_config {
    double a, b, c;            /* unit cell, Å */
    double alpha, beta, gamma; /* degrees */
    double resolution;         /* smallest d spacing, Å */
    double low_resolution;     /* largest d spacing, Å: nearer ones hit the beam stop */
    double b_factor;           /* Å^2 */
    double profile_radius;     /* radius of a reflection at the origin, 1/Å */
    double mosaicity;          /* degrees; radius added per |g| */
    double distance_m, pixel_m;
    int nx, ny; /* fs, ss */
    double beam_x, beam_y; /* px */
    double nominal_photons;
    double spot_photons;
    double background_photons;
    double spot_fwhm_px;
    double visibility_limit;
    uint64_t seed;
};

/* A spot whose centre lies on the detector.
 *
 * `background` is the expected background in the spot's footprint, a disc of radius spot_fwhm_px
 * around its centre (it holds 94 % of the spot), and snr = photons / sqrt(photons + background).
 * `visible` marks what a good peak finder must find: snr >= visibility_limit, the footprint on the
 * detector, and no brighter spot within three spot widths. Weaker spots are real as well: a
 * finder that reports one has not made an error. */
struct stills_spot {
    double fs, ss;  /* px */
    double photons; /* expected, all of the spot */
    double background, snr;
    int h, k, l;
    bool visible;
};

struct stills;

/* Tetragonal lysozyme, 512 x 512 pixels of 150 µm at 100 mm: 40 to 100 visible spots at 9-12 keV,
 * nearest ones 8 px apart or more. */
void stills_default(struct stills_config *config);

/* NULL if the configuration can be simulated, else what is wrong with it (a static string). */
const char *stills_check(const struct stills_config *config);

/* NULL if the configuration is refused by stills_check or memory runs out. */
struct stills *stills_new(const struct stills_config *config);
void stills_free(struct stills *stills);

/* Rotation from crystal to laboratory axes for a frame, row-major: uniform over all rotations.
 * Crystal axes: a along x, b in the xy plane, as in the PDB. */
void stills_orientation(const struct stills *stills, uint64_t frame, double rotation[9]);

/* Write up to `max` spots of a frame, in a fixed order, and return how many there are: more than
 * `max` means that the rest was left out (and that `visible` did not see the rest). */
int stills_spots(const struct stills *stills, uint64_t frame, double energy_eV, double photons,
                 struct stills_spot *out, int max);

/* Draw a frame into `image`, ny rows of nx pixels: photons with Poisson noise, clipped at 65535.
 * Allocates nothing. Up to 150 background photons per pixel come from alias tables (about 1 ms
 * per 512 x 512 frame), more from the general Poisson generator (10 times slower). */
void stills_render(struct stills *stills, uint64_t frame, double energy_eV, double photons,
                   uint16_t *image);

#endif
