/* Random numbers and crystal stills, checked against theory and an Ewald construction of its own. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/rng.h"
#include "../src/geometry.h"
#include "../src/stills_draw.h"

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

#define SHOT(number, eV, light) \
    (&(struct shot){.frame = (number), .energy = (eV), .photons = (light), .coverage = 1.0})

/* A crystal, its detector and whoever draws them. */
struct scene {
    struct stills_config config;
    struct geometry geometry;
    struct radial_map *map;
    struct stills *stills;
    struct stills_artist *artist;
};

static struct scene settings(void)
{
    struct scene scene = {0};
    stills_default(&scene.config);
    geometry_default(&scene.geometry);
    geometry_complete(&scene.geometry);
    return scene;
}

static void set_up(struct scene *scene)
{
    scene->map = radial_map_new(&scene->geometry);
    scene->stills = stills_new(&scene->config, &scene->geometry);
    if (scene->map == NULL || scene->stills == NULL)
        abort();
    scene->artist = stills_artist_new(scene->stills, scene->map);
    if (scene->artist == NULL)
        abort();
}

static struct scene default_scene(uint64_t seed)
{
    struct scene scene = settings();
    scene.config.seed = seed;
    set_up(&scene);
    return scene;
}

static void tear_down(struct scene *scene)
{
    stills_artist_free(scene->artist);
    stills_free(scene->stills);
    radial_map_free(scene->map);
}

static void draw(struct scene *scene, uint64_t frame, double energy, double photons,
                 uint16_t *pixels)
{
    stills_draw(scene->artist, SHOT(frame, energy, photons), pixels);
}

static int list_spots(const struct scene *scene, uint64_t frame, double energy, double photons)
{
    return stills_spots(scene->stills, SHOT(frame, energy, photons), spots, MAX_SPOTS);
}

