/* Draws frames of every mode: what the renderer's thread does. */
#ifndef BEAMLINE_ARTIST_H
#define BEAMLINE_ARTIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config.h"
#include "shot.h"

enum { PRELOAD_MAX = 1024 };

enum detector_mode { MODE_STILL, MODE_SAXS, MODE_SPECKLE, MODE_COUNT };

extern const char *const detector_mode_names[MODE_COUNT];

struct frame_order {
    enum detector_mode mode;
    bool sparse;
    struct shot shot;
    /* 0: draw it. n: the first n orders of a batch are drawn and kept, the next ones repeat them in
     * turn. A batch ends with an order of another batch number. */
    unsigned preload;
    uint64_t batch;
};

struct drawn_frame {
    const void *data; /* valid until the next order; NULL while it is being drawn */
    size_t bytes;
    uint64_t frame;   /* number of the shot that it shows: an earlier one if it was kept */
    bool overflow;    /* more photons than events have room for */
};

struct artist;

/* NULL if memory runs out. */
struct artist *artist_new(const struct config *config);
void artist_free(struct artist *artist);

const struct radial_map *artist_map(const struct artist *artist);

/* Draw a frame, or take a kept one. Allocates only to keep a frame; without memory for that it is
 * drawn every time. */
struct drawn_frame artist_draw(struct artist *artist, const struct frame_order *order);

#endif
