#include "sim.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"

/* 2026-01-01T00:00:00Z, when every beamline in lock step is started. */
static const double lock_step_epoch = 1767225600.0;

static void override(double *field, double value)
{
    if (!isnan(value))
        *field = value;
}

bool sim_init(struct sim *sim, const struct config *config, const char *prefix, double time_scale,
              const char *const *paths, int path_count, char message[MESSAGE_MAX])
{
    *sim = (struct sim){.config = *config, .time_scale = time_scale, .attenuation = 1.0};
    geometry_complete(&sim->config.geometry);
    sim->config.stills.seed = sim->config.saxs.seed = sim->config.speckle.seed = config->seed;
    snprintf(sim->prefix, sizeof sim->prefix, "%s", prefix);
    snprintf(message, MESSAGE_MAX, "out of memory.");
    for (int i = 0; i < path_count; i++) {
        if (!sample_load(&sim->samples[i], paths[i], message))
            return false;
        override(&sim->samples[i].x_um, config->sample_x_um);
        override(&sim->samples[i].y_um, config->sample_y_um);
        override(&sim->samples[i].width_um, config->sample_width_um);
        override(&sim->samples[i].height_um, config->sample_height_um);
        sim->sample_count++;
    }
    if (path_count == 0) {
        sim->sample_count = 1;
        if (!sample_empty(&sim->samples[0]))
            return false;
    }
    for (int i = 0; i < MOTOR_COUNT; i++) {
        motor_init(&sim->motors[i], (enum motor_axis)i, config->motor_settle_s);
        sim->motors[i].stalled = config->stalled_axis == i;
    }
    shutter_init(&sim->shutter, config->shutter_travel_s);
    counters_init(&sim->counters, config);
    pv_table_build(&sim->pvs, sim->prefix);
    return detector_init(&sim->detector, &sim->config);
}

void sim_free(struct sim *sim)
{
    detector_free(&sim->detector);
    fly_free(&sim->fly);
    for (int i = 0; i < SAMPLES_MAX; i++)
        sample_free(&sim->samples[i]);
}

void sim_conditions(const struct sim *sim, double t, struct conditions *conditions)
{
    *conditions = (struct conditions){
        .energy = motor_position(&sim->motors[MOTOR_ENERGY], t),
        .current = ring_current(&sim->ring, &sim->config, t),
        .open = shutter_fraction(&sim->shutter, t),
        .attenuation = sim->attenuation,
        .x = motor_position(&sim->motors[MOTOR_X], t),
        .y = motor_position(&sim->motors[MOTOR_Y], t),
        .theta = motor_position(&sim->motors[MOTOR_THETA], t),
        .tth = motor_position(&sim->motors[MOTOR_TTH], t),
        .sample = &sim->samples[sim->selected],
    };
}

void sim_before_change(struct sim *sim)
{
    gate_advance(&sim->counters.gate, sim, sim->now);
    gate_advance(&sim->detector.gate, sim, sim->now);
    fly_advance(&sim->fly, sim, sim->now);
    sim->news |= NEWS_CHANGED;
}

/* The points of a fly scan change nothing that others depend on. */
static double next_change(const struct sim *sim)
{
    double next = shutter_next_event(&sim->shutter);
    for (int i = 0; i < MOTOR_COUNT; i++)
        next = fmin(next, motor_next_event(&sim->motors[i]));
    next = fmin(next, counters_next_event(&sim->counters));
    return fmin(next, detector_next_event(&sim->detector));
}

double sim_next_event(const struct sim *sim)
{
    return fmin(next_change(sim), fly_next_event(&sim->fly));
}

