/* A thread that draws detector frames, so that drawing delays nobody. One frame at a time. */
#ifndef BEAMLINE_RENDERER_H
#define BEAMLINE_RENDERER_H

#include <stdbool.h>
#include <stdint.h>

#include "stills.h"

struct renderer;

/* NULL if memory, threads or descriptors run out. Starts the thread with all signals blocked. */
struct renderer *renderer_new(const struct stills_config *config);
void renderer_free(struct renderer *renderer);

/* Readable once a frame is finished and not yet collected. */
int renderer_descriptor(const struct renderer *renderer);

/* Start drawing; the previous frame must have been collected. */
void renderer_submit(struct renderer *renderer, uint64_t frame, double energy, double photons);
/* The finished frame, ny rows of nx little-endian pixels, valid until the next submit; NULL while
 * it is being drawn. */
const uint16_t *renderer_collect(struct renderer *renderer);

#endif
