#include "stills.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rng.h"

enum {
    RINGS = 256,           /* radial steps of the background */
    TABLE_BITS = 8,        /* largest alias table: 2^TABLE_BITS outcomes */
    TABLE_SIZE = 1 << TABLE_BITS,
    PATCH_MAX = 64,        /* largest side of a drawn spot, px */
    REFLECTIONS_MAX = 4000000,
    PIXELS_MAX = 1 << 26,
};

static const double pi = 3.141592653589793;
static const double hc = 12398.419843; /* eV Å, CODATA 2018 */
static const double fwhm_per_sigma = 2.3548200450309493;
static const double table_mean_max = 150.0; /* 8 standard deviations still fit into TABLE_SIZE */

/* Random streams of a frame. */
enum { STREAM_ORIENTATION, STREAM_BACKGROUND, STREAM_SPOTS, STREAMS };

struct reflection {
    float g[3]; /* crystal axes, 1/Å */
    float g2;
    float intensity; /* photons at nominal exposure, fully excited */
    int16_t h, k, l;
};

/* Walker's alias method: one outcome of 2^bits, its own or its alias'. */
struct alias_table {
    double mean;
    uint32_t keep[TABLE_SIZE]; /* below: own outcome */
    uint8_t other[TABLE_SIZE];
    uint32_t lowest; /* outcome of index 0 */
    int bits;        /* -1: mean too large for a table */
};

struct stills {
    struct stills_config config;
    struct reflection *reflections;
    int n_reflections;
    double g_max, radius_max; /* 1/Å */
    double sigma;             /* px */
    double ring_px;           /* width of a background ring */
    uint8_t *ring;            /* per pixel */
    struct alias_table tables[RINGS]; /* scratch of stills_render */
};

void stills_default(struct stills_config *config)
{
    *config = (struct stills_config){
        .a = 79.1, .b = 79.1, .c = 37.9,
        .alpha = 90.0, .beta = 90.0, .gamma = 90.0,
        .resolution = 2.2,
        .low_resolution = 40.0,
        .b_factor = 20.0,
        .profile_radius = 3e-4,
        .mosaicity = 0.05,
        .distance_m = 0.1,
        .pixel_m = 150e-6,
        .nx = 512, .ny = 512,
        /* Off the middle, so that swapped axes show. */
        .beam_x = 258.4, .beam_y = 251.7,
        .nominal_photons = 1e11,
        .spot_photons = 12000.0,
        .background_photons = 3.0,
        .spot_fwhm_px = 2.2,
        .visibility_limit = 6.0,
        .seed = 1,
    };
}

static double cell_volume_factor(const struct stills_config *c)
{
    double ca = cos(c->alpha * pi / 180), cb = cos(c->beta * pi / 180), cg = cos(c->gamma * pi / 180);
    return 1.0 - ca * ca - cb * cb - cg * cg + 2.0 * ca * cb * cg;
}

static bool between(double x, double low, double high)
{
    return x >= low && x <= high; /* false for NaN */
}

const char *stills_check(const struct stills_config *c)
{
    if (!between(c->a, 2, 1000) || !between(c->b, 2, 1000) || !between(c->c, 2, 1000))
        return "cell edges must be between 2 and 1000 angstrom";
    if (!between(c->alpha, 20, 160) || !between(c->beta, 20, 160) || !between(c->gamma, 20, 160)
        || !(cell_volume_factor(c) > 1e-3))
        return "cell angles must be between 20 and 160 degrees and span a volume";
    if (!between(c->resolution, 0.5, 100) || !between(c->low_resolution, c->resolution, 1e6))
        return "resolution must be between 0.5 and 100 angstrom and below low_resolution";
    double n = 4.0 / 3.0 * pi * c->a * c->b * c->c * sqrt(cell_volume_factor(c))
               / (c->resolution * c->resolution * c->resolution);
    if (n > REFLECTIONS_MAX)
        return "the cell has more than 4 million reflections within the resolution limit";
    if (!between(c->b_factor, 0, 1000))
        return "b_factor must be between 0 and 1000 square angstrom";
    if (!between(c->profile_radius, 1e-6, 0.01) || !between(c->mosaicity, 0, 5))
        return "profile_radius must be between 1e-6 and 0.01 1/angstrom, mosaicity 0 to 5 degrees";
    if (!between(c->distance_m, 1e-3, 100) || !between(c->pixel_m, 1e-7, 0.01))
        return "the detector distance must be 0.001 to 100 m and the pixel size 1e-7 to 0.01 m";
    if (c->nx < 1 || c->ny < 1 || c->nx > 16384 || c->ny > 16384 || c->nx > PIXELS_MAX / c->ny)
        return "the detector must have 1 to 16384 pixels a side and at most 67 million in all";
    if (!between(c->beam_x, -1e5, 1e5) || !between(c->beam_y, -1e5, 1e5))
        return "the beam centre must be within 100000 pixels of the detector";
    if (!between(c->nominal_photons, 1e-300, 1e300) || !between(c->spot_photons, 0, 1e9)
        || !between(c->background_photons, 0, 1e9))
        return "nominal_photons must be positive, spot_photons and background_photons 0 to 1e9";
    if (!between(c->spot_fwhm_px, 0.2, 15))
        return "spot_fwhm_px must be between 0.2 and 15 pixels";
    if (!between(c->visibility_limit, 0, 1e9))
        return "visibility_limit must be between 0 and 1e9";
    return NULL;
}

