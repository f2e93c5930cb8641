#include "speckle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "noise.h"

enum { STREAM_SPECKLE = 0x7370, FIELDS_MAX = 20 };
static const double excess_probability = 1e-9;
/* Candidates per pixel below which photons are drawn one by one. */
static const double weak = 0.5;
static const double mean_max = 1e30; /* any more is as saturated, and no float */

/* What takes the fields of a ring of pixels through a frame. */
struct step {
    float wait, wait_kick;     /* from the end of the last exposure to the beginning of this one */
    float decay, decay_kick;   /* to its end */
    float square, cross, rest; /* mean and variance of what happens between */
    float square_spread, cross_spread, rest_spread;
    double share; /* photons for one on the sample */
};

struct speckle {
    struct speckle_config config;
    struct saxs *saxs;
    const struct radial_map *map;
    int fields;
    float weight[FIELDS_MAX];
    double bound;
    struct noise noise;
    double energy; /* of `rate` */
    double *rate;  /* per bin: Γ, 1/s */
    uint64_t first;
    bool begun;
    bool in_step;  /* all fields are those at `time` */
    double time;
    /* Per pixel: the time of its fields (unless in_step), real and imaginary part of each. */
    char *pixel;
    size_t pixel_bytes;
    struct step *steps; /* per bin */
    double step_wait, step_exposure, step_energy; /* what they are for */
};

void speckle_default(struct speckle_config *config)
{
    *config = (struct speckle_config){.diffusion_A2_per_s = 1e3, .contrast = 0.5, .seed = 1};
}

int speckle_fields(const struct speckle_config *config)
{
    return (int)ceil(1.0 / config->contrast - 1e-9);
}

size_t speckle_pixel_bytes(const struct speckle_config *config)
{
    return 2 * sizeof(float) * (size_t)speckle_fields(config) + sizeof(double);
}

/* All weights equal but the last, which makes up for a contrast between 1/fields and 1/(fields-1). */
static void choose_weights(struct speckle *s)
{
    double n = s->fields - 1, weight = 0.0;
    if (n > 0) {
        double root = n * n - n * (n + 1) * (1 - s->config.contrast);
        weight = (n + sqrt(fmax(root, 0.0))) / (n * (n + 1));
    }
    for (int f = 0; f < s->fields - 1; f++)
        s->weight[f] = (float)weight;
    s->weight[s->fields - 1] = (float)(1.0 - n * weight);
}

/* H. Chernoff's bound: P(I > bound) <= exp(-t bound) / Π (1 - t w_f) for every t below 1 / w. */
static double intensity_bound(const struct speckle *s)
{
    double best = INFINITY;
    for (int i = 1; i < 1000; i++) {
        double t = i / (1000.0 * (double)s->weight[0]), log_moment = 0.0;
        for (int f = 0; f < s->fields; f++)
            log_moment -= log1p(-t * (double)s->weight[f]);
        best = fmin(best, (log_moment - log(excess_probability)) / t);
    }
    return best;
}

struct speckle *speckle_new(const struct speckle_config *config, struct saxs *saxs)
{
    struct speckle *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->config = *config;
    s->saxs = saxs;
    s->map = saxs->map;
    s->fields = speckle_fields(config);
    s->energy = s->step_energy = NAN;
    size_t bins = (size_t)s->map->bins;
    /* Fields that are never used take no memory: they are not touched here. */
    s->rate = calloc(bins, sizeof *s->rate);
    s->steps = calloc(bins, sizeof *s->steps);
    s->pixel_bytes = speckle_pixel_bytes(config);
    s->pixel = calloc(s->map->pixels, s->pixel_bytes);
    if (s->rate == NULL || s->steps == NULL || s->pixel == NULL) {
        speckle_free(s);
        return NULL;
    }
    choose_weights(s);
    s->bound = intensity_bound(s);
    noise_init(&s->noise);
    return s;
}

void speckle_free(struct speckle *speckle)
{
    if (speckle == NULL)
        return;
    free(speckle->rate);
    free(speckle->steps);
    free(speckle->pixel);
    free(speckle);
}

static void tune(struct speckle *s, double energy)
{
    saxs_tune(s->saxs, energy);
    if (energy == s->energy)
        return;
    s->energy = energy;
    for (int i = 0; i < s->map->bins; i++) {
        double q = geometry_q(&s->map->geometry, radial_map_radius(s->map, i), energy);
        s->rate[i] = s->config.diffusion_A2_per_s * q * q;
    }
}

static double *touched(const struct speckle *s, size_t pixel)
{
    return (double *)(void *)(s->pixel + pixel * s->pixel_bytes);
}

static float *fields(const struct speckle *s, size_t pixel)
{
    return (float *)(void *)(s->pixel + pixel * s->pixel_bytes + sizeof(double));
}

