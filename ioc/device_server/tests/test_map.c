/* Sample maps: what is loaded, what is refused, and what the beam sees of them. */
#include "../src/response.h"
#include "../src/sample_map.h"
#include "check.h"
#include "table.h"

static struct sample_map map;
static char why[MESSAGE_MAX];

static bool load(const void *bytes, size_t length)
{
    char path[] = "/tmp/beamline-map-XXXXXX";
    int descriptor = mkstemp(path);
    if (descriptor < 0 || write(descriptor, bytes, length) != (ssize_t)length)
        exit(EXIT_FAILURE);
    close(descriptor);
    sample_map_free(&map);
    bool good = sample_map_load(&map, strrchr(path, '/') + 1, "/tmp/some.table", why);
    unlink(path);
    return good;
}

static void test_files(void)
{
    const char plain[] = "P2\n# a comment\n3 2 # another\n9\n0 1 2\n3 4 9\n";
    CHECK(load(plain, strlen(plain)), "%s", why);
    CHECK(map.nx == 3 && map.ny == 2 && map.full == 9, "%d %d %d", map.nx, map.ny, map.full);
    const unsigned short expected[] = {0, 1, 2, 3, 4, 9};
    CHECK(memcmp(map.pixel, expected, sizeof expected) == 0, "pixels");
    const char raw[] = "P5 3 2 255\n\x00\x01\x02\x03\x04\xff";
    CHECK(load(raw, sizeof raw - 1) && map.pixel[5] == 255 && map.pixel[1] == 1, "%s", why);
    const char wide[] = "P5 1 2 1000\n\x03\xe8\x00\x01";
    CHECK(load(wide, sizeof wide - 1) && map.pixel[0] == 1000 && map.pixel[1] == 1, "%s", why);
    const char *const wrong[] = {"", "P2", "P6 1 1 1\n1", "P2 0 1 1\n", "P2 1 1 0\n0",
                                 "P2 1 1 70000\n0", "P2 2 1 9\n1", "P2 1 1 9\n10", "P2 1 1 9\n-1",
                                 "P2 257 256 9\n", "P2 99999999999 1 9\n", "P2 1 1 9\nx", "P5 1 1 9\n",
                                 "#"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(!load(wrong[i], strlen(wrong[i])) && strstr(why, "/tmp/beamline-map-") != NULL,
              "'%s' is taken (%s)", wrong[i], why);
    sample_map_free(&map);
    CHECK(!sample_map_load(&map, "no-such.pgm", "/tmp/x.table", why)
              && strstr(why, "/tmp/no-such.pgm") != NULL, "%s", why);
    sample_map_free(&map);
}

/* The same by brute force: sums over a fine grid of the beam. */
static double brute_onward(const struct map_view *v, double mut)
{
    double sum = 0, norm = 0, sx = v->fwhm_x / 2.3548200450309493, sy = v->fwhm_y / 2.3548200450309493;
    for (double y = -4.9875 * sy; y < 5 * sy; y += sy / 40)
        for (double x = -4.9875 * sx; x < 5 * sx; x += sx / 40) {
            double weight = exp(-0.5 * (x * x / (sx * sx) + y * y / (sy * sy)));
            int i = (int)floor((v->x + x + 0.5 * v->width) / v->width * map.nx);
            int j = (int)floor((v->y + y + 0.5 * v->height) / v->height * map.ny);
            double c = i < 0 || j < 0 || i >= map.nx || j >= map.ny
                           ? 0 : (double)map.pixel[j * map.nx + i] / map.full;
            sum += weight * exp(-mut * c);
            norm += weight;
        }
    return sum / norm;
}

static void test_beam(void)
{
    const char plain[] = "P2 4 3 10\n0 2 4 6\n10 8 0 0\n1 1 1 10\n";
    CHECK(load(plain, strlen(plain)), "%s", why);
    struct map_view view = {.fwhm_x = 50, .fwhm_y = 30, .width = 200, .height = 120};
    for (view.y = -80; view.y <= 80; view.y += 20)
        for (view.x = -130; view.x <= 130; view.x += 26) {
            struct passage p = sample_map_pass(&map, &view, 1.5);
            CHECK_NEAR(p.onward, brute_onward(&view, 1.5), 3e-3);
            CHECK_NEAR(p.onward + p.absorbed, 1, 1e-12);
        }
    /* With one full pixel it is a foil. */
    CHECK(load("P2 1 1 7\n7", 10), "%s", why);
    view.x = 90;
    view.y = 0;
    struct passage foil = sample_map_pass(&map, &view, 1.5);
    double hit = 0.5 * (erf(10 * 2.3548200450309493 / 50 / sqrt(2)) + 1)
                 * erf(60 * 2.3548200450309493 / 30 / sqrt(2));
    CHECK_NEAR(foil.onward, 1 - hit * (1 - exp(-1.5)), 1e-6);
    CHECK_NEAR(foil.scattered, hit * exp(-1.5), 1e-6);
    view.x = 1e4;
    CHECK_NEAR(sample_map_pass(&map, &view, 1.5).onward, 1, 0);
    sample_map_free(&map);
}

static void test_pixels_finer_than_the_beam(void)
{
    /* 256 x 256 alternating pixels within the beam: half thickness everywhere. */
    static char text[600000];
    size_t length = (size_t)sprintf(text, "P2 256 256 1\n");
    for (int i = 0; i < 65536; i++)
        length += (size_t)sprintf(text + length, "%d\n", (i + i / 256) % 2);
    CHECK(load(text, length), "%s", why);
    const struct map_view view = {.fwhm_x = 50, .fwhm_y = 50, .width = 256, .height = 256};
    CHECK_NEAR(sample_map_pass(&map, &view, 1).onward, exp(-0.5), 1e-6);
    sample_map_free(&map);
}

static void test_table_with_a_map(void)
{
    char message[MESSAGE_MAX], table[1024];
    struct sample sample;
    snprintf(table, sizeof table, "# map: no-such.pgm\n%s", copper);
    const char *path = write_table(table);
    CHECK(!sample_load(&sample, path, message) && strstr(message, "/tmp/no-such.pgm") != NULL, "%s",
          message);
    unlink(path);
}

int main(void)
{
    test_files();
    test_beam();
    test_pixels_finer_than_the_beam();
    test_table_with_a_map();
    return check_status();
}
