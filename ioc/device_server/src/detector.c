#include "detector.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "sim.h"

/* The history is 32 MB of address space; the system gives memory for what is used of it. */
enum { LIGHTS_MAX = 1 << 20, SPOTS_FIRST = 1024, HEADER_MAX = 256 };
static const double images_max = 1e9, preload_bytes_max = 1073741824.0;
/* An exposure that begins later than this is late: s, and part of the period. */
static const double late_s = 1e-3, late_part = 0.05;

bool detector_init(struct detector *detector, const struct config *config)
{
    const struct geometry *g = &config->geometry;
    *detector = (struct detector){
        .exposure = 0.1, .images = 1,
        .next_start = INFINITY,
        .image_bytes = geometry_pixels(g) * sizeof(uint16_t),
        .geometry = *g,
    };
    int length = g->panels > 1
                     ? snprintf(detector->shape, sizeof detector->shape, "%dx", g->panels) : 0;
    snprintf(detector->shape + length, sizeof detector->shape - (size_t)length, "%dx%d", g->ny,
             g->nx);
    detector->lights = calloc(LIGHTS_MAX, sizeof *detector->lights);
    detector->truth = stills_new(&config->stills, g);
    detector->renderer = renderer_new(config);
    return detector->lights != NULL && detector->truth != NULL && detector->renderer != NULL
           && saxs_init(&detector->scattering, &config->saxs, renderer_map(detector->renderer));
}

double detector_mean_share(struct detector *detector, double energy)
{
    saxs_tune(&detector->scattering, energy);
    return detector->scattering.total / (double)geometry_pixels(&detector->geometry);
}

void detector_free(struct detector *detector)
{
    saxs_free(&detector->scattering);
    renderer_free(detector->renderer);
    stills_free(detector->truth);
    free(detector->lights);
    free(detector->spots);
    *detector = (struct detector){.next_start = INFINITY};
}

bool detector_attach(struct detector *detector, const struct frame_sink *sink)
{
    if (detector->sink.owner != NULL && detector->sink.owner != sink->owner)
        return false;
    detector->sink = *sink;
    return true;
}

static void finish(struct detector *detector, struct sim *sim)
{
    detector->acquiring = false;
    sim->news |= NEWS_CHANGED;
}

void detector_detach(struct detector *detector, struct sim *sim, const void *owner)
{
    if (detector->sink.owner != owner || owner == NULL)
        return;
    detector->sink = (struct frame_sink){0};
    if (!detector->acquiring)
        return;
    detector->gate.open = false;
    detector->exposed = false;
    detector->next_start = INFINITY;
    /* A frame that is being drawn must still be collected from the renderer. */
    detector->discard = detector->state == FRAME_DRAWING;
    if (detector->state == FRAME_DRAWN)
        detector->state = FRAME_NONE;
    detector->consumer_lost = true;
    finish(detector, sim);
}

bool detector_set_mode(struct detector *detector, double mode)
{
    if (!(mode >= 0 && mode < MODE_COUNT) || mode != floor(mode))
        return false;
    detector->mode = (enum detector_mode)mode;
    detector->batch++;
    return true;
}

bool detector_set_sparse(struct detector *detector, double sparse)
{
    if (sparse != 0.0 && sparse != 1.0)
        return false;
    detector->sparse = sparse == 1.0;
    detector->batch++;
    return true;
}

bool detector_set_preload(struct detector *detector, double frames)
{
    if (!(frames >= 0 && frames <= PRELOAD_MAX) || frames != floor(frames)
        || frames * (double)detector->image_bytes > preload_bytes_max)
        return false;
    detector->preload = (unsigned)frames;
    detector->batch++;
    return true;
}

enum detector_reply detector_acquire(struct detector *detector, struct sim *sim, double images)
{
    if (!(images >= 1 && images <= images_max) || images != floor(images))
        return DETECTOR_INVALID;
    if (detector->acquiring || detector->state != FRAME_NONE)
        return DETECTOR_BUSY;
    if (detector->sink.owner == NULL)
        return DETECTOR_NO_CONSUMER;
    detector->images = images;
    detector->wanted = (uint64_t)images;
    detector->started = 0;
    detector->delivered = 0;
    detector->late = 0;
    detector->first = detector->total;
    detector->acquiring = true;
    detector->stopping = false;
    detector->consumer_lost = false;
    detector->next_start = sim->now;
    return DETECTOR_OK;
}

