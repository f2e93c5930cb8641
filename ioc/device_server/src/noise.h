/* Noise by the block, several times as fast as one number after the other from rng.h.
 *
 * Normal numbers come from G. Marsaglia and W. W. Tsang's ziggurat (J. Stat. Softw. 5 (2000) 8) of 256
 * layers; layer and place in it have bits of their own (J. Doornik, 2005). */
#ifndef BEAMLINE_NOISE_H
#define BEAMLINE_NOISE_H

#include <stddef.h>
#include <stdint.h>

#include "rng.h"

enum { NOISE_LAYERS = 256, NOISE_BLOCK = 64 };

struct noise {
    struct rng rng;
    float edge[NOISE_LAYERS + 1]; /* half widths of the layers, falling */
    float inner[NOISE_LAYERS];    /* share of a layer that lies within the one above */
    float normal[NOISE_BLOCK];    /* for noise_normal */
    int left;
};

/* Build the tables; seed `rng` with noise_seed before drawing. */
void noise_init(struct noise *noise);
void noise_seed(struct noise *noise, uint64_t seed, uint64_t stream);

/* `count` normal numbers, mean 0, standard deviation 1, with a step of 2^-23 times a layer's width. */
void noise_normals(struct noise *noise, float *out, size_t count);

/* One of them. */
static inline float noise_normal(struct noise *noise)
{
    if (noise->left == 0) {
        noise_normals(noise, noise->normal, NOISE_BLOCK);
        noise->left = NOISE_BLOCK;
    }
    return noise->normal[--noise->left];
}

/* Poisson numbers of NOISE_BLOCK means (0 or more), cut at 65535. The probability of none is right to
 * 1e-7. */
void noise_poissons(struct noise *noise, const float mean[NOISE_BLOCK], uint16_t out[NOISE_BLOCK]);

#endif
