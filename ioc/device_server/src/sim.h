/* The simulated beamline as a whole: its state, what changes it, and its events in order of time.
 *
 * Nothing here knows about sockets or real time. `now` moves only in sim_advance, so the same calls
 * give the same state. */
#ifndef BEAMLINE_SIM_H
#define BEAMLINE_SIM_H

#include <stdbool.h>

#include "beam.h"
#include "config.h"
#include "counters.h"
#include "detector.h"
#include "fault.h"
#include "fly.h"
#include "motor.h"
#include "pv.h"
#include "sample.h"

/* What subscribers must hear of at once. */
enum sim_news { NEWS_NONE = 0, NEWS_CHANGED = 1, NEWS_COUNTED = 2 };

struct sim {
    struct config config;
    char prefix[PREFIX_MAX + 1];
    double time_scale;
    bool lock_step; /* time passes by commands only: see sim_settle */
    double now; /* simulated s */
    struct motor motors[MOTOR_COUNT];
    struct ring ring;
    struct shutter shutter;
    double attenuation;
    struct sample samples[SAMPLES_MAX];
    int sample_count, selected;
    struct counters counters;
    struct detector detector;
    struct faults faults;
    struct fly fly;
    struct pv_table pvs;
    unsigned news; /* enum sim_news, collected since they were last told */
    void (*tell)(void *owner, unsigned news); /* called after every event that made news */
    void *owner;
};

/* Build a beamline of `config` with tables from `paths` (none: the empty sample). On failure
 * returns false with one sentence in `message`. sim_free is right in either case. */
bool sim_init(struct sim *sim, const struct config *config, const char *prefix, double time_scale,
              const char *const *paths, int path_count, char message[MESSAGE_MAX]);
void sim_free(struct sim *sim);

/* Handle all events up to time `t`, each at its own time, and arrive at `t`. */
void sim_advance(struct sim *sim, double t);
/* In lock step: jump through everything that is going on, to its end, each event at its own time.
 * Stops early only where frames wait for their consumer. */
void sim_settle(struct sim *sim);
/* Unix time for stamps: the present one, or in lock step that of the simulation. */
double sim_unix_time(const struct sim *sim);
/* How far stamps are apart that are so many simulated seconds apart. */
double sim_unix_span(const struct sim *sim, double seconds);
/* Time of the next event; infinity if nothing is going on. */
double sim_next_event(const struct sim *sim);
/* Pass on the news, if any. */
void sim_tell(struct sim *sim);

/* To be called before anything at sim->now changes what the detectors see: closes the books of
 * open gates. */
void sim_before_change(struct sim *sim);

void sim_conditions(const struct sim *sim, double t, struct conditions *conditions);

/* Commands; all of them act at sim->now. */
enum motor_reply sim_move(struct sim *sim, enum motor_axis axis, double target);
void sim_stop_motor(struct sim *sim, enum motor_axis axis);
void sim_shutter(struct sim *sim, bool open);
void sim_attenuate(struct sim *sim, double factor);
void sim_select(struct sim *sim, int sample);
bool sim_count(struct sim *sim, double seconds); /* false while counting or flying */
void sim_count_stop(struct sim *sim);
enum fly_reply sim_fly(struct sim *sim, const struct fly_request *request,
                       char reason[FLY_REASON_MAX]);
void sim_fly_stop(struct sim *sim);
enum detector_reply sim_acquire(struct sim *sim, double images);
void sim_acquire_stop(struct sim *sim);
void sim_abort(struct sim *sim);

#endif