/* Columns a*, b*, c* (1/Å) in the axes of the header, row-major: g = B · hkl. */
static void reciprocal_matrix(const struct stills_config *c, double m[9])
{
    double ca = cos(c->alpha * pi / 180), cb = cos(c->beta * pi / 180), cg = cos(c->gamma * pi / 180);
    double sg = sin(c->gamma * pi / 180);
    double root = sqrt(cell_volume_factor(c));
    /* Inverse transpose of the real-space matrix, which is upper triangular. */
    double ax = c->a, bx = c->b * cg, by = c->b * sg;
    double cx = c->c * cb, cy = c->c * (ca - cb * cg) / sg, cz = c->c * root / sg;
    m[0] = 1.0 / ax;
    m[1] = 0.0;
    m[2] = 0.0;
    m[3] = -bx / (ax * by);
    m[4] = 1.0 / by;
    m[5] = 0.0;
    m[6] = (bx * cy - cx * by) / (ax * by * cz);
    m[7] = -cy / (by * cz);
    m[8] = 1.0 / cz;
}

/* Mean-1 exponential (Wilson, acentric), equal for equivalent reflections. */
static double structure_intensity(const struct stills_config *c, int h, int k, int l)
{
    bool right = c->alpha == 90.0 && c->beta == 90.0 && c->gamma == 90.0;
    if (right) {
        h = abs(h);
        k = abs(k);
        l = abs(l);
        if (c->a == c->b && k > h) {
            int t = h;
            h = k;
            k = t;
        }
    } else if (h < 0 || (h == 0 && (k < 0 || (k == 0 && l < 0)))) {
        h = -h;
        k = -k;
        l = -l;
    }
    uint64_t key = (uint64_t)(h + 32768) << 32 | (uint64_t)(k + 32768) << 16 | (uint64_t)(l + 32768);
    double u = (double)(rng_mix(rng_mix(key)) >> 11) * 0x1p-53;
    return -log1p(-u);
}

/* Fill `out` (or only count, if NULL) with all reflections within the resolution limits. */
static int list_reflections(const struct stills_config *c, struct reflection *out)
{
    double m[9];
    reciprocal_matrix(c, m);
    double q2_max = 1.0 / (c->resolution * c->resolution);
    double q2_min = 1.0 / (c->low_resolution * c->low_resolution);
    /* |h| = |g · a| <= |g| a */
    int hm = (int)(c->a / c->resolution), km = (int)(c->b / c->resolution);
    int lm = (int)(c->c / c->resolution);
    int n = 0;
    for (int h = -hm; h <= hm; h++)
        for (int k = -km; k <= km; k++)
            for (int l = -lm; l <= lm; l++) {
                double x = m[0] * h, y = m[3] * h + m[4] * k, z = m[6] * h + m[7] * k + m[8] * l;
                double g2 = x * x + y * y + z * z;
                if (g2 > q2_max || g2 < q2_min)
                    continue;
                if (out) {
                    double intensity = c->spot_photons * structure_intensity(c, h, k, l)
                                       * exp(-0.5 * c->b_factor * g2);
                    out[n] = (struct reflection){
                        .g = {(float)x, (float)y, (float)z},
                        .g2 = (float)g2,
                        .intensity = (float)intensity,
                        .h = (int16_t)h, .k = (int16_t)k, .l = (int16_t)l,
                    };
                }
                n++;
            }
    return n;
}

