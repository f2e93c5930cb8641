/* Small-angle scattering and fast noise, checked against theory. */
#include <float.h>

#include "../src/config.h"
#include "../src/noise.h"
#include "../src/saxs.h"
#include "check.h"

enum { SIDE = 512 };
static const double pi = 3.141592653589793, energy = 9000.0;

static struct geometry detector(void)
{
    struct geometry g;
    geometry_default(&g);
    geometry_complete(&g);
    return g;
}

static void test_normals(void)
{
    enum { N = 1000000, CELLS = 40 };
    static float x[N];
    static double seen[CELLS];
    static struct noise noise;
    noise_init(&noise);
    noise_seed(&noise, 1, 2);
    noise_normals(&noise, x, N);
    double s1 = 0, s2 = 0, s3 = 0, s4 = 0, lag = 0, chi2 = 0;
    int tail = 0;
    for (int i = 0; i < N; i++) {
        double v = (double)x[i];
        s1 += v / N;
        s2 += v * v / N;
        s3 += v * v * v / N;
        s4 += v * v * v * v / N;
        lag += i > 0 ? v * (double)x[i - 1] / N : 0;
        tail += fabs(v) > 3.6541528853610088;
        int cell = (int)floor((v + 4) * CELLS / 8);
        if (cell >= 0 && cell < CELLS)
            seen[cell]++;
    }
    for (int i = 0; i < CELLS; i++) {
        double low = (i * 8.0 / CELLS - 4) / sqrt(2), high = ((i + 1) * 8.0 / CELLS - 4) / sqrt(2);
        double expected = 0.5 * N * (erf(high) - erf(low));
        chi2 += (seen[i] - expected) * (seen[i] - expected) / expected;
    }
    CHECK_NEAR(s1, 0, 0.005);
    CHECK_NEAR(s2, 1, 0.007);
    CHECK_NEAR(s3, 0, 0.02);
    CHECK_NEAR(s4, 3, 0.05);
    CHECK_NEAR(lag, 0, 0.005);
    CHECK(chi2 < CELLS + 5 * sqrt(2.0 * CELLS), "chi2 %g of %d", chi2, CELLS);
    CHECK(fabs(tail - 258.0) < 80, "%d in the tail", tail);
}

static void test_poissons(double mean)
{
    enum { BLOCKS = 4000, CELLS = 400 };
    static struct noise noise;
    noise_init(&noise);
    noise_seed(&noise, 3, (uint64_t)(mean * 1e6));
    float means[NOISE_BLOCK];
    uint16_t counts[NOISE_BLOCK];
    static double seen[CELLS];
    memset(seen, 0, sizeof seen);
    for (int i = 0; i < NOISE_BLOCK; i++)
        means[i] = (float)mean;
    for (int b = 0; b < BLOCKS; b++) {
        noise_poissons(&noise, means, counts);
        for (int i = 0; i < NOISE_BLOCK; i++)
            seen[counts[i] < CELLS ? counts[i] : CELLS - 1]++;
    }
    double chi2 = 0, n = BLOCKS * NOISE_BLOCK;
    int cells = 0;
    for (int k = 0; k < CELLS - 1; k++) {
        double expected = n * exp(k * log(mean) - mean - lgamma(k + 1.0));
        if (expected < 20)
            continue;
        chi2 += (seen[k] - expected) * (seen[k] - expected) / expected;
        cells++;
    }
    CHECK(chi2 < cells + 5 * sqrt(2.0 * cells), "mean %g: chi2 %g of %d", mean, chi2, cells);
}

static void test_poisson_extremes(void)
{
    static struct noise noise;
    noise_init(&noise);
    noise_seed(&noise, 4, 4);
    float means[NOISE_BLOCK] = {0.0f, 1e-30f, FLT_MIN, 1e5f, 1e10f, INFINITY};
    uint16_t counts[NOISE_BLOCK];
    noise_poissons(&noise, means, counts);
    CHECK(counts[0] == 0 && counts[1] == 0 && counts[2] == 0 && counts[63] == 0, "dark");
    CHECK(counts[3] == UINT16_MAX && counts[4] == UINT16_MAX && counts[5] == UINT16_MAX, "flood");
}

