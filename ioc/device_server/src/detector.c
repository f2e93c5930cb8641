#include "detector.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "sim.h"

/* 16 MB of history at most. */
enum { LIGHTS_MAX = 1 << 20, LIGHTS_FIRST = 1024, SPOTS_FIRST = 1024, HEADER_MAX = 256 };
static const double images_max = 1e9;

bool detector_init(struct detector *detector, const struct config *config)
{
    *detector = (struct detector){
        .exposure = 0.1, .images = 1,
        .next_start = INFINITY,
        .image_bytes = (size_t)config->stills.nx * (size_t)config->stills.ny * sizeof(uint16_t),
        .light_capacity = LIGHTS_FIRST,
    };
    struct stills_config stills = config->stills;
    stills.seed = config->seed;
    detector->lights = calloc(LIGHTS_FIRST, sizeof *detector->lights);
    detector->truth = stills_new(&stills);
    detector->renderer = renderer_new(&stills);
    return detector->lights != NULL && detector->truth != NULL && detector->renderer != NULL;
}

void detector_free(struct detector *detector)
{
    renderer_free(detector->renderer);
    stills_free(detector->truth);
    free(detector->lights);
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

void detector_event(struct detector *detector, struct sim *sim)
{
    if (!detector->gate.open) {
        gate_open(&detector->gate, sim, sim->now);
        detector->gate_end = sim->now + detector->exposure;
        detector->next_start = INFINITY;
        detector->current = (struct frame){
            .index = detector->started++,
            .unix_time = clock_unix(),
            .exposure = detector->exposure,
        };
        return;
    }
    gate_advance(&detector->gate, sim, sim->now);
    detector->gate.open = false;
    detector->exposed = !detector->dead;
    detector_progress(detector, sim);
}

static void remember(struct detector *detector, struct frame_light light)
{
    if (detector->total == detector->light_capacity && detector->light_capacity < LIGHTS_MAX) {
        size_t capacity = 2 * detector->light_capacity;
        struct frame_light *lights = realloc(detector->lights, capacity * sizeof *lights);
        /* Without memory the history stays as long as it is. */
        if (lights != NULL) {
            detector->lights = lights;
            detector->light_capacity = capacity;
        }
    }
    detector->lights[detector->total++ % detector->light_capacity] = light;
}

static void submit(struct detector *detector, struct sim *sim)
{
    struct frame_light light = {gate_energy(&detector->gate),
                                detector->gate.incident * sim->config.photons_per_count};
    detector->ready = detector->current;
    detector->ready.number = detector->total;
    detector->ready.energy = light.energy;
    remember(detector, light);
    detector->exposed = false;
    detector->state = FRAME_DRAWING;
    renderer_submit(detector->renderer, detector->ready.number, light.energy, light.photons);
    if (detector->started < detector->wanted && !detector->stopping)
        detector->next_start = fmax(sim->now, detector->gate.start
                                                  + fmax(detector->period, detector->exposure));
}

static bool deliver(struct detector *detector, const struct sim *sim)
{
    if (!detector->sink.has_room(detector->sink.owner, detector->image_bytes + HEADER_MAX)) {
        if (!detector->waiting)
            detector->waited++;
        detector->waiting = true;
        return false;
    }
    const struct frame *f = &detector->ready;
    char header[HEADER_MAX];
    int length = snprintf(header, sizeof header,
                          "FRAME:%llu:%llu,%.6f,uint16,%dx%d,%zu,%.17g,%.17g\n",
                          (unsigned long long)f->number, (unsigned long long)f->index,
                          f->unix_time, sim->config.stills.ny, sim->config.stills.nx,
                          detector->image_bytes, f->energy, f->exposure);
    detector->sink.send(detector->sink.owner, header, (size_t)length, detector->image,
                        detector->image_bytes);
    detector->waiting = false;
    detector->delivered++;
    detector->state = FRAME_NONE;
    return true;
}

void detector_progress(struct detector *detector, struct sim *sim)
{
    if (detector->state == FRAME_DRAWING) {
        detector->image = renderer_collect(detector->renderer);
        if (detector->image != NULL)
            detector->state = detector->discard ? FRAME_NONE : FRAME_DRAWN;
        if (detector->state == FRAME_NONE)
            detector->discard = false;
    }
    if (detector->state == FRAME_DRAWN && !deliver(detector, sim))
        return;
    if (detector->state == FRAME_NONE && detector->exposed)
        submit(detector, sim);
    bool busy = detector->state != FRAME_NONE || detector->exposed || detector->gate.open
                || detector->next_start < INFINITY;
    if (detector->acquiring && !busy)
        finish(detector, sim);
}

bool detector_truth(const struct detector *detector, uint64_t number, struct buffer *out)
{
    if (number >= detector->total || detector->total - number > detector->light_capacity)
        return false;
    struct frame_light light = detector->lights[number % detector->light_capacity];
    int max = SPOTS_FIRST, count = 0, visible = 0;
    struct stills_spot *spots = NULL;
    do {
        max = count > max ? count : max;
        struct stills_spot *more = realloc(spots, (size_t)max * sizeof *spots);
        if (more == NULL) {
            free(spots);
            return false;
        }
        spots = more;
        count = stills_spots(detector->truth, number, light.energy, light.photons, spots, max);
    } while (count > max);
    for (int i = 0; i < count; i++)
        visible += spots[i].visible;
    buffer_format(out, "%d", visible);
    for (int i = 0; i < count; i++)
        if (spots[i].visible)
            buffer_format(out, ";%.17g,%.17g,%.17g", spots[i].fs, spots[i].ss, spots[i].photons);
    free(spots);
    return true;
}