/* Handle what is due at sim->now. */
static void happen(struct sim *sim)
{
    double now = sim->now;
    if (next_change(sim) > now) {
        fly_event(&sim->fly, sim);
        return;
    }
    sim_before_change(sim);
    for (int i = 0; i < MOTOR_COUNT; i++)
        if (motor_next_event(&sim->motors[i]) <= now)
            motor_event(&sim->motors[i], now);
    if (shutter_next_event(&sim->shutter) <= now)
        shutter_arrive(&sim->shutter);
    if (counters_next_event(&sim->counters) <= now) {
        counters_latch(&sim->counters, sim);
        sim->news |= NEWS_COUNTED;
    }
    if (detector_next_event(&sim->detector) <= now)
        detector_event(&sim->detector, sim);
    fly_event(&sim->fly, sim);
}

void sim_tell(struct sim *sim)
{
    unsigned news = sim->news;
    sim->news = NEWS_NONE;
    if (news != NEWS_NONE && sim->tell != NULL)
        sim->tell(sim->owner, news);
}

void sim_advance(struct sim *sim, double t)
{
    for (double next; (next = sim_next_event(sim)) <= t;) {
        sim->now = fmax(next, sim->now);
        happen(sim);
        sim_tell(sim);
    }
    sim->now = fmax(t, sim->now);
}

void sim_settle(struct sim *sim)
{
    for (;;) {
        double next = sim_next_event(sim);
        if (next < INFINITY) {
            sim_advance(sim, next);
        } else if (detector_is_drawing(&sim->detector)) {
            detector_await(&sim->detector);
            detector_progress(&sim->detector, sim);
            sim_tell(sim);
        } else {
            return;
        }
    }
}

double sim_unix_time(const struct sim *sim)
{
    return sim->lock_step ? lock_step_epoch + sim->now : clock_unix();
}

double sim_unix_span(const struct sim *sim, double seconds)
{
    return sim->lock_step ? seconds : seconds / sim->time_scale;
}

enum motor_reply sim_move(struct sim *sim, enum motor_axis axis, double target)
{
    sim_before_change(sim);
    return motor_move(&sim->motors[axis], sim->now, target);
}

void sim_stop_motor(struct sim *sim, enum motor_axis axis)
{
    sim_before_change(sim);
    if (fly_active(&sim->fly) && sim->fly.axis == axis)
        fly_stop(&sim->fly, sim);
    else
        motor_stop(&sim->motors[axis], sim->now);
}

void sim_shutter(struct sim *sim, bool open)
{
    sim_before_change(sim);
    shutter_send(&sim->shutter, sim->now, open);
}

void sim_attenuate(struct sim *sim, double factor)
{
    sim_before_change(sim);
    sim->attenuation = factor;
}

void sim_select(struct sim *sim, int sample)
{
    sim_before_change(sim);
    sim->selected = sample;
}

bool sim_count(struct sim *sim, double seconds)
{
    if (sim->counters.gate.open || fly_active(&sim->fly))
        return false;
    sim_before_change(sim);
    counters_start(&sim->counters, sim, seconds);
    return true;
}

void sim_count_stop(struct sim *sim)
{
    if (!sim->counters.gate.open)
        return;
    sim_before_change(sim);
    counters_latch(&sim->counters, sim);
    sim->news |= NEWS_COUNTED;
}

enum fly_reply sim_fly(struct sim *sim, const struct fly_request *request,
                       char reason[FLY_REASON_MAX])
{
    sim_before_change(sim);
    return fly_start(&sim->fly, sim, request, reason);
}

void sim_fly_stop(struct sim *sim)
{
    sim_before_change(sim);
    fly_stop(&sim->fly, sim);
}

enum detector_reply sim_acquire(struct sim *sim, double images)
{
    sim_before_change(sim);
    return detector_acquire(&sim->detector, sim, images);
}

void sim_acquire_stop(struct sim *sim)
{
    sim_before_change(sim);
    detector_stop(&sim->detector, sim);
}

void sim_abort(struct sim *sim)
{
    for (int i = 0; i < MOTOR_COUNT; i++)
        sim_stop_motor(sim, (enum motor_axis)i);
    sim_count_stop(sim);
    sim_acquire_stop(sim);
}
