/* Speckle: the frames give back diffusion constant and contrast, dense and photon by photon. */
#include "../src/config.h"
#include "../src/speckle.h"
#include "check.h"

enum { SIDE = 96, PIXELS = SIDE * SIDE, LAGS = 24 };
static const double energy = 9000.0, period = 1e-3;

/* A small detector far off the beam: all its pixels have nearly one q. */
struct scene {
    struct geometry geometry;
    struct saxs_config saxs_config;
    struct speckle_config config;
    struct radial_map *map;
    struct saxs saxs;
    struct speckle *speckle;
    struct canvas canvas;
    double q;
};

static struct scene settings(double off_px, double rate_per_s, double contrast)
{
    struct scene s;
    memset(&s, 0, sizeof s);
    geometry_default(&s.geometry);
    s.geometry.distance_m = 10;
    s.geometry.pixel_m = 2e-6; /* small, so that q hardly changes */
    s.geometry.nx = s.geometry.ny = SIDE;
    s.geometry.beam_x = -off_px;
    s.geometry.beam_y = 0.5 * SIDE;
    s.q = geometry_q(&s.geometry, off_px + 0.5 * SIDE, energy);
    saxs_default(&s.saxs_config);
    s.config = (struct speckle_config){rate_per_s / (s.q * s.q), contrast, 1};
    return s;
}

static void set_up(struct scene *s)
{
    s->map = radial_map_new(&s->geometry);
    if (s->map == NULL || !saxs_init(&s->saxs, &s->saxs_config, s->map))
        abort();
    s->speckle = speckle_new(&s->config, &s->saxs);
    if (s->speckle == NULL || !canvas_init(&s->canvas, s->map->pixels))
        abort();
    saxs_tune(&s->saxs, energy);
}

static void tear_down(struct scene *s)
{
    canvas_free(&s->canvas);
    speckle_free(s->speckle);
    saxs_free(&s->saxs);
    radial_map_free(s->map);
}

/* A frame of `per_pixel` photons on average. */
static const uint16_t *take(struct scene *s, uint64_t first, uint64_t index, double exposure,
                            double per_pixel)
{
    struct shot shot = {
        .frame = first + index, .first = first, .energy = energy,
        .photons = per_pixel * PIXELS / s->saxs.total,
        .start = (double)index * period, .exposure = exposure,
    };
    canvas_begin(&s->canvas, false);
    speckle_draw(s->speckle, &shot, &s->canvas);
    return s->canvas.image;
}

/* g2 of a series; lag 0 from factorial moments, so that the photons' own noise drops out. */
struct correlation {
    double mean, g2[LAGS];
};

static void correlate(struct scene *s, int frames, double exposure, const double per_pixel[2],
                      struct correlation *out)
{
    static uint16_t past[LAGS][PIXELS];
    double pairs[LAGS] = {0}, sum[2] = {0};
    for (int t = 0; t < frames; t++) {
        const uint16_t *now = take(s, 5, (uint64_t)t, exposure, per_pixel[t % 2]);
        memcpy(past[t % LAGS], now, sizeof past[0]);
        for (int i = 0; i < PIXELS; i++) {
            if (now[i] == 0)
                continue;
            sum[t % 2] += now[i];
            pairs[0] += (double)now[i] * (now[i] - 1) / (per_pixel[t % 2] * per_pixel[t % 2]);
            for (int lag = 1; lag < LAGS && lag <= t; lag++)
                pairs[lag] += (double)now[i] * past[(t - lag) % LAGS][i]
                              / (per_pixel[t % 2] * per_pixel[(t - lag) % 2]);
        }
    }
    out->mean = (sum[0] / per_pixel[0] + sum[1] / per_pixel[1]) / frames / PIXELS;
    for (int lag = 0; lag < LAGS; lag++)
        out->g2[lag] = pairs[lag] / (frames - lag) / PIXELS / (out->mean * out->mean);
}

/* Siegert's relation with exposure: the lags against the settings, then D and contrast from a straight
 * line through the logarithms, weighted as their errors are. */