struct stills *stills_new(const struct stills_config *config)
{
    if (stills_check(config))
        return NULL;
    struct stills *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->config = *config;
    const struct stills_config *c = &s->config;
    size_t pixels = (size_t)c->nx * (size_t)c->ny;
    s->n_reflections = list_reflections(c, NULL);
    s->reflections = calloc((size_t)s->n_reflections + 1, sizeof *s->reflections);
    s->ring = malloc(pixels);
    if (!s->reflections || !s->ring) {
        stills_free(s);
        return NULL;
    }
    list_reflections(c, s->reflections);
    s->g_max = 1.0 / c->resolution;
    s->radius_max = c->profile_radius + c->mosaicity * pi / 180 * s->g_max;
    s->sigma = c->spot_fwhm_px / fwhm_per_sigma;

    double dx = fmax(fabs(c->beam_x), fabs(c->nx - 1 - c->beam_x));
    double dy = fmax(fabs(c->beam_y), fabs(c->ny - 1 - c->beam_y));
    s->ring_px = (hypot(dx, dy) + 1.0) / RINGS;
    uint8_t *ring = s->ring;
    for (int y = 0; y < c->ny; y++)
        for (int x = 0; x < c->nx; x++)
            *ring++ = (uint8_t)(hypot(x - c->beam_x, y - c->beam_y) / s->ring_px);
    return s;
}

void stills_free(struct stills *stills)
{
    if (!stills)
        return;
    free(stills->reflections);
    free(stills->ring);
    free(stills);
}

static void start_stream(const struct stills *s, struct rng *rng, uint64_t frame, uint64_t stream)
{
    rng_seed(rng, s->config.seed, frame * STREAMS + stream);
}

void stills_orientation(const struct stills *stills, uint64_t frame, double r[9])
{
    /* K. Shoemake, "Uniform random rotations", Graphics Gems III (1992). */
    struct rng rng;
    start_stream(stills, &rng, frame, STREAM_ORIENTATION);
    double u = rng_uniform(&rng), v = 2 * pi * rng_uniform(&rng), t = 2 * pi * rng_uniform(&rng);
    double x = sqrt(1 - u) * sin(v), y = sqrt(1 - u) * cos(v);
    double z = sqrt(u) * sin(t), w = sqrt(u) * cos(t);
    r[0] = 1 - 2 * (y * y + z * z);
    r[1] = 2 * (x * y - w * z);
    r[2] = 2 * (x * z + w * y);
    r[3] = 2 * (x * y + w * z);
    r[4] = 1 - 2 * (x * x + z * z);
    r[5] = 2 * (y * z - w * x);
    r[6] = 2 * (x * z - w * y);
    r[7] = 2 * (y * z + w * x);
    r[8] = 1 - 2 * (x * x + y * y);
}

/* Expected background of one pixel at `radius` px from the beam, per nominal exposure: air
 * scattering that falls with q, the ring of the mother liquor at 3.3 Å, and the beam stop's shadow. */
static double background_level(const struct stills_config *c, double radius, double energy_eV)
{
    double two_theta = atan2(radius * c->pixel_m, c->distance_m);
    double q = 2.0 * sin(0.5 * two_theta) * energy_eV / hc; /* 1/d, 1/Å */
    double air = 0.7 * exp(-q / 0.2);
    double liquor = 0.6 * exp(-0.5 * pow((q - 0.30) / 0.06, 2));
    double shadow = -expm1(-pow(radius / 12.0, 2));
    return c->background_photons * (air + liquor + 0.05) * shadow;
}

static bool has_light(double energy_eV, double photons)
{
    return photons > 0.0 && energy_eV > 0.0 && isfinite(photons) && isfinite(energy_eV);
}

/* One step of the Ewald construction: false if reflection `i` is not excited. */
static bool excite(const struct stills *s, const double r[9], double k, double scale, int i,
                   struct stills_spot *spot)
{
    const struct stills_config *c = &s->config;
    const struct reflection *p = &s->reflections[i];
    double a = (double)p->g[0], b = (double)p->g[1], d = (double)p->g[2], g2 = (double)p->g2;
    double gx = r[0] * a + r[1] * b + r[2] * d;
    double gy = r[3] * a + r[4] * b + r[5] * d;
    double gz = r[6] * a + r[7] * b + r[8] * d;
    double length = sqrt(gx * gx + gy * gy + (k + gz) * (k + gz));
    double radius = c->profile_radius + c->mosaicity * pi / 180 * sqrt(g2);
    double error = (length - k) / radius;
    double forward = (k + gz) / length;
    if (fabs(error) >= 1.0 || forward < 0.01)
        return false;
    double px = c->distance_m / c->pixel_m / (k + gz);
    *spot = (struct stills_spot){
        .fs = c->beam_x + gx * px,
        .ss = c->beam_y + gy * px,
        .photons = scale * (double)p->intensity * (1.0 - error * error),
        .h = p->h, .k = p->k, .l = p->l,
    };
    return true;
}