void detector_stop(struct detector *detector, struct sim *sim)
{
    if (!detector->acquiring)
        return;
    detector->stopping = true;
    detector->gate.open = false;
    detector->next_start = INFINITY;
    detector_progress(detector, sim);
}

double detector_next_event(const struct detector *detector)
{
    return detector->gate.open ? detector->gate_end : detector->next_start;
}

static double frame_period(const struct detector *detector)
{
    return fmax(detector->period, detector->exposure);
}

static void begin_exposure(struct detector *detector, struct sim *sim)
{
    uint64_t index = detector->started++;
    if (index == 0) {
        detector->begun = sim->now;
        detector->unix_begun = sim_unix_time(sim);
    }
    double period = frame_period(detector), nominal = (double)index * period;
    if (sim->now - detector->begun - nominal > fmax(late_s, late_part * period))
        detector->late++;
    gate_open(&detector->gate, sim, sim->now);
    detector->gate_end = sim->now + detector->exposure;
    detector->next_start = INFINITY;
    detector->current = (struct frame){
        .index = index,
        .unix_time = detector->unix_begun + sim_unix_span(sim, nominal),
        .exposure = detector->exposure,
    };
}

void detector_event(struct detector *detector, struct sim *sim)
{
    if (!detector->gate.open) {
        begin_exposure(detector, sim);
        return;
    }
    gate_advance(&detector->gate, sim, sim->now);
    detector->gate.open = false;
    detector->exposed = !detector->dead;
    /* In lock step what is told, and when, must not depend on how fast frames are drawn. */
    if (sim->lock_step && detector_is_drawing(detector))
        detector_await(detector);
    detector_progress(detector, sim);
}

static void remember(struct detector *detector, struct frame_light light)
{
    detector->lights[detector->total++ % LIGHTS_MAX] = light;
}

static void submit(struct detector *detector, struct sim *sim)
{
    const struct gate *gate = &detector->gate;
    struct frame *frame = &detector->ready;
    *frame = detector->current;
    frame->number = detector->total;
    frame->energy = gate_energy(gate);
    const struct frame_order order = {
        .mode = detector->mode,
        .sparse = detector->sparse,
        .shot = {
            .frame = frame->number,
            .energy = frame->energy,
            .photons = gate->incident * sim->config.photons_per_count,
            .theta = gate_theta(gate),
            /* As it is remembered, so that picture and truth agree about a hit. */
            .coverage = (double)(float)gate_coverage(gate),
            .first = detector->first,
            .start = (double)frame->index * frame_period(detector),
            .exposure = frame->exposure,
        },
        .preload = detector->preload,
        .batch = detector->batch,
    };
    remember(detector, (struct frame_light){
                           .energy = order.shot.energy,
                           .photons = order.shot.photons,
                           .theta = (float)order.shot.theta,
                           .coverage = (float)order.shot.coverage,
                           .mode = (unsigned char)order.mode,
                           .drawn = frame->number,
                       });
    detector->exposed = false;
    detector->state = FRAME_DRAWING;
    renderer_submit(detector->renderer, &order);
    if (detector->started < detector->wanted && !detector->stopping)
        detector->next_start = fmax(
            sim->now, detector->begun + (double)detector->started * frame_period(detector));
}

static bool deliver(struct detector *detector)
{
    const struct drawn_frame *drawn = &detector->drawn;
    if (!detector->sink.has_room(detector->sink.owner, drawn->bytes + HEADER_MAX)) {
        if (!detector->waiting)
            detector->waited++;
        detector->waiting = true;
        return false;
    }
    const struct frame *f = &detector->ready;
    char header[HEADER_MAX];
    int length = snprintf(header, sizeof header, "FRAME:%llu:%llu,%.6f,%s,%s,%zu,%.17g,%.17g\n",
                          (unsigned long long)f->number, (unsigned long long)f->index,
                          f->unix_time, detector->sparse ? "events" : "uint16", detector->shape,
                          drawn->bytes, f->energy, f->exposure);
    detector->sink.send(detector->sink.owner, header, (size_t)length, drawn->data, drawn->bytes);
    detector->waiting = false;
    detector->delivered++;
    detector->state = FRAME_NONE;
    return true;
}

