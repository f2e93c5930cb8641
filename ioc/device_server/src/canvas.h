/* What a frame is drawn on: pixels, or a list of single photons. */
#ifndef BEAMLINE_CANVAS_H
#define BEAMLINE_CANVAS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct canvas {
    size_t pixels;
    uint16_t *image;      /* photons per pixel, at most 65535 */
    uint32_t *events;     /* pixel of each photon, ascending */
    size_t event_count, event_max;
    bool sparse;          /* the frame that is being drawn is wanted as events */
    bool overflow;        /* it had more photons than event_max; the last ones are left out */
};

/* False if memory runs out. Holds up to pixels / 2 events (1 at least), so that a frame takes the
 * same memory either way. */
bool canvas_init(struct canvas *canvas, size_t pixels);
void canvas_free(struct canvas *canvas);

/* Begin a frame. It is drawn in one of two ways: photon by photon in ascending order of pixels, after
 * canvas_begin_photons; or by setting every pixel of `image`, before canvas_list_photons. */
void canvas_begin(struct canvas *canvas, bool sparse);
void canvas_begin_photons(struct canvas *canvas);
void canvas_list_photons(struct canvas *canvas);

/* The finished frame in the byte order of the wire, little-endian; call once. */
const void *canvas_bytes(struct canvas *canvas, size_t *bytes);

static inline void canvas_photon(struct canvas *canvas, size_t pixel)
{
    if (!canvas->sparse)
        canvas->image[pixel] = (uint16_t)(canvas->image[pixel] + (canvas->image[pixel] < UINT16_MAX));
    else if (canvas->event_count < canvas->event_max)
        canvas->events[canvas->event_count++] = (uint32_t)pixel;
    else
        canvas->overflow = true;
}

#endif
