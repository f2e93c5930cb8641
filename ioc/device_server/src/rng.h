/* Random numbers: xoshiro256** (Blackman and Vigna, 2018) seeded through splitmix64.
 *
 * The state is the caller's; nothing here allocates, does I/O or keeps state of its own. The same
 * (seed, stream) gives the same numbers on every machine with IEEE 754 doubles and one libm.
 */
#ifndef BEAMLINE_RNG_H
#define BEAMLINE_RNG_H

#include <stdint.h>

struct rng {
    uint64_t s[4];
};

/* One bijective round of splitmix64: a well mixed hash of 64 bits. */
uint64_t rng_mix(uint64_t x);

/* Start stream `stream` of `seed`. Streams are independent for all practical purposes. */
void rng_seed(struct rng *rng, uint64_t seed, uint64_t stream);

static inline uint64_t rng_rotate(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

/* 64 random bits. */
static inline uint64_t rng_next(struct rng *rng)
{
    uint64_t *s = rng->s;
    uint64_t result = rng_rotate(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rng_rotate(s[3], 45);
    return result;
}

/* Uniform in [0, 1), 53 bits. */
static inline double rng_uniform(struct rng *rng)
{
    return (double)(rng_next(rng) >> 11) * 0x1p-53;
}

/* Normal, mean 0, standard deviation 1. */
double rng_normal(struct rng *rng);

/* Poisson. Exact (to double rounding) up to a mean of 1e8: inversion below 10, Hörmann's PTRS
 * above. From 1e8 a rounded normal, whose skewness is wrong by less than 1e-4. A mean that is zero,
 * negative or NaN gives 0; means above 1e18 are taken as 1e18. */
uint64_t rng_poisson(struct rng *rng, double mean);

#endif