/* Take a pixel from where it was last looked at (never: its time is -infinity) to a later moment. */
static void advance(struct speckle *s, size_t pixel, double time)
{
    double *last = touched(s, pixel);
    if (!(time > *last))
        return;
    float *field = fields(s, pixel);
    double change = expm1(-s->rate[s->map->bin[pixel]] * (time - *last));
    float decay = (float)(1.0 + change), kick = (float)sqrt(-0.5 * change * (2.0 + change));
    for (int i = 0; i < 2 * s->fields; i++)
        field[i] = decay * field[i] + kick * noise_normal(&s->noise);
    *last = time;
}

static double intensity(const struct speckle *s, size_t pixel)
{
    const float *field = fields(s, pixel);
    float sum = 0.0f;
    for (int f = 0; f < s->fields; f++)
        sum += s->weight[f] * (field[2 * f] * field[2 * f] + field[2 * f + 1] * field[2 * f + 1]);
    return (double)sum;
}

static void draw_weak(struct speckle *s, const struct shot *shot, struct canvas *canvas)
{
    if (s->in_step)
        for (size_t i = 0; i < s->map->pixels; i++)
            *touched(s, i) = s->time;
    s->in_step = false;
    struct photon_walk walk;
    photon_walk_start(&walk, s->saxs, s->bound * shot->photons);
    struct rng *photons = &s->saxs->noise.rng;
    while (photon_walk_next(&walk, photons)) {
        advance(s, walk.pixel, shot->start + walk.time * shot->exposure);
        if (rng_uniform(photons) * s->bound < intensity(s, walk.pixel))
            canvas_photon(canvas, walk.pixel);
    }
}

/* Bring all fields to one moment. */
static void fall_into_step(struct speckle *s, double time)
{
    for (size_t i = 0; i < s->map->pixels; i++)
        advance(s, i, time);
    s->in_step = true;
    s->time = time;
}

static void build_steps(struct speckle *s, double wait, double exposure)
{
    double tolerance = 1e-9 * exposure;
    bool same = fabs(wait - s->step_wait) <= tolerance || wait == s->step_wait;
    if (same && exposure == s->step_exposure && s->energy == s->step_energy)
        return;
    s->step_wait = wait;
    s->step_exposure = exposure;
    s->step_energy = s->energy;
    for (int i = 0; i < s->map->bins; i++) {
        double x = s->rate[i] * exposure, y = s->rate[i] * wait;
        struct bridge bridge;
        bridge_build(&bridge, x);
        s->steps[i] = (struct step){
            .wait = (float)exp(-y), .wait_kick = (float)sqrt(-0.5 * expm1(-2.0 * y)),
            .decay = (float)exp(-x), .decay_kick = (float)sqrt(-0.5 * expm1(-2.0 * x)),
            .square = (float)bridge.square, .cross = (float)bridge.cross,
            .rest = (float)(2.0 * bridge.rest),
            .square_spread = (float)bridge.square_spread,
            .cross_spread = (float)bridge.cross_spread,
            .rest_spread = (float)(2.0 * s->config.contrast * bridge.rest_spread),
            .share = s->saxs->share[i],
        };
    }
}

/* What a pixel does during an exposure, as far as it is known from the fields at its ends. */
struct outcome {
    float mean, variance;
};

/* Move the fields of a pixel through a frame; `normal` has two numbers per field for each of the
 * stretches that take time. */
static struct outcome expose(const struct speckle *s, const struct step *step, float *field,
                             const float *normal)
{
    struct outcome outcome = {step->rest, step->rest_spread};
    bool waits = step->wait_kick > 0.0f;
    for (int f = 0; f < s->fields; f++) {
        float squares = 0.0f, products = 0.0f, w = s->weight[f];
        for (int i = 2 * f; i < 2 * f + 2; i++) {
            float x0 = field[i];
            if (waits)
                x0 = step->wait * x0 + step->wait_kick * *normal++;
            float x1 = step->decay * x0 + step->decay_kick * *normal++;
            field[i] = x1;
            squares += x0 * x0 + x1 * x1;
            products += 2.0f * x0 * x1;
        }
        outcome.mean += w * (step->square * squares + step->cross * products);
        outcome.variance +=
            w * w * (step->square_spread * squares + step->cross_spread * products);
    }
    return outcome;
}

/* Draw mean photons from mean and variance. E. B. Wilson and M. M. Hilferty (1931): the cube root of a
 * gamma variate is nearly normal. */
static void draw_means(const struct outcome outcome[NOISE_BLOCK], const float normal[NOISE_BLOCK],
                       float mean[NOISE_BLOCK])
{
    for (int i = 0; i < NOISE_BLOCK; i++) {
        float m = outcome[i].mean, ninth = outcome[i].variance / (9.0f * m * m + 1e-30f);
        float root = 1.0f - ninth + sqrtf(ninth) * normal[i];
        root = root > 0.0f ? root : 0.0f;
        mean[i] *= m * root * root * root;
    }
}

