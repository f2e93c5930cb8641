#include "rng.h"

#include <math.h>

static const double two_pi = 6.283185307179586;

uint64_t rng_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

void rng_seed(struct rng *rng, uint64_t seed, uint64_t stream)
{
    /* Hashing twice keeps (seed, stream) and (seed + 1, stream - 1) apart. */
    uint64_t x = rng_mix(rng_mix(seed) + stream);
    for (int i = 0; i < 4; i++) {
        x += 0x9e3779b97f4a7c15u;
        rng->s[i] = rng_mix(x);
    }
    if ((rng->s[0] | rng->s[1] | rng->s[2] | rng->s[3]) == 0)
        rng->s[0] = 1; /* the one state that the generator never leaves */
}

double rng_normal(struct rng *rng)
{
    /* Box-Muller, one of the pair: a cached second value would be state that seeding must clear. */
    double u = 1.0 - rng_uniform(rng);
    double v = rng_uniform(rng);
    return sqrt(-2.0 * log(u)) * cos(two_pi * v);
}

/* ln k!, to 1e-13 relative. */
static double log_factorial(double k)
{
    static const double small[10] = {0.0,
                                     0.0,
                                     0.6931471805599453,
                                     1.791759469228055,
                                     3.1780538303479458,
                                     4.787491742782046,
                                     6.579251212010101,
                                     8.525161361065415,
                                     10.60460290274525,
                                     12.801827480081469};
    if (k < 10.0)
        return small[(int)k];
    double r = 1.0 / k, r2 = r * r;
    return (k + 0.5) * log(k) - k + 0.9189385332046727
           + r * (1.0 / 12 - r2 * (1.0 / 360 - r2 * (1.0 / 1260 - r2 / 1680)));
}

static uint64_t poisson_inversion(struct rng *rng, double mean)
{
    double u = rng_uniform(rng);
    if (u < 1.0 - mean) /* <= exp(-mean) */
        return 0;
    double p = exp(-mean), sum = p;
    uint64_t k = 0;
    /* p reaches 0 long before 200 for means below 10: the bound only guards against rounding. */
    while (u >= sum && k < 200) {
        k++;
        p *= mean / (double)k;
        sum += p;
    }
    return k;
}

/* W. Hörmann, "The transformed rejection method for generating Poisson random variables",
 * Insurance: Mathematics and Economics 12 (1993) 39, algorithm PTRS; valid from a mean of 10. */
static uint64_t poisson_ptrs(struct rng *rng, double mean)
{
    double b = 0.931 + 2.53 * sqrt(mean);
    double a = -0.059 + 0.02483 * b;
    double v_r = 0.9277 - 3.6224 / (b - 2.0);
    for (;;) {
        double u = rng_uniform(rng) - 0.5;
        double v = 1.0 - rng_uniform(rng);
        double us = 0.5 - fabs(u);
        if (us <= 0.0)
            continue;
        double k = floor((2.0 * a / us + b) * u + mean + 0.43);
        if (us >= 0.07 && v <= v_r)
            return (uint64_t)k;
        if (k < 0.0 || (us < 0.013 && v > us))
            continue;
        double inverse_alpha = 1.1239 + 1.1328 / (b - 3.4);
        if (log(v * inverse_alpha / (a / (us * us) + b))
            <= k * log(mean) - mean - log_factorial(k))
            return (uint64_t)k;
    }
}

uint64_t rng_poisson(struct rng *rng, double mean)
{
    if (!(mean > 0.0))
        return 0;
    if (mean < 10.0)
        return poisson_inversion(rng, mean);
    if (mean < 1e8)
        return poisson_ptrs(rng, mean);
    if (mean > 1e18)
        mean = 1e18;
    return (uint64_t)(mean + sqrt(mean) * rng_normal(rng) + 0.5);
}
