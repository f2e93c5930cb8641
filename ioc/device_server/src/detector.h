/* The area detector: exposures by the simulated clock, frames drawn by the renderer and handed to
 * one consumer. If the consumer is behind, the detector waits: it exposes at most one frame ahead
 * and loses none.
 *
 * The camera's clock is nominal: frame i is stamped i periods after the first, and what moves in the
 * sample moves by that time. Where drawing or the consumer held up an exposure, it is counted. */
#ifndef BEAMLINE_DETECTOR_H
#define BEAMLINE_DETECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gate.h"
#include "renderer.h"
#include "text.h"

/* Where frames go. */
struct frame_sink {
    void *owner;
    bool (*has_room)(void *owner, size_t bytes);
    void (*send)(void *owner, const void *header, size_t header_bytes, const void *image,
                 size_t image_bytes);
};

enum detector_reply { DETECTOR_OK, DETECTOR_BUSY, DETECTOR_NO_CONSUMER, DETECTOR_INVALID };
enum frame_state { FRAME_NONE, FRAME_DRAWING, FRAME_DRAWN };

/* What made a frame, kept so that its truth can be told later. */
struct frame_light {
    double energy, photons;
    uint64_t drawn; /* number of the frame that it repeats; mostly its own */
    float theta, coverage;
    unsigned char mode;
};

struct frame {
    uint64_t number, index; /* since the server started; in the acquisition */
    double unix_time;       /* nominal start of the exposure */
    double energy, exposure;
};

struct detector {
    double exposure, period; /* s */
    double images;
    enum detector_mode mode;
    bool sparse;
    unsigned preload;
    uint64_t batch;      /* of preloaded frames: another one draws anew */
    bool acquiring, stopping;
    bool dead;           /* takes no frames: an acquisition ends after its first exposure */
    bool consumer_lost;  /* the last acquisition ended early because its consumer went away */
    uint64_t wanted, started, delivered, waited;
    uint64_t first;      /* number of the first frame of this acquisition */
    double begun, unix_begun; /* its first exposure: simulated s, Unix time */
    uint64_t late;       /* its frames whose exposure began later than their stamp says */
    uint64_t overflows;  /* frames with more photons than their events have room for */
    struct gate gate;
    double gate_end, next_start; /* simulated s; infinity: none */
    bool exposed;        /* an exposure is over and waits for the renderer */
    struct frame current, ready;
    enum frame_state state; /* of `ready` */
    bool waiting, discard;
    struct drawn_frame drawn;
    char shape[64];      /* on the wire */
    size_t image_bytes;  /* of a frame at most */
    struct frame_light *lights; /* of the last LIGHTS_MAX frames, by number modulo LIGHTS_MAX */
    uint64_t total;
    struct geometry geometry;
    struct renderer *renderer;
    struct stills *truth;
    struct saxs scattering;
    struct stills_spot *spots; /* scratch of detector_truth */
    int spots_max;
    struct frame_sink sink; /* owner NULL: no consumer */
};

bool detector_init(struct detector *detector, const struct config *config);
void detector_free(struct detector *detector);

/* Make `sink` the consumer; false if there is another one. */
bool detector_attach(struct detector *detector, const struct frame_sink *sink);
/* The consumer is gone: a running acquisition ends. */
void detector_detach(struct detector *detector, struct sim *sim, const void *owner);

/* Photons per pixel of the modes saxs and speckle, averaged over all pixels, for one on the sample. */
double detector_mean_share(struct detector *detector, double energy);

/* Choose how frames are drawn; false if the value is out of range. Not during an acquisition. */
bool detector_set_mode(struct detector *detector, double mode);
bool detector_set_sparse(struct detector *detector, double sparse);
/* 0 to 1024 frames, and at most 1 GiB of them. */
bool detector_set_preload(struct detector *detector, double frames);

enum detector_reply detector_acquire(struct detector *detector, struct sim *sim, double images);
/* End after the frames that are already exposed. */
void detector_stop(struct detector *detector, struct sim *sim);

double detector_next_event(const struct detector *detector);
void detector_event(struct detector *detector, struct sim *sim);
/* Go on if the renderer has finished a frame or the consumer has room again. */
void detector_progress(struct detector *detector, struct sim *sim);

/* Whether a frame is being drawn, and a wait for its end. */
bool detector_is_drawing(const struct detector *detector);
void detector_await(const struct detector *detector);

/* Append the spots of frame `number`, all or the visible ones, as `<n>;<fs>,<ss>,<photons>;...`, with
 * ss counted through the stack of panels; none for a frame that is no still. False if that frame has
 * not been taken or is too long ago. */
bool detector_truth(struct detector *detector, uint64_t number, bool all,
                    struct buffer *out);
/* Append the crystal of frame `number` as `<hit>;<r00>,<r01>,...,<r22>`: 1 or 0, and the rotation from
 * crystal to laboratory axes, row by row. `0;` for a frame without a crystal or light, or that is no
 * still. False as above. */
bool detector_truth_crystal(const struct detector *detector, uint64_t number, struct buffer *out);

#endif
