/* Random numbers and crystal stills, checked against theory and an Ewald construction of its own. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/rng.h"
#include "../src/stills.h"

static int failures;

#define CHECK(condition, ...)                                                                     \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            failures++;                                                                           \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                       \
            fprintf(stderr, __VA_ARGS__);                                                         \
            fputc('\n', stderr);                                                                  \
        }                                                                                         \
    } while (0)

enum { SIDE = 512, MAX_SPOTS = 2048 };
static const double pi = 3.141592653589793, hc = 12398.419843, nominal = 1e11;
static uint16_t image[SIDE * SIDE], other[SIDE * SIDE];
static struct stills_spot spots[MAX_SPOTS];

static void test_rng_streams(void)
{
    struct rng a, b;
    rng_seed(&a, 7, 3);
    rng_seed(&b, 7, 3);
    for (int i = 0; i < 100; i++)
        CHECK(rng_next(&a) == rng_next(&b), "the same seed and stream differ at %d", i);
    uint64_t first[4];
    for (uint64_t i = 0; i < 4; i++) {
        rng_seed(&a, 7 + i / 2, 3 + i % 2);
        first[i] = rng_next(&a);
        for (uint64_t j = 0; j < i; j++)
            CHECK(first[i] != first[j], "streams %d and %d are equal", (int)i, (int)j);
    }
}

static void test_rng_moments(void)
{
    enum { N = 200000 };
    struct rng r;
    rng_seed(&r, 1, 1);
    double u1 = 0, u2 = 0, n1 = 0, n2 = 0, n4 = 0;
    for (int i = 0; i < N; i++) {
        double u = rng_uniform(&r), n = rng_normal(&r);
        CHECK(u >= 0 && u < 1, "uniform gave %g", u);
        u1 += u;
        u2 += u * u;
        n1 += n;
        n2 += n * n;
        n4 += n * n * n * n;
    }
    CHECK(fabs(u1 / N - 0.5) < 0.003, "%g", u1 / N);
    CHECK(fabs(u2 / N - 1.0 / 3) < 0.003, "%g", u2 / N);
    CHECK(fabs(n1 / N) < 0.01 && fabs(n2 / N - 1) < 0.02, "%g %g", n1 / N, n2 / N);
    CHECK(fabs(n4 / N - 3) < 0.15, "%g", n4 / N);
}

/* Chi square of drawn counts against the Poisson law, in cells that expect 20 or more. */
static void test_poisson_law(double mean)
{
    enum { N = 100000, CELLS = 512 };
    static int seen[CELLS];
    memset(seen, 0, sizeof seen);
    struct rng r;
    rng_seed(&r, 2, (uint64_t)(mean * 1000));
    for (int i = 0; i < N; i++) {
        uint64_t k = rng_poisson(&r, mean);
        seen[k < CELLS ? k : CELLS - 1]++;
    }
    double chi2 = 0;
    int cells = 0;
    for (int k = 0; k < CELLS - 1; k++) {
        double expected = N * exp(k * log(mean) - mean - lgamma(k + 1.0));
        if (expected < 20)
            continue;
        chi2 += (seen[k] - expected) * (seen[k] - expected) / expected;
        cells++;
    }
    CHECK(cells > 1 && chi2 < cells + 5 * sqrt(2.0 * cells), "mean %g: chi2 %g of %d", mean, chi2,
          cells);
}

static void test_poisson_moments(double mean)
{
    enum { N = 20000 };
    struct rng r;
    rng_seed(&r, 3, (uint64_t)mean);
    double sum = 0, square = 0;
    for (int i = 0; i < N; i++) {
        double d = ((double)rng_poisson(&r, mean) - mean) / sqrt(mean);
        sum += d;
        square += d * d;
    }
    CHECK(fabs(sum / N) < 0.04 && fabs(square / N - 1) < 0.06, "mean %g: %g %g", mean, sum / N,
          square / N);
}

static void test_poisson_extremes(void)
{
    struct rng r;
    rng_seed(&r, 4, 4);
    CHECK(rng_poisson(&r, 0.0) == 0, "mean 0");
    CHECK(rng_poisson(&r, -1.0) == 0, "negative mean");
    CHECK(rng_poisson(&r, NAN) == 0, "NaN");
    CHECK(rng_poisson(&r, DBL_MIN) == 0, "tiny mean");
    uint64_t most = rng_poisson(&r, INFINITY);
    CHECK(most > 999999990000000000u && most < 1000000010000000000u, "infinite mean: %llu",
          (unsigned long long)most);
}

