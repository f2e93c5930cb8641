/* Draws crystal stills: Poisson background in rings, Gaussian spots with Poisson noise. */
#ifndef BEAMLINE_STILLS_DRAW_H
#define BEAMLINE_STILLS_DRAW_H

#include "geometry.h"
#include "stills.h"

struct stills_artist;

/* NULL if memory runs out. `stills` and `map` must outlive it. */
struct stills_artist *stills_artist_new(const struct stills *stills, const struct radial_map *map);
void stills_artist_free(struct stills_artist *artist);

/* Set every pixel of `image`: photons, clipped at 65535. Allocates nothing. Up to 150 background
 * photons per pixel come from tables (about 1 ms for 512 x 512 pixels), more from the general Poisson
 * generator (10 times slower). */
void stills_draw(struct stills_artist *artist, const struct shot *shot, uint16_t *image);

#endif
