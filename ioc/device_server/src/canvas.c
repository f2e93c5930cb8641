#include "canvas.h"

#include <stdlib.h>
#include <string.h>

bool canvas_init(struct canvas *canvas, size_t pixels)
{
    *canvas = (struct canvas){.pixels = pixels, .event_max = pixels < 2 ? 1 : pixels / 2};
    canvas->image = calloc(pixels, sizeof *canvas->image);
    canvas->events = calloc(canvas->event_max, sizeof *canvas->events);
    return canvas->image != NULL && canvas->events != NULL;
}

void canvas_free(struct canvas *canvas)
{
    free(canvas->image);
    free(canvas->events);
    *canvas = (struct canvas){0};
}

void canvas_begin(struct canvas *canvas, bool sparse)
{
    canvas->sparse = sparse;
    canvas->event_count = 0;
    canvas->overflow = false;
}

void canvas_begin_photons(struct canvas *canvas)
{
    if (!canvas->sparse)
        memset(canvas->image, 0, canvas->pixels * sizeof *canvas->image);
}

void canvas_list_photons(struct canvas *canvas)
{
    if (!canvas->sparse)
        return;
    for (size_t pixel = 0; pixel < canvas->pixels && !canvas->overflow; pixel++)
        for (unsigned n = canvas->image[pixel]; n > 0; n--)
            canvas_photon(canvas, pixel);
}

static void to_little_endian(void *items, size_t count, size_t size)
{
    const union {
        uint16_t word;
        unsigned char bytes[2];
    } probe = {1};
    if (probe.bytes[0] == 1)
        return;
    for (unsigned char *at = items; count > 0; count--, at += size)
        for (size_t i = 0; i < size / 2; i++) {
            unsigned char byte = at[i];
            at[i] = at[size - 1 - i];
            at[size - 1 - i] = byte;
        }
}

const void *canvas_bytes(struct canvas *canvas, size_t *bytes)
{
    void *items = canvas->sparse ? (void *)canvas->events : canvas->image;
    size_t count = canvas->sparse ? canvas->event_count : canvas->pixels;
    size_t size = canvas->sparse ? sizeof *canvas->events : sizeof *canvas->image;
    to_little_endian(items, count, size);
    *bytes = count * size;
    return items;
}
