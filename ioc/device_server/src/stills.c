#include "stills.h"

#include <math.h>
#include <stdlib.h>

#include "constants.h"
#include "rng.h"

enum { REFLECTIONS_MAX = 4000000 };
/* Random streams of a frame; the rest is for whoever draws. */
enum { STREAM_ORIENTATION, STREAM_FREE, STREAMS = 3 };

struct reflection {
    float g[3]; /* crystal axes, 1/Å */
    float g2;
    float intensity; /* photons at nominal exposure, fully excited */
    int16_t h, k, l;
};

struct stills {
    struct stills_config config;
    struct geometry geometry;
    struct reflection *reflections;
    int n_reflections;
    double g_max, radius_max; /* 1/Å */
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
        .hit_probability = 1.0,
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
    double ca = cos(c->alpha * DEGREE), cb = cos(c->beta * DEGREE), cg = cos(c->gamma * DEGREE);
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
    double n = 4.0 / 3.0 * PI * c->a * c->b * c->c * sqrt(cell_volume_factor(c))
               / (c->resolution * c->resolution * c->resolution);
    if (n > REFLECTIONS_MAX)
        return "the cell has more than 4 million reflections within the resolution limit";
    if (!between(c->b_factor, 0, 1000))
        return "b_factor must be between 0 and 1000 square angstrom";
    if (!between(c->profile_radius, 1e-6, 0.01) || !between(c->mosaicity, 0, 5))
        return "profile_radius must be between 1e-6 and 0.01 1/angstrom, mosaicity 0 to 5 degrees";
    if (!between(c->hit_probability, 0, 1))
        return "hit_probability must be between 0 and 1";
    if (c->orientation != ORIENTATION_RANDOM && c->orientation != ORIENTATION_THETA)
        return "orientation must be random or theta";
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
    double ca = cos(c->alpha * DEGREE), cb = cos(c->beta * DEGREE), cg = cos(c->gamma * DEGREE);
    double sg = sin(c->gamma * DEGREE);
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

struct stills *stills_new(const struct stills_config *config, const struct geometry *geometry)
{
    if (stills_check(config) != NULL || geometry_check(geometry) != NULL)
        return NULL;
    struct stills *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->config = *config;
    s->geometry = *geometry;
    s->n_reflections = list_reflections(config, NULL);
    s->reflections = calloc((size_t)s->n_reflections + 1, sizeof *s->reflections);
    if (s->reflections == NULL) {
        free(s);
        return NULL;
    }
    list_reflections(config, s->reflections);
    s->g_max = 1.0 / config->resolution;
    s->radius_max = config->profile_radius + config->mosaicity * DEGREE * s->g_max;
    return s;
}

void stills_free(struct stills *stills)
{
    if (stills == NULL)
        return;
    free(stills->reflections);
    free(stills);
}

const struct stills_config *stills_settings(const struct stills *stills)
{
    return &stills->config;
}

static void start_stream(const struct stills *s, struct rng *rng, uint64_t frame, uint64_t stream)
{
    rng_seed(rng, s->config.seed, frame * STREAMS + stream);
}

void stills_stream(const struct stills *stills, const struct shot *shot, int which,
                   struct rng *rng)
{
    start_stream(stills, rng, shot->frame, STREAM_FREE + (uint64_t)which);
}

/* K. Shoemake, "Uniform random rotations", Graphics Gems III (1992). */
static void random_rotation(struct rng *rng, double r[9])
{
    double u = rng_uniform(rng), v = 2 * PI * rng_uniform(rng), t = 2 * PI * rng_uniform(rng);
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

bool stills_hit(const struct stills *stills, const struct shot *shot)
{
    struct rng rng;
    double unused[9];
    start_stream(stills, &rng, shot->frame, STREAM_ORIENTATION);
    random_rotation(&rng, unused);
    return rng_uniform(&rng) < stills->config.hit_probability * shot->coverage;
}

void stills_orientation(const struct stills *stills, const struct shot *shot, double r[9])
{
    struct rng rng;
    bool given = stills->config.orientation == ORIENTATION_THETA;
    start_stream(stills, &rng, given ? 0 : shot->frame, STREAM_ORIENTATION);
    random_rotation(&rng, r);
    if (!given)
        return;
    double c = cos(shot->theta * DEGREE), s = sin(shot->theta * DEGREE);
    for (int j = 0; j < 3; j++) {
        double x = r[j], z = r[6 + j];
        r[j] = c * x + s * z;
        r[6 + j] = c * z - s * x;
    }
}

/* Air scatter, a solvent ring at 3.3 Å and a floor; nothing behind the beam stop. */
double stills_background(const struct stills *stills, double radius, double energy_eV)
{
    double q = geometry_q(&stills->geometry, radius, energy_eV) / (2.0 * PI); /* 1/d */
    double air = 0.7 * exp(-q / 0.2);
    double liquor = 0.6 * exp(-0.5 * pow((q - 0.30) / 0.06, 2));
    double shadow = -expm1(-pow(radius / 12.0, 2));
    return stills->config.background_photons * (air + liquor + 0.05) * shadow;
}

static void place(const struct geometry *detector, struct stills_spot *spot)
{
    int fs, ss, corner[2];
    spot->panel = -1;
    if (!between(spot->x, -1.0, 1e6) || !between(spot->y, -1.0, 1e6))
        return;
    spot->panel =
        geometry_panel(detector, (int)floor(spot->x + 0.5), (int)floor(spot->y + 0.5), &fs, &ss);
    if (spot->panel < 0)
        return;
    geometry_corner(detector, spot->panel, corner);
    spot->fs = spot->x - corner[0];
    spot->ss = spot->y - corner[1];
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
    double radius = c->profile_radius + c->mosaicity * DEGREE * sqrt(g2);
    double error = (length - k) / radius;
    double forward = (k + gz) / length;
    if (fabs(error) >= 1.0 || forward < 0.01)
        return false;
    const struct geometry *detector = &s->geometry;
    double px = detector->distance_m / detector->pixel_m / (k + gz);
    *spot = (struct stills_spot){
        .x = detector->beam_x + gx * px,
        .y = detector->beam_y + gy * px,
        .photons = scale * (double)p->intensity * (1.0 - error * error),
        .h = p->h, .k = p->k, .l = p->l,
    };
    place(detector, spot);
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

void stills_walk_start(const struct stills *s, const struct shot *shot, struct stills_walk *w)
{
    stills_orientation(s, shot, w->rotation);
    w->k = shot->energy / HC_EV_ANGSTROM;
    w->scale = shot->photons / s->config.nominal_photons;
    for (int j = 0; j < 3; j++)
        w->axis[j] = (float)w->rotation[6 + j];
    w->k2 = (float)(2.0 * w->k);
    /* | |k+g|^2 - k^2 | < radius (2 k + radius), plus the rounding of float coordinates. */
    w->margin = (float)(s->radius_max * (2.0 * w->k + s->radius_max)
                        + 1e-6 * s->g_max * (s->g_max + 2.0 * w->k));
    w->i = stills_hit(s, shot) ? 0 : s->n_reflections;
}

bool stills_walk_next(const struct stills *s, struct stills_walk *w, struct stills_spot *spot)
{
    while ((w->i = next_candidate(s, w->axis, w->k2, w->margin, w->i)) < s->n_reflections)
        if (excite(s, w->rotation, w->k, w->scale, w->i++, spot))
            return true;
    return false;
}

static void judge(const struct stills *s, struct stills_spot *spots, int n, double scale,
                  double energy_eV)
{
    const struct stills_config *c = &s->config;
    const struct geometry *g = &s->geometry;
    double footprint = c->spot_fwhm_px, crowded = 3.0 * c->spot_fwhm_px;
    for (int i = 0; i < n; i++) {
        struct stills_spot *p = &spots[i];
        double radius = hypot(p->x - g->beam_x, p->y - g->beam_y);
        p->background =
            scale * stills_background(s, radius, energy_eV) * PI * footprint * footprint;
        double noise = sqrt(p->photons + p->background);
        p->snr = noise > 0.0 ? p->photons / noise : 0.0;
        p->visible = p->snr >= c->visibility_limit && p->photons > 0.0
                     && p->fs - footprint >= -0.5 && p->fs + footprint <= g->nx - 0.5
                     && p->ss - footprint >= -0.5 && p->ss + footprint <= g->ny - 0.5;
        for (int j = 0; p->visible && j < n; j++)
            if (j != i && hypot(p->x - spots[j].x, p->y - spots[j].y) < crowded
                && spots[j].photons >= p->photons)
                p->visible = false;
    }
}

int stills_spots(const struct stills *stills, const struct shot *shot, struct stills_spot *out,
                 int max)
{
    if (!shot_has_light(shot))
        return 0;
    struct stills_walk walk;
    struct stills_spot spot;
    int n = 0;
    stills_walk_start(stills, shot, &walk);
    while (stills_walk_next(stills, &walk, &spot)) {
        if (spot.panel < 0)
            continue;
        if (n < max)
            out[n] = spot;
        n++;
    }
    judge(stills, out, n < max ? n : max, walk.scale, shot->energy);
    return n;
}
