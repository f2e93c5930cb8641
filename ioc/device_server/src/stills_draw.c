#include "stills_draw.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "constants.h"
#include "poisson_table.h"
#include "rng.h"

enum {
    RINGS = 256,    /* radial steps of the background */
    PATCH_MAX = 64, /* largest side of a drawn spot, px */
};

/* Random streams of a frame. */
enum { STREAM_BACKGROUND, STREAM_SPOTS };

struct stills_artist {
    const struct stills *stills;
    const struct radial_map *map;
    int ring_shift; /* bins of the map per ring, as a power of two */
    double sigma;   /* px */
    struct poisson_table tables[RINGS];
};

struct stills_artist *stills_artist_new(const struct stills *stills, const struct radial_map *map)
{
    struct stills_artist *a = calloc(1, sizeof *a);
    if (a == NULL)
        return NULL;
    a->stills = stills;
    a->map = map;
    a->sigma = stills_settings(stills)->spot_fwhm_px / FWHM_PER_SIGMA;
    while (map->bins >> a->ring_shift > RINGS)
        a->ring_shift++;
    return a;
}

void stills_artist_free(struct stills_artist *artist)
{
    free(artist);
}

static void draw_background(struct stills_artist *a, const struct shot *shot, double scale,
                            uint16_t *image)
{
    double ring_px = a->map->step_px * (1 << a->ring_shift);
    for (int i = 0; i < RINGS; i++) {
        double mean = scale * stills_background(a->stills, (i + 0.5) * ring_px, shot->energy);
        if (mean != a->tables[i].mean || a->tables[i].bits == 0)
            poisson_table_build(&a->tables[i], mean);
    }
    struct rng rng;
    stills_stream(a->stills, shot, STREAM_BACKGROUND, &rng);
    uint64_t bits = 0;
    for (size_t i = 0; i < a->map->pixels; i++) {
        const struct poisson_table *t = &a->tables[a->map->bin[i] >> a->ring_shift];
        bits = i & 1 ? bits >> 32 : rng_next(&rng);
        uint64_t n = t->bits > 0 ? poisson_table_draw(t, (uint32_t)bits)
                                 : rng_poisson(&rng, t->mean);
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

static void draw_spot(const struct stills_artist *a, const struct stills_spot *spot,
                      struct rng *rng, uint16_t *image)
{
    const struct geometry *g = &a->map->geometry;
    int reach = (int)(4.5 * a->sigma + 1.0);
    int x0 = (int)floor(spot->x + 0.5) - reach, y0 = (int)floor(spot->y + 0.5) - reach;
    int n = 2 * reach + 1;
    double across[PATCH_MAX], down[PATCH_MAX];
    profile(across, x0, n, spot->x, a->sigma);
    profile(down, y0, n, spot->y, a->sigma);
    for (int j = 0; j < n; j++)
        for (int i = 0; i < n; i++) {
            int fs, ss, panel = geometry_panel(g, x0 + i, y0 + j, &fs, &ss);
            if (panel < 0)
                continue;
            size_t row = (size_t)panel * (size_t)g->ny + (size_t)ss;
            uint16_t *pixel = &image[row * (size_t)g->nx + (size_t)fs];
            uint64_t total = *pixel + rng_poisson(rng, spot->photons * across[i] * down[j]);
            *pixel = total < UINT16_MAX ? (uint16_t)total : UINT16_MAX;
        }
}

/* Whether any of the spot can fall on the detector, also from outside or from a gap. */
static bool is_near(const struct stills_artist *a, const struct stills_spot *spot)
{
    const struct geometry *g = &a->map->geometry;
    double reach = 5.0 * a->sigma + 1.0;
    double right = (double)geometry_columns(g) * (g->nx + g->gap_px);
    double bottom = (double)geometry_rows(g) * (g->ny + g->gap_px);
    return spot->x >= -reach && spot->x <= right + reach && spot->y >= -reach
           && spot->y <= bottom + reach;
}

void stills_draw(struct stills_artist *artist, const struct shot *shot, uint16_t *image)
{
    if (!shot_has_light(shot)) {
        memset(image, 0, artist->map->pixels * sizeof *image);
        return;
    }
    struct stills_walk walk;
    struct stills_spot spot;
    struct rng rng;
    stills_walk_start(artist->stills, shot, &walk);
    draw_background(artist, shot, walk.scale, image);
    stills_stream(artist->stills, shot, STREAM_SPOTS, &rng);
    while (stills_walk_next(artist->stills, &walk, &spot))
        if (is_near(artist, &spot))
            draw_spot(artist, &spot, &rng, image);
}