static void test_form_factor(void)
{
    const double r = 12;
    struct form_factor form;
    form_factor_init(&form, r, 0.1);
    CHECK_NEAR(form_factor(&form, 0), 1, 1e-12);
    CHECK_NEAR(form_factor(&form, 1e-4), 1, 1e-5);
    form_factor_init(&form, r, 0);
    CHECK_NEAR(form_factor(&form, 4.493409457909064 / r), 0, 1e-20);
    CHECK_NEAR(form_factor(&form, 0.1 / r), 1 - 0.01 / 5 + 3e-4 / 175, 1e-8);
    double x = 6.0, f = 3 * (sin(x) - x * cos(x)) / (x * x * x);
    CHECK_NEAR(form_factor(&form, x / r), f * f, 1e-15);
    CHECK_NEAR(form_factor(&form, 0.0999999 / r), form_factor(&form, 0.1000001 / r), 1e-7);
    /* Guinier's law of a distribution: the mean of R⁸ over that of R⁶. */
    form_factor_init(&form, r, 0.2);
    double p = 0.04, m6 = 1 + 15 * p + 45 * p * p + 15 * p * p * p;
    double m8 = 1 + 28 * p + 210 * p * p + 420 * p * p * p + 105 * p * p * p * p;
    CHECK_NEAR((1 - form_factor(&form, 0.01 / r)) * 5e4, m8 / m6, 0.01);
    /* Far out, against a finer sum of its own. */
    double q = 40 / r, sum = 0, norm = 0;
    for (double z = -4; z <= 4; z += 1e-3) {
        double radius = r * (1 + 0.2 * z), y = q * radius, w = exp(-z * z / 2) * pow(radius, 6);
        sum += w * pow(3 * (sin(y) - y * cos(y)) / (y * y * y), 2);
        norm += w;
    }
    CHECK_NEAR(form_factor(&form, q) / (sum / norm), 1, 0.01);
}

struct scene {
    struct saxs_config config;
    struct geometry geometry;
    struct radial_map *map;
    struct saxs saxs;
    struct canvas canvas;
};

static void set_up(struct scene *s)
{
    s->map = radial_map_new(&s->geometry);
    if (s->map == NULL || !saxs_init(&s->saxs, &s->config, s->map)
        || !canvas_init(&s->canvas, s->map->pixels))
        abort();
}

static void tear_down(struct scene *s)
{
    canvas_free(&s->canvas);
    saxs_free(&s->saxs);
    radial_map_free(s->map);
}

static void draw(struct scene *s, uint64_t frame, double eV, double photons, bool sparse)
{
    canvas_begin(&s->canvas, sparse);
    saxs_draw(&s->saxs, &(struct shot){.frame = frame, .energy = eV, .photons = photons},
              &s->canvas);
}

/* A radial average, by formulas of its own: photons on the detector per ring of one pixel. */
struct radial {
    double sum[400], pixels[400];
};

static void average(struct scene *s, int frames, double eV, double photons, struct radial *out)
{
    memset(out, 0, sizeof *out);
    for (int frame = 0; frame < frames; frame++) {
        draw(s, (uint64_t)frame, eV, photons, false);
        const struct geometry *g = &s->geometry;
        size_t at = 0;
        for (int panel = 0; panel < g->panels; panel++)
            for (int y = 0; y < g->ny; y++)
                for (int x = 0; x < g->nx; x++, at++) {
                    int corner[2];
                    geometry_corner(g, panel, corner);
                    int r = (int)lround(hypot(corner[0] + x - g->beam_x, corner[1] + y - g->beam_y));
                    if (r < 400) {
                        out->sum[r] += s->canvas.image[at];
                        out->pixels[r] += 1;
                    }
                }
    }
}

static double expected(const struct scene *s, double r, double eV, double radius_A)
{
    const struct saxs_config c = s->config;
    struct form_factor form;
    form_factor_init(&form, radius_A, c.polydispersity);
    const struct geometry *g = &s->geometry;
    double two_theta = atan(r * g->pixel_m / g->distance_m);
    double q = 4 * pi * sin(two_theta / 2) / (12398.419843 / eV);
    double section = c.forward_per_cm * form_factor(&form, q) + c.background_per_cm;
    return section * c.thickness_mm / 10 * pow(g->pixel_m / g->distance_m, 2)
           * pow(cos(two_theta), 3);
}