static void test_refused_configurations(void)
{
    struct stills_config good;
    struct geometry detector;
    stills_default(&good);
    geometry_default(&detector);
    CHECK(stills_new(&good, &detector) == NULL, "built without a beam centre");
    geometry_complete(&detector);
    CHECK(stills_check(&good) == NULL, "%s", stills_check(&good));
#define REFUSED(field, value)                                                                     \
    do {                                                                                          \
        struct stills_config bad = good;                                                          \
        bad.field = (value);                                                                      \
        CHECK(stills_check(&bad) != NULL, "accepted " #field " = " #value);                       \
        CHECK(stills_new(&bad, &detector) == NULL, "built " #field " = " #value);                            \
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
    REFUSED(hit_probability, 1.1);
    REFUSED(hit_probability, NAN);
    REFUSED(orientation, 2);
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

static void test_refused_detectors(void)
{
    struct geometry good;
    geometry_default(&good);
    geometry_complete(&good);
    CHECK(geometry_check(&good) == NULL, "%s", geometry_check(&good));
    CHECK(good.beam_x == 258.4 && good.beam_y == 251.7, "centre %.17g %.17g", good.beam_x,
          good.beam_y);
#define REFUSED(field, value)                                                                     \
    do {                                                                                          \
        struct geometry bad = good;                                                               \
        bad.field = (value);                                                                      \
        CHECK(geometry_check(&bad) != NULL, "accepted " #field " = " #value);                     \
    } while (0)
    REFUSED(distance_m, 0);
    REFUSED(pixel_m, -1);
    REFUSED(nx, 0);
    REFUSED(ny, -1);
    REFUSED(nx, 1 << 30);
    REFUSED(panels, 0);
    REFUSED(panels, 257);
    REFUSED(gap_px, -1);
    REFUSED(beam_x, INFINITY);
    REFUSED(beam_y, NAN);
#undef REFUSED
    struct geometry large = good;
    large.nx = large.ny = 8192;
    large.panels = 2;
    CHECK(geometry_check(&large) != NULL, "accepted 134 million pixels");
}

static void test_panels(void)
{
    struct geometry g;
    geometry_default(&g);
    g.nx = 7;
    g.ny = 5;
    g.gap_px = 2;
    const int arrangements[][3] = {{1, 1, 1}, {2, 2, 1}, {3, 2, 2}, {4, 2, 2}, {5, 3, 2},
                                   {9, 3, 3}, {16, 4, 4}, {17, 5, 4}};
    for (size_t i = 0; i < sizeof arrangements / sizeof *arrangements; i++) {
        g.panels = arrangements[i][0];
        CHECK(geometry_columns(&g) == arrangements[i][1] && geometry_rows(&g) == arrangements[i][2],
              "%d panels: %d x %d", g.panels, geometry_columns(&g), geometry_rows(&g));
    }
    g.panels = 5;
    int seen = 0, fs, ss;
    for (int y = -3; y < 20; y++)
        for (int x = -3; x < 40; x++) {
            int corner[2], panel = geometry_panel(&g, x, y, &fs, &ss);
            if (panel < 0)
                continue;
            seen++;
            geometry_corner(&g, panel, corner);
            CHECK(panel < 5 && corner[0] + fs == x && corner[1] + ss == y && fs < 7 && ss < 5,
                  "(%d, %d) is (%d, %d) of %d", x, y, fs, ss, panel);
        }
    CHECK(seen == 5 * 7 * 5, "%d pixels", seen);
}

/* A stack shows what one large panel of its outline shows, but for the gaps. */
static void test_stack(void)
{
    enum { PART = 250, GAP = 12 };
    struct scene whole = default_scene(1), stack = settings();
    stack.geometry.nx = stack.geometry.ny = PART;
    stack.geometry.panels = 4;
    stack.geometry.gap_px = GAP;
    stack.geometry.beam_x = whole.geometry.beam_x;
    stack.geometry.beam_y = whole.geometry.beam_y;
    set_up(&stack);
    int all = list_spots(&whole, 3, 9500, nominal), on_panels = 0;
    static struct stills_spot found[MAX_SPOTS];
    memcpy(found, spots, (size_t)all * sizeof *found);
    int count = list_spots(&stack, 3, 9500, nominal), edge = PART + GAP;
    for (int i = 0; i < all; i++) {
        int x = (int)lround(found[i].fs), y = (int)lround(found[i].ss);
        on_panels += x % edge < PART && y % edge < PART;
    }
    CHECK(count == on_panels && count < all, "%d of %d spots on panels, not %d", count, all,
          on_panels);
    double expected = 0, seen = 0;
    for (int i = 0; i < count; i++)
        CHECK(fabs(spots[i].fs + spots[i].panel % 2 * edge - spots[i].x) < 1e-9
                  && fabs(spots[i].ss + spots[i].panel / 2 * edge - spots[i].y) < 1e-9,
              "spot %d of panel %d at %g, %g is not at %g, %g", i, spots[i].panel, spots[i].fs,
              spots[i].ss, spots[i].x, spots[i].y);
    for (int panel = 0; panel < 4; panel++) {
        draw(&stack, 3, 9500, nominal, image);
        draw(&whole, 3, 9500, nominal, other);
        for (int y = 0; y < PART; y++)
            for (int x = 0; x < PART; x++) {
                seen += image[(panel * PART + y) * PART + x];
                expected += other[(panel / 2 * edge + y) * SIDE + panel % 2 * edge + x];
            }
        CHECK(fabs(seen - expected) < 6 * sqrt(2 * expected), "panel %d: %g photons of %g", panel,
              seen, expected);
    }
    tear_down(&whole);
    tear_down(&stack);
}

static void test_hits(void)
{
    enum { FRAMES = 2000 };
    struct scene s = settings();
    s.config.hit_probability = 0.3;
    set_up(&s);
    int hits = 0;
    for (uint64_t frame = 0; frame < FRAMES; frame++) {
        bool hit = stills_hit(s.stills, SHOT(frame, 9500, nominal));
        hits += hit;
        if (frame < 100)
            CHECK((list_spots(&s, frame, 9500, nominal) > 0) == hit, "frame %d", (int)frame);
    }
    CHECK(fabs(hits - 0.3 * FRAMES) < 5 * sqrt(0.21 * FRAMES), "%d hits", hits);
    int thin = 0;
    for (uint64_t frame = 0; frame < FRAMES; frame++) {
        struct shot shot = *SHOT(frame, 9500, nominal);
        shot.coverage = 0.5;
        thin += stills_hit(s.stills, &shot);
        shot.coverage = 0.0;
        CHECK(!stills_hit(s.stills, &shot), "frame %d hits without a sample", (int)frame);
    }
    CHECK(fabs(thin - 0.15 * FRAMES) < 5 * sqrt(0.1275 * FRAMES), "%d hits at half thickness", thin);
    tear_down(&s);
}

/* The given orientation: the crystal turns with the sample about the vertical axis. */
static void test_theta(void)
{
    struct scene s = settings();
    s.config.orientation = ORIENTATION_THETA;
    set_up(&s);
    double at0[9], at30[9];
    struct shot shot = {.frame = 5, .energy = 9500, .photons = nominal, .coverage = 1.0};
    stills_orientation(s.stills, &shot, at0);
    shot.frame = 77;
    shot.theta = 30;
    stills_orientation(s.stills, &shot, at30);
    const double turn[9] = {cos(pi / 6), 0, sin(pi / 6), 0, 1, 0, -sin(pi / 6), 0, cos(pi / 6)};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            double expected = 0;
            for (int m = 0; m < 3; m++)
                expected += turn[3 * i + m] * at0[3 * m + j];
            CHECK(fabs(at30[3 * i + j] - expected) < 1e-12, "%d %d: %g", i, j, at30[3 * i + j]);
        }
    tear_down(&s);
}

static void test_pure_function(void)
{
    struct scene a = default_scene(1), b = default_scene(1), c = default_scene(2);
    draw(&a, 5, 9500, nominal, image);
    draw(&b, 0, 12000, 3 * nominal, other);
    CHECK(memcmp(image, other, sizeof image) != 0, "different frames are equal");
    draw(&b, 4, 9500, nominal, other);
    CHECK(memcmp(image, other, sizeof image) != 0, "neighbouring frames are equal");
    draw(&b, 5, 9500, nominal, other);
    CHECK(memcmp(image, other, sizeof image) == 0, "frame 5 depends on what was drawn before");
    draw(&c, 5, 9500, nominal, other);
    CHECK(memcmp(image, other, sizeof image) != 0, "the seed makes no difference");
    tear_down(&a);
    tear_down(&b);
    tear_down(&c);
}

static void test_dark(void)
{
    struct scene s = default_scene(1);
    const double dark[][2] = {{9500, 0},      {9500, -1},       {9500, NAN}, {0, nominal},
                              {-1, nominal},  {NAN, nominal},   {9500, INFINITY}};
    for (size_t i = 0; i < sizeof dark / sizeof dark[0]; i++) {
        memset(image, 0xff, sizeof image);
        draw(&s, 1, dark[i][0], dark[i][1], image);
        long sum = 0;
        for (int j = 0; j < SIDE * SIDE; j++)
            sum += image[j];
        CHECK(sum == 0, "case %d has %ld counts", (int)i, sum);
        CHECK(list_spots(&s, 1, dark[i][0], dark[i][1]) == 0, "case %d", (int)i);
    }
    tear_down(&s);
}

/* The Ewald construction the other way round: from positions back to Miller indices, and from
 * partialities back to structure factors. Lattice and orientation have to explain every spot. */
static void test_ewald(void)
{
    enum { H = 40 };
    static double seen[H][H][H];
    memset(seen, 0, sizeof seen);
    struct scene s = settings();
    set_up(&s);
    double sum = 0;
    int count = 0, repeats = 0;
    for (uint64_t frame = 0; frame < 200; frame++) {
        double energy = 9000 + 15.0 * (double)frame, k = energy / hc, r[9];
        stills_orientation(s.stills, SHOT(frame, energy, nominal), r);
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++) {
                double dot = 0;
                for (int m = 0; m < 3; m++)
                    dot += r[3 * i + m] * r[3 * j + m];
                CHECK(fabs(dot - (i == j)) < 1e-12, "not a rotation: %g", dot);
            }
        int n = list_spots(&s, frame, energy, nominal);
        for (int i = 0; i < n; i++) {
            const struct stills_spot *p = &spots[i];
            double x = (p->fs - s.geometry.beam_x) * s.geometry.pixel_m;
            double y = (p->ss - s.geometry.beam_y) * s.geometry.pixel_m, z = s.geometry.distance_m;
            double length = sqrt(x * x + y * y + z * z);
            double q[3] = {k * x / length, k * y / length, k * z / length - k};
            double crystal[3], edge[3] = {s.config.a, s.config.b, s.config.c};
            int hkl[3] = {p->h, p->k, p->l};
            double g2 = 0;
            for (int j = 0; j < 3; j++) {
                crystal[j] = r[j] * q[0] + r[3 + j] * q[1] + r[6 + j] * q[2];
                CHECK(fabs(crystal[j] - hkl[j] / edge[j]) < 8e-4, "frame %d: %g is not %d",
                      (int)frame, crystal[j] * edge[j], hkl[j]);
                g2 += hkl[j] / edge[j] * hkl[j] / edge[j];
            }
            double d = 1 / sqrt(g2);
            CHECK(d >= s.config.resolution - 1e-6 && d <= s.config.low_resolution + 1e-3,
                  "d = %g", d);

            double outward[3] = {0, 0, k};
            for (int j = 0; j < 3; j++)
                for (int m = 0; m < 3; m++)
                    outward[j] += r[3 * j + m] * hkl[m] / edge[m];
            double miss = sqrt(outward[0] * outward[0] + outward[1] * outward[1]
                               + outward[2] * outward[2])
                          - k;
            double radius = s.config.profile_radius + s.config.mosaicity * pi / 180 / d;
            double partiality = 1 - miss * miss / (radius * radius);
            CHECK(partiality > -1e-3, "a spot that is not excited: %g", partiality);
            if (partiality < 0.3)
                continue; /* rounding of the excitation error would show */
            double full = p->photons / partiality / s.config.spot_photons
                          * exp(0.5 * s.config.b_factor * g2);
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
    tear_down(&s);
}

static void test_default_is_sparse(void)
{
    struct scene s = default_scene(1);
    const double energies[] = {9000, 10500, 12000};
    for (int e = 0; e < 3; e++) {
        int visible = 0;
        double nearest = 1e9;
        for (uint64_t frame = 0; frame < 50; frame++) {
            int n = list_spots(&s, frame, energies[e], nominal);
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
    int all = list_spots(&s, 0, 9500, nominal);
    struct stills_spot few[3];
    CHECK(stills_spots(s.stills, SHOT(0, 9500, nominal), few, 3) == all, "a short array changes the count");
    CHECK(memcmp(&few[2].fs, &spots[2].fs, sizeof few[2].fs) == 0, "a short array differs");
    CHECK(stills_spots(s.stills, SHOT(0, 9500, nominal), NULL, 0) == all, "no array changes the count");
    tear_down(&s);
}

/* What is drawn is what the list promises: counts, linearity, centres. */
static void test_drawn_spots(double photons)
{
    struct scene s = settings();
    s.config.background_photons = 0;
    set_up(&s);
    double expected = 0, found = 0, dx = 0, dy = 0, wide = 0;
    int n_used = 0;
    for (uint64_t frame = 0; frame < 40; frame++) {
        draw(&s, frame, 9500, photons, image);
        int n = list_spots(&s, frame, 9500, photons);
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
    CHECK(fabs(fwhm - s.config.spot_fwhm_px) < 0.02, "width %g", fwhm);
    tear_down(&s);
}

/* Background: Poisson in every pixel, proportional to the light, whichever generator drew it. */
static void test_background(double photons_per_pixel)
{
    enum { N = 16, FRAMES = 3000 };
    struct scene s = settings();
    s.geometry.nx = s.geometry.ny = N;
    s.geometry.beam_x = -150;
    s.config.spot_photons = 0;
    set_up(&s);
    double photons = nominal * photons_per_pixel / s.config.background_photons;
    static double sum[N * N], square[N * N];
    static uint16_t small[N * N];
    memset(sum, 0, sizeof sum);
    memset(square, 0, sizeof square);
    for (uint64_t frame = 0; frame < FRAMES; frame++) {
        draw(&s, frame, 9500, photons, small);
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
    tear_down(&s);
}

static void test_saturation(void)
{
    struct scene s = default_scene(1);
    draw(&s, 3, 9500, 1e13, image);
    int n = list_spots(&s, 3, 9500, 1e13), checked = 0;
    for (int i = 0; i < n; i++)
        if (spots[i].visible && spots[i].photons > 6e5) {
            int x = (int)lround(spots[i].fs), y = (int)lround(spots[i].ss);
            CHECK(image[y * SIDE + x] == UINT16_MAX, "%g photons: pixel %d", spots[i].photons,
                  image[y * SIDE + x]);
            checked++;
        }
    CHECK(checked > 0, "nothing bright enough");
    draw(&s, 3, 9500, 1e300, image);
    /* Outside the shadow of the beam stop. */
    CHECK(image[0] == UINT16_MAX && image[SIDE * SIDE - 1] == UINT16_MAX, "a flood wraps round");
    tear_down(&s);
}

static void test_other_cells(void)
{
    struct scene s = settings();
    s.config.a = 40;
    s.config.b = 55;
    s.config.c = 70;
    s.config.alpha = 80;
    s.config.beta = 95;
    s.config.gamma = 110;
    set_up(&s);
    int n = list_spots(&s, 1, 9500, nominal);
    CHECK(n > 10, "%d spots", n);
    double r[9], k = 9500 / hc, rad = pi / 180;
    stills_orientation(s.stills, SHOT(1, 9500, nominal), r);
    /* Real-space axes as the header states them: q . a = h, q . b = k, q . c = l. */
    double ca = cos(80 * rad), cb = cos(95 * rad), cg = cos(110 * rad), sg = sin(110 * rad);
    double cy = (ca - cb * cg) / sg;
    double axes[3][3] = {{40, 0, 0},
                         {55 * cg, 55 * sg, 0},
                         {70 * cb, 70 * cy, 70 * sqrt(1 - cb * cb - cy * cy)}};
    for (int i = 0; i < n; i++) {
        double x = (spots[i].fs - s.geometry.beam_x) * s.geometry.pixel_m;
        double y = (spots[i].ss - s.geometry.beam_y) * s.geometry.pixel_m, z = s.geometry.distance_m;
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
    tear_down(&s);
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
    test_refused_detectors();
    test_panels();
    test_stack();
    test_hits();
    test_theta();
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