static void draw_block(struct speckle *s, double photons, size_t first, size_t count,
                       uint16_t *image)
{
    float normal[(4 * FIELDS_MAX + 1) * NOISE_BLOCK], mean[NOISE_BLOCK] = {0};
    struct outcome outcome[NOISE_BLOCK] = {0};
    uint16_t counts[NOISE_BLOCK];
    size_t per_pixel = (size_t)s->fields * (s->step_wait > 0.0 ? 4 : 2);
    noise_normals(&s->noise, normal, (per_pixel + 1) * NOISE_BLOCK);
    for (size_t i = 0; i < count; i++) {
        const struct step *step = &s->steps[s->map->bin[first + i]];
        mean[i] = (float)fmin(photons * step->share, mean_max);
        outcome[i] = expose(s, step, fields(s, first + i), &normal[NOISE_BLOCK + i * per_pixel]);
    }
    draw_means(outcome, normal, mean);
    noise_poissons(&s->saxs->noise, mean, counts);
    memcpy(&image[first], counts, count * sizeof *counts);
}

static void draw_strong(struct speckle *s, const struct shot *shot, uint16_t *image)
{
    double wait = shot->start - s->time;
    build_steps(s, wait < 1e-9 * shot->exposure ? 0.0 : wait, shot->exposure);
    s->time = shot->start + shot->exposure;
    size_t pixels = s->map->pixels;
    for (size_t first = 0; first < pixels; first += NOISE_BLOCK)
        draw_block(s, shot->photons, first,
                   pixels - first < NOISE_BLOCK ? pixels - first : NOISE_BLOCK, image);
}

void speckle_draw(struct speckle *speckle, const struct shot *shot, struct canvas *canvas)
{
    struct speckle *s = speckle;
    if (!s->begun || shot->first != s->first) {
        s->begun = true;
        s->first = shot->first;
        s->in_step = true;
        s->time = -INFINITY;
    }
    if (!shot_has_light(shot)) {
        canvas_begin_photons(canvas);
        return;
    }
    /* Fields and photons from streams of their own: in whole frames, fields do not see the light. */
    uint64_t seed = rng_mix(s->config.seed ^ STREAM_SPECKLE) ^ shot->first;
    noise_seed(&s->noise, seed, 2 * (shot->frame - shot->first));
    noise_seed(&s->saxs->noise, seed, 2 * (shot->frame - shot->first) + 1);
    tune(s, shot->energy);
    double candidates = s->bound * shot->photons * s->saxs->total;
    if (candidates < weak * (double)s->map->pixels) {
        canvas_begin_photons(canvas);
        draw_weak(s, shot, canvas);
        return;
    }
    if (!s->in_step)
        fall_into_step(s, shot->start);
    draw_strong(s, shot, canvas->image);
    canvas_list_photons(canvas);
}

/* With A(x), B(x) the integrals of the squares and the product of sinh(x (1-u)) / sinh x and
 * sinh(x u) / sinh x over u from 0 to 1, and T(x) = B sinh(x) / x the trace of the bridge's
 * covariance: that covariance is x times the Green's function of x² - d²/du², so that its moments are
 * derivatives of these with respect to x². */
void bridge_build(struct bridge *bridge, double x)
{
    double a, b, t, da, db, dt;
    if (x < 0.1) { /* the closed form cancels */
        double y = x * x;
        a = 1.0 / 3 - y * (2.0 / 45 - y * (2.0 / 315 - y * 4.0 / 4725));
        da = -x * (4.0 / 45 - y * (8.0 / 315 - y * 8.0 / 1575));
        b = 1.0 / 6 - y * (7.0 / 180 - y * (31.0 / 5040 - y * 127.0 / 151200));
        db = -x * (7.0 / 90 - y * (31.0 / 1260 - y * 127.0 / 25200));
        t = 0.5 * (1.0 / 3 - y * (1.0 / 45 - y * (2.0 / 945 - y / 4725)));
        dt = -x * (1.0 / 45 - y * (4.0 / 945 - y / 1575));
    } else {
        double e = exp(-x), rise = 2.0 * e / (1.0 - e * e); /* 1 / sinh x */
        double coth = (1.0 + e * e) / (1.0 - e * e), rise2 = rise * rise, half = 0.5 / x;
        a = half * coth - 0.5 * rise2;
        da = -half * (rise2 + coth / x) + coth * rise2;
        b = 0.5 * rise * coth - half * rise;
        db = rise * (0.5 - coth * coth) + half * rise * (1.0 / x + coth);
        t = half * (coth - 1.0 / x);
        dt = -half * (rise2 + coth / x) + 1.0 / (x * x * x);
    }
    /* The variance of a field's part is 1/2. */
    *bridge = (struct bridge){
        .square = a, .cross = b, .rest = x * t,
        .square_spread = -da, .cross_spread = -db, .rest_spread = -x * dt,
    };
}