/* Radius from the frames alone: the one whose curve fits the radial average best. */
static double fitted_radius(const struct scene *s, const struct radial *data, double eV,
                            double photons)
{
    double best = INFINITY, found = 0;
    for (double radius = 11; radius < 13; radius += 0.02) {
        double chi2 = 0;
        for (int r = 15; r < 240; r++) {
            double mean = photons * data->pixels[r] * expected(s, r, eV, radius);
            if (data->pixels[r] > 0)
                chi2 += (data->sum[r] - mean) * (data->sum[r] - mean) / mean;
        }
        if (chi2 < best) {
            best = chi2;
            found = radius;
        }
    }
    return found;
}

static void test_frames_recover_the_curve(double eV, double photons, int panels)
{
    struct scene s = {.geometry = detector()};
    saxs_default(&s.config);
    if (panels > 1) {
        s.geometry.nx = s.geometry.ny = 240;
        s.geometry.panels = panels;
        s.geometry.gap_px = 20;
    }
    set_up(&s);
    static struct radial data;
    average(&s, 4, eV, photons, &data);
    double sum = 0, all = 0;
    for (int r = 15; r < 240; r++) {
        double mean = photons * data.pixels[r] * expected(&s, r, eV, s.config.radius_A);
        CHECK(fabs(data.sum[r] - mean) < 6 * sqrt(mean + 1) + 0.01 * mean, "ring %d: %g, not %g",
              r, data.sum[r], mean);
        sum += data.sum[r];
        all += mean;
    }
    CHECK(fabs(sum - all) < 5 * sqrt(all) + 0.002 * all, "%g photons of %g", sum, all);
    CHECK(data.sum[0] == 0 && data.sum[7] == 0, "light behind the beam stop");
    double radius = fitted_radius(&s, &data, eV, photons);
    CHECK(fabs(radius / s.config.radius_A - 1) < 0.005, "%g eV, %g photons, %d panels: radius %g",
          eV, photons, panels, radius);
    tear_down(&s);
}

static void test_events_are_the_pixels(double photons)
{
    struct scene s = {.geometry = detector()};
    saxs_default(&s.config);
    set_up(&s);
    draw(&s, 7, energy, photons, false);
    static uint16_t image[SIDE * SIDE];
    memcpy(image, s.canvas.image, sizeof image);
    draw(&s, 8, energy, photons, false);
    CHECK(memcmp(image, s.canvas.image, sizeof image) != 0, "frames are equal");
    draw(&s, 7, energy, photons, true);
    CHECK(s.canvas.event_count > 50 && !s.canvas.overflow, "%zu events", s.canvas.event_count);
    for (size_t i = 0; i < s.canvas.event_count; i++) {
        CHECK(i == 0 || s.canvas.events[i] >= s.canvas.events[i - 1], "event %zu is late", i);
        image[s.canvas.events[i]]--;
    }
    for (size_t i = 0; i < SIDE * SIDE; i++)
        CHECK(image[i] == 0, "pixel %zu differs", i);
    draw(&s, 7, energy, 0, true);
    CHECK(s.canvas.event_count == 0, "events in the dark");
    draw(&s, 7, energy, NAN, false);
    for (size_t i = 0; i < SIDE * SIDE; i++)
        CHECK(s.canvas.image[i] == 0, "light in the dark");
    draw(&s, 7, energy, 1e12, true);
    CHECK(s.canvas.overflow && s.canvas.event_count == SIDE * SIDE / 2, "%zu events fit",
          s.canvas.event_count);
    tear_down(&s);
}

int main(void)
{
    test_normals();
    const double means[] = {1e-3, 0.009, 0.011, 0.3, 2, 9.9, 11.9, 12.1, 40};
    for (size_t i = 0; i < sizeof means / sizeof *means; i++)
        test_poissons(means[i]);
    test_poisson_extremes();
    test_form_factor();
    test_frames_recover_the_curve(9000, 1e10, 1);
    test_frames_recover_the_curve(11000, 1e11, 1);
    test_frames_recover_the_curve(9000, 1e10, 4);
    test_events_are_the_pixels(1e6);
    test_events_are_the_pixels(2e8);
    return check_status();
}
