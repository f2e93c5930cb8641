#include "fly.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

enum { STREAM_FLY = 0x666c79, BLOCK_MAX = 256 };

/* Between two events pass so many real seconds, and a gate takes at least so many: with shorter ones
 * the server would have time for nothing else. */
static const double event_interval = 0.005, gate_min = 1e-5, gate_max = 1000.0;

struct sweep {
    double from, to; /* at rest, axis units */
    double speed;    /* axis units/s, positive */
    double ramp;     /* s */
};

static bool within(const struct motor *motor, double axis)
{
    double low = motor_to_axis(motor, motor->low), high = motor_to_axis(motor, motor->high);
    return axis >= fmin(low, high) && axis <= fmax(low, high);
}

/* Lay out the sweep of a request; false with the reason. */
static bool lay_out(struct sweep *sweep, const struct motor *motor,
                    const struct fly_request *request, char reason[FLY_REASON_MAX])
{
    const struct motor_spec *spec = motor->spec;
    double first = motor_to_axis(motor, request->start), last = motor_to_axis(motor, request->stop);
    double step = (last - first) / (request->points - 1.0);
    double seconds = request->points * request->dwell;
    sweep->speed = fabs(step) / request->dwell;
    sweep->ramp = motor_ramp_time(motor);
    double ramp = copysign(0.5 * sweep->speed * sweep->ramp, step);
    sweep->from = first - 0.5 * step - ramp;
    sweep->to = last + 0.5 * step + ramp;
    if (!within(motor, sweep->from) || !within(motor, sweep->to)) {
        snprintf(reason, FLY_REASON_MAX,
                 "with run-up %s would go from %.7g to %.7g %s and its limits are %.7g to %.7g %s",
                 spec->name, motor_to_user(motor, sweep->from), motor_to_user(motor, sweep->to),
                 spec->unit, motor->low, motor->high, spec->unit);
        return false;
    }
    double way = motor_to_user(motor, last + 0.5 * step) - motor_to_user(motor, first - 0.5 * step);
    if (fabs(way) / seconds > spec->speed_max) {
        snprintf(reason, FLY_REASON_MAX, "%s would have to do %.7g %s/s and can do %.7g %s/s",
                 spec->name, fabs(way) / seconds, spec->unit, spec->speed_max, spec->unit);
        return false;
    }
    return true;
}

/* What can be told without a sweep. */
static bool check(const struct motor *motor, const struct fly_request *request, double time_scale,
                  char reason[FLY_REASON_MAX])
{
    const struct motor_spec *spec = motor->spec;
    double shortest = gate_min * fmax(time_scale, 1.0);
    const double ends[] = {request->start, request->stop};
    for (int i = 0; i < 2; i++)
        if (!(ends[i] >= motor->low && ends[i] <= motor->high)) {
            snprintf(reason, FLY_REASON_MAX, "%s cannot go to %.10g %s: its limits are %.7g to %.7g %s",
                     spec->name, ends[i], spec->unit, motor->low, motor->high, spec->unit);
            return false;
        }
    if (request->start == request->stop) {
        snprintf(reason, FLY_REASON_MAX, "start and stop must differ and both are %.10g %s",
                 request->start, spec->unit);
        return false;
    }
    if (!(request->points >= 2.0 && request->points <= FLY_POINTS_MAX)
        || request->points != floor(request->points)) {
        snprintf(reason, FLY_REASON_MAX, "the points must be a whole number from 2 to %d, found %.10g",
                 FLY_POINTS_MAX, request->points);
        return false;
    }
    if (!(request->dwell >= shortest && request->dwell <= gate_max)) {
        snprintf(reason, FLY_REASON_MAX, "the time per point must be %g to %g s, found %.10g s",
                 shortest, gate_max, request->dwell);
        return false;
    }
    return true;
}

static bool reserve(struct fly *fly, size_t points)
{
    if (points <= fly->capacity)
        return true;
    free(fly->point);
    fly->point = malloc(points * sizeof *fly->point);
    fly->capacity = fly->point == NULL ? 0 : points;
    return fly->point != NULL;
}

static void become(struct fly *fly, struct sim *sim, enum fly_state state)
{
    fly->state = state;
    sim->news |= NEWS_CHANGED;
}

enum fly_reply fly_start(struct fly *fly, struct sim *sim, const struct fly_request *request,
                         char reason[FLY_REASON_MAX])
{
    struct motor *motor = &sim->motors[request->axis];
    struct sweep sweep;
    if (fly_active(fly) || motor->moving || sim->counters.gate.open)
        return FLY_BUSY;
    if (!check(motor, request, sim->time_scale, reason)
        || !lay_out(&sweep, motor, request, reason))
        return FLY_INVALID;
    if (motor->stalled)
        return FLY_MOTOR_FAULT;
    fly->points = fly->taken = 0;
    if (!reserve(fly, (size_t)request->points))
        return FLY_NO_MEMORY;
    if (motor_move(motor, sim->now, motor_to_user(motor, sweep.from)) != MOTOR_OK)
        return FLY_MOTOR_FAULT;
    fly->axis = request->axis;
    fly->points = (int)request->points;
    fly->dwell = request->dwell;
    fly->fault = FLY_FAULT_NONE;
    fly->run_up = sweep.from;
    fly->beyond = sweep.to;
    fly->speed = sweep.speed;
    fly->course_end = motor->profile.end;
    double block = event_interval * fmax(sim->time_scale, 1.0) / fly->dwell;
    fly->block = (int)fmin(fmax(block, 1.0), BLOCK_MAX);
    rng_seed(&fly->rng, rng_mix(sim->config.seed ^ STREAM_FLY), ++fly->number);
    become(fly, sim, FLY_APPROACHING);
    return FLY_OK;
}