static void check_dynamics(const char *what, struct scene *s, const struct correlation *c,
                           double exposure, double tolerance)
{
    double rate = s->config.diffusion_A2_per_s * s->q * s->q, x = rate * exposure;
    double blur = pow(sinh(x) / x, 2), beta = s->config.contrast;
    double sw = 0, st = 0, sy = 0, stt = 0, sty = 0;
    CHECK(fabs(c->mean - 1) < 0.01, "%s: mean %g", what, c->mean);
    double single = beta * (exp(-2 * x) - 1 + 2 * x) / (2 * x * x);
    CHECK(fabs(c->g2[0] - 1 - single) < tolerance, "%s: contrast of a frame %g, not %g", what,
          c->g2[0] - 1, single);
    for (int lag = 1; lag < LAGS; lag++) {
        double t = lag * period, theory = beta * exp(-2 * rate * t) * blur, found = c->g2[lag] - 1;
        CHECK(fabs(found - theory) < tolerance, "%s: lag %d: %g, not %g", what, lag, found, theory);
        if (theory < 0.15 * beta || found <= 0)
            continue;
        double w = theory * theory, y = log(found / blur);
        sw += w;
        st += w * t;
        sy += w * y;
        stt += w * t * t;
        sty += w * t * y;
    }
    double slope = (sw * sty - st * sy) / (sw * stt - st * st);
    double found_d = -slope / (2 * s->q * s->q), found_beta = exp((sy - slope * st) / sw);
    CHECK(fabs(found_d / s->config.diffusion_A2_per_s - 1) < 0.03, "%s: D %g of %g", what, found_d,
          s->config.diffusion_A2_per_s);
    CHECK(fabs(found_beta / beta - 1) < 0.04, "%s: contrast %g of %g", what, found_beta, beta);
}

static void test_dynamics(const char *what, double rate, double contrast, double exposure,
                          double per_pixel, int frames, double tolerance)
{
    struct scene s = settings(3000, rate, contrast);
    struct correlation c;
    set_up(&s);
    correlate(&s, frames, exposure, (double[2]){per_pixel, per_pixel}, &c);
    check_dynamics(what, &s, &c, exposure, tolerance);
    tear_down(&s);
}

/* The same D at any q: the rate goes with its square. */
static void test_q(double off_px)
{
    struct scene s = settings(3000, 40, 1);
    double diffusion = s.config.diffusion_A2_per_s;
    s = settings(off_px, 1, 1);
    s.config.diffusion_A2_per_s = diffusion;
    struct correlation c;
    set_up(&s);
    correlate(&s, 300, period, (double[2]){2, 2}, &c);
    check_dynamics("another q", &s, &c, period, 0.03);
    tear_down(&s);
}

/* Frames drawn as a whole and photon by photon are one series. */
static void test_mixed_series(void)
{
    struct scene s = settings(3000, 40, 1);
    struct correlation c;
    set_up(&s);
    correlate(&s, 1600, period, (double[2]){2, 0.01}, &c);
    for (int lag = 1; lag < 8; lag++) {
        double theory = exp(-2 * 40 * lag * period) * pow(sinh(0.04) / 0.04, 2);
        if (lag % 2 == 1)
            CHECK(fabs(c.g2[lag] - 1 - theory) < 0.04, "lag %d: %g, not %g", lag, c.g2[lag] - 1,
                  theory);
    }
    tear_down(&s);
}

/* Photons of a pixel: a Poisson number of a sum of M exponentials, the negative binomial law. */
static void test_distribution(double contrast, double mean)
{
    enum { CELLS = 64, FRAMES = 100 };
    struct scene s = settings(3000, 1, contrast);
    static double seen[CELLS];
    double m = 1 / contrast, chi2 = 0;
    int cells = 0;
    memset(seen, 0, sizeof seen);
    set_up(&s);
    for (uint64_t frame = 0; frame < FRAMES; frame++) {
        /* Acquisitions of their own: independent fields; and hardly any motion in an exposure. */
        const uint16_t *image = take(&s, 10 * frame, 0, period, mean);
        for (int i = 0; i < PIXELS; i++)
            seen[image[i] < CELLS ? image[i] : CELLS - 1]++;
    }
    for (int n = 0; n < CELLS - 1; n++) {
        double law = exp(lgamma(n + m) - lgamma(n + 1.0) - lgamma(m) - n * log1p(m / mean)
                         - m * log1p(mean / m));
        double expected = law * FRAMES * PIXELS;
        if (expected < 20)
            continue;
        chi2 += (seen[n] - expected) * (seen[n] - expected) / expected;
        cells++;
    }
    CHECK(cells > 2 && chi2 < cells + 6 * sqrt(2.0 * cells), "contrast %g, %g photons: chi2 %g of %d",
          contrast, mean, chi2, cells);
    tear_down(&s);
}