/* Index of the next reflection from `i` on that may be excited, or n_reflections.
 * Only the component along the beam is needed: | |k + g|^2 - k^2 | <= about 2 k radius. */
static int next_candidate(const struct stills *s, const float axis[3], float k2, float margin, int i)
{
    for (; i < s->n_reflections; i++) {
        const struct reflection *p = &s->reflections[i];
        float along = axis[0] * p->g[0] + axis[1] * p->g[1] + axis[2] * p->g[2];
        if (fabsf(p->g2 + k2 * along) <= margin)
            break;
    }
    return i;
}

struct walk {
    double rotation[9], k, scale;
    float axis[3], k2, margin;
    int i;
};

static void walk_start(const struct stills *s, struct walk *w, uint64_t frame, double energy_eV,
                       double photons)
{
    stills_orientation(s, frame, w->rotation);
    w->k = energy_eV / hc;
    w->scale = photons / s->config.nominal_photons;
    for (int j = 0; j < 3; j++)
        w->axis[j] = (float)w->rotation[6 + j];
    w->k2 = (float)(2.0 * w->k);
    /* | |k+g|^2 - k^2 | < radius (2 k + radius), plus the rounding of float coordinates. */
    w->margin = (float)(s->radius_max * (2.0 * w->k + s->radius_max)
                        + 1e-6 * s->g_max * (s->g_max + 2.0 * w->k));
    w->i = 0;
}

static bool walk_next(const struct stills *s, struct walk *w, struct stills_spot *spot)
{
    while ((w->i = next_candidate(s, w->axis, w->k2, w->margin, w->i)) < s->n_reflections)
        if (excite(s, w->rotation, w->k, w->scale, w->i++, spot))
            return true;
    return false;
}

static void judge(const struct stills_config *c, struct stills_spot *spots, int n, double scale,
                  double energy_eV)
{
    double footprint = c->spot_fwhm_px, crowded = 3.0 * c->spot_fwhm_px;
    for (int i = 0; i < n; i++) {
        struct stills_spot *p = &spots[i];
        double radius = hypot(p->fs - c->beam_x, p->ss - c->beam_y);
        p->background =
            scale * background_level(c, radius, energy_eV) * pi * footprint * footprint;
        double noise = sqrt(p->photons + p->background);
        p->snr = noise > 0.0 ? p->photons / noise : 0.0;
        p->visible = p->snr >= c->visibility_limit && p->photons > 0.0
                     && p->fs - footprint >= -0.5 && p->fs + footprint <= c->nx - 0.5
                     && p->ss - footprint >= -0.5 && p->ss + footprint <= c->ny - 0.5;
        for (int j = 0; p->visible && j < n; j++)
            if (j != i && hypot(p->fs - spots[j].fs, p->ss - spots[j].ss) < crowded
                && spots[j].photons >= p->photons)
                p->visible = false;
    }
}

int stills_spots(const struct stills *stills, uint64_t frame, double energy_eV, double photons,
                 struct stills_spot *out, int max)
{
    const struct stills_config *c = &stills->config;
    if (!has_light(energy_eV, photons))
        return 0;
    struct walk walk;
    struct stills_spot spot;
    int n = 0;
    walk_start(stills, &walk, frame, energy_eV, photons);
    while (walk_next(stills, &walk, &spot)) {
        if (!between(spot.fs, -0.5, c->nx - 0.5) || !between(spot.ss, -0.5, c->ny - 0.5))
            continue;
        if (n < max)
            out[n] = spot;
        n++;
    }
    judge(c, out, n < max ? n : max, walk.scale, energy_eV);
    return n;
}

static void build_table(struct alias_table *t, double mean)
{
    t->mean = mean;
    t->bits = -1;
    if (mean > table_mean_max)
        return;
    double spread = 8.0 * sqrt(mean) + 8.0;
    double low = fmax(0.0, floor(mean - spread));
    t->bits = 3;
    while (t->bits < TABLE_BITS && low + (1 << t->bits) < mean + spread)
        t->bits++;
    int size = 1 << t->bits;
    t->lowest = (uint32_t)low;

    /* Outwards from the mode, where nothing under- or overflows; the sum normalises. */
    double p[TABLE_SIZE], total = 0.0;
    int mode = (int)(floor(mean) - low);
    p[mode] = 1.0;
    for (int i = mode + 1; i < size; i++)
        p[i] = p[i - 1] * mean / (low + i);
    for (int i = mode - 1; i >= 0; i--)
        p[i] = p[i + 1] * (low + i + 1) / mean;
    for (int i = 0; i < size; i++)
        total += p[i];
    uint8_t poor[TABLE_SIZE], rich[TABLE_SIZE];
    int n_poor = 0, n_rich = 0;
    for (int i = 0; i < size; i++) {
        p[i] *= size / total;
        t->keep[i] = UINT32_MAX;
        t->other[i] = (uint8_t)i;
        if (p[i] < 1.0)
            poor[n_poor++] = (uint8_t)i;
        else
            rich[n_rich++] = (uint8_t)i;
    }
    while (n_poor > 0 && n_rich > 0) {
        uint8_t i = poor[--n_poor], j = rich[n_rich - 1];
        t->keep[i] = (uint32_t)(p[i] * 4294967295.0);
        t->other[i] = j;
        p[j] -= 1.0 - p[i];
        if (p[j] < 1.0) {
            n_rich--;
            poor[n_poor++] = j;
        }
    }
}

