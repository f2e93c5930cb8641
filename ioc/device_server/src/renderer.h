/* A thread that draws detector frames, so that drawing delays nobody. One frame at a time. */
#ifndef BEAMLINE_RENDERER_H
#define BEAMLINE_RENDERER_H

#include "artist.h"

struct renderer;

/* NULL if memory, threads or descriptors run out. Starts the thread with all signals blocked. */
struct renderer *renderer_new(const struct config *config);
void renderer_free(struct renderer *renderer);

/* Where its pixels are; constant. */
const struct radial_map *renderer_map(const struct renderer *renderer);

/* Readable once a frame is finished and not yet collected. */
int renderer_descriptor(const struct renderer *renderer);

/* Start drawing; the previous frame must have been collected. */
void renderer_submit(struct renderer *renderer, const struct frame_order *order);
/* The finished frame, once. */
struct drawn_frame renderer_collect(struct renderer *renderer);
/* Sleep until the frame that is being drawn is finished. */
void renderer_wait(struct renderer *renderer);

#endif