void fly_stop(struct fly *fly, struct sim *sim)
{
    if (!fly_active(fly) || fly->state == FLY_STOPPING)
        return;
    fly->gate.open = false;
    motor_stop(&sim->motors[fly->axis], sim->now);
    become(fly, sim, FLY_STOPPING);
}

void fly_free(struct fly *fly)
{
    free(fly->point);
    *fly = (struct fly){.state = FLY_IDLE};
}

bool fly_active(const struct fly *fly)
{
    return fly->state >= FLY_APPROACHING && fly->state <= FLY_STOPPING;
}

static double gate_end(const struct fly *fly, int index)
{
    return fly->opening + fly->dwell * (index + 1);
}

double fly_time(const struct fly *fly, int index)
{
    return fly->dwell * (index + 0.5);
}

static void open_gate(struct fly *fly, const struct sim *sim, double t)
{
    gate_open(&fly->gate, sim, t);
    memset(fly->spoiled, 0, sizeof fly->spoiled);
}

static void take_point(struct fly *fly, const struct sim *sim)
{
    const struct motor *motor = &sim->motors[fly->axis];
    const struct gate *gate = &fly->gate;
    struct fly_point *point = &fly->point[fly->taken++];
    const struct motor *mono = &sim->motors[MOTOR_ENERGY];
    point->energy = mono->defect == AXIS_FROZEN ? motor_readback(mono, gate->until)
                                                : gate_energy(gate);
    /* At constant speed the mean is the middle; of the energy it is not. */
    point->position = motor->spec->bragg ? point->energy
                                         : 0.5 * (motor_readback(motor, gate->start)
                                                  + motor_readback(motor, gate->until));
    for (int c = 0; c < CHANNEL_COUNT; c++)
        point->counts[c] = reading(&sim->config, (enum channel)c, gate->expected[c], fly->dwell,
                                   &fly->rng);
    for (int c = 0; c < CHANNEL_COUNT; c++)
        if (fly->spoiled[c])
            point->counts[c] = NAN;
}

/* The axis no longer does what it was told. */
static enum fly_fault fault_of(const struct fly *fly, const struct motor *motor)
{
    if (motor->stalled)
        return FLY_FAULT_STALLED;
    return motor->profile.end != fly->course_end ? FLY_FAULT_COURSE : FLY_FAULT_NONE;
}

void fly_advance(struct fly *fly, const struct sim *sim, double t)
{
    if (fault_of(fly, &sim->motors[fly->axis]) != FLY_FAULT_NONE)
        return; /* fly_event will see it */
    while (fly->gate.open) {
        double end = gate_end(fly, fly->taken);
        gate_advance(&fly->gate, sim, fmin(t, end));
        for (int c = 0; c < CHANNEL_COUNT; c++)
            fly->spoiled[c] |= sim->counters.dead[c];
        if (t < end)
            return;
        take_point(fly, sim);
        fly->gate.open = false;
        if (fly->taken < fly->points)
            open_gate(fly, sim, end);
    }
}

double fly_next_event(const struct fly *fly)
{
    if (fly->state != FLY_FLYING || fly->taken == fly->points)
        return INFINITY;
    if (!fly->gate.open)
        return fly->opening;
    int last = fly->taken - fly->taken % fly->block + fly->block - 1;
    return gate_end(fly, last < fly->points ? last : fly->points - 1);
}

static void launch(struct fly *fly, struct sim *sim)
{
    struct motor *motor = &sim->motors[fly->axis];
    motor_sweep(motor, sim->now, fly->beyond, fly->speed);
    fly->course_end = motor->profile.end;
    fly->opening = sim->now + motor_ramp_time(motor);
    become(fly, sim, FLY_FLYING);
}

/* At rest after an early end. */
static void land(struct fly *fly, struct sim *sim)
{
    if (fly->fault != FLY_FAULT_NONE && sim->motors[fly->axis].stalled)
        fly->fault = FLY_FAULT_STALLED; /* what had jammed is known now */
    become(fly, sim, fly->fault != FLY_FAULT_NONE ? FLY_FAULT
                     : fly->taken == fly->points  ? FLY_DONE
                                                  : FLY_ABORTED);
}

void fly_event(struct fly *fly, struct sim *sim)
{
    struct motor *motor = &sim->motors[fly->axis];
    if (!fly_active(fly))
        return;
    if (fly->state != FLY_STOPPING && fault_of(fly, motor) != FLY_FAULT_NONE) {
        /* It stops by itself: whatever took it off its course does that. */
        fly->fault = fault_of(fly, motor);
        fly->gate.open = false;
        become(fly, sim, FLY_STOPPING);
    }
    if (fly->state == FLY_STOPPING && !motor->moving) {
        land(fly, sim);
    } else if (fly->state == FLY_APPROACHING && !motor->moving) {
        launch(fly, sim);
    } else if (fly->state == FLY_FLYING) {
        if (fly->taken == 0 && !fly->gate.open && sim->now >= fly->opening) {
            open_gate(fly, sim, fly->opening);
            fly->unix_start = sim_unix_time(sim);
        }
        fly_advance(fly, sim, sim->now);
        if (!motor->moving && fly->taken == fly->points)
            become(fly, sim, FLY_DONE);
    }
}