static inline uint32_t draw_table(const struct alias_table *t, uint32_t bits)
{
    uint32_t i = bits >> (32 - t->bits);
    return t->lowest + (bits << t->bits < t->keep[i] ? i : t->other[i]);
}

static void draw_background(struct stills *s, uint64_t frame, double energy_eV, double scale,
                            uint16_t *image)
{
    const struct stills_config *c = &s->config;
    for (int i = 0; i < RINGS; i++) {
        double mean = scale * background_level(c, (i + 0.5) * s->ring_px, energy_eV);
        if (mean != s->tables[i].mean || s->tables[i].bits == 0) /* 0: never built */
            build_table(&s->tables[i], mean);
    }
    struct rng rng;
    start_stream(s, &rng, frame, STREAM_BACKGROUND);
    size_t pixels = (size_t)c->nx * (size_t)c->ny;
    uint64_t bits = 0;
    for (size_t i = 0; i < pixels; i++) {
        const struct alias_table *t = &s->tables[s->ring[i]];
        bits = i & 1 ? bits >> 32 : rng_next(&rng);
        uint64_t n = t->bits > 0 ? draw_table(t, (uint32_t)bits) : rng_poisson(&rng, t->mean);
        image[i] = n < UINT16_MAX ? (uint16_t)n : UINT16_MAX;
    }
}

/* Share of a Gaussian line centred at `centre` that falls on each of n pixels from `first` on. */
static void profile(double *share, int first, int n, double centre, double sigma)
{
    double width = sigma * sqrt(2.0);
    double below = erf((first - 0.5 - centre) / width);
    for (int i = 0; i < n; i++) {
        double above = erf((first + i + 0.5 - centre) / width);
        share[i] = 0.5 * (above - below);
        below = above;
    }
}

static void draw_spot(const struct stills *s, const struct stills_spot *spot, struct rng *rng,
                      uint16_t *image)
{
    const struct stills_config *c = &s->config;
    int reach = (int)(4.5 * s->sigma + 1.0);
    int x0 = (int)floor(spot->fs + 0.5) - reach, y0 = (int)floor(spot->ss + 0.5) - reach;
    int n = 2 * reach + 1;
    double across[PATCH_MAX], down[PATCH_MAX];
    profile(across, x0, n, spot->fs, s->sigma);
    profile(down, y0, n, spot->ss, s->sigma);
    for (int j = 0; j < n; j++)
        for (int i = 0; i < n; i++) {
            int x = x0 + i, y = y0 + j;
            if (x < 0 || y < 0 || x >= c->nx || y >= c->ny)
                continue;
            uint16_t *pixel = &image[(size_t)y * (size_t)c->nx + (size_t)x];
            uint64_t total = *pixel + rng_poisson(rng, spot->photons * across[i] * down[j]);
            *pixel = total < UINT16_MAX ? (uint16_t)total : UINT16_MAX;
        }
}

void stills_render(struct stills *stills, uint64_t frame, double energy_eV, double photons,
                   uint16_t *image)
{
    const struct stills_config *c = &stills->config;
    size_t pixels = (size_t)c->nx * (size_t)c->ny;
    if (!has_light(energy_eV, photons)) {
        memset(image, 0, pixels * sizeof *image);
        return;
    }
    struct walk walk;
    struct stills_spot spot;
    struct rng rng;
    walk_start(stills, &walk, frame, energy_eV, photons);
    draw_background(stills, frame, energy_eV, walk.scale, image);
    start_stream(stills, &rng, frame, STREAM_SPOTS);
    double reach = 5.0 * stills->sigma + 1.0;
    while (walk_next(stills, &walk, &spot))
        if (between(spot.fs, -reach, c->nx + reach) && between(spot.ss, -reach, c->ny + reach))
            draw_spot(stills, &spot, &rng, image);
}
