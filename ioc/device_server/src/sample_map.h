/* Sample maps: how much of a sample there is at each place, as an image that is laid over it.
 *
 * A map is a PGM file (P2 or P5). Its pixels are the thickness relative to the sample's table, the
 * greatest value of the file meaning all of it. Columns go with the motor SAMPLE:X and rows with
 * SAMPLE:Y, so that a mesh scan with a rising X and Y shows the file as it is stored. */
#ifndef BEAMLINE_SAMPLE_MAP_H
#define BEAMLINE_SAMPLE_MAP_H

#include <stdbool.h>

#include "config.h"

enum { MAP_PIXELS_MAX = 65536 };

struct sample_map {
    char *file;    /* as the table names it; NULL without a map */
    int nx, ny, full;
    unsigned short *pixel; /* ny rows of nx */
};

/* The beam on the map: where it is from the middle, how wide, on which size; all in um. */
struct map_view {
    double x, y, fwhm_x, fwhm_y, width, height;
};

/* What becomes of a beam: fractions of it that go on in its direction, that are absorbed, and that
 * matter scatters and lets out, were it to scatter all. */
struct passage {
    double onward, absorbed, scattered;
};

/* Load the file `name`, which is relative to the folder of the file `beside`. On failure returns
 * false with the reason, and sample_map_free is right in either case. */
bool sample_map_load(struct sample_map *map, const char *name, const char *beside,
                     char why[MESSAGE_MAX]);
void sample_map_free(struct sample_map *map);

/* Send the beam through; full thickness absorbs `mut`. Structure finer than a fifteenth of the
 * beam's width is averaged. */
struct passage sample_map_pass(const struct sample_map *map, const struct map_view *view,
                               double mut);

#endif
