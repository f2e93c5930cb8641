#include "noise.h"

#include <math.h>
#include <string.h>

/* Where the tail begins, and the area of each layer, for 256 layers. */
static const double tail = 3.6541528853610088, area = 0.00492867323399;

void noise_init(struct noise *noise)
{
    double height = exp(-0.5 * tail * tail), edge[NOISE_LAYERS + 1] = {0};
    edge[0] = area / height;
    edge[1] = tail;
    for (int i = 2; i < NOISE_LAYERS; i++) {
        height += area / edge[i - 1];
        edge[i] = sqrt(-2.0 * log(height));
    }
    for (int i = 0; i < NOISE_LAYERS; i++) {
        noise->edge[i] = (float)edge[i];
        noise->inner[i] = (float)(edge[i + 1] / edge[i]);
    }
    noise->edge[NOISE_LAYERS] = 0.0f;
    noise->left = 0;
}

void noise_seed(struct noise *noise, uint64_t seed, uint64_t stream)
{
    rng_seed(&noise->rng, seed, stream);
    noise->left = 0;
}

/* The generator's state stays in registers. */
static void fill_bits(struct rng *rng, uint64_t *bits, size_t count)
{
    struct rng local = *rng;
    for (size_t i = 0; i < count; i++)
        bits[i] = rng_next(&local);
    *rng = local;
}

static double draw_tail(struct rng *rng)
{
    double x, y;
    do {
        x = -log(1.0 - rng_uniform(rng)) / tail;
        y = -log(1.0 - rng_uniform(rng));
    } while (y + y < x * x);
    return tail + x;
}

/* For one number of a hundred the place in the layer does not decide. */
static float draw_edge(struct noise *noise, unsigned layer, float u)
{
    struct rng *rng = &noise->rng;
    for (;;) {
        double x = (double)u * (double)noise->edge[layer];
        if (fabsf(u) < noise->inner[layer])
            return (float)x;
        if (layer == 0)
            return (float)copysign(draw_tail(rng), x);
        double outer = (double)noise->edge[layer], inner = (double)noise->edge[layer + 1];
        double low = exp(-0.5 * (outer * outer - x * x)), high = exp(-0.5 * (inner * inner - x * x));
        if (low + rng_uniform(rng) * (high - low) < 1.0)
            return (float)x;
        uint32_t bits = (uint32_t)(rng_next(rng) >> 32);
        layer = bits % NOISE_LAYERS;
        u = (float)((int32_t)bits >> 8) * 0x1p-23f;
    }
}

static inline float draw_normal(struct noise *noise, uint32_t bits)
{
    unsigned layer = bits % NOISE_LAYERS;
    float u = (float)((int32_t)bits >> 8) * 0x1p-23f;
    if (fabsf(u) < noise->inner[layer])
        return u * noise->edge[layer];
    return draw_edge(noise, layer, u);
}

void noise_normals(struct noise *noise, float *out, size_t count)
{
    uint64_t bits[NOISE_BLOCK];
    while (count > 0) {
        size_t pairs = count < 2 * NOISE_BLOCK ? (count + 1) / 2 : NOISE_BLOCK;
        fill_bits(&noise->rng, bits, pairs);
        for (size_t i = 0; i < pairs; i++) {
            *out++ = draw_normal(noise, (uint32_t)bits[i]);
            if (--count == 0)
                return;
            *out++ = draw_normal(noise, (uint32_t)(bits[i] >> 32));
            if (--count == 0)
                return;
        }
    }
}

/* exp(-x) for 0 <= x <= 80, to 2e-7: 2^-n times a polynomial on the rest. */
static inline float exp_negative(float x)
{
    float t = x * 1.44269504f, n = (float)(int)(t + 0.5f), f = (t - n) * 0.693147181f;
    float p = 1.0f - f * (1.0f - f * (0.5f - f * (1.0f / 6 - f * (1.0f / 24
                                                                 - f * (1.0f / 120 - f / 720)))));
    int32_t power = (127 - (int)n) << 23;
    float scale;
    memcpy(&scale, &power, sizeof scale);
    return p * scale;
}

/* Count by inversion; `none` is exp(-mean). */
static inline uint16_t invert(double u, double mean, double none)
{
    double p = none, sum = none;
    unsigned k = 0;
    while (u >= sum && k < 200) {
        p *= mean / ++k;
        sum += p;
    }
    return (uint16_t)k;
}

void noise_poissons(struct noise *noise, const float mean[NOISE_BLOCK], uint16_t out[NOISE_BLOCK])
{
    uint64_t bits[NOISE_BLOCK];
    float none[NOISE_BLOCK];
    fill_bits(&noise->rng, bits, NOISE_BLOCK);
    for (int i = 0; i < NOISE_BLOCK; i++)
        none[i] = exp_negative(mean[i] < 80.0f ? mean[i] : 80.0f);
    for (int i = 0; i < NOISE_BLOCK; i++) {
        double m = (double)mean[i], u = (double)(bits[i] >> 11) * 0x1p-53;
        if (u < 1.0 - m) { /* <= exp(-m) */
            out[i] = 0;
        } else if (m < 0.01) {
            out[i] = invert(u, m, 1.0 - m * (1.0 - m * (0.5 - m / 6)));
        } else if (m < 12.0) {
            out[i] = invert(u, m, (double)none[i]);
        } else {
            uint64_t n = rng_poisson(&noise->rng, m);
            out[i] = n < UINT16_MAX ? (uint16_t)n : UINT16_MAX;
        }
    }
}