static struct stills *default_stills(uint64_t seed)
{
    struct stills_config config;
    stills_default(&config);
    config.seed = seed;
    struct stills *s = stills_new(&config);
    if (!s)
        abort();
    return s;
}

static void test_refused_configurations(void)
{
    struct stills_config good;
    stills_default(&good);
    CHECK(stills_check(&good) == NULL, "%s", stills_check(&good));
#define REFUSED(field, value)                                                                     \
    do {                                                                                          \
        struct stills_config bad = good;                                                          \
        bad.field = (value);                                                                      \
        CHECK(stills_check(&bad) != NULL, "accepted " #field " = " #value);                       \
        CHECK(stills_new(&bad) == NULL, "built " #field " = " #value);                            \
    } while (0)
    REFUSED(a, 0);
    REFUSED(b, -79.1);
    REFUSED(c, NAN);
    REFUSED(c, INFINITY);
    REFUSED(alpha, 0);
    REFUSED(gamma, 180);
    REFUSED(resolution, 0);
    REFUSED(resolution, 50);
    REFUSED(b_factor, -1);
    REFUSED(profile_radius, 0);
    REFUSED(mosaicity, NAN);
    REFUSED(distance_m, 0);
    REFUSED(pixel_m, -1);
    REFUSED(nx, 0);
    REFUSED(ny, -1);
    REFUSED(nx, 1 << 30);
    REFUSED(beam_x, INFINITY);
    REFUSED(nominal_photons, 0);
    REFUSED(spot_photons, -1);
    REFUSED(background_photons, NAN);
    REFUSED(spot_fwhm_px, 0);
    REFUSED(spot_fwhm_px, 1000);
    REFUSED(visibility_limit, -1);
#undef REFUSED
    struct stills_config flat = good;
    flat.alpha = flat.beta = 40;
    flat.gamma = 100; /* these three cannot meet in a corner */
    CHECK(stills_check(&flat) != NULL, "accepted impossible angles");
    struct stills_config huge = good;
    huge.a = huge.b = huge.c = 900;
    CHECK(stills_check(&huge) != NULL, "accepted too many reflections");
    stills_free(NULL);
}

static void test_pure_function(void)
{
    struct stills *a = default_stills(1), *b = default_stills(1), *c = default_stills(2);
    stills_render(a, 5, 9500, nominal, image);
    stills_render(b, 0, 12000, 3 * nominal, other);
    CHECK(memcmp(image, other, sizeof image) != 0, "different frames are equal");
    stills_render(b, 4, 9500, nominal, other);
    CHECK(memcmp(image, other, sizeof image) != 0, "neighbouring frames are equal");
    stills_render(b, 5, 9500, nominal, other);
    CHECK(memcmp(image, other, sizeof image) == 0, "frame 5 depends on what was drawn before");
    stills_render(c, 5, 9500, nominal, other);
    CHECK(memcmp(image, other, sizeof image) != 0, "the seed makes no difference");
    stills_free(a);
    stills_free(b);
    stills_free(c);
}

static void test_dark(void)
{
    struct stills *s = default_stills(1);
    const double dark[][2] = {{9500, 0},      {9500, -1},       {9500, NAN}, {0, nominal},
                              {-1, nominal},  {NAN, nominal},   {9500, INFINITY}};
    for (size_t i = 0; i < sizeof dark / sizeof dark[0]; i++) {
        memset(image, 0xff, sizeof image);
        stills_render(s, 1, dark[i][0], dark[i][1], image);
        long sum = 0;
        for (int j = 0; j < SIDE * SIDE; j++)
            sum += image[j];
        CHECK(sum == 0, "case %d has %ld counts", (int)i, sum);
        CHECK(stills_spots(s, 1, dark[i][0], dark[i][1], spots, MAX_SPOTS) == 0, "case %d", (int)i);
    }
    stills_free(s);
}

/* The Ewald construction the other way round: from positions back to Miller indices, and from
 * partialities back to structure factors. Lattice and orientation have to explain every spot. */
static void test_ewald(void)
{
    enum { H = 40 };
    static double seen[H][H][H];
    memset(seen, 0, sizeof seen);
    struct stills_config config;
    stills_default(&config);
    struct stills *s = stills_new(&config);
    double sum = 0;
    int count = 0, repeats = 0;
    for (uint64_t frame = 0; frame < 200; frame++) {
        double energy = 9000 + 15.0 * (double)frame, k = energy / hc, r[9];
        stills_orientation(s, frame, r);
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++) {
                double dot = 0;
                for (int m = 0; m < 3; m++)
                    dot += r[3 * i + m] * r[3 * j + m];
                CHECK(fabs(dot - (i == j)) < 1e-12, "not a rotation: %g", dot);
            }
        int n = stills_spots(s, frame, energy, nominal, spots, MAX_SPOTS);
        for (int i = 0; i < n; i++) {
            const struct stills_spot *p = &spots[i];
            double x = (p->fs - config.beam_x) * config.pixel_m;
            double y = (p->ss - config.beam_y) * config.pixel_m, z = config.distance_m;
            double length = sqrt(x * x + y * y + z * z);
            double q[3] = {k * x / length, k * y / length, k * z / length - k};
            double crystal[3], edge[3] = {config.a, config.b, config.c};
            int hkl[3] = {p->h, p->k, p->l};
            double g2 = 0;
            for (int j = 0; j < 3; j++) {
                crystal[j] = r[j] * q[0] + r[3 + j] * q[1] + r[6 + j] * q[2];
                CHECK(fabs(crystal[j] - hkl[j] / edge[j]) < 8e-4, "frame %d: %g is not %d",
                      (int)frame, crystal[j] * edge[j], hkl[j]);
                g2 += hkl[j] / edge[j] * hkl[j] / edge[j];
            }
            double d = 1 / sqrt(g2);
            CHECK(d >= config.resolution - 1e-6 && d <= config.low_resolution + 1e-3, "d = %g", d);

            double outward[3] = {0, 0, k};
            for (int j = 0; j < 3; j++)
                for (int m = 0; m < 3; m++)
                    outward[j] += r[3 * j + m] * hkl[m] / edge[m];
            double miss = sqrt(outward[0] * outward[0] + outward[1] * outward[1]
                               + outward[2] * outward[2])
                          - k;
            double radius = config.profile_radius + config.mosaicity * pi / 180 / d;
            double partiality = 1 - miss * miss / (radius * radius);
            CHECK(partiality > -1e-3, "a spot that is not excited: %g", partiality);
            if (partiality < 0.3)
                continue; /* rounding of the excitation error would show */
            double full = p->photons / partiality / config.spot_photons
                          * exp(0.5 * config.b_factor * g2);
            sum += full;
            count++;
            int h = abs(p->h), l = abs(p->l), kk = abs(p->k);
            double *slot = h > kk ? &seen[h][kk][l] : &seen[kk][h][l];
            if (*slot > 0) {
                repeats++;
                CHECK(fabs(full / *slot - 1) < 0.01, "equivalents of %d %d %d: %g, %g", h, kk, l,
                      full, *slot);
            }
            *slot = full;
        }
    }
    CHECK(count > 5000 && repeats > 500, "%d spots, %d repeats", count, repeats);
    CHECK(fabs(sum / count - 1) < 0.1, "mean normalised intensity %g", sum / count);
    stills_free(s);
}

static void test_default_is_sparse(void)
{
    struct stills *s = default_stills(1);
    const double energies[] = {9000, 10500, 12000};
    for (int e = 0; e < 3; e++) {
        int visible = 0;
        double nearest = 1e9;
        for (uint64_t frame = 0; frame < 50; frame++) {
            int n = stills_spots(s, frame, energies[e], nominal, spots, MAX_SPOTS);
            for (int i = 0; i < n; i++) {
                visible += spots[i].visible;
                for (int j = 0; j < i; j++)
                    nearest = fmin(nearest, hypot(spots[i].fs - spots[j].fs,
                                                  spots[i].ss - spots[j].ss));
            }
        }
        CHECK(visible >= 40 * 50 && visible <= 125 * 50, "%g eV: %g a frame", energies[e],
              visible / 50.0);
        CHECK(nearest > 8, "%g eV: %g px", energies[e], nearest);
    }
    int all = stills_spots(s, 0, 9500, nominal, spots, MAX_SPOTS);
    struct stills_spot few[3];
    CHECK(stills_spots(s, 0, 9500, nominal, few, 3) == all, "a short array changes the count");
    CHECK(memcmp(&few[2].fs, &spots[2].fs, sizeof few[2].fs) == 0, "a short array differs");
    CHECK(stills_spots(s, 0, 9500, nominal, NULL, 0) == all, "no array changes the count");
    stills_free(s);
}

/* What is drawn is what the list promises: counts, linearity, centres. */
static void test_drawn_spots(double photons)
{
    struct stills_config config;
    stills_default(&config);
    config.background_photons = 0;
    struct stills *s = stills_new(&config);
    double expected = 0, found = 0, dx = 0, dy = 0, wide = 0;
    int n_used = 0;
    for (uint64_t frame = 0; frame < 40; frame++) {
        stills_render(s, frame, 9500, photons, image);
        int n = stills_spots(s, frame, 9500, photons, spots, MAX_SPOTS);
        for (int i = 0; i < n; i++) {
            if (!spots[i].visible || spots[i].photons > 2e5)
                continue;
            int x0 = (int)lround(spots[i].fs), y0 = (int)lround(spots[i].ss);
            if (x0 < 5 || y0 < 5 || x0 > SIDE - 6 || y0 > SIDE - 6)
                continue;
            double sum = 0, mx = 0, my = 0, mxx = 0;
            for (int y = y0 - 5; y <= y0 + 5; y++)
                for (int x = x0 - 5; x <= x0 + 5; x++) {
                    double v = image[y * SIDE + x];
                    sum += v;
                    mx += v * (x - spots[i].fs);
                    my += v * (y - spots[i].ss);
                    mxx += v * (x - spots[i].fs) * (x - spots[i].fs);
                }
            expected += spots[i].photons;
            found += sum;
            dx += mx;
            dy += my;
            wide += mxx;
            n_used++;
        }
    }
    CHECK(n_used > 1000, "%d spots", n_used);
    CHECK(fabs(found / expected - 1) < 0.003, "found %g of %g", found, expected);
    CHECK(fabs(dx / found) < 0.005 && fabs(dy / found) < 0.005, "off by %g %g px", dx / found,
          dy / found);
    /* Integration over pixels adds 1/12 to the variance. */
    double fwhm = 2.3548 * sqrt(wide / found - 1.0 / 12);
    CHECK(fabs(fwhm - config.spot_fwhm_px) < 0.02, "width %g", fwhm);
    stills_free(s);
}

/* Background: Poisson in every pixel, proportional to the light, whichever generator drew it. */
static void test_background(double photons_per_pixel)
{
    enum { N = 16, FRAMES = 3000 };
    struct stills_config config;
    stills_default(&config);
    config.nx = config.ny = N;
    config.beam_x = -150;
    config.spot_photons = 0;
    struct stills *s = stills_new(&config);
    double photons = nominal * photons_per_pixel / config.background_photons;
    static double sum[N * N], square[N * N];
    static uint16_t small[N * N];
    memset(sum, 0, sizeof sum);
    memset(square, 0, sizeof square);
    for (uint64_t frame = 0; frame < FRAMES; frame++) {
        stills_render(s, frame, 9500, photons, small);
        for (int i = 0; i < N * N; i++) {
            sum[i] += small[i];
            square[i] += (double)small[i] * small[i];
        }
    }
    double dispersion = 0, level = 0;
    for (int i = 0; i < N * N; i++) {
        double mean = sum[i] / FRAMES, variance = square[i] / FRAMES - mean * mean;
        dispersion += variance / mean / (N * N);
        level += mean / (N * N);
    }
    CHECK(fabs(dispersion - 1) < 0.02, "%g photons: variance/mean %g", photons_per_pixel,
          dispersion);
    CHECK(level > 0.2 * photons_per_pixel && level < 1.5 * photons_per_pixel, "level %g of %g",
          level, photons_per_pixel);
    static double first_level;
    if (first_level == 0)
        first_level = level / photons_per_pixel;
    CHECK(fabs(level / photons_per_pixel / first_level - 1) < 0.01, "not linear: %g", level);
    stills_free(s);
}

static void test_saturation(void)
{
    struct stills *s = default_stills(1);
    stills_render(s, 3, 9500, 1e13, image);
    int n = stills_spots(s, 3, 9500, 1e13, spots, MAX_SPOTS), checked = 0;
    for (int i = 0; i < n; i++)
        if (spots[i].visible && spots[i].photons > 6e5) {
            int x = (int)lround(spots[i].fs), y = (int)lround(spots[i].ss);
            CHECK(image[y * SIDE + x] == UINT16_MAX, "%g photons: pixel %d", spots[i].photons,
                  image[y * SIDE + x]);
            checked++;
        }
    CHECK(checked > 0, "nothing bright enough");
    stills_render(s, 3, 9500, 1e300, image);
    /* Outside the shadow of the beam stop. */
    CHECK(image[0] == UINT16_MAX && image[SIDE * SIDE - 1] == UINT16_MAX, "a flood wraps round");
    stills_free(s);
}

static void test_other_cells(void)
{
    struct stills_config config;
    stills_default(&config);
    config.a = 40;
    config.b = 55;
    config.c = 70;
    config.alpha = 80;
    config.beta = 95;
    config.gamma = 110;
    struct stills *s = stills_new(&config);
    CHECK(s != NULL, "%s", stills_check(&config));
    int n = stills_spots(s, 1, 9500, nominal, spots, MAX_SPOTS);
    CHECK(n > 10, "%d spots", n);
    double r[9], k = 9500 / hc, rad = pi / 180;
    stills_orientation(s, 1, r);
    /* Real-space axes as the header states them: q . a = h, q . b = k, q . c = l. */
    double ca = cos(80 * rad), cb = cos(95 * rad), cg = cos(110 * rad), sg = sin(110 * rad);
    double cy = (ca - cb * cg) / sg;
    double axes[3][3] = {{40, 0, 0},
                         {55 * cg, 55 * sg, 0},
                         {70 * cb, 70 * cy, 70 * sqrt(1 - cb * cb - cy * cy)}};
    for (int i = 0; i < n; i++) {
        double x = (spots[i].fs - config.beam_x) * config.pixel_m;
        double y = (spots[i].ss - config.beam_y) * config.pixel_m, z = config.distance_m;
        double length = sqrt(x * x + y * y + z * z);
        double q[3] = {k * x / length, k * y / length, k * z / length - k};
        int hkl[3] = {spots[i].h, spots[i].k, spots[i].l};
        for (int j = 0; j < 3; j++) {
            double dot = 0;
            for (int m = 0; m < 3; m++)
                dot += axes[j][m] * (r[m] * q[0] + r[3 + m] * q[1] + r[6 + m] * q[2]);
            CHECK(fabs(dot - hkl[j]) < 0.06, "%g is not %d", dot, hkl[j]);
        }
    }
    stills_free(s);
}

int main(void)
{
    test_rng_streams();
    test_rng_moments();
    const double small_means[] = {0.05, 1.0, 3.0, 9.99, 10.0, 11.0, 30.0, 140.0, 250.0};
    for (size_t i = 0; i < sizeof small_means / sizeof small_means[0]; i++)
        test_poisson_law(small_means[i]);
    const double large_means[] = {1e3, 1e5, 0.99e8, 1.01e8, 1e12};
    for (size_t i = 0; i < sizeof large_means / sizeof large_means[0]; i++)
        test_poisson_moments(large_means[i]);
    test_poisson_extremes();
    test_refused_configurations();
    test_pure_function();
    test_dark();
    test_ewald();
    test_default_is_sparse();
    test_drawn_spots(nominal);
    test_drawn_spots(0.2 * nominal);
    const double backgrounds[] = {0.3, 3, 20, 90, 400};
    for (size_t i = 0; i < sizeof backgrounds / sizeof backgrounds[0]; i++)
        test_background(backgrounds[i]);
    test_saturation();
    test_other_cells();
    if (failures)
        fprintf(stderr, "%d checks failed\n", failures);
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
