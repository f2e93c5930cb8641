/* Speckle of spheres that diffuse: time-correlated frames whose mean is the small-angle scattering of
 * saxs.h.
 *
 * Every pixel is one speckle, independent of its neighbours: a sum of independent complex Gaussian
 * fields, each an Ornstein-Uhlenbeck process of rate Γ = D q²,
 *
 *     I(t) = Σ w_f |E_f(t)|²,   <|E_f|²> = 1,   g1(τ) = exp(-Γ τ),   g2(τ) = 1 + β exp(-2 Γ τ),
 *
 * with Σ w_f = 1 and Σ w_f² = β, the contrast at lag 0: as many fields as 1 / β, rounded up. A frame
 * counts the photons of its exposure T, a Poisson number of mean (mean photons) · W, where W is the
 * mean of I over the exposure. So for frames a lag τ >= T apart
 *
 *     g2 = 1 + β exp(-2 Γ τ) (sinh(Γ T) / (Γ T))²,
 *
 * and the contrast of a single frame is β (exp(-2x) - 1 + 2x) / (2x²), x = Γ T. The light is taken as
 * constant during an exposure.
 *
 * Weak frames are drawn photon by photon: candidates are a Poisson process in pixel and time at a
 * bound on the intensity, each takes its pixel's field from where it was last looked at to its own
 * moment (exact, since the process is Markov) and is kept with I / bound. An intensity above the bound
 * has a probability below 1e-9 and is cut. Other frames move all fields to the end of the exposure, and
 * draw W between its two ends from a distribution of exact mean and variance (of cubed normal shape,
 * near the gamma distribution): g2 is exact at every lag.
 *
 * A frame depends on the seed, on the number of its acquisition's first frame and on the shots since:
 * the same series of shots gives the same frames. */
#ifndef BEAMLINE_SPECKLE_H
#define BEAMLINE_SPECKLE_H

#include <stdbool.h>

#include "canvas.h"
#include "saxs.h"
#include "shot.h"

struct speckle_config {
    double diffusion_A2_per_s;
    double contrast; /* 0.05 to 1 */
    uint64_t seed;
};

/* 1000 Å²/s, contrast 0.5. */
void speckle_default(struct speckle_config *config);
/* Number of fields in a pixel, and bytes that a pixel takes. */
int speckle_fields(const struct speckle_config *config);
size_t speckle_pixel_bytes(const struct speckle_config *config);

/* How the intensity between two moments follows from the fields there: for x0, x1, real or imaginary
 * part of a field (variance 1/2) at the ends of a stretch of x = Γ T, the mean of its square over the
 * stretch has the expectation
 *     square (x0² + x1²) + 2 cross x0 x1 + rest
 * and the variance
 *     square_spread (x0² + x1²) + 2 cross_spread x0 x1 + rest_spread. */
struct bridge {
    double square, cross, rest;
    double square_spread, cross_spread, rest_spread;
};
void bridge_build(struct bridge *bridge, double x);

struct speckle;

/* NULL if memory runs out. `saxs` gives the mean and must outlive it. */
struct speckle *speckle_new(const struct speckle_config *config, struct saxs *saxs);
void speckle_free(struct speckle *speckle);

void speckle_draw(struct speckle *speckle, const struct shot *shot, struct canvas *canvas);

#endif
