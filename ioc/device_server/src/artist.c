#include "artist.h"

#include <stdlib.h>
#include <string.h>

#include "canvas.h"
#include "geometry.h"
#include "saxs.h"
#include "speckle.h"
#include "stills_draw.h"

const char *const detector_mode_names[MODE_COUNT] = {"still", "saxs", "speckle"};

struct artist {
    struct radial_map *map;
    struct stills *stills;
    struct stills_artist *stills_artist;
    struct saxs saxs;
    struct speckle *speckle;
    struct canvas canvas;
    uint64_t batch;
    unsigned kept_count, turn;
    struct drawn_frame kept[PRELOAD_MAX];
};

struct artist *artist_new(const struct config *config)
{
    struct artist *a = calloc(1, sizeof *a);
    if (a == NULL)
        return NULL;
    a->map = radial_map_new(&config->geometry);
    a->stills = stills_new(&config->stills, &config->geometry);
    bool good = a->map != NULL && a->stills != NULL
                && (a->stills_artist = stills_artist_new(a->stills, a->map)) != NULL
                && saxs_init(&a->saxs, &config->saxs, a->map)
                && (a->speckle = speckle_new(&config->speckle, &a->saxs)) != NULL
                && canvas_init(&a->canvas, a->map->pixels);
    if (good)
        return a;
    artist_free(a);
    return NULL;
}

static void forget(struct artist *a)
{
    for (unsigned i = 0; i < a->kept_count; i++)
        free((void *)a->kept[i].data);
    a->kept_count = a->turn = 0;
}

void artist_free(struct artist *artist)
{
    if (artist == NULL)
        return;
    forget(artist);
    canvas_free(&artist->canvas);
    speckle_free(artist->speckle);
    saxs_free(&artist->saxs);
    stills_artist_free(artist->stills_artist);
    stills_free(artist->stills);
    radial_map_free(artist->map);
    free(artist);
}

const struct radial_map *artist_map(const struct artist *artist)
{
    return artist->map;
}

static struct drawn_frame draw(struct artist *a, const struct frame_order *order)
{
    struct drawn_frame frame = {.frame = order->shot.frame};
    canvas_begin(&a->canvas, order->sparse);
    switch (order->mode) {
    case MODE_SAXS: saxs_draw(&a->saxs, &order->shot, &a->canvas); break;
    case MODE_SPECKLE: speckle_draw(a->speckle, &order->shot, &a->canvas); break;
    default:
        stills_draw(a->stills_artist, &order->shot, a->canvas.image);
        canvas_list_photons(&a->canvas);
    }
    frame.data = canvas_bytes(&a->canvas, &frame.bytes);
    frame.overflow = a->canvas.overflow;
    return frame;
}

struct drawn_frame artist_draw(struct artist *artist, const struct frame_order *order)
{
    if (order->batch != artist->batch)
        forget(artist);
    artist->batch = order->batch;
    if (order->preload > 0 && artist->kept_count == order->preload)
        return artist->kept[artist->turn++ % order->preload];
    struct drawn_frame frame = draw(artist, order);
    if (order->preload == 0)
        return frame;
    void *copy = malloc(frame.bytes > 0 ? frame.bytes : 1);
    if (copy == NULL)
        return frame;
    memcpy(copy, frame.data, frame.bytes);
    frame.data = copy;
    artist->kept[artist->kept_count++] = frame;
    return frame;
}