static void collect(struct detector *detector)
{
    detector->drawn = renderer_collect(detector->renderer);
    if (detector->drawn.data == NULL)
        return;
    struct frame_light *light =
        &detector->lights[detector->ready.number % LIGHTS_MAX];
    if (detector->drawn.frame != light->drawn) { /* the truth is that of the frame repeated */
        uint64_t drawn = detector->drawn.frame;
        bool known = detector->total - drawn <= LIGHTS_MAX;
        *light = known ? detector->lights[drawn % LIGHTS_MAX] : *light;
    }
    detector->overflows += detector->drawn.overflow;
    detector->state = detector->discard ? FRAME_NONE : FRAME_DRAWN;
    detector->discard = false;
}

void detector_progress(struct detector *detector, struct sim *sim)
{
    if (detector->state == FRAME_DRAWING)
        collect(detector);
    if (detector->state == FRAME_DRAWN && !deliver(detector))
        return;
    if (detector->state == FRAME_NONE && detector->exposed)
        submit(detector, sim);
    bool busy = detector->state != FRAME_NONE || detector->exposed || detector->gate.open
                || detector->next_start < INFINITY;
    if (detector->acquiring && !busy)
        finish(detector, sim);
}

bool detector_is_drawing(const struct detector *detector)
{
    return detector->state == FRAME_DRAWING;
}

void detector_await(const struct detector *detector)
{
    struct pollfd drawn = {.fd = renderer_descriptor(detector->renderer), .events = POLLIN};
    while (poll(&drawn, 1, -1) < 0 && errno == EINTR)
        ;
}

/* All spots of a shot into the detector's scratch, which grows to what the largest frame needs;
 * their number, -1 without memory. */
static int find_spots(struct detector *detector, const struct shot *shot)
{
    for (;;) {
        int count = stills_spots(detector->truth, shot, detector->spots, detector->spots_max);
        if (count <= detector->spots_max)
            return count;
        int max = count > SPOTS_FIRST ? count : SPOTS_FIRST;
        struct stills_spot *spots = realloc(detector->spots, (size_t)max * sizeof *spots);
        if (spots == NULL)
            return -1;
        detector->spots = spots;
        detector->spots_max = max;
    }
}

/* What made a frame; NULL if it has not been taken or is too long ago. */
static const struct frame_light *recall(const struct detector *detector, uint64_t number)
{
    if (number >= detector->total || detector->total - number > LIGHTS_MAX)
        return NULL;
    return &detector->lights[number % LIGHTS_MAX];
}

static struct shot shot_of(const struct frame_light *light)
{
    return (struct shot){.frame = light->drawn, .energy = light->energy,
                         .photons = light->photons, .theta = (double)light->theta,
                         .coverage = (double)light->coverage};
}

bool detector_truth(struct detector *detector, uint64_t number, bool all,
                    struct buffer *out)
{
    const struct frame_light *light = recall(detector, number);
    if (light == NULL)
        return false;
    if (light->mode != MODE_STILL) {
        buffer_text(out, "0");
        return true;
    }
    const struct shot shot = shot_of(light);
    int count = find_spots(detector, &shot), told = 0;
    if (count < 0)
        return false;
    const struct stills_spot *spots = detector->spots;
    for (int i = 0; i < count; i++)
        told += all || spots[i].visible;
    buffer_format(out, "%d", told);
    for (int i = 0; i < count; i++)
        if (all || spots[i].visible)
            buffer_format(out, ";%.17g,%.17g,%.17g", spots[i].fs,
                          spots[i].ss + (double)spots[i].panel * detector->geometry.ny,
                          spots[i].photons);
    return true;
}

bool detector_truth_crystal(const struct detector *detector, uint64_t number, struct buffer *out)
{
    const struct frame_light *light = recall(detector, number);
    if (light == NULL)
        return false;
    const struct shot shot = shot_of(light);
    if (light->mode != MODE_STILL || !shot_has_light(&shot) || !stills_hit(detector->truth, &shot)) {
        buffer_text(out, "0;");
        return true;
    }
    double r[9];
    stills_orientation(detector->truth, &shot, r);
    buffer_text(out, "1");
    for (int i = 0; i < 9; i++)
        buffer_format(out, "%c%.17g", i == 0 ? ';' : ',', r[i]);
    return true;
}