/* Contrasts between 1/n and 1/(n+1) have unequal weights. */
static void test_contrast(double contrast)
{
    struct scene s = settings(3000, 1, contrast);
    double sum = 0, square = 0, n = 0;
    set_up(&s);
    for (uint64_t frame = 0; frame < 60; frame++) {
        const uint16_t *image = take(&s, 10 * frame, 0, period, 20);
        for (int i = 0; i < PIXELS; i++, n++) {
            sum += image[i];
            square += (double)image[i] * (image[i] - 1);
        }
    }
    double found = square / n / (sum / n * sum / n) - 1;
    CHECK(fabs(found / contrast - 1) < 0.02, "contrast %g, not %g", found, contrast);
    tear_down(&s);
}

/* The bridge's moments add up, by the laws of total mean and variance, to those of a stretch. */
static void test_bridge(double x)
{
    struct bridge b;
    bridge_build(&b, x);
    double r = exp(-x); /* x0, x1: variance 1/2, covariance r/2 */
    double mean = b.square + b.cross * r + b.rest;
    CHECK(fabs(mean - 0.5) < 1e-9, "x = %g: mean %.12g", x, mean);
    double spread = b.square_spread + b.cross_spread * r + b.rest_spread;
    /* Twice the trace of the square of the form times the covariance. */
    double d = 0.5 * (b.square + b.cross * r), o = 0.5 * (b.square * r + b.cross);
    double variance = spread + 2 * 2 * (d * d + o * o);
    double expected = x < 1e-3 ? 0.5 * (1 - 2 * x / 3 + x * x / 3)
                               : 0.5 * (exp(-2 * x) - 1 + 2 * x) / (2 * x * x);
    CHECK(fabs(variance - expected) < 1e-8, "x = %g: variance %.12g, not %.12g", x, variance,
          expected);
    CHECK(b.square >= 0 && b.cross >= 0 && b.rest >= 0 && b.square_spread >= 0
              && b.cross_spread >= -1e-12 && b.rest_spread >= 0, "x = %g: a negative moment", x);
}

static void test_same_shots_same_frames(double per_pixel)
{
    struct scene a = settings(3000, 40, 0.6), b = settings(3000, 40, 0.6);
    static uint16_t frames[10][PIXELS];
    set_up(&a);
    set_up(&b);
    for (uint64_t t = 0; t < 10; t++)
        memcpy(frames[t], take(&a, 5, t, period, per_pixel), sizeof frames[t]);
    take(&b, 1, 0, period, per_pixel); /* an acquisition before leaves nothing behind */
    take(&b, 1, 1, period, per_pixel);
    for (uint64_t t = 0; t < 10; t++)
        CHECK(memcmp(take(&b, 5, t, period, per_pixel), frames[t], sizeof frames[t]) == 0,
              "frame %d differs", (int)t);
    CHECK(memcmp(take(&b, 6, 0, period, per_pixel), frames[0], sizeof frames[0]) != 0,
          "acquisitions are equal");
    const uint16_t *dark = take(&a, 5, 10, period, 0);
    for (int i = 0; i < PIXELS; i++)
        CHECK(dark[i] == 0, "light in the dark");
    tear_down(&a);
    tear_down(&b);
}

int main(void)
{
    for (double x = 1e-7; x < 1e5; x *= 1.7)
        test_bridge(x);
    test_bridge(0.0999999);
    test_bridge(0.1000001);
    test_dynamics("dense", 40, 1, period, 2, 500, 0.02);
    test_dynamics("dense with dead time", 40, 0.5, 0.3 * period, 2, 500, 0.02);
    test_dynamics("dense and blurred", 150, 1, period, 5, 500, 0.02);
    test_dynamics("sparse", 40, 1, period, 0.015, 4000, 0.06);
    test_dynamics("sparse and blurred", 80, 0.5, period, 0.035, 5000, 0.03);
    test_q(2000);
    test_q(4500);
    test_mixed_series();
    test_distribution(1, 1.5);
    test_distribution(0.5, 3);
    test_distribution(1, 0.02);
    test_contrast(1);
    test_contrast(0.6);
    test_contrast(0.25);
    test_contrast(0.07);
    test_same_shots_same_frames(2);
    test_same_shots_same_frames(0.01);
    return check_status();
}
